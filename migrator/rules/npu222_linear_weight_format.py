# SPDX-License-Identifier: Apache-2.0
"""NPU222: linear weights in the format of the NPU's matrix unit."""

from __future__ import annotations

from migrator.codemod.recipes.branches import NpuBranch, unless_takes
from migrator.codemod.rule import Rule

BODY = """\
from vllm import envs as vllm_envs

if vllm_envs.VLLM_NPU_WEIGHT_NZ and layer.weight.dtype in (
    torch.float16,
    torch.bfloat16,
):
    # ACL_FORMAT_FRACTAL_NZ: what the matrix unit reads without rearranging.
    layer.weight.data = torch_npu.npu_format_cast(layer.weight.data, 29)
"""


class LinearWeightFormat(Rule):
    """Keep the weights of linear layers in FRACTAL_NZ, when asked to.

    ## What it does
    Casts an unquantised linear layer's float16 or bfloat16 weight to the format FRACTAL_NZ after
    loading, if it is on an NPU and `VLLM_NPU_WEIGHT_NZ` is 1.

    ## Why
    Matrix products read their weight in tiles. In this format the tiles are there already, which
    saves decode steps, bound by reading weights, from rearranging them. It is a switch, because a
    weight in it cannot be viewed or updated in place like a plain one.

    ## Safety
    Guarded by the weight's device and by the switch, which is off by default.
    """

    code = "NPU222"
    recipes = (
        NpuBranch(
            "UnquantizedLinearMethod.process_weights_after_loading",
            ("vllm/model_executor/layers/linear.py",),
            tensor="layer.weight",
            body=BODY,
            unless=unless_takes("self", "layer"),
            reason="weights stay in the plain format, which the matrix unit has to rearrange",
        ),
    )
