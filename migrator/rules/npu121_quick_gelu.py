# SPDX-License-Identifier: Apache-2.0
"""NPU121: QuickGELU on NPU."""

from __future__ import annotations

from migrator.codemod.recipes.forward_oot import ForwardOot
from migrator.codemod.rule import Rule

BODY = """\
if x.device.type == "npu" and (torch.compiler.is_compiling() or x.numel() > 0):
    return torch_npu.npu_fast_gelu(x.contiguous())
return self.forward_native(x)
"""


class QuickGeluForwardOot(Rule):
    """Compute QuickGELU with `torch_npu.npu_fast_gelu` on an NPU.

    ## What it does
    Gives `QuickGELU` a `forward_oot`: `npu_fast_gelu`, which is `x * sigmoid(1.702 * x)`, for an
    NPU tensor; the native path otherwise.

    ## Why
    `CustomOp` sends an out-of-tree platform to `forward_oot`, which defaults to the native path:
    three operators instead of one. `forward_cuda` cannot be used, since `self.op` is not set there.
    """

    code = "NPU121"
    recipes = (
        ForwardOot(
            "QuickGELU",
            ("vllm/model_executor/layers/activation.py",),
            body=BODY,
            reason="QuickGELU falls to the native path on an out-of-tree platform; "
            "torch_npu.npu_fast_gelu is the same in one operator",
        ),
    )
