# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright contributors to the vLLM project
"""LoRA on an Ascend NPU: dense products, one for each slot of an adapter.

The products are custom operators, so that Dynamo traces no state of the wrapper.
Which token has which adapter reaches them as a mask in a buffer that never moves:
a captured graph, of whatever number of adapters, computes with the mask of its
replay.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F

import vllm.envs as envs
from vllm.platforms import current_platform
from vllm.utils.torch_utils import direct_register_custom_op

from .punica_base import PunicaWrapperBase

if TYPE_CHECKING:
    from vllm.lora.layers import LoRAMapping


def _slots(in_use: torch.Tensor) -> list[int]:
    """The slots to compute: those that some row uses.

    A graph is replayed for other rows than it was captured with: it gets all.
    """
    if torch.npu.is_current_stream_capturing():
        return list(range(in_use.shape[0]))
    return in_use.nonzero().flatten().tolist()


def _matrices(stacked: torch.Tensor) -> torch.Tensor:
    """[max_loras, 1, out, in] as [max_loras, out, in]."""
    return stacked.flatten(0, -3)


def _accumulate(
    y: torch.Tensor, delta: torch.Tensor, start: int, size: int, add_inputs: bool
) -> None:
    """Add `delta` to columns of y, or write it there."""
    # Columns of the vocabulary's padding may be on either side.
    part = y[:, start : start + min(size, delta.shape[-1])]
    delta = delta[:, : part.shape[-1]]
    if add_inputs:
        part.add_(delta)
    else:
        part.copy_(delta)


def npu_lora_shrink(
    y: torch.Tensor,
    x: torch.Tensor,
    lora_a: list[torch.Tensor],
    mask: torch.Tensor,
    in_use: torch.Tensor,
    scale: float,
) -> None:
    """Write each row's product with A of its own adapter, 0 where it has none.

    Args:
        y: [slices, rows, >= rank], written.
        x: [rows, hidden]
        lora_a: for each slice [max_loras, 1, rank, hidden].
        mask: [max_loras, >= rows, 1] bool, whose row has the adapter of a slot.
        in_use: [max_loras] bool, on the host: some row has the adapter.
        scale: factor of the products.

    """
    rows = x.shape[0]
    slots = _slots(in_use)
    for part, stacked in zip(y.unbind(0), lora_a):
        matrices = _matrices(stacked)
        inputs = x.to(matrices.dtype)
        product = inputs.new_zeros(rows, matrices.shape[1])
        for slot in slots:
            # Not a product with a mask: an infinity in one adapter stays there.
            product = torch.where(
                mask[slot, :rows], F.linear(inputs, matrices[slot]), product
            )
        product = product.to(part.dtype)
        if scale != 1.0:
            product = product * scale
        part[:, : product.shape[-1]].copy_(product)


def npu_lora_expand(
    y: torch.Tensor,
    x: torch.Tensor,
    lora_b: list[torch.Tensor],
    mask: torch.Tensor,
    in_use: torch.Tensor,
    output_slices: list[int],
    offset_start: int,
    add_inputs: bool,
) -> None:
    """Add each row's product with B of its own adapter to columns of y.

    Args:
        y: [rows, columns], changed in place.
        x: [slices, rows, >= rank], as `npu_lora_shrink` writes it.
        lora_b: for each slice [max_loras, 1, slice, rank].
        mask: [max_loras, >= rows, 1] bool, as of `npu_lora_shrink`.
        in_use: [max_loras] bool, on the host: some row has the adapter.
        output_slices: columns of each slice, one behind the other.
        offset_start: first column of the first slice.
        add_inputs: False writes the products instead of adding them.

    """
    rows = y.shape[0]
    slots = _slots(in_use)
    start = offset_start
    for part, stacked, size in zip(x.unbind(0), lora_b, output_slices):
        matrices = _matrices(stacked)
        inputs = part[:, : matrices.shape[-1]].to(matrices.dtype)
        delta = inputs.new_zeros(rows, matrices.shape[1])
        for slot in slots:
            delta = torch.where(
                mask[slot, :rows], F.linear(inputs, matrices[slot]), delta
            )
        _accumulate(y, delta, start, size, add_inputs)
        start += size


def npu_lora_linear(
    y: torch.Tensor,
    x: torch.Tensor,
    lora_a: list[torch.Tensor],
    lora_b: list[torch.Tensor],
    mask: torch.Tensor,
    in_use: torch.Tensor,
    scale: float,
    output_slices: list[int],
    add_inputs: bool,
) -> None:
    """`npu_lora_shrink` and `npu_lora_expand` at once, on y [rows, columns]."""
    rows = x.shape[0]
    slots = _slots(in_use)
    start = 0
    for stacked_a, stacked_b, size in zip(lora_a, lora_b, output_slices):
        down, up = _matrices(stacked_a), _matrices(stacked_b)
        inputs = x.to(down.dtype)
        delta = inputs.new_zeros(rows, up.shape[1])
        for slot in slots:
            product = F.linear(inputs, down[slot])
            if scale != 1.0:
                product = product * scale
            delta = torch.where(mask[slot, :rows], F.linear(product, up[slot]), delta)
        _accumulate(y, delta, start, size, add_inputs)
        start += size


# npu-migrate: when punica_takes_bias
def npu_lora_bias(
    y: torch.Tensor,
    biases: list[torch.Tensor],
    mask: torch.Tensor,
    in_use: torch.Tensor,
    starts: list[int],
) -> None:
    """Add the bias of each row's own adapter to columns of y.

    Args:
        y: [rows, columns], changed in place.
        biases: [max_loras, 1, slice] each.
        mask: [max_loras, >= rows, 1] bool, as of `npu_lora_shrink`.
        in_use: [max_loras] bool, on the host: some row has the adapter.
        starts: first column of each bias.

    """
    rows = y.shape[0]
    slots = _slots(in_use)
    for stacked, start in zip(biases, starts):
        values = stacked.view(-1, 1, stacked.shape[-1])
        delta = values.new_zeros(rows, values.shape[-1])
        for slot in slots:
            delta = torch.where(mask[slot, :rows], values[slot], delta)
        _accumulate(y, delta, start, delta.shape[-1], True)


# npu-migrate: end
def _nothing(*args: Any, **kwargs: Any) -> None:
    """All operators here change an argument and return nothing."""


for _function in (
    npu_lora_shrink,
    npu_lora_expand,
    npu_lora_linear,
    # npu-migrate: when punica_takes_bias
    npu_lora_bias,
    # npu-migrate: end
):
    direct_register_custom_op(
        op_name=_function.__name__,
        op_func=_function,
        mutates_args=["y"],
        fake_impl=_nothing,
        dispatch_key=current_platform.dispatch_key,
    )


class PunicaWrapperNPU(PunicaWrapperBase):
    """Keeps which token and which request has the adapter of which slot.

    An index of -1 means that there is none. What is beyond the batch, such as the
    padding of a graph, has none either.
    """

    def __init__(
        self,
        max_num_batched_tokens: int,
        max_batches: int,
        device: torch.device | str,
        **kwargs: Any,
    ) -> None:
        if getattr(envs, "VLLM_LORA_ENABLE_DUAL_STREAM", False):
            raise ValueError("NPU: VLLM_LORA_ENABLE_DUAL_STREAM is not supported.")
        super().__init__(max_num_batched_tokens, max_batches, device, **kwargs)
        lora_config = kwargs.get("lora_config")
        self.max_loras: int = (
            kwargs["max_loras"] if lora_config is None else lora_config.max_loras
        )
        for indices in (
            self._token_lora_indices,
            self._sampler_indices,
            self._sampler_indices_padded,
            self._embeddings_indices,
        ):
            # They are added to token ids before the first batch is known.
            indices.zero_()
        shape = (self.max_loras, max_num_batched_tokens, 1)
        self._token_mask = torch.zeros(shape, dtype=torch.bool, device=device)
        self._sampler_mask = torch.zeros(shape, dtype=torch.bool, device=device)
        # On the host whatever the default device is: Python reads them.
        in_use = torch.zeros(2, self.max_loras, dtype=torch.bool, device="cpu")
        self._token_in_use, self._sampler_in_use = in_use

    def update_metadata(
        self,
        mapping: LoRAMapping,
        lora_index_to_id: list[int | None],
        max_loras: int,
        vocab_size: int,
        # npu-migrate: when punica_takes_extra_vocab
        extra_vocab_size: int = 0,
        # npu-migrate: end
        # npu-migrate: when punica_takes_long_context
        long_lora_context: Any | None = None,
        # npu-migrate: end
        **kwargs: Any,
    ) -> None:
        """Take over a batch's adapters.

        All of it is computed on the host and copied without waiting: the base
        class makes the device look for runs of equal indices and waits for them.

        Args:
            mapping: the adapter of each token and of each request.
            lora_index_to_id: the adapter in each slot; None for an empty one.
            max_loras: one more than there are slots, as the manager has it.
            vocab_size: the model's, without what adapters add to it.
            # npu-migrate: when punica_takes_extra_vocab
            extra_vocab_size: tokens that adapters may add.
            # npu-migrate: end
            # npu-migrate: when punica_takes_long_context
            long_lora_context: not needed.
            # npu-migrate: end

        """
        # npu-migrate: when punica_takes_extra_vocab
        embedding_strides = (extra_vocab_size, vocab_size + extra_vocab_size)
        # npu-migrate: otherwise
        # Rows of embeddings: where there are two, the first is for added tokens.
        embedding_strides = (0, vocab_size)
        # npu-migrate: end
        tokens = _slots_of(mapping.index_mapping, lora_index_to_id)
        requests = _slots_of(mapping.prompt_mapping, lora_index_to_id)
        padded = np.where(requests == -1, max_loras - 1, requests)
        padded = np.arange(len(requests)) + padded * len(requests)
        self.is_prefill = mapping.is_prefill
        self._fill(self._token_lora_indices, tokens, -1)
        self._fill(self._sampler_indices, requests, -1)
        self._fill(self._sampler_indices_padded, padded, 0)
        embeddings = self._embeddings_indices
        rows = embeddings.view(-1, embeddings.shape[-1]).unbind(0)
        for row, stride in zip(rows, embedding_strides[-len(rows) :]):
            self._fill(row, np.maximum(tokens, 0) * stride, 0)
        counts = [len(tokens), len(requests), len(padded), len(tokens)]
        self.indices_len[: len(counts)] = counts
        # npu-migrate: when punica_takes_long_context
        if long_lora_context:
            offsets = long_lora_context.offsets_by_lora_id
            found = [offsets.get(adapter, 0) for adapter in mapping.index_mapping]
            self._fill(self._long_lora_indices, np.array(found, dtype=np.int64), 0)
            self.indices_len[4] = len(found)
        else:
            self._long_lora_indices.zero_()
            self.indices_len[4] = None
        # npu-migrate: end
        for slots, mask, in_use in (
            (tokens, self._token_mask, self._token_in_use),
            (requests, self._sampler_mask, self._sampler_in_use),
        ):
            host = self._host(mask)
            equal = slots == np.arange(self.max_loras)[:, None]
            host.numpy()[:, : len(slots), 0] = equal
            host.numpy()[:, len(slots) :] = False
            mask.copy_(host, non_blocking=True)
            in_use.copy_(torch.from_numpy(equal.any(axis=1)))

    def _host(self, buffer: torch.Tensor) -> torch.Tensor:
        # A new one each time: the last copy may not have run yet.
        return torch.empty(
            buffer.shape,
            dtype=buffer.dtype,
            device="cpu",
            pin_memory=current_platform.is_pin_memory_available(),
        )

    def _fill(self, buffer: torch.Tensor, values: np.ndarray, rest: int) -> None:
        """Copy values to the start of a buffer, and `rest` to what is behind them."""
        host = self._host(buffer)
        host.numpy()[: len(values)] = values
        host.numpy()[len(values) :] = rest
        buffer.copy_(host, non_blocking=True)

    def add_shrink(
        self,
        y: tuple[torch.Tensor, ...] | torch.Tensor,
        x: torch.Tensor,
        lora_a_stacked: tuple[torch.Tensor, ...],
        scale: float,
        **kwargs: Any,
    ) -> None:
        """Write x @ A of each token's adapter to y[i] for each slice i.

        Args:
            y: for each slice [num_tokens, >= rank], written.
            x: [..., hidden], num_tokens rows.
            lora_a_stacked: for each slice [max_loras, 1, rank, hidden].
            scale: factor of the products.

        """
        x = x.reshape(-1, x.shape[-1])
        if isinstance(y, torch.Tensor):
            pairs = [(y.view(len(lora_a_stacked), -1, y.shape[-1]), lora_a_stacked)]
        else:
            pairs = [(one.unsqueeze(0), (a,)) for one, a in zip(y, lora_a_stacked)]
        for buffer, stacked in pairs:
            torch.ops.vllm.npu_lora_shrink(
                buffer, x, stacked, self._token_mask, self._token_in_use, scale
            )

    def add_expand(
        self,
        y: torch.Tensor,
        x: tuple[torch.Tensor, ...] | torch.Tensor,
        lora_b_stacked: tuple[torch.Tensor, ...],
        # npu-migrate: when punica_takes_bias
        lora_bias_stacked: tuple[torch.Tensor | None, ...] | None,
        # npu-migrate: end
        output_slices: tuple[int, ...],
        offset_start: int = 0,
        add_inputs: bool = True,
        **kwargs: Any,
    ) -> None:
        """Add x[i] @ B of each token's adapter to the columns of each slice i.

        Args:
            y: [..., columns], num_tokens rows, changed in place.
            x: for each slice [num_tokens, >= rank].
            lora_b_stacked: for each slice [max_loras, 1, slice, rank].
            # npu-migrate: when punica_takes_bias
            lora_bias_stacked: for each slice [max_loras, 1, slice], or None.
            # npu-migrate: end
            output_slices: columns of each slice.
            offset_start: first column of the first slice.
            add_inputs: False writes the products instead of adding them.

        """
        y = y.view(-1, y.shape[-1])
        x = x if isinstance(x, torch.Tensor) else torch.stack(x)
        torch.ops.vllm.npu_lora_expand(
            y,
            x,
            lora_b_stacked,
            self._token_mask,
            self._token_in_use,
            output_slices,
            offset_start,
            add_inputs,
        )
        # npu-migrate: when punica_takes_bias
        self._add_bias(y, lora_bias_stacked, output_slices, offset_start)
        # npu-migrate: end

    # npu-migrate: when punica_takes_bias
    def _add_bias(
        self,
        y: torch.Tensor,
        lora_bias_stacked: tuple[torch.Tensor | None, ...] | None,
        output_slices: tuple[int, ...],
        offset_start: int = 0,
    ) -> None:
        biases, starts = [], []
        start = offset_start
        for bias, size in zip(lora_bias_stacked or (), output_slices):
            if bias is not None:
                biases.append(bias)
                starts.append(start)
            start += size
        if biases:
            torch.ops.vllm.npu_lora_bias(
                y, biases, self._token_mask, self._token_in_use, starts
            )

    # npu-migrate: end
    def add_lora_embedding(
        self,
        y: torch.Tensor,
        x: torch.Tensor,
        lora_b_stacked: torch.Tensor,
        add_inputs: bool = True,
        **kwargs: Any,
    ) -> None:
        """Add x @ B of each token's adapter to embeddings.

        Args:
            y: [num_tokens, embedding], changed in place.
            x: [num_tokens, rank], rows of A.
            lora_b_stacked: [max_loras, 1, embedding, rank].
            add_inputs: False writes the products instead of adding them.

        """
        torch.ops.vllm.npu_lora_expand(
            y,
            x.unsqueeze(0),
            (lora_b_stacked,),
            self._token_mask,
            self._token_in_use,
            (y.shape[-1],),
            0,
            add_inputs,
        )

    def add_lora_linear(
        self,
        y: torch.Tensor,
        x: torch.Tensor,
        lora_a_stacked: tuple[torch.Tensor, ...],
        lora_b_stacked: tuple[torch.Tensor, ...],
        # npu-migrate: when punica_takes_bias
        lora_bias_stacked: tuple[torch.Tensor | None, ...] | None,
        # npu-migrate: end
        scale: float,
        output_slices: tuple[int, ...],
        *,
        buffer: tuple[torch.Tensor, ...] | None = None,
        add_inputs: bool = True,
        **kwargs: Any,
    ) -> None:
        """Add x @ A @ B of each token's adapter to the columns of each slice.

        Args:
            y: [..., columns], num_tokens rows, changed in place.
            x: [..., hidden], num_tokens rows.
            lora_a_stacked: for each slice [max_loras, 1, rank, hidden].
            lora_b_stacked: for each slice [max_loras, 1, slice, rank].
            # npu-migrate: when punica_takes_bias
            lora_bias_stacked: for each slice [max_loras, 1, slice], or None.
            # npu-migrate: end
            scale: factor of the products.
            output_slices: columns of each slice.
            buffer: not needed.
            add_inputs: False writes the products instead of adding them.

        """
        assert len(lora_a_stacked) == len(lora_b_stacked) == len(output_slices)
        y = y.view(-1, y.shape[-1])
        torch.ops.vllm.npu_lora_linear(
            y,
            x.reshape(-1, x.shape[-1]),
            lora_a_stacked,
            lora_b_stacked,
            self._token_mask,
            self._token_in_use,
            scale,
            output_slices,
            add_inputs,
        )
        # npu-migrate: when punica_takes_bias
        self._add_bias(y, lora_bias_stacked, output_slices)
        # npu-migrate: end

    def add_lora_logits(
        self,
        y: torch.Tensor,
        x: torch.Tensor,
        lora_a_stacked: torch.Tensor,
        lora_b_stacked: torch.Tensor,
        scale: float,
        *,
        buffer: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> None:
        """Add x @ A @ B of each request's adapter to logits.

        Args:
            y: [num_requests, vocabulary], changed in place.
            x: [num_requests, hidden]
            lora_a_stacked: [max_loras, 1, rank, hidden].
            lora_b_stacked: [max_loras, 1, vocabulary, rank]; either vocabulary may
                be padded.
            scale: factor of the products.
            buffer: not needed.

        """
        y = y.view(-1, y.shape[-1])
        torch.ops.vllm.npu_lora_linear(
            y,
            x.reshape(-1, x.shape[-1]),
            (lora_a_stacked,),
            (lora_b_stacked,),
            self._sampler_mask,
            self._sampler_in_use,
            scale,
            (y.shape[-1],),
            True,
        )

    # npu-migrate: when punica_has_full_linear
    def apply_lora_full_linear(
        self,
        y: torch.Tensor,
        x: torch.Tensor,
        weight_stacked: torch.Tensor,
        bias_stacked: torch.Tensor,
        module_enabled: torch.Tensor,
    ) -> None:
        """Replace y by the output of a request's own layer, where it has one.

        Args:
            y: [num_requests, labels], changed in place.
            x: [num_requests, hidden]
            weight_stacked: [max_loras, 1, labels, hidden].
            bias_stacked: [max_loras, labels].
            module_enabled: [max_loras] bool, the adapter has such a layer.

        """
        adapter_y = torch.empty(
            (1, x.shape[0], weight_stacked.shape[-2]),
            dtype=torch.float32,
            device=x.device,
        )
        torch.ops.vllm.npu_lora_shrink(
            adapter_y,
            x,
            (weight_stacked,),
            self._sampler_mask,
            self._sampler_in_use,
            1.0,
        )
        y.copy_(
            self._select_full_linear_output(
                y, adapter_y[0], bias_stacked, module_enabled
            )
        )

    # npu-migrate: end


def _slots_of(
    adapters: tuple[int, ...], lora_index_to_id: list[int | None]
) -> np.ndarray:
    """The slot of each adapter, -1 for an id of 0, which is none.

    Raises:
        ValueError: An adapter is in no slot.

    """
    ids = np.asarray(adapters, dtype=np.int64)
    slots = np.full(ids.shape, -1, dtype=np.int64)
    for slot, adapter in enumerate(lora_index_to_id):
        if adapter is not None:
            slots[ids == adapter] = slot
    missing = ids[(ids > 0) & (slots < 0)]
    if len(missing):
        raise ValueError(f"LoRA adapter {missing[0]} is not in any slot.")
    return slots
