# SPDX-License-Identifier: Apache-2.0
"""Plans, the results of single files, and layouts of what is added, kept from one run to the next.

Nothing is taken from here that a run would not come to itself. A result is kept under a hash of the
file, the codes of the rules, this package's own sources and the libraries that it works with. With
it stands all that its rules asked of the tree, which has to be answered alike. A plan is kept for a
tree's directory, and holds while every question that went into it is answered alike. That all files
are read and hashed for this is spared where the system says, by inode, size and both times, that
neither they nor any directory changed since; times that are too near to be trusted are not.

Files are written under another name and renamed, so that runs at once see whole ones. Each begins
with the hash of its rest: what is damaged counts as not there, and so does what cannot be read.
A cache that cannot be written costs time and nothing else.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from migrator.files import locations
from migrator.files.tree import DiskTree, Question, Tree, WatchedTree, answer, digest

if TYPE_CHECKING:
    from migrator.codemod.engine import FileResult
    from migrator.codemod.tree_style import Style
    from migrator.planning.plan import Plan

LIMIT = 256 * 1024 * 1024
"""Bytes that the cache may take; the files that were used least recently go first."""
RACY = 2_000_000_000
"""Nanoseconds: what was changed so shortly before a run may change again without a sign of it."""
LIBRARIES = ("isort", "jinja2", "libcst", "msgspec", "packaging", "pathspec", "yapf")
_LEFT_OVER = 3600
"""Seconds after which a file that was being written belongs to a run that died."""


def cache_directory() -> Path:
    """Where plans and results are kept."""
    return locations.cache_directory() / "plans"


class Kept(NamedTuple):
    """A plan that was kept and still holds."""

    key: str
    plan: str
    """Hash of the plan."""


class Output(NamedTuple):
    """What a command printed for a plan, and its exit code."""

    code: int
    data: bytes


class Usage(NamedTuple):
    """What the cache takes."""

    plans: int
    results: int
    size: int
    """In bytes."""


class Cache:
    """The cache in one directory, for one run. It is made when it is first written to.

    What a tree object was asked once is not asked again: a tree that was written to is a new one.

    Args:
        directory: of its own; one that others may write to is not used.
        limit: bytes that it may take.
    """

    def __init__(self, directory: Path, limit: int = LIMIT) -> None:
        self.directory = directory
        self._limit = limit
        self._answers: dict[tuple[Tree, Question], str] = {}
        self._found: dict[tuple[Tree, str], Kept | None] = {}
        self._ours = locations.is_private(directory)

    # ---- results of files: migrator.planning.plan.Results --------------------------------------

    def get(
        self, path: str, data: bytes, codes: Sequence[str], tree: Tree
    ) -> tuple[FileResult, Mapping[Question, str]] | None:
        """The result that was kept for a file, if its rules would be told the same today."""
        body = self._read(_file_key(path, data, codes), "file")
        if body is None:
            return None
        from migrator.planning import cache_format

        found = cache_format.decode_result(path, body)
        if found is None or not self._holds(tree, found[1]):
            return None
        return found

    def put(
        self,
        path: str,
        data: bytes,
        codes: Sequence[str],
        result: FileResult,
        asked: Mapping[Question, str],
    ) -> None:
        """Keep the result of a file. Failures are not kept: another run may have more memory."""
        if result.failure is not None:
            return
        from migrator.planning import cache_format

        body = cache_format.encode_result(result, asked)
        if body is not None:
            self._write(_file_key(path, data, codes), "file", body)

    def get_layout(self, style: Style, text: bytes) -> bytes | None:
        """What was kept of a module in a style."""
        return self._read(_layout_key(style, text), "layout")

    def put_layout(self, style: Style, text: bytes, laid_out: bytes) -> None:
        """Keep a module in a style."""
        self._write(_layout_key(style, text), "layout", laid_out)

    # ---- plans ---------------------------------------------------------------------------------

    def planned(
        self, tree: DiskTree, selection: Sequence[str], make: Callable[[Tree], Plan]
    ) -> Plan:
        """The plan of a tree: the one that was kept if it holds, else a new one, which is kept.

        Args:
            tree: not yet read.
            selection: what was said about the choice of rules.
            make: makes a plan of the tree by the rules that this choice leaves.
        """
        kept = self.find(tree, selection)
        plan = self.plan(kept, tree) if kept is not None else None
        if plan is None:
            begun = time.time_ns()
            watched = WatchedTree(tree)
            plan = make(watched)
            self.keep(tree, selection, plan, watched.asked, begun)
            self.trim()
        return plan

    def find(self, tree: DiskTree, selection: Sequence[str]) -> Kept | None:
        """The plan that was kept for a tree and still holds.

        Args:
            tree: not yet read; what is asked here is read once.
            selection: what was said about the choice of rules.
        """
        key = _plan_key(tree, selection)
        if (tree, key) not in self._found:
            self._found[tree, key] = self._unchanged(tree, key) or self._alike(tree, key)
        return self._found[tree, key]

    def _unchanged(self, tree: DiskTree, key: str) -> Kept | None:
        """The plan of a tree in which no file and no directory was touched."""
        body = self._read(key, "stamps")
        if body is None:
            return None
        head, _, paths = body.partition(b"\n")
        plan, _, stamps = head.decode("latin-1").partition(" ")
        if _stamps(tree.root, paths.split(b"\0"))[0] != stamps:
            return None
        return Kept(key, plan)

    def _alike(self, tree: DiskTree, key: str) -> Kept | None:
        """The plan of a tree that has the same contents as when it was made."""
        begun = time.time_ns()
        body = self._read(key, "asked")
        if body is None:
            return None
        head, _, listed = body.partition(b"\n")
        parts = listed.decode("utf-8", "surrogateescape").split("\0")
        asked = dict(zip(zip(parts[::3], parts[1::3], strict=False), parts[2::3], strict=False))
        if not self._holds(tree, asked):
            return None
        kept = Kept(key, head.decode("latin-1"))
        self._stamp(tree, kept, asked, begun)
        return kept

    def plan(self, kept: Kept, tree: DiskTree) -> Plan | None:
        """A plan that was found; None where it was replaced or damaged meanwhile."""
        body = self._read(kept.key, "plan")
        if body is None or digest(body) != kept.plan:
            return None
        from migrator.planning import cache_format

        return cache_format.decode_plan(body, tree)

    def keep(
        self,
        tree: DiskTree,
        selection: Sequence[str],
        plan: Plan,
        asked: Mapping[Question, str],
        begun: int,
    ) -> Kept | None:
        """Keep a plan. One with failures is not kept: another run may have more memory.

        Args:
            tree: the tree that it is of.
            selection: what was said about the choice of rules.
            plan: made by the rules that this choice leaves.
            asked: everything that was asked of the tree.
            begun: when the first question was asked, in nanoseconds since the epoch.
        """
        if plan.failures:
            return None
        from migrator.planning import cache_format

        body = cache_format.encode_plan(plan)
        if body is None:
            return None
        kept = Kept(_plan_key(tree, selection), digest(body))
        self._write(kept.key, "plan", body)
        listed = "\0".join(
            part for (kind, path), told in asked.items() for part in (kind, path, told)
        )
        head = f"{kept.plan}\n".encode()
        self._write(kept.key, "asked", head + listed.encode("utf-8", "surrogateescape"))
        self._stamp(tree, kept, asked, begun)
        self._found[tree, kept.key] = kept
        return kept

    def _stamp(self, tree: DiskTree, kept: Kept, asked: Mapping[Question, str], begun: int) -> None:
        """Note how to see that nothing was touched, unless something was just now."""
        paths = [path for kind, path in asked if kind in ("read", "exists")]
        try:
            paths += tree.directories()
        except OSError:
            return
        names = [os.fsencode(path) for path in dict.fromkeys(paths)]
        stamps, newest = _stamps(tree.root, names)
        if newest < begun - RACY:
            head = f"{kept.plan} {stamps}\n".encode()
            self._write(kept.key, "stamps", head + b"\0".join(names))

    def output(self, kept: Kept, name: str) -> Output | None:
        """What a command printed for a plan."""
        body = self._read(kept.key, name)
        if body is None:
            return None
        head, _, data = body.partition(b"\n")
        plan, _, code = head.partition(b" ")
        return Output(int(code), data) if plan == kept.plan.encode() else None

    def keep_output(self, kept: Kept, name: str, output: Output) -> None:
        """Keep what a command printed for a plan."""
        self._write(kept.key, name, f"{kept.plan} {output.code}\n".encode() + output.data)

    def _holds(self, tree: Tree, asked: Mapping[Question, str]) -> bool:
        for question, before in asked.items():
            if (tree, question) not in self._answers:
                self._answers[tree, question] = answer(tree, question)
            if self._answers[tree, question] != before:
                return False
        return True

    # ---- files ---------------------------------------------------------------------------------

    def _read(self, key: str, kind: str) -> bytes | None:
        """The body of a file of the cache; None where it is missing, unreadable or damaged."""
        if not self._ours:
            return None
        place = self.directory / f"{key}.{kind}"
        try:
            data = place.read_bytes()
            os.utime(place)  # it is used, so others go before it
        except OSError:
            return None
        check, _, body = data.partition(b"\n")
        return body if check == digest(body).encode() else None

    def _write(self, key: str, kind: str, body: bytes) -> None:
        if not self._ours:
            return
        import tempfile

        name = ""
        try:
            self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            handle, name = tempfile.mkstemp(dir=self.directory, suffix=".part")
            with os.fdopen(handle, "wb") as file:
                file.write(digest(body).encode() + b"\n" + body)
            os.replace(name, self.directory / f"{key}.{kind}")
        except OSError:
            with contextlib.suppress(OSError):
                os.unlink(name)

    def trim(self) -> None:
        """Remove what was used least recently until the rest fits, and what runs left that died."""
        if not self._ours:
            return
        files = list(_files(self.directory))
        size = sum(entry.stat.st_size for entry in files)
        for entry in sorted(files, key=lambda entry: entry.stat.st_mtime_ns):
            dead = entry.path.suffix == ".part" and (entry.stat.st_mtime < time.time() - _LEFT_OVER)
            if dead or size > self._limit:
                with contextlib.suppress(OSError):
                    entry.path.unlink()
                    size -= entry.stat.st_size

    def usage(self) -> Usage:
        """What the cache takes now."""
        files = list(_files(self.directory))
        return Usage(
            plans=sum(entry.path.suffix == ".plan" for entry in files),
            results=sum(entry.path.suffix == ".file" for entry in files),
            size=sum(entry.stat.st_size for entry in files),
        )

    def clean(self) -> Usage:
        """Remove everything. Runs that go on at the same time only lose what they could reuse.

        Returns:
            What there was.

        Raises:
            OSError: a file cannot be removed.
        """
        usage = self.usage()
        for entry in _files(self.directory):
            entry.path.unlink(missing_ok=True)
        return usage


class _File(NamedTuple):
    path: Path
    stat: os.stat_result


def _files(directory: Path) -> Iterator[_File]:
    with contextlib.suppress(FileNotFoundError, NotADirectoryError), os.scandir(directory) as found:
        for entry in found:
            with contextlib.suppress(FileNotFoundError):
                if entry.is_file(follow_symlinks=False):
                    yield _File(Path(entry.path), entry.stat(follow_symlinks=False))


def _stamps(root: Path, paths: Iterable[bytes]) -> tuple[str, int]:
    """A hash of what the system says of paths, and the newest time of a change among them."""
    base = os.fsencode(root) + b"/"
    found = []
    newest = 0
    for path in paths:
        try:
            s = os.lstat(base + path)
        except OSError:
            found.append("-")
            continue
        newest = max(newest, s.st_mtime_ns, s.st_ctime_ns)
        found.append(f"{s.st_ino} {s.st_size} {s.st_mtime_ns} {s.st_ctime_ns} {s.st_mode}")
    return digest("\n".join(found).encode()), newest


def _hash(*parts: str | bytes) -> str:
    """One hash of several texts, whose ends count."""
    total = hashlib.sha256()
    for part in parts:
        data = part.encode("utf-8", "surrogateescape") if isinstance(part, str) else part
        total.update(b"%d " % len(data) + data)
    return total.hexdigest()


def _file_key(path: str, data: bytes, codes: Sequence[str]) -> str:
    return _hash(code_fingerprint(), path, data, *codes)


def _layout_key(style: Style, text: bytes) -> str:
    return _hash(code_fingerprint(), repr(style), text)


def _plan_key(tree: DiskTree, selection: Sequence[str]) -> str:
    # The files that tell a label are among those that are asked for; a checkout's tags are not.
    label = str(tree.label) if (tree.root / ".git").exists() else ""
    return _hash(code_fingerprint(), str(tree.root.resolve()), tree.name, label, *selection)


@cache
def code_fingerprint() -> str:
    """A hash of all that makes a plan out of a tree: this package, its templates, its libraries."""
    parts: list[str | bytes] = [sys.version, *_libraries()]
    for name in sorted(locations.sources_of_plans()):
        with open(name, "rb") as file:
            parts += [name, file.read()]
    return _hash(*parts)


def _libraries() -> list[str]:
    """Names and versions of the libraries, as their distributions' directories are called."""
    found = []
    for place in sys.path:
        with contextlib.suppress(OSError):
            found += [
                name
                for name in os.listdir(place or ".")
                if name.endswith("-info") and name.lower().startswith(LIBRARIES)
            ]
    return sorted(found)
