# SPDX-License-Identifier: Apache-2.0
"""Migrate real vLLM releases and write docs/releases.md: a table of release by rule.

For each release: `apply` into a new directory, a second `apply --in-place` that must change
nothing, `check`, `python -W error -m compileall`, `verify` against the torch_npu that fits, and the
linters that the release pins. The section about these is `lint_table.py`'s, and is kept. The
command's exit code is 1 if any fails.

    python scripts/release_table.py            # the 29 releases of the table, fetched by name
    python scripts/release_table.py --quick    # 13 of them
    python scripts/release_table.py 0.11.0     # only these, printed and not written
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from lint_table import kept_section, lint_emitted, summary
from tool import ROOT, command, digest

from migrator.files.sources import fetch
from migrator.files.tree import LOG_NAME
from migrator.reports.log import Log, read_log
from migrator.reports.releases import KNOWN
from migrator.rules import all_rules

WORKERS = 2
"""Releases at work at once."""
TABLE = ROOT / "docs" / "releases.md"
QUICK = (
    "0.9.2 0.10.2 0.11.0 0.11.2 0.13.0 0.16.0 0.18.0 0.21.0 0.23.0 0.26.0 0.29.0 0.32.0 0.33.0"
).split()


@dataclass(frozen=True)
class Outcome:
    """What became of one release."""

    release: str
    log: Log | None
    problems: tuple[str, ...]
    upstream: tuple[str, ...] = ()
    """Files of the release that fail to compile with warnings as errors, untouched by rules."""


def migrate(release: str, scratch: Path) -> Outcome:
    """Apply, apply again, compile and check one release."""
    source, target = fetch(release), scratch / release
    problems = []
    first = command("apply", source, "-o", target)
    if first.returncode != 0:
        return Outcome(release, None, (f"apply exits {first.returncode}: {first.stderr[-600:]}",))
    before = digest(target)
    second = command("apply", target, "--in-place", "--force", "-q")
    if second.returncode != 0 or digest(target) != before:
        problems.append(f"a second apply changes the tree (exit {second.returncode})")
    checked = command("check", target, "-q")
    if checked.returncode != 0:
        problems.append(f"check exits {checked.returncode}")
    verified = command("verify", target, "-q")
    if verified.returncode != 0:
        problems.append(f"verify: {(verified.stdout + verified.stderr)[-600:]}")
    compiled = subprocess.run(
        [sys.executable, "-W", "error", "-m", "compileall", "-q", "-f", str(target / "vllm")],
        capture_output=True,
        text=True,
        check=False,
    )
    log = read_log((target / LOG_NAME).read_bytes())
    # 0.17.1 has an invalid escape of its own in a file that no rule touches.
    changed = {str(target / entry.path) for entry in log.files}
    failed = set(re.findall(r"Error compiling '([^']+)'", compiled.stdout))
    if failed & changed or (compiled.returncode != 0 and not failed):
        problems.append(f"compileall: {compiled.stdout[-400:]}")
    worse = summary(lint_emitted(source, target))
    problems += [f"its linters find more than before in {line}" for line in worse]
    return Outcome(release, log, tuple(problems), tuple(sorted(failed - changed)))


def table(outcomes: list[Outcome]) -> str:
    """The table in Markdown: sites changed, `–` where the release is known not to have the site."""
    lines = [
        "# Releases",
        "",
        "Made by `python scripts/release_table.py`: sites that each rule changes in each release.",
        "For every release `apply` exits 0, a second `apply --in-place` changes nothing, `check` "
        "finds nothing",
        "pending, `python -W error -m compileall` passes, and `verify` has no findings against the "
        "torch_npu that",
        "fits. `–`: the rule has no site there, for a known reason (`vllm-npu-migrate explain "
        "CODE`).",
        "",
        "| Rule | " + " | ".join(outcome.release for outcome in outcomes) + " |",
        "| --- |" + " ---: |" * len(outcomes),
    ]
    for rule in all_rules():
        cells = []
        for outcome in outcomes:
            entry = (
                next((r for r in outcome.log.rules if r.code == rule.code), None)
                if (outcome.log)
                else None
            )
            cells.append("failed" if entry is None else str(entry.changed or "–"))
        lines.append(f"| {rule.code} {rule.name} | " + " | ".join(cells) + " |")
    files = [str(len(o.log.files)) if o.log else "failed" for o in outcomes]
    lines.append("| *files added or changed* | " + " | ".join(files) + " |")
    skipped = [
        str(sum(e.kind == "skipped" for e in o.log.left_alone)) if o.log else "failed"
        for o in outcomes
    ]
    lines.append("| *sites skipped, with reasons* | " + " | ".join(skipped) + " |")
    return "\n".join(lines) + "\n"


def main(arguments: list[str]) -> int:
    asked = [a for a in arguments if not a.startswith("-")]
    releases = asked or (QUICK if "--quick" in arguments else KNOWN)
    outcomes = []
    with tempfile.TemporaryDirectory() as scratch, ThreadPoolExecutor(WORKERS) as pool:
        for outcome in pool.map(lambda release: migrate(release, Path(scratch)), releases):
            outcomes.append(outcome)
            state = "; ".join(outcome.problems) or "ok"
            if outcome.upstream:
                state += f" (upstream's own warnings in {len(outcome.upstream)} file)"
            print(f"{outcome.release}: {state}", file=sys.stderr, flush=True)
            shutil.rmtree(Path(scratch) / outcome.release, ignore_errors=True)
    text = table(outcomes)
    if asked:
        print(text, end="")
    else:
        TABLE.write_text(text + kept_section(TABLE), encoding="utf-8")
        print(f"wrote {TABLE.relative_to(ROOT)}", file=sys.stderr)
    return 1 if any(outcome.problems for outcome in outcomes) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
