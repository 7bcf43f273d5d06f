# SPDX-License-Identifier: Apache-2.0
"""npu_fused_infer_attention_score in both versions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from .. import _checks as check
from .._registry import operator
from ._request import Request, fused_infer
from ._workspace import FUSED, workspace

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
    refused=_FIA_REFUSED,
)
def npu_fused_infer_attention_score(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, **arguments: Any
) -> tuple[torch.Tensor, torch.Tensor]:
    """softmax(scale * query key^T, masked) value, for prefill and decode.

    Sparse modes: 0 the mask as given (True hides), between the diagonals of pre_tokens and
    next_tokens counted from the top left; 1 the mask as given; 2 causal from the top left; 3
    causal from the bottom right; 4 a band from the bottom right: query i of q sees keys
    i + kv - q - pre_tokens to i + kv - q + next_tokens, both included, so a sliding window of W
    tokens is pre_tokens W - 1. With one query token in a batched layout, modes and bands have
    no effect.

    With ``query_rope`` and ``key_rope`` the logits are scale * (query key^T + query_rope
    key_rope^T): multi-head latent attention.

    Returns the result, laid out as the query (what a layout names second is the result's: BSND
    for BNSD_BSND, heads first for NBSD and NTD), and with softmax_lse_flag the log of the sum of
    exponentials, float32 (T, N, 1) or (B, N, S, 1), else an empty tensor. Rows past a sequence's
    length and rows that see no key: 0 and +inf.
    """
    return fused_infer(Request(query, key, value, **arguments))


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
    meta="the size of a workspace is the device's own",
    on_device=True,
)
def _npu_fused_infer_attention_score_get_max_workspace(
    query: torch.Tensor,
    key: torch.Tensor,  # noqa: ARG001
    value: torch.Tensor,  # noqa: ARG001
) -> torch.Tensor:
    """A workspace for npu_fused_infer_attention_score.out, uint8, that nothing here writes."""
    return workspace(query, FUSED)


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
}


@operator(
    "npu::npu_fused_infer_attention_score_v2",
    {
        "2.8.0": f"npu_fused_infer_attention_score_v2({_v2_arguments(False)}) -> (Tensor, Tensor)",
        "2.9.0": f"npu_fused_infer_attention_score_v2({_v2_arguments(True)}) -> (Tensor, Tensor)",
    },
    refused=_V2_REFUSED,
)
def npu_fused_infer_attention_score_v2(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, **arguments: Any
) -> tuple[torch.Tensor, torch.Tensor]:
    """As :func:`npu_fused_infer_attention_score` under other names, and with ``learnable_sink``.

    The sink is one more logit for each head, which takes weight and adds no value.
    """
    return fused_infer(Request.second(query, key, value, **arguments))


_WORKSPACE = ", Tensor? workspace=None, Tensor[] out"


@operator(
    "npu::npu_fused_infer_attention_score_v2.out",
    {
        "2.8.0": f"npu_fused_infer_attention_score_v2.out({_v2_arguments(False, _WORKSPACE)})"
        " -> (Tensor, Tensor)",
        "2.9.0": f"npu_fused_infer_attention_score_v2.out({_v2_arguments(True, _WORKSPACE)})"
        " -> (Tensor, Tensor)",
    },
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
    meta="the size of a workspace is the device's own",
    on_device=True,
)
def _npu_fused_infer_attention_score_v2_get_max_workspace(
    query: torch.Tensor,
    key: torch.Tensor,  # noqa: ARG001
    value: torch.Tensor,  # noqa: ARG001
) -> torch.Tensor:
    """A workspace for npu_fused_infer_attention_score_v2.out, uint8, that nothing here writes."""
    return workspace(query, FUSED)
