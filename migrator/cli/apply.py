# SPDX-License-Identifier: Apache-2.0
"""`vllm-npu-migrate apply`: write the adapted tree."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from migrator.cli import common, targets
from migrator.cli.diff import print_patch
from migrator.errors import MigrateError

if TYPE_CHECKING:
    from migrator.tree import DiskTree


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
    help="In place, on a branch feat/ascend-npu-adapt-v<release>, one commit a rule.",
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

    Exit code 0: done; 1: sites are left for a person, or --dry-run and there are changes; 2: error.
    """
    from migrator import writer
    from migrator.cli.plugin import tell, write_plugin
    from migrator.log import emitted_files
    from migrator.report import render
    from migrator.sources import open_source
    from migrator.tree import LOG_NAME
    from migrator.words import Tense

    in_place = in_place or commit
    if output is not None and in_place:
        raise MigrateError("-o and --in-place exclude each other; give one of them")
    if layout == "plugin" and (in_place or dry_run):
        raise MigrateError("--layout plugin writes new files only; use it with -o DIR")
    source = open_source(src)
    if in_place and not Path(src).is_dir():
        raise MigrateError(f"--in-place would change the cached source of {src}; use -o DIR")
    if in_place and not dry_run:
        click.get_current_context().with_resource(writer.locked(source.tree.root))
        if writer.recover(source.tree.root):
            click.echo("Finished what an interrupted run had begun.", err=True)
        if commit or not force:
            targets.refuse_unclean(source.tree.root, forcible=not commit)
    known = common.settings(Path.cwd())
    tense = Tense.WOULD if dry_run else Tense.PAST
    plan = common.plan_for(source.tree, known, tense, planning)
    output_format = output_format or known.get("format", "text")
    common.refuse_missing(plan)
    if layout == "plugin":
        default = source.default_output.with_name(f"{source.default_output.name}-plugin")
        target = output if output is not None else default
        write_plugin(plan, source.tree, target, force=force)
        text = render(plan, output_format, tense)
        if text is not None:
            click.echo(text, nl=False)
        if not planning.quiet:
            tell(target)
        common.finish(plan, pending_counts=False)
    changes = emitted_files(plan)
    if dry_run:
        print_patch(plan, changes, output_format)
        common.finish(plan, pending_counts=True)
    branch = None
    if in_place:
        target = source.tree.root
        if changes and commit:
            from migrator.update.git import Repository
            from migrator.update.run import commit_migration

            branch = commit_migration(Repository(target), target, source.tree, plan, changes)
        elif changes:
            writer.change_in_place(target, changes)
    else:
        target = output if output is not None else source.default_output
        _refuse_target(source.tree, target, force=force)
        writer.write_tree(source.tree, changes, target, replace=target.exists())
    text = render(plan, output_format, tense)
    if text is not None:
        click.echo(text, nl=False)
    if not planning.quiet:
        if changes:
            click.echo(f"Adapted tree: {target}\nLog: {target / LOG_NAME}", err=True)
            if branch is not None:
                click.echo(f"Branch: {branch}", err=True)
        elif in_place:
            click.echo(f"Nothing to do: {target} is migrated.", err=True)
        else:
            click.echo(f"Nothing to change: {target} is a copy of {src}.", err=True)
    common.finish(plan, pending_counts=False)


def _refuse_target(tree: DiskTree, target: Path, *, force: bool) -> None:
    """Raise where writing `target` would lose something that is not this tool's output."""
    from migrator.log import edited_since, read_log
    from migrator.tree import LOG_NAME, DiskTree

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
