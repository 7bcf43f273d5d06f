# SPDX-License-Identifier: Apache-2.0
"""Shows what a rule does while it is being written: to its examples, and to a tree.

python scripts/try_rule.py NPU120                   # does each example come out as it is written?
python scripts/try_rule.py NPU120 vllm==0.11.0      # and what the rule changes in this tree
python scripts/try_rule.py NPU120 --write           # the examples as they come out now

The examples that lie beside a rule (`migrator/rules/examples/`) can be written: put the files
before the change there, each behind its line `@@ PATH @@`, run it with `--write`, and read what it
made of them. Exit code 1: an example comes out in another way than it is written.
"""

from __future__ import annotations

import argparse
import difflib
import inspect
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

from migrator.codemod.engine import migrate_file
from migrator.codemod.rule import Example, File, Finding, Rule, Safety, Status, migrated
from migrator.files.sources import open_source
from migrator.files.tree import Tree
from migrator.planning.plan import make_plan
from migrator.rules import all_rules


class Needy(Rule):
    """Stands for the rules whose code needs what an import rule provides."""

    code = "NPU000"
    safety = Safety.EQUIVALENT
    triggers = ()
    need: str

    def check(self, file: File) -> Iterator[Finding]:
        """Need it."""
        yield migrated("<module>", file.module, [self.need])


def run(rule: Rule, example: Example, source: str) -> tuple[str, list[Status]]:
    """What a rule, with the import rules behind it, makes of a file in the place of an example's.

    Args:
        rule: the rule.
        example: where the file lies, and beside which others.
        source: the file.

    Returns:
        The file after the rule, and what became of the rule's sites in it.
    """
    files = {path: text.encode() for path, text in example.others}
    tree = Tree(files | {example.path: source.encode()})
    rules = [rule, *(r for r in all_rules() if r.provides is not None and r is not rule)]
    if rule.provides is not None:
        needy = Needy()
        needy.need = rule.provides
        rules.append(needy)
    result = migrate_file(example.path, source.encode(), rules, tree)
    if result.failure is not None:
        raise AssertionError(result.failure)
    after = result.after.decode() if result.after is not None else source
    return after, [r.status for r in result.records if r.rule == rule.code]


def as_text(examples: Iterable[Example]) -> str:
    """Examples as `migrator.codemod.rule.examples_of` reads them."""
    lines = []
    for example in examples:
        old = example.before.splitlines(keepends=True)
        new = (example.after if example.after is not None else example.before).splitlines(True)
        lines.append(f"@@ {example.path} @@\n")
        matcher = difflib.SequenceMatcher(None, old, new, autojunk=False)
        for _, start, end, first, last in matcher.get_opcodes():
            if old[start:end] == new[first:last]:
                lines += [f" {line}" if line.strip() else line for line in old[start:end]]
            else:
                lines += [f"-{line}" for line in old[start:end]]
                lines += [f"+{line}" for line in new[first:last]]
    return "".join(lines)


def place_of(rule: Rule) -> Path:
    """Where the examples of a rule lie."""
    source = Path(inspect.getfile(type(rule)))
    return source.parent / "examples" / f"{source.stem}.diff"


def show(rule: Rule, text: str) -> None:
    """Print what a rule changes in a tree, and what becomes of each of its sites.

    Args:
        rule: the rule.
        text: a directory, or a release such as `vllm==0.11.0`.
    """
    helpers = (r for r in all_rules() if r.provides is not None and r is not rule)
    plan = make_plan(open_source(text).tree, [rule, *helpers])
    for change in plan.files:
        old, new = ((data or b"").decode().splitlines() for data in (change.before, change.after))
        print("\n".join(difflib.unified_diff(old, new, change.path, change.path, lineterm="")))
    for record in plan.records:
        if record.rule == rule.code:
            print(f"{record.path}: {record.site}: {record.status.value}, {record.reason}")
    for absent in plan.absent:
        print(f"{absent.site}: not there, for {absent.why}")
    for missing in plan.missing:
        print(f"error: {missing.describe()}")


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("rule", metavar="CODE")
    parser.add_argument("tree", nargs="?", help="a directory or vllm==VERSION")
    parser.add_argument("--write", action="store_true", help="write the examples as they come out")
    options = parser.parse_args(arguments)
    rule = next((r for r in all_rules() if r.code == options.rule.upper()), None)
    if rule is None:
        parser.error(f"there is no rule {options.rule}")
    found, differ = [], 0
    for number, example in enumerate(rule.examples):
        after, _ = run(rule, example, example.before)
        changed = after if after != example.before else None
        found.append(Example(example.before, changed, example.path, example.others))
        wanted = example.after if example.after is not None else example.before
        said = "as written" if after == wanted else "comes out in another way"
        differ += after != wanted
        print(f"{rule.code} example {number}, {example.path}: {said}")
        lines = (wanted.splitlines(), after.splitlines())
        print("".join(f"{line}\n" for line in difflib.unified_diff(*lines, lineterm="")), end="")
    if options.write:
        place_of(rule).write_text(as_text(found), encoding="utf-8")
    if options.tree is not None:
        show(rule, options.tree)
    return 1 if differ and not options.write else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
