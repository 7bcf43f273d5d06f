# SPDX-License-Identifier: Apache-2.0
"""Write migrator/codemod/known_shapes.json: hashes of the forms of sites in the known releases.

    python scripts/known_shapes.py           # all of `releases.KNOWN`, fetched by name
    python scripts/known_shapes.py NPU239    # of these rules alone; the others' stay
    python scripts/known_shapes.py --check   # exit code 1 where the file is not what this writes

A site that only the tool makes, such as NPU401's, has no form in a release.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence

from migrator.codemod.known_shapes import FILE, definition, key, known_shapes, shape
from migrator.files.sources import fetch
from migrator.files.tree import DiskTree
from migrator.reports.releases import KNOWN
from migrator.rules import all_rules


def text(codes: Sequence[str]) -> str:
    """The file's text, made anew for some rules, or for all where none are named."""
    rules = [rule for rule in all_rules() if not codes or rule.code in codes]
    found: dict[str, set[str]] = {key(rule, site): set() for rule in rules for site in rule.sites}
    for release in KNOWN:
        tree = DiskTree(fetch(release))
        for rule in rules:
            for site in rule.sites:
                place = definition(tree, site)
                if place is not None:
                    found[key(rule, site)].add(shape(place.node))
    table = {name: sorted(shapes) for name, shapes in found.items()}
    if codes:
        declared = {key(rule, site) for rule in all_rules() for site in rule.sites}
        others = {name: sorted(s) for name, s in known_shapes().items() if name in declared}
        table = {**others, **table}
    lines = [f"  {json.dumps(name)}: {json.dumps(table[name])}" for name in sorted(table)]
    return "{\n" + ",\n".join(lines) + "\n}\n"


def main(arguments: list[str]) -> int:
    made = text([argument for argument in arguments if not argument.startswith("-")])
    if "--check" in arguments:
        return 0 if FILE.read_text(encoding="utf-8") == made else 1
    FILE.write_text(made, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
