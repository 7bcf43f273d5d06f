# SPDX-License-Identifier: Apache-2.0
"""An update from its beginning to its end: what is merged, written and committed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

from migrator.files import git, writer
from migrator.files.changes import Change, FileChange, Placed, Removal
from migrator.files.tree import LOG_NAME, SUMMARY_NAME, DiskTree, digest
from migrator.messages.errors import MigrateError, after_writing
from migrator.planning.plan import Plan
from migrator.reports.log import (
    HandEntry,
    Log,
    Updated,
    emitted_files,
    make_summary,
    pretty_json,
    printable,
    read_log,
    updated_log,
    with_summary,
)
from migrator.updating import commits
from migrator.updating.base import Base, Pristine, source_digest
from migrator.updating.git import SUBMODULE, Node, Repository
from migrator.updating.lines import has_markers
from migrator.updating.merge import merge_file
from migrator.updating.trees import UPSTREAM, Fate, Item, Outcome, TreeMerge, Version, merge_trees

_KINDS = {
    Fate.CONFLICT: "conflict",
    Fate.MERGED: "merged",
    Fate.KEPT: "edited",
    Fate.ADDED_BY_HAND: "added",
    Fate.DELETED_BY_HAND: "deleted",
    Fate.RENAMED_BY_HAND: "renamed",
}


@dataclass(frozen=True)
class Disk:
    """What a checkout has on disk otherwise than git has it.

    Args:
        repository: the checkout; None where there is none.
    """

    repository: Repository | None

    @cached_property
    def sparse(self) -> dict[str, Item]:
        """Files that a sparse checkout leaves out: path → as git has them."""
        return self.repository.sparse() if self.repository is not None else {}

    def forms(self, changes: Sequence[Change]) -> list[Change]:
        """Changes with the bytes that git would write to disk, such as with its line endings."""
        if self.repository is None:
            return list(changes)
        files = {
            change.path: change.data if isinstance(change, Placed) else change.after
            for change in changes
            if not (isinstance(change, Removal) or (isinstance(change, Placed) and change.link))
        }
        forms = git.disk_forms(self.repository.root, files)
        return [
            change
            if isinstance(change, Removal) or change.path not in forms
            else replace(change, data=forms[change.path])
            if isinstance(change, Placed)
            else replace(change, after=forms[change.path])
            for change in changes
        ]


@dataclass
class Update:
    """Everything that an update will do to the engineer's tree."""

    old: Log
    base: Base
    new: Pristine
    plan: Plan
    """The migration of the new release."""
    ours: Version
    theirs: Version
    merge: TreeMerge
    log: Log
    disk: Disk
    submodules: dict[str, str | None] = field(default_factory=dict)
    """Submodules that the result has otherwise than the new release → commit; None: not there."""

    @property
    def nothing_to_do(self) -> bool:
        """Is the tree what it would become?"""
        merge = self.merge
        return (
            not merge.puts
            and not self.submodules
            and not merge.removals
            and not any(
                outcome.fate in UPSTREAM or outcome.fate in (Fate.CONFLICT, Fate.MERGED)
                for outcome in merge.outcomes
            )
        )

    def changes(self) -> list[Change]:
        """What is to be written into a copy of the engineer's tree."""
        puts = {path: item for path, item in self.disk.sparse.items() if self.result(path) == item}
        return _changes(self.merge.removals, {**puts, **self.merge.puts})

    def changes_in_place(self, *, committed: bool) -> list[Change]:
        """What is to be written into the engineer's tree itself, as git has it on disk there.

        Args:
            committed: is it all in a commit? Then what a sparse checkout leaves out stays off the
                disk.
        """
        removals = self.merge.removals - self.disk.sparse.keys()
        puts = dict(self.merge.puts)
        if committed and self.disk.sparse:
            repository = self.disk.repository
            new = {path for path in puts if self.ours.item(path) is None}
            left_out = repository.outside(new) if repository is not None else set()
            puts = {p: i for p, i in puts.items() if p not in {*self.disk.sparse, *left_out}}
        return self.disk.forms(_changes(removals, puts))

    def result(self, path: str) -> Item | None:
        """What the tree will have at a path."""
        if path in self.merge.puts:
            return self.merge.puts[path]
        return None if path in self.merge.removals else self.ours.item(path)


def _changes(removals: Iterable[str], puts: Mapping[str, Item]) -> list[Change]:
    """What goes and what comes, as the writer takes it."""
    placed = (Placed(path, item.data, item.mode, item.link) for path, item in sorted(puts.items()))
    return [*(Removal(path) for path in sorted(removals)), *placed]


def read_adapted(tree: DiskTree, repository: Repository | None) -> Log:
    """The log of an adapted tree that can be updated.

    Raises:
        MigrateError: it has none, or has conflicts that nobody has resolved yet.
    """
    data = tree.read(LOG_NAME)
    if data is None:
        raise MigrateError(f"{tree.root} has no {LOG_NAME}; only a tree made by apply is updated")
    log = read_log(data)
    unmerged = set(repository.unmerged()) if repository is not None else set()
    for entry in log.by_hand:
        if entry.kind == "conflict" and has_markers(tree.read(entry.path) or b""):
            unmerged.add(entry.path)
    if has_markers(tree.read(SUMMARY_NAME) or b""):
        unmerged.add(SUMMARY_NAME)
    if unmerged:
        shown = ", ".join(sorted(unmerged)[:3])
        more = f" and {len(unmerged) - 3} more" if len(unmerged) > 3 else ""
        how = "resolve them and git add them" if repository is not None else "resolve them"
        raise MigrateError(f"{tree.root} has conflicts in {shown}{more}; {how} first")
    return log


def plan_update(
    tree: DiskTree,
    ours: Version,
    old: Log,
    base: Base,
    new: Pristine,
    plan: Plan,
    disk: Disk,
    *,
    with_base: bool = False,
) -> Update:
    """Merge the engineer's tree with the migration of the next release.

    Args:
        tree: the engineer's tree.
        ours: the same, without what git ignores.
        old: its log.
        base: what the tool once wrote.
        new: the next release.
        plan: its migration.
        disk: what the engineer's checkout has on disk otherwise than git has it.
        with_base: show the base's lines in conflicts.
    """
    theirs = Version(new.tree, plan.files)
    rebased = {
        change.path: change.before
        for change in plan.files
        if change.before is not None and change.before != base.pristine.tree.read(change.path)
    }
    merge = merge_trees(
        base.version, ours, theirs, unsure=base.unsure, pristine=rebased, with_base=with_base
    )
    update = Update(old, base, new, plan, ours, theirs, merge, old, disk)
    _keep_submodules(update)
    by_hand = [
        HandEntry(
            printable(outcome.path),
            _KINDS[outcome.fate],  # type: ignore[arg-type] # mypy sees a str
            None if outcome.was is None else printable(outcome.was),
            outcome.reason,
        )
        for outcome in merge.outcomes
        if outcome.fate in _KINDS
    ]
    merged = []
    for change in plan.files:
        place = merge.places.get(change.path, change.path)
        item = None if place is None else update.result(place)
        if item is not None and item.data != change.after:
            merged.append(FileChange(change.path, change.after, item.data))
    updated = Updated(old.release, source_digest(new.tree), new.commit)
    update.log = updated_log(plan, merged, merge.places, by_hand, updated)
    if not update.nothing_to_do:
        _write_logs(tree, update, with_base=with_base)
    return update


def _keep_submodules(update: Update) -> None:
    """Merge submodules as the commits that they are at; their files are nobody's here."""
    repository = update.disk.repository
    head = repository.commit("HEAD") if repository is not None else None
    if repository is None or head is None:
        return
    ours = repository.submodules(head)

    def at(source: Pristine) -> dict[str, str]:
        return repository.submodules(source.commit) if source.commit is not None else {}

    base, theirs = at(update.base.pristine), at(update.new)
    for path in sorted(ours.keys() | theirs.keys()):
        mine, new = ours.get(path), theirs.get(path)
        if mine == new or mine == base.get(path):
            continue
        update.submodules[path] = mine
        fate = (
            Fate.DELETED_BY_HAND
            if mine is None
            else Fate.ADDED_BY_HAND
            if new is None and path not in base
            else Fate.KEPT
        )
        reason = "a submodule"
        if new is not None and new != base.get(path):
            reason += f"; the new release has it at {new[:12]}"
        update.merge.outcomes.append(Outcome(path, fate, reason))


def _write_logs(tree: DiskTree, update: Update, *, with_base: bool) -> None:
    """Write the log and MIGRATION.md anew; what somebody added to that stays."""
    update.log, summary = with_summary(update.log)
    update.merge.puts[LOG_NAME] = Item(pretty_json(update.log))
    mine = tree.read(SUMMARY_NAME)
    if mine is None or digest(mine) == update.old.summary:
        update.merge.puts[SUMMARY_NAME] = Item(summary)
        return
    # As the tool would write it today: an older one may have said it in other words.
    before = make_summary(update.old).encode()
    done = merge_file(SUMMARY_NAME, before, mine, summary, with_base=with_base)
    update.merge.puts[SUMMARY_NAME] = Item(done.data)
    stages = (Item(before), Item(mine), Item(summary))
    fate = Fate.CONFLICT if done.conflicts else Fate.MERGED
    update.merge.outcomes.append(
        Outcome(
            SUMMARY_NAME,
            fate,
            "its text was edited by hand",
            None,
            done.conflicts,
            bool(done.conflicts),
            stages,
        )
    )


def stage_conflicts(update: Update, repository: Repository) -> None:
    """Put the conflicts into git's index, after the files were written."""
    repository.stage_conflicts(
        {
            outcome.path: [
                None if item is None else repository.store(outcome.path, item)
                for item in outcome.stages
            ]
            for outcome in update.merge.conflicts
        }
    )


def commit_update(update: Update, repository: Repository, root: Path) -> str:
    """Put the update on a branch of its own, in the checkout too.

    The branch starts at the new release: at its commit, where the repository has it, or else at
    one that imports it on top of the old release's. The rules' commits follow, and one more with
    what was changed by hand. Where that is in conflict, the last one is left to the user: it is in
    the index and on disk, conflicts as such.

    Returns:
        The branch's name.

    Raises:
        MigrateError: the branch exists, git knows no author, or a file cannot be written.
    """
    head = _ready(repository, root)
    name = commits.branch_name(repository, update.plan.release, update.new.commit or head)
    refuse_branch(repository, name)
    start = _start(update, repository, head)
    by_hand = [o for o in update.merge.outcomes if o.fate not in UPSTREAM]
    first, last = _logs(update, by_hand=bool(by_hand))
    commit = commits.commit_steps(repository, start, update.new.tree, update.plan, first)
    nodes = {**_by_hand_nodes(update, repository), **_file_nodes(repository, last)}
    conflicts = {outcome.path for outcome in update.merge.conflicts}
    # Those before the log are the rules' own.
    since = repository.added(LOG_NAME) or update.base.pristine.commit
    text = commits.hand_message(
        update.plan.label,
        repository.subjects(since, head) if since is not None else (),
        [outcome.path for outcome in by_hand],
    )
    if by_hand and not conflicts:
        written = repository.write_tree(commit, nodes)
        commit = repository.commit_tree(written, [commit], text)
    changes = update.changes_in_place(committed=True)
    with writer.deferred_signals():
        with repository.new_branch(name, commit):
            writer.change_in_place(root, changes)
        with after_writing(f"the files are written, and the branch {name} is made"):
            if conflicts:
                repository.stage({p: node for p, node in nodes.items() if p not in conflicts})
                stage_conflicts(update, repository)
                repository.prepare_message(text)
    return name


def _ready(repository: Repository, root: Path) -> str:
    """The commit that is checked out, where new ones can be made and the index replaced.

    Raises:
        MigrateError: there is none, something is staged, or git knows no author.
    """
    head = repository.commit("HEAD")
    if head is None:
        raise MigrateError(f"{root} has no commit yet; commit the source first")
    if repository.staged():
        raise MigrateError(f"the checkout of {root} has staged changes; commit them first")
    repository.check_identity()
    return head


def refuse_commit(repository: Repository, tree: DiskTree) -> None:
    """Raise where a first migration could not be put on its branch; this needs no plan.

    A tree that was migrated is let pass: nothing may be left to do.
    """
    if tree.exists(LOG_NAME):
        return
    head = _ready(repository, tree.root)
    refuse_branch(repository, commits.branch_name(repository, tree.label.release, head))


def refuse_branch(repository: Repository, name: str) -> None:
    """Raise where a branch exists already."""
    if repository.branch_exists(name):
        raise MigrateError(
            f"the branch {name} exists; rename it with `git branch -m`, or delete it, and try again"
        )


def _start(update: Update, repository: Repository, head: str) -> str:
    """The commit of the pristine new release, made if need be."""
    if update.new.commit is not None and not repository.prefix:
        return update.new.commit
    parent = head if repository.prefix else update.base.pristine.commit or head
    tree = repository.replace_tree(parent, repository.import_tree(update.new.tree))
    text = commits.import_message(update.plan.label, update.new.origin)
    return repository.commit_tree(tree, [parent], text)


def _logs(update: Update, *, by_hand: bool) -> tuple[Sequence[FileChange], Sequence[FileChange]]:
    """The logs of the last of the rules' commits, and those of the one with the hand's work."""
    final = [
        FileChange(path, None, item.data)
        for path in (SUMMARY_NAME, LOG_NAME)
        if (item := update.merge.puts.get(path)) is not None
    ]
    if not by_hand:
        return final, ()
    plain = [c for c in emitted_files(update.plan) if c.path in (SUMMARY_NAME, LOG_NAME)]
    return plain, final


def _file_nodes(repository: Repository, files: Sequence[FileChange]) -> dict[str, Node | None]:
    return {file.path: repository.store(file.path, Item(file.after)) for file in files}


def _by_hand_nodes(update: Update, repository: Repository) -> dict[str, Node | None]:
    """What the result has otherwise than the migrated release."""
    nodes: dict[str, Node | None] = {}
    for path, commit in update.submodules.items():
        nodes[path] = None if commit is None else Node(SUBMODULE, commit)
    own = {LOG_NAME, SUMMARY_NAME}
    paths = update.theirs.entries.keys() | update.ours.entries.keys() | update.merge.puts.keys()
    for path in paths - own:
        mine, upstream = update.result(path), update.theirs.item(path)
        if mine is None and upstream is not None:
            nodes[path] = None
        elif mine is not None and not mine.like(upstream):
            nodes[path] = repository.store(path, mine)
    return nodes


def commit_migration(
    repository: Repository, root: Path, tree: DiskTree, plan: Plan, changes: Sequence[FileChange]
) -> str:
    """Put a first migration on a branch of its own, one commit a rule, in the checkout too.

    Args:
        repository: the checkout around the tree; it has to be clean.
        root: directory of the tree.
        tree: the source.
        plan: its migration.
        changes: everything that the migration writes.

    Returns:
        The branch's name.
    """
    head = _ready(repository, root)
    name = commits.branch_name(repository, plan.release, head)
    refuse_branch(repository, name)
    logs = [change for change in changes if change.path in (LOG_NAME, SUMMARY_NAME)]
    commit = commits.commit_steps(repository, head, tree, plan, logs)
    on_disk = Disk(repository).forms(changes)
    with writer.deferred_signals(), repository.new_branch(name, commit):
        writer.change_in_place(root, on_disk)
    return name
