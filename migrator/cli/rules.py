# SPDX-License-Identifier: Apache-2.0
"""`vllm-npu-migrate rules`: the list of rules."""

from __future__ import annotations

import click

from migrator.cli import common


@click.command("rules")
@click.option(
    "--format",
    "output_format",
    type=click.Choice(["text", "json"]),
    default="text",
    show_default=True,
    help="How the list is printed.",
)
@common.command
def command(output_format: str) -> None:
    """List the rules with their safety and what they do."""
    from migrator.rules import all_rules

    rules = all_rules()
    if output_format == "json":
        from migrator.cli.schemas import ListedRule
        from migrator.reports.log import pretty_json

        listing = [ListedRule(r.code, r.name, r.safety, r.summary) for r in rules]
        click.echo(pretty_json(listing), nl=False)
        return
    width = max(len(rule.name) for rule in rules)
    for rule in rules:
        click.echo(f"{rule.code}  {rule.name:{width}}  {rule.safety.value:10}  {rule.summary}")
