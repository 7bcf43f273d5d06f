# SPDX-License-Identifier: Apache-2.0
"""NPU231: the experts of an unquantised mixture on NPU."""

from __future__ import annotations

import ast
from collections.abc import Iterator

import libcst as cst

from migrator.codemod.matchers import dotted, first_statement, parameter_names, walk
from migrator.codemod.recipes import has_npu_branch, npu_branch
from migrator.codemod.rule import (
    Absence,
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
from migrator.files.tree import Tree
from migrator.rules._platform_branch import platform_branch
from migrator.rules._routers import experts_name

_METHOD = "vllm/model_executor/layers/fused_moe/unquantized_fused_moe_method.py"
_LAYER = "vllm/model_executor/layers/fused_moe/layer.py"
_ZERO = "vllm/model_executor/layers/fused_moe/fused_moe.py"
_CLASS = "UnquantizedFusedMoEMethod"
_CUDA = f"{_CLASS}.forward_cuda"
_NATIVE = f"{_CLASS}.forward_native"
_CREATE = f"{_CLASS}.create_weights"
_ZERO_EXPERTS = "zero_experts_compute_triton"
_ZERO_PARAMETERS = (
    "expert_indices",
    "expert_scales",
    "num_experts",
    "zero_expert_type",
    "hidden_states",
)

_IMPL = "fused_experts_impl"
_CALLED = ("hidden_states", "w1", "w2", "topk_weights", "topk_ids")
_CALLED_WITH = (
    "inplace",
    "activation",
    "is_act_and_mul",
    "apply_router_weight_on_input",
    "global_num_experts",
    "expert_map",
    "w1_bias",
    "w2_bias",
)
_QUANTIZED = (
    "use_fp8_w8a8",
    "use_int8_w8a8",
    "use_int8_w8a16",
    "use_int4_w4a16",
    "use_mxfp4_w4a4",
    "ocp_mx_scheme",
    "per_channel_quant",
    "w1_scale",
    "w2_scale",
    "w1_zp",
    "w2_zp",
    "a1_scale",
    "a2_scale",
    "block_shape",
)
"""What `fused_experts_impl` takes: in each release, in some, and for quantised weights."""

BRANCH = """\
if x.device.type == "npu":
    from vllm.model_executor.layers.fused_moe.npu_fused_moe import (
        unquantized_experts,
    )

    return unquantized_experts(layer, x, topk_weights, topk_ids)
"""
CHECK = """\
from vllm.model_executor.layers.fused_moe.npu_fused_moe import check_experts

check_experts(layer)
"""
ZERO = f"""\
from vllm.model_executor.layers.fused_moe.npu_fused_moe import zero_experts

return zero_experts(
{"".join(f"    {name},{chr(10)}" for name in _ZERO_PARAMETERS)})
"""


def _native_takes_experts(tree: Tree) -> bool:
    """Does `forward_native`, which an NPU runs, take the experts of each token?"""
    return "topk_ids" in (tree.parameters(_METHOD, _NATIVE) or ())


def _cuda_is_native(tree: Tree) -> bool:
    """Is `forward_native` bound to `forward_cuda`, or to what another device has?"""
    for path in (_METHOD, _LAYER):
        class_ = tree.definition(path, _CLASS)
        if class_ is not None and any(
            isinstance(node, ast.Assign)
            and isinstance(node.value, ast.Name)
            and node.value.id == "forward_cuda"
            and any(isinstance(t, ast.Name) and t.id == "forward_native" for t in node.targets)
            for node in ast.walk(class_)
        ):
            return True
    return False


def _all_have_weights(tree: Tree) -> bool:
    """Is there a kernel of experts, and nothing about experts without weights anywhere?"""
    names = tree.names(_ZERO)
    return (
        "fused_experts" in names
        and not any("zero_expert" in name for name in names)
        and not experts_name(tree, _ZERO_EXPERTS, but=_ZERO)
    )


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
    if x.device.type == "npu":
        from vllm.model_executor.layers.fused_moe.npu_fused_moe import (
            unquantized_experts,
        )

        return unquantized_experts(layer, x, topk_weights, topk_ids)
    ```

    ## Safety
    Guarded by the tensor's device, or the platform's.
    """

    code = "NPU231"
    safety = Safety.GUARDED
    paths = (_METHOD, _LAYER, _ZERO)
    triggers = (rf"class {_CLASS}\b", rf"def ({_ZERO_EXPERTS}|{_IMPL})\b")
    sites = (
        Site(
            _CUDA,
            (_METHOD, _LAYER),
            (
                Absence(
                    ">=0.15",
                    "the method gets the experts of each token from its caller",
                    _native_takes_experts,
                ),
            ),
        ),
        Site(
            _NATIVE,
            (_METHOD,),
            (
                Absence(
                    "<0.15",
                    "forward_native is another name of forward_cuda there",
                    _cuda_is_native,
                ),
            ),
        ),
        Site(_CREATE, (_METHOD, _LAYER)),
        Site(
            _ZERO_EXPERTS,
            (_ZERO,),
            (Absence("<0.11", "all experts have weights", _all_have_weights),),
        ),
        Site(_IMPL, (_ZERO,)),
    )

    def check(self, file: File) -> Iterator[Finding]:
        """Report where the experts of each token become known, and where a layer is made."""
        yield from npu_branch(
            file,
            _ZERO_EXPERTS,
            tensor="hidden_states",
            known=_ZERO_PARAMETERS,
            body=ZERO,
            reason="experts without weights are computed in a Triton kernel",
            needs=(),
        )
        yield from self._check_called(file)
        yield from self._check_experts(file)
        create = file.function(_CREATE)
        if create is None:
            return
        if parameter_names(create)[:2] != ["self", "layer"]:
            yield manual(_CREATE, create, f"it takes {parameter_names(create)}")
            return
        yield from platform_branch(
            file,
            _CREATE,
            body=CHECK,
            reason="a setting of a layer that its experts do not know would be ignored",
        )

    def _check_called(self, file: File) -> Iterator[Finding]:
        function = file.function(_IMPL)
        names = parameter_names(function) if function is not None else []
        optional = (*_CALLED_WITH, *_QUANTIZED)
        given = [*_CALLED, *(f"{name}={name}" for name in names if name in optional)]
        listed = "".join(f"    {argument},\n" for argument in given)
        yield from npu_branch(
            file,
            _IMPL,
            tensor="hidden_states",
            known=(*_CALLED, *optional),
            optional=optional,
            body="from vllm.model_executor.layers.fused_moe.npu_fused_moe import fused_experts\n\n"
            f"return fused_experts(\n{listed})\n",
            reason="experts that a model calls by itself are computed in Triton kernels",
            needs=(),
        )

    def _check_experts(self, file: File) -> Iterator[Finding]:
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
        if {"layer", "x", "topk_weights", "topk_ids"} <= set(parameter_names(cuda)):
            # Between releases, forward_native was another name of a method with these.
            yield changed(_CUDA, cuda, reason, Insert(first_statement(cuda), BRANCH))
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
