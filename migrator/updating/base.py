# SPDX-License-Identifier: Apache-2.0
"""What a tree was made from: the pristine source, and what the tool wrote then.

The source is what the user names, the commit that the last update recorded, one of the tree's own
history, or the recorded release by name. It has to fit the hashes that the log recorded. What the
tool wrote is what the recorded rules make of it today; where a hash says that they wrote something
else then, the file is looked for in the history, and where it is not found either, it is marked as
unsure: no line of the engineer's is dropped there.

An older source than the right one loses nothing: upstream's own changes are then taken for the
engineer's, and the next release has them too. So where several commits fit, the oldest is taken;
what was edited before the migration counts as work by hand then, as it should.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from migrator.files import sources
from migrator.files.tree import LOG_NAME, DiskTree, Tree, digest
from migrator.messages.errors import MigrateError
from migrator.planning.plan import Results, make_plan
from migrator.reports.log import FileEntry, Log, printable
from migrator.rules import all_rules
from migrator.updating.git import Repository
from migrator.updating.trees import Version

FITTING = 0.5
"""Share of the recorded files that a source has to have as they were for it to be the right one."""

EDITED_BEFORE = 3
"""Recorded files that may have been edited between the import of a source and its migration."""


@dataclass(frozen=True, slots=True)
class Pristine:
    """A source without the migration."""

    tree: Tree
    origin: str
    """Where it comes from, for people."""
    commit: str | None = None
    """The commit of the tree's own repository that it is."""


@dataclass
class Base:
    """What the tool once wrote."""

    pristine: Pristine
    version: Version
    unsure: dict[str, bytes] = field(default_factory=dict)
    """Files of which that is not known for sure → their pristine bytes."""
    gone_rules: tuple[str, ...] = ()
    """Recorded rules that there are no more."""


def open_tree(text: str, repository: Repository | None) -> Pristine:
    """Open what a user named: a directory, a release such as `vllm==0.12.0`, or a git commit.

    Raises:
        MigrateError: it is none of these, or has no vLLM in it.
    """
    if repository is not None and not Path(text).exists():
        commit = repository.commit(text)
        if commit is not None:
            tree = repository.tree(commit, text)
            if not tree.exists("vllm/__init__.py"):
                raise MigrateError(
                    f"the commit {text} has no vllm/__init__.py here; name one of vLLM's source"
                )
            return Pristine(tree, f"commit {repository.short(commit)} ({text})", commit)
    try:
        return Pristine(sources.open_source(text).tree, text)
    except sources.UnknownSourceError as error:
        if repository is None:
            raise
        raise MigrateError(
            f"{text} is no directory, no release such as vllm==0.12.0 and no commit here"
        ) from error


def source_digest(tree: Tree) -> str:
    """One hash over the paths, kinds and bytes of a tree."""
    total = hashlib.sha256()
    for entry in tree.entries():
        link = entry.link is not None
        kind = "link" if link else "executable" if entry.mode & 0o100 else "file"
        data = os.fsencode(entry.link or "") if link else tree.read(entry.path) or b""
        total.update(f"{printable(entry.path)}\0{kind}\0{digest(data)}\n".encode())
    return total.hexdigest()


def find_pristine(
    root: Path, log: Log, repository: Repository | None, named: str | None, new: Pristine
) -> Pristine:
    """The source that the tree at `root` was made from.

    Args:
        root: the adapted tree.
        log: its log.
        repository: the checkout that it lies in.
        named: what the user says it was made from.
        new: the next release; the tree may have been updated to just that before.

    Raises:
        MigrateError: it cannot be told, or what was named does not fit.
    """
    if named is not None:
        pristine = open_tree(named, repository)
        if _fit(pristine.tree, log) < FITTING:
            raise MigrateError(
                f"{root} was not made from {named}: the files that {LOG_NAME} records are others; "
                "name its own source with --base, or leave --base out"
            )
        return pristine
    if log.updated is not None and log.updated.source == source_digest(new.tree):
        return new
    if repository is not None:
        found = _recorded(log, repository) or _in_history(log, repository)
        if found is not None:
            return found
    hint = f"name what {root} was made from with --base"
    if log.release is None:
        raise MigrateError(
            f"the {LOG_NAME} says {log.label}, so there is nothing to fetch by name, and git does "
            f"not help; {hint}"
        )
    try:
        tree = DiskTree(sources.fetch(log.release))
    except MigrateError as error:
        raise MigrateError(f"{error}; or {hint}") from error
    if _fit(tree, log) < FITTING:
        raise MigrateError(
            f"{root} says that it is release {log.release}, but its files are others; {hint}"
        )
    return Pristine(tree, f"vllm=={log.release}")


def _fit(tree: Tree, log: Log) -> float:
    """Share of the recorded files that are in `tree` as they were before the migration."""
    if not log.files:
        return 1.0
    return sum(_fits(tree.read(entry.path), entry) for entry in log.files) / len(log.files)


def _fits(data: bytes | None, entry: FileEntry) -> bool:
    return entry.before == (None if data is None else digest(data))


def _recorded(log: Log, repository: Repository) -> Pristine | None:
    """The commit that an earlier update brought the tree to, which need not be behind its own."""
    if log.updated is None or log.updated.commit is None:
        return None
    commit = repository.commit(log.updated.commit)
    if commit is None:
        return None
    short = repository.short(commit)
    tree = repository.tree(commit, short)
    return Pristine(tree, f"commit {short}", commit) if _fit(tree, log) >= FITTING else None


def _in_history(log: Log, repository: Repository) -> Pristine | None:
    """The commit that the tree was made from, by the release's tag or by its files."""
    if not any(entry.before is not None for entry in log.files):
        return None
    known: dict[str, str] = {}

    def strangers(commit: str) -> int:
        """How many recorded files the commit has in another form; all, where it is migrated."""
        nodes = repository.nodes(commit, [LOG_NAME, *(e.path for e in log.files)])
        new = {node.blob for node in nodes.values()} - known.keys()
        known.update((name, digest(data)) for name, data in repository.blobs(new).items())
        if LOG_NAME in nodes:
            return len(log.files)
        return sum(
            entry.before != (known[nodes[entry.path].blob] if entry.path in nodes else None)
            for entry in log.files
        )

    tag = repository.commit(f"refs/tags/v{log.release}") if log.release else None
    if tag is not None and strangers(tag) <= (1 - FITTING) * len(log.files):
        found, name = tag, f"v{log.release}"
    else:
        oldest: str | None = None
        for commit in _before_the_log(repository):
            count = strangers(commit)
            if oldest is None and count == 0:
                oldest = commit
            elif oldest is not None and count > EDITED_BEFORE:
                break
            elif oldest is not None:
                oldest = commit
        if oldest is None:
            return None
        found, name = oldest, oldest
    origin = f"commit {repository.short(found)}" + (f" ({name})" if name != found else "")
    return Pristine(repository.tree(found, name), origin, found)


def _before_the_log(repository: Repository) -> Iterator[str]:
    """Commits from which the migration may have started, newest first."""
    added = repository.added(LOG_NAME)
    start = repository.commit(f"{added}^" if added is not None else "HEAD")
    if start is not None:
        yield from repository.ancestors(start)


def make_base(
    pristine: Pristine,
    log: Log,
    ours: Version,
    repository: Repository | None,
    *,
    jobs: int = 1,
    results: Results | None = None,
) -> Base:
    """What the tool wrote when the log was written.

    Args:
        pristine: what the tree was made from.
        log: the tree's log.
        ours: the tree.
        repository: the checkout that it lies in.
        jobs: processes to use at most.
        results: those of files, kept from earlier runs.
    """
    codes = {rule.code for rule in log.rules}
    rules = [rule for rule in all_rules() if rule.code in codes]
    plan = make_plan(pristine.tree, rules, jobs=jobs, results=results)
    base = Base(pristine, Version(pristine.tree, plan.files))
    base.gone_rules = tuple(sorted(codes - {rule.code for rule in rules}))
    emitted = {printable(change.path): change for change in plan.files}
    entries = {entry.path: entry for entry in log.files}
    for path in sorted(emitted.keys() | entries.keys()):
        change, entry = emitted.get(path), entries.get(path)
        place = path if change is None else change.path
        before = pristine.tree.read(place)
        if entry is None:
            base.version.put(place, before)  # today's rules write it; those of then did not
            continue
        now = before if change is None else change.after
        if now is not None and digest(now) == entry.after:
            continue
        # What is recorded is the tool's alone only where nobody had edited the file before it.
        alone = not entry.edited and _fits(before, entry)
        written = _written(place, entry.after, ours, repository) if alone else None
        if written is not None:
            base.version.put(place, written)
        else:
            base.unsure[place] = before or b""
    return base


def _written(path: str, wanted: str, ours: Version, repository: Repository | None) -> bytes | None:
    """The file with a given hash, from the tree itself or from its history."""
    mine = ours.item(path)
    if mine is not None and not mine.link and digest(mine.data) == wanted:
        return mine.data
    if repository is None:
        return None
    for name in repository.history(path):
        data = repository.blobs([name])[name]
        if digest(data) == wanted:
            return data
    return None
