# SPDX-License-Identifier: Apache-2.0
"""Survey real releases and write docs/coverage.md: what no rule claims, and what is new.

python scripts/coverage_table.py                 # writes the page
python scripts/coverage_table.py 0.18.0          # one release, printed and not written
python scripts/coverage_table.py 0.33.0:0.32.0   # what 0.33.0 has and 0.32.0 has not
"""

from __future__ import annotations

import os
import sys
from collections import Counter
from pathlib import Path

from migrator.coverage import Grade, Survey, survey
from migrator.coverage.render import DESCRIPTIONS
from migrator.coverage.surface import Kind
from migrator.files.sources import fetch
from migrator.files.tree import DiskTree

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "coverage.md"
RUNS = ("0.11.0", "0.18.0", "0.33.0", "0.33.0:0.32.0")
INTRODUCTION = """\
# Coverage

`vllm-npu-migrate coverage SRC` lists the code of a release that is made for another accelerator
and that no rule claims; with `--since OLD_SRC`, only what is new since then. Made by
`python scripts/coverage_table.py`.

Each site has one of three grades:

- **reachable**: a static graph leads from vLLM's entry points, the NPU's own files and vLLM's
  table of models to the function, and no condition in the function keeps an NPU from the site.
  `via` names callers.
- **guarded**: the function is reached, but the site lies behind a condition that is false on an
  NPU (`current_platform.is_cuda()`, `x.is_cuda`, `HAS_TRITON`), after an import that fails
  there, or in an annotation.
- **unreachable**: nothing leads to the function or its module, or the module is another
  platform's, another attention backend's, a quantisation method's, or another part that the NPU
  platform turns off.

The graph is approximate, and leans to saying *reachable*: a method counts as called where any
code that runs asks any object for its name and its class is in use; switches such as
`envs.VLLM_…` and the configuration are taken as unknown, so what only some models or options
need is reachable too. It does not see `__getattr__`, plugins, and names that are put together
at run time.

A site is **claimed** where a rule changes it, reports it as migrated, or leaves it alone for a
reason. In a function that a rule rewrites, what an NPU still comes to is not claimed. Two sites
are the same from one release to the next if file, function, kind and source are; code that
moved to another file, or whose function was renamed, is not new.

The numbers are checked by a second count that reads tokens and builds no syntax tree
(`tests/coverage/surface_count.py`).
"""


def table(found: Survey) -> str:
    """One survey in Markdown."""
    title = f"## {found.release}"
    text = f"An NPU imports {found.imported} of {found.modules} modules."
    if found.since is not None:
        title += f" since {found.since.removeprefix('vllm-')}"
        text = f"{found.known} sites were there before; these are new."
    lines = [
        title,
        "",
        text,
        "",
        "| Kind | What it is | " + " | ".join(g.value for g in Grade) + " | claimed |",
        "| --- | --- |" + " ---: |" * (len(Grade) + 1),
    ]
    totals: Counter[Grade] = Counter()
    for kind, counts in found.counts().items():
        totals.update(counts)
        cells = [str(counts[grade] or "–") for grade in Grade]
        claimed = str(found.claimed.get(kind, 0) or "–")
        lines.append(_row(f"`{kind.value}`", DESCRIPTIONS[kind], *cells, claimed))
    cells = [str(totals[grade]) for grade in Grade]
    lines.append(_row("all", "", *cells, str(sum(found.claimed.values()))))
    return "\n".join(lines) + "\n"


def _row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def run(text: str) -> Survey:
    """A release, or `NEW:OLD`."""
    new, _, old = text.partition(":")
    older = DiskTree(fetch(old)) if old else None
    return survey(DiskTree(fetch(new)), older=older, jobs=os.cpu_count() or 1)


def main(arguments: list[str]) -> int:
    tables = []
    for text in arguments or RUNS:
        found = run(text)
        tables.append(table(found))
        failed = ", ".join(path for path, _ in found.failures)
        print(f"{text}: {len(found.items)} sites{failed and f'; not read: {failed}'}")
    if arguments:
        print("\n".join(tables), end="")
    else:
        PAGE.write_text("\n".join([INTRODUCTION, *tables]), encoding="utf-8")
        print(f"wrote {PAGE.relative_to(ROOT)}; {len(Kind)} kinds")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
