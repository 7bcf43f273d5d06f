# SPDX-License-Identifier: Apache-2.0
"""`vllm-npu-migrate diff`: the migration as one patch on stdout, or what it comes to."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from migrator.cli import common

if TYPE_CHECKING:
    from rich.console import Console

    from migrator.files.changes import FileChange
    from migrator.planning.plan import Plan


@click.command("diff")
@click.argument("src")
@click.option(
    "--by",
    type=click.Choice(["file", "rule"]),
    default=None,
    help="Sort the patch by file or by rule, with each site's reason [default: file].",
)
@click.option("--stat", is_flag=True, help="Print lines and sites for each file and rule instead.")
@common.planning_options
@common.command
def command(
    src: str,
    by: str | None,
    stat: bool,
    planning: common.Planning,
) -> None:
    """Print what `apply` would do to SRC as one unified patch on stdout.

    `git apply` takes the patch in the source tree and gives, byte for byte, what `apply` writes.
    With --by rule it takes it too: each rule's part starts from what those before it leave.
    --stat counts the lines of the files and the sites of the rules; --by leaves one of both.
    On a terminal the patch has colours, unless NO_COLOR is set. Everything else goes to stderr.
    Exit code 0: nothing to do; 1: there are changes; 2: error.
    """
    known = common.settings(Path.cwd())
    source = common.opened(src, known, planning)
    tree = source.tree
    plain = by is None and not stat and not _may_be_coloured()
    if plain and planning.quiet:
        done = common.kept_output(tree, known, planning, "patch")
        if done is not None:
            _write(done.data)
            sys.exit(done.code)
    from migrator.api.plans import refuse_missing
    from migrator.messages.wording import Tense
    from migrator.reports.log import emitted_files

    # The numbers stand for the table of rules, which would say much the same beside them.
    silent = planning.quiet or (stat and not planning.verbose)
    planning = replace(planning, quiet=silent)
    plan = common.make_plan(tree, known, planning)
    following = common.command_line("apply", src) if plan.pending else None
    common.tell(plan, Tense.WOULD, planning, following=following)
    refuse_missing(plan)
    changes = emitted_files(plan)
    if stat:
        _print_stat(plan, by)
    elif by == "rule":
        _print_by_rule(plan, changes)
    elif plain:
        from migrator.planning.cache import Output
        from migrator.reports.patch import unified_patch

        output = Output(common.exit_code(plan, pending_counts=True), unified_patch(changes))
        common.keep_output(tree, known, planning, "patch", output)
        _write(output.data)
    else:
        print_patch(plan, changes, "text", tree.root)
    common.finish(plan, pending_counts=True)


def print_patch(plan: Plan, changes: Sequence[FileChange], output_format: str, root: Path) -> None:
    """Write the patch, or the plan of the tree in `root` in another format, to stdout."""
    from migrator.messages.wording import Tense
    from migrator.reports.patch import unified_patch

    if not common.print_plan(plan, output_format, Tense.WOULD, root):
        _write_patch(unified_patch(changes))


def _print_by_rule(plan: Plan, changes: Sequence[FileChange]) -> None:
    """Write the patch of each rule below its reason and its sites, and then that of the logs."""
    from migrator.reports.changed_lines import cut_plan
    from migrator.reports.patch import rule_patches, unified_patch
    from migrator.reports.render import rule_heading

    planned = {change.path for change in plan.files}
    parts = []
    for code, patch in rule_patches(cut_plan(plan)):
        heading = "".join(f"# {line}".rstrip() + "\n" for line in rule_heading(plan, code))
        parts.append(heading.encode("utf-8", "surrogateescape") + patch)
    logs = unified_patch([change for change in changes if change.path not in planned])
    if logs:
        parts.append(
            b"# What the tree keeps to say what was done, for people and programs\n" + logs
        )
    _write_patch(b"".join(parts))


def _print_stat(plan: Plan, by: str | None) -> None:
    from migrator.reports.render import print_stat

    console = _stdout_console()
    print_stat(console, plan, files=by != "rule", rules=by != "file")


def _stdout_console() -> Console:
    """A console on stdout, in colour on a terminal only; plain text keeps to one width."""
    from rich.console import Console

    plain = not sys.stdout.isatty()
    return Console(file=sys.stdout, highlight=False, width=common.PLAIN_WIDTH if plain else None)


def _may_be_coloured() -> bool:
    """Can rich take stdout for a terminal? It is slow to load, so it is asked only then."""
    forced = any(os.environ.get(name) for name in ("FORCE_COLOR", "TTY_COMPATIBLE"))
    return forced or sys.stdout.isatty()


def _write(data: bytes) -> None:
    sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()


def _write_patch(patch: bytes) -> None:
    """Write a patch to stdout: its bytes, or in colour and readable where that is a terminal."""
    if not _may_be_coloured():
        _write(patch)
        return
    from rich.console import Console

    console = Console(file=sys.stdout, highlight=False)
    if not console.is_terminal or console.no_color:
        _write(patch)
        return
    from migrator.reports.render import coloured_patch

    for line in coloured_patch(patch):
        console.print(line, soft_wrap=True)
