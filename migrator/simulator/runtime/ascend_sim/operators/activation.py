# SPDX-License-Identifier: Apache-2.0
"""Activations: SwiGLU in its two forms, fast GELU, GELU, SiLU."""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812

from . import _checks as check
from ._registry import operator


def _split_dimension(x: torch.Tensor, dim: int, name: str) -> int:
    check.require(-x.dim() <= dim < x.dim(), "dim", f"a dimension of {name}, rank {x.dim()}", dim)
    check.require(x.shape[dim] % 2 == 0, name, f"an even size in dimension {dim}", tuple(x.shape))
    return dim if dim >= 0 else dim + x.dim()


@operator(
    "npu::npu_swiglu",
    {"2.8.0": "npu_swiglu(Tensor input, int dim=-1) -> Tensor"},
)
def npu_swiglu(input: torch.Tensor, dim: int = -1) -> torch.Tensor:  # noqa: A002
    """``silu(a) * b`` for the halves a, b of ``input`` along ``dim``, which the result halves."""
    axis = _split_dimension(input, dim, "input")
    gate, up = input.float().chunk(2, axis)
    return (F.silu(gate) * up).to(input.dtype)


@operator(
    "npu::npu_clipped_swiglu",
    {
        "2.8.0": "npu_clipped_swiglu(Tensor x, *, Tensor? group_index=None, int dim=-1,"
        " float alpha=1.702, float limit=7.0, float bias=1.0, bool interleaved=True) -> Tensor",
    },
)
def npu_clipped_swiglu(
    x: torch.Tensor,
    *,
    group_index: torch.Tensor | None = None,
    dim: int = -1,
    alpha: float = 1.702,
    limit: float = 7.0,
    bias: float = 1.0,
    interleaved: bool = True,
) -> torch.Tensor:
    """``a * sigmoid(alpha * a) * (b + bias)``, a cut at ``limit`` above, b on both sides.

    ``interleaved``: a and b are the even and odd elements of the dimensions from ``dim`` on
    taken as one, else its halves. Rows past the sum of ``group_index`` are undefined on the
    device and NaN here.
    """
    axis = _split_dimension(x, dim, "x")
    check.require(x.dim() > 1, "x", "more than one dimension", x.dim())
    rows = x.reshape(x.shape[:axis].numel(), -1).float()
    used = rows.shape[0]
    if group_index is not None:
        used = int(group_index.sum())
        check.require(
            0 <= used <= rows.shape[0], "group_index", f"a sum of at most {rows.shape[0]}", used
        )
    gate, up = (rows[:, ::2], rows[:, 1::2]) if interleaved else rows.chunk(2, 1)
    gate, up = gate.clamp(max=limit), up.clamp(-limit, limit)
    y = gate * torch.sigmoid(alpha * gate) * (up + bias)
    y[used:] = torch.nan
    size = list(x.shape)
    size[axis] //= 2
    return y.reshape(size).to(x.dtype)


@operator(
    "npu::npu_geglu",
    {
        "2.8.0": "npu_geglu(Tensor input, int dim=-1, int approximate=1,"
        " bool activate_left=False) -> (Tensor, Tensor)",
    },
    meta_defects={"2.8": "gives both results the shape of input"},
)
def npu_geglu(
    input: torch.Tensor,  # noqa: A002
    dim: int = -1,
    approximate: int = 1,
    activate_left: bool = False,
) -> tuple[torch.Tensor, torch.Tensor]:
    """``a * gelu(b)`` for the halves a, b of ``input``, or ``gelu(a) * b`` with ``activate_left``.

    ``approximate`` 1 (the default) is GELU by the tanh formula, 0 the exact one. The second
    result is the GELU alone.
    """
    axis = _split_dimension(input, dim, "input")
    left, right = input.float().chunk(2, axis)
    gate, other = (left, right) if activate_left else (right, left)
    gelu = F.gelu(gate, approximate="tanh" if approximate else "none")
    return (gelu * other).to(input.dtype), gelu.to(input.dtype)


@operator(
    "npu::npu_fast_gelu",
    {"2.8.0": "npu_fast_gelu(Tensor input) -> Tensor"},
)
def npu_fast_gelu(input: torch.Tensor) -> torch.Tensor:  # noqa: A002
    """``x / (1 + exp(-1.702 x))``: QuickGELU."""
    x = input.float()
    return (x * torch.sigmoid(1.702 * x)).to(input.dtype)


@operator(
    "npu::fast_gelu",
    {"2.8.0": "fast_gelu(Tensor input) -> Tensor"},
)
def fast_gelu(input: torch.Tensor) -> torch.Tensor:  # noqa: A002
    """As :func:`npu_fast_gelu`."""
    x = input.float()
    return (x * torch.sigmoid(1.702 * x)).to(input.dtype)


@operator(
    "npu::npu_gelu",
    {"2.8.0": "npu_gelu(Tensor input, *, str approximate='none') -> Tensor"},
)
def npu_gelu(input: torch.Tensor, *, approximate: str = "none") -> torch.Tensor:  # noqa: A002
    """GELU, exact or by the tanh formula."""
    x = input.float()
    return F.gelu(x, approximate=approximate).to(input.dtype)


@operator(
    "npu::npu_silu",
    {"2.8.0": "npu_silu(Tensor input) -> Tensor"},
)
def npu_silu(input: torch.Tensor) -> torch.Tensor:  # noqa: A002
    """``x * sigmoid(x)``."""
    return F.silu(input.float()).to(input.dtype)


@operator(
    "npu::npu_silu_",
    {"2.8.0": "npu_silu_(Tensor(a!) input) -> Tensor(a!)"},
)
def npu_silu_(input: torch.Tensor) -> torch.Tensor:  # noqa: A002
    """``x * sigmoid(x)`` in place."""
    input.copy_(F.silu(input.float()))
    return input
