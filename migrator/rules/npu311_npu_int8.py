# SPDX-License-Identifier: Apache-2.0
"""NPU311: linear layers and experts of int8."""

from __future__ import annotations

from migrator.codemod.rule import Rule, Safety


class NpuInt8(Rule):
    """Add linear layers and experts of int8 on NPUs.

    ## What it does
    Adds, in `vllm/model_executor/layers/quantization/`, `npu_int8.py`: products of int8 weights
    with activations that are quantised by token or by tensor (`npu_dynamic_quant`, `npu_quantize`,
    `npu_quant_matmul`), `npu_scaled_mm.py`: the kernel by which vLLM calls them,
    `npu_int8_experts.py`: a mixture's experts, and `npu_modelslim.py`: all of it for checkpoints of
    Ascend's ModelSlim.

    ## Why
    vLLM's kernels of int8 are CUTLASS's, Triton's, or another device's.

    ## Example
    ```python
    quantized, token_scale = torch_npu.npu_dynamic_quant(x)
    out = torch_npu.npu_quant_matmul(
        quantized, weight, scale, pertoken_scale=token_scale, output_dtype=x.dtype
    )
    ```

    ## Safety
    Guarded: the kernel is for platforms whose device is an NPU.
    """

    code = "NPU311"
    safety = Safety.GUARDED
    templates = (
        "vllm/model_executor/layers/quantization/npu_int8.py",
        "vllm/model_executor/layers/quantization/npu_int8_experts.py",
        "vllm/model_executor/layers/quantization/npu_modelslim.py",
        "vllm/model_executor/layers/quantization/npu_scaled_mm.py",
    )
