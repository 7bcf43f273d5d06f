# SPDX-License-Identifier: Apache-2.0
"""Expressions that become others: a call that becomes the device's, a longer collection."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import libcst as cst

from migrator.codemod.matchers import Place, places
from migrator.codemod.rule import File, Finding, Recipe, Replace, Safety, changed, migrated

E = TypeVar("E", cst.BaseElement, cst.SubscriptElement)
Kinds = type[cst.CSTNode] | tuple[type[cst.CSTNode], ...]


@dataclass(frozen=True, kw_only=True)
class Rewrite(Recipe):
    """Puts other code in the place of some expressions of a function, or of an assignment."""

    kinds: Kinds
    """The nodes that are looked at."""
    old: Callable[[Place[cst.CSTNode]], bool]
    """Is it what is to go?"""
    done: Callable[[Place[cst.CSTNode]], bool] = lambda _: False
    """Is it what comes of it?"""
    new: str | Callable[[cst.CSTNode], cst.CSTNode]
    """What comes: an expression, or what makes it of the node."""

    safety = Safety.EQUIVALENT
    promise = "Equivalent on every other platform."

    def check(self, file: File) -> Iterator[Finding]:
        """Report the expressions, and those that were rewritten before."""
        function = file.function(self.name)
        root = function or file.assignment(self.name)
        if root is None:
            return
        for place in places(root, self.kinds):
            node = place.node if function is not None else root
            if self.done(place):
                yield migrated(self.site.name, node)
            elif self.old(place):
                edit = Replace(place.node, self._made)
                yield changed(self.site.name, node, self.reason, edit)

    def _made(self, node: cst.CSTNode) -> cst.CSTNode:
        return cst.parse_expression(self.new) if isinstance(self.new, str) else self.new(node)


def with_elements(node: cst.CSTNode, *elements: str) -> cst.CSTNode:
    """A set, a tuple or `Literal[...]` with more elements, laid out as its others are."""
    added = [cst.parse_expression(element) for element in elements]
    if isinstance(node, cst.Subscript):
        opening = node.lbracket.whitespace_after
        slices = [cst.SubscriptElement(cst.Index(value)) for value in added]
        return node.with_changes(slice=_joined(node.slice, slices, opening))
    assert isinstance(node, cst.Set | cst.Tuple)
    if isinstance(node, cst.Set):
        opening = node.lbrace.whitespace_after
    else:
        opening = node.lpar[0].whitespace_after if node.lpar else cst.SimpleWhitespace("")
    new = [cst.Element(value) for value in added]
    return node.with_changes(elements=_joined(node.elements, new, opening))


def _joined(
    old: Sequence[E], new: Sequence[E], opening: cst.BaseParenthesizableWhitespace
) -> list[E]:
    """One behind the other, each on a line of its own if the first of the old ones is."""
    lines = isinstance(opening, cst.ParenthesizedWhitespace)
    between = cst.Comma(whitespace_after=opening if lines else cst.SimpleWhitespace(" "))
    found = list(old) + list(new)
    for number in range(len(old) - 1, len(found) - 1):
        found[number] = found[number].with_changes(comma=between)
    found[-1] = found[-1].with_changes(comma=old[-1].comma)
    return found
