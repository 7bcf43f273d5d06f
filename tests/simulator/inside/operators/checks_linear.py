# SPDX-License-Identifier: Apache-2.0
"""Matrix products, casts and fills, element by element in float64."""

from __future__ import annotations

import torch
import torch_npu

from tests.simulator.inside.operators.calling import (
    call,
    called,
    close,
    every_operator_was_tested,
    matrix_product,
    npu,
    rand,
    refused,
    sweep,
    wide,
)


def check_linear() -> None:
    for rng, dtype in sweep(4):
        rows, k, n = rng.randint(1, 4), rng.randint(1, 6), rng.randint(1, 5)
        x, w = rand(rng, rows, k, dtype=dtype), rand(rng, n, k, dtype=dtype)
        b = rand(rng, n, dtype=dtype)
        got = call("npu::npu_linear", npu(x), npu(w), npu(b))
        close(got, matrix_product(x, w.t(), wide(b)), terms=k, size=16)
        for target in (torch.float32, torch.float16, torch.bfloat16, torch.int32):
            cast = call("npu::_npu_dtype_cast", npu(x), target)
            assert cast.dtype == target
            assert torch.equal(cast.cpu(), x.to(target))
            number = torch_npu.npu_dtype_cast(npu(x), target)
            called.add("npu::npu_dtype_cast")
            assert torch.equal(number.cpu(), x.to(target))
        own = npu(x)
        before = own.data_ptr()
        filled = call("npu::one_", own)
        assert filled.data_ptr() == before
        assert (own == 1).all()


def check_accumulated_product() -> None:
    if not hasattr(torch_npu, "_npu_matmul_add_fp32"):
        return  # newer releases have none
    for rng, dtype in sweep(4):
        if dtype == torch.float32:
            continue
        k, rows, n = rng.randint(1, 4), rng.randint(1, 6), rng.randint(1, 5)
        x, w = rand(rng, k, rows, dtype=dtype), rand(rng, k, n, dtype=dtype)
        before = rand(rng, rows, n)
        total = npu(before)
        call("atb::_npu_matmul_add_fp32", npu(x), npu(w), total)
        product = matrix_product(x.t(), w, None)
        wanted = [
            [a + b for a, b in zip(*both, strict=True)]
            for both in zip(product, wide(before), strict=True)
        ]
        close(total, wanted, terms=k, size=16)
        with refused("_npu_matmul_add_fp32", "'weight'", f"shape ({k}, *)"):
            torch_npu._npu_matmul_add_fp32(npu(x), npu(rand(rng, k + 1, n, dtype=dtype)), total)


def check_zz_every_operator_was_tested() -> None:
    every_operator_was_tested(__file__)
