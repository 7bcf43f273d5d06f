# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright contributors to the vLLM project
"""Attention on Ascend NPUs.

Two sets of operators, chosen once per process by `VLLM_NPU_USE_NNAL`:

* NNAL (Ascend Transformer Boost, `torch_npu._npu_*`): one operator writes the
  cache, one does prefill and one does decode. Chunked prefill, prefix-cache
  hits and mixed batches go to `npu_fused_infer_attention_score`, or to NNAL
  again where that operator does not take the head size.
* without NNAL: `npu_scatter_pa_kv_cache` writes the cache, and
  `npu_fused_infer_attention_score` computes every state from it.

A sliding window always goes to `npu_fused_infer_attention_score`.

Keys and values live in separate buffers `[blocks, 128, kv_heads, head_size]`.
Sequence lengths are host values for all of these operators.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from functools import cache
from typing import Any, ClassVar

import torch
import torch_npu

import vllm.envs as envs
from vllm.compilation.npu_graph import NPUGraph
from vllm.config import VllmConfig
from vllm.utils.torch_utils import weak_ref_tensor
from vllm.v1.attention.backend import (
    AttentionBackend,
    AttentionImpl,
    AttentionMetadataBuilder,
    AttentionType,
    CommonAttentionMetadata,
)

# npu-migrate: when builders_declare_graph_support
from vllm.v1.attention.backend import AttentionCGSupport

# npu-migrate: end
# npu-migrate: when has_kv_cache_layouts
from vllm.v1.kv_cache_interface import KVCacheLayout

# npu-migrate: end

# The fused attention operator takes a causal mask of this fixed size and
# applies it to sequences of any length (sparse_mode 3 and 4). The prefill
# operator of NNAL takes one as wide as the longest sequence: longer prompts
# than this go to the fused operator instead of a mask that grows with them.
MASK_SIZE = 2048
CAUSAL = 3
BAND = 4

# Head sizes that it takes with sequences packed one after the other (TND), and
# the largest one that the prefill operators of NNAL take.
FUSED_HEAD_SIZES = (64, 128, 192)
MAX_NNAL_HEAD_SIZE = 256

# Side of the mask that NNAL's operator for a cached prefix takes.
PREFIX_MASK_SIZE = 128

# What `block_size` means to the operators: tokens of a cache block.
KERNEL_BLOCK_SIZE = 128


@cache
def _scatter_takes_cache_mode() -> bool:
    # torch_npu 2.8 has no such argument, and no layout but the fractal one.
    schema = torch.ops.npu.npu_scatter_pa_kv_cache.default._schema
    return any(argument.name == "cache_mode" for argument in schema.arguments)


@cache
def uses_nnal() -> bool:
    """Whether the NNAL operators do attention: by default if they are installed."""
    if envs.VLLM_NPU_USE_NNAL is not None:
        return envs.VLLM_NPU_USE_NNAL
    return hasattr(torch.ops.atb, "_npu_reshape_and_cache")


class AscendAttentionBackend(AttentionBackend):
    accept_output_buffer: bool = True
    forward_includes_kv_cache_update: bool = True
    supported_dtypes: ClassVar[list[torch.dtype]] = [
        torch.float16,
        torch.bfloat16,
        torch.float32,
    ]
    supported_kernel_block_sizes: ClassVar[list[int]] = [KERNEL_BLOCK_SIZE]

    @staticmethod
    def get_name() -> str:
        # vLLM looks this name up among its backends: CUSTOM is the entry for
        # the ones that a platform brings.
        return "CUSTOM"

    @staticmethod
    def get_impl_cls() -> type["AscendAttentionImpl"]:
        return AscendAttentionImpl

    @staticmethod
    def get_metadata_cls() -> type["AscendMetadata"]:
        return AscendMetadata

    @staticmethod
    def get_builder_cls() -> type["AscendMetadataBuilder"]:
        return AscendMetadataBuilder

    @classmethod
    def get_supported_dtypes(cls) -> list[torch.dtype]:
        return cls.supported_dtypes

    @classmethod
    def validate_head_size(cls, head_size: int) -> None:
        _check_head_size(head_size, None)

    @classmethod
    def supports_sliding_window(cls) -> bool:
        return True

    @staticmethod
    def get_supported_kernel_block_sizes(kv_cache_spec=None) -> list[int]:
        return [KERNEL_BLOCK_SIZE]

    # npu-migrate: when has_kv_cache_layouts
    @classmethod
    def supported_kv_cache_layouts(cls) -> tuple[KVCacheLayout, ...]:
        # All of a layer's blocks together, which NPUModelRunner splits into a
        # key and a value buffer.
        return (KVCacheLayout.LBNHC,)

    # npu-migrate: otherwise
    @staticmethod
    def get_kv_cache_shape(
        num_blocks: int,
        block_size: int,
        num_kv_heads: int,
        head_size: int,
        cache_dtype_str: str = "auto",
    ) -> tuple[int, ...]:
        # What the two buffers of NPUModelRunner would be as one tensor.
        return (2, num_blocks, block_size, num_kv_heads, head_size)

    # npu-migrate: end


class AscendAttentionState(Enum):
    PREFILL_NO_CACHE = 0
    """Every request starts here: its keys and values are those of the batch."""
    DECODE = 1
    """One token per request."""
    MIXED = 2
    """Anything else: chunked prefill, prefix-cache hits, mixed batches."""


@dataclass
class AscendMetadata:
    num_actual_tokens: int
    """Tokens of the batch without graph padding."""
    state: AscendAttentionState
    seq_lens: torch.Tensor
    """[num_reqs] int32, on the host: context lengths with the new tokens."""
    query_lens: torch.Tensor
    """[num_reqs] int32, on the host: new tokens."""
    seq_lens_list: list[int]
    max_seq_len: int
    cum_query_lens: list[int]
    """End of each request's tokens in the batch; the last is num_actual_tokens."""
    block_table: torch.Tensor
    """[num_reqs, max_blocks] int32, on the device."""
    slot_mapping: torch.Tensor
    """[num_actual_tokens] integers, on the device: block * block_size + offset."""
    attn_mask: torch.Tensor
    """[2048, 2048] int8, on the device: 1 above the diagonal."""


@cache
def _causal_mask(device: torch.device, dtype: torch.dtype) -> torch.Tensor:
    """[2048, 2048] with something above the diagonal and 0 elsewhere.

    NNAL adds a float16 mask to the scores as it is. A bfloat16 mask it takes
    times -10000, and integers are flags: there 1 hides a key.
    """
    hidden = float("-inf") if dtype is torch.float16 else 1
    mask = torch.full((MASK_SIZE, MASK_SIZE), hidden, dtype=dtype)
    return torch.triu(mask, diagonal=1).to(device)


@cache
def _prefix_mask(device: torch.device, dtype: torch.dtype) -> torch.Tensor:
    """[128, 128] with 1 above the diagonal: a pattern, whatever the dtype."""
    mask = torch.ones(PREFIX_MASK_SIZE, PREFIX_MASK_SIZE, dtype=dtype)
    return torch.triu(mask, diagonal=1).to(device)


class AscendMetadataBuilder(AttentionMetadataBuilder[AscendMetadata]):
    # npu-migrate: when builders_declare_graph_support
    # Decode steps of one token a request can be captured as a whole.
    _cudagraph_support: ClassVar[AttentionCGSupport] = (
        AttentionCGSupport.UNIFORM_SINGLE_TOKEN_DECODE
    )
    cudagraph_support: ClassVar[AttentionCGSupport] = _cudagraph_support

    @classmethod
    def get_cudagraph_support(cls, vllm_config, kv_cache_spec) -> AttentionCGSupport:
        if getattr(kv_cache_spec, "head_size", None) not in FUSED_HEAD_SIZES:
            # Only the fused operator can be given new lengths in a graph.
            return AttentionCGSupport.NEVER
        return cls._cudagraph_support

    def __init__(
        self,
        kv_cache_spec,
        layer_names: list[str],
        vllm_config: VllmConfig,
        device: torch.device,
    ):
        super().__init__(kv_cache_spec, layer_names, vllm_config, device)
        self.attn_mask = _causal_mask(device, torch.int8)

    # npu-migrate: end
    # npu-migrate: when builders_take_the_config_only
    def __init__(self, kv_cache_spec, vllm_config: VllmConfig, device: torch.device):
        super().__init__(kv_cache_spec, vllm_config, device)
        self.attn_mask = _causal_mask(device, torch.int8)

    # npu-migrate: end
    # npu-migrate: when builders_take_the_runner
    def __init__(self, runner, kv_cache_spec, block_table):
        # The runner holds what later releases hand over with each batch.
        self.runner = runner
        self.block_table = block_table
        self.attn_mask = _causal_mask(runner.device, torch.int8)

    # npu-migrate: end

    def reorder_batch(self, input_batch, scheduler_output) -> bool:
        return False

    def build(
        self,
        common_prefix_len: int,
        common_attn_metadata: CommonAttentionMetadata,
        fast_build: bool = False,
    ) -> AscendMetadata:
        common = common_attn_metadata
        # npu-migrate: when builders_take_the_runner
        query_start_loc = self.runner.query_start_loc_cpu
        block_table = self.block_table.get_device_tensor()
        slot_mapping = self.block_table.slot_mapping
        slot_mapping[: common.num_actual_tokens].copy_(
            self.block_table.slot_mapping_cpu[: common.num_actual_tokens],
            non_blocking=True,
        )
        # npu-migrate: otherwise
        query_start_loc = common.query_start_loc_cpu
        block_table = common.block_table_tensor
        slot_mapping = common.slot_mapping
        # npu-migrate: end
        ends = query_start_loc[1 : common.num_reqs + 1]
        starts = query_start_loc[: common.num_reqs]
        query_lens = ends - starts
        # Graph padding adds requests without tokens at the end of the batch.
        num_reqs = int(torch.count_nonzero(query_lens))
        query_lens = query_lens[:num_reqs].to(torch.int32)
        seq_lens = self._host_seq_lens(common)[:num_reqs].to(torch.int32)
        num_tokens = int(ends[num_reqs - 1]) if num_reqs else 0

        if common.max_query_len == 1:
            state = AscendAttentionState.DECODE
        elif torch.equal(query_lens, seq_lens):
            state = AscendAttentionState.PREFILL_NO_CACHE
        else:
            state = AscendAttentionState.MIXED
        return AscendMetadata(
            num_actual_tokens=num_tokens,
            state=state,
            seq_lens=seq_lens,
            query_lens=query_lens,
            seq_lens_list=seq_lens.tolist(),
            max_seq_len=int(seq_lens.max()) if num_reqs else 0,
            cum_query_lens=ends[:num_reqs].tolist(),
            block_table=block_table[:num_reqs],
            slot_mapping=slot_mapping[:num_tokens],
            attn_mask=self.attn_mask,
        )

    def _host_seq_lens(self, common: CommonAttentionMetadata) -> torch.Tensor:
        # npu-migrate: when common_metadata_has_exact_host_lengths
        return common.seq_lens_cpu
        # npu-migrate: end
        # npu-migrate: when builders_take_the_runner
        return self.runner.seq_lens_cpu
        # npu-migrate: end
        # npu-migrate: when common_metadata_only_bounds_host_lengths
        if (
            self.vllm_config.speculative_config is not None
            or common.seq_lens_cpu_upper_bound is None
        ):
            # The host only knows an upper bound while drafts are in flight.
            return common.seq_lens.cpu()
        return common.seq_lens_cpu_upper_bound
        # npu-migrate: end


def _check_head_size(head_size: int, sliding_window: int | None) -> None:
    if head_size in FUSED_HEAD_SIZES:
        return
    if sliding_window is not None or not uses_nnal():
        what = "without NNAL" if sliding_window is None else "with a sliding window"
        raise NotImplementedError(
            f"NPU attention {what} needs a head size of "
            f"{', '.join(map(str, FUSED_HEAD_SIZES))}, not {head_size}."
        )
    if head_size % 16 or head_size > MAX_NNAL_HEAD_SIZE:
        raise NotImplementedError(
            "NPU attention needs a head size that is a multiple of 16 and at most "
            f"{MAX_NNAL_HEAD_SIZE}, not {head_size}."
        )


class AscendAttentionImpl(AttentionImpl):
    def __init__(
        self,
        num_heads: int,
        head_size: int,
        scale: float,
        num_kv_heads: int | None = None,
        alibi_slopes: list[float] | None = None,
        sliding_window: int | None = None,
        kv_cache_dtype: str = "auto",
        # npu-migrate: when attention_takes_blocksparse_params
        blocksparse_params: dict[str, Any] | None = None,
        # npu-migrate: end
        logits_soft_cap: float | None = None,
        attn_type: str = AttentionType.DECODER,
        kv_sharing_target_layer_name: str | None = None,
        **extra_impl_args,
    ):
        # A string in some releases, an enumeration with these values in others.
        kind = getattr(attn_type, "value", attn_type)
        unsupported = [
            name
            for name, used in {
                "ALiBi": alibi_slopes is not None,
                # npu-migrate: when attention_takes_blocksparse_params
                "block-sparse attention": blocksparse_params is not None,
                # npu-migrate: end
                "a logits soft cap": bool(logits_soft_cap),
                f"attention of type {kind}": attn_type != AttentionType.DECODER,
                f"a KV cache of {kv_cache_dtype}": kv_cache_dtype
                not in ("auto", "float16", "bfloat16"),
                "attention sinks": extra_impl_args.get("sinks") is not None,
            }.items()
            if used
        ]
        if unsupported:
            raise NotImplementedError(
                f"NPU attention does not support {', '.join(unsupported)}."
            )
        _check_head_size(head_size, sliding_window)
        self.num_heads = num_heads
        self.head_size = head_size
        self.scale = float(scale)
        self.num_kv_heads = num_kv_heads or num_heads
        self.sliding_window = sliding_window
        self.kv_cache_dtype = kv_cache_dtype
        self.kv_sharing_target_layer_name = kv_sharing_target_layer_name
        self.nnal = uses_nnal()
        self.takes_fused = head_size in FUSED_HEAD_SIZES

    def forward(
        self,
        layer: torch.nn.Module,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        kv_cache: tuple[torch.Tensor, torch.Tensor],
        attn_metadata: AscendMetadata,
        output: torch.Tensor | None = None,
        output_scale: torch.Tensor | None = None,
        output_block_scale: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Write the batch's keys and values to the cache, then attend.

        Args:
            query: [num_tokens, num_heads, head_size]
            key: [num_tokens, num_kv_heads, head_size]; None if the layer reads
                the cache of another one.
            value: as `key`.
            kv_cache: key and value buffer, each
                [num_blocks, 128, num_kv_heads, head_size].
            output: [num_tokens, num_heads, head_size], written in place.
        """
        assert output is not None, "the caller provides the output buffer"
        if output_scale is not None or output_block_scale is not None:
            raise NotImplementedError("NPU attention does not quantize its output.")
        if attn_metadata is None:
            # A profiling run has no batch.
            return output.fill_(0)
        num_tokens = attn_metadata.num_actual_tokens
        if num_tokens == 0:
            return output.fill_(0)
        query, out = query[:num_tokens].contiguous(), output[:num_tokens]
        key_cache, value_cache = kv_cache
        if key is not None:
            key = key[:num_tokens].contiguous()
            value = value[:num_tokens].contiguous()
            if self.kv_sharing_target_layer_name is None:
                self._write_cache(key, value, key_cache, value_cache, attn_metadata)

        state = attn_metadata.state
        graph = NPUGraph.recording
        if graph is not None:
            self._capture(
                graph, layer, query, key_cache, value_cache, attn_metadata, out
            )
        elif not self.nnal or self.sliding_window is not None:
            self._fused_infer(query, key_cache, value_cache, attn_metadata, out)
        elif state is AscendAttentionState.DECODE:
            torch_npu._npu_paged_attention(
                query=query,
                key_cache=key_cache,
                value_cache=value_cache,
                num_kv_heads=self.num_kv_heads,
                num_heads=self.num_heads,
                scale_value=self.scale,
                block_table=attn_metadata.block_table,
                context_lens=attn_metadata.seq_lens,
                out=out,
            )
        elif (
            state is AscendAttentionState.PREFILL_NO_CACHE
            and key is not None
            and attn_metadata.max_seq_len <= MASK_SIZE
        ):
            torch_npu._npu_flash_attention(
                query=query,
                key=key,
                value=value,
                mask=_causal_mask(query.device, query.dtype),
                seq_len=attn_metadata.seq_lens,
                scale_value=self.scale,
                num_heads=self.num_heads,
                num_kv_heads=self.num_kv_heads,
                out=out,
            )
        elif self.takes_fused:
            self._fused_infer(query, key_cache, value_cache, attn_metadata, out)
        else:
            # Decodes in the batch are prefills of one token here.
            torch_npu._npu_flash_attention_qlens(
                query=query,
                key_cache=key_cache,
                value_cache=value_cache,
                block_table=attn_metadata.block_table,
                mask=_prefix_mask(query.device, query.dtype),
                seq_len=attn_metadata.query_lens,
                context_lens=attn_metadata.seq_lens,
                num_kv_heads=self.num_kv_heads,
                num_heads=self.num_heads,
                scale_value=self.scale,
                out=out,
            )
        return output

    def _write_cache(
        self,
        key: torch.Tensor,
        value: torch.Tensor,
        key_cache: torch.Tensor,
        value_cache: torch.Tensor,
        attn_metadata: AscendMetadata,
    ) -> None:
        # Here, not in the metadata: a captured graph repeats the conversion.
        slots = attn_metadata.slot_mapping.to(torch.int32)
        if self.nnal:
            torch_npu._npu_reshape_and_cache(
                key=key,
                value=value,
                key_cache=key_cache,
                value_cache=value_cache,
                slot_indices=slots,
            )
            return
        # These operators skip no slot. What NNAL skips, graph padding, goes to the
        # null block, which nobody reads, each token to a slot of its own.
        own = torch.arange(slots.shape[0], dtype=torch.int32, device=slots.device)
        slots = torch.where(slots < 0, own % key_cache.shape[1], slots)
        if _scatter_takes_cache_mode():
            # The default cache mode is a fractal layout, not these buffers'.
            torch_npu.npu_scatter_pa_kv_cache(
                key, value, key_cache, value_cache, slots, cache_mode="Norm"
            )
        else:
            for cache, tokens in ((key_cache, key), (value_cache, value)):
                torch_npu.npu_scatter_nd_update_(
                    cache.flatten(0, 1), slots.unsqueeze(1), tokens
                )

    def _capture(
        self,
        graph: NPUGraph,
        layer: torch.nn.Module,
        query: torch.Tensor,
        key_cache: torch.Tensor,
        value_cache: torch.Tensor,
        attn_metadata: AscendMetadata,
        out: torch.Tensor,
    ) -> None:
        """Capture a decode step with lengths that can change between replays."""
        # Nothing may be allocated while lengths are changed, and a strong
        # reference would keep the graph's memory from being used again.
        arguments = self._fused_arguments(key_cache, value_cache, attn_metadata)
        seq_lens = arguments.pop("actual_seq_lengths_kv")
        workspace = torch_npu._npu_fused_infer_attention_score_get_max_workspace(
            query=query, actual_seq_lengths_kv=seq_lens, **arguments
        )
        softmax_lse = torch.empty(1, dtype=query.dtype, device=query.device)
        query, out = weak_ref_tensor(query), weak_ref_tensor(out)

        def launch(lengths: list[int]) -> None:
            torch_npu.npu_fused_infer_attention_score.out(
                query=query,
                actual_seq_lengths_kv=lengths,
                workspace=workspace,
                out=[out, softmax_lse],
                **arguments,
            )

        graph.add_attention(layer.layer_name, seq_lens, launch)

    def _fused_infer(
        self,
        query: torch.Tensor,
        key_cache: torch.Tensor,
        value_cache: torch.Tensor,
        attn_metadata: AscendMetadata,
        out: torch.Tensor,
    ) -> None:
        result, _ = torch_npu.npu_fused_infer_attention_score(
            query=query, **self._fused_arguments(key_cache, value_cache, attn_metadata)
        )
        out.copy_(result)

    def _fused_arguments(
        self,
        key_cache: torch.Tensor,
        value_cache: torch.Tensor,
        attn_metadata: AscendMetadata,
    ) -> dict[str, Any]:
        """All arguments of `npu_fused_infer_attention_score` but the query."""
        num_blocks, block_size = key_cache.shape[:2]
        window = self.sliding_window
        mask: dict[str, Any] = {"sparse_mode": CAUSAL}
        if window is not None:
            # A token sees itself and window - 1 tokens before it.
            mask = {"sparse_mode": BAND, "pre_tokens": window - 1, "next_tokens": 0}
        return {
            "key": key_cache.view(num_blocks, block_size, -1),
            "value": value_cache.view(num_blocks, block_size, -1),
            "atten_mask": attn_metadata.attn_mask,
            "block_table": attn_metadata.block_table,
            "input_layout": "TND",
            "block_size": block_size,
            "actual_seq_lengths": attn_metadata.cum_query_lens,
            "actual_seq_lengths_kv": attn_metadata.seq_lens_list,
            "num_key_value_heads": self.num_kv_heads,
            "num_heads": self.num_heads,
            "scale": self.scale,
            **mask,
        }
