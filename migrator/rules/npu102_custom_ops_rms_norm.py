# SPDX-License-Identifier: Apache-2.0
"""NPU102: RMS norm on NPU."""

from __future__ import annotations

from collections.abc import Iterator

from migrator.codemod.recipes import npu_branch, ones_for_missing_weight
from migrator.codemod.rule import File, Finding, Rule, Safety, Site

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

    ## Safety
    Guarded: a tensor on another device goes on to the body, which stays as it is.
    """

    code = "NPU102"
    safety = Safety.GUARDED
    paths = ("vllm/_custom_ops.py",)
    triggers = (r"def rms_norm\b",)
    sites = (Site("rms_norm", ("vllm/_custom_ops.py",)),)

    def check(self, file: File) -> Iterator[Finding]:
        """Report the wrapper of the RMS norm kernel."""
        yield from npu_branch(
            file,
            "rms_norm",
            tensor="input",
            known=("out", "input", "weight", "epsilon"),
            body=ones_for_missing_weight(file, "rms_norm") + BODY,
            reason="torch.ops._C.rms_norm is not built for NPU; torch_npu.npu_rms_norm returns "
            "what is copied to out",
        )
