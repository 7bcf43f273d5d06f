# SPDX-License-Identifier: Apache-2.0
"""Mixture of experts: gating, routing, grouped matrix products, and the way back.

Rows that the device leaves undefined are NaN here, so that code which reads them shows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from . import _checks as check
from ._registry import operator
from .linear import scalar_type
from .quantization import integer_product

_MOST_EXPERTS = 2048


def _undefined(x: torch.Tensor, *size: int) -> torch.Tensor:
    if x.is_floating_point():
        return torch.full(size, torch.nan, dtype=x.dtype)
    return torch.zeros(size, dtype=x.dtype)


def _descending(scores: torch.Tensor, count: int) -> torch.Tensor:
    """Indices of the ``count`` greatest in the last dimension, the lower index first in a tie."""
    return torch.sort(scores, dim=-1, descending=True, stable=True).indices[..., :count]


def _gate(x: torch.Tensor, finished: torch.Tensor | None, k: int) -> torch.Tensor:
    check.require(0 < k <= min(1024, x.shape[-1]), "k", f"1 to {min(1024, x.shape[-1])}", k)
    if finished is not None:
        check.shape("finished", finished, *x.shape[:-1])
    return x.float().softmax(-1)


def _finish(index: torch.Tensor, finished: torch.Tensor | None, experts: int) -> torch.Tensor:
    if finished is not None:
        index = index.masked_fill(finished.unsqueeze(-1), experts)
    return index.int()


@operator(
    "npu::npu_moe_gating_top_k_softmax",
    {
        "2.8.0": "npu_moe_gating_top_k_softmax(Tensor x, Tensor? finished=None, int k=1)"
        " -> (Tensor, Tensor, Tensor)",
    },
)
def npu_moe_gating_top_k_softmax(
    x: torch.Tensor, finished: torch.Tensor | None = None, k: int = 1
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The k greatest of softmax(x), not renormalised.

    Returns the values (dtype of x), the experts (int32; the number of experts where
    ``finished``), and row_idx (int32): j * rows + i for choice j of row i.
    """
    weights = _gate(x, finished, k)
    index = _descending(weights, k)
    values = weights.gather(-1, index).to(x.dtype)
    rows = index.shape[:-1].numel()
    row = torch.arange(rows * k, dtype=torch.int32).view(k, rows).T.reshape(index.shape)
    return values, _finish(index, finished, x.shape[-1]), row.contiguous()


@operator(
    "npu::npu_moe_gating_top_k_softmax_v2",
    {
        "2.9.0": "npu_moe_gating_top_k_softmax_v2(Tensor x, *, int k=1, Tensor? finished=None,"
        " int? renorm=0, bool? output_softmax=False) -> (Tensor, Tensor, Tensor)",
    },
)
def npu_moe_gating_top_k_softmax_v2(
    x: torch.Tensor,
    *,
    k: int = 1,
    finished: torch.Tensor | None = None,
    renorm: int | None = 0,
    output_softmax: bool | None = False,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """renorm 0: the k greatest of softmax(x); 1: softmax over the k greatest of x.

    Returns values, experts, and softmax(x) in float32 if asked for with renorm 0, else an empty
    tensor.
    """
    weights = _gate(x, finished, k)
    whole = torch.empty(0)
    if renorm == 1:
        index = _descending(x.float(), k)
        values = x.float().gather(-1, index).softmax(-1)
    else:
        index = _descending(weights, k)
        values = weights.gather(-1, index)
        if output_softmax:
            # The wheel's meta kernel gives a 3-D x a 2-D result.
            check.rank("x", x, 2)
            whole = weights
    return values.to(x.dtype), _finish(index, finished, x.shape[-1]), whole


@operator(
    "npu::npu_moe_gating_top_k",
    {
        "2.8.0": "npu_moe_gating_top_k(Tensor x, int k, *, Tensor? bias=None, int k_group=1,"
        " int group_count=1, int group_select_mode=0, int renorm=0, int norm_type=0,"
        " bool out_flag=False, float routed_scaling_factor=1.0, float eps=1e-20)"
        " -> (Tensor, Tensor, Tensor)",
        "2.13.0": "npu_moe_gating_top_k(Tensor x, int k, *, Tensor? bias=None,"
        " Tensor? input_ids=None, Tensor? tid2eid=None, int k_group=1, int group_count=1,"
        " int group_select_mode=0, int renorm=0, int norm_type=0, bool out_flag=False,"
        " float routed_scaling_factor=1.0, float eps=1e-20) -> (Tensor, Tensor, Tensor)",
    },
    refused={"input_ids": "hashed routing", "tid2eid": "hashed routing"},
)
def npu_moe_gating_top_k(
    x: torch.Tensor,
    k: int,
    *,
    bias: torch.Tensor | None = None,
    k_group: int = 1,
    group_count: int = 1,
    group_select_mode: int = 0,
    norm_type: int = 0,
    out_flag: bool = False,
    routed_scaling_factor: float = 1.0,
    eps: float = 1e-20,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Top k of softmax(x) (norm_type 0) or sigmoid(x) (1), after a choice of expert groups.

    Groups and experts are chosen by the norm plus ``bias``; a group scores its greatest expert
    (group_select_mode 0) or the sum of its two greatest (1). The values are the norm without
    bias, divided by their sum plus ``eps`` for sigmoid, times ``routed_scaling_factor``. Returns
    values (dtype of x), experts (int32), and the norm in float32 (NaN without ``out_flag``).
    """
    rows, experts = x.shape
    check.require(0 < experts <= _MOST_EXPERTS, "x", f"1 to {_MOST_EXPERTS} experts", experts)
    if bias is not None:
        check.shape("bias", bias, experts)
    check.require(
        group_count > 0
        and experts % group_count == 0
        and (group_count == 1 or experts // group_count > 2),
        "group_count",
        f"a divisor of the {experts} experts, with more than 2 experts in a group",
        group_count,
    )
    check.require(0 < k_group <= group_count, "k_group", f"1 to {group_count}", k_group)
    most = k_group * experts // group_count
    check.require(0 < k <= most, "k", f"1 to {most}, the experts of {k_group} groups", k)
    scores = x.float().softmax(-1) if norm_type == 0 else x.float().sigmoid()
    choice = scores if bias is None else scores + bias.float()
    if group_count > 1:
        grouped = choice.view(rows, group_count, -1)
        best = grouped.amax(-1) if group_select_mode == 0 else grouped.topk(2, -1).values.sum(-1)
        kept = torch.zeros(rows, group_count, dtype=torch.bool)
        kept.scatter_(1, _descending(best, k_group), True)
        choice = grouped.masked_fill(~kept.unsqueeze(-1), -torch.inf).view(rows, experts)
    index = _descending(choice, k)
    values = scores.gather(1, index)
    if norm_type == 1:
        values = values / (values.sum(-1, keepdim=True) + eps)
    values = (values * routed_scaling_factor).to(x.dtype)
    return values, index.int(), scores if out_flag else _undefined(scores, rows, experts)


@operator(
    "npu::npu_moe_init_routing",
    {
        "2.8.0": "npu_moe_init_routing(Tensor x, Tensor row_idx, Tensor expert_idx,"
        " int active_num) -> (Tensor, Tensor, Tensor)",
    },
)
def npu_moe_init_routing(
    x: torch.Tensor, row_idx: torch.Tensor, expert_idx: torch.Tensor, active_num: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Copies of the rows of x, sorted by expert.

    ``row_idx`` is what npu_moe_gating_top_k_softmax gives: choice j of row i is j * rows + i.
    Returns expanded_x [min(rows, active_num) * k, size], expanded_row_idx [rows * k], int32
    (the copy that holds choice row_idx), and the sorted experts, int32.
    """
    rows = x.shape[0]
    check.shape("expert_idx", expert_idx, rows, None)
    check.shape("row_idx", row_idx, *expert_idx.shape)
    k = expert_idx.shape[1]
    choices = row_idx.flatten().long()
    check.require(
        bool(torch.equal(choices.sort().values, torch.arange(rows * k))),
        "row_idx",
        f"each of 0 to {rows * k - 1} once",
        "other values",
    )
    check.require(active_num >= 0, "active_num", "0 or more", active_num)
    order = torch.sort(expert_idx.flatten(), stable=True)
    source = choices[order.indices]
    expanded_row_idx = torch.empty(rows * k, dtype=torch.int32)
    expanded_row_idx[source] = torch.arange(rows * k, dtype=torch.int32)
    active = min(active_num, rows) * k
    return x[source[:active] % max(rows, 1)], expanded_row_idx, order.values


_ABSENT = object()


@operator(
    "npu::npu_moe_init_routing_v2",
    {
        "2.8.0": "npu_moe_init_routing_v2(Tensor x, Tensor expert_idx, *, Tensor? scale=None,"
        " Tensor? offset=None, int active_num=-1, int expert_capacity=-1, int expert_num=-1,"
        " int drop_pad_mode=0, int expert_tokens_num_type=0, bool expert_tokens_num_flag=False,"
        " int quant_mode=0, int[2] active_expert_range=[], int row_idx_type=0)"
        " -> (Tensor, Tensor, Tensor, Tensor)",
        "2.9.0": "npu_moe_init_routing_v2(Tensor x, Tensor expert_idx, *, Tensor? scale=None,"
        " Tensor? offset=None, int active_num=-1, int expert_capacity=-1, int expert_num=-1,"
        " int drop_pad_mode=0, int expert_tokens_num_type=0, bool expert_tokens_num_flag=False,"
        " int quant_mode=-1, int[2] active_expert_range=[], int row_idx_type=0,"
        " int? x_dtype=None) -> (Tensor, Tensor, Tensor, Tensor)",
    },
    refused={"offset": "quantised routing", "expert_capacity": "dropping and padding"},
)
def npu_moe_init_routing_v2(
    x: torch.Tensor,
    expert_idx: torch.Tensor,
    *,
    scale: torch.Tensor | None = None,
    active_num: int = -1,
    expert_num: int = -1,
    expert_tokens_num_type: int = 0,
    active_expert_range: Sequence[int] = (),
    row_idx_type: int = 0,
    x_dtype: object = _ABSENT,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Copies of the rows of x, sorted by expert; choice c of row i is entry i * k + c.

    Only experts in ``active_expert_range`` count. Returns

    * expanded_x [rows * k, size]: the copies, one group after the other, then undefined rows;
    * expanded_row_idx [rows * k], int32: with row_idx_type 0 the copy that holds an entry, -1
      for none; with 1 the entry that a copy holds (-1 after the last);
    * the number of copies per expert of the range, int64: running sum (type 0), counts (1), or
      [expert_num, 2] pairs of expert and count without empty ones, ended by zeros (2);
    * scale of each copy, float32 [rows * k].
    """
    rows = x.shape[0]
    check.shape("expert_idx", expert_idx, rows, None)
    k = expert_idx.shape[1]
    check.require(x_dtype in (None, _ABSENT), "x_dtype", "None", x_dtype)
    limit = 5120 if expert_tokens_num_type == 2 else 10240
    check.require(0 < expert_num <= limit, "expert_num", f"1 to {limit}", expert_num)
    span = [int(n) for n in active_expert_range]
    if x_dtype is _ABSENT or span:
        check.require(
            len(span) == 2 and 0 <= span[0] < span[1] <= expert_num,
            "active_expert_range",
            f"[start, end) within the {expert_num} experts",
            span,
        )
    start, end = span or (0, expert_num)
    check.index_range("expert_idx", expert_idx, 0, expert_num)
    entries = rows * k
    check.require(
        active_num <= 0 or active_num >= entries,
        "active_num",
        f"-1, 0 or at least rows * k = {entries}, because the simulator drops no tokens",
        active_num,
    )
    experts = expert_idx.flatten().long()
    active = (experts >= start) & (experts < end)
    order = torch.sort(torch.where(active, experts, expert_num), stable=True).indices
    count = int(active.sum())
    source = order[:count]
    expanded_x = _undefined(x, entries, x.shape[1])
    expanded_x[:count] = x[source // max(k, 1)]
    expanded_row_idx = torch.full((entries,), -1, dtype=torch.int32)
    if row_idx_type == 0:
        expanded_row_idx[source] = torch.arange(count, dtype=torch.int32)
    else:
        expanded_row_idx[:count] = source.int()
    tokens = torch.bincount(experts[active], minlength=expert_num)[start:end]
    if expert_tokens_num_type == 0:
        tokens = tokens.cumsum(0)
    elif expert_tokens_num_type == 2:
        used = tokens.nonzero().flatten()
        pairs = torch.zeros(expert_num, 2, dtype=torch.int64)
        pairs[: used.numel()] = torch.stack((used + start, tokens[used]), 1)
        tokens = pairs
    expanded_scale = torch.full((entries,), torch.nan)
    if scale is not None:
        check.shape("scale", scale, rows)
        expanded_scale[:count] = scale[source // max(k, 1)]
    return expanded_x, expanded_row_idx, tokens, expanded_scale


@operator(
    "npu::npu_moe_compute_expert_tokens",
    {
        "2.8.0": "npu_moe_compute_expert_tokens(Tensor sorted_expert_for_source_row,"
        " int num_expert) -> Tensor",
    },
)
def npu_moe_compute_expert_tokens(
    sorted_expert_for_source_row: torch.Tensor, num_expert: int
) -> torch.Tensor:
    """Running number of rows up to and with each expert, int32 [num_expert]."""
    name = "sorted_expert_for_source_row"
    rows = sorted_expert_for_source_row
    check.index_range(name, rows, 0, num_expert)
    check.require(bool((rows[1:] >= rows[:-1]).all()), name, "sorted values", "others")
    return torch.searchsorted(
        rows, torch.arange(num_expert, dtype=torch.int32), right=True, out_int32=True
    )


@operator(
    "npu::npu_moe_finalize_routing",
    {
        "2.8.0": "npu_moe_finalize_routing(Tensor expanded_permuted_rows, Tensor? skip1,"
        " Tensor? skip2, Tensor? bias, Tensor? scales, Tensor expanded_src_to_dst_row,"
        " Tensor? export_for_source_row, int? drop_pad_mode=0) -> Tensor",
        "2.13.0": "npu_moe_finalize_routing(Tensor expanded_permuted_rows, Tensor? skip1,"
        " Tensor? skip2, Tensor? bias, Tensor? scales, Tensor expanded_src_to_dst_row,"
        " Tensor? export_for_source_row, int? drop_pad_mode=0, int? k=1) -> Tensor",
    },
)
def npu_moe_finalize_routing(
    expanded_permuted_rows: torch.Tensor,
    skip1: torch.Tensor | None,
    skip2: torch.Tensor | None,
    bias: torch.Tensor | None,
    scales: torch.Tensor | None,
    expanded_src_to_dst_row: torch.Tensor,
    export_for_source_row: torch.Tensor | None,
    drop_pad_mode: int | None = 0,
    k: int | None = 1,
) -> torch.Tensor:
    """Sum over the k choices of a row: scale * (expert's row + expert's bias), plus the skips.

    Choice c of row i is entry c * rows + i of expanded_src_to_dst_row in drop_pad_mode 0, entry
    i * k + c in mode 2.
    """
    source = expanded_permuted_rows
    where = expanded_src_to_dst_row
    entries = where.numel()
    if scales is not None:
        k = scales.shape[1]
    k = k or 1
    check.require(
        entries % k == 0, "expanded_src_to_dst_row", f"a multiple of k = {k} entries", entries
    )
    rows, size = entries // k, source.shape[1]
    check.index_range("expanded_src_to_dst_row", where, 0, source.shape[0])
    entry = torch.arange(entries)
    entry = entry.view(k, rows).T if drop_pad_mode == 0 else entry.view(rows, k)
    chosen = source[where.long()[entry]].float()
    if bias is not None:
        check.shape("bias", bias, None, size)
        if export_for_source_row is None:
            raise check.OperandError("export_for_source_row", "a tensor, with bias", None)
        check.shape("export_for_source_row", export_for_source_row, rows, k)
        check.index_range("export_for_source_row", export_for_source_row, 0, bias.shape[0])
        chosen = chosen + bias[export_for_source_row.long()].float()
    if scales is not None:
        check.shape("scales", scales, rows, k)
        chosen = chosen * scales.float().unsqueeze(-1)
    total = chosen.sum(1)
    check.require(
        skip2 is None or skip1 is not None, "skip2", "None where skip1 is None", "a tensor"
    )
    for label, skip in (("skip1", skip1), ("skip2", skip2)):
        if skip is not None:
            check.shape(label, skip, rows, size)
            total = total + skip.float()
    return total.to(source.dtype)


@operator(
    "npu::npu_moe_token_permute",
    {
        "2.8.0": "npu_moe_token_permute(Tensor tokens, Tensor indices,"
        " int? num_out_tokens=None, bool padded_mode=False) -> (Tensor, Tensor)",
    },
)
def npu_moe_token_permute(
    tokens: torch.Tensor,
    indices: torch.Tensor,
    num_out_tokens: int | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Copies of the tokens sorted by expert, and where each entry of ``indices`` went, int32.

    ``num_out_tokens``: 0 or None keeps all copies, n > 0 the first n, n < 0 all but the last -n.
    """
    check.require(
        indices.shape[0] == tokens.shape[0],
        "indices",
        f"{tokens.shape[0]} rows",
        tuple(indices.shape),
    )
    k = indices.shape[1] if indices.dim() == 2 else 1
    check.require(0 < k <= 512, "indices", "at most 512 experts for a token", k)
    order = torch.sort(indices.flatten(), stable=True).indices
    place = torch.empty(order.numel(), dtype=torch.int32)
    place[order] = torch.arange(order.numel(), dtype=torch.int32)
    count = num_out_tokens or 0
    kept = min(count, order.numel()) if count > 0 else order.numel() + count
    check.require(kept >= 0, "num_out_tokens", f"at least {-order.numel()}", count)
    return tokens[order[:kept] // k], place


def _unpermute(
    permuted_tokens: torch.Tensor,
    sorted_indices: torch.Tensor,
    probs: torch.Tensor | None,
) -> torch.Tensor:
    entries, kept = sorted_indices.numel(), permuted_tokens.shape[0]
    check.index_range("sorted_indices", sorted_indices, 0, max(entries, kept))
    k = 1
    if probs is not None:
        k = probs.shape[1]
        check.shape("probs", probs, entries // max(k, 1), k)
        check.require(
            entries % k == 0, "sorted_indices", f"a multiple of {k} entries, as probs", entries
        )
    padded = torch.cat(
        (permuted_tokens.float(), torch.zeros(max(entries - kept, 0), permuted_tokens.shape[1]))
    )
    chosen = padded[sorted_indices.long()].view(entries // k, k, -1)
    if probs is not None:
        chosen = chosen * probs.float().unsqueeze(-1)
    return chosen.sum(1).to(permuted_tokens.dtype)


@operator(
    "npu::npu_moe_token_unpermute",
    {
        "2.8.0": "npu_moe_token_unpermute(Tensor permuted_tokens, Tensor sorted_indices,"
        " Tensor? probs=None, bool padded_mode=False, int[]? restore_shape=None) -> Tensor",
    },
)
def npu_moe_token_unpermute(
    permuted_tokens: torch.Tensor,
    sorted_indices: torch.Tensor,
    probs: torch.Tensor | None = None,
    restore_shape: Sequence[int] | None = None,  # noqa: ARG001 - read in padded mode only
) -> torch.Tensor:
    """Row i: sum over c of probs[i, c] * permuted_tokens[sorted_indices[i * k + c]].

    An index past the end stands for a dropped copy and adds nothing.
    """
    return _unpermute(permuted_tokens, sorted_indices, probs)


@operator(
    "npu::_npu_moe_token_unpermute",
    {
        "2.13.0": "_npu_moe_token_unpermute(Tensor permuted_tokens, Tensor sorted_indices,"
        " Tensor? probs=None, bool padded_mode=False, int[]? restore_shape=None)"
        " -> (Tensor unpermuted_tokens, Tensor permuted_tokens_for_backward)",
    },
)
def _npu_moe_token_unpermute(
    permuted_tokens: torch.Tensor,
    sorted_indices: torch.Tensor,
    probs: torch.Tensor | None = None,
    restore_shape: Sequence[int] | None = None,  # noqa: ARG001 - read in padded mode only
) -> tuple[torch.Tensor, torch.Tensor]:
    """As :func:`npu_moe_token_unpermute`, and the first operand itself."""
    return _unpermute(permuted_tokens, sorted_indices, probs), permuted_tokens


# --------------------------------------------------------------------------------------------
# npu_grouped_matmul


def _bias_of(
    bias: Sequence[torch.Tensor] | None, x: torch.Tensor, groups: int, n: int
) -> list[torch.Tensor] | None:
    """Per group a bias [n] in float32."""
    if not bias:
        return None
    wanted = {torch.bfloat16: torch.float32}.get(x.dtype, x.dtype)
    for tensor in bias:
        check.dtype("bias", tensor, wanted)
    if len(bias) == 1 and bias[0].dim() == 2:
        check.shape("bias", bias[0], groups, n)
        return list(bias[0].float())
    check.require(len(bias) == groups, "bias", f"{groups} tensors", len(bias))
    for tensor in bias:
        check.shape("bias", tensor, n)
    return [tensor.float() for tensor in bias]


@dataclass(frozen=True)
class _Scales:
    """Of a product of int8: a scale a column of each group, one a row, and the result's dtype."""

    columns: torch.Tensor
    rows: torch.Tensor
    dtype: torch.dtype


def _scales_of(
    x: Sequence[torch.Tensor],
    weight: Sequence[torch.Tensor],
    scale: Sequence[torch.Tensor] | None,
    per_token_scale: Sequence[torch.Tensor] | None,
    output_dtype: int | torch.dtype | None,
) -> _Scales:
    """The operands that only a product of int8 has: the table of torch_npu.npu_grouped_matmul."""
    check.require(
        len(x) == len(weight) == 1, "x", "one tensor, and one weight, of int8", len(weight)
    )
    check.require(scale is not None and len(scale) == 1, "scale", "one tensor", _count(scale))
    check.require(
        per_token_scale is not None and len(per_token_scale) == 1,
        "per_token_scale",
        "one tensor, because the simulator has no reference for int8 results",
        _count(per_token_scale),
    )
    assert scale is not None
    assert per_token_scale is not None
    check.require(output_dtype is not None, "output_dtype", "one for int8", None)
    assert output_dtype is not None
    result = scalar_type(output_dtype)
    wanted = {torch.bfloat16: torch.bfloat16, torch.float16: torch.float32}
    if check.relaxed("float32"):
        wanted[torch.float32] = torch.float32
    check.require(
        result in wanted,
        "output_dtype",
        f"dtype {' or '.join(str(d).removeprefix('torch.') for d in wanted)}",
        str(result).removeprefix("torch."),
    )
    check.dtype("scale", scale[0], wanted[result])
    check.shape("scale", scale[0], weight[0].shape[0], weight[0].shape[-1])
    check.dtype("per_token_scale", per_token_scale[0], torch.float32)
    check.shape("per_token_scale", per_token_scale[0], x[0].shape[0])
    return _Scales(scale[0].float(), per_token_scale[0], result)


def _count(tensors: Sequence[torch.Tensor] | None) -> int:
    return 0 if tensors is None else len(tensors)


def _multiply(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    product = x.float() @ weight.float()
    return product if bias is None else product + bias


def _group_sizes(
    group_list: Sequence[int] | torch.Tensor, kind: int, groups: int
) -> list[tuple[int, int]]:
    """Pairs of group and number of rows, in the order of the rows."""
    if isinstance(group_list, torch.Tensor):
        check.dtype("group_list", group_list, torch.int64)
        if kind == 2:
            check.shape("group_list", group_list, groups, 2)
            return [(int(g), int(n)) for g, n in group_list.tolist()]
        check.shape("group_list", group_list, groups)
        values = group_list.tolist()
        check.require(
            kind == 0 or groups > 1, "group_list", "more than one group in type 1", groups
        )
    else:
        values = [int(n) for n in group_list]
        check.require(len(values) == groups, "group_list", f"{groups} entries", values)
        check.require(kind == 0, "group_list_type", "0 with a list", kind)
    if kind == 0:
        ends = check.lengths("group_list", values, cumulative=True)
        return [(g, b - a) for g, (a, b) in enumerate(zip([0, *ends], ends, strict=False))]
    return list(enumerate(check.lengths("group_list", values)))


def _grouped_matmul(
    x: Sequence[torch.Tensor],
    weight: Sequence[torch.Tensor],
    bias: Sequence[torch.Tensor] | None,
    group_list: Sequence[int] | torch.Tensor | None,
    split_item: int | None,
    group_type: int | None,
    group_list_type: int | None,
    scale: Sequence[torch.Tensor] | None = None,
    per_token_scale: Sequence[torch.Tensor] | None = None,
    output_dtype: int | torch.dtype | None = None,
) -> list[torch.Tensor]:
    split, kind = split_item or 0, group_list_type or 0
    for name, tensors in (("x", x), ("weight", weight)):
        check.require(len(tensors) > 0, name, "at least a tensor", 0)
    listed = group_list is None or not isinstance(group_list, torch.Tensor)
    check.rules(
        "npu::npu_grouped_matmul" + ".List" * listed,
        {
            "tensors": max(len(x), len(weight)),
            "groups": 0 if group_list is None else len(group_list),
            "inner": max(tensor.shape[-1] for tensor in x),
        },
    )
    scales: _Scales | None = None
    if x[0].dtype == torch.int8:
        check.require(group_type == 0, "group_type", "0 with int8", group_type)
        check.require(not bias, "bias", "None with int8, for which there is no reference", "one")
        scales = _scales_of(x, weight, scale, per_token_scale, output_dtype)
    else:
        for name, given in (("scale", scale), ("per_token_scale", per_token_scale)):
            check.require(not given, name, "None but for int8", "one")
        check.require(
            output_dtype is None or scalar_type(output_dtype) == x[0].dtype,
            "output_dtype",
            "the dtype of x, because the simulator has no reference for another",
            output_dtype,
        )
    for tensor in x:
        check.same_dtype("x", tensor, "x[0]", x[0])
    for tensor in weight:
        check.require(
            tensor.is_contiguous() or tensor.mT.is_contiguous(),
            "weight",
            "a contiguous tensor, or the transpose of one",
            f"strides {tensor.stride()} for shape {tuple(tensor.shape)}",
        )
        check.require(
            tensor.shape[-1] <= 65535, "weight", "a last dimension up to 65535", tensor.shape[-1]
        )
    if group_type in (None, -1):
        if group_type is None:
            check.require(
                not isinstance(group_list, torch.Tensor), "group_type", "-1, 0 or 2", None
            )
        check.require(
            group_list is None or not len(group_list),
            "group_list",
            "None where group_type is -1",
            "one",
        )
        check.require(split in (0, 1), "split_item", "0 or 1 where group_type is -1", split)
        check.require(len(weight) == len(x), "weight", f"{len(x)} tensors, as x", len(weight))
        results = []
        for i, (a, w) in enumerate(zip(x, weight, strict=True)):
            check.rank("x", a, *range(2, 7))
            check.shape("weight", w, a.shape[-1], None)
            own = None
            if bias:
                own = _bias_of([bias[i]], a, 1, w.shape[1])
            results.append(_multiply(a, w, own[0] if own else None).to(a.dtype))
        return results
    check.require(
        group_type == 0,
        "group_type",
        "-1 or 0, because the simulator has no reference for groups along k",
        group_type,
    )
    check.require(
        split in (2, 3) and len(x) == 1,
        "split_item",
        "2 or 3 with one x where group_type is 0",
        f"{split} with {len(x)}",
    )
    check.require(kind in (0, 1, 2), "group_list_type", "0, 1 or 2", kind)
    rows = x[0]
    check.rank("x", rows, 2)
    if len(weight) == 1:
        check.shape("weight", weight[0], None, rows.shape[1], None)
        matrices = list(weight[0])
    else:
        n = weight[0].shape[-1]
        for w in weight:
            check.shape("weight", w, rows.shape[1], n)
        matrices = list(weight)
    if group_list is None:
        raise check.OperandError("group_list", "one, where group_type is 0", None)
    sizes = _group_sizes(group_list, kind, len(matrices))
    total = sum(n for _, n in sizes)
    check.require(
        total <= rows.shape[0], "group_list", f"at most {rows.shape[0]} rows, as x", total
    )
    n = matrices[0].shape[1]
    biases = _bias_of(bias, rows, len(matrices), n)
    like = rows if scales is None else rows.to(scales.dtype)
    out = _undefined(like, rows.shape[0], n)
    at = 0
    for group, count in sizes:
        if not count:
            continue
        check.require(0 <= group < len(matrices), "group_list", "groups in range", group)
        mine = biases[group] if biases else None
        part = rows[at : at + count]
        if scales is None:
            product = _multiply(part, matrices[group], mine)
        else:
            tokens = scales.rows[at : at + count].unsqueeze(1)
            whole = integer_product(part, matrices[group])
            product = whole.float() * scales.columns[group] * tokens
        out[at : at + count] = product.to(out.dtype)
        at += count
    return [out]


_GMM_REFUSED = {
    "offset": "quantised products",
    "antiquant_scale": "quantised products",
    "antiquant_offset": "quantised products",
    "activation_input": "fused activations",
    "activation_quant_scale": "fused activations",
    "activation_quant_offset": "fused activations",
    "act_type": "fused activations",
    "x_dtype": "packed dtypes",
    "weight_dtype": "packed dtypes",
    "scale_dtype": "packed dtypes",
    "per_token_scale_dtype": "packed dtypes",
}
_GMM_TENSORS = (
    "Tensor[] x, Tensor[] weight, *, Tensor[]? bias=None, Tensor[]? scale=None,"
    " Tensor[]? offset=None, Tensor[]? antiquant_scale=None, Tensor[]? antiquant_offset=None,"
    " Tensor[]? per_token_scale=None,"
)
_GMM_OPTIONS = (
    " Tensor[]? activation_input=None, Tensor[]? activation_quant_scale=None,"
    " Tensor[]? activation_quant_offset=None, int? split_item=0, int? group_type=None,"
    " int? group_list_type=0, int? act_type=0,"
)


@operator(
    "npu::npu_grouped_matmul",
    {
        "2.8.0": f"npu_grouped_matmul({_GMM_TENSORS} Tensor? group_list=None,{_GMM_OPTIONS}"
        " int[]? tuning_config=None, ScalarType? output_dtype=None) -> Tensor[]",
        "2.9.0": f"npu_grouped_matmul({_GMM_TENSORS} Tensor? group_list=None,{_GMM_OPTIONS}"
        " int[]? tuning_config=None, int? output_dtype=None, int? x_dtype=None,"
        " int? weight_dtype=None, int? scale_dtype=None, int? per_token_scale_dtype=None)"
        " -> Tensor[]",
    },
    refused=_GMM_REFUSED,
)
def npu_grouped_matmul(
    x: Sequence[torch.Tensor],
    weight: Sequence[torch.Tensor],
    *,
    bias: Sequence[torch.Tensor] | None = None,
    group_list: torch.Tensor | None = None,
    split_item: int | None = 0,
    group_type: int | None = None,
    group_list_type: int | None = 0,
    scale: Sequence[torch.Tensor] | None = None,
    per_token_scale: Sequence[torch.Tensor] | None = None,
    output_dtype: int | torch.dtype | None = None,
) -> list[torch.Tensor]:
    """Each group of rows times the matrix of its group, plus its bias.

    A product of int8 is one of integers, times the scales of its columns and rows. Rows past the
    last group are undefined.
    """
    return _grouped_matmul(
        x,
        weight,
        bias,
        group_list,
        split_item,
        group_type,
        group_list_type,
        scale,
        per_token_scale,
        output_dtype,
    )


@operator(
    "npu::npu_grouped_matmul.List",
    {
        "2.8.0": f"npu_grouped_matmul.List({_GMM_TENSORS} int[]? group_list=None,{_GMM_OPTIONS}"
        " ScalarType? output_dtype=None) -> Tensor[]",
    },
    refused={
        **_GMM_REFUSED,
        **dict.fromkeys(("scale", "per_token_scale"), "quantised products"),
        "output_dtype": "another output dtype",
    },
)
def npu_grouped_matmul_list(
    x: Sequence[torch.Tensor],
    weight: Sequence[torch.Tensor],
    *,
    bias: Sequence[torch.Tensor] | None = None,
    group_list: Sequence[int] | None = None,
    split_item: int | None = 0,
    group_type: int | None = None,
    group_list_type: int | None = 0,
) -> list[torch.Tensor]:
    """As :func:`npu_grouped_matmul`, with the running sums as a host list."""
    return _grouped_matmul(x, weight, bias, group_list, split_item, group_type, group_list_type)
