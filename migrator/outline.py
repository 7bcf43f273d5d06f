# SPDX-License-Identifier: Apache-2.0
"""A module without what no rule looks at: to parse it costs what the sites cost, not the file.

LibCST takes twenty times as long as Python's own parser, and a hundred times a module's text in
memory. So the bodies of functions, and statements of a module, in which nothing stands that a rule
looks for are left out before: a name on a line of its own stands for them. What is written from the
tree gets them back byte for byte.
"""

from __future__ import annotations

import ast
import re
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

from migrator.flow import lines_of

_MARK = b"_elided_"
_LINE = re.compile(rb"[ \t]*_elided_(\d+)_\r?\n")


class Lines:
    """How the lines of a text with marks relate to those of the whole one."""

    def __init__(self, marks: Sequence[tuple[int, int]]) -> None:
        self._at = [line for line, _ in marks]
        self._more = [0]
        for _, lines in marks:
            self._more.append(self._more[-1] + lines - 1)

    def whole(self, line: int) -> int:
        """The line of the whole text, counted from 1, that a line of the shorter one is."""
        return line + self._more[bisect_left(self._at, line)]


@dataclass(frozen=True, slots=True)
class Outline:
    """A module's source with marks for the lines that are left out."""

    data: bytes
    left_out: tuple[bytes, ...]

    def expand(self, data: bytes) -> tuple[bytes, Lines] | None:
        """A text with each mark's lines put back in its place; None where a mark is lost."""
        parts: list[bytes] = []
        marks: list[tuple[int, int]] = []
        found: list[int] = []
        for number, line in enumerate(data.splitlines(keepends=True), 1):
            mark = _LINE.fullmatch(line) if _MARK in line else None
            if mark is None:
                parts.append(line)
                continue
            text = self.left_out[int(mark.group(1))]
            found.append(int(mark.group(1)))
            marks.append((number, text.count(b"\n")))
            parts.append(text)
        if sorted(found) != list(range(len(self.left_out))):
            return None
        return b"".join(parts), Lines(marks)


def outline(data: bytes, parsed: ast.Module, wanted: bytes) -> Outline | None:
    """The outline of a module; None where all of it has to be parsed.

    Args:
        data: the module's source.
        parsed: what Python's parser makes of it.
        wanted: a regular expression; each statement in which it matches is kept, and with it the
            heads of the class and functions around it.
    """
    lone = data.count(b"\r") != data.count(b"\r\n")
    if lone or _MARK in data or b"\f" in data:
        return None
    return _Outliner(data, lines_of(wanted, data)).outline(parsed)


class _Outliner:
    def __init__(self, data: bytes, wanted: Sequence[int]) -> None:
        self._lines = data.splitlines(keepends=True)
        self._wanted = wanted
        self._left_out: list[tuple[int, int]] = []
        """First and last line of what is left out, counted from 1."""

    def outline(self, parsed: ast.Module) -> Outline | None:
        run: tuple[int, int] | None = None
        indented = False
        for number, statement in enumerate(parsed.body):
            first, last = _extent(statement)
            if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                self._leave_out(run)
                run = None
                indented = True
                self._definition(statement)
                continue
            simple = not hasattr(statement, "body")
            imports = isinstance(statement, ast.Import | ast.ImportFrom) or (
                not simple and any(b"import" in line for line in self._lines[first - 1 : last])
            )
            kept = number == 0 or imports or self._is_wanted(first, last)
            if (
                kept
                or not (simple or indented)
                or not self._own_lines(statement, parsed.body, number)
            ):
                self._leave_out(run)
                run = None
                indented = indented or not simple
            else:
                run = (first, last) if run is None else (run[0], last)
        self._leave_out(run)
        if not self._left_out:
            return None
        parts: list[bytes] = []
        texts: list[bytes] = []
        line = 0
        for first, last in self._left_out:
            text = self._lines[first - 1 : last]
            if not text[-1].endswith(b"\n"):
                continue
            parts += self._lines[line : first - 1]
            indent = text[0][: len(text[0]) - len(text[0].lstrip(b" \t"))]
            end = b"\r\n" if text[-1].endswith(b"\r\n") else b"\n"
            parts.append(indent + _MARK + str(len(texts)).encode() + b"_" + end)
            texts.append(b"".join(text))
            line = last
        parts += self._lines[line:]
        return Outline(b"".join(parts), tuple(texts))

    def _leave_out(self, run: tuple[int, int] | None) -> None:
        if run is not None and run[1] > run[0]:
            self._left_out.append(run)

    def _is_wanted(self, first: int, last: int) -> bool:
        return bisect_left(self._wanted, first) < bisect_right(self._wanted, last)

    def _own_lines(self, statement: ast.stmt, body: Sequence[ast.stmt], number: int) -> bool:
        """Does a statement share no line with another one?"""
        first, last = _extent(statement)
        before = _extent(body[number - 1])[1] if number else 0
        after = _extent(body[number + 1])[0] if number + 1 < len(body) else last + 1
        return before < first and after > last and not self._lines[first - 1][:1].isspace()

    def _definition(self, node: ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) -> None:
        if isinstance(node, ast.ClassDef):
            for part in node.body:
                if isinstance(part, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                    self._definition(part)
            return
        if self._is_wanted(*_extent(node)):
            return
        first, last = _extent(node.body[0])[0], node.end_lineno or 0
        start = self._lines[first - 1][: node.body[0].col_offset]
        if first > node.lineno and not start.strip(b" \t"):
            self._leave_out((first, last))


def _extent(node: ast.stmt) -> tuple[int, int]:
    """First and last line of a statement, its decorators included."""
    first = min([node.lineno, *(d.lineno for d in getattr(node, "decorator_list", ()))])
    return first, node.end_lineno or node.lineno
