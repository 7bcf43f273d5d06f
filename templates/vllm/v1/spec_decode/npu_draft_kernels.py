# npu-migrate: when draft_inputs_have_kernels
# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright contributors to the vLLM project
"""The kernels of `spec_decode.utils`, of operators that an NPU has.

Nothing here waits for the device, and no shape depends on what was accepted.
Parameters are called as those of the kernels.
"""

from __future__ import annotations

from typing import Any

import torch

from vllm.triton_utils.npu_overrides import Launcher, Replacement, rows_of_tokens


def eagle_step_slot_mapping_metadata(
    positions_ptr: torch.Tensor,
    block_table_ptr: torch.Tensor,
    block_table_stride: int,
    seq_lens_ptr: torch.Tensor,
    out_clamped_positions_ptr: torch.Tensor,
    out_slot_mapping_ptr: torch.Tensor,
    block_size: int,
    max_model_len: int,
    n_blocks_per_req: int,
    PAD_ID: int,
    batch_size: int,
) -> None:
    """Move each request on by one drafted token.

    Args:
        positions_ptr: [batch_size] int64: where the last token is.
        block_table_ptr: [>= batch_size, n_blocks_per_req] int32.
        seq_lens_ptr: [>= batch_size] int32, written in place.
        out_clamped_positions_ptr: [batch_size] int64, written; may be
            `positions_ptr`. A position beyond the model's length becomes 0.
        out_slot_mapping_ptr: [>= batch_size] int64, written; `PAD_ID` for a token
            that is beyond the model's length and after the batch.
        PAD_ID: slot of what is not written.
        batch_size: number of requests.
        block_size: tokens of a block.
        block_table_stride: not needed.
        max_model_len: the most tokens of a request.
        n_blocks_per_req: columns of the block table.

    """
    # In int32: division of int64 is left to the device's CPU.
    after = positions_ptr[:batch_size].to(torch.int32) + 1
    beyond = after >= max_model_len
    after = torch.where(beyond, 0, after)
    columns = torch.div(after, block_size, rounding_mode="floor")
    where = columns.clamp(max=n_blocks_per_req - 1).long().unsqueeze(1)
    blocks = block_table_ptr[:batch_size].gather(1, where).squeeze(1)
    slots = torch.add(after, blocks - columns, alpha=block_size)
    lengths = seq_lens_ptr[:batch_size]
    longer = torch.where(beyond, 1, lengths + 1).clamp(max=max_model_len)
    out_clamped_positions_ptr[:batch_size] = after
    out_slot_mapping_ptr[:batch_size] = torch.where(beyond, PAD_ID, slots)
    out_slot_mapping_ptr[batch_size:].fill_(PAD_ID)
    lengths.copy_(longer)


def eagle_prepare_inputs_padded(
    cu_num_draft_tokens_ptr: torch.Tensor,
    valid_sampled_tokens_count_ptr: torch.Tensor,
    query_start_loc_gpu_ptr: torch.Tensor,
    token_indices_to_sample_ptr: torch.Tensor,
    num_rejected_tokens_gpu_ptr: torch.Tensor | None = None,
    num_reqs: int = 0,
) -> None:
    """Find each request's last token that was not rejected.

    Args:
        cu_num_draft_tokens_ptr: [>= num_reqs] int32: where its drafts end.
        valid_sampled_tokens_count_ptr: [>= num_reqs] int32: accepted ones and one.
        query_start_loc_gpu_ptr: [>= num_reqs + 1] int32.
        token_indices_to_sample_ptr: [>= num_reqs] int32, written.
        num_rejected_tokens_gpu_ptr: [>= num_reqs] int32, written.
        num_reqs: number of requests.

    """
    ends = cu_num_draft_tokens_ptr[:num_reqs]
    drafts = torch.diff(ends, prepend=ends.new_zeros(1))
    rejected = drafts + 1 - valid_sampled_tokens_count_ptr[:num_reqs]
    rejected = torch.where(drafts > 0, rejected, 0)
    last = query_start_loc_gpu_ptr[1 : num_reqs + 1] - 1
    token_indices_to_sample_ptr[:num_reqs] = last - rejected
    if num_rejected_tokens_gpu_ptr is not None:
        num_rejected_tokens_gpu_ptr[:num_reqs] = rejected


def eagle_prepare_next_token_padded(
    sampled_token_ids_ptr: torch.Tensor,
    discard_request_mask_ptr: torch.Tensor,
    backup_next_token_ids_ptr: torch.Tensor,
    next_token_ids_ptr: torch.Tensor,
    valid_sampled_tokens_count_ptr: torch.Tensor,
    vocab_size: int,
    num_sampled_tokens_per_req: int,
    num_reqs: int,
    stride_sampled_token_ids: int,
    BLOCK_SIZE_TOKENS: int,
) -> None:
    """Find each request's last sampled token, and how many there are.

    Args:
        sampled_token_ids_ptr: [num_reqs, num_sampled_tokens_per_req]; rejected ones
            are -1.
        discard_request_mask_ptr: [>= num_reqs] bool: nothing was sampled.
        backup_next_token_ids_ptr: [>= num_reqs]: for requests with no valid token.
        next_token_ids_ptr: [num_reqs], written.
        valid_sampled_tokens_count_ptr: [num_reqs], written.
        BLOCK_SIZE_TOKENS: not needed.
        num_reqs: number of requests.
        num_sampled_tokens_per_req: columns of the sampled tokens.
        stride_sampled_token_ids: not needed.
        vocab_size: size of the vocabulary.

    """
    tokens = sampled_token_ids_ptr[:num_reqs, :num_sampled_tokens_per_req]
    valid = (tokens != -1) & (tokens < vocab_size)
    valid &= ~discard_request_mask_ptr[:num_reqs].unsqueeze(1)
    place = torch.arange(tokens.shape[1], dtype=torch.int32, device=tokens.device)
    last = torch.where(valid, place, -1).amax(1, keepdim=True)
    found = tokens.gather(1, last.clamp(min=0).long())
    backup = backup_next_token_ids_ptr[:num_reqs].unsqueeze(1).to(found.dtype)
    next_token_ids_ptr[:num_reqs] = torch.where(last < 0, backup, found).squeeze(1)
    valid_sampled_tokens_count_ptr[:num_reqs] = valid.sum(1, dtype=torch.int32)


def copy_and_expand_eagle_inputs(
    target_token_ids_ptr: torch.Tensor,
    target_positions_ptr: torch.Tensor,
    next_token_ids_ptr: torch.Tensor,
    out_input_ids_ptr: torch.Tensor,
    out_positions_ptr: torch.Tensor,
    out_is_rejected_token_mask_ptr: torch.Tensor,
    out_is_masked_token_mask_ptr: torch.Tensor,
    out_new_token_indices_ptr: torch.Tensor,
    out_hidden_state_mapping_ptr: torch.Tensor,
    query_start_loc_ptr: torch.Tensor,
    query_end_loc_ptr: torch.Tensor,
    padding_token_id: int,
    parallel_drafting_token_id: int,
    total_input_tokens: int,
    num_padding_slots_per_request: int,
    shift_input_ids: bool,
    BLOCK_SIZE_TOKENS: int,
) -> None:
    """Lay out a batch anew with room for each request's new tokens.

    A request's row becomes its valid tokens (without the first one, where
    `shift_input_ids`), the sampled one, tokens of parallel drafting, and padding in
    the place of rejected ones.

    Args:
        target_token_ids_ptr: [total_input_tokens] int32.
        target_positions_ptr: [total_input_tokens] int64.
        next_token_ids_ptr: [num_reqs] int32: the sampled token of each.
        out_new_token_indices_ptr: [num_reqs * num_padding_slots_per_request] int32,
            written: where the sampled token and those of parallel drafting are.
        out_hidden_state_mapping_ptr: [total_input_tokens] int32, written where
            `shift_input_ids`: where each token's hidden state goes.
        query_start_loc_ptr: [num_reqs + 1] int32.
        query_end_loc_ptr: [num_reqs] int32: each request's last valid token.
        BLOCK_SIZE_TOKENS: not needed.
        num_padding_slots_per_request: rows that each request has more.
        out_input_ids_ptr: [>= num_out], written.
        out_is_masked_token_mask_ptr: [>= num_out] bool, written: parallel drafting.
        out_is_rejected_token_mask_ptr: [>= num_out] bool, written: padding.
        out_positions_ptr: [>= num_out], written.
        padding_token_id: token in the place of rejected ones.
        parallel_drafting_token_id: token of parallel drafting.
        shift_input_ids: the first token of each request goes.
        total_input_tokens: rows before.

    """
    device = query_end_loc_ptr.device
    num_reqs = query_end_loc_ptr.shape[0]
    room = num_padding_slots_per_request
    more = room - 1 if shift_input_ids else room
    num_out = total_input_tokens + more * num_reqs
    shift = 1 if shift_input_ids else 0
    numbers = torch.arange(num_reqs + 1, dtype=torch.int32, device=device)
    starts = query_start_loc_ptr[:-1]
    out_starts = query_start_loc_ptr[: num_reqs + 1] + more * numbers
    num_valid = query_end_loc_ptr - starts + (1 - shift)

    rows = rows_of_tokens(out_starts[1:], num_out)
    out = torch.arange(num_out, dtype=torch.int32, device=device)
    offset = out - out_starts.index_select(0, rows)
    begin = starts.index_select(0, rows)
    valid = num_valid.index_select(0, rows)
    rejected = offset >= valid + room
    masked = (offset > valid) & ~rejected

    source = (begin + shift + offset).clamp(max=total_input_tokens - 1)
    tokens = target_token_ids_ptr.index_select(0, source)
    sampled = next_token_ids_ptr.index_select(0, rows).to(tokens.dtype)
    tokens = torch.where(offset == valid, sampled, tokens)
    tokens = torch.where(masked, parallel_drafting_token_id, tokens)
    first = target_positions_ptr.index_select(0, begin)
    out_input_ids_ptr[:num_out] = torch.where(rejected, padding_token_id, tokens)
    out_positions_ptr[:num_out] = torch.where(rejected, 0, first + offset)
    out_is_rejected_token_mask_ptr[:num_out] = rejected
    out_is_masked_token_mask_ptr[:num_out] = masked
    new = torch.arange(room, dtype=torch.int32, device=device)
    new = (out_starts[:-1] + num_valid).unsqueeze(1) + new
    out_new_token_indices_ptr[: num_reqs * room] = new.flatten()
    if shift_input_ids:
        at = torch.arange(total_input_tokens, dtype=torch.int32, device=device)
        rows = rows_of_tokens(query_start_loc_ptr[1:], total_input_tokens)
        out_hidden_state_mapping_ptr[:total_input_tokens] = at + more * rows


REPLACEMENTS: dict[str, Replacement] = {
    "eagle_step_slot_mapping_metadata_kernel": eagle_step_slot_mapping_metadata,
    "eagle_prepare_inputs_padded_kernel": eagle_prepare_inputs_padded,
    "eagle_prepare_next_token_padded_kernel": eagle_prepare_next_token_padded,
    "copy_and_expand_eagle_inputs_kernel": copy_and_expand_eagle_inputs,
}
"""What stands for each kernel of `spec_decode.utils`, by its name there."""


def npu_kernel(kernel: Any) -> Launcher:
    """What is launched instead of a kernel."""
    return Launcher(kernel, REPLACEMENTS[kernel.__name__])


# npu-migrate: end
