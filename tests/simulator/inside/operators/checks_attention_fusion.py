# SPDX-License-Identifier: Apache-2.0
"""npu_fusion_attention against attention a logit at a time."""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence
from typing import Any

import torch
import torch_npu
from torch import Tensor

from tests.simulator.inside.operators.attending import TRIANGLE, attention, visible
from tests.simulator.inside.operators.calling import (
    FLOATS,
    call,
    close,
    every_operator_was_tested,
    npu,
    rand,
    refused,
)


def check_fusion_attention() -> None:
    for seed, dtype in itertools.product(range(15), FLOATS):
        rng = random.Random(seed * 13 + 2)
        layout = ("BSH", "SBH", "BSND", "BNSD", "TND")[seed % 5]
        mode = rng.choice([0, 0, 2, 3, 4])
        batch, kv_heads, size = rng.randint(1, 3), rng.randint(1, 2), 16
        heads = kv_heads * rng.randint(1, 2)
        q_len = rng.randint(1, 4)
        kv_len = rng.randint(q_len, 7)
        before, after = rng.randint(0, 6), rng.randint(0, 3)
        q = rand(rng, batch, q_len, heads, size, dtype=dtype)
        k, v = (rand(rng, batch, kv_len, kv_heads, size, dtype=dtype) for _ in range(2))
        queries, contexts = [q_len] * batch, [kv_len] * batch
        extra: dict[str, Any] = {}
        if layout == "TND":
            queries = [rng.randint(1, q_len) for _ in range(batch)]
            contexts = [rng.randint(n, kv_len) for n in queries]
            extra = {
                "actual_seq_qlen": list(itertools.accumulate(queries)),
                "actual_seq_kvlen": list(itertools.accumulate(contexts)),
            }
        mask, plain = None, None
        if mode == 0 and layout != "TND" and rng.random() < 0.7:
            plain = torch.rand(q_len, kv_len, generator=torch.Generator().manual_seed(seed)) < 0.3
            plain[:, 0] = False
            before = 2147483647
            mask = npu(plain)
        elif mode:
            mask = npu(TRIANGLE.bool())

        def lay(t: Tensor, n: Sequence[int], layout: str = layout) -> Tensor:
            if layout == "TND":
                return torch.cat([t[i, :m] for i, m in enumerate(n)])
            if layout in ("BSH", "SBH"):
                flat = t.flatten(2)
                return flat if layout == "BSH" else flat.transpose(0, 1).contiguous()
            return t if layout == "BSND" else t.transpose(1, 2).contiguous()

        out, peak, total, none, *numbers = call(
            "npu::npu_fusion_attention",
            npu(lay(q, queries)),
            npu(lay(k, contexts)),
            npu(lay(v, contexts)),
            heads,
            layout,
            atten_mask=mask,
            scale=0.2,
            pre_tockens=before,
            next_tockens=after,
            sparse_mode=mode,
            **extra,
        )
        assert none.numel() == 0
        assert numbers == [0, 0, 0]
        full = torch.zeros(batch, q_len, heads, size, dtype=torch.float64)
        sums = torch.zeros(batch, q_len, heads, dtype=torch.float64)
        for i in range(batch):
            n, m = queries[i], contexts[i]
            sees = visible(mode, n, m, before, after, plain)
            a, b = attention(q[i, :n], k[i, :m], v[i, :m], 0.2, sees)
            full[i, :n] = torch.tensor(a, dtype=torch.float64)
            sums[i, :n] = torch.tensor(b, dtype=torch.float64)
        close(out, lay(full, queries).tolist(), terms=size + 8, size=4)
        # Greatest logit and sum of exponentials give the log-sum-exp, eight times over.
        wanted = sums if layout == "TND" else sums.transpose(1, 2)
        if layout == "TND":
            wanted = torch.cat([sums[i, :n] for i, n in enumerate(queries)])
        lse = torch.where(total > 0, peak + total.log(), torch.inf)
        for column in range(8):
            close(lse[..., column], wanted.tolist(), terms=size, size=8)


def check_refusals() -> None:
    kv = npu(torch.ones(3, 2, 16, dtype=torch.float16))
    with refused("npu_fusion_attention", "'keep_prob'", "drops nothing"):
        torch_npu.npu_fusion_attention(kv[None], kv[None], kv[None], 2, "BSND", keep_prob=0.5)
    with refused("npu_fusion_attention", "'actual_seq_qlen'", "layout TND"):
        torch_npu.npu_fusion_attention(kv, kv, kv, 2, "TND")


def check_zz_every_operator_was_tested() -> None:
    every_operator_was_tested(__file__)
