# SPDX-License-Identifier: Apache-2.0
"""`.is_cuda` in real releases, against an independent count with Python's own parser."""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from migrator.codemod.engine import Record
from migrator.codemod.rule import Status
from migrator.files.tree import DiskTree
from migrator.planning.plan import Plan

pytestmark = pytest.mark.releases

RELEASES = {"0.11.0": (65, 6), "0.18.0": (105, 16), "0.33.0": (361, 119)}
"""Releases → (how often they ask for `.is_cuda`, how many of these are not calls)."""


@dataclass(frozen=True)
class Site:
    """One `<receiver>.is_cuda` of a file."""

    path: str
    line: int
    end_line: int
    receiver: str
    called: bool
    stored: bool


def sites(path: str, data: bytes) -> Iterator[Site]:
    module = ast.parse(data)
    called = {id(n.func) for n in ast.walk(module) if isinstance(n, ast.Call)}
    for node in ast.walk(module):
        if isinstance(node, ast.Attribute) and node.attr == "is_cuda":
            yield Site(
                path,
                node.lineno,
                node.end_lineno or node.lineno,
                ast.unparse(node.value),
                id(node) in called,
                isinstance(node.ctx, ast.Store),
            )


QUICK = ("0.11.0",)


@pytest.fixture(
    scope="module",
    params=[pytest.param(v, marks=[pytest.mark.slow] * (v not in QUICK)) for v in RELEASES],
)
def version(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def pristine(version: str, release: Callable[[str], Path]) -> dict[str, bytes]:
    """Every file of the package that says `.is_cuda`."""
    tree = DiskTree(release(version))
    return {
        entry.path: data
        for entry in tree.entries()
        if entry.path.startswith("vllm/") and entry.path.endswith(".py")
        if (data := tree.read(entry.path)) is not None and b".is_cuda" in data
    }


@pytest.fixture(scope="module")
def found(pristine: dict[str, bytes]) -> list[Site]:
    return [site for path, data in pristine.items() for site in sites(path, data)]


@pytest.fixture(scope="module")
def plan(version: str, release_plan: Callable[[str], Plan]) -> Plan:
    return release_plan(version)


@pytest.fixture(scope="module")
def records(plan: Plan) -> list[Record]:
    return [r for r in plan.records_of("NPU110") if r.status is not Status.MIGRATED]


def test_every_site_is_accounted_for(found: list[Site], records: list[Record]) -> None:
    """Each attribute that is not called has a record on its line, and nothing else has one."""
    asked = Counter((s.path, s.line) for s in found if not s.called)
    said = Counter((r.path, r.before.line) for r in records if r.before is not None)
    assert said == asked


def test_none_waits_for_a_person(records: list[Record]) -> None:
    assert [r for r in records if r.status is Status.MANUAL] == []


def test_skipped_sites_have_a_reason(records: list[Record]) -> None:
    for record in records:
        if record.status is Status.SKIPPED:
            assert record.reason.startswith(
                ("not a tensor: ", "only runs on another device: ", "it is assigned to")
            ), record


def test_platforms_are_never_changed(found: list[Site], records: list[Record]) -> None:
    assert any("platform" in s.receiver for s in found), "the release asks its platform somewhere"
    for record in records:
        if record.status is Status.CHANGED:
            assert "platform" not in record.source


def test_emitted_files(
    plan: Plan, pristine: dict[str, bytes], found: list[Site], records: list[Record]
) -> None:
    """In the emitted files: no tensor's `is_cuda` is left, and every other one is as it was."""
    after = {change.path: change.after for change in plan.files}
    changed = Counter(r.path for r in records if r.status is Status.CHANGED)
    for path, before in pristine.items():
        emitted = after.get(path)
        if emitted is None:
            assert changed[path] == 0, path
            continue
        mine = [s for s in found if s.path == path]
        # Calls are all there, in order; a rule may put another question beside one.
        assert _calls(emitted) == _calls(before), path
        left = Counter((s.receiver, s.called) for s in sites(path, emitted))
        gone = Counter((s.receiver, s.called) for s in mine) - left
        assert not left - Counter((s.receiver, s.called) for s in mine), path
        assert sum(gone.values()) == changed[path], path
        assert not any(called for _, called in gone), path
        compared = _comparisons(emitted) - _comparisons(before)
        assert Counter({receiver: n for (receiver, _), n in gone.items()}) == compared, path


def _calls(data: bytes) -> list[bytes]:
    """The calls of an `is_cuda`, with whose it is."""
    return re.findall(rb"[\w.]+\.is_cuda\([^)]*\)", data)


def _comparisons(data: bytes) -> Counter[str]:
    """Receiver → how often its `.device.type` is compared with the string cuda."""
    return Counter(
        ast.unparse(node.left.value.value)
        for node in ast.walk(ast.parse(data))
        if isinstance(node, ast.Compare)
        and isinstance(node.left, ast.Attribute)
        and node.left.attr == "type"
        and isinstance(node.left.value, ast.Attribute)
        and node.left.value.attr == "device"
        and isinstance(node.comparators[0], ast.Constant)
        and node.comparators[0].value == "cuda"
    )


def test_counts(version: str, found: list[Site], records: list[Record]) -> None:
    changed = [r for r in records if r.status is Status.CHANGED]
    assert (len(found), len(records)) == RELEASES[version]
    assert 0 < len(changed) <= len(records)
    if version == "0.11.0":
        assert len(changed) == len(records) == 6


def test_logits_guard_in_custom_ops(plan: Plan) -> None:
    after = next(c.after for c in plan.files if c.path == "vllm/_custom_ops.py").decode()
    function = after.partition("def apply_repetition_penalties(")[2].partition("\ndef ")[0]
    assert 'logits.device.type == "cuda" and logits.is_contiguous()' in function
    assert "is_cuda" not in function
