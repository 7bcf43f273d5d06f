# SPDX-License-Identifier: Apache-2.0
"""NPU124: GemmaRMSNorm on NPU."""

from __future__ import annotations

from migrator.codemod.recipes.forward_oot import ForwardOot
from migrator.codemod.rule import Rule

BODY = """\
# The operator takes rows as long as the weight, both of one dtype. The
# native path keeps float16 sums in float32, which the operator cannot.
# vLLM compiles for no empty batch, and sizes are no numbers then.
if (
    x.device.type != "npu"
    or self.weight.dtype != x.dtype
    or self.weight.shape != x.shape[-1:]
    or (residual is not None and x.dtype == torch.float16)
    or (residual is not None and residual.dtype != x.dtype)
    or (not torch.compiler.is_compiling() and x.numel() == 0)
):
    return self.forward_native(x, residual)
if residual is not None:
    x = residual = x + residual
# q_norm and k_norm get heads of a split projection.
normed = torch_npu.npu_gemma_rms_norm(
    x.contiguous(), self.weight.data, self.variance_epsilon
)[0]
return normed if residual is None else (normed, residual)
"""


class GemmaRmsNormForwardOot(Rule):
    """Normalise in `GemmaRMSNorm` with `torch_npu.npu_gemma_rms_norm` on an NPU.

    ## What it does
    Gives `GemmaRMSNorm` a `forward_oot`: `npu_gemma_rms_norm`, which multiplies by `1 + weight`,
    for an NPU tensor; a residual is added before. A float16 input with a residual stays native.

    ## Why
    `CustomOp` sends an out-of-tree platform to `forward_oot`, which defaults to the native path,
    and `forward_cuda` compiles that path with inductor, which an NPU does not have.
    """

    code = "NPU124"
    recipes = (
        ForwardOot(
            "GemmaRMSNorm",
            ("vllm/model_executor/layers/layernorm.py",),
            takes=("self", "x", "residual"),
            body=BODY,
            reason="GemmaRMSNorm falls to the native path on an out-of-tree platform; "
            "torch_npu.npu_gemma_rms_norm is the same in one operator",
        ),
    )
