# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright contributors to the vLLM project
"""Mixture of experts on an Ascend NPU: unquantized, or in int8."""

from __future__ import annotations

import dataclasses
import inspect
import math
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F
import torch_npu

# Most experts of a token that the router operator takes.
MAX_TOP_K = 1024

# What vLLM's kernels of the activation "swigluoai" and "swiglustep" have fixed.
OAI_LIMIT, OAI_ALPHA, OAI_BETA = 7.0, 1.702, 1.0
STEP_LIMIT = 7.0
# The softplus of vLLM's router kernels is linear above this.
SMALLEST_SUM = 1e-20
"""Added to the sum of a token's weights, so that they can be divided by it."""

SOFTPLUS_THRESHOLD = 20.0
# An image has this many sentinel tokens, with consecutive ids.
IMAGE_SENTINELS = 5

GATED = frozenset(
    {
        "silu",
        "gelu",
        "gelu_tanh",
        "situ",
        "swigluoai",
        "swigluoai_uninterleave",
        "swiglustep",
    }
)
# The parameter that an activation cannot do without.
REQUIRED = {
    "situ": "activation_situ_beta",
    "swigluoai_uninterleave": "swiglu_limit",
}
PLAIN = frozenset({"silu_no_mul", "gelu_no_mul", "gelu_tanh_no_mul", "relu2_no_mul"})

# Settings that `unquantized_experts` reads.
HONOURED = frozenset(
    {
        "activation",
        "activation_situ_beta",
        "activation_situ_linear_beta",
        "apply_router_weight_on_input",
        "has_bias",
        "is_act_and_mul",
        "swiglu_alpha",
        "swiglu_beta",
        "swiglu_limit",
    }
)
# Settings that change nothing in what experts compute from their input, their
# weights and the choice of the router.
SIZES = frozenset(
    {
        "device",
        "experts_per_token",
        "hidden_dim",
        "hidden_dim_unpadded",
        "hidden_size",
        "in_dtype",
        "intermediate_pad",
        "intermediate_size",
        "intermediate_size_per_partition",
        "intermediate_size_per_partition_unpadded",
        "max_capture_size",
        "max_num_tokens",
        "num_experts",
        "num_local_experts",
        "num_logical_experts",
        "num_redundant_experts",
        "params_dtype",
        "top_k",
        "tp_shard_with_padding",
    }
)
ROUTING = frozenset(
    {
        "apply_routed_scale_to_output",
        "custom_routing_function",
        "e_score_correction_bias",
        "gate",
        "has_hash_routing",
        "hash_indices_table",
        "num_expert_group",
        "renormalize",
        "require_decomposed_backend",
        "routed_scaling_factor",
        "router_logits_dtype",
        "routing_method",
        "routing_method_type",
        "scoring_func",
        "topk_group",
        "use_grouped_topk",
        "zero_expert_type",
    }
)
LOADING = frozenset(
    {
        "ckpt_down_proj_name",
        "ckpt_gate_proj_name",
        "ckpt_up_proj_name",
        "expert_mapping",
        "is_fused_checkpoint_transposed",
        "layer_name",
        "prefix",
        # A layer with a quantization config may still be left unquantized.
        "quant_config",
        "shared_expert_prefix",
    }
)
PARALLELISM = frozenset(
    {
        "dp_size",
        "elastic_ep_max_dp_size",
        "enable_eplb",
        "ep_size",
        "expert_map_manager",
        "is_sequence_parallel",
        "moe_parallel_config",
        "pcp_size",
        "reduce_results",
        "skip_final_all_reduce",
        "tp_size",
    }
)
AROUND = frozenset(
    {
        "disable_inplace",
        "expert_substitution",
        "has_shared_experts",
        "is_lora_enabled",
        "moe_config",
        "n_shared_experts",
        "routed_input_transform",
        "routed_output_transform",
        "shared_expert_gate",
        "shared_experts",
        "use_overlapped",
    }
)
KNOWN = HONOURED | SIZES | ROUTING | LOADING | PARALLELISM | AROUND


def check_experts(layer: torch.nn.Module) -> None:
    """Refuse a layer that `unquantized_experts` would not compute as it says.

    It is called when the layer is made. A setting of the layer or of its
    `moe_config` that is not known here has to be at its default, also one that
    this release of vLLM is the first to have.

    Raises:
        NotImplementedError: the layer sets something that is not known, or has
            an activation that is not supported.

    """
    for name, default, value in _settings(layer):
        if name in KNOWN:
            continue
        if value is inspect.Parameter.empty or not _alike(value, default):
            shown = f"={value!r}" if isinstance(value, (bool, int, float, str)) else ""
            raise NotImplementedError(
                f"NPU: experts with the setting {name}{shown} are not supported."
            )
    activation = _activation(layer)
    gated = _setting(layer, "is_act_and_mul")
    known = GATED | PLAIN if gated is None else GATED if gated else PLAIN
    if activation not in known:
        raise NotImplementedError(
            f"NPU: experts with the activation {activation} are not supported."
        )
    for name, allowed in _parameters(activation).items():
        value = _setting(layer, name)
        lacking = value is None and name == REQUIRED.get(activation)
        if lacking or (allowed is not None and value not in allowed):
            raise NotImplementedError(
                f"NPU: experts with the activation {activation} and {name}={value} "
                "are not supported."
            )
    layer._npu_checked_experts = True


def _settings(layer: torch.nn.Module) -> Iterator[tuple[str, Any, Any]]:
    """(Name, default, value) of what a layer can be told.

    The default is `Parameter.empty` for what has to be given, and so is a value
    that the layer does not keep under its name.
    """
    empty = inspect.Parameter.empty
    for class_ in type(layer).__mro__:
        # A model's own subclass takes the model's configuration.
        if not class_.__module__.startswith("vllm.model_executor.layers."):
            continue
        initializer = vars(class_).get("__init__")
        if initializer is None:
            continue
        _, *parameters = inspect.signature(initializer).parameters.values()
        for parameter in parameters:
            if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
                continue
            value = getattr(layer, parameter.name, empty)
            yield parameter.name, parameter.default, value
    config = getattr(layer, "moe_config", None)
    if dataclasses.is_dataclass(config):
        for field in dataclasses.fields(config):
            default = field.default
            if field.default_factory is not dataclasses.MISSING:
                default = field.default_factory()
            if default is dataclasses.MISSING:
                default = empty
            yield field.name, default, getattr(config, field.name)


def _alike(value: Any, default: Any) -> bool:
    if value is default:
        return True
    # What is off by itself asks a library of another device, and if that is not
    # there the answer is None.
    if value is None and default is False:
        return True
    if isinstance(value, torch.Tensor) or isinstance(default, torch.Tensor):
        return False
    return bool(value == default)


def _setting(layer: torch.nn.Module | SimpleNamespace, name: str) -> Any:
    """A setting of the layer, or of its configuration; None where neither has it."""
    value = getattr(layer, name, None)
    if value is None:
        value = getattr(getattr(layer, "moe_config", None), name, None)
    return value


def _activation(layer: torch.nn.Module | SimpleNamespace) -> str:
    # A string in some releases, an enumeration with these values in others.
    activation = getattr(layer.activation, "value", layer.activation)
    return "gelu_tanh" if activation == "gelu_pytorch_tanh" else activation


def _parameters(activation: str) -> dict[str, tuple[float | None, ...] | None]:
    """What the parameters of an activation may be; None for anything."""
    allowed: dict[str, tuple[float | None, ...] | None] = {
        "swiglu_limit": (None,),
        "swiglu_alpha": (None,),
        "swiglu_beta": (None,),
        "activation_situ_beta": (None,),
        "activation_situ_linear_beta": (None,),
    }
    if activation == "silu":
        allowed["swiglu_limit"] = None
        allowed["swiglu_alpha"] = (None, 1.0)
        allowed["swiglu_beta"] = (None, 0.0)
    elif activation == "swigluoai":
        allowed["swiglu_limit"] = (None, OAI_LIMIT)
        allowed["swiglu_alpha"] = (None, OAI_ALPHA)
        allowed["swiglu_beta"] = (None, OAI_BETA)
    elif activation == "swigluoai_uninterleave":
        allowed["swiglu_limit"] = None
        allowed["swiglu_alpha"] = None
        allowed["swiglu_beta"] = None
    elif activation == "swiglustep":
        allowed["swiglu_limit"] = (None, STEP_LIMIT)
    elif activation == "situ":
        allowed["activation_situ_beta"] = None
        allowed["activation_situ_linear_beta"] = None
    return allowed


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

    A row of which the softmax is not finite gets the weights 0 and the first
    experts, as from vLLM's kernel.

    Args:
        topk_weights: [num_tokens, top_k] float32, written in place.
        topk_ids: [num_tokens, top_k] integers, written in place.
        token_expert_indices: [num_tokens, top_k] int32, written in place: choice
            j of token i is j * num_tokens + i.
        gating_output: [num_tokens, num_experts] logits.
        renormalize: make each token's weights add up to 1.
        e_score_correction_bias: [num_experts], counts for the choice only.
        is_padding: [num_tokens] bool, rows that get the weight 0. They keep
            their experts, since the NPU's operators take no -1.

    """
    if gating_output.shape[0] == 0:
        return
    top_k = topk_weights.shape[-1]
    logits = gating_output.float()
    if e_score_correction_bias is None and top_k <= MAX_TOP_K:
        # What the operator chooses among NaN is not defined: rows that hold one,
        # or an infinity that is no mask, get a descending row instead.
        peak = logits.nan_to_num(nan=math.inf, posinf=math.inf, neginf=-math.inf)
        usable = peak.amax(dim=-1, keepdim=True).isfinite()
        num_experts = logits.shape[-1]
        ranks = torch.arange(
            0, -num_experts, -1, dtype=logits.dtype, device=logits.device
        )
        weights, ids, _ = torch_npu.npu_moe_gating_top_k_softmax(
            torch.where(usable, logits, ranks / num_experts), finished=None, k=top_k
        )
        weights = weights.masked_fill(~usable, 0)
    else:
        scores = _finite(logits.softmax(dim=-1))
        ids = _choose(scores, e_score_correction_bias, top_k)
        weights = scores.gather(-1, ids)
    _write(
        topk_weights,
        topk_ids,
        token_expert_indices,
        weights,
        ids,
        renormalize,
        is_padding,
    )


def topk_sigmoid(
    topk_weights: torch.Tensor,
    topk_ids: torch.Tensor,
    token_expert_indices: torch.Tensor,
    gating_output: torch.Tensor,
    renormalize: bool = False,
    e_score_correction_bias: torch.Tensor | None = None,
    routed_scaling_factor: float = 1.0,
    is_padding: torch.Tensor | None = None,
) -> None:
    """Choose the experts of each token, like `_custom_ops.topk_sigmoid`.

    Args:
        topk_weights: [num_tokens, top_k] float32, written in place.
        topk_ids: [num_tokens, top_k] integers, written in place.
        token_expert_indices: as of `topk_softmax`.
        gating_output: [num_tokens, num_experts] logits.
        renormalize: make each token's weights add up to 1.
        e_score_correction_bias: [num_experts], counts for the choice only.
        routed_scaling_factor: what all weights are multiplied by in the end.
        is_padding: [num_tokens] bool, rows that get the weight 0.

    """
    if gating_output.shape[0] == 0:
        return
    scores = _finite(gating_output.float().sigmoid())
    ids = _choose(scores, e_score_correction_bias, topk_weights.shape[-1])
    _write(
        topk_weights,
        topk_ids,
        token_expert_indices,
        scores.gather(-1, ids),
        ids,
        renormalize,
        is_padding,
        routed_scaling_factor,
    )


def topk_hash_softplus_sqrt(
    topk_weights: torch.Tensor,
    topk_indices: torch.Tensor,
    token_expert_indices: torch.Tensor,
    gating_output: torch.Tensor,
    renormalize: bool = False,
    routed_scaling_factor: float = 1.0,
    e_score_correction_bias: torch.Tensor | None = None,
    input_tokens: torch.Tensor | None = None,
    hash_indices_table: torch.Tensor | None = None,
    is_padding: torch.Tensor | None = None,
    bias_vl: torch.Tensor | None = None,
    image_sentinel_lo: int = 0,
) -> None:
    """Choose experts like `_custom_ops.topk_hash_softplus_sqrt`.

    Args:
        topk_weights: [num_tokens, top_k] float32, written in place.
        topk_indices: [num_tokens, top_k] integers, written in place.
        token_expert_indices: as of `topk_softmax`.
        gating_output: [num_tokens, num_experts] logits.
        renormalize: make each token's weights add up to 1.
        routed_scaling_factor: what all weights are multiplied by in the end.
        e_score_correction_bias: [num_experts], counts for the choice only.
        input_tokens: [num_tokens] token ids.
        hash_indices_table: [vocabulary, top_k], the experts of each token id in
            place of those with the highest scores.
        is_padding: [num_tokens] bool, rows that get the weight 0.
        bias_vl: [num_experts], takes the place of the bias and of the table for
            the tokens of an image.
        image_sentinel_lo: first of the token ids of an image; 0 for none.

    """
    if gating_output.shape[0] == 0:
        return
    top_k = topk_weights.shape[-1]
    logits = gating_output.float()
    scores = _finite(F.softplus(logits, threshold=SOFTPLUS_THRESHOLD).sqrt())
    if hash_indices_table is not None:
        ids = hash_indices_table.index_select(0, input_tokens).long()
    else:
        ids = _choose(scores, e_score_correction_bias, top_k)
    if bias_vl is not None and image_sentinel_lo > 0:
        assert input_tokens is not None
        offset = input_tokens - image_sentinel_lo
        of_image = (offset >= 0) & (offset < IMAGE_SENTINELS)
        ids = torch.where(of_image.unsqueeze(-1), _choose(scores, bias_vl, top_k), ids)
    _write(
        topk_weights,
        topk_indices,
        token_expert_indices,
        scores.gather(-1, ids),
        ids,
        renormalize,
        is_padding,
        routed_scaling_factor,
    )


def grouped_topk(
    scores: torch.Tensor,
    num_expert_group: int,
    topk_group: int,
    topk: int,
    renormalize: bool,
    routed_scaling_factor: float,
    bias: torch.Tensor | None = None,
    scoring_func: int = 0,
    scores_with_bias: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Choose experts from the best groups, like `_custom_ops.grouped_topk`.

    A score that is not finite is chosen last and weighs nothing. A row without any
    other gets equal weights if they are to add up to 1, and zeros if not.

    Args:
        scores: [num_tokens, num_experts], logits where `scoring_func` is 1.
        num_expert_group: groups of equal size, of experts that follow each other.
        topk_group: how many groups are chosen, by the sum of their two best.
        topk: experts of a token.
        renormalize: make each token's weights add up to 1 before they are scaled.
        routed_scaling_factor: what all weights are multiplied by in the end.
        bias: [num_experts], counts for the choice only.
        scoring_func: 0 if the scores are ready, 1 for a sigmoid.
        scores_with_bias: as `scores`, in place of a bias in releases that add it
            up themselves.

    Returns:
        Weights, float32, and experts, int32: [num_tokens, topk] each, the best
        first, the lower expert in a tie.

    Raises:
        NotImplementedError: `scoring_func` is another one.

    """
    if scoring_func not in (0, 1):
        raise NotImplementedError(
            f"NPU: routers with the scoring function {scoring_func} are not supported."
        )
    raw = scores.float()
    weights = raw.sigmoid() if scoring_func == 1 else raw
    weights = weights.masked_fill(~raw.isfinite(), 0)
    if scores_with_bias is not None:
        choice = scores_with_bias.float()
    else:
        choice = weights if bias is None else weights + bias.float()
    choice = choice.masked_fill(~(raw.isfinite() & choice.isfinite()), -math.inf)
    if topk_group < num_expert_group:
        grouped = choice.unflatten(-1, (num_expert_group, -1))
        best = grouped.sort(dim=-1, descending=True).values[..., :2].sum(dim=-1)
        left = torch.ones_like(best, dtype=torch.bool)
        left.scatter_(-1, _choose(best, None, topk_group), False)
        choice = grouped.masked_fill(left.unsqueeze(-1), -math.inf).flatten(-2)
    ids = _choose(choice, None, topk)
    usable = choice.gather(-1, ids).isfinite()
    weights = weights.gather(-1, ids).masked_fill(~usable, 0)
    if renormalize:
        weights = weights / (weights.sum(dim=-1, keepdim=True) + SMALLEST_SUM)
    if routed_scaling_factor != 1.0:
        weights = weights * routed_scaling_factor
    if renormalize:
        weights = weights.masked_fill(~usable.any(dim=-1, keepdim=True), 1 / topk)
    return weights, ids.int()


def _finite(scores: torch.Tensor) -> torch.Tensor:
    """The scores, with 0 for NaN and infinities."""
    return scores.nan_to_num(nan=0.0, posinf=0.0, neginf=0.0)


def _choose(
    scores: torch.Tensor, bias: torch.Tensor | None, top_k: int
) -> torch.Tensor:
    """[num_tokens, top_k] experts with the highest scores, the lower one in a tie."""
    choice = scores if bias is None else scores + bias.float()
    order = torch.sort(choice, dim=-1, descending=True, stable=True).indices
    return order[:, :top_k]


def _write(
    topk_weights: torch.Tensor,
    topk_ids: torch.Tensor,
    token_expert_indices: torch.Tensor,
    weights: torch.Tensor,
    ids: torch.Tensor,
    renormalize: bool,
    is_padding: torch.Tensor | None,
    routed_scaling_factor: float = 1.0,
) -> None:
    """Finish the weights of the chosen experts and write a router's results."""
    if renormalize:
        total = weights.sum(dim=-1, keepdim=True)
        weights = weights / total.masked_fill(total <= 0, 1)
    if routed_scaling_factor != 1.0:
        weights = weights * routed_scaling_factor
    if is_padding is not None:
        weights = weights.masked_fill(is_padding.unsqueeze(-1), 0)
    topk_weights.copy_(weights)
    topk_ids.copy_(ids)
    num_tokens, top_k = ids.shape
    choices = torch.arange(num_tokens * top_k, dtype=torch.int32, device=ids.device)
    token_expert_indices.copy_(choices.view(top_k, num_tokens).t())


def zero_experts(
    expert_indices: torch.Tensor,
    expert_scales: torch.Tensor,
    num_experts: int,
    zero_expert_type: str,
    hidden_states: torch.Tensor,
) -> torch.Tensor:
    """What experts without weights make of their input.

    Args:
        expert_indices: [num_tokens, top_k]; from `num_experts` on they have no
            weights. These become 0, in place.
        expert_scales: [num_tokens, top_k]; those of experts without weights
            become 0, in place.
        num_experts: number of experts that have weights.
        zero_expert_type: "identity" for experts that return their input.
        hidden_states: [num_tokens, hidden]

    Returns:
        [num_tokens, hidden], the sum over the experts without weights.

    """
    if zero_expert_type != "identity":
        raise NotImplementedError(
            f"NPU: zero experts of the type {zero_expert_type} are not supported."
        )
    of_zero = expert_indices >= num_experts
    scale = expert_scales.float().masked_fill(~of_zero, 0).sum(dim=-1, keepdim=True)
    expert_indices.masked_fill_(of_zero, 0)
    expert_scales.masked_fill_(of_zero, 0)
    return (hidden_states.float() * scale).to(hidden_states.dtype)


def unquantized_experts(
    layer: torch.nn.Module | SimpleNamespace,
    x: torch.Tensor,
    topk_weights: torch.Tensor,
    topk_ids: torch.Tensor,
) -> torch.Tensor:
    """What the experts of a layer make of its input.

    Args:
        layer: has `w13_weight` [experts, 2 * inner, hidden], `w2_weight`
            [experts, hidden, inner] and the layer's settings; for weights of int8
            also `w13_weight_scale` [experts, 2 * inner] and `w2_weight_scale`
            [experts, hidden], of bfloat16 for such an input, else float32; with expert
            parallelism also `expert_map`, global to local expert, -1 for one of
            another rank.
        x: [num_tokens, hidden]
        topk_weights: [num_tokens, top_k]
        topk_ids: [num_tokens, top_k] global experts.

    Returns:
        [num_tokens, hidden], of this rank's experts only.

    Raises:
        NotImplementedError: as `check_experts`, for a layer that it did not see.

    """
    if not getattr(layer, "_npu_checked_experts", False):
        check_experts(layer)
    w13, w2 = layer.w13_weight, layer.w2_weight
    if x.shape[0] == 0:
        return x.new_empty(0, w2.shape[1])
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
        local = _local_experts(layer, expert_map, num_experts)
        ids = local.index_select(0, ids.flatten()).view_as(ids)
    routed = num_experts + (expert_map is not None)

    # Copies of the tokens, one for each of their experts, sorted by expert.
    sorted_copies = torch_npu.npu_moe_init_routing_v2(
        x,
        ids.contiguous(),
        active_num=ids.numel(),
        expert_num=routed,
        expert_tokens_num_type=1,
        expert_tokens_num_flag=True,
        active_expert_range=[0, routed],
        quant_mode=-1,
        row_idx_type=0,
    )
    copies, copy_of_choice, copies_per_expert, _ = sorted_copies
    counts = copies_per_expert[:num_experts]
    if w13.dtype is torch.int8:
        hidden = _int8_grouped_matmul(copies, w13, layer.w13_weight_scale, counts)
        hidden = _activate(hidden, layer)
        hidden = _int8_grouped_matmul(hidden, w2, layer.w2_weight_scale, counts)
    else:
        hidden = _grouped_matmul(copies, w13, w13_bias, counts)
        hidden = _activate(hidden, layer)
        hidden = _grouped_matmul(hidden, w2, w2_bias, counts)
    if expert_map is not None:
        # Nothing was computed for the copies of the last, other ranks' expert.
        rows = hidden.shape[0]
        position = torch.arange(rows, dtype=torch.int32, device=hidden.device)
        others = position >= rows - copies_per_expert[num_experts:].to(torch.int32)
        hidden.masked_fill_(others.unsqueeze(-1), 0)
    return torch_npu.npu_moe_token_unpermute(
        hidden, copy_of_choice, probs=topk_weights.to(hidden.dtype)
    )


def fused_experts(
    hidden_states: torch.Tensor,
    w1: torch.Tensor,
    w2: torch.Tensor,
    topk_weights: torch.Tensor,
    topk_ids: torch.Tensor,
    inplace: bool = False,
    activation: Any = "silu",
    is_act_and_mul: bool = True,
    apply_router_weight_on_input: bool = False,
    global_num_experts: int = -1,
    expert_map: torch.Tensor | None = None,
    w1_bias: torch.Tensor | None = None,
    w2_bias: torch.Tensor | None = None,
    **quantization: Any,
) -> torch.Tensor:
    """What experts make of their input, like `fused_experts_impl`.

    For models that have no layer of experts but tensors of their weights.

    Args:
        hidden_states: [num_tokens, hidden]
        w1: [experts, 2 * inner, hidden], or [experts, inner, hidden] for an
            activation that is not gated.
        w2: [experts, hidden, inner]
        topk_weights: [num_tokens, top_k]
        topk_ids: [num_tokens, top_k] global experts.
        inplace: write the result to `hidden_states`, too.
        activation: its name, or the member of an enumeration with this value.
        is_act_and_mul: whether the activation is gated.
        apply_router_weight_on_input: weigh the input, in place of the output.
        global_num_experts: of all ranks; `expert_map` tells what is here.
        expert_map: global to local expert, -1 for one of another rank.
        w1_bias: as `w1` without its last dimension.
        w2_bias: [experts, hidden]
        quantization: switches and scales of quantized weights.

    Returns:
        [num_tokens, hidden], of this rank's experts only.

    Raises:
        NotImplementedError: weights are quantized, or the activation is not
            supported.

    """
    for name, value in quantization.items():
        if value is not None and value is not False:
            raise NotImplementedError(
                f"NPU: experts with quantized weights ({name}) are not supported."
            )
    layer = SimpleNamespace(
        w13_weight=w1,
        w2_weight=w2,
        w13_bias=w1_bias,
        w2_bias=w2_bias,
        activation=activation,
        apply_router_weight_on_input=apply_router_weight_on_input,
        expert_map=expert_map,
        _npu_checked_experts=True,
    )
    name = _activation(layer)
    if name in REQUIRED or name not in (GATED | PLAIN if is_act_and_mul else PLAIN):
        raise NotImplementedError(
            f"NPU: experts with the activation {name} are not supported."
        )
    out = unquantized_experts(layer, hidden_states, topk_weights, topk_ids)
    return hidden_states.copy_(out) if inplace else out


def _local_experts(
    layer: torch.nn.Module | SimpleNamespace, expert_map: torch.Tensor, num_experts: int
) -> torch.Tensor:
    """[global experts] int32, this rank's expert or, for other ranks', one behind.

    It is kept on the layer for as long as the layer's map is the same.
    """
    kept = getattr(layer, "_npu_local_experts", None)
    if kept is None or kept[0] is not expert_map:
        local = expert_map.to(torch.int32)
        kept = expert_map, local.masked_fill(local < 0, num_experts)
        layer._npu_local_experts = kept
    return kept[1]


def _grouped_matmul(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    counts: torch.Tensor,
) -> torch.Tensor:
    """The next counts[e] rows of x times the transpose of weight[e], for each e."""
    biases = None
    if bias is not None:
        biases = [bias.float() if x.dtype is torch.bfloat16 else bias]
    return torch_npu.npu_grouped_matmul(
        [x],
        [weight.transpose(1, 2)],
        bias=biases,
        group_list=counts,
        split_item=2,
        group_type=0,
        group_list_type=1,
    )[0]


def _int8_grouped_matmul(
    x: torch.Tensor,
    weight: torch.Tensor,
    scale: torch.Tensor,
    counts: torch.Tensor,
) -> torch.Tensor:
    """The same with each row of x quantized by the greatest of its own values."""
    quantized, row_scale = torch_npu.npu_dynamic_quant(x)
    return torch_npu.npu_grouped_matmul(
        [quantized],
        [weight.transpose(1, 2)],
        scale=[scale],
        per_token_scale=[row_scale],
        group_list=counts,
        split_item=2,
        group_type=0,
        group_list_type=1,
        output_dtype=x.dtype,
    )[0]


def _activate(
    x: torch.Tensor, layer: torch.nn.Module | SimpleNamespace
) -> torch.Tensor:
    """The layer's activation of [rows, 2 * inner], or [rows, inner] for a plain one.

    `x` may be written to.
    """
    activation = _activation(layer)
    limit = _setting(layer, "swiglu_limit")
    if activation == "silu":
        if limit is not None:
            gate, up = x.chunk(2, dim=-1)
            gate.clamp_(max=limit)
            up.clamp_(-limit, limit)
        return torch_npu.npu_swiglu(x)
    if activation in ("gelu", "gelu_tanh"):
        gate, up = x.chunk(2, dim=-1)
        return F.gelu(gate, approximate=_approximation(activation)) * up
    if activation == "swigluoai":
        # Gates and ups take turns in its weights.
        return _swiglu_oai(x[..., ::2], x[..., 1::2], OAI_LIMIT, OAI_ALPHA, OAI_BETA)
    if activation == "swigluoai_uninterleave":
        alpha, beta = _setting(layer, "swiglu_alpha"), _setting(layer, "swiglu_beta")
        gate, up = x.chunk(2, dim=-1)
        return _swiglu_oai(
            gate,
            up,
            limit,
            1.0 if alpha is None else alpha,
            0.0 if beta is None else beta,
        )
    if activation == "swiglustep":
        gate, up = x.float().chunk(2, dim=-1)
        gate = F.silu(gate).clamp(max=STEP_LIMIT)
        return (gate * up.clamp(-STEP_LIMIT, STEP_LIMIT)).to(x.dtype)
    if activation == "situ":
        gate, up = x.float().chunk(2, dim=-1)
        beta = _setting(layer, "activation_situ_beta")
        gate = beta * torch.tanh(gate / beta) * torch.sigmoid(gate)
        linear_beta = _setting(layer, "activation_situ_linear_beta")
        if linear_beta is not None and linear_beta > 0:
            up = linear_beta * torch.tanh(up / linear_beta)
        return (gate * up).to(x.dtype)
    if activation == "silu_no_mul":
        return F.silu(x)
    if activation in ("gelu_no_mul", "gelu_tanh_no_mul"):
        return F.gelu(x, approximate=_approximation(activation))
    if activation == "relu2_no_mul":
        return F.relu(x).square()
    raise NotImplementedError(
        f"NPU: experts with the activation {activation} are not supported."
    )


def _approximation(activation: str) -> str:
    return "tanh" if activation.startswith("gelu_tanh") else "none"


def _swiglu_oai(
    gate: torch.Tensor, up: torch.Tensor, limit: float, alpha: float, beta: float
) -> torch.Tensor:
    """Clamped gate * sigmoid(alpha * gate) * (clamped up + beta)."""
    dtype = gate.dtype
    gate = gate.float().clamp(max=limit)
    up = up.float().clamp(-limit, limit)
    return (gate * torch.sigmoid(alpha * gate) * (up + beta)).to(dtype)
