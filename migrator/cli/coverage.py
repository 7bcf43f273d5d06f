# SPDX-License-Identifier: Apache-2.0
"""`vllm-npu-migrate coverage`: code made for another accelerator that no rule claims."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from migrator.cli import common
from migrator.messages.escaping import terminal


@click.command("coverage")
@click.argument("source", metavar="SRC")
@click.option(
    "--since", metavar="OLD_SRC", help="List only what this older tree or release does not have."
)
@click.option(
    "--show",
    multiple=True,
    type=click.Choice(("reachable", "guarded", "unreachable", "all")),
    default=("reachable",),
    show_default=True,
    help="Which sites are listed as text and as annotations; JSON and SARIF hold all.",
)
@common.format_option
@common.planning_options
@common.command
def command(
    source: str,
    since: str | None,
    show: tuple[str, ...],
    output_format: str | None,
    planning: common.Planning,
) -> None:
    """List the accelerator-specific code of SRC that no rule claims.

    SRC is a directory or a release such as vllm==0.33.0. Each site is listed with its function,
    with whether an NPU comes to it (reachable; guarded by a condition that is false on an NPU;
    unreachable), with how much work it is, and with the reasons. What is reachable is told by a
    static graph of imports and calls, which leans to saying too much. What the selected rules
    change, or leave alone for a reason, is counted and not listed.

    With --since, code that was moved is not new; exit code 1 where something new is reachable.
    """
    from migrator.api.sources import name_release
    from migrator.coverage import Grade, survey
    from migrator.coverage.render import annotated, render
    from migrator.files.sources import open_source, requested_release
    from migrator.messages.github import within_repository
    from migrator.rules import all_rules

    known = common.settings(Path.cwd())
    tree = open_source(source).tree
    name_release(tree, planning.release, requested_release(source))
    older = open_source(since).tree if since is not None else None
    if not planning.quiet:
        names = tree.name if older is None else f"{tree.name} and {older.name}"
        click.echo(terminal(f"reading {names}"), err=True)
    rules = common.rules_for(known, planning)
    found = survey(tree, rules, older=older, jobs=common.processes(planning, known))
    if older is None and len(rules) == len(all_rules()):
        from migrator.cli.review import coverage_of
        from migrator.review import evidence

        evidence.keep(evidence.key_of_source(tree), coverage_of(found))
    every = planning.verbose or "all" in show
    grades = set(Grade) if every else {Grade(name) for name in show}
    within = within_repository(tree.root)
    output_format = common.format_of(output_format, known)
    if output_format == "github":
        common.annotate(annotated(found, grades), within)
    else:
        click.echo(render(found, output_format, grades, within), nl=False)
    new = older is not None and any(item.grade is Grade.REACHABLE for item in found.items)
    sys.exit(common.PENDING if new else common.DONE)
