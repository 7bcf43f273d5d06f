# SPDX-License-Identifier: Apache-2.0
"""A vLLM source tree as the planner and the rules see it: files that can be read, nothing else."""

from __future__ import annotations

import ast
import contextlib
import hashlib
import os
import re
import stat
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from migrator.messages.errors import MigrateError

REPOSITORIES = (".git", ".hg", ".svn")
"""Where version control keeps its history."""
STAGING = ".vllm-npu-migrate"
"""Directory in a tree that the writer works in while it changes the tree in place."""
SKIPPED_DIRECTORIES = frozenset({*REPOSITORIES, "__pycache__", STAGING})
"""Directories that are never part of a tree: version control, caches, our own staging."""

LOG_NAME = "migration-log.json"
SUMMARY_NAME = "MIGRATION.md"
"""What a migration leaves in a tree to say what it did: for programs and for people."""

LARGEST = 256 << 20
"""Bytes that a file may have which is read: a source file of vLLM has a thousandth of that."""
DEPTH = 200
"""Directories within each other that a tree may have; removing more takes Python's whole stack."""

VLLM = "vllm/"
"""Directory of a tree that holds the package: the code that rules look at."""

Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


class Label(NamedTuple):
    """What a tree is called: for people, and for what goes by name. What a tree has decides."""

    release: str | None = None
    """A release of vLLM, exactly: what an index or a tag has by this name."""
    claim: str | None = None
    """What it says of itself where that is no release: a development version, a local one, how far
    it is from a tag."""

    def __str__(self) -> str:
        """In words: vLLM 0.33.0, or vLLM 0.10.1.dev12124, no release."""
        if self.release is not None:
            return f"vLLM {self.release}"
        return "vLLM (release unknown)" if self.claim is None else f"vLLM {self.claim}, no release"


class Entry(NamedTuple):
    """One entry of a tree: a regular file, or a symbolic link that is copied and never followed."""

    path: str
    """Path from the tree's root, with `/` between its parts."""
    mode: int
    """Permission bits."""
    link: str | None = None
    """The link's target, for a symbolic link."""
    foreign: bool = False
    """Is it a file of a git submodule? Such are copied, never changed: they are in no commit."""


class Tree:
    """A tree in memory: path → bytes. Rules are tested on these; `DiskTree` reads a real one."""

    def __init__(self, files: Mapping[str, bytes], name: str = "vllm") -> None:
        self._files = dict(files)
        self.name = name

    def entries(self) -> Iterator[Entry]:
        """Every file and link of the tree, sorted by path."""
        for path in sorted(self._files):
            yield Entry(path, 0o644)

    def exists(self, path: str) -> bool:
        """Is there a regular file at `path`?"""
        return path in self._files

    def read(self, path: str) -> bytes | None:
        """The bytes of the regular file at `path`; None where there is none."""
        return self._files.get(path)

    def occupied(self, path: str) -> bool:
        """Does something stand at `path`, or above it, that is no regular file or directory there?

        A file that is put there would go through a link, or not fit in.
        """
        return False

    @cached_property
    def _parsed(self) -> dict[str, tuple[bytes | None, ast.Module | None]]:
        return {}

    def parse(self, path: str) -> ast.Module | None:
        """The syntax tree of a module, for probes; None where it is missing or does not parse."""
        if path not in self._parsed:
            data = self.read(path)
            module = None
            if data is not None:
                try:
                    module = ast.parse(data)
                except (SyntaxError, ValueError, RecursionError, MemoryError):
                    module = None
            self._parsed[path] = data, module
        return self._parsed[path][1]

    def parsed(self, path: str, data: bytes) -> ast.Module | None:
        """The syntax tree of a module of these bytes; None where `parse` was not asked for it."""
        known, module = self._parsed.get(path, (None, None))
        return module if known == data else None

    def definition(self, path: str, qualified_name: str) -> Definition | None:
        """The function or class called `qualified_name` (`Class.method`) in the module at `path`.

        Definitions below a module-level `if` or `try` count too. Of several, it is the last one
        that is run in any case after those before it, or else the first.
        """
        module = self.parse(path)
        if module is None:
            return None
        body: list[ast.stmt] = module.body
        found: Definition | None = None
        for part in qualified_name.split("."):
            found = _in_force(body, part)
            if found is None:
                return None
            body = found.body
        return found

    def parameters(self, path: str, qualified_name: str) -> list[str] | None:
        """Parameter names of a function of the tree in order; None where there is no such one."""
        found = self.definition(path, qualified_name)
        if found is None or isinstance(found, ast.ClassDef):
            return None
        spec = found.args
        names = [a.arg for a in (*spec.posonlyargs, *spec.args, *spec.kwonlyargs)]
        return names + [a.arg for a in (spec.vararg, spec.kwarg) if a is not None]

    def names(self, path: str, qualified_name: str | None = None) -> frozenset[str]:
        """Every name that a definition, or all of a module, uses or binds, attributes' too.

        Empty where there is no such definition or module.
        """
        if qualified_name is None:
            node: ast.AST | None = self.parse(path)
        else:
            node = self.definition(path, qualified_name)
        return frozenset() if node is None else frozenset(_names(node))

    @cached_property
    def label(self) -> Label:
        """What this tree is called, by its own metadata. Nothing is decided by it."""
        return label_of(self)


class DiskTree(Tree):
    """A tree on disk. Links are listed and copied as links; nothing is read through one.

    Args:
        root: directory of the tree.
        name: what messages and logs call it; the directory's name when left out.
    """

    def __init__(self, root: Path, name: str | None = None) -> None:
        super().__init__({}, name or root.resolve().name)
        self.root = root

    def entries(self) -> Iterator[Entry]:
        """Every file and link below the root, sorted by path; sockets and the like are left out.

        Raises:
            MigrateError: a directory cannot be listed, or lies deeper than DEPTH.
        """
        yield from self._walk("")

    def _walk(self, below: str) -> Iterator[Entry]:
        try:
            with os.scandir(self.root / below) as listing:
                found = sorted(listing, key=lambda entry: entry.name)
        except OSError as error:
            raise MigrateError(
                f"cannot list {error.filename}: {error.strerror}; make it readable, or remove it"
            ) from error
        if below.count("/") > DEPTH:
            raise MigrateError(
                f"{self.name} nests more than {DEPTH} directories, as no source tree does; "
                f"remove {below.partition('/')[0]}"
            )
        for item in found:
            path = f"{below}{item.name}"
            if item.name in REPOSITORIES:
                # In a linked work tree, and in a submodule, it is a file that says where that is.
                continue
            if item.is_symlink():
                yield Entry(path, 0o777, os.readlink(item.path))
            elif item.is_dir(follow_symlinks=False):
                if item.name not in SKIPPED_DIRECTORIES:
                    yield from self._walk(f"{path}/")
            elif item.is_file(follow_symlinks=False):
                yield Entry(path, stat.S_IMODE(item.stat(follow_symlinks=False).st_mode))

    def directories(self) -> list[str]:
        """Every directory whose entries count, the root as an empty path."""
        found = [""]
        for below in found:
            with os.scandir(self.root / below) as listing:
                found += [
                    f"{below}{item.name}/"
                    for item in listing
                    if item.is_dir(follow_symlinks=False) and item.name not in SKIPPED_DIRECTORIES
                ]
        return found

    def _file(self, path: str) -> str | None:
        """Where the regular file at `path` is; None where none is reached without any link."""
        place, mode = os.fspath(self.root), 0
        for part in path.split("/"):
            if part in ("", ".", ".."):
                return None
            place = f"{place}/{part}"
            try:
                mode = os.lstat(place).st_mode
            except (FileNotFoundError, NotADirectoryError, ValueError):
                return None
            if stat.S_ISLNK(mode):
                return None
        return place if stat.S_ISREG(mode) else None

    def exists(self, path: str) -> bool:
        """Is there a regular file at `path`, reached without any link?"""
        return self._file(path) is not None

    def occupied(self, path: str) -> bool:
        """Is there a link at or above `path`, a directory or device at it, or a file above it?"""
        place = self.root
        *above, _ = parts = path.split("/")
        for number, part in enumerate(parts):
            place = place / part
            if not os.path.lexists(place):
                return False
            fits = place.is_dir() if number < len(above) else place.is_file()
            if place.is_symlink() or not fits:
                return True
        return False

    def read(self, path: str) -> bytes | None:
        """The bytes of the regular file at `path`; None where there is none or it is unreadable.

        Raises:
            MigrateError: it has more than LARGEST.
        """
        place = self._file(path)
        if place is None:
            return None
        try:
            with open(place, "rb") as file:
                size = os.fstat(file.fileno()).st_size
                if size > LARGEST:
                    raise MigrateError(
                        f"{self.root / path} has {size >> 20} MiB, and what is read may have "
                        f"{LARGEST >> 20}; move it out of the tree"
                    )
                return file.read()
        except OSError:
            return None


Question = tuple[str, str]
"""What can be asked of a tree: `read`, `exists`, `occupied`, `entries` or `label`, and a path."""


class WatchedTree(Tree):
    """A view of a tree that notes what is asked of it, so that an answer can be used again.

    Args:
        tree: the tree that answers.
    """

    def __init__(self, tree: Tree) -> None:
        super().__init__({}, tree.name)
        self.tree = tree
        self.asked: dict[Question, str] = {}
        """Question → answer, as `answer` gives it."""

    def entries(self) -> Iterator[Entry]:
        """As the tree's own."""
        entries = list(self.tree.entries())
        self.asked["entries", ""] = _listing(entries)
        yield from entries

    def exists(self, path: str) -> bool:
        """As the tree's own."""
        there = self.tree.exists(path)
        self.asked["exists", path] = str(there)
        return there

    def read(self, path: str) -> bytes | None:
        """As the tree's own."""
        data = self.tree.read(path)
        self.asked["read", path] = "" if data is None else digest(data)
        return data

    def occupied(self, path: str) -> bool:
        """As the tree's own."""
        taken = self.tree.occupied(path)
        self.asked["occupied", path] = str(taken)
        return taken

    def parse(self, path: str) -> ast.Module | None:
        """As the tree's own."""
        if ("read", path) not in self.asked:
            self.read(path)
        return self.tree.parse(path)

    def parsed(self, path: str, data: bytes) -> ast.Module | None:
        """As the tree's own; it asks nothing of the tree that is not known."""
        return self.tree.parsed(path, data)

    @cached_property
    def label(self) -> Label:
        """As the tree's own."""
        label_of(self)  # for the files that it is read off
        self.asked["label", ""] = str(self.tree.label)
        return self.tree.label


def answer(tree: Tree, question: Question) -> str:
    """What a tree says now, in as many words as `WatchedTree` notes: hashes, not contents."""
    kind, path = question
    if kind == "read":
        data = tree.read(path)
        return "" if data is None else digest(data)
    if kind == "exists":
        return str(tree.exists(path))
    if kind == "occupied":
        return str(tree.occupied(path))
    if kind == "entries":
        return _listing(tree.entries())
    return str(tree.label)


def _listing(entries: Iterable[Entry]) -> str:
    lines = (f"{entry.mode:o} {entry.path}\0{entry.link or ''}\0" for entry in entries)
    return digest("".join(lines).encode("utf-8", "surrogateescape"))


def _names(node: ast.AST) -> Iterator[str]:
    for part in ast.walk(node):
        if isinstance(part, ast.Name):
            yield part.id
        elif isinstance(part, ast.Attribute):
            yield part.attr
        elif isinstance(part, Definition):
            yield part.name
        elif isinstance(part, ast.arg):
            yield part.arg
        elif isinstance(part, ast.ImportFrom):
            yield from (part.module or "").split(".")
        elif isinstance(part, ast.alias):
            yield from part.name.split(".")
            yield part.asname or ""


def _in_force(body: list[ast.stmt], name: str) -> Definition | None:
    """The definition of a name that holds once a body was run, as far as that is certain."""
    found = [pair for pair in _definitions(body) if pair[0].name == name]
    plain = [(node, branch) for node, branch in found if not _only_adds(node)] or found
    plain = [(node, branch) for node, branch in plain if _TYPING not in branch] or plain
    left: list[tuple[Definition, tuple[int, ...]]] = []
    for node, branch in plain:
        left = [pair for pair in left if pair[1][: len(branch)] != branch]
        left.append((node, branch))
    return left[0][0] if left else None


_TYPING = -1
"""In the place of a suite's identity: it is for type checkers only."""


def _only_adds(node: Definition) -> bool:
    """Is it an `@overload`, or the setter or deleter of a property defined before?"""
    own = ("overload", "setter", "deleter", "getter")
    return any(
        (d.attr if isinstance(d, ast.Attribute) else getattr(d, "id", "")) in own
        for d in node.decorator_list
    )


def _definitions(
    body: list[ast.stmt], branch: tuple[int, ...] = ()
) -> Iterator[tuple[Definition, tuple[int, ...]]]:
    """Definitions of a body, each with the identities of the suites that may not be run."""
    for statement in body:
        if isinstance(statement, Definition):
            yield statement, branch
            continue
        own = branch if isinstance(statement, ast.With) else (*branch, id(statement))
        typing = isinstance(statement, ast.If) and ast.unparse(statement.test).endswith(
            "TYPE_CHECKING"
        )
        suites: list[list[ast.stmt]] = [
            getattr(statement, name, []) for name in ("body", "orelse", "finalbody")
        ]
        suites += [part.body for part in getattr(statement, "handlers", ())]
        suites += [part.body for part in getattr(statement, "cases", ())]
        for number, suite in enumerate(suites):
            inside = own if own == branch else (*own, number)
            if typing and suite is suites[0]:
                inside = (*inside, _TYPING)
            yield from _definitions(suite, inside)


METADATA = "PKG-INFO"
"""File of a source archive that says what release it is."""
_GENERATED = "vllm/_version.py"
_PLAIN = re.compile(r"[\w.+!-]{1,100}", re.ASCII)
"""Claims that are shown; whatever is otherwise is no version, and would have to be escaped."""


def released(version: str) -> str | None:
    """The release that a version names; None for a development version and for a local one.

    These say how far a build was from some tag, or what it was built for. A clone without vLLM's
    tags, or with another component's, makes them up.
    """
    from packaging.version import Version

    # A number of thousands of digits is another ValueError.
    with contextlib.suppress(ValueError):
        found = Version(version)
        return str(found) if not found.is_devrelease and found.local is None else None
    return None


def labelled(version: str | None) -> Label:
    """The label of a tree that names a version: its release, or else a claim."""
    if version is None or _PLAIN.fullmatch(version) is None:
        return Label()
    release = released(version)
    return Label(release) if release is not None else Label(claim=version)


def metadata_label(tree: Tree) -> Label:
    """What a source archive's metadata say."""
    data = tree.read(METADATA)
    if data is None or not re.search(rb"^Name: vllm\s*$", data, re.M):
        return Label()
    found = re.search(r"^Version: (\S+)", data.decode("utf-8", "replace"), re.M)
    return labelled(found[1] if found else None)


def build_label(tree: Tree) -> Label:
    """What a build left in a tree."""
    data = tree.read(_GENERATED)
    if data is None:
        return Label()
    pattern = r"^(?:__version__ = )?(?:version = )?['\"]([^'\"]+)['\"]"
    found = re.search(pattern, data.decode("utf-8", "replace"), re.M)
    return labelled(found[1] if found else None)


def label_of(tree: Tree) -> Label:
    """What a tree's own files call it."""
    return best_label(metadata_label(tree), build_label(tree))


def best_label(*labels: Label) -> Label:
    """The first label that is a release, or else the first claim."""
    named = [label for label in labels if label.release is not None]
    claims = [label for label in labels if label.claim is not None]
    return next(iter([*named, *claims]), Label())


def module_name(path: str) -> str:
    """The dotted name of the module in `path`: `vllm/a/b.py` and `vllm/a/b/__init__.py` alike."""
    parts = path.removesuffix(".py").split("/")
    if parts[-1] == "__init__":
        parts.pop()
    return ".".join(parts)


def digest(data: bytes) -> str:
    """SHA-256 in hexadecimal: how logs name the content of a file."""
    return hashlib.sha256(data).hexdigest()
