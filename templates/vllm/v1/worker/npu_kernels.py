# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright contributors to the vLLM project
"""What the model runner computes with Triton kernels elsewhere, for an NPU."""

from typing import TYPE_CHECKING

import numpy as np
import torch

if TYPE_CHECKING:
    from vllm.v1.worker.block_table import BlockTable

PAD_SLOT_ID = -1


def compute_slot_mapping(
    block_table: "BlockTable",
    num_reqs: int,
    query_start_loc: torch.Tensor,
    positions: torch.Tensor,
) -> None:
    """Fill `block_table.slot_mapping` for the tokens of a batch.

    A token at position p of its request goes to slot
    `block_table[request, p // block_size] * block_size + p % block_size`. The
    slots after the batch are padding.

    Args:
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
    tokens = torch.arange(num_tokens, device=positions.device)
    ends = query_start_loc[1 : num_reqs + 1].to(torch.int64)
    # The last request also takes tokens of graph padding: their slots are
    # harmless, the attention operators stop at the end of the batch.
    requests = torch.bucketize(tokens, ends, right=True).clamp_(max=num_reqs - 1)
    blocks = block_table.block_table.gpu[requests, positions // block_size]
    slots[:num_tokens] = blocks.to(slots.dtype) * block_size + positions % block_size
    slots[num_tokens:].fill_(PAD_SLOT_ID)


def apply_token_bitmask(logits: torch.Tensor, bitmask: np.ndarray) -> None:
    """Forbid tokens, like xgrammar's `apply_token_bitmask_inplace`.

    Args:
        logits: [num_rows, vocab_size], -inf is written where a token is forbidden.
        bitmask: [num_rows, num_words] int32, on the host: bit i of word w allows
            token 32 * w + i. Tokens that it has no bit for are allowed.
    """
    bits = np.unpackbits(bitmask.view(np.uint8), axis=-1, bitorder="little")
    vocab_size = min(logits.shape[-1], bits.shape[-1])
    forbidden = torch.from_numpy(bits[:, :vocab_size] == 0).to(logits.device)
    logits[:, :vocab_size].masked_fill_(forbidden, float("-inf"))
