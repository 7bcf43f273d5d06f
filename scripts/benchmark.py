# SPDX-License-Identifier: Apache-2.0
"""What runs cost, as ratios of CPU time to other work on the same files in the same run.

    python scripts/benchmark.py [--rounds N] [--write]

Measures `vllm-npu-migrate` on the fetched sources of vLLM 0.11.0 and 0.33.0: start-up, the first
`diff` of a tree (with an empty cache, which it fills), the second one, and the memory of the
largest process, also where a file of 20 MB is in the tree. Beside it, on the same files: ast-grep
rewriting one pattern in `vllm/`, and a process that starts as the command does, reads every file of
the tree and does nothing else. Python has its bytecode beforehand, as after an installation.
Time is CPU time, user and system, child processes included: the least of N rounds (default 5),
taken in turns. Wall time is not measured, since other work on the machine counts in it.
`--write` makes docs/benchmark.md of it. Exit code 1: a bound is missed.
"""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from migrator.files.sources import fetch

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "benchmark.md"
OLD, NEW = "0.11.0", "0.33.0"

START = "import sys\nfrom migrator.cli import main\n"
AST_GREP = ["run", "-l", "py", "-p", "$X.is_cuda", "-r", '$X.device.type == "cuda"']
READING = """\
import os
for place, _, names in os.walk(sys.argv[1]):
    for name in names:
        path = os.path.join(place, name)
        if path.endswith(sys.argv[2]) and not os.path.islink(path):
            with open(path, "rb") as file:
                file.read()
"""
"""The least that a run does which has to know the contents of a tree: open, read, close each."""

LARGE = 20_000_000
"""Bytes of the large file."""
FUNCTIONS = """

def f{0}(x: torch.Tensor, n: int = {0}) -> torch.Tensor:
    total = [k * n for k in range(n)]
    for k, value in enumerate(total):
        if value > {0}:
            x = x + value
        elif value == k:
            x = x * 2
    return x.contiguous()


class C{0}:
    def run(self, x):
        return f{0}(x, {0})
"""
SITE = """

def site{0}(x: torch.Tensor):
    return f{0}(x) if x.is_cuda else None
"""

RECORDED = {
    "msfmktransplt (Huawei's, on LibCST)": (1849.0, 1.32 * 2**30),
    "a LibCST codemod that does nothing": (100.0, 110 * 2**20),
}
"""Seconds of CPU and bytes of memory of other tools on `vllm/` of 0.11.0 (941 files, 13.5 MB).

They were measured once for this project, on another day and not by this script: the first takes
half an hour.
"""


@dataclass
class Cost:
    """The least CPU time of some runs, and the most memory that a process of them took.

    Linux counts the memory of the process that starts another into the other's, until that is
    larger: what is below this script's own 34 MB is not known.
    """

    seconds: float = float("inf")
    memory: int = 0

    def add(self, seconds: float, memory: int) -> None:
        self.seconds = min(self.seconds, seconds)
        self.memory = max(self.memory, memory)


def run(command: Sequence[str | Path], environment: Mapping[str, str]) -> tuple[float, int]:
    """CPU seconds of a command with its children, and the bytes of its largest process."""
    with tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=errors, env=environment, cwd=ROOT
        )
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode not in (0, 1):
            errors.seek(0)
            text = errors.read().decode(errors="replace")[-400:]
            raise SystemExit(f"{command}: exit {process.returncode}: {text}")
    return used.ru_utime + used.ru_stime, used.ru_maxrss * 1024


def large_file() -> str:
    """Many functions and classes, and a site now and then."""
    parts = ["import torch\n"]
    size = number = 0
    while size < LARGE:
        text = FUNCTIONS.format(number) + (SITE.format(number) if number % 5000 == 0 else "")
        parts.append(text)
        size += len(text)
        number += 1
    return "".join(parts)


def large_tree(place: Path) -> Path:
    """The sources of the old release with a large file beside the others."""
    tree = place / f"vllm-{OLD}"
    shutil.copytree(fetch(OLD), tree, symlinks=True)
    (tree / "vllm" / "large.py").write_text(large_file(), encoding="utf-8")
    return tree


def measure(rounds: int) -> dict[str, Cost]:
    """Run everything in turns, the large file once; the cache is a new one in each round."""
    with tempfile.TemporaryDirectory() as place:
        bytecode = Path(place, "bytecode")
        environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
        environment |= {
            "PYTHONPYCACHEPREFIX": str(bytecode),
            "PYTHONPATH": str(ROOT),
            "XDG_CACHE_HOME": str(Path(place, "cache")),
        }
        environment.pop("VLLM_NPU_MIGRATE_NO_CACHE", None)
        diff = [sys.executable, "-c", f"{START}main()", "diff", "-q"]
        run([*diff, fetch(OLD)], environment)
        found = {"large": Cost()}
        found["large"].add(*run([*diff, large_tree(Path(place))], environment))
        return found | _measure(rounds, environment)


def _measure(rounds: int, environment: Mapping[str, str]) -> dict[str, Cost]:
    ast_grep = shutil.which("ast-grep", path=str(Path(sys.executable).parent)) or "ast-grep"
    trees = {version: fetch(version) for version in (OLD, NEW)}
    python: list[str | Path] = [sys.executable, "-c"]
    found: dict[str, Cost] = {}
    for number in range(rounds):
        with tempfile.TemporaryDirectory() as cache:
            commands: dict[str, list[str | Path]] = {
                "python": [*python, "pass"],
                "--help": [*python, f"{START}main()", "--help"],
            }
            for version, tree in trees.items():
                diff = [*python, f"{START}main()", "diff", "-q", tree]
                commands |= {
                    f"ast-grep {version}": [ast_grep, *AST_GREP, tree / "vllm"],
                    f"first {version}": diff,
                    f"second {version}": diff,
                }
                for start, text in (("", START), ("bare ", "import sys\n")):
                    program = [*python, text + READING]
                    commands |= {
                        f"{start}reading {version}": [*program, tree, ""],
                        f"{start}reading .py {version}": [*program, tree / "vllm", ".py"],
                    }
            for name, command in commands.items():
                cost = run(command, {**environment, "XDG_CACHE_HOME": cache})
                found.setdefault(name, Cost()).add(*cost)
        print(f"round {number + 1} of {rounds}", file=sys.stderr, flush=True)
    return found


@dataclass(frozen=True)
class Bound:
    """Something that a run may cost at most."""

    what: str
    value: float
    most: float
    unit: str = ""

    @property
    def kept(self) -> bool:
        return self.value <= self.most

    def row(self) -> str:
        digits = 0 if self.unit == " MB" else 3 if self.unit else 2
        value, most = f"{self.value:.{digits}f}{self.unit}", f"{self.most:g}{self.unit}"
        return f"| {self.what} | {value} | {most} | {'yes' if self.kept else '**no**'} |"


def bounds(cost: Mapping[str, Cost]) -> list[Bound]:
    """What this project promises of its cost."""

    def ratio(one: str, other: str) -> float:
        return cost[one].seconds / cost[other].seconds

    def reading(version: str) -> Bound:
        what = f"second `diff` of {version} / the command's start and reading the tree's files"
        return Bound(what, ratio(f"second {version}", f"reading {version}"), 1.2)

    largest = max(c.memory for name, c in cost.items() if name.startswith(("first", "second")))
    return [
        Bound("start-up: `--help`", cost["--help"].seconds, 0.15, " s"),
        Bound(
            f"first `diff` of {OLD} / ast-grep's scan for one pattern",
            ratio(f"first {OLD}", f"ast-grep {OLD}"),
            1.5,
        ),
        Bound(
            f"first `diff` of {NEW} / first `diff` of {OLD}",
            ratio(f"first {NEW}", f"first {OLD}"),
            3.0,
        ),
        reading(OLD),
        reading(NEW),
        Bound("memory of the largest process", largest / 1e6, 150, " MB"),
        Bound(
            "the same, with a file of 20 MB in the tree", cost["large"].memory / 1e6, 1000, " MB"
        ),
    ]


def page(cost: Mapping[str, Cost], rounds: int) -> str:
    """docs/benchmark.md."""
    names = {"python": "Python's own start", "--help": "`vllm-npu-migrate --help`"}
    ways = {
        "reading": "start of the command, then every file of the tree is read",
        "reading .py": "start of the command, then each `.py` of `vllm/` is read",
        "bare reading": "start of Python, then every file of the tree is read",
        "bare reading .py": "start of Python, then each `.py` of `vllm/` is read",
    }
    for version in (OLD, NEW):
        names |= {
            f"ast-grep {version}": f"{version}: ast-grep, one pattern in `vllm/`",
            f"first {version}": f"{version}: first `diff -q`, with an empty cache",
            f"second {version}": f"{version}: second `diff -q`",
            **{f"{way} {version}": f"{version}: {text}" for way, text in ways.items()},
        }
    times = "\n".join(f"| {text} | {cost[name].seconds:.3f} |" for name, text in names.items())
    seconds = {version: cost[f"second {version}"].seconds for version in (OLD, NEW)}
    readings = "\n".join(
        f"| {text} | "
        + " | ".join(f"{seconds[v] / cost[f'{way} {v}'].seconds:.2f}" for v in (OLD, NEW))
        + " |"
        for way, text in ways.items()
    )
    first = cost[f"first {OLD}"]
    others = "\n".join(
        f"| {name} | {spent:,.0f} | {memory / 1e6:,.0f} | "
        f"{spent / first.seconds:,.0f} | {memory / first.memory:.1f} |"
        for name, (spent, memory) in RECORDED.items()
    )
    return PAGE_TEXT.format(
        rounds=rounds,
        processors=os.cpu_count(),
        python=platform.python_version(),
        promised="\n".join(bound.row() for bound in bounds(cost)),
        readings=readings,
        times=times,
        others=others,
        old=OLD,
        new=NEW,
        memory=" and ".join(f"{cost[f'first {v}'].memory / 1e6:.0f} MB" for v in (OLD, NEW)),
    )


PAGE_TEXT = """\
# Benchmark

Made by `python scripts/benchmark.py --rounds {rounds} --write`, with {processors} processors and
Python {python}, with bytecode made before. CPU time, user and system, of a process with its
children: the least of {rounds} rounds, taken in turns. Ratios carry over to other machines, seconds
do not.

## What is promised

| | measured | at most | kept |
| --- | ---: | ---: | --- |
{promised}

The largest process of a first `diff` of {old} and of {new} takes {memory}.

The second `diff` of an unchanged tree is measured against a process that starts as the command
does and then opens, reads and closes every file of the tree. To other ways of reading it is:

| second `diff -q` / | {old} | {new} |
| --- | ---: | ---: |
{readings}

## Times

| | CPU s |
| --- | ---: |
{times}

## Other tools

On `vllm/` of {old}: 941 files, 13.5 MB. They were measured once for this project, on another day
and not by this script: the first takes half an hour. So the ratios to
the first `diff` of {old} say of what order the difference is, not more.

| | CPU s | MB | times our CPU time | times our memory |
| --- | ---: | ---: | ---: | ---: |
{others}

## Why

- A file is searched for the rules' triggers as bytes; most hold none and are not parsed.
- LibCST sees the statements that hold what a rule looks for, and the functions that a rule names.
  Python's own parser, which looks at each file first, tells where the others are, and they are left
  out. From 1 MB on it gets a file in pieces, since it takes 200 times a text in memory.
- Only the statements around edits are written from LibCST's tree. All other lines are taken as they
  are.
- Syntax trees hold no cycles, so they go as soon as a file is done, and the collector stays off.
- Files are spread over processes that are forked, the longest first.
- A plan is kept with all that was asked of the tree for it. The next run asks the system whether a
  file or a directory was touched, by inode, size and both times. Where one was, or where the times
  are too near to be trusted, contents are read and hashed, and only files that differ are parsed.

`vllm-npu-migrate cache info` tells what the cache takes, `cache clean` removes it, and
`--no-cache`, `VLLM_NPU_MIGRATE_NO_CACHE=1` or `cache = false` in the settings go without.
"""


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description="Measure what runs cost.")
    parser.add_argument(
        "--rounds", type=int, default=5, help="runs of each measurement [default: 5]"
    )
    parser.add_argument("--write", action="store_true", help="Write docs/benchmark.md.")
    options = parser.parse_args(arguments)
    cost = measure(options.rounds)
    for name, one in cost.items():
        print(f"{name:24} {one.seconds:8.3f} s CPU")
    first = cost[f"first {OLD}"].seconds
    for name, (seconds, _) in RECORDED.items():
        print(f"{name}, recorded: {seconds:.0f} s CPU, {seconds / first:.0f} times diff {OLD}")
    promised = bounds(cost)
    print("\n".join(bound.row() for bound in promised))
    if options.write:
        PAGE.write_text(page(cost, options.rounds), encoding="utf-8")
    return 0 if all(bound.kept for bound in promised) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
