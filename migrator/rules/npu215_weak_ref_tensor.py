# SPDX-License-Identifier: Apache-2.0
"""NPU215: a tensor that shares memory without keeping it."""

from __future__ import annotations

import libcst as cst

from migrator.codemod.matchers import dotted, walk
from migrator.codemod.recipes.branches import NpuBranch
from migrator.codemod.rule import Rule


def _return_of_the_operator(function: cst.FunctionDef) -> cst.CSTNode | None:
    """The statement that returns what the operator of vLLM's CUDA extension makes."""
    for node in walk(function.body):
        if isinstance(node, cst.SimpleStatementLine) and isinstance(node.body[0], cst.Return):
            value = node.body[0].value
            called = dotted(value.func) if isinstance(value, cst.Call) else None
            if called == "torch.ops._C.weak_ref_tensor":
                return node
    return None


class WeakRefTensor(Rule):
    """Make weak references to NPU tensors with torch_npu.

    ## What it does
    Gives `weak_ref_tensor` a branch for NPU tensors: `torch_npu._C._weak_ref_tensor`.

    ## Why
    It calls `torch.ops._C.weak_ref_tensor`, an operator of vLLM's CUDA extension. Without it, every
    captured graph keeps its inputs and outputs in memory, or the call fails.

    ## Safety
    Guarded by the tensor's device.
    """

    code = "NPU215"
    recipes = (
        NpuBranch(
            "weak_ref_tensor",
            ("vllm/utils/torch_utils.py", "vllm/utils/__init__.py", "vllm/utils.py"),
            tensor="tensor",
            body="return torch_npu._C._weak_ref_tensor(tensor)\n",
            at=_return_of_the_operator,
            reason="the operator is one of vLLM's CUDA extension",
        ),
    )
