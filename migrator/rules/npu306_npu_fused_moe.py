# SPDX-License-Identifier: Apache-2.0
"""NPU306: the mixture of experts."""

from __future__ import annotations

from migrator.codemod.rule import Rule, Safety


class NpuFusedMoe(Rule):
    """Add the router and the experts of an unquantised mixture on NPUs.

    ## What it does
    Adds `vllm/model_executor/layers/fused_moe/npu_fused_moe.py`: one function that chooses experts
    and one that computes them.

    ## Why
    vLLM's are CUDA and Triton kernels. NPU230 and NPU231 call these instead.

    ## Example
    ```python
    weights, ids, rows = torch_npu.npu_moe_gating_top_k_softmax(logits, finished=None, k=top_k)
    ```

    ## Safety
    Guarded: only branches for NPU tensors import it.
    """

    code = "NPU306"
    safety = Safety.GUARDED
    templates = ("vllm/model_executor/layers/fused_moe/npu_fused_moe.py",)
