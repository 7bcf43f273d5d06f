# SPDX-License-Identifier: Apache-2.0
"""What npu_fused_infer_attention_score is asked, in both versions: checked, and computed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from .. import _checks as check
from .._rules import Facts
from . import _latent as latent
from . import _operands as operands
from ._masks import hidden_keys
from ._softmax import UNLIMITED, attend, gather

LAYOUTS = ("BSH", "BSND", "BNSD", "BNSD_BSND", "TND", "NTD_TND")
OPERATOR = "npu::npu_fused_infer_attention_score"
"""Whose rules both versions have."""
PACKED = ("TND", "NTD_TND", "TND_NTD")

_SECOND = {
    "actual_seq_qlen": "actual_seq_lengths",
    "actual_seq_kvlen": "actual_seq_lengths_kv",
    "num_query_heads": "num_heads",
    "softmax_scale": "scale",
    "return_softmax_lse": "softmax_lse_flag",
}
"""What version 2 calls an argument, and what version 1 does."""


@dataclass(frozen=True)
class Request:
    """The arguments of a call that have a reference, under the names of version 1."""

    query: torch.Tensor
    key: torch.Tensor
    value: torch.Tensor
    atten_mask: torch.Tensor | None = None
    actual_seq_lengths: Sequence[int] | None = None
    actual_seq_lengths_kv: Sequence[int] | None = None
    block_table: torch.Tensor | None = None
    num_heads: int = 1
    scale: float = 1.0
    pre_tokens: int = UNLIMITED
    next_tokens: int = UNLIMITED
    input_layout: str = "BSH"
    num_key_value_heads: int = 0
    sparse_mode: int = 0
    inner_precise: int = 0
    block_size: int = 0
    softmax_lse_flag: bool = False
    learnable_sink: torch.Tensor | None = None
    query_rope: torch.Tensor | None = None
    key_rope: torch.Tensor | None = None
    lengths: str = "actual_seq_lengths"
    """What the version calls the lengths of the queries, for messages."""
    kv_lengths: str = "actual_seq_lengths_kv"

    @classmethod
    def second(
        cls, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, **arguments: Any
    ) -> Request:
        """What a call of version 2 asks."""
        named = {_SECOND.get(name, name): given for name, given in arguments.items()}
        return cls(
            query, key, value, **named, lengths="actual_seq_qlen", kv_lengths="actual_seq_kvlen"
        )

    @property
    def packed(self) -> bool:
        """Whether sequences lie one after the other in the first dimension."""
        return self.input_layout in PACKED

    @property
    def batched(self) -> str:
        """The layout of the operands where they are batched."""
        return self.input_layout.partition("_")[0]

    @property
    def rotated(self) -> Request | None:
        """The same of the rotated parts of query and key, which lie apart; None without them."""
        if self.query_rope is None and self.key_rope is None:
            return None
        for name, part in (("query_rope", self.query_rope), ("key_rope", self.key_rope)):
            if part is None:
                raise check.OperandError(name, "one: query_rope and key_rope go together", None)
        return replace(
            self,
            query=self.query_rope,
            key=self.key_rope,
            value=self.key_rope,
            query_rope=None,
            key_rope=None,
        )


def fused_infer(r: Request) -> tuple[torch.Tensor, torch.Tensor]:
    """The result, and the log of the sum of exponentials, empty where it is not asked for."""
    layout, rotated = r.input_layout, r.rotated
    layouts = LAYOUTS if rotated is None else (*LAYOUTS, *latent.NBSD)
    check.require(layout in layouts, "input_layout", f"one of {layouts}", repr(layout))
    heads = r.num_heads
    kv_heads = operands.kv_heads_of(heads, r.num_key_value_heads, "num_key_value_heads")
    queries, widest = _packed_queries(r) if r.packed else _batched_queries(r)
    keys, values = _keys_and_values(r, kv_heads, len(queries), widest)
    q_size = queries[0].shape[-1] if queries else 0
    if queries:
        check.require(keys[0].shape[-1] == q_size, "key", f"head size {q_size}", keys[0].shape[-1])
    if rotated is not None:
        queries, keys = _with_rotated(r, rotated, kv_heads, widest, queries, keys, values)
    elif queries:
        _head_sizes(layout, q_size, values[0].shape[-1], widest)
    check.rules(OPERATOR, _facts(r, kv_heads, queries, keys, values))
    hidden = hidden_keys(
        [q.shape[0] for q in queries],
        [k.shape[0] for k in keys],
        r.atten_mask,
        r.sparse_mode,
        r.pre_tokens,
        r.next_tokens,
        single=widest == 1 and not r.packed,
        packed=r.packed,
    )
    sink = r.learnable_sink
    if sink is not None:
        check.require(r.packed, "learnable_sink", "layout TND or NTD_TND", layout)
        check.shape("learnable_sink", sink, heads)
        check.require(
            not r.softmax_lse_flag,
            "learnable_sink",
            "return_softmax_lse False with it",
            r.softmax_lse_flag,
        )
    size = values[0].shape[-1] if values else q_size
    found = (
        attend(q, k, v, r.scale, hidden=h, sink=sink)
        for q, k, v, h in zip(queries, keys, values, hidden, strict=True)
    )
    if r.packed:
        out = r.query.new_zeros(sum(q.shape[0] for q in queries), heads, size)
        lse = torch.full((out.shape[0], heads, 1), torch.inf)
        at = 0
        for result, own in found:
            part = slice(at, at + result.shape[0])
            out[part] = result.to(out.dtype)
            lse[part, :, 0] = own
            at = part.stop
        if layout == "TND_NTD":
            out = out.transpose(0, 1).contiguous()
    else:
        full = r.query.new_zeros(len(queries), widest, heads, size)
        lse = torch.full((len(queries), heads, widest, 1), torch.inf)
        for i, (result, own) in enumerate(found):
            full[i, : result.shape[0]] = result.to(full.dtype)
            lse[i, :, : result.shape[0], 0] = own.T
        if layout == "BSH":
            out = full.flatten(2)
        elif layout == "BNSD":
            out = full.transpose(1, 2).contiguous()
        elif layout.endswith("_NBSD"):
            out = full.permute(2, 0, 1, 3).contiguous()
        else:
            out = full
    return out, lse if r.softmax_lse_flag else torch.empty(0)


def _facts(
    r: Request,
    kv_heads: int,
    queries: Sequence[torch.Tensor],
    keys: Sequence[torch.Tensor],
    values: Sequence[torch.Tensor],
) -> Facts:
    """What the rules of the operator ask; keys and values by sequence, heads first but one."""
    size = r.query.shape[-1] if not queries else queries[0].shape[-1]
    value_size = size if not values else values[0].shape[-1]
    lengths = tuple(len(key) for key in keys)
    # float32 is let through for comparisons, where the other two dtypes would be.
    dtype = torch.bfloat16 if r.query.dtype == torch.float32 else r.query.dtype
    return {
        "layout": r.input_layout,
        "rotated": r.query_rope is not None,
        "paged": r.block_table is not None,
        "sink": r.learnable_sink is not None,
        "dtype": str(dtype).removeprefix("torch."),
        "query_size": size,
        "value_size": value_size,
        "sizes": (size, value_size),
        "heads": r.num_heads,
        "group": r.num_heads // kv_heads,
        "tokens": sum(map(len, queries)),
        "keys": sum(lengths),
        "sequences": len(queries),
        "query_lengths": tuple(map(len, queries)),
        "key_lengths": lengths,
        "sparse_mode": r.sparse_mode,
        "block_size": r.block_size,
    }


def _with_rotated(
    r: Request,
    rotated: Request,
    kv_heads: int,
    widest: int,
    queries: list[torch.Tensor],
    keys: list[torch.Tensor],
    values: list[torch.Tensor],
) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """Queries and keys of latent attention with their rotated parts, checked."""
    parts, _ = _packed_queries(rotated) if r.packed else _batched_queries(rotated)
    key_parts, _ = _keys_and_values(rotated, kv_heads, len(queries), widest)
    for name, own, other in (("query_rope", parts, queries), ("key_rope", key_parts, keys)):
        found, wanted = [p.shape[:-1] for p in own], [p.shape[:-1] for p in other]
        check.require(found == wanted, name, f"tokens and heads {wanted}", found)
    if queries:
        latent.check_latent(
            r.input_layout,
            (queries[0].shape[-1], values[0].shape[-1], parts[0].shape[-1]),
            (r.num_heads, kv_heads),
            [(q.shape[0], k.shape[0]) for q, k in zip(queries, keys, strict=True)],
            widest=widest,
            block_size=None if r.block_table is None else r.block_size,
            sparse_mode=r.sparse_mode,
            masked=r.atten_mask is not None,
            lse=r.softmax_lse_flag,
        )
    return latent.join(queries, parts), latent.join(keys, key_parts)


def _packed_queries(r: Request) -> tuple[list[torch.Tensor], int]:
    """Per sequence [tokens, heads, size], and the most tokens of one."""
    flat = operands.sequence(r.input_layout, "query", r.query, r.num_heads)
    if r.actual_seq_lengths is None:
        raise check.OperandError(r.lengths, f"lengths, in layout {r.input_layout}", None)
    ends = check.lengths(r.lengths, r.actual_seq_lengths, cumulative=True)
    check.require(len(ends) > 0, r.lengths, "at least a sequence", 0)
    check.require(
        ends[-1] == flat.shape[0],
        r.lengths,
        f"cumulative lengths whose last is the {flat.shape[0]} tokens of query",
        ends,
    )
    queries = [flat[a:b] for a, b in zip([0, *ends[:-1]], ends, strict=True)]
    return queries, max((q.shape[0] for q in queries), default=0)


def _batched_queries(r: Request) -> tuple[list[torch.Tensor], int]:
    """Per sequence [tokens, heads, size], and the tokens that the layout has room for."""
    rows = operands.rows(r.batched, "query", r.query, r.num_heads)
    batch, widest = rows.shape[0], rows.shape[1]
    given = None if widest == 1 else r.actual_seq_lengths
    lengths = operands.per_batch(r.lengths, given, batch, widest)
    queries = [rows[i, :n] for i, n in enumerate(lengths)]
    check.require(
        r.input_layout != "BNSD_BSND" or widest > 1,
        "input_layout",
        "more than one query token in layout BNSD_BSND",
        widest,
    )
    return queries, widest


def _keys_and_values(
    r: Request, kv_heads: int, batch: int, q_len: int
) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """Per sequence [tokens, kv_heads, size]."""
    if r.block_table is not None:
        return _of_cache(r, r.block_table, kv_heads, batch, q_len)
    layout = r.input_layout
    if r.packed:
        if r.actual_seq_lengths_kv is None:
            raise check.OperandError(r.kv_lengths, f"lengths, in layout {layout}", None)
        ends = check.lengths(r.kv_lengths, r.actual_seq_lengths_kv, cumulative=True)
        k = operands.sequence(layout, "key", r.key, kv_heads)
        v = operands.sequence(layout, "value", r.value, kv_heads)
        check.shape("value", v, k.shape[0], kv_heads, None)
        check.require(
            len(ends) == batch and ends[-1] == k.shape[0],
            r.kv_lengths,
            f"{batch} cumulative lengths whose last is the {k.shape[0]} tokens of key",
            ends,
        )
        bounds = list(zip([0, *ends[:-1]], ends, strict=True))
        return [k[a:b] for a, b in bounds], [v[a:b] for a, b in bounds]
    k = operands.rows(r.batched, "key", r.key, kv_heads)
    v = operands.rows(r.batched, "value", r.value, kv_heads)
    check.shape("key", k, batch, None, kv_heads, None)
    check.shape("value", v, *k.shape[:3], None)
    lengths = operands.per_batch(r.kv_lengths, r.actual_seq_lengths_kv, batch, k.shape[1])
    return (
        [k[i, :n] for i, n in enumerate(lengths)],
        [v[i, :n] for i, n in enumerate(lengths)],
    )


def _of_cache(
    r: Request, block_table: torch.Tensor, kv_heads: int, batch: int, q_len: int
) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    if r.actual_seq_lengths_kv is None:
        raise check.OperandError(r.kv_lengths, "lengths, with a block_table", None)
    _block_size(r.input_layout, q_len, r.block_size)
    caches = [
        _cache(name, cache, r.batched, kv_heads, r.block_size)
        for name, cache in (("key", r.key), ("value", r.value))
    ]
    check.shape("value", caches[1], *caches[0].shape[:3], None)
    check.require(
        block_table.dim() == 2 and block_table.shape[0] == batch,
        "block_table",
        f"2 dimensions and a row for each of the {batch} sequences",
        tuple(block_table.shape),
    )
    room = block_table.shape[1] * r.block_size
    lengths = operands.per_batch(r.kv_lengths, r.actual_seq_lengths_kv, batch, room)
    operands.check_block_table(
        block_table, lengths, r.block_size, caches[0].shape[0], "block_table"
    )
    found = [[gather(cache, block_table[i], n) for i, n in enumerate(lengths)] for cache in caches]
    return found[0], found[1]


def _block_size(layout: str, q_len: int, block_size: int) -> None:
    if layout in PACKED:
        ok, wanted = 0 < block_size <= 1024 and block_size % 16 == 0, "a multiple of 16 up to 1024"
    elif q_len > 1:
        ok, wanted = 0 < block_size <= 512 and block_size % 128 == 0, "128, 256, 384 or 512"
    else:
        ok, wanted = 0 < block_size <= 512 and block_size % 16 == 0, "a multiple of 16 up to 512"
    check.require(ok, "block_size", f"{wanted}, in layout {layout}", block_size)


def _cache(
    name: str, cache: torch.Tensor, layout: str, kv_heads: int, block_size: int
) -> torch.Tensor:
    """A paged cache as [blocks, block_size, kv_heads, size]."""
    check.rank(name, cache, 3, 4)
    if cache.dim() == 3:
        check.require(
            cache.shape[1] == block_size and cache.shape[2] % kv_heads == 0,
            name,
            f"shape (blocks, {block_size}, {kv_heads} * size)",
            tuple(cache.shape),
        )
        check.require(
            cache.shape[2] <= 65535, name, "a last dimension of at most 65535", cache.shape[2]
        )
        return cache.reshape(*cache.shape[:2], kv_heads, cache.shape[2] // kv_heads)
    check.require(
        layout not in ("BSH", "BSND"),
        name,
        f"3 dimensions (blocks, block_size, heads * size) in layout {layout}",
        tuple(cache.shape),
    )
    check.require(
        tuple(cache.shape[1:3]) == (kv_heads, block_size),
        name,
        f"shape (blocks, {block_size}, {kv_heads} * size) or (blocks, {kv_heads}, {block_size}, "
        "size)",
        tuple(cache.shape),
    )
    return cache.transpose(1, 2)


def _head_sizes(layout: str, query: int, value: int, q_len: int) -> None:
    check.require(0 < query <= 512, "query", "a head size of at most 512", query)
    if q_len > 1 or layout in PACKED:
        check.require(query % 16 == 0, "query", "a head size that is a multiple of 16", query)
        check.require(value % 16 == 0, "value", "a head size that is a multiple of 16", value)
