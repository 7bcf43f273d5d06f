# SPDX-License-Identifier: Apache-2.0
"""Three-way merge of a definition statement by statement, whatever way each side writes them.

Two statements are the same where their syntax trees and their comments are: a release that was
formatted anew is no change here, and neither are blank lines. What both sides have is taken as the
next release writes it.
"""

from __future__ import annotations

import ast
import io
import tokenize
from collections.abc import Sequence
from dataclasses import dataclass, field

from merge3 import Merge3

from migrator.updating.lines import (
    Clean,
    Conflict,
    Hunk,
    Lines,
    Matcher,
    conflicts,
    join,
    merge_lines,
    refine,
)

_BODIES = ("body", "orelse", "finalbody", "handlers")


class _NoStatementsError(Exception):
    """The lines cannot be told apart by statements."""


@dataclass(frozen=True, slots=True)
class Unit:
    """Lines of a simple statement, of the header of a compound one, or of a comment.

    The blank lines above belong to it.
    """

    key: str
    """Equal where depth, syntax tree and comments are."""
    lines: Lines


def merge_statement(
    versions: Sequence[tuple[Lines, int, ast.stmt]],
) -> list[Hunk]:
    """Merge three versions of a definition, by lines or, where that conflicts, by statements.

    Args:
        versions: base, ours and theirs: the lines, the number of the first of them in its file,
            from 0 on, and the syntax tree.
    """
    plain = merge_lines(*(lines for lines, _, _ in versions))
    if not conflicts(plain):
        return plain
    try:
        base, ours, theirs = (_units(*version) for version in versions)
    except (_NoStatementsError, RecursionError):
        return plain
    found = _merge(base, ours, theirs)
    return found if conflicts(found) < conflicts(plain) else plain


def _merge(base: Sequence[Unit], ours: Sequence[Unit], theirs: Sequence[Unit]) -> list[Hunk]:
    b_keys, o_keys, t_keys = ([unit.key for unit in version] for version in (base, ours, theirs))
    merge: Merge3[str] = Merge3(b_keys, o_keys, t_keys, sequence_matcher=Matcher)
    hunks: list[Hunk] = []
    iz = ia = ib = 0
    for z, z_end, a, a_end, b, b_end in merge.find_sync_regions():
        if ia < a or ib < b or iz < z:
            parts = (base[iz:z], ours[ia:a], theirs[ib:b])
            hunks += _decided(*parts)
        for old, mine, new in zip(base[z:z_end], ours[a:a_end], theirs[b:b_end], strict=True):
            hunks.append(Clean(mine.lines if new.lines == old.lines else new.lines))
        iz, ia, ib = z_end, a_end, b_end
    return join(hunks)


def _decided(base: Sequence[Unit], ours: Sequence[Unit], theirs: Sequence[Unit]) -> list[Hunk]:
    """What becomes of a stretch that one side or both changed."""
    b, o, t = ([unit.key for unit in units] for units in (base, ours, theirs))
    if o in (b, t):
        return [Clean(_lines(theirs))]
    if t == b:
        return [Clean(_lines(ours))]
    for inserting, replacing in ((ours, theirs), (theirs, ours)):
        beside = _beside(base, inserting, replacing)
        if beside is not None:
            return [Clean(beside)]
    return refine(Conflict(_lines(base), _lines(ours), _lines(theirs)))


def _beside(
    base: Sequence[Unit], inserting: Sequence[Unit], replacing: Sequence[Unit]
) -> Lines | None:
    """Statements that one side put beside some that the other side replaced one by one.

    That is no conflict where a blank line or the depth sets the two apart.
    """
    count = len(base)
    if not count or len(replacing) != count or len(inserting) <= count:
        return None
    old, keys = [unit.key for unit in base], [unit.key for unit in inserting]
    if keys[:count] == old and _apart(base, inserting[count:]):
        return _lines([*replacing, *inserting[count:]])
    if keys[-count:] == old and _apart(inserting[:-count], inserting[-count:]):
        return _lines([*inserting[:-count], *replacing])
    return None


def _apart(above: Sequence[Unit], below: Sequence[Unit]) -> bool:
    depths = {unit.key.partition(" ")[0] for unit in (above[-1], below[0])}
    return not below[0].lines[0].strip() or (len(depths) == 2 and "#" not in "".join(depths))


def _lines(units: Sequence[Unit]) -> Lines:
    return tuple(line for unit in units for line in unit.lines)


# ---- cutting -------------------------------------------------------------------------------


@dataclass
class _Cutter:
    lines: Lines
    first: int
    comments: dict[int, str]
    at: int = 0
    """Line of the block from which on nothing is cut yet."""
    units: list[Unit] = field(default_factory=list)

    def cut(self, stop: int, key: str) -> None:
        """Let the lines up to `stop`, which is a line of the file, be a unit.

        A comment above is one of its own, so that a statement can come between the two.
        """
        end = stop - self.first
        if end <= self.at or end > len(self.lines):
            raise _NoStatementsError
        self.above(end - 1)
        said = [self.comments[n] for n in range(self.at, end) if n in self.comments]
        self.units.append(Unit("\n".join([key, *said]), self.lines[self.at : end]))
        self.at = end

    def above(self, stop: int) -> None:
        """Cut the comments before line `stop` of the block, each with the blank lines above it."""
        line = self.at
        while line < stop and self._is_empty(line + self.first):
            if line in self.comments:
                self.units.append(Unit(self.comments[line], self.lines[self.at : line + 1]))
                self.at = line + 1
            line += 1

    def body(self, statements: Sequence[ast.stmt], depth: int) -> None:
        for statement in statements:
            self.statement(statement, depth)

    def statement(self, node: ast.stmt, depth: int) -> None:
        last = node.end_lineno or node.lineno
        body: list[ast.stmt] = getattr(node, "body", [])
        if not body or isinstance(node, ast.Match) or not self._opens(body):
            self.cut(last, f"{depth} {ast.dump(node)}")
            return
        self.header(body, f"{depth} {_header(node)}")
        self.body(body, depth + 1)
        handlers: list[ast.ExceptHandler] = getattr(node, "handlers", [])
        for handler in handlers:
            if not self._opens(handler.body):
                raise _NoStatementsError
            self.header(handler.body, f"{depth} {_header(handler)}")
            self.body(handler.body, depth + 1)
        for name in ("orelse", "finalbody"):
            more: list[ast.stmt] = getattr(node, name, [])
            if not more:
                continue
            if isinstance(more[0], ast.If) and len(more) == 1 and self._is_elif(more[0]):
                self.statement(more[0], depth)
                continue
            if not self._opens(more):
                raise _NoStatementsError
            self.header(more, f"{depth} {name}")
            self.body(more, depth + 1)

    def header(self, body: Sequence[ast.stmt], key: str) -> None:
        """Cut what comes before a body, up to the comments above its first statement."""
        stop = first_line(body[0])
        while stop > self.first + self.at + 1 and self._is_empty(stop - 1):
            stop -= 1
        self.cut(stop, key)

    def _opens(self, body: Sequence[ast.stmt]) -> bool:
        """Does a body begin on a line of its own?"""
        line = self.lines[first_line(body[0]) - self.first]
        indent = len(line) - len(line.lstrip(b" \t"))
        return indent == min(body[0].col_offset, len(line)) or line.lstrip().startswith(b"@")

    def _is_elif(self, node: ast.If) -> bool:
        return self.lines[node.lineno - 1 - self.first].lstrip().startswith(b"elif")

    def _is_empty(self, line: int) -> bool:
        text = self.lines[line - self.first].strip()
        return not text or text.startswith(b"#")


def first_line(statement: ast.stmt) -> int:
    """Number of a statement's first line, from 0 on; its decorators belong to it."""
    decorators: list[ast.expr] = getattr(statement, "decorator_list", [])
    return min([statement.lineno, *(d.lineno for d in decorators)]) - 1


def _header(node: ast.stmt | ast.ExceptHandler) -> str:
    fields = {name: [] if name in _BODIES else value for name, value in ast.iter_fields(node)}
    return ast.dump(type(node)(**fields))


def _units(lines: Lines, first: int, node: ast.stmt) -> list[Unit]:
    cutter = _Cutter(lines, first, _comments(lines))
    cutter.statement(node, 0)
    if cutter.at < len(lines):
        cutter.above(len(lines))
        cutter.units.append(Unit("end", lines[cutter.at :]))
    return cutter.units


def _comments(lines: Lines) -> dict[int, str]:
    """Comments by the number of their line in the block."""
    try:
        tokens = tokenize.tokenize(io.BytesIO(b"".join(lines)).readline)
        return {t.start[0] - 1: t.string for t in tokens if t.type == tokenize.COMMENT}
    except (tokenize.TokenError, SyntaxError, UnicodeDecodeError) as error:
        raise _NoStatementsError from error
