# SPDX-License-Identifier: Apache-2.0
"""Ends what a launcher that was killed leaves: programs on its simulated machine, shared memory."""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

GRACE = 5.0
"""Seconds in which a program that was asked to end has to do so."""

OLD = 24 * 3600.0
"""Seconds after which a machine whose launcher is not to be seen is taken for dead."""

_SHARED = Path("/dev/shm")
_NAMED = re.compile(r"(run(\d+)-[0-9a-f]+)\.")


def remove_machine(name: str) -> None:
    """Remove what the processes of a simulated machine left in shared memory."""
    for path in _SHARED.glob(f"ascend_sim.{os.getuid()}.{name}.*"):
        path.unlink(missing_ok=True)


def programs(machine: str) -> list[int]:
    """Process ids of the programs on a machine, this process left out."""
    wanted = f"ASCEND_SIM_MACHINE={machine}".encode()
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            state = (entry / "stat").read_bytes().rpartition(b")")[2].split()[0]
            variables = (entry / "environ").read_bytes().split(b"\0")
        except OSError:
            continue
        if state not in {b"Z", b"X"} and wanted in variables:
            found.append(int(entry.name))
    return found


def end(machine: str) -> None:
    """End all programs of a machine, politely at first, and remove its shared memory."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        for pid in programs(machine):
            try:
                os.kill(pid, number)
            except ProcessLookupError:
                continue
        deadline = time.monotonic() + GRACE
        while programs(machine) and time.monotonic() < deadline:
            time.sleep(0.1)
    remove_machine(machine)


def sweep() -> None:
    """Remove the shared memory of machines whose launcher and programs are long gone."""
    prefix = f"ascend_sim.{os.getuid()}."
    for path in list(_SHARED.glob(f"{prefix}run*")):
        match = _NAMED.match(path.name, len(prefix))
        if not match or Path("/proc", match[2]).exists() or _young(path):
            continue
        if not programs(match[1]):
            path.unlink(missing_ok=True)


def _young(path: Path) -> bool:
    """Whether it may be of a launcher that this process cannot see, of another container."""
    try:
        return time.time() - path.stat().st_mtime < OLD
    except FileNotFoundError:
        return True


@contextmanager
def watched(machine: str) -> Iterator[None]:
    """See to it that the machine ends with this process, should it be killed in the body."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.close(writing)
            _wait(reading, machine)
        finally:
            os._exit(0)
    os.close(reading)
    try:
        yield
    finally:
        # Ended by hand, for other programs may have got the pipe's end.
        os.write(writing, b".")
        os.close(writing)
        os.waitpid(pid, 0)


def _wait(reading: int, machine: str) -> None:
    """Until the pipe says that all went well, or that the launcher is gone."""
    os.setsid()  # neither the terminal's signals nor those to the launcher's group are for us
    nothing = os.open(os.devnull, os.O_RDWR)
    for stream in range(3):
        os.dup2(nothing, stream)  # who reads the program's output must see its end
    os.closerange(3, reading)
    os.closerange(reading + 1, os.sysconf("SC_OPEN_MAX"))
    if not os.read(reading, 1):
        end(machine)
