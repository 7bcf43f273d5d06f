# SPDX-License-Identifier: Apache-2.0
"""The NNAL operators (atb)."""

from __future__ import annotations

import torch

from .. import _checks as check
from .._registry import operator
from ._operands import check_block_table, kv_heads_of, tokens
from ._softmax import UNLIMITED, attend, band, gather
from ._workspace import PAGED, workspace


def _out(out: torch.Tensor, query: torch.Tensor, heads: int) -> torch.Tensor:
    check.require(
        out.shape[0] == query.shape[0], "out", f"{query.shape[0]} tokens", tuple(out.shape)
    )
    return tokens("out", out, heads)


def _paged(
    key_cache: torch.Tensor, value_cache: torch.Tensor, kv_heads: int, head_size: int
) -> None:
    """Checks on the caches of the NNAL operators."""
    for name, cache in (("key_cache", key_cache), ("value_cache", value_cache)):
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


def _host_lengths(name: str, tensor: torch.Tensor) -> list[int]:
    return check.lengths(name, tensor.tolist())


def _additive(name: str, mask: torch.Tensor) -> torch.Tensor:
    """The float32 bias that an NNAL mask stands for.

    float16 masks are added as they are (0 and a large negative number or -inf). The kernel
    multiplies a bfloat16 mask by -10000, so there 1 hides and 0 shows.
    """
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
    kv_heads = kv_heads_of(num_heads, num_kv_heads)
    q = tokens("query", query, num_heads)
    k, v = tokens("key", key, kv_heads), tokens("value", value, kv_heads)
    check.shape("key", k, q.shape[0], kv_heads, q.shape[2])
    check.shape("value", v, q.shape[0], kv_heads, None)
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
        bias = _additive("mask", mask[..., :longest, :longest])
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


@operator(
    "atb::_npu_paged_attention",
    {
        "2.8.0": "_npu_paged_attention(Tensor query, Tensor key_cache, Tensor value_cache,"
        " int num_kv_heads, int num_heads, float scale_value, Tensor block_table,"
        " Tensor context_lens, Tensor(a!) out, *, Tensor? workspace=None) -> ()",
    },
    host=("context_lens",),
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
    kv_heads = kv_heads_of(num_heads, num_kv_heads)
    q = tokens("query", query, num_heads)
    _paged(key_cache, value_cache, kv_heads, q.shape[2])
    lengths = _host_lengths("context_lens", context_lens)
    check.require(
        len(lengths) == q.shape[0],
        "context_lens",
        f"one length for each of the {q.shape[0]} tokens of query",
        len(lengths),
    )
    check_block_table(block_table, lengths, key_cache.shape[1], key_cache.shape[0], "block_table")
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
    on_device=True,
)
def _npu_paged_attention_get_workspace(
    query: torch.Tensor,
    key_cache: torch.Tensor,  # noqa: ARG001
    value_cache: torch.Tensor,  # noqa: ARG001
    num_kv_heads: int,
    num_heads: int,
    scale_value: float,  # noqa: ARG001
    block_table: torch.Tensor,  # noqa: ARG001
    context_lens: torch.Tensor,
    out: torch.Tensor,  # noqa: ARG001
) -> torch.Tensor:
    """A workspace for _npu_paged_attention, uint8, that nothing here writes."""
    kv_heads_of(num_heads, num_kv_heads)
    _host_lengths("context_lens", context_lens)
    return workspace(query, PAGED)


@operator(
    "atb::_npu_flash_attention_qlens",
    {
        "2.8.0": "_npu_flash_attention_qlens(Tensor query, Tensor key_cache, Tensor value_cache,"
        " Tensor block_table, Tensor mask, Tensor seq_len, Tensor context_lens,"
        " int num_kv_heads, int num_heads, float scale_value, Tensor(a!) out) -> ()",
    },
    host=("seq_len", "context_lens"),
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
    kv_heads = kv_heads_of(num_heads, num_kv_heads)
    q = tokens("query", query, num_heads)
    _paged(key_cache, value_cache, kv_heads, q.shape[2])
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
    check_block_table(block_table, contexts, key_cache.shape[1], key_cache.shape[0], "block_table")
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
            hidden=band(length, context, context - length, UNLIMITED, 0),
        )
        target[part] = result.to(out.dtype)
        start += length
