# SPDX-License-Identifier: Apache-2.0
"""Updates of trees that are no releases: a fork follows upstream's commits, without any tag."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from migrator.files.tree import LOG_NAME, SUMMARY_NAME
from tests.conftest import Outcome, RunCli
from tests.trees import SELECT, commit_all, git, git_environment, snapshot
from tests.updating.releases import HAND, NEW, edit_by_hand, new_release, old_release, write

OPTIONS = ("--select", SELECT)
STEPS: tuple[tuple[str, ...], ...] = (
    ("vllm/utils.py", "vllm/quiet.py"),
    ("vllm/moving.py", "vllm/there/moving.py", "vllm/dropped.py", "docs/notes.md"),
    ("vllm/also_dropped.py", "vllm/fresh.py", "data.bin", "vllm/_custom_ops.py"),
)
"""What each of upstream's commits changes."""


@pytest.fixture
def run(run_cli: RunCli) -> RunCli:
    """The command line, with git kept to itself."""

    def command(*arguments: str | Path, **more: Any) -> Outcome:
        return run_cli(*arguments, env=git_environment(), **more)

    return command


def upstream(scratch: Path) -> tuple[Path, list[str]]:
    """A repository without metadata or tags, its first commit checked out, and all its commits."""
    root = old_release(scratch / "vllm")
    (root / "PKG-INFO").unlink()
    commit_all(root)
    newer = snapshot(new_release(scratch / "new"))
    for paths in STEPS:
        for path in paths:
            _, data = newer.get(path, (None, None))
            assert data is None or isinstance(data, bytes)
            write(root, {path: data})
        git(root, "add", "-A")
        git(root, "commit", "-q", "-m", f"Change {paths[0]}")
    assert {path for paths in STEPS for path in paths} >= NEW.keys() - {"PKG-INFO"}
    commits = git(root, "log", "--reverse", "--format=%H").split()
    git(root, "checkout", "-q", "-b", "work", commits[0])
    return root, commits


def contents(root: Path) -> dict[str, tuple[int, bytes | str]]:
    """A tree's files but for the documents, which tell how it came about."""
    own = (LOG_NAME, SUMMARY_NAME)
    return {path: item for path, item in snapshot(root).items() if path not in own}


def follow(run: RunCli, root: Path, commits: list[str], *options: str) -> list[Outcome]:
    """Update a tree to one commit after another, and commit each time."""
    done = []
    for commit in commits:
        done.append(run("update", root, commit, *options, *OPTIONS))
        assert done[-1].code == 0, done[-1].err
        if git(root, "status", "--porcelain"):
            git(root, "add", "-A")
            git(root, "commit", "-q", "-m", "update")
    return done


def test_one_commit_at_a_time_as_in_one_jump(tmp_path: Path, run: RunCli) -> None:
    root, commits = upstream(tmp_path)
    assert run("apply", root, "--commit", "-q", *OPTIONS).code == 0
    edit_by_hand(root)
    git(root, "add", "-A")
    git(root, "commit", "-q", "-m", "by hand")
    jump = Path(shutil.copytree(root, tmp_path / "jump", symlinks=True))
    steps = follow(run, root, commits[1:], "--in-place")
    (once,) = follow(run, jump, commits[-1:], "--in-place")
    assert contents(root) == contents(jump)
    whole = "".join(str(data) for _, data in contents(root).values())
    assert all(whole.count(line) == 1 for line in HAND)
    # Commits are named where nothing says a release.
    short = [git(root, "rev-parse", "--short", commit).strip() for commit in commits]
    assert f"vLLM at commit {short[0]} → vLLM at commit {short[-1]} (" in once.err
    assert f"→ vLLM at commit {short[2]} (" in steps[1].err
    log = json.loads((root / LOG_NAME).read_bytes())
    assert log["release"] is None


def test_a_branch_is_named_by_its_commit(tmp_path: Path, run: RunCli) -> None:
    root, commits = upstream(tmp_path)
    assert run("apply", root, "--commit", "-q", *OPTIONS).code == 0
    done = run("update", root, commits[-1], "--commit", *OPTIONS)
    assert done.code == 0, done.err
    short = git(root, "rev-parse", "--short", commits[-1]).strip()
    assert f"Branch: feat/ascend-npu-adapt-{short}" in done.err
    # What somebody says it is names the branch, and is what the log keeps.
    git(root, "checkout", "-q", "work")
    named = run("update", root, commits[-1], "--commit", "--release", "0.12.0", *OPTIONS)
    assert "feat/ascend-npu-adapt-v0.12.0" in named.err or named.code, named.err


def test_base_from_upstream_merged_every_week(tmp_path: Path, run: RunCli) -> None:
    """A fork that merges upstream's main has several sources behind it; the right one is found."""
    root, commits = upstream(tmp_path)
    (root / "acme.md").write_bytes(b"ours\n")
    git(root, "add", "-A")
    git(root, "commit", "-q", "-m", "ours")
    git(root, "merge", "-q", "-m", "merge main", commits[1])
    assert run("apply", root, "--in-place", "-q", *OPTIONS).code == 0
    edit_by_hand(root)
    git(root, "add", "-A")
    git(root, "commit", "-q", "-m", "adapted")
    (done,) = follow(run, root, commits[-1:], "--in-place")
    assert "TREE was made from commit " in done.err
    whole = "".join(str(data) for _, data in contents(root).values())
    assert all(whole.count(line) == 1 for line in HAND)
    assert (root / "acme.md").read_bytes() == b"ours\n"
