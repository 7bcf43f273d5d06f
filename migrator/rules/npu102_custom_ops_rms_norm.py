# SPDX-License-Identifier: Apache-2.0
"""NPU102: RMS norm on NPU."""

from __future__ import annotations

from migrator.codemod.recipes.branches import NpuBranch, ones_for_missing_weight
from migrator.codemod.rule import Rule

BODY = """\
if not torch.compiler.is_compiling() and input.numel() == 0:
    return
rows = input.contiguous()
if weight.dtype != input.dtype:
    rows, weight = rows.float(), weight.float()
out.copy_(torch_npu.npu_rms_norm(rows, weight, epsilon)[0])
return
"""


class CustomOpsRmsNorm(Rule):
    """Normalise with `torch_npu.npu_rms_norm` when the input is on an NPU.

    ## What it does
    Puts a branch before the body of `vllm/_custom_ops.py::rms_norm`, taken for an NPU tensor. The
    operator returns its result and the reciprocal root mean square; the result is copied to `out`.
    Where a release lets `weight` be None, ones stand in for it.

    ## Why
    The body calls `torch.ops._C.rms_norm`, which is not built for NPU. `RMSNorm` itself comes here
    up to 0.19.1 only; models that call the wrapper directly still do in the newest release.

    ## Example
    ```python
    if input.device.type == "npu":
        if not torch.compiler.is_compiling() and input.numel() == 0:
            return
        rows = input.contiguous()
        if weight.dtype != input.dtype:
            rows, weight = rows.float(), weight.float()
        out.copy_(torch_npu.npu_rms_norm(rows, weight, epsilon)[0])
        return
    ```
    """

    code = "NPU102"
    recipes = (
        NpuBranch(
            "rms_norm",
            ("vllm/_custom_ops.py",),
            tensor="input",
            takes=("out", "input", "weight", "epsilon"),
            body=lambda function: ones_for_missing_weight(function) + BODY,
            reason="torch.ops._C.rms_norm is not built for NPU; torch_npu.npu_rms_norm returns "
            "what is copied to out",
        ),
    )
