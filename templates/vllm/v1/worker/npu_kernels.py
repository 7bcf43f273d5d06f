# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright contributors to the vLLM project
"""What the model runner computes with Triton kernels elsewhere, for an NPU."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

import numpy as np
import torch

if TYPE_CHECKING:
    from vllm.v1.worker.block_table import BlockTable
    from vllm.v1.worker.gpu_input_batch import InputBatch

PAD_SLOT_ID = -1

# The largest k that `npu_top_k_top_p` takes.
MAX_OPERATOR_K = 1024

# Rows of logits for which a mask of 4 bytes a token is on the device at a time.
BITMASK_ROWS = 32


def _to_device(array: np.ndarray, device: torch.device) -> torch.Tensor:
    """Copy an array without waiting: from pageable memory every copy waits."""
    tensor = torch.from_numpy(array)
    if device.type == "npu":
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)


def compute_slot_mapping(
    block_table: BlockTable,
    num_reqs: int,
    query_start_loc: torch.Tensor,
    positions: torch.Tensor,
) -> None:
    """Fill `block_table.slot_mapping` for the tokens of a batch.

    A token at position p of its request goes to slot
    `block_table[request, p // block_size] * block_size + p % block_size`. The
    slots after the batch are padding.

    Args:
        block_table: of one KV cache group.
        num_reqs: number of requests in the batch.
        query_start_loc: [>= num_reqs + 1] int32, on the device.
        positions: [num_tokens] int64, on the device.

    """
    world_size = getattr(block_table, "dcp_world_size", 1)
    world_size *= getattr(block_table, "pcp_world_size", 1)
    if world_size > 1:
        raise NotImplementedError("NPU: context parallelism is not supported.")
    num_tokens = positions.shape[0]
    block_size = block_table.block_size
    slots = block_table.slot_mapping.gpu
    table = block_table.block_table.gpu
    # All in int32: search, division, sums and scatter of int64 are left to the
    # device's CPU. A request begins where the ones before it end; one without
    # tokens begins where the next one does. The last request also takes tokens
    # of graph padding: their slots are harmless, attention stops before them.
    starts = query_start_loc[1:num_reqs]
    begins = torch.zeros(num_tokens + 1, dtype=torch.int32, device=positions.device)
    begins.index_add_(0, starts, torch.ones_like(starts))
    requests = begins[:num_tokens].cumsum(0, dtype=torch.int32)
    tokens = positions.to(torch.int32)
    columns = torch.div(tokens, block_size, rounding_mode="floor")
    where = torch.add(columns, requests, alpha=table.stride(0))
    blocks = table.flatten().index_select(0, where)
    # block * block_size + p % block_size, with p // block_size already there.
    slots[:num_tokens] = torch.add(tokens, blocks - columns, alpha=block_size)
    slots[num_tokens:].fill_(PAD_SLOT_ID)


def keep_top_k_on_host(input_batch: InputBatch) -> None:
    """Leave the batch's k where `apply_top_k_top_p` finds them without waiting."""
    top_k = input_batch.sampling_metadata.top_k
    if top_k is not None:
        top_k.npu_host_values = input_batch.top_k_cpu[: top_k.shape[0]].copy()


def apply_top_k_top_p(
    logits: torch.Tensor, k: torch.Tensor | None, p: torch.Tensor | None
) -> torch.Tensor:
    """Forbid the tokens outside of the top k and the nucleus of p of each row.

    Rows whose k the operator does not take are cut apart: those without top-k,
    whose k is the size of the vocabulary, by p alone; the others by a sort.

    Args:
        logits: [num_rows, vocab_size], may be changed.
        k: [num_rows] integers from 1 to vocab_size.
        p: [num_rows] floats from 0 to 1.

    """
    if k is None:
        return logits if p is None else _cut_by_operator(logits, None, p)
    host_k = getattr(k, "npu_host_values", None)
    if host_k is None or host_k.shape != tuple(k.shape):
        # Nobody kept them: this waits for the device.
        host_k = k.cpu().numpy()
    taken = host_k <= MAX_OPERATOR_K
    if taken.all():
        return _cut_by_operator(logits, k, p)
    without = ~taken & (host_k >= logits.shape[1])
    for mask, by_k, cut in (
        (taken, True, _cut_by_operator),
        (without, False, _cut_by_operator),
        (~taken & ~without, True, _cut_by_sort),
    ):
        if not mask.any() or (p is None and not by_k):
            continue
        rows = _to_device(np.flatnonzero(mask), logits.device)
        part = cut(
            logits.index_select(0, rows),
            k.index_select(0, rows) if by_k else None,
            None if p is None else p.index_select(0, rows),
        )
        logits.index_copy_(0, rows, part)
    return logits


def _cut_by_operator(
    logits: torch.Tensor, k: torch.Tensor | None, p: torch.Tensor | None
) -> torch.Tensor:
    # All else here is computed on any device.
    import torch_npu

    return torch_npu.npu_top_k_top_p(
        logits,
        None if p is None else p.to(logits.dtype),
        None if k is None else k.to(torch.int32),
    )


def _cut_by_sort(
    logits: torch.Tensor, k: torch.Tensor, p: torch.Tensor | None
) -> torch.Tensor:
    values, order = logits.sort(dim=-1)
    least = values.gather(1, (logits.shape[1] - k.long()).unsqueeze(1))
    values.masked_fill_(values < least, float("-inf"))
    if p is not None:
        mass = values.softmax(dim=-1).cumsum(dim=-1)
        dropped = mass <= 1 - p.unsqueeze(1)
        dropped[:, -1] = False
        values.masked_fill_(dropped, float("-inf"))
    return logits.scatter(1, order, values)


@cache
def words_of_bits(device: torch.device) -> torch.Tensor:
    """[32] int32: a word with bit i alone, for each i."""
    return _to_device((1 << np.arange(32, dtype=np.uint32)).view(np.int32), device)


def apply_token_bitmask(logits: torch.Tensor, bitmask: np.ndarray) -> None:
    """Forbid tokens, like xgrammar's `apply_token_bitmask_inplace`.

    Args:
        logits: [num_rows, vocab_size], -inf is written where a token is forbidden.
        bitmask: [num_rows, num_words] int32, on the host: bit i of word w allows
            token 32 * w + i. Tokens that it has no bit for are allowed.

    """
    vocab_size = min(logits.shape[-1], 32 * bitmask.shape[-1])
    for start in range(0, logits.shape[0], BITMASK_ROWS):
        rows = slice(start, start + BITMASK_ROWS)
        if (bitmask[rows] == -1).all():
            continue
        words = _to_device(bitmask[rows], logits.device).unsqueeze(-1)
        forbidden = words.bitwise_and(words_of_bits(logits.device)).eq(0).flatten(1)
        logits[rows, :vocab_size].masked_fill_(forbidden[:, :vocab_size], float("-inf"))
