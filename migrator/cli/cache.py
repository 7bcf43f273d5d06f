# SPDX-License-Identifier: Apache-2.0
"""`vllm-npu-migrate cache`: what runs keep for the next ones."""

from __future__ import annotations

import click

from migrator.cli import common
from migrator.messages.wording import counted


@click.group("cache")
def command() -> None:
    """Show or remove the plans and results that runs keep.

    A plan that is kept is used again where the tree, the rules and this tool are the same. It can
    be removed at any time, also while other runs go on.
    """


@command.command()
@common.command
def info() -> None:
    """Say where the cache is and what it takes."""
    from migrator.planning.cache import LIMIT, Cache, cache_directory

    directory = cache_directory()
    usage = Cache(directory).usage()
    click.echo(f"{directory}: {_what(usage.plans, usage.results, usage.size)}")
    click.echo(f"at most {_size(LIMIT)}; what was used least recently goes first", err=True)


@command.command()
@common.command
def clean() -> None:
    """Remove the cache. Fetched releases stay, and so does what was built."""
    from migrator.messages.errors import MigrateError
    from migrator.planning.cache import Cache, cache_directory

    directory = cache_directory()
    try:
        usage = Cache(directory).clean()
    except OSError as error:
        raise MigrateError(
            f"cannot remove {error.filename}: {error.strerror}; remove {directory} yourself"
        ) from error
    click.echo(f"Removed {_what(usage.plans, usage.results, usage.size)}.")


def _what(plans: int, results: int, size: int) -> str:
    return f"{counted(plans, 'plan')} and {counted(results, 'file result')}, {_size(size)}"


def _size(count: int) -> str:
    for unit in ("bytes", "kB"):
        if count < 1000:
            return f"{count} {unit}"
        count = round(count / 1000)
    return f"{count} MB"
