# SPDX-License-Identifier: Apache-2.0
"""Runs a program on the simulated Ascend: its environment variables, its signals, its end."""

from __future__ import annotations

import os
import re
import secrets
import signal
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import FrameType

from migrator.simulator import janitor
from migrator.simulator.build import RUNTIME, Build, SimulatorError
from migrator.simulator.janitor import remove_machine

SMALLEST_MEMORY = 2 << 20
MOST_DEVICES = 64

_UNITS = {"": 1, "b": 1, "kb": 1000, "mb": 1000**2, "gb": 1000**3}
_UNITS |= {"k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "kib": 1 << 10, "mib": 1 << 20, "gib": 1 << 30}
_FORWARDED = ("SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2", "SIGINT", "SIGQUIT")


@dataclass(frozen=True)
class Machine:
    """The simulated machine: `devices` of `memory` bytes each, all of chip `soc`.

    None leaves what the environment says (ASCEND_SIM_DEVICES and so on) or the default: one
    device of 4 GiB, Ascend910B1. Without `nnal` its library, libatb.so, is not to be found. With
    `triton` the environment's Triton sees an NPU and its interpreter runs the kernels, as if
    triton-ascend were installed.
    """

    devices: int | None = None
    memory: int | None = None
    soc: str | None = None
    nnal: bool = True
    triton: bool = False


def parse_memory(text: str) -> int:
    """Bytes of "8GiB", "512M" or "1000000"; raises `ValueError` for anything else."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([a-zA-Z]*)\s*", text)
    if not match or match[2].lower() not in _UNITS:
        raise ValueError(f"'{text}' is not an amount of memory such as 8GiB or 1073741824")
    return int(float(match[1]) * _UNITS[match[2].lower()])


def variables(
    build: Build, machine: Machine | None = None, base: Mapping[str, str] | None = None
) -> dict[str, str]:
    """The environment of a simulated program: `base` (os.environ where None) and ours on top.

    Every call names a new simulated machine, unless `base` names one in ASCEND_SIM_MACHINE.
    Raises `SimulatorError` for a machine that cannot be.
    """
    machine = machine or Machine()
    if machine.devices is not None and not 1 <= machine.devices <= MOST_DEVICES:
        raise SimulatorError(f"{machine.devices} devices: the simulator has 1 to {MOST_DEVICES}")
    if machine.memory is not None and machine.memory < SMALLEST_MEMORY:
        raise SimulatorError(
            f"{machine.memory} bytes of memory are too few: give at least {SMALLEST_MEMORY}"
        )
    socs = build.facts()["socs"]
    if machine.soc is not None and machine.soc not in socs:
        raise SimulatorError(
            f"torch_npu {build.environment.torch_npu} knows no chip {machine.soc}; it knows "
            + ", ".join(socs)
        )
    env = dict(os.environ if base is None else base)

    def without(name: str, entry: str) -> list[str]:
        return [part for part in env.get(name, "").split(os.pathsep) if part and part != entry]

    def prepend(name: str, entry: str) -> None:
        env[name] = os.pathsep.join([entry, *without(name, entry)])

    if machine.nnal:
        prepend("LD_LIBRARY_PATH", str(build.nnal))
    else:
        env["LD_LIBRARY_PATH"] = os.pathsep.join(without("LD_LIBRARY_PATH", str(build.nnal)))
    prepend("LD_LIBRARY_PATH", str(build.libraries))
    prepend("PYTHONPATH", str(RUNTIME))
    prepend("PATH", str(build.environment.python.parent))
    env["ASCEND_SIM"] = str(build.directory)
    if machine.triton:
        env["ASCEND_SIM_TRITON"] = "1"
    env.setdefault("ASCEND_SIM_MACHINE", f"run{os.getpid()}-{secrets.token_hex(4)}")
    # More threads than cores make small CPU kernels a hundred times slower.
    env.setdefault("OMP_NUM_THREADS", "1")
    for name, value in (
        ("ASCEND_SIM_DEVICES", machine.devices),
        ("ASCEND_SIM_MEMORY", machine.memory),
        ("ASCEND_SIM_SOC", machine.soc),
    ):
        if value is not None:
            env[name] = str(value)
    return env


def command_line(build: Build, command: Sequence[str]) -> list[str]:
    """`command` with "python" meaning the interpreter of the environment."""
    if not command:
        raise SimulatorError("no program to run: give one after --, such as -- python script.py")
    if command[0] in {"python", "python3"}:
        return [str(build.environment.python), *command[1:]]
    return list(command)


def run(build: Build, command: Sequence[str], machine: Machine | None = None) -> int:
    """Run a program to its end and give its exit code, negative for a signal as subprocess does.

    Signals that reach this process are passed on; those of the terminal reach the program itself.
    The shared memory of the machine is removed afterwards. Should this process be killed, the
    program and all that it started end, too.
    """
    env = variables(build, machine)
    own_machine = "ASCEND_SIM_MACHINE" not in os.environ
    arguments = command_line(build, command)
    if not own_machine:
        return _run(arguments, env)
    janitor.sweep()
    with janitor.watched(env["ASCEND_SIM_MACHINE"]):
        try:
            return _run(arguments, env)
        finally:
            remove_machine(env["ASCEND_SIM_MACHINE"])


def _run(arguments: Sequence[str], env: Mapping[str, str]) -> int:
    try:
        child = subprocess.Popen(arguments, env=env)
    except OSError as error:
        raise SimulatorError(f"cannot run {arguments[0]}: {error.strerror}") from error

    def forward(number: int, _frame: FrameType | None) -> None:
        if number in (signal.SIGINT, signal.SIGQUIT) and _from_terminal():
            return
        child.send_signal(number)

    previous = {
        number: signal.signal(number, forward)
        for number in (getattr(signal, name) for name in _FORWARDED)
    }
    try:
        return child.wait()
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _from_terminal() -> bool:
    """Whether the terminal sends its signals to the program as well: we share its group."""
    try:
        return os.tcgetpgrp(0) == os.getpgrp()
    except OSError:
        return False
