# SPDX-License-Identifier: Apache-2.0
"""How a tree's own formatter has its code written, and statements that are written so.

What a tree is formatted by, and in how many columns, its configuration says. An edited statement is
written anew where the untouched one was as that formatter leaves it, so that one which somebody
laid out by hand stays as near to that as an edit allows. Statements that are put in are our own.
"""

from __future__ import annotations

import itertools
import re
import textwrap
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import libcst as cst

from migrator.codemod import line_breaks
from migrator.codemod.documents import STEP
from migrator.codemod.narrow_prose import narrowed
from migrator.codemod.rule import statements
from migrator.codemod.yapf_layout import YapfStyle
from migrator.files.tree import Tree

RUFF_WIDTH = 88
"""Columns of a line where ruff is not told of another number."""


Statement = cst.SimpleStatementLine | cst.BaseCompoundStatement


@dataclass(frozen=True, slots=True)
class Style:
    """How a tree has its code written."""

    width: int = RUFF_WIDTH
    """Columns of a line."""
    yapf: YapfStyle | None = None
    """How yapf lays out the tree; None where ruff does."""

    @classmethod
    def of(cls, tree: Tree) -> Style:
        """The style that a tree's configuration asks for."""
        return _style(tree.read("pyproject.toml"), tree.read(".pre-commit-config.yaml"))

    def module(self, text: str) -> str:
        """A module of ours, which ruff has laid out in its own columns, as the tree has others."""
        return text if self.yapf is None else self.yapf.laid_out(narrowed(text, self.width))


@lru_cache(maxsize=8)
def _style(project: bytes | None, hooks: bytes | None) -> Style:
    try:
        tools = tomllib.loads((project or b"").decode()).get("tool", {})
        width = tools.get("ruff", {}).get("line-length", RUFF_WIDTH)
        yapf = YapfStyle.of(tools, hooks)
    except (ValueError, AttributeError, TypeError):
        return Style()
    return Style(width, yapf) if isinstance(width, int) else Style()


def is_regular(module: cst.Module) -> bool:
    """Is a module indented as a formatter does it, so that columns can be told?"""
    return module.default_indent == " " * STEP


@lru_cache(maxsize=1024)
def fitted(code: str, depth: int, style: Style) -> str:
    """Statements that are put in, and all below them, over lines as a tree's formatter would.

    Rules put the same statements into many files; to lay them out takes longer than to parse them.

    Args:
        code: the statements' source, at indentation zero.
        depth: in how many blocks they will stand.
        style: of the tree.
    """
    parsed = [node for node in statements(code, cst.Module([])) if isinstance(node, Statement)]
    if style.yapf is None:
        return cst.Module(_fit(parsed, depth, style)).code
    text = _by_yapf(parsed, depth, style)
    if any(len(line) > style.width - STEP * depth for line in text.splitlines()):
        # yapf puts no brackets around a condition to break it.
        text = _by_yapf(_fit(parsed, depth, style), depth, style)
    return text


def _fit(parsed: Sequence[Statement], depth: int, style: Style) -> list[Statement]:
    fitted = [node.visit(_Fitter(depth, style)) for node in parsed]
    return [node for node in fitted if isinstance(node, Statement)]


def _by_yapf(nodes: Sequence[Statement], depth: int, style: Style) -> str:
    """Statements as yapf has them in so many blocks, at indentation zero."""
    first, body = nodes[0], list(nodes)
    lead = list(itertools.takewhile(lambda line: line.comment is None, first.leading_lines))
    body[0] = first.with_changes(leading_lines=first.leading_lines[len(lead) :])
    for _ in range(depth):
        body = [cst.If(cst.Name("x"), cst.IndentedBlock(body))]
    parsed = list(cst.parse_module(style.module(cst.Module(body).code)).body)
    for _ in range(depth):
        (block,) = parsed
        assert isinstance(block, cst.If)
        parsed = [node for node in block.body.body if isinstance(node, Statement)]
    comments = itertools.dropwhile(lambda line: line.comment is None, parsed[0].leading_lines)
    parsed[0] = parsed[0].with_changes(leading_lines=[*lead, *comments])
    return cst.Module(parsed).code


class _Fitter(cst.CSTTransformer):
    def __init__(self, depth: int, style: Style) -> None:
        super().__init__()
        self._depth = depth
        self._style = style
        self._elifs: set[int] = set()

    def on_visit(self, node: cst.CSTNode) -> bool:
        if isinstance(node, cst.IndentedBlock):
            self._depth += 1
        elif isinstance(node, cst.If) and isinstance(node.orelse, cst.If):
            self._elifs.add(id(node.orelse))
        return isinstance(node, (cst.BaseCompoundStatement, cst.IndentedBlock, cst.Else))

    def on_leave(  # type: ignore[override] # a statement stays one
        self, original_node: cst.CSTNode, updated_node: cst.CSTNode
    ) -> cst.CSTNode:
        if isinstance(updated_node, cst.IndentedBlock):
            self._depth -= 1
            return updated_node
        width = self._style.width - STEP * self._depth
        lines = getattr(updated_node, "leading_lines", ())
        if any(line.comment is not None and len(line.comment.value) > width for line in lines):
            updated_node = updated_node.with_changes(leading_lines=_wrapped(lines, width))
        if isinstance(updated_node, (cst.SimpleStatementLine, *_HEADED)):
            keyword = "elif" if id(original_node) in self._elifs else "if"
            return written(updated_node, self._depth, Style(self._style.width), keyword)
        return updated_node


def _wrapped(lines: Sequence[cst.EmptyLine], width: int) -> list[cst.EmptyLine]:
    """Comments over lines that are not too long, each run of them as one text."""
    wrapped: list[cst.EmptyLine] = []
    for is_comment, run in itertools.groupby(lines, lambda line: line.comment is not None):
        if not is_comment:
            wrapped += run
            continue
        words = " ".join(line.comment.value[1:].strip() for line in run if line.comment)
        for text in textwrap.wrap(words, width - 2, break_long_words=False):
            wrapped.append(cst.EmptyLine(comment=cst.Comment(f"# {text}")))
    return wrapped


CONTINUED = "\\\n"
"""A line that goes on by a backslash: its author's layout, which stays while it fits."""
_HEADED = (cst.If, cst.While, cst.For, cst.With, cst.FunctionDef)


def is_as_written(statement: cst.CSTNode, depth: int, style: Style, keyword: str = "if") -> bool:
    """Is a statement, or its header, as the tree's formatter leaves it?"""
    text = _text(statement, depth, style, keyword)
    return text is not None and text == _source(statement, keyword)


def is_too_long(statement: cst.CSTNode, depth: int, style: Style, keyword: str = "if") -> bool:
    """Has a statement, or its header, a line of more columns than the tree's lines have?"""
    width = style.width - STEP * depth
    if not isinstance(statement, (cst.SimpleStatementLine, *_HEADED)):
        return False
    return any(len(line) > width for line in _source(statement, keyword).splitlines())


def written(statement: cst.CSTNode, depth: int, style: Style, keyword: str = "if") -> cst.CSTNode:
    """A statement, or its header, as the tree's formatter has it; itself where it is so already.

    Args:
        statement: a simple statement's line, or a compound statement.
        depth: in how many blocks it stands.
        style: of the tree.
        keyword: `if`, or `elif` for an `if` that is one.
    """
    source = _source(statement, keyword)
    if CONTINUED in source and (style.yapf is None or not is_too_long(statement, depth, style)):
        return statement
    text = _text(statement, depth, style, keyword)
    if text is None or text == source:
        return statement
    return _reparsed(statement, text)


def _reparsed(statement: cst.CSTNode, text: str) -> cst.CSTNode:
    """A statement whose source, or whose header's, is another text."""
    if isinstance(statement, cst.SimpleStatementLine):
        parsed = cst.parse_statement(text)
        assert isinstance(parsed, cst.SimpleStatementLine)
        return statement.with_changes(body=parsed.body)
    parsed = cst.parse_statement(f"{text.removeprefix('el')}\n    pass\n")
    names = _HEADER_FIELDS[type(statement)]
    return statement.with_changes(**{name: getattr(parsed, name) for name in names})


_HEADER_FIELDS: dict[type[cst.CSTNode], tuple[str, ...]] = {
    cst.If: ("test", "whitespace_before_test", "whitespace_after_test"),
    cst.While: ("test", "whitespace_after_while", "whitespace_before_colon"),
    cst.For: ("iter", "whitespace_after_in", "whitespace_before_colon"),
    cst.With: ("items", "lpar", "rpar", "whitespace_after_with", "whitespace_before_colon"),
    cst.FunctionDef: ("params", "whitespace_before_params", "returns", "whitespace_before_colon"),
}


def header_of(statement: cst.CSTNode) -> cst.CSTNode:
    """The part of a compound statement's header that may be broken."""
    part = getattr(statement, _HEADER_FIELDS[type(statement)][0])
    return part if isinstance(part, cst.CSTNode) else part[0]


def _text(statement: cst.CSTNode, depth: int, style: Style, keyword: str) -> str | None:
    width = style.width - STEP * depth
    if isinstance(statement, cst.SimpleStatementLine) and len(statement.body) != 1:
        return None
    if style.yapf is not None:
        text = _yapf_text(statement, depth, style.yapf, keyword)
        if text is None or all(len(line) <= width for line in text.splitlines()):
            return text
        # yapf puts no brackets around what it cannot break, and keeps the ends of lines there.
        if CONTINUED in text:
            text = _ONE_LINE.sub(" ", text)
        bracketed = _text(_reparsed(statement, text), depth, Style(style.width), keyword)
        if bracketed is not None:
            text = bracketed
        return _yapf_text(_reparsed(statement, text), depth, style.yapf, keyword)
    if isinstance(statement, cst.SimpleStatementLine):
        comment = statement.trailing_whitespace.comment
        if comment is not None and not comment.value.startswith(_PRAGMAS):
            return None
        return line_breaks.simple(statement.body[0], width)
    if isinstance(statement, _HEADED) and isinstance(statement.body, cst.IndentedBlock):
        if statement.body.header.comment is not None:
            return None
        return line_breaks.header(statement, width, keyword)
    return None


def _yapf_text(statement: cst.CSTNode, depth: int, yapf: YapfStyle, keyword: str) -> str | None:
    """As yapf has a statement, or its header; None where a comment would not stay at its end."""
    source = _source(statement, keyword)
    before, body = ("if x:\n    pass\n", "") if keyword == "elif" else ("", "")
    if isinstance(statement, cst.SimpleStatementLine):
        comment = statement.trailing_whitespace.comment
    elif isinstance(statement, _HEADED) and isinstance(statement.body, cst.IndentedBlock):
        comment, body = statement.body.header.comment, "\n    pass"
    else:
        return None
    end = "" if comment is None else f"  {comment.value}"
    text = yapf.narrower(STEP * depth).laid_out(f"{before}{source}{end}{body}\n")
    head, tail = text.startswith(before), f"{end}{body}\n"
    if not head or not text.endswith(tail) or (comment is not None and "#" in source):
        return None
    return text.removeprefix(before).removesuffix(tail)


_ONE_LINE = re.compile(r"[ \t]*\\\n[ \t]*")
_PRAGMAS = ("# type:", "# noqa", "# pyright:", "# pylint:")
"""How comments begin that do not count for the length of a line."""


def _source(statement: cst.CSTNode, keyword: str) -> str:
    code = cst.Module([])
    if isinstance(statement, cst.SimpleStatementLine):
        return code.code_for_node(statement.body[0])
    changes: dict[str, object] = {
        "body": cst.SimpleStatementSuite([cst.Pass()]),
        "leading_lines": [],
    }
    if isinstance(statement, cst.FunctionDef):
        changes |= {"decorators": [], "lines_after_decorators": []}
    if hasattr(statement, "orelse"):
        changes["orelse"] = None
    text = code.code_for_node(statement.with_changes(**changes))
    text = text.rstrip().removesuffix("pass").rstrip()
    return f"el{text}" if keyword == "elif" else text
