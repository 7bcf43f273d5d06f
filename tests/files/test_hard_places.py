# SPDX-License-Identifier: Apache-2.0
"""Where the system refuses: one line and the right exit code, never a traceback."""

from __future__ import annotations

import errno
import os
import zipfile
from pathlib import Path

import pytest

from migrator.files import writer
from migrator.files.changes import Placed
from migrator.files.tree import LARGEST, DiskTree
from migrator.messages.errors import MigrateError, UnfinishedError, after_writing
from migrator.verify.wheel import LIBRARY, WheelError, read_contents
from tests.conftest import RunCli
from tests.trees import SELECT


@pytest.mark.parametrize(
    "arguments", ["rules", "explain NPU110", "--help", "diff {} --select NPU1"]
)
@pytest.mark.parametrize("where", [">/dev/full", ">&-"])
def test_stdout_full_or_closed(
    mini_tree: Path, run_process: RunCli, arguments: str, where: str
) -> None:
    prefix = ["sh", "-c", f'exec "$@" {where}', "sh"]
    done = run_process(*arguments.format(mini_tree).split(), prefix=prefix)
    assert done.code == 2
    assert done.err.splitlines()[-1].startswith("Error: the output cannot be written: ")
    assert "Traceback" not in done.err
    assert "Exception ignored" not in done.err


def test_stdout_full_after_the_tree_is_written(mini_tree: Path, run_process: RunCli) -> None:
    done = run_process(
        "apply",
        mini_tree,
        "-q",
        "--select",
        SELECT,
        "--format",
        "json",
        prefix=["sh", "-c", 'exec "$@" >/dev/full', "sh"],
    )
    assert done.code == 3
    assert done.err.startswith("Error: the tree is written, but then: ")
    assert (mini_tree.parent / "mini-npu").is_dir()


def test_a_loop_of_links_as_output(mini_tree: Path, tmp_path: Path, run_cli: RunCli) -> None:
    (tmp_path / "loop").symlink_to("loop")
    for command in ("apply", "review"):
        done = run_cli(command, mini_tree, "-q", "--select", SELECT, "-o", tmp_path / "loop/x")
        assert done.code == 2
        assert done.err.startswith("Error: ")
        assert done.err.count("\n") == 1


def test_recovering_where_a_file_cannot_be_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.py").write_bytes(b"old")

    def refuse(source: str, target: str) -> None:
        if str(target).endswith("a.py"):
            raise PermissionError(errno.EPERM, os.strerror(errno.EPERM), str(target))
        os.rename(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", refuse)
        with pytest.raises(UnfinishedError, match="part of the files are"):
            writer.change_in_place(tmp_path, [Placed("a.py", b"new")])
        with pytest.raises(UnfinishedError, match="run it again"):
            writer.recover(tmp_path)
    assert writer.unfinished(tmp_path)
    assert writer.recover(tmp_path)
    assert (tmp_path / "a.py").read_bytes() == b"new"


def test_a_file_that_says_it_is_huge(tmp_path: Path) -> None:
    with (tmp_path / "huge.py").open("wb") as file:
        file.truncate(LARGEST + 1)
    with pytest.raises(MigrateError, match="what is read may have 256"):
        DiskTree(tmp_path).read("huge.py")
    os.truncate(tmp_path / "huge.py", 10)
    assert DiskTree(tmp_path).read("huge.py") == b"\0" * 10


def test_what_fails_after_writing() -> None:
    there = "all is there"
    with pytest.raises(UnfinishedError, match=f"{there}, but then: no"), after_writing(there):
        raise MigrateError("no")
    with pytest.raises(BrokenPipeError), after_writing(there):
        raise BrokenPipeError


@pytest.mark.parametrize("kind", ["damaged", "encrypted", "method", "bomb", "nested"])
def test_hostile_wheels(tmp_path: Path, kind: str) -> None:
    wheel = tmp_path / "torch_npu-2.8.0-cp311-cp311-manylinux_2_28_x86_64.whl"
    library = b"\0npu_rms_norm(Tensor x) -> Tensor\0" * 50
    with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(LIBRARY, library)
        if kind == "nested":
            source = "lib.define('x')\nx = " + "(" * 5000 + "1" + ")" * 5000 + "\n"
            archive.writestr("torch_npu/deep.py", source)
        if kind == "bomb":
            archive.writestr("torch_npu/bomb.py", b"\n" * (17 << 20))
    data = bytearray(wheel.read_bytes())
    central = data.index(b"PK\x01\x02")
    if kind == "damaged":
        data[80:100] = bytes(byte ^ 255 for byte in data[80:100])
    elif kind == "encrypted":
        data[6] |= 1
        data[central + 8] |= 1
    elif kind == "method":
        data[8] = data[central + 10] = 99
    wheel.write_bytes(data)
    if kind == "nested":
        assert read_contents(wheel, None).operators["npu"]
        return
    with pytest.raises(WheelError, match="not a torch_npu wheel"):
        read_contents(wheel, None)
