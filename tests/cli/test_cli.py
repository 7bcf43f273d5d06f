# SPDX-License-Identifier: Apache-2.0
"""The command line: exit codes, errors of one line with a way out, formats, settings, refusals."""

from __future__ import annotations

import json
import os
import pty
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

import migrator
from migrator.cli import COMMANDS
from migrator.files import sources
from migrator.files.tree import LOG_NAME, Label
from migrator.reports import releases
from migrator.reports.log import schema
from migrator.rules import all_rules
from tests.conftest import Outcome, RunCli, cli_command
from tests.trees import SELECT, commit_all, copy_mini, git, snapshot

MANUAL = {"vllm/manual.py": b"def f(x):\n    return x.is_cuda\n"}
BROKEN = {"vllm/broken.py": b"x.is_cuda  # no\n(\n"}


def assert_one_line(done: Outcome, *parts: str) -> None:
    """An error is one line on stderr, with exit code 2 and nothing on stdout."""
    assert done.code == 2, done.err
    assert done.out == b""
    assert done.err.startswith("Error: ")
    assert done.err.endswith("\n")
    assert done.err.count("\n") == 1
    for part in parts:
        assert part in done.err


# ---- exit codes ----------------------------------------------------------------------------


def test_exit_codes_of_a_whole_migration(tmp_path: Path, run_cli: RunCli) -> None:
    tree, out = copy_mini(tmp_path / "mini"), tmp_path / "mini-npu"
    options = ("-q", "--select", SELECT)
    assert run_cli("check", tree, *options).code == 1
    assert run_cli("diff", tree, *options).code == 1
    assert run_cli("apply", tree, "--dry-run", *options).code == 1
    assert not out.exists()
    assert run_cli("apply", tree, *options).code == 0
    assert run_cli("check", out, *options).code == 0
    assert run_cli("diff", out, *options) == Outcome(0, b"", "")
    assert run_cli("apply", out, "--dry-run", *options) == Outcome(0, b"", "")
    assert run_cli("apply", out, "--in-place", "--force", *options) == Outcome(0, b"", "")


@pytest.mark.parametrize("extra", [MANUAL, BROKEN], ids=["manual", "broken"])
def test_exit_code_where_a_person_is_needed(
    tmp_path: Path, run_cli: RunCli, extra: dict[str, bytes]
) -> None:
    tree = copy_mini(tmp_path / "mini", extra)
    done = run_cli("apply", tree, "--select", SELECT)
    assert done.code == 1
    assert next(iter(extra)) in done.err
    assert f"Adapted tree: {tmp_path / 'mini-npu'}" in done.err
    assert run_cli("check", tmp_path / "mini-npu", "-q", "--select", SELECT).code == 1


@pytest.mark.parametrize(
    "arguments",
    [
        ["apply"],
        ["nonsense"],
        ["apply", "TREE", "--nonsense"],
        ["apply", "TREE", "--jobs", "0"],
        ["apply", "TREE", "--format", "xml"],
        ["diff", "TREE", "--format", "json"],
        ["check", "nowhere"],
        ["rules", "--format", "sarif"],
    ],
    ids=" ".join,
)
def test_wrong_usage(mini_tree: Path, run_cli: RunCli, arguments: list[str]) -> None:
    done = run_cli(*[str(mini_tree) if a == "TREE" else a for a in arguments])
    assert done.code == 2
    assert done.out == b""
    assert "Error: " in done.err


@pytest.mark.parametrize(
    ("arguments", "module", "function"),
    [
        (("check",), "migrator.planning.plan", "make_plan"),
        (("verify",), "migrator.verify.run", "verify"),
        (("simulator", "doctor", "--env"), "migrator.simulator.build", "probe"),
    ],
)
def test_a_bug_is_no_pending_change(
    arguments: tuple[str, ...], module: str, function: str, mini_tree: Path, tmp_path: Path
) -> None:
    """A program that asks for exit code 1 must not take a crash for changes that are pending."""
    program = (
        f"import {module} as module\n"
        "def broken(*args, **kwargs): raise ZeroDivisionError('of this test')\n"
        f"module.{function} = broken\n"
        "from migrator.cli import main\n"
        "main()\n"
    )
    command = cli_command(*arguments, mini_tree)
    command[2] = program
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 2
    assert "ZeroDivisionError: of this test" in done.stderr
    assert "bug" in done.stderr.splitlines()[-1]


# ---- sources -------------------------------------------------------------------------------


def test_sources_that_are_none(tmp_path: Path, mini_tree: Path, run_cli: RunCli) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_bytes(b"")
    for command in ("apply", "diff"):
        for text, parts in {
            "empty": ("empty is not a vLLM source tree: it has no vllm/__init__.py",),
            "file": ("file is a file; name the directory that it unpacks to",),
            "nowhere": ("nowhere is neither a directory nor a release", "write vllm==0.11.0"),
            "vllm>=0.11": ("is neither a directory nor a release",),
            "vllm": ("is neither a directory nor a release",),
            "vllm==": ("is neither a directory nor a release",),
            "torch==2.8.0": ("is neither a directory nor a release",),
            "vllm==0.11.*": ("is neither a directory nor a release",),
            "vllm==0.11.0,>0": ("is neither a directory nor a release",),
            str(mini_tree / "vllm"): ("is not a vLLM source tree", "did you mean "),
            str(tmp_path): ("is not a vLLM source tree",),
        }.items():
            assert_one_line(run_cli(command, text, "-q"), *parts)


@pytest.mark.parametrize("text", ["vllm==1.2.3", "vllm == 1.2.3", "VLLM==1.2.3", "vllm==1.2.3.0"])
def test_a_release_is_fetched_by_name(
    tmp_path: Path, run_cli: RunCli, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    asked: list[str] = []
    cached = copy_mini(tmp_path / "cache" / "vllm-1.2.3")

    def fetch(version: str) -> Path:
        asked.append(version)
        return cached

    monkeypatch.setattr(sources, "fetch", fetch)
    (tmp_path / "here").mkdir()
    before = snapshot(cached)
    done = run_cli("apply", text, "--select", SELECT, cwd=tmp_path / "here")
    assert done.code == 0, done.err
    assert asked == [text.partition("==")[2].strip()]
    assert [p.name for p in (tmp_path / "here").iterdir()] == ["vllm-1.2.3-npu"]
    assert snapshot(cached) == before


def test_a_fetched_release_is_not_changed_in_place(
    tmp_path: Path, run_cli: RunCli, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The user's cache has to hold what the index has; --force is no way around."""
    cached = copy_mini(tmp_path / "vllm-1.2.3")
    monkeypatch.setattr(sources, "fetch", lambda version: cached)
    before = snapshot(cached)
    for force in ([], ["--force"]):
        done = run_cli("apply", "vllm==1.2.3", "--in-place", "-q", *force, "--select", SELECT)
        assert_one_line(done, "--in-place", "-o")
        assert snapshot(cached) == before


def test_an_index_that_cannot_be_reached(tmp_path: Path, run_process: RunCli) -> None:
    done = run_process(
        "diff",
        "vllm==99.0.1",
        "-q",
        env={
            "XDG_CACHE_HOME": str(tmp_path / "cache"),
            "PIP_CONFIG_FILE": os.devnull,
            "PIP_INDEX_URL": (tmp_path / "nothing").as_uri(),
            "PIP_EXTRA_INDEX_URL": "",
            "PIP_FIND_LINKS": "",
        },
    )
    assert_one_line(done, "vllm==99.0.1", "package index")
    assert not [p for p in tmp_path.rglob("*") if p.is_file()]


def test_a_checkout_knows_its_release_by_its_tag(tmp_path: Path, run_cli: RunCli) -> None:
    tree = copy_mini(tmp_path / "mini")
    (tree / "PKG-INFO").unlink()
    commit_all(tree)
    git(tree, "tag", "v0.10.2")
    git(tree, "tag", "nonsense")
    done = run_cli("check", tree, "--select", "NPU110")
    assert "vLLM 0.10.2" in done.err


# ---- where the result goes -----------------------------------------------------------------


def test_output_beside_the_source(mini_tree: Path, tmp_path: Path, run_cli: RunCli) -> None:
    done = run_cli("apply", f"{mini_tree}/", "--select", SELECT)
    assert done.code == 0
    out = tmp_path / "mini-npu"
    written = [f"Adapted tree: {out}", f"Log: {out / LOG_NAME}"]
    lines = done.err.splitlines()
    assert lines[2].endswith("so nobody has checked: 10 sites"), "the small tree is no release"
    begin = lines.index(written[0])
    assert lines[begin : begin + 2] == written
    assert all(line.startswith("  ") for line in lines[3:begin]), "only what nobody has checked"
    assert (out / LOG_NAME).is_file()


def test_outputs_that_are_refused(tmp_path: Path, mini_tree: Path, run_cli: RunCli) -> None:
    other = tmp_path / "other"
    other.mkdir()
    (other / "thesis.txt").write_bytes(b"years of work\n")
    (tmp_path / "file").write_bytes(b"x")
    (tmp_path / "link").symlink_to(other)
    (tmp_path / "same").symlink_to(mini_tree)
    before = snapshot(tmp_path)
    for output, part in {
        other: "was not made by this tool; choose another -o or remove it",
        tmp_path / "file": "is there and is no directory; choose another -o",
        tmp_path / "link": "is there and is no directory; choose another -o",
        mini_tree: "the output is the source itself; choose another -o, or use --in-place",
        tmp_path / "same": "the output is the source itself",
        mini_tree / "vllm" / "out": "lie within each other; choose another -o",
        tmp_path: "lie within each other; choose another -o",
        tmp_path / "no" / "where": "there is no directory",
    }.items():
        for force in ([], ["--force"]):
            done = run_cli("apply", mini_tree, "-o", output, "-q", *force, "--select", SELECT)
            assert_one_line(done, part)
    assert snapshot(tmp_path) == before


def test_an_empty_output_directory_will_do(
    tmp_path: Path, mini_tree: Path, run_cli: RunCli
) -> None:
    (tmp_path / "out").mkdir()
    assert run_cli("apply", mini_tree, "-o", tmp_path / "out", "--select", SELECT).code == 0
    assert (tmp_path / "out" / LOG_NAME).is_file()


def test_our_own_output_is_replaced(tmp_path: Path, mini_tree: Path, run_cli: RunCli) -> None:
    out = tmp_path / "mini-npu"
    assert run_cli("apply", mini_tree, "--select", "NPU110").code == 0
    assert run_cli("apply", mini_tree, "--select", SELECT).code == 0
    copy_mini(tmp_path / "fresh")
    assert run_cli("apply", tmp_path / "fresh", "--select", SELECT).code == 0
    assert snapshot(out) == snapshot(tmp_path / "fresh-npu")
    assert sorted(p.name for p in tmp_path.iterdir() if p.name.startswith(".")) == []


@pytest.mark.parametrize("edit", ["changed", "added", "removed", "code", "git"])
def test_work_in_our_output_is_not_lost(
    tmp_path: Path, mini_tree: Path, run_cli: RunCli, edit: str
) -> None:
    """Neither an edited file, nor one more, nor one less, nor the commits of a repository."""
    out = tmp_path / "mini-npu"
    assert run_cli("apply", mini_tree, "--select", SELECT).code == 0
    if edit == "changed":
        (out / "README.md").write_bytes(b"mine\n")
    elif edit == "added":
        (out / "vllm/mine.py").write_bytes(b"x = 1\n")
    elif edit == "removed":
        (out / "README.md").unlink()
    elif edit == "code":
        with (out / "vllm/_custom_ops.py").open("ab") as file:
            file.write(b"# tuned\n")
    else:
        commit_all(out)
    before = snapshot(out)
    done = run_cli("apply", mini_tree, "-q", "--select", SELECT)
    assert_one_line(done, "has changes that would be lost", "or --force to replace it")
    assert snapshot(out) == before
    if edit == "git":
        assert (out / ".git").is_dir()
    assert run_cli("apply", mini_tree, "-q", "--force", "--select", SELECT).code == 0
    assert snapshot(out) != before or edit == "git"


def test_byte_code_in_our_output_is_no_work(
    tmp_path: Path, mini_tree: Path, run_cli: RunCli
) -> None:
    assert run_cli("apply", mini_tree, "--select", SELECT).code == 0
    (tmp_path / "mini-npu/vllm/__pycache__").mkdir()
    (tmp_path / "mini-npu/vllm/__pycache__/x.pyc").write_bytes(b"x")
    assert run_cli("apply", mini_tree, "--select", SELECT).code == 0


# ---- in place ------------------------------------------------------------------------------


def test_in_place_wants_a_clean_checkout(mini_tree: Path, run_cli: RunCli) -> None:
    arguments = ("apply", mini_tree, "--in-place", "-q", "--select", SELECT)
    before = snapshot(mini_tree)
    assert_one_line(run_cli(*arguments), "is no git checkout", "use -o DIR, or --force")
    commit_all(mini_tree)
    (mini_tree / "new.txt").write_bytes(b"x")
    assert_one_line(
        run_cli(*arguments), "has uncommitted changes; commit or stash them first, or --force"
    )
    (mini_tree / "new.txt").unlink()
    assert snapshot(mini_tree) == before
    assert run_cli(*arguments).code == 0
    changed = git(mini_tree, "status", "--porcelain").splitlines()
    assert " M vllm/_custom_ops.py" in changed
    assert "?? MIGRATION.md" in changed
    assert not [line for line in changed if ".vllm-npu-migrate" in line]
    assert_one_line(run_cli(*arguments), "has uncommitted changes")
    assert run_cli(*arguments, "--force") == Outcome(0, b"", "")


def test_in_place_below_a_checkout(tmp_path: Path, run_cli: RunCli) -> None:
    """A tree vendored in a repository: only what is below it has to be clean."""
    tree = copy_mini(tmp_path / "repo" / "third_party" / "vllm")
    commit_all(tmp_path / "repo")
    (tmp_path / "repo" / "notes").write_bytes(b"x")
    assert run_cli("apply", tree, "--in-place", "--select", SELECT).code == 0


def test_in_place_excludes_an_output(mini_tree: Path, tmp_path: Path, run_cli: RunCli) -> None:
    done = run_cli("apply", mini_tree, "--in-place", "-o", tmp_path / "x")
    assert_one_line(done, "-o and --in-place exclude each other")


def test_in_place_dry_run_needs_no_checkout(mini_tree: Path, run_cli: RunCli) -> None:
    before = snapshot(mini_tree)
    done = run_cli("apply", mini_tree, "--in-place", "--dry-run", "-q", "--select", SELECT)
    assert done.code == 1
    assert done.out.startswith(b"diff --git ")
    assert snapshot(mini_tree) == before


# ---- what is said --------------------------------------------------------------------------


def test_totals_come_first(tmp_path: Path, run_cli: RunCli) -> None:
    tree = copy_mini(tmp_path / "mini", MANUAL)
    for command, head in {"diff": "would change", "check": "pending", "apply": "changed"}.items():
        done = run_cli(command, tree, "--select", SELECT)
        lines = done.err.splitlines()
        assert lines[0] == "vLLM 0.11.0, a known release"
        done_in = rf"\d+ sites {head} in \d+ files, \d of them new"
        assert re.fullmatch(rf"{done_in}; 0 migrated already; 1 left for a person", lines[1])
        assert lines[2].startswith(
            "vllm/manual.py:2: NPU110 manual: f: nothing in the module tells"
        )
        following = next(line for line in lines if line.startswith("Next: "))
        blank = lines.index("")
        assert lines.index(following) < blank
        assert re.split(r"\s{2,}", lines[blank + 1].strip()) == [
            *("rule", "name", head, "skipped", "for a person")
        ]
        rows = [re.split(r"\s{2,}", line.strip()) for line in lines[blank + 2 :]]
        assert ["NPU110", "tensor-device-guard", "4", "2", "1"] in rows
        assert all(any(number != "0" for number in row[2:]) for row in rows), "rows of zeros"
        assert "as in releases >=" not in done.err, "absences are for -v"
    assert following == f"Next: vllm-npu-migrate verify {tmp_path / 'mini-npu'}"


def test_the_whole_table(tmp_path: Path, run_cli: RunCli) -> None:
    tree = copy_mini(tmp_path / "mini", MANUAL)
    done = run_cli("check", tree, "-v", "--select", SELECT)
    lines = done.err.splitlines()
    heads = next(line for line in lines if line.startswith("rule "))
    assert re.split(r"\s{2,}", heads.strip()) == [
        *("rule", "name", "pending", "migrated already", "skipped", "for a person", "note")
    ]
    row = next(line for line in lines if line.startswith("NPU110 "))
    assert re.split(r"\s{2,}", row.strip()) == [
        *("NPU110", "tensor-device-guard", "4", "0", "2", "1"),
        "1 not a tensor, 1 only runs on another device",
    ]
    assert "NPU101: no batched_rotary_embedding, as in releases >=0.11.0: " in done.err


def test_a_narrow_terminal(mini_tree: Path, run_cli: RunCli) -> None:
    for options in ((), ("-v",)):
        done = run_cli("check", mini_tree, "--select", SELECT, *options, env={"COLUMNS": "60"})
        lines = done.err.splitlines()
        row = next(line for line in lines if line.startswith("NPU103 "))
        assert row.split()[:3] == ["NPU103", "custom-ops-fused-add-rms-norm", "1"]
        assert len(row) <= 60


@pytest.mark.parametrize(
    ("label", "said"),
    [
        (Label("0.9.2"), "vLLM 0.9.2, a known release"),
        (Label("0.33.0"), "vLLM 0.33.0, a known release"),
        (Label("0.11"), "vLLM 0.11, a known release"),
        (Label("0.15.0"), "it lies between the known releases 0.14.1 and 0.16.0"),
        (Label("0.33.0rc1"), "it lies between the known releases 0.32.0 and 0.33.0"),
        (Label("0.33.1"), "newer than 0.33.0, the newest release known"),
        (Label("1.0"), "newer than 0.33.0"),
        (Label("0.9.1"), "older than 0.9.2, the oldest release known, by its own word"),
        (Label(claim="0.34.0.dev12"), "vLLM 0.34.0.dev12, no release: judged by what it holds"),
        (Label(), "release unknown"),
    ],
)
def test_how_a_release_stands(label: Label, said: str) -> None:
    assert said in releases.standing(label)
    if label.release is not None:
        assert releases.is_too_old(label.release) == ("older" in said)


def test_known_releases_are_those_of_the_table() -> None:
    table = (Path(__file__).parents[2] / "docs/releases.md").read_text(encoding="utf-8")
    heads = next(line for line in table.splitlines() if line.startswith("| Rule "))
    assert tuple(re.findall(r"\d[\d.]+", heads)) == releases.KNOWN


BUILDERS = "vllm/v1/attention/backends/flash_attn.py"
EXPERTS = "vllm/model_executor/layers/fused_moe/layer.py"
OLD_SHAPES = {
    "no common builder": {BUILDERS: b"class FlashAttentionMetadataBuilder:\n    pass\n"},
    "experts of their own": {
        BUILDERS: b"class FlashAttentionMetadataBuilder(AttentionMetadataBuilder):\n    pass\n",
        EXPERTS: b"class MoEConfig:\n    pass\n\n\nclass FusedMoE:\n    pass\n",
    },
    "no builder": {"vllm/worker/model_runner.py": b"class ModelRunner:\n    pass\n"},
}


@pytest.mark.parametrize("shape", OLD_SHAPES)
@pytest.mark.parametrize("version", [b"0.8.5", b"0.3.1.dev35", b"0.33.0", None])
def test_a_tree_that_is_too_old(
    shape: str, version: bytes | None, tmp_path: Path, run_cli: RunCli
) -> None:
    """It is told by what the tree holds, whatever it says of itself."""
    info = b"" if version is None else b"Name: vllm\nVersion: " + version + b"\n"
    tree = copy_mini(tmp_path / "old", {"PKG-INFO": info, **OLD_SHAPES[shape]})
    for command in ("apply", "diff", "check"):
        assert_one_line(run_cli(command, tree), "is older than 0.9.2, the oldest release known: ")
    assert run_cli("check", tree, "--select", "NPU110", "-q").code == 1


def test_a_release_that_is_too_old(tmp_path: Path, run_cli: RunCli) -> None:
    said = "vLLM 0.8.5 is older than 0.9.2, the oldest release known"
    for command in ("apply", "diff", "check"):
        assert_one_line(run_cli(command, "vllm==0.8.5"), said)
    # What only says so of itself is judged by what it holds.
    info = b"Metadata-Version: 2.1\nName: vllm\nVersion: 0.8.5\n"
    tree = copy_mini(tmp_path / "young", {"PKG-INFO": info})
    done = run_cli("check", tree, "--select", SELECT)
    assert f"{said}, by its own word: judged by what it holds" in done.err


def test_a_person_names_the_release(mini_tree: Path, run_cli: RunCli) -> None:
    (mini_tree / "PKG-INFO").write_bytes(b"Name: vllm\nVersion: 0.10.1.dev12124\n")
    options = ("--select", SELECT)
    done = run_cli("check", mini_tree, *options)
    assert "vLLM 0.10.1.dev12124, no release: judged by what it holds" in done.err
    log = json.loads(run_cli("check", mini_tree, *options, "--format", "json").out)
    assert (log["release"], log["claim"]) == (None, "0.10.1.dev12124")
    named = (*options, "--release", "v0.10.2")
    log = json.loads(run_cli("check", mini_tree, *named, "--format", "json").out)
    assert (log["release"], "claim" in log) == ("0.10.2", False)
    for wrong in ("0.10.2.dev1", "0.10.2+cu128", "nightly"):
        done = run_cli("check", mini_tree, "--release", wrong)
        assert done.code == 2
        assert f"'--release': {wrong} is no release; it takes one such as 0.33.0" in done.err
    said = "leave --release out"
    assert_one_line(run_cli("apply", "vllm==0.33.0", "--release", "0.32.0"), said)


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        (("aply",), "No such command 'aply'; did you mean apply?"),
        (("explain", "rmsnorm"), "; did you mean rms-norm?"),
        (("check", "TREE", "--select", "rms_norm"), "; did you mean rms-norm?"),
        (("check", "TREE", "--ignore", "NPU10l"), "did you mean NPU101"),
        (("apply", "vllm=0.11.0"), "did you mean vllm==0.11.0?"),
        (("apply", "0.11.0"), "did you mean vllm==0.11.0?"),
        (("diff", "v0.11.0"), "did you mean vllm==0.11.0?"),
        (("check", "vllm-0.11.0"), "did you mean vllm==0.11.0?"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_what_was_meant(
    mini_tree: Path, run_cli: RunCli, arguments: tuple[str, ...], hint: str
) -> None:
    done = run_cli(*[str(mini_tree) if part == "TREE" else part for part in arguments])
    assert done.code == 2
    assert hint in done.err.splitlines()[-1]


@pytest.mark.parametrize("kind", ["source", "foreign", "plugin"])
def test_refusals_come_before_the_plan(
    kind: str, tmp_path: Path, mini_tree: Path, run_cli: RunCli, monkeypatch: pytest.MonkeyPatch
) -> None:
    def planned(*_: object, **__: object) -> None:
        raise AssertionError("a plan was made")

    monkeypatch.setattr("migrator.planning.plan.make_plan", planned)
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "file").write_bytes(b"")
    output = mini_tree if kind == "source" else foreign
    layout = ("--layout", "plugin") if kind == "plugin" else ()
    assert_one_line(run_cli("apply", mini_tree, "-o", output, *layout), "choose another -o")


def test_verbose_names_every_site(mini_tree: Path, run_cli: RunCli) -> None:
    quiet = run_cli("check", mini_tree, "--select", SELECT)
    loud = run_cli("check", mini_tree, "-v", "--select", SELECT)
    assert "vllm/v1/guards.py:13: NPU110 pending: on_device: a tensor" not in quiet.err
    assert "vllm/v1/guards.py:13: NPU110 pending: on_device: a tensor" in loud.err
    assert "vllm/v1/attention/backends/flashinfer.py:6: NPU110 skipped: wants_plan: " in loud.err


def test_quiet_says_nothing(mini_tree: Path, run_cli: RunCli) -> None:
    assert run_cli("apply", mini_tree, "-q", "--select", SELECT) == Outcome(0, b"", "")
    assert run_cli("check", mini_tree, "-q", "--select", SELECT) == Outcome(1, b"", "")


def test_stdout_has_the_patch_and_nothing_else(mini_tree: Path, run_process: RunCli) -> None:
    loud = run_process("diff", mini_tree, "-v", "--select", SELECT)
    quiet = run_process("diff", mini_tree, "-q", "--select", SELECT)
    assert loud.out == quiet.out
    assert loud.out.startswith(b"diff --git a/MIGRATION.md b/MIGRATION.md\n")
    assert b"\x1b" not in loud.out
    assert quiet.err == ""
    assert "NPU110" in loud.err


def test_a_reader_that_stops_reading(mini_tree: Path, tmp_path: Path) -> None:
    command = " ".join(f"'{part}'" for part in cli_command("diff", mini_tree, "-q"))
    done = subprocess.run(
        ["sh", "-c", f"{command} --select {SELECT} | head -c 10"],
        capture_output=True,
        cwd=tmp_path,
        timeout=600,
    )
    assert done.stdout == b"diff --git"
    assert b"Traceback" not in done.stderr


COLOUR = re.compile(r"\x1b\[[0-9;]*(?:3[0-7]|9[0-7])[0-9;]*m")


def on_a_terminal(tmp_path: Path, *arguments: str | Path, env: dict[str, str]) -> tuple[int, str]:
    """Exit code and what the terminal shows, of a run whose stderr is one."""
    ours, theirs = pty.openpty()
    variables = {k: v for k, v in os.environ.items() if k not in ("NO_COLOR", "FORCE_COLOR")}
    process = subprocess.Popen(
        cli_command(*arguments),
        stdout=subprocess.DEVNULL,
        stderr=theirs,
        env=variables | {"TERM": "xterm-256color", "COLUMNS": "200"} | env,
        cwd=tmp_path,
    )
    os.close(theirs)
    shown = b""
    while True:
        try:
            part = os.read(ours, 65536)
        except OSError:
            break
        if not part:
            break
        shown += part
    os.close(ours)
    return process.wait(60), shown.decode()


def test_colours_on_a_terminal_unless_told_not_to(mini_tree: Path, tmp_path: Path) -> None:
    code, shown = on_a_terminal(tmp_path, "check", mini_tree, "--select", SELECT, env={})
    assert code == 1
    assert COLOUR.search(shown)
    code, shown = on_a_terminal(
        tmp_path, "check", mini_tree, "--select", SELECT, env={"NO_COLOR": "1"}
    )
    assert code == 1
    assert "NPU110" in shown
    assert not COLOUR.search(shown)


def test_no_colours_and_no_progress_in_a_pipe(mini_tree: Path, run_process: RunCli) -> None:
    done = run_process("check", mini_tree, "--select", SELECT)
    assert "\x1b" not in done.err
    assert "planning" not in done.err
    assert max(len(line.rstrip()) for line in done.err.splitlines()) > 80, "it is not cut"


# ---- formats -------------------------------------------------------------------------------


@pytest.fixture
def mixed(tmp_path: Path) -> Path:
    """A tree with something of every kind: pending, skipped, manual, failed, a link."""
    tree = copy_mini(tmp_path / "mini", {**MANUAL, **BROKEN})
    (tree / "vllm" / "out.py").symlink_to("/etc/passwd")
    return tree


@pytest.mark.parametrize("arguments", [["check"], ["apply", "--dry-run"], ["apply"]], ids=" ".join)
def test_json(mixed: Path, run_cli: RunCli, arguments: list[str]) -> None:
    jsonschema = pytest.importorskip("jsonschema")
    command, *options = arguments
    done = run_cli(command, mixed, *options, "--format", "json", "--select", SELECT)
    assert done.code == 1, done.err
    log: dict[str, Any] = json.loads(done.out)
    jsonschema.validate(log, json.loads(schema()))
    assert log["release"] == "0.11.0"
    counted = sum(rule["changed"] for rule in log["rules"])
    assert counted == len(log["changes"]) == 20
    assert {e["kind"] for e in log["left_alone"]} == {"skipped", "manual", "failed", "link"}


def test_json_of_a_migrated_tree_has_nothing_pending(mini_tree: Path, run_cli: RunCli) -> None:
    run_cli("apply", mini_tree, "--select", SELECT)
    out = mini_tree.parent / "mini-npu"
    done = run_cli("check", out, "--format", "json", "--select", SELECT)
    assert done.code == 0
    log = json.loads(done.out)
    assert (log["changes"], log["files"]) == ([], [])
    assert sum(rule["changed"] for rule in log["rules"]) == 0
    # NPU110 searches all files for what looks like a guard, and migrated ones do.
    assert {r["code"]: r["migrated"] for r in log["rules"]}["NPU110"] == 4
    assert sum(rule["migrated"] for rule in log["rules"]) == 20


def test_github(mixed: Path, run_cli: RunCli) -> None:
    done = run_cli("check", mixed, "--format", "github", "-q", "--select", SELECT)
    assert done.code == 1
    lines = done.text.splitlines()
    shape = re.compile(r"::(notice|warning|error)( [\w]+=[^,:\n]+(,[\w]+=[^,:\n]+)*)?::.+")
    assert all(shape.fullmatch(line) for line in lines)
    assert (
        "::warning file=vllm/manual.py,line=2,endLine=2,title=NPU110 tensor-device-guard "
        "(equivalent)::f: nothing in the module tells whether it is a tensor"
    ) in lines
    assert any(line.startswith("::error file=vllm/broken.py::not valid Python") for line in lines)
    assert sum(line.startswith("::notice ") for line in lines) == 18  # an added file has no line


def test_github_escapes(tmp_path: Path, run_cli: RunCli) -> None:
    name = "vllm/a,b:c%d\ne.py"
    tree = copy_mini(tmp_path / "mini", {name: MANUAL["vllm/manual.py"]})
    done = run_cli("check", tree, "--format", "github", "-q", "--select", "NPU110")
    assert "::warning file=vllm/a%2Cb%3Ac%25d%0Ae.py,line=2," in done.text
    assert all(line.startswith("::") for line in done.text.splitlines())


def test_sarif(mixed: Path, run_cli: RunCli) -> None:
    done = run_cli("check", mixed, "--format", "sarif", "-q", "--select", SELECT)
    assert done.code == 1
    log = json.loads(done.out)
    assert log["version"] == "2.1.0"
    assert log["$schema"].endswith("sarif-2.1.0.json")
    (run,) = log["runs"]
    driver = run["tool"]["driver"]
    assert (driver["name"], driver["version"]) == ("vllm-npu-migrate", migrator.__version__)
    known = {rule["id"] for rule in driver["rules"]}
    assert all(rule["shortDescription"]["text"] for rule in driver["rules"])
    levels = [result["level"] for result in run["results"]]
    assert set(levels) <= {"none", "note", "warning", "error"}
    assert levels.count("note") == 20, "18 sites and two files that are added"
    assert levels.count("warning") == 1
    for result in run["results"]:
        assert result["message"]["text"]
        if "ruleId" in result:
            assert result["ruleId"] in known
        for location in result.get("locations", ()):
            place = location["physicalLocation"]
            assert not place["artifactLocation"]["uri"].startswith("/")
            if "region" in place:
                assert 1 <= place["region"]["startLine"] <= place["region"]["endLine"]
    words = {r["message"]["text"].partition(":")[0] for r in run["results"]}
    assert words == {"pending", "manual", "left as it is"}
    assert "vllm/broken.py" in done.text, "a file that waits for a person is a result too"


def test_missing_sites_in_formats(tmp_path: Path, run_cli: RunCli) -> None:
    tree = copy_mini(tmp_path / "mini")
    ops = tree / "vllm/_custom_ops.py"
    ops.write_bytes(ops.read_bytes().replace(b"def rms_norm(", b"def rms_norm_("))
    github = run_cli("check", tree, "--format", "github", "-q", "--select", "NPU102")
    assert github.code == 2
    assert github.text.startswith("::error title=NPU102::NPU102 finds no rms_norm in ")
    sarif = run_cli("check", tree, "--format", "sarif", "-q", "--select", "NPU102")
    assert sarif.code == 2
    (result,) = json.loads(sarif.out)["runs"][0]["results"]
    assert (result["ruleId"], result["level"]) == ("NPU102", "error")


# ---- settings ------------------------------------------------------------------------------


def settings(directory: Path, text: str) -> None:
    (directory / "pyproject.toml").write_text(text, encoding="utf-8")


def test_settings_from_pyproject(tmp_path: Path, mini_tree: Path, run_cli: RunCli) -> None:
    below = tmp_path / "project" / "deep"
    below.mkdir(parents=True)
    settings(below, "[tool.other]\nx = 1\n")
    settings(
        tmp_path / "project",
        '[tool.vllm-npu-migrate]\nselect = ["NPU1"]\nignore = ["NPU110"]\nformat = "json"\n'
        "jobs = 1\n",
    )
    done = run_cli("check", mini_tree, "-q", cwd=below)
    codes = {rule["code"] for rule in json.loads(done.out)["rules"]}
    assert "NPU102" in codes
    assert not {"NPU110", "NPU302"} & codes
    # What is said on the command line wins.
    done = run_cli("check", mini_tree, "-q", "--select", "NPU110", "--ignore", "NPU102", cwd=below)
    assert {r["code"] for r in json.loads(done.out)["rules"] if r["changed"]} == {"NPU110"}
    done = run_cli("check", mini_tree, "-q", "--format", "github", cwd=below)
    assert done.text.startswith("::notice ")


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("[tool.vllm-npu-migrate]\nselekt = []\n", "wrong `selekt`"),
        ("[tool.vllm-npu-migrate]\nselect = 'NPU1'\n", "wrong `select`"),
        ("[tool.vllm-npu-migrate]\nselect = [1]\n", "wrong `select`"),
        ("[tool.vllm-npu-migrate]\nignore = [['NPU1']]\n", "wrong `ignore`"),
        ("[tool.vllm-npu-migrate]\njobs = '2'\n", "wrong `jobs`"),
        ("[tool.vllm-npu-migrate]\njobs = 0\n", "wrong `jobs`"),
        ("[tool.vllm-npu-migrate]\njobs = true\n", "wrong `jobs`"),
        ("[tool.vllm-npu-migrate]\nformat = 'xml'\n", "wrong `format`"),
        ("[tool]\nvllm-npu-migrate = 3\n", "[tool.vllm-npu-migrate]"),
        ("[tool.vllm-npu-migrate]\nselect = ['NPU9']\n", "there is no rule NPU9"),
        ("[tool.vllm-npu-migrate\n", "cannot be read"),
    ],
)
def test_wrong_settings(
    tmp_path: Path, mini_tree: Path, run_cli: RunCli, text: str, part: str
) -> None:
    settings(tmp_path, text)
    for command in ("check", "apply", "diff"):
        assert_one_line(run_cli(command, mini_tree, "-q"), part)
    assert not (tmp_path / "mini-npu").exists()


# ---- the other commands --------------------------------------------------------------------


def test_version(run_cli: RunCli) -> None:
    done = run_cli("--version")
    assert (done.code, done.text) == (0, f"vllm-npu-migrate, version {migrator.__version__}\n")


@pytest.mark.parametrize("flag", ["-h", "--help"])
def test_help(run_cli: RunCli, flag: str) -> None:
    done = run_cli(flag)
    assert done.code == 0
    for name in COMMANDS:
        assert re.search(rf"^  {name} +\w", done.text, re.M)
        one = run_cli(name, flag)
        assert one.code == 0
        assert "Usage: " in one.text


def test_help_is_quick() -> None:
    """Neither LibCST nor rich nor a rule is imported to show the list of commands."""
    program = (
        "import sys\nfrom click.testing import CliRunner\nfrom migrator.cli import main\n"
        "assert CliRunner().invoke(main, ['--help']).exit_code == 0\n"
        "heavy = {'libcst', 'rich', 'msgspec', 'torch', 'migrator.rules'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    command = cli_command()
    command[2] = program
    subprocess.run(command, check=True)


def test_rules(run_cli: RunCli) -> None:
    done = run_cli("rules")
    assert done.code == 0
    lines = done.text.splitlines()
    assert len(lines) == len(all_rules())
    for line, rule in zip(lines, all_rules(), strict=True):
        code, name, safety = line.split()[:3]
        assert (code, name, safety) == (rule.code, rule.name, rule.safety.value)
        assert line.endswith(rule.summary)
    listed = json.loads(run_cli("rules", "--format", "json").out)
    assert [r["code"] for r in listed] == [r.code for r in all_rules()]
    assert listed[0].keys() == {"code", "name", "safety", "summary"}


@pytest.mark.parametrize("rule", all_rules(), ids=lambda rule: rule.code)
def test_explain(run_cli: RunCli, rule: Any) -> None:
    done = run_cli("explain", rule.code.lower())
    assert done.code == 0
    assert done == run_cli("explain", rule.name)
    assert done.text.startswith(f"{rule.code} {rule.name}\n")
    for heading in ("What it does", "Why", "Example", "Safety", "Sites"):
        assert f"\n## {heading}\n" in done.text
    for site in rule.sites:
        assert f"{site.name} in " in done.text
        for absence in site.absent:
            assert f"but not in {absence.releases}: {absence.why}" in done.text
    for path in rule.templates:
        assert path in done.text


def test_explain_what_is_no_rule(run_cli: RunCli) -> None:
    for code in ("NPU9", "NPU10", "", "nonsense"):
        assert_one_line(run_cli("explain", code), f"there is no rule {code}", "rules` lists them")


def test_installed_command(mini_tree: Path, tmp_path: Path) -> None:
    command = shutil.which("vllm-npu-migrate") or shutil.which(
        "vllm-npu-migrate",
        path=str(Path(os.sys.executable).parent),  # type: ignore[attr-defined]
    )
    if command is None:
        pytest.skip("the command is not installed")
    done = subprocess.run(
        [command, "apply", str(mini_tree), "-q", "--select", SELECT], cwd=tmp_path
    )
    assert done.returncode == 0
    assert (tmp_path / "mini-npu").is_dir()
