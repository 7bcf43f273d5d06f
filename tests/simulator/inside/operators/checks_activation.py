# SPDX-License-Identifier: Apache-2.0
"""Activations, element by element in float64."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch_npu

from tests.simulator.inside.operators.calling import (
    call,
    close,
    every_operator_was_tested,
    npu,
    rand,
    refused,
    sigmoid,
    sweep,
    wide,
)


def check_swiglu() -> None:
    for rng, dtype in sweep(8):
        shape = [rng.randint(1, 4) * 2 for _ in range(rng.randint(1, 3))]
        dim = rng.randrange(-len(shape), len(shape))
        x = rand(rng, *shape, dtype=dtype) * 3
        y = call("npu::npu_swiglu", npu(x), dim)
        half = shape[dim] // 2
        moved = x.double().movedim(dim, 0)
        want = torch.empty_like(moved[:half])
        for i in range(half):
            a, b = moved[i].flatten(), moved[half + i].flatten()
            want[i] = torch.tensor(
                [p * sigmoid(p) * q for p, q in zip(a.tolist(), b.tolist(), strict=True)],
                dtype=torch.float64,
            ).view(moved[i].shape)
        close(y, want.movedim(0, dim).tolist(), size=float(want.abs().max()))


def _gelu(x: float, tanh: bool) -> float:
    if tanh:
        return 0.5 * x * (1 + math.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
    return x * 0.5 * math.erfc(-x / math.sqrt(2))


def check_geglu() -> None:
    for rng, dtype in sweep(8):
        rows, half, left = rng.randint(1, 4), rng.randint(1, 5), rng.random() < 0.5
        tanh = rng.random() < 0.5
        x = rand(rng, rows, 2 * half, dtype=dtype) * 3
        y, alone = call("npu::npu_geglu", npu(x), -1, int(tanh), left)
        gates, want = [], []
        for row in wide(x):
            a, b = row[:half], row[half:]
            gate = [_gelu(v, tanh) for v in (a if left else b)]
            gates.append(gate)
            want.append([g * v for g, v in zip(gate, b if left else a, strict=True)])
        close(alone, gates, size=16)
        close(y, want, size=100)
    default, _ = torch_npu.npu_geglu(npu(x))
    close(
        default,
        [_gelu(b, True) * a for r in wide(x) for a, b in zip(r[:half], r[half:], strict=True)],
        size=100,
    )


def check_clipped_swiglu() -> None:
    for rng, dtype in sweep(6):
        rows, width = rng.randint(1, 5), rng.randint(1, 5) * 2
        x = rand(rng, rows, width, dtype=dtype) * 6
        interleaved = rng.random() < 0.5
        used = rng.randint(0, rows)
        parts = npu(torch.tensor([used // 2, used - used // 2]))
        y = call(
            "npu::npu_clipped_swiglu",
            npu(x),
            group_index=parts,
            alpha=1.5,
            limit=5.0,
            bias=0.5,
            interleaved=interleaved,
        )
        want = []
        for n, row in enumerate(wide(x)):
            for i in range(width // 2):
                a, b = (
                    (row[2 * i], row[2 * i + 1]) if interleaved else (row[i], row[width // 2 + i])
                )
                a, b = min(a, 5.0), max(-5.0, min(b, 5.0))
                want.append(a * sigmoid(1.5 * a) * (b + 0.5) if n < used else math.nan)
        close(y, want, size=30)


def check_pointwise() -> None:
    formulas: dict[str, Callable[[float], float]] = {
        "npu::npu_fast_gelu": lambda v: v * sigmoid(1.702 * v),
        "npu::fast_gelu": lambda v: v * sigmoid(1.702 * v),
        "npu::npu_silu": lambda v: v * sigmoid(v),
        "npu::npu_gelu": lambda v: _gelu(v, False),
    }
    for rng, dtype in sweep(4):
        x = rand(rng, rng.randint(1, 4), rng.randint(1, 9), dtype=dtype) * 4
        for name, formula in formulas.items():
            close(call(name, npu(x)), [formula(v) for v in wide(x.flatten())], size=16)
        tanh = [_gelu(v, True) for v in wide(x.flatten())]
        close(call("npu::npu_gelu", npu(x), approximate="tanh"), tanh, size=16)
        own = npu(x)
        before = own.data_ptr()
        result = call("npu::npu_silu_", own)
        assert result.data_ptr() == before
        close(own, [v * sigmoid(v) for v in wide(x.flatten())], size=16)


def check_activation_refusals() -> None:
    with refused("npu_swiglu", "'input'", "even size in dimension -1", "(2, 3)"):
        torch_npu.npu_swiglu(npu(torch.ones(2, 3)))
    with refused("npu_swiglu", "'dim'", "rank 2", "2"):
        torch_npu.npu_swiglu(npu(torch.ones(2, 4)), dim=2)
    with refused("npu_swiglu", "'input'", "dtype", "int64"):
        torch_npu.npu_swiglu(npu(torch.ones(2, 4, dtype=torch.int64)))
    with refused("npu_clipped_swiglu", "'group_index'", "at most 2", "3"):
        torch_npu.npu_clipped_swiglu(npu(torch.ones(2, 4)), group_index=npu(torch.tensor([3])))
    with refused("npu_clipped_swiglu", "'x'", "contiguous"):
        torch_npu.npu_clipped_swiglu(npu(torch.ones(4, 4)).t())
    with refused("npu_gelu", "'approximate'", "'none' or 'tanh'"):
        torch_npu.npu_gelu(npu(torch.ones(2)), approximate="erf")


def check_zz_every_operator_was_tested() -> None:
    every_operator_was_tested(__file__)
