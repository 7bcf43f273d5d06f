# SPDX-License-Identifier: Apache-2.0
"""What `verify --simulate` costs, now and at an earlier commit, in CPU time.

    python scripts/simulate_benchmark.py TREE --env ENV [--before COMMIT] [--models M] [--modes M]

Runs the default plan of an emitted tree (or the models and modes that are named) by the tool as it
was at COMMIT, in a worktree of its own, and by this one, each twice: cold, with neither models nor
bytecode kept, and then warm. The simulator is built before. Each has a cache of its own. Time is
CPU time, user and system, of a command with all that it started, also of workers whose engine was
killed: they become children of this process.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

from tool import ROOT

SUBREAPER = 36
"""Of prctl: whose parents end become children of this process."""
EARLIER = "b6987c3"
"""The last commit that kept no bytecode and forked nothing."""


def spent(root: Path, cache: Path, arguments: list[str]) -> float:
    """CPU seconds of the tool in a checkout."""
    variables = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    variables |= {"PYTHONPATH": str(root), "XDG_CACHE_HOME": str(cache), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "migrator", *arguments]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    process = subprocess.Popen(command, env=variables, cwd=root, stdout=subprocess.DEVNULL)
    try:
        while True:
            pid, status = os.wait()
            if pid == process.pid:
                process.returncode = os.waitstatus_to_exitcode(status)
    except ChildProcessError:
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
    if process.returncode != 0:
        raise SystemExit(f"{' '.join(command)} in {root}: exit code {process.returncode}")
    return used.ru_utime + used.ru_stime - before.ru_utime - before.ru_stime


def measure(root: Path, folder: Path, env: str, plan: list[str]) -> tuple[float, float]:
    """CPU seconds of a plan, cold and warm."""
    folder.mkdir()
    spent(root, folder, ["simulator", "run", "--env", env, "--", "true"])
    return spent(root, folder, plan), spent(root, folder, plan)


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description="Measure what simulated runs cost.")
    parser.add_argument("tree", help="an emitted tree")
    parser.add_argument("--env", required=True, help="the environment that runs it")
    parser.add_argument("--before", default=EARLIER, help=f"a commit [default: {EARLIER}]")
    parser.add_argument("--models", help="as for verify")
    parser.add_argument("--modes", help="as for verify")
    options = parser.parse_args(arguments)
    ctypes.CDLL(None).prctl(SUBREAPER, 1, 0, 0, 0)
    env = str(Path(options.env).resolve())
    plan = ["verify", str(Path(options.tree).resolve()), "--simulate", "--env", env]
    for name in ("models", "modes"):
        if getattr(options, name):
            plan += [f"--{name}", getattr(options, name)]
    git = ["git", "-C", str(ROOT), "worktree"]
    with tempfile.TemporaryDirectory() as place:
        earlier = Path(place, "before")
        subprocess.run([*git, "add", "-q", "--detach", earlier, options.before], check=True)
        try:
            before = measure(earlier, Path(place, "cache-before"), env, plan)
        finally:
            subprocess.run([*git, "remove", "--force", earlier], check=True)
        after = measure(ROOT, Path(place, "cache-after"), env, plan)
    print(f"| | {options.before} | now | ratio |\n| --- | ---: | ---: | ---: |")
    for name, old, new in zip(("cold", "warm"), before, after, strict=True):
        print(f"| {name} | {old:.0f} s | {new:.0f} s | {new / old:.2f} |")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
