# SPDX-License-Identifier: Apache-2.0
"""What can become of a file of a tree: changed by a plan, put in place as it is, or removed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias


@dataclass(frozen=True, slots=True)
class FileChange:
    """A file that a migration adds or rewrites."""

    path: str
    before: bytes | None
    """None for a new file."""
    after: bytes
    mode: int = 0o644


@dataclass(frozen=True, slots=True)
class Placed:
    """A file, or a link, with just these bytes and permission bits, whatever is there before."""

    path: str
    data: bytes
    """The link's target, for a link."""
    mode: int = 0o644
    link: bool = False


@dataclass(frozen=True, slots=True)
class Removal:
    """A file or link that goes, and with it the directories that it leaves empty."""

    path: str


Change: TypeAlias = FileChange | Placed | Removal
