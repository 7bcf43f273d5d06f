# SPDX-License-Identifier: Apache-2.0
"""npu_fusion_attention."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from .. import _checks as check
from .._registry import operator
from . import _operands as operands
from ._masks import hidden_keys
from ._softmax import UNLIMITED, attend, band, softmax_parts


def _fusion_rows(layout: str, name: str, tensor: torch.Tensor, heads: int) -> torch.Tensor:
    """[batch, tokens, heads, size] of a tensor in a batched layout."""
    if layout == "SBH":
        check.rank(name, tensor, 3)
        return operands.rows("BSH", name, tensor.transpose(0, 1), heads)
    return operands.rows(layout, name, tensor, heads)


@operator(
    "npu::npu_fusion_attention",
    {
        version: "npu_fusion_attention(Tensor query, Tensor key, Tensor value, int head_num,"
        " str input_layout, Tensor? pse=None, Tensor? padding_mask=None,"
        " Tensor? atten_mask=None, float scale=1., float keep_prob=1.,"
        " int pre_tockens=2147483647, int next_tockens=2147483647, int inner_precise=0,"
        " int[]? prefix=None, int[]? actual_seq_qlen=None, int[]? actual_seq_kvlen=None,"
        " int sparse_mode=0, bool gen_mask_parallel=True, bool sync=False,"
        f" str softmax_layout='', Tensor? sink=None{more})"
        " -> (Tensor, Tensor, Tensor, Tensor, int, int, int)"
        for version, more in (
            ("2.8.0", ""),
            ("2.9.0", ", Tensor? dropout_mask=None, int seed=0, int offset=0"),
        )
    },
    meta_defects={"2.8": "gives the softmax results of layout TND a wrong fourth dimension"},
    refused={
        "pse": "a position bias",
        "padding_mask": "a padding mask",
        "prefix": "prefix masks",
        "sink": "a sink",
        "softmax_layout": "another layout of the softmax results",
        "dropout_mask": "dropout",
    },
)
def npu_fusion_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    head_num: int,
    input_layout: str,
    atten_mask: torch.Tensor | None = None,
    scale: float = 1.0,
    pre_tockens: int = UNLIMITED,
    next_tockens: int = UNLIMITED,
    actual_seq_qlen: Sequence[int] | None = None,
    actual_seq_kvlen: Sequence[int] | None = None,
    sparse_mode: int = 0,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, int, int, int]:
    """Attention for training and encoders; sparse modes as npu_fused_infer_attention_score.

    ``head_num`` counts the query heads; those of key and value follow from their sizes. Returns
    the result in the layout of the query, the greatest logit and the sum of exponentials of each
    row, float32, [B, N, S, 8] or [T, N, 8] with eight equal values, an empty tensor, and seed,
    offset and number of the dropout mask, all 0.
    """
    layout, heads = input_layout, head_num
    check.require(heads > 0, "head_num", "more than 0", heads)
    packed = layout == "TND"
    if packed:
        q, k, v, batch = _fusion_packed(query, key, value, heads, actual_seq_qlen, actual_seq_kvlen)
    else:
        rows = _fusion_rows(layout, "query", query, heads)
        size = rows.shape[-1]
        if layout in ("BSH", "SBH"):
            check.rank("key", key, 3)
            kv_heads = key.shape[2] // max(size, 1)
        else:
            check.rank("key", key, 4)
            kv_heads = key.shape[2 if layout == "BSND" else 1]
        keys = _fusion_rows(layout, "key", key, max(kv_heads, 1))
        values = _fusion_rows(layout, "value", value, max(kv_heads, 1))
        batch = rows.shape[0]
        check.shape("key", keys, batch, None, kv_heads, size)
        check.shape("value", values, *keys.shape[:3], None)
        q, k, v = list(rows), list(keys), list(values)
    for a, b in zip(q, k, strict=True):
        check.require(0 < a.shape[2] <= 768, "query", "a head size of at most 768", a.shape[2])
        check.require(
            heads % max(b.shape[1], 1) == 0, "key", f"heads that divide {heads}", b.shape[1]
        )
    hidden = _fusion_hidden(q, k, atten_mask, sparse_mode, pre_tockens, next_tockens, packed)
    results, peaks, sums = [], [], []
    for a, b, c, h in zip(q, k, v, hidden, strict=True):
        result, _ = attend(a, b, c, scale, hidden=h)
        peak, total = softmax_parts(a, b, scale, h)
        results.append(result.to(query.dtype))
        peaks.append(peak)
        sums.append(total)
    if packed:
        out = torch.cat(results)
        statistics = [torch.cat(part).unsqueeze(-1).repeat(1, 1, 8) for part in (peaks, sums)]
    else:
        full = torch.stack(results)
        out = {
            "BSH": lambda: full.flatten(2),
            "SBH": lambda: full.flatten(2).transpose(0, 1).contiguous(),
            "BSND": lambda: full,
            "BNSD": lambda: full.transpose(1, 2).contiguous(),
        }[layout]()
        statistics = [
            torch.stack(part).transpose(1, 2).unsqueeze(-1).repeat(1, 1, 1, 8)
            for part in (peaks, sums)
        ]
    return out, statistics[0], statistics[1], query.new_empty(0), 0, 0, 0


def _fusion_packed(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    heads: int,
    q_lengths: Sequence[int] | None,
    kv_lengths: Sequence[int] | None,
) -> tuple[list[torch.Tensor], list[torch.Tensor], list[torch.Tensor], int]:
    check.shape("query", query, None, heads, None)
    check.shape("key", key, None, None, query.shape[2])
    check.shape("value", value, *key.shape[:2], None)
    parts: list[list[torch.Tensor]] = []
    for name, values, tensors in (
        ("actual_seq_qlen", q_lengths, (query,)),
        ("actual_seq_kvlen", kv_lengths, (key, value)),
    ):
        if values is None:
            raise check.OperandError(name, "lengths, in layout TND", None)
        ends = check.lengths(name, values, cumulative=True)
        check.require(
            bool(ends) and ends[-1] == tensors[0].shape[0],
            name,
            f"cumulative lengths whose last is {tensors[0].shape[0]}",
            ends,
        )
        bounds = list(zip([0, *ends], ends, strict=False))
        parts.extend([tensor[a:b] for a, b in bounds] for tensor in tensors)
    check.require(
        len(parts[0]) == len(parts[1]), "actual_seq_kvlen", f"{len(parts[0])} sequences", parts[1]
    )
    return parts[0], parts[1], parts[2], len(parts[0])


def _fusion_hidden(
    q: Sequence[torch.Tensor],
    k: Sequence[torch.Tensor],
    mask: torch.Tensor | None,
    mode: int,
    before: int,
    after: int,
    packed: bool,
) -> list[torch.Tensor | None]:
    if mode in (0, 1) and mask is not None:
        check.rank("atten_mask", mask, 2, 4)
        check.require(
            not packed or mask.dim() == 2, "atten_mask", "2 dimensions in layout TND", mask.dim()
        )
        q_len, kv_len = max(a.shape[0] for a in q), max(b.shape[0] for b in k)
        full = mask.view(1, 1, *mask.shape) if mask.dim() == 2 else mask
        check.require(
            full.shape[0] in (1, len(q))
            and full.shape[1] in (1, q[0].shape[1])
            and (full.shape[2], full.shape[3]) == (q_len, kv_len),
            "atten_mask",
            f"({len(q)} or 1, {q[0].shape[1]} or 1, {q_len}, {kv_len}) or ({q_len}, {kv_len})",
            tuple(mask.shape),
        )
        found: list[torch.Tensor | None] = []
        for i, (a, b) in enumerate(zip(q, k, strict=True)):
            own = full[i if full.shape[0] > 1 else 0, :, : a.shape[0], : b.shape[0]] != 0
            if mode == 0:
                own = own | band(a.shape[0], b.shape[0], 0, before, after)
            found.append(own.expand(a.shape[1], -1, -1))
        return found
    return hidden_keys(
        [a.shape[0] for a in q],
        [b.shape[0] for b in k],
        mask,
        mode,
        before,
        after,
        single=False,
        packed=False,
    )
