# SPDX-License-Identifier: Apache-2.0
"""NPU123: RMSNorm on NPU."""

from __future__ import annotations

from migrator.codemod.recipes.forward_oot import ForwardOot
from migrator.codemod.rule import Rule

BODY = """\
# The operators take rows as long as the weight, all operands of one
# dtype. vLLM compiles for no empty batch, and sizes are no numbers then.
if (
    x.device.type != "npu"
    or self.variance_size_override is not None
    or not self.has_weight
    or self.weight.dtype != x.dtype
    or self.weight.shape != x.shape[-1:]
    or (residual is not None and residual.dtype != x.dtype)
    or (not torch.compiler.is_compiling() and x.numel() == 0)
):
    return self.forward_native(x, residual)
x, weight = x.contiguous(), self.weight.data
if residual is not None:
    x, _, residual = torch_npu.npu_add_rms_norm(
        x, residual.contiguous(), weight, self.variance_epsilon
    )
    return x, residual
return torch_npu.npu_rms_norm(x, weight, self.variance_epsilon)[0]
"""


class RmsNormForwardOot(Rule):
    """Normalise in `RMSNorm` with one torch_npu operator on an NPU.

    ## What it does
    Gives `RMSNorm` a `forward_oot`: `npu_rms_norm` for an NPU tensor, `npu_add_rms_norm` where a
    residual is added. A norm without a weight, or over a part of the hidden size, stays native.

    ## Why
    `CustomOp` sends an out-of-tree platform to `forward_oot`, which defaults to the native path, so
    the branch in `_custom_ops.rms_norm` alone is never reached. From 0.20.2 on `forward_cuda` goes
    to vLLM's IR instead of `_custom_ops`; a method of the layer works in every release.
    """

    code = "NPU123"
    recipes = (
        ForwardOot(
            "RMSNorm",
            ("vllm/model_executor/layers/layernorm.py",),
            takes=("self", "x", "residual"),
            body=BODY,
            reason="RMSNorm falls to the native path on an out-of-tree platform and never reaches "
            "_custom_ops; torch_npu.npu_rms_norm and npu_add_rms_norm take its place",
        ),
    )
