# SPDX-License-Identifier: Apache-2.0
"""Text with places where it may be broken over lines, and which of them are.

A document is what a statement may look like: text, places for line breaks, and groups of these. All
places of a group are broken, or none is; it is the innermost groups that stay on one line. This is
how Prettier and ruff lay out code.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass

STEP = 4
"""Columns of one indentation."""


@dataclass(frozen=True, slots=True)
class Line:
    """A place for a line break; `flat` stands there where it is not broken."""

    flat: str = ""


@dataclass(frozen=True, slots=True)
class Broken:
    """Text that is there where the group around it is broken only."""

    text: str


@dataclass(frozen=True, slots=True)
class Indent:
    """What is broken in it goes four columns deeper."""

    content: Doc


@dataclass(frozen=True, slots=True)
class Group:
    """A part of which all places are broken or none."""

    content: Doc
    expanded: bool = False
    """Is it broken whether it fits or not?"""


@dataclass(frozen=True, slots=True)
class Concat:
    """Parts that stand behind each other."""

    parts: tuple[Doc, ...]


@dataclass(frozen=True, slots=True)
class Wrappable:
    """An expression that may be put into parentheses."""

    bare: Doc
    """Without parentheses: broken inside of its own brackets only."""
    inner: Doc
    """As it stands in parentheses of its own."""
    need: Need


class Need(enum.Enum):
    """When an expression that is too long gets parentheses."""

    NEVER = "never"
    """It is broken in its own brackets."""
    ALWAYS = "always"
    RIGHT = "right"
    """It does unless it fits when its own brackets alone are broken."""
    FIRST = "first"
    """It does unless what stands before its first brackets fits."""
    FITS = "fits"
    """It does if it fits into a line then."""


Doc = str | Line | Broken | Indent | Group | Concat | Wrappable
_Todo = tuple[int, bool, Doc]
"""Indentation, whether its group is broken, and a document."""


def concat(*parts: Doc) -> Concat:
    """Put parts behind each other."""
    return Concat(parts)


def brackets(left: str, content: Doc, right: str, *, expanded: bool = False) -> Group:
    """Put brackets around a part that goes on a line of its own where it does not fit."""
    return Group(concat(left, Indent(concat(Line(), content)), Line(), right), expanded)


def _expands(doc: Doc) -> bool:
    """Is there a group in it that is broken in any case?"""
    if isinstance(doc, Group):
        return doc.expanded or _expands(doc.content)
    if isinstance(doc, Indent):
        return _expands(doc.content)
    if isinstance(doc, Concat):
        return any(map(_expands, doc.parts))
    return isinstance(doc, Wrappable) and _expands(doc.bare)


class Printer:
    """Writes a document in so many columns."""

    def __init__(self, width: int) -> None:
        self.width = width
        self.out: list[str] = []
        self.column = 0

    def print(self, doc: Doc) -> str:
        """The text of a document; a printer is good for one."""
        todo: list[_Todo] = [(0, True, doc)]
        while todo:
            indent, breaks, part = todo.pop()
            if isinstance(part, str):
                self.out.append(part)
                self.column += len(part)
            elif isinstance(part, Line):
                if breaks:
                    self.out.append("\n" + " " * indent)
                    self.column = indent
                else:
                    self.out.append(part.flat)
                    self.column += len(part.flat)
            elif isinstance(part, Broken):
                if breaks:
                    todo.append((indent, breaks, part.text))
            elif isinstance(part, Indent):
                todo.append((indent + STEP, breaks, part.content))
            elif isinstance(part, Concat):
                todo += [(indent, breaks, inner) for inner in reversed(part.parts)]
            elif isinstance(part, Group):
                flat = not _expands(part) and self._fits([(indent, False, part.content)], todo)
                todo.append((indent, not flat, part.content))
            else:
                todo.append((indent, *self._chosen(part, indent, todo)))
        return "".join(self.out)

    def _chosen(self, doc: Wrappable, indent: int, todo: Sequence[_Todo]) -> tuple[bool, Doc]:
        """How an expression is written: is what surrounds it broken, and in what form."""
        wrapped = concat("(", Indent(concat(Line(), doc.inner)), Line(), ")")
        if not _expands(doc.bare) and self._fits([(indent, False, doc.bare)], todo):
            return False, doc.bare
        if doc.need is Need.NEVER:
            return True, doc.bare
        if doc.need is Need.ALWAYS:
            return True, wrapped
        if doc.need in (Need.RIGHT, Need.FIRST):
            lines = None if doc.need is Need.RIGHT else 1
            fits = self._fits([(indent, False, doc.bare)], todo, expanded=True, lines=lines)
            return True, doc.bare if fits else wrapped
        inner = Printer(self.width)
        inner.column = indent + STEP
        fits = inner._fits([(indent + STEP, False, doc.inner)], [])
        return True, wrapped if fits else doc.bare

    def _fits(
        self,
        own: list[_Todo],
        rest: Sequence[_Todo],
        *,
        expanded: bool = False,
        lines: int | None = None,
    ) -> bool:
        """Does a document fit, and what follows it up to where that may be broken?

        Args:
            own: the document.
            rest: what follows, the last first.
            expanded: its brackets are broken, and each of its lines has to fit.
            lines: only so many of them.
        """
        left = self.width - self.column
        behind = len(rest)
        own = list(own)
        while left >= 0:
            if own:
                indent, breaks, part = own.pop()
            elif behind:
                behind -= 1
                indent, breaks, part = rest[behind]
                if isinstance(part, Line) and breaks:
                    return True
            else:
                return True
            if isinstance(part, str):
                left -= len(part)
            elif isinstance(part, Line):
                if breaks:
                    if not expanded or lines == 1:
                        return True
                    left = self.width - indent
                else:
                    left -= len(part.flat)
            elif isinstance(part, Broken):
                left -= len(part.text) if breaks else 0
            elif isinstance(part, Indent):
                own.append((indent + STEP, breaks, part.content))
            elif isinstance(part, Concat):
                own += [(indent, breaks, inner) for inner in reversed(part.parts)]
            elif isinstance(part, Group):
                own.append((indent, breaks or expanded or part.expanded, part.content))
            elif breaks and part.need in (Need.ALWAYS, Need.FITS):
                left -= len("(")
                return left >= 0
            else:
                own.append((indent, breaks, part.bare))
        return False
