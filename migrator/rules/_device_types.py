# SPDX-License-Identifier: Apache-2.0
"""A tensor's `is_cuda` written as a comparison of its device type, wherever it stands."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import libcst as cst

from migrator.codemod.matchers import Place
from migrator.codemod.rule import Replace


def rewrite(node: cst.Attribute, place: Place[cst.CSTNode]) -> Replace | None:
    """Replace the attribute, together with a `not` right before it; None where it cannot be.

    No comment in it may be lost.
    """
    parent = place.parent
    above = place.ancestors[-2] if len(place.ancestors) > 1 else None
    mark = free_quote(place) or '"'
    if isinstance(parent, cst.UnaryOperation) and isinstance(parent.operator, cst.Not):

        def negate(new: cst.CSTNode) -> cst.CSTNode:
            assert isinstance(new, cst.UnaryOperation)
            assert isinstance(new.expression, cst.Attribute)
            inner = new.expression
            outer = new if new.lpar or not _comments((*inner.lpar, *inner.rpar)) else inner
            return _comparison(inner, cst.NotEqual(), outer, _binds_tighter(above), mark)

        made: Callable[[cst.CSTNode], cst.CSTNode] = negate
        replaced: cst.CSTNode = parent
    else:

        def compare(new: cst.CSTNode) -> cst.CSTNode:
            assert isinstance(new, cst.Attribute)
            return _comparison(new, cst.Equal(), new, _binds_tighter(parent), mark)

        made, replaced = compare, node
    lost = _comments([replaced]) != _comments([made(replaced)])
    return None if lost else Replace(replaced, made)


def _comments(nodes: Sequence[cst.CSTNode]) -> list[str]:
    """The comments within some nodes, in order."""
    found: list[str] = []
    stack = [*reversed(nodes)]
    while stack:
        node = stack.pop()
        if isinstance(node, cst.Comment):
            found.append(node.value)
        stack += reversed(node.children)
    return found


def is_printed(place: Place[cst.CSTNode]) -> bool:
    """Is it a part of what an f-string prints with its source: `f"{x.is_cuda=}"`?"""
    return any(
        isinstance(above, cst.FormattedStringExpression) and above.equal is not None
        for above in place.ancestors
    )


def free_quote(place: Place[cst.CSTNode]) -> str | None:
    """A quote that no f-string around the node uses; before Python 3.12 it would end that one."""
    used = "".join(node.quote for node in place.ancestors if isinstance(node, cst.FormattedString))
    return next((quote for quote in ('"', "'") if quote not in used), None)


def _binds_tighter(parent: cst.CSTNode | None) -> bool:
    """Would a bare comparison be torn apart by the node around it?"""
    if isinstance(parent, cst.UnaryOperation):
        return not isinstance(parent.operator, cst.Not)
    return isinstance(
        parent,
        (
            cst.Attribute,
            cst.Await,
            cst.BinaryOperation,
            cst.Call,
            cst.Comparison,
            cst.ComparisonTarget,
            cst.StarredDictElement,
            cst.StarredElement,
            cst.Subscript,
        ),
    )


def _comparison(
    attribute: cst.Attribute,
    operator: cst.BaseCompOp,
    outer: cst.UnaryOperation | cst.Attribute,
    parenthesise: bool,
    quote: str,
) -> cst.Comparison:
    lpar = [*outer.lpar] if outer is not attribute else [*attribute.lpar]
    rpar = [*outer.rpar] if outer is not attribute else [*attribute.rpar]
    if parenthesise and not lpar:
        lpar, rpar = [cst.LeftParen()], [cst.RightParen()]
    device = cst.Attribute(attribute.value, cst.Name("device"))
    return cst.Comparison(
        cst.Attribute(device, cst.Name("type")),
        [cst.ComparisonTarget(operator, cst.SimpleString(f"{quote}cuda{quote}"))],
        lpar=lpar,
        rpar=rpar,
    )
