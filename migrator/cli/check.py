# SPDX-License-Identifier: Apache-2.0
"""`vllm-npu-migrate check`: is a tree migrated, and do the rules still find their sites in it?"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from migrator.cli import common
from migrator.messages.escaping import terminal

if TYPE_CHECKING:
    from migrator.files.sources import Source
    from migrator.liveness import Column


@click.command("check")
@click.argument("tree", metavar="TREE")
@click.argument("more", nargs=-1, metavar="[RELEASE]...")
@click.option(
    "--against",
    multiple=True,
    metavar="RELEASE...",
    help="Compare what each rule finds with these releases, such as 0.32.0, or with other trees.",
)
@common.format_option
@common.planning_options
@common.command
def command(
    tree: str,
    more: tuple[str, ...],
    against: tuple[str, ...],
    output_format: str | None,
    planning: common.Planning,
) -> None:
    """Say for each rule whether TREE is migrated; exit code 1 where anything is pending.

    With --against, say instead whether the rules still find their sites: TREE and the releases are
    put in order, and each is compared with the one before it. A rule that found sites and finds
    none any more is an error (exit code 2), unless it says itself that the release has none; a site
    that is not as it was and may need the rule to change is for a person (exit code 1).
    """
    from migrator.api.plans import refuse_missing
    from migrator.files.sources import open_source
    from migrator.messages.github import within_repository
    from migrator.messages.wording import Tense

    if more and not against:
        raise click.UsageError(f"unexpected argument {more[0]}; to compare releases: --against")
    known = common.settings(Path.cwd())
    source = common.opened(tree, known, planning)
    output_format = common.format_of(output_format, known)
    if against:
        names = [name for text in (*against, *more) for name in text.split(",") if name]
        others = [open_source(_spelled_out(name)) for name in names]
        # Of trees of one release the one that is asked about counts as the later.
        sources = [*others, source]

        def column(name: str, one: Source) -> Column:
            from migrator.liveness import Column
            from migrator.reports.log import with_earlier

            if not planning.quiet:
                click.echo(terminal(f"planning {name}"), err=True)
            plan = common.make_plan(one.tree, known, replace(planning, quiet=True))
            return Column(name, one.tree, with_earlier(plan, one.tree))

        labels = _labels(sources, [*names, tree])
        columns = [column(name, one) for name, one in zip(labels, sources, strict=True)]
        within = within_repository(source.tree.root)
        _compare(columns, output_format, within, quiet=planning.quiet, verbose=planning.verbose)
    tense = Tense.PENDING
    plan = common.make_plan(source.tree, known, planning)
    following = common.command_line("apply", tree) if plan.pending else None
    common.tell(plan, tense, planning, following=following)
    common.print_plan(plan, output_format, tense, source.tree.root)
    refuse_missing(plan)
    common.finish(plan, pending_counts=True)


def _spelled_out(name: str) -> str:
    """A bare version as a release; a directory is taken as it is."""
    return f"vllm=={name}" if name[:1].isdigit() and not Path(name).is_dir() else name


def _labels(sources: Sequence[Source], names: Sequence[str]) -> list[str]:
    """What the columns are called: a release by its number, a tree by its name; no two alike."""
    labels: list[str] = []
    for source, name in zip(sources, names, strict=True):
        release = source.tree.label.release
        label = release if release is not None and not Path(name).is_dir() else source.tree.name
        while label in labels:
            label += "'"
        labels.append(label)
    return labels


def _compare(
    columns: Sequence[Column], output_format: str, within: str, *, quiet: bool, verbose: bool
) -> None:
    """Print the comparison, and exit with the code that it calls for."""
    from migrator.liveness import Level, compare_all
    from migrator.liveness.render import annotated, place, print_table, render

    liveness = compare_all(columns)
    if not quiet:
        print_table(common.stderr_console(), liveness, verbose=verbose)
    if output_format == "github":
        common.annotate(annotated(liveness), within)
    elif (text := render(liveness, output_format, within)) is not None:
        click.echo(text, nl=False)
    worst = liveness.worst()
    if quiet and worst is Level.ERROR:
        for finding in liveness.findings:
            if finding.level is Level.ERROR:
                said = terminal(f"Error: {place(finding)}: {finding.describe()}")
                click.echo(said, err=True)
    codes = {Level.ERROR: common.ERROR, Level.WARNING: common.PENDING}
    sys.exit(codes.get(worst, common.DONE) if worst is not None else common.DONE)
