# SPDX-License-Identifier: Apache-2.0
"""The plan: sites that must be there, releases that explain an absence, the same plan always."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import libcst as cst
import pytest
from packaging.specifiers import SpecifierSet

from migrator.api.plans import choose_rules
from migrator.codemod.candidates import nearest_candidates
from migrator.codemod.engine import migrate_file
from migrator.codemod.rule import (
    Absence,
    File,
    Finding,
    Replace,
    Rule,
    Safety,
    Site,
    Status,
    changed,
    migrated,
)
from migrator.files.tree import DiskTree, Label, Tree
from migrator.messages.errors import MigrateError
from migrator.planning import plan as planning
from migrator.planning.plan import Plan, make_plan
from migrator.rules import all_rules
from tests.conftest import RunCli
from tests.trees import MINI, ODD_FILES, SELECT, copy_mini, snapshot

OPS = "vllm/_custom_ops.py"
RULES = choose_rules(SELECT.split(","), [])


def mini(**changes: bytes | None) -> Tree:
    """The small tree in memory, with other files under keys such as `vllm/x.py`; None removes."""
    tree = DiskTree(MINI)
    files = {e.path: tree.read(e.path) for e in tree.entries()}
    return Tree({p: d for p, d in (files | changes).items() if d is not None})


def ops(old: str, new: str) -> dict[str, bytes]:
    text = (MINI / OPS).read_text(encoding="utf-8")
    assert old in text
    return {OPS: text.replace(old, new).encode()}


def with_release(version: str) -> dict[str, bytes]:
    return {"PKG-INFO": f"Metadata-Version: 2.4\nName: vllm\nVersion: {version}\n".encode()}


# ---- liveness ------------------------------------------------------------------------------


def missing(tree: Tree, code: str) -> str:
    plan = make_plan(tree, [r for r in RULES if r.code == code])
    assert len(plan.missing) == 1
    return plan.missing[0].describe()


def test_nothing_is_missing_in_the_small_tree() -> None:
    plan = make_plan(mini(), RULES)
    assert plan.missing == ()
    assert plan.failures == ()
    assert plan.pending
    assert not plan.left_for_a_person
    assert {a.site for a in plan.absent} == {"batched_rotary_embedding"}


def test_renamed_site() -> None:
    said = missing(mini(**ops("def rms_norm(", "def rms_norm_(")), "NPU102")
    line = (MINI / OPS).read_text(encoding="utf-8").splitlines().index("def rms_norm(") + 1
    assert said.startswith(
        f"NPU102 finds no rms_norm in vllm/_custom_ops.py; nearest: {OPS}:{line} rms_norm_"
    )


def test_moved_site() -> None:
    moved = (MINI / OPS).read_bytes()
    tree = mini(**{OPS: b"", "vllm/kernels/ops.py": moved, "vllm/other.py": b"def f(): pass\n"})
    said = missing(tree, "NPU102")
    assert "nearest: vllm/kernels/ops.py:" in said
    assert said.endswith(" rms_norm (moved)")


def test_moved_method() -> None:
    path = "vllm/model_executor/layers/activation.py"
    text = (MINI / path).read_bytes()
    tree = mini(**{path: None, "vllm/layers/act.py": text, "vllm/a.py": b"class SiluAndMul: 0\n"})
    said = missing(tree, "NPU120")
    assert f"finds no SiluAndMul.forward_oot in {path}; nearest: vllm/layers/act.py:" in said
    assert ", vllm/a.py:1 SiluAndMul" in said


def test_changed_shape() -> None:
    path = "vllm/model_executor/layers/activation.py"
    text = (MINI / path).read_text(encoding="utf-8").replace("forward_cuda", "forward_gpu")
    said = missing(mini(**{path: text.encode()}), "NPU120")
    assert f"{path}:7 SiluAndMul (its shape is not what the rule knows)" in said


def test_gone_site() -> None:
    tree = Tree({"vllm/__init__.py": b"", OPS: b"def unlike(): pass\n"})
    said = missing(tree, "NPU102")
    assert said == f"NPU102 finds no rms_norm in {OPS}"
    assert missing(Tree({"vllm/__init__.py": b""}), "NPU102") == said


def test_the_nearer_of_two_files_comes_first() -> None:
    files = {
        "vllm/zzz/deep/unrelated.py": b"def rms_norm(): pass\n",
        "vllm/_custom_ops_v2.py": b"def rms_norm(): pass\n",
        "vllm/quite/else.py": b"def rms_norm(): pass\n",
        "vllm/quite/more.py": b"def rms_norm(): pass\n",
    }
    found = nearest_candidates(Tree(files), Site("rms_norm", (OPS,)))
    assert found[0].describe() == "vllm/_custom_ops_v2.py:1 rms_norm (moved)"
    assert len(found) == 3


def test_cli_says_what_is_missing_and_the_way_out(tmp_path: Path, run_cli: RunCli) -> None:
    tree = copy_mini(tmp_path / "mini", ops("def rms_norm(", "def rms_norm_("))
    before = snapshot(tmp_path)
    for command in ("apply", "diff", "check"):
        done = run_cli(command, tree, "-q", "--select", SELECT)
        assert done.code == 2
        assert done.out == b""
        first, last = done.err.strip().splitlines()
        assert first.startswith(f"Error: NPU102 finds no rms_norm in {OPS}; nearest: {OPS}:")
        assert last.strip() == "nothing was written; to go on without: --ignore NPU102"
    assert snapshot(tmp_path) == before
    assert run_cli("apply", tree, "--select", SELECT, "--ignore", "NPU102").code == 0


# ---- known absences ------------------------------------------------------------------------


@pytest.mark.parametrize("version", ["0.11.0", "0.33.0", "99.0", "0.10.2", "0.9.2", None])
def test_an_absence_depends_on_the_tree_and_on_no_release(version: str | None) -> None:
    named = with_release(version) if version is not None else {"PKG-INFO": None}
    plan = make_plan(mini(**named), RULES)
    assert plan.release == version
    assert plan.missing == ()
    absent = plan.absent[0]
    assert (absent.rule, absent.site) == ("NPU101", "batched_rotary_embedding")
    assert (absent.releases, bool(absent.why)) == (">=0.11.0", True)
    assert plan.files == make_plan(mini(), RULES).files


def test_what_needs_an_absent_site_explains_nothing() -> None:
    """Where the rotary layer takes offsets, vLLM has the batched kernel under some name."""
    path = "vllm/model_executor/layers/rotary_embedding/base.py"
    layer = (MINI / path).read_bytes()
    tree = mini(**{path: layer.replace(b"key=None", b"key=None, offsets=None")})
    assert layer != tree.read(path)
    assert missing(tree, "NPU101").startswith("NPU101 finds no batched_rotary_embedding")


def test_an_absence_is_no_excuse_for_another_site() -> None:
    tree = mini(**with_release("0.33.0"), **ops("def rotary_embedding(", "def rotary_("))
    plan = make_plan(tree, [r for r in RULES if r.code == "NPU101"])
    assert [m.site for m in plan.missing] == ["rotary_embedding"]
    assert [a.site for a in plan.absent] == ["batched_rotary_embedding"]


def test_the_first_witness_explains() -> None:
    def has(path: str) -> Callable[[Tree], bool]:
        return lambda tree: tree.exists(path)

    site = Site(
        "x",
        ("vllm/x.py",),
        (Absence("<0.10", "not yet", has("a")), Absence(">=0.30", "gone", has("b"))),
    )
    assert site.why_absent(Tree({"a": b""})) == site.absent[0]
    assert site.why_absent(Tree({"b": b""})) == site.absent[1]
    assert site.why_absent(Tree({"a": b"", "b": b""})) == site.absent[0]
    assert site.why_absent(Tree({"c": b""})) is None


@pytest.mark.parametrize(
    ("files", "label"),
    [
        ({"PKG-INFO": b"Name: vllm\nVersion: 0.11.0\n"}, Label("0.11.0")),
        ({"PKG-INFO": b"Name: vllm\nVersion: 0.11.1rc2\n"}, Label("0.11.1rc2")),
        ({"PKG-INFO": b"Name: vllm\nVersion: 0.10.1.1\n"}, Label("0.10.1.1")),
        ({"PKG-INFO": b"Name: vllm\nVersion: 0.11.0.post1\n"}, Label("0.11.0.post1")),
        ({"PKG-INFO": b"Name: vllm\nVersion: 0.11.0+npu\n"}, Label(claim="0.11.0+npu")),
        ({"PKG-INFO": b"Name: other\nVersion: 3\n"}, Label()),
        ({"PKG-INFO": b"Name: vllm\nVersion: nonsense\n"}, Label(claim="nonsense")),
        ({"PKG-INFO": b'Name: vllm\nVersion: 1";import\n'}, Label()),
        ({"vllm/_version.py": b"__version__ = version = '0.12.0'\n"}, Label("0.12.0")),
        ({"vllm/_version.py": b"version = '0.12.0.dev7'\n"}, Label(claim="0.12.0.dev7")),
        (
            {
                "PKG-INFO": b"Name: vllm\nVersion: 0.12.0\n",
                "vllm/_version.py": b"version = '0.11.0.dev7'\n",
            },
            Label("0.12.0"),
        ),
        ({"vllm/_version.py": b"x = 1\n"}, Label()),
        ({}, Label()),
    ],
)
def test_label_of_a_tree(files: dict[str, bytes], label: Label) -> None:
    """A release is one exactly; a development or local version is kept as text, never rounded."""
    assert Tree(files).label == label


def test_a_label_in_words() -> None:
    assert str(Label("0.33.0")) == "vLLM 0.33.0"
    assert str(Label(claim="0.10.1.dev12124")) == "vLLM 0.10.1.dev12124, no release"
    assert str(Label()) == "vLLM (release unknown)"


# ---- which rules ---------------------------------------------------------------------------


def codes(select: list[str], ignore: list[str]) -> list[str]:
    return [rule.code for rule in choose_rules(select, ignore)]


def test_select_and_ignore() -> None:
    everything = [rule.code for rule in all_rules()]
    helpers = [rule.code for rule in all_rules() if rule.provides]
    assert codes([], []) == everything == sorted(everything)
    assert codes(["NPU102"], []) == sorted(["NPU102", *helpers])
    assert codes(["npu102", "NPU12"], []) == sorted(
        {c for c in everything if c.startswith("NPU12") or c == "NPU102"}.union(helpers)
    )
    assert codes([], ["NPU1"]) == [c for c in everything if not c.startswith("NPU1")]
    assert codes(["NPU10"], ["NPU101"]) == sorted(["NPU102", "NPU103", *helpers])
    assert "NPU001" not in codes(["NPU102"], ["NPU001"])
    named = codes(["custom-ops-rms-norm", "SILU-and-mul"], ["gelu-and-mul"])
    assert named == codes(["NPU102", "NPU120"], ["NPU122"])


@pytest.mark.parametrize("option", ["select", "ignore"])
@pytest.mark.parametrize("code", ["NPU9", "E501", "102", "NPU1022"])
def test_a_code_that_is_none(option: str, code: str) -> None:
    with pytest.raises(MigrateError, match=f"there is no rule {code}; `vllm-npu-migrate rules`"):
        choose_rules(**{"select": [], "ignore": [], option: ["NPU1", code]})


def test_without_the_import_rule_the_import_is_missing_and_that_is_asked_for() -> None:
    plan = make_plan(mini(), choose_rules(["NPU102"], ["NPU001"]))
    after = {f.path: f.after for f in plan.files}
    assert b"    import torch_npu\nexcept" not in after[OPS]
    assert b"torch_npu.npu_rms_norm" in after[OPS]


# ---- the same plan always ------------------------------------------------------------------


def essence(plan: Plan) -> tuple[object, ...]:
    return (plan.files, plan.records, plan.absent, plan.missing, plan.failures, plan.links_out)


def test_jobs_do_not_matter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tree = DiskTree(copy_mini(tmp_path / "mini", {**ODD_FILES, "vllm/bad.py": b"x.is_cuda # \n("}))
    alone = make_plan(tree, RULES, jobs=1)
    monkeypatch.setattr(planning, "PARALLEL_BYTES", 0)
    for jobs in (2, 3, 50):
        assert essence(make_plan(tree, RULES, jobs=jobs)) == essence(alone)


def test_workers_of_a_program_with_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Python 3.12 and later warn of a fork beside threads; ours take no lock of theirs."""
    monkeypatch.setattr(planning, "PARALLEL_BYTES", 0)
    alone = make_plan(mini(), RULES, jobs=1)
    done = threading.Event()
    thread = threading.Thread(target=done.wait)
    thread.start()
    try:
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            assert essence(make_plan(mini(), RULES, jobs=2)) == essence(alone)
    finally:
        done.set()
        thread.join()
    assert [str(warning.message) for warning in told] == []


def test_progress() -> None:
    seen: list[tuple[int, int]] = []
    make_plan(mini(), RULES, progress=lambda done, total: seen.append((done, total)))
    assert [done for done, _ in seen] == list(range(1, seen[-1][1] + 1))
    assert {total for _, total in seen} == {len(seen)}


def test_the_order_of_a_directory_does_not_matter(tmp_path: Path) -> None:
    files = {"vllm/b.py": b"import torch\n", **ODD_FILES}
    one = Tree({**files})
    other = Tree(dict(reversed(files.items())))
    rules = [r for r in RULES if r.code == "NPU110"]
    assert essence(make_plan(one, rules)) == essence(make_plan(other, rules))


def test_only_the_package_is_looked_at() -> None:
    source = b"import torch\ndef f(x: torch.Tensor):\n    return x.is_cuda\n"
    rules = [r for r in RULES if r.code == "NPU110"]
    files = {"tests/x.py": source, "vllm/x.py": source, "vllm/x.pyi": source, "vllmx/x.py": source}
    assert [f.path for f in make_plan(Tree(files), rules).files] == ["vllm/x.py"]


def test_files_without_a_trigger_are_not_parsed(monkeypatch: pytest.MonkeyPatch) -> None:
    parsed: list[str] = []
    plain = migrate_file

    def noting(path: str, data: bytes, rules: list[Rule], tree: Tree) -> object:
        parsed.append(path)
        return plain(path, data, rules, tree)

    monkeypatch.setattr(planning, "migrate_file", noting)
    make_plan(mini(**{"vllm/broken.py": b"def (:\n", "vllm/plain.py": b"x = 1\n"}), RULES)
    assert "vllm/_custom_ops.py" in parsed
    assert "vllm/v1/guards.py" in parsed
    assert not {"vllm/broken.py", "vllm/plain.py", "vllm/model_executor/custom_op.py"} & set(parsed)


# ---- rules that clash ----------------------------------------------------------------------


class Renames(Rule):
    """Replaces the first string of a file."""

    safety = Safety.EQUIVALENT
    triggers = (r"mode",)

    def __init__(self, code: str, new: str) -> None:
        self.code = code  # type: ignore[misc] # one class serves two rules here
        self.new = new

    def check(self, file: File) -> Iterator[Finding]:
        statement = file.module.body[0]
        assert isinstance(statement, cst.SimpleStatementLine)
        part = statement.body[0]
        assert isinstance(part, cst.Assign)
        text = file.code(part.value)
        if text == repr(self.new):
            yield migrated("<module>", part.value)
        else:
            new = cst.SimpleString(repr(self.new))
            yield changed("<module>", part.value, "because", Replace(part.value, lambda _: new))


def test_two_rules_that_replace_the_same_node() -> None:
    tree = Tree({"vllm/a.py": b"mode = 'x'\n", "vllm/b.py": b"mode = 'one'\n"})
    plan = make_plan(tree, [Renames("NPU901", "one"), Renames("NPU902", "two")])
    assert [(f.path, f.reason) for f in plan.failures] == [
        ("vllm/a.py", "two rules replace the same node (rules NPU901, NPU902)")
    ]
    assert [(f.path, f.after) for f in plan.files] == [("vllm/b.py", b"mode = 'two'\n")]
    assert plan.left_for_a_person
    assert {r.path for r in plan.records} == {"vllm/b.py"}


def test_a_rule_that_never_ends_is_seen() -> None:
    """A second run that changes the same site again is what the tests of releases look for."""
    first = make_plan(Tree({"vllm/a.py": b"mode = 'x'\n"}), [Renames("NPU901", "one")])
    again = make_plan(Tree({"vllm/a.py": first.files[0].after}), [Renames("NPU901", "one")])
    assert again.files == ()
    assert [r.status for r in again.records] == [Status.MIGRATED]


def test_rules_are_sound() -> None:
    """Codes are stable names; sites lie in files that the rule looks at."""
    for rule in all_rules():
        assert rule.code[:3] == "NPU"
        assert rule.code[3:].isdigit()
        assert len({site.name for site in rule.sites}) == len(rule.sites)
        for site in rule.sites:
            assert site.paths
            for absence in site.absent:
                assert absence.why
                SpecifierSet(absence.releases)
