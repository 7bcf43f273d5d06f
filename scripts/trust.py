# SPDX-License-Identifier: Apache-2.0
"""Writes docs/trust.md from what fuzz.py, kill_table.py and mutation_score.py measured.

Their outcomes lie in docs/trust/. What was seen when surviving mutants were looked at stands in
docs/trust/survivors.json, by the text of the change.

    python scripts/trust.py            # write
    python scripts/trust.py --check    # exit 1 where the document is out of date
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import fuzz
import kill_table
import msgspec

ROOT = Path(__file__).resolve().parents[1]
DATA = ROOT / "docs/trust"
DOCUMENT = ROOT / "docs/trust.md"

HEAD = """\
# Trust

A tool that rewrites a source tree must not break it. This page tells what was tried to make it,
and what came of it. It is written by `python scripts/trust.py`; the numbers are those of the
runs named.
"""

FUZZ = """\
## Inputs that nobody wrote

`python scripts/fuzz.py --minutes {minutes} --seed {seed}`: commit {commit}, Python {python},
{wall} of wall time on a machine that was doing other things, {cpu} of CPU time, {slices} slices.

{table}
*generated*: modules by hypothesmith, through every rule alone and all together. *grafted*:
generated statements in the rules' examples. *mutated*: files of real releases with statements
deleted, doubled and swapped, names and parameters changed, other indentation, encodings, line
ends, byte order marks, form feeds, deep nesting, long lines, odd characters, f-strings,
`match`, decorators, semicolons and continued lines. *trees*: hostile trees through `check`,
`diff`, `apply` and `apply --in-place`; a run is one command there. A refused input is one that
Python or LibCST does not take; it stays as it is and is named.

For every input: no crash and no hang; an output parses, and compiles where the input did; no
line goes outside of the functions and statements that the log names; where no rule matched, no
byte changes; a second run changes
nothing; the CUDA side of a real module is what it was, by partial evaluation; nothing is
written outside of the output, and nothing of the tree is run.

{failures}
`tests/codemod/test_fuzz.py` runs a fixed slice of this, `tests/planning/test_hostile_trees.py`
every hostile tree.
"""

KILLS = """\
## Interrupts and kills

`python scripts/kill_table.py`: commit {commit}, {cpu} of CPU time. A child gets the signal at
every line of the writer, and before every system call by which it makes, changes or removes a
file, directory or lock, one child for each. Then the next run is made.

{table}
*Between* is a tree that SIGKILL met while its files were being put in place, with the decision
to do so on the disk: `check` and `diff` say so, and the next `apply --in-place` finishes it.
Where the system can swap two names, a tree that replaces another is never between; where it
cannot, the old one steps aside for one system call, and the next run puts it back. A *directory
left* is the writer's own, hidden beside the output or in the tree: the next run on the same
output takes its lock, which died with its process, and removes it. *Wrong* is anything else: a
tree between after an interrupt, or a next run that does not end with the new tree and nothing
beside it.

Two runs at once: the second one on an output, or in place on a tree, is refused and says why;
of two that fetch a release, the second one waits and takes what the first unpacked.
"""

MUTANTS = """\
## Mutants

`python scripts/mutation_score.py`: cosmic-ray's operators, each module with its own tests.

{table}
Changes in annotations of functions are not counted, since nothing evaluates them, and of the
others that a binary operator can become one is drawn for each place. A few make no Python, and are
not tried; where many are not, those that are tried are a sample drawn by the seed.

{survivors}
"""


def duration(seconds: int) -> str:
    """Minutes, or seconds where it is less than two."""
    return f"{round(seconds / 60)} min" if seconds >= 120 else f"{seconds} s"


def _fuzz(result: dict[str, Any]) -> str:
    failures = result["failures"]
    if failures:
        said = "Failures:\n\n" + "".join(
            f"- slice {f['slice']}, {f.get('kind', '?')}: {_cell(f['what'])}"
            + (f" ({f['mended']})" if "mended" in f else "")
            + "\n"
            for f in failures
        )
    else:
        said = "No failure.\n"
    return FUZZ.format(
        minutes=result["minutes"],
        seed=result["seed"],
        commit=result["commit"],
        python=result["python"],
        wall=duration(result["wall_seconds"]),
        cpu=duration(result["cpu_seconds"]),
        slices=result["slices"],
        table=fuzz.table(result),
        failures=said,
    )


def _kills(result: dict[str, Any]) -> str:
    rows = msgspec.convert(result["rows"], list[kill_table.Row])
    return KILLS.format(
        commit=result["commit"],
        cpu=duration(result["cpu_seconds"]),
        table=kill_table.table(rows),
    )


def _mutants(results: dict[str, Any], looked_at: dict[str, str]) -> str:
    lines = [
        "| module | mutants | tried | killed | score | commit | seed | CPU |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    survivors = ["| survivor | change | what it is |", "| --- | --- | --- |"]
    for name in sorted(results):
        r = results[name]
        lines.append(
            f"| `{r['path']}` | {r['mutants']} | {r['tried']} | {r['killed']} "
            f"| {r['killed'] / r['tried']:.1%} | {r['commit']} | {r['seed']} "
            f"| {duration(r['cpu_seconds'])} |"
        )
        for s in r["survivors"]:
            what = looked_at.get(f"{s['before']} -> {s['after']}", "not looked at")
            change = f"`{_cell(s['before'])}` becomes `{_cell(s['after'])}`"
            where = f"`{s['definition']}`" if s["definition"] else f"line {s['line']}"
            survivors.append(f"| {name}, {where} | {change} | {_cell(what)} |")
    if len(survivors) == 2:
        survivors = ["No mutant survived."]
    return MUTANTS.format(table="\n".join(lines) + "\n", survivors="\n".join(survivors) + "\n")


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def document() -> str:
    """The page."""
    parts = [HEAD]
    read = {p.stem: json.loads(p.read_bytes()) for p in sorted(DATA.glob("*.json"))}
    if "fuzz" in read:
        parts.append(_fuzz(read["fuzz"]))
    if "kills" in read:
        parts.append(_kills(read["kills"]))
    if "mutations" in read:
        parts.append(_mutants(read["mutations"], read.get("survivors", {})))
    return "\n".join(parts)


def main(arguments: list[str]) -> int:
    text = document()
    if "--check" in arguments:
        if not DOCUMENT.exists() or DOCUMENT.read_text(encoding="utf-8") != text:
            print(f"{DOCUMENT.relative_to(ROOT)} is out of date: run scripts/trust.py")
            return 1
        return 0
    DOCUMENT.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
