# SPDX-License-Identifier: Apache-2.0
"""An adapted tree brought to the next release, with what people changed by hand."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from migrator.api import targets
from migrator.messages.errors import MigrateError, after_writing

if TYPE_CHECKING:
    from migrator.files.tree import DiskTree, Tree
    from migrator.planning.cache import Cache
    from migrator.planning.plan import Plan
    from migrator.reports.log import Log
    from migrator.updating.base import Pristine
    from migrator.updating.git import Repository
    from migrator.updating.run import Update
    from migrator.updating.trees import Outcome


@dataclass(frozen=True, slots=True)
class UpdateResult:
    """What became of a tree."""

    target: Path
    """The updated tree."""
    update: Update
    written: bool
    """False where nothing was to be done, or nothing was to be written."""
    branch: str | None = None
    """The branch that has it: one commit a rule, and one for what was changed by hand."""
    in_git: bool = False
    """Do git's index and `git mergetool` know the conflicts?"""

    @property
    def plan(self) -> Plan:
        """The migration of the new release."""
        return self.update.plan

    @property
    def conflicts(self) -> list[Outcome]:
        """Files that were changed on both sides in a way that a person has to put together."""
        return self.update.merge.conflicts


def update(
    tree: str | os.PathLike[str],
    new: str | os.PathLike[str],
    output: str | os.PathLike[str] | None = None,
    *,
    plan: Callable[[Tree], Plan] | None = None,
    base: str | None = None,
    in_place: bool = False,
    commit: bool = False,
    dry_run: bool = False,
    diff3: bool = False,
    force: bool = False,
    jobs: int | None = None,
    cache: Cache | bool = True,
    release: str | None = None,
    merged: Callable[[Update], None] | None = None,
    tell: Callable[[str], None] | None = None,
) -> UpdateResult:
    """Bring an adapted tree to the next release, and keep what was changed by hand.

    Args:
        tree: the adapted tree.
        new: the next release: a directory, `vllm==0.12.0`, or a commit of the tree's repository.
        output: directory for the result; None: the new release's name with -npu.
        plan: what makes the plan of the new release; None: by all rules.
        base: what `tree` was made from; None: by git's history, or the recorded release.
        in_place: change the tree itself; it has to be a clean git checkout.
        commit: in place, on a branch of its own.
        dry_run: write nothing.
        diff3: show the old release's lines in conflicts too.
        force: replace an edited output, or change a checkout that is not clean.
        jobs: processes to use; None: one for each processor.
        cache: take plans of earlier runs if they hold, and keep these.
        release: what to call a new tree that does not say itself which release it is.
        merged: called with what is going to be done before anything is written.
        tell: called with a sentence on what else was done.

    Raises:
        MigrateError: nothing was written, and why; `UnfinishedError`: after something was.
    """
    from migrator.api import plans
    from migrator.api.sources import name_release
    from migrator.files import writer
    from migrator.files.sources import open_source, requested_release
    from migrator.updating import run
    from migrator.updating.base import open_tree
    from migrator.updating.git import Repository

    in_place = in_place or commit
    if output is not None and in_place:
        raise MigrateError("-o and --in-place exclude each other; give one of them")
    new = os.fspath(new)
    ours = open_source(os.fspath(tree)).tree
    repository = Repository.around(ours.root)
    if commit and repository is None:
        raise MigrateError(
            f"no git checkout has the files of {tree}, so there is nothing to commit to; "
            "commit them first, or leave --commit out"
        )
    with contextlib.ExitStack() as stack:
        if in_place and not dry_run:
            stack.enter_context(writer.locked(ours.root))
            if writer.recover(ours.root) and tell is not None:
                tell("Finished what an interrupted run had begun.")
        old = run.read_adapted(ours, repository)
        if in_place and not dry_run and (commit or not force):
            targets.refuse_unclean(ours.root, forcible=not commit)
        pristine = open_tree(new, repository)
        name_release(pristine.tree, release, requested_release(new))
        if in_place:
            target = ours.root
        else:
            target = Path(output) if output is not None else _default_output(pristine, new)
        kept = plans.opened_cache(cache)
        if plan is None:

            def plan(tree: Tree) -> Plan:
                return plans.plan(tree, jobs=jobs, cache=kept or False, release=release)

        jobs = jobs or plans.processors()
        done = _merge(ours, old, repository, pristine, base, plan, jobs, kept, diff3=diff3)
        if merged is not None:
            merged(done)
        branch = None
        if dry_run:
            written = False
        elif in_place:
            written = not done.nothing_to_do
            branch = _write_in_place(done, repository, target, commit=commit)
        else:
            written = True
            _write(done, ours, target, force=force)
    return UpdateResult(target, done, written, branch, repository is not None and in_place)


def _merge(
    ours: DiskTree,
    old: Log,
    repository: Repository | None,
    new: Pristine,
    base: str | None,
    planner: Callable[[Tree], Plan],
    jobs: int,
    cache: Cache | None,
    *,
    diff3: bool,
) -> Update:
    from migrator.api.plans import refuse_missing
    from migrator.updating import run
    from migrator.updating.base import find_pristine, make_base
    from migrator.updating.trees import Version

    pristine = find_pristine(ours.root, old, repository, base, new)
    made = make_base(pristine, old, Version(ours), repository, jobs=jobs, results=cache)
    plan = planner(new.tree)
    refuse_missing(plan)
    sources = made.version.entries.keys() | {e.path for e in new.tree.entries()}
    disk = run.Disk(repository)
    hidden: set[str] = set()
    if repository is not None:
        hidden = repository.ignored() - sources
        hidden |= {entry.path for entry in ours.entries() if entry.foreign}
    mine = Version(ours, leave_out=hidden)
    for path, item in disk.sparse.items():
        mine.add(path, item)
    return run.plan_update(ours, mine, old, made, new, plan, disk, with_base=diff3)


def _default_output(new: Pristine, new_src: str) -> Path:
    from migrator.files.sources import open_source

    if Path(new_src).is_dir() or new.commit is None:
        return open_source(new_src).default_output
    return Path.cwd() / f"vllm-{new.tree.label.release or new.commit[:12]}-npu"


def _write(update: Update, ours: DiskTree, target: Path, *, force: bool) -> None:
    from migrator.files import writer
    from migrator.files.tree import LOG_NAME

    there = targets.is_taken(target, ours.root, what="tree")
    if there and not force:
        raise MigrateError(f"{target} is there; choose another -o, or --force to replace it")
    if there and not (target / LOG_NAME).is_file():
        raise MigrateError(
            f"{target} is there and was not made by this tool; choose another -o or remove it"
        )
    writer.write_tree(ours, update.changes(), target, replace=target.exists())


def _write_in_place(
    update: Update, repository: Repository | None, root: Path, *, commit: bool
) -> str | None:
    """Change the tree itself; the branch that it is on then, if one was made."""
    from migrator.files import writer
    from migrator.updating.run import commit_update, stage_conflicts

    if update.nothing_to_do:
        return None
    if commit:
        assert repository is not None
        return commit_update(update, repository, root)
    changes = update.changes_in_place(committed=False)
    with writer.deferred_signals():
        writer.change_in_place(root, changes)
        if update.merge.conflicts and repository is not None:
            with after_writing("the files are written"):
                stage_conflicts(update, repository)
    return None
