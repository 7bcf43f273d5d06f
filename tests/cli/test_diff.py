# SPDX-License-Identifier: Apache-2.0
"""`diff` prints a patch which, taken by `git apply`, gives the bytes that `apply` writes."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from migrator.planning.plan import Plan
from migrator.reports.changed_lines import cut_plan
from migrator.reports.patch import rule_patches
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
@pytest.mark.usefixtures("with_plans_of_this_run")
def test_real_release(release: Callable[[str], Path], tmp_path: Path, run_cli: RunCli) -> None:
    tree = tmp_path / "vllm-0.11.0"
    shutil.copytree(release("0.11.0"), tree, symlinks=True)
    assert_patch_is_apply(tree, tmp_path / "out", run_cli)


# ---- by rule, and in numbers ----------------------------------------------------------------


def test_by_rule_gives_the_same_tree(tmp_path: Path, run_cli: RunCli) -> None:
    tree = copy_mini(tmp_path / "mini", ODD_FILES)
    by_file = run_cli("diff", tree, "-q", "--by", "file", "--select", SELECT)
    by_rule = run_cli("diff", tree, "-q", "--by", "rule", "--select", SELECT)
    assert by_file == run_cli("diff", tree, "-q", "--select", SELECT)
    assert by_rule.out != by_file.out
    assert run_cli("apply", tree, "-q", "--select", SELECT).code == by_rule.code - 1 == 0
    git(tree, "apply", "-", stdin=by_rule.out)
    assert executables(snapshot(tree)) == executables(snapshot(tmp_path / "mini-npu"))


def test_by_rule_says_why(mini_tree: Path, run_cli: RunCli) -> None:
    out = run_cli("diff", mini_tree, "-q", "--by", "rule", "--select", SELECT).text
    parts = re.split(r"^# (?=NPU\d+ )", out, flags=re.M)[1:]
    codes = [part[:6] for part in parts]
    assert codes == sorted(set(codes)), "each rule has one part"
    (norm,) = (part for part in parts if part.startswith("NPU102 "))
    assert norm.startswith("NPU102 custom-ops-rms-norm (guarded)\n# Normalise with ")
    assert re.search(r"^# vllm/_custom_ops\.py:\d+ rms_norm: .+ is not built for NPU", norm, re.M)
    assert set(re.findall(r"^\+\+\+ b/(.+)$", norm, re.M)) == {"vllm/_custom_ops.py"}
    added = [line for line in norm.splitlines() if re.match(r"\+(?!\+\+ )", line)]
    assert any("npu_rms_norm" in line for line in added)
    assert not any("npu_add_rms_norm" in line for line in added), "that is another rule's"


def test_each_rule_goes_in_by_itself(mini_tree: Path, run_cli: RunCli) -> None:
    """One commit for each rule: every part applies where those before it did."""
    out = run_cli("diff", mini_tree, "-q", "--by", "rule", "--select", SELECT).out
    assert run_cli("apply", mini_tree, "-q", "--select", SELECT).code == 0
    parts = re.split(rb"^(?=# (?:NPU\d+ |What ))", out, flags=re.M)[1:]
    assert len(parts) > 8
    for part in parts:
        git(mini_tree, "apply", "-", stdin=part)
    emitted = snapshot(mini_tree.parent / "mini-npu")
    assert executables(snapshot(mini_tree)) == executables(emitted)


@pytest.mark.releases
def test_by_rule_of_a_real_release(release_plan: Callable[[str], Plan], tmp_path: Path) -> None:
    plan = release_plan("0.33.0")
    cuts = cut_plan(plan)
    assert all(block.owners for cut in cuts for block in cut.blocks), "each line has a rule"
    for change in plan.files:
        if change.before is not None:
            place = tmp_path / change.path
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(change.before)
    git(tmp_path, "init", "-q")
    git(tmp_path, "apply", "-", stdin=b"".join(patch for _, patch in rule_patches(cuts)))
    for change in plan.files:
        assert (tmp_path / change.path).read_bytes() == change.after, change.path


def test_stat_counts_what_the_patch_has(mini_tree: Path, run_cli: RunCli) -> None:
    patch = run_cli("diff", mini_tree, "-q", "--select", SELECT).text
    done = run_cli("diff", mini_tree, "-q", "--stat", "--select", SELECT)
    assert done.code == 1
    files, rules = (table.splitlines() for table in done.text.split("\n\n")[:2])
    for part in re.split(r"^diff --git a/", patch, flags=re.M)[1:]:
        path = part.partition(" ")[0]
        if path in ("MIGRATION.md", "migration-log.json"):
            continue
        body = part.partition("\n@@")[2].splitlines()
        counts = [str(sum(line.startswith(sign) for line in body)) for sign in "+-"]
        (row,) = (line.split() for line in files if line.startswith(f"{path} "))
        assert row[1:3] == counts, path
    total = done.text.strip().splitlines()[-1]
    sums = [sum(int(line.split()[n]) for line in files[1:]) for n in (1, 2)]
    assert f"{sums[0]} lines added, {sums[1]} removed" in total
    by_rule = [re.findall(r" (\d+) ", line) for line in rules if line.startswith("NPU")]
    assert sum(int(row[2]) for row in by_rule) == sums[0], "each line has one rule"


def test_stat_by_one_of_both(mini_tree: Path, run_cli: RunCli) -> None:
    both = run_cli("diff", mini_tree, "-q", "--stat", "--select", SELECT).text
    files = run_cli("diff", mini_tree, "-q", "--stat", "--by", "file", "--select", SELECT).text
    rules = run_cli("diff", mini_tree, "-q", "--stat", "--by", "rule", "--select", SELECT).text
    assert files.startswith("file ")
    assert rules.startswith("rule ")
    assert both.partition("\n\n")[0] == files.partition("\n\n")[0]
    assert rules.partition("\n\n")[0] in both


def test_colour_on_a_terminal_only(mini_tree: Path, run_cli: RunCli) -> None:
    arguments = ("diff", mini_tree, "-q", "--by", "rule", "--select", "NPU102")
    plain = run_cli(*arguments).out
    assert b"\x1b" not in plain
    coloured = run_cli(*arguments, env={"FORCE_COLOR": "1", "TERM": "xterm-256color"}).text
    assert "\x1b[32m+" in coloured
    assert "\x1b[1;36m# NPU102" in coloured
    assert re.sub(r"\x1b\[[\d;]*m", "", coloured) == plain.decode()
    quiet = {"FORCE_COLOR": "1", "NO_COLOR": "1", "TERM": "xterm-256color"}
    assert run_cli(*arguments, env=quiet).out == plain


def test_control_characters_do_not_reach_a_terminal(tmp_path: Path, run_cli: RunCli) -> None:
    hostile = b'import torch\nsafe = "\x1b]0;owned\x07"\nok = torch.ones(1).is_cuda\n'
    tree = copy_mini(tmp_path / "mini", {"vllm/hostile.py": hostile})
    colour = {"FORCE_COLOR": "1", "TERM": "xterm-256color"}
    shown = run_cli("diff", tree, "-q", "--select", "NPU110", env=colour).text
    assert "\x1b]" not in shown
    assert "^[]0;owned^G" in shown
    assert b"\x1b]0;owned\x07" in run_cli("diff", tree, "-q", "--select", "NPU110").out
