# SPDX-License-Identifier: Apache-2.0
"""What the rules of routers ask a tree."""

from __future__ import annotations

import ast
from collections.abc import Collection

from migrator.files.tree import Tree

OPS = "vllm/_custom_ops.py"


_ASKED = frozenset({"gating_output", "scores"})
"""What those functions of `_custom_ops` are given that choose experts, whatever they are called."""


def routes_only_by(known: Collection[str], tree: Tree) -> bool:
    """Is every operator by which `_custom_ops` chooses experts among `known`?"""
    module = tree.parse(OPS) or ast.Module([], [])
    chosen = {name for name in _operators(module) if "topk" in name}
    for node in module.body:
        if isinstance(node, ast.FunctionDef) and _ASKED & {a.arg for a in node.args.args}:
            chosen |= _operators(node)
    return "topk_softmax" in chosen and chosen <= set(known)


def _operators(node: ast.AST) -> set[str]:
    """The operators of `_moe_C` that stand in a module or a function."""
    return {
        part.attr
        for part in ast.walk(node)
        if isinstance(part, ast.Attribute)
        and isinstance(part.value, ast.Attribute)
        and part.value.attr == "_moe_C"
    }
