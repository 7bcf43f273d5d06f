# SPDX-License-Identifier: Apache-2.0
"""NPU226: the grammar's mask of structured outputs."""

from __future__ import annotations

import libcst as cst

from migrator.codemod.matchers import mentions, parameter_names, walk
from migrator.codemod.recipes.branches import NpuBranch
from migrator.codemod.rule import Rule

_UTILS = "vllm/v1/structured_output/utils.py"
_RUNNER = "vllm/v1/worker/gpu_model_runner.py"
BODY = """\
from vllm.v1.worker.npu_kernels import apply_token_bitmask

apply_token_bitmask(logits, sorted_bitmask)
return
"""


def _ordered(function: cst.FunctionDef) -> cst.CSTNode | None:
    """The last loop that brings rows of the mask into the order of the logits."""
    filled = [statement for statement in function.body.body if _fills_mask(statement)]
    return filled[-1] if filled and "logits" in parameter_names(function) else None


def _fills_mask(statement: cst.CSTNode) -> bool:
    """Is the statement a loop that assigns to rows of the mask?"""
    return isinstance(statement, cst.For) and any(
        isinstance(node, cst.AssignTarget)
        and isinstance(node.target, cst.Subscript)
        and mentions(node.target.value, "sorted_bitmask")
        for node in walk(statement.body)
    )


class GrammarBitmask(Rule):
    """Forbid what a grammar forbids without xgrammar's kernels on NPUs.

    ## What it does
    Gives `apply_grammar_bitmask` a branch for NPU tensors once the mask is in the order of the
    batch: `apply_token_bitmask` in `vllm/v1/worker/npu_kernels.py`, which the tool adds.

    ## Why
    For an NPU the xgrammar that older releases ask for compiles its kernel with Inductor, which
    asks Triton for a driver: the first request with a structured output ends the engine. The mask
    is made on the host anyway, one bit a token; its words are copied and unpacked on the device.

    ## Safety
    Guarded by the device of the logits.
    """

    code = "NPU226"
    recipes = tuple(
        NpuBranch(
            name,
            (path,),
            called="apply_grammar_bitmask",
            tensor="logits",
            body=BODY,
            at=_ordered,
            after=True,
            lacking="there is no loop that orders sorted_bitmask for the logits",
            reason="xgrammar's kernel for other devices than CUDA is compiled by Inductor",
        )
        for path, name in (
            (_UTILS, "apply_grammar_bitmask"),
            (_RUNNER, "GPUModelRunner.apply_grammar_bitmask"),
        )
    )
