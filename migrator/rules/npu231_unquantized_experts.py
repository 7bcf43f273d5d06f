# SPDX-License-Identifier: Apache-2.0
"""NPU231: the experts of an unquantised mixture on NPU."""

from __future__ import annotations

from collections.abc import Iterator

import libcst as cst

from migrator.codemod.matchers import bound_names, first_statement, parameter_names
from migrator.codemod.recipes.branches import (
    NpuCall,
    PlatformBranch,
    has_npu_branch,
    unless_takes,
)
from migrator.codemod.rule import (
    Absence,
    File,
    Finding,
    Insert,
    Rule,
    Site,
    changed,
    manual,
    migrated,
)
from migrator.rules._experts import (
    CLASS,
    CUDA,
    LAYER,
    METHOD,
    NATIVE,
    ZERO,
    ZERO_EXPERTS,
    all_have_weights,
    cuda_is_native,
    native_takes_experts,
)

_ADDED = "vllm.model_executor.layers.fused_moe.npu_fused_moe"
_CALLED = ("hidden_states", "w1", "w2", "topk_weights", "topk_ids")
_CALLED_WITH = (
    *("inplace", "activation", "is_act_and_mul", "apply_router_weight_on_input"),
    *("global_num_experts", "expert_map", "w1_bias", "w2_bias"),
)
_QUANTIZED = (
    *("use_fp8_w8a8", "use_int8_w8a8", "use_int8_w8a16", "use_int4_w4a16", "use_mxfp4_w4a4"),
    *("ocp_mx_scheme", "per_channel_quant", "w1_scale", "w2_scale", "w1_zp", "w2_zp"),
    *("a1_scale", "a2_scale", "block_shape"),
)
"""What `fused_experts_impl` takes: in each release, in some, and for quantised weights."""

BRANCH = """\
if x.device.type == "npu":
    # It is made of torch_npu, which is there on an NPU only.
    from vllm.model_executor.layers.fused_moe.npu_fused_moe import (
        unquantized_experts,
    )

    return unquantized_experts(layer, x, topk_weights, topk_ids)
"""
CHECK = """\
from vllm.model_executor.layers.fused_moe.npu_fused_moe import check_experts

check_experts(layer)
"""


class UnquantizedExperts(Rule):
    """Compute unquantised experts with grouped matrix products on NPUs.

    ## What it does
    Gives `UnquantizedFusedMoEMethod` a branch for an NPU tensor, as soon as the experts of each
    token are known: `unquantized_experts` of `fused_moe/npu_fused_moe.py`, which the tool adds
    (`npu_moe_init_routing_v2`, `npu_grouped_matmul`, `npu_swiglu`, `npu_moe_token_unpermute`).
    Where the method gets them as parameters, the branch goes first in `forward_native`; where it
    selects them itself, right behind that in `forward_cuda`, which is its native path too.

    When a layer is made, `create_weights` has `check_experts` refuse what these experts would not
    honour: an activation, or any setting of the layer or of its configuration that they do not know
    and that is not at its default. `zero_experts_compute_triton` gets a branch for NPU tensors, and
    so does `fused_experts_impl`, which models with experts of their own come to (MiniCPM, Arctic,
    the first DeepSeek).

    ## Why
    An out-of-tree platform has no experts kernel: `fused_experts` is None there in older releases,
    and the modular kernel is never built in later ones. A setting that nobody reads gives wrong
    tokens without a word. Experts without weights are computed in a Triton kernel.

    ## Example
    ```python
    return unquantized_experts(layer, x, topk_weights, topk_ids)
    ```

    ## Safety
    Guarded by the tensor's device, or the platform's.
    """

    code = "NPU231"
    sites = (
        Site(
            CUDA,
            (METHOD, LAYER),
            (
                Absence(
                    ">=0.15",
                    "the method gets the experts of each token from its caller",
                    native_takes_experts,
                ),
            ),
        ),
        Site(
            NATIVE,
            (METHOD,),
            (
                Absence(
                    "<0.15",
                    "forward_native is another name of forward_cuda there",
                    cuda_is_native,
                ),
            ),
        ),
    )
    recipes = (
        PlatformBranch(
            f"{CLASS}.create_weights",
            (METHOD, LAYER),
            body=CHECK,
            unless=unless_takes("self", "layer"),
            reason="a setting of a layer that its experts do not know would be ignored",
        ),
        NpuCall(
            ZERO_EXPERTS,
            (ZERO,),
            tensor="hidden_states",
            takes=(
                *("expert_indices", "expert_scales", "num_experts", "zero_expert_type"),
                "hidden_states",
            ),
            module=_ADDED,
            function="zero_experts",
            reason="experts without weights are computed in a Triton kernel",
            absent=(Absence("<0.11", "all experts have weights", all_have_weights),),
        ),
        NpuCall(
            "fused_experts_impl",
            (ZERO,),
            tensor="hidden_states",
            takes=_CALLED,
            optional=(*_CALLED_WITH, *_QUANTIZED),
            module=_ADDED,
            function="fused_experts",
            reason="experts that a model calls by itself are computed in Triton kernels",
        ),
    )

    def check(self, file: File) -> Iterator[Finding]:
        """Report where the experts of each token become known, and where a layer is made."""
        yield from super().check(file)
        native, cuda = file.function(NATIVE), file.function(CUDA)
        if native is not None and "topk_ids" in parameter_names(native):
            yield _with_experts(NATIVE, native)
        elif cuda is not None:
            yield _with_experts(CUDA, cuda)


def _with_experts(site: str, function: cst.FunctionDef) -> Finding:
    """The branch, as soon as the experts of each token are known."""
    if has_npu_branch(function):
        return migrated(site, function)
    reason = "an out-of-tree platform has no kernel for unquantised experts"
    names = set(parameter_names(function))
    if site == NATIVE or {"layer", "x", "topk_weights", "topk_ids"} <= names:
        # Between releases, forward_native was another name of a forward_cuda with these.
        return changed(site, function, reason, Insert(first_statement(function), BRANCH))
    selection = next(filter(_selects, function.body.body), None)
    if selection is None or not {"layer", "x"} <= names:
        return manual(site, function, "it does not select the experts of each token in its body")
    return changed(site, function, reason, Insert(selection, BRANCH, where="after"))


def _selects(statement: cst.CSTNode) -> bool:
    """Does the statement assign both `topk_weights` and `topk_ids`?"""
    parts = statement.body if isinstance(statement, cst.SimpleStatementLine) else ()
    return any({"topk_weights", "topk_ids"} <= {*bound_names(part)} for part in parts)
