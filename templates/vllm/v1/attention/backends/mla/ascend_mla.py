# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright contributors to the vLLM project
"""Multi-head latent attention on Ascend NPUs.

A token's cache is one latent and one rotated part of a key, in separate buffers
`[blocks, 128, 1, 512]` and `[blocks, 128, 1, 64]`. All of it is attended to by
`npu_fused_infer_attention_score`, which takes the rotated parts of queries and
keys apart from the others:

* A request with one new token attends to the cache as it is, as if all heads
  shared one key: W_UK is part of its query, W_UV follows.
* New tokens of other requests attend to each other with keys and values of each
  head, and to what is cached of their requests in pieces: these are gathered,
  projected up, and what comes of each is merged by its log-sum-exp.

Sequence lengths are host values, as in `ascend_attn`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, NamedTuple

import torch
import torch_npu

from vllm.compilation.npu_graph import NPUGraph
from vllm.config import VllmConfig
from vllm.forward_context import get_forward_context
from vllm.model_executor.layers.linear import UnquantizedLinearMethod
from vllm.platforms.npu_config import LATENT_SIZES, MAX_LATENT_HEADS
from vllm.utils.torch_utils import weak_ref_tensor
from vllm.v1.attention.backend import AttentionType, MLAAttentionImpl
from vllm.v1.attention.backends.ascend_attn import (
    CAUSAL,
    KERNEL_BLOCK_SIZE,
    UNMASKED,
    AscendAttentionBackend,
    AscendMetadata,
    AscendMetadataBuilder,
    fused_refusal,
    model_refusals,
    no_softmax_lse,
    write_cache,
)

# npu-migrate: when mla_can_be_added
from vllm.model_executor.layers.attention.mla_attention import (
    MLACommonMetadataBuilder,
)

# npu-migrate: end
# npu-migrate: when mla_layers_part_the_batch
# npu-migrate: otherwise
from vllm.config import get_current_vllm_config

# npu-migrate: end
# npu-migrate: when graphs_hold_single_token_decodes
from vllm.v1.attention.backend import AttentionCGSupport

# npu-migrate: end
# npu-migrate: when has_mla_prefill_backends
from vllm.v1.attention.backends.mla.prefill.base import MLAPrefillBackend
from vllm.v1.attention.backends.mla.prefill.registry import (
    MLAPrefillBackendEnum,
    register_mla_prefill_backend,
)

# npu-migrate: end


def latent_refusal(dtype: torch.dtype, num_heads: int, sizes: dict[str, int]):
    """Why no operator takes a latent attention, in a few words; None if one does.

    Args:
        dtype: of queries and cache.
        num_heads: query heads of this rank.
        sizes: by the names of `LATENT_SIZES`.

    """
    for name, size in LATENT_SIZES.items():
        if sizes[name] != size:
            return f"a {name} of {size}, not {sizes[name]}"
    if num_heads > MAX_LATENT_HEADS:
        return f"at most {MAX_LATENT_HEADS} heads on a rank, not {num_heads}"
    return fused_refusal(dtype, LATENT_SIZES["v_head_dim"])


class LatentCache(NamedTuple):
    """The two buffers of a layer."""

    latent: torch.Tensor
    """[num_blocks, 128, 1, kv_lora_rank]"""
    rope: torch.Tensor
    """[num_blocks, 128, 1, qk_rope_head_dim]"""

    def numel(self) -> int:
        """Elements of both: 0 of a cache that is not there yet."""
        return self.latent.numel() + self.rope.numel()

    def squeeze(self, dim: int) -> LatentCache:
        """Itself: some layers drop the dimension of heads from what they bind."""
        return self


class AscendMLABackend(AscendAttentionBackend):
    @staticmethod
    def get_impl_cls() -> type:
        return AscendMLAImpl

    @staticmethod
    def get_metadata_cls() -> type[AscendMLAMetadata]:
        return AscendMLAMetadata

    @staticmethod
    def get_builder_cls() -> type[AscendMLAMetadataBuilder]:
        return AscendMLAMetadataBuilder

    @classmethod
    def is_mla(cls) -> bool:
        return True

    @classmethod
    def supports_head_size(cls, head_size: int) -> bool:
        return head_size == (
            LATENT_SIZES["kv_lora_rank"] + LATENT_SIZES["qk_rope_head_dim"]
        )

    @classmethod
    def supports_mm_prefix(cls) -> bool:
        return False

    @classmethod
    def supports_kv_connector(cls) -> bool:
        # Latents and rotated parts are two tensors of different sizes.
        return False

    @classmethod
    def supports_sliding_window(cls) -> bool:
        return False

    @classmethod
    def supports_non_causal(cls) -> bool:
        return False

    # npu-migrate: when has_kv_cache_layouts
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
        return (num_blocks, block_size, head_size)

    # npu-migrate: end


class ContextPiece(NamedTuple):
    """Cached tokens of a request."""

    request: int
    start: int
    end: int


def plan_context(
    context_lens: Sequence[int], workspace: int
) -> Iterator[list[ContextPiece]]:
    """Cut what is cached of requests into chunks of at most `workspace` tokens.

    A request is in a chunk once at most, and never without tokens: attention to
    nothing has no value that could be merged.
    """
    chunk: list[ContextPiece] = []
    room = workspace
    for request, length in enumerate(context_lens):
        start = 0
        while start < length:
            end = min(length, start + room)
            chunk.append(ContextPiece(request, start, end))
            room -= end - start
            start = end
            if room == 0:
                yield chunk
                chunk, room = [], workspace
    if chunk:
        yield chunk


@dataclass
class ContextChunk:
    """Cached tokens that are projected up at once, and who attends to them."""

    rows: torch.Tensor
    """[tokens] int64, on the device: rows of the prefill."""
    cum_query_lens: list[int]
    cum_seq_lens: list[int]
    slots: torch.Tensor
    """[cached tokens] int64, on the device: block * block_size + offset."""


@dataclass
class AscendMLAMetadata(AscendMetadata):
    num_decodes: int = 0
    """Requests with one new token, which come first..."""
    num_decode_tokens: int = 0
    """...and their tokens: as many."""
    num_prefills: int = 0
    cum_prefill_lens: list[int] = field(default_factory=list)
    """End of each other request's tokens, counted from the first of them."""
    context_chunks: list[ContextChunk] = field(default_factory=list)

    # Layers of some releases look whether there are these.
    @property
    def decode(self) -> AscendMLAMetadata | None:
        return self if self.num_decodes else None

    @property
    def prefill(self) -> AscendMLAMetadata | None:
        return self if self.num_prefills else None

    @property
    def chunked_context(self) -> list[ContextChunk] | None:
        return self.context_chunks or None


class AscendMLAMetadataBuilder(AscendMetadataBuilder):
    # The model runner puts requests with one new token first.
    reorder_batch_threshold: int | None = 1

    # npu-migrate: when graphs_hold_single_token_decodes
    @classmethod
    def get_cudagraph_support(cls, vllm_config, kv_cache_spec) -> AttentionCGSupport:
        return cls._cudagraph_support

    # npu-migrate: end
    # npu-migrate: when mla_can_be_added
    def _prepare(self, device: torch.device, vllm_config: VllmConfig) -> None:
        super()._prepare(device, vllm_config)
        self.workspace = context_workspace(self.vllm_config)

    # npu-migrate: end
    def build(self, *args: Any, **kwargs: Any) -> AscendMLAMetadata:
        base = super().build(*args, **kwargs)
        metadata = AscendMLAMetadata(
            **{entry.name: getattr(base, entry.name) for entry in fields(base)}
        )
        query_lens = base.query_lens.tolist()
        num_decodes = next(
            (i for i, length in enumerate(query_lens) if length > 1), len(query_lens)
        )
        metadata.num_decodes = metadata.num_decode_tokens = num_decodes
        metadata.num_prefills = len(query_lens) - num_decodes
        if metadata.num_prefills:
            metadata.cum_prefill_lens = [
                end - num_decodes for end in base.cum_query_lens[num_decodes:]
            ]
            metadata.context_chunks = self._context_chunks(metadata)
        return metadata

    def _context_chunks(self, metadata: AscendMLAMetadata) -> list[ContextChunk]:
        first = metadata.num_decodes
        ends = metadata.cum_prefill_lens
        starts = [0, *ends[:-1]]
        context_lens = [
            total - (end - start)
            for total, start, end in zip(metadata.seq_lens_list[first:], starts, ends)
        ]
        table = metadata.block_table[first:]
        return [
            _context_chunk(pieces, starts, ends, table)
            for pieces in plan_context(context_lens, self.workspace)
        ]


def context_workspace(vllm_config: VllmConfig) -> int:
    """Cached tokens that are projected up at once.

    As many as vLLM reserves memory for when it profiles.
    """
    # npu-migrate: when mla_can_be_added
    return MLACommonMetadataBuilder.determine_chunked_prefill_workspace_size(
        vllm_config
    )
    # npu-migrate: otherwise
    raise NotImplementedError("NPU: no latent attention in this release.")
    # npu-migrate: end


def _context_chunk(
    pieces: list[ContextPiece],
    starts: list[int],
    ends: list[int],
    block_table: torch.Tensor,
) -> ContextChunk:
    """Make a chunk of pieces.

    Args:
        block_table: [requests, max_blocks] int32, on the device.
        ends: rows behind the last ones of the requests in the prefill.
        pieces: what each request has in the chunk.
        starts: first rows of the requests in the prefill.

    """
    device = block_table.device
    rows: list[torch.Tensor] = []
    requests: list[torch.Tensor] = []
    positions: list[torch.Tensor] = []
    cum_query_lens: list[int] = []
    cum_seq_lens: list[int] = []
    queries = keys = 0
    for request, start, end in pieces:
        rows.append(torch.arange(starts[request], ends[request]))
        requests.append(torch.full((end - start,), request))
        positions.append(torch.arange(start, end))
        queries += ends[request] - starts[request]
        keys += end - start
        cum_query_lens.append(queries)
        cum_seq_lens.append(keys)
    position = torch.cat(positions)
    block, offset = position // KERNEL_BLOCK_SIZE, position % KERNEL_BLOCK_SIZE
    found = block_table[torch.cat(requests).to(device), block.to(device)].long()
    return ContextChunk(
        torch.cat(rows).to(device),
        cum_query_lens,
        cum_seq_lens,
        found * KERNEL_BLOCK_SIZE + offset.to(device),
    )


def merge_states(
    out: torch.Tensor, lse: torch.Tensor, more: torch.Tensor, more_lse: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Attention to two sets of keys, from what came of each, float32.

    Args:
        out: [tokens, heads, size]
        lse: [tokens, heads, 1], the log of the sum of exponentials. The operator
            gives +inf where a query saw no key, whose output is no value then.
        more: as `out`, of the other set.
        more_lse: as `lse`, of the other set.

    """
    lse = torch.where(lse == torch.inf, -torch.inf, lse)
    more_lse = torch.where(more_lse == torch.inf, -torch.inf, more_lse)
    top = torch.maximum(lse, more_lse)
    weight, more_weight = torch.exp(lse - top), torch.exp(more_lse - top)
    total = weight + more_weight
    return (out * weight + more * more_weight) / total, top + torch.log(total)


# npu-migrate: when has_mla_prefill_backends
# What a platform without a compute capability is given.
@register_mla_prefill_backend(MLAPrefillBackendEnum.FLASH_ATTN)
class AscendMLAPrefillBackend(MLAPrefillBackend):
    """What a layer wants to hold; `AscendMLAImpl.forward_mha` attends by itself."""

    @staticmethod
    def get_name() -> str:
        return "ASCEND"

    def run_prefill_new_tokens(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        raise NotImplementedError("NPU: AscendMLAImpl.forward_mha does it.")

    def run_prefill_context_chunk(
        self, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        raise NotImplementedError("NPU: AscendMLAImpl.forward_mha does it.")


# npu-migrate: end
class AscendMLAImpl(MLAAttentionImpl):
    can_return_lse_for_decode: bool = False

    def __init__(
        self,
        num_heads: int,
        head_size: int,
        scale: float,
        num_kv_heads: int,
        alibi_slopes: list[float] | None,
        sliding_window: int | None,
        kv_cache_dtype: str,
        logits_soft_cap: float | None,
        attn_type: str,
        kv_sharing_target_layer_name: str | None,
        # Of latent attention.
        q_lora_rank: int | None,
        kv_lora_rank: int,
        qk_nope_head_dim: int,
        qk_rope_head_dim: int,
        qk_head_dim: int,
        v_head_dim: int,
        kv_b_proj: torch.nn.Module,
        **more: Any,
    ) -> None:
        unsupported = [
            name
            for name, used in {
                "ALiBi": alibi_slopes is not None,
                "a sliding window": sliding_window is not None,
                "a logits soft cap": bool(logits_soft_cap),
                "attention that is no decoder's": attn_type != AttentionType.DECODER,
                f"a KV cache of {kv_cache_dtype}": kv_cache_dtype
                not in ("auto", "float16", "bfloat16"),
                "a KV cache of another layer": kv_sharing_target_layer_name is not None,
                # A decode step takes it apart, without quantizing the latents.
                "a quantized kv_b_proj": not isinstance(
                    kv_b_proj.quant_method, UnquantizedLinearMethod
                ),
                **{name: value is not None for name, value in more.items()},
            }.items()
            if used
        ]
        unsupported += model_refusals()
        if unsupported:
            raise NotImplementedError(
                f"NPU latent attention does not support {', '.join(unsupported)}."
            )
        sizes = {
            "kv_lora_rank": kv_lora_rank,
            "qk_nope_head_dim": qk_nope_head_dim,
            "qk_rope_head_dim": qk_rope_head_dim,
            "v_head_dim": v_head_dim,
        }
        missing = latent_refusal(torch.get_default_dtype(), num_heads, sizes)
        if missing is not None:
            raise NotImplementedError(f"NPU latent attention needs {missing}.")
        self.num_heads = num_heads
        self.padded_heads = 1 << (num_heads - 1).bit_length()
        """Heads that the operator takes for the latent one: a power of two."""
        self.head_size = head_size
        self.scale = float(scale)
        self.num_kv_heads = num_kv_heads
        self.kv_cache_dtype = kv_cache_dtype
        self.q_lora_rank = q_lora_rank
        self.kv_lora_rank = kv_lora_rank
        self.qk_nope_head_dim = qk_nope_head_dim
        self.qk_rope_head_dim = qk_rope_head_dim
        self.qk_head_dim = qk_head_dim
        self.v_head_dim = v_head_dim
        self.kv_b_proj = kv_b_proj
        self.layer_name: str | None = None
        # npu-migrate: when mla_layers_part_the_batch
        # npu-migrate: otherwise
        self.workspace = context_workspace(get_current_vllm_config())

    def process_weights_after_loading(self, act_dtype: torch.dtype) -> None:
        """Take W_UK and W_UV of each head out of `kv_b_proj`, as views."""
        weight = self.kv_b_proj.weight.view(
            self.num_heads, self.qk_nope_head_dim + self.v_head_dim, self.kv_lora_rank
        )
        # [heads, qk_nope_head_dim, kv_lora_rank]
        self.W_UK_T = weight[:, : self.qk_nope_head_dim]
        # [heads, kv_lora_rank, v_head_dim]
        self.W_UV = weight[:, self.qk_nope_head_dim :].transpose(1, 2)

    def forward(
        self,
        layer: torch.nn.Module,
        q: torch.Tensor,
        k_c_normed: torch.Tensor,
        k_pe: torch.Tensor,
        kv_cache: LatentCache,
        attn_metadata: AscendMLAMetadata,
        output: torch.Tensor | None = None,
        output_scale: torch.Tensor | None = None,
        output_block_scale: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Write the batch's latents to the cache, then attend.

        Args:
            q: [num_tokens, num_heads, qk_nope_head_dim + qk_rope_head_dim]
            k_c_normed: [num_tokens, kv_lora_rank]
            k_pe: [num_tokens, 1, qk_rope_head_dim]
            output: [num_tokens, num_heads * v_head_dim], written in place.
            attn_metadata: of the batch.
            kv_cache: the cache of latents, written in place.
            layer: the attention layer.
            output_block_scale: as `output_scale`.
            output_scale: of a quantized output, which is refused.

        """
        assert output is not None, "the caller provides the output buffer"
        if output_scale is not None or output_block_scale is not None:
            raise NotImplementedError("NPU attention does not quantize its output.")
        if attn_metadata is None:
            # A profiling run has no batch. What projects up most is this much.
            size = self.qk_nope_head_dim + self.v_head_dim
            q.new_empty(self.workspace, self.num_heads, size)
            return output.fill_(0)
        num_tokens = attn_metadata.num_actual_tokens
        if num_tokens == 0:
            return output.fill_(0)
        q, rows = q[:num_tokens], output[:num_tokens]
        k_c_normed, k_pe = k_c_normed[:num_tokens], k_pe[:num_tokens]
        self._write(k_c_normed, k_pe, kv_cache, attn_metadata)
        decodes = attn_metadata.num_decode_tokens
        if decodes < num_tokens:
            self.forward_mha(
                q[decodes:],
                k_c_normed[decodes:],
                k_pe[decodes:],
                kv_cache,
                attn_metadata,
                None,
                rows[decodes:],
            )
        if decodes:
            q_nope, q_pe = q[:decodes].split(
                [self.qk_nope_head_dim, self.qk_rope_head_dim], dim=-1
            )
            q_latent = torch.bmm(q_nope.transpose(0, 1), self.W_UK_T).transpose(0, 1)
            found, _ = self.forward_mqa(
                (q_latent, q_pe), kv_cache, attn_metadata, layer
            )
            values = torch.bmm(found.transpose(0, 1), self.W_UV)
            shape = (decodes, self.num_heads, self.v_head_dim)
            rows[:decodes].view(shape).copy_(values.transpose(0, 1))
        return output

        # npu-migrate: end

    def do_kv_cache_update(
        self,
        kv_c_normed: torch.Tensor,
        k_pe: torch.Tensor,
        kv_cache: LatentCache,
        slot_mapping: torch.Tensor,
        kv_cache_dtype: str,
        k_scale: torch.Tensor,
        skip_scale: bool = False,
    ) -> None:
        """Write the batch's latents to the cache.

        Not to the slots of `slot_mapping`, which skip padding by a number below 0,
        but to those of the builder, which any operator takes.

        Args:
            kv_c_normed: [num_tokens, kv_lora_rank]
            k_pe: [num_tokens, 1, qk_rope_head_dim]
            k_scale: not needed: nothing is quantized.
            kv_cache: the cache of latents, written in place.
            kv_cache_dtype: not needed: nothing is quantized.
            skip_scale: not needed: nothing is quantized.
            slot_mapping: not needed.

        """
        attn_metadata = self._metadata_of_step()
        if attn_metadata is None:
            # A dummy batch has nothing to keep.
            return
        num_tokens = attn_metadata.num_actual_tokens
        self._write(
            kv_c_normed[:num_tokens], k_pe[:num_tokens], kv_cache, attn_metadata
        )

    def _metadata_of_step(self) -> AscendMLAMetadata | None:
        context = get_forward_context()
        metadata: Any = context.attn_metadata
        if metadata is None:
            return None
        if self.layer_name is None:
            self.layer_name = next(
                name
                for name, layer in context.no_compile_layers.items()
                if getattr(layer, "impl", None) is self
            )
        return metadata[self.layer_name]

    def _write(
        self,
        kv_c_normed: torch.Tensor,
        k_pe: torch.Tensor,
        kv_cache: LatentCache,
        attn_metadata: AscendMLAMetadata,
    ) -> None:
        latent = kv_c_normed.view(-1, 1, self.kv_lora_rank).contiguous()
        rope = k_pe.reshape(-1, 1, self.qk_rope_head_dim).contiguous()
        write_cache(latent, rope, *kv_cache, attn_metadata.slot_mapping)

    def forward_mha(
        self,
        q: torch.Tensor,
        kv_c_normed: torch.Tensor,
        k_pe: torch.Tensor,
        kv_c_and_k_pe_cache: LatentCache,
        attn_metadata: AscendMLAMetadata,
        k_scale: torch.Tensor | None,
        output: torch.Tensor,
        output_scale: torch.Tensor | None = None,
    ) -> None:
        """Attend with keys and values of each head.

        Args:
            q: [num_tokens, num_heads, qk_nope_head_dim + qk_rope_head_dim], of the
                requests behind `num_decodes`.
            kv_c_normed: [num_tokens, kv_lora_rank], as k_pe of the same tokens.
            k_pe: [num_tokens, 1, qk_rope_head_dim]
            output: [num_tokens, num_heads * v_head_dim], written in place.
            attn_metadata: of the batch.
            k_scale: not needed: nothing is quantized.
            kv_c_and_k_pe_cache: the cache of latents.
            output_scale: of a quantized output, which is refused.

        """
        assert output_scale is None, "NPU attention quantizes no output"
        q_nope, q_pe = q.split([self.qk_nope_head_dim, self.qk_rope_head_dim], dim=-1)
        q_nope, q_pe = q_nope.contiguous(), q_pe.contiguous()
        ends = attn_metadata.cum_prefill_lens
        arguments = self._prefill_arguments(kv_c_normed, k_pe, ends, ends)
        arguments |= {"sparse_mode": CAUSAL, "atten_mask": attn_metadata.attn_mask}
        result = output.view(-1, self.num_heads, self.v_head_dim)
        if not attn_metadata.context_chunks:
            torch_npu.npu_fused_infer_attention_score.out(
                query=q_nope,
                query_rope=q_pe,
                out=[result, no_softmax_lse(q.device, q.dtype)],
                **arguments,
            )
            return
        found, lse = torch_npu.npu_fused_infer_attention_score(
            query=q_nope, query_rope=q_pe, softmax_lse_flag=True, **arguments
        )
        found = found.float()
        latent, rope = kv_c_and_k_pe_cache
        for chunk in attn_metadata.context_chunks:
            arguments = self._prefill_arguments(
                latent.flatten(0, 1)[chunk.slots].squeeze(1),
                rope.flatten(0, 1)[chunk.slots],
                chunk.cum_query_lens,
                chunk.cum_seq_lens,
            )
            more, more_lse = torch_npu.npu_fused_infer_attention_score(
                query=q_nope[chunk.rows],
                query_rope=q_pe[chunk.rows],
                sparse_mode=UNMASKED,
                softmax_lse_flag=True,
                **arguments,
            )
            rows = chunk.rows
            found[rows], lse[rows] = merge_states(
                found[rows], lse[rows], more.float(), more_lse
            )
        result.copy_(found)

    def _prefill_arguments(
        self,
        latents: torch.Tensor,
        k_pe: torch.Tensor,
        cum_query_lens: list[int],
        cum_seq_lens: list[int],
    ) -> dict[str, Any]:
        """Arguments for tokens whose latents are projected up, but for the query.

        Args:
            latents: [keys, kv_lora_rank]
            k_pe: [keys, 1, qk_rope_head_dim]
            cum_query_lens: where each request's query rows end.
            cum_seq_lens: where each request's keys end.

        """
        kv = self.kv_b_proj(latents)[0].view(
            -1, self.num_heads, self.qk_nope_head_dim + self.v_head_dim
        )
        k_nope, value = kv.split([self.qk_nope_head_dim, self.v_head_dim], dim=-1)
        return {
            "key": k_nope.contiguous(),
            "value": value.contiguous(),
            "key_rope": k_pe.expand(-1, self.num_heads, -1).contiguous(),
            "input_layout": "TND",
            "actual_seq_lengths": cum_query_lens,
            "actual_seq_lengths_kv": cum_seq_lens,
            "num_heads": self.num_heads,
            "num_key_value_heads": self.num_heads,
            "scale": self.scale,
        }

    def forward_mqa(
        self,
        q: tuple[torch.Tensor, torch.Tensor],
        kv_c_and_k_pe_cache: LatentCache,
        attn_metadata: AscendMLAMetadata,
        layer: torch.nn.Module,
    ) -> tuple[torch.Tensor, None]:
        """Attend to the latents as one key of all heads.

        Args:
            q: [num_decodes, num_heads, kv_lora_rank] and
                [num_decodes, num_heads, qk_rope_head_dim].
            attn_metadata: of the batch.
            kv_c_and_k_pe_cache: the cache of latents.
            layer: the attention layer.

        Returns:
            [num_decodes, num_heads, kv_lora_rank], and no log-sum-exp.

        """
        num_decodes = attn_metadata.num_decodes
        latent, rope = kv_c_and_k_pe_cache
        num_blocks, block_size = latent.shape[:2]
        query, query_rope = (self._pad_heads(part) for part in q)
        out = torch.empty_like(query)
        arguments: dict[str, Any] = {
            "key": latent.view(num_blocks, 1, block_size, -1),
            "value": latent.view(num_blocks, 1, block_size, -1),
            "key_rope": rope.view(num_blocks, 1, block_size, -1),
            "block_table": attn_metadata.block_table[:num_decodes],
            "block_size": block_size,
            "input_layout": "BNSD",
            "num_heads": self.padded_heads,
            "num_key_value_heads": 1,
            "scale": self.scale,
        }
        seq_lens = attn_metadata.seq_lens_list[:num_decodes]
        if NPUGraph.recording is None:
            torch_npu.npu_fused_infer_attention_score.out(
                query=query,
                query_rope=query_rope,
                actual_seq_lengths_kv=seq_lens,
                out=[out, no_softmax_lse(out.device, out.dtype)],
                **arguments,
            )
        else:
            self._capture(
                NPUGraph.recording,
                layer.layer_name,
                query,
                query_rope,
                seq_lens,
                arguments,
                out,
            )
        return out.squeeze(2)[:, : self.num_heads], None

    def _pad_heads(self, part: torch.Tensor) -> torch.Tensor:
        """[tokens, heads, size] as [tokens, padded_heads, 1, size]."""
        missing = self.padded_heads - self.num_heads
        if missing:
            part = torch.nn.functional.pad(part, (0, 0, 0, missing))
        return part.contiguous().unsqueeze(2)

    def _capture(
        self,
        graph: NPUGraph,
        layer_name: str,
        query: torch.Tensor,
        query_rope: torch.Tensor,
        seq_lens: list[int],
        arguments: dict[str, Any],
        out: torch.Tensor,
    ) -> None:
        """Capture a decode step with lengths that can change between replays."""
        # As in `AscendAttentionImpl._capture`.
        asked = (query.shape, query.dtype, "latent")
        if asked not in graph.workspaces:
            graph.workspaces[asked] = (
                torch_npu._npu_fused_infer_attention_score_get_max_workspace(
                    query=query,
                    query_rope=query_rope,
                    actual_seq_lengths_kv=seq_lens,
                    **arguments,
                )
            )
        no_lse = no_softmax_lse(out.device, out.dtype)
        query, query_rope = weak_ref_tensor(query), weak_ref_tensor(query_rope)
        out = weak_ref_tensor(out)

        def launch(lengths: list[int]) -> None:
            torch_npu.npu_fused_infer_attention_score.out(
                query=query,
                query_rope=query_rope,
                actual_seq_lengths_kv=lengths,
                workspace=graph.workspaces[asked],
                out=[out, no_lse],
                **arguments,
            )

        # Each request of a captured batch has one new token.
        block_table = arguments["block_table"]
        graph.add_attention(layer_name, seq_lens, 1, block_table, launch)
