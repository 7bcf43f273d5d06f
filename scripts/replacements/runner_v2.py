# SPDX-License-Identifier: Apache-2.0
"""Random arguments of the kernels of the model runner V2, for compare.py.

A list of tensors is a table of addresses: kernels get the addresses, replacements also the tensors.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import triton

Batch = tuple[tuple[int, ...], dict[str, Any]]

INF = float("inf")


def _mapping(make: Any, requests: int, rows: int) -> Any:
    """Another row of a state for each request."""
    order = torch.randperm(rows, generator=make.torch)[:requests]
    return order.to(make.random.choice([torch.int32, torch.int64]))


def _bounds(make: Any, requests: int, most: int, room: int = 0) -> Any:
    """Where requests of up to `most` tokens begin and end, some of them without; then the end."""
    lengths = make.integers(requests, 0, most, torch.int32)
    lengths[make.integer(0, requests - 1)] = most
    bounds = torch.zeros(requests + 1, dtype=torch.int32)
    bounds[1:] = lengths.cumsum(0)
    return torch.cat((bounds, bounds[-1:].expand(room)))


def _logits(make: Any, rows: int, vocabulary: int) -> Any:
    """Numbers around 0, some of them -inf, in float32 or shorter."""
    raw = torch.randn(rows, vocabulary, generator=make.torch)
    raw = torch.where(make.floats(rows, vocabulary) < 0.1, -INF, raw)
    # Rows that do not lie one after the other.
    wide = torch.full((rows, vocabulary + make.integer(0, 3)), 77.0)
    wide[:, :vocabulary] = raw
    return wide[:, :vocabulary]


def _expanded(make: Any, rows: int) -> tuple[Any, Any, int]:
    """Which request each row of logits is of, which of its rows it is, and how many there are."""
    bounds = _bounds(make, make.integer(1, 4), make.integer(1, 3))
    lengths = torch.diff(bounds)
    total = int(bounds[-1])
    mapping = _mapping(make, lengths.shape[0], rows)
    places = torch.cat([torch.arange(int(n), dtype=torch.int32) for n in lengths])
    return mapping.repeat_interleave(lengths.long()), places, total


def heated(make: Any) -> Batch:
    rows, vocabulary, block = 8, make.integer(2, 40), 16
    mapping, _, total = _expanded(make, rows)
    logits = _logits(make, total, vocabulary)
    heat = make.floats(rows) * 2
    heat = torch.where(make.floats(rows) < 0.3, 0.0, heat)
    heat = torch.where(make.floats(rows) < 0.2, 1.0, heat)
    return (total, triton.cdiv(vocabulary, block)), {
        "logits_ptr": logits,
        "logits_stride": logits.stride(0),
        "expanded_idx_mapping_ptr": mapping,
        "temperature_ptr": heat,
        "vocab_size": vocabulary,
        "BLOCK_SIZE": block,
    }


def drawn_with_noise(make: Any) -> Batch:
    rows, vocabulary, block = 8, make.integer(2, 60), 16
    mapping, _, total = _expanded(make, rows)
    total = min(total, rows)
    mapping = torch.where(make.floats(total) < 0.15, -1, mapping[:total])
    logits = _logits(make, total, vocabulary).float()
    # Something can be drawn from each block.
    logits[:, ::block] = 0.5
    blocks = triton.cdiv(vocabulary, block)
    heat = torch.where(make.floats(rows) < 0.3, 0.0, make.floats(rows) * 2 + 0.1)
    cache = column = source = None
    if make.integer(0, 1):
        columns, dtype = 3, make.random.choice([torch.float32, torch.bfloat16])
        cache = torch.full((rows, columns, vocabulary + 2), 7.0, dtype=dtype)
        column = torch.tensor(make.integer(0, columns - 1))
        if make.integer(0, 1):
            column = make.integers(total, 0, columns - 1, torch.int64)
        # A row's place is its own.
        mapping = torch.randperm(rows, generator=make.torch)[:total]
        mapping = torch.where(torch.arange(total) < make.integer(0, total), mapping, -1)
        source = torch.randn(total, vocabulary, generator=make.torch).to(dtype)
        if "logits_cache_source_ptr" not in make.names:
            cache = cache.float()
    return (total, blocks), {
        "local_argmax_ptr": torch.full((total, blocks), -5, dtype=torch.int64),
        "local_argmax_stride": blocks,
        "local_max_ptr": torch.full((total, blocks), -5.0),
        "local_max_stride": blocks,
        "logits_cache_ptr": cache,
        "logits_cache_stride_0": 0 if cache is None else cache.stride(0),
        "logits_cache_stride_1": 0 if cache is None else cache.stride(1),
        "logits_cache_col_ptr": column,
        "logits_cache_source_ptr": source,
        "logits_cache_source_stride": vocabulary,
        "logits_ptr": logits,
        "logits_stride": logits.stride(0),
        "expanded_idx_mapping_ptr": mapping,
        "seeds_ptr": make.integers(rows, -(2**62), 2**62, torch.int64),
        "pos_ptr": make.integers(total, 0, 100_000, torch.int64),
        "temp_ptr": heat,
        "vocab_size": vocabulary,
        "BLOCK_SIZE": block,
        "IS_DRAFTING": make.integer(0, 1) == 1,
        "APPLY_TEMPERATURE": make.integer(0, 1) == 1,
        "USE_FP64": False,
        "PER_TOKEN_COL": column is not None and column.dim() > 0,
    }


def penalised(make: Any) -> Batch:
    rows, vocabulary, block = 8, make.integer(2, 80), 32
    mapping, places, total = _expanded(make, rows)
    logits = _logits(make, total, vocabulary)

    def some(none: float) -> Any:
        return torch.where(make.floats(rows) < 0.4, none, make.floats(rows) * 2 + 0.1)

    words = triton.cdiv(vocabulary, 32)
    counts = make.integers((rows, vocabulary), -3, 3, torch.int32).clamp(min=0)
    return (total, triton.cdiv(vocabulary, block)), {
        "logits_ptr": logits,
        "logits_stride": logits.stride(0),
        "expanded_idx_mapping_ptr": mapping,
        "token_ids_ptr": make.integers(total, 0, vocabulary - 1, torch.int32),
        "expanded_local_pos_ptr": places,
        "repetition_penalty_ptr": some(1.0),
        "frequency_penalty_ptr": some(0.0),
        "presence_penalty_ptr": some(0.0),
        "prompt_bin_mask_ptr": make.integers((rows, words), -(2**31), 2**31 - 1, torch.int32),
        "prompt_bin_mask_stride": words,
        "output_bin_counts_ptr": counts,
        "output_bin_counts_stride": vocabulary,
        "vocab_size": vocabulary,
        "BLOCK_SIZE": block,
    }


def counted_by_token(make: Any) -> Batch:
    rows, vocabulary, block, length = 6, make.integer(2, 80), 8, 40
    requests = make.integer(1, 4)
    prompt = make.integers(rows, 1, 20, torch.int32)
    prefill = prompt + make.integers(rows, 0, 20, torch.int32)
    words = triton.cdiv(vocabulary, 32)
    return (requests, triton.cdiv(length, block)), {
        "expanded_idx_mapping_ptr": _mapping(make, requests, rows),
        "all_token_ids_ptr": make.integers((rows, length), 0, vocabulary - 1, torch.int32),
        "all_token_ids_stride": length,
        "prompt_len_ptr": prompt,
        "prefill_len_ptr": prefill,
        "prompt_bin_mask_ptr": make.integers((rows, words), 0, 1, torch.int32),
        "prompt_bin_mask_stride": words,
        "output_bin_counts_ptr": make.integers((rows, vocabulary), 0, 2, torch.int32),
        "output_bin_counts_stride": vocabulary,
        "BLOCK_SIZE": block,
    }


def biased(make: Any) -> Batch:
    rows, vocabulary, width = 8, make.integer(9, 40), 8
    mapping, _, total = _expanded(make, rows)
    logits = _logits(make, total, vocabulary)

    # Nothing but what stops is allowed.
    stuck = make.integer(0, 2) == 0

    def table(low: int) -> tuple[Any, Any]:
        order = torch.stack([torch.randperm(vocabulary, generator=make.torch) for _ in range(rows)])
        counts = make.integers(rows, low, width, torch.int32).clamp(min=0)
        # Behind the end of a list there may be anything.
        return torch.where(
            torch.arange(width) < counts[:, None], order[:, :width], 99
        ).int(), counts

    allowed, num_allowed = table(-8)
    biases, num_biases = table(-3)
    stops, num_stops = table(1 if stuck else -3)
    if stuck:
        allowed, num_allowed = stops, num_stops
    logits = torch.where(make.floats(total, vocabulary) < 0.1, INF, logits)
    check = make.integer(0, 1) == 1
    pos = make.integers(total, 0, 10, torch.int64)
    shortest = make.integers(rows, 0, 12, torch.int32)
    shortest[mapping.long()] = torch.where(
        make.floats(total) < 0.3, pos.int() + 1, shortest[mapping.long()]
    )
    return (total,), {
        "logits_ptr": logits,
        "logits_stride": logits.stride(0),
        "vocab_size": vocabulary,
        "expanded_idx_mapping_ptr": mapping,
        "num_allowed_token_ids_ptr": num_allowed,
        "allowed_token_ids_ptr": allowed,
        "allowed_token_ids_stride": width,
        "num_logit_bias_ptr": num_biases,
        "bias_token_ids_ptr": biases,
        "bias_token_ids_stride": width,
        "bias_ptr": torch.randn(rows, width, generator=make.torch),
        "bias_stride": width,
        "pos_ptr": pos,
        "min_lens_ptr": shortest,
        "num_stop_token_ids_ptr": num_stops,
        "restore_when_all_masked_ptr": make.integers(rows, 0, 1, torch.int32),
        "stop_token_ids_ptr": stops,
        "stop_token_ids_stride": width,
        "BLOCK_SIZE": width,
        "LOGITS_BLOCK_SIZE": 16,
        "CHECK_ALL_MASKED_ROWS": check,
    }


def with_bad_words(make: Any) -> Batch:
    # Few tokens, so that words are found.
    rows, vocabulary, length, most = 6, 4, 24, 5
    mapping, places, total = _expanded(make, rows)
    logits = _logits(make, total, vocabulary)
    prompt = make.integers(rows, 1, 8, torch.int32)
    answer = make.integers(rows, 0, 8, torch.int32)
    lengths = make.integers((rows, most), 1, 3, torch.int32)
    offsets = torch.zeros(rows, most + 1, dtype=torch.int32)
    offsets[:, 1:] = lengths.cumsum(1)
    width = int(offsets.max()) + make.integer(0, 3)
    return (total, most), {
        "logits_ptr": logits,
        "logits_stride": logits.stride(0),
        "expanded_idx_mapping_ptr": mapping,
        "bad_word_token_ids_ptr": make.integers((rows, width), 0, vocabulary - 1, torch.int32),
        "bad_word_token_ids_stride": width,
        "bad_word_offsets_ptr": offsets,
        "bad_word_offsets_stride": most + 1,
        "num_bad_words_ptr": make.integers(rows, 0, most, torch.int32),
        "all_token_ids_ptr": make.integers((rows, length), 0, vocabulary - 1, torch.int32),
        "all_token_ids_stride": length,
        "prompt_len_ptr": prompt,
        "total_len_ptr": prompt + answer,
        "input_ids_ptr": make.integers(total, 0, vocabulary - 1, torch.int32),
        "expanded_local_pos_ptr": places,
    }


def at_least(make: Any) -> Batch:
    rows, vocabulary = 8, make.integer(2, 40)
    mapping, _, total = _expanded(make, rows)
    logits = _logits(make, total, vocabulary)
    logits[:, 0] = 1.0
    share = torch.where(make.floats(rows) < 0.3, 0.0, make.floats(rows))
    # 1: what is as likely as the best one stays.
    share = torch.where(make.floats(rows) < 0.3, 1.0, share)
    return (total,), {
        "logits_ptr": logits,
        "logits_stride": logits.stride(0),
        "expanded_idx_mapping_ptr": mapping,
        "min_p_ptr": share,
        "vocab_size": vocabulary,
        "BLOCK_SIZE": 16,
    }


def scored(make: Any) -> Batch:
    vocabulary, rows, most = make.integer(2, 60), make.integer(1, 5), make.integer(1, 9)
    logits = _logits(make, rows, vocabulary).to(
        make.random.choice([torch.float32, torch.bfloat16, torch.float16])
    )
    logits[:, 0] = 0.25
    return (rows,), {
        "output_ptr": torch.full((rows, most), -5.0),
        "logits_ptr": logits,
        "logits_stride": logits.stride(0),
        "topk_ids_ptr": make.integers((rows, most), 0, vocabulary - 1, torch.int64),
        "topk_ids_stride": most,
        "topk": most,
        "vocab_size": vocabulary,
        "BLOCK_SIZE": 16,
        "TOPK_BLOCK_SIZE": 4,
    }


def ranked(make: Any) -> Batch:
    vocabulary, rows = make.integer(2, 60), make.integer(1, 5)
    # Several that are as likely.
    logits = make.integers((rows, vocabulary), -4, 4, torch.int32).float()
    return (rows,), {
        "output_ptr": torch.full((rows,), -5, dtype=torch.int64),
        "logits_ptr": logits,
        "logits_stride": logits.stride(0),
        "token_ids_ptr": make.integers(rows, 0, vocabulary - 1, torch.int64),
        "vocab_size": vocabulary,
        "BLOCK_SIZE": 16,
    }


def asked_for(make: Any) -> Batch:
    rows, best = 6, make.integer(0, 4)
    mapping, _, total = _expanded(make, rows)
    counts = make.integers(rows, -3, 6, torch.int32).clamp(min=0)
    width = 8
    columns = max(best, int(counts.max()), 1)
    tokens = make.integers((total, max(best, 1)), 0, 99, torch.int32)
    return (total,), {
        "out_token_ids_ptr": torch.zeros(total, 1 + columns, dtype=torch.int64),
        "out_token_ids_stride": 1 + columns,
        "out_valid_mask_ptr": torch.zeros(total, 1 + columns, dtype=torch.bool),
        "out_valid_mask_stride": 1 + columns,
        "sampled_token_ids_ptr": make.integers(total, 100, 120, torch.int64),
        "topk_indices_ptr": tokens,
        "topk_indices_stride": tokens.stride(0),
        "expanded_idx_mapping_ptr": mapping,
        "num_per_req_token_ids_ptr": counts,
        "per_req_token_ids_ptr": make.integers((rows, width), 200, 299, torch.int32),
        "per_req_token_ids_stride": width,
        "NUM_TOPK": best,
        "PADDED_COLS": triton.next_power_of_2(columns),
    }


def not_numbers(make: Any) -> Batch:
    rows, vocabulary = make.integer(1, 5), make.integer(2, 60)
    logits = _logits(make, rows, vocabulary)
    logits[make.floats(rows, vocabulary) < 0.2] = float("nan")
    return (rows,), {
        "logits_ptr": logits,
        "logits_stride": logits.stride(0),
        "num_nans_ptr": torch.full((rows,), -5, dtype=torch.int32),
        "vocab_size": vocabulary,
        "BLOCK_SIZE": 16,
    }


def masked(make: Any) -> Batch:
    requests, most, vocabulary, block = make.integer(1, 5), make.integer(1, 3), 70, 64
    bounds = _bounds(make, requests, most)
    total = int(bounds[-1])
    logits = _logits(make, total, vocabulary)
    # Some requests have a grammar; those have a mask for each row that they may have.
    chosen = torch.randperm(requests, generator=make.torch)[: make.integer(1, requests)]
    rows = torch.cat([int(r) * most + torch.arange(most) for r in chosen]).int()
    words = triton.cdiv(vocabulary, 32)
    mask = make.integers((rows.shape[0], words), -(2**31), 2**31 - 1, torch.int32)
    return (rows.shape[0], triton.cdiv(vocabulary, block)), {
        "logits_ptr": logits,
        "logits_stride": logits.stride(0),
        "logits_indices_ptr": rows,
        "cu_num_logits_ptr": bounds,
        "bitmask_ptr": mask,
        "bitmask_stride": words,
        "vocab_size": vocabulary,
        "MASK_STRIDE": most,
        "BLOCK_SIZE": block,
    }


def of_prompts(make: Any) -> Batch:
    # Where a request is at the end of its row, what is behind it is none of its own.
    rows, requests, most, length = 5, make.integer(1, 5), make.integer(1, 12), 16
    bounds = _bounds(make, requests, most, make.integer(0, 2))
    ahead = make.integer(1, 3)
    computed = make.integers(rows, 0, 4, torch.int32)
    if make.integer(0, 1):
        # The longest request ends where its row does.
        computed[:] = length - most
    lengths = torch.where(make.floats(rows) < 0.3, computed, computed + 1)
    lengths = lengths + make.integers(rows, -2, 11, torch.int32).clamp(min=0)
    lengths = lengths.clamp(max=length)
    room = int(bounds[-1]) + make.integer(0, 20)
    return (requests,), {
        "input_ids_ptr": torch.full((room,), -5, dtype=torch.int32),
        "next_prefill_tokens_ptr": torch.full((ahead, rows), -6, dtype=torch.int32),
        "next_prefill_tokens_stride": rows,
        "num_lookahead": ahead,
        "idx_mapping_ptr": _mapping(make, requests, rows),
        "query_start_loc_ptr": bounds,
        "all_token_ids_ptr": make.integers((rows, length), 0, 99, torch.int32),
        "all_token_ids_stride": length,
        "prefill_lens_ptr": lengths,
        "num_computed_tokens_ptr": computed,
        "BLOCK_SIZE": 8,
        "LOOKAHEAD_BLOCK": triton.next_power_of_2(ahead),
    }


def positioned(make: Any) -> Batch:
    rows, requests = 8, make.integer(1, 5)
    bounds = _bounds(make, requests, make.integer(1, 20), make.integer(0, 2))
    most = requests + make.integer(0, 12)
    return (requests + 1,), {
        "pos_ptr": torch.full((int(bounds[-1]) + make.integer(0, 5),), -5, dtype=torch.int64),
        "seq_lens_ptr": torch.full((most,), -5, dtype=torch.int32),
        "idx_mapping_ptr": _mapping(make, requests, rows),
        "query_start_loc_ptr": bounds,
        "num_computed_tokens_ptr": make.integers(rows, 0, 99, torch.int32),
        "max_num_reqs": most,
        "BLOCK_SIZE": 8,
    }


def combined(make: Any) -> Batch:
    rows, requests, drafts = 8, make.integer(1, 5), make.integer(0, 3)
    new = make.integer(0, 1) if drafts else 1
    counts = make.integers(requests, new, drafts + new, torch.int32)
    logits = torch.zeros(requests + 1, dtype=torch.int32)
    logits[1:] = counts.cumsum(0)
    bounds = torch.zeros(requests + 1, dtype=torch.int32)
    bounds[1:] = (counts + make.integers(requests, 0, 3, torch.int32)).cumsum(0)
    mapping = _mapping(make, requests, rows)
    lengths = make.integers(requests, 8, 20, torch.int32)
    prefill = make.integers(rows, 4, 24, torch.int32)
    # At the very end of a prompt, and a token behind it.
    exact = lengths - make.integers(requests, 0, 2, torch.int32)
    at = mapping.long()
    prefill[at] = torch.where(make.floats(requests) < 0.5, exact, prefill[at])
    return (requests,), {
        "input_ids_ptr": torch.full((int(bounds[-1]) + 2,), -5, dtype=torch.int32),
        "idx_mapping_ptr": mapping,
        "last_sampled_tokens_ptr": make.integers((rows, 1), 0, 99, torch.int64),
        "query_start_loc_ptr": bounds,
        "seq_lens_ptr": lengths,
        "prefill_len_ptr": prefill,
        "draft_tokens_ptr": make.integers((rows, drafts), 100, 199, torch.int64),
        "draft_tokens_stride": drafts,
        "cu_num_logits_ptr": logits,
        "logits_indices_ptr": torch.full((int(logits[-1]),), -5, dtype=torch.int64),
        "BLOCK_SIZE": triton.next_power_of_2(drafts + new),
        "NUM_NEW_SAMPLED_TOKENS": new,
    }


def sampled(make: Any) -> Batch:
    rows, requests = 8, make.integer(1, 6)
    mapping = _mapping(make, requests, rows)
    lengths = make.integers(requests, 1, 20, torch.int32)
    prefill = make.integers(rows, 1, 20, torch.int32)
    at = mapping.long()
    prefill[at] = torch.where(make.floats(requests) < 0.4, lengths, prefill[at])
    return (requests,), {
        "num_sampled_ptr": make.integers(requests, 0, 4, torch.int32),
        "num_rejected_ptr": torch.full((requests,), -5, dtype=torch.int32),
        "seq_lens_ptr": lengths,
        "cu_num_logits_ptr": _bounds(make, requests, 4),
        "idx_mapping_ptr": mapping,
        "prefill_len_ptr": prefill,
    }


def updated(make: Any) -> Batch:
    rows, requests, width, length, vocabulary = 5, make.integer(1, 5), make.integer(1, 3), 32, 20
    mapping = _mapping(make, requests, rows)
    mapping = torch.where(make.floats(requests) < 0.2, -1, mapping)
    counting = make.integer(0, 1) == 1
    drafts = make.integer(1, 3)
    drafting = "draft_tokens_ptr" in make.names and make.integer(0, 1) == 1
    # Some rows are full afterwards.
    counts = make.integers(requests, 0, width, torch.int32)
    total = make.integers(rows, 0, length - width, torch.int32)
    full = (mapping >= 0) & (make.floats(requests) < 0.5)
    total[mapping[full].long()] = (length - counts)[full]
    return (requests,), {
        "idx_mapping_ptr": mapping,
        "num_computed_tokens_ptr": make.integers(rows, 0, 20, torch.int32),
        "last_sampled_tokens_ptr": make.integers((rows, 1), 0, 9, torch.int64),
        "output_bin_counts_ptr": make.integers((rows, vocabulary), 0, 3, torch.int32)
        if counting
        else None,
        "output_bin_counts_stride": vocabulary if counting else 0,
        "sampled_tokens_ptr": make.integers((requests, width), 0, vocabulary - 1, torch.int64),
        "sampled_tokens_stride": width,
        "num_sampled_ptr": counts,
        "num_rejected_ptr": make.integers(requests, 0, 2, torch.int32),
        "query_start_loc_ptr": _bounds(make, requests, 6) if make.integer(0, 3) else None,
        "all_token_ids_ptr": make.integers((rows, length), 0, 9, torch.int32),
        "all_token_ids_stride": length,
        "total_len_ptr": total,
        "draft_tokens_ptr": make.integers((requests, drafts), 0, 9, torch.int64)
        if drafting
        else None,
        "draft_tokens_out_ptr": make.integers((rows, drafts), 20, 29, torch.int64)
        if drafting
        else None,
        "num_draft_tokens": drafts if drafting else 0,
    }


def advanced(make: Any) -> Batch:
    rows, requests = 8, make.integer(1, 5)
    return (requests,), {
        "idx_mapping_ptr": _mapping(make, requests, rows),
        "num_computed_tokens_ptr": make.integers(rows, 0, 20, torch.int32),
        "query_start_loc_ptr": _bounds(make, requests, 6, make.integer(0, 2)),
    }


def repeated(make: Any) -> Batch:
    rows, requests, most = 8, make.integer(1, 5), make.integer(1, 4)
    bounds = _bounds(make, requests, most)
    mapping = _mapping(make, requests, rows)
    total = int(bounds[-1])
    return (requests,), {
        "idx_mapping_ptr": mapping,
        "expanded_idx_mapping_ptr": torch.full((total,), -5, dtype=mapping.dtype),
        "expanded_local_pos_ptr": torch.full((total,), -5, dtype=torch.int32),
        "cu_num_logits_ptr": bounds,
        "BLOCK_SIZE": triton.next_power_of_2(most),
    }


def following(make: Any) -> Batch:
    rows, requests, length = 5, make.integer(1, 5), 61
    bounds = _bounds(make, requests, make.integer(1, 20), make.integer(0, 2))
    total = int(bounds[-1]) + make.integer(0, 20)
    return (requests,), {
        "prompt_logprobs_token_ids_ptr": torch.full((total,), -5, dtype=torch.int64),
        "query_start_loc_ptr": bounds,
        "idx_mapping_ptr": _mapping(make, requests, rows),
        "num_computed_tokens_ptr": make.integers(rows, 0, 40, torch.int32),
        "all_token_ids_ptr": make.integers((rows, length), 0, 99, torch.int32),
        "all_token_ids_stride": length,
        "BLOCK_SIZE": 8,
    }


def in_dimensions(make: Any) -> Batch:
    rows, requests, length, dimensions = 4, make.integer(1, 4), 50, 3
    bounds = _bounds(make, requests, make.integer(1, 20), make.integer(0, 2))
    computed = make.integers(rows, 0, 30, torch.int32)
    room = int(bounds[-1]) + 1 + make.integer(0, 20)
    own = make.integers((rows * dimensions, length), 0, 99, torch.int32)
    return (requests,), {
        "positions_ptr": torch.full((dimensions, room), -5, dtype=torch.int64),
        "positions_stride": room,
        "prefill_positions_ptr": own,
        "prefill_positions_stride0": dimensions * length,
        "prefill_positions_stride1": length,
        "prefill_delta_ptr": make.integers(rows, -9, 9, torch.int32),
        "idx_mapping_ptr": _mapping(make, requests, rows),
        "query_start_loc_ptr": bounds,
        "prefill_lens_ptr": computed + make.integers(rows, -1, 2, torch.int32),
        "num_computed_tokens_ptr": computed,
        "BLOCK_SIZE": 8,
        "NUM_DIMS": dimensions,
    }


def written(make: Any) -> Batch:
    rows, width, block, writes = 6, make.integer(1, 24), 8, make.integer(1, 5)
    dtype = make.random.choice([torch.int32, torch.int64, torch.float32])
    starts = make.integers(writes, 0, width - 1, torch.int32)
    room = torch.minimum(torch.full_like(starts, width) - starts, torch.tensor(20))
    lengths = 1 + (make.floats(writes) * room).int().clamp(max=room - 1)
    return (writes, triton.cdiv(int(lengths.max()), block)), {
        "output_ptr": make.integers((rows, width), 0, 9, torch.int32).to(dtype),
        "output_stride": width,
        "write_indices_ptr": torch.randperm(rows, generator=make.torch)[:writes].int(),
        "write_starts_ptr": starts,
        "write_contents_ptr": make.integers(int(lengths.sum()), 10, 99, torch.int32).to(dtype),
        "write_cu_lens_ptr": lengths.cumsum(0, dtype=torch.int32),
        "write_group_ids_ptr": None,
        "BLOCK_SIZE": block,
        "MULTI_GROUP": False,
    }


def gathered(make: Any) -> Batch:
    rows, requests, groups = 8, make.integer(1, 5), make.integer(1, 3)
    widths = [make.integer(1, 12) for _ in range(groups)]
    tables = [make.integers((rows, width), 1, 99, torch.int32) for width in widths]
    into = [make.integers((rows, width), 100, 199, torch.int32) for width in widths]
    counts = torch.stack([make.integers(rows, 0, width, torch.int32) for width in widths])
    reach = make.integers(groups, -5, 9, torch.int32).clamp(min=0)
    return (groups, rows), {
        "batch_idx_to_req_idx": _mapping(make, requests, rows),
        "src_block_table_ptrs": tables,
        "dst_block_table_ptrs": into,
        "block_table_strides": torch.tensor(widths),
        "num_blocks_ptr": counts,
        "num_blocks_stride": rows,
        "num_reqs": requests,
        "num_computed_tokens_ptr": make.integers(rows, 0, 40, torch.int32),
        "sliding_window_reach_ptr": reach,
        "block_sizes_ptr": make.integers(groups, 2, 4, torch.int32),
        "MASK_SLIDING_WINDOW": make.integer(0, 1) == 1,
        "BLOCK_SIZE": 4,
    }


def slotted(make: Any) -> Batch:
    rows, requests, groups = 5, make.integer(1, 5), make.integer(1, 3)
    bounds = _bounds(make, requests, make.integer(1, 20), make.integer(0, 2))
    total = int(bounds[-1])
    sizes = make.integers(groups, 2, 5, torch.int32)
    width = 21
    # Behind the batch, any positions.
    positions = make.integers(total + make.integer(0, 15), 0, 40, torch.int64)
    positions[total:] *= 5
    mapping = _mapping(make, requests, rows)
    mapping = torch.where(make.floats(requests) < 0.2, -1, mapping)
    room = total + make.integer(0, 15)
    return (groups, requests + 1), {
        "max_num_tokens": room,
        "idx_mapping": mapping,
        "query_start_loc": bounds,
        "pos": positions,
        "block_table_ptrs": [make.integers((rows, width), 1, 99, torch.int32) for _ in sizes],
        "block_table_strides": torch.full((groups,), width),
        "block_sizes": sizes * 2 if "kernel_block_sizes" in make.names else sizes,
        "kernel_block_sizes": sizes,
        "slot_mapping_enabled": make.floats(groups) < 0.8,
        "dcp_sharded": make.floats(groups) < 0.5,
        "slot_mappings_ptr": torch.full((groups, room), -5, dtype=torch.int64),
        "slot_mappings_stride": room,
        "cp_rank": 0,
        "CP_SIZE": 1,
        "CP_INTERLEAVE": 1,
        "PAD_ID": -1,
        "TRITON_BLOCK_SIZE": 8,
    }


BATCHES: dict[str, Callable[[Any], Batch]] = {
    "_temperature_kernel": heated,
    "_gumbel_sample_kernel": drawn_with_noise,
    "_penalties_kernel": penalised,
    "_bincount_kernel": counted_by_token,
    "_bias_kernel": biased,
    "_bad_words_kernel": with_bad_words,
    "_min_p_kernel": at_least,
    "_topk_log_softmax_kernel": scored,
    "_ranks_kernel": ranked,
    "_fill_logprob_token_ids_kernel": asked_for,
    "_num_nans_kernel": not_numbers,
    "_apply_grammar_bitmask_kernel": masked,
    "_apply_write_kernel": written,
    "_prepare_prefill_inputs_kernel": of_prompts,
    "_prepare_pos_seq_lens_kernel": positioned,
    "_combine_sampled_and_draft_tokens_kernel": combined,
    "_get_num_sampled_and_rejected_kernel": sampled,
    "_post_update_kernel": updated,
    "_post_update_num_computed_tokens_kernel": advanced,
    "_expand_idx_mapping_kernel": repeated,
    "_gather_block_tables_kernel": gathered,
    "_compute_slot_mappings_kernel": slotted,
    "_prepare_rope_positions_kernel": in_dimensions,
    "_prompt_logprobs_token_ids_kernel": following,
}
"""Kernel → what makes a grid and arguments, by their names, of all releases."""

EQUIVALENT = {
    "_log_exponential: uniform < SMALL -> uniform <= SMALL": "both sides are the same there",
    "penalties: logits > 0 -> logits >= 0": "0 stays 0, multiplied or divided",
}
"""Changes that change no result, and why: they break nothing."""

TOLERANCES = {"_gumbel_sample_kernel": 2e-5, "_topk_log_softmax_kernel": 5e-6}
"""Kernels whose floats are rounded on the way; all others' have to be the same."""
