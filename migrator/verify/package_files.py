# SPDX-License-Identifier: Apache-2.0
"""Where the source of a package is read from: a directory, or a wheel."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Protocol

from migrator.files.tree import LARGEST
from migrator.verify.wheel import read_member


class Files(Protocol):
    """Where a package's files are read from; paths are relative, with forward slashes."""

    def read(self, path: str) -> bytes | None:
        """The content of a file; None where there is none."""

    def is_directory(self, path: str) -> bool:
        """Whether anything lies below `path`."""


class DirectoryFiles:
    """Files below a directory. Links that leave it are as good as absent."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._resolved = root.resolve()

    def read(self, path: str) -> bytes | None:
        """See `Files.read`."""
        full = self.root / path
        try:
            if not full.resolve().is_relative_to(self._resolved):
                return None
            return full.read_bytes() if full.stat().st_size <= LARGEST else None
        except (OSError, RuntimeError):  # the latter for a loop of links
            return None

    def is_directory(self, path: str) -> bool:
        """See `Files.is_directory`."""
        return (self.root / path).is_dir()


class ZipFiles:
    """Files of a wheel that is never unpacked."""

    def __init__(self, archive: zipfile.ZipFile) -> None:
        self.archive = archive
        self._names = frozenset(archive.namelist())
        self._directories = frozenset(
            "/".join(parts[:end])
            for parts in (name.split("/") for name in self._names)
            for end in range(1, len(parts))
        )

    def read(self, path: str) -> bytes | None:
        """See `Files.read`."""
        return read_member(self.archive, path) if path in self._names else None

    def is_directory(self, path: str) -> bool:
        """See `Files.is_directory`."""
        return path in self._directories
