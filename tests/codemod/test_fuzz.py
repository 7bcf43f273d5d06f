# SPDX-License-Identifier: Apache-2.0
"""A fixed slice of what scripts/fuzz.py does for an hour, and that it notices what it looks for."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import libcst as cst
import pytest

from migrator.codemod.rule import File, Finding, Replace, Rule, Safety, changed
from migrator.files.tree import DiskTree, Tree
from tests import fuzzing, hostile
from tests.fuzzing import Case
from tests.trees import MINI


def test_mutated_files() -> None:
    """Files of the small tree and the rules' examples, mutated: every property holds."""
    mini = DiskTree(MINI)
    inputs = [
        (f"{code} {number}", e.path, e.before.encode(), Tree({p: t.encode() for p, t in e.others}))
        for code, e in fuzzing.examples()
        for number in range(2)
    ]
    inputs += [
        (entry.path, entry.path, mini.read(entry.path) or b"", mini)
        for entry in mini.entries()
        if entry.path.endswith(".py")
    ]
    rewritten = 0
    for seed, path, data, tree in inputs:
        # Each has its own seed, so that a new rule changes nothing for the others.
        data, notes = fuzzing.mutated(random.Random(seed), data, ())
        case = Case("mutated", path, data, fuzzing.rules_for(path), tree)
        assert fuzzing.broken(case) is None, (notes, data)
        rewritten += fuzzing.run(case, data).after is not None
    assert rewritten > 30, "most of the inputs reach a rule"


def test_a_seed_gives_the_same_inputs() -> None:
    data = (MINI / "vllm/_custom_ops.py").read_bytes()

    def draw() -> list[bytes]:
        rng = random.Random(5)
        return [fuzzing.mutated(rng, data, [3, 9])[0] for _ in range(30)]

    first = draw()
    assert first == draw()
    assert len(set(first)) > 20


@pytest.mark.usefixtures("kept_results")
@pytest.mark.parametrize("seed", [1, 2])
def test_some_hostile_trees(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    monkeypatch.chdir(tmp_path)
    here = tmp_path / "here"
    here.mkdir()
    rng = random.Random(seed)
    runs, wrong = hostile.judge(here, hostile.draw(rng), rng)
    assert wrong is None
    assert runs >= 4


# ---- the fuzzer notices ----------------------------------------------------------------------


class Bad(Rule):
    """Breaks what it is told to break."""

    code = "NPU998"
    safety = Safety.EQUIVALENT
    triggers = (r"x",)
    how = ""

    def check(self, file: File) -> Iterator[Finding]:
        name = file.module.body[0]
        if self.how == "raises":
            raise LookupError("oh")
        if self.how == "more":
            last = file.module.body[-1]
            assert isinstance(last, cst.SimpleStatementLine)
            yield changed("<module>", name, "", Replace(last, lambda node: _pass(node)))
        if self.how == "again":
            yield changed("<module>", name, "", Replace(name, lambda node: _longer(node)))
        if self.how == "unparsable":
            yield changed("<module>", name, "", Replace(name, lambda node: _await(node)))


def _pass(node: cst.CSTNode) -> cst.CSTNode:
    return cst.parse_statement("pass")


def _longer(node: cst.CSTNode) -> cst.CSTNode:
    return cst.parse_statement(cst.Module([node]).code.strip() + "x")  # type: ignore[list-item]


def _await(node: cst.CSTNode) -> cst.CSTNode:
    return cst.parse_statement("return x")


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("raises", "crash: NPU998 cannot cope"),
        ("more", "line 3 went, and no record says so"),
        ("again", "a second run changes something"),
        ("unparsable", "the output does not compile"),
        ("", None),
    ],
)
def test_what_breaks_is_noticed(
    monkeypatch: pytest.MonkeyPatch, how: str, said: str | None
) -> None:
    bad = Bad()
    monkeypatch.setattr(bad, "how", how)
    monkeypatch.setattr(fuzzing, "rules_by_code", lambda: {"NPU998": bad})
    case = Case("mutated", "vllm/x.py", b"x\ny\nz\n", ("NPU998",), Tree({}))
    found = fuzzing.broken(case)
    if said is None:
        assert found is None
    else:
        assert found is not None
        assert found.startswith(said)


def test_smaller() -> None:
    data = b"\n".join(b"line %d with words" % n for n in range(200))
    small = fuzzing.smaller(data, lambda d: b"line 77" in d and b"words" in d)
    assert small == b"line 77 words"
