# SPDX-License-Identifier: Apache-2.0
"""`vllm-npu-migrate apply`: write the adapted tree."""

from __future__ import annotations

import os
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import click

from migrator.cli import common
from migrator.messages.errors import MigrateError, after_writing

if TYPE_CHECKING:
    from migrator.api.writing import ApplyResult, Layout
    from migrator.files.tree import Label, Tree
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
    layout: Layout,
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
    from migrator.api.writing import apply
    from migrator.messages.wording import Tense

    if dry_run:
        _show(src, output, layout, output_format, planning, in_place=in_place or commit)
    known = common.settings(Path.cwd())
    tense = Tense.PAST

    def planned(tree: Tree) -> Plan:
        plan = common.make_plan(tree, known, planning)
        if plan.missing:
            common.tell(plan, tense, planning)
        return plan

    done = apply(
        common.opened(src, known, planning),
        output,
        plan=planned,
        layout=layout,
        in_place=in_place,
        commit=commit,
        force=force,
        tell=lambda sentence: click.echo(sentence, err=True),
    )
    in_place = in_place or commit
    plan, target = done.plan, done.target
    with after_writing("the tree is written"):
        output_format = common.format_of(output_format, known)
        common.print_plan(plan, output_format, tense, target)
        said, following = _said(done, src, in_place=in_place), None
        if layout == "tree":
            following = common.command_line("verify", target)
        common.tell(plan, tense, planning, said=said, following=following)
    common.finish(plan, pending_counts=False)


def _show(
    src: str,
    output: Path | None,
    layout: Layout,
    output_format: str | None,
    planning: common.Planning,
    *,
    in_place: bool,
) -> NoReturn:
    """Print what would be done, and exit."""
    from migrator.api.plans import refuse_missing
    from migrator.api.writing import refuse_options
    from migrator.cli.diff import print_patch
    from migrator.messages.wording import Tense
    from migrator.reports.log import emitted_files

    refuse_options(output, layout, in_place=in_place)
    if layout == "plugin":
        raise MigrateError("--layout plugin writes new files only; use it with -o DIR")
    known = common.settings(Path.cwd())
    source = common.opened(src, known, planning)
    plan = common.make_plan(source.tree, known, planning)
    following = common.command_line("apply", src) if plan.pending else None
    common.tell(plan, Tense.WOULD, planning, following=following)
    refuse_missing(plan)
    output_format = common.format_of(output_format, known)
    print_patch(plan, emitted_files(plan), output_format, source.tree.root)
    common.finish(plan, pending_counts=True)


def _said(done: ApplyResult, src: str, *, in_place: bool) -> list[str]:
    """The lines to be said of what was written."""
    target = done.target
    if done.layout == "plugin":
        return _said_of_plugin(target, done.plan.label)
    places = [f"Adapted tree: {target}", f"Log: {done.log}"]
    if not done.changes:
        nothing = f"Nothing to do: {target} is migrated."
        return [nothing if in_place else f"Nothing to change: {target} is a copy of {src}."]
    return places if done.branch is None else [*places, f"Branch: {done.branch}"]


def _said_of_plugin(target: Path, label: Label) -> list[str]:
    """The lines to be said of a plugin, and what to do with it."""
    pinned = (
        f"It asks for vllm=={label.release}, which it was made from."
        if label.release is not None
        else f"It was made from {label}: it asks for no version, and refuses by function."
    )
    # To pip, what has no slash is a name, which it would fetch from the package index.
    place = str(target) if os.sep in str(target) else f".{os.sep}{target}"
    return [f"Plugin: {target}", pinned, f"Next, beside vLLM: pip install {shlex.quote(place)}"]
