# SPDX-License-Identifier: Apache-2.0
"""Where a source tree comes from: a directory, or a release that is fetched by name.

A release is fetched as its source archive from the package index that pip is set up for, into the
user's cache, and unpacked there once. No build is run, and nothing of the archive is executed.
"""

from __future__ import annotations

import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

import platformdirs
from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version

from migrator import index, writer
from migrator.errors import MigrateError
from migrator.tree import DiskTree

PROJECT = "vllm"


@dataclass(frozen=True, slots=True)
class Source:
    """A tree to migrate and where its result goes by default."""

    tree: DiskTree
    default_output: Path


def cache_directory() -> Path:
    """Directory for fetched releases, below the user's cache directory."""
    return Path(platformdirs.user_cache_dir("vllm-npu-migrate"))


def open_source(text: str) -> Source:
    """Open what a user named: a directory, or a release such as `vllm==0.11.0`.

    Raises:
        MigrateError: it is neither, or the release cannot be had.
    """
    path = Path(text)
    if path.is_dir():
        tree = DiskTree(path)
        if not (path / PROJECT / "__init__.py").is_file():
            hint = _nearest_root(path)
            raise MigrateError(
                f"{text} is not a vLLM source tree: it has no vllm/__init__.py"
                + (f"; did you mean {hint}?" if hint else "")
            )
        root = path.resolve()
        if tree.release is None:
            tree.release = _release_of_checkout(root)
        return Source(tree, root.parent / f"{root.name}-npu")
    if path.exists():
        raise MigrateError(f"{text} is a file; name the directory that it unpacks to")
    version = _requested_release(text)
    if version is None:
        raise MigrateError(
            f"{text} is neither a directory nor a release; name one, or write vllm==0.11.0"
        )
    root = fetch(version)
    return Source(DiskTree(root), Path.cwd() / f"{root.name}-npu")


def _nearest_root(path: Path) -> Path | None:
    for candidate in (path / "..", *sorted(path.glob("vllm*"))):
        if (candidate / PROJECT / "__init__.py").is_file():
            return candidate
    return None


def _requested_release(text: str) -> str | None:
    """The version of `vllm==VERSION`; None where the text is not such a requirement."""
    try:
        requirement = Requirement(text)
    except InvalidRequirement:
        return None
    pins = list(requirement.specifier)
    if canonicalize_name(requirement.name) != PROJECT or len(pins) != 1:
        return None
    if pins[0].operator != "==" or requirement.url or requirement.marker:
        return None
    try:
        return str(Version(pins[0].version))
    except InvalidVersion:
        return None


def _release_of_checkout(root: Path) -> str | None:
    """The newest release tag that a git checkout has behind it."""
    if not (root / ".git").exists():
        return None
    command = ["git", "-C", str(root), "describe", "--tags", "--abbrev=0", "--match", "v[0-9]*"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
        return Version(done.stdout.strip()).base_version
    except (OSError, subprocess.TimeoutExpired, InvalidVersion):
        return None


def fetch(version: str) -> Path:
    """The unpacked source of a release, fetched unless the cache has it.

    Raises:
        MigrateError: there is no such release, it has no source archive, or the index cannot be
            reached.
    """
    cache = cache_directory() / "sources"
    root = cache / f"{PROJECT}-{version}"
    if not root.is_dir():
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache) as scratch:
            archive = index.fetch(f"{PROJECT}=={version}", Path(scratch), source_only=True)
            writer.unpack(archive, root)
    return root
