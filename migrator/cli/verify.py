# SPDX-License-Identifier: Apache-2.0
"""`vllm-npu-migrate verify`: check an emitted tree against a torch_npu wheel."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

import click

from migrator.verify.imports import Environment
from migrator.verify.report import Report, as_github, as_json, as_text
from migrator.verify.run import Options, verify
from migrator.verify.tree import TreeError
from migrator.verify.wheel import WheelError


class VerifyError(click.ClickException):
    """The tree or the wheel cannot be read: one line, exit code 2."""

    exit_code = 2


@click.command(name="verify")
@click.argument("tree", type=click.Path(path_type=Path))
@click.option(
    "--torch-npu",
    metavar="VERSION",
    help="torch_npu release to bind calls to; by default the newest for the tree's torch pin.",
)
@click.option(
    "--torch-npu-wheel",
    metavar="FILE",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="A torch_npu wheel to read, in place of one fetched by name.",
)
@click.option(
    "--base",
    metavar="SRC",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="The tree before the migration: exact lines, and a comparison for imports.",
)
@click.option(
    "--all", "everything", is_flag=True, help="Work without a log, on files that say npu."
)
@click.option(
    "--env",
    metavar="DIR",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="Virtual environment with torch and vLLM's requirements, to import changed modules in.",
)
@click.option(
    "--python",
    metavar="FILE",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="Interpreter of such an environment.",
)
@click.option(
    "--launcher",
    metavar="COMMAND",
    help="Command to run that interpreter under, such as `vllm-npu-migrate simulator run --`.",
)
@click.option(
    "--format",
    "format_",
    type=click.Choice(["text", "json", "github"]),
    default="text",
    show_default=True,
    help="How findings are written to standard output.",
)
@click.option("-q", "--quiet", is_flag=True, help="Findings only.")
@click.option("-v", "--verbose", is_flag=True, help="List what was not checked, and why.")
def command(
    tree: Path,
    torch_npu: str | None,
    torch_npu_wheel: Path | None,
    base: Path | None,
    everything: bool,
    env: Path | None,
    python: Path | None,
    launcher: str | None,
    format_: str,
    quiet: bool,
    verbose: bool,
) -> None:
    """Check an emitted TREE with what can be known without running it.

    Names and attributes that the migration introduced resolve, calls of torch_npu bind to the
    operator schemas of a torch_npu wheel (which is only read), files compile without new warnings,
    and the tree imports with and without torch_npu.

    Exit code 0: nothing found; 1: findings; 2: the check could not be made.
    """
    if torch_npu and torch_npu_wheel:
        raise VerifyError("--torch-npu and --torch-npu-wheel exclude each other; give one of them")
    options = Options(
        tree=tree,
        torch_npu=torch_npu,
        wheel_file=torch_npu_wheel,
        base=base,
        everything=everything,
        environment=_environment(env, python, launcher),
    )
    try:
        report = verify(options)
    except (TreeError, WheelError) as error:
        raise VerifyError(str(error)) from error
    write(report, format_, quiet=quiet, verbose=verbose)
    sys.exit(1 if report.findings else 0)


def _environment(env: Path | None, python: Path | None, launcher: str | None) -> Environment | None:
    if env and python:
        raise VerifyError("--env and --python exclude each other; give one of them")
    if env is not None:
        python = env / "bin" / "python"
        if not python.exists():
            raise VerifyError(f"{env}: no bin/python in it; give a virtual environment")
    if python is None:
        if launcher:
            raise VerifyError("--launcher runs an interpreter; name it with --env or --python")
        return None
    # An interpreter of a virtual environment must be called by its own path, not where it links to.
    return Environment(Path.cwd() / python, tuple(shlex.split(launcher or "")))


def write(report: Report, format_: str, *, quiet: bool, verbose: bool) -> None:
    """Findings to standard output, everything else to standard error."""
    if format_ == "json":
        click.echo(as_json(report))
    else:
        text = (as_github if format_ == "github" else as_text)(report.findings)
        if text:
            click.echo(text)
    if quiet:
        return
    if verbose:
        for note in report.notes:
            place = f"{note.path}:{note.line}: " if note.path else ""
            click.echo(f"{place}not checked: {note.message}", err=True)
    wheel = report.torch_npu
    against = f" against torch_npu {wheel['version']} ({wheel['reason']})" if wheel else ""
    count = len(report.findings)
    click.echo(
        f"{count or 'no'} finding{'' if count == 1 else 's'} in {report.files} changed files and "
        f"{report.calls} calls of torch_npu{against}",
        err=True,
    )
    if report.notes and not verbose:
        click.echo(f"{len(report.notes)} things were not checked; -v lists them", err=True)
