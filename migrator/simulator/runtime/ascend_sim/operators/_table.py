# SPDX-License-Identifier: Apache-2.0
"""What each operator takes: one table, which the references, `verify` and the docs page read.

Nothing here imports torch: `verify` reads the table where there is none. What an operator asks of
one argument is a constraint; what it asks between arguments is said in words under `also`, and
its reference checks it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

HALVES = ("float16", "bfloat16")
FLOATS = ("float16", "bfloat16", "float32")
INDICES = ("int32", "int64")


@dataclass(frozen=True)
class Tensor:
    """A tensor, or each of a list of tensors."""

    dtypes: tuple[str, ...] = ()
    """Empty for any."""
    ranks: tuple[int, ...] = ()
    like: str = ""
    """The operand whose dtype it has."""
    contiguous: bool = False
    relaxed: bool = False
    """Whether float32 passes too with ASCEND_SIM_RELAX=float32."""

    def __str__(self) -> str:
        parts = []
        if self.dtypes:
            parts.append(listed(self.dtypes))
        if self.like:
            parts.append(f"dtype of `{self.like}`")
        if self.ranks:
            spans = len(self.ranks) > 2
            parts.append(
                (f"{self.ranks[0]} to {self.ranks[-1]}" if spans else listed(self.ranks))
                + (" dimension" if self.ranks == (1,) else " dimensions")
            )
        if self.contiguous:
            parts.append("contiguous")
        return ", ".join(parts)


@dataclass(frozen=True)
class OneOf:
    """One of a few values; an argument that is None is at its default."""

    values: tuple[object, ...]
    text: str = ""
    """How messages name the values, where not one by one."""
    simulated: bool = False
    """Whether the device may take others, for which there is no reference."""

    def __str__(self) -> str:
        return self.text or listed([repr(value) for value in self.values])

    def takes(self, value: object) -> bool:
        """Whether it is one of them; 1 is not True."""
        return any(
            value == known and isinstance(value, bool) == isinstance(known, bool)
            for known in self.values
        )


@dataclass(frozen=True)
class Between:
    """A whole number in a range, both ends included."""

    low: int
    high: int

    def __str__(self) -> str:
        return f"{self.low} to {self.high}"

    def takes(self, value: object) -> bool:
        """Whether it is a number in the range."""
        return isinstance(value, int) and self.low <= value <= self.high


Constraint = Tensor | OneOf | Between


@dataclass(frozen=True)
class Takes:
    """What one operator takes."""

    source: str
    """The documentation that says so: names of torch_npu's pages, or operations of NNAL."""
    arguments: Mapping[str, Constraint] = field(default_factory=dict)
    also: str = ""


def problem(operator: str, argument: str, value: object) -> str | None:
    """What the device takes instead of a value of an argument; None where it may take it."""
    takes = TABLE.get(operator)
    constraint = takes.arguments.get(argument) if takes else None
    if constraint is None or isinstance(constraint, Tensor) or value is None:
        return None
    if isinstance(constraint, OneOf) and constraint.simulated:
        return None
    return None if constraint.takes(value) else str(constraint)


def listed(values: object) -> str:
    """`a`, `a or b`, `a, b or c`."""
    names = [str(value) for value in values]  # type: ignore[attr-defined]
    return " or ".join(filter(None, (", ".join(names[:-1]), names[-1])))


_ANY_RANK = tuple(range(9))
_RANK = _ANY_RANK[1:]
_ZERO_OR_ONE = OneOf((0, 1))
_ROTARY_MODE = OneOf(("half", "interleave"))
_HALF_SPLIT = "an even size in dimension `dim`"

_POINTWISE = {"input": Tensor(FLOATS, _ANY_RANK)}
_ENCODER = {
    "query": Tensor(HALVES, relaxed=True),
    "key": Tensor(like="query"),
    "value": Tensor(like="query"),
    "seq_len": Tensor(("int32",), (1,), contiguous=True),
    "out": Tensor(like="query", contiguous=True),
}
_ENCODER_ALSO = (
    "query, key, value [tokens, heads, size] or [tokens, heads * size]; seq_len adds up to tokens; "
    "head size at most 256; out of the shape of query"
)
_PAGED = {
    "query": Tensor(HALVES, relaxed=True),
    "key_cache": Tensor(like="query", ranks=(4,), contiguous=True),
    "value_cache": Tensor(like="query", ranks=(4,), contiguous=True),
    "block_table": Tensor(("int32",), (2,)),
    "context_lens": Tensor(("int32",), (1,), contiguous=True),
    "out": Tensor(like="query", contiguous=True),
}
_PAGED_ALSO = (
    "query [tokens, heads, size]; caches [blocks, block_size, kv_heads, size], block size a "
    "multiple of 16, size at most 576 (block size at most 128 above 256); entries of block_table "
    "in range"
)
_LAYOUTS = ("BSH", "BSND", "BNSD", "BNSD_BSND", "TND", "NTD_TND")
_LATENT_LAYOUTS = ("BSH_NBSD", "BSND_NBSD", "BNSD_NBSD", "TND_NTD")
_FUSED: dict[str, Constraint] = {
    "inner_precise": OneOf((0, 1, 2, 3)),
    "input_layout": OneOf((*_LAYOUTS, *_LATENT_LAYOUTS), f"one of {_LAYOUTS}"),
    "query": Tensor(HALVES, contiguous=True, relaxed=True),
    "key": Tensor(like="query", contiguous=True),
    "value": Tensor(like="query", contiguous=True),
    "query_rope": Tensor(like="query", contiguous=True),
    "key_rope": Tensor(like="query", contiguous=True),
    "atten_mask": Tensor(("bool", "int8", "uint8"), contiguous=True),
    "sparse_mode": OneOf((0, 1, 2, 3, 4)),
}
_LATENT = (
    "query_rope and key_rope together, of the dtype of query, size 64, otherwise the shapes of "
    "query and key. Heads of 512: key and value one paged latent head, block_size 16 or 128, 1 to "
    "128 query heads (a power of two; 32 or more in packed layouts), 1 to 16 query tokens a "
    "sequence, sparse_mode 0 without a mask for one token and 3 for more, no log-sum-exp; layouts "
    "BSH, BSND, BNSD, TND and these with _NBSD, _NTD. Heads of 128: layouts TND, NTD_TND, value of "
    "128, as many key as query heads, not paged, sparse_mode 0 without a mask or 3 with no more "
    "query than key tokens"
)
_FUSED_ALSO = (
    "head size at most 512, a multiple of 16 for more than one query token, 64, 128 or 192 when "
    "packed; at most 64 query heads per kv head; block_size a multiple of 16 up to 1024 (packed) "
    "or 512 (one query token), of 128 up to 512 otherwise; caches (blocks, block_size, heads * "
    "size), or (blocks, heads, block_size, size) in layouts BNSD and TND; block_table int32 "
    "[batch, blocks], entries in range; packed lengths cumulative, the last equal to the tokens, "
    "those of a paged cache per sequence; atten_mask 2048 x 2048 and 1 above the diagonal in "
    f"sparse modes 2, 3, 4; latent attention: {_LATENT}"
)
_FUSED_OUT = (
    "as npu_fused_infer_attention_score; out two device tensors: the result, of the dtype of "
    "query and its own shape, and the log-sum-exp, float32, of its own shape if softmax_lse_flag"
)
_FUSED_SECOND: dict[str, Constraint] = {**_FUSED, "learnable_sink": Tensor(("bfloat16",))}
_CACHE_WRITE = {
    "key": Tensor((*HALVES, "int8"), (3,), relaxed=True),
    "key_cache": Tensor(like="key", ranks=(4,), contiguous=True),
    "slot_indices": Tensor(("int32",)),
}
_SCATTER = {
    "input": Tensor((*FLOATS, "bool", "int64", "int8"), _RANK),
    "indices": Tensor(INDICES, _RANK[1:]),
    "updates": Tensor(like="input"),
}
_SCATTER_ALSO = "indices in range; updates of shape indices.shape[:-1] + input.shape[depth:]"
_RMS = {"input": Tensor(FLOATS, _RANK), "gamma": Tensor(like="input")}
_RMS_ALSO = "the shape of gamma equal to the last dimensions of input"
_FORMAT = OneOf((-1, 0, 2, 29), "one of (-1, 0, 2, 29)")
_FORMAT_ALSO = "acl_format 0 is NCHW, 2 ND, 29 FRACTAL_NZ, for two dimensions at least"
_GROUPED = {
    "x": Tensor((*FLOATS, "int8"), contiguous=True),
    "weight": Tensor(like="x"),
}
_GROUPED_ALSO = (
    "weight contiguous or the transpose of it; group_type 0 with split_item 2 or 3, one x [rows, "
    "k] and weights [groups, k, n] or groups of [k, n]; or group_type -1 with split_item 0 or 1 "
    "and as many x as weights; bias float32 for bfloat16, else of the dtype of x; group_list int64 "
    "on the device, one entry per group: running sums (group_list_type 0), counts (1), or pairs "
    "(2); int8 with group_type 0, one tensor each and no bias: scale [groups, n] float32 for "
    "results of float16, bfloat16 for bfloat16, per_token_scale [rows] float32, output_dtype"
)
_UNPERMUTE: dict[str, Constraint] = {
    "permuted_tokens": Tensor(FLOATS, (2,)),
    "sorted_indices": Tensor(INDICES, (1,)),
    "probs": Tensor(FLOATS, (2,)),
    "padded_mode": OneOf((False,), simulated=True),
}
_UNPERMUTE_ALSO = (
    "sorted_indices not negative, as many as a multiple of the k of probs; probs [rows, k]"
)

TABLE: dict[str, Takes] = {
    # activations
    "npu::npu_swiglu": Takes("torch_npu.npu_swiglu", {"input": Tensor(FLOATS, _RANK)}, _HALF_SPLIT),
    "npu::npu_clipped_swiglu": Takes(
        "torch_npu.npu_clipped_swiglu",
        {
            "x": Tensor(FLOATS, _RANK, contiguous=True),
            "group_index": Tensor(("int64",), (1,)),
        },
        f"x of more than one dimension, {_HALF_SPLIT}; the sum of group_index at most the rows of "
        "x",
    ),
    "npu::npu_geglu": Takes(
        "torch_npu.npu_geglu",
        {"input": Tensor(FLOATS, _RANK), "approximate": _ZERO_OR_ONE},
        _HALF_SPLIT,
    ),
    "npu::npu_fast_gelu": Takes(
        "torch_npu.npu_fast_gelu, the formula of Atlas A2 and A3", _POINTWISE
    ),
    "npu::fast_gelu": Takes("torch_npu.fast_gelu, the older name of npu_fast_gelu", _POINTWISE),
    "npu::npu_gelu": Takes(
        "torch_npu.npu_gelu", {**_POINTWISE, "approximate": OneOf(("none", "tanh"))}
    ),
    "npu::npu_silu": Takes("torch_npu.npu_silu", _POINTWISE),
    "npu::npu_silu_": Takes("torch_npu.npu_silu_", _POINTWISE),
    # attention
    "atb::_npu_flash_attention": Takes(
        "atb SelfAttentionOperation, PA_ENCODER, MASK_TYPE_NORM",
        {**_ENCODER, "mask": Tensor(like="query", ranks=(2, 3, 4))},
        f"{_ENCODER_ALSO}; mask square, [S, S], [B, S, S] or [B, heads, S, S], S at least the "
        "longest sequence: added as it is in float16, 1 hides in bfloat16",
    ),
    "atb::_npu_flash_attention_unpad": Takes(
        "atb SelfAttentionOperation, PA_ENCODER, MASK_TYPE_UNDEFINED", _ENCODER, _ENCODER_ALSO
    ),
    "atb::_npu_paged_attention": Takes(
        "atb PagedAttentionOperation",
        {**_PAGED, "query": Tensor(HALVES, relaxed=True, contiguous=True)},
        f"{_PAGED_ALSO}; one query token per sequence, rows of query and context_lens agree",
    ),
    "atb::_npu_paged_attention_get_workspace": Takes(
        "atb PagedAttentionOperation", {"context_lens": _PAGED["context_lens"]}
    ),
    "atb::_npu_flash_attention_qlens": Takes(
        "atb SelfAttentionOperation, PREFIX_ENCODER, MASK_TYPE_NORM_COMPRESS",
        {
            **_PAGED,
            "mask": Tensor(like="query"),
            "seq_len": Tensor(("int32",), (1,), contiguous=True),
        },
        f"{_PAGED_ALSO}; seq_len adds up to tokens, each at most its context length; mask [128, "
        "128], 1 above the diagonal and 0 elsewhere",
    ),
    "npu::npu_fused_infer_attention_score": Takes(
        "torch_npu.npu_fused_infer_attention_score", _FUSED, _FUSED_ALSO
    ),
    "npu::npu_fused_infer_attention_score.out": Takes(
        "torch_npu.npu_fused_infer_attention_score.out", _FUSED, _FUSED_OUT
    ),
    "npu::_npu_fused_infer_attention_score_get_max_workspace": Takes(
        "torch_npu._npu_fused_infer_attention_score_get_max_workspace", also="none of its own"
    ),
    "npu::npu_fused_infer_attention_score_v2": Takes(
        "torch_npu.npu_fused_infer_attention_score_v2",
        _FUSED_SECOND,
        "as npu_fused_infer_attention_score; learnable_sink [heads], packed layouts only, without "
        "return_softmax_lse",
    ),
    "npu::npu_fused_infer_attention_score_v2.out": Takes(
        "torch_npu.npu_fused_infer_attention_score_v2.out", _FUSED_SECOND, _FUSED_OUT
    ),
    "npu::_npu_fused_infer_attention_score_v2_get_max_workspace": Takes(
        "torch_npu._npu_fused_infer_attention_score_v2_get_max_workspace", also="none of its own"
    ),
    "npu::npu_fusion_attention": Takes(
        "torch_npu.npu_fusion_attention, the forward direction",
        {
            "query": Tensor(FLOATS),
            "key": Tensor(like="query"),
            "value": Tensor(like="query"),
            "input_layout": OneOf(
                ("BSH", "SBH", "BSND", "BNSD", "TND"),
                "one of ('BSH', 'SBH', 'BSND', 'BNSD', 'TND')",
            ),
            "atten_mask": Tensor(("bool", "uint8")),
            "keep_prob": OneOf((1.0,), "1, because the simulator drops nothing", simulated=True),
            "sparse_mode": OneOf((0, 1, 2, 3, 4)),
        },
        "head size at most 768; atten_mask [B or 1, N or 1, Sq, Skv] or [Sq, Skv] in sparse modes "
        "0 and 1, 2048 x 2048 and 1 above the diagonal in modes 2, 3, 4; packed lengths "
        "cumulative, the last equal to the tokens",
    ),
    # formats
    "npu::npu_format_cast": Takes(
        "torch_npu.npu_format_cast", {"acl_format": _FORMAT}, _FORMAT_ALSO
    ),
    "npu::npu_format_cast.Tensor": Takes("torch_npu.npu_format_cast", also=_FORMAT_ALSO),
    "npu::npu_format_cast_.acl_format": Takes(
        "torch_npu.npu_format_cast_", {"acl_format": _FORMAT}, _FORMAT_ALSO
    ),
    "npu::npu_format_cast_": Takes("torch_npu.npu_format_cast_", also="src of the shape of input"),
    "npu::_npu_format_cast": Takes(
        "what torch_npu itself calls to cast a format", {"acl_format": _FORMAT}, _FORMAT_ALSO
    ),
    # caches
    "atb::_npu_reshape_and_cache": Takes(
        "atb ReshapeAndCacheOperation",
        {
            **_CACHE_WRITE,
            "value": Tensor(like="key"),
            "value_cache": Tensor(like="key", contiguous=True),
        },
        "key and value [tokens, heads, size]; caches [blocks, block_size, heads, size]; "
        "slot_indices [tokens], below blocks * block_size, no duplicates, negative ones skipped",
    ),
    "atb::_npu_reshape_and_cache_siso": Takes(
        "atb ReshapeAndCacheOperation, K_CACHE_V_BYPASS",
        _CACHE_WRITE,
        "as _npu_reshape_and_cache, without value",
    ),
    "npu::npu_scatter_pa_kv_cache": Takes(
        "torch_npu.npu_scatter_pa_kv_cache",
        {
            "cache_mode": OneOf(("Norm", "PA_NZ")),
            "key": Tensor((*FLOATS, "int8", "uint8", "int16", "int32"), (3,), contiguous=True),
            "value": Tensor(like="key", contiguous=True),
            "key_cache": Tensor(like="key", ranks=(4,), contiguous=True),
            "value_cache": Tensor(like="key", contiguous=True),
            "slot_mapping": Tensor(INDICES, contiguous=True),
        },
        "key and value [tokens, heads, size]; caches [blocks, heads * size // 16, block_size, 16] "
        "(last dimension 32 bytes) with cache_mode 'PA_NZ', the default and the only one of "
        "torch_npu 2.8; [blocks, block_size, heads, size] with 'Norm' or None; slot_mapping "
        "[tokens] in [0, blocks * block_size), no duplicates",
    ),
    "npu::npu_scatter_nd_update_": Takes(
        "torch_npu.npu_scatter_nd_update_", _SCATTER, _SCATTER_ALSO
    ),
    "npu::npu_scatter_nd_update": Takes("torch_npu.npu_scatter_nd_update", _SCATTER, _SCATTER_ALSO),
    # matrix products and casts
    "npu::npu_linear": Takes(
        "torch_npu.npu_linear",
        {"input": Tensor(FLOATS, (2,)), "weight": Tensor(like="input")},
        "input [rows, k], weight [n, k], bias [n], of the dtype of input or float32",
    ),
    "atb::_npu_matmul_add_fp32": Takes(
        "atb LinearOperation, transposed and accumulating",
        {
            "x": Tensor(HALVES, (2,)),
            "weight": Tensor(like="x", ranks=(2,)),
            "C": Tensor(("float32",), (2,), contiguous=True),
        },
        "x [k, rows], weight [k, columns], C [rows, columns]",
    ),
    "npu::npu_dtype_cast": Takes(
        "torch_npu.npu_dtype_cast", also="a dtype of torch, or its number, without float64"
    ),
    "npu::_npu_dtype_cast": Takes("torch_npu._npu_dtype_cast", also="as npu_dtype_cast"),
    "npu::one_": Takes("torch_npu.one_"),
    # mixture of experts
    "npu::npu_moe_gating_top_k_softmax": Takes(
        "torch_npu.npu_moe_gating_top_k_softmax",
        {"x": Tensor(FLOATS, (2, 3)), "finished": Tensor(("bool",))},
        "finished of the shape of x without its last dimension; k at most 1024 and the number of "
        "experts",
    ),
    "npu::npu_moe_gating_top_k_softmax_v2": Takes(
        "torch_npu.npu_moe_gating_top_k_softmax_v2",
        {
            "x": Tensor(FLOATS, (2, 3)),
            "finished": Tensor(("bool",)),
            "renorm": _ZERO_OR_ONE,
        },
        "as npu_moe_gating_top_k_softmax; x 2-D with output_softmax",
    ),
    "npu::npu_moe_gating_top_k": Takes(
        "torch_npu.npu_moe_gating_top_k",
        {
            "x": Tensor(FLOATS, (2,)),
            "bias": Tensor(like="x"),
            "group_select_mode": _ZERO_OR_ONE,
            "renorm": OneOf((0,)),
            "norm_type": _ZERO_OR_ONE,
        },
        "at most 2048 experts; bias one per expert; group_count divides the experts into groups "
        "of more than 2 (where there is more than one group); 1 <= k_group <= group_count; k at "
        "most the experts of k_group groups",
    ),
    "npu::npu_moe_init_routing": Takes(
        "torch_npu.npu_moe_init_routing",
        {
            "x": Tensor(FLOATS, (2,)),
            "row_idx": Tensor(("int32",)),
            "expert_idx": Tensor(("int32",)),
        },
        "x [rows, size]; row_idx and expert_idx [rows, k]; row_idx holds each of 0 to rows * k - 1 "
        "once",
    ),
    "npu::npu_moe_init_routing_v2": Takes(
        "torch_npu.npu_moe_init_routing_v2",
        {
            "x": Tensor((*FLOATS, "int8"), (2,)),
            "expert_idx": Tensor(("int32",)),
            "scale": Tensor(("float32",)),
            "quant_mode": OneOf((-1,), "-1 (no quantisation)", simulated=True),
            "drop_pad_mode": OneOf((0,), simulated=True),
            "expert_tokens_num_flag": OneOf((True,), simulated=True),
            "expert_tokens_num_type": OneOf((0, 1, 2)),
            "row_idx_type": _ZERO_OR_ONE,
        },
        "x [rows, size]; expert_idx [rows, k], below expert_num; quant_mode -1 is not the default "
        "of torch_npu 2.8; active_expert_range [start, end] within expert_num, which torch_npu "
        "2.8 asks for; scale [rows]",
    ),
    "npu::npu_moe_compute_expert_tokens": Takes(
        "torch_npu.npu_moe_compute_expert_tokens",
        {
            "sorted_expert_for_source_row": Tensor(("int32",), (1,)),
            "num_expert": Between(1, 2048),
        },
        "sorted_expert_for_source_row sorted, in [0, num_expert)",
    ),
    "npu::npu_moe_finalize_routing": Takes(
        "torch_npu.npu_moe_finalize_routing",
        {
            "drop_pad_mode": OneOf(
                (0, 2),
                "0 or 2, because the simulator has no reference for dropping and padding",
                simulated=True,
            ),
            "expanded_permuted_rows": Tensor(FLOATS, (2,)),
            "skip1": Tensor(like="expanded_permuted_rows"),
            "skip2": Tensor(like="expanded_permuted_rows"),
            "bias": Tensor(like="expanded_permuted_rows"),
            "scales": Tensor(like="expanded_permuted_rows", ranks=(2,)),
            "expanded_src_to_dst_row": Tensor(("int32",), (1,)),
            "export_for_source_row": Tensor(("int32",)),
        },
        "expanded_permuted_rows [rows * k, size]; skip1, skip2 [rows, size] (skip2 only with "
        "skip1), bias [experts, size], scales [rows, k]; expanded_src_to_dst_row [rows * k] in "
        "range; export_for_source_row [rows, k], needed with bias",
    ),
    "npu::npu_moe_token_permute": Takes(
        "torch_npu.npu_moe_token_permute",
        {
            "tokens": Tensor(FLOATS, (2,)),
            "indices": Tensor(INDICES, (1, 2)),
            "padded_mode": OneOf((False,), simulated=True),
        },
        "tokens [rows, size]; indices [rows] or [rows, k], k at most 512",
    ),
    "npu::npu_moe_token_unpermute": Takes(
        "torch_npu.npu_moe_token_unpermute", _UNPERMUTE, _UNPERMUTE_ALSO
    ),
    "npu::_npu_moe_token_unpermute": Takes(
        "what torch_npu.npu_moe_token_unpermute calls from torch_npu 2.13 on",
        _UNPERMUTE,
        _UNPERMUTE_ALSO,
    ),
    "npu::npu_grouped_matmul": Takes("torch_npu.npu_grouped_matmul", _GROUPED, _GROUPED_ALSO),
    "npu::npu_grouped_matmul.List": Takes(
        "torch_npu.npu_grouped_matmul",
        _GROUPED,
        f"{_GROUPED_ALSO}; here group_list is a list of running sums",
    ),
    # norms
    "npu::npu_rms_norm": Takes("torch_npu.npu_rms_norm", _RMS, _RMS_ALSO),
    "npu::npu_add_rms_norm": Takes(
        "torch_npu.npu_add_rms_norm",
        {
            "x1": Tensor(FLOATS, _RANK),
            "x2": Tensor(like="x1"),
            "gamma": Tensor(like="x1"),
        },
        "x1 and x2 of one shape; gamma as for npu_rms_norm",
    ),
    "npu::npu_gemma_rms_norm": Takes(
        "torch_npu.npu_gemma_rms_norm",
        {
            "input": Tensor(FLOATS, _RANK, contiguous=True),
            "gamma": Tensor(like="input", contiguous=True),
        },
        f"{_RMS_ALSO}; not empty (CANN's page of aclnnGemmaRmsNorm lists strided and empty tensors "
        "as supported, torch_npu's own page does not: the stricter holds)",
    ),
    # rotary embeddings
    "atb::_npu_rotary_embedding": Takes(
        "atb RopeOperation",
        {
            "positions": Tensor(INDICES),
            "cos_sin_cache": Tensor(ranks=(2,)),
            "query": Tensor(HALVES, contiguous=True, relaxed=True),
            "key": Tensor(like="query", contiguous=True),
        },
        "query and key [tokens, heads * rotary_dim], the heads of query a multiple of those of "
        "key; cos_sin_cache of the dtype of query, or float32 with float16; positions in range; "
        "interleaved style only where head_size is rotary_dim; one cos_sin_cache in a process",
    ),
    "npu::npu_rotary_mul": Takes(
        "torch_npu.npu_rotary_mul",
        {
            "input": Tensor(FLOATS, (4,)),
            "r1": Tensor(like="input", ranks=(4,)),
            "r2": Tensor(like="input", ranks=(4,)),
            "rotary_mode": _ROTARY_MODE,
            "rotate": Tensor(FLOATS),
        },
        "the last dimension of input even and below 896; r1, r2 broadcasting over input, last "
        "dimension equal; in mode interleave r1 and r2 have one size other than 1 before the last; "
        "rotate square",
    ),
    "npu::npu_interleave_rope": Takes(
        "torch_npu.npu_interleave_rope",
        {
            "x": Tensor(HALVES, relaxed=True),
            "cos": Tensor(like="x"),
            "sin": Tensor(like="x"),
        },
        "x [B, N, S, 64]; cos and sin [B, 1, S or 1, 64]",
    ),
    "npu::npu_mrope": Takes(
        "torch_npu.npu_mrope",
        {
            "positions": Tensor(INDICES),
            "cos_sin_cache": Tensor(ranks=(2,), like="query"),
            "query": Tensor(FLOATS),
            "key": Tensor(like="query"),
            "rotary_mode": _ROTARY_MODE,
            "cache_mode": OneOf(("default", "interleave")),
        },
        "positions [tokens], or [3, tokens] with mrope_section; query and key [tokens, heads * "
        "head_size]; rotary_dim a multiple of 32 (of 16 for float32), at most head_size; the "
        "sections add up to rotary_dim / 2",
    ),
    "npu::npu_apply_rotary_pos_emb": Takes(
        "torch_npu.npu_apply_rotary_pos_emb, Atlas A2 and A3",
        {
            "layout": OneOf(("BSND", "BSH", "TND")),
            "rotary_mode": OneOf(("half",)),
            "query": Tensor(FLOATS),
            "key": Tensor(like="query"),
            "cos": Tensor(like="query"),
            "sin": Tensor(like="query"),
        },
        "query and key [B, S, N, D] (layout BSND, or BSH as older wheels call it) or [T, N, D] "
        "(TND), D 64 or 128, cos and sin with N = 1; not empty",
    ),
    # sampling
    "npu::npu_top_k_top_p": Takes(
        "torch_npu.npu_top_k_top_p",
        {
            "logits": Tensor(FLOATS, (2,)),
            "p": Tensor(like="logits"),
            "k": Tensor(("int32",)),
        },
        "p [rows] in [0, 1]; k [rows], 1 to 1024 and at most the columns; p or k given",
    ),
    "npu::npu_sort_v2": Takes("torch_npu.npu_sort_v2", {"input": Tensor(FLOATS)}),
}
