# SPDX-License-Identifier: Apache-2.0
"""The fused attention with rotated parts of queries and keys, against float64 arithmetic."""

from __future__ import annotations

import itertools
import random
from typing import Any

import torch
import torch_npu
from torch import Tensor

from tests.simulator.inside.operators.attending import TRIANGLE
from tests.simulator.inside.operators.calling import call, close, npu, rand, refused, relaxed

FIRST = "npu::npu_fused_infer_attention_score"
SECOND = "npu::npu_fused_infer_attention_score_v2"
RENAMED = {
    "actual_seq_lengths": "actual_seq_qlen",
    "actual_seq_lengths_kv": "actual_seq_kvlen",
    "num_heads": "num_query_heads",
    "scale": "softmax_scale",
    "softmax_lse_flag": "return_softmax_lse",
}
SCALE = 0.07


def attend(q: Tensor, k: Tensor, v: Tensor, causal: bool) -> tuple[Tensor, Tensor]:
    """[tokens, heads, size] of one sequence in float64, and the log of the sum of exponentials."""
    logits = torch.einsum("qhd,khd->hqk", q.double(), k.double()) * SCALE
    if causal:
        new, keys = logits.shape[1:]
        later = torch.arange(keys)[None] > torch.arange(keys - new, keys)[:, None]
        logits = logits.masked_fill(later, -torch.inf)
    out = torch.einsum("hqk,khv->qhv", logits.softmax(-1), v.double())
    return out, logits.logsumexp(-1).T


def both_versions(*operands: Tensor, **named: Any) -> tuple[Tensor, Tensor]:
    out, lse = call(FIRST, *operands, **named)
    again = {RENAMED.get(name, name): value for name, value in named.items()}
    second, second_lse = call(SECOND, *operands, **again)
    assert torch.equal(out.cpu(), second.cpu())
    assert torch.equal(lse.cpu(), second_lse.cpu())
    return out, lse


def check_decode_over_one_latent_head() -> None:
    """Heads of 512 in every layout, one token and several, from blocks of 16 and 128."""
    layouts = ("BSH", "BSND", "BNSD", "TND", "BSH_NBSD", "BSND_NBSD", "BNSD_NBSD", "TND_NTD")
    dtypes = (torch.float32, torch.float16, torch.bfloat16)
    for seed, (layout, dtype) in enumerate(itertools.product(layouts, dtypes)):
        rng = random.Random(seed)
        packed = layout.startswith("TND")
        heads = rng.choice([32, 64]) if packed else rng.choice([1, 2, 8, 128])
        new = rng.choice([1, 1, 3])
        block = rng.choice([16, 128]) if packed or new == 1 else 128
        lengths = [rng.randint(new, 40) for _ in range(2)]
        counts = [-(-n // block) for n in lengths]
        table = torch.zeros(2, max(counts) + 1, dtype=torch.int32)
        own = torch.randperm(sum(counts), generator=torch.Generator().manual_seed(seed)) + 1
        for row, blocks in zip(table, own.split(counts), strict=True):
            row[: len(blocks)] = blocks
        latent, rope = (rand(rng, sum(counts) + 1, block, s, dtype=dtype) for s in (512, 64))
        q, q_rope = (rand(rng, 2, new, heads, s, dtype=dtype) for s in (512, 64))

        def lay(t: Tensor, layout: str = layout) -> Tensor:
            kind = layout.partition("_")[0]
            if kind == "BSH":
                return npu(t.flatten(2))
            if kind == "TND":
                return npu(t.flatten(0, 1))
            return npu(t if kind == "BSND" else t.transpose(1, 2).contiguous())

        named: dict[str, Any] = {
            "query_rope": lay(q_rope),
            "key_rope": npu(rope),
            "block_table": npu(table),
            "block_size": block,
            "actual_seq_lengths_kv": lengths,
            "num_heads": heads,
            "num_key_value_heads": 1,
            "scale": SCALE,
            "input_layout": layout,
        }
        if packed:
            named["actual_seq_lengths"] = [new, 2 * new]
        if new > 1:
            named |= {"sparse_mode": 3, "atten_mask": npu(TRIANGLE)}
        with relaxed("float32"):
            out, lse = both_versions(lay(q), npu(latent), npu(latent), **named)
        assert lse.numel() == 0
        want = []
        for i, length in enumerate(lengths):
            c, r = (
                t[table[i].long()].flatten(0, 1)[:length].unsqueeze(1).expand(-1, heads, -1)
                for t in (latent, rope)
            )
            full = torch.cat([q[i], q_rope[i]], -1)
            want.append(attend(full, torch.cat([c, r], -1), c, new > 1)[0])
        wanted = torch.stack(want)
        if layout.endswith(("_NBSD", "_NTD")):
            wanted = wanted.permute(2, 0, 1, 3)
        elif layout == "BNSD":
            wanted = wanted.transpose(1, 2)
        close(out, wanted.tolist(), terms=576 + 40, size=4)


def check_prefill_with_heads_of_their_own() -> None:
    """Heads of 128, packed, causal and not, and their log-sum-exp."""
    for seed, dtype in itertools.product(range(6), (torch.float32, torch.float16, torch.bfloat16)):
        rng = random.Random(seed)
        layout, causal = ("TND", "NTD_TND")[seed % 2], seed % 3 == 0
        heads = rng.randint(1, 3)
        queries = [rng.randint(1, 6) for _ in range(3)]
        keys = [rng.randint(n, 9) if causal else rng.randint(1, 9) for n in queries]
        q, q_rope = (rand(rng, sum(queries), heads, s, dtype=dtype) for s in (128, 64))
        k, k_rope, v = (rand(rng, sum(keys), heads, s, dtype=dtype) for s in (128, 64, 128))

        def lay(t: Tensor, layout: str = layout) -> Tensor:
            return npu(t.transpose(0, 1).contiguous() if layout == "NTD_TND" else t)

        with relaxed("float32"):
            out, lse = both_versions(
                lay(q),
                lay(k),
                lay(v),
                query_rope=lay(q_rope),
                key_rope=lay(k_rope),
                actual_seq_lengths=list(itertools.accumulate(queries)),
                actual_seq_lengths_kv=list(itertools.accumulate(keys)),
                num_heads=heads,
                num_key_value_heads=heads,
                scale=SCALE,
                input_layout=layout,
                softmax_lse_flag=True,
                sparse_mode=3 if causal else 0,
                atten_mask=npu(TRIANGLE) if causal else None,
            )
        found = [
            attend(torch.cat([a, b], -1), torch.cat([c, d], -1), e, causal)
            for a, b, c, d, e in zip(
                q.split(queries),
                q_rope.split(queries),
                k.split(keys),
                k_rope.split(keys),
                v.split(keys),
                strict=True,
            )
        ]
        close(out, torch.cat([o for o, _ in found]).tolist(), terms=192 + 9, size=4)
        close(lse, torch.cat([s for _, s in found]).tolist(), terms=192, size=8)


def check_what_the_device_does_not_take() -> None:
    half = torch.bfloat16

    def decode(new: int = 1, heads: int = 4, layout: str = "BNSD", **change: Any) -> None:
        good: dict[str, Any] = {
            "query": torch.ones(1, heads, new, 512, dtype=half),
            "key": torch.ones(2, 1, 128, 512, dtype=half),
            "value": torch.ones(2, 1, 128, 512, dtype=half),
            "query_rope": torch.ones(1, heads, new, 64, dtype=half),
            "key_rope": torch.ones(2, 1, 128, 64, dtype=half),
            "block_table": torch.ones(1, 1, dtype=torch.int32),
        }
        if layout.startswith("TND"):
            for name in ("query", "query_rope"):
                good[name] = good[name].squeeze(2)
            good["actual_seq_lengths"] = [1]
        named = {
            "block_size": 128,
            "actual_seq_lengths_kv": [9],
            "num_heads": heads,
            "num_key_value_heads": 1,
            "input_layout": layout,
            **good,
            **change,
        }
        torch_npu.npu_fused_infer_attention_score(
            **{n: npu(v) if isinstance(v, Tensor) else v for n, v in named.items()}
        )

    decode()
    decode(3, sparse_mode=3, atten_mask=TRIANGLE)
    for arguments, parts in (
        ({"heads": 3}, ("'num_heads'", "32, 64, 128", "got 3")),
        ({"heads": 4, "layout": "TND"}, ("'num_heads'", "(32, 64, 128)", "got 4")),
        ({"new": 3}, ("'sparse_mode'", "(3,)", "got 0")),
        ({"new": 17, "sparse_mode": 3, "atten_mask": TRIANGLE}, ("'query'", "1 to 16", "17")),
        ({"sparse_mode": 3, "atten_mask": TRIANGLE}, ("'sparse_mode'", "(0,)", "got 3")),
        ({"softmax_lse_flag": True}, ("'softmax_lse_flag'", "False", "True")),
        ({"query_rope": None}, ("'query_rope'", "go together", "None")),
        ({"key_rope": None}, ("'key_rope'", "go together", "None")),
        ({"query_rope": torch.ones(1, 4, 1, 32, dtype=half)}, ("head size",)),
        ({"query_rope": torch.ones(1, 4, 2, 64, dtype=half)}, ("'query_rope'", "tokens and heads")),
        (
            {"key_rope": torch.ones(2, 1, 128, 64, dtype=torch.float16)},
            ("'key_rope'", "bfloat16", "float16"),
        ),
        ({"block_size": 64}, ("64",)),
    ):
        with refused("npu_fused_infer_attention_score", *parts):
            decode(**arguments)

    def prefill(**change: Any) -> None:
        ones = {
            name: torch.ones(5, 2, size, dtype=half)
            for name, size in (
                ("query", 128),
                ("key", 128),
                ("value", 128),
                ("query_rope", 64),
                ("key_rope", 64),
            )
        }
        named = {
            "actual_seq_lengths": [2, 5],
            "actual_seq_lengths_kv": [2, 5],
            "num_heads": 2,
            "num_key_value_heads": 2,
            "input_layout": "TND",
            **ones,
            **change,
        }
        torch_npu.npu_fused_infer_attention_score(
            **{n: npu(v) if isinstance(v, Tensor) else v for n, v in named.items()}
        )

    prefill()
    one = torch.ones(5, 1, 128, dtype=half)
    for change, parts in (
        ({"value": torch.ones(5, 2, 64, dtype=half)}, ("'value'", "128", "got 64")),
        (
            {"actual_seq_lengths_kv": [1, 5], "sparse_mode": 3, "atten_mask": TRIANGLE},
            ("'sparse_mode'", "no sequence with more query than key tokens", "got 2"),
        ),
        ({"sparse_mode": 3}, ("'atten_mask'", "a mask in sparse_mode 3")),
        (
            {"num_key_value_heads": 1, "key": one, "value": one, "key_rope": one[..., :64].clone()},
            ("'num_key_value_heads'", "the 2 heads of query", "got 1"),
        ),
    ):
        with refused("npu_fused_infer_attention_score", *parts):
            prefill(**change)
