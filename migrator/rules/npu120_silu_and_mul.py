# SPDX-License-Identifier: Apache-2.0
"""NPU120: SiluAndMul on NPU."""

from __future__ import annotations

from migrator.codemod.recipes.forward_oot import ForwardOot
from migrator.codemod.rule import Rule

BODY = """\
if x.device.type == "npu" and (torch.compiler.is_compiling() or x.numel() > 0):
    return torch_npu.npu_swiglu(x.contiguous())
return self.forward_native(x)
"""


class SiluAndMulForwardOot(Rule):
    """Compute SwiGLU with `torch_npu.npu_swiglu` on an NPU.

    ## What it does
    Gives `SiluAndMul` a `forward_oot`: `npu_swiglu`, which splits the last dimension in halves and
    returns `silu(first) * second`, for an NPU tensor; the native path otherwise.

    ## Why
    `CustomOp` sends an out-of-tree platform to `forward_oot`, which defaults to the native path:
    three operators instead of one. `forward_cuda` cannot be used, since `self.op` is not set there.
    """

    code = "NPU120"
    recipes = (
        ForwardOot(
            "SiluAndMul",
            ("vllm/model_executor/layers/activation.py",),
            body=BODY,
            reason="SiluAndMul falls to the native path on an out-of-tree platform; "
            "torch_npu.npu_swiglu is the same in one operator",
        ),
    )
