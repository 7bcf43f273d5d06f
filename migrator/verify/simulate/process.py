# SPDX-License-Identifier: Apache-2.0
"""Runs a program and everything that it starts, and leaves nothing of it behind."""

from __future__ import annotations

import os
import re
import secrets
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

MARK = "NPU_MIGRATE_RUN"
"""Environment variable by which processes of a run are known that left the session of the run."""
GRACE = 10.0
"""Seconds in which a process that was asked to end has to do so."""


@dataclass(frozen=True)
class Finished:
    """`code` is the exit code, negative for a signal, None if the time was over.

    `left` are the command lines of processes which were still there afterwards; they are ended.
    """

    code: int | None
    seconds: float
    left: tuple[str, ...] = ()


class Program:
    """A program in a session of its own, its output in one file. Use it as a context manager."""

    def __init__(
        self, command: Sequence[str], variables: Mapping[str, str], folder: Path, log: Path
    ) -> None:
        self.mark = secrets.token_hex(8)
        self._started = time.monotonic()
        with log.open("wb") as output:
            self._child = subprocess.Popen(
                list(command),
                cwd=folder,
                env={**variables, MARK: self.mark},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def __enter__(self) -> Program:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    @property
    def pid(self) -> int:
        """Process id of the program itself."""
        return self._child.pid

    def poll(self) -> int | None:
        """Exit code, None while it runs."""
        return self._child.poll()

    def send(self, number: signal.Signals) -> None:
        """Signal the program itself, not its children."""
        if self._child.poll() is None:
            self._child.send_signal(number)

    def wait(self, timeout: float) -> Finished:
        """Wait for the end, at most `timeout` seconds, then end whatever is left."""
        code: int | None
        try:
            code = self._child.wait(timeout)
        except subprocess.TimeoutExpired:
            code = None
        seconds = time.monotonic() - self._started
        if code is None:
            self.end()
            return Finished(None, seconds)
        return Finished(code, seconds, self._leftovers())

    def _leftovers(self) -> tuple[str, ...]:
        # Children may need a moment after their parent.
        deadline = time.monotonic() + GRACE / 2
        while (left := members(self.pid, self.mark)) and time.monotonic() < deadline:
            time.sleep(0.1)
        self.end()
        return tuple(left.values())

    def end(self) -> None:
        """End the program and all that it started: first politely, then not."""
        for number in (signal.SIGTERM, signal.SIGKILL):
            alive = set(members(self.pid, self.mark))
            if self._child.poll() is None:
                alive.add(self._child.pid)
            for pid in alive:
                try:
                    os.kill(pid, number)
                except ProcessLookupError:
                    continue
            deadline = time.monotonic() + (GRACE if alive else 0)
            while time.monotonic() < deadline:
                if self._child.poll() is not None and not members(self.pid, self.mark):
                    return
                time.sleep(0.1)


def run(
    command: Sequence[str], variables: Mapping[str, str], folder: Path, log: Path, timeout: float
) -> Finished:
    """Run a program to its end, at most `timeout` seconds; an interrupt ends all of it."""
    with Program(command, variables, folder, log) as program:
        return program.wait(timeout)


def members(session: int, mark: str) -> dict[int, str]:
    """Process id → command line of the processes of a run, zombies left out."""
    wanted = f"{MARK}={mark}".encode()
    found = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            # The name, in brackets, may hold anything; the state is the first word behind it.
            state, *numbers = (
                (entry / "stat").read_text("utf-8", "replace").rpartition(")")[2].split()
            )
            if state in "ZX":
                continue
            if int(numbers[2]) != session and wanted not in (entry / "environ").read_bytes():
                continue
            words = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except (OSError, ValueError, IndexError):
            continue
        found[int(entry.name)] = words.strip()
    return found


def tail(log: Path, lines: int = 15) -> list[str]:
    """The last lines of a log; of neighbours that differ in numbers only, the last."""
    try:
        text = log.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return []
    kept: list[str] = []
    shape = ""
    for line in reversed([line.rstrip() for line in text.splitlines() if line.strip()]):
        previous, shape = shape, re.sub(r"\d+", "0", line)
        if shape != previous:
            kept.append(line[:400])
        if len(kept) == lines:
            break
    return kept[::-1]
