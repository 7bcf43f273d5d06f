# SPDX-License-Identifier: Apache-2.0
"""Count what a step of emitted releases asks of the device and write docs/cost.md.

    python scripts/cost_table.py --env DIR --old-env DIR    # releases of the page
    python scripts/cost_table.py --env DIR 0.18.0           # these, printed and not written

Each release is emitted and counted by `verify --simulate --cost`, about four minutes on two cores.
What was counted is kept below --state, by the tree's files and the programs that counted, so that
an interrupted run goes on.
"""

from __future__ import annotations

import argparse
import hashlib
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import msgspec
import platformdirs
from simulated_runs import digest as files_digest
from simulated_runs import simulator_digest
from tool import ROOT, command, digest

from migrator.files.sources import fetch
from migrator.verify.simulate import cost, environment

PAGE = ROOT / "docs" / "cost.md"
OLD = ("0.11.0",)
"""Those that need the torch and torch_npu of their time, in an environment of its own."""
RAW = argparse.RawDescriptionHelpFormatter
RELEASES = ("0.11.0", "0.18.0", "0.23.0", "0.32.0", "0.33.0")
HEAD = """\
# What a step costs

Made by `python scripts/cost_table.py`: `verify --simulate --cost` of emitted releases, a Llama of
four layers in bfloat16 on one simulated NPU. What is counted and how is in
[verify.md](verify.md#what-a-step-costs). A launch is one operator that computes, *a layer* what
each layer adds, a wait a place where the host stops for the device, *AI CPU* a launch for whose
dtype CANN has no kernel on AI cores. Nothing here is a time, and no device was involved.

A layer takes thirteen launches: two norms, four products, one SwiGLU, a rotation and the two copies
before it, the copy of the values out of the split projection, the write to the cache, attention.
Up to 0.11.0 vLLM clears the memory that attention writes to, which is one more.
A step that replays a whole graph takes one more, for attention is told its new lengths before.
Waits for an event that was recorded in the step before are counted as all others, though the device
has mostly passed them.
"""
WAITS = """\
## Where the host waits, and what the AI CPU computes

| release | mode | what | place | in |
| --- | --- | --- | --- | --- |
"""


def emitted(release: str, folder: Path) -> Path:
    """The emitted tree of a release."""
    tree = folder / release
    done = command("apply", "-q", "--force", fetch(release), "-o", tree)
    if done.returncode:
        sys.exit(f"{release}: {done.stderr}")
    return tree


def counted(tree: Path, env: Path, state: Path) -> cost.Costs:
    """What its steps ask for: as it was kept, or counted now."""
    programs = [Path(cost.__file__), environment.PROGRAMS / "cost.py"]
    made_by = digest(tree), files_digest(programs), simulator_digest(), str(env)
    kept = state / f"{tree.name}-{hashlib.sha256(repr(made_by).encode()).hexdigest()[:16]}.json"
    if kept.is_file():
        return msgspec.json.decode(kept.read_bytes(), type=cost.Costs)
    done = command("verify", tree, "--simulate", "--cost", "--env", env, "--format", "json")
    if not done.stdout:
        sys.exit(f"{tree.name}: {done.stderr}")
    found = msgspec.json.decode(done.stdout, type=cost.Costs)
    if found.passed:
        kept.parent.mkdir(parents=True, exist_ok=True)
        kept.write_text(done.stdout, encoding="utf-8")
    return found


def page(found: Mapping[str, cost.Costs]) -> str:
    """The page: a table for each release and mode, and the places of all waits."""
    return "\n".join([HEAD, *_tables(found), WAITS + "\n".join(_waits(found))]) + "\n"


def _tables(found: Mapping[str, cost.Costs]) -> Iterator[str]:
    for release, costs in found.items():
        versions = ", ".join(f"{name} {version}" for name, version in costs.versions.items())
        yield f"## {release}\n\nWith {versions}.\n"
        for way in costs.ways:
            if way.problem:
                yield f"`{way.mode}`: not counted: {way.problem}\n"
                continue
            yield f"| `{way.mode}`: {' | '.join(cost.HEADINGS)} |"
            yield f"| --- |{' ---: |' * (len(cost.HEADINGS) - 1)}"
            yield from (f"| {' | '.join(cost.cells(step))} |" for step in way.steps)
            yield ""


def _waits(found: Mapping[str, cost.Costs]) -> Iterator[str]:
    for release, costs in found.items():
        for way in costs.ways:
            for line in cost.asked(way, everything=False):
                places = "; ".join(line.steps) if len(line.steps) < len(way.steps) else "every step"
                yield f"| {release} | {way.mode} | {line.asks} | `{line.place}` | {places} |"


def main() -> int:
    """Count the releases; exit with 1 where one could not be counted."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=RAW)
    parser.add_argument("releases", nargs="*", help="printed, and the page left alone")
    parser.add_argument("--env", type=Path, required=True, help="torch, torch_npu, transformers")
    parser.add_argument("--old-env", type=Path, help=f"the same, for {', '.join(OLD)}")
    cache = Path(platformdirs.user_cache_dir("vllm-npu-migrate"))
    parser.add_argument("--state", type=Path, default=cache / "costs", help="what was counted")
    options = parser.parse_args()
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        for release in options.releases or RELEASES:
            tree = emitted(release, Path(folder))
            env = options.old_env if release in OLD and options.old_env else options.env
            found[release] = counted(tree, env, options.state)
            shutil.rmtree(tree)
    if options.releases:
        print(page(found), end="")
    else:
        PAGE.write_text(page(found), encoding="utf-8")
    return 0 if all(one.passed for one in found.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
