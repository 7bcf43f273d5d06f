# SPDX-License-Identifier: Apache-2.0
"""NPU309: the backend of multi-head latent attention."""

from __future__ import annotations

from migrator.codemod.rule import Rule, Safety


class AscendMla(Rule):
    """Add the Ascend backend of multi-head latent attention.

    ## What it does
    Adds `vllm/v1/attention/backends/mla/ascend_mla.py`: absorbed decode over the latents, prefill,
    chunked prefill and prefix cache hits with torch_npu's fused attention, which takes the rotated
    parts of queries and keys apart. Latents and rotated keys lie in buffers of their own,
    `[blocks, 128, 1, 512]` and `[blocks, 128, 1, 64]`.

    ## Why
    Every backend of vLLM for latent attention calls CUDA, ROCm or Triton kernels.

    ## Example
    ```python
    class AscendMLABackend(AscendAttentionBackend): ...
    ```

    ## Safety
    Guarded: only the NPU platform names it.
    """

    code = "NPU309"
    safety = Safety.GUARDED
    templates = ("vllm/v1/attention/backends/mla/ascend_mla.py",)
