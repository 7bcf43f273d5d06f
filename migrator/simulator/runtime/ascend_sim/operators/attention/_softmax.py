# SPDX-License-Identifier: Apache-2.0
"""Attention of one sequence, and what belongs to it."""

from __future__ import annotations

import torch

UNLIMITED = 2147483647


def attend(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    scale: float,
    *,
    hidden: torch.Tensor | None = None,
    bias: torch.Tensor | None = None,
    sink: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Attention of one sequence in float32.

    query [q, heads, d], key [kv, kv_heads, d], value [kv, kv_heads, dv]; kv_heads divides heads
    and head h reads kv head h // (heads // kv_heads). ``hidden`` (bool) and ``bias`` (float) are
    [q, kv] or [heads, q, kv]. ``sink`` [heads] is one more logit that takes weight and gives
    no value. Returns the result [q, heads, dv] and the log of the sum of exponentials
    [q, heads], both float32; a query that sees no key gives 0 and +inf.
    """
    q_len, heads, _ = query.shape
    kv_len, kv_heads, size = value.shape
    group = heads // kv_heads
    q = query.float().view(q_len, kv_heads, group, -1).permute(1, 2, 0, 3).flatten(1, 2)
    k = key.float().permute(1, 2, 0)
    logits = (torch.bmm(q, k) * scale).view(heads, q_len, kv_len)
    if bias is not None:
        logits = logits + bias.float()
    if hidden is not None:
        logits = logits.masked_fill(hidden, float("-inf"))
    if sink is not None:
        column = sink.float().view(heads, 1, 1).expand(heads, q_len, 1)
        logits = torch.cat((logits, column), -1)
    lse = logits.logsumexp(-1) if logits.shape[-1] else logits.new_full((heads, q_len), -torch.inf)
    blind = lse == -torch.inf
    weights = torch.exp(logits - lse.masked_fill(blind, 0.0).unsqueeze(-1))[..., :kv_len]
    v = value.float().permute(1, 0, 2)
    result = torch.bmm(weights.reshape(kv_heads, group * q_len, kv_len), v)
    result = result.view(heads, q_len, size).permute(1, 0, 2)
    return result, lse.masked_fill(blind, torch.inf).T


def gather(cache: torch.Tensor, blocks: torch.Tensor, length: int) -> torch.Tensor:
    """The first ``length`` tokens of a sequence in a cache [blocks, block_size, heads, size]."""
    count = -(-length // cache.shape[1])
    return cache.index_select(0, blocks[:count].long()).flatten(0, 1)[:length]


def band(q_len: int, kv_len: int, offset: int, before: int, after: int) -> torch.Tensor:
    """True where key j is outside [i + offset - before, i + offset + after] for query i."""
    row = torch.arange(q_len).unsqueeze(1) + offset
    column = torch.arange(kv_len).unsqueeze(0)
    return (column > row + after) | (column < row - before)


def softmax_parts(
    query: torch.Tensor, key: torch.Tensor, scale: float, hidden: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Greatest logit and sum of exponentials below it, [q, heads] each."""
    heads = query.shape[1]
    k = key.float().repeat_interleave(heads // key.shape[1], 1)
    logits = torch.einsum("qhd,khd->qhk", query.float(), k) * scale
    if hidden is not None:
        seen = hidden if hidden.dim() == 2 else hidden.transpose(0, 1)
        logits = logits.masked_fill(seen.unsqueeze(1) if hidden.dim() == 2 else seen, -torch.inf)
    peak = logits.amax(-1)
    return peak, torch.exp(logits - peak.clamp(min=-3e38).unsqueeze(-1)).sum(-1)
