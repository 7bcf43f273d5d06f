# SPDX-License-Identifier: Apache-2.0
"""Migrations and updates as commits: one a rule, hand edits on top, conflicts in the index."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from migrator.api.plans import choose_rules
from migrator.files.sources import open_source
from migrator.files.tree import LOG_NAME, SUMMARY_NAME, DiskTree
from migrator.planning.plan import make_plan
from migrator.updating.commits import message, steps_of
from migrator.updating.git import Repository
from tests.conftest import Outcome, RunCli
from tests.trees import SELECT, commit_all, copy_mini, executables, git, git_environment, snapshot
from tests.updating.releases import (
    HAND,
    NEW,
    edit,
    edit_by_hand,
    new_release,
    old_release,
    write,
)

OPTIONS = ("--select", SELECT)
OLD_BRANCH, NEW_BRANCH = "feat/ascend-npu-adapt-v0.11.0", "feat/ascend-npu-adapt-v0.11.1"


@pytest.fixture
def run(run_cli: RunCli, kept_results: None) -> RunCli:
    """The command line, with git kept to itself."""

    def command(*arguments: str | Path, **more: Any) -> Outcome:
        return run_cli(*arguments, env=git_environment(), **more)

    return command


def upstream(root: Path, scratch: Path) -> Path:
    """A repository with both releases, tagged; the old one is checked out."""
    old_release(root)
    commit_all(root)
    git(root, "tag", "v0.11.0")
    for path, (_, data) in snapshot(new_release(scratch / "new")).items():
        if isinstance(data, bytes):
            write(root, {path: data})
    write(root, {path: None for path, data in NEW.items() if data is None})
    git(root, "add", "-A")
    git(root, "commit", "-q", "-m", "next")
    git(root, "tag", "v0.11.1")
    git(root, "checkout", "-q", "-b", "work", "v0.11.0")
    return root


def subjects(root: Path, range_: str) -> list[str]:
    return git(root, "log", "--reverse", "--format=%s", range_).splitlines()


def assert_clean(root: Path) -> None:
    assert git(root, "status", "--porcelain") == ""


def commit_edits(root: Path, text: str = "by hand") -> None:
    git(root, "add", "-A")
    git(root, "commit", "-q", "-m", text)


# ---- apply ---------------------------------------------------------------------------------


_made: dict[str, Path] = {}


@pytest.fixture
def applied(run: RunCli, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small tree with its migration committed; to be looked at only."""
    if "applied" not in _made:
        root = copy_mini(tmp_path_factory.mktemp("applied") / "mini")
        commit_all(root)
        done = run("apply", root, "--commit", *OPTIONS)
        assert done.code == 0, done.err
        assert f"Branch: {OLD_BRANCH}" in done.err
        _made["applied"] = root
    return _made["applied"]


def test_apply_commits_rule_by_rule(applied: Path, tmp_path: Path, run: RunCli) -> None:
    root, plain = applied, copy_mini(tmp_path / "plain")
    commit_all(plain)
    assert run("apply", plain, "--in-place", *OPTIONS).code == 0
    assert snapshot(root) == snapshot(plain), "the same, byte for byte"
    assert_clean(root)
    assert git(root, "branch", "--show-current").strip() == OLD_BRANCH
    found = subjects(root, "HEAD")[1:]
    codes = [subject.partition(":")[0] for subject in found[:-1]]
    assert codes == sorted(codes)
    assert len(codes) == len(set(codes)) > 8
    assert found[-1] == f"Add {SUMMARY_NAME} and {LOG_NAME}"
    assert executables(committed(root, "HEAD")) == executables(snapshot(root))


def committed(root: Path, commit: str) -> dict[str, tuple[int, bytes | str]]:
    tree = Repository(root).tree(commit, commit)
    return {e.path: (e.mode, e.link or tree.read(e.path) or b"") for e in tree.entries()}


def test_every_commit_parses_and_says_why(applied: Path) -> None:
    root = applied
    commits = git(root, "rev-list", "--reverse", "HEAD~1").split()[1:]
    for commit in commits:
        for path, (_, data) in committed(root, commit).items():
            if path.endswith(".py"):
                ast.parse(data)
        text = git(root, "log", "-1", "--format=%B", commit)
        assert re.match(r"NPU\d+: [a-z0-9-]+\n\n", text)
        for part in ("\nWhy:\n", "\nSafety:\n", "\nSites, with lines of the release:\n- "):
            assert part in text
        changed = git(root, "show", "--format=", "--name-only", commit).split()
        listed = set(re.findall(r"^- ([^ :\n]+)", text, re.M))
        assert listed == set(changed), text
    assert all(len(subject) <= 72 for subject in subjects(root, "HEAD"))


def test_imports_come_with_the_rule_that_needs_them(applied: Path) -> None:
    root = applied
    first = git(root, "log", "--format=%H", "--grep=^NPU120").strip()
    text = git(root, "log", "-1", "--format=%B", first)
    assert "- vllm/model_executor/layers/activation.py:4 <module> (NPU001)" in text
    patch = git(root, "show", "--format=", first)
    assert "+    import torch_npu" in patch


def test_apply_in_a_directory_keeps_executables(tmp_path: Path, run: RunCli) -> None:
    root = tmp_path / "mono"
    root.mkdir()
    copy_mini(root / "third_party/vllm")
    (root / "third_party/vllm/vllm/_custom_ops.py").chmod(0o755)
    (root / "other.txt").write_bytes(b"other\n")
    commit_all(root)
    write(root, {"staged.txt": b"staged\n"})
    git(root, "add", "staged.txt")
    done = run("apply", root / "third_party/vllm", "--commit", "-q", *OPTIONS)
    assert done.code == 2
    assert "has staged changes; commit them first" in done.err
    assert git(root, "status", "--porcelain") == "A  staged.txt\n"
    commit_edits(root)
    assert run("apply", root / "third_party/vllm", "--commit", "-q", *OPTIONS).code == 0
    assert_clean(root)
    mode = git(root, "ls-tree", "HEAD", "third_party/vllm/vllm/_custom_ops.py")
    assert mode.startswith("100755")
    assert (root / "other.txt").exists()
    assert executables(committed(root, "HEAD")) == executables(snapshot(root))


def test_apply_refuses(tmp_path: Path, run: RunCli, run_cli: RunCli) -> None:
    root = copy_mini(tmp_path / "mini")

    def refused(part: str, *more: str, **options: Any) -> None:
        before = snapshot(root)
        done = run("apply", root, "--commit", "-q", *OPTIONS, *more, **options)
        assert done.code == 2, done
        assert part in done.err
        assert done.err.count("\n") == 1
        assert snapshot(root) == before

    refused("is no git checkout")
    git(root, "init", "-q")
    refused("is no git checkout")  # that has its files
    commit_all(root)
    refused("exclude each other", "-o", "x")
    (root / "new").write_bytes(b"")
    refused("uncommitted changes", "--force")
    (root / "new").unlink()
    git(root, "branch", OLD_BRANCH)
    refused(f"the branch {OLD_BRANCH} exists; rename it")
    git(root, "branch", "-D", OLD_BRANCH)
    git(root, "config", "user.useConfigOnly", "true")
    nobody = dict.fromkeys(k for k in git_environment() if "AUTHOR" in k or "COMMITTER" in k)
    done = run_cli("apply", root, "--commit", "-q", *OPTIONS, env={**git_environment(), **nobody})
    assert done.code == 2
    assert "set user.name and user.email" in done.err


def test_the_steps_are_the_plan(tmp_path: Path) -> None:
    tree = DiskTree(copy_mini(tmp_path / "mini"))
    plan = make_plan(tree, choose_rules(SELECT.split(","), ()))
    steps = steps_of(tree, plan)
    last: dict[str, bytes] = {}
    for step in steps:
        for path, change in step.files.items():
            assert change.before == last.get(path, tree.read(path))
            last[path] = change.after
        assert message(step).startswith(f"{step.rule.code}: ")
    assert last == {change.path: change.after for change in plan.files}


# ---- update --------------------------------------------------------------------------------


@pytest.fixture
def adapted(tmp_path: Path, run: RunCli, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The repository with the old release's migration on its branch, edited and committed."""
    if "adapted" not in _made:
        scratch = tmp_path_factory.mktemp("adapted")
        root = upstream(scratch / "vllm", scratch)
        assert run("apply", root, "--commit", "-q", *OPTIONS).code == 0
        edit_by_hand(root)
        commit_edits(root)
        _made["adapted"] = root
    new_release(tmp_path / "new")
    copied = shutil.copytree(_made["adapted"], tmp_path / "vllm", symlinks=True)
    git(copied, "update-index", "-q", "--refresh")
    return copied


def test_update_to_a_commit_of_the_repository(adapted: Path, run: RunCli, tmp_path: Path) -> None:
    done = run("update", adapted, "v0.11.1", "--commit", *OPTIONS)
    assert done.code == 0, done.err
    assert f"Branch: {NEW_BRANCH}" in done.err
    assert "(v0.11.0)" in done.err
    assert_clean(adapted)
    assert git(adapted, "branch", "--show-current").strip() == NEW_BRANCH
    found = subjects(adapted, "v0.11.1..HEAD")
    assert found[-1] == "Carry over what was changed by hand to vLLM 0.11.1"
    assert found[-2] == f"Add {SUMMARY_NAME} and {LOG_NAME}"
    assert all(subject.startswith("NPU") for subject in found[:-2])
    text = git(adapted, "log", "-1", "--format=%B")
    assert re.search(r"\n\nFrom these commits:\n- [0-9a-f]+ t: by hand\n\nFiles:\n- ", text)
    whole = "".join(str(data) for _, data in snapshot(adapted).values())
    assert all(whole.count(line) == 1 for line in HAND)
    assert executables(committed(adapted, "HEAD")) == executables(snapshot(adapted))
    rules = git(adapted, "diff", "--name-only", "HEAD~1").split()
    assert "vllm/mine.py" in rules
    assert "vllm/fresh.py" not in rules, "the last commit has what is by hand only"
    assert git(adapted, "rev-parse", OLD_BRANCH)
    again = run("update", adapted, "v0.11.1", "--commit", *OPTIONS)
    assert again.code == 0, again.err
    assert "Nothing to do" in again.err


def test_update_in_place_finds_the_old_release_in_the_history(
    adapted: Path, run: RunCli, tmp_path: Path
) -> None:
    git(adapted, "tag", "-d", "v0.11.0")
    new = tmp_path / "new"
    done = run("update", adapted, new, "--in-place", *OPTIONS)
    assert done.code == 0, done.err
    assert "made from commit " in done.err
    whole = "".join(str(data) for _, data in snapshot(adapted).values())
    assert all(whole.count(line) == 1 for line in HAND)
    assert "vllm/fresh.py" in git(adapted, "status", "--porcelain")
    commit_edits(adapted, "update")
    again = run("update", adapted, new, "--in-place", *OPTIONS)
    assert "Nothing to do" in again.err


def test_the_release_is_the_new_one_at_once(adapted: Path, run: RunCli) -> None:
    """In a checkout the tags are the old release's still, and a build may have left its version."""
    (adapted / "PKG-INFO").unlink()
    (adapted / ".git/info/exclude").write_text("vllm/_version.py\n", encoding="utf-8")
    commit_edits(adapted)
    write(adapted, {"vllm/_version.py": b"__version__ = '0.11.0'\n"})
    done = run("update", adapted, "v0.11.1", "--in-place", "--force", *OPTIONS)
    assert done.code in (0, 1), done.err
    assert open_source(str(adapted)).tree.label.release == "0.11.1"


def test_edits_before_the_migration_are_by_hand(tmp_path: Path, run: RunCli) -> None:
    root = old_release(tmp_path / "vllm")
    commit_all(root)
    edit(root / "vllm/utils.py", ("    return ((x", "    BEFORE = 1\n    return ((x"))
    commented = "    # Rows have to be contiguous.\n"
    edit(root / "vllm/_custom_ops.py", (commented, f"    ALSO_BEFORE = 1\n{commented}"))
    commit_edits(root)
    assert run("apply", root, "--commit", "-q", *OPTIONS).code == 0
    run("update", root, new_release(tmp_path / "new"), "--in-place", *OPTIONS)
    assert "BEFORE = 1" in (root / "vllm/utils.py").read_text(encoding="utf-8")
    assert "ALSO_BEFORE = 1" in (root / "vllm/_custom_ops.py").read_text(encoding="utf-8")


def test_update_to_a_release_that_the_repository_does_not_have(tmp_path: Path, run: RunCli) -> None:
    root = old_release(tmp_path / "vllm")
    commit_all(root)
    assert run("apply", root, "--commit", "-q", *OPTIONS).code == 0
    edit_by_hand(root)
    commit_edits(root)
    new = new_release(tmp_path / "new")
    (new / "link").symlink_to("docs")
    done = run("update", root, new, "--commit", *OPTIONS)
    assert done.code == 0, done.err
    assert_clean(root)
    start = git(root, "rev-list", "--max-parents=0", "HEAD").strip()
    found = subjects(root, f"{start}..HEAD")
    assert found[0] == "Import vLLM 0.11.1"
    imported = git(root, "log", "--format=%H", "--grep=^Import").strip()
    assert executables(committed(root, imported)) == executables(snapshot(new))
    whole = "".join(str(data) for _, data in snapshot(root).values())
    assert all(whole.count(line) == 1 for line in HAND)
    assert executables(committed(root, "HEAD")) == executables(snapshot(root))


def test_update_in_a_directory_of_a_repository(tmp_path: Path, run: RunCli) -> None:
    root = tmp_path / "mono"
    root.mkdir()
    tree = old_release(root / "vllm")
    (root / "other.txt").write_bytes(b"other\n")
    commit_all(root)
    assert run("apply", tree, "--commit", "-q", *OPTIONS).code == 0
    edit_by_hand(tree)
    commit_edits(root)
    done = run("update", tree, new_release(tmp_path / "new"), "--commit", *OPTIONS)
    assert done.code == 0, done.err
    assert_clean(root)
    assert (root / "other.txt").exists()
    assert executables(committed(root, "HEAD")) == executables(snapshot(root))


def conflicting(root: Path) -> None:
    edit(root / "vllm/utils.py", ("return -(a // -b)", "return mine(a, b)"))
    edit(root / "vllm/dropped.py", ("return 1", "return mine()"))
    write(root, {"data.bin": b"\0mine", "vllm/quiet.py": None, "vllm/fresh.py": b"MINE = 1\n"})
    commit_edits(root)


STATES = {
    "UU vllm/utils.py",
    "UD vllm/dropped.py",
    "UU data.bin",
    "DU vllm/quiet.py",
    "AA vllm/fresh.py",
}


@pytest.mark.parametrize("commit", [False, True], ids=["in place", "commit"])
def test_conflicts_are_in_the_index(adapted: Path, run: RunCli, commit: bool) -> None:
    conflicting(adapted)
    how = "--commit" if commit else "--in-place"
    done = run("update", adapted, "v0.11.1", how, *OPTIONS)
    assert done.code == 1, done.err
    status = set(git(adapted, "status", "--porcelain").splitlines())
    assert {line for line in status if "U" in line[:2] or line[:2] == "AA"} == STATES
    assert git(adapted, "show", ":1:vllm/utils.py").count("return -(a // -b)") == 1
    assert git(adapted, "show", ":2:vllm/utils.py").count("return mine(a, b)") == 1
    assert git(adapted, "show", ":3:vllm/utils.py").count("return (a + b - 1) // b") == 1
    assert git(adapted, "show", ":2:data.bin").encode() == b"\0mine"
    before = snapshot(adapted)
    again = run("update", adapted, "v0.11.1", how, "--force", *OPTIONS)
    assert again.code == 2
    assert again.err.count("\n") == 1
    assert "has conflicts in data.bin, vllm/dropped.py, vllm/fresh.py and 2 more" in again.err
    assert "git add them first" in again.err
    assert snapshot(adapted) == before
    resolve(adapted)
    assert_clean(adapted)
    if commit:
        assert subjects(adapted, "HEAD~1..HEAD") == [
            "Carry over what was changed by hand to vLLM 0.11.1"
        ]
    last = run("update", adapted, "v0.11.1", how, *OPTIONS)
    assert (last.code, "Nothing to do" in last.err) == (0, True), last.err


def resolve(root: Path) -> None:
    """Decide every conflict as one does with git: merge-file's result, edit, add, rm, commit."""
    for path in ("vllm/utils.py", "vllm/fresh.py"):
        text = (root / path).read_text(encoding="utf-8")
        ours = re.sub(r"(?ms)^<<<<<<< ours\n(.*?)^=======\n.*?^>>>>>>> theirs\n", r"\1", text)
        (root / path).write_text(ours, encoding="utf-8")
    git(root, "rm", "-q", "--cached", "vllm/dropped.py")
    (root / "vllm/dropped.py").unlink()
    git(root, "add", "-A")
    subprocess.run(
        ["git", "commit", "-q", "--no-edit"],
        cwd=root,
        env=git_environment() | {"GIT_EDITOR": "true"},
        check=False,
    )
    if git(root, "status", "--porcelain"):
        git(root, "commit", "-q", "-m", "resolved")


def test_mergetool(adapted: Path, run: RunCli) -> None:
    conflicting(adapted)
    assert run("update", adapted, "v0.11.1", "--in-place", *OPTIONS).code == 1
    git(adapted, "config", "mergetool.theirs.cmd", 'cp "$REMOTE" "$MERGED"')
    git(adapted, "config", "mergetool.theirs.trustExitCode", "true")
    git(adapted, "mergetool", "-y", "--tool=theirs", "vllm/utils.py")
    assert "return (a + b - 1) // b" in (adapted / "vllm/utils.py").read_text(encoding="utf-8")
    assert "UU vllm/utils.py" not in git(adapted, "status", "--porcelain")


def test_ignored_files_are_nobodys_edit(adapted: Path, run: RunCli) -> None:
    (adapted / ".git/info/exclude").write_text("build/\n", encoding="utf-8")
    write(adapted, {"build/lib.so": b"\0so"})
    done = run("update", adapted, "v0.11.1", "--commit", *OPTIONS)
    assert done.code == 0, done.err
    assert (adapted / "build/lib.so").read_bytes() == b"\0so"
    assert "build/lib.so" not in done.err
    assert "build" not in git(adapted, "ls-files")


def test_update_refuses(adapted: Path, run: RunCli) -> None:
    git(adapted, "branch", NEW_BRANCH)

    def refused(part: str, *arguments: str) -> None:
        before, head = snapshot(adapted), git(adapted, "rev-parse", "HEAD")
        done = run("update", adapted, *arguments, "-q", *OPTIONS)
        assert done.code == 2, done
        assert part in done.err
        assert done.err.count("\n") == 1
        assert snapshot(adapted) == before
        assert git(adapted, "rev-parse", "HEAD") == head

    refused(f"the branch {NEW_BRANCH} exists", "v0.11.1", "--commit")
    refused("is no directory, no release such as vllm==0.12.0 and no commit", "v9", "--in-place")
    write(adapted, {"loose": b""})
    refused("uncommitted changes", "v0.11.1", "--in-place")
    refused("uncommitted changes", "v0.11.1", "--commit", "--force")


def test_a_tree_that_git_does_not_track_is_none_of_its(tmp_path: Path, run: RunCli) -> None:
    """Such as one that lies in a checkout and is ignored there: files added by hand are named."""
    outer = tmp_path / "outer"
    write(outer, {".gitignore": b"/tree/\n"})
    commit_all(outer)
    old = old_release(tmp_path / "old")
    assert run("apply", old, "-o", outer / "tree", "-q", *OPTIONS).code == 0
    edit_by_hand(outer / "tree")
    new = new_release(tmp_path / "new")
    out = tmp_path / "out"
    done = run("update", outer / "tree", new, "--base", old, "-o", out, *OPTIONS)
    assert done.code == 0, done.err
    assert re.search(r"vllm/mine.py +added by hand", done.err)
    refused = run("update", outer / "tree", new, "--base", old, "--commit", *OPTIONS)
    assert (refused.code, refused.err.count("\n")) == (2, 1)
