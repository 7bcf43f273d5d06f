# SPDX-License-Identifier: Apache-2.0
"""NPU304: the attention backend."""

from __future__ import annotations

from migrator.codemod.rule import Rule, Safety


class AscendAttention(Rule):
    """Add the Ascend attention backend over a paged KV cache.

    ## What it does
    Adds `vllm/v1/attention/backends/ascend_attn.py`: prefill, decode, chunked prefill, prefix
    cache hits and mixed batches with torch_npu's fused operators. Keys and values lie in buffers
    of their own, `[blocks, 128, kv_heads, head_size]` each.

    ## Why
    Every attention backend of vLLM calls CUDA, ROCm, XPU or Triton kernels.

    ## Example
    ```python
    class AscendAttentionBackend(AttentionBackend): ...
    ```

    ## Safety
    Guarded: only the NPU platform names it.
    """

    code = "NPU304"
    safety = Safety.GUARDED
    templates = ("vllm/v1/attention/backends/ascend_attn.py",)
