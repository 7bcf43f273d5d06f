# SPDX-License-Identifier: Apache-2.0
"""The writer: one step or nothing, at every interrupt, on a full disk, and never through a link."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from migrator import writer
from migrator.errors import MigrateError
from migrator.plan import FileChange
from migrator.tree import DiskTree
from tests.conftest import RunCli, cli_command
from tests.trees import SELECT, copy_mini, snapshot

DRIVER = Path(__file__).parent / "interrupting.py"


# ---- interrupts ----------------------------------------------------------------------------


def interrupt(work: Path, how: str, signal: str, step: int) -> list[dict[str, Any]]:
    done = subprocess.run(
        [sys.executable, str(DRIVER), str(work), how, signal, str(step)],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    trials: list[dict[str, Any]] = json.loads(done.stdout)
    assert len(trials) > 10
    assert trials[-1]["ended"] == 0, "the last trial ran to its end"
    assert trials[-1]["state"] == "new"
    return trials


@pytest.mark.parametrize("signal", ["SIGINT", "SIGTERM", "SIGKILL"])
def test_interrupt_in_place(tmp_path: Path, signal: str) -> None:
    """The tree is the old one or the new one; after SIGKILL, the next run makes it so."""
    trials = interrupt(tmp_path / "work", "in_place", signal, 3)
    assert {"old", "new"} <= {t["state"] for t in trials}
    for trial in trials:
        assert trial["again"] == "new"
        assert not trial["left_again"]
        if trial["decided"]:
            assert (trial["ended"], trial["recovered"]) == (-9, "new")
        else:
            assert trial["state"] in ("old", "new")
            assert trial["recovered"] == trial["state"]
    if signal != "SIGKILL":
        assert {t["ended"] for t in trials} <= {130, 0, -15}
        assert not any(t["decided"] for t in trials)
        left = [t for t in trials if t["left"]]
        assert len(left) <= 1, "one line, between making the directory and being ready to remove it"


@pytest.mark.parametrize("signal", ["SIGINT", "SIGTERM", "SIGKILL"])
@pytest.mark.parametrize("how", ["new", "replace"])
def test_interrupt_of_a_new_tree(tmp_path: Path, how: str, signal: str) -> None:
    trials = interrupt(tmp_path / "work", how, signal, 5)
    states = {t["state"] for t in trials}
    assert states == {"absent" if how == "new" else "old", "new"}
    assert {t["source"] for t in trials} == {"old"}
    if signal != "SIGKILL":
        assert {t["ended"] for t in trials} <= {130, 0, -15}
        assert sum(bool(t["left"]) for t in trials) <= 2


SLOW_COPY = """
import os, shutil, signal, sys, time
from migrator import writer
from migrator.cli import main
plain = shutil.copyfile
def slow(*args, **kwargs):
    print("copying", flush=True)
    time.sleep(0.2)
    return plain(*args, **kwargs)
writer.shutil.copyfile = slow
main()
"""


@pytest.mark.parametrize("signal", ["INT", "TERM"])
def test_command_ends_with_130(mini_tree: Path, tmp_path: Path, signal: str) -> None:
    arguments = ["apply", str(mini_tree), "-o", str(tmp_path / "out"), "-q", "--select", SELECT]
    process = subprocess.Popen(
        [sys.executable, "-c", SLOW_COPY, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "copying\n"
    subprocess.run(["kill", f"-{signal}", str(process.pid)], check=True)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err == "Interrupted; nothing was left half written.\n"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["mini"]


def test_interrupt_while_planning(mini_tree: Path, tmp_path: Path) -> None:
    """Worker processes get the terminal's SIGINT too; one line is all that is said."""
    big = (
        "import torch\ndef f(x: torch.Tensor):\n    return x.is_cuda\n" + "y = f(a.b, [1])\n" * 2000
    )
    for number in range(80):
        (mini_tree / f"vllm/big{number}.py").write_text(big, encoding="utf-8")
    process = subprocess.Popen(
        cli_command("diff", mini_tree, "--jobs", "2", "--select", SELECT),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(1.5)
    os.killpg(process.pid, 2)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (130, "")
    assert err == "Interrupted; nothing was left half written.\n"


def test_next_command_finishes_what_a_crash_left(tmp_path: Path, run_cli: RunCli) -> None:
    tree = copy_mini(tmp_path / "mini")
    assert run_cli("apply", tree, "--select", SELECT).code == 0
    wanted = snapshot(tmp_path / "mini-npu")
    stage = tree / writer.JOURNAL
    stage.mkdir()
    steps = []
    for number, (path, (_, data)) in enumerate(sorted(wanted.items())):
        assert isinstance(data, bytes)
        if number % 2:
            (stage / f"{number}.new").write_bytes(data)
            (stage / f"{number}.new").chmod(wanted[path][0])
            steps.append({"path": path, "staged": f"{number}.new"})
    (stage / "journal.json").write_text(json.dumps({"steps": steps}), encoding="utf-8")
    dry = run_cli("apply", tree, "--in-place", "--dry-run", "--select", SELECT)
    assert dry.code == 1
    assert stage.is_dir(), "a dry run writes nothing"
    done = run_cli("apply", tree, "--in-place", "--force", "--select", SELECT)
    assert done.code == 0, done.err
    assert "Finished what an interrupted run had begun." in done.err
    assert not stage.exists()
    code = {p: v for p, v in snapshot(tree).items() if p.startswith("vllm/")}
    assert code == {p: v for p, v in wanted.items() if p.startswith("vllm/")}


def test_damaged_journal(mini_tree: Path, run_cli: RunCli) -> None:
    (mini_tree / writer.JOURNAL).mkdir()
    (mini_tree / writer.JOURNAL / "journal.json").write_bytes(b"{")
    done = run_cli("apply", mini_tree, "--in-place", "--force", "--select", SELECT)
    assert done.code == 2
    assert "is damaged; restore the tree from git and remove" in done.err


@pytest.mark.parametrize("path", ["../outside", "vllm/../../outside", "link/outside", "/outside"])
def test_a_journal_leads_nowhere_else(mini_tree: Path, tmp_path: Path, path: str) -> None:
    (mini_tree / "link").symlink_to(tmp_path)
    stage = mini_tree / writer.JOURNAL
    stage.mkdir()
    (stage / "0.new").write_bytes(b"evil")
    steps = [{"path": path, "staged": "0.new"}]
    (stage / "journal.json").write_text(json.dumps({"steps": steps}), encoding="utf-8")
    with pytest.raises(MigrateError, match="leads out of the tree"):
        writer.recover(mini_tree)
    assert not (tmp_path / "outside").exists()


def test_another_run_at_work(mini_tree: Path) -> None:
    (mini_tree / writer.JOURNAL).mkdir()
    before = snapshot(mini_tree)
    with pytest.raises(MigrateError, match="another run is at work"):
        writer.change_in_place(mini_tree, [FileChange("vllm/new.py", None, b"x\n")])
    assert snapshot(mini_tree) == before
    assert (mini_tree / writer.JOURNAL).is_dir()


# ---- a full disk ---------------------------------------------------------------------------


@contextlib.contextmanager
def small_disk(place: Path, size: int) -> Iterator[Path]:
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(place)]
    if os.geteuid() or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("a small file system cannot be mounted here")
    try:
        yield place
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)


def assert_full(done: Any) -> None:
    assert done.code == 2
    assert "is full; nothing was written, make room and run it again" in done.err
    assert done.err.count("\n") == 1


def test_full_disk(mini_tree: Path, tmp_path: Path, run_cli: RunCli) -> None:
    with small_disk(tmp_path / "disk", 64 * 1024) as disk:
        done = run_cli("apply", mini_tree, "-o", disk / "out", "-q", "--select", SELECT)
        assert_full(done)
        assert list(disk.iterdir()) == []


def test_full_disk_in_place(tmp_path: Path, run_cli: RunCli) -> None:
    with small_disk(tmp_path / "disk", 192 * 1024) as disk:
        tree = copy_mini(disk / "mini")
        filler = disk / "filler"
        with contextlib.suppress(OSError), filler.open("wb") as file:
            while True:
                file.write(b"x" * 4096)
                file.flush()
        os.truncate(filler, max(filler.stat().st_size - 3 * 4096, 0))
        before = snapshot(tree)
        done = run_cli("apply", tree, "--in-place", "--force", "-q", "--select", SELECT)
        assert_full(done)
        assert snapshot(tree) == before
        assert not (tree / writer.JOURNAL).exists()
        filler.unlink()
        done = run_cli("apply", tree, "--in-place", "--force", "-q", "--select", SELECT)
        assert done.code == 0
        assert snapshot(tree) != before


def fail_at(monkeypatch: pytest.MonkeyPatch, module: Any, name: str, call: int, code: int) -> None:
    """Let the n-th call of `module.name` fail with an errno, as a full disk makes it fail."""
    plain = getattr(module, name)
    calls = 0

    def failing(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == call:
            raise OSError(code, os.strerror(code), str(args[0]))
        return plain(*args, **kwargs)

    monkeypatch.setattr(module, name, failing)


@pytest.mark.parametrize("call", [1, 2, 5])
def test_no_space_while_staging(
    mini_tree: Path, run_cli: RunCli, monkeypatch: pytest.MonkeyPatch, call: int
) -> None:
    before = snapshot(mini_tree)
    fail_at(monkeypatch, writer, "_write_through", call, errno.ENOSPC)
    done = run_cli("apply", mini_tree, "--in-place", "--force", "-q", "--select", SELECT)
    assert_full(done)
    assert snapshot(mini_tree) == before


@pytest.mark.parametrize("call", [2, 4])
def test_no_space_while_putting_in_place(
    mini_tree: Path, run_cli: RunCli, monkeypatch: pytest.MonkeyPatch, call: int
) -> None:
    """A directory may have to grow for a new name: some files are in place, and it says so."""
    run_cli("apply", mini_tree, "--select", SELECT)
    with monkeypatch.context() as patch:
        fail_at(patch, os, "replace", call, errno.ENOSPC)
        done = run_cli("apply", mini_tree, "--in-place", "--force", "-q", "--select", SELECT)
    assert done.code == 2
    assert "run it again to put the others in place" in done.err
    assert "nothing was written" not in done.err
    again = run_cli("apply", mini_tree, "--in-place", "--force", "--select", SELECT)
    assert again.code == 0, again.err
    assert snapshot(mini_tree) == snapshot(mini_tree.parent / "mini-npu")


def test_a_size_limit_of_files(mini_tree: Path, tmp_path: Path, run_process: RunCli) -> None:
    done = run_process(
        "apply",
        mini_tree,
        "-q",
        "--select",
        SELECT,
        prefix=["sh", "-c", 'ulimit -f 1; exec "$@"', "sh"],
    )
    assert done.code == 2
    assert "File too large" in done.err
    assert done.err.startswith("Error: cannot write ")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["mini"]


# ---- trees ---------------------------------------------------------------------------------


def test_modes_links_and_new_files(tmp_path: Path) -> None:
    source = tmp_path / "source"
    (source / "bin").mkdir(parents=True, mode=0o750)
    (source / "bin/tool").write_bytes(b"#!/bin/sh\n")
    (source / "bin/tool").chmod(0o755)
    (source / "secret").write_bytes(b"s")
    (source / "secret").chmod(0o600)
    (source / "link").symlink_to("bin/tool")
    (source / "out").symlink_to("/etc")
    (source / "dangling").symlink_to("nowhere")
    (source / ".git").mkdir()
    (source / ".git/config").write_bytes(b"")
    changes = [FileChange("bin/tool", b"", b"new\n"), FileChange("a/b/c.py", None, b"c\n")]
    writer.write_tree(DiskTree(source), changes, tmp_path / "target")
    assert snapshot(tmp_path / "target") == {
        "bin/tool": (0o755, b"new\n"),
        "secret": (0o600, b"s"),
        "link": (0o777, "bin/tool"),
        "out": (0o777, "/etc"),
        "dangling": (0o777, "nowhere"),
        "a/b/c.py": (0o644, b"c\n"),
    }
    assert (tmp_path / "target/bin").stat().st_mode & 0o777 == (
        source / "bin"
    ).stat().st_mode & 0o777
    assert not (tmp_path / "target/.git").exists()


def test_target_exists(tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    (tmp_path / "target").mkdir()
    with pytest.raises(MigrateError, match="exists already"):
        writer.write_tree(DiskTree(tmp_path / "source"), [], tmp_path / "target")
    with pytest.raises(MigrateError, match="there is no directory"):
        writer.write_tree(DiskTree(tmp_path / "source"), [], tmp_path / "no" / "target")


def test_replace_without_an_atomic_exchange(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the system cannot swap two names, the old tree steps aside for a moment."""
    (tmp_path / "source").mkdir()
    (tmp_path / "source/new").write_bytes(b"new")
    (tmp_path / "target").mkdir()
    (tmp_path / "target/old").write_bytes(b"old")
    monkeypatch.setattr(writer, "_exchange", lambda one, other: False)
    writer.write_tree(DiskTree(tmp_path / "source"), [], tmp_path / "target", replace=True)
    assert snapshot(tmp_path / "target") == {"new": (0o644, b"new")}
    assert sorted(p.name for p in tmp_path.iterdir()) == ["source", "target"]


# ---- archives ------------------------------------------------------------------------------


def archive(path: Path, members: dict[str, bytes]) -> Path:
    import io

    with tarfile.open(path, "w:gz") as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def test_unpack(tmp_path: Path) -> None:
    made = archive(tmp_path / "a.tar.gz", {"vllm-1/vllm/__init__.py": b"x"})
    for _ in range(2):
        writer.unpack(made, tmp_path / "cache" / "vllm-1")
        assert (tmp_path / "cache/vllm-1/vllm/__init__.py").read_bytes() == b"x"
    assert sorted(p.name for p in (tmp_path / "cache").iterdir()) == ["vllm-1"]


@pytest.mark.parametrize(
    "members",
    [{"../evil": b"x"}, {"/tmp/evil": b"x"}, {"a/x": b"", "b/x": b""}, {"file": b"x"}],
    ids=["parent", "absolute", "two", "file"],
)
def test_unpack_refuses(tmp_path: Path, members: dict[str, bytes]) -> None:
    made = archive(tmp_path / "a.tar.gz", members)
    target = tmp_path / "cache" / "deep" / "vllm-1"
    with contextlib.suppress(MigrateError):
        writer.unpack(made, target)
    assert not (tmp_path / "cache/evil").exists()
    assert not (tmp_path / "cache/deep/evil").exists()
    assert not Path("/tmp/evil").exists()
    if len(members) == 2 or "file" in members:
        assert not target.exists()


def test_unpack_a_damaged_archive(tmp_path: Path) -> None:
    (tmp_path / "a.tar.gz").write_bytes(b"no archive")
    with pytest.raises(MigrateError, match="is damaged"):
        writer.unpack(tmp_path / "a.tar.gz", tmp_path / "cache" / "vllm-1")
    assert list((tmp_path / "cache").iterdir()) == []


def test_two_runs_do_not_change_one_tree(run_process: RunCli, mini_tree: Path) -> None:
    before = snapshot(mini_tree)
    with writer.locked(mini_tree):
        outcome = run_process("apply", mini_tree, "--in-place", "--force", "--select", SELECT)
        assert outcome.code == 2
        assert "another run is changing" in outcome.err
        assert snapshot(mini_tree) == before
    outcome = run_process("apply", mini_tree, "--in-place", "--force", "--select", SELECT)
    assert outcome.code == 0
