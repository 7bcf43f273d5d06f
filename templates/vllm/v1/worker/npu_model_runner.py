# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright contributors to the vLLM project
"""The GPU model runner on an Ascend NPU."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import torch

from vllm.v1.attention.backends.ascend_attn import split_kv_cache
from vllm.v1.attention.backends.mla.ascend_mla import LatentCache
from vllm.v1.kv_cache_interface import AttentionSpec, KVCacheConfig, KVCacheSpec
from vllm.v1.worker.gpu_model_runner import GPUModelRunner
from vllm.v1.worker.npu_kernels import PAD_SLOT_ID, keep_top_k_on_host
from vllm.v1.worker.utils import bind_kv_cache

KVBuffers = tuple[torch.Tensor, torch.Tensor]
LayerCache = torch.Tensor | KVBuffers
"""Keys and values in one tensor, or two of different shapes."""


class NPUModelRunner(GPUModelRunner):
    """Shares all of the GPU model runner but the place of the KV cache in memory.

    A layer's keys and values are two contiguous halves
    `[num_blocks, block_size, num_kv_heads, head_size]` of one tensor: what NPU
    operators read and write. The latents of latent attention and the rotated parts
    of its keys are two tensors. Layers of different groups that share memory share
    both.
    """

    def _init_device_properties(self) -> None:
        # Multiprocessor counts steer CUDA kernels only.
        self.num_sms = None

    # npu-migrate: when runner_marks_padding
    def _prepare_padding_mask(
        self, num_tokens_unpadded: int, num_tokens_padded: int
    ) -> torch.Tensor | None:
        # Routers would mask with it. Under data parallelism they see the tokens of
        # every rank here, and no NPU operator gains from knowing the padding.
        return None

    # npu-migrate: end

    def _update_states(self, scheduler_output):
        result = super()._update_states(scheduler_output)
        keep_top_k_on_host(self.input_batch)
        return result

    def _get_prompt_logprobs_dict(
        self, hidden_states: torch.Tensor, scheduled: Any
    ) -> dict[str, Any]:
        """Log probabilities of prompts, each by the LoRA adapter of its request.

        The logits layer was told of one row for each request. Here its rows are
        tokens of a prompt: it is told of those, one request at a time.

        Args:
            hidden_states: [num_tokens, hidden_size], of the whole batch.
            scheduled: number of tokens of each request in this step, or a scheduler's
                output that has it.

        """
        # npu-migrate: when runner_keeps_prompt_logprobs
        holder = self
        # npu-migrate: otherwise
        holder = self.input_batch
        # npu-migrate: end
        asked = holder.num_prompt_logprobs
        if self.lora_config is None or not asked:
            return super()._get_prompt_logprobs_dict(hidden_states, scheduled)
        found: dict[str, Any] = {}
        num_tokens = getattr(scheduled, "num_scheduled_tokens", scheduled)
        for req_id in [r for r in asked if r in num_tokens]:
            request = self.requests[req_id]
            # The last token of the prompt is followed by none of it.
            left = len(request.prompt_token_ids or ()) - request.num_computed_tokens - 1
            adapter = request.lora_request
            rows = (adapter.lora_int_id if adapter else 0,)
            rows *= min(num_tokens[req_id], left)
            if rows:
                self._set_active_loras(rows, rows, {adapter} if adapter else set())
            # The base class removes a request with whose prompt it is done.
            holder.num_prompt_logprobs = {req_id: asked[req_id]}
            found.update(super()._get_prompt_logprobs_dict(hidden_states, scheduled))
            if req_id not in holder.num_prompt_logprobs:
                del asked[req_id]
        holder.num_prompt_logprobs = asked
        return found

    def initialize_kv_cache_tensors(
        self,
        kv_cache_config: KVCacheConfig,
        kernel_block_sizes: list[int] | None = None,
        kv_cache_allocation_context: AbstractContextManager | None = None,
    ) -> dict[str, LayerCache]:
        """Allocate the KV cache and bind it to the layers.

        Args:
            kv_cache_config: number of blocks and which layers share memory.
            kernel_block_sizes: tokens of a kernel's block, for each KV cache
                group; a block of the cache manager is one or more of them.
            kv_cache_allocation_context: entered around the allocation, if given.

        Returns:
            Layer name to its keys and values, as KV connectors of this release take
            them.

        """
        layers = self.compilation_config.static_forward_context
        specs = {
            name: Buffers(spec, block_size, getattr(layers[name], "impl", None))
            for name, (spec, block_size) in _layer_specs(
                kv_cache_config, kernel_block_sizes
            )
        }
        kv_caches: dict[str, LayerCache] = {}
        with kv_cache_allocation_context or nullcontext():
            for layer_names, num_bytes in _shared_regions(kv_cache_config):
                kv_caches.update(_allocate(layer_names, num_bytes, specs, self.device))
        for name, target in self.shared_kv_cache_layers.items():
            kv_caches[name] = kv_caches[target]

        bind_kv_cache(kv_caches, layers, self.kv_caches)
        # Dummy batches use what is in these buffers: nothing to write, instead of
        # slot 0 for every token. They may be inference tensors.
        with torch.inference_mode():
            for table in self.input_batch.block_table.block_tables:
                slots = table.slot_mapping
                on_device: Any = getattr(slots, "gpu", slots)
                on_device.fill_(PAD_SLOT_ID)
        # Whoever walks this list to copy blocks counts them along the first dimension.
        self.kv_caches[:] = [t for kv in self.kv_caches for t in split_kv_cache(kv)]
        return kv_caches


class Buffers(NamedTuple):
    """What the two buffers of a layer are made by."""

    spec: AttentionSpec
    block_size: int
    """Tokens of a block of its kernels."""
    impl: object
    """Its attention."""

    @property
    def latent_size(self) -> int | None:
        """Elements of a token's latent; None if the layer keeps keys and values."""
        return getattr(self.impl, "kv_lora_rank", None)

    @property
    def head_sizes(self) -> tuple[int, int]:
        """Elements of a token's head in either buffer."""
        if self.latent_size is not None:
            return self.latent_size, self.spec.head_size - self.latent_size
        return self.spec.head_size, getattr(
            self.spec, "head_size_v", self.spec.head_size
        )


def _layer_specs(
    kv_cache_config: KVCacheConfig, kernel_block_sizes: list[int] | None
) -> Iterator[tuple[str, tuple[AttentionSpec, int]]]:
    """Each layer's spec and the number of tokens in a block of its kernels."""
    for index, group in enumerate(kv_cache_config.kv_cache_groups):
        for name in group.layer_names:
            spec: KVCacheSpec = group.kv_cache_spec
            # A group of layers that differ in shape only carries one for each.
            spec = getattr(spec, "kv_cache_specs", {name: spec})[name]
            if not isinstance(spec, AttentionSpec):
                raise NotImplementedError(
                    f"NPU: layer {name} keeps a {type(spec).__name__}, only attention "
                    "has a cache here."
                )
            block_size = spec.block_size
            if kernel_block_sizes is not None:
                block_size = kernel_block_sizes[index]
            yield name, (spec, block_size)


def _shared_regions(
    kv_cache_config: KVCacheConfig,
) -> Iterator[tuple[list[str], int]]:
    """Names of the layers that share a piece of memory, and its size in bytes."""
    # npu-migrate: when has_kv_cache_layouts
    regions: dict[int, list[str]] = {}
    lengths: dict[int, int] = {}
    for tensor in kv_cache_config.kv_cache_tensors:
        length = tensor.block_stride * kv_cache_config.num_blocks
        for position, name in enumerate(tensor.layers):
            start = tensor.offset + position * tensor.layer_stride
            regions.setdefault(start, []).append(name)
            lengths[start] = max(length, lengths.get(start, 0))
    end = 0
    for start in sorted(regions):
        if start < end:
            raise NotImplementedError(
                f"NPU: the KV cache of {regions[start]} overlaps with another layer's; "
                "only layers with pages of equal size can share memory."
            )
        end = start + lengths[start]
        yield regions[start], lengths[start]
    # npu-migrate: otherwise
    for tensor in kv_cache_config.kv_cache_tensors:
        if getattr(tensor, "block_stride", 0):
            raise NotImplementedError(
                f"NPU: the KV cache of {tensor.shared_by} is packed with other layers'."
            )
        yield tensor.shared_by, tensor.size
    # npu-migrate: end


def _allocate(
    layer_names: list[str],
    num_bytes: int,
    specs: dict[str, Buffers],
    device: torch.device,
) -> dict[str, LayerCache]:
    """Allocate a piece of memory and view it in each layer's shape."""
    raw: list[torch.Tensor] = []
    views: dict[str, LayerCache] = {}
    for name in layer_names:
        spec, block_size, _ = specs[name]
        num_blocks = num_bytes // spec.page_size_bytes * (spec.block_size // block_size)
        shapes = [
            (num_blocks, block_size, spec.num_kv_heads, head_size)
            for head_size in specs[name].head_sizes
        ]
        latent = specs[name].latent_size is not None
        alike = shapes[0] == shapes[1] and not latent
        if alike:
            shapes = [(2, *shapes[0])]
        sizes = [math.prod(shape) * spec.dtype.itemsize for shape in shapes]
        if not raw:
            raw = [torch.zeros(size, dtype=torch.int8, device=device) for size in sizes]
        elif sizes != [buffer.numel() for buffer in raw]:
            raise NotImplementedError(
                f"NPU: {layer_names} share memory but split it differently into keys "
                "and values."
            )
        tensors = [
            buffer.view(spec.dtype).view(shape) for buffer, shape in zip(raw, shapes)
        ]
        if alike:
            views[name] = as_walked(tensors[0])
        else:
            views[name] = LatentCache(*tensors) if latent else tuple(tensors)
    return views


def as_walked(both: torch.Tensor) -> torch.Tensor:
    """A layer's cache as those expect it who copy, move or clear its blocks.

    Args:
        both: [2, num_blocks, block_size, num_kv_heads, head_size], contiguous.

    Returns:
        The same memory, with the dimensions in the order of vLLM's own attention.

    """
    # npu-migrate: when connectors_count_blocks_first
    return both.transpose(0, 1)
    # npu-migrate: otherwise
    return both
    # npu-migrate: end


# npu-migrate: when has_kv_cache_layouts
def allocate_npu_kv_cache(
    kv_cache_config: KVCacheConfig,
    device: torch.device,
    kernel_block_sizes: list[int] | None = None,
) -> dict[str, torch.Tensor]:
    """Allocate the KV cache, one tensor a layer.

    Each is `[num_blocks, 2, block_size, num_kv_heads, head_size]`, so that whoever
    copies, moves or clears blocks finds them along the first dimension. In memory
    the second comes first: the keys of all blocks, and their values, are one
    contiguous tensor each, which is what NPU operators read and write.

    Args:
        kv_cache_config: number of blocks and which layers share memory.
        device: the NPU that holds the cache.
        kernel_block_sizes: tokens of a kernel's block, for each KV cache group; a
            block of the cache manager is one or more of them.

    Returns:
        Layer name to its tensor; `num_blocks` counts kernels' blocks.

    Raises:
        NotImplementedError: a layer keeps something else than keys and values of
            one size, or layers differ in what tokens they keep.

    """
    if len(kv_cache_config.kv_cache_groups) > 1:
        raise NotImplementedError(
            "NPU: model runner V2 was not tried with layers that keep different "
            "tokens, such as those of a sliding window beside others. Leave "
            "VLLM_USE_V2_MODEL_RUNNER out."
        )
    specs = dict(_layer_specs(kv_cache_config, kernel_block_sizes))
    kv_caches: dict[str, torch.Tensor] = {}
    for layer_names, num_bytes in _shared_regions(kv_cache_config):
        raw = torch.zeros(num_bytes, dtype=torch.int8, device=device)
        for name in layer_names:
            spec, block_size = specs[name]
            if getattr(spec, "head_size_v", spec.head_size) != spec.head_size:
                raise NotImplementedError(
                    f"NPU: layer {name} has keys and values of different sizes."
                )
            blocks_per_page = spec.block_size // block_size
            num_blocks = num_bytes // spec.page_size_bytes * blocks_per_page
            shape = (2, num_blocks, block_size, spec.num_kv_heads, spec.head_size)
            size = math.prod(shape) * spec.dtype.itemsize
            both = raw[:size].view(spec.dtype).view(shape)
            kv_caches[name] = as_walked(both)
    return kv_caches


# npu-migrate: end
