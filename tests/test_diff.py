# SPDX-License-Identifier: Apache-2.0
"""`diff` prints a patch which, taken by `git apply`, gives the bytes that `apply` writes."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import RunCli
from tests.trees import ODD_FILES, SELECT, commit_all, copy_mini, executables, git, snapshot


def assert_patch_is_apply(tree: Path, out: Path, run_cli: RunCli, *options: str) -> None:
    """Check that the patch for `tree` gives what `apply` writes to `out`; `tree` is changed."""
    patch = run_cli("diff", tree, *options)
    assert patch.code == 1, patch.err
    before = snapshot(tree)
    applied = run_cli("apply", tree, "-o", out, *options)
    assert applied.code == 0, applied.err
    assert applied.out == b""
    assert snapshot(tree) == before
    git(tree, "apply", "--check", "-", stdin=patch.out)
    git(tree, "apply", "-", stdin=patch.out)
    after = snapshot(tree)
    emitted = snapshot(out)
    assert after != before
    assert executables(after) == executables(emitted)
    for path, (mode, _) in before.items():
        assert emitted[path][0] == mode, f"{path} has another mode than its source"
    dry = run_cli("apply", out, "--dry-run", *options)
    assert (dry.code, dry.out) == (0, b"")


def test_small_tree(mini_tree: Path, tmp_path: Path, run_cli: RunCli) -> None:
    assert_patch_is_apply(mini_tree, tmp_path / "out", run_cli, "--select", SELECT)
    assert (tmp_path / "out" / "tools" / "run.sh").stat().st_mode & 0o777 == 0o755
    assert (tmp_path / "out" / "vllm" / "accelerator.py").is_file()


def test_small_tree_inside_a_checkout(mini_tree: Path, tmp_path: Path, run_cli: RunCli) -> None:
    commit_all(mini_tree)
    (mini_tree / "vllm" / "_custom_ops.py").chmod(0o755)
    assert_patch_is_apply(mini_tree, tmp_path / "out", run_cli, "--select", SELECT)
    assert not (tmp_path / "out" / ".git").exists()


def test_dry_run_prints_what_diff_prints(mini_tree: Path, run_cli: RunCli) -> None:
    diff = run_cli("diff", mini_tree, "--select", SELECT)
    dry = run_cli("apply", mini_tree, "--dry-run", "--select", SELECT)
    assert dry == diff
    assert sorted(p.name for p in mini_tree.parent.iterdir()) == ["mini"]


def test_odd_bytes(tmp_path: Path, run_cli: RunCli) -> None:
    tree = copy_mini(tmp_path / "mini", ODD_FILES)
    out = tmp_path / "out"
    assert_patch_is_apply(tree, out, run_cli, "--select", SELECT)
    for path, before in ODD_FILES.items():
        after = (out / path).read_bytes()
        assert after != before, f"{path} has a site and was not changed"
        assert after.startswith(b"\xef\xbb\xbf") == before.startswith(b"\xef\xbb\xbf")
        assert after.endswith(b"\n") == before.endswith(b"\n")
        if path.endswith(("windows.py", "activation.py")):
            assert after.count(b"\n") == after.count(b"\r\n"), f"{path} lost line ends"
        if path in ("vllm/latin.py", "vllm/windows.py", "vllm/no_end.py", "vllm/tabs.py"):
            assert after == before.replace(b"x.is_cuda", b'x.device.type == "cuda"')


def test_odd_bytes_in_place(tmp_path: Path, run_cli: RunCli) -> None:
    tree = copy_mini(tmp_path / "mini", ODD_FILES)
    assert run_cli("apply", tree, "--select", SELECT).code == 0
    assert run_cli("apply", tree, "--in-place", "--force", "--select", SELECT).code == 0
    assert snapshot(tree) == snapshot(tmp_path / "mini-npu")


@pytest.mark.releases
def test_real_release(release: Callable[[str], Path], tmp_path: Path, run_cli: RunCli) -> None:
    tree = tmp_path / "vllm-0.11.0"
    shutil.copytree(release("0.11.0"), tree, symlinks=True)
    assert_patch_is_apply(tree, tmp_path / "out", run_cli)
