# SPDX-License-Identifier: Apache-2.0
"""Liveness: what rules no longer find from one release to the next is said, with where it went."""

from __future__ import annotations

import ast
import dataclasses
import json
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

from migrator.api.plans import choose_rules
from migrator.codemod.candidates import (
    Candidate,
    Kind,
    SignatureChange,
    anchor,
    enclosing,
    fingerprint,
    named_nodes,
    nearest_candidates,
    signature_changes,
    similarity,
)
from migrator.codemod.engine import Record
from migrator.codemod.rule import Rule, Site
from migrator.files.tree import DiskTree, Label, Tree
from migrator.liveness import Change, Column, Level, Liveness, compare, compare_all
from migrator.liveness.render import annotated, render
from migrator.messages.github import commands
from migrator.planning.plan import Plan, make_plan
from migrator.rules import all_rules
from tests.conftest import RunCli
from tests.liveness.drifts import Case, Drift, Release, cases, problem, targets
from tests.trees import MINI, SELECT, copy_mini

OPS = "vllm/_custom_ops.py"
RULES = choose_rules(SELECT.split(","), [])


def rule(code: str) -> Rule:
    return next(r for r in all_rules() if r.code == code)


def column(name: str, files: dict[str, bytes], *codes: str, release: str | None = None) -> Column:
    tree = Tree(files, name)
    tree.label = Label(release)
    return Column(name, tree, make_plan(tree, [rule(code) for code in codes]))


# ---- definitions ----------------------------------------------------------------------------

MODULE = """\
import torch
table = {}
if torch:
    def guarded(x): return x
else:
    def guarded(y): return y
class A:
    field = 1
    def m(self, x):
        def inner(): return x
        return inner
    class B:
        def n(self): return 2
try:
    kind: int = 1
except ImportError:
    other = 2
"""


def test_named_nodes() -> None:
    found = named_nodes(ast.parse(MODULE))
    assert set(found) == {"table", "guarded", "A", "A.m", "A.B", "A.B.n", "kind", "other"}
    guarded = found["guarded"]
    assert isinstance(guarded, ast.FunctionDef)
    assert guarded.args.args[0].arg == "x"


def test_anchor_and_enclosing() -> None:
    tree = Tree({"vllm/a.py": MODULE.encode()})
    found = anchor(tree, "vllm/a.py", "A.forward_oot")
    assert found is not None
    assert (found.name, found.node.lineno) == ("A", 7)
    assert anchor(tree, "vllm/a.py", "Z.m") is None
    assert anchor(tree, "vllm/none.py", "A") is None
    for line, name in ((10, "A.m"), (13, "A.B.n"), (8, "A"), (2, "table")):
        around = enclosing(tree, "vllm/a.py", line)
        assert around is not None
        assert around.name == name
    assert enclosing(tree, "vllm/a.py", 1) is None


def alike(one: str, other: str) -> float:
    def made_of(source: str) -> object:
        ((name, node),) = named_nodes(ast.parse(source)).items()
        return fingerprint(node, name)

    return similarity(made_of(one), made_of(other))  # type: ignore[arg-type]


def test_similarity_is_of_tokens_not_of_names_or_layout() -> None:
    body = "(out, x, eps):\n    return torch.ops._C.norm(out, x, eps) + norm_count[0]\n"
    assert alike("def f" + body, "def quite_another" + body) == 1
    assert alike("def f" + body, "def g" + body.replace(":\n", ":\n    '''Text.'''\n\n")) == 1
    assert alike("def f(n):\n    return f(n - 1)\n", "def g(n):\n    return g(n - 1)\n") == 1
    assert 0.4 < alike("def f" + body, "def f" + body.replace("norm_count[0]", "1")) < 1
    assert alike("def f" + body, "def f():\n    raise NotImplementedError\n") < 0.2


@pytest.mark.parametrize(
    ("old", "new", "came", "went", "other", "breaking"),
    [
        ("a, b", "a, b, c", ("c",), (), (), True),
        ("a, b", "a, b, c=1", ("c",), (), (), False),
        ("a, b", "a, b, *c, **d", ("c", "d"), (), (), False),
        ("a, b", "a", (), ("b",), (), True),
        ("a, b", "a, c", ("c",), ("b",), (), True),
        ("a, b", "b, a", (), (), ("in another order",), True),
        ("a, b", "a, *, b", (), (), ("b is keyword only, was positional",), True),
        ("a, b=1", "a, b", (), (), ("b has no default now",), True),
        ("a, b", "a, b=1", (), (), ("b has a default now",), False),
        ("a: 'X', b", "a: int, b", (), (), (), None),
    ],
)
def test_signature_changes(
    old: str,
    new: str,
    came: tuple[str, ...],
    went: tuple[str, ...],
    other: tuple[str, ...],
    breaking: bool | None,
) -> None:
    before, after = (ast.parse(f"def f({spec}): pass").body[0] for spec in (old, new))
    assert isinstance(before, ast.FunctionDef)
    assert isinstance(after, ast.FunctionDef)
    changes = signature_changes(before, after, "f")
    if breaking is None:
        assert changes == []
    else:
        assert changes == [SignatureChange("f", came, went, other, breaking)]


def test_signatures_of_a_class_are_those_of_its_methods() -> None:
    before, after = (
        ast.parse(f"class A:\n    def m(self, {x}): pass\n    def n(self): pass\n").body[0]
        for x in ("a", "b")
    )
    assert isinstance(before, ast.ClassDef)
    assert isinstance(after, ast.ClassDef)
    (change,) = signature_changes(before, after, "A")
    assert change.describe() == "A.m: parameters b came; a went"


# ---- candidates -----------------------------------------------------------------------------

NORM = b"def rms_norm(out, x, weight, eps):\n    torch.ops._C.rms_norm(out, x, weight, eps)\n"
OTHER = b"def fused(a):\n    for part in a:\n        yield part.shape, part.dtype\n"


def near(new: dict[str, bytes], old: dict[str, bytes]) -> list[Candidate]:
    earlier = Tree(old)
    known = anchor(earlier, OPS, "rms_norm")
    assert known is not None
    return nearest_candidates(Tree(new), Site("rms_norm", (OPS,)), earlier=earlier, known=known)


def test_a_definition_that_was_there_before_is_not_what_the_lost_one_became() -> None:
    twin = NORM.replace(b"rms_norm(out", b"twin_norm(out", 1)
    new = NORM.replace(b"rms_norm(out", b"other_words(out", 1)
    first, second = near({OPS: twin + new}, {OPS: NORM + twin})
    assert (first.kind, first.name) == (Kind.RENAMED, "other_words")
    assert (second.kind, second.name) == (Kind.SIMILAR, "twin_norm")
    (only,) = near({OPS: twin}, {OPS: NORM + twin})
    assert (only.kind, only.name) == (Kind.SIMILAR, "twin_norm")
    assert near({OPS: OTHER}, {OPS: NORM + OTHER}) == []


def test_same_name_with_another_body_is_not_where_it_moved() -> None:
    stranger = b"class Registry:\n    pass\ndef rms_norm():\n    return Registry\n"
    moved = {"vllm/zz/kernels.py": NORM, "vllm/custom_ops.py": stranger, OPS: b""}
    found = near(moved, {OPS: NORM})
    assert [(c.kind, c.path) for c in found] == [(Kind.MOVED, "vllm/zz/kernels.py")]
    # One that the earlier release had as well did not come from there, however alike it is.
    found = near(moved | {"vllm/cpu.py": NORM}, {OPS: NORM, "vllm/cpu.py": NORM})
    assert [(c.kind, c.path) for c in found] == [
        (Kind.MOVED, "vllm/zz/kernels.py"),
        (Kind.SIMILAR, "vllm/cpu.py"),
    ]


def test_moved_and_renamed() -> None:
    new = {OPS: b"", "vllm/ops/norm.py": NORM.replace(b"def rms_norm", b"def normalise")}
    (found,) = near(new, {OPS: NORM})
    assert found.describe() == "vllm/ops/norm.py:1 normalise (moved and renamed)"


def test_changed_signature_says_which_parameters() -> None:
    (found,) = near({OPS: NORM.replace(b"weight, eps)", b"eps, scale)", 1)}, {OPS: NORM})
    assert found.kind is Kind.SIGNATURE
    assert found.describe() == f"{OPS}:1 rms_norm (rms_norm: parameters scale came; weight went)"


def test_without_an_earlier_tree_the_example_of_the_rule_tells() -> None:
    """Of two that are spelled as nearly, the one with the example's parameters comes first."""
    text = (MINI / OPS).read_text(encoding="utf-8")
    lost = text.replace("def rms_norm(", "def rms_normed(").encode()
    lost += b"\n\ndef rms_norms(layer, index, name):\n    return layer[index][name]\n"
    tree = Tree({OPS: lost})
    found = nearest_candidates(tree, rule("NPU102").sites[0], examples=rule("NPU102").examples)
    assert found[0].name == "rms_normed"
    assert nearest_candidates(tree, rule("NPU102").sites[0])[0].name == "rms_norms"


# ---- scripted drift -------------------------------------------------------------------------


def every_case(release: Release, rules: Iterable[Rule]) -> list[Case]:
    return [
        case
        for one in rules
        if one.sites
        for target in targets(one, release.column(one))
        for case in cases(target)
    ]


def test_every_drift_of_the_small_tree_is_reported() -> None:
    release = Release(DiskTree(MINI))
    found = every_case(release, RULES)
    assert {case.drift for case in found} == set(Drift)
    assert len({case.rule.code for case in found}) >= 7
    wrong = {
        (case.rule.code, case.site.name, case.drift.value): said
        for case in found
        if (said := problem(case, release.said(case))) is not None
    }
    assert wrong == {}


@pytest.mark.releases
def test_drifts_of_a_real_release(release: Callable[[str], Path]) -> None:
    source = Release(DiskTree(release("0.11.0")))
    found = every_case(source, [rule(c) for c in ("NPU102", "NPU123", "NPU213", "NPU217")])
    assert len(found) == 17
    assert [problem(case, source.said(case)) for case in found] == [None] * len(found)


@pytest.mark.slow
@pytest.mark.releases
@pytest.mark.parametrize("version", ["0.11.0", "0.18.0", "0.33.0"])
def test_drifts_of_every_rule(version: str, release: Callable[[str], Path]) -> None:
    source = Release(DiskTree(release(version)))
    found = every_case(source, all_rules())
    assert len(found) > 100
    assert {case.rule.code for case in found} >= {
        one.code
        for one in all_rules()
        if any(site.why_absent(source.tree) is None for site in one.sites)
    }
    wrong = [
        f"{case.rule.code} {case.site.name}, {case.drift.value}: {said}"
        for case in found
        if (said := problem(case, source.said(case))) is not None
    ]
    assert wrong == []


# ---- sites that are not declared ------------------------------------------------------------

GUARD = b"""\
import torch


def on_device(x: torch.Tensor, count: int) -> bool:
    if x.is_cuda and count > 1:
        return x.shape[0] == count
    return False
"""
PLAIN = b"import torch\n\n\ndef other(x: torch.Tensor) -> bool:\n    return x.is_cuda\n"
OPS_TEXT = {
    OPS: b"import torch\n\n\ndef apply_repetition_penalties(logits: torch.Tensor):\n"
    b"    if logits.is_cuda and logits.is_contiguous():\n        pass\n"
}


def one_finding(old: dict[str, bytes], new: dict[str, bytes]) -> tuple[Change, Level, str, str]:
    before = column("old", {**OPS_TEXT, **old}, "NPU110", release="0.30.0")
    after = column("new", {**OPS_TEXT, **new}, "NPU110", release="0.31.0")
    (finding,) = compare(before, after)
    first = finding.candidates[0] if finding.candidates else None
    where = f"{first.path} {first.name}" if first else ""
    return finding.change, finding.level, where, finding.message


A, B = "vllm/a.py", "vllm/b/c.py"
LOST = GUARD.replace(b"x: torch.Tensor", b"x")


def test_sites_of_a_rule_that_searches() -> None:
    old = {A: GUARD}
    renamed = GUARD.replace(b"on_device", b"somewhere")
    gone = "the function is gone"
    follows = "; the rule finds it there"
    for new, expected in (
        ({A: renamed}, (Change.RENAMED, Level.NOTE, f"{A} somewhere", f"renamed{follows}")),
        ({B: GUARD}, (Change.MOVED, Level.NOTE, f"{B} on_device", f"moved{follows}")),
        ({A: b"import torch\n"}, (Change.GONE, Level.NOTE, "", gone)),
        ({}, (Change.GONE, Level.NOTE, "", gone)),
    ):
        assert one_finding(old, new) == expected


def test_a_site_whose_function_stayed_without_it() -> None:
    new = {A: GUARD.replace(b"x.is_cuda and ", b"")}
    assert one_finding({A: GUARD}, new) == (
        Change.GONE,
        Level.NOTE,
        "",
        "the source that the rule looks for is gone",
    )


def test_a_site_that_is_there_and_no_longer_found_is_for_a_person() -> None:
    """Here by a name under which the rule skips what is no tensor to it."""
    before = column("old", {**OPS_TEXT, A: GUARD}, "NPU110", release="0.30.0")
    after = column("new", {**OPS_TEXT, A: GUARD}, "NPU110", release="0.31.0")
    kept = tuple(r for r in after.plan.records if r.path != A)
    blind = Column("new", after.tree, _with_records(after, kept))
    (finding,) = compare(before, blind)
    assert (finding.change, finding.level) == (Change.LOST, Level.WARNING)
    moved = Tree({**OPS_TEXT, B: GUARD.replace(b"on_device", b"somewhere")})
    (finding,) = compare(before, Column("new", moved, blind.plan))
    assert (finding.change, finding.level) == (Change.MOVED, Level.WARNING)
    assert finding.candidates[0].describe() == f"{B}:4 somewhere (moved and renamed)"


def _with_records(one: Column, records: tuple[Record, ...]) -> Plan:
    return dataclasses.replace(one.plan, records=records)


def test_fewer_sites_in_a_function() -> None:
    twice = GUARD.replace(b"return False", b"return not x.is_cuda")
    change, level, _, text = one_finding({A: twice}, {A: GUARD})
    assert (change, level) == (Change.FEWER, Level.NOTE)
    assert text == "2 sites before, 1 now: no longer x.is_cuda"


def test_fewer_sites_of_a_declared_one() -> None:
    state = "vllm/distributed/parallel_state.py"
    body = """\
import torch
from vllm.logger import init_logger
def graph_capture(device):
    torch.cuda.synchronize()
    with torch.cuda.stream(torch.cuda.Stream()):
        yield
class GroupCoordinator:
    def graph_capture(self):
        return torch.cuda.current_stream()
"""
    before = column("old", {state: body.encode()}, "NPU210", release="0.30.0")
    after = body.replace("    torch.cuda.synchronize()\n", "").encode()
    later = column("new", {state: after}, "NPU210", release="0.31.0")
    found = [f for f in compare(before, later) if f.site == "graph_capture"]
    assert [(f.change, f.level) for f in found] == [(Change.FEWER, Level.WARNING)]
    assert "3 sites before, 2 now: no longer torch.cuda.synchronize" in found[0].message


def test_a_rule_without_a_site_left_is_dead_though_none_was_declared() -> None:
    class Bare(type(rule("NPU110"))):  # type: ignore[misc]
        sites = ()

    def planned(name: str, text: bytes, release: str) -> Column:
        tree = Tree({A: text}, name)
        tree.label = Label(release)
        return Column(name, tree, make_plan(tree, [Bare()]))

    before, after = planned("old", GUARD, "0.30.0"), planned("new", b"x = 1\n", "0.31.0")
    dead, gone = compare(before, after)
    assert (dead.change, dead.level, dead.message) == (
        Change.DEAD,
        Level.ERROR,
        "1 site before, none now",
    )
    assert gone.level is Level.NOTE
    assert compare_all([after, before]).worst() is Level.ERROR
    assert [f.change for f in compare(after, before)] == []


def test_a_file_that_no_longer_parses() -> None:
    change, level, _, text = one_finding({A: GUARD}, {A: GUARD + b"(x.is_cuda\n"})
    assert (change, level) == (Change.UNREAD, Level.WARNING)
    assert text.startswith(f"{A} cannot be handled: not valid Python")


# ---- known ranges ---------------------------------------------------------------------------


LAYER = "vllm/model_executor/layers/rotary_embedding/base.py"
ROTATES = (
    "class RotaryEmbedding:\n    def forward_cuda(self, positions, query, key{}):\n        ...\n"
)


def ops_of(release: str | None, text: str, more: str = "") -> Column:
    """A release with these functions, whose rotary layer takes `more` parameters."""
    files = {OPS: text.encode(), LAYER: ROTATES.format(more).encode()}
    return column(str(release), files, "NPU101", release=release)


ROPE = "def {}(positions, query, key, head_size, cos_sin_cache, is_neox):\n    pass\n"


def test_a_range_that_the_rule_states_is_no_death() -> None:
    both = ROPE.format("rotary_embedding") + ROPE.format("batched_rotary_embedding")
    one = ROPE.format("rotary_embedding")
    known = compare_all([ops_of("0.12.0", one), ops_of("0.10.2", both)])
    assert [c.name for c in known.columns] == ["0.10.2", "0.12.0"]
    (gone,) = known.findings
    assert (gone.site, gone.change, gone.level) == (
        "batched_rotary_embedding",
        Change.GONE,
        Level.NOTE,
    )
    assert gone.message == (
        "the release has none: vLLM dropped the batched kernel with its LoRA use"
    )
    first, second = (known.cell(rule("NPU101"), c) for c in known.columns)
    assert (first.found, second.found) == (3, 2), "two functions or one, and the file it adds"
    assert second.absent[0].startswith("batched_rotary_embedding: ")
    (lost,) = compare(ops_of("0.10.1", both), ops_of("0.10.2", one, ", offsets"))
    assert (lost.site, lost.level) == ("batched_rotary_embedding", Level.ERROR)
    # A release that nobody has seen is held to the same, and so is a tree that tells no release.
    for release in ("99.1", None):
        (lost,) = compare(ops_of("0.12.0", one), ops_of(release, ROPE.format("rope_")))
        assert lost.describe() == (
            f"NPU101 rotary_embedding: not found in {OPS} (0.12.0 → {release}); "
            f"nearest: {OPS}:1 rope_ (renamed)"
        )


def test_a_site_that_is_left_to_a_person_now_is_said_with_what_became_of_it() -> None:
    path = "vllm/v1/worker/gpu_worker.py"
    text = """\
from vllm.v1.worker.gpu_model_runner import GPUModelRunner


class Worker:
    def init_device(self):
        self.model_runner = self.{0}()

    def {0}(self):
        return GPUModelRunner(self.vllm_config, self.local, self.device)
"""
    before, after = (
        column(name, {path: text.format(hook).encode()}, "NPU212")
        for name, hook in (("one", "_make_model_runner"), ("other", "_choose_runner"))
    )
    (found,) = compare(before, after)
    assert (found.site, found.change, found.level) == (
        "Worker._make_model_runner",
        Change.BY_HAND,
        Level.WARNING,
    )
    assert found.message == "left to a person: it makes its model runner in 0 places"
    assert found.candidates[0].describe() == f"{path}:8 Worker._choose_runner (renamed)"
    assert compare(after, after) == []


def test_missing_in_the_first_release_already() -> None:
    found = compare_all([ops_of("0.12.0", "def rope_(): pass\n")]).findings
    assert [(f.level, f.site) for f in found] == [(Level.ERROR, "rotary_embedding")]


def test_programs_are_told_the_same() -> None:
    one, other = ROPE.format("rotary_embedding"), ROPE.format("rope_")
    liveness = compare_all([ops_of("0.12.0", one), ops_of("0.13.0", other)])
    data = json.loads(_rendered(liveness, "json"))
    assert data["releases"] == [
        {"name": "0.12.0", "release": "0.12.0"},
        {"name": "0.13.0", "release": "0.13.0"},
    ]
    assert [r["sites"]["0.12.0"]["found"] for r in data["rules"]] == [2]
    assert data["rules"][0]["sites"]["0.13.0"]["missing"] == ["rotary_embedding"]
    (finding,) = data["findings"]
    assert finding["candidates"] == [
        {"what": "renamed", "path": OPS, "line": 1, "name": "rope_", "detail": ""}
    ]
    assert (finding["level"], finding["change"]) == ("error", "dead")
    line = commands(annotated(liveness))
    assert line.startswith(f"::error file={OPS},line=1,endLine=1,title=NPU101::NPU101 rotary")
    (result,) = json.loads(_rendered(liveness, "sarif"))["runs"][0]["results"]
    assert (result["ruleId"], result["level"]) == ("NPU101", "error")
    assert result["locations"][0]["physicalLocation"]["region"] == {"startLine": 1, "endLine": 1}


def _rendered(liveness: Liveness, output_format: str) -> str:
    text = render(liveness, output_format)
    assert text is not None
    return text


# ---- the command ----------------------------------------------------------------------------


def test_check_against(tmp_path: Path, run_cli: RunCli) -> None:
    old = copy_mini(tmp_path / "old")
    text = (MINI / OPS).read_bytes()
    dead = copy_mini(tmp_path / "dead", {OPS: text.replace(b"def rms_norm(", b"def norm(")})
    odd = text.replace(b"def rms_norm(", b"def rms_norm(layer, ")
    other = copy_mini(tmp_path / "other", {OPS: odd})
    same = run_cli("check", old, "--against", old, "--select", SELECT)
    assert same.code == 0, same.err
    assert same.out == b""
    header = next(line for line in same.err.splitlines() if line.startswith("rule"))
    assert header.split() == ["rule", "name", "old", "old'"]
    assert next(ln for ln in same.err.splitlines() if "NPU102" in ln).split()[2:] == ["1", "1"]

    done = run_cli("check", dead, "--against", old, "--select", SELECT, "--format", "json")
    assert done.code == 2
    (finding,) = [f for f in json.loads(done.out)["findings"] if f["level"] == "error"]
    assert (finding["rule"], finding["candidates"][0]["name"]) == ("NPU102", "norm")
    assert "NPU102 rms_norm: not found in" in done.err
    assert "norm (renamed)" in done.err

    quiet = run_cli("check", dead, "--against", old, "--select", SELECT, "-q")
    assert quiet.code == 2
    assert len(quiet.err.splitlines()) == 1
    assert quiet.err.startswith(f"Error: {OPS}:")

    person = run_cli("check", other, "--against", old, "--select", "NPU102")
    assert person.code == 1
    assert "parameters layer came" in person.err

    three = run_cli("check", old, "--against", other, dead, "--select", "NPU102")
    assert three.code == 2
    stray = run_cli("check", old, other)
    assert stray.code == 2
    assert "to compare releases: --against" in stray.err


def test_an_adapted_tree_has_every_site_of_its_source(tmp_path: Path, run_cli: RunCli) -> None:
    """A rewritten guard is no longer what the rule searches for; the tree's log knows of it."""
    source = copy_mini(tmp_path / "old", {A: GUARD})
    adapted = tmp_path / "adapted"
    assert run_cli("apply", source, "-o", adapted, "--select", SELECT).code == 0
    done = run_cli("check", adapted, "--against", source, "--select", SELECT, "--format", "json")
    assert done.code == 0, done.err
    data = json.loads(done.out)
    assert data["findings"] == []
    for row in data["rules"]:
        before, now = (row["sites"][name]["found"] for name in ("old", "adapted"))
        assert now >= before, row
    assert "every rule finds its sites" in done.err
    # Of a file that was edited since, nobody knows what the logged lines hold.
    (adapted / A).write_bytes(b"import torch\n")
    done = run_cli("check", adapted, "--against", source, "--select", SELECT, "--format", "json")
    assert [(f["rule"], f["path"], f["change"]) for f in json.loads(done.out)["findings"]] == [
        ("NPU110", A, "gone")
    ]


def test_check_against_what_is_none(tmp_path: Path, run_cli: RunCli) -> None:
    tree = copy_mini(tmp_path / "mini")
    done = run_cli("check", tree, "--against", "nowhere")
    assert done.code == 2
    assert done.err.strip() == (
        "Error: nowhere is neither a directory nor a release; name one, or write vllm==0.11.0"
    )


@pytest.mark.slow
@pytest.mark.releases
def test_no_rule_died_from_one_release_to_the_next(run_cli: RunCli) -> None:
    releases = ("0.9.2", "0.10.2", "0.11.0", "0.13.0", "0.18.0", "0.23.0", "0.29.0", "0.32.0")
    done = run_cli("check", "vllm==0.33.0", "--against", *releases, "--format", "json")
    data = json.loads(done.out)
    assert done.code in (0, 1), [f for f in data["findings"] if f["level"] == "error"]
    assert [r["name"] for r in data["releases"]] == [*releases, "0.33.0"]
    assert not any(c["missing"] for r in data["rules"] for c in r["sites"].values())
