# SPDX-License-Identifier: Apache-2.0
"""Where a source tree comes from: a directory, or a release that is fetched by name.

A release is fetched as its source archive from the package index that pip is set up for, into the
user's cache, and unpacked there once. No build is run, and nothing of the archive is executed.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from migrator.files.locations import private_cache
from migrator.files.tree import (
    LOG_NAME,
    DiskTree,
    Entry,
    Label,
    Tree,
    best_label,
    build_label,
    label_of,
    labelled,
    metadata_label,
)
from migrator.messages.errors import MigrateError

PROJECT = "vllm"


class UnknownSourceError(MigrateError):
    """What a user named is neither a directory nor a release."""


@dataclass(frozen=True, slots=True)
class Source:
    """A tree to migrate and where its result goes by default."""

    tree: DiskTree
    default_output: Path
    release: str | None = None
    """What the user says that the tree's release is."""
    fetched: str | None = None
    """By which name it was fetched into the cache, if it was."""


def open_source(text: str) -> Source:
    """Open what a user named: a directory, or a release such as `vllm==0.11.0`.

    Raises:
        UnknownSourceError: it is neither.
        MigrateError: there is no vLLM in it, or the release cannot be had.
    """
    path = Path(text)
    if path.is_dir():
        tree = _Checkout(path)
        if not (path / PROJECT / "__init__.py").is_file():
            hint = _nearest_root(path)
            raise MigrateError(
                f"{text} is not a vLLM source tree: it has no vllm/__init__.py"
                + (f"; did you mean {hint}?" if hint else "; name the directory that has it")
            )
        root = path.resolve()
        _refuse_links(path, text)
        return Source(tree, root.parent / f"{root.name}-npu")
    if path.exists():
        raise MigrateError(f"{text} is a file; name the directory that it unpacks to")
    version = requested_release(text)
    if version is None:
        meant = _release_meant(text)
        if meant is not None:
            raise UnknownSourceError(
                f"{text} is neither a directory nor a release; did you mean {meant}?"
            )
        raise UnknownSourceError(
            f"{text} is neither a directory nor a release; name one, or write vllm==0.11.0"
        )
    root = fetch(version)
    return Source(DiskTree(root), Path.cwd() / f"{root.name}-npu", fetched=text)


class _Checkout(DiskTree):
    """A directory that a user named.

    Where its files do not tell their release, its tags do; where git has its files otherwise on
    disk than in its commits, such as by line endings, they are read as in the commits; and the
    files of submodules are told apart.
    """

    @cached_property
    def label(self) -> Label:
        """What this tree is called: by our log in it, its metadata, its tags, or its build."""
        logged = _logged_label(self)
        if logged is not None:
            return logged
        root = self.root.resolve()
        return committed_label(self, root) if (root / ".git").exists() else label_of(self)

    @cached_property
    def _submodules(self) -> tuple[str, ...]:
        if not (self.root / ".gitmodules").is_file():
            return ()
        from migrator.files import git

        return tuple(f"{path}/" for path in git.submodules(self.root))

    def entries(self) -> Iterator[Entry]:
        """Every file and link below the root, sorted by path; sockets and the like are left out.

        Raises:
            MigrateError: a directory cannot be listed, or lies too deep.
        """
        for entry in super().entries():
            foreign = bool(self._submodules) and entry.path.startswith(self._submodules)
            yield entry._replace(foreign=True) if foreign else entry

    @cached_property
    def _stored(self) -> dict[str, bytes]:
        # To load what runs git takes long where there is none.
        root = self.root.resolve()
        if not any((place / ".git").exists() for place in (root, *root.parents)):
            return {}
        from migrator.files import git

        return git.stored_forms(self.root)

    def read(self, path: str) -> bytes | None:
        """The bytes of the regular file at `path`; None where there is none or it is unreadable."""
        data = super().read(path)
        return data if data is None else self._stored.get(path, data)


def committed_label(tree: Tree, root: Path, commit: str = "HEAD") -> Label:
    """What a commit's tree is called: by its metadata, its tags, or what a build left in it.

    Where git knows how far it is from a tag, a build says less: it may be of another day.
    """
    from migrator.files import git

    own = metadata_label(tree)
    if own.release is not None:
        return own
    try:
        release, near = git.names_of(root, commit)
    except MigrateError:
        release, near = None, None
    if release is not None:
        return labelled(release)
    built = build_label(tree)
    if near is not None and built.release is not None:
        built = Label()
    # A tag may have any sign in its name.
    words = [] if near is None else [word.strip("()") for word in near.split()]
    claim = near if words and all(labelled(word) != Label() for word in words) else None
    return best_label(own, built, Label(claim=claim))


def _logged_label(tree: Tree) -> Label | None:
    """What our log in a tree calls it; None where there is none.

    The tags behind its commit are those of what it was made from, or, after `update`, of what that
    was before, and so is what a build left in it.
    """
    data = tree.read(LOG_NAME)
    if data is None:
        return None
    import json

    try:
        log = json.loads(data)
        version = log.get("release") or log.get("claim")
        return labelled(version) if isinstance(version, str) else None
    except (RecursionError, ValueError, AttributeError):
        return None


def _refuse_links(path: Path, text: str) -> None:
    """Raise where the package is reached through a link: nothing is read through one."""
    for place in (path / PROJECT, path / PROJECT / "__init__.py"):
        if place.is_symlink():
            name = place.relative_to(path).as_posix()
            raise MigrateError(
                f"{name} in {text} is a symbolic link to {place.readlink()}, and links are not "
                "followed; name the tree that has the files themselves"
            )


def _nearest_root(path: Path) -> Path | None:
    for candidate in (path / "..", *sorted(path.glob("vllm*"))):
        if (candidate / PROJECT / "__init__.py").is_file():
            return candidate
    return None


def requested_release(text: str) -> str | None:
    """The version of `vllm==VERSION`; None where the text is not such a requirement."""
    from packaging.requirements import InvalidRequirement, Requirement
    from packaging.utils import canonicalize_name
    from packaging.version import InvalidVersion, Version

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


def _release_meant(text: str) -> str | None:
    """The release that a text looks like: a bare version, a tag, or another sign than `==`."""
    found = re.fullmatch(rf"(?:{PROJECT})?[\s=~@:-]*v?(\d+(?:\.\d+)+\w*)", text.strip(), re.I)
    return f"{PROJECT}=={found[1]}" if found else None


def fetch(version: str) -> Path:
    """The unpacked source of a release, fetched unless the cache has it as it was unpacked.

    Raises:
        MigrateError: there is no such release, it has no source archive, the index cannot be
            reached, or others can write to the cache.
    """
    import tempfile

    from migrator.files import package_index, writer

    cache = private_cache("sources")
    root = cache / f"{PROJECT}-{version}"
    record = cache / f"{root.name}.json"
    if root.is_dir() and _is_as_recorded(root, record):
        return root
    with writer.waiting_for(cache):
        if root.is_dir() and _is_as_recorded(root, record):
            return root  # another run has fetched it meanwhile
        with tempfile.TemporaryDirectory(dir=cache) as scratch:
            archive = package_index.fetch(f"{PROJECT}=={version}", Path(scratch), source_only=True)
            if root.is_dir():
                writer.discard(root)
            writer.unpack(archive, root)
        _write_record(root, record)
    return root


def fetched() -> dict[str, Path]:
    """The releases whose sources were fetched and are as they were, oldest first: their roots."""
    from packaging.version import InvalidVersion, Version

    cache = private_cache("sources")
    found: dict[Version, Path] = {}
    for root in cache.glob(f"{PROJECT}-*"):
        with contextlib.suppress(InvalidVersion):
            version = Version(root.name.removeprefix(f"{PROJECT}-"))
            if root.is_dir() and _is_as_recorded(root, cache / f"{root.name}.json"):
                found[version] = root
    return {str(version): found[version] for version in sorted(found)}


def _write_record(root: Path, record: Path) -> None:
    """Note what was unpacked, so that it is seen when somebody changes it."""
    import json

    from migrator.files import writer

    noted = {"stamps": _stamps(root), "contents": _contents(root)}
    writer.note(record, json.dumps(noted).encode())


def _is_as_recorded(root: Path, record: Path) -> bool:
    """Does a cached source have what was unpacked, by the system's stamps or else byte for byte?"""
    import json

    try:
        noted = json.loads(record.read_bytes())
        if noted["stamps"] == _stamps(root):
            return True
        same = noted["contents"] == _contents(root)
    except (OSError, ValueError, KeyError, TypeError):
        return False
    if same:
        _write_record(root, record)  # moved or restored: looked at byte for byte this once
    return bool(same)


def _stamps(root: Path) -> str:
    """A hash of what the system says of each entry below a directory; a change alters it."""
    total = hashlib.sha256()
    for place, directories, files in os.walk(root):
        directories.sort()
        for name in sorted([*directories, *files]):
            s = os.lstat(os.path.join(place, name))
            line = f"{s.st_ino} {s.st_mode} {s.st_size} {s.st_mtime_ns} {s.st_ctime_ns} "
            total.update(line.encode() + os.fsencode(name) + b"\0")
    return total.hexdigest()


def _contents(root: Path) -> str:
    """A hash of the names, kinds and bytes below a directory."""
    total = hashlib.sha256()
    for place, directories, files in os.walk(root):
        directories.sort()
        for name in sorted([*directories, *files]):
            path = os.path.join(place, name)
            s = os.lstat(path)
            kind = "link" if stat.S_ISLNK(s.st_mode) else oct(s.st_mode)
            total.update(kind.encode() + b" " + os.fsencode(os.path.relpath(path, root)) + b"\0")
            if stat.S_ISLNK(s.st_mode):
                total.update(os.fsencode(os.readlink(path)))
            elif stat.S_ISREG(s.st_mode):
                with open(path, "rb") as file:
                    total.update(hashlib.file_digest(file, "sha256").digest())
    return total.hexdigest()
