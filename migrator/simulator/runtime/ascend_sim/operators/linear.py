# SPDX-License-Identifier: Apache-2.0
"""npu_linear and the casts of dtype."""

from __future__ import annotations

import torch

from . import _checks as check
from ._registry import operator

# Numbers of c10::ScalarType, which torch_npu takes for a dtype from 2.9 on.
_SCALAR_TYPES = {
    0: torch.uint8,
    1: torch.int8,
    2: torch.int16,
    3: torch.int32,
    4: torch.int64,
    5: torch.float16,
    6: torch.float32,
    11: torch.bool,
    15: torch.bfloat16,
}


@operator(
    "npu::npu_linear",
    {"2.8.0": "npu_linear(Tensor input, Tensor weight, Tensor? bias=None) -> Tensor"},
)
def npu_linear(
    input: torch.Tensor,  # noqa: A002
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
) -> torch.Tensor:
    """``input @ weight.T + bias``."""
    check.shape("weight", weight, None, input.shape[1])
    product = input.float() @ weight.float().T
    if bias is not None:
        check.dtype("bias", bias, input.dtype, torch.float32)
        check.shape("bias", bias, weight.shape[0])
        product = product + bias.float()
    return product.to(input.dtype)


@operator(
    "atb::_npu_matmul_add_fp32",
    {"2.8.0": "_npu_matmul_add_fp32(Tensor x, Tensor weight, Tensor(a!) C) -> ()"},
)
def _npu_matmul_add_fp32(
    x: torch.Tensor,
    weight: torch.Tensor,
    C: torch.Tensor,  # noqa: N803 - the schema's name
) -> None:
    """``C += x.T @ weight``, in float32."""
    check.shape("weight", weight, x.shape[0], None)
    check.shape("C", C, x.shape[1], weight.shape[1])
    C.add_(x.float().T @ weight.float())


def scalar_type(dtype: int | torch.dtype) -> torch.dtype:
    """The dtype of a number of c10::ScalarType, or the dtype itself."""
    if isinstance(dtype, torch.dtype):
        return dtype
    check.require(dtype in _SCALAR_TYPES, "dtype", f"one of {sorted(_SCALAR_TYPES)}", dtype)
    return _SCALAR_TYPES[dtype]


@operator(
    "npu::npu_dtype_cast",
    {
        "2.8.0": "npu_dtype_cast(Tensor input, ScalarType dtype) -> Tensor",
        "2.9.0": "npu_dtype_cast(Tensor input, int dtype, int? input_dtype=None) -> Tensor",
    },
    refused={"input_dtype": "packed dtypes"},
)
def npu_dtype_cast(input: torch.Tensor, dtype: int | torch.dtype) -> torch.Tensor:  # noqa: A002
    """``input`` in another dtype; the number of a dtype is that of c10::ScalarType."""
    return _cast(input, dtype)


@operator(
    "npu::_npu_dtype_cast",
    {"2.8.0": "_npu_dtype_cast(Tensor input, ScalarType dtype) -> Tensor"},
)
def _npu_dtype_cast(input: torch.Tensor, dtype: int | torch.dtype) -> torch.Tensor:  # noqa: A002
    """As :func:`npu_dtype_cast`."""
    return _cast(input, dtype)


def _cast(tensor: torch.Tensor, dtype: int | torch.dtype) -> torch.Tensor:
    result = torch.empty_like(tensor, dtype=scalar_type(dtype))
    result.copy_(tensor)
    return result


@operator(
    "npu::one_",
    {"2.8.0": "one_(Tensor(a!) input) -> Tensor(a!)"},
)
def one_(input: torch.Tensor) -> torch.Tensor:  # noqa: A002
    """Fill with 1."""
    input.fill_(1)
    return input
