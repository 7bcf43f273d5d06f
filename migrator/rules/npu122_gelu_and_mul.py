# SPDX-License-Identifier: Apache-2.0
"""NPU122: GeluAndMul on NPU."""

from __future__ import annotations

from migrator.codemod.recipes.forward_oot import ForwardOot
from migrator.codemod.rule import Rule

BODY = """\
if x.device.type == "npu" and (torch.compiler.is_compiling() or x.numel() > 0):
    approximate = 1 if self.approximate == "tanh" else 0
    x = x.contiguous()
    gated = torch_npu.npu_geglu(x, -1, approximate, activate_left=True)[0]
    # Some releases of torch_npu tell torch.compile of twice as many columns.
    return gated[..., : x.shape[-1] // 2]
return self.forward_native(x)
"""


class GeluAndMulForwardOot(Rule):
    """Compute GeGLU with `torch_npu.npu_geglu` on an NPU.

    ## What it does
    Gives `GeluAndMul` a `forward_oot`: `npu_geglu` for an NPU tensor, the native path otherwise.
    The operator's default activates the right half; vLLM activates the left one. Its `approximate`
    is 0 for the exact GELU and 1 for the tanh form.

    ## Why
    `CustomOp` sends an out-of-tree platform to `forward_oot`, which defaults to the native path:
    four operators instead of one. `forward_cuda` cannot be used, since `self.op` is not set there.
    """

    code = "NPU122"
    recipes = (
        ForwardOot(
            "GeluAndMul",
            ("vllm/model_executor/layers/activation.py",),
            body=BODY,
            reason="GeluAndMul falls to the native path on an out-of-tree platform; "
            "torch_npu.npu_geglu with activate_left is the same in one operator",
        ),
    )
