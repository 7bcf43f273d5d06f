# SPDX-License-Identifier: Apache-2.0
"""Trees with broken files, unreadable files, links that lead out and workers that die."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from migrator.codemod.rule import File, Finding, Rule, Safety, Status, changed
from migrator.files.tree import DiskTree, Tree
from migrator.planning import plan as planning
from migrator.planning.plan import make_plan
from migrator.rules import all_rules
from tests import hostile
from tests.conftest import RunCli
from tests.trees import GUARD, SELECT, copy_mini, executables, git, snapshot

SOURCE = GUARD.format(remark="").encode()
BAD = {
    "vllm/bad_syntax.py": SOURCE + b"def broken(:\n",
    "vllm/bad_parens.py": SOURCE + b"x = " + b"(" * 3000 + b"1" + b")" * 3000 + b"\n",
    "vllm/bad_sum.py": SOURCE + b"x = " + b" + ".join([b"a"] * 20_000) + b"\n",
    "vllm/bad_or.py": SOURCE + b"x = " + b" or ".join([b"a"] * 20_000) + b"\n",
    "vllm/bad_chain.py": SOURCE + b"x = a" + b".b" * 2_000 + b"\n",
    "vllm/bad_bytes.py": SOURCE + b"# \xff\xfe\n",
    "vllm/bad_nul.py": SOURCE + b"\0",
    "vllm/bad_cr.py": SOURCE + b"x = 1\r",
}


@pytest.mark.parametrize("jobs", ["1", "2"])
def test_bad_files_stop_nothing(
    tmp_path: Path, run_cli: RunCli, monkeypatch: pytest.MonkeyPatch, jobs: str
) -> None:
    """They stay as they are and are named with the reason, exit code 1; all else is done."""
    monkeypatch.setattr(planning, "PARALLEL_BYTES", 0)
    clean = copy_mini(tmp_path / "clean")
    tree = copy_mini(tmp_path / "mini", BAD)
    assert run_cli("apply", clean, "--select", SELECT).code == 0
    done = run_cli("apply", tree, "--select", SELECT, "--jobs", jobs)
    assert done.code == 1, done.err
    after, wanted = snapshot(tmp_path / "mini-npu"), snapshot(tmp_path / "clean-npu")
    for path, data in BAD.items():
        assert after[path][1] == data
        assert f"{path}: left as it is: " in done.err
    own = {"MIGRATION.md", "migration-log.json"}
    assert {p: v for p, v in after.items() if p not in BAD.keys() | own} == {
        p: v for p, v in wanted.items() if p not in own
    }
    summary = (tmp_path / "mini-npu/MIGRATION.md").read_text(encoding="utf-8")
    for path in BAD:
        assert f"`{path}`: " in summary
    patch = run_cli("diff", tree, "--select", SELECT)
    assert patch.code == 1
    git(tree, "apply", "-", stdin=patch.out)
    assert executables(snapshot(tree)) == executables(after)


def test_a_broken_file_with_a_site_is_no_missing_site(tmp_path: Path, run_cli: RunCli) -> None:
    broken = (copy_mini(tmp_path / "one") / "vllm/_custom_ops.py").read_bytes() + b"\n)\n"
    tree = copy_mini(tmp_path / "mini", {"vllm/_custom_ops.py": broken})
    done = run_cli("apply", tree, "--select", SELECT)
    assert done.code == 1
    assert "vllm/_custom_ops.py: left as it is: not valid Python" in done.err
    assert (tmp_path / "mini-npu/vllm/_custom_ops.py").read_bytes() == broken
    assert (
        b"npu_swiglu"
        in (tmp_path / "mini-npu/vllm/model_executor/layers/activation.py").read_bytes()
    )


def test_bad_template_targets(tmp_path: Path, run_cli: RunCli) -> None:
    """A file of vLLM's own where the tool wants to add one is left, for a person."""
    tree = copy_mini(tmp_path / "mini", {"vllm/accelerator.py": b"mine = 1\n"})
    done = run_cli("apply", tree, "--select", SELECT)
    assert done.code == 1
    assert "vLLM has a file of its own here" in done.err
    assert (tmp_path / "mini-npu/vllm/accelerator.py").read_bytes() == b"mine = 1\n"


# ---- what cannot be read -------------------------------------------------------------------


def powerless() -> list[str]:
    """A prefix that takes root's right to read everything away; nothing where we are not root."""
    if os.geteuid():
        return []
    rights = "-dac_override,-dac_read_search"
    prefix = ["setpriv", f"--bounding-set={rights}", f"--inh-caps={rights}", "--"]
    try:
        works = subprocess.run([*prefix, "true"], capture_output=True).returncode == 0
    except FileNotFoundError:
        works = False
    if not works:
        pytest.skip("root reads everything, and setpriv is not there to change that")
    return prefix


def test_unreadable_file(tmp_path: Path, run_process: RunCli) -> None:
    tree = copy_mini(tmp_path / "mini", {"vllm/secret.py": SOURCE})
    (tree / "vllm/secret.py").chmod(0)
    prefix = powerless()
    before = snapshot(tree)

    diff = run_process("diff", tree, "--select", SELECT, prefix=prefix)
    assert diff.code == 1
    assert "vllm/secret.py: left as it is: it cannot be read" in diff.err
    assert b"npu_swiglu" in diff.out

    # A copy without it would not be the tree: the command says which file, and writes nothing.
    applied = run_process("apply", tree, "-q", "--select", SELECT, prefix=prefix)
    assert applied.code == 2
    assert applied.err.count("\n") == 1
    assert str(tree / "vllm/secret.py") in applied.err
    assert "Permission denied" in applied.err
    assert sorted(p.name for p in tmp_path.iterdir()) == ["mini"]

    # In place it need not be read, and stays.
    in_place = run_process(
        "apply", tree, "--in-place", "--force", "--select", SELECT, prefix=prefix
    )
    assert in_place.code == 1, in_place.err
    after = snapshot(tree)
    assert after["vllm/secret.py"] == before["vllm/secret.py"]
    assert after["vllm/_custom_ops.py"] != before["vllm/_custom_ops.py"]


def test_unreadable_directory(tmp_path: Path, run_process: RunCli) -> None:
    tree = copy_mini(tmp_path / "mini", {"vllm/closed/x.py": SOURCE})
    (tree / "vllm/closed").chmod(0)
    try:
        for command in ("diff", "check", "apply"):
            done = run_process(command, tree, "-q", "--select", SELECT, prefix=powerless())
            assert done.code == 2
            assert done.out == b""
            assert done.err.count("\n") == 1
            assert "vllm/closed" in done.err
    finally:
        (tree / "vllm/closed").chmod(0o755)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["mini"]


def test_neither_files_nor_directories(tmp_path: Path, run_cli: RunCli) -> None:
    """A FIFO would block whoever opens it; it is no part of the tree."""
    tree = copy_mini(tmp_path / "mini")
    os.mkfifo(tree / "vllm/pipe.py")
    assert run_cli("apply", tree, "--select", SELECT).code == 0
    assert not (tmp_path / "mini-npu/vllm/pipe.py").exists()


# ---- links ---------------------------------------------------------------------------------


@pytest.fixture
def linked(tmp_path: Path) -> Path:
    """A tree with links in and out of it, to files and directories, relative and absolute."""
    outside = tmp_path / "outside"
    (outside / "package").mkdir(parents=True)
    for name in ("one.py", "package/two.py"):
        (outside / name).write_bytes(SOURCE)
    tree = copy_mini(tmp_path / "mini")
    (tree / "vllm/abs.py").symlink_to(outside / "one.py")
    (tree / "vllm/rel.py").symlink_to("../../outside/one.py")
    (tree / "vllm/abs_dir").symlink_to(outside / "package")
    (tree / "vllm/rel_dir").symlink_to("../../outside/package")
    (tree / "vllm/up").symlink_to("..")
    (tree / "vllm/loop.py").symlink_to("loop.py")
    (tree / "vllm/dangling.py").symlink_to("/nonexistent/x.py")
    (tree / "vllm/inside.py").symlink_to("v1/guards.py")
    return tree


LINKS = (
    "vllm/abs.py",
    "vllm/rel.py",
    "vllm/abs_dir",
    "vllm/rel_dir",
    "vllm/up",
    "vllm/loop.py",
    "vllm/dangling.py",
    "vllm/inside.py",
)
LEAD_OUT = ("vllm/abs.py", "vllm/abs_dir", "vllm/dangling.py", "vllm/rel.py", "vllm/rel_dir")


def test_links_are_copied_and_never_followed(linked: Path, tmp_path: Path, run_cli: RunCli) -> None:
    outside = snapshot(tmp_path / "outside")
    before = snapshot(linked)
    done = run_cli("apply", linked, "--select", SELECT)
    assert done.code == 0, done.err
    after = snapshot(tmp_path / "mini-npu")
    for path in LINKS:
        assert after[path] == before[path]
        said = f"{path}: a link out of the tree; copied as a link, not followed"
        assert (said in done.err) == (path in LEAD_OUT)
    patch = run_cli("diff", linked, "--select", SELECT)
    for name in (b"abs", b"rel", b"up", b"loop", b"dangling", b"inside"):
        assert b"+++ b/vllm/" + name not in patch.out
    in_place = run_cli("apply", linked, "--in-place", "--force", "--select", SELECT)
    assert in_place.code == 0, in_place.err
    assert snapshot(linked) == after
    assert snapshot(tmp_path / "outside") == outside


def test_nothing_outside_is_read(linked: Path) -> None:
    tree = DiskTree(linked)
    for path in (
        *LINKS,
        "vllm/abs_dir/two.py",
        "vllm/rel_dir/two.py",
        "vllm/up/vllm/_custom_ops.py",
        "../outside/one.py",
        "vllm/../../outside/one.py",
        "/etc/passwd",
    ):
        assert tree.read(path) is None, path
        assert not tree.exists(path), path
    assert not [e for e in tree.entries() if "two.py" in e.path]
    assert make_plan(tree, select("NPU110")).links_out == LEAD_OUT


@pytest.mark.parametrize(
    ("link", "target"),
    [
        ("vllm/_custom_ops.py", "outside/_custom_ops.py"),
        ("vllm/model_executor", "outside/model_executor"),
    ],
)
def test_a_site_behind_a_link_is_missing(
    tmp_path: Path, run_cli: RunCli, link: str, target: str
) -> None:
    tree = copy_mini(tmp_path / "mini")
    (tmp_path / "outside").mkdir()
    (tree / link).rename(tmp_path / target)
    (tree / link).symlink_to(tmp_path / target)
    before = snapshot(tmp_path)
    done = run_cli("apply", tree, "--select", SELECT)
    assert done.code == 2
    assert "finds no " in done.err
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize("how", [["--in-place", "--force"], ["-o", "out"]])
def test_an_added_file_is_not_written_through_a_link(
    tmp_path: Path, run_cli: RunCli, how: list[str]
) -> None:
    tree = copy_mini(tmp_path / "mini")
    victim = tmp_path / "victim"
    victim.write_bytes(b"precious\n")
    (tree / "vllm/accelerator.py").symlink_to(victim)
    done = run_cli("apply", tree, *how, "--select", SELECT)
    assert done.code == 1
    assert "what stands here is no file" in done.err
    assert victim.read_bytes() == b"precious\n"
    written = tree if "--in-place" in how else tmp_path / "out"
    assert os.readlink(written / "vllm/accelerator.py") == str(victim)


@pytest.mark.parametrize("name", ["MIGRATION.md", "migration-log.json"])
def test_the_log_is_not_written_through_a_link(tmp_path: Path, run_cli: RunCli, name: str) -> None:
    tree = copy_mini(tmp_path / "mini")
    victim = tmp_path / "victim"
    victim.write_bytes(b"precious\n")
    (tree / name).symlink_to(victim)
    before = snapshot(tree)
    for how in (["--in-place", "--force"], ["-o", "out"], ["--dry-run"]):
        done = run_cli("apply", tree, *how, "--select", SELECT)
        assert done.code == 2
        assert done.err == f"Error: {name} of mini is no file; move it away first\n"
    assert snapshot(tree) == before
    assert victim.read_bytes() == b"precious\n"
    assert not (tmp_path / "out").exists()


# ---- the corpus ----------------------------------------------------------------------------

FINE, LEFT, REFUSED = 0, 1, 2
ENDS = {
    # name: how apply ends, and apply --in-place
    "later-log": (REFUSED, REFUSED),
    "log-leads-out": (FINE, FINE),
    "log-of-another-shape": (REFUSED, REFUSED),
    "lying-log": (FINE, FINE),
    "own-summary": (REFUSED, REFUSED),
    "truncated-log": (REFUSED, REFUSED),
    "symlink-loops": (FINE, FINE),
    "links-out": (FINE, FINE),
    "link-for-an-added-file": (LEFT, LEFT),
    "link-for-the-log": (REFUSED, REFUSED),
    "odd-names": (FINE, FINE),
    "directories-called-like-files": (FINE, FINE),
    "directory-for-an-added-file": (LEFT, LEFT),
    "directory-for-the-log": (REFUSED, REFUSED),
    "directory-for-a-site": (REFUSED, REFUSED),
    "case-collisions": (FINE, FINE),
    "odd-modes": (FINE, FINE),
    "huge-files": (FINE, FINE),
    "pipes-and-sockets": (FINE, FINE),
    "pipe-for-an-added-file": (LEFT, LEFT),
    "deep-directories": (FINE, FINE),
    "bottomless-directories": (REFUSED, REFUSED),
    "nested-git": (FINE, FINE),
    "empty-files": (FINE, FINE),
    "odd-bytes": (LEFT, LEFT),
    "traps": (FINE, FINE),
    "odd-metadata": (FINE, FINE),
    "metadata-pipe": (FINE, FINE),
    "staging-is-a-file": (FINE, REFUSED),
    "staging-is-a-link": (FINE, REFUSED),
    "lying-journal": (FINE, REFUSED),
    "journal-that-takes-from-outside": (FINE, REFUSED),
    "damaged-journal": (FINE, REFUSED),
    "no-directory": (REFUSED, REFUSED),
    "empty-tree": (REFUSED, REFUSED),
}


@pytest.mark.usefixtures("kept_results")
@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=[pytest.mark.slow] * (n == "huge-files")) for n in hostile.TREES],
)
def test_hostile_tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Through every command; what has to hold is in tests/hostile.py."""
    monkeypatch.chdir(tmp_path)
    here = tmp_path / "here"
    here.mkdir()
    try:
        hostile.make(here / "mini", [name])
        judge = hostile.Judge(here, here / "mini")
        codes = judge.all()
    finally:
        hostile.remove(here)
    assert judge.wrong is None
    assert (codes["apply"], codes["in place"]) == ENDS[name]
    assert codes["diff"] == {FINE: 1}.get(codes["apply"], codes["apply"])


def test_an_added_file_in_a_linked_directory(tmp_path: Path, run_cli: RunCli) -> None:
    tree = copy_mini(tmp_path / "mini")
    (tree / "vllm").rename(tmp_path / "package")
    (tree / "vllm").symlink_to(tmp_path / "package")
    before = snapshot(tmp_path / "package")
    for options in (["-o", str(tmp_path / "out")], ["--in-place", "--force"]):
        done = run_cli("apply", tree, *options, "--select", SELECT)
        assert done.code == 2
    assert snapshot(tmp_path / "package") == before


# ---- names ---------------------------------------------------------------------------------


def test_odd_names(tmp_path: Path, run_process: RunCli) -> None:
    """A name that is no UTF-8 can be in a tree, and its broken file in the log."""
    tree = copy_mini(tmp_path / "mini")
    names = [b"caf\xe9.py", "schön.py".encode(), b'quo"te.py', b"a b.py", b"tab\t.py", b"new\n.py"]
    for name in names:
        Path(os.fsdecode(os.fsencode(tree / "vllm") + b"/" + name)).write_bytes(SOURCE)
        broken = os.fsencode(tree / "vllm") + b"/broken_" + name
        Path(os.fsdecode(broken)).write_bytes(SOURCE + b"(\n")
    patch = run_process("diff", tree, "--select", SELECT)
    assert patch.code == 1, patch.err
    applied = run_process("apply", tree, "-o", tmp_path / "out", "--select", SELECT)
    assert applied.code == 1, applied.err
    git(tree, "apply", "-", stdin=patch.out)
    after = snapshot(tmp_path / "out")
    assert executables(snapshot(tree)) == executables(after)
    files = [data for _, data in after.values() if isinstance(data, bytes)]
    assert sum(b'device.type == "cuda"' in data for data in files) >= len(names)
    again = run_process("apply", tmp_path / "out", "--in-place", "--force", "--select", SELECT)
    assert again.code == 1, again.err
    assert snapshot(tmp_path / "out") == after


# ---- workers -------------------------------------------------------------------------------


class Deadly(Rule):
    """Dies, with the whole process, of the files whose name says so."""

    code = "NPU999"
    safety = Safety.EQUIVALENT
    triggers = (r"import",)

    def check(self, file: File) -> Iterator[Finding]:
        if "exit" in file.path:
            os._exit(3)
        if "killed" in file.path:
            os.kill(os.getpid(), 9)
        yield changed("<module>", file.module.body[0], "here")


def select(*codes: str) -> list[Rule]:
    return [rule for rule in all_rules() if rule.code in codes]


@pytest.mark.parametrize("count", [1, 3])
def test_a_worker_that_dies(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    monkeypatch.setattr(planning, "PARALLEL_BYTES", 0)
    files = {f"vllm/fine{n}.py": SOURCE for n in range(8)}
    for n in range(count):
        files |= {f"vllm/exit{n}.py": SOURCE + b"#" * n, f"vllm/killed{n}.py": SOURCE}
    plan = make_plan(Tree(files), [Deadly()], jobs=2)
    assert {f.path for f in plan.failures} == {p for p in files if "fine" not in p}
    assert {f.reason for f in plan.failures} == {"its parser died"}
    assert {r.path for r in plan.records} == {p for p in files if "fine" in p}
    assert all(r.status is Status.CHANGED for r in plan.records)
