# SPDX-License-Identifier: Apache-2.0
"""Attention: the NNAL operators (atb) and npu_fused_infer_attention_score in both versions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from . import _checks as check
from ._registry import operator

UNLIMITED = 2147483647
COMPRESSED = 2048
"""Side of the triangular mask that sparse modes 2, 3 and 4 take."""


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


def _heads(num_heads: int, num_kv_heads: int, kv_name: str = "num_kv_heads") -> int:
    check.require(num_heads > 0, "num_heads", "more than 0", num_heads)
    kv_heads = num_kv_heads or num_heads
    check.require(
        kv_heads > 0 and num_heads % kv_heads == 0,
        kv_name,
        f"a divisor of the number of query heads {num_heads}, or 0",
        num_kv_heads,
    )
    return kv_heads


def _tokens(name: str, tensor: torch.Tensor, heads: int) -> torch.Tensor:
    """[tokens, heads, size] of a tensor of that shape or [tokens, heads * size]."""
    check.rank(name, tensor, 2, 3)
    if tensor.dim() == 2:
        check.require(
            tensor.shape[1] % heads == 0,
            name,
            f"a second dimension that is a multiple of {heads} heads",
            tensor.shape[1],
        )
        return tensor.reshape(tensor.shape[0], heads, tensor.shape[1] // heads)
    check.shape(name, tensor, None, heads, None)
    return tensor


def _out(out: torch.Tensor, query: torch.Tensor, heads: int) -> torch.Tensor:
    check.same_dtype("out", out, "query", query)
    check.contiguous("out", out)
    check.require(
        out.shape[0] == query.shape[0], "out", f"{query.shape[0]} tokens", tuple(out.shape)
    )
    return _tokens("out", out, heads)


def _paged(
    key_cache: torch.Tensor,
    value_cache: torch.Tensor,
    query: torch.Tensor,
    kv_heads: int,
    head_size: int,
) -> None:
    """Checks on the caches of the NNAL operators."""
    for name, cache in (("key_cache", key_cache), ("value_cache", value_cache)):
        check.same_dtype(name, cache, "query", query)
        check.rank(name, cache, 4)
        check.contiguous(name, cache)
        check.require(
            cache.shape[1] % 16 == 0 and cache.shape[1] > 0,
            name,
            "a block size that is a multiple of 16",
            cache.shape[1],
        )
        check.require(
            cache.shape[3] <= 256 or cache.shape[1] <= 128,
            name,
            "a block size of at most 128 with heads wider than 256",
            tuple(cache.shape),
        )
        check.require(0 < cache.shape[3] <= 576, name, "a head size of at most 576", cache.shape[3])
    check.shape("key_cache", key_cache, None, None, kv_heads, head_size)
    check.shape("value_cache", value_cache, *key_cache.shape[:3], None)


def _block_table(
    table: torch.Tensor, lengths: Sequence[int], block_size: int, blocks: int, name: str
) -> None:
    """Check a block table [sequences, blocks per sequence] for the lengths of its sequences."""
    check.dtype(name, table, torch.int32)
    check.rank(name, table, 2)
    check.require(
        table.shape[0] >= len(lengths),
        name,
        f"a row for each of the {len(lengths)} sequences",
        tuple(table.shape),
    )
    for row, length in zip(table, lengths, strict=False):
        count = -(-length // block_size)
        check.require(
            count <= row.numel(),
            name,
            f"at least {count} columns, for {length} tokens in blocks of {block_size}",
            row.numel(),
        )
        check.index_range(name, row[:count], 0, blocks)


def _host_lengths(name: str, tensor: torch.Tensor) -> list[int]:
    check.dtype(name, tensor, torch.int32)
    check.rank(name, tensor, 1)
    check.contiguous(name, tensor)
    return check.lengths(name, tensor.tolist())


def _additive(name: str, mask: torch.Tensor, query: torch.Tensor) -> torch.Tensor:
    """The float32 bias that an NNAL mask stands for.

    float16 masks are added as they are (0 and a large negative number or -inf). The kernel
    multiplies a bfloat16 mask by -10000, so there 1 hides and 0 shows.
    """
    check.same_dtype(name, mask, "query", query)
    values = mask.float()
    if not values.numel():
        return values
    low, high = float(values.min()), float(values.max())
    if mask.dtype == torch.bfloat16 or (mask.dtype == torch.float32 and low >= 0):
        check.require(
            low >= 0 and high <= 1,
            name,
            f"0 where a key is seen and 1 where it is hidden, for {mask.dtype} operands",
            f"values in [{low}, {high}]",
        )
        return values * -10000.0
    check.require(
        high <= 0,
        name,
        "0 where a key is seen and a large negative number where it is hidden, for float16 "
        "operands",
        f"values in [{low}, {high}]",
    )
    return values


_ENCODER_CHECKS = (
    "query, key, value [tokens, heads, size] or [tokens, heads * size], contiguous, float16 or "
    "bfloat16; seq_len a host int32 tensor that adds up to tokens; head size at most 256; out "
    "contiguous, of the shape of query"
)


def _encode(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor | None,
    seq_len: torch.Tensor,
    scale: float,
    num_heads: int,
    num_kv_heads: int,
    out: torch.Tensor,
) -> None:
    kv_heads = _heads(num_heads, num_kv_heads)
    check.half("query", query)
    q = _tokens("query", query, num_heads)
    k, v = _tokens("key", key, kv_heads), _tokens("value", value, kv_heads)
    check.shape("key", k, q.shape[0], kv_heads, q.shape[2])
    check.shape("value", v, q.shape[0], kv_heads, None)
    for name, tensor in (("key", key), ("value", value)):
        check.same_dtype(name, tensor, "query", query)
    check.require(q.shape[2] <= 256, "query", "a head size of at most 256", q.shape[2])
    target = _out(out, query, num_heads)
    lengths = _host_lengths("seq_len", seq_len)
    check.require(
        sum(lengths) == q.shape[0],
        "seq_len",
        f"lengths that add up to the {q.shape[0]} tokens of query",
        lengths,
    )
    longest = max(lengths, default=0)
    bias = None
    if mask is not None:
        check.rank("mask", mask, 2, 3, 4)
        side = mask.shape[-1]
        check.require(
            mask.shape[-2] == side and side >= longest,
            "mask",
            f"a square mask, at least as wide as the longest sequence ({longest})",
            tuple(mask.shape),
        )
        lead = {2: (), 3: (len(lengths),), 4: (len(lengths), num_heads)}[mask.dim()]
        check.require(
            tuple(mask.shape[:-2]) == lead,
            "mask",
            f"leading dimensions {lead}",
            tuple(mask.shape),
        )
        bias = _additive("mask", mask[..., :longest, :longest], query)
    start = 0
    for index, length in enumerate(lengths):
        part = slice(start, start + length)
        own = None
        if bias is not None:
            own = (bias if bias.dim() == 2 else bias[index])[..., :length, :length]
        result, _ = attend(q[part], k[part], v[part], scale, bias=own)
        target[part] = result.to(out.dtype)
        start += length


@operator(
    "atb::_npu_flash_attention",
    {
        "2.8.0": "_npu_flash_attention(Tensor query, Tensor key, Tensor value, Tensor mask,"
        " Tensor seq_len, float scale_value, int num_heads, int num_kv_heads, Tensor(a!) out)"
        " -> ()",
    },
    host=("seq_len",),
    checks=_ENCODER_CHECKS + "; mask square, of the dtype of query, [S, S], [B, S, S] or "
    "[B, heads, S, S], S at least the longest sequence: added as it is in float16, 1 hides in "
    "bfloat16",
    source="atb SelfAttentionOperation, PA_ENCODER, MASK_TYPE_NORM",
)
def _npu_flash_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor,
    seq_len: torch.Tensor,
    scale_value: float,
    num_heads: int,
    num_kv_heads: int,
    out: torch.Tensor,
) -> None:
    """Prefill without cache: sequences one after the other, each with the top left of ``mask``."""
    _encode(query, key, value, mask, seq_len, scale_value, num_heads, num_kv_heads, out)


@operator(
    "atb::_npu_flash_attention_unpad",
    {
        "2.8.0": "_npu_flash_attention_unpad(Tensor query, Tensor key, Tensor value,"
        " Tensor seq_len, float scale_value, int num_heads, int num_kv_heads, Tensor(a!) out)"
        " -> ()",
    },
    host=("seq_len",),
    checks=_ENCODER_CHECKS,
    source="atb SelfAttentionOperation, PA_ENCODER, MASK_TYPE_UNDEFINED",
)
def _npu_flash_attention_unpad(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    seq_len: torch.Tensor,
    scale_value: float,
    num_heads: int,
    num_kv_heads: int,
    out: torch.Tensor,
) -> None:
    """Attention of sequences one after the other, each token seeing all of its own (encoders)."""
    _encode(query, key, value, None, seq_len, scale_value, num_heads, num_kv_heads, out)


_PAGED_CHECKS = (
    "query contiguous [tokens, heads, size], float16 or bfloat16; caches contiguous [blocks, "
    "block_size, kv_heads, size] of the same dtype, block size a multiple of 16, size at most 576 "
    "(block size at most 128 above 256); block_table int32, entries in range; lengths host int32"
)


@operator(
    "atb::_npu_paged_attention",
    {
        "2.8.0": "_npu_paged_attention(Tensor query, Tensor key_cache, Tensor value_cache,"
        " int num_kv_heads, int num_heads, float scale_value, Tensor block_table,"
        " Tensor context_lens, Tensor(a!) out, *, Tensor? workspace=None) -> ()",
    },
    host=("context_lens",),
    checks=_PAGED_CHECKS + "; one query token per sequence, rows of query and context_lens agree",
    source="atb PagedAttentionOperation",
)
def _npu_paged_attention(
    query: torch.Tensor,
    key_cache: torch.Tensor,
    value_cache: torch.Tensor,
    num_kv_heads: int,
    num_heads: int,
    scale_value: float,
    block_table: torch.Tensor,
    context_lens: torch.Tensor,
    out: torch.Tensor,
    *,
    workspace: torch.Tensor | None = None,  # noqa: ARG001
) -> None:
    """Decode: token i attends to the first context_lens[i] tokens of its blocks."""
    kv_heads = _heads(num_heads, num_kv_heads)
    check.half("query", query)
    check.contiguous("query", query)
    q = _tokens("query", query, num_heads)
    _paged(key_cache, value_cache, query, kv_heads, q.shape[2])
    lengths = _host_lengths("context_lens", context_lens)
    check.require(
        len(lengths) == q.shape[0],
        "context_lens",
        f"one length for each of the {q.shape[0]} tokens of query",
        len(lengths),
    )
    _block_table(block_table, lengths, key_cache.shape[1], key_cache.shape[0], "block_table")
    target = _out(out, query, num_heads)
    for index, length in enumerate(lengths):
        own = block_table[index]
        result, _ = attend(
            q[index : index + 1],
            gather(key_cache, own, length),
            gather(value_cache, own, length),
            scale_value,
        )
        target[index : index + 1] = result.to(out.dtype)


@operator(
    "atb::_npu_paged_attention_get_workspace",
    {
        "2.8.0": "_npu_paged_attention_get_workspace(Tensor query, Tensor key_cache,"
        " Tensor value_cache, int num_kv_heads, int num_heads, float scale_value,"
        " Tensor block_table, Tensor context_lens, Tensor(a!) out) -> Tensor",
    },
    host=("context_lens",),
    checks="context_lens a host int32 tensor",
    source="atb PagedAttentionOperation",
)
def _npu_paged_attention_get_workspace(
    query: torch.Tensor,  # noqa: ARG001
    key_cache: torch.Tensor,  # noqa: ARG001
    value_cache: torch.Tensor,  # noqa: ARG001
    num_kv_heads: int,
    num_heads: int,
    scale_value: float,  # noqa: ARG001
    block_table: torch.Tensor,  # noqa: ARG001
    context_lens: torch.Tensor,
    out: torch.Tensor,  # noqa: ARG001
) -> torch.Tensor:
    """A workspace for _npu_paged_attention, uint8; its size here means nothing."""
    _heads(num_heads, num_kv_heads)
    _host_lengths("context_lens", context_lens)
    return torch.zeros(512, dtype=torch.uint8)


@operator(
    "atb::_npu_flash_attention_qlens",
    {
        "2.8.0": "_npu_flash_attention_qlens(Tensor query, Tensor key_cache, Tensor value_cache,"
        " Tensor block_table, Tensor mask, Tensor seq_len, Tensor context_lens,"
        " int num_kv_heads, int num_heads, float scale_value, Tensor(a!) out) -> ()",
    },
    host=("seq_len", "context_lens"),
    checks=_PAGED_CHECKS + "; seq_len adds up to tokens, each at most its context length; mask "
    "[128, 128] of the dtype of query, 1 above the diagonal and 0 elsewhere",
    source="atb SelfAttentionOperation, PREFIX_ENCODER, MASK_TYPE_NORM_COMPRESS",
)
def _npu_flash_attention_qlens(
    query: torch.Tensor,
    key_cache: torch.Tensor,
    value_cache: torch.Tensor,
    block_table: torch.Tensor,
    mask: torch.Tensor,
    seq_len: torch.Tensor,
    context_lens: torch.Tensor,
    num_kv_heads: int,
    num_heads: int,
    scale_value: float,
    out: torch.Tensor,
) -> None:
    """Prefill over a cached prefix.

    The last seq_len[i] of context_lens[i] tokens are the queries of sequence i, causal.
    """
    kv_heads = _heads(num_heads, num_kv_heads)
    check.half("query", query)
    q = _tokens("query", query, num_heads)
    _paged(key_cache, value_cache, query, kv_heads, q.shape[2])
    check.same_dtype("mask", mask, "query", query)
    check.shape("mask", mask, 128, 128)
    check.require(
        bool(torch.equal(mask.float(), torch.ones(128, 128).triu(1))),
        "mask",
        "1 above the diagonal and 0 elsewhere",
        "other values",
    )
    queries = _host_lengths("seq_len", seq_len)
    contexts = _host_lengths("context_lens", context_lens)
    check.require(
        sum(queries) == q.shape[0],
        "seq_len",
        f"lengths that add up to the {q.shape[0]} tokens of query",
        queries,
    )
    check.require(
        len(contexts) == len(queries)
        and all(a <= b for a, b in zip(queries, contexts, strict=True)),
        "context_lens",
        f"a length for each sequence, at least its query length {queries}",
        contexts,
    )
    _block_table(block_table, contexts, key_cache.shape[1], key_cache.shape[0], "block_table")
    target = _out(out, query, num_heads)
    start = 0
    for index, (length, context) in enumerate(zip(queries, contexts, strict=True)):
        part = slice(start, start + length)
        own = block_table[index]
        result, _ = attend(
            q[part],
            gather(key_cache, own, context),
            gather(value_cache, own, context),
            scale_value,
            hidden=_band(length, context, context - length, UNLIMITED, 0),
        )
        target[part] = result.to(out.dtype)
        start += length


def _band(q_len: int, kv_len: int, offset: int, before: int, after: int) -> torch.Tensor:
    """True where key j is outside [i + offset - before, i + offset + after] for query i."""
    row = torch.arange(q_len).unsqueeze(1) + offset
    column = torch.arange(kv_len).unsqueeze(0)
    return (column > row + after) | (column < row - before)


# --------------------------------------------------------------------------------------------
# npu_fused_infer_attention_score


@dataclass(frozen=True)
class _Names:
    """What the two versions of the operator call an argument."""

    lengths: str = "actual_seq_lengths"
    kv_lengths: str = "actual_seq_lengths_kv"


_LAYOUTS = ("BSH", "BSND", "BNSD", "BNSD_BSND", "TND", "NTD_TND")
_TND = ("TND", "NTD_TND")


def _per_batch(name: str, values: Sequence[int] | None, batch: int, size: int) -> list[int]:
    if values is None:
        return [size] * batch
    found = check.lengths(name, values)
    check.require(
        len(found) == 1 or len(found) >= batch,
        name,
        f"1 length or one for each of the {batch} sequences",
        len(found),
    )
    found = found * batch if len(found) == 1 else found[:batch]
    check.require(max(found, default=0) <= size, name, f"lengths of at most {size}", found)
    return found


def _rows(layout: str, name: str, tensor: torch.Tensor, heads: int) -> torch.Tensor:
    """A tensor in a batched layout as [batch, tokens, heads, size]."""
    if layout == "BSH":
        check.rank(name, tensor, 3)
        check.require(
            tensor.shape[2] % heads == 0,
            name,
            f"a last dimension that is a multiple of {heads} heads",
            tensor.shape[2],
        )
        return tensor.reshape(*tensor.shape[:2], heads, tensor.shape[2] // heads)
    check.rank(name, tensor, 4)
    axis = 2 if layout == "BSND" else 1
    check.require(
        tensor.shape[axis] == heads, name, f"{heads} heads in layout {layout}", tuple(tensor.shape)
    )
    return tensor if layout == "BSND" else tensor.transpose(1, 2)


def _sequence(layout: str, name: str, tensor: torch.Tensor, heads: int) -> torch.Tensor:
    """A tensor in a packed layout as [tokens, heads, size]."""
    if layout == "NTD_TND":
        check.shape(name, tensor, heads, None, None)
        return tensor.transpose(0, 1)
    check.shape(name, tensor, None, heads, None)
    return tensor


def _head_sizes(layout: str, query: int, value: int, q_len: int) -> None:
    check.require(0 < query <= 512, "query", "a head size of at most 512", query)
    if q_len > 1 or layout in _TND:
        check.require(query % 16 == 0, "query", "a head size that is a multiple of 16", query)
        check.require(value % 16 == 0, "value", "a head size that is a multiple of 16", value)
    if layout in _TND and not check.relaxed("head_size"):
        check.require(
            (query, value) in ((64, 64), (128, 128), (192, 128), (192, 192)),
            "query",
            f"head sizes 64, 128 or 192 in layout {layout}",
            f"{query} (value {value}; {check.RELAX_VARIABLE}=head_size lets the simulator take "
            "it; the device does not)",
        )


def _triangle(name: str, mask: torch.Tensor | None, mode: int) -> None:
    """Check the compressed mask that modes 2, 3 and 4 take."""
    wanted = f"a {COMPRESSED} x {COMPRESSED} mask in sparse_mode {mode}"
    if mask is None:
        raise check.OperandError(name, wanted, None)
    check.require(
        tuple(mask.shape[-2:]) == (COMPRESSED, COMPRESSED)
        and mask.numel() == COMPRESSED * COMPRESSED
        and mask.dim() <= 4,
        name,
        wanted,
        tuple(mask.shape),
    )
    flat = mask.reshape(COMPRESSED, COMPRESSED)
    # Samples that tell a triangle from its transpose and from a mask of zeros: reading the
    # whole mask in every call would cost more than the attention of a small batch.
    ok = (
        bool((flat[0, 1:] != 0).all())
        and not bool((flat[:, 0] != 0).any())
        and not bool((flat[-1] != 0).any())
        and bool((flat.diagonal(1) != 0).all())
        and not bool((flat.diagonal() != 0).any())
    )
    check.require(ok, name, "1 above the diagonal and 0 elsewhere", "other values")


def _full_mask(
    mask: torch.Tensor, batch: int, q_len: int, kv_len: int, packed: bool
) -> torch.Tensor:
    """A mask of sparse modes 0 and 1 as bool [1 or batch, q, kv]; True hides."""
    seen = mask != 0
    if seen.dim() == 2:
        if q_len == 1 and not packed and seen.shape[0] == batch and batch != 1:
            seen = seen.unsqueeze(1)
        else:
            seen = seen.unsqueeze(0)
    elif seen.dim() == 4:
        check.require(seen.shape[1] == 1, "atten_mask", "one head, (B, 1, S, S)", tuple(mask.shape))
        seen = seen.squeeze(1)
    check.require(
        seen.dim() == 3
        and seen.shape[0] in (1, batch)
        and seen.shape[1] >= q_len
        and seen.shape[2] >= kv_len,
        "atten_mask",
        f"(1 or {batch}, 1, {q_len}, {kv_len}), or without the leading dimensions, or larger",
        tuple(mask.shape),
    )
    return seen


def _fused_infer(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    *,
    atten_mask: torch.Tensor | None,
    q_lengths: Sequence[int] | None,
    kv_lengths: Sequence[int] | None,
    block_table: torch.Tensor | None,
    num_heads: int,
    scale: float,
    pre_tokens: int,
    next_tokens: int,
    input_layout: str,
    num_key_value_heads: int,
    sparse_mode: int,
    block_size: int,
    lse_flag: bool,
    sink: torch.Tensor | None = None,
    names: _Names = _Names(),
) -> tuple[torch.Tensor, torch.Tensor]:
    layout = input_layout
    check.require(layout in _LAYOUTS, "input_layout", f"one of {_LAYOUTS}", repr(layout))
    packed = layout in _TND
    heads = num_heads
    kv_heads = _heads(heads, num_key_value_heads, "num_key_value_heads")
    check.require(
        heads // kv_heads <= 64,
        "num_key_value_heads",
        "at most 64 query heads per kv head",
        kv_heads,
    )
    check.half("query", query)
    for name, tensor in (("query", query), ("key", key), ("value", value)):
        check.same_dtype(name, tensor, "query", query)
        check.contiguous(name, tensor)
    if packed:
        flat = _sequence(layout, "query", query, heads)
        if q_lengths is None:
            raise check.OperandError(names.lengths, f"lengths, in layout {layout}", None)
        ends = check.lengths(names.lengths, q_lengths, cumulative=True)
        batch = len(ends)
        check.require(0 < batch <= 4096, names.lengths, "1 to 4096 sequences", batch)
        check.require(
            ends[-1] == flat.shape[0],
            names.lengths,
            f"cumulative lengths whose last is the {flat.shape[0]} tokens of query",
            ends,
        )
        starts = [0, *ends[:-1]]
        queries = [flat[a:b] for a, b in zip(starts, ends, strict=True)]
        widest = max((b - a for a, b in zip(starts, ends, strict=True)), default=0)
    else:
        rows = _rows("BNSD" if layout == "BNSD_BSND" else layout, "query", query, heads)
        batch, widest = rows.shape[0], rows.shape[1]
        given = None if widest == 1 else q_lengths
        lengths = _per_batch(names.lengths, given, batch, widest)
        queries = [rows[i, :n] for i, n in enumerate(lengths)]
        check.require(
            layout != "BNSD_BSND" or widest > 1,
            "input_layout",
            "more than one query token in layout BNSD_BSND",
            widest,
        )
    keys, values = _keys_and_values(
        key, value, layout, kv_heads, batch, widest, kv_lengths, block_table, block_size, names
    )
    q_size = queries[0].shape[-1] if queries else 0
    if queries:
        check.require(keys[0].shape[-1] == q_size, "key", f"head size {q_size}", keys[0].shape[-1])
        _head_sizes(layout, q_size, values[0].shape[-1], widest)
    hidden = _hidden(
        [q.shape[0] for q in queries],
        [k.shape[0] for k in keys],
        atten_mask,
        sparse_mode,
        pre_tokens,
        next_tokens,
        single=widest == 1 and not packed,
        packed=packed,
    )
    if sink is not None:
        check.require(packed, "learnable_sink", "layout TND or NTD_TND", layout)
        check.dtype("learnable_sink", sink, torch.bfloat16)
        check.shape("learnable_sink", sink, heads)
        check.require(not lse_flag, "learnable_sink", "return_softmax_lse False with it", lse_flag)
    size = values[0].shape[-1] if values else q_size
    if packed:
        out = query.new_zeros(sum(q.shape[0] for q in queries), heads, size)
        lse = torch.full((out.shape[0], heads, 1), torch.inf)
        at = 0
        for q, k, v, h in zip(queries, keys, values, hidden, strict=True):
            result, own = attend(q, k, v, scale, hidden=h, sink=sink)
            out[at : at + q.shape[0]] = result.to(out.dtype)
            lse[at : at + q.shape[0], :, 0] = own
            at += q.shape[0]
    else:
        full = query.new_zeros(batch, widest, heads, size)
        lse = torch.full((batch, heads, widest, 1), torch.inf)
        for i, (q, k, v, h) in enumerate(zip(queries, keys, values, hidden, strict=True)):
            result, own = attend(q, k, v, scale, hidden=h)
            full[i, : q.shape[0]] = result.to(full.dtype)
            lse[i, :, : q.shape[0], 0] = own.T
        if layout == "BSH":
            out = full.flatten(2)
        elif layout == "BNSD":
            out = full.transpose(1, 2).contiguous()
        else:
            out = full
    return out, lse if lse_flag else torch.empty(0)


def _keys_and_values(
    key: torch.Tensor,
    value: torch.Tensor,
    layout: str,
    kv_heads: int,
    batch: int,
    q_len: int,
    kv_lengths: Sequence[int] | None,
    block_table: torch.Tensor | None,
    block_size: int,
    names: _Names,
) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """Per sequence [tokens, kv_heads, size]."""
    if block_table is not None:
        if kv_lengths is None:
            raise check.OperandError(names.kv_lengths, "lengths, with a block_table", None)
        _block_size(layout, q_len, block_size)
        caches = [
            _cache(name, cache, layout, kv_heads, block_size)
            for name, cache in (("key", key), ("value", value))
        ]
        check.shape("value", caches[1], *caches[0].shape[:3], None)
        check.require(
            block_table.dim() == 2 and block_table.shape[0] == batch,
            "block_table",
            f"2 dimensions and a row for each of the {batch} sequences",
            tuple(block_table.shape),
        )
        lengths = _per_batch(names.kv_lengths, kv_lengths, batch, block_table.shape[1] * block_size)
        _block_table(block_table, lengths, block_size, caches[0].shape[0], "block_table")
        found = [
            [gather(cache, block_table[i], n) for i, n in enumerate(lengths)] for cache in caches
        ]
        return found[0], found[1]
    if layout in _TND:
        if kv_lengths is None:
            raise check.OperandError(names.kv_lengths, f"lengths, in layout {layout}", None)
        ends = check.lengths(names.kv_lengths, kv_lengths, cumulative=True)
        k = _sequence(layout, "key", key, kv_heads)
        v = _sequence(layout, "value", value, kv_heads)
        check.shape("value", v, k.shape[0], kv_heads, None)
        check.require(
            len(ends) == batch and ends[-1] == k.shape[0],
            names.kv_lengths,
            f"{batch} cumulative lengths whose last is the {k.shape[0]} tokens of key",
            ends,
        )
        starts = [0, *ends[:-1]]
        return (
            [k[a:b] for a, b in zip(starts, ends, strict=True)],
            [v[a:b] for a, b in zip(starts, ends, strict=True)],
        )
    plain = "BNSD" if layout == "BNSD_BSND" else layout
    k, v = _rows(plain, "key", key, kv_heads), _rows(plain, "value", value, kv_heads)
    check.shape("key", k, batch, None, kv_heads, None)
    check.shape("value", v, *k.shape[:3], None)
    lengths = _per_batch(names.kv_lengths, kv_lengths, batch, k.shape[1])
    return (
        [k[i, :n] for i, n in enumerate(lengths)],
        [v[i, :n] for i, n in enumerate(lengths)],
    )


def _block_size(layout: str, q_len: int, block_size: int) -> None:
    if layout in _TND:
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


def _hidden(
    q_lens: Sequence[int],
    kv_lens: Sequence[int],
    mask: torch.Tensor | None,
    mode: int,
    before: int,
    after: int,
    *,
    single: bool,
    packed: bool,
) -> list[torch.Tensor | None]:
    """Per sequence, what each query does not see (True), or None where it sees all."""
    check.require(mode in (0, 1, 2, 3, 4), "sparse_mode", "0, 1, 2, 3 or 4", mode)
    if mask is not None:
        check.dtype("atten_mask", mask, torch.bool, torch.int8, torch.uint8)
        check.contiguous("atten_mask", mask)
    if mode in (0, 1):
        if mask is None:
            check.require(mode == 0, "atten_mask", "a mask in sparse_mode 1", None)
            return [None] * len(q_lens)
        check.require(
            not packed, "atten_mask", "no mask with sparse_mode 0 or 1 in a packed layout", "one"
        )
        full = _full_mask(mask, len(q_lens), max(q_lens), max(kv_lens), packed)
        found: list[torch.Tensor | None] = []
        for i, (q, kv) in enumerate(zip(q_lens, kv_lens, strict=True)):
            own = full[i if full.shape[0] > 1 else 0, :q, :kv]
            # One query token ignores the band.
            if mode == 0 and not single:
                own = own | _band(q, kv, 0, before, after)
            found.append(own)
        return found
    if single:
        # sparse_mode has no effect on one query token in a batched layout.
        return [None] * len(q_lens)
    _triangle("atten_mask", mask, mode)
    check.require(
        mode != 4 or before + after >= 0,
        "pre_tokens",
        "at least -next_tokens in sparse_mode 4",
        f"{before} with next_tokens {after}",
    )
    result: list[torch.Tensor | None] = []
    for q, kv in zip(q_lens, kv_lens, strict=True):
        if mode == 2:
            result.append(_band(q, kv, 0, UNLIMITED, 0))
        elif mode == 3:
            result.append(_band(q, kv, kv - q, UNLIMITED, 0))
        else:
            result.append(_band(q, kv, kv - q, before, after))
    return result


_FIA_CHECKS = (
    "query, key, value contiguous, float16 or bfloat16, one dtype; layouts BSH, BSND, BNSD, "
    "BNSD_BSND, TND, NTD_TND; head size at most 512, a multiple of 16 for more than one query "
    "token, 64, 128 or 192 when packed; at most 64 query heads per kv head; block_size a multiple "
    "of 16 up to 1024 (packed) or 512 (one query token), of 128 up to 512 otherwise; caches "
    "(blocks, block_size, heads * size), or (blocks, heads, block_size, size) in layouts BNSD and "
    "TND; block_table int32 [batch, blocks], entries in range; packed lengths cumulative, the "
    "last equal to the tokens, those of a paged cache per sequence; atten_mask bool, int8 or "
    "uint8, contiguous, 2048 x 2048 and 1 above the diagonal in sparse modes 2, 3, 4"
)
_QUANTISED = dict.fromkeys(
    (
        "dequant_scale1",
        "quant_scale1",
        "dequant_scale2",
        "quant_scale2",
        "quant_offset2",
        "antiquant_scale",
        "antiquant_offset",
        "key_antiquant_scale",
        "key_antiquant_offset",
        "value_antiquant_scale",
        "value_antiquant_offset",
        "key_rope_antiquant_scale",
        "antiquant_mode",
        "key_antiquant_mode",
        "value_antiquant_mode",
    ),
    "quantised attention",
)
_FIA_REFUSED = {
    **_QUANTISED,
    "pse_shift": "a position bias",
    "query_padding_size": "left padding",
    "kv_padding_size": "left padding",
    "key_shared_prefix": "a shared prefix",
    "value_shared_prefix": "a shared prefix",
    "actual_shared_prefix_len": "a shared prefix",
    "query_rope": "multi-head latent attention",
    "key_rope": "multi-head latent attention",
}
_FIA_ARGUMENTS = (
    "Tensor query, Tensor key, Tensor value, *, Tensor? pse_shift=None, Tensor? atten_mask=None,"
    " SymInt[]? actual_seq_lengths=None, SymInt[]? actual_seq_lengths_kv=None,"
    " Tensor? dequant_scale1=None, Tensor? quant_scale1=None, Tensor? dequant_scale2=None,"
    " Tensor? quant_scale2=None, Tensor? quant_offset2=None, Tensor? antiquant_scale=None,"
    " Tensor? antiquant_offset=None, Tensor? key_antiquant_scale=None,"
    " Tensor? key_antiquant_offset=None, Tensor? value_antiquant_scale=None,"
    " Tensor? value_antiquant_offset=None, Tensor? block_table=None,"
    " Tensor? query_padding_size=None, Tensor? kv_padding_size=None,"
    " Tensor? key_shared_prefix=None, Tensor? value_shared_prefix=None,"
    " SymInt[]? actual_shared_prefix_len=None, Tensor? query_rope=None, Tensor? key_rope=None,"
    " Tensor? key_rope_antiquant_scale=None, int num_heads=1, float scale=1.0,"
    " int pre_tokens=2147483647, int next_tokens=2147483647, str input_layout='BSH',"
    " int num_key_value_heads=0, int sparse_mode=0, int inner_precise=0, int block_size=0,"
    " int antiquant_mode=0, int key_antiquant_mode=0, int value_antiquant_mode=0,"
    " bool softmax_lse_flag=False"
)


@operator(
    "npu::npu_fused_infer_attention_score",
    {"2.8.0": f"npu_fused_infer_attention_score({_FIA_ARGUMENTS}) -> (Tensor, Tensor)"},
    checks=_FIA_CHECKS,
    source="torch_npu.npu_fused_infer_attention_score",
    refused=_FIA_REFUSED,
)
def npu_fused_infer_attention_score(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    *,
    atten_mask: torch.Tensor | None = None,
    actual_seq_lengths: Sequence[int] | None = None,
    actual_seq_lengths_kv: Sequence[int] | None = None,
    block_table: torch.Tensor | None = None,
    num_heads: int = 1,
    scale: float = 1.0,
    pre_tokens: int = UNLIMITED,
    next_tokens: int = UNLIMITED,
    input_layout: str = "BSH",
    num_key_value_heads: int = 0,
    sparse_mode: int = 0,
    inner_precise: int = 0,
    block_size: int = 0,
    softmax_lse_flag: bool = False,
) -> tuple[torch.Tensor, torch.Tensor]:
    """softmax(scale * query key^T, masked) value, for prefill and decode.

    Sparse modes: 0 the mask as given (True hides), between the diagonals of pre_tokens and
    next_tokens counted from the top left; 1 the mask as given; 2 causal from the top left; 3
    causal from the bottom right; 4 a band from the bottom right: query i of q sees keys
    i + kv - q - pre_tokens to i + kv - q + next_tokens, both included, so a sliding window of W
    tokens is pre_tokens W - 1. With one query token in a batched layout, modes and bands have
    no effect.

    Returns the result, laid out as the query (BSND for BNSD_BSND), and with softmax_lse_flag the
    log of the sum of exponentials, float32 (T, N, 1) or (B, N, S, 1), else an empty tensor. Rows
    past a sequence's length and rows that see no key: 0 and +inf.
    """
    check.require(inner_precise in (0, 1, 2, 3), "inner_precise", "0, 1, 2 or 3", inner_precise)
    return _fused_infer(
        query,
        key,
        value,
        atten_mask=atten_mask,
        q_lengths=actual_seq_lengths,
        kv_lengths=actual_seq_lengths_kv,
        block_table=block_table,
        num_heads=num_heads,
        scale=scale,
        pre_tokens=pre_tokens,
        next_tokens=next_tokens,
        input_layout=input_layout,
        num_key_value_heads=num_key_value_heads,
        sparse_mode=sparse_mode,
        block_size=block_size,
        lse_flag=softmax_lse_flag,
    )


_FIA_OUT_CHECKS = (
    "as npu_fused_infer_attention_score; out two device tensors: the result, of the dtype of "
    "query and its own shape, and the log-sum-exp, float32, of its own shape if softmax_lse_flag"
)


def _write_out(
    out: Sequence[torch.Tensor], found: tuple[torch.Tensor, torch.Tensor], flag: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    check.require(len(out) == 2, "out", "two tensors, the result and the log-sum-exp", len(out))
    result, lse = found
    check.same_dtype("out", out[0], "query", result)
    check.require(
        out[0].numel() == result.numel(), "out", f"shape {tuple(result.shape)}", out[0].shape
    )
    check.contiguous("out", out[0])
    out[0].view(result.shape).copy_(result)
    if flag:
        check.dtype("out", out[1], torch.float32)
        check.require(
            out[1].numel() == lse.numel(), "out", f"shape {tuple(lse.shape)}", out[1].shape
        )
        check.contiguous("out", out[1])
        out[1].view(lse.shape).copy_(lse)
    return out[0], out[1]


@operator(
    "npu::npu_fused_infer_attention_score.out",
    {
        "2.8.0": f"npu_fused_infer_attention_score.out({_FIA_ARGUMENTS}, Tensor? workspace=None,"
        " Tensor[] out) -> (Tensor, Tensor)",
    },
    checks=_FIA_OUT_CHECKS,
    source="torch_npu.npu_fused_infer_attention_score.out",
    refused=_FIA_REFUSED,
    writes=("out",),
)
def npu_fused_infer_attention_score_out(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    *,
    out: Sequence[torch.Tensor],
    workspace: torch.Tensor | None = None,  # noqa: ARG001
    softmax_lse_flag: bool = False,
    **arguments: Any,
) -> tuple[torch.Tensor, torch.Tensor]:
    """As :func:`npu_fused_infer_attention_score`, into ``out``, which it returns."""
    found = npu_fused_infer_attention_score.function(
        query, key, value, softmax_lse_flag=softmax_lse_flag, **arguments
    )
    return _write_out(out, found, softmax_lse_flag)


@operator(
    "npu::_npu_fused_infer_attention_score_get_max_workspace",
    {
        "2.8.0": f"_npu_fused_infer_attention_score_get_max_workspace({_FIA_ARGUMENTS}) -> Tensor",
    },
    checks="none of its own",
    source="torch_npu._npu_fused_infer_attention_score_get_max_workspace",
    meta="the size of a workspace is the device's own",
)
def _npu_fused_infer_attention_score_get_max_workspace(
    query: torch.Tensor,  # noqa: ARG001
    key: torch.Tensor,  # noqa: ARG001
    value: torch.Tensor,  # noqa: ARG001
) -> torch.Tensor:
    """A workspace for npu_fused_infer_attention_score.out, uint8; its size here means nothing."""
    return torch.zeros(512, dtype=torch.uint8)


def _v2_arguments(later: bool, more: str = "") -> str:
    """The arguments of version 2; ``later``: from torch_npu 2.9 on."""
    scale_p = " Tensor? quant_scale_p=None," if later else ""
    out_dtype = ", int? out_dtype=None" if later else ""
    dtypes = ", ".join(
        f"int? {name}_dtype=None"
        for name in (
            "query",
            "key",
            "value",
            "query_rope",
            "key_rope",
            "key_shared_prefix",
            "value_shared_prefix",
            "dequant_scale_query",
            "dequant_scale_key",
            "dequant_scale_value",
            "dequant_scale_key_rope",
        )
    )
    return (
        "Tensor query, Tensor key, Tensor value, *, Tensor? query_rope=None,"
        " Tensor? key_rope=None, Tensor? pse_shift=None, Tensor? atten_mask=None,"
        " SymInt[]? actual_seq_qlen=None, SymInt[]? actual_seq_kvlen=None,"
        " Tensor? block_table=None, Tensor? dequant_scale_query=None,"
        " Tensor? dequant_scale_key=None, Tensor? dequant_offset_key=None,"
        " Tensor? dequant_scale_value=None, Tensor? dequant_offset_value=None,"
        " Tensor? dequant_scale_key_rope=None, Tensor? quant_scale_out=None,"
        f" Tensor? quant_offset_out=None,{scale_p} Tensor? learnable_sink=None,"
        " int num_query_heads=1, int num_key_value_heads=0, float softmax_scale=1.0,"
        " int pre_tokens=2147483647, int next_tokens=2147483647, str input_layout='BSH',"
        " int sparse_mode=0, int block_size=0, int query_quant_mode=0, int key_quant_mode=0,"
        f" int value_quant_mode=0, int inner_precise=0, bool return_softmax_lse=False, {dtypes}"
        f"{out_dtype}{more}"
    )


_V2_REFUSED = {
    **dict.fromkeys(
        (
            "dequant_scale_query",
            "dequant_scale_key",
            "dequant_offset_key",
            "dequant_scale_value",
            "dequant_offset_value",
            "dequant_scale_key_rope",
            "quant_scale_out",
            "quant_offset_out",
            "quant_scale_p",
            "query_quant_mode",
            "key_quant_mode",
            "value_quant_mode",
            "query_dtype",
            "key_dtype",
            "value_dtype",
            "query_rope_dtype",
            "key_rope_dtype",
            "key_shared_prefix_dtype",
            "value_shared_prefix_dtype",
            "dequant_scale_query_dtype",
            "dequant_scale_key_dtype",
            "dequant_scale_value_dtype",
            "dequant_scale_key_rope_dtype",
            "out_dtype",
        ),
        "quantised attention",
    ),
    "pse_shift": "a position bias",
    "query_rope": "multi-head latent attention",
    "key_rope": "multi-head latent attention",
}
_V2_CHECKS = (
    "as npu_fused_infer_attention_score; learnable_sink bfloat16 [heads], packed layouts only, "
    "without return_softmax_lse"
)


@operator(
    "npu::npu_fused_infer_attention_score_v2",
    {
        "2.8.0": f"npu_fused_infer_attention_score_v2({_v2_arguments(False)}) -> (Tensor, Tensor)",
        "2.9.0": f"npu_fused_infer_attention_score_v2({_v2_arguments(True)}) -> (Tensor, Tensor)",
    },
    checks=_V2_CHECKS,
    source="torch_npu.npu_fused_infer_attention_score_v2",
    refused=_V2_REFUSED,
)
def npu_fused_infer_attention_score_v2(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    *,
    atten_mask: torch.Tensor | None = None,
    actual_seq_qlen: Sequence[int] | None = None,
    actual_seq_kvlen: Sequence[int] | None = None,
    block_table: torch.Tensor | None = None,
    learnable_sink: torch.Tensor | None = None,
    num_query_heads: int = 1,
    num_key_value_heads: int = 0,
    softmax_scale: float = 1.0,
    pre_tokens: int = UNLIMITED,
    next_tokens: int = UNLIMITED,
    input_layout: str = "BSH",
    sparse_mode: int = 0,
    block_size: int = 0,
    inner_precise: int = 0,
    return_softmax_lse: bool = False,
) -> tuple[torch.Tensor, torch.Tensor]:
    """As :func:`npu_fused_infer_attention_score` under other names, and with ``learnable_sink``.

    The sink is one more logit for each head, which takes weight and adds no value.
    """
    check.require(inner_precise in (0, 1, 2, 3), "inner_precise", "0, 1, 2 or 3", inner_precise)
    return _fused_infer(
        query,
        key,
        value,
        atten_mask=atten_mask,
        q_lengths=actual_seq_qlen,
        kv_lengths=actual_seq_kvlen,
        block_table=block_table,
        num_heads=num_query_heads,
        scale=softmax_scale,
        pre_tokens=pre_tokens,
        next_tokens=next_tokens,
        input_layout=input_layout,
        num_key_value_heads=num_key_value_heads,
        sparse_mode=sparse_mode,
        block_size=block_size,
        lse_flag=return_softmax_lse,
        sink=learnable_sink,
        names=_Names("actual_seq_qlen", "actual_seq_kvlen"),
    )


_WORKSPACE = ", Tensor? workspace=None, Tensor[] out"


@operator(
    "npu::npu_fused_infer_attention_score_v2.out",
    {
        "2.8.0": f"npu_fused_infer_attention_score_v2.out({_v2_arguments(False, _WORKSPACE)})"
        " -> (Tensor, Tensor)",
        "2.9.0": f"npu_fused_infer_attention_score_v2.out({_v2_arguments(True, _WORKSPACE)})"
        " -> (Tensor, Tensor)",
    },
    checks=_FIA_OUT_CHECKS,
    source="torch_npu.npu_fused_infer_attention_score_v2.out",
    refused=_V2_REFUSED,
    writes=("out",),
)
def npu_fused_infer_attention_score_v2_out(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    *,
    out: Sequence[torch.Tensor],
    workspace: torch.Tensor | None = None,  # noqa: ARG001
    return_softmax_lse: bool = False,
    **arguments: Any,
) -> tuple[torch.Tensor, torch.Tensor]:
    """As :func:`npu_fused_infer_attention_score_v2`, into ``out``, which it returns."""
    found = npu_fused_infer_attention_score_v2.function(
        query, key, value, return_softmax_lse=return_softmax_lse, **arguments
    )
    return _write_out(out, found, return_softmax_lse)


@operator(
    "npu::_npu_fused_infer_attention_score_v2_get_max_workspace",
    {
        "2.8.0": "_npu_fused_infer_attention_score_v2_get_max_workspace("
        f"{_v2_arguments(False)}) -> Tensor",
        "2.9.0": "_npu_fused_infer_attention_score_v2_get_max_workspace("
        f"{_v2_arguments(True)}) -> Tensor",
    },
    checks="none of its own",
    source="torch_npu._npu_fused_infer_attention_score_v2_get_max_workspace",
    meta="the size of a workspace is the device's own",
)
def _npu_fused_infer_attention_score_v2_get_max_workspace(
    query: torch.Tensor,  # noqa: ARG001
    key: torch.Tensor,  # noqa: ARG001
    value: torch.Tensor,  # noqa: ARG001
) -> torch.Tensor:
    """A workspace for npu_fused_infer_attention_score_v2.out, uint8; its size means nothing."""
    return torch.zeros(512, dtype=torch.uint8)


# --------------------------------------------------------------------------------------------
# npu_fusion_attention


_FUSION_LAYOUTS = ("BSH", "SBH", "BSND", "BNSD", "TND")


def _fusion_rows(layout: str, name: str, tensor: torch.Tensor, heads: int) -> torch.Tensor:
    """[batch, tokens, heads, size] of a tensor in a batched layout."""
    if layout == "SBH":
        check.rank(name, tensor, 3)
        return _rows("BSH", name, tensor.transpose(0, 1), heads)
    return _rows(layout, name, tensor, heads)


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
    checks="query, key, value of one dtype (float16, bfloat16, float32); layouts BSH, SBH, BSND, "
    "BNSD, TND; head size at most 768; atten_mask bool or uint8: [B or 1, N or 1, Sq, Skv] or [Sq, "
    "Skv] in sparse modes 0 and 1, 2048 x 2048 and 1 above the diagonal in modes 2, 3, 4; packed "
    "lengths cumulative, the last equal to the tokens; keep_prob 1",
    source="torch_npu.npu_fusion_attention, the forward direction",
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
    keep_prob: float = 1.0,
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
    check.require(layout in _FUSION_LAYOUTS, "input_layout", f"one of {_FUSION_LAYOUTS}", layout)
    check.require(heads > 0, "head_num", "more than 0", heads)
    check.require(
        keep_prob == 1.0, "keep_prob", "1, because the simulator drops nothing", keep_prob
    )
    check.dtype("query", query, *check.FLOAT_DTYPES)
    for name, tensor in (("key", key), ("value", value)):
        check.same_dtype(name, tensor, "query", query)
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
        peak, total = _softmax_parts(a, b, scale, h)
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


def _softmax_parts(
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
    if mask is not None:
        check.dtype("atten_mask", mask, torch.bool, torch.uint8)
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
                own = own | _band(a.shape[0], b.shape[0], 0, before, after)
            found.append(own.expand(a.shape[1], -1, -1))
        return found
    return _hidden(
        [a.shape[0] for a in q],
        [b.shape[0] for b in k],
        mask,
        mode,
        before,
        after,
        single=False,
        packed=False,
    )
