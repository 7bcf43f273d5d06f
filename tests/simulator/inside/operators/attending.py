# SPDX-License-Identifier: Apache-2.0
"""Attention a logit at a time in float64, and paged caches to run it over."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from tests.simulator.inside.operators.calling import (
    rand,
    wide,
)


def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    scale: float,
    sees: Callable[[int, int], bool],
    sink: Sequence[float] | None = None,
) -> tuple[list[Any], list[Any]]:
    """[q, heads, size] and [q, heads] of one sequence, a logit at a time."""
    group = q.shape[1] // k.shape[1]
    qs, ks, vs = wide(q), wide(k), wide(v)
    out, lse = [], []
    for i in range(q.shape[0]):
        heads, sums = [], []
        for h in range(q.shape[1]):
            seen = [j for j in range(k.shape[0]) if sees(i, j)]
            logits = [
                scale * math.fsum(a * b for a, b in zip(qs[i][h], ks[j][h // group], strict=True))
                for j in seen
            ]
            extra = [sink[h]] if sink else []
            if not logits and not extra:
                heads.append([0.0] * v.shape[2])
                sums.append(math.inf)
                continue
            top = max(logits + extra)
            weights = [math.exp(x - top) for x in logits]
            total = math.fsum([*weights, *(math.exp(x - top) for x in extra)])
            heads.append(
                [
                    math.fsum(w * vs[j][h // group][d] for w, j in zip(weights, seen, strict=True))
                    / total
                    for d in range(v.shape[2])
                ]
            )
            sums.append(top + math.log(total))
        out.append(heads)
        lse.append(sums)
    return out, lse


def split(total: int, parts: int, rng: random.Random) -> list[int]:
    cuts = sorted(rng.randint(0, total) for _ in range(parts - 1))
    return [b - a for a, b in zip([0, *cuts], [*cuts, total], strict=True)]


def paged(
    rng: random.Random,
    lengths: Sequence[int],
    block: int,
    heads: int,
    size: int,
    dtype: torch.dtype,
) -> tuple[Tensor, Tensor, Tensor, list[Tensor], list[Tensor]]:
    """Caches [blocks, block, heads, size], a block table, and each sequence's keys and values.

    What no sequence owns is NaN, so that a read past a sequence shows.
    """
    counts = [-(-n // block) for n in lengths]
    blocks = sum(counts) + 2
    order = rng.sample(range(blocks), sum(counts))
    kc, vc = (torch.full((blocks, block, heads, size), math.nan, dtype=dtype) for _ in range(2))
    table = torch.full((len(lengths), max([*counts, 1]) + 1), -7, dtype=torch.int32)
    keys, values = [], []
    for i, n in enumerate(lengths):
        own = [order.pop() for _ in range(counts[i])]
        table[i, : counts[i]] = torch.tensor(own, dtype=torch.int32)
        k, v = (rand(rng, n, heads, size, dtype=dtype) for _ in range(2))
        for t in range(n):
            kc[own[t // block], t % block] = k[t]
            vc[own[t // block], t % block] = v[t]
        keys.append(k)
        values.append(v)
    return kc, vc, table, keys, values


TRIANGLE = torch.ones(2048, 2048, dtype=torch.int8).triu(1)


def visible(
    mode: int, q: int, kv: int, before: int, after: int, mask: Tensor | None
) -> Callable[[int, int], bool]:
    def everything(i: int, j: int) -> bool:
        return True

    if mode == 0 and mask is None:
        return everything
    if mode in (0, 1):
        assert mask is not None
        plain = mask.tolist()
        if mode == 1:
            return lambda i, j: not plain[i][j]
        return lambda i, j: not plain[i][j] and i - before <= j <= i + after
    if mode == 2:
        return lambda i, j: j <= i
    if mode == 3:
        return lambda i, j: j <= i + kv - q
    return lambda i, j: i + kv - q - before <= j <= i + kv - q + after
