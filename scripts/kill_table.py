# SPDX-License-Identifier: Apache-2.0
"""Interrupt and kill the writer at every step of every way to write, and count what was left.

For each way (a new tree, one in the place of another, in place, …), each signal and each step, a
child gets the signal there; then the next run is made. A step is a line of the writer, or a system
call that may change files, stopped by ptrace before the kernel carries it out. The exit code is 1
where a tree was neither the old nor the new one after an interrupt, or anything was wrong after the
next run.

    python scripts/kill_table.py --json docs/trust/kills.json
    python scripts/kill_table.py --quick      # some of the steps
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import tool
from tool import ROOT

DRIVER = ROOT / "tests/files/interrupting.py"
SIGNALS = ("SIGINT", "SIGTERM", "SIGKILL")
WAYS = {
    "new": "a new tree",
    "replace": "a tree in the place of an earlier one",
    "aside": "the same where the system cannot swap two names",
    "in_place": "in place: files changed, added, removed; links; a file for a directory",
    "recover": "the next run after a kill in place, itself",
    "unpack": "a fetched release, unpacked",
}
"""The ways to write, as tests/files/interrupting.py calls them, and as people do."""


class Row(msgspec.Struct):
    """What became of all steps of one way and signal."""

    way: str
    signal: str
    lines: int
    calls: int
    old: int
    """Trees that were the old one, or absent, after the signal."""
    new: int
    between: int
    """Trees that were neither, for the next run to finish."""
    beside: int
    """Trials that left a directory of the writer's behind, for the next run to remove."""
    wrong: list[str]
    """What should not be: empty."""


def trials(work: Path, way: str, signal: str, at: str, step: int) -> list[dict[str, Any]]:
    """What the driver found at each step; the last trial is the undisturbed one."""
    done = subprocess.run(
        [sys.executable, str(DRIVER), str(work), way, signal, str(step), at],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"},
        check=False,
    )
    if done.returncode:
        raise SystemExit(f"{way} {signal} {at}: {done.stderr}")
    found: list[dict[str, Any]] = json.loads(done.stdout)
    return found


def row(work: Path, way: str, signal: str, steps: dict[str, int]) -> Row:
    """Try the steps of one way with one signal: every n-th line, every n-th call."""
    made = Row(way, signal, 0, 0, 0, 0, 0, 0, [])
    for at, step in steps.items():
        *interrupted, whole = trials(work, way, signal, at, step)
        if (whole["ended"], whole["state"], whole["left"]) != (0, "new", []):
            made.wrong.append(f"undisturbed: {whole}")
        for trial in interrupted:
            made.lines += at == "line"
            made.calls += at == "call"
            made.old += trial["state"] in ("old", "absent") and not trial["aside"]
            made.new += trial["state"] == "new"
            between = trial["state"] == "mixed" or (trial["state"] == "absent" and trial["aside"])
            made.between += between
            made.beside += bool(trial["left"])
            excused = signal == "SIGKILL" and (trial["decided"] or trial["aside"])
            if between and not excused:
                made.wrong.append(f"half written: {trial}")
            if trial["again"] != "new" or trial["left_again"]:
                made.wrong.append(f"after the next run: {trial}")
    return made


def table(rows: Sequence[Row]) -> str:
    """The counts in Markdown."""
    lines = [
        "| written | signal | steps | old tree | new tree | between | directory left | wrong |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    lines += [
        f"| {WAYS[r.way]} | {r.signal} | {r.lines} lines, {r.calls} calls | {r.old} | {r.new} "
        f"| {r.between} | {r.beside} | {len(r.wrong)} |"
        for r in rows
    ]
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--quick", action="store_true", help="every 9th step only")
    parser.add_argument("--lines", type=int, default=1, help="every n-th line, and every call")
    parser.add_argument("--json", type=Path, help="write the counts there, too")
    given = parser.parse_args(arguments)
    begun = time.monotonic()
    rows = []
    steps = {"line": 9, "call": 9} if given.quick else {"line": given.lines, "call": 1}
    with tempfile.TemporaryDirectory(prefix="vllm-npu-migrate-kills-") as place:
        for way in WAYS:
            for signal in SIGNALS:
                rows.append(row(Path(place) / "work", way, signal, steps))
                for wrong in rows[-1].wrong:
                    print(f"{way} {signal}: {wrong}", file=sys.stderr)
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    result = {
        "commit": tool.commit(),
        "steps": steps,
        "python": sys.version.split()[0],
        "wall_seconds": round(time.monotonic() - begun),
        "cpu_seconds": round(used.ru_utime + used.ru_stime),
        "rows": rows,
    }
    print(table(rows), end="")
    if given.json is not None:
        given.json.parent.mkdir(parents=True, exist_ok=True)
        given.json.write_bytes(msgspec.json.format(msgspec.json.encode(result), indent=1) + b"\n")
    return 1 if any(r.wrong for r in rows) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
