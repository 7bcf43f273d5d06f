# SPDX-License-Identifier: Apache-2.0
"""NPU234: the router of experts in groups on NPU."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import libcst as cst

from migrator.codemod.matchers import dotted, walk
from migrator.codemod.recipes import mentions, tests_for_npu
from migrator.codemod.rule import (
    Absence,
    File,
    Finding,
    Replace,
    Rule,
    Safety,
    Site,
    changed,
    manual,
    migrated,
)
from migrator.rules._routers import routes_only_by

_SITE = "grouped_topk"
_SWITCH = "VLLM_USE_FUSED_MOE_GROUPED_TOPK"
_HOMES = (
    "vllm/model_executor/layers/fused_moe/router/grouped_topk_router.py",
    "vllm/model_executor/layers/fused_moe/fused_moe.py",
)
_NPU = 'gating_output.device.type == "npu"'


class GroupedRouter(Rule):
    """Choose experts in groups by the operator where the logits are on an NPU.

    ## What it does
    In the condition by which `grouped_topk` of the fused experts takes the operator instead of its
    own lines, an NPU tensor counts as CUDA does. The operator is reached through
    `_custom_ops.grouped_topk`, which NPU230 gives a version for NPUs.

    ## Why
    The lines in PyTorch give weights that are not finite where a logit is not, and any expert in a
    tie; vLLM's operator promises finite weights and the lower expert.

    ## Example
    ```python
    and (current_platform.is_cuda() or gating_output.device.type == "npu")
    ```

    ## Safety
    Guarded: for a tensor on another device the condition is what it was.
    """

    code = "NPU234"
    safety = Safety.GUARDED
    paths = _HOMES
    triggers = (_SWITCH,)
    sites = (
        Site(
            _SITE,
            _HOMES,
            (
                Absence(
                    "<0.10.2",
                    "grouped routers are in PyTorch on every platform",
                    partial(routes_only_by, {"topk_softmax"}),
                ),
            ),
        ),
    )

    def check(self, file: File) -> Iterator[Finding]:
        """Report the condition that asks for CUDA."""
        function = file.function(_SITE)
        if function is None or not mentions(function, _SWITCH):
            return
        for statement in function.body.body:
            if not isinstance(statement, cst.If) or not mentions(statement.test, _SWITCH):
                continue
            if tests_for_npu(statement.test):
                yield migrated(_SITE, statement)
                return
            asked = [node for node in walk(statement.test) if _asks_for_cuda(node)]
            if len(asked) != 1:
                break
            yield changed(
                _SITE,
                statement,
                "the lines in PyTorch give weights that are not finite where a logit is not",
                Replace(_alternatives(statement.test, asked[0]), _or_npu),
            )
            return
        yield manual(_SITE, function, "its condition does not ask current_platform.is_cuda() once")


def _asks_for_cuda(node: cst.CSTNode) -> bool:
    """Is it `current_platform.is_cuda()`?"""
    return (
        isinstance(node, cst.Call)
        and not node.args
        and dotted(node.func) == "current_platform.is_cuda"
    )


def _alternatives(test: cst.BaseExpression, asked: cst.CSTNode) -> cst.CSTNode:
    """The question with the others that would do as well: `is_cuda() or is_xpu()`."""
    found = asked
    for node in walk(test):
        if (
            isinstance(node, cst.BooleanOperation)
            and isinstance(node.operator, cst.Or)
            and any(part is found for part in (node.left, node.right))
        ):
            return node
    return found


def _or_npu(node: cst.CSTNode) -> cst.CSTNode:
    assert isinstance(node, cst.BaseExpression)
    if not isinstance(node, cst.BooleanOperation):
        return cst.parse_expression(f"({cst.Module([]).code_for_node(node)} or {_NPU})")
    sides = [
        cst.Module([]).code_for_node(side.with_changes(lpar=[], rpar=[]))
        for side in (node.left, node.right)
    ]
    lines = "\n        or ".join([*sides, _NPU])
    return cst.parse_expression(f"(\n        {lines}\n    )")
