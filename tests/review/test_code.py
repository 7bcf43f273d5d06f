# SPDX-License-Identifier: Apache-2.0
"""Source as HTML: it says what the source says, whatever that is; and the boxes of the map."""

from __future__ import annotations

import io
import tokenize
from itertools import combinations
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from migrator.review.code import coloured, escape, line_html, open_strings, pairs, word_ranges
from migrator.review.treemap import Box, divide
from tests.review.pages import parse

ROOT = Path(__file__).parents[2]
LINES = st.text(st.characters(codec="utf-8", categories=["L", "N", "P", "S", "Zs"]), max_size=40)


def classes(path: str, *lines: str, opened_by: str = "") -> list[list[tuple[str, str]]]:
    """For each line the texts that have a colour, with it."""
    found = coloured(path, lines, opened_by)
    return [
        [(line[a:b], kind) for (a, b), kind in row] for line, row in zip(lines, found, strict=True)
    ]


def test_python_has_colours() -> None:
    (row,) = classes("vllm/x.py", "def f(x): return None  # why")
    assert row == [("def", "k"), ("f", "d"), ("return", "k"), ("None", "n"), ("# why", "c")]


def test_lines_inside_of_a_string() -> None:
    lines = ("text of a", 'docstring""" + name', "if x:")
    assert classes("x.py", *lines, opened_by='"""')[0] == [("text of a", "c")]
    assert classes("x.py", *lines, opened_by='"""')[2] == [("if", "k")]


def test_other_languages() -> None:
    assert ("FROM", "k") in classes("docker/Dockerfile.npu", "FROM base AS x")[0]
    assert classes("unknown.zzz", "def f") == [[]]


@pytest.mark.parametrize(
    "path", sorted((ROOT / "migrator").rglob("*.py"))[::3], ids=lambda p: p.name
)
def test_open_strings_are_those_of_python(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    expected = set()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.STRING:
            expected |= set(range(token.start[0], token.end[0]))
    assert set(open_strings(text.splitlines())) == expected


def test_open_strings_are_not_deceived() -> None:
    lines = ["# it's", 'a = "#\\"" + \'"""\'', "b = rb'''", "# in", "'''", 'c = """ # " """', "d"]
    assert open_strings(lines) == {3: "rb'''", 4: "rb'''"}
    assert open_strings(['x = """', "never", "closed"]) == {1: '"""', 2: '"""'}
    assert open_strings(["x = 'goes \\", "on'", "y"]) == {1: "'"}


@settings(max_examples=40)
@given(st.lists(LINES, min_size=1, max_size=6), st.sampled_from(["x.py", "x.txt", "Dockerfile"]))
def test_html_says_what_the_source_says(lines: list[str], path: str) -> None:
    for line, colours in zip(lines, coloured(path, lines), strict=True):
        for (start, stop), _ in colours:
            assert 0 <= start < stop <= len(line)
        html = line_html(line, colours, [(0, len(line) // 2)] if len(line) > 1 else [])
        assert parse(html).text == parse(escape(line)).text


@given(LINES, LINES)
def test_marked_words_are_what_differs(old: str, new: str) -> None:
    left, right = word_ranges(old, new)

    def without(text: str, ranges: list[tuple[int, int]]) -> str:
        for start, stop in reversed(ranges):
            text = text[:start] + text[stop:]
        return text

    if left or right or old == new:
        assert without(old, left) == without(new, right)


def test_words_that_differ() -> None:
    old, new = 'backend: str = "nccl",', "backend: str | None = None,"
    left, right = word_ranges(old, new)
    assert [old[a:b] for a, b in left] == ['"nccl"']
    assert [new[a:b].strip() for a, b in right] == ["| None", "None"]
    assert word_ranges("return x", "raise ValueError(message) from error") == ([], [])


@given(st.lists(LINES, max_size=5), st.lists(LINES, max_size=5))
def test_pairs_go_in_order(old: list[str], new: list[str]) -> None:
    found = list(pairs(old, new))
    assert all(0 <= i < len(old) and 0 <= j < len(new) for i, j in found)
    for (i, j), (k, m) in combinations(found, 2):
        assert i < k
        assert j < m


@given(st.lists(st.integers(1, 10_000), min_size=1, max_size=25))
def test_boxes_fill_the_map(sizes: list[int]) -> None:
    sizes.sort(reverse=True)
    boxes = divide(Box(0, 0, 100, 36), sizes)
    assert len(boxes) == len(sizes)
    for box, size in zip(boxes, sizes, strict=True):
        assert box.width * box.height == pytest.approx(3600 * size / sum(sizes))
        assert box.left >= -1e-6
        assert box.top >= -1e-6
        assert box.left + box.width <= 100 + 1e-6
        assert box.top + box.height <= 36 + 1e-6
    for one, two in combinations(boxes, 2):
        wide = min(one.left + one.width, two.left + two.width) - max(one.left, two.left)
        high = min(one.top + one.height, two.top + two.height) - max(one.top, two.top)
        assert min(wide, high) < 1e-6, "two boxes overlap"
