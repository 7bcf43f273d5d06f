# SPDX-License-Identifier: Apache-2.0
"""A plan written: as a tree, as a plugin, or into the source itself."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from migrator.api import targets
from migrator.messages.errors import MigrateError

if TYPE_CHECKING:
    from migrator.files.changes import FileChange
    from migrator.files.sources import Source
    from migrator.files.tree import DiskTree, Tree
    from migrator.planning.plan import Plan

Layout = Literal["tree", "plugin"]


@dataclass(frozen=True, slots=True)
class ApplyResult:
    """What was written, and where."""

    target: Path
    """The adapted tree, or the plugin."""
    layout: Layout
    plan: Plan
    changes: tuple[FileChange, ...]
    """Files that the adapted tree has otherwise than the source, MIGRATION.md and the log too;
    none where there was nothing to do."""
    branch: str | None = None
    """The branch that has it, one commit a rule."""

    @property
    def log(self) -> Path:
        """Where the log is."""
        from migrator.files.tree import LOG_NAME

        return self.target / LOG_NAME


def apply(
    source: Source | str | os.PathLike[str],
    output: str | os.PathLike[str] | None = None,
    *,
    plan: Plan | Callable[[Tree], Plan] | None = None,
    layout: Layout = "tree",
    in_place: bool = False,
    commit: bool = False,
    force: bool = False,
    tell: Callable[[str], None] | None = None,
) -> ApplyResult:
    """Write the adapted tree of a source. What can be refused is refused before there is a plan.

    Args:
        source: what `open` gave, or what it takes.
        output: directory to write; None: the source's name with -npu or -npu-plugin.
        plan: the source's plan, or what makes it; None: by all rules.
        layout: a whole tree, or a package to install beside an untouched vLLM.
        in_place: change the source itself; it has to be a clean git checkout.
        commit: in place, on a branch of its own, one commit a rule.
        force: replace an edited output, or change a checkout that is not clean.
        tell: called with a sentence on what else was done.

    Raises:
        MigrateError: nothing was written, and why; `UnfinishedError`: after something was.
    """
    from migrator.api import plans, sources
    from migrator.api.plugin import refuse_plugin_target, write_plugin
    from migrator.files.sources import Source
    from migrator.reports.log import emitted_files

    in_place = in_place or commit
    refuse_options(output, layout, in_place=in_place)
    opened = source if isinstance(source, Source) else sources.open(source)
    tree = opened.tree
    if in_place and opened.fetched is not None:
        raise MigrateError(
            f"--in-place would change the cached source of {opened.fetched}; use -o DIR"
        )
    target = tree.root if in_place else Path(output or opened.default_output)
    if layout == "plugin" and output is None:
        target = target.with_name(f"{target.name}-plugin")
    with contextlib.ExitStack() as stack:
        if in_place:
            _begin_in_place(stack, tree, force=force, commit=commit, tell=tell)
        elif layout == "plugin":
            refuse_plugin_target(tree, target, force=force)
        else:
            _refuse_target(tree, target, force=force)
        if plan is None:
            plan = plans.plan(opened)
        elif callable(plan):
            plan = plan(tree)
        plans.refuse_missing(plan)
        changes = tuple(emitted_files(plan))
        branch = None
        if layout == "plugin":
            write_plugin(plan, tree, target, force=force)
        elif in_place:
            branch = _change(tree, plan, changes, commit=commit)
        else:
            from migrator.files import writer

            _refuse_target(tree, target, force=force)
            writer.write_tree(tree, changes, target, replace=target.exists())
    return ApplyResult(target, layout, plan, changes, branch)


def refuse_options(
    output: str | os.PathLike[str] | None, layout: Layout, *, in_place: bool
) -> None:
    """Raise for what cannot be asked for at once."""
    if output is not None and in_place:
        raise MigrateError("-o and --in-place exclude each other; give one of them")
    if layout == "plugin" and in_place:
        raise MigrateError("--layout plugin writes new files only; use it with -o DIR")


def _begin_in_place(
    stack: contextlib.ExitStack,
    tree: DiskTree,
    *,
    force: bool,
    commit: bool,
    tell: Callable[[str], None] | None,
) -> None:
    """Keep other runs off the tree for as long as this one goes on, and see that it is clean."""
    from migrator.files import writer

    root = tree.root
    stack.enter_context(writer.locked(root))
    if writer.recover(root) and tell is not None:
        tell("Finished what an interrupted run had begun.")
    if commit or not force:
        targets.refuse_unclean(root, forcible=not commit)
    if commit:
        from migrator.updating.git import Repository
        from migrator.updating.run import refuse_commit

        refuse_commit(Repository(root), tree)


def _change(
    tree: DiskTree, plan: Plan, changes: tuple[FileChange, ...], *, commit: bool
) -> str | None:
    """Change a tree in place; the branch that it is on then, if one was made."""
    from migrator.files import writer
    from migrator.updating.git import Repository
    from migrator.updating.run import Disk, commit_migration

    if not changes:
        return None
    if commit:
        return commit_migration(Repository(tree.root), tree.root, tree, plan, changes)
    on_disk = Disk(Repository.around(tree.root)).forms(changes)
    writer.change_in_place(tree.root, on_disk)
    return None


def _refuse_target(tree: DiskTree, target: Path, *, force: bool) -> None:
    """Raise where writing `target` would lose something that is not this tool's output."""
    from migrator.files.tree import LOG_NAME, DiskTree
    from migrator.reports.log import edited_since, read_log

    if not targets.is_taken(target, tree.root):
        return
    there = DiskTree(target)
    data = there.read(LOG_NAME)
    if data is None:
        raise MigrateError(
            f"{target} is there and was not made by this tool; choose another -o or remove it"
        )
    if not force:
        targets.refuse_lost(target, edited_since(tree, there, read_log(data)))
