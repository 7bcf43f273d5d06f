# SPDX-License-Identifier: Apache-2.0
"""`vllm-npu-migrate verify --on-device`: an emitted tree on the NPUs of this machine."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import click

from migrator.cli import common, output
from migrator.cli.common import UserError
from migrator.files.interpreters import interpreter
from migrator.messages.errors import after_writing


def run(
    tree: Path,
    env: Path | None,
    models: tuple[str, ...],
    modes: tuple[str, ...],
    work: Path | None,
    timeout: float,
    report: Path | None,
    format_: str,
    tell: Callable[[str], None],
) -> NoReturn:
    """Check the tree, print the report, write it to a file if asked, and exit as it says."""
    from migrator.verify import on_device, simulate

    if format_ == "github":
        raise UserError("--format github marks lines of files; here are none: take text or json")
    if report is not None and not report.parent.is_dir():
        raise UserError(f"{report.parent} is no folder that the report could be written to")
    try:
        ways = simulate.select_modes(modes or on_device.DEFAULT_MODES)
        on_device.choose(ways)
        chosen = simulate.select_models(models or ("llama",))
    except ValueError as error:
        raise UserError(str(error)) from error
    python = interpreter(env)
    options = simulate.Options(
        tree, simulate.Launcher((), python), chosen, ways, work=work, timeout=timeout
    )
    with common.runs():
        found = on_device.on_device(options, tell)
    json, text = on_device.as_json(found), on_device.as_markdown(found)
    click.echo(json if format_ == "json" else text, nl=False)
    if report is not None:
        beside = report.with_suffix(".md")
        output.write(report, json.encode(), "--report")
        if beside != report:
            with after_writing(f"{report} is written"):
                output.write(beside, text.encode(), "--report")
    sys.exit(0 if found.passed else 1)
