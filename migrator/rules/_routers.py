# SPDX-License-Identifier: Apache-2.0
"""What the rules of routers ask a tree."""

from __future__ import annotations

import ast
from collections.abc import Collection

from migrator.tree import Tree

OPS = "vllm/_custom_ops.py"


def routes_only_by(known: Collection[str], tree: Tree) -> bool:
    """Is every operator by which `_custom_ops` chooses experts among `known`?"""
    module = tree.parse(OPS)
    chosen = {
        node.attr
        for node in ast.walk(module or ast.Module([], []))
        if isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Attribute)
        and node.value.attr == "_moe_C"
        and "topk" in node.attr
    }
    return "topk_softmax" in chosen and chosen <= set(known)
