# SPDX-License-Identifier: Apache-2.0
"""Every rule's examples: the text after is what comes out, and a second run changes nothing."""

from __future__ import annotations

import statistics
import sys
from pathlib import Path

import pytest

from migrator.codemod.rule import Example, Rule, Status, examples_of
from migrator.rules import all_rules

sys.path.append(str(Path(__file__).resolve().parents[2] / "scripts"))

import rule_lengths
import try_rule

EXAMPLES = [
    pytest.param(rule, example, id=f"{rule.code}-{number}")
    for rule in all_rules()
    for number, example in enumerate(rule.examples)
]


@pytest.mark.parametrize(("rule", "example"), EXAMPLES)
def test_example(rule: Rule, example: Example) -> None:
    after, statuses = try_rule.run(rule, example, example.before)
    assert after == (example.after if example.after is not None else example.before)
    if example.after is not None:
        assert Status.CHANGED in statuses


@pytest.mark.parametrize(("rule", "example"), EXAMPLES)
def test_second_run_changes_nothing(rule: Rule, example: Example) -> None:
    after, _ = try_rule.run(rule, example, example.before)
    again, statuses = try_rule.run(rule, example, after)
    assert again == after
    assert Status.CHANGED not in statuses


@pytest.mark.parametrize("rule", all_rules(), ids=lambda rule: rule.code)
def test_rule_is_documented(rule: Rule) -> None:
    assert rule.summary.endswith(".")
    for heading in ("What it does", "Why", "Example", "Safety"):
        assert rule.section(heading), f"{rule.code} has no section {heading}"
    assert rule.examples or rule.templates


def test_examples_beside_a_rule_have_one() -> None:
    places = {try_rule.place_of(rule) for rule in all_rules()}
    beside = set(next(iter(places)).parent.iterdir())
    assert beside <= places, "no rule has the name of these"
    stated = [rule.code for rule in all_rules() if not rule.examples and not rule.templates]
    assert stated == []


@pytest.mark.parametrize("rule", all_rules(), ids=lambda rule: rule.code)
def test_examples_are_written_as_they_are_read(rule: Rule) -> None:
    place = try_rule.place_of(rule)
    text = try_rule.as_text(rule.examples)
    assert examples_of(text) == tuple(rule.examples)
    if place.exists():
        assert place.read_text(encoding="utf-8") == text


def test_what_examples_say() -> None:
    text = "@@ vllm/a.py @@\n one\n\n-two\n+three\n@@ vllm/b.py @@\n four\n"
    assert examples_of(text) == (
        Example("one\n\ntwo\n", "one\n\nthree\n", "vllm/a.py"),
        Example("four\n", None, "vllm/b.py"),
    )


@pytest.mark.parametrize("text", [" one\n", "@@ vllm/a.py @@\none\n", "@@ vllm/a.py\n one\n"])
def test_examples_that_cannot_be_read(text: str) -> None:
    with pytest.raises(ValueError, match=r"^line \d"):
        examples_of(text)


def test_rules_stay_short() -> None:
    """What takes more lines is a recipe, or lies beside the rules for several of them."""
    lengths = rule_lengths.lengths_now()
    assert len(lengths) == len(all_rules())
    assert statistics.median(lengths.values()) < 80
    assert [code for code, lines in lengths.items() if lines > 200] == []
