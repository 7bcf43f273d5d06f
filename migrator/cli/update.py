# SPDX-License-Identifier: Apache-2.0
"""`vllm-npu-migrate update`: the next release, with what people changed by hand."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from migrator.cli import common
from migrator.messages.errors import after_writing
from migrator.messages.escaping import terminal
from migrator.messages.wording import counted

if TYPE_CHECKING:
    from migrator.api.updates import UpdateResult
    from migrator.updating.run import Update


@click.command("update")
@click.argument("tree", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.argument("new_src")
@click.option(
    "--output",
    "-o",
    type=click.Path(path_type=Path),
    help="Directory for the updated tree [default: NEW_SRC's name with -npu].",
)
@click.option("--in-place", is_flag=True, help="Change TREE itself; it wants a clean git checkout.")
@click.option(
    "--commit",
    is_flag=True,
    help="In place, on a branch of its own: one commit a rule, and one for what is by hand.",
)
@click.option(
    "--base",
    metavar="OLD_SRC",
    help="What TREE was made from [default: by git's history, or the recorded release].",
)
@click.option("--dry-run", is_flag=True, help="Say what would become of each file; write nothing.")
@click.option("--diff3", is_flag=True, help="Show the old release's lines in conflicts too.")
@click.option("--force", is_flag=True, help="Replace an edited output, or an unclean checkout.")
@click.option(
    "--format",
    "output_format",
    type=click.Choice(["text", "json"]),
    default="text",
    help="What is printed on stdout beside the table on stderr.",
)
@common.planning_options
@common.command
def command(
    tree: Path,
    new_src: str,
    output: Path | None,
    in_place: bool,
    commit: bool,
    base: str | None,
    dry_run: bool,
    diff3: bool,
    force: bool,
    output_format: str,
    planning: common.Planning,
) -> None:
    """Bring the adapted tree TREE to the release NEW_SRC, and keep what was changed by hand.

    NEW_SRC is a checkout, an unpacked source archive, a release such as vllm==0.12.0, or a commit
    of the git repository that TREE is in, such as v0.12.0. Files that both sides changed are
    merged; what cannot be merged is left in the file between git's markers. Exit code 0: done; 1:
    there are conflicts, or sites for a person; 2: error, and nothing was written; 3: an error after
    something was: the message says what to do.
    """
    from migrator.api.updates import update
    from migrator.messages.wording import Tense
    from migrator.updating.report import print_report, render

    known = common.settings(Path.cwd())

    def show(found: Update) -> None:
        if not planning.quiet:
            print_report(common.stderr_console(), found, verbose=planning.verbose)

    done = update(
        tree,
        new_src,
        output,
        plan=lambda new: common.plan_for(new, known, Tense.PAST, planning),
        base=base,
        in_place=in_place,
        commit=commit,
        dry_run=dry_run,
        diff3=diff3,
        force=force,
        jobs=common.processes(planning, known),
        cache=common.plan_cache(known) or False,
        release=planning.release,
        merged=show,
        tell=lambda sentence: click.echo(sentence, err=True),
    )
    telling = contextlib.nullcontext() if dry_run else after_writing("the tree is written")
    with telling:
        if output_format == "json":
            click.echo(render(done.update), nl=False)
        if not planning.quiet:
            for line in _said(done, dry_run=dry_run):
                click.echo(terminal(line), err=True)
    left = done.conflicts or done.plan.left_for_a_person
    sys.exit(common.PENDING if left else common.DONE)


def _said(done: UpdateResult, *, dry_run: bool) -> list[str]:
    """The lines to be said of what was written."""
    from migrator.files.tree import LOG_NAME

    if dry_run:
        return ["Nothing was written."]
    if done.written:
        said = [f"Updated tree: {done.target}"]
        said.append(f"Branch: {done.branch}" if done.branch else f"Log: {done.target / LOG_NAME}")
    else:
        said = [f"Nothing to do: {done.target} is made from {done.update.new.origin} already."]
    if done.conflicts:
        said.append(_what_next(done))
    return said


def _what_next(done: UpdateResult) -> str:
    count = len(done.conflicts)
    files = f"{counted(count, 'file')} {'is' if count == 1 else 'are'}"
    how = (
        "`git status` lists them, `git mergetool` helps; `git add` what is resolved"
        if done.in_git
        else "they are listed above, and in MIGRATION.md"
    )
    return f"{files} in conflict: {how}."
