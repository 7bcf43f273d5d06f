# SPDX-License-Identifier: Apache-2.0
"""`vllm-npu-migrate explain`: one rule in full."""

from __future__ import annotations

import click

from migrator.cli import common


@click.command("explain")
@click.argument("code", shell_complete=common.complete_rules)
@common.command
def command(code: str) -> None:
    """Explain the rule CODE, given by its code or its name."""
    from migrator.api.plans import no_rule
    from migrator.rules import all_rules

    for rule in all_rules():
        if code.upper() == rule.code or code.lower() == rule.name:
            click.echo(f"{rule.code} {rule.name}\n\n{rule.doc}\n\n## Sites")
            for site in rule.sites:
                click.echo(f"{site.name} in {' or '.join(site.paths)}: in every release known")
                for absence in site.absent:
                    click.echo(f"  but not in {absence.releases}: {absence.why}")
            for path in rule.templates:
                click.echo(f"Adds {path}, fitted to the release.")
            if not rule.sites and not rule.templates:
                click.echo("Wherever its pattern is found; no release has to have one.")
            return
    raise no_rule(code)
