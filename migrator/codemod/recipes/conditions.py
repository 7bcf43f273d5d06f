# SPDX-License-Identifier: Apache-2.0
"""A condition that counts an NPU as CUDA."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import libcst as cst

from migrator.codemod.matchers import dotted, walk
from migrator.codemod.recipes.platforms import TEST, tests_for_npu
from migrator.codemod.rule import (
    File,
    Finding,
    Recipe,
    Replace,
    Safety,
    changed,
    migrated,
)


@dataclass(frozen=True)
class Condition:
    """A condition in which an NPU is to count as CUDA does."""

    node: cst.CSTNode
    """What is reported."""
    test: cst.CSTNode
    """The whole condition."""
    part: cst.CSTNode
    """What of it asks for CUDA."""
    space: cst.BaseParenthesizableWhitespace | None = None
    """What stands before the operator beside that part."""


@dataclass(frozen=True, kw_only=True)
class NpuToo(Recipe):
    """Lets conditions of a function be true on an NPU as they are on CUDA."""

    conditions: Callable[[cst.FunctionDef], Iterator[Condition | Finding]]
    """The conditions, or what is reported in the place of one."""
    test: str = TEST
    """What asks for an NPU."""

    safety = Safety.EQUIVALENT
    promise = "Equivalent on every other platform."

    def check(self, file: File) -> Iterator[Finding]:
        """Report the conditions."""
        function = file.function(self.name)
        for found in self.conditions(function) if function is not None else ():
            if isinstance(found, Finding):
                yield found
            elif tests_for_npu(found.test):
                yield migrated(self.site.name, found.node)
            else:
                edit = Replace(found.part, partial(or_npu, space=found.space, question=self.test))
                yield changed(self.site.name, found.node, self.reason, edit)


def asked(condition: cst.CSTNode) -> set[str | None]:
    """The dotted names that a condition asks: `current_platform.is_cuda`."""
    return {dotted(node) for node in walk(condition) if isinstance(node, cst.Attribute)}


def or_npu(
    node: cst.CSTNode,
    space: cst.BaseParenthesizableWhitespace | None = None,
    question: str = TEST,
) -> cst.BooleanOperation:
    """The condition `node`, or an NPU, in parentheses and over lines as the code around it.

    Args:
        node: a condition. If it is an `or` in parentheses, the test becomes its last part.
        space: what stands before the operator beside a condition without parentheses.
        question: what asks for an NPU.
    """
    assert isinstance(node, cst.BaseExpression)
    test = cst.parse_expression(question)
    broken = cst.ParenthesizedWhitespace
    if isinstance(node, cst.BooleanOperation) and node.lpar:
        around = (node.operator.whitespace_before, node.lpar[0].whitespace_after)
        before = next((s for s in around if isinstance(s, broken)), cst.SimpleWhitespace(" "))
        inner = node.with_changes(lpar=[], rpar=[])
        return cst.BooleanOperation(inner, cst.Or(before), test, node.lpar, node.rpar)
    if not isinstance(space, broken):
        return cst.BooleanOperation(node, cst.Or(), test, [cst.LeftParen()], [cst.RightParen()])
    deeper = space.with_changes(last_line=cst.SimpleWhitespace(space.last_line.value + "    "))
    return cst.BooleanOperation(
        node, cst.Or(deeper), test, [cst.LeftParen(deeper)], [cst.RightParen(space)]
    )


def operator_space(condition: cst.CSTNode) -> cst.BaseParenthesizableWhitespace | None:
    """What stands before the operator of a condition, for `or_npu`; None where it has none."""
    if isinstance(condition, cst.BooleanOperation):
        return condition.operator.whitespace_before
    return None
