# SPDX-License-Identifier: Apache-2.0
"""NPU308: LoRA."""

from __future__ import annotations

from migrator.codemod.rule import Rule, Safety


class NpuPunica(Rule):
    """Add the products with LoRA adapters on NPUs.

    ## What it does
    Adds `vllm/lora/punica_wrapper/punica_npu.py`: a `PunicaWrapperBase` over dense products, one
    for each slot of an adapter, as custom operators.

    ## Why
    vLLM's wrapper for GPUs is made of Triton kernels. The one for CPUs reads Python state which a
    graph keeps as it was at its capture, and gives a request without an adapter the last slot's.

    ## Example
    ```python
    delta = torch.where(mask[slot], F.linear(F.linear(x, a[slot]), b[slot]), delta)
    ```

    ## Safety
    Guarded: only `NPUPlatform` names the file.
    """

    code = "NPU308"
    safety = Safety.GUARDED
    templates = ("vllm/lora/punica_wrapper/punica_npu.py",)
