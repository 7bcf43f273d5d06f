# SPDX-License-Identifier: Apache-2.0
"""`vllm-npu-migrate apply`: write the adapted tree."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from migrator.cli import common, targets
from migrator.cli.diff import print_patch
from migrator.messages.errors import MigrateError, after_writing

if TYPE_CHECKING:
    from migrator.files.tree import DiskTree
    from migrator.planning.plan import Plan


@click.command("apply")
@click.argument("src")
@click.option(
    "--output",
    "-o",
    type=click.Path(path_type=Path),
    help="Directory to write [default: SRC's name with -npu or -npu-plugin, beside it].",
)
@click.option(
    "--layout",
    type=click.Choice(["tree", "plugin"]),
    default="tree",
    show_default=True,
    help="A whole adapted tree, or a package to install beside an untouched vLLM.",
)
@click.option("--in-place", is_flag=True, help="Change SRC itself; it wants a clean git checkout.")
@click.option(
    "--commit",
    is_flag=True,
    help="In place, on a branch feat/ascend-npu-adapt-v<release>, one commit a rule; "
    "-<commit> for a tree that is no release.",
)
@click.option("--dry-run", is_flag=True, help="Print the patch instead of writing anything.")
@click.option("--force", is_flag=True, help="Replace an edited output, or an unclean checkout.")
@common.format_option
@common.planning_options
@common.command
def command(
    src: str,
    output: Path | None,
    layout: str,
    in_place: bool,
    commit: bool,
    dry_run: bool,
    force: bool,
    output_format: str | None,
    planning: common.Planning,
) -> None:
    """Adapt the vLLM tree SRC to Ascend NPUs.

    SRC is a checkout, an unpacked source archive, or a release such as vllm==0.11.0, which is
    fetched by name. The adapted tree goes to a directory of its own, with MIGRATION.md and
    migration-log.json in it. With --layout plugin, a package to install beside an untouched vLLM
    is written instead.

    Exit code 0: done; 1: sites are left for a person, or --dry-run and there are changes; 2: error,
    and nothing was written; 3: an error after something was: the message says what to do.
    """
    from migrator.cli.plugin import refuse_plugin_target, what_was_written, write_plugin
    from migrator.messages.wording import Tense
    from migrator.reports.log import emitted_files

    in_place = in_place or commit
    if output is not None and in_place:
        raise MigrateError("-o and --in-place exclude each other; give one of them")
    if layout == "plugin" and (in_place or dry_run):
        raise MigrateError("--layout plugin writes new files only; use it with -o DIR")
    known = common.settings(Path.cwd())
    source = common.opened(src, known, planning)
    if in_place and not Path(src).is_dir():
        raise MigrateError(f"--in-place would change the cached source of {src}; use -o DIR")
    target = output if output is not None else source.default_output
    if layout == "plugin" and output is None:
        target = target.with_name(f"{target.name}-plugin")
    # What can be refused without a plan is refused before there is one.
    if in_place and not dry_run:
        _begin_in_place(source.tree, force=force, commit=commit)
    elif layout == "plugin":
        refuse_plugin_target(source.tree, target, force=force)
    elif not dry_run:
        _refuse_target(source.tree, target, force=force)
    tense = Tense.WOULD if dry_run else Tense.PAST
    plan = common.make_plan(source.tree, known, planning)
    output_format = common.format_of(output_format, known)
    if dry_run or plan.missing:
        following = common.command_line("apply", src) if plan.pending else None
        common.tell(plan, tense, planning, following=following)
    common.refuse_missing(plan)
    if dry_run:
        print_patch(plan, emitted_files(plan), output_format, source.tree.root)
        common.finish(plan, pending_counts=True)
    if layout == "plugin":
        write_plugin(plan, source.tree, target, force=force)
        said, following = what_was_written(target, plan.label), None
    elif in_place:
        said = _change(source.tree, plan, commit=commit)
        following = common.command_line("verify", source.tree.root)
    else:
        said = _write(source.tree, plan, target, src, force=force)
        following = common.command_line("verify", target)
    with after_writing("the tree is written"):
        common.print_plan(plan, output_format, tense, source.tree.root if in_place else target)
        common.tell(plan, tense, planning, said=said, following=following)
    common.finish(plan, pending_counts=False)


def _begin_in_place(tree: DiskTree, *, force: bool, commit: bool) -> None:
    """Keep other runs off the tree for as long as this one goes on, and see that it is clean."""
    from migrator.files import writer

    root = tree.root
    click.get_current_context().with_resource(writer.locked(root))
    if writer.recover(root):
        click.echo("Finished what an interrupted run had begun.", err=True)
    if commit or not force:
        targets.refuse_unclean(root, forcible=not commit)
    if commit:
        from migrator.update.git import Repository
        from migrator.update.run import refuse_commit

        refuse_commit(Repository(root), tree)


def _change(tree: DiskTree, plan: Plan, *, commit: bool) -> list[str]:
    """Change a tree in place; the lines to be said of it."""
    from migrator.files import writer
    from migrator.reports.log import emitted_files

    changes = emitted_files(plan)
    if not changes:
        return [f"Nothing to do: {tree.root} is migrated."]
    from migrator.update.git import Repository
    from migrator.update.run import Disk, commit_migration

    if not commit:
        on_disk = Disk(Repository.around(tree.root)).forms(changes)
        writer.change_in_place(tree.root, on_disk)
        return _places(tree.root)
    branch = commit_migration(Repository(tree.root), tree.root, tree, plan, changes)
    return [*_places(tree.root), f"Branch: {branch}"]


def _write(tree: DiskTree, plan: Plan, target: Path, src: str, *, force: bool) -> list[str]:
    """Write the adapted tree; the lines to be said of it."""
    from migrator.files import writer
    from migrator.reports.log import emitted_files

    changes = emitted_files(plan)
    _refuse_target(tree, target, force=force)
    writer.write_tree(tree, changes, target, replace=target.exists())
    return _places(target) if changes else [f"Nothing to change: {target} is a copy of {src}."]


def _places(target: Path) -> list[str]:
    from migrator.files.tree import LOG_NAME

    return [f"Adapted tree: {target}", f"Log: {target / LOG_NAME}"]


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
