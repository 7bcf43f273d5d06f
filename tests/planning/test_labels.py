# SPDX-License-Identifier: Apache-2.0
"""A release is a label: nothing that decides reads one, and the same tree gives the same patch."""

from __future__ import annotations

import ast
import inspect
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import migrator
from migrator.api.plans import choose_rules
from migrator.files import tree as trees
from migrator.files.sources import open_source
from migrator.files.tree import LOG_NAME, METADATA, SUMMARY_NAME, DiskTree, Label, Tree
from migrator.planning.plan import Plan, make_plan
from migrator.reports.log import emitted_files
from migrator.reports.patch import unified_patch
from migrator.rules import all_rules
from tests.conftest import RunCli
from tests.trees import SELECT, commit_all, copy_mini, git, git_environment

PACKAGE = Path(migrator.__file__).parent
DECIDING = (
    *sorted((PACKAGE / "rules").glob("*.py")),
    *sorted((PACKAGE / "codemod").glob("*.py")),
)
"""Everything that decides what becomes of a tree, beside the planner, which carries the label."""
NAMES = frozenset({"label", "release", "claim", "released", "labelled", "Label", "label_of"})
"""What a tree's version would be read by."""
TOLD = (METADATA, "_version.py", "__version__", "packaging", "migrator.reports.releases")


def versions_read(source: str) -> list[str]:
    """Where a module reads a tree's version, or could."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Attribute) and node.attr in NAMES:
            found.append(f"{node.lineno}: .{node.attr}")
        elif isinstance(node, ast.ImportFrom | ast.Import):
            named = {a.name for a in node.names} | {getattr(node, "module", "") or ""}
            found += [f"{node.lineno}: {n}" for n in sorted(named & {*NAMES, *TOLD})]
            found += [f"{node.lineno}: {n}" for n in sorted(named) if n.startswith("packaging.")]
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            # As a path, not in documentation.
            found += [f"{node.lineno}: {t}" for t in TOLD if node.value in (t, f"vllm/{t}")]
    return found


@pytest.mark.parametrize(
    "line",
    [
        "x = file.tree.label.release",
        "if tree.label:\n    pass",
        "from packaging.version import Version",
        "from migrator.reports.releases import KNOWN",
        "from migrator.files.tree import label_of",
        "data = tree.read('vllm/_version.py')",
        "data = tree.read('PKG-INFO')",
    ],
)
def test_the_contract_can_fail(line: str) -> None:
    assert versions_read(line)


@pytest.mark.parametrize("path", DECIDING, ids=lambda path: path.stem)
def test_what_decides_reads_no_version(path: Path) -> None:
    assert versions_read(path.read_text(encoding="utf-8")) == []


class Unnamed(Tree):
    """A tree that only the planner may ask for its label, and nobody for what tells one."""

    @property
    def label(self) -> Label:
        frames = {frame.function for frame in inspect.stack()}
        assert not frames & {"check", "witness", "why_absent", "render", "migrate_file"}
        return Label()

    def read(self, path: str) -> bytes | None:
        assert path not in (METADATA, "vllm/_version.py")
        return super().read(path)


def in_memory(root: Path, kind: type[Tree] = Tree) -> Tree:
    tree = DiskTree(root)
    files = {e.path: tree.read(e.path) or b"" for e in tree.entries() if e.link is None}
    return kind({p: d for p, d in files.items() if p != METADATA}, "vllm")


def test_no_rule_asks_for_a_label(mini_tree: Path) -> None:
    plan = make_plan(in_memory(mini_tree, Unnamed), choose_rules(SELECT.split(","), []))
    assert plan.pending
    assert plan.label == Label()


CLAIMS = ("0.0.1", "0.10.0", "0.33.0", "9.9", "0.10.1.dev12124", "0.3.1.dev35", None)


def test_a_claim_changes_nothing(mini_tree: Path) -> None:
    rules = choose_rules(SELECT.split(","), [])
    plans = []
    for claim in CLAIMS:
        tree = in_memory(mini_tree)
        tree.label = trees.labelled(claim)
        plans.append(make_plan(tree, rules))
    for claim, plan in zip(CLAIMS, plans, strict=True):
        assert plan.label == trees.labelled(claim)
        assert outcome(plan) == outcome(plans[0]), claim


def outcome(plan: Plan) -> tuple[object, ...]:
    """All of a plan but what the tree is called."""
    return plan.files, plan.records, plan.absent, plan.missing


# ---- the same tree, however it came --------------------------------------------------------


def forms(scratch: Path, files: Path) -> Iterator[tuple[str, Path, Label]]:
    """One tree as people have it: name of the form, root, and what it is called then."""

    def clone(name: str, *tags: str, more: int = 0) -> Path:
        root = scratch / name / "vllm"
        shutil.copytree(files, root)
        (root / METADATA).unlink(missing_ok=True)
        commit_all(root)
        for tag in tags:
            git(root, "tag", tag)
        for _ in range(more):
            git(root, "commit", "-q", "--allow-empty", "-m", "more")
        return root

    archive = scratch / "archive" / "vllm"
    shutil.copytree(files, archive)
    (archive / METADATA).unlink(missing_ok=True)
    yield "archive", archive, Label()
    sdist = scratch / "sdist" / "vllm"
    shutil.copytree(archive, sdist)
    (sdist / METADATA).write_bytes(b"Metadata-Version: 2.1\nName: vllm\nVersion: 0.33.0\n")
    yield "sdist", sdist, Label("0.33.0")
    yield "right tags", clone("right", "v0.33.0"), Label("0.33.0")
    wrong = clone("wrong", "v0.10.0", "v0.3.1-acme", more=5)
    (wrong / "vllm/_version.py").write_bytes(b"__version__ = version = '0.10.1.dev5'\n")
    yield "wrong tags", wrong, Label(claim="0.10.1.dev5")
    shallow = scratch / "shallow" / "vllm"
    git(scratch, "clone", "-q", "--depth=1", "--no-tags", f"file://{wrong}", str(shallow))
    yield "shallow clone", shallow, Label()


def patches(tree: DiskTree, plan: Plan) -> tuple[bytes, bytes]:
    """The patch of vLLM's files, and that with the documents that name the tree."""
    own = (LOG_NAME, SUMMARY_NAME)
    changes = emitted_files(plan)
    return unified_patch([c for c in changes if c.path not in own]), unified_patch(changes)


def same_in_every_form(scratch: Path, files: Path, planned: Callable[[DiskTree], Plan]) -> int:
    seen = set()
    whole = set()
    count = 0
    for form, root, label in forms(scratch, files):
        tree = open_source(str(root)).tree
        assert tree.label == label, form
        seen.add(patches(tree, planned(tree))[0])
        named = open_source(str(root)).tree
        named.label = Label("0.33.0")
        whole.add(patches(named, planned(named))[1])
        count += 1
    assert len(seen) == 1, "the files differ"
    assert len(whole) == 1, "with --release the documents differ too"
    return count


def test_the_same_patch_however_the_tree_came(tmp_path: Path, mini_tree: Path) -> None:
    rules = choose_rules(SELECT.split(","), [])
    assert same_in_every_form(tmp_path, mini_tree, lambda tree: make_plan(tree, rules)) == 5


@pytest.mark.slow
@pytest.mark.releases
@pytest.mark.parametrize("version", ["0.11.0", "0.33.0"])
def test_the_same_patch_of_a_real_release(
    version: str, tmp_path: Path, release: Callable[[str], Path]
) -> None:
    source = tmp_path / "source"
    source.mkdir()
    shutil.copytree(release(version) / "vllm", source / "vllm", symlinks=True)
    (source / "vllm/_version.py").unlink()  # which the build of the archive wrote
    assert same_in_every_form(tmp_path, source, lambda tree: make_plan(tree, all_rules())) == 5


# ---- what goes by name does without one ----------------------------------------------------


def test_a_plugin_without_a_release(tmp_path: Path, run_cli: RunCli) -> None:
    info = {METADATA: b"Name: vllm\nVersion: 0.10.2.dev7\n"}
    root = copy_mini(tmp_path / "dev", info)
    options = ("--layout", "plugin", "--select", SELECT)
    done = run_cli("apply", root, *options, "-o", tmp_path / "out")
    assert "made from vLLM 0.10.2.dev7, no release: it asks for no version" in done.err
    text = (tmp_path / "out/pyproject.toml").read_text("utf-8")
    assert '"vllm",' in text
    assert "vllm==" not in text
    assert "0.10.2.dev7, no release" in (tmp_path / "out/README.md").read_text("utf-8")
    named = run_cli("apply", root, *options, "-o", tmp_path / "named", "--release", "0.10.2")
    assert "It asks for vllm==0.10.2" in named.err
    assert '"vllm==0.10.2",' in (tmp_path / "named/pyproject.toml").read_text("utf-8")


def test_a_branch_without_a_release(tmp_path: Path, run_cli: RunCli) -> None:
    root = copy_mini(tmp_path / "dev")
    (root / METADATA).unlink()
    commit_all(root)
    git(root, "tag", "v0.10.0")
    git(root, "commit", "-q", "--allow-empty", "-m", "more")
    head = git(root, "rev-parse", "--short", "HEAD").strip()
    done = run_cli("apply", root, "--commit", "--select", SELECT, env=git_environment())
    assert done.code in (0, 1), done.err
    assert f"Branch: feat/ascend-npu-adapt-{head}" in done.err
    heading = (root / SUMMARY_NAME).read_text("utf-8").splitlines()[0]
    assert heading.startswith("# NPU migration of vLLM 0.10.0-1-g")
    assert heading.endswith(", no release")
    # The log keeps what the tree was called, whatever is committed on top of it.
    assert open_source(str(root)).tree.label.claim is not None
