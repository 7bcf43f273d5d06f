# SPDX-License-Identifier: Apache-2.0
"""Added modules are laid out as the tree is: once, alike in any number of processes, and kept."""

from __future__ import annotations

import os
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import pytest

from migrator.codemod.tree_style import Style
from migrator.codemod.yapf_layout import YapfStyle
from migrator.planning import layouts
from migrator.planning.cache import Cache
from migrator.planning.layouts import lay_out

PEP8 = Style(80, YapfStyle((("based_on_style", "pep8"),), None))
RENDERED = {
    "a.py": b"def f(\n    a,\n    b,\n):\n    return a\n",
    "b.py": b"x = [  1,2]\n",
    "c.txt": b"x = [  1,2]\n",
}
LAID_OUT = {
    "a.py": b"def f(\n    a,\n    b,\n):\n    return a\n",
    "b.py": b"x = [1, 2]\n",
    "c.txt": b"x = [  1,2]\n",
}


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The texts that yapf is asked for, in this process."""
    texts: list[str] = []
    module = Style.module

    def noted(self: Style, text: str) -> str:
        texts.append(text)
        return module(self, text)

    monkeypatch.setattr(Style, "module", noted)
    return texts


@pytest.mark.parametrize("jobs", [1, 2, 8])
def test_any_number_of_processes_lays_out_alike(jobs: int) -> None:
    assert lay_out(RENDERED, PEP8, jobs, None) == LAID_OUT


def test_a_tree_without_yapf_keeps_what_was_rendered(asked: list[str]) -> None:
    assert lay_out(RENDERED, Style(), 1, None) == RENDERED
    assert asked == []


def test_a_layout_is_kept_by_text_and_style(tmp_path: Path, asked: list[str]) -> None:
    cache = Cache(tmp_path / "plans")
    assert lay_out(RENDERED, PEP8, 1, cache) == LAID_OUT
    assert len(asked) == 2
    assert lay_out(RENDERED, PEP8, 1, cache) == LAID_OUT
    assert len(asked) == 2
    assert lay_out({**RENDERED, "a.py": b"y=1\n"}, PEP8, 1, cache)["a.py"] == b"y = 1\n"
    assert len(asked) == 3
    wide = Style(80, YapfStyle((("based_on_style", "google"),), None))
    lay_out(RENDERED, wide, 1, cache)
    assert len(asked) == 5


def test_a_layout_that_was_damaged_is_made_again(tmp_path: Path) -> None:
    cache = Cache(tmp_path / "plans")
    lay_out(RENDERED, PEP8, 1, cache)
    for kept in (tmp_path / "plans").glob("*.layout"):
        kept.write_bytes(kept.read_bytes().replace(b"[1, 2]", b"[1, 3]"))
    assert lay_out(RENDERED, PEP8, 1, cache) == LAID_OUT


def test_where_a_process_is_killed_this_one_does_its_work(monkeypatch: pytest.MonkeyPatch) -> None:
    module, first = Style.module, os.getpid()

    def killed(self: Style, text: str) -> str:
        if os.getpid() != first:
            os._exit(9)
        return module(self, text)

    monkeypatch.setattr(Style, "module", killed)
    broken: list[Any] = []

    class Watched(ProcessPoolExecutor):
        def __exit__(self, kind: Any, error: Any, traceback: Any) -> bool | None:
            broken.append(kind)
            return super().__exit__(kind, error, traceback)

    monkeypatch.setattr(layouts, "ProcessPoolExecutor", Watched)
    assert lay_out(RENDERED, PEP8, 2, None) == LAID_OUT
    assert broken == [BrokenProcessPool]
