# SPDX-License-Identifier: Apache-2.0
"""NPU234: the router of experts in groups on NPU."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import libcst as cst

from migrator.codemod.matchers import dotted, mentions, walk
from migrator.codemod.recipes.conditions import Condition, NpuToo
from migrator.codemod.rule import Absence, Finding, Rule, Safety, manual
from migrator.rules._routers import routes_only_by

_SITE = "grouped_topk"
_SWITCH = "VLLM_USE_FUSED_MOE_GROUPED_TOPK"


def _conditions(function: cst.FunctionDef) -> Iterator[Condition | Finding]:
    """The condition by which the operator is taken, where it asks for CUDA."""
    tests = [s for s in function.body.body if isinstance(s, cst.If) and mentions(s.test, _SWITCH)]
    asked = [node for node in walk(tests[0].test) if _asks_for_cuda(node)] if tests else []
    if len(asked) == 1:
        yield Condition(tests[0], tests[0].test, _alternatives(tests[0].test, asked[0]))
    elif mentions(function, _SWITCH):
        why = "its condition does not ask current_platform.is_cuda() once"
        yield manual(_SITE, function, why)


def _asks_for_cuda(node: cst.CSTNode) -> bool:
    """Is it `current_platform.is_cuda()`?"""
    return (
        isinstance(node, cst.Call)
        and not node.args
        and dotted(node.func) == "current_platform.is_cuda"
    )


def _alternatives(test: cst.BaseExpression, asked: cst.CSTNode) -> cst.CSTNode:
    """The question with the others that would do as well: `is_cuda() or is_xpu()`."""
    for node in walk(test):
        if (
            isinstance(node, cst.BooleanOperation)
            and isinstance(node.operator, cst.Or)
            and any(part is asked for part in (node.left, node.right))
        ):
            return node
    return asked


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
    triggers = (_SWITCH,)
    safety = Safety.GUARDED
    recipes = (
        NpuToo(
            _SITE,
            (
                "vllm/model_executor/layers/fused_moe/router/grouped_topk_router.py",
                "vllm/model_executor/layers/fused_moe/fused_moe.py",
            ),
            conditions=_conditions,
            test='gating_output.device.type == "npu"',
            reason="the lines in PyTorch give weights that are not finite where a logit is not",
            absent=(
                Absence(
                    "<0.10.2",
                    "grouped routers are in PyTorch on every platform",
                    partial(routes_only_by, {"topk_softmax"}),
                ),
            ),
        ),
    )
