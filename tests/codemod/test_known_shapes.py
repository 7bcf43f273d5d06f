# SPDX-License-Identifier: Apache-2.0
"""Sites that nobody has checked: changed, and written as in no known release."""

from __future__ import annotations

import ast
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from migrator.codemod.known_shapes import definition, key, known_shapes, shape, unchecked
from migrator.files.tree import DiskTree
from migrator.planning.plan import Plan, make_plan
from migrator.rules import all_rules
from tests.conftest import RunCli
from tests.trees import SELECT

BEFORE = "def f(x: int, *, y=1):\n    if x and f'{x!r:>3}':\n        return [a for a in y]\n"


def of(text: str) -> str:
    return shape(ast.parse(text).body[0])


@pytest.mark.parametrize(
    "same",
    [
        BEFORE.replace("x: int, *, y=1", "\n    x: int,  # what\n    *,\n    y=1,\n"),
        BEFORE.replace("\n", '\n    """Says something."""\n', 1),
        "\n\n" + BEFORE.replace("    ", "  "),
    ],
)
def test_layout_and_documentation_make_no_shape(same: str) -> None:
    assert of(same) == of(BEFORE)


@pytest.mark.parametrize(
    "other",
    [
        BEFORE.replace("y=1", "y=2"),
        BEFORE.replace("y=1", "y=True"),
        BEFORE.replace("x: int", "x: int, z=None"),
        BEFORE.replace("in y", "in x"),
        BEFORE.replace(">3", ">4"),
        BEFORE.replace("[a for a in y]", "[a for a in y if a]"),
        "async " + BEFORE,
    ],
)
def test_what_is_written_otherwise_has_another_shape(other: str) -> None:
    assert of(other) != of(BEFORE)


def test_a_shape_is_the_same_for_every_python() -> None:
    """Written down: a version of Python that gives another would take every site for a new one."""
    assert of(BEFORE) == "52d4f96e"


def test_every_declared_site_has_known_shapes() -> None:
    """Of a new rule, `scripts/known_shapes.py CODE` adds them."""
    declared = {key(rule, site) for rule in all_rules() for site in rule.sites}
    assert known_shapes().keys() - declared == set(), "no rule declares these any more"
    # Those of which nothing is known are not said to be unchecked.
    assert len(declared - known_shapes().keys()) <= len(declared) // 10


@pytest.mark.releases
@pytest.mark.parametrize("version", ["0.11.0", "0.33.0"])
def test_a_known_release_has_been_checked(
    version: str, release_plan: Callable[[str], Plan], release: Callable[[str], Path]
) -> None:
    plan = release_plan(version)
    assert plan.unchecked == ()
    # And by the file itself, for every site that the release has.
    tree = DiskTree(release(version))
    for rule in all_rules():
        for site in rule.sites:
            place = definition(tree, site)
            known = known_shapes().get(key(rule, site))
            assert place is None or known is None or shape(place.node) in known


def test_only_what_was_changed_is_named(mini_tree: Path) -> None:
    """Of two sites that are changed in the small tree, one is written as in some release."""
    tree = DiskTree(mini_tree)
    rules = [rule for rule in all_rules() if rule.code in ("NPU102", "NPU103")]
    sites = {one.site for one in make_plan(tree, rules).unchecked}
    assert sites == {"rms_norm"}
    assert unchecked(ast.parse(BEFORE), "f.py", rules, [("NPU102", "rms_norm")]) == ()


def test_a_module_in_pieces_is_looked_at_too(
    mini_tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a file that is too long to be parsed at once the same sites are named."""
    rules = [rule for rule in all_rules() if not rule.templates]
    whole = make_plan(DiskTree(mini_tree), rules)
    assert len(whole.unchecked) > 5
    monkeypatch.setattr("migrator.codemod.engine.LARGE", 1000)
    in_pieces = make_plan(DiskTree(mini_tree), rules)
    assert in_pieces.unchecked == whole.unchecked
    assert in_pieces.files == whole.files


def test_they_are_listed(mini_tree: Path, tmp_path: Path, run_cli: RunCli) -> None:
    out = tmp_path / "out"
    done = run_cli("apply", mini_tree, "-o", out, "--select", SELECT)
    log = json.loads((out / "migration-log.json").read_bytes())
    names = ["{path}:{line}: {rule} {site}".format(**one) for one in log["unchecked"]]
    assert names
    said = f"Written as in no known release, so nobody has checked: {len(names)} site"
    assert said in done.err
    assert f"  {names[0]}\n" in done.err
    summary = (out / "MIGRATION.md").read_text("utf-8")
    assert summary.count("\n- NPU102 `rms_norm`, `vllm/_custom_ops.py:") == 1
    again = run_cli("check", out, "--select", SELECT)
    assert "nobody has checked" not in again.err
