# SPDX-License-Identifier: Apache-2.0
"""Recipes, where no rule's example shows what they do."""

from __future__ import annotations

import libcst as cst
import pytest

from migrator.codemod.engine import migrate_file
from migrator.codemod.matchers import holds_string
from migrator.codemod.recipes.branches import NpuBranch, NpuCall, PlatformBranch, unless_takes
from migrator.codemod.recipes.rewrites import Rewrite, with_elements
from migrator.codemod.rule import Absence, Recipe, Rule, Safety, Site, Status
from migrator.files.tree import Tree
from migrator.rules import all_rules

PATH = "vllm/f.py"
BRANCH = NpuBranch("f", (PATH,), tensor="x", takes=("x",), body="return g(x)\n", reason="why")


def rule_of(*of: Recipe) -> Rule:
    class Stated(Rule):
        """A rule."""

        code = "NPU000"
        recipes = of

    return Stated()


def run(recipe: Recipe, source: str) -> tuple[str, list[tuple[Status, str]]]:
    """What a recipe makes of a file, and what it reports."""
    rules = [rule_of(recipe), *(r for r in all_rules() if r.provides is not None)]
    result = migrate_file(PATH, source.encode(), rules, Tree({PATH: source.encode()}))
    assert result.failure is None
    after = result.after.decode() if result.after is not None else source
    return after, [(r.status, r.reason) for r in result.records if r.rule == "NPU000"]


def test_parameters_that_a_branch_does_not_know() -> None:
    after, found = run(BRANCH, "def f(x, y=None):\n    return h(x)\n")
    assert found == [(Status.CHANGED, "why")]
    assert after == (
        'def f(x, y=None):\n    if x.device.type == "npu":\n        if y is not None:\n'
        '            raise NotImplementedError("f takes no y on an NPU")\n'
        "        return g(x)\n    return h(x)\n"
    )
    for parameters, why in (
        ("x, y=1", "it has parameters that the NPU branch does not know: ['y']"),
        ("y", "it lacks parameters that the NPU branch uses: ['x']"),
    ):
        source = f"def f({parameters}):\n    return h()\n"
        assert run(BRANCH, source) == (source, [(Status.MANUAL, why)])


def test_what_takes_the_place_of_a_branch() -> None:
    recipe = PlatformBranch(
        "f", (PATH,), body="return\n", unless=unless_takes("self", "layer"), reason="why"
    )
    source = "def f(self, x):\n    return h(x)\n"
    assert run(recipe, source) == (source, [(Status.MANUAL, "it takes ['self', 'x']")])


@pytest.mark.parametrize("lacking", ["", "there is no loop"])
def test_a_branch_without_its_statement(lacking: str) -> None:
    """Without words for a person nothing is reported: the engine calls the site missing."""
    recipe = PlatformBranch(
        "f", (PATH,), body="return\n", at=lambda _: None, lacking=lacking, reason="why"
    )
    source = "def f():\n    return 1\n"
    assert run(recipe, source) == (source, [(Status.MANUAL, lacking)] if lacking else [])


def test_a_branch_behind_the_last_statement() -> None:
    recipe = PlatformBranch(
        "f", (PATH,), body="g()\n", at=lambda f: f.body.body[-1], after=True, reason="why"
    )
    after, _ = run(recipe, "from vllm.platforms import current_platform\n\n\ndef f():\n    h()\n")
    assert after.endswith('    h()\n    if current_platform.device_type == "npu":\n        g()\n')
    after, _ = run(recipe, "def f():\n    h()\n")
    assert "    h()\n    from vllm.platforms import current_platform\n" in after
    assert run(recipe, after) == (after, [(Status.MIGRATED, "already migrated")])


def test_a_call_gets_what_the_release_has() -> None:
    recipe = NpuCall(
        "f",
        (PATH,),
        tensor="x",
        takes=("x",),
        optional=("y", "z"),
        module="vllm.npu",
        function="g",
        returns=False,
        reason="why",
    )
    after, _ = run(recipe, "def f(x, z=1):\n    h(x, z)\n")
    assert "from vllm.npu import g\n\n        g(\n" in after
    assert "z=z,\n        )\n        return\n" in after
    assert "y=y" not in after


def test_an_assignment_is_rewritten() -> None:
    recipe = Rewrite(
        "NAMES",
        (PATH,),
        kinds=cst.Set,
        old=lambda _: True,
        new=lambda node: with_elements(node, '"npu"'),
        done=lambda place: holds_string(place.node, "npu"),
        reason="why",
    )
    after, found = run(recipe, 'NAMES = {"cuda"}\n')
    assert (after, found) == ('NAMES = {"cuda", "npu"}\n', [(Status.CHANGED, "why")])
    assert run(recipe, after) == (after, [(Status.MIGRATED, "already migrated")])


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ('{"a"}', '{"a", "b", "c"}'),
        ('("a",)', '("a", "b", "c",)'),
        ('Literal["a"]', 'Literal["a", "b", "c"]'),
        ('{\n    "a",\n}', '{\n    "a",\n    "b",\n    "c",\n}'),
        ('(\n    "a", "x"\n)', '(\n    "a", "x",\n    "b",\n    "c"\n)'),
    ],
)
def test_longer_collections(before: str, after: str) -> None:
    node = with_elements(cst.parse_expression(before), '"b"', '"c"')
    assert cst.Module([]).code_for_node(node) == after


def test_a_rule_takes_from_its_recipes_what_it_does_not_state() -> None:
    absent = (Absence("<1", "it is another way", lambda _: True),)
    second = NpuBranch(
        "C.m", ("vllm/g.py",), tensor="x", body=lambda _: "return\n", reason="", absent=absent
    )
    rule = rule_of(BRANCH, second)
    assert rule.safety is Safety.GUARDED
    assert rule.paths == (PATH, "vllm/g.py")
    assert rule.triggers == (r"def f\b", r"class C\b")
    assert rule.sites == (Site("f", (PATH,)), Site("C.m", ("vllm/g.py",), absent))
    assert rule.section("Example") == (
        '```python\nif x.device.type == "npu":\n    return g(x)\n```'
    )
    assert rule.section("Safety") == BRANCH.promise
    assert rule_of(second).section("Example") == ""


def test_functions_that_are_one_site_are_one() -> None:
    rule = rule_of(
        *(
            NpuBranch(name, (path,), called="f", tensor="x", body="return\n", reason="")
            for name, path in (("f", PATH), ("C.f", "vllm/g.py"))
        )
    )
    assert rule.sites == (Site("f", (PATH, "vllm/g.py")),)
