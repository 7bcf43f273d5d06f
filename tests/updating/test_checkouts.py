# SPDX-License-Identifier: Apache-2.0
"""Updates in checkouts as people have them: sparse, with submodules, with line endings of Windows,
rebased by hand, under settings of the user's."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from migrator.files.tree import LOG_NAME
from tests.conftest import Outcome, RunCli
from tests.trees import SELECT, commit_all, copy_mini, git, git_environment, snapshot

OPTIONS = ("--select", SELECT)
FRESH = "import torch\n\n\ndef fresh(t: torch.Tensor) -> bool:\n    return t.is_cuda\n"


@pytest.fixture
def run(run_cli: RunCli) -> RunCli:
    """The command line, with git kept to itself."""

    def command(*arguments: str | Path, **more: Any) -> Outcome:
        return run_cli(*arguments, env={**git_environment(), **more.pop("more", {})}, **more)

    return command


def upstream(root: Path) -> Path:
    """Two tagged releases; the older one is checked out on a branch of its own."""
    copy_mini(root, {"tests/test_a.py": b"x = 1\n", "docs/a.md": b"doc\n", "docs/b.md": b"old\n"})
    (root / "PKG-INFO").unlink()
    commit_all(root)
    git(root, "tag", "v0.11.0")
    (root / "tests/test_a.py").write_bytes(b"x = 2\n")
    (root / "tests/test_b.py").write_bytes(b"y = 2\n")
    (root / "docs/b.md").unlink()
    guards = root / "vllm/v1/guards.py"
    guards.write_bytes(b"# next\n" + guards.read_bytes())
    git(root, "add", "-A")
    git(root, "commit", "-q", "-m", "next")
    git(root, "tag", "v0.11.1")
    git(root, "checkout", "-q", "-b", "work", "v0.11.0")
    return root


def migrate(run: RunCli, root: Path, *options: str, **more: Any) -> None:
    done = run("apply", root, "--commit", *options, *OPTIONS, **more)
    assert done.code == 0, done.err


def update(run: RunCli, root: Path, **more: Any) -> Outcome:
    done = run("update", root, "v0.11.1", "--commit", *OPTIONS, **more)
    assert done.code == 0, done.err
    assert git(root, "status", "--porcelain") == ""
    assert b"# next" in (root / "vllm/v1/guards.py").read_bytes()
    return done


# ---- sparse checkouts ----------------------------------------------------------------------


def test_sparse_checkout(tmp_path: Path, run: RunCli) -> None:
    root = upstream(tmp_path / "t")
    migrate(run, root)
    git(root, "sparse-checkout", "set", "--no-cone", "/*", "!/tests", "!/docs")
    done = update(run, root)
    assert "deleted by hand" not in done.err
    assert git(root, "show", "HEAD:docs/a.md") == "doc\n"
    assert git(root, "show", "HEAD:tests/test_a.py") == "x = 2\n"
    assert "docs/b.md" not in git(root, "ls-tree", "-r", "--name-only", "HEAD")
    assert not (root / "docs").exists(), "it stays off the disk"
    git(root, "sparse-checkout", "disable")
    assert (root / "tests/test_a.py").read_bytes() == b"x = 2\n"
    assert git(root, "status", "--porcelain") == ""


def test_sparse_checkout_with_a_new_file(tmp_path: Path, run: RunCli) -> None:
    """A file that upstream adds is in the branch, whether or not an old git puts it on disk."""
    root = upstream(tmp_path / "t")
    migrate(run, root)
    git(root, "sparse-checkout", "set", "--no-cone", "/*", "!/tests")
    update(run, root)
    assert git(root, "show", "HEAD:tests/test_b.py") == "y = 2\n"


def test_a_copy_of_a_sparse_checkout_is_whole(tmp_path: Path, run: RunCli) -> None:
    root, out = upstream(tmp_path / "t"), tmp_path / "out"
    migrate(run, root)
    git(root, "sparse-checkout", "set", "--no-cone", "/*", "!/tests", "!/docs")
    done = run("update", root, "v0.11.1", "-o", out, *OPTIONS)
    assert done.code == 0, done.err
    assert (out / "docs/a.md").read_bytes() == b"doc\n"
    assert (out / "tests/test_a.py").read_bytes() == b"x = 2\n"
    assert not (out / "docs/b.md").exists()


# ---- submodules ----------------------------------------------------------------------------


def library(root: Path) -> Path:
    root.mkdir()
    (root / "k.py").write_text(FRESH, encoding="utf-8")
    commit_all(root)
    git(root, "tag", "one")
    git(root, "commit", "-q", "--allow-empty", "-m", "two")
    git(root, "tag", "two")
    return root


def add_submodule(root: Path, source: Path, path: str, at: str = "one") -> str:
    """Add a submodule and commit that; the commit that it is at."""
    git(root, "-c", "protocol.file.allow=always", "submodule", "add", "-q", str(source), path)
    git(root / path, "checkout", "-q", at)
    git(root, "add", "-A")
    git(root, "commit", "-q", "-m", f"{path} at {at}")
    return git(root / path, "rev-parse", "HEAD").strip()


def link(root: Path, path: str) -> list[str]:
    """Mode, kind and name of what HEAD has at a path."""
    return git(root, "ls-tree", "HEAD", path).partition("\t")[0].split()


def test_a_submodule_stays_one(tmp_path: Path, run: RunCli) -> None:
    source, root = library(tmp_path / "lib"), upstream(tmp_path / "t")
    migrate(run, root)
    inside = add_submodule(root, source, "vllm/third_party/lib")
    update(run, root)
    assert link(root, "vllm/third_party/lib") == ["160000", "commit", inside]
    data = (root / "vllm/third_party/lib/k.py").read_text(encoding="utf-8")
    assert data == FRESH, "no rule changes another repository's file"
    entries = json.loads((root / LOG_NAME).read_bytes())["by_hand"]
    assert [e["path"] for e in entries if "lib" in e["path"]] == ["vllm/third_party/lib"]


def test_a_submodule_that_is_there_before(tmp_path: Path, run: RunCli) -> None:
    source, root = library(tmp_path / "lib"), upstream(tmp_path / "t")
    inside = add_submodule(root, source, "vllm/lib")
    migrate(run, root)
    assert link(root, "vllm/lib") == ["160000", "commit", inside]
    assert (root / "vllm/lib/k.py").read_text(encoding="utf-8") == FRESH
    update(run, root)
    assert link(root, "vllm/lib") == ["160000", "commit", inside]


def test_a_submodule_of_upstream_moves_on_or_stays(tmp_path: Path, run: RunCli) -> None:
    source, root = library(tmp_path / "lib"), tmp_path / "t"
    upstream(root)
    git(root, "checkout", "-q", "-b", "main2", "v0.11.0")
    for path in ("a", "b"):
        add_submodule(root, source, path)
    git(root, "tag", "-f", "v0.11.0")
    for path in ("a", "b"):
        git(root / path, "checkout", "-q", "two")
    guards = root / "vllm/v1/guards.py"
    guards.write_bytes(b"# next\n" + guards.read_bytes())
    git(root, "commit", "-qam", "next")
    git(root, "tag", "-f", "v0.11.1")
    git(root, "checkout", "-q", "-B", "work", "v0.11.0")
    for path in ("a", "b"):
        git(root / path, "checkout", "-q", "one")
    migrate(run, root)
    git(root / "b", "-c", "user.name=x", "commit", "-q", "--allow-empty", "-m", "ours")
    mine = git(root / "b", "rev-parse", "HEAD").strip()
    git(root, "commit", "-qam", "our b")
    done = run("update", root, "v0.11.1", "--commit", *OPTIONS)
    assert done.code == 0, done.err
    two = git(source, "rev-parse", "two").strip()
    assert link(root, "a") == ["160000", "commit", two], "nobody's: upstream's"
    assert link(root, "b") == ["160000", "commit", mine], "by hand: kept, and upstream's is named"
    assert f"the new release has it at {two[:12]}" in done.err


# ---- settings ------------------------------------------------------------------------------


def test_line_endings_of_windows(tmp_path: Path, run: RunCli) -> None:
    root = upstream(tmp_path / "t")
    git(root, "config", "core.autocrlf", "true")
    for path in snapshot(root):
        (root / path).unlink()
    git(root, "checkout", "-q", "--", ".")
    migrate(run, root)
    assert git(root, "status", "--porcelain") == ""
    ops = root / "vllm/_custom_ops.py"
    ops.write_bytes(ops.read_bytes() + b"MINE = 1\r\n")
    git(root, "commit", "-qam", "by hand")
    done = update(run, root)
    assert "conflict" not in done.err
    data = ops.read_bytes()
    assert data.endswith(b"\r\nMINE = 1\r\n")
    assert data.count(b"\r\n") == data.count(b"\n")
    plain = upstream(tmp_path / "plain")
    migrate(run, plain)
    assert (plain / LOG_NAME).read_bytes() == git(root, "show", f"HEAD~1:{LOG_NAME}").encode() or (
        json.loads((plain / LOG_NAME).read_bytes())["files"]
        and b"\r" not in git(root, "show", "HEAD:vllm/_custom_ops.py").encode()
    )


def test_signatures_in_the_log(tmp_path: Path, run: RunCli) -> None:
    root, gpg, users = upstream(tmp_path / "t"), tmp_path / "gpg", tmp_path / "gitconfig"
    gpg.write_text(
        '#!/bin/sh\nfor a in "$@"; do [ "$a" = --verify ] && echo "gpg: Good signature" >&2 '
        '&& echo "[GNUPG:] GOODSIG 0 A" && exit 0; done\ncat >/dev/null\n'
        'echo "[GNUPG:] SIG_CREATED D" >&2\necho "-----BEGIN PGP SIGNATURE-----"\n'
        'echo "-----END PGP SIGNATURE-----"\n',
        encoding="utf-8",
    )
    gpg.chmod(0o755)
    users.write_text(f"[gpg]\n\tprogram = {gpg}\n[log]\n\tshowSignature = true\n", encoding="utf-8")
    more = {"GIT_CONFIG_GLOBAL": str(users)}
    migrate(run, root, more=more)
    ops = root / "vllm/_custom_ops.py"
    ops.write_bytes(ops.read_bytes() + b"# ours\n")
    git(root, "-c", f"gpg.program={gpg}", "commit", "-qam", "ours", "-S")
    update(run, root, more=more)


# ---- nothing is written where it cannot end well -------------------------------------------


@pytest.mark.parametrize("command", ["apply", "update"])
@pytest.mark.parametrize("obstacle", ["branch", "index.lock", "HEAD.lock"])
def test_exit_code_2_means_that_nothing_was_written(
    tmp_path: Path, run: RunCli, command: str, obstacle: str
) -> None:
    root = upstream(tmp_path / "t")
    if command == "update":
        done = run("apply", root, "--in-place", *OPTIONS)
        assert done.code == 0, done.err
        git(root, "add", "-A")
        git(root, "commit", "-q", "-m", "port")
    if obstacle == "branch":
        git(root, "branch", "feat")
    else:
        (root / ".git" / obstacle).write_bytes(b"")
    before, branches = snapshot(root), git(root, "branch", "--list")
    named = ["v0.11.1"] if command == "update" else []
    done = run(command, root, *named, "--commit", *OPTIONS)
    assert done.code == 2
    assert done.err.splitlines()[-1].startswith("Error: ")
    assert snapshot(root) == before
    assert git(root, "branch", "--list") == branches


def test_a_tree_of_another_owner(tmp_path: Path, run: RunCli) -> None:
    root = upstream(tmp_path / "t")
    done = run("apply", root, "--in-place", *OPTIONS, more={"GIT_TEST_ASSUME_DIFFERENT_OWNER": "1"})
    assert done.code == 2
    assert "dubious ownership" in done.err
    assert "git config --global --add safe.directory" in done.err


# ---- rebased by hand -----------------------------------------------------------------------


def test_a_port_that_was_rebased_by_hand(tmp_path: Path, run: RunCli) -> None:
    root = upstream(tmp_path / "t")
    git(root, "checkout", "-q", "v0.11.1")
    (root / "vllm/v1/fresh.py").write_text(FRESH, encoding="utf-8")
    git(root, "add", "-A")
    git(root, "commit", "-q", "-m", "next")
    git(root, "tag", "-f", "v0.11.1")
    git(root, "checkout", "-q", "work")
    migrate(run, root)
    ops = root / "vllm/_custom_ops.py"
    ops.write_bytes(ops.read_bytes() + b"MINE = 1\n")
    git(root, "commit", "-qam", "ours")
    git(root, "rebase", "-q", "v0.11.1")
    done = update(run, root)
    assert "conflict" not in done.err
    assert "is_cuda" not in (root / "vllm/v1/fresh.py").read_text(encoding="utf-8")
    assert ops.read_bytes().endswith(b"MINE = 1\n")
    assert json.loads((root / LOG_NAME).read_bytes())["release"] == "0.11.1"


def test_a_change_that_was_taken_back_by_hand_stays_away(tmp_path: Path, run: RunCli) -> None:
    """A file that upstream leaves alone and that an engineer put back as it was."""
    root = upstream(tmp_path / "t")
    path = "vllm/model_executor/layers/activation.py"
    before = (root / path).read_bytes()
    migrate(run, root)
    assert (root / path).read_bytes() != before
    (root / path).write_bytes(before)
    git(root, "commit", "-qam", "not this one")
    update(run, root)
    assert (root / path).read_bytes() == before


def test_paths_below_the_repository(tmp_path: Path, run: RunCli) -> None:
    """A tree in a directory of its repository, of which a part is left out of the disk."""
    outer = tmp_path / "outer"
    outer.mkdir()
    git(outer, "init", "-q")
    root = copy_mini(outer / "third_party/vllm", {"docs/a.md": b"doc\n"})
    (outer / "ours.txt").write_bytes(b"x\n")
    git(outer, "add", "-A", "-f")
    git(outer, "commit", "-q", "-m", "all")
    migrate(run, root)
    git(outer, "sparse-checkout", "set", "--no-cone", "/*", "!/third_party/vllm/docs")
    assert not os.path.lexists(root / "docs/a.md")
    new = copy_mini(tmp_path / "new", {"docs/a.md": b"doc 2\n"})
    (new / "PKG-INFO").write_bytes(b"Metadata-Version: 2.4\nName: vllm\nVersion: 0.11.1\n")
    done = run("update", root, new, "--commit", *OPTIONS)
    assert done.code == 0, done.err
    assert git(outer, "show", "HEAD:third_party/vllm/docs/a.md") == "doc 2\n"
    assert git(outer, "show", "HEAD:ours.txt") == "x\n"
