# SPDX-License-Identifier: Apache-2.0
"""The audit of added files over commits between releases: what it has to see, and what not."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from migrator.files.tree import DiskTree
from migrator.reports.log import Tool

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))

import overrides

BASE = "class Base:\n    {}\n\n\nclass Middle(Base):\n    pass\n"
OURS = "from vllm.api import Middle\n\n\nclass Ours(Middle):\n    {}\n"
CALL = "def f(x):\n    x.run(1, two=2)\n"


def problems(root: Path, base: str, ours: str, call: str = CALL) -> list[str]:
    files = {
        "vllm/api/__init__.py": "from .base import Middle\n",
        "vllm/api/base.py": BASE.format(base),
        "vllm/ours.py": OURS.format(ours),
        "vllm/call.py": call,
    }
    for path, text in files.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text, encoding="utf-8")
    entry = {"path": "vllm/ours.py", "status": "added", "before": None, "after": ""}
    log = {"schema_version": 1, "tool": {"name": Tool().name, "version": Tool().version}}
    log |= {key: [] for key in ("rules", "changes", "left_alone", "absent")}
    (root / "migration-log.json").write_text(
        json.dumps({**log, "release": None, "files": [entry]}), encoding="utf-8"
    )
    return list(overrides.problems(DiskTree(root)))


@pytest.mark.parametrize(
    ("base", "ours", "said"),
    [
        ("def run(self, one, two): ...", "def run(self, one): ...", "takes no two"),
        ("def run(self, one, two): ...", "def run(self, two, one): ...", "in this order, not"),
        ("def run(self, one, two): ...", "def run(self, one, a=1, two=2): ...", "this order, not"),
        ("def run(self, two): ...", "def run(self, other, two=2): ...", "in this order, not"),
        ("def run(self, one): ...", "def run(self, one, more): ...", "asks for more"),
        ("def run(self, *, key): ...", "def run(self): ...", "takes no key"),
        ("def run(self, one, two): ...", "def run(self, one, other): ...", "takes no two"),
        ("async def run(self, one): ...", "async def run(self): ...", "takes no one"),
    ],
)
def test_what_does_not_fit(tmp_path: Path, base: str, ours: str, said: str) -> None:
    (found,) = problems(tmp_path, base, ours)
    assert found.startswith("vllm/ours.py:5 Ours.run: ")
    assert said in found


@pytest.mark.parametrize(
    ("base", "ours"),
    [
        ("def run(self, one, two): ...", "def run(self, one, two): ..."),
        ("def run(self, one, two): ...", "def run(self, one, two, more=None): ..."),
        ("def run(self, one, two): ...", "def run(self, *args, **kwargs): ..."),
        ("def run(self, one, *, key=1): ...", "def run(self, one, **kwargs): ..."),
        ("def run(self, one): ...", "def walk(self): ..."),
        ("def run(self, first): ...", "def run(self, one): ..."),
        ("def run(self, first): ...", "def run(self, one, more=None): ..."),
        ("@property\n    def run(self): ...", "@property\n    def run(self): ..."),
        ("def __init__(self, one): ...", "def __init__(self): ..."),
    ],
)
def test_what_fits(tmp_path: Path, base: str, ours: str) -> None:
    assert problems(tmp_path, base, ours) == []


@pytest.mark.parametrize(
    ("call", "fits"),
    [
        ("x.run(one=1, two=2)", True),
        ("x.run(**every)", True),
        ("x.run(1)", True),  # another class's: it would lack one here
        ("x.run(1, 2)", False),
        ("x.run(1, two=2)", False),
        ("x.run(1, **more)", False),
        ("x.run(*every)", False),
    ],
)
def test_what_takes_all_by_name_is_asked_so(tmp_path: Path, call: str, fits: bool) -> None:
    """Unless it is another platform that asks."""
    base, ours = "def run(self, one, two): ...", "def run(self, **asked): ..."
    found = problems(tmp_path / "a", base, ours, f"def f(x):\n    {call}\n")
    assert (found == []) is fits
    assert fits or "takes by name what is given in order" in found[0]
    (tmp_path / "b/vllm/platforms").mkdir(parents=True)
    (tmp_path / "b/vllm/platforms/cuda.py").write_text(f"def f(x):\n    {call}\n", "utf-8")
    assert problems(tmp_path / "b", base, ours, "") == []
