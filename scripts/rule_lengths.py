# SPDX-License-Identifier: Apache-2.0
"""Write how long the rules are, before they stated recipes and now, into CONTRIBUTING.md.

python scripts/rule_lengths.py            # print the table
python scripts/rule_lengths.py --write    # write it
python scripts/rule_lengths.py --each     # print each rule's lines, before and now

A rule is its module. Examples lie beside it and do not count now; before, they were a part of it.
What was before is read from the commit `BEFORE`, so a clone without its history cannot run this.
"""

from __future__ import annotations

import re
import statistics
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
RULES = "migrator/rules"
BEFORE = "77719b8"
"""The last commit in which every rule had its examples and a check of its own."""
BEGIN, END = "<!-- rule lengths: begin -->", "<!-- rule lengths: end -->"


def lengths_now() -> dict[str, int]:
    """Code of each rule of this tree → lines of its module."""
    return {
        path.name[:6].upper(): len(path.read_text(encoding="utf-8").splitlines())
        for path in sorted((ROOT / RULES).glob("npu*.py"))
    }


def lengths_at(commit: str) -> dict[str, int]:
    """The same for a commit."""
    listed = _git("ls-tree", "--name-only", f"{commit}:{RULES}").splitlines()
    return {
        name[:6].upper(): len(_git("show", f"{commit}:{RULES}/{name}").splitlines())
        for name in listed
        if re.fullmatch(r"npu\d+_\w+\.py", name)
    }


def _git(*words: str) -> str:
    return subprocess.run(
        ["git", "-C", str(ROOT), *words], check=True, capture_output=True, text=True
    ).stdout


def row(title: str, lengths: Mapping[str, int]) -> str:
    """One row of the table."""
    longest = max(lengths, key=lambda code: lengths[code])
    above = sum(lines > 200 for lines in lengths.values())
    return (
        f"| {title} | {len(lengths)} | {statistics.median(lengths.values()):g} "
        f"| {lengths[longest]} ({longest}) | {above} | {sum(lengths.values())} |"
    )


def table() -> str:
    """Both rows, as Markdown."""
    head = ("| | Rules | Median of lines | Longest | Above 200 | Lines in all |",)
    rows = (row("before recipes", lengths_at(BEFORE)), row("now", lengths_now()))
    return "\n".join((*head, "| --- | --- | --- | --- | --- | --- |", *rows))


def main(arguments: list[str]) -> int:
    if "--each" in arguments:
        before, now = lengths_at(BEFORE), lengths_now()
        for code in sorted(before | now):
            print(code, before.get(code, "–"), now.get(code, "–"))
        return 0
    if "--write" in arguments:
        place = ROOT / "CONTRIBUTING.md"
        text = place.read_text(encoding="utf-8")
        pattern = re.escape(BEGIN) + r".*?" + re.escape(END)
        block = f"{BEGIN}\n{table()}\n{END}"
        place.write_text(re.sub(pattern, lambda _: block, text, flags=re.DOTALL), encoding="utf-8")
    print(table())
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
