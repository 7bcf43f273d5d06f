# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright contributors to the vLLM project
"""Unquantized mixture of experts on an Ascend NPU."""

from __future__ import annotations

import torch
import torch.nn.functional as F
import torch_npu

# Most experts of a token that the router operator takes.
MAX_TOP_K = 1024


def topk_softmax(
    topk_weights: torch.Tensor,
    topk_ids: torch.Tensor,
    token_expert_indices: torch.Tensor,
    gating_output: torch.Tensor,
    renormalize: bool = False,
    e_score_correction_bias: torch.Tensor | None = None,
    is_padding: torch.Tensor | None = None,
) -> None:
    """Choose the experts of each token, like `_custom_ops.topk_softmax`.

    Args:
        topk_weights: [num_tokens, top_k] float32, written in place.
        topk_ids: [num_tokens, top_k] integers, written in place.
        token_expert_indices: [num_tokens, top_k] int32, written in place: choice
            j of token i is j * num_tokens + i.
        gating_output: [num_tokens, num_experts] logits.
        renormalize: make each token's weights add up to 1.
        e_score_correction_bias: [num_experts], counts for the choice only.
        is_padding: [num_tokens] bool, rows that get the weight 0.
    """
    top_k = topk_weights.shape[-1]
    logits = gating_output.float()
    if e_score_correction_bias is None and top_k <= MAX_TOP_K:
        weights, ids, rows = torch_npu.npu_moe_gating_top_k_softmax(
            logits, finished=None, k=top_k
        )
    else:
        scores = logits.softmax(dim=-1)
        choice = scores
        if e_score_correction_bias is not None:
            choice = scores + e_score_correction_bias
        ids = choice.topk(top_k, dim=-1).indices
        weights = scores.gather(-1, ids)
        rows = torch.arange(ids.numel(), device=ids.device).view(top_k, -1).t()
    if renormalize:
        weights = weights / weights.sum(dim=-1, keepdim=True)
    if is_padding is not None:
        weights = weights.masked_fill(is_padding.unsqueeze(-1), 0)
    topk_weights.copy_(weights)
    topk_ids.copy_(ids)
    token_expert_indices.copy_(rows)


def unquantized_experts(
    layer: torch.nn.Module,
    x: torch.Tensor,
    topk_weights: torch.Tensor,
    topk_ids: torch.Tensor,
) -> torch.Tensor:
    """What the experts of a layer make of its input.

    Args:
        layer: has `w13_weight` [experts, 2 * inner, hidden], `w2_weight`
            [experts, hidden, inner] and the layer's settings; with expert
            parallelism also `expert_map`, global to local expert, -1 for one of
            another rank.
        x: [num_tokens, hidden]
        topk_weights: [num_tokens, top_k]
        topk_ids: [num_tokens, top_k] global experts.

    Returns:
        [num_tokens, hidden], of this rank's experts only.
    """
    if getattr(layer, "zero_expert_num", 0):
        raise NotImplementedError("NPU: zero experts are not supported.")
    w13, w2 = layer.w13_weight, layer.w2_weight
    w13_bias = getattr(layer, "w13_bias", None)
    w2_bias = getattr(layer, "w2_bias", None)
    if layer.apply_router_weight_on_input:
        if topk_ids.shape[-1] != 1:
            raise ValueError("router weights on the input need one expert a token")
        x = x * topk_weights.to(x.dtype)
        topk_weights = torch.ones_like(topk_weights)

    num_experts = w13.shape[0]
    ids = topk_ids.to(torch.int32)
    expert_map = getattr(layer, "expert_map", None)
    if expert_map is not None:
        # Experts of other ranks become one more expert, behind this rank's.
        ids = expert_map.to(torch.int32)[ids.long()]
        ids = torch.where(ids < 0, num_experts, ids)
    routed = num_experts + (expert_map is not None)

    # Copies of the tokens, one for each of their experts, sorted by expert.
    copies, copy_of_choice, copies_per_expert, _ = torch_npu.npu_moe_init_routing_v2(
        x,
        ids.contiguous(),
        active_num=ids.numel(),
        expert_num=routed,
        expert_tokens_num_type=0,
        expert_tokens_num_flag=True,
        active_expert_range=[0, routed],
        quant_mode=-1,
        row_idx_type=0,
    )
    ends = copies_per_expert[:num_experts]
    hidden = _grouped_matmul(copies, w13, w13_bias, ends)
    hidden = _activate(hidden, layer)
    hidden = _grouped_matmul(hidden, w2, w2_bias, ends)
    if expert_map is not None:
        # Nothing was computed for the copies of the last, other ranks' expert.
        position = torch.arange(hidden.shape[0], device=hidden.device)
        hidden = hidden.masked_fill((position >= ends[-1]).unsqueeze(-1), 0)
    return torch_npu.npu_moe_token_unpermute(
        hidden, copy_of_choice, probs=topk_weights.to(hidden.dtype)
    )


def _grouped_matmul(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    ends: torch.Tensor,
) -> torch.Tensor:
    """Rows of x up to ends[e] times the transpose of weight[e]."""
    biases = None
    if bias is not None:
        biases = [bias.float() if x.dtype is torch.bfloat16 else bias]
    return torch_npu.npu_grouped_matmul(
        [x],
        [weight.transpose(1, 2)],
        bias=biases,
        group_list=ends,
        split_item=2,
        group_type=0,
        group_list_type=0,
    )[0]


def _activate(x: torch.Tensor, layer: torch.nn.Module) -> torch.Tensor:
    # A string in some releases, an enumeration with these values in others.
    activation = getattr(layer.activation, "value", layer.activation)
    if activation == "silu":
        return torch_npu.npu_swiglu(x)
    if activation == "gelu":
        gate, up = x.chunk(2, dim=-1)
        return F.gelu(gate) * up
    raise NotImplementedError(
        f"NPU: experts with the activation {activation} are not supported."
    )
