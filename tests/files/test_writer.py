# SPDX-License-Identifier: Apache-2.0
"""The writer: one step or nothing, at every interrupt, on a full disk, and never through a link."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import time
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from migrator.files import writer
from migrator.files.changes import Change, FileChange, Placed, Removal
from migrator.files.tree import DiskTree
from migrator.messages.errors import MigrateError
from tests.conftest import RunCli, cli_command
from tests.files.interrupting import CALLS
from tests.trees import SELECT, copy_mini, snapshot

DRIVER = Path(__file__).parent / "interrupting.py"


# ---- interrupts ----------------------------------------------------------------------------


def interrupt(work: Path, how: str, signal: str, step: int, at: str) -> list[dict[str, Any]]:
    """One trial after the other; whatever the signal, the next run ends well and cleans up."""
    if at == "call" and not CALLS:
        pytest.skip("the numbers of this machine's system calls are not known")
    done = subprocess.run(
        [sys.executable, str(DRIVER), str(work), how, signal, str(step), at],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    trials: list[dict[str, Any]] = json.loads(done.stdout)
    assert len(trials) > 5
    assert trials[-1]["ended"] == 0, "the last trial ran to its end"
    for trial in (*trials, trials[-1]):
        assert trial["again"] == "new", trial
        assert trial["left_again"] == [], trial
        assert trial["source"] == ("new" if how in ("in_place", "recover") else "old"), trial
        if signal != "SIGKILL":
            assert trial["ended"] in (130, 1, 0, -15), trial
    assert (trials[-1]["state"], trials[-1]["left"]) == ("new", [])
    return trials


@pytest.mark.parametrize("signal", ["SIGINT", "SIGTERM", "SIGKILL"])
@pytest.mark.parametrize(("at", "step"), [("line", 11), ("call", 3)])
def test_interrupt_in_place(tmp_path: Path, signal: str, at: str, step: int) -> None:
    """The tree is the old one or the new one; after SIGKILL, the next run makes it so."""
    trials = interrupt(tmp_path / "work", "in_place", signal, step, at)
    assert {"old", "new"} <= {t["state"] for t in trials}
    for trial in trials:
        if signal == "SIGKILL" and trial["decided"]:
            assert trial["ended"] == -9
        else:
            assert trial["state"] in ("old", "new")
            assert not trial["decided"]
    if signal != "SIGKILL":
        assert [t for t in trials if t["left"]] == []


@pytest.mark.parametrize("signal", ["SIGINT", "SIGTERM", "SIGKILL"])
@pytest.mark.parametrize("how", ["new", "replace", "unpack"])
@pytest.mark.parametrize(("at", "step"), [("line", 23), ("call", 7)])
def test_interrupt_of_a_new_tree(tmp_path: Path, how: str, signal: str, at: str, step: int) -> None:
    trials = interrupt(tmp_path / "work", how, signal, step, at)
    assert {t["state"] for t in trials} == {"old" if how == "replace" else "absent", "new"}
    if signal != "SIGKILL":
        # One line: between the end of the work and the start of the removal.
        assert sum(bool(t["left"]) for t in trials) <= (at == "line")


def test_interrupt_where_names_cannot_be_swapped(tmp_path: Path) -> None:
    """The old tree steps aside; killed in that moment, it is in the directory beside."""
    trials = interrupt(tmp_path / "work", "aside", "SIGKILL", 1, "call")
    assert {t["state"] for t in trials} == {"old", "absent", "new"}
    (between,) = [t for t in trials if t["state"] == "absent"]
    assert between["aside"]
    assert between["call"] == "rename"


@pytest.mark.parametrize("signal", ["SIGINT", "SIGTERM", "SIGKILL"])
def test_interrupt_of_a_recovery(tmp_path: Path, signal: str) -> None:
    trials = interrupt(tmp_path / "work", "recover", signal, 1, "call")
    for trial in trials:
        assert trial["decided"] or trial["state"] == "new"
        if signal != "SIGKILL":
            assert trial["state"] in ("old", "new")


HELD_COPY = """
import shutil, sys
from migrator.files import writer
from migrator.cli import main
plain = shutil.copyfile
def held(*args, **kwargs):
    print("copying", flush=True)
    sys.stdin.read()
    return plain(*args, **kwargs)
writer.shutil.copyfile = held
main()
"""
"""The command, which copies files once its input is closed: however slow the machine is."""


def _take_interrupts() -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # a background job of a shell ignores it


@pytest.mark.parametrize("signal", ["INT", "TERM"])
def test_command_ends_with_130(mini_tree: Path, tmp_path: Path, signal: str) -> None:
    arguments = ["apply", str(mini_tree), "-o", str(tmp_path / "out"), "-q", "--select", SELECT]
    process = subprocess.Popen(
        [sys.executable, "-c", HELD_COPY, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=_take_interrupts,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "copying\n"
    subprocess.run(["kill", f"-{signal}", str(process.pid)], check=True)
    process.wait(60)  # its input stays open: it must not go on with the copy
    _, err = process.communicate(timeout=600)
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
        preexec_fn=_take_interrupts,
    )
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(1.5)
    os.killpg(process.pid, 2)
    out, err = process.communicate(timeout=600)
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


@pytest.mark.parametrize("data", [b"{", b'{"steps": ' + b"[" * 100_000], ids=["cut", "deep"])
def test_damaged_journal(mini_tree: Path, run_cli: RunCli, data: bytes) -> None:
    (mini_tree / writer.JOURNAL).mkdir()
    (mini_tree / writer.JOURNAL / "journal.json").write_bytes(data)
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
    assert done.code == 3
    assert "run it again to put the others in place" in done.err
    assert f"cannot put {mini_tree / writer.JOURNAL}/" in done.err
    assert ".new in place: No space left on device; part of" in done.err
    assert writer.unfinished(mini_tree)
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


def test_a_file_is_not_replaced_by_a_tree(mini_tree: Path, tmp_path: Path) -> None:
    (tmp_path / "out").write_bytes(b"mine\n")
    with pytest.raises(MigrateError, match=r"cannot write .*Not a directory"):
        writer.write_tree(DiskTree(mini_tree), [], tmp_path / "out", replace=True)
    assert (tmp_path / "out").read_bytes() == b"mine\n"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["mini", "out"]


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
    whole = archive(tmp_path / "a.tar.gz", {"vllm-1/x": os.urandom(5000)}).read_bytes()
    (tmp_path / "a.tar.gz").write_bytes(whole[:3000])
    with pytest.raises(MigrateError, match="is damaged"):
        writer.unpack(tmp_path / "a.tar.gz", tmp_path / "cache" / "vllm-1")
    with pytest.raises(MigrateError, match="has no single folder"):
        writer.unpack(archive(tmp_path / "a.tar.gz", {}), tmp_path / "cache" / "vllm-1")
    assert list((tmp_path / "cache").iterdir()) == []


def test_unpack_on_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = archive(tmp_path / "a.tar.gz", {"vllm-1/x": b"x"})
    fail_at(monkeypatch, Path, "chmod", 1, errno.ENOSPC)
    with pytest.raises(MigrateError, match="is full; nothing was written"):
        writer.unpack(made, tmp_path / "cache/vllm-1")


def test_two_runs_do_not_change_one_tree(run_process: RunCli, mini_tree: Path) -> None:
    before = snapshot(mini_tree)
    with writer.locked(mini_tree):
        outcome = run_process("apply", mini_tree, "--in-place", "--force", "--select", SELECT)
        assert outcome.code == 2
        assert "another run is changing" in outcome.err
        assert snapshot(mini_tree) == before
    outcome = run_process("apply", mini_tree, "--in-place", "--force", "--select", SELECT)
    assert outcome.code == 0


def test_two_runs_do_not_write_one_tree(
    run_process: RunCli, mini_tree: Path, tmp_path: Path
) -> None:
    """While one run writes an output, or changes it in place, another one is refused."""
    arguments = ["apply", str(mini_tree), "-o", str(tmp_path / "out"), "-q", "--select", SELECT]
    first = subprocess.Popen(
        [sys.executable, "-c", HELD_COPY, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert first.stdout is not None
    assert first.stdout.readline() == b"copying\n"
    second = run_process(*arguments)
    first.communicate(timeout=600)
    assert first.returncode == 0
    assert second.code == 2
    assert second.err == f"Error: another run is writing {tmp_path / 'out'}; wait for it to end\n"
    wanted = snapshot(tmp_path / "out")
    with writer.locked(tmp_path / "out"):
        third = run_process(*arguments)
    assert third.code == 2
    assert "another run is changing" in third.err
    assert run_process(*arguments).code == 0
    assert snapshot(tmp_path / "out") == wanted
    assert sorted(p.name for p in tmp_path.iterdir()) == ["mini", "out"]


def test_runs_on_two_outputs_do_not_wait_for_each_other(
    run_process: RunCli, mini_tree: Path, tmp_path: Path
) -> None:
    with writer._staged_beside(tmp_path / "one"):
        done = run_process("apply", mini_tree, "-o", tmp_path / "two", "-q", "--select", SELECT)
        assert done.code == 0
    assert sorted(p.name for p in tmp_path.iterdir()) == ["mini", "two"]


def test_an_archive_is_waited_for(tmp_path: Path) -> None:
    """Two runs that fetch one release: the second takes what the first unpacked."""
    made = archive(tmp_path / "a.tar.gz", {"vllm-1/vllm/__init__.py": b"x"})
    target = tmp_path / "vllm-1"
    program = "import sys, pathlib; from migrator.files import writer\n"
    program += "writer.unpack(pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]))"
    with writer._staged_beside(target):
        other = subprocess.Popen([sys.executable, "-c", program, str(made), str(target)])
        with pytest.raises(subprocess.TimeoutExpired):
            other.wait(1)
        assert not target.exists()
    assert other.wait(60) == 0
    assert (target / "vllm/__init__.py").read_bytes() == b"x"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.tar.gz", "vllm-1"]


def test_a_staging_directory_of_somebody_else(tmp_path: Path, run_cli: RunCli) -> None:
    """What stands in its place and is no directory of ours is neither followed nor removed."""
    tree = copy_mini(tmp_path / "mini")
    victim = tmp_path / "victim"
    victim.mkdir()
    (victim / "precious").write_bytes(b"x")
    stage = writer._stage_of(tmp_path / "out")
    stage.symlink_to(victim)
    done = run_cli("apply", tree, "-o", tmp_path / "out", "-q", "--select", SELECT)
    assert done.code == 2
    assert done.err.startswith(f"Error: cannot write {stage}: ")
    stage.unlink()
    stage.write_bytes(b"mine")
    done = run_cli("apply", tree, "-o", tmp_path / "out", "-q", "--select", SELECT)
    assert done.code == 2
    assert stage.read_bytes() == b"mine"
    assert (victim / "precious").read_bytes() == b"x"
    assert not (tmp_path / "out").exists()
    if os.geteuid() == 0:
        stage.unlink()
        stage.mkdir()
        os.chown(stage, 12345, 12345)
        done = run_cli("apply", tree, "-o", tmp_path / "out", "-q", "--select", SELECT)
        assert done.code == 2
        assert "it is another user's" in done.err


# ---- what cannot be put in place -----------------------------------------------------------


@pytest.mark.parametrize("path", ["vllm/new.py", "vllm/a/new.py", "vllm/a/b/new.py"])
@pytest.mark.parametrize("kind", ["directory", "fifo", "file above", "read-only", "mount"])
def test_a_file_that_cannot_be_put_in_place_is_refused_first(
    tmp_path: Path, path: str, kind: str
) -> None:
    """Later, with the journal on the disk, the tree would be stuck half way."""
    root = tmp_path / "tree"
    place = root / path
    place.parent.mkdir(parents=True)
    (root / "vllm/first.py").write_bytes(b"old\n")
    (root / "README").write_bytes(b"read\n")
    with contextlib.ExitStack() as stack:
        if kind == "directory":
            place.mkdir()
        elif kind == "fifo":
            os.mkfifo(place)
        elif kind == "file above":
            if place.parent == root / "vllm":
                pytest.skip("vllm is a directory here")
            place.parent.rmdir()
            place.parent.write_bytes(b"a file\n")
        elif kind == "read-only":
            patch = stack.enter_context(pytest.MonkeyPatch.context())
            # Root may write everywhere, so the system's answer is another one here.
            patch.setattr(os, "access", lambda at, how: at != place.parent or not how & os.W_OK)
        else:
            if place.parent == root / "vllm":
                pytest.skip("the whole of vllm is one file system here")
            place.parent.rmdir()
            stack.enter_context(small_disk(place.parent, 64 * 1024))
        before = snapshot(root)
        first = FileChange("vllm/first.py", b"old\n", b"new\n")
        for change in (FileChange(path, None, b"new\n"), Placed(path, b"new\n")):
            for more in ([], [Removal("README")]):
                with pytest.raises(MigrateError, match="nothing was written"):
                    writer.change_in_place(root, [*more, first, change])
                assert snapshot(root) == before
        assert not (root / writer.JOURNAL).exists()


@pytest.mark.parametrize("number", [-1, 1, None])
def test_a_directory_on_another_file_system(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int | None
) -> None:
    """A rename would not do; None: it is the same, and its number is a large one."""
    root = tmp_path / "tree"
    (root / "vllm").mkdir(parents=True)
    plain = os.stat

    def stat(path: Any, **how: Any) -> Any:
        found = plain(path, **how)
        if path in (root, root / "vllm"):
            fields = {name: getattr(found, name) for name in dir(found) if name.startswith("st_")}
            device = 10**6 if path == root or number is None else 10**6 + number
            return types.SimpleNamespace(**fields | {"st_dev": int(str(device))})
        return found

    monkeypatch.setattr(os, "stat", stat)
    change = [FileChange("vllm/new.py", None, b"new\n")]
    if number is None:
        writer.change_in_place(root, change)
        assert (root / "vllm/new.py").exists()
        return
    with pytest.raises(MigrateError, match="is on another file system than"):
        writer.change_in_place(root, change)
    assert list((root / "vllm").iterdir()) == []


def test_a_file_that_cannot_be_removed_is_said_to_be_one_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "tree"
    (root / "vllm").mkdir(parents=True)
    for path in ("a.py", "vllm/b.py"):
        (root / path).write_bytes(b"x")
    removals = [Removal("a.py"), Removal("vllm/b.py")]
    with monkeypatch.context() as patch:
        patch.setattr(os, "access", lambda at, how: at != root / "vllm" or not how & os.W_OK)
        with pytest.raises(MigrateError, match=r"vllm; nothing was written, make it writable"):
            writer.change_in_place(root, removals)
    assert sorted(snapshot(root)) == ["a.py", "vllm/b.py"]
    writer.change_in_place(root, [Removal("not/there"), *removals])
    assert list(root.iterdir()) == []


def test_what_is_placed_and_changed_one_after_another(tmp_path: Path) -> None:
    root = tmp_path / "tree"
    (root / "bin").mkdir(parents=True)
    (root / "bin/tool").write_bytes(b"old")
    (root / "bin/tool").chmod(0o750)
    (root / "gone").symlink_to("bin/tool")
    changes: list[Change] = [
        Placed("a", b"a"),
        Removal("gone"),
        FileChange("bin/tool", b"old", b"new"),
        FileChange("bin/more", None, b"more", 0o755),
        FileChange("deep/er/new", None, b"new"),
    ]
    writer.change_in_place(root, changes)
    assert snapshot(root) == {
        "a": (0o644, b"a"),
        "bin/tool": (0o750, b"new"),
        "bin/more": (0o755, b"more"),
        "deep/er/new": (0o644, b"new"),
    }


def test_a_half_written_tree_is_said_to_be_one(mini_tree: Path, run_cli: RunCli) -> None:
    stage = mini_tree / writer.JOURNAL
    stage.mkdir()
    for undecided in (True, False):
        if not undecided:
            (stage / "journal.json").write_text('{"steps": []}', encoding="utf-8")
        for command in ("check", "diff"):
            done = run_cli(command, mini_tree, "--select", SELECT)
            assert done.code == 1
            assert ("an interrupted run left it half written" in done.err) != undecided


# ---- the writer's parts --------------------------------------------------------------------


def test_trees_are_written_outside_of_the_main_thread(mini_tree: Path, tmp_path: Path) -> None:
    """Only the main thread can hold signals back; elsewhere the writer leaves them alone."""
    import threading

    failed: list[BaseException] = []

    def work() -> None:
        try:
            writer.write_tree(DiskTree(mini_tree), [], tmp_path / "out")
            writer.change_in_place(tmp_path / "out", [FileChange("x.py", None, b"x\n")])
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join(60)
    assert failed == []
    assert (tmp_path / "out/x.py").read_bytes() == b"x\n"


@pytest.mark.parametrize("number", ["SIGINT", "SIGTERM"])
def test_signals_wait_and_then_come(number: str) -> None:
    signum = getattr(signal, number)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job may ignore it
    before = {s: signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)}
    done = []

    @writer.sigterm_interrupts()
    def work() -> None:
        with writer.deferred_signals():
            signal.raise_signal(signum)
            done.append("inside")
        done.append("after")

    with pytest.raises(KeyboardInterrupt):
        work()
    assert done == ["inside"]
    assert {s: signal.getsignal(s) for s in before} == before


def test_of_several_signals_the_first_comes() -> None:
    came: list[int] = []
    numbers = (signal.SIGTERM, signal.SIGINT)
    before = [signal.signal(number, lambda number, _: came.append(number)) for number in numbers]
    try:
        with writer.deferred_signals():
            for number in numbers:
                signal.raise_signal(number)
            assert came == []
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)
    assert came == [signal.SIGTERM]


@pytest.mark.parametrize("call", [1, 2, 3])
def test_an_interrupt_just_before_signals_are_held_back(
    mini_tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: int
) -> None:
    """When the staging directory is claimed, put in place and let go."""
    plain = writer.deferred_signals
    calls = 0

    def interrupted() -> contextlib.AbstractContextManager[None]:
        nonlocal calls
        calls += 1
        if calls == call:
            raise KeyboardInterrupt
        return plain()

    monkeypatch.setattr(writer, "deferred_signals", interrupted)
    with pytest.raises(KeyboardInterrupt):
        writer.write_tree(DiskTree(mini_tree), [], tmp_path / "out")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["mini"] + ["out"] * (call == 3)


def test_progress_and_modes_of_directories(tmp_path: Path) -> None:
    source = tmp_path / "source"
    (source / "closed/inner").mkdir(parents=True)
    for path in ("a", "closed/b", "closed/inner/c"):
        (source / path).write_bytes(b"x")
    (source / "closed/link").symlink_to("b")
    (source / "closed/inner").chmod(0o711)
    (source / "closed").chmod(0o550)
    source.chmod(0o751)
    told: list[int] = []
    changes: list[Change] = [
        FileChange("closed/inner/d.py", None, b"d\n", 0o755),
        Removal("a"),
        Removal("absent/file"),
        FileChange("closed/link", None, b"a file\n", 0o755),
        Placed("plain", b"plain\n"),
        Placed("new/link", b"../closed/b", link=True),
        Placed("closed/b", b"placed\n", 0o600),
    ]
    writer.write_tree(DiskTree(source), changes, tmp_path / "out", progress=told.append)
    places = [tmp_path / "out" / path for path in ("", "closed", "closed/inner")]
    assert [place.stat().st_mode & 0o777 for place in places] == [0o751, 0o750, 0o711]
    assert snapshot(tmp_path / "out") == {
        "closed/b": (0o600, b"placed\n"),
        "closed/inner/c": (0o644, b"x"),
        "closed/inner/d.py": (0o755, b"d\n"),
        "closed/link": (0o755, b"a file\n"),
        "plain": (0o644, b"plain\n"),
        "new/link": (0o777, "../closed/b"),
    }
    assert told == sorted(set(told))
    assert told[-1] == 4
    (source / "closed").chmod(0o750)


def test_a_staging_directory_is_for_its_owner_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever they are, whatever their number; a refusal keeps no descriptor."""
    out, me = tmp_path / "out", os.geteuid()
    for other in (me - 1, me + 1, 1_000_000_000):
        stage = writer._stage_of(out)
        stage.mkdir()
        opened = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0
        with monkeypatch.context() as patch:
            patch.setattr(os, "geteuid", lambda number=other: number)
            with pytest.raises(MigrateError, match="it is another user's"):
                writer.write_tree(None, [], out)
        assert opened in (0, len(os.listdir("/proc/self/fd")))
        stage.rmdir()
    with writer._staged_beside(out) as stage:
        assert stage.stat().st_mode & 0o777 == 0o700
    if me == 0:
        stage.mkdir()
        os.chown(stage, 123_456, 123_456)
        with monkeypatch.context() as patch:
            patch.setattr(os, "geteuid", lambda: 123_456)
            with writer._staged_beside(out):
                pass
    assert not stage.exists()


def test_who_waits_for_another_run_and_who_does_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A tree that another run writes is refused; an archive that it unpacks comes by itself."""
    made = archive(tmp_path / "a.tar.gz", {"vllm-1/x.py": b"x"})
    slept: list[float] = []
    with contextlib.ExitStack() as other:
        other.enter_context(writer._staged_beside(tmp_path / "out"))

        def sleep(seconds: float) -> None:
            assert 0 < seconds < 1
            slept.append(seconds)
            if len(slept) == 2:
                other.close()

        monkeypatch.setattr(time, "sleep", sleep)
        with pytest.raises(MigrateError, match="another run is writing"):
            writer.write_tree(None, [], tmp_path / "out")
        assert slept == []
        writer.unpack(made, tmp_path / "out")
    assert len(slept) == 2
    assert snapshot(tmp_path / "out") == {"x.py": (0o644, b"x")}


def test_what_cannot_be_removed_does_not_hide_why(
    mini_tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = shutil.rmtree

    def failing(path: Path, ignore_errors: bool = False) -> None:
        if not ignore_errors:
            raise OSError(errno.EBUSY, os.strerror(errno.EBUSY), str(path))
        plain(path)

    monkeypatch.setattr(shutil, "rmtree", failing)
    broken = [FileChange("vllm/v1/guards.py/x.py", None, b"below a file\n")]
    with pytest.raises(MigrateError, match=r"cannot write .*guards\.py: File exists"):
        writer.write_tree(DiskTree(mini_tree), broken, tmp_path / "out")
    with pytest.raises(MigrateError, match="is no directory; nothing was written"):
        writer.change_in_place(mini_tree, broken)


def test_all_is_on_the_disk_before_the_journal_decides(
    mini_tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes: list[Change] = [
        FileChange("vllm/x.py", None, b"x\n"),
        Placed("vllm/y.py", b"y\n"),
        Placed("vllm/link", b"y.py", link=True),
    ]
    done: list[str] = []
    plain = os.replace

    def replace(old: Path, new: Path) -> None:
        done.append(new.name)
        plain(old, new)

    monkeypatch.setattr(os, "fsync", lambda _: done.append("sync"))
    monkeypatch.setattr(os, "replace", replace)
    writer.change_in_place(mini_tree, changes)
    assert done == ["sync"] * 3 + ["journal.json", "x.py", "y.py", "link"]


def test_a_staging_directory_that_changes_hands(
    mini_tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may go, or be made anew, between opening it and having its lock."""
    stage = writer._stage_of(tmp_path / "out")
    plain = fcntl.flock
    times = 0

    def flock(fd: int, how: int) -> None:
        nonlocal times
        times += 1
        if times in (1, 2):
            stage.rmdir()
        if times == 2:
            # The old one is kept by the open descriptor, so that the new one has another number.
            stage.mkdir()
        plain(fd, how)

    monkeypatch.setattr(fcntl, "flock", flock)
    writer.write_tree(DiskTree(mini_tree), [], tmp_path / "out")
    assert times == 3
    assert sorted(p.name for p in tmp_path.iterdir()) == ["mini", "out"]
    opened = os.open
    gone = [True]

    def vanishing(path: Any, *args: Any, **kwargs: Any) -> int:
        if str(path) == str(stage) and gone:
            gone.clear()
            stage.rmdir()
        return opened(path, *args, **kwargs)

    monkeypatch.setattr(os, "open", vanishing)
    writer.write_tree(DiskTree(mini_tree), [], tmp_path / "out", replace=True)
    assert not gone
    assert sorted(p.name for p in tmp_path.iterdir()) == ["mini", "out"]


def test_what_a_killed_run_left_is_removed(mini_tree: Path, tmp_path: Path) -> None:
    stage = writer._stage_of(tmp_path / "out")
    (stage / "tree/vllm").mkdir(parents=True)
    (stage / "tree/vllm/half.py").write_bytes(b"hal")
    (stage / "file").write_bytes(b"")
    (stage / "link").symlink_to(mini_tree)
    before = snapshot(mini_tree)
    (tmp_path / "out").mkdir()
    with pytest.raises(MigrateError, match="exists already"):
        writer.write_tree(DiskTree(mini_tree), [], tmp_path / "out")
    assert not stage.exists()
    assert snapshot(mini_tree) == before


def test_a_tree_that_had_stepped_aside_comes_back(mini_tree: Path, tmp_path: Path) -> None:
    """Killed between its two renames; when the next run fails, the old tree is there again."""
    stage = writer._stage_of(tmp_path / "out")
    (stage / writer.ASIDE).mkdir(parents=True)
    (stage / writer.ASIDE / "old.py").write_bytes(b"old\n")
    broken = [FileChange("vllm/v1/guards.py/x.py", None, b"below a file\n")]
    with pytest.raises(MigrateError, match="cannot write"):
        writer.write_tree(DiskTree(mini_tree), broken, tmp_path / "out")
    assert snapshot(tmp_path / "out") == {"old.py": (0o644, b"old\n")}
    assert not stage.exists()


@pytest.mark.parametrize("how", ["no library", "no function"])
def test_systems_that_cannot_swap(monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    class Library:
        pass

    def load(*_: Any, **__: Any) -> Any:
        if how == "no library":
            raise OSError("none")
        return Library()

    monkeypatch.setattr(ctypes, "CDLL", load)
    assert writer._exchange(Path("/one"), Path("/other")) is False


def test_swap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "is").write_text(name, encoding="utf-8")
    assert writer._exchange(tmp_path / "one", tmp_path / "other") is True
    assert (tmp_path / "one/is").read_text(encoding="utf-8") == "other"
    assert (tmp_path / "other/is").read_text(encoding="utf-8") == "one"
    assert writer._exchange(tmp_path / "one", tmp_path / "none") is False
    monkeypatch.chdir(tmp_path)
    assert writer._exchange(Path("one"), Path("other")) is True
    assert (tmp_path / "one/is").read_text(encoding="utf-8") == "one"


@pytest.mark.parametrize(
    ("code", "said"),
    [
        (errno.ENOSPC, "is full; nothing was written"),
        (errno.EDQUOT, "is full; nothing was written"),
        (errno.EIO, "cannot write /some/file: Input/output error"),
    ],
)
def test_errors_of_the_system(code: int, said: str) -> None:
    error = OSError(code, os.strerror(code), "/some/file")
    assert said in str(writer._explain(error, Path("/target/tree")))
    assert str(writer._explain(OSError("odd"), Path("/target"))) == "cannot write /target: odd"


def test_recover_says_what_it_did(mini_tree: Path, tmp_path: Path) -> None:
    assert writer.recover(mini_tree) is False
    (mini_tree / writer.JOURNAL).mkdir()
    (mini_tree / writer.JOURNAL / "0.new").write_bytes(b"staged\n")
    assert writer.unfinished(mini_tree) is False
    assert writer.recover(mini_tree) is False
    assert not (mini_tree / writer.JOURNAL).exists()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/journal.json").write_bytes(b"{}")
    (mini_tree / writer.JOURNAL).symlink_to(tmp_path / "elsewhere")
    assert writer.recover(mini_tree) is False
    assert (tmp_path / "elsewhere/journal.json").exists()
    (mini_tree / writer.JOURNAL).unlink()
    (mini_tree / writer.JOURNAL).mkdir()
    (mini_tree / writer.JOURNAL / "12.new").write_bytes(b"staged\n")
    (mini_tree / "vllm/thin/er").mkdir(parents=True)
    (mini_tree / "vllm/thin/er/gone.py").write_bytes(b"")
    gone = ["vllm/gone.py", "vllm/thin/er/gone.py"]  # the first one has gone already
    steps = [{"path": path, "staged": None} for path in gone]
    steps.append({"path": "vllm/n%20w.py", "staged": "12.new"})
    journal = json.dumps({"steps": steps})
    (mini_tree / writer.JOURNAL / "journal.json").write_text(journal, encoding="utf-8")
    assert writer.unfinished(mini_tree) is True
    assert writer.recover(mini_tree) is True
    assert (mini_tree / "vllm/n w.py").read_bytes() == b"staged\n"
    assert not (mini_tree / "vllm/thin").exists()
    assert writer.unfinished(mini_tree) is False


@pytest.mark.parametrize("staged", ["../0.new", "0.new/x", "new", "0.new\n", "", ".new", "x0.new"])
def test_a_journal_takes_nothing_but_its_own(mini_tree: Path, staged: str) -> None:
    (mini_tree / "0.new").write_bytes(b"mine\n")
    stage = mini_tree / writer.JOURNAL
    stage.mkdir()
    steps = [{"path": "vllm/x.py", "staged": staged}]
    (stage / "journal.json").write_text(json.dumps({"steps": steps}), encoding="utf-8")
    with pytest.raises(MigrateError, match="was not written by this tool"):
        writer.recover(mini_tree)
    assert (mini_tree / "0.new").exists()


def test_unpack_cleans_up_after_a_kill_that_came_late(tmp_path: Path) -> None:
    made = archive(tmp_path / "a.tar.gz", {"vllm-1/x.py": b"x"})
    (tmp_path / "vllm-1").mkdir()
    stage = writer._stage_of(tmp_path / "vllm-1")
    (stage / "x").mkdir(parents=True)
    writer.unpack(made, tmp_path / "vllm-1")
    assert list((tmp_path / "vllm-1").iterdir()) == [], "what was there is kept"
    assert not stage.exists()
