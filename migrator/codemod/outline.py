# SPDX-License-Identifier: Apache-2.0
"""A module without what no rule looks at: to parse it costs what the sites cost, not the file.

LibCST takes twenty times as long as Python's own parser, and a hundred times a module's text in
memory. So the functions, classes, statements and entries of dictionaries in which nothing stands
that a rule looks for are left out before: a name on a line of its own stands for them. What is
written from the tree gets them back byte for byte.
"""

from __future__ import annotations

import ast
import itertools
import re
from bisect import bisect_left, bisect_right
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass

from migrator.files.tree import Definition

MARK = "_elided_"
_MARK = MARK.encode()


_STATEMENT = _MARK + b"%d_"
_ENTRY = b"**" + _STATEMENT + b","
_ENDS_ENTRY = re.compile(rb"[ \t]*,[ \t]*(?:#.*)?\r?\n")


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
    mark: bytes = _MARK

    def expand(self, data: bytes) -> tuple[bytes, Lines] | None:
        """A text with each mark's lines put back in its place; None where a mark is lost."""
        parts: list[bytes] = []
        marks: list[tuple[int, int]] = []
        found: list[int] = []
        spelled = re.compile(rb"[ \t]*(?:\*\*)?%s(\d+)_,?\r?\n" % self.mark)
        for number, line in enumerate(data.splitlines(keepends=True), 1):
            match = spelled.fullmatch(line) if self.mark in line else None
            if match is None:
                parts.append(line)
                continue
            text = self.left_out[int(match.group(1))]
            found.append(int(match.group(1)))
            marks.append((number, text.count(b"\n")))
            parts.append(text)
        if sorted(found) != list(range(len(self.left_out))):
            return None
        return b"".join(parts), Lines(marks)


def outline(
    data: bytes,
    parsed: ast.Module,
    wanted: Iterable[bytes],
    names: Collection[str] = (),
    heads: Collection[str] = (),
) -> Outline | None:
    """The outline of a module; None where all of it has to be parsed.

    Args:
        data: the module's source.
        parsed: what Python's parser makes of it.
        wanted: regular expressions; each statement in which one matches is kept, comments and
            docstrings apart, and with it the heads of the classes around it.
        names: names of which all definitions are kept, functions and tables with all that is in
            them. Those that Python knows itself, such as `__init__`, count in the classes that are
            among the names.
        heads: those of the names of which only the first and the last of what is in them counts.
    """
    if _MARK in data or not has_plain_lines(data):
        return None
    lines = data.splitlines(keepends=True)
    starts = [*itertools.accumulate(map(len, lines), initial=0)]
    places = sorted(m.start() for text in wanted for m in re.finditer(text, data))
    said = _said(lines, parsed, [bisect_right(starts, place) for place in places])
    return _Outliner(lines, said, frozenset(names), frozenset(heads)).outline(parsed)


def has_plain_lines(data: bytes) -> bool:
    """Is each line of a text one to Python, and indented as it looks?"""
    return data.count(b"\r") == data.count(b"\r\n") and b"\f" not in data


def is_special(name: str) -> bool:
    """Is it a name that Python gives a meaning, which many classes have for their own?"""
    return name.startswith("__") and name.endswith("__")


def _said(lines: Sequence[bytes], parsed: ast.Module, found: Sequence[int]) -> list[int]:
    """Those of some lines that are no comment and in no docstring."""
    told: list[tuple[int, int]] = []
    stack: list[ast.AST] = [parsed]
    while stack and found:
        node = stack.pop()
        body = getattr(node, "body", ())
        stack += [part for part in body if isinstance(part, Definition)]
        first = body[0] if body else None
        if (
            isinstance(node, Definition)
            and isinstance(first, ast.Expr)
            and isinstance(first.value, ast.Constant)
            and isinstance(first.value.value, str)
            and _stands_alone(lines, first)
        ):
            told.append(_extent(first))
    told.sort()
    starts = [first for first, _ in told]

    def is_told(line: int) -> bool:
        at = bisect_right(starts, line)
        return at > 0 and line <= told[at - 1][1]

    return [n for n in found if not (lines[n - 1].lstrip().startswith(b"#") or is_told(n))]


def _stands_alone(lines: Sequence[bytes], node: ast.stmt) -> bool:
    """Is there nothing else on the lines of a statement?"""
    first, last = lines[node.lineno - 1], lines[(node.end_lineno or node.lineno) - 1]
    return not first[: node.col_offset].strip() and not last[node.end_col_offset :].strip()


class _Outliner:
    def __init__(
        self,
        lines: Sequence[bytes],
        wanted: Sequence[int],
        names: frozenset[str],
        heads: frozenset[str],
    ) -> None:
        self._lines = lines
        self._wanted = wanted
        self._special = frozenset(filter(is_special, names))
        self._names = names
        self._whole = names - heads
        self._left_out: list[tuple[int, int, bytes]] = []
        """First and last line of what is left out, counted from 1, and how its mark is spelled."""
        self._indented = False
        """Is a block kept? The first one of a module tells how it is indented."""

    def outline(self, parsed: ast.Module) -> Outline | None:
        self._body(parsed.body, None)
        if not self._left_out:
            return None
        parts: list[bytes] = []
        texts: list[bytes] = []
        line = 0
        for first, last, mark in self._left_out:
            text = self._lines[first - 1 : last]
            if not text[-1].endswith(b"\n"):
                continue
            parts += self._lines[line : first - 1]
            indent = text[0][: len(text[0]) - len(text[0].lstrip(b" \t"))]
            end = b"\r\n" if text[-1].endswith(b"\r\n") else b"\n"
            parts.append(indent + mark % len(texts) + end)
            texts.append(b"".join(text))
            line = last
        parts += self._lines[line:]
        return Outline(b"".join(parts), tuple(texts))

    def _body(self, body: Sequence[ast.stmt], class_: ast.ClassDef | None) -> None:
        """Leave out what can be of the statements of a module, a class or another suite."""
        run: tuple[int, int] | None = None
        for number, statement in enumerate(body):
            kept = self._is_kept(statement, class_, number)
            if kept or not self._own_lines(statement, body, number):
                self._leave_out(run)
                run = None
                self._inside(statement)
                continue
            first, last = _extent(statement)
            if hasattr(statement, "body"):
                last = footer(self._lines, last, statement.col_offset)
            run = (first, last) if run is None else (run[0], last)
        self._leave_out(run)

    def _is_kept(self, statement: ast.stmt, class_: ast.ClassDef | None, number: int) -> bool:
        first, last = _extent(statement)
        if self._is_wanted(first, last) or number == 0:
            return True
        if isinstance(statement, Definition):
            # Of these, the first one shows how the module is indented.
            special = class_ is not None and class_.name in self._names
            return not self._indented or (special and statement.name in self._special)
        if class_ is not None:
            return False
        if hasattr(statement, "body"):
            lines = self._lines[first - 1 : last]
            return not self._indented or any(b"import" in line for line in lines)
        return isinstance(statement, ast.Import | ast.ImportFrom)

    def _inside(self, node: ast.stmt) -> None:
        """Leave out what can be below a statement that is kept."""
        if isinstance(node, ast.Assign | ast.AnnAssign) and isinstance(node.value, ast.Dict):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            if not any(isinstance(t, ast.Name) and t.id in self._whole for t in targets):
                self._entries(node.value)
        suites = [suite for suite in _suites(node) if self._begins_line(suite[0])]
        if not suites:
            return
        only_shows, self._indented = not self._indented, True
        is_function = isinstance(node, Definition) and not isinstance(node, ast.ClassDef)
        if is_function and only_shows and not self._is_wanted(*_extent(node)):
            self._leave_out((_extent(suites[0][0])[0], node.end_lineno or node.lineno))
        elif not (is_function and getattr(node, "name", "") in self._whole):
            for suite in suites:
                if self._lines[suite[0].lineno - 1][suite[0].col_offset :].startswith(b"elif"):
                    self._inside(suite[0])
                else:
                    self._body(suite, node if isinstance(node, ast.ClassDef) else None)

    def _entries(self, node: ast.Dict) -> None:
        """Leave out what can be of the entries of a dictionary, the first and the last apart."""
        run: tuple[int, int] | None = None
        end = 0
        for number, (key, value) in enumerate(zip(node.keys, node.values, strict=True)):
            first = (key or value).lineno
            last = value.end_lineno or first
            inner = key is not None and 0 < number < len(node.values) - 1
            alone = inner and end < first and self._begins_line(key or value)
            if not alone or self._is_wanted(first, last):
                self._leave_out(run, _ENTRY)
                run = None
            elif _ENDS_ENTRY.match(self._lines[last - 1], value.end_col_offset or 0):
                run = (first, last) if run is None else (run[0], last)
            end = last
        self._leave_out(run, _ENTRY)

    def _begins_line(self, node: ast.stmt | ast.expr) -> bool:
        first = node.lineno
        return not self._lines[first - 1][: node.col_offset].strip(b" \t")

    def _leave_out(self, run: tuple[int, int] | None, mark: bytes = _STATEMENT) -> None:
        if run is not None and run[1] > run[0]:
            self._left_out.append((*run, mark))

    def _is_wanted(self, first: int, last: int) -> bool:
        return bisect_left(self._wanted, first) < bisect_right(self._wanted, last)

    def _own_lines(self, statement: ast.stmt, body: Sequence[ast.stmt], number: int) -> bool:
        """Does a statement share no line with another one?"""
        first, last = _extent(statement)
        before = _extent(body[number - 1])[1] if number else 0
        after = _extent(body[number + 1])[0] if number + 1 < len(body) else last + 1
        start = self._lines[first - 1][: statement.col_offset]
        return before < first and after > last and not start.strip(b" \t")


def footer(lines: Sequence[bytes], last: int, column: int) -> int:
    """The last line of the comments below a block that are indented as if they were in it.

    Args:
        lines: of the module.
        last: the last line of the block, counted from 1.
        column: where the statement of the block begins in its line.
    """
    for number in range(last + 1, len(lines) + 1):
        line = lines[number - 1]
        text = line.lstrip(b" \t")
        if text.startswith(b"#"):
            if len(line) - len(text) <= column:
                break
            last = number
        elif text.strip():
            break
    return last


def _suites(node: ast.stmt) -> Iterator[list[ast.stmt]]:
    """The suites of a compound statement."""
    for part in (node, *getattr(node, "handlers", ()), *getattr(node, "cases", ())):
        for name in ("body", "orelse", "finalbody"):
            suite = getattr(part, name, None)
            if suite:
                yield suite


def _extent(node: ast.stmt) -> tuple[int, int]:
    """First and last line of a statement, its decorators included."""
    first = min([node.lineno, *(d.lineno for d in getattr(node, "decorator_list", ()))])
    return first, node.end_lineno or node.lineno
