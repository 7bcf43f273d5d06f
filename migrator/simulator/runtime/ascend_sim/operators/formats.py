# SPDX-License-Identifier: Apache-2.0
"""Casts of the memory format: ND and FRACTAL_NZ.

The cast tensor has torch_npu's own storage of the format asked for, so get_npu_format and the
allocation are the real ones; its values lie in it as they would in ND, which no operator of the
simulator can tell. Without ``torch.npu.config.allow_internal_format = True`` torch_npu itself
warns and makes an ND tensor.
"""

from __future__ import annotations

from typing import Any

import torch

from . import _checks as check
from ._registry import operator

ND, FRACTAL_NZ = 2, 29
_REFUSED = {"customize_dtype": "packed dtypes", "input_dtype": "packed dtypes"}


def _cast(tensor: torch.Tensor, acl_format: int) -> torch.Tensor:
    check.require(
        acl_format != FRACTAL_NZ or tensor.dim() >= 2,
        "input",
        "two dimensions at least, for FRACTAL_NZ",
        tuple(tensor.shape),
    )
    npu: Any = torch.ops.npu
    result: torch.Tensor = npu.empty_with_format(
        list(tensor.shape), dtype=tensor.dtype, device=tensor.device, acl_format=acl_format
    )
    result.copy_(tensor)
    return result


def _format_of(tensor: torch.Tensor) -> int:
    return int(torch.ops.npu.get_npu_format(tensor))


def _adopt(tensor: torch.Tensor, cast: torch.Tensor) -> torch.Tensor:
    """Make ``tensor`` the cast one, as torch_npu does: it gets the other's storage."""
    tensor.set_(cast.untyped_storage(), 0, cast.shape, cast.stride())
    return tensor


@operator(
    "npu::npu_format_cast",
    {
        "2.8.0": "npu_format_cast(Tensor input, int acl_format, int? customize_dtype=None)"
        " -> Tensor",
        "2.9.0": "npu_format_cast(Tensor input, int acl_format, *, int? customize_dtype=None,"
        " int? input_dtype=None) -> Tensor",
    },
    refused=_REFUSED,
    on_device=True,
)
def npu_format_cast(input: torch.Tensor, acl_format: int) -> torch.Tensor:  # noqa: A002
    """A copy of ``input`` in the format ``acl_format``, or ``input`` where it has it already."""
    return input if _format_of(input) == acl_format else _cast(input, acl_format)


@operator(
    "npu::npu_format_cast.Tensor",
    {
        "2.8.0": "npu_format_cast.Tensor(Tensor input, Tensor dst, int? customize_dtype=None)"
        " -> Tensor",
        "2.9.0": "npu_format_cast.Tensor(Tensor input, Tensor dst, *,"
        " int? customize_dtype=None, int? input_dtype=None) -> Tensor",
    },
    refused=_REFUSED,
    on_device=True,
)
def npu_format_cast_tensor(input: torch.Tensor, dst: torch.Tensor) -> torch.Tensor:  # noqa: A002
    """As :func:`npu_format_cast`, to the format of ``dst``."""
    return npu_format_cast.function(input, _format_of(dst))


@operator(
    "npu::npu_format_cast_.acl_format",
    {
        "2.8.0": "npu_format_cast_.acl_format(Tensor(a!) input, int acl_format,"
        " int? customize_dtype=None) -> Tensor(a!)",
        "2.9.0": "npu_format_cast_.acl_format(Tensor(a!) input, int acl_format, *,"
        " int? customize_dtype=None, int? input_dtype=None) -> Tensor(a!)",
    },
    refused=_REFUSED,
    on_device=True,
)
def npu_format_cast_acl_format_(input: torch.Tensor, acl_format: int) -> torch.Tensor:  # noqa: A002
    """Cast ``input`` itself: it moves to new storage."""
    return input if _format_of(input) == acl_format else _adopt(input, _cast(input, acl_format))


@operator(
    "npu::npu_format_cast_",
    {
        "2.8.0": "npu_format_cast_(Tensor(a!) input, Tensor src, int? customize_dtype=None)"
        " -> Tensor(a!)",
        "2.9.0": "npu_format_cast_(Tensor(a!) input, Tensor src, *, int? customize_dtype=None,"
        " int? input_dtype=None) -> Tensor(a!)",
    },
    refused=_REFUSED,
    on_device=True,
)
def npu_format_cast_(input: torch.Tensor, src: torch.Tensor) -> torch.Tensor:  # noqa: A002
    """Copy the values of ``src`` to ``input``, which keeps its format."""
    check.shape("src", src, *input.shape)
    return input.copy_(src)


@operator(
    "npu::_npu_format_cast",
    {"2.8.0": "_npu_format_cast(Tensor input, int acl_format) -> Tensor"},
    on_device=True,
)
def _npu_format_cast(input: torch.Tensor, acl_format: int) -> torch.Tensor:  # noqa: A002
    """As :func:`npu_format_cast`."""
    return npu_format_cast.function(input, acl_format)
