# SPDX-License-Identifier: Apache-2.0
"""Names that hold what terminals, GitHub's runner, Markdown and HTML obey, through every format."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from migrator.messages.escaping import code, page, prose, terminal
from tests.conftest import RunCli
from tests.trees import GUARD, SELECT

NAMES = (
    b"a\n::error file=x::PWNED.py",
    b"\x1b]0;PWNED\x07\x1b[2J.py",
    "\u202eg\u009b2J\u2028x\u2066.py".encode(),
    b"caf\xe9.py",
    b"a`b`<script>x<!--.py",
    b"##[error]x.py",
    b"\n# H\n[l](x).py",
)
RAW = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")


@pytest.fixture
def nasty(mini_tree: Path) -> Path:
    """A tree with each name twice: a file with a site, and one that does not parse."""
    for name in NAMES:
        good = mini_tree / "vllm" / os.fsdecode(name)
        good.write_text(GUARD.format(remark="x"), encoding="utf-8")
        bad = mini_tree / "vllm" / os.fsdecode(b"z" + name)
        bad.write_text(GUARD.format(remark="x") + "\n(((\n", encoding="utf-8")
    return mini_tree


def test_text_formats(nasty: Path, run_cli: RunCli) -> None:
    for command in (
        ("check", "-v"),
        ("check", "--format", "github"),
        ("diff", "--stat"),
        ("coverage", "--show", "all"),
        ("apply", "-v", "-o", "o"),
    ):
        first, *rest = command
        done = run_cli(first, nasty, *rest, "--select", SELECT, cwd=nasty.parent)
        assert done.code in (0, 1), done.err
        assert not RAW.findall(done.text + done.err), command
        lines = done.err.splitlines()
        assert not [line for line in lines if line.lstrip().startswith("::") or "##[" in line]
    summary = (nasty.parent / "o/MIGRATION.md").read_text(encoding="utf-8")
    assert not RAW.findall(summary)
    assert [line for line in summary.splitlines() if line.startswith("# ")] == [
        "# NPU migration of vLLM 0.11.0"
    ]
    assert "`` vllm/a`b`<script>x<!--.py:6 → 6 ``" in summary


def test_page(nasty: Path, run_cli: RunCli) -> None:
    done = run_cli("review", nasty, "-q", "-o", nasty.parent / "r.html", "--select", SELECT)
    assert done.code == 1, done.err
    text = (nasty.parent / "r.html").read_text(encoding="utf-8")
    assert not RAW.findall(text)
    assert "</<wbr>" not in text
    assert "<script>x" not in text


def test_each_medium() -> None:
    assert terminal("a\n::error::\x1b\x9b\u202e\udce9\ud800") == (
        "a^J::error::^[<U+009B><U+202E>\\xe9<U+D800>"
    )
    assert terminal("  ::error::x") == "  \\::error::x"
    assert terminal("x ##[error]y") == "x ##\\[error]y"
    assert page("a\nb\x1b") == "a\nb^["
    assert code("a``b") == "``` a``b ```"
    assert prose("`a<b` <b> [x](y)") == "`a<b` \\<b> \\[x\\](y)"
    assert prose("one ` tick") == "one \\` tick"
