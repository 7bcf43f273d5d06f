# SPDX-License-Identifier: Apache-2.0
"""Let real releases drift under every rule with declared sites, and write docs/drift.md.

For each declared site: the function that the rule edits is renamed, its signature changed, its file
moved, its class renamed, its class deleted. `check --against` has to say so each time, with what
became of the definition as its first candidate. The command's exit code is 1 where it does not.

    python scripts/drift_table.py              # writes the table
    python scripts/drift_table.py 0.18.0       # only this release, printed and not written
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from migrator.files.sources import fetch  # noqa: E402
from migrator.files.tree import DiskTree  # noqa: E402
from migrator.rules import all_rules  # noqa: E402 - the tests' package lies beside this script's
from tests.liveness.drifts import Drift, Release, cases, problem, targets  # noqa: E402

PAGE = ROOT / "docs" / "drift.md"
RELEASES = ("0.11.0", "0.33.0")


@dataclass(frozen=True)
class Row:
    """What became of one drift of one site in one release."""

    release: str
    rule: str
    site: str
    drift: Drift
    problem: str | None


def rows(release: str) -> Iterator[Row]:
    """Every drift of every declared site of a release."""
    source = Release(DiskTree(fetch(release)))
    for rule in all_rules():
        if not rule.sites:
            continue
        for target in targets(rule, source.column(rule)):
            for case in cases(target):
                wrong = problem(case, source.said(case))
                yield Row(release, rule.code, case.site.name, case.drift, wrong)


def table(found: Sequence[Row]) -> str:
    """The table in Markdown."""
    releases = list(dict.fromkeys(row.release for row in found))
    sites = sorted({(row.rule, row.site) for row in found})
    right = sum(row.problem is None for row in found)
    lines = [
        "# Drift",
        "",
        "Made by `python scripts/drift_table.py`. In real trees of "
        f"{' and '.join(releases)} one definition that a rule needs",
        "is changed by a script, and the drifted tree is compared with the release, as "
        "`check TREE --against RELEASE` does.",
        "`✓`: it is reported, with what became of the definition as the first candidate (for a "
        "deleted class: as gone).",
        "`–`: there is nothing to change, as the site is no function or not in a class. "
        "A cell has a mark for each release that has the site.",
        "",
        f"{right} of {len(found)} are reported right.",
        "",
        "| Rule | Site | " + " | ".join(drift.value for drift in Drift) + " |",
        "| --- | --- |" + " :---: |" * len(Drift),
    ]
    for rule, site in sites:
        cells = []
        for drift in Drift:
            here = [r for r in found if (r.rule, r.site, r.drift) == (rule, site, drift)]
            cells.append(" ".join("✗" if r.problem else "✓" for r in here) or "–")
        lines.append(f"| {rule} | `{site}` | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    help_text = f"print the table of these only [default: write that of {', '.join(RELEASES)}]"
    parser.add_argument("releases", nargs="*", metavar="RELEASE", help=help_text)
    asked = parser.parse_args(arguments).releases
    found: list[Row] = []
    for release in asked or RELEASES:
        for row in rows(release):
            found.append(row)
            if row.problem is not None:
                print(
                    f"{row.release} {row.rule} {row.site}, {row.drift.value}: {row.problem}",
                    file=sys.stderr,
                    flush=True,
                )
        print(f"{release}: {sum(r.release == release for r in found)} drifts", file=sys.stderr)
    text = table(found)
    if asked:
        print(text, end="")
    else:
        PAGE.write_text(text, encoding="utf-8")
        print(f"wrote {PAGE.relative_to(ROOT)}", file=sys.stderr)
    return 1 if any(row.problem for row in found) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
