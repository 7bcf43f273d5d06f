# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright contributors to the vLLM project
"""Products of int8 activations with int8 weights on an Ascend NPU."""

from __future__ import annotations

import torch

import vllm.envs as envs

# The table of kernels that leads here is imported on every platform.
try:
    import torch_npu
except ImportError:
    torch_npu = None

FRACTAL_NZ = 29
"""ACL_FORMAT_FRACTAL_NZ: what the matrix unit reads without rearranging."""


def int8_weight(weight: torch.Tensor) -> torch.Tensor:
    """A weight as `npu_quant_matmul` reads it fastest.

    Args:
        weight: [outputs, inputs] int8.

    Returns:
        [inputs, outputs], contiguous; in FRACTAL_NZ if VLLM_NPU_WEIGHT_NZ is set.

    """
    weight = weight.t().contiguous()
    if envs.VLLM_NPU_WEIGHT_NZ:
        weight = torch_npu.npu_format_cast(weight, FRACTAL_NZ)
    return weight


def output_scale(scale: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """The scale of a product of static scales, as its operator takes it.

    For float16 the unit behind the matrix unit applies it, which reads a format of
    its own. Other results are scaled by vector operations.

    Args:
        scale: [outputs] float32: of the weights, times the scale of the input.
        dtype: of the result.

    """
    if dtype is torch.float16:
        return torch_npu.npu_trans_quant_param(scale)
    return scale


def dynamic_linear(
    x: torch.Tensor,
    weight: torch.Tensor,
    scale: torch.Tensor,
    bias: torch.Tensor | None = None,
) -> torch.Tensor:
    """A linear layer that quantizes each token by the greatest of its own values.

    Args:
        x: [..., inputs]
        weight: as from `int8_weight`.
        scale: [outputs] float32, of the weights.
        bias: [outputs] of the dtype of x.

    Returns:
        [..., outputs] of the dtype of x.

    """
    quantized, token_scale = torch_npu.npu_dynamic_quant(x.reshape(-1, x.shape[-1]))
    out = torch_npu.npu_quant_matmul(
        quantized,
        weight,
        scale,
        pertoken_scale=token_scale,
        bias=bias,
        output_dtype=x.dtype,
    )
    return out.view(*x.shape[:-1], -1)


def static_linear(
    x: torch.Tensor,
    weight: torch.Tensor,
    scale: torch.Tensor,
    input_scale: torch.Tensor,
    input_zero_point: torch.Tensor | None = None,
    correction: torch.Tensor | None = None,
    bias: torch.Tensor | None = None,
) -> torch.Tensor:
    """A linear layer that quantizes all tokens by one scale, which is known before.

    Args:
        x: [..., inputs]
        weight: as from `int8_weight`.
        scale: [outputs], as from `output_scale`.
        input_scale: [1] float32, that x is divided by.
        input_zero_point: [1] int32, that is added to the quotient.
        correction: [outputs] int32, added to the product of the integers.
        bias: [outputs] of the dtype of x.

    Returns:
        [..., outputs] of the dtype of x.

    """
    quantized = torch_npu.npu_quantize(
        x.reshape(-1, x.shape[-1]),
        input_scale,
        input_zero_point,
        torch.qint8,
        axis=-1,
        div_mode=True,
    )
    out = torch_npu.npu_quant_matmul(
        quantized, weight, scale, bias=correction, output_dtype=x.dtype
    )
    if bias is not None:
        # The operator takes one of the two, and for float16 no other than int32.
        out = out + bias
    return out.view(*x.shape[:-1], -1)
