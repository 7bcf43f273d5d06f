# SPDX-License-Identifier: Apache-2.0
"""NPU232: a mixture of experts without a modular kernel."""

from __future__ import annotations

from collections.abc import Iterator

import libcst as cst

from migrator.codemod.matchers import dotted, places, walk
from migrator.codemod.rule import (
    Absence,
    File,
    Finding,
    Replace,
    Rule,
    Safety,
    Site,
    changed,
    migrated,
)
from migrator.files.tree import Tree

_BASE = "vllm/model_executor/layers/fused_moe/fused_moe_method_base.py"
_SITE = "FusedMoEMethodBase.is_monolithic"


_LAYER = "vllm/model_executor/layers/fused_moe/layer.py"


def _knows_no_experts_class(tree: Tree) -> bool:
    """Does a method select its experts by itself, and know neither their class nor its kernel?"""
    base = tree.names(_BASE, "FusedMoEMethodBase") | tree.names(_LAYER, "FusedMoEMethodBase")
    return "select_gemm_impl" in base and not base & {"experts_cls", "moe_kernel"}


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
    if getattr(self, "experts_cls", None) is not None:
        return self.experts_cls.is_monolithic()
    ```

    ## Safety
    Equivalent wherever there is a class of experts; with None, what raised answers False.
    """

    code = "NPU232"
    safety = Safety.EQUIVALENT
    paths = (_BASE,)
    triggers = (r"def is_monolithic\b",)
    sites = (
        Site(
            _SITE,
            (_BASE,),
            (
                Absence(
                    "<0.17",
                    "methods know no class of experts, or no such property",
                    _knows_no_experts_class,
                ),
            ),
        ),
    )

    def check(self, file: File) -> Iterator[Finding]:
        """Report the question for the attribute."""
        function = file.function(_SITE)
        if function is None:
            return
        for place in places(function.body, cst.Call):
            call = place.node
            names = [n.evaluated_value for n in walk(call) if isinstance(n, cst.SimpleString)]
            if names != ["experts_cls"]:
                continue
            if dotted(call.func) == "hasattr":
                yield changed(
                    _SITE,
                    call,
                    "an out-of-tree platform's class of experts is None",
                    Replace(
                        call,
                        lambda _: cst.parse_expression(
                            'getattr(self, "experts_cls", None) is not None'
                        ),
                    ),
                )
            elif dotted(call.func) == "getattr":
                yield migrated(_SITE, call)
