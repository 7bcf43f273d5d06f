# SPDX-License-Identifier: Apache-2.0
"""npu_fused_infer_attention_score in both versions against attention a logit at a time."""

from __future__ import annotations

import itertools
import math
import random
from typing import Any

import torch
import torch_npu
from torch import Tensor

from tests.simulator.inside.operators.attending import TRIANGLE, attention, paged, visible
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
    wide,
)


def check_fused_infer_packed() -> None:
    """TND: paged in both cache layouts and not paged, sparse modes 0, 3, 4, sinks, lse."""
    masks = [npu(TRIANGLE), npu(TRIANGLE.bool()), npu(TRIANGLE.to(torch.uint8))[None, None]]
    for seed, dtype in itertools.product(range(14), FLOATS):
        rng = random.Random(seed * 7 + 1)
        mode = (0, 3, 4)[seed % 3]
        kv_heads, size = rng.randint(1, 2), 64
        heads = kv_heads * rng.randint(1, 2)
        contexts = [rng.randint(1, 20) for _ in range(rng.randint(1, 3))]
        queries = [rng.randint(1, min(4, n)) for n in contexts]
        if rng.random() < 0.3:
            queries = [1] * len(contexts)
        before, after = rng.randint(0, 6), rng.randint(0, 3)
        q = rand(rng, sum(queries), heads, size, dtype=dtype)
        ends = list(itertools.accumulate(queries))
        kc, vc, table, keys, values = paged(rng, contexts, 16, kv_heads, size, dtype)
        style = rng.choice(["blocks", "heads", "plain"])
        named: dict[str, Any] = {}
        if style == "plain":
            k, v = torch.cat(keys), torch.cat(values)
            kv_lengths = list(itertools.accumulate(contexts))
        else:
            k, v = (c.flatten(2) if style == "blocks" else c.transpose(1, 2) for c in (kc, vc))
            kv_lengths = contexts
            named = {"block_table": npu(table[:, :-1].contiguous()), "block_size": 16}
        sink = rand(rng, heads, dtype=torch.bfloat16) if seed % 5 == 4 else None
        flag = sink is None
        layout = "NTD_TND" if style == "plain" and rng.random() < 0.5 else "TND"
        q_in, k_in, v_in = q, k.contiguous(), v.contiguous()
        if layout == "NTD_TND":
            q_in, k_in, v_in = (t.transpose(0, 1).contiguous() for t in (q, k, v))
        common: dict[str, Any] = {
            "atten_mask": None if mode == 0 else rng.choice(masks),
            "num_key_value_heads": kv_heads,
            "pre_tokens": before,
            "next_tokens": after,
            "input_layout": layout,
            "sparse_mode": mode,
            **named,
        }
        operands = npu(q_in), npu(k_in), npu(v_in)
        with relaxed("float32"):
            out, lse = call(
                "npu::npu_fused_infer_attention_score_v2",
                *operands,
                actual_seq_qlen=ends,
                actual_seq_kvlen=kv_lengths,
                num_query_heads=heads,
                softmax_scale=0.1,
                return_softmax_lse=flag,
                learnable_sink=None if sink is None else npu(sink),
                **common,
            )
        want, sums, at = [], [], 0
        for i, (n, m) in enumerate(zip(queries, contexts, strict=True)):
            sees = visible(mode, n, m, before, after, None)
            a, b = attention(
                q[at : at + n], keys[i], values[i], 0.1, sees, None if sink is None else wide(sink)
            )
            want += a
            sums += b
            at += n
        close(out, want, terms=size + 20, size=4)
        if not flag:
            assert lse.numel() == 0
            continue
        close(lse, sums, terms=size, size=8)
        with relaxed("float32"):
            first = call(
                "npu::npu_fused_infer_attention_score",
                *operands,
                actual_seq_lengths=ends,
                actual_seq_lengths_kv=kv_lengths,
                num_heads=heads,
                scale=0.1,
                softmax_lse_flag=True,
                **common,
            )
        assert torch.equal(first[0].cpu(), out.cpu())
        assert torch.equal(first[1].cpu(), lse.cpu())


def check_fused_infer_batched() -> None:
    """BSH, BSND, BNSD, BNSD_BSND: lengths, padding, masks, bands, and decode with a paged cache."""
    for seed, dtype in itertools.product(range(16), FLOATS):
        rng = random.Random(seed * 11 + 5)
        layout = ("BSH", "BSND", "BNSD", "BNSD_BSND")[seed % 4]
        mode = rng.choice([0, 0, 1, 2, 3, 4])
        batch, kv_heads, size = rng.randint(1, 3), rng.randint(1, 2), 16
        heads = kv_heads * rng.randint(1, 2)
        q_len = rng.choice([1, 2, 4]) if layout != "BNSD_BSND" else rng.choice([2, 4])
        kv_len = rng.randint(q_len, 8)
        q = rand(rng, batch, q_len, heads, size, dtype=dtype)
        k, v = (rand(rng, batch, kv_len, kv_heads, size, dtype=dtype) for _ in range(2))
        queries = [rng.randint(1, q_len) for _ in range(batch)]
        contexts = [rng.randint(n, kv_len) for n in queries]
        before, after = rng.randint(0, 6), rng.randint(0, 3)
        mask, plain = None, None
        if mode in (0, 1) and (mode == 1 or rng.random() < 0.6):
            plain = torch.rand(batch, q_len, kv_len, generator=torch.Generator().manual_seed(seed))
            plain = plain < 0.3
            mask = npu(plain.unsqueeze(1).contiguous())
        elif mode > 1:
            mask = npu(TRIANGLE)

        def lay(t: Tensor, layout: str = layout) -> Tensor:
            if layout == "BSH":
                return t.flatten(2)
            return t if layout == "BSND" else t.transpose(1, 2).contiguous()

        with relaxed("float32"):
            out, lse = call(
                "npu::npu_fused_infer_attention_score",
                npu(lay(q)),
                npu(lay(k)),
                npu(lay(v)),
                atten_mask=mask,
                actual_seq_lengths=queries,
                actual_seq_lengths_kv=contexts,
                num_heads=heads,
                num_key_value_heads=kv_heads,
                scale=0.2,
                input_layout=layout,
                sparse_mode=mode,
                pre_tokens=before,
                next_tokens=after,
                softmax_lse_flag=True,
            )
        full = torch.zeros(batch, q_len, heads, size, dtype=torch.float64)
        sums = torch.full((batch, heads, q_len, 1), math.inf, dtype=torch.float64)
        for i in range(batch):
            n, m = (1 if q_len == 1 else queries[i]), contexts[i]
            own = None if plain is None else plain[i]
            sees = visible(mode, n, m, before, after, own)
            if q_len == 1:
                # Modes and bands do not apply to one token; a mask of its own does.
                sees = visible(0 if own is None else 1, n, m, 0, 0, own)
            a, b = attention(q[i, :n], k[i, :m], v[i, :m], 0.2, sees)
            full[i, :n] = torch.tensor(a, dtype=torch.float64)
            sums[i, :, :n, 0] = torch.tensor(b, dtype=torch.float64).T
        want = full if layout == "BNSD_BSND" else lay(full)
        close(out, want.tolist(), terms=size + 8, size=4)
        close(lse, sums.tolist(), terms=size, size=8)


def check_fused_infer_decode_from_blocks() -> None:
    for seed, dtype in itertools.product(range(4), HALVES):
        rng = random.Random(seed)
        layout = ("BSH", "BNSD")[seed % 2]
        contexts = [rng.randint(0, 40) for _ in range(3)]
        kc, vc, table, keys, values = paged(rng, contexts, 16, 2, 16, dtype)
        q = rand(rng, 3, 1, 4, 16, dtype=dtype)
        q_in = q.flatten(2) if layout == "BSH" else q.transpose(1, 2).contiguous()
        arguments: dict[str, Any] = {
            "actual_seq_lengths_kv": contexts,
            "block_table": npu(table),
            "block_size": 16,
            "num_heads": 4,
            "num_key_value_heads": 2,
            "scale": 0.2,
            "input_layout": layout,
        }
        operands = npu(q_in), npu(kc.flatten(2)), npu(vc.flatten(2))
        out, lse = torch_npu.npu_fused_infer_attention_score(*operands, **arguments)
        assert lse.numel() == 0
        want = []
        for i in range(3):
            want += attention(q[i], keys[i], values[i], 0.2, lambda i, j: True)[0]
        close(out, want, terms=16 + 40, size=4)
        # The forms that graphs use: a workspace and results of the caller's own.
        workspace = call(
            "npu::_npu_fused_infer_attention_score_get_max_workspace", *operands, **arguments
        )
        mine = npu(torch.zeros_like(q_in)), npu(torch.zeros(1))
        result = call(
            "npu::npu_fused_infer_attention_score.out",
            *operands,
            workspace=workspace,
            out=list(mine),
            **arguments,
        )
        assert result[0].data_ptr() == mine[0].data_ptr()
        assert torch.equal(mine[0].cpu(), out.cpu())
        renamed = {
            {
                "actual_seq_lengths_kv": "actual_seq_kvlen",
                "num_heads": "num_query_heads",
                "scale": "softmax_scale",
            }.get(name, name): value
            for name, value in arguments.items()
        }
        workspace = call(
            "npu::_npu_fused_infer_attention_score_v2_get_max_workspace", *operands, **renamed
        )
        again = npu(torch.zeros_like(q_in)), npu(torch.zeros(3, 4, 1, 1))
        call(
            "npu::npu_fused_infer_attention_score_v2.out",
            *operands,
            workspace=workspace,
            out=list(again),
            return_softmax_lse=True,
            **renamed,
        )
        assert torch.equal(again[0].cpu(), out.cpu())
        sums = [attention(q[i], keys[i], values[i], 0.2, lambda i, j: True)[1] for i in range(3)]
        close(again[1], sums, terms=16, size=8)


def check_refusals() -> None:
    half = torch.float16
    q, k = npu(torch.ones(3, 2, 64, dtype=half)), npu(torch.ones(2, 16, 128, dtype=half))
    table = npu(torch.tensor([[0], [1]], dtype=torch.int32))
    mask = npu(TRIANGLE)
    good: dict[str, Any] = {
        "query": q,
        "key": k,
        "value": k,
        "atten_mask": mask,
        "actual_seq_lengths": [1, 3],
        "actual_seq_lengths_kv": [4, 9],
        "block_table": table,
        "block_size": 16,
        "num_heads": 2,
        "num_key_value_heads": 2,
        "scale": 0.1,
        "input_layout": "TND",
        "sparse_mode": 3,
    }
    torch_npu.npu_fused_infer_attention_score(**good)
    cases: list[tuple[dict[str, Any], tuple[str, ...]]] = [
        ({"actual_seq_lengths": [1, 2]}, ("'actual_seq_lengths'", "the 3 tokens")),
        ({"actual_seq_lengths": [3, 1]}, ("'actual_seq_lengths'", "cumulative")),
        ({"actual_seq_lengths": None}, ("'actual_seq_lengths'", "layout TND", "None")),
        ({"actual_seq_lengths_kv": None}, ("'actual_seq_lengths_kv'", "block_table")),
        ({"actual_seq_lengths_kv": [4, 17]}, ("'actual_seq_lengths_kv'", "at most 16")),
        ({"block_table": table.long()}, ("'block_table'", "dtype int32", "int64")),
        ({"block_table": table.cpu()}, ("'block_table'", "a tensor on the NPU", "cpu")),
        ({"block_table": table + 1}, ("'block_table'", "[0, 2)", "2")),
        ({"block_table": table[:1]}, ("'block_table'", "each of the 2 sequences")),
        ({"block_size": 24}, ("'block_size'", "multiple of 16", "24")),
        ({"block_size": 32}, ("'key'", "(blocks, 32, 2 * size)")),
        ({"atten_mask": None}, ("'atten_mask'", "2048 x 2048", "None")),
        ({"atten_mask": mask[:64, :64].contiguous()}, ("'atten_mask'", "2048", "(64, 64)")),
        ({"atten_mask": mask.float()}, ("'atten_mask'", "bool or int8 or uint8", "float32")),
        ({"atten_mask": mask.t().contiguous()}, ("'atten_mask'", "1 above the diagonal")),
        ({"atten_mask": mask * 0}, ("'atten_mask'", "1 above the diagonal")),
        ({"atten_mask": mask.cpu()}, ("'atten_mask'", "a tensor on the NPU")),
        ({"query": q.float()}, ("'query'", "float16 or bfloat16", "ASCEND_SIM_RELAX=float32")),
        ({"key": k.bfloat16()}, ("'key'", "dtype of query")),
        ({"query": q.transpose(0, 1)}, ("'query'", "contiguous")),
        ({"num_heads": 3}, ("'num_key_value_heads'", "divisor", "2")),
        ({"input_layout": "NSD"}, ("'input_layout'", "'NSD'")),
        ({"sparse_mode": 9}, ("'sparse_mode'", "9")),
        (
            {"sparse_mode": 4, "pre_tokens": -2, "next_tokens": 1},
            ("'pre_tokens'", "at least -next_tokens", "-2"),
        ),
        ({"sparse_mode": 0}, ("'atten_mask'", "packed layout")),
        ({"pse_shift": q}, ("'pse_shift'", "no reference for a position bias")),
        ({"antiquant_mode": 1}, ("'antiquant_mode'", "quantised", "1")),
        (
            {
                "query": q[..., :48].contiguous(),
                "key": k[..., :96].contiguous(),
                "value": k[..., :96].contiguous(),
            },
            ("sizes", "64, 128 or 192", "got (48, 48)", "ASCEND_SIM_RELAX=head_size"),
        ),
    ]
    for change, parts in cases:
        with refused("npu_fused_infer_attention_score", *parts):
            torch_npu.npu_fused_infer_attention_score(**{**good, **change})
    narrow = {
        name: good[name][..., : good[name].shape[-1] // 4].contiguous()
        for name in ("query", "key", "value")
    }
    with relaxed("head_size"):
        torch_npu.npu_fused_infer_attention_score(**{**good, **narrow})
    wide_q = npu(torch.ones(2, 4, 128, dtype=half))
    with refused("npu_fused_infer_attention_score", "'block_size'", "128, 256", "16"):
        torch_npu.npu_fused_infer_attention_score(
            **{**good, "query": wide_q, "input_layout": "BSH", "sparse_mode": 0, "atten_mask": None}
        )


def check_zz_every_operator_was_tested() -> None:
    every_operator_was_tested(__file__)
