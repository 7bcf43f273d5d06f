# SPDX-License-Identifier: Apache-2.0
"""`vllm-npu-migrate env`: the environments that `verify --simulate` has made."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from migrator.cli import common

if TYPE_CHECKING:
    from migrator.verify.simulate import environments


@click.group("env")
def command() -> None:
    """List or remove the environments that runs on the simulated Ascend have made.

    `verify TREE --simulate` without --env makes one where the tool's own has no torch, torch_npu
    and transformers: from the tree's requirements, by pip as it is set up. It is kept, and serves
    every release of the same torch. With PIP_NO_INDEX=1 and PIP_FIND_LINKS=DIR it is made of a
    directory of wheels, without a network.
    """


@command.command("list")
@common.command
def list_() -> None:
    """List the environments with their size, and say where they are."""
    from migrator.verify.simulate import environments

    found = list(environments.kept())
    for one in found:
        said = "" if one.complete else f", not complete: {_done(one)}; the next run goes on"
        click.echo(f"{one.root}: {one.size / 1e9:.1f} GB{said}")
    if not found:
        click.echo("none was made yet; `verify TREE --simulate` makes one", err=True)


def _done(one: environments.Kept) -> str:
    return f"{', '.join(one.state.steps)} done" if one.state.steps else "nothing is done"


@command.command()
@click.argument("names", nargs=-1, metavar="[NAME]...")
@common.command
def clean(names: tuple[str, ...]) -> None:
    """Remove the environments NAME, or all."""
    from migrator.verify.simulate import environments

    sizes = {one.root: one.size for one in environments.kept()}
    for root in environments.remove(names):
        click.echo(f"Removed {root}, {sizes[root] / 1e9:.1f} GB.")
