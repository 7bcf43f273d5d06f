# SPDX-License-Identifier: Apache-2.0
"""`vllm-npu-migrate diff`: the migration as one patch on stdout."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from migrator.cli import common

if TYPE_CHECKING:
    from migrator.plan import FileChange, Plan


@click.command("diff", short_help="Print the migration as one patch for `git apply`.")
@click.argument("src")
@common.planning_options
@common.command
def command(
    src: str,
    select: tuple[str, ...],
    ignore: tuple[str, ...],
    jobs: int | None,
    quiet: bool,
    verbose: bool,
) -> None:
    """Print what `apply` would do to SRC as one unified patch on stdout.

    `git apply` takes the patch in the source tree and gives, byte for byte, what `apply` writes.
    Everything else goes to stderr. Exit code 0: nothing to do; 1: there are changes; 2: error.
    """
    from migrator.log import emitted_files
    from migrator.report import Tense
    from migrator.sources import open_source

    source = open_source(src)
    known = common.settings(Path.cwd())
    plan = common.plan_for(source.tree, known, Tense.WOULD, select, ignore, jobs, quiet, verbose)
    common.refuse_missing(plan)
    print_patch(plan, emitted_files(plan), "text")
    common.finish(plan, pending_counts=True)


def print_patch(plan: Plan, changes: Sequence[FileChange], output_format: str) -> None:
    """Write the patch, or the plan in another format, to stdout."""
    from migrator.patch import unified_patch
    from migrator.report import Tense, render

    text = render(plan, output_format, Tense.WOULD)
    data = text.encode() if text is not None else unified_patch(changes)
    sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()
