# SPDX-License-Identifier: Apache-2.0
"""NPU232: a mixture of experts without a modular kernel."""

from __future__ import annotations

import libcst as cst

from migrator.codemod.matchers import Place, dotted, walk
from migrator.codemod.recipes.rewrites import Rewrite
from migrator.codemod.rule import Absence, Rule
from migrator.files.tree import Tree

_BASE = "vllm/model_executor/layers/fused_moe/fused_moe_method_base.py"
_LAYER = "vllm/model_executor/layers/fused_moe/layer.py"


def _knows_no_experts_class(tree: Tree) -> bool:
    """Does a method select its experts by itself, and know neither their class nor its kernel?"""
    base = tree.names(_BASE, "FusedMoEMethodBase") | tree.names(_LAYER, "FusedMoEMethodBase")
    return "select_gemm_impl" in base and not base & {"experts_cls", "moe_kernel"}


def _asks(place: Place[cst.CSTNode]) -> bool:
    """Does a call ask whether there is a class of experts?"""
    node = place.node
    names = [n.evaluated_value for n in walk(node) if isinstance(n, cst.SimpleString)]
    return (
        names == ["experts_cls"] and isinstance(node, cst.Call) and dotted(node.func) == "hasattr"
    )


def _goes_on(place: Place[cst.CSTNode]) -> bool:
    """Is it the first part of a condition that has more of them?"""
    return isinstance(place.parent, cst.BooleanOperation)


class ExpertsClass(Rule):
    """Take a mixture whose class of experts is None for one without a modular kernel.

    ## What it does
    In `FusedMoEMethodBase.is_monolithic`, asks whether `experts_cls` is something instead of
    whether there is such an attribute.

    ## Why
    For an out-of-tree platform, vLLM's own choice of a backend answers `(OOT, None)`, and the
    attribute is set to that None; the property then calls a method of it, and fails.

    ## Example
    ```python
    if hasattr(self, "experts_cls") and self.experts_cls is not None:
        return self.experts_cls.is_monolithic()
    ```

    ## Safety
    Equivalent wherever there is a class of experts; with None, what raised answers False.
    """

    code = "NPU232"
    recipes = (
        Rewrite(
            "FusedMoEMethodBase.is_monolithic",
            (_BASE,),
            kinds=cst.Call,
            old=lambda place: _asks(place) and not _goes_on(place),
            new='hasattr(self, "experts_cls") and self.experts_cls is not None',
            done=lambda place: _asks(place) and _goes_on(place),
            reason="an out-of-tree platform's class of experts is None",
            absent=(
                Absence(
                    "<0.17",
                    "methods know no class of experts, or no such property",
                    _knows_no_experts_class,
                ),
            ),
        ),
    )
