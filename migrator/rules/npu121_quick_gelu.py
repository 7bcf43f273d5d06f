# SPDX-License-Identifier: Apache-2.0
"""NPU121: QuickGELU on NPU."""

from __future__ import annotations

from collections.abc import Iterator

from migrator.codemod.recipes import forward_oot
from migrator.codemod.rule import File, Finding, Rule, Safety, Site

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

    ## Example
    ```python
    def forward_oot(self, x):
        if x.device.type == "npu" and (torch.compiler.is_compiling() or x.numel() > 0):
            return torch_npu.npu_fast_gelu(x.contiguous())
        return self.forward_native(x)
    ```

    ## Safety
    Guarded: a tensor on another device takes the native path, as an out-of-tree platform's did.
    """

    code = "NPU121"
    safety = Safety.GUARDED
    paths = ("vllm/model_executor/layers/activation.py",)
    triggers = (r"class QuickGELU\b",)
    sites = (
        Site(
            "QuickGELU.forward_oot",
            ("vllm/model_executor/layers/activation.py",),
        ),
    )

    def check(self, file: File) -> Iterator[Finding]:
        """Report the class where it has no `forward_oot` for NPU tensors."""
        yield from forward_oot(
            file,
            "QuickGELU",
            takes=("self", "x"),
            body=BODY,
            reason="QuickGELU falls to the native path on an out-of-tree platform; "
            "torch_npu.npu_fast_gelu is the same in one operator",
        )
