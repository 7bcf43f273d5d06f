# SPDX-License-Identifier: Apache-2.0
"""What the rules of routers ask a tree."""

from __future__ import annotations

import ast
from collections.abc import Collection, Iterator

from migrator.files.tree import Tree

OPS = "vllm/_custom_ops.py"
_EXPERTS = "vllm/model_executor/layers/fused_moe/"


_ASKED = frozenset({"gating_output", "scores"})
"""What those functions of `_custom_ops` are given that choose experts, whatever they are called."""


def routes_only_by(known: Collection[str], tree: Tree) -> bool:
    """Is every operator by which `_custom_ops` chooses experts among `known`, and called so?"""
    module = tree.parse(OPS) or ast.Module([], [])
    chosen = {name for name in _operators(module) if "topk" in name}
    for node in module.body:
        if isinstance(node, ast.FunctionDef) and _ASKED & {a.arg for a in node.args.args}:
            chosen |= _operators(node)
    chosen |= {name for name in _called(tree) if "topk" in name}
    return "topk_softmax" in chosen and chosen <= set(known)


def experts_name(tree: Tree, name: str, but: str) -> bool:
    """Does a module of the experts, other than `but`, use or import a name?"""
    return any(name in tree.names(path) for path in _modules(tree) if path != but)


def _modules(tree: Tree) -> Iterator[str]:
    for entry in tree.entries():
        if entry.path.startswith(_EXPERTS) and entry.path.endswith(".py") and entry.link is None:
            yield entry.path


def _called(tree: Tree) -> set[str]:
    """The functions of `_custom_ops` that modules of the experts name, as `ops.NAME`."""
    return {
        node.attr
        for path in _modules(tree)
        for node in ast.walk(tree.parse(path) or ast.Module([], []))
        if isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Name)
        and node.value.id == "ops"
    }


def _operators(node: ast.AST) -> set[str]:
    """The operators of `_moe_C` that stand in a module or a function."""
    return {
        part.attr
        for part in ast.walk(node)
        if isinstance(part, ast.Attribute)
        and isinstance(part.value, ast.Attribute)
        and part.value.attr == "_moe_C"
    }
