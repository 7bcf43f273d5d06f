# SPDX-License-Identifier: Apache-2.0
"""What the rules about the platform share: a branch on the platform's device type."""

from __future__ import annotations

import textwrap
from collections.abc import Collection, Iterator, Sequence

import libcst as cst

from migrator.codemod.matchers import bound_by, first_statement, walk
from migrator.codemod.recipes import has_npu_branch
from migrator.codemod.rule import File, Finding, Insert, changed, migrated

IMPORT = "from vllm.platforms import current_platform\n"
TEST = 'current_platform.device_type == "npu"'


def platform_branch(
    file: File,
    name: str,
    *,
    body: str,
    reason: str,
    before: cst.CSTNode | None = None,
    needs: Collection[str] = (),
) -> Iterator[Finding]:
    """Put a branch for the NPU platform into the function `name` of a module.

    Args:
        file: the module.
        name: the function's qualified name, which is the site's name as well.
        body: statements of the branch, at indentation zero; they leave the function.
        reason: why, for the log.
        before: the statement of the function's body that the branch goes before: the first one
            when left out.
        needs: what the branch needs imported.
    """
    function = file.function(name)
    if function is None:
        return
    if has_npu_branch(function):
        yield migrated(name, function, needs)
        return
    code = f"if {TEST}:\n{textwrap.indent(body, '    ')}"
    local = local_import(function)
    anchor = before if before is not None else first_statement(function)
    if local is not None and (before is not None or local is anchor):
        yield changed(name, function, reason, Insert(local, code, where="after"), needs=needs)
        return
    # An import further down makes the name the function's own from its first line on.
    if local is not None or "current_platform" not in file.imports.module_level:
        code = IMPORT + code
    yield changed(name, function, reason, Insert(anchor, code), needs=needs)


def local_import(function: cst.FunctionDef) -> cst.CSTNode | None:
    """The statement of a function's body that binds `current_platform` for all of it, if any."""
    for statement in function.body.body:
        if isinstance(statement, cst.SimpleStatementLine) and any(
            "current_platform" in bound_by(part) for part in statement.body
        ):
            return statement
    return None


def binds_platform(file: File, functions: Sequence[cst.FunctionDef]) -> bool:
    """Does `current_platform` mean the module's own import all through these functions?"""
    shadowed = any(
        "current_platform" in bound_by(node)
        for function in functions
        for node in walk(function.body)
        if isinstance(node, cst.ImportFrom)
    )
    return "current_platform" in file.imports.module_level and not shadowed


def or_npu(
    node: cst.CSTNode, space: cst.BaseParenthesizableWhitespace | None = None
) -> cst.BooleanOperation:
    """The condition `node`, or an NPU, in parentheses and over lines as the code around it.

    Args:
        node: a condition. If it is an `or` in parentheses, the test becomes its last part.
        space: what stands before the operator beside a condition without parentheses.
    """
    assert isinstance(node, cst.BaseExpression)
    test = cst.parse_expression(TEST)
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
