# SPDX-License-Identifier: Apache-2.0
"""NPU231: the experts of an unquantised mixture on NPU."""

from __future__ import annotations

from collections.abc import Iterator

import libcst as cst

from migrator.matchers import dotted, first_statement, parameter_names, walk
from migrator.recipes import has_npu_branch
from migrator.rule import (
    Absence,
    Example,
    File,
    Finding,
    Insert,
    Rule,
    Safety,
    Site,
    changed,
    manual,
    migrated,
)

_METHOD = "vllm/model_executor/layers/fused_moe/unquantized_fused_moe_method.py"
_LAYER = "vllm/model_executor/layers/fused_moe/layer.py"
_CLASS = "UnquantizedFusedMoEMethod"
_CUDA = f"{_CLASS}.forward_cuda"
_NATIVE = f"{_CLASS}.forward_native"

BRANCH = """\
if x.device.type == "npu":
    from vllm.model_executor.layers.fused_moe.npu_fused_moe import (
        unquantized_experts,
    )

    return unquantized_experts(layer, x, topk_weights, topk_ids)
"""


class UnquantizedExperts(Rule):
    """Compute unquantised experts with grouped matrix products on NPUs.

    ## What it does
    Gives `UnquantizedFusedMoEMethod` a branch for an NPU tensor, as soon as the experts of each
    token are known: `unquantized_experts` of `fused_moe/npu_fused_moe.py`, which the tool adds
    (`npu_moe_init_routing_v2`, `npu_grouped_matmul`, `npu_swiglu`, `npu_moe_token_unpermute`).
    Where the method gets them as parameters, the branch goes first in `forward_native`; where it
    selects them itself, right behind that in `forward_cuda`, which is its native path too.

    ## Why
    An out-of-tree platform has no experts kernel: `fused_experts` is None there in older releases,
    and the modular kernel is never built in later ones.

    ## Example
    ```python
    if x.device.type == "npu":
        from vllm.model_executor.layers.fused_moe.npu_fused_moe import (
            unquantized_experts,
        )

        return unquantized_experts(layer, x, topk_weights, topk_ids)
    ```

    ## Safety
    Guarded by the tensor's device.
    """

    code = "NPU231"
    safety = Safety.GUARDED
    paths = (_METHOD, _LAYER)
    triggers = (rf"class {_CLASS}\b",)
    sites = (
        Site(
            _CUDA,
            (_METHOD, _LAYER),
            (Absence(">=0.15", "the method gets the experts of each token from its caller"),),
        ),
        Site(
            _NATIVE,
            (_METHOD,),
            (Absence("<0.15", "forward_native is another name of forward_cuda there"),),
        ),
    )
    examples = (
        Example(
            path=_LAYER,
            before="""\
class UnquantizedFusedMoEMethod:
    def forward_cuda(self, layer, x, router_logits, top_k):
        topk_weights, topk_ids = FusedMoE.select_experts(
            hidden_states=x, router_logits=router_logits, top_k=top_k)

        return self.fused_experts(x, layer.w13_weight, topk_weights, topk_ids)
""",
            after="""\
class UnquantizedFusedMoEMethod:
    def forward_cuda(self, layer, x, router_logits, top_k):
        topk_weights, topk_ids = FusedMoE.select_experts(
            hidden_states=x, router_logits=router_logits, top_k=top_k)
        if x.device.type == "npu":
            from vllm.model_executor.layers.fused_moe.npu_fused_moe import (
                unquantized_experts,
            )

            return unquantized_experts(layer, x, topk_weights, topk_ids)

        return self.fused_experts(x, layer.w13_weight, topk_weights, topk_ids)
""",
        ),
        Example(
            path=_METHOD,
            before="""\
class UnquantizedFusedMoEMethod:
    def forward_native(self, layer, x, topk_weights, topk_ids):
        assert self.moe_kernel is not None
        return self.moe_kernel.apply(x, topk_weights, topk_ids)

    def forward_cuda(self, layer, x, topk_weights, topk_ids):
        return self.forward_native(layer, x, topk_weights, topk_ids)
""",
            after="""\
class UnquantizedFusedMoEMethod:
    def forward_native(self, layer, x, topk_weights, topk_ids):
        if x.device.type == "npu":
            from vllm.model_executor.layers.fused_moe.npu_fused_moe import (
                unquantized_experts,
            )

            return unquantized_experts(layer, x, topk_weights, topk_ids)
        assert self.moe_kernel is not None
        return self.moe_kernel.apply(x, topk_weights, topk_ids)

    def forward_cuda(self, layer, x, topk_weights, topk_ids):
        return self.forward_native(layer, x, topk_weights, topk_ids)
""",
        ),
    )

    def check(self, file: File) -> Iterator[Finding]:
        """Report the method in which the experts of each token become known."""
        native, cuda = file.function(_NATIVE), file.function(_CUDA)
        reason = "an out-of-tree platform has no kernel for unquantised experts"
        if native is not None and "topk_ids" in parameter_names(native):
            if has_npu_branch(native):
                yield migrated(_NATIVE, native)
            else:
                yield changed(_NATIVE, native, reason, Insert(first_statement(native), BRANCH))
            return
        if cuda is None:
            return
        if has_npu_branch(cuda):
            yield migrated(_CUDA, cuda)
            return
        selection = next((s for s in cuda.body.body if _selects(s)), None)
        if selection is None or not {"layer", "x"} <= set(parameter_names(cuda)):
            yield manual(_CUDA, cuda, "it does not select the experts of each token in its body")
            return
        yield changed(_CUDA, cuda, reason, Insert(selection, BRANCH, where="after"))


def _selects(statement: cst.CSTNode) -> bool:
    """Does the statement assign both `topk_weights` and `topk_ids`?"""
    if not isinstance(statement, cst.SimpleStatementLine):
        return False
    part = statement.body[0]
    if not isinstance(part, cst.Assign):
        return False
    names = {dotted(n) for target in part.targets for n in walk(target.target)}
    return {"topk_weights", "topk_ids"} <= names
