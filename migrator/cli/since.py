# SPDX-License-Identifier: Apache-2.0
"""`vllm-npu-migrate since`: which releases have a definition."""

from __future__ import annotations

import click

from migrator.cli import common


@click.command("since")
@click.argument("name")
@click.option("--path", help="Look in this module alone, such as vllm/_custom_ops.py.")
@click.option("--fetch", is_flag=True, help="Fetch the known releases that are not there yet.")
@click.option(
    "--format",
    "output_format",
    type=click.Choice(["text", "json"]),
    default="text",
    show_default=True,
    help="How it is printed.",
)
@common.command
def command(name: str, path: str | None, fetch: bool, output_format: str) -> None:
    """Say which of the releases that were fetched define NAME, where and with which signature.

    NAME is the qualified name of a function, a class or a module's variable, as a rule's site has
    it: SiluAndMul.forward_cuda.
    """
    from migrator.files import sources
    from migrator.files.tree import DiskTree
    from migrator.liveness.history import history, spans
    from migrator.messages.errors import MigrateError
    from migrator.reports.releases import KNOWN

    if fetch:
        for version in KNOWN:
            sources.fetch(version)
    roots = sources.fetched()
    if not roots:
        raise MigrateError("no release was fetched yet; --fetch fetches those known")
    releases = list(roots)
    forms = history(name, {one: DiskTree(root) for one, root in roots.items()}, path)
    if not forms:
        where = f" in {path}" if path is not None else ""
        raise MigrateError(
            f"no release of {spans(releases, releases)} defines {name}{where}; a method is named "
            "with its class, a site as `explain` prints it"
        )
    without = [one for one in releases if all(one not in form.releases for form in forms)]
    if output_format == "json":
        from migrator.cli.schemas import Since
        from migrator.reports.log import pretty_json

        click.echo(pretty_json(Since(name, forms, without)), nl=False)
        return
    ranges = [spans(form.releases, releases) for form in forms]
    width = max(map(len, ranges))
    for number, form in enumerate(forms):
        if number == 0 or form.path != forms[number - 1].path:
            click.echo(form.path)
        click.echo(f"  {ranges[number]:{width}}  {form.signature} (line {form.line})")
    if without:
        click.echo(f"not in {spans(without, releases)}")
    unseen = [one for one in KNOWN if one not in roots]
    if unseen:
        click.echo(f"not looked at, since not fetched: {spans(unseen, KNOWN)}", err=True)
