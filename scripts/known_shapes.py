# SPDX-License-Identifier: Apache-2.0
"""Write migrator/known_shapes.json: hashes of the forms that sites have in the known releases.

python scripts/known_shapes.py           # all of `migrator.releases.KNOWN`, fetched by name
python scripts/known_shapes.py --check   # exit code 1 where the file is not what this writes
"""

from __future__ import annotations

import json
import sys

from migrator.releases import KNOWN
from migrator.rules import all_rules
from migrator.shapes import FILE, definition, key, shape
from migrator.sources import fetch
from migrator.tree import DiskTree


def text() -> str:
    """The file's text."""
    # A site that only the tool makes, such as NPU401's, has no form in a release.
    found: dict[str, set[str]] = {key(r, site): set() for r in all_rules() for site in r.sites}
    for release in KNOWN:
        tree = DiskTree(fetch(release))
        for rule in all_rules():
            for site in rule.sites:
                place = definition(tree, site)
                if place is not None:
                    found[key(rule, site)].add(shape(place.node))
    table = {name: sorted(shapes) for name, shapes in sorted(found.items())}
    lines = [f"  {json.dumps(name)}: {json.dumps(shapes)}" for name, shapes in table.items()]
    return "{\n" + ",\n".join(lines) + "\n}\n"


def main(arguments: list[str]) -> int:
    made = text()
    if "--check" in arguments:
        return 0 if FILE.read_text(encoding="utf-8") == made else 1
    FILE.write_text(made, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
