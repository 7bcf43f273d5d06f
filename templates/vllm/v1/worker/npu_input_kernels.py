# npu-migrate: when platform_registers_kernels
# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright contributors to the vLLM project
"""The kernels by which model runner V2 makes its input, of operators that an NPU has.

They are launched where Triton has no NPU. Nothing here waits for the device, and no
shape depends on what a tensor holds. Parameters are called as those of the kernels.
`idx_mapping_ptr` [num_reqs] says which row of a state each request of the batch has.

Integers are int32 wherever they are computed with: sums and scatters of int64 are
left to the device's CPU. Rows of a state are written by their differences, so that
a request that is left out adds nothing.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch

from vllm.triton_utils.npu_overrides import (
    Launcher,
    Replacement,
    by_name,
    rows_of_tokens,
)


def _numbers(num_tokens: int, like: torch.Tensor) -> torch.Tensor:
    """[num_tokens] int32: 0, 1, 2, …"""
    return torch.arange(num_tokens, dtype=torch.int32, device=like.device)


def _own_places(bounds: torch.Tensor, requests: torch.Tensor) -> torch.Tensor:
    """[num_tokens] int32: how many tokens of a token's request are before it.

    Args:
        bounds: [>= num_reqs + 1] int32: where requests begin.
        requests: [num_tokens] int32: of `rows_of_tokens`.

    """
    return _numbers(requests.shape[0], bounds) - bounds.index_select(0, requests)


def _inside(ends: torch.Tensor, num_tokens: int) -> torch.Tensor:
    """[num_tokens] bool: is it a token of the batch, or behind it in its buffer?

    Args:
        ends: [num_reqs] int32: where requests end.
        num_tokens: length of the buffer.

    """
    return _numbers(num_tokens, ends) < ends[-1:]


def _read(
    table: torch.Tensor, rows: torch.Tensor, columns: torch.Tensor
) -> torch.Tensor:
    """`table` [num_rows, width] at rows and columns, which are in the table."""
    where = columns.long().add_(rows, alpha=table.stride(0))
    return table.view(-1).index_select(0, where.flatten()).view(where.shape)


def prepare_prefill_inputs(
    input_ids_ptr: torch.Tensor,
    next_prefill_tokens_ptr: torch.Tensor,
    next_prefill_tokens_stride: int,
    num_lookahead: int,
    idx_mapping_ptr: torch.Tensor,
    query_start_loc_ptr: torch.Tensor,
    all_token_ids_ptr: torch.Tensor,
    all_token_ids_stride: int,
    prefill_lens_ptr: torch.Tensor,
    num_computed_tokens_ptr: torch.Tensor,
    BLOCK_SIZE: int,
    LOOKAHEAD_BLOCK: int,
) -> None:
    """Copy the tokens of prompts, and those that follow.

    Args:
        input_ids_ptr: [max_num_tokens] int32; tokens of prompts are written.
        next_prefill_tokens_ptr: [num_lookahead, max_num_reqs] int32: what follows
            the step's tokens of a prompt, 0 behind its end.
        idx_mapping_ptr: [num_reqs].
        query_start_loc_ptr: [>= num_reqs + 1] int32.
        all_token_ids_ptr: [max_num_reqs, max_model_len] int32.
        prefill_lens_ptr: [max_num_reqs] int32.
        num_computed_tokens_ptr: [max_num_reqs] int32.
        num_lookahead: how many follow.
        BLOCK_SIZE: not needed.
        LOOKAHEAD_BLOCK: not needed.
        all_token_ids_stride: not needed.
        next_prefill_tokens_stride: not needed.

    """
    states = idx_mapping_ptr.long()
    num_reqs = states.shape[0]
    length = prefill_lens_ptr.index_select(0, states)
    computed = num_computed_tokens_ptr.index_select(0, states)
    prefills = computed < length
    ends = query_start_loc_ptr[1 : num_reqs + 1]
    num_tokens = input_ids_ptr.shape[0]
    last = all_token_ids_ptr.shape[1] - 1
    requests = rows_of_tokens(ends, num_tokens)
    columns = computed.index_select(0, requests)
    columns = columns + _own_places(query_start_loc_ptr, requests)
    columns = columns.clamp(max=last)
    tokens = _read(all_token_ids_ptr, states.index_select(0, requests), columns)
    inside = _inside(ends, num_tokens) & prefills.index_select(0, requests)
    input_ids_ptr.copy_(torch.where(inside, tokens, input_ids_ptr))

    done = (computed + ends - query_start_loc_ptr[:num_reqs]).unsqueeze(1)
    columns = done + _numbers(num_lookahead, ends)
    tokens = _read(all_token_ids_ptr, states.unsqueeze(1), columns.clamp(max=last))
    tokens = torch.where(columns < length.unsqueeze(1), tokens, 0).t()
    kept = next_prefill_tokens_ptr.index_select(1, states)
    tokens = torch.where(prefills, tokens, kept)
    next_prefill_tokens_ptr.index_copy_(1, states, tokens)


def prepare_pos_seq_lens(
    pos_ptr: torch.Tensor,
    seq_lens_ptr: torch.Tensor,
    idx_mapping_ptr: torch.Tensor,
    query_start_loc_ptr: torch.Tensor,
    num_computed_tokens_ptr: torch.Tensor,
    max_num_reqs: int,
    BLOCK_SIZE: int,
) -> None:
    """Write the positions of the batch's tokens, and the lengths of its requests.

    Args:
        pos_ptr: [max_num_tokens] int64; those of the batch's tokens are written.
        seq_lens_ptr: [max_num_reqs] int32, written; 0 behind the batch.
        idx_mapping_ptr: [num_reqs].
        query_start_loc_ptr: [>= num_reqs + 1] int32.
        num_computed_tokens_ptr: [max_num_reqs] int32.
        BLOCK_SIZE: not needed.
        max_num_reqs: not needed.

    """
    num_reqs = idx_mapping_ptr.shape[0]
    computed = num_computed_tokens_ptr.index_select(0, idx_mapping_ptr)
    starts = query_start_loc_ptr[:num_reqs]
    ends = query_start_loc_ptr[1 : num_reqs + 1]
    seq_lens_ptr[:num_reqs] = computed + ends - starts
    seq_lens_ptr[num_reqs:].fill_(0)
    num_tokens = pos_ptr.shape[0]
    requests = rows_of_tokens(ends, num_tokens)
    positions = computed.index_select(0, requests)
    positions = positions + _own_places(query_start_loc_ptr, requests)
    inside = _inside(ends, num_tokens)
    pos_ptr.copy_(torch.where(inside, positions.to(pos_ptr.dtype), pos_ptr))


def combine_sampled_and_draft_tokens(
    input_ids_ptr: torch.Tensor,
    idx_mapping_ptr: torch.Tensor,
    last_sampled_tokens_ptr: torch.Tensor,
    query_start_loc_ptr: torch.Tensor,
    seq_lens_ptr: torch.Tensor,
    prefill_len_ptr: torch.Tensor,
    draft_tokens_ptr: torch.Tensor,
    draft_tokens_stride: int,
    cu_num_logits_ptr: torch.Tensor,
    logits_indices_ptr: torch.Tensor,
    BLOCK_SIZE: int,
    NUM_NEW_SAMPLED_TOKENS: int = 1,
) -> None:
    """Say which tokens' logits are needed, and write those that were generated.

    Args:
        input_ids_ptr: [max_num_tokens] int32; generated tokens are written.
        idx_mapping_ptr: [num_reqs].
        last_sampled_tokens_ptr: [max_num_reqs, 1] int64.
        query_start_loc_ptr: [>= num_reqs + 1] int32.
        seq_lens_ptr: [>= num_reqs] int32.
        prefill_len_ptr: [max_num_reqs] int32.
        draft_tokens_ptr: [max_num_reqs, num_drafts] int64.
        cu_num_logits_ptr: [num_reqs + 1] int32: where each request's logits begin.
        logits_indices_ptr: [num_logits] int64, written: tokens of the batch.
        NUM_NEW_SAMPLED_TOKENS: tokens of a request that are no drafts, 0 or 1.
        BLOCK_SIZE: not needed.
        draft_tokens_stride: not needed.

    """
    num_reqs = idx_mapping_ptr.shape[0]
    ends = cu_num_logits_ptr[1 : num_reqs + 1]
    requests = rows_of_tokens(ends, logits_indices_ptr.shape[0])
    place = _own_places(cu_num_logits_ptr, requests)
    counts = ends - cu_num_logits_ptr[:num_reqs]
    starts = query_start_loc_ptr[1 : num_reqs + 1] - counts
    where = (starts.index_select(0, requests) + place).long()
    logits_indices_ptr.copy_(where)

    prefill = prefill_len_ptr.index_select(0, idx_mapping_ptr)
    lengths = seq_lens_ptr[:num_reqs]
    states = idx_mapping_ptr.index_select(0, requests)
    written = (lengths > prefill).index_select(0, requests)
    tokens = input_ids_ptr.index_select(0, where)
    if NUM_NEW_SAMPLED_TOKENS:
        # A prompt's last token stays.
        sampled = (lengths - counts >= prefill).index_select(0, requests)
        last = last_sampled_tokens_ptr.view(-1).index_select(0, states)
        last = torch.where(sampled, last.to(tokens.dtype), tokens)
    else:
        last = tokens
    if draft_tokens_ptr.shape[1]:
        column = place - NUM_NEW_SAMPLED_TOKENS
        drafts = _read(draft_tokens_ptr, states, column.clamp(min=0)).to(tokens.dtype)
        last = torch.where(column < 0, last, drafts)
    input_ids_ptr.scatter_(0, where, torch.where(written, last, tokens))


def get_num_sampled_and_rejected(
    num_sampled_ptr: torch.Tensor,
    num_rejected_ptr: torch.Tensor,
    seq_lens_ptr: torch.Tensor,
    cu_num_logits_ptr: torch.Tensor,
    idx_mapping_ptr: torch.Tensor,
    prefill_len_ptr: torch.Tensor,
) -> None:
    """Count what was sampled and rejected; nothing within a prompt.

    Args:
        num_sampled_ptr: [num_reqs] int32, changed in place.
        num_rejected_ptr: [num_reqs] int32, written.
        seq_lens_ptr: [>= num_reqs] int32.
        cu_num_logits_ptr: [num_reqs + 1] int32.
        idx_mapping_ptr: [num_reqs].
        prefill_len_ptr: [max_num_reqs] int32.

    """
    num_reqs = idx_mapping_ptr.shape[0]
    prefill = prefill_len_ptr.index_select(0, idx_mapping_ptr)
    done = (seq_lens_ptr[:num_reqs] >= prefill).to(torch.int32)
    num_logits = cu_num_logits_ptr[1 : num_reqs + 1] - cu_num_logits_ptr[:num_reqs]
    num_sampled_ptr[:num_reqs].mul_(done)
    num_rejected_ptr[:num_reqs] = num_logits * done - num_sampled_ptr[:num_reqs]


def post_update(
    idx_mapping_ptr: torch.Tensor,
    num_computed_tokens_ptr: torch.Tensor,
    last_sampled_tokens_ptr: torch.Tensor,
    output_bin_counts_ptr: torch.Tensor | None,
    output_bin_counts_stride: int,
    sampled_tokens_ptr: torch.Tensor,
    sampled_tokens_stride: int,
    num_sampled_ptr: torch.Tensor,
    num_rejected_ptr: torch.Tensor,
    query_start_loc_ptr: torch.Tensor | None,
    all_token_ids_ptr: torch.Tensor,
    all_token_ids_stride: int,
    total_len_ptr: torch.Tensor,
    draft_tokens_ptr: torch.Tensor | None = None,
    draft_tokens_out_ptr: torch.Tensor | None = None,
    num_draft_tokens: int = 0,
) -> None:
    """Add what was sampled to the states of the requests.

    Args:
        idx_mapping_ptr: [num_reqs]; a request of a negative one is left out.
        num_computed_tokens_ptr: [max_num_reqs] int32, changed in place.
        last_sampled_tokens_ptr: [max_num_reqs, 1] int64, changed in place.
        output_bin_counts_ptr: [max_num_reqs, vocab_size] int32, changed in place.
        sampled_tokens_ptr: [num_reqs, width] int64.
        num_sampled_ptr: [num_reqs] int32: how many of them count.
        num_rejected_ptr: [num_reqs] int32.
        query_start_loc_ptr: [>= num_reqs + 1] int32; None: no tokens were computed.
        all_token_ids_ptr: [max_num_reqs, max_model_len] int32, changed in place.
        total_len_ptr: [max_num_reqs] int32, changed in place.
        draft_tokens_ptr: [num_reqs, num_drafts] int64, of the next step.
        draft_tokens_out_ptr: [max_num_reqs, num_drafts] int64, written.
        all_token_ids_stride: not needed.
        num_draft_tokens: not needed.
        output_bin_counts_stride: not needed.
        sampled_tokens_stride: not needed.

    """
    num_reqs = idx_mapping_ptr.shape[0]
    kept = idx_mapping_ptr >= 0
    states = idx_mapping_ptr.clamp(min=0).long()
    counts = torch.where(kept, num_sampled_ptr[:num_reqs], 0)
    lengths = total_len_ptr.index_select(0, states)
    total_len_ptr.index_add_(0, states, counts)

    tokens = sampled_tokens_ptr[:num_reqs].to(torch.int32)
    last = (counts - 1).clamp_(min=0).long().unsqueeze(1)
    last = sampled_tokens_ptr[:num_reqs].gather(1, last).squeeze(1)
    memory = last_sampled_tokens_ptr.view(-1)
    change = last - memory.index_select(0, states)
    memory.index_add_(0, states, torch.where(counts > 0, change, 0))

    lane = _numbers(tokens.shape[1], states)
    valid = lane < counts.unsqueeze(1)
    columns = (lengths.unsqueeze(1) + lane).clamp_(max=all_token_ids_ptr.shape[1] - 1)
    where = columns.long()
    where.add_(states.unsqueeze(1), alpha=all_token_ids_ptr.stride(0))
    memory = all_token_ids_ptr.view(-1)
    change = tokens - memory.index_select(0, where.flatten()).view(tokens.shape)
    change = torch.where(valid, change, 0)
    memory.index_add_(0, where.flatten(), change.flatten())
    if output_bin_counts_ptr is not None:
        where = torch.where(valid, tokens, 0).long()
        where.add_(states.unsqueeze(1), alpha=output_bin_counts_ptr.stride(0))
        ones = valid.to(torch.int32)
        output_bin_counts_ptr.view(-1).index_add_(0, where.flatten(), ones.flatten())

    change = -num_rejected_ptr[:num_reqs]
    if query_start_loc_ptr is not None:
        change = change + query_start_loc_ptr[1 : num_reqs + 1]
        change = change - query_start_loc_ptr[:num_reqs]
    num_computed_tokens_ptr.index_add_(0, states, torch.where(kept, change, 0))
    if draft_tokens_ptr is not None:
        assert draft_tokens_out_ptr is not None
        drafts = draft_tokens_ptr[:num_reqs]
        change = drafts - draft_tokens_out_ptr.index_select(0, states)
        change = torch.where(kept.unsqueeze(1), change, 0)
        draft_tokens_out_ptr.index_add_(0, states, change)


def post_update_num_computed_tokens(
    idx_mapping_ptr: torch.Tensor,
    num_computed_tokens_ptr: torch.Tensor,
    query_start_loc_ptr: torch.Tensor,
) -> None:
    """Add the step's tokens to those that are computed.

    Args:
        idx_mapping_ptr: [num_reqs].
        num_computed_tokens_ptr: [max_num_reqs] int32, changed in place.
        query_start_loc_ptr: [>= num_reqs + 1] int32.

    """
    num_reqs = idx_mapping_ptr.shape[0]
    step = query_start_loc_ptr[1 : num_reqs + 1] - query_start_loc_ptr[:num_reqs]
    num_computed_tokens_ptr.index_add_(0, idx_mapping_ptr.long(), step)


def expand_idx_mapping(
    idx_mapping_ptr: torch.Tensor,
    expanded_idx_mapping_ptr: torch.Tensor,
    expanded_local_pos_ptr: torch.Tensor,
    cu_num_logits_ptr: torch.Tensor,
    BLOCK_SIZE: int,
) -> None:
    """Repeat each request's row for all of its logits.

    Args:
        idx_mapping_ptr: [num_reqs].
        expanded_idx_mapping_ptr: [num_logits], written.
        expanded_local_pos_ptr: [num_logits], written: which of the request's.
        cu_num_logits_ptr: [num_reqs + 1] int32: where each request's begin.
        BLOCK_SIZE: not needed.

    """
    ends = cu_num_logits_ptr[1 : idx_mapping_ptr.shape[0] + 1]
    requests = rows_of_tokens(ends, expanded_idx_mapping_ptr.shape[0])
    expanded_idx_mapping_ptr.copy_(idx_mapping_ptr.index_select(0, requests))
    expanded_local_pos_ptr.copy_(_own_places(cu_num_logits_ptr, requests))


def prompt_logprobs_token_ids(
    prompt_logprobs_token_ids_ptr: torch.Tensor,
    query_start_loc_ptr: torch.Tensor,
    idx_mapping_ptr: torch.Tensor,
    num_computed_tokens_ptr: torch.Tensor,
    all_token_ids_ptr: torch.Tensor,
    all_token_ids_stride: int,
    BLOCK_SIZE: int,
) -> None:
    """Write the token that follows each of the batch's.

    Args:
        prompt_logprobs_token_ids_ptr: [num_tokens] int64, written.
        query_start_loc_ptr: [>= num_reqs + 1] int32.
        idx_mapping_ptr: [num_reqs].
        num_computed_tokens_ptr: [max_num_reqs] int32.
        all_token_ids_ptr: [max_num_reqs, max_model_len] int32.
        BLOCK_SIZE: not needed.
        all_token_ids_stride: not needed.

    """
    output = prompt_logprobs_token_ids_ptr
    ends = query_start_loc_ptr[1 : idx_mapping_ptr.shape[0] + 1]
    computed = num_computed_tokens_ptr.index_select(0, idx_mapping_ptr)
    requests = rows_of_tokens(ends, output.shape[0])
    columns = computed.index_select(0, requests) + 1
    columns = columns + _own_places(query_start_loc_ptr, requests)
    columns = columns.clamp(max=all_token_ids_ptr.shape[1] - 1)
    states = idx_mapping_ptr.index_select(0, requests)
    tokens = _read(all_token_ids_ptr, states, columns).to(output.dtype)
    inside = _inside(ends, output.shape[0])
    output.copy_(torch.where(inside, tokens, output))


def prepare_rope_positions(
    positions_ptr: torch.Tensor,
    positions_stride: int,
    prefill_positions_ptr: torch.Tensor,
    prefill_positions_stride0: int,
    prefill_positions_stride1: int,
    prefill_delta_ptr: torch.Tensor,
    idx_mapping_ptr: torch.Tensor,
    query_start_loc_ptr: torch.Tensor,
    prefill_lens_ptr: torch.Tensor,
    num_computed_tokens_ptr: torch.Tensor,
    BLOCK_SIZE: int,
    NUM_DIMS: int,
) -> None:
    """Write positions of several dimensions: a prompt's own, or moved behind it.

    Args:
        positions_ptr: [NUM_DIMS, max_num_tokens + 1] int64; those of the batch's
            tokens are written.
        prefill_positions_ptr: [max_num_reqs * NUM_DIMS, max_model_len] int32.
        prefill_delta_ptr: [max_num_reqs] int32: from a token's number to its
            position, behind the prompt.
        idx_mapping_ptr: [num_reqs].
        query_start_loc_ptr: [>= num_reqs + 1] int32.
        prefill_lens_ptr: [max_num_reqs] int32.
        num_computed_tokens_ptr: [max_num_reqs] int32.
        NUM_DIMS: dimensions.
        BLOCK_SIZE: not needed.
        positions_stride: not needed.
        prefill_positions_stride0: not needed.
        prefill_positions_stride1: not needed.

    """
    ends = query_start_loc_ptr[1 : idx_mapping_ptr.shape[0] + 1]
    computed = num_computed_tokens_ptr.index_select(0, idx_mapping_ptr)
    prefills = computed < prefill_lens_ptr.index_select(0, idx_mapping_ptr)
    delta = prefill_delta_ptr.index_select(0, idx_mapping_ptr)
    num_tokens = positions_ptr.shape[1]
    requests = rows_of_tokens(ends, num_tokens)
    columns = computed.index_select(0, requests)
    columns = columns + _own_places(query_start_loc_ptr, requests)
    moved = columns + delta.index_select(0, requests)
    columns = columns.clamp(max=prefill_positions_ptr.shape[1] - 1)
    inside = _inside(ends, num_tokens)
    prefills = prefills.index_select(0, requests)
    rows = idx_mapping_ptr.index_select(0, requests).to(torch.int32) * NUM_DIMS
    for dim in range(NUM_DIMS):
        own = _read(prefill_positions_ptr, rows + dim, columns)
        found = torch.where(prefills, own, moved).to(positions_ptr.dtype)
        positions_ptr[dim] = torch.where(inside, found, positions_ptr[dim])


def apply_write(
    output_ptr: torch.Tensor,
    output_stride: int,
    write_indices_ptr: torch.Tensor,
    write_starts_ptr: torch.Tensor,
    write_contents_ptr: torch.Tensor,
    write_cu_lens_ptr: torch.Tensor,
    write_group_ids_ptr: torch.Tensor | None,
    BLOCK_SIZE: int,
    MULTI_GROUP: bool,
) -> None:
    """Write what the host has collected for rows of a state.

    Args:
        output_ptr: [num_rows, ...] of numbers, changed in place.
        output_stride: numbers of a row.
        write_indices_ptr: [num_writes] int32: the row of each write.
        write_starts_ptr: [num_writes] int32: where in it the write begins.
        write_contents_ptr: [num_numbers]: those of all writes.
        write_cu_lens_ptr: [num_writes] int32: where each write's end.
        MULTI_GROUP: not supported; `apply_each` does it state by state.
        BLOCK_SIZE: not needed.
        write_group_ids_ptr: not needed.

    """
    assert not MULTI_GROUP
    size = write_contents_ptr.shape[0]
    writes = rows_of_tokens(write_cu_lens_ptr, size)
    lengths = torch.diff(write_cu_lens_ptr, prepend=write_cu_lens_ptr.new_zeros(1))
    starts = write_starts_ptr + lengths - write_cu_lens_ptr
    where = (starts.index_select(0, writes) + _numbers(size, writes)).long()
    where.add_(write_indices_ptr.index_select(0, writes), alpha=output_stride)
    output_ptr.view(-1).scatter_(0, where, write_contents_ptr.to(output_ptr.dtype))


def gather_block_tables(
    batch_idx_to_req_idx: torch.Tensor,
    src_block_table_ptrs: torch.Tensor,
    dst_block_table_ptrs: torch.Tensor,
    block_table_strides: torch.Tensor,
    num_blocks_ptr: torch.Tensor,
    num_blocks_stride: int,
    num_reqs: int,
    num_computed_tokens_ptr: torch.Tensor | None = None,
    sliding_window_reach_ptr: torch.Tensor | None = None,
    block_sizes_ptr: torch.Tensor | None = None,
    MASK_SLIDING_WINDOW: bool = False,
    BLOCK_SIZE: int = 0,
) -> None:
    """Copy the block tables of the batch's requests; rows behind them become 0.

    Args:
        batch_idx_to_req_idx: [>= num_reqs].
        src_block_table_ptrs: as of `pointers_with_tensors`; of each group
            [max_num_reqs, max_num_blocks] int32.
        dst_block_table_ptrs: the same, written.
        num_blocks_ptr: [num_groups, max_num_reqs] int32.
        num_reqs: requests of the batch.
        num_computed_tokens_ptr: [max_num_reqs] int32, where windows are masked.
        sliding_window_reach_ptr: [num_groups] int32: tokens before the step's first
            that attention reads; 0: all.
        block_sizes_ptr: [num_groups] int32.
        MASK_SLIDING_WINDOW: blocks that are out of reach become 0.
        BLOCK_SIZE: not needed.
        block_table_strides: not needed.
        num_blocks_stride: not needed.

    """
    states = batch_idx_to_req_idx[:num_reqs]
    groups = zip(src_block_table_ptrs.npu_tensors, dst_block_table_ptrs.npu_tensors)
    for group, (source, target) in enumerate(groups):
        count = num_blocks_ptr[group].index_select(0, states).unsqueeze(1)
        place = _numbers(source.shape[1], states)
        blocks = source.index_select(0, states)
        if MASK_SLIDING_WINDOW:
            assert num_computed_tokens_ptr is not None
            assert sliding_window_reach_ptr is not None
            assert block_sizes_ptr is not None
            reach = sliding_window_reach_ptr[group]
            first = num_computed_tokens_ptr.index_select(0, states) - reach
            size = block_sizes_ptr[group]
            out_of_reach = torch.div(first.clamp_(min=0), size, rounding_mode="floor")
            masked = (place < out_of_reach.unsqueeze(1)) & (reach > 0)
            blocks = blocks.masked_fill(masked, 0)
        target[:num_reqs] = torch.where(place < count, blocks, target[:num_reqs])
        target[num_reqs:].fill_(0)


def compute_slot_mappings(
    max_num_tokens: int,
    idx_mapping: torch.Tensor,
    query_start_loc: torch.Tensor,
    pos: torch.Tensor,
    block_table_ptrs: torch.Tensor,
    block_table_strides: torch.Tensor,
    block_sizes: torch.Tensor,
    slot_mapping_enabled: torch.Tensor,
    dcp_sharded: torch.Tensor,
    slot_mappings_ptr: torch.Tensor,
    slot_mappings_stride: int,
    cp_rank: int,
    CP_SIZE: int,
    CP_INTERLEAVE: int,
    PAD_ID: int,
    TRITON_BLOCK_SIZE: int,
    kernel_block_sizes: torch.Tensor | None = None,
) -> None:
    """Write the slots of the batch's tokens in each group's cache.

    Args:
        idx_mapping: [num_reqs]; -1: the request has no blocks.
        query_start_loc: [>= num_reqs + 1] int32.
        pos: [>= num_tokens] int64.
        block_table_ptrs: as of `pointers_with_tensors`; of each group
            [max_num_reqs, max_num_blocks] int32.
        block_sizes: [num_groups] int32.
        slot_mapping_enabled: [num_groups] bool.
        slot_mappings_ptr: [num_groups, max_num_tokens] int64, written; PAD_ID where
            there is no slot.
        CP_SIZE: 1; context parallelism is not supported.
        PAD_ID: what stands for no slot.
        kernel_block_sizes: [num_groups] int32: instead of `block_sizes`.
        CP_INTERLEAVE: not needed.
        TRITON_BLOCK_SIZE: not needed.
        block_table_strides: not needed.
        cp_rank: not needed.
        dcp_sharded: not needed.
        max_num_tokens: not needed.
        slot_mappings_stride: not needed.

    Raises:
        NotImplementedError: the context is parallel.

    """
    if CP_SIZE != 1:
        raise NotImplementedError("NPU: context parallelism is not supported.")
    sizes = block_sizes if kernel_block_sizes is None else kernel_block_sizes
    length = min(slot_mappings_ptr.shape[1], pos.shape[0])
    states = idx_mapping.to(torch.int32)
    ends = query_start_loc[1 : states.shape[0] + 1]
    rows = states.index_select(0, rows_of_tokens(ends, length))
    inside = _inside(ends, length) & (rows >= 0)
    rows = rows.clamp(min=0)
    tokens = pos[:length].to(torch.int32)
    slot_mappings_ptr[:, length:].fill_(PAD_ID)
    for group, table in enumerate(block_table_ptrs.npu_tensors):
        columns = torch.div(tokens, sizes[group], rounding_mode="floor")
        blocks = _read(table, rows, columns.clamp(max=table.shape[1] - 1))
        # block * size + position % size, with position // size already there.
        slots = tokens + (blocks - columns) * sizes[group]
        found = inside & slot_mapping_enabled[group]
        slot_mappings_ptr[group, :length] = torch.where(found, slots, PAD_ID)


_V2 = "vllm.v1.worker.gpu"

KERNELS: dict[str, dict[str, Replacement]] = {
    f"{_V2}.buffer_utils": {"_apply_write_kernel": apply_write},
    f"{_V2}.input_batch": {
        "_prepare_prefill_inputs_kernel": prepare_prefill_inputs,
        "_prepare_pos_seq_lens_kernel": prepare_pos_seq_lens,
        "_combine_sampled_and_draft_tokens_kernel": combine_sampled_and_draft_tokens,
        "_get_num_sampled_and_rejected_kernel": get_num_sampled_and_rejected,
        "_post_update_kernel": post_update,
        "_post_update_num_computed_tokens_kernel": post_update_num_computed_tokens,
        "_expand_idx_mapping_kernel": expand_idx_mapping,
    },
    f"{_V2}.block_table": {
        "_gather_block_tables_kernel": gather_block_tables,
        "_compute_slot_mappings_kernel": compute_slot_mappings,
    },
    f"{_V2}.mm.rope": {"_prepare_rope_positions_kernel": prepare_rope_positions},
    f"{_V2}.sample.prompt_logprob": {
        "_prompt_logprobs_token_ids_kernel": prompt_logprobs_token_ids
    },
}
"""What stands for each kernel, by its module and its name there."""

REPLACEMENTS = by_name(KERNELS)


def npu_kernel(kernel: Any) -> Launcher:
    """What is launched instead of a kernel."""
    return Launcher(kernel, REPLACEMENTS[kernel.__name__])


@cache
def replace_methods() -> None:
    """Have vLLM keep the tensors of its tables of addresses, which no operator reads.

    States of several groups are written one by one, without such a table.
    """
    from vllm.v1.worker.gpu.block_table import BlockTables
    from vllm.v1.worker.gpu.buffer_utils import FusedStagedWriter

    make_pointers = BlockTables._make_ptr_tensor

    def pointers_with_tensors(self, x):
        tensors = tuple(x)
        pointers = make_pointers(self, tensors)
        pointers.npu_tensors = tensors
        return pointers

    def apply_each(self, tensors, output_ptrs, output_strides):
        for tensor in tensors:
            tensor.apply_write()

    BlockTables._make_ptr_tensor = pointers_with_tensors
    FusedStagedWriter.apply = apply_each


# npu-migrate: end
