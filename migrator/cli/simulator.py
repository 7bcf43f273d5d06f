# SPDX-License-Identifier: Apache-2.0
"""`vllm-npu-migrate simulator`: build the simulated Ascend, run programs on it, look at it."""

from __future__ import annotations

import os
import shutil
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from migrator.cli import common

if TYPE_CHECKING:
    from migrator.simulator.build import Build

_ENV = click.option(
    "--env",
    "env",
    type=click.Path(exists=True, path_type=Path),
    metavar="DIR",
    help="Virtual environment that holds torch and torch_npu [default: this tool's own].",
)


def _build(env: Path | None, report: bool) -> Build:
    from migrator.simulator import build

    def tell(step: str) -> None:
        if report:
            click.echo(step, err=True)

    return build.build(build.environment(env), tell)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def command() -> None:
    """Run programs on a simulated Ascend: the real torch_npu, without the hardware.

    It shows that a program's calls, shapes, devices, data flow and results are right; not the
    device's numerics, speed or asynchrony.
    """


@command.command()
@_ENV
@common.command
def install(env: Path | None) -> None:
    """Build the simulator for the torch and torch_npu of an environment."""
    done = _build(env, report=True)
    click.echo(
        f"simulator for torch {done.environment.torch} and torch_npu "
        f"{done.environment.torch_npu}: {done.directory}"
    )


@command.command(
    context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False}
)
@_ENV
@click.option("--devices", type=int, metavar="N", help="Number of NPUs [default: 1].")
@click.option("--memory", metavar="BYTES", help="Memory of each NPU, such as 8GiB [default: 4GiB].")
@click.option("--soc", metavar="NAME", help="Chip, such as Ascend910B4 [default: Ascend910B1].")
@click.option("--without-nnal", is_flag=True, help="A machine on which NNAL is not installed.")
@click.option(
    "--with-triton",
    is_flag=True,
    help="A machine on which Triton has an NPU: the environment's Triton, interpreted.",
)
@click.argument("program", nargs=-1, type=click.UNPROCESSED)
@common.command
def run(
    env: Path | None,
    devices: int | None,
    memory: str | None,
    soc: str | None,
    without_nnal: bool,
    with_triton: bool,
    program: tuple[str, ...],
) -> None:
    """Run PROGRAM and its child processes on simulated NPUs: run -- python script.py ARGS.

    "python" is the environment's own. The exit code is the program's.
    """
    from migrator.simulator import runner

    try:
        size = runner.parse_memory(memory) if memory else None
        machine = runner.Machine(devices, size, soc, nnal=not without_nnal, triton=with_triton)
    except ValueError as error:
        raise common.UserError(str(error)) from error
    if not program:
        raise common.UserError("no program to run: give one after --, such as -- python script.py")
    built = _build(env, report=sys.stderr.isatty())
    code = runner.run(built, program, machine)
    if code < 0:
        # End as the program did, so that a shell sees the same.
        if -code != signal.SIGKILL:
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    raise SystemExit(code)


@command.command()
@_ENV
@common.command
def doctor(env: Path | None) -> None:
    """Say what the simulator needs, what is there and what is missing."""
    from migrator.simulator import build, symbols

    missing = False

    def line(good: bool, what: str, text: str) -> None:
        nonlocal missing
        missing |= not good
        click.echo(f"{'ok     ' if good else 'MISSING'}  {what}: {text}")

    facts = build.probe(env)
    click.echo(f"python {facts['python']} ({facts['abi']})")
    for tool in ("gcc", "g++"):
        path = shutil.which(tool)
        line(path is not None, tool, path or "install a C and C++ compiler (g++ 11 or newer)")
    for name in ("torch", "torch_npu"):
        there = bool(facts[name] and facts[f"{name}_dir"])
        line(there, name, f"{facts[name]} in {facts[f'{name}_dir']}" if there else "not installed")
    if all(facts[key] for key in ("torch", "torch_dir", "torch_npu", "torch_npu_dir")):
        problem = build.mismatch(facts["torch"], facts["torch_npu"])
        line(problem is None, "releases", problem or "torch and torch_npu fit")
        try:
            needs = symbols.requirements(Path(facts["torch_npu_dir"]), Path(facts["torch_dir"]))
        except symbols.ElfError as error:
            line(False, "symbols", str(error))
        else:
            click.echo(
                f"         torch_npu links to {', '.join(needs.libraries)}: "
                f"{len(needs.symbols)} symbols, {len(needs.by_name)} more names by lookup, "
                f"{len(needs.socs)} chips known"
            )
            if needs.foreign:
                line(False, "torch's symbols", f"{len(needs.foreign)} that torch_npu needs")
        if problem is None:
            built = build.cached(build.environment(env))
            line(
                built is not None,
                "build",
                str(built.directory) if built else "none: run `vllm-npu-migrate simulator install`",
            )
            if built:
                record = built.facts()
                click.echo(
                    f"         {len(record['implemented'])} of these functions are simulated, "
                    f"{len(record['failing'])} fail by their name when called, "
                    f"{len(record['absent_by_name'])} are absent and torch_npu names them"
                )
    if missing:
        raise SystemExit(1)
