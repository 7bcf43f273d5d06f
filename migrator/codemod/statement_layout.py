# SPDX-License-Identifier: Apache-2.0
"""Where the statements of a module stand in its text.

To write a LibCST tree as text costs half as much as to parse it, and most of a module is written as
it was read. So only the statements around edits are written; what lies between them is taken from
the text. Their lines are told by Python's own syntax tree, which has been made by then.
"""

from __future__ import annotations

import ast
import itertools
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import libcst as cst

from migrator.codemod.matchers import parents_of


@dataclass(frozen=True, slots=True)
class Nodes:
    """A part of a module that is written from its nodes."""

    nodes: tuple[cst.CSTNode, ...]
    indents: tuple[str, ...] = ()
    """White space that stands before each line, by level."""


Piece = str | Nodes
"""A part of a module: text as it is, or nodes."""


@dataclass(frozen=True, slots=True)
class _Place:
    statement: cst.BaseStatement
    indents: tuple[str, ...]
    start: int
    """Its first line, comments above it included, counted from 0."""
    stop: int


class _LostError(Exception):
    """The two syntax trees do not go together."""


@dataclass(frozen=True, slots=True)
class Layout:
    """The lines of a module's text, and which of them some of its statements take.

    It is a guess, to be checked by writing the pieces of the unchanged module. `Layout(module)`
    knows no lines and is right for certain: the module is its only piece.
    """

    module: cst.Module
    lines: Sequence[str] = ()
    places: Mapping[int, _Place] = field(default_factory=dict)
    """By the identity of a statement."""

    @classmethod
    def of(
        cls, module: cst.Module, data: bytes, parsed: ast.Module, wanted: Iterable[cst.CSTNode]
    ) -> Layout:
        """The layout of a module, as far as it takes to find some of its nodes.

        Args:
            module: a module as it was parsed.
            data: its bytes.
            parsed: what Python's parser made of the same bytes.
            wanted: nodes of the module, which `around` is asked for later.
        """
        try:
            text = data.decode(module.encoding, "replace")
        except UnicodeError:
            return cls(module)  # some of Python's codecs cannot replace
        if text.count("\r") != text.count("\r\n"):
            return cls(module)  # to Python a lone carriage return ends a line too
        finder = _Finder(module, wanted)
        try:
            finder.locate(module.body, parsed.body, ())
        except _LostError:
            return cls(module)
        return cls(module, re.findall(r"[^\n]*\n|[^\n]+\Z", text), finder.places)

    def around(self, nodes: Iterable[cst.CSTNode]) -> list[Piece]:
        """The module in pieces: the statements around `nodes`, and the text between them."""
        found: dict[int, _Place] = {}
        for node in nodes:
            statement = _statement(node, self.module)
            place = None if statement is None else self.places.get(id(statement))
            if place is None:
                return [Nodes((self.module,))]
            found[place.start] = place
        pieces: list[Piece] = []
        line = 0
        for start, place in sorted(found.items()):
            if start < line:
                continue  # it lies inside of the one before
            if start > line:
                pieces.append("".join(self.lines[line:start]))
            pieces.append(Nodes((place.statement,), place.indents))
            line = place.stop
        pieces.append("".join(self.lines[line:]))
        return pieces


def _statement(node: cst.CSTNode, module: cst.Module) -> cst.BaseStatement | None:
    """The innermost statement around a node that is one of a body, the node itself included."""
    parents = parents_of(module)
    at: cst.CSTNode | None = node
    while at is not None:
        above = parents.get(id(at))
        # An `elif` is a statement to LibCST too, though it cannot be written by itself.
        if isinstance(at, cst.BaseStatement) and isinstance(above, (cst.IndentedBlock, cst.Module)):
            return at
        at = above
    return None


class _Finder:
    """Walks both syntax trees side by side, statement by statement, down to the wanted nodes."""

    def __init__(self, module: cst.Module, wanted: Iterable[cst.CSTNode]) -> None:
        self.module = module
        self.places: dict[int, _Place] = {}
        statements = [_statement(node, module) for node in wanted]
        self._wanted = {id(statement) for statement in statements}
        self._on_path = set(self._wanted)
        parents = parents_of(module)
        for statement in statements:
            above = parents.get(id(statement))
            while above is not None and id(above) not in self._on_path:
                self._on_path.add(id(above))
                above = parents.get(id(above))

    def locate(
        self, body: Sequence[cst.BaseStatement], nodes: Sequence[ast.stmt], indents: tuple[str, ...]
    ) -> None:
        """Find the wanted statements of a body and below it."""
        left = iter(nodes)
        for statement in body:
            # Statements that share a line are one to LibCST.
            count = len(statement.body) if isinstance(statement, cst.SimpleStatementLine) else 1
            own = list(itertools.islice(left, count))
            if id(statement) not in self._on_path:
                continue
            if not own:
                raise _LostError
            if id(statement) in self._wanted:
                assert isinstance(statement, (cst.SimpleStatementLine, cst.BaseCompoundStatement))
                self.places[id(statement)] = _place(statement, own, indents)
            if not isinstance(statement, cst.BaseCompoundStatement):
                continue
            outer = (
                (*indents, self._indent(statement)) if isinstance(statement, cst.Match) else indents
            )
            for suite, below in _suites(statement, own[0]):
                if isinstance(suite, cst.IndentedBlock):
                    self.locate(suite.body, below, (*outer, self._indent(suite)))

    def _indent(self, node: cst.IndentedBlock | cst.Match) -> str:
        return self.module.default_indent if node.indent is None else node.indent


def _place(
    statement: cst.SimpleStatementLine | cst.BaseCompoundStatement,
    nodes: Sequence[ast.stmt],
    indents: tuple[str, ...],
) -> _Place:
    first, last = nodes[0], nodes[-1]
    line = first.lineno
    above = len(statement.leading_lines)
    if isinstance(statement, (cst.FunctionDef, cst.ClassDef)) and statement.decorators:
        line = getattr(first, "decorator_list", [first])[0].lineno
        above += len(statement.decorators[0].leading_lines)
    return _Place(statement, indents, line - 1 - above, (last.end_lineno or 0) + _below(statement))


def _below(statement: cst.CSTNode) -> int:
    """How many lines of comments and white space a statement has below its last token."""
    orelse = getattr(statement, "orelse", None)
    last = getattr(statement, "finalbody", None) or orelse
    if last is None:
        parts = getattr(statement, "handlers", None) or getattr(statement, "cases", None)
        last = parts[-1] if parts else None
    if isinstance(last, cst.If):
        return _below(last)
    suite = getattr(last or statement, "body", None)
    if not isinstance(suite, cst.IndentedBlock):
        return len(getattr(statement, "footer", ()))
    return _below(suite.body[-1]) + len(suite.footer) + len(getattr(statement, "footer", ()))


def _suites(
    statement: cst.BaseCompoundStatement, node: ast.AST
) -> Iterator[tuple[cst.CSTNode, Sequence[ast.stmt]]]:
    """The suites of a compound statement, each with what Python's parser made of it."""
    if isinstance(statement, cst.Match):
        for case, own in zip(statement.cases, getattr(node, "cases", ()), strict=False):
            yield case.body, own.body
        return
    yield statement.body, getattr(node, "body", ())
    for handler, own in zip(
        getattr(statement, "handlers", ()), getattr(node, "handlers", ()), strict=False
    ):
        yield handler.body, own.body
    orelse = getattr(statement, "orelse", None)
    below = getattr(node, "orelse", ())
    if isinstance(orelse, cst.If):
        if below:
            yield from _suites(orelse, below[0])
    elif orelse is not None:
        yield orelse.body, below
    final = getattr(statement, "finalbody", None)
    if final is not None:
        yield final.body, getattr(node, "finalbody", ())
