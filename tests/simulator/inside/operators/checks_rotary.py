# SPDX-License-Identifier: Apache-2.0
"""Rotary embeddings, element by element in float64."""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence

import torch
import torch_npu
from torch import Tensor

from ascend_sim.operators import rotary
from tests.simulator.inside.operators.calling import (
    HALVES,
    call,
    close,
    every_operator_was_tested,
    npu,
    rand,
    refused,
    relaxed,
    sweep,
    takes,
    wide,
)


def _turned(
    head: Sequence[float], cos: Sequence[float], sin: Sequence[float], neox: bool
) -> list[float]:
    """One head rotated by angles given as cos and sin of each pair."""
    half = len(cos)
    out = list(head)
    for i in range(half):
        a, b = (i, half + i) if neox else (2 * i, 2 * i + 1)
        out[a] = head[a] * cos[i] - head[b] * sin[i]
        out[b] = head[b] * cos[i] + head[a] * sin[i]
    return out


def _angles(rng: random.Random, positions: int, dim: int, dtype: torch.dtype) -> Tensor:
    angle = rand(rng, positions, dim // 2) * 3
    return torch.cat((angle.cos(), angle.sin()), -1).to(dtype)


def check_rotary_embedding() -> None:
    for seed, dtype in itertools.product(range(6), HALVES):
        rng = random.Random(seed)
        rotary.forget_cos_sin_cache()
        dim, tokens, kv = rng.choice([16, 64]), rng.randint(1, 6), rng.randint(1, 2)
        heads = kv * rng.randint(1, 3)
        neox = rng.random() < 0.5
        cache = _angles(rng, 32, dim, torch.float32 if dtype == torch.float16 else dtype)
        query = rand(rng, tokens, heads * dim, dtype=dtype)
        key = rand(rng, tokens, kv * dim, dtype=dtype)
        positions = torch.tensor([rng.randrange(32) for _ in range(tokens)])
        q, k = npu(query), npu(key)
        head_size = dim if not neox else rng.choice([dim, 2 * dim])
        result = call(
            "atb::_npu_rotary_embedding", npu(positions), q, k, head_size, npu(cache), neox
        )
        assert result is None
        for got, given in ((q, query), (k, key)):
            want = []
            for t, row in enumerate(wide(given)):
                angle = wide(cache)[positions[t]]
                for h in range(0, len(row), dim):
                    head = row[h : h + dim]
                    want += _turned(head, angle[: dim // 2], angle[dim // 2 :], neox)
            close(got, want, size=8)
    rotary.forget_cos_sin_cache()


def check_rotary_embedding_keeps_the_first_cache() -> None:
    rotary.forget_cos_sin_cache()
    rng = random.Random(1)
    first, second = (_angles(rng, 8, 16, torch.float16) for _ in range(2))
    q = npu(rand(rng, 2, 32, dtype=torch.float16))
    positions = npu(torch.tensor([1, 3]))

    def rotate(cache: Tensor) -> None:
        torch_npu._npu_rotary_embedding(positions, q, q.clone(), 16, npu(cache), True)

    rotate(first)
    rotate(first.clone())
    with refused("_npu_rotary_embedding", "'cos_sin_cache'", "passed first"):
        rotate(second)
    # Rows that are not used may differ: a longer cache of the same model is fine.
    rotate(torch.cat((first, second)))
    rotary.forget_cos_sin_cache()
    rotate(second)
    rotary.forget_cos_sin_cache()


def check_rotary_mul() -> None:
    for rng, dtype in sweep(6):
        b, s, n, d = rng.randint(1, 3), rng.randint(1, 4), rng.randint(1, 3), rng.choice([4, 16])
        neox = rng.random() < 0.5
        x = rand(rng, b, s, n, d, dtype=dtype)
        angle = rand(rng, s, d // 2)
        both = (angle.cos(), angle.sin())
        cos, sin = (
            (t.repeat(1, 2) if neox else t.repeat_interleave(2, 1)).view(1, s, 1, d).to(dtype)
            for t in both
        )
        y = call(
            "npu::npu_rotary_mul", npu(x), npu(cos), npu(sin), "half" if neox else "interleave"
        )
        step = slice(0, d // 2) if neox else slice(0, d, 2)
        want = [
            _turned(wide(x)[i][j][h], wide(cos)[0][j][0][step], wide(sin)[0][j][0][step], neox)
            for i in range(b)
            for j in range(s)
            for h in range(n)
        ]
        close(y, want, size=8)
    if not takes("npu::npu_rotary_mul", "rotate"):
        return
    # A matrix in place of the mode.
    x = rand(random.Random(3), 1, 2, 1, 4)
    r1, r2 = rand(random.Random(4), 1, 2, 1, 4), rand(random.Random(5), 1, 2, 1, 4)
    swap = torch.eye(4)[[1, 0, 3, 2]]
    y = torch_npu.npu_rotary_mul(npu(x), npu(r1), npu(r2), "interleave", npu(swap))
    close(
        y, (x.double() * r1.double() + x[..., [1, 0, 3, 2]].double() * r2.double()).tolist(), size=8
    )


def check_interleave_rope() -> None:
    for seed, dtype in itertools.product(range(3), HALVES):
        rng = random.Random(seed)
        b, n, s = rng.randint(1, 2), rng.randint(1, 3), rng.randint(1, 3)
        x = rand(rng, b, n, s, 64, dtype=dtype)
        cos, sin = (rand(rng, b, 1, s, 64, dtype=dtype) for _ in range(2))
        y = call("npu::npu_interleave_rope", npu(x), npu(cos), npu(sin))
        want = []
        for i, h, t in itertools.product(range(b), range(n), range(s)):
            row, c, z = wide(x)[i][h][t], wide(cos)[i][0][t], wide(sin)[i][0][t]
            apart = row[::2] + row[1::2]
            want += [
                apart[j] * c[j] + (-apart[j + 32] if j < 32 else apart[j - 32]) * z[j]
                for j in range(64)
            ]
        close(y, want, size=8)


def check_mrope() -> None:
    for rng, dtype in sweep(8):
        dim, tokens = 32, rng.randint(1, 5)
        size = dim + rng.choice([0, 32])
        sections = rng.choice([None, [4, 6, 6], [8, 4, 4]])
        neox, woven = rng.random() < 0.5, bool(sections) and rng.random() < 0.5
        mode = {"cache_mode": "interleave" if woven else "default"}
        if not takes("npu::npu_mrope", "cache_mode"):
            mode, woven = {}, False
        cache = _angles(rng, 16, dim, dtype)
        rows = 3 if sections else 1
        positions = torch.tensor([[rng.randrange(16) for _ in range(tokens)] for _ in range(rows)])
        query, key = (rand(rng, tokens, h * size, dtype=dtype) for h in (3, 1))
        out = call(
            "npu::npu_mrope",
            npu(positions if sections else positions[0]),
            npu(query),
            npu(key),
            npu(cache),
            size,
            mrope_section=sections,
            rotary_mode="half" if neox else "interleave",
            **mode,
        )
        table = wide(cache)
        for got, given in zip(out, (query, key), strict=True):
            want = []
            for t, row in enumerate(wide(given)):
                cos, sin = [], []
                for i in range(dim // 2):
                    axis = 0
                    if sections and woven:
                        axis = i % 3 if i < 3 * sections[1] else 0
                    elif sections:
                        axis = 0 if i < sections[0] else 1 if i < sections[0] + sections[1] else 2
                    at = table[positions[axis][t]]
                    cos.append(at[i])
                    sin.append(at[dim // 2 + i])
                for h in range(0, len(row), size):
                    head = row[h : h + size]
                    want += _turned(head[:dim], cos, sin, neox) + head[dim:]
            close(got, want, size=8)


def check_apply_rotary_pos_emb() -> None:
    for rng, dtype in sweep(3):
        b, s = rng.randint(1, 2), rng.randint(1, 3)
        q, k = rand(rng, b, s, 2, 64, dtype=dtype), rand(rng, b, s, 1, 64, dtype=dtype)
        cos, sin = (rand(rng, b, s, 1, 64, dtype=dtype) for _ in range(2))
        out = call(
            "npu::npu_apply_rotary_pos_emb", npu(q), npu(k), npu(cos), npu(sin), "BSND", "half"
        )
        for got, given in zip(out, (q, k), strict=True):
            want = []
            for i, j, h in itertools.product(range(b), range(s), range(given.shape[2])):
                row, c, z = wide(given)[i][j][h], wide(cos)[i][j][0], wide(sin)[i][j][0]
                want += [
                    row[e] * c[e] + (-row[e + 32] if e < 32 else row[e - 32]) * z[e]
                    for e in range(64)
                ]
            close(got, want, size=8)


def check_rotary_refusals() -> None:
    rotary.forget_cos_sin_cache()
    cache = npu(_angles(random.Random(0), 8, 16, torch.float16))
    q = npu(torch.ones(2, 32, dtype=torch.float16))
    at = npu(torch.tensor([1, 2]))
    op = torch_npu._npu_rotary_embedding
    with refused("_npu_rotary_embedding", "'query'", "contiguous"):
        op(at, npu(torch.ones(32, 2, dtype=torch.float16)).t(), q, 16, cache, True)
    with refused("_npu_rotary_embedding", "'query'", "multiple of that of key, 32", "16"):
        op(at, q[:, :16].contiguous(), q, 16, cache, True)
    with refused("_npu_rotary_embedding", "'query'", "shape (2, *)"):
        op(at, q.view(2, 2, 16), q, 16, cache, True)
    with refused("_npu_rotary_embedding", "'positions'", "[0, 8)", "8"):
        op(npu(torch.tensor([1, 8])), q, q.clone(), 16, cache, True)
    with refused("_npu_rotary_embedding", "'positions'", "on the NPU"):
        op(at.cpu(), q, q.clone(), 16, cache, True)
    with refused("_npu_rotary_embedding", "'head_size'", "rotary_dim 16", "32"):
        op(at, q, q.clone(), 32, cache, False)
    with refused("_npu_rotary_embedding", "'query'", "float16 or bfloat16", "ASCEND_SIM_RELAX"):
        op(at, q.float(), q.float(), 16, cache.float(), True)
    with relaxed("float32"):
        op(at, q.float(), q.float(), 16, cache.float(), True)
    rotary.forget_cos_sin_cache()
    x = npu(torch.ones(1, 2, 3, 8))
    with refused("npu_rotary_mul", "'r1'", "broadcasts over (1, 2, 3, 8)", "(1, 3, 1, 8)"):
        torch_npu.npu_rotary_mul(x, npu(torch.ones(1, 3, 1, 8)), npu(torch.ones(1, 3, 1, 8)))
    with refused("npu_rotary_mul", "'rotary_mode'", "'half' or 'interleave'"):
        torch_npu.npu_rotary_mul(x, x[:, :, :1], x[:, :, :1], "quarter")
    wide_cache = npu(torch.ones(8, 24))
    with refused("npu_mrope", "'cos_sin_cache'", "multiple of 16", "24"):
        torch_npu.npu_mrope(at, q.float(), q.float(), wide_cache, 32)
    with refused("npu_mrope", "'mrope_section'", "add up to rotary_dim / 2 = 8"):
        torch_npu.npu_mrope(
            npu(torch.ones(3, 2, dtype=torch.int64)),
            q.float(),
            q.float(),
            cache.float(),
            16,
            mrope_section=[1, 2, 3],
        )


def check_zz_every_operator_was_tested() -> None:
    every_operator_was_tested(__file__)
