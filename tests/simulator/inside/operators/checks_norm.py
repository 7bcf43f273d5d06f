# SPDX-License-Identifier: Apache-2.0
"""Norms, element by element in float64."""

from __future__ import annotations

import math
import random

import torch
import torch_npu
from torch import Tensor

from tests.simulator.inside.operators.calling import (
    call,
    close,
    every_operator_was_tested,
    npu,
    rand,
    refused,
    sweep,
    wide,
)


def _rms(row: list[float], gamma: list[float], eps: float) -> tuple[list[float], float]:
    scale = 1 / math.sqrt(sum(v * v for v in row) / len(row) + eps)
    return [v * scale * g for v, g in zip(row, gamma, strict=True)], scale


def _rms_case(rng: random.Random, dtype: torch.dtype) -> tuple[Tensor, Tensor, float, int]:
    lead = [rng.randint(1, 4) for _ in range(rng.randint(1, 2))]
    tail = [rng.randint(1, 9) for _ in range(rng.randint(1, 2))]
    x = rand(rng, *lead, *tail, dtype=dtype) * 2 ** rng.randint(-3, 3)
    return x, rand(rng, *tail, dtype=dtype), rng.choice([1e-6, 1e-5]), math.prod(tail)


def check_rms_norm() -> None:
    for rng, dtype in sweep(12):
        x, gamma, eps, width = _rms_case(rng, dtype)
        y, rstd = call("npu::npu_rms_norm", npu(x), npu(gamma), eps)
        rows = [_rms(row, wide(gamma.flatten()), eps) for row in wide(x.reshape(-1, width))]
        size = max(abs(v) for row, _ in rows for v in row)
        close(y, [row for row, _ in rows], terms=width, size=size)
        close(rstd, [s for _, s in rows], terms=width, size=max(s for _, s in rows))
        assert rstd.shape == x.shape[: x.dim() - gamma.dim()] + (1,) * gamma.dim()
        y, _ = call("npu::npu_gemma_rms_norm", npu(x), npu(gamma), epsilon=eps)
        rows = [
            _rms(row, [1 + g for g in wide(gamma.flatten())], eps)
            for row in wide(x.reshape(-1, width))
        ]
        size = max(abs(v) for row, _ in rows for v in row)
        close(y, [row for row, _ in rows], terms=width, size=size)


def check_add_rms_norm() -> None:
    for rng, dtype in sweep(12):
        x, gamma, eps, width = _rms_case(rng, dtype)
        other = rand(rng, *x.shape, dtype=dtype)
        y, rstd, total = call("npu::npu_add_rms_norm", npu(x), npu(other), npu(gamma), eps)
        sums = (x.double() + other.double()).reshape(-1, width).tolist()
        rows = [_rms(row, wide(gamma.flatten()), eps) for row in sums]
        size = max(abs(v) for row, _ in rows for v in row)
        close(y, [row for row, _ in rows], terms=width, size=size)
        close(rstd, [s for _, s in rows], terms=width, size=max(s for _, s in rows))
        close(total, sums, size=max(abs(v) for row in sums for v in row))


def check_rms_norm_is_linear_in_memory() -> None:
    # A row of a view that is not contiguous is the row that the view shows.
    x = rand(random.Random(0), 6, 8)
    got, _ = torch_npu.npu_rms_norm(npu(x).t(), npu(torch.ones(6)))
    want, _ = torch_npu.npu_rms_norm(npu(x.t().contiguous()), npu(torch.ones(6)))
    assert torch.equal(got.cpu(), want.cpu())


def check_norm_refusals() -> None:
    x, g = npu(torch.ones(2, 4)), npu(torch.ones(4))
    with refused("npu_rms_norm", "'gamma'", "a tensor on the NPU", "cpu"):
        torch_npu.npu_rms_norm(x, g.cpu())
    with refused("npu_rms_norm", "'gamma'", "dtype of input, float32", "float16"):
        torch_npu.npu_rms_norm(x, g.half())
    with refused("npu_rms_norm", "'gamma'", "last dimensions of input (2, 4)", "(3,)"):
        torch_npu.npu_rms_norm(x, g[:3])
    with refused("npu_rms_norm", "'input'", "dtype float16 or bfloat16 or float32", "int32"):
        torch_npu.npu_rms_norm(x.int(), g.int())
    with refused("npu_add_rms_norm", "'x2'", "shape (2, 4)", "(1, 4)"):
        torch_npu.npu_add_rms_norm(x, x[:1], g)
    with refused("npu_gemma_rms_norm", "'input'", "contiguous"):
        torch_npu.npu_gemma_rms_norm(npu(torch.ones(4, 2)).t(), g)
    with refused("npu_gemma_rms_norm", "'input'", "not empty"):
        torch_npu.npu_gemma_rms_norm(x[:0], g)


def check_zz_every_operator_was_tested() -> None:
    every_operator_was_tested(__file__)
