# SPDX-License-Identifier: Apache-2.0
"""The NNAL attention operators against attention a logit at a time."""

from __future__ import annotations

import itertools
import math
import random
from typing import Any

import torch
import torch_npu

from tests.simulator.inside.operators.attending import attention, paged, visible
from tests.simulator.inside.operators.calling import (
    FLOATS,
    HALVES,
    call,
    close,
    every_operator_was_tested,
    npu,
    rand,
    refused,
    relaxed,
)


def check_flash_attention() -> None:
    for seed, dtype in itertools.product(range(6), FLOATS):
        rng = random.Random(seed)
        kv_heads, size = rng.randint(1, 2), rng.choice([8, 16])
        heads = kv_heads * rng.randint(1, 3)
        lengths = [rng.randint(1, 5) for _ in range(rng.randint(1, 3))]
        tokens, longest = sum(lengths), max(lengths) + rng.randint(0, 3)
        q = rand(rng, tokens, heads, size, dtype=dtype)
        k, v = (rand(rng, tokens, kv_heads, size, dtype=dtype) for _ in range(2))
        above = torch.ones(longest, longest).triu(1)
        mask = above * (-10000.0 if dtype == torch.float16 else 1.0)
        if dtype == torch.float16 and rng.random() < 0.5:
            mask = torch.zeros(longest, longest).masked_fill(above.bool(), -math.inf)
        flat = rng.random() < 0.5
        out = npu(torch.zeros_like(q.flatten(1) if flat else q))
        given = [npu(t.flatten(1) if flat else t) for t in (q, k, v)]
        host = torch.tensor(lengths, dtype=torch.int32)
        with relaxed("float32"):
            call(
                "atb::_npu_flash_attention",
                *given,
                npu(mask.to(dtype)),
                host,
                0.3,
                heads,
                kv_heads,
                out,
            )
            every = npu(torch.zeros_like(q))
            call(
                "atb::_npu_flash_attention_unpad",
                *(npu(t) for t in (q, k, v)),
                host,
                0.3,
                heads,
                kv_heads,
                every,
            )
        causal, full, at = [], [], 0
        for n in lengths:
            a, b, c = (t[at : at + n] for t in (q, k, v))
            causal += attention(a, b, c, 0.3, lambda i, j: j <= i)[0]
            full += attention(a, b, c, 0.3, lambda i, j: True)[0]
            at += n
        close(out, causal, terms=size + longest, size=4)
        close(every, full, terms=size + longest, size=4)


def check_paged_attention() -> None:
    for seed, dtype in itertools.product(range(6), FLOATS):
        rng = random.Random(seed)
        kv_heads, size, block = rng.randint(1, 2), rng.choice([8, 16]), 16
        heads = kv_heads * rng.randint(1, 3)
        contexts = [rng.randint(0, 40) for _ in range(rng.randint(1, 4))]
        kc, vc, table, keys, values = paged(rng, contexts, block, kv_heads, size, dtype)
        q = rand(rng, len(contexts), heads, size, dtype=dtype)
        out = npu(torch.zeros_like(q))
        args = (
            npu(q),
            npu(kc),
            npu(vc),
            kv_heads,
            heads,
            0.25,
            npu(table),
            torch.tensor(contexts, dtype=torch.int32),
            out,
        )
        with relaxed("float32"):
            workspace = call("atb::_npu_paged_attention_get_workspace", *args)
            assert workspace.device.type == "npu"
            call("atb::_npu_paged_attention", *args, workspace=workspace)
        want = []
        for i in range(len(contexts)):
            want += attention(q[i : i + 1], keys[i], values[i], 0.25, lambda i, j: True)[0]
        close(out, want, terms=size + 40, size=4)


def check_flash_attention_qlens() -> None:
    for seed, dtype in itertools.product(range(4), HALVES):
        rng = random.Random(seed)
        contexts = [rng.randint(1, 24) for _ in range(rng.randint(1, 3))]
        queries = [rng.randint(1, n) for n in contexts]
        kc, vc, table, keys, values = paged(rng, contexts, 16, 2, 16, dtype)
        q = rand(rng, sum(queries), 4, 16, dtype=dtype)
        out = npu(torch.zeros_like(q))
        call(
            "atb::_npu_flash_attention_qlens",
            npu(q),
            npu(kc),
            npu(vc),
            npu(table),
            npu(torch.ones(128, 128, dtype=dtype).triu(1)),
            torch.tensor(queries, dtype=torch.int32),
            torch.tensor(contexts, dtype=torch.int32),
            2,
            4,
            0.25,
            out,
        )
        want, at = [], 0
        for i, (n, m) in enumerate(zip(queries, contexts, strict=True)):
            part = q[at : at + n]
            sees = visible(3, n, m, 0, 0, None)
            want += attention(part, keys[i], values[i], 0.25, sees)[0]
            at += n
        close(out, want, terms=16 + 24, size=4)


def check_refusals() -> None:
    half = torch.float16
    out, kv = npu(torch.zeros(3, 2, 16, dtype=half)), npu(torch.ones(3, 2, 16, dtype=half))
    lengths = torch.tensor([1, 2], dtype=torch.int32)
    above = npu(torch.ones(2, 2, dtype=half).triu(1) * -10000)

    def flash(**change: Any) -> None:
        arguments: dict[str, Any] = {
            "query": kv, "key": kv, "value": kv, "mask": above, "seq_len": lengths,
            "scale_value": 0.1, "num_heads": 2, "num_kv_heads": 2, "out": out,
        }  # fmt: skip
        torch_npu._npu_flash_attention(**{**arguments, **change})

    flash()
    name = "_npu_flash_attention"
    with refused(name, "'seq_len'", "a host tensor", "npu:0"):
        flash(seq_len=npu(lengths))
    with refused(name, "'seq_len'", "dtype int32", "int64"):
        flash(seq_len=lengths.long())
    with refused(name, "'seq_len'", "add up to the 3 tokens"):
        flash(seq_len=lengths[:1])
    with refused(name, "'mask'", "dtype of query", "int8"):
        flash(mask=above.to(torch.int8))
    with refused(name, "'mask'", "as wide as the longest sequence (2)"):
        flash(mask=above[:1, :1].contiguous())
    with refused(name, "'mask'", "a large negative number"):
        flash(mask=-above)
    with refused(name, "'mask'", "1 where it is hidden"):
        both = {n: kv.bfloat16() for n in ("query", "key", "value")}
        flash(**both, out=out.bfloat16(), mask=above.bfloat16())
    with refused(name, "'out'", "3 tokens"):
        flash(out=out[:2])
    with refused(name, "'query'", "float16 or bfloat16", "float32"):
        flash(query=kv.float())

    cache = npu(torch.ones(2, 16, 2, 16, dtype=half))

    def decode(**change: Any) -> None:
        arguments: dict[str, Any] = {
            "query": kv, "key_cache": cache, "value_cache": cache, "num_kv_heads": 2,
            "num_heads": 2, "scale_value": 0.1, "block_table": npu(torch.zeros(3, 1).int()),
            "context_lens": torch.tensor([1, 2, 16], dtype=torch.int32), "out": out,
        }  # fmt: skip
        torch_npu._npu_paged_attention(**{**arguments, **change})

    decode()
    name = "_npu_paged_attention"
    with refused(name, "'context_lens'", "a host tensor"):
        decode(context_lens=npu(torch.tensor([1, 2, 16], dtype=torch.int32)))
    with refused(name, "'context_lens'", "each of the 3 tokens", "2"):
        decode(context_lens=lengths)
    with refused(name, "'block_table'", "at least 2 columns, for 17 tokens"):
        decode(context_lens=torch.tensor([1, 2, 17], dtype=torch.int32))
    with refused(name, "'block_table'", "[0, 2)"):
        decode(block_table=npu(torch.full((3, 1), 2).int()))
    with refused(name, "'key_cache'", "multiple of 16", "8"):
        small = npu(torch.ones(2, 8, 2, 16, dtype=half))
        decode(key_cache=small, value_cache=small)
    with refused(name, "'key_cache'", "shape (*, *, 2, 16)"):
        decode(key_cache=cache.view(2, 16, 1, 32), value_cache=cache.view(2, 16, 1, 32))
    with refused("_npu_flash_attention_qlens", "'mask'", "(128, 128)"):
        torch_npu._npu_flash_attention_qlens(
            kv, cache, cache, npu(torch.zeros(2, 1).int()), above, lengths,
            torch.tensor([2, 2], dtype=torch.int32), 2, 2, 0.1, out,
        )  # fmt: skip


def check_zz_every_operator_was_tested() -> None:
    every_operator_was_tested(__file__)
