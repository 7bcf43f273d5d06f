# SPDX-License-Identifier: Apache-2.0
"""Every rule's examples: the text after is what comes out, and a second run changes nothing."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from migrator.engine import migrate_file
from migrator.rule import Example, File, Finding, Rule, Safety, Status, migrated
from migrator.rules import all_rules
from migrator.tree import Tree

EXAMPLES = [
    pytest.param(rule, example, id=f"{rule.code}-{number}")
    for rule in all_rules()
    for number, example in enumerate(rule.examples)
]


class Needy(Rule):
    """Stands for the rules whose code needs what an import rule provides."""

    code = "NPU000"
    safety = Safety.EQUIVALENT
    triggers = ()
    need: str

    def check(self, file: File) -> Iterator[Finding]:
        yield migrated("<module>", file.module, [self.need])


def run(rule: Rule, example: Example, source: str) -> tuple[str, list[Status]]:
    files = {path: text.encode() for path, text in example.others}
    tree = Tree(files | {example.path: source.encode()})
    rules = [rule, *(r for r in all_rules() if r.provides is not None and r is not rule)]
    if rule.provides is not None:
        needy = Needy()
        needy.need = rule.provides
        rules.append(needy)
    result = migrate_file(example.path, source.encode(), rules, tree)
    assert result.failure is None
    after = result.after.decode() if result.after is not None else source
    return after, [r.status for r in result.records if r.rule == rule.code]


@pytest.mark.parametrize(("rule", "example"), EXAMPLES)
def test_example(rule: Rule, example: Example) -> None:
    after, statuses = run(rule, example, example.before)
    assert after == (example.after if example.after is not None else example.before)
    if example.after is not None:
        assert Status.CHANGED in statuses


@pytest.mark.parametrize(("rule", "example"), EXAMPLES)
def test_second_run_changes_nothing(rule: Rule, example: Example) -> None:
    after, _ = run(rule, example, example.before)
    again, statuses = run(rule, example, after)
    assert again == after
    assert Status.CHANGED not in statuses


@pytest.mark.parametrize("rule", all_rules(), ids=lambda rule: rule.code)
def test_rule_is_documented(rule: Rule) -> None:
    assert rule.summary.endswith(".")
    for heading in ("What it does", "Why", "Example", "Safety"):
        assert rule.section(heading), f"{rule.code} has no section {heading}"
    assert rule.examples or rule.templates
