# SPDX-License-Identifier: Apache-2.0
"""Where releases compute the experts of an unquantised mixture, and how a tree shows it."""

from __future__ import annotations

import ast

from migrator.files.tree import Tree
from migrator.rules._routers import experts_name

METHOD = "vllm/model_executor/layers/fused_moe/unquantized_fused_moe_method.py"
LAYER = "vllm/model_executor/layers/fused_moe/layer.py"
ZERO = "vllm/model_executor/layers/fused_moe/fused_moe.py"
CLASS = "UnquantizedFusedMoEMethod"
CUDA = f"{CLASS}.forward_cuda"
NATIVE = f"{CLASS}.forward_native"
ZERO_EXPERTS = "zero_experts_compute_triton"


def native_takes_experts(tree: Tree) -> bool:
    """Does `forward_native`, which an NPU runs, take the experts of each token?"""
    return "topk_ids" in (tree.parameters(METHOD, NATIVE) or ())


def cuda_is_native(tree: Tree) -> bool:
    """Is `forward_native` bound to `forward_cuda`, or to what another device has?"""
    for path in (METHOD, LAYER):
        class_ = tree.definition(path, CLASS)
        if class_ is not None and any(
            isinstance(node, ast.Assign)
            and isinstance(node.value, ast.Name)
            and node.value.id == "forward_cuda"
            and any(isinstance(t, ast.Name) and t.id == "forward_native" for t in node.targets)
            for node in ast.walk(class_)
        ):
            return True
    return False


def all_have_weights(tree: Tree) -> bool:
    """Is there a kernel of experts, and nothing about experts without weights anywhere?"""
    names = tree.names(ZERO)
    return (
        "fused_experts" in names
        and not any("zero_expert" in name for name in names)
        and not experts_name(tree, ZERO_EXPERTS, but=ZERO)
    )
