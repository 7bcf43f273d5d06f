# SPDX-License-Identifier: Apache-2.0
"""The operators of quantization against integers and float64, element by element.

Sums of integers have to be equal to the last one.
"""

from __future__ import annotations

import random
import struct
from fractions import Fraction

import torch
from torch import Tensor

from ascend_sim.operators import quantization
from tests.simulator.inside.operators.calling import (
    HALVES,
    call,
    close,
    every_operator_was_tested,
    npu,
    rand,
    refused,
    relaxed,
)


def whole(value: float) -> int:
    """Rounded, halves to even, and cut off at the ends of int8."""
    return max(-128, min(127, round(Fraction(value))))


def ints(rng: random.Random, *shape: int, low: int = -128, high: int = 127) -> Tensor:
    generator = torch.Generator().manual_seed(rng.getrandbits(32))
    return torch.randint(low, high + 1, shape, generator=generator, dtype=torch.int64)


def product(a: Tensor, b: Tensor) -> list[list[int]]:
    """Of two integer matrices, in Python's integers."""
    columns = list(zip(*b.tolist(), strict=True))
    return [[sum(x * y for x, y in zip(r, c, strict=True)) for c in columns] for r in a.tolist()]


def fp19(value: float) -> float:
    """A float32 without its 13 lowest bits."""
    (bits,) = struct.unpack("<I", struct.pack("<f", value))
    (cut,) = struct.unpack("<f", struct.pack("<I", bits & 0xFFFFE000))
    return float(cut)


def check_dynamic_quant() -> None:
    for seed in range(8):
        for dtype in HALVES:
            rng = random.Random(f"{seed} {dtype}")
            x = rand(rng, 2, 3, rng.randint(1, 40), dtype=dtype) * 2.0 ** rng.randint(-3, 3)
            q, scale = call("npu::npu_dynamic_quant", npu(x))
            assert q.dtype == torch.int8
            assert scale.dtype == torch.float32
            for row, got, step in zip(
                x.flatten(0, 1).double().tolist(),
                q.cpu().flatten(0, 1).tolist(),
                scale.cpu().flatten().tolist(),
                strict=True,
            ):
                # The quotient is rounded to float32 before it is rounded to an integer.
                peak = max(abs(v) for v in row)
                assert abs(step - peak / 127) <= 2**-23 * step
                assert max(map(abs, got)) == 127
                for value, found in zip(row, got, strict=True):
                    assert abs(found - value / step) <= 0.5 + 1e-4
    zero = call("npu::npu_dynamic_quant", npu(torch.zeros(2, 4, dtype=torch.float16)))
    assert not zero[0].any()
    assert not zero[1].any()
    smooth = torch.tensor([1.0, 2.0, 4.0, 0.5], dtype=torch.float16)
    x = torch.tensor([[1.0, 1.0, 1.0, 1.0]], dtype=torch.float16)
    q, scale = call("npu::npu_dynamic_quant", npu(x), smooth_scales=npu(smooth))
    assert q.cpu().tolist() == [[32, 64, 127, 16]]
    close(scale, [4 / 127])
    with refused("npu_dynamic_quant", "'input'", "float16 or bfloat16"):
        call("npu::npu_dynamic_quant", npu(torch.ones(2, 4)))
    with relaxed("float32"):
        call("npu::npu_dynamic_quant", npu(torch.ones(2, 4)))
    with refused("npu_dynamic_quant", "two dimensions"):
        call("npu::npu_dynamic_quant", npu(torch.ones(4, dtype=torch.float16)))
    with refused("npu_dynamic_quant", "'dst_type'", "int8"):
        call(
            "npu::npu_dynamic_quant",
            npu(torch.ones(2, 8, dtype=torch.float16)),
            dst_type=torch.quint4x2,
        )


def check_quantize() -> None:
    x = torch.tensor([[0.5, 1.5, 2.5, -0.5, -1.5, 1000.0, -1000.0, 0.0]], dtype=torch.float16)
    one = npu(torch.ones(1))
    got = call("npu::npu_quantize", npu(x), one, None, torch.qint8, -1, True)
    assert got.cpu().tolist() == [[0, 2, 2, 0, -2, 127, -128, 0]]
    zero = npu(torch.tensor([3], dtype=torch.int32))
    got = call("npu::npu_quantize", npu(x), one, zero, torch.qint8, -1, True)
    # 3 is odd: a half goes the other way.
    assert got.cpu().tolist() == [[4, 4, 6, 2, 2, 127, -128, 3]]
    for seed in range(6):
        rng = random.Random(seed)
        x = rand(rng, 3, 8, dtype=torch.bfloat16)
        scales = rand(rng, 8).abs() + 0.01
        got = call("npu::npu_quantize", npu(x), npu(scales), None, torch.qint8, -1, False)
        want = x.float() * scales
        for value, found in zip(want.flatten().tolist(), got.cpu().flatten().tolist(), strict=True):
            assert found == whole(value)
    with refused("npu_quantize", "'scales'", "float32 or bfloat16"):
        call("npu::npu_quantize", npu(x), npu(torch.ones(1).half()), None, torch.qint8, -1, True)
    with refused("npu_quantize", "'zero_points'", "the dtype of scales"):
        call("npu::npu_quantize", npu(x), one, zero, torch.qint8, -1, False)
    with refused("npu_quantize", "'scales'", "1 or 8 elements"):
        call("npu::npu_quantize", npu(x), npu(torch.ones(3)), None, torch.qint8, -1, True)
    with refused("npu_quantize", "'dtype'", "qint8"):
        call("npu::npu_quantize", npu(x), one, None, torch.quint8, -1, True)


def check_trans_quant_param() -> None:
    rng = random.Random(1)
    scale = rand(rng, 33).abs() * 0.01
    packed = call("npu::npu_trans_quant_param", npu(scale)).cpu().tolist()
    for value, word in zip(scale.tolist(), packed, strict=True):
        assert word >> 46 & 1
        (low,) = struct.unpack("<f", struct.pack("<I", word & 0xFFFFFFFF))
        assert low == fp19(value)
    offset = torch.tensor([-3.0, 300.0, 2.5])
    words = call("npu::npu_trans_quant_param", npu(torch.ones(3)), npu(offset)).cpu().tolist()
    assert [word >> 37 & 0x1FF for word in words] == [512 - 3, 255, 2]
    near = torch.tensor([1.0 + 2**-11 + 2**-12])
    word = int(call("npu::npu_trans_quant_param", npu(near), None, 1))
    assert struct.unpack("<f", struct.pack("<I", word & 0xFFFFFFFF))[0] == 1.0 + 2**-10
    with refused("npu_trans_quant_param", "'scale'", "float32"):
        call("npu::npu_trans_quant_param", npu(torch.ones(3).half()))


def check_quant_matmul() -> None:
    name = "npu::npu_quant_matmul"
    for seed in range(6):
        rng = random.Random(seed)
        rows, k, n = rng.randint(1, 5), rng.randint(1, 70), rng.randint(1, 9)
        a, b = ints(rng, rows, k), ints(rng, k, n)
        exact = torch.tensor(product(a, b), dtype=torch.float64)
        x, w = npu(a.to(torch.int8)), npu(b.to(torch.int8))
        scale, tokens = rand(rng, n).abs() * 0.01, rand(rng, rows).abs() * 0.01
        extra = ints(rng, n, low=-1000, high=1000)
        size = float(exact.abs().max()) + 1000
        got = call(name, x, w, npu(scale), output_dtype=torch.int32)
        assert torch.equal(got.cpu().double(), exact)
        for dtype in HALVES:
            got = call(name, x, w, npu(scale), pertoken_scale=npu(tokens), output_dtype=dtype)
            close(got, exact * scale.double() * tokens.double()[:, None], size=size)
            bias = rand(rng, n, dtype=dtype)
            got = call(
                name,
                x,
                w,
                npu(scale),
                pertoken_scale=npu(tokens),
                bias=npu(bias),
                output_dtype=dtype,
            )
            want = exact * scale.double() * tokens.double()[:, None] + bias.double()
            close(got, want, size=size)
        plus = exact + extra.double()
        whole_bias = npu(extra.to(torch.int32))
        got = call(name, x, w, npu(scale), bias=whole_bias, output_dtype=torch.bfloat16)
        close(got, plus * scale.double(), size=size)
        # The transpose of a contiguous weight, and scales that the unit behind the product applies.
        turned = npu(b.to(torch.int8).t().contiguous()).t()
        packed = call("npu::npu_trans_quant_param", npu(scale))
        cut = torch.tensor([fp19(v) for v in scale.tolist()], dtype=torch.float64)
        for given in (npu(scale), packed):
            got = call(name, x, turned, given, bias=whole_bias, output_dtype=torch.float16)
            close(got, plus * cut, size=size)
    ones = npu(torch.ones(2, 4, dtype=torch.int8))
    weight, unit = npu(torch.ones(4, 3, dtype=torch.int8)), npu(torch.ones(3))
    with refused(name, "'scale'", "float32 or bfloat16", "int64"):
        call(name, ones, weight, npu(torch.ones(3).long()), output_dtype=torch.bfloat16)
    with refused(name, "'bias'", "int32", "bfloat16"):
        call(
            name,
            ones,
            weight,
            unit,
            bias=npu(torch.ones(3).bfloat16()),
            output_dtype=torch.int32,
        )
    with refused(name, "'x2'", "int8"):
        call(name, ones, npu(torch.ones(4, 3)), unit, output_dtype=torch.bfloat16)
    with refused(name, "'x2'", "contiguous"):
        call(name, ones, npu(torch.ones(4, 6, dtype=torch.int8))[:, ::2], unit, output_dtype=5)
    with refused(name, "'output_dtype'"):
        call(name, ones, weight, unit)
    with refused(name, "'output_dtype'", "float32"):
        call(name, ones, weight, unit, output_dtype=torch.float32)


def check_int4() -> None:
    rng = random.Random(3)
    values = ints(rng, 5, 16, low=-8, high=7)
    packed = call("npu::npu_convert_weight_to_int4pack", npu(values.to(torch.int32)))
    assert packed.shape == (5, 2)
    for row, words in zip(values.tolist(), packed.cpu().tolist(), strict=True):
        found = [(word >> 4 * i & 0xF) for word in words for i in range(8)]
        assert [v - 16 if v > 7 else v for v in found] == row
    assert torch.equal(quantization.unpack_int4(packed.cpu()).long(), values)
    with refused("npu_convert_weight_to_int4pack", "[-8, 8)"):
        call("npu::npu_convert_weight_to_int4pack", npu(torch.full((1, 8), 8, dtype=torch.int32)))
    with refused("npu_convert_weight_to_int4pack", "multiple of 8"):
        call("npu::npu_convert_weight_to_int4pack", npu(torch.ones(1, 4, dtype=torch.int32)))


def check_weight_quant_batchmatmul() -> None:
    name = "npu::npu_weight_quant_batchmatmul"
    for seed in range(6):
        for dtype in HALVES:
            rng = random.Random(f"{seed} {dtype}")
            k, n, group = 64, 8 * rng.randint(1, 3), 32
            x = rand(rng, 3, k, dtype=dtype)
            values = ints(rng, k, n, low=-8, high=7)
            scale = (rand(rng, k // group, n).abs() * 0.1).to(dtype)
            offset = ints(rng, k // group, n, low=-8, high=7).to(dtype)
            packed = call("npu::npu_convert_weight_to_int4pack", npu(values.to(torch.int32)))
            groups = torch.arange(k) // group
            matrix = (values.double() + offset.double()[groups]) * scale.double()[groups]
            got = call(name, npu(x), packed, npu(scale), npu(offset), antiquant_group_size=group)
            close(got, x.double() @ matrix, terms=k, size=20)
            matrix = values.double() * scale.double()[:1]
            bias = rand(rng, n, dtype=torch.float16 if dtype == torch.float16 else torch.float32)
            got = call(name, npu(x), npu(values.to(torch.int8)), npu(scale[0]), bias=npu(bias))
            close(got, x.double() @ matrix + bias.double(), terms=k, size=20)
    with refused(name, "'antiquant_group_size'", "[32, 63]"):
        call(name, npu(x), packed, npu(scale), antiquant_group_size=64)
    with refused(name, "'antiquant_scale'", "the dtype of x"):
        call(name, npu(x), packed, npu(scale.float()), antiquant_group_size=32)


def check_grouped_products_of_int8() -> None:
    name = "npu::npu_grouped_matmul"
    for seed in range(4):
        for dtype in HALVES:
            rng = random.Random(f"{seed} {dtype}")
            groups, k, n = 3, rng.randint(1, 40), rng.randint(1, 6)
            counts = [rng.randint(0, 3) for _ in range(groups)]
            rows = sum(counts) + 2
            x, weight = ints(rng, rows, k), ints(rng, groups, n, k)
            scale = (rand(rng, groups, n).abs() * 0.01).to(
                dtype if dtype == torch.bfloat16 else torch.float32
            )
            tokens = rand(rng, rows).abs() * 0.01
            (got,) = call(
                name,
                [npu(x.to(torch.int8))],
                [npu(weight.to(torch.int8)).transpose(1, 2)],
                scale=[npu(scale)],
                per_token_scale=[npu(tokens)],
                group_list=npu(torch.tensor(counts)),
                split_item=2,
                group_type=0,
                group_list_type=1,
                output_dtype=dtype,
            )
            assert got.dtype == dtype
            at = 0
            for group, count in enumerate(counts):
                part = x[at : at + count]
                if count:
                    exact = torch.tensor(product(part, weight[group].t()), dtype=torch.float64)
                    want = exact * scale[group].double() * tokens[at : at + count].double()[:, None]
                    close(got[at : at + count], want, size=float(exact.abs().max()) + 1)
                at += count
            assert got[at:].isnan().all()
    ones, matrices = (
        npu(torch.ones(2, 4, dtype=torch.int8)),
        npu(torch.ones(2, 4, 3, dtype=torch.int8)),
    )
    given = {
        "scale": [npu(torch.ones(2, 3))],
        "per_token_scale": [npu(torch.ones(2))],
        "group_list": npu(torch.tensor([1, 1])),
        "split_item": 2,
        "group_type": 0,
        "group_list_type": 1,
        "output_dtype": torch.float16,
    }
    for change, parts in (
        ({"output_dtype": torch.bfloat16}, ("'scale'", "bfloat16")),
        ({"output_dtype": None}, ("'output_dtype'",)),
        ({"per_token_scale": None}, ("'per_token_scale'", "one tensor")),
        ({"scale": [npu(torch.ones(3))]}, ("'scale'", "shape (2, 3)")),
        ({"group_type": -1, "group_list": None, "split_item": 0}, ("'group_type'", "0 with int8")),
    ):
        with refused("npu_grouped_matmul", *parts):
            call(name, [ones], [matrices], **{**given, **change})


def check_zz_every_operator_was_tested() -> None:
    every_operator_was_tested(__file__)
