# SPDX-License-Identifier: Apache-2.0
"""The question for an NPU in code, and where `current_platform` comes from."""

from __future__ import annotations

from collections.abc import Sequence

import libcst as cst

from migrator.codemod.matchers import Place, bound_by, walk
from migrator.codemod.rule import Edit, File, Insert, Replace

IMPORT = "from vllm.platforms import current_platform\n"
TEST = 'current_platform.device_type == "npu"'


def tests_for_npu(expression: cst.CSTNode) -> bool:
    """Does the expression compare something with the string `npu`?"""
    return any(
        isinstance(node, cst.ComparisonTarget)
        and isinstance(node.comparator, cst.SimpleString)
        and node.comparator.evaluated_value == "npu"
        for node in walk(expression)
    )


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


def names_cuda_device(node: cst.CSTNode) -> bool:
    """Is it the text of a CUDA device with a number that is computed: `f"cuda:{index}"`?"""
    if not isinstance(node, cst.FormattedString):
        return False
    first, *rest = node.parts
    return isinstance(first, cst.FormattedStringText) and first.value == "cuda:" and bool(rest)


def platform_device(node: cst.CSTNode) -> cst.CSTNode:
    """The text of a CUDA device, with the platform's device type in the place of `cuda`."""
    assert isinstance(node, cst.FormattedString)
    device_type = cst.FormattedStringExpression(
        cst.parse_expression("current_platform.device_type")
    )
    return node.with_changes(parts=[device_type, cst.FormattedStringText(":"), *node.parts[1:]])


def with_platform_import(place: Place[cst.SimpleString], new: cst.BaseExpression) -> list[Edit]:
    """Edits that put an expression in the place of a string, and import the platform before it.

    Where the block imports it further down, that import and the statement change places.
    """
    statement = place.statement
    body = next((a.body for a in reversed(place.ancestors) if isinstance(a, cst.IndentedBlock)), ())
    twin = next(
        (
            other
            for other in body
            if isinstance(other, cst.SimpleStatementLine)
            and any("current_platform" in bound_by(part) for part in other.body)
        ),
        None,
    )
    if twin is None or not isinstance(statement, cst.SimpleStatementLine):
        return [Insert(statement, IMPORT), Replace(place.node, lambda _: new)]
    lines = statement.leading_lines
    moved = statement.deep_replace(place.node, new)
    assert isinstance(moved, cst.SimpleStatementLine)
    moved = moved.with_changes(leading_lines=[cst.EmptyLine(indent=False)])
    return [
        Replace(statement, lambda _: twin.with_changes(leading_lines=lines)),
        Replace(twin, lambda _: moved),
    ]
