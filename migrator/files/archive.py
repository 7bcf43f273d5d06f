# SPDX-License-Identifier: Apache-2.0
"""Reads source archives that may be damaged or hostile, member by member.

Python's own filter for archives resolves links on disk, and versions of it can be led out of the
target by links within links. Here nothing is resolved: a member goes below directories only, a link
leads to a place within the archive's one folder, by way of directories only, and links come last.
"""

from __future__ import annotations

import bz2
import gzip
import lzma
import tarfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast

from migrator.files.tree import DEPTH, LARGEST
from migrator.messages.errors import MigrateError

TOTAL = 2 << 30
"""Bytes that an archive may unpack to: a release of vLLM takes a tenth of that."""
MEMBERS = 200_000
NAME, PATH = 255, 1024
"""Bytes of a part of a path and of the whole of it."""
_CHUNK = 1 << 20
_OPENERS: dict[bytes, Callable[[IO[bytes]], Any]] = {
    b"\x1f\x8b": gzip.open,
    b"BZ": bz2.open,
    b"\xfd7": lzma.open,
}


class ArchiveError(MigrateError):
    """An archive is damaged, or has what no source archive has; the message says what."""


@dataclass(frozen=True, slots=True)
class Member:
    """One entry of an archive, checked: a directory, a file, or a link.

    `same` is the path of an earlier file that a hard link stands for, `link` the target of a
    symbolic link; a file is read from `chunks` before the next member is asked for.
    """

    path: str
    """Path from the archive's top, with `/` between its parts; the first part is its one folder."""
    executable: bool = False
    directory: bool = False
    link: str | None = None
    same: str | None = None
    chunks: Iterable[bytes] = ()


class _Bounded:
    """A stream that ends in an error after so many bytes, whatever its decompressor would give."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self._left = TOTAL

    def read(self, size: int = -1) -> bytes:
        data = self._stream.read(_CHUNK if size < 0 else size)
        self._left -= len(data)
        if self._left < 0:
            raise ArchiveError(f"it unpacks to more than {TOTAL >> 30} GiB")
        return data


def read_members(archive: Path) -> Iterator[Member]:
    """The members of a source archive, in an order in which they can be made: links last.

    Raises:
        ArchiveError: it is damaged, or a member is not what a source archive has.
        OSError: it cannot be read.
    """
    with _explained():
        yield from _members(archive)


@contextmanager
def _explained() -> Iterator[None]:
    """Whatever a decompressor or a header makes Python raise is a damaged archive."""
    try:
        yield
    except MigrateError:
        raise
    except OSError as error:
        if error.errno is not None:
            raise
        raise ArchiveError(str(error) or "it cannot be read") from error
    except MemoryError as error:
        raise ArchiveError("it takes more memory than there is") from error
    except Exception as error:
        raise ArchiveError(str(error).partition("\n")[0] or type(error).__name__) from error


def _members(archive: Path) -> Iterator[Member]:
    with archive.open("rb") as raw:
        start = raw.read(2)
        raw.seek(0)
        opener = _OPENERS.get(start)
        stream = raw if opener is None else opener(raw)
        bounded = _Bounded(stream)
        checker = _Checker()
        # A stream is read once, in order, so that no header makes it jump.
        with tarfile.open(fileobj=cast("Any", bounded), mode="r|") as tar:
            for info in tar:
                member = checker.check(tar, info)
                if member is not None:
                    yield member
        # To the end, where the checksum of what was unpacked is.
        while bounded.read(_CHUNK):
            pass
        yield from checker.links()


class _Checker:
    """What is known of an archive after the members so far."""

    def __init__(self) -> None:
        self._directories: set[str] = set()
        self._files: set[str] = set()
        self._links: dict[str, str] = {}
        self._count = 0

    def check(self, tar: tarfile.TarFile, info: tarfile.TarInfo) -> Member | None:
        """A member to make now; None for what is made later or need not be made."""
        self._count += 1
        if self._count > MEMBERS:
            raise ArchiveError(f"it has more than {MEMBERS} members")
        path = _path(info.name)
        if not path:
            return None
        above = path.rpartition("/")[0]
        while above:
            if above in self._files or above in self._links:
                raise ArchiveError(f"{_shown(path)} lies below {_shown(above)}, no directory")
            self._directories.add(above)
            above = above.rpartition("/")[0]
        if path in self._links or (path in self._directories and not info.isdir()):
            raise ArchiveError(f"it has {_shown(path)} twice")
        if info.isdir():
            if path in self._files:
                raise ArchiveError(f"it has {_shown(path)} twice")
            self._directories.add(path)
            return Member(path, directory=True)
        if info.issym():
            if path in self._files:
                raise ArchiveError(f"it has {_shown(path)} twice")
            self._links[path] = info.linkname
            return None
        if info.islnk():
            same = _path(info.linkname)
            if same not in self._files or path in self._files:
                raise ArchiveError(f"{_shown(path)} is a link to {_shown(same)}, no file before it")
            self._files.add(path)
            return Member(path, same=same)
        if not info.isreg():
            raise ArchiveError(f"{_shown(path)} is neither file, directory nor link")
        if not 0 <= info.size <= LARGEST:
            raise ArchiveError(f"{_shown(path)} has {info.size} bytes, more than any source file")
        self._files.add(path)
        return Member(path, bool(info.mode & 0o100), chunks=_chunks(tar, info))

    def links(self) -> Iterator[Member]:
        """The symbolic links, each of which leads to a place within the archive's folder."""
        for path, target in self._links.items():
            place = path.split("/")[:-1]
            parts = target.split("/")
            if not target or target.startswith("/") or "\0" in target or len(target) > PATH:
                raise ArchiveError(f"the link {_shown(path)} leads out of the archive")
            if not place:
                raise ArchiveError(f"{_shown(path)} at its top is a link")
            for number, part in enumerate(parts):
                if part == "..":
                    place.pop()
                elif part not in ("", "."):
                    place.append(part)
                if not place:
                    raise ArchiveError(f"the link {_shown(path)} leads out of the archive")
                if number < len(parts) - 1 and "/".join(place) in self._links:
                    raise ArchiveError(f"the link {_shown(path)} leads through another link")
            yield Member(path, link=target)


def _path(name: str) -> str:
    """A member's path, without `.` and a `/` at its end.

    Raises:
        ArchiveError: it leads out of the archive, or no file system takes it.
    """
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if name.startswith("/") or ".." in parts:
        raise ArchiveError(f"{_shown(name)} leads out of the archive")
    encoded = "/".join(parts).encode("utf-8", "surrogateescape")
    longest = max((len(p.encode("utf-8", "surrogateescape")) for p in parts), default=0)
    if b"\0" in encoded or longest > NAME or len(encoded) > PATH or len(parts) > DEPTH:
        raise ArchiveError(f"{_shown(name)} is no name for a file")
    return "/".join(parts)


def _shown(name: str) -> str:
    """A member's name for a message: printable, and not too long."""
    text = "".join(sign if sign.isprintable() else "?" for sign in name)
    return text if len(text) <= 80 else f"{text[:60]}…"


def _chunks(tar: tarfile.TarFile, info: tarfile.TarInfo) -> Iterator[bytes]:
    with _explained():
        data = tar.extractfile(info)
        assert data is not None
        left = info.size
        while left:
            chunk = data.read(min(left, _CHUNK))
            if not chunk:
                raise ArchiveError(f"{_shown(info.name)} ends too early")
            left -= len(chunk)
            yield chunk
