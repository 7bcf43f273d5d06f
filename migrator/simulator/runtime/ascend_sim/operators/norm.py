# SPDX-License-Identifier: Apache-2.0
"""RMS normalisation: npu_rms_norm, npu_add_rms_norm, npu_gemma_rms_norm."""

from __future__ import annotations

import torch

from . import _checks as check
from ._registry import operator


def _operands(x: torch.Tensor, gamma: torch.Tensor, name: str = "input") -> None:
    check.require(
        0 < gamma.dim() <= x.dim() and x.shape[x.dim() - gamma.dim() :] == gamma.shape,
        "gamma",
        f"a shape equal to the last dimensions of {name} {tuple(x.shape)}",
        tuple(gamma.shape),
    )


def _normalise(x: torch.Tensor, gamma: torch.Tensor, epsilon: float) -> tuple[torch.Tensor, ...]:
    """The product with the float32 gamma, and 1 / rms, of a float32 x."""
    axes = list(range(x.dim() - gamma.dim(), x.dim()))
    rstd = torch.rsqrt(x.square().mean(axes, keepdim=True) + epsilon)
    return x * rstd * gamma, rstd


@operator(
    "npu::npu_rms_norm",
    {
        "2.8.0": "npu_rms_norm(Tensor input, Tensor gamma, float epsilon=1e-06)"
        " -> (Tensor, Tensor)",
    },
)
def npu_rms_norm(
    input: torch.Tensor,  # noqa: A002
    gamma: torch.Tensor,
    epsilon: float = 1e-6,
) -> tuple[torch.Tensor, torch.Tensor]:
    """RMS norm over the dimensions that ``gamma`` spans.

    Returns y (shape and dtype of ``input``) and rstd, float32, shaped like ``input`` with the
    normalised dimensions at 1.
    """
    _operands(input, gamma)
    y, rstd = _normalise(input.float(), gamma.float(), epsilon)
    return y.to(input.dtype), rstd


@operator(
    "npu::npu_add_rms_norm",
    {
        "2.8.0": "npu_add_rms_norm(Tensor x1, Tensor x2, Tensor gamma, float epsilon=1e-06)"
        " -> (Tensor, Tensor, Tensor)",
    },
)
def npu_add_rms_norm(
    x1: torch.Tensor, x2: torch.Tensor, gamma: torch.Tensor, epsilon: float = 1e-6
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """RMS norm of ``x1 + x2``: y, rstd (float32) and the sum, the last in the inputs' dtype.

    The norm takes the float32 sum, not the rounded one that is returned.
    """
    _operands(x1, gamma, "x1")
    check.shape("x2", x2, *x1.shape)
    total = x1.float() + x2.float()
    y, rstd = _normalise(total, gamma.float(), epsilon)
    return y.to(x1.dtype), rstd, total.to(x1.dtype)


@operator(
    "npu::npu_gemma_rms_norm",
    {
        "2.8.0": "npu_gemma_rms_norm(Tensor input, Tensor gamma, float epsilon=1e-06)"
        " -> (Tensor, Tensor)",
    },
)
def npu_gemma_rms_norm(
    input: torch.Tensor,  # noqa: A002
    gamma: torch.Tensor,
    epsilon: float = 1e-6,
) -> tuple[torch.Tensor, torch.Tensor]:
    """RMS norm with the weight ``1 + gamma``; results as :func:`npu_rms_norm`."""
    _operands(input, gamma)
    check.require(input.numel() > 0, "input", "a tensor that is not empty", tuple(input.shape))
    y, rstd = _normalise(input.float(), gamma.float() + 1.0, epsilon)
    return y.to(input.dtype), rstd
