# SPDX-License-Identifier: Apache-2.0
"""Interrupts the writer at every line it executes, and prints what each interrupt left behind.

Run as `interrupting.py WORK HOW SIGNAL STEP`, HOW being in_place, new or replace. Each trial is a
forked child that sends itself the signal at its n-th line of migrator/writer.py, n growing by STEP.
Printed is a JSON list of trials: how the child ended, and what was found after it and after the
next run's recovery.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

from migrator import writer
from migrator.plan import FileChange
from migrator.tree import DiskTree

OLD = {"vllm/a.py": b"old a\n", "vllm/sub/b.py": b"old b\n", "README.md": b"kept\n"}
NEW = OLD | {"vllm/a.py": b"new a\n", "vllm/sub/b.py": b"new b\n", "vllm/added/c.py": b"new c\n"}
CHANGES = [FileChange(p, OLD.get(p), data) for p, data in sorted(NEW.items()) if OLD.get(p) != data]


def write(root: Path, files: dict[str, bytes]) -> None:
    for path, data in files.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(data)


def state(root: Path) -> str:
    """`old`, `new`, `absent` or `mixed`, whatever the writer's own directory holds."""
    if not root.exists():
        return "absent"
    tree = DiskTree(root)
    files = {entry.path: tree.read(entry.path) for entry in tree.entries()}
    return "old" if files == OLD else "new" if files == NEW else "mixed"


def tracer(point: int, number: int) -> tuple[Callable[..., Any], list[bool]]:
    fired = [False]
    count = 0

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        nonlocal count
        if frame.f_code.co_filename != writer.__file__:
            return None
        if event == "line":
            count += 1
            if count == point:
                fired[0] = True
                os.kill(os.getpid(), number)
        return trace

    return trace, fired


def child(work: Callable[[], None], point: int, number: int) -> None:
    """End with 0 where the signal came too late, 1 after it, 130 where it interrupted the work."""
    trace, fired = tracer(point, number)
    sys.settrace(trace)
    try:
        work()
    except KeyboardInterrupt:
        os._exit(130)
    finally:
        sys.settrace(None)
    os._exit(1 if fired[0] else 0)


def trial(here: Path, how: str, point: int, number: int) -> dict[str, Any]:
    shutil.rmtree(here, ignore_errors=True)
    source, target = here / "tree", here / "out"
    write(source, OLD)
    if how == "replace":
        write(target, OLD)

    def work() -> None:
        if how == "in_place":
            writer.change_in_place(source, CHANGES)
        else:
            writer.write_tree(DiskTree(source), CHANGES, target, replace=how == "replace")

    pid = os.fork()
    if pid == 0:
        try:
            child(work, point, number)
        finally:
            os._exit(99)
    _, status = os.waitpid(pid, 0)
    ended = os.waitstatus_to_exitcode(status)
    written = source if how == "in_place" else target
    found = {
        "ended": ended,
        "source": state(source),
        "state": state(written),
        "decided": (source / writer.JOURNAL / "journal.json").exists(),
        "left": sorted(p.name for p in here.iterdir() if p.name.startswith("."))
        + ([writer.JOURNAL] if (source / writer.JOURNAL).exists() else []),
    }
    if how == "in_place":
        writer.recover(source)
        found["recovered"] = state(source)
        writer.change_in_place(source, CHANGES)
        found["again"] = state(source)
        found["left_again"] = (source / writer.JOURNAL).exists()
    return found


def main() -> None:
    here, how, number = Path(sys.argv[1]), sys.argv[2], int(signal.Signals[sys.argv[3]])
    step = int(sys.argv[4])
    os.fsync = lambda fd: None  # the disk keeps its promise; waiting for it takes most of the time
    trials: list[dict[str, Any]] = []
    while True:
        trials.append(trial(here, how, len(trials) * step + 1, number))
        if trials[-1]["ended"] in (0, 99):
            break
    with contextlib.suppress(FileNotFoundError):
        shutil.rmtree(here)
    print(json.dumps(trials))


if __name__ == "__main__":
    main()
