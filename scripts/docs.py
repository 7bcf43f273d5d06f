# SPDX-License-Identifier: Apache-2.0
"""Writes what is generated in documents: the table of rules, JSON Schemas, the picture.

The pages of the site that are made from the code are written nowhere: mkdocs makes them anew each
time. Here they are only tried, so that a rule that has no family fails before the site is built.

python scripts/docs.py            # write
python scripts/docs.py --check    # exit 1 where a document is out of date
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

import docs_pages
import picture

from migrator.cli.schemas import schemas
from migrator.rules import all_rules

ROOT = Path(__file__).resolve().parent.parent
BEGIN, END = "<!-- rules: begin -->", "<!-- rules: end -->"


def rules_table() -> str:
    """The rules as a Markdown table."""
    lines = ["| Rule | Name | Safety | What it does |", "| --- | --- | --- | --- |"]
    lines += [f"| {r.code} | {r.name} | {r.safety.value} | {r.summary} |" for r in all_rules()]
    return "\n".join(lines)


def documents() -> dict[Path, str]:
    """Path → the text that it should have."""
    migration = ROOT / "MIGRATION.md"
    text = migration.read_text(encoding="utf-8")
    block = f"{BEGIN}\n{rules_table()}\n{END}"
    pattern = re.escape(BEGIN) + r".*?" + re.escape(END)
    return {
        migration: re.sub(pattern, lambda _: block, text, flags=re.DOTALL),
        **{ROOT / "docs" / name: text.decode() for name, text in schemas().items()},
        picture.PAGE: picture.picture(),
    }


def main(arguments: list[str]) -> int:
    docs_pages.generated_pages()
    stale = []
    for path, text in documents().items():
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            stale.append(path)
            if "--check" not in arguments:
                path.write_text(text, encoding="utf-8")
    for path in stale:
        print(f"{path.relative_to(ROOT)}: {'out of date' if '--check' in arguments else 'written'}")
    return 1 if stale and "--check" in arguments else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
