# SPDX-License-Identifier: Apache-2.0
"""NPU252: a mixture's experts that compressed-tensors has quantised to int8."""

from __future__ import annotations

import libcst as cst

from migrator.codemod.matchers import dotted, walk
from migrator.codemod.recipes.branches import PlatformBranch
from migrator.codemod.rule import Rule

_PACKAGE = "vllm/model_executor/layers/quantization/compressed_tensors"
_ASKED = "quant_config._is_dynamic_token_w8a8"
BODY = """\
# Other platforms have experts of their own.
from vllm.model_executor.layers.quantization.npu_int8_experts import (
    experts_method,
)

return experts_method(quant_config, layer.moe_config, weight_quant, input_quant)
"""


def _choice(function: cst.FunctionDef) -> cst.CSTNode | None:
    """The statement that asks whether experts are of int8, and makes their method."""
    for statement in function.body.body:
        if isinstance(statement, cst.If) and any(
            isinstance(node, cst.Call)
            and dotted(node.func) == _ASKED
            and [dotted(a.value) for a in node.args] == ["weight_quant", "input_quant"]
            for node in walk(statement)
        ):
            return statement
    return None


class Int8Experts(Rule):
    """Compute experts of compressed-tensors in int8 with grouped matrix products on NPUs.

    ## What it does
    On an NPU, `get_moe_method` of compressed-tensors returns what `experts_method` of
    `npu_int8_experts.py` makes, which the tool adds: for weights of int8, scaled by channel, and
    activations that are scaled by token while it runs. Any other scheme is refused by it.

    ## Why
    vLLM's own method calls Triton kernels, or asks for one of its kernels, of which none is for an
    out-of-tree platform.

    ## Safety
    Guarded by the platform's device type.
    """

    code = "NPU252"
    recipes = (
        PlatformBranch(
            "CompressedTensorsMoEMethod.get_moe_method",
            (
                f"{_PACKAGE}/compressed_tensors_moe/compressed_tensors_moe.py",
                f"{_PACKAGE}/compressed_tensors_moe.py",
            ),
            body=BODY,
            at=_choice,
            lacking="it does not ask whether experts have activations of int8 by token",
            reason="experts of int8 have no kernel for an out-of-tree platform",
        ),
    )
