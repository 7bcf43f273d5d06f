# SPDX-License-Identifier: Apache-2.0
"""NPU103: residual addition and RMS norm in one operator on NPU."""

from __future__ import annotations

from migrator.codemod.recipes.branches import NpuBranch, ones_for_missing_weight
from migrator.codemod.rule import Rule

BODY = """\
if not torch.compiler.is_compiling() and input.numel() == 0:
    return
rows, added = input.contiguous(), residual.contiguous()
if not weight.dtype == residual.dtype == input.dtype:
    rows, added, weight = rows.float(), added.float(), weight.float()
normed, _, summed = torch_npu.npu_add_rms_norm(rows, added, weight, epsilon)
input.copy_(normed)
residual.copy_(summed)
return
"""


class CustomOpsFusedAddRmsNorm(Rule):
    """Add and normalise with `torch_npu.npu_add_rms_norm` when the input is on an NPU.

    ## What it does
    Puts a branch before the body of `vllm/_custom_ops.py::fused_add_rms_norm`, taken for an NPU
    tensor. The wrapper's contract is in place: the norm goes back into `input` and the sum into
    `residual`. Where a release lets `weight` be None, ones stand in for it.

    ## Why
    The body calls `torch.ops._C.fused_add_rms_norm`, which is not built for NPU. A port that
    copies only one of the two results back computes wrong tokens from the second layer on.

    ## Example
    ```python
    if input.device.type == "npu":
        ...
        normed, _, summed = torch_npu.npu_add_rms_norm(rows, added, weight, epsilon)
        input.copy_(normed)
        residual.copy_(summed)
        return
    ```
    """

    code = "NPU103"
    recipes = (
        NpuBranch(
            "fused_add_rms_norm",
            ("vllm/_custom_ops.py",),
            tensor="input",
            takes=("input", "residual", "weight", "epsilon"),
            body=lambda function: ones_for_missing_weight(function) + BODY,
            reason="torch.ops._C.fused_add_rms_norm is not built for NPU; of "
            "torch_npu.npu_add_rms_norm the norm is copied to input and the sum to residual",
        ),
    )
