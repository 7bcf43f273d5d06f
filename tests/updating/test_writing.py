# SPDX-License-Identifier: Apache-2.0
"""The writer's removals, links and modes: in place through the journal, and in a new tree."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from migrator.files import writer
from migrator.files.changes import Change, FileChange, Placed, Removal
from migrator.files.tree import DiskTree
from migrator.messages.errors import MigrateError
from tests.trees import snapshot

OLD: dict[str, tuple[int, bytes | str]] = {
    "README": (0o644, b"kept\n"),
    "changed": (0o644, b"old\n"),
    "tool": (0o644, b"#!/bin/sh\n"),
    "deep/er/gone": (0o644, b"gone\n"),
    "link": (0o777, "README"),
    "dead": (0o777, "nowhere"),
    "was_file": (0o644, b"f\n"),
    "was_dir/a": (0o644, b"a\n"),
    "was_dir/b/c": (0o644, b"c\n"),
    "linked": (0o777, "/tmp"),
    "file_to_link": (0o644, b"x\n"),
}
NEW: dict[str, tuple[int, bytes | str]] = {
    "README": (0o644, b"kept\n"),
    "changed": (0o644, b"new\n"),
    "tool": (0o755, b"#!/bin/sh\n"),
    "new/place": (0o600, b"n\n"),
    "link": (0o777, "tool"),
    "was_file/inside": (0o644, b"i\n"),
    "was_dir": (0o644, b"a file now\n"),
    "linked/inside": (0o644, b"no link any more\n"),
    "file_to_link": (0o777, "README"),
}


def changes() -> list[Change]:
    found: list[Change] = [Removal(path) for path in OLD if path not in NEW]
    for path, (mode, data) in NEW.items():
        if path == "changed":
            found.append(FileChange(path, b"old\n", b"new\n"))
        elif OLD.get(path) != (mode, data):
            link = isinstance(data, str)
            found.append(Placed(path, data.encode() if isinstance(data, str) else data, mode, link))
    return found


def make(root: Path) -> Path:
    for path, (mode, data) in OLD.items():
        place = root / path
        place.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(data, str):
            place.symlink_to(data)
        else:
            place.write_bytes(data)
            place.chmod(mode)
    return root


def test_in_place(tmp_path: Path) -> None:
    tree = make(tmp_path / "tree")
    writer.change_in_place(tree, changes())
    assert snapshot(tree) == NEW
    assert not (tree / "deep").exists()


def test_new_tree(tmp_path: Path) -> None:
    tree = make(tmp_path / "tree")
    writer.write_tree(DiskTree(tree), changes(), tmp_path / "out")
    assert snapshot(tmp_path / "out") == NEW
    assert not (tmp_path / "out/deep").exists()
    assert snapshot(tree) == OLD


class Killed(BaseException):
    """The machine stops here."""


def kill_at(call: int, tree: Path, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Change the tree and stop at the n-th system call; False where it came to its end before."""
    count = 0

    def stopping(plain: Callable[..., Any]) -> Callable[..., Any]:
        def stop(*args: Any, **kwargs: Any) -> Any:
            nonlocal count
            count += 1
            if count >= call:  # a process that died tidies nothing up either
                raise Killed
            return plain(*args, **kwargs)

        return stop

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)
        for name in ("replace", "unlink", "rmdir", "mkdir", "symlink", "chmod"):
            patch.setattr(os, name, stopping(getattr(os, name)))
        try:
            writer.change_in_place(tree, changes())
        except Killed:
            return True
    return False


def test_killed_in_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Old before the journal decides; after that, the next run makes it new."""
    seen: list[bool] = []
    while True:
        tree = make(tmp_path / f"tree{len(seen)}")
        if not kill_at(len(seen) + 1, tree, monkeypatch):
            break
        decided = (tree / writer.JOURNAL / "journal.json").exists()
        seen.append(decided)
        # The journal goes when everything is in place, before the directory that it was in.
        wanted = NEW if any(seen) else OLD
        if not decided:
            left = snapshot(tree)
            assert {p: v for p, v in left.items() if not p.startswith(writer.JOURNAL)} == wanted
        assert writer.recover(tree) == decided
        assert snapshot(tree) == wanted
    assert seen.count(False) > 8
    assert seen.count(True) > 20
    assert snapshot(tree) == NEW


@pytest.mark.parametrize("path", ["../outside", "outside/file", "a/../../b"])
def test_nothing_is_removed_outside(tmp_path: Path, path: str) -> None:
    tree = make(tmp_path / "tree")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/file").write_bytes(b"x")
    (tree / "outside").symlink_to(tmp_path / "elsewhere")
    for change in (Removal(path), Placed(path, b"evil")):
        with pytest.raises(MigrateError, match="leads out of the tree"):
            writer.change_in_place(tree, [change])
    assert (tmp_path / "elsewhere/file").read_bytes() == b"x"
    assert not (tree / writer.JOURNAL).exists()


def test_a_directory_with_something_else_in_it_is_in_the_way(tmp_path: Path) -> None:
    tree = make(tmp_path / "tree")
    (tree / "was_dir/built.so").write_bytes(b"\0")
    before = snapshot(tree)
    with pytest.raises(MigrateError, match="is no file; nothing was written"):
        writer.change_in_place(tree, changes())
    assert snapshot(tree) == before


@pytest.mark.parametrize("empty", ["", "b/", "b/d/"])
def test_an_empty_directory_in_a_directory_is_in_the_way(tmp_path: Path, empty: str) -> None:
    """What goes takes along the directories that it leaves empty, and no others."""
    tree = make(tmp_path / "tree")
    (tree / f"was_dir/{empty}empty").mkdir(parents=True)
    with pytest.raises(MigrateError, match="is no file; nothing was written"):
        writer.change_in_place(tree, changes())
    assert snapshot(tree) == OLD
