# SPDX-License-Identifier: Apache-2.0
"""`vllm-npu-migrate check`: is a tree migrated?"""

from __future__ import annotations

from pathlib import Path

import click

from migrator.cli import common


@click.command("check", short_help="Say for each rule whether a tree is migrated.")
@click.argument("tree", type=click.Path(exists=True, file_okay=False, path_type=Path))
@common.format_option
@common.planning_options
@common.command
def command(
    tree: Path,
    output_format: str | None,
    select: tuple[str, ...],
    ignore: tuple[str, ...],
    jobs: int | None,
    quiet: bool,
    verbose: bool,
) -> None:
    """Say for each rule whether TREE is migrated; exit code 1 where anything is pending."""
    from migrator.report import Tense, render
    from migrator.sources import open_source

    source = open_source(str(tree))
    known = common.settings(Path.cwd())
    tense = Tense.PENDING
    plan = common.plan_for(source.tree, known, tense, select, ignore, jobs, quiet, verbose)
    output_format = output_format or known.get("format", "text")
    text = render(plan, output_format, tense)
    if text is not None:
        click.echo(text, nl=False)
    common.refuse_missing(plan)
    common.finish(plan, pending_counts=True)
