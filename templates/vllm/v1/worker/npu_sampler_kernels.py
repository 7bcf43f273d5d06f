# npu-migrate: when platform_registers_kernels
# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright contributors to the vLLM project
"""The kernels of model runner V2's sampler, of operators that an NPU has.

Nothing here waits for the device, and no shape depends on what a tensor holds.
Parameters are called as those of the kernels. `expanded_idx_mapping_ptr`
[num_tokens] says which request's row of a state each row of logits belongs to.

Integers are int32 wherever they are computed with: shifts, and sums and scatters
of int64, are left to the device's CPU.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch

from vllm.triton_utils.npu_overrides import Launcher, Replacement, by_name
from vllm.v1.worker.npu_kernels import BITMASK_ROWS, words_of_bits

# Rows for which numbers of the whole vocabulary are on the device at a time.
ROWS = 64
# Elements of token tables that are on the device at a time.
TABLE_ELEMENTS = 1 << 22

NEGATIVE_INFINITY = float("-inf")

# What the draws of drafts are moved by, away from those of the target.
DRAFT_NOISE_SALT = 1 << 30
# Smallest difference of a float32 below 1 from it.
SMALLEST_BELOW_ONE = 2.0**-24
# Below, -log(1 - u) is summed up from u's powers.
SMALL = 1.0 / 32.0


def temperature(
    logits_ptr: torch.Tensor,
    logits_stride: int,
    expanded_idx_mapping_ptr: torch.Tensor,
    temperature_ptr: torch.Tensor,
    vocab_size: int,
    BLOCK_SIZE: int,
) -> None:
    """Divide logits by temperatures; those of 0 and 1 leave them alone.

    Args:
        logits_ptr: [num_tokens, vocab_size], changed in place.
        expanded_idx_mapping_ptr: [num_tokens].
        temperature_ptr: [max_num_reqs] float32.
        BLOCK_SIZE: not needed.
        logits_stride: not needed.
        vocab_size: not needed.

    """
    by = temperature_ptr.index_select(0, expanded_idx_mapping_ptr)
    by = by.masked_fill(by == 0, 1.0)
    logits_ptr.div_(by.unsqueeze(1))


def _shifted(values: torch.Tensor, bits: int) -> torch.Tensor:
    """Bits of int32 moved to the right, zeros behind them; 8 to 31.

    A shift would run on the device's CPU. What is divided has 24 significant bits
    or fewer, so that the quotient is exact in float32 also.
    """
    high = values.bitwise_and(-(1 << bits))
    quotient = torch.div(high, 1 << bits, rounding_mode="floor")
    return quotient.bitwise_and_((1 << (32 - bits)) - 1)


def _rotated(values: torch.Tensor, bits: int) -> torch.Tensor:
    """Bits of int32 moved to the left, those that fall out behind them; 1 to 24."""
    return torch.add(_shifted(values, 32 - bits), values, alpha=1 << bits)


def _keyed(values: torch.Tensor) -> torch.Tensor:
    """How MurmurHash3 prepares int32 words that it takes in."""
    return _rotated(values * -0x3361D2AF, 15).mul_(0x1B873593)


def _taken_in(state: torch.Tensor, word: torch.Tensor) -> torch.Tensor:
    """MurmurHash3's int32 state after another prepared word."""
    return _rotated(state.bitwise_xor(word), 13).mul_(5).add_(-0x19AB949C)


def _uniform(seeds: torch.Tensor, positions: torch.Tensor, size: int) -> torch.Tensor:
    """The kernel's uniform numbers: MurmurHash3 of seed, position and token.

    Args:
        seeds: [num_tokens, 2] int32: the low and the high word of each.
        positions: [num_tokens] int32.
        size: size of the vocabulary.

    Returns:
        [num_tokens, size] float32 above 0, at most 1.

    """
    words = _keyed(torch.cat((seeds, positions.unsqueeze(1)), dim=1))
    tokens = torch.arange(size, dtype=torch.int32, device=seeds.device)
    tokens = _keyed(tokens).unsqueeze(0)
    state = torch.zeros_like(words[:, :1])
    for place in range(3):
        state = _taken_in(state, words[:, place : place + 1])
    state = _taken_in(state, tokens)
    # The end of MurmurHash3, of 16 bytes.
    state.bitwise_xor_(16)
    state.bitwise_xor_(_shifted(state, 16)).mul_(-0x7A143595)
    state.bitwise_xor_(_shifted(state, 13)).mul_(-0x3D4D51CB)
    high = _shifted(state, 16)
    low = state.bitwise_xor_(high).bitwise_and_(0xFFFF)
    low = low.to(torch.float32).add_(0.5).mul_(2.0**-32)
    return low.add_(high.to(torch.float32), alpha=2.0**-16)


def _log_exponential(uniform: torch.Tensor) -> torch.Tensor:
    """log(-log(1 - u)), exact where u is small: there the winners are."""
    series = uniform * 0.25
    for part in (1.0 / 3.0, 0.5, 1.0):
        series.add_(part).mul_(uniform)
    direct = (1.0 - uniform).clamp_(min=SMALLEST_BELOW_ONE).log_().neg_()
    return torch.where(uniform < SMALL, series, direct).log_()


def gumbel_sample(
    local_argmax_ptr: torch.Tensor,
    local_argmax_stride: int,
    local_max_ptr: torch.Tensor,
    local_max_stride: int,
    logits_cache_ptr: torch.Tensor | None,
    logits_cache_stride_0: int,
    logits_cache_stride_1: int,
    logits_cache_col_ptr: torch.Tensor | None,
    logits_ptr: torch.Tensor,
    logits_stride: int,
    expanded_idx_mapping_ptr: torch.Tensor,
    seeds_ptr: torch.Tensor,
    pos_ptr: torch.Tensor,
    temp_ptr: torch.Tensor,
    vocab_size: int,
    BLOCK_SIZE: int,
    IS_DRAFTING: bool,
    APPLY_TEMPERATURE: bool,
    USE_FP64: bool,
    PER_TOKEN_COL: bool = False,
    logits_cache_source_ptr: torch.Tensor | None = None,
    logits_cache_source_stride: int = 0,
) -> None:
    """Find the largest of logits and Gumbel noise in each block of the vocabulary.

    The noise comes of the kernel's own uniform numbers, so that a seed gives the
    same tokens with Triton and without. Rows of temperature 0, and of no request
    (-1), get none.

    Args:
        local_argmax_ptr: [num_tokens, num_blocks] int64, written: token ids.
        local_max_ptr: [num_tokens, num_blocks] float32, written.
        logits_ptr: [num_tokens, vocab_size].
        expanded_idx_mapping_ptr: [num_tokens]; -1 for no request.
        seeds_ptr: [max_num_reqs] int64.
        pos_ptr: [num_tokens] int64: where in the request the token will be.
        temp_ptr: [max_num_reqs] float32; with an attribute `npu_all_greedy` that
            is true, all of them are 0.
        BLOCK_SIZE: tokens of a block.
        IS_DRAFTING: the noise is not that of the target.
        APPLY_TEMPERATURE: logits were not divided by it.
        USE_FP64: not supported.
        logits_cache_ptr: [max_num_reqs, num_cols, >= vocab_size], where logits are
            kept, or None.
        logits_cache_col_ptr: [] or [num_tokens]: in which column.
        logits_cache_source_ptr: [num_tokens, vocab_size]: which logits are; the
            others if it is None.
        PER_TOKEN_COL: not needed.
        local_argmax_stride: not needed.
        local_max_stride: not needed.
        logits_cache_source_stride: not needed.
        logits_cache_stride_0: not needed.
        logits_cache_stride_1: not needed.
        logits_stride: not needed.
        vocab_size: not needed.

    Raises:
        NotImplementedError: noise is to be float64.

    """
    if USE_FP64:
        raise NotImplementedError("NPU: there is no float64 for Gumbel noise.")
    noisy = not getattr(temp_ptr, "npu_all_greedy", False)
    num_tokens, size = logits_ptr.shape
    num_blocks = local_max_ptr.shape[1]
    room = num_blocks * BLOCK_SIZE - size
    firsts = torch.arange(num_blocks, dtype=torch.int32, device=logits_ptr.device)
    column = None
    if logits_cache_ptr is not None:
        assert logits_cache_col_ptr is not None
        kept = (
            logits_ptr if logits_cache_source_ptr is None else logits_cache_source_ptr
        )
        column = logits_cache_col_ptr.to(torch.int32).expand(num_tokens)
        _keep(logits_cache_ptr, kept, expanded_idx_mapping_ptr, column)
    for start in range(0, num_tokens, ROWS):
        rows = slice(start, start + ROWS)
        scores = logits_ptr[rows].to(torch.float32)
        if noisy:
            requests = expanded_idx_mapping_ptr[rows].to(torch.int32)
            seeds = seeds_ptr.index_select(0, requests.clamp(min=0))
            # The low and the high word of each.
            seeds = seeds.view(torch.int32).view(-1, 2)
            # npu-migrate: end
            # npu-migrate: when draws_know_their_step
            if column is not None:
                seeds[:, 1].bitwise_xor_(column[rows])
            # npu-migrate: end
            # npu-migrate: when platform_registers_kernels
            scores = _with_noise(
                scores,
                requests,
                seeds,
                pos_ptr[rows].to(torch.int32)
                + (DRAFT_NOISE_SALT if IS_DRAFTING else 0),
                temp_ptr,
                APPLY_TEMPERATURE,
            )
        if room:
            scores = torch.nn.functional.pad(scores, (0, room), value=NEGATIVE_INFINITY)
        best, places = scores.view(-1, num_blocks, BLOCK_SIZE).max(dim=-1)
        local_max_ptr[rows] = best
        places = places.to(torch.int32)
        local_argmax_ptr[rows] = torch.add(places, firsts, alpha=BLOCK_SIZE).long()


def _keep(
    cache: torch.Tensor,
    logits: torch.Tensor,
    requests: torch.Tensor,
    columns: torch.Tensor,
) -> None:
    """Write logits to their places; those of no request to none.

    A row without a request writes what the first row does, which has one.

    Args:
        cache: [max_num_reqs, num_cols, >= vocab_size], changed in place.
        logits: [num_tokens, vocab_size].
        requests: [num_tokens]; -1 for none.
        columns: [num_tokens] int32.

    """
    size = logits.shape[1]
    rows = cache.view(-1, cache.shape[2])
    present = requests >= 0
    where = requests.clamp(min=0).long() * cache.shape[1] + columns
    where = torch.where(present, where, where[:1])
    present = present.unsqueeze(1)
    old = rows.index_select(0, where[:1])[:, :size]
    first = torch.where(present[:1], logits[:1].to(cache.dtype), old)
    kept = torch.where(present, logits.to(cache.dtype), first)
    rows[:, :size].index_copy_(0, where, kept)


def _with_noise(
    logits: torch.Tensor,
    requests: torch.Tensor,
    seeds: torch.Tensor,
    positions: torch.Tensor,
    temperatures: torch.Tensor,
    apply_temperature: bool,
) -> torch.Tensor:
    """Logits with Gumbel noise; without where the temperature is 0.

    Args:
        logits: [num_rows, vocab_size] float32.
        requests: [num_rows] int32; -1 for none.
        seeds: [num_rows, 2] int32.
        positions: [num_rows] int32.
        temperatures: [max_num_reqs].
        apply_temperature: divide the logits first.

    """
    heat = temperatures.index_select(0, requests.clamp(min=0)).to(torch.float32)
    random = ((heat != 0) & (requests >= 0)).unsqueeze(1)
    if apply_temperature:
        logits = logits / torch.where(random, heat.unsqueeze(1), 1.0)
    uniform = _uniform(seeds, positions, logits.shape[1])
    return torch.where(random, logits - _log_exponential(uniform), logits)


def _unpacked(words: torch.Tensor, size: int) -> torch.Tensor:
    """[num_rows, size] bool: whether a token's bit is set.

    Args:
        words: [num_rows, cdiv(size, 32)] int32: bit i of word w is token 32 * w + i.
        size: size of the vocabulary.

    """
    bits = words.unsqueeze(-1).bitwise_and(words_of_bits(words.device)).ne(0)
    return bits.flatten(1)[:, :size]


def penalties(
    logits_ptr: torch.Tensor,
    logits_stride: int,
    expanded_idx_mapping_ptr: torch.Tensor,
    token_ids_ptr: torch.Tensor,
    expanded_local_pos_ptr: torch.Tensor,
    repetition_penalty_ptr: torch.Tensor,
    frequency_penalty_ptr: torch.Tensor,
    presence_penalty_ptr: torch.Tensor,
    prompt_bin_mask_ptr: torch.Tensor,
    prompt_bin_mask_stride: int,
    output_bin_counts_ptr: torch.Tensor,
    output_bin_counts_stride: int,
    vocab_size: int,
    BLOCK_SIZE: int,
) -> None:
    """Make what was in a request's prompt or answer less likely.

    Args:
        logits_ptr: [num_tokens, vocab_size], changed in place.
        expanded_idx_mapping_ptr: [num_tokens].
        token_ids_ptr: [num_tokens]: the token each row continues; drafts but for a
            request's first.
        expanded_local_pos_ptr: [num_tokens] int32: the row's place in its request.
        repetition_penalty_ptr: [max_num_reqs] float32; 1 is none.
        frequency_penalty_ptr: [max_num_reqs] float32; 0 is none.
        presence_penalty_ptr: [max_num_reqs] float32; 0 is none.
        prompt_bin_mask_ptr: [max_num_reqs, cdiv(vocab_size, 32)] int32, bits.
        output_bin_counts_ptr: [max_num_reqs, vocab_size] int32.
        BLOCK_SIZE: not needed.
        logits_stride: not needed.
        output_bin_counts_stride: not needed.
        prompt_bin_mask_stride: not needed.
        vocab_size: not needed.

    """
    num_tokens, size = logits_ptr.shape
    place = torch.arange(num_tokens, dtype=torch.int32, device=logits_ptr.device)
    # Drafts of the same request up to this row.
    first = place - expanded_local_pos_ptr
    drafts = token_ids_ptr.to(torch.int32)
    for start in range(0, num_tokens, BITMASK_ROWS):
        rows = slice(start, start + BITMASK_ROWS)
        requests = expanded_idx_mapping_ptr[rows]
        logits = logits_ptr[rows].to(torch.float32)
        before = (place > first[rows, None]) & (place <= place[rows, None])
        counts = output_bin_counts_ptr.index_select(0, requests)
        counts.scatter_add_(
            1, torch.where(before, drafts, 0).long(), before.to(torch.int32)
        )
        seen = counts > 0
        words = prompt_bin_mask_ptr.index_select(0, requests)
        repeated = repetition_penalty_ptr.index_select(0, requests).unsqueeze(1)
        scale = torch.where(_unpacked(words, size) | seen, repeated, 1.0)
        logits = logits * torch.where(logits > 0, 1.0 / scale, scale)
        frequent = frequency_penalty_ptr.index_select(0, requests).unsqueeze(1)
        logits = logits - frequent * counts
        present = presence_penalty_ptr.index_select(0, requests).unsqueeze(1)
        logits_ptr[rows] = (logits - present * seen).to(logits_ptr.dtype)


def bincount(
    expanded_idx_mapping_ptr: torch.Tensor,
    all_token_ids_ptr: torch.Tensor,
    all_token_ids_stride: int,
    prompt_len_ptr: torch.Tensor,
    prefill_len_ptr: torch.Tensor,
    prompt_bin_mask_ptr: torch.Tensor,
    prompt_bin_mask_stride: int,
    output_bin_counts_ptr: torch.Tensor,
    output_bin_counts_stride: int,
    BLOCK_SIZE: int,
) -> None:
    """Count the tokens of requests: those of a prompt as bits, the others by number.

    Args:
        expanded_idx_mapping_ptr: [num_reqs]: the requests' rows, each once.
        all_token_ids_ptr: [max_num_reqs, max_model_len] int32.
        prompt_len_ptr: [max_num_reqs] int32.
        prefill_len_ptr: [max_num_reqs] int32: of the prompt and an earlier answer.
        prompt_bin_mask_ptr: [max_num_reqs, num_words] int32; bits are added.
        output_bin_counts_ptr: [max_num_reqs, vocab_size] int32; numbers are added.
        BLOCK_SIZE: not needed.
        all_token_ids_stride: not needed.
        output_bin_counts_stride: not needed.
        prompt_bin_mask_stride: not needed.

    """
    device = all_token_ids_ptr.device
    length = all_token_ids_ptr.shape[1]
    num_words = prompt_bin_mask_ptr.shape[1]
    size = output_bin_counts_ptr.shape[1]
    # One row of counts for the prompt, the answer, and what is neither.
    answers, neither = 32 * num_words, 32 * num_words + size
    place = torch.arange(length, dtype=torch.int32, device=device)
    bits = words_of_bits(device)
    rows = max(1, TABLE_ELEMENTS // max(length, neither))
    for start in range(0, expanded_idx_mapping_ptr.shape[0], rows):
        requests = expanded_idx_mapping_ptr[start : start + rows]
        tokens = all_token_ids_ptr.index_select(0, requests)
        of_prompt = prompt_len_ptr.index_select(0, requests).unsqueeze(1)
        of_all = prefill_len_ptr.index_select(0, requests).unsqueeze(1)
        where = torch.where(place < of_prompt, tokens, tokens + answers)
        where = torch.where(place < of_all, where, neither)
        counts = torch.zeros(
            requests.shape[0], neither + 1, dtype=torch.int32, device=device
        )
        counts.scatter_add_(1, where.long(), torch.ones_like(where))
        seen = counts[:, :answers].view(-1, num_words, 32) > 0
        words = (seen * bits).sum(dim=-1, dtype=torch.int32)
        words |= prompt_bin_mask_ptr.index_select(0, requests)
        requests = requests.long()
        prompt_bin_mask_ptr.index_copy_(0, requests, words)
        output_bin_counts_ptr.index_add_(0, requests, counts[:, answers:neither])


def _lanes(
    table: torch.Tensor, counts: torch.Tensor, requests: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Token ids of each row's list, as many in each row.

    Behind a list's end its first token is repeated, so that a scatter of values
    which go by the token writes nothing else; of an empty list, token 0.

    Args:
        table: [max_num_reqs, width] int32.
        counts: [max_num_reqs] int32.
        requests: [num_tokens].

    Returns:
        [num_tokens, width] int64; [num_tokens, 1] int32, how many there are;
        [num_tokens, width] int64, at which place of the list each is.

    """
    count = counts.index_select(0, requests).unsqueeze(1)
    place = torch.arange(table.shape[1], dtype=torch.int32, device=table.device)
    place = torch.where(place < count, place, 0).long()
    tokens = table.index_select(0, requests).gather(1, place)
    return torch.where(count > 0, tokens, 0).long(), count, place


def bias(
    logits_ptr: torch.Tensor,
    logits_stride: int,
    vocab_size: int,
    expanded_idx_mapping_ptr: torch.Tensor,
    num_allowed_token_ids_ptr: torch.Tensor,
    allowed_token_ids_ptr: torch.Tensor,
    allowed_token_ids_stride: int,
    num_logit_bias_ptr: torch.Tensor,
    bias_token_ids_ptr: torch.Tensor,
    bias_token_ids_stride: int,
    bias_ptr: torch.Tensor,
    bias_stride: int,
    pos_ptr: torch.Tensor,
    min_lens_ptr: torch.Tensor,
    num_stop_token_ids_ptr: torch.Tensor,
    restore_when_all_masked_ptr: torch.Tensor,
    stop_token_ids_ptr: torch.Tensor,
    stop_token_ids_stride: int,
    BLOCK_SIZE: int,
    LOGITS_BLOCK_SIZE: int,
    CHECK_ALL_MASKED_ROWS: bool,
) -> None:
    """Forbid what is not allowed, add biases, and forbid stopping too early.

    Args:
        logits_ptr: [num_tokens, vocab_size], changed in place.
        expanded_idx_mapping_ptr: [num_tokens].
        num_allowed_token_ids_ptr: [max_num_reqs] int32; 0: all are allowed.
        allowed_token_ids_ptr: [max_num_reqs, width] int32.
        num_logit_bias_ptr: [max_num_reqs] int32.
        bias_token_ids_ptr: [max_num_reqs, width] int32, of a request each once.
        bias_ptr: [max_num_reqs, width] float32.
        pos_ptr: [num_tokens]: the position of the row's token.
        min_lens_ptr: [max_num_reqs] int32: shorter ones may not stop.
        num_stop_token_ids_ptr: [max_num_reqs] int32.
        stop_token_ids_ptr: [max_num_reqs, width] int32, of a request each once.
        restore_when_all_masked_ptr: [max_num_reqs] int32: may stop nevertheless
            where nothing else is allowed. Counts with CHECK_ALL_MASKED_ROWS.
        CHECK_ALL_MASKED_ROWS: some row may.
        BLOCK_SIZE: not needed.
        LOGITS_BLOCK_SIZE: not needed.
        allowed_token_ids_stride: not needed.
        bias_stride: not needed.
        bias_token_ids_stride: not needed.
        logits_stride: not needed.
        stop_token_ids_stride: not needed.
        vocab_size: not needed.

    """
    logits, requests = logits_ptr, expanded_idx_mapping_ptr
    tokens, count, _ = _lanes(
        allowed_token_ids_ptr, num_allowed_token_ids_ptr, requests
    )
    allowed = logits.gather(1, tokens)
    logits.masked_fill_(count > 0, NEGATIVE_INFINITY)
    logits.scatter_(1, tokens, allowed)

    tokens, count, place = _lanes(bias_token_ids_ptr, num_logit_bias_ptr, requests)
    added = bias_ptr.index_select(0, requests).gather(1, place)
    added = torch.where(count > 0, added, 0.0)
    logits.scatter_(1, tokens, (logits.gather(1, tokens) + added).to(logits.dtype))

    tokens, count, _ = _lanes(stop_token_ids_ptr, num_stop_token_ids_ptr, requests)
    least = min_lens_ptr.index_select(0, requests).unsqueeze(1)
    early = (count > 0) & (pos_ptr.to(torch.int32).unsqueeze(1) + 1 < least)
    before = logits.gather(1, tokens)
    logits.scatter_(1, tokens, before.masked_fill(early, NEGATIVE_INFINITY))
    if CHECK_ALL_MASKED_ROWS:
        asked = restore_when_all_masked_ptr.index_select(0, requests).unsqueeze(1)
        nothing = logits.amax(dim=1, keepdim=True) == NEGATIVE_INFINITY
        restored = early & (asked != 0) & nothing & before.isfinite()
        kept = torch.where(restored, before, logits.gather(1, tokens))
        logits.scatter_(1, tokens, kept)


def bad_words(
    logits_ptr: torch.Tensor,
    logits_stride: int,
    expanded_idx_mapping_ptr: torch.Tensor,
    bad_word_token_ids_ptr: torch.Tensor,
    bad_word_token_ids_stride: int,
    bad_word_offsets_ptr: torch.Tensor,
    bad_word_offsets_stride: int,
    num_bad_words_ptr: torch.Tensor,
    all_token_ids_ptr: torch.Tensor,
    all_token_ids_stride: int,
    prompt_len_ptr: torch.Tensor,
    total_len_ptr: torch.Tensor,
    input_ids_ptr: torch.Tensor,
    expanded_local_pos_ptr: torch.Tensor,
) -> None:
    """Forbid the token by which an answer would end in a bad word.

    Args:
        logits_ptr: [num_tokens, vocab_size], changed in place.
        expanded_idx_mapping_ptr: [num_tokens].
        bad_word_token_ids_ptr: [max_num_reqs, max_tokens] int32: a request's words,
            one after the other.
        bad_word_offsets_ptr: [max_num_reqs, max_words + 1] int32: where they begin
            and end.
        num_bad_words_ptr: [max_num_reqs] int32.
        all_token_ids_ptr: [max_num_reqs, max_model_len] int32.
        prompt_len_ptr: [max_num_reqs] int32.
        total_len_ptr: [max_num_reqs] int32: of the prompt and the answer.
        input_ids_ptr: [num_tokens]: drafts but for a request's first.
        expanded_local_pos_ptr: [num_tokens] int32: the row's place in its request.
        all_token_ids_stride: tokens of a row.
        bad_word_offsets_stride: not needed.
        bad_word_token_ids_stride: not needed.
        logits_stride: not needed.

    """
    requests = expanded_idx_mapping_ptr
    device = logits_ptr.device
    tokens = bad_word_token_ids_ptr.index_select(0, requests)
    offsets = bad_word_offsets_ptr.index_select(0, requests)
    num_tokens, width = tokens.shape
    words = torch.arange(offsets.shape[1] - 1, dtype=torch.int32, device=device)
    there = words < num_bad_words_ptr.index_select(0, requests).unsqueeze(1)
    starts = torch.where(there, offsets[:, :-1], 0)
    ends = torch.where(there, offsets[:, 1:], 0)

    # Which word each token of the list belongs to: how many end before it.
    ended = torch.zeros(num_tokens, width + 1, dtype=torch.int32, device=device)
    ended.scatter_add_(1, ends.long(), there.to(torch.int32))
    word = ended[:, :width].cumsum(1, dtype=torch.int32)
    word = word.clamp_(max=words.shape[0] - 1).long()
    end = ends.gather(1, word)

    # What the answer has where a word's token would be, if the word ended it.
    place = torch.arange(num_tokens, dtype=torch.int32, device=device)
    first = (place - expanded_local_pos_ptr).unsqueeze(1)
    prompt = prompt_len_ptr.index_select(0, requests).unsqueeze(1)
    committed = total_len_ptr.index_select(0, requests).unsqueeze(1) - prompt
    length = committed + expanded_local_pos_ptr.unsqueeze(1)
    inside = torch.arange(width, dtype=torch.int32, device=device)
    at = length + 1 + inside - end
    limit = all_token_ids_ptr.shape[1] - 1
    where = (prompt + at).clamp_(0, limit).long()
    where.add_(requests.unsqueeze(1), alpha=all_token_ids_stride)
    answer = all_token_ids_ptr.view(-1).index_select(0, where.flatten())
    where = (first + at - committed + 1).clamp_(0, input_ids_ptr.shape[0] - 1)
    drafts = input_ids_ptr.to(torch.int32).index_select(0, where.flatten())
    actual = torch.where(at >= committed, drafts.view_as(at), answer.view_as(at))

    # A word matches if no token of it but the last differs.
    differs = torch.zeros(num_tokens, width + 1, dtype=torch.int32, device=device)
    differs[:, 1:] = tokens != actual
    differs = differs.cumsum(1, dtype=torch.int32)
    final = (ends - 1).clamp_(min=0).long()
    found = differs.gather(1, final) - differs.gather(1, starts.long())
    fits = ends - starts - 1 <= length
    last = torch.where(there, tokens.gather(1, final), 0).long()
    forbidden = torch.zeros(last.shape, dtype=logits_ptr.dtype, device=device)
    forbidden.masked_fill_(there & (found == 0) & fits, NEGATIVE_INFINITY)
    logits_ptr.scatter_add_(1, last, forbidden)


def min_p(
    logits_ptr: torch.Tensor,
    logits_stride: int,
    expanded_idx_mapping_ptr: torch.Tensor,
    min_p_ptr: torch.Tensor,
    vocab_size: int,
    BLOCK_SIZE: int,
) -> None:
    """Forbid tokens that are less likely than the best one times min_p.

    Args:
        logits_ptr: [num_tokens, vocab_size], changed in place.
        expanded_idx_mapping_ptr: [num_tokens].
        min_p_ptr: [max_num_reqs] float32; 0 forbids nothing.
        BLOCK_SIZE: not needed.
        logits_stride: not needed.
        vocab_size: not needed.

    """
    share = min_p_ptr.index_select(0, expanded_idx_mapping_ptr).to(torch.float32)
    best = logits_ptr.amax(dim=1, keepdim=True).to(torch.float32)
    least = best + share.log_().unsqueeze(1)
    logits_ptr.masked_fill_(logits_ptr < least, NEGATIVE_INFINITY)


def topk_log_softmax(
    output_ptr: torch.Tensor,
    logits_ptr: torch.Tensor,
    logits_stride: int,
    topk_ids_ptr: torch.Tensor,
    topk_ids_stride: int,
    topk: int,
    vocab_size: int,
    BLOCK_SIZE: int,
    TOPK_BLOCK_SIZE: int,
) -> None:
    """Write the log probabilities of some tokens of each row.

    Args:
        output_ptr: [num_tokens, topk] float32, written.
        logits_ptr: [num_tokens, vocab_size].
        topk_ids_ptr: [num_tokens, topk] int64.
        BLOCK_SIZE: not needed.
        TOPK_BLOCK_SIZE: not needed.
        logits_stride: not needed.
        topk: not needed.
        topk_ids_stride: not needed.
        vocab_size: not needed.

    """
    for start in range(0, logits_ptr.shape[0], ROWS):
        rows = slice(start, start + ROWS)
        logits = logits_ptr[rows].to(torch.float32)
        best = logits.amax(dim=1, keepdim=True)
        total = (logits - best).exp_().sum(dim=1, keepdim=True).log_()
        chosen = logits.gather(1, topk_ids_ptr[rows])
        output_ptr[rows] = chosen - best - total


def ranks(
    output_ptr: torch.Tensor,
    logits_ptr: torch.Tensor,
    logits_stride: int,
    token_ids_ptr: torch.Tensor,
    vocab_size: int,
    BLOCK_SIZE: int,
) -> None:
    """Write how many tokens of each row are as likely as a token or more.

    Args:
        output_ptr: [num_tokens] int64, written.
        logits_ptr: [num_tokens, vocab_size].
        token_ids_ptr: [num_tokens].
        BLOCK_SIZE: not needed.
        logits_stride: not needed.
        vocab_size: not needed.

    """
    own = logits_ptr.gather(1, token_ids_ptr.long().unsqueeze(1))
    output_ptr.copy_((logits_ptr >= own).sum(dim=1, dtype=torch.int32))


def fill_logprob_token_ids(
    out_token_ids_ptr: torch.Tensor,
    out_token_ids_stride: int,
    out_valid_mask_ptr: torch.Tensor,
    out_valid_mask_stride: int,
    sampled_token_ids_ptr: torch.Tensor,
    topk_indices_ptr: torch.Tensor,
    topk_indices_stride: int,
    expanded_idx_mapping_ptr: torch.Tensor,
    num_per_req_token_ids_ptr: torch.Tensor,
    per_req_token_ids_ptr: torch.Tensor,
    per_req_token_ids_stride: int,
    NUM_TOPK: int,
    PADDED_COLS: int,
) -> None:
    """Say whose log probabilities are asked for: own lists, or the best.

    Args:
        out_token_ids_ptr: [num_tokens, 1 + num_cols] int64 of zeros, written.
        out_valid_mask_ptr: [num_tokens, 1 + num_cols] bool of False, written.
        sampled_token_ids_ptr: [num_tokens]: the first column.
        topk_indices_ptr: [num_tokens, NUM_TOPK] int32; anything if that is 0.
        expanded_idx_mapping_ptr: [num_tokens].
        num_per_req_token_ids_ptr: [max_num_reqs] int32; 0: no list.
        per_req_token_ids_ptr: [max_num_reqs, width] int32.
        NUM_TOPK: how many of the best.
        PADDED_COLS: not needed.
        out_token_ids_stride: not needed.
        out_valid_mask_stride: not needed.
        per_req_token_ids_stride: not needed.
        topk_indices_stride: not needed.

    """
    requests = expanded_idx_mapping_ptr
    columns = out_token_ids_ptr.shape[1] - 1
    count = num_per_req_token_ids_ptr.index_select(0, requests).unsqueeze(1)
    place = torch.arange(columns, dtype=torch.int32, device=count.device)
    width = min(columns, per_req_token_ids_ptr.shape[1])
    tokens = torch.zeros(
        requests.shape[0], columns, dtype=torch.int32, device=count.device
    )
    tokens[:, :NUM_TOPK] = topk_indices_ptr[: requests.shape[0], :NUM_TOPK]
    own = tokens.clone()
    own[:, :width] = per_req_token_ids_ptr.index_select(0, requests)[:, :width]
    listed = count > 0
    valid = place < torch.where(listed, count, NUM_TOPK)
    tokens = torch.where(valid, torch.where(listed, own, tokens), 0)
    out_token_ids_ptr[:, 0] = sampled_token_ids_ptr
    out_token_ids_ptr[:, 1:] = tokens.long()
    out_valid_mask_ptr[:, 0].fill_(True)
    out_valid_mask_ptr[:, 1:] = valid


def num_nans(
    logits_ptr: torch.Tensor,
    logits_stride: int,
    num_nans_ptr: torch.Tensor,
    vocab_size: int,
    BLOCK_SIZE: int,
) -> None:
    """Count the numbers of each row that are none.

    Args:
        logits_ptr: [num_tokens, vocab_size].
        num_nans_ptr: [num_tokens] int32, written.
        BLOCK_SIZE: not needed.
        logits_stride: not needed.
        vocab_size: not needed.

    """
    num_nans_ptr.copy_((logits_ptr != logits_ptr).sum(dim=1, dtype=torch.int32))


def apply_grammar_bitmask(
    logits_ptr: torch.Tensor,
    logits_stride: int,
    logits_indices_ptr: torch.Tensor,
    cu_num_logits_ptr: torch.Tensor,
    bitmask_ptr: torch.Tensor,
    bitmask_stride: int,
    vocab_size: int,
    MASK_STRIDE: int,
    BLOCK_SIZE: int,
) -> None:
    """Forbid what a grammar does not take.

    Args:
        logits_ptr: [num_tokens, vocab_size], changed in place.
        logits_indices_ptr: [num_masks] int32: request * MASK_STRIDE + which of the
            request's rows; one that the request does not have masks nothing.
        cu_num_logits_ptr: [num_reqs + 1] int32: where each request's rows begin.
        bitmask_ptr: [num_masks, cdiv(vocab_size, 32)] int32: bits that are set are
            taken.
        MASK_STRIDE: most rows of a request.
        BLOCK_SIZE: not needed.
        bitmask_stride: not needed.
        logits_stride: not needed.
        vocab_size: not needed.

    """
    num_tokens, size = logits_ptr.shape
    num_masks = bitmask_ptr.shape[0]
    device = logits_ptr.device
    request = torch.div(logits_indices_ptr, MASK_STRIDE, rounding_mode="floor")
    place = torch.sub(logits_indices_ptr, request, alpha=MASK_STRIDE)
    row = cu_num_logits_ptr.index_select(0, request) + place
    inside = row < cu_num_logits_ptr.index_select(0, request + 1)
    # The mask of each row; rows without one have the last, which takes all.
    mask = torch.full((num_tokens + 1,), num_masks, dtype=torch.int32, device=device)
    numbers = torch.arange(num_masks, dtype=torch.int32, device=device)
    mask.scatter_(0, torch.where(inside, row, num_tokens).long(), numbers)
    words = torch.nn.functional.pad(bitmask_ptr, (0, 0, 0, 1), value=-1)
    words = words.index_select(0, mask[:num_tokens])
    for start in range(0, num_tokens, BITMASK_ROWS):
        rows = slice(start, start + BITMASK_ROWS)
        taken = _unpacked(words[rows], size)
        logits_ptr[rows].masked_fill_(~taken, NEGATIVE_INFINITY)


_V2 = "vllm.v1.worker.gpu"

KERNELS: dict[str, dict[str, Replacement]] = {
    f"{_V2}.sample.gumbel": {
        "_temperature_kernel": temperature,
        "_gumbel_sample_kernel": gumbel_sample,
    },
    f"{_V2}.sample.penalties": {
        "_penalties_kernel": penalties,
        "_bincount_kernel": bincount,
    },
    f"{_V2}.sample.logit_bias": {"_bias_kernel": bias},
    f"{_V2}.sample.bad_words": {"_bad_words_kernel": bad_words},
    f"{_V2}.sample.min_p": {"_min_p_kernel": min_p},
    f"{_V2}.sample.logprob": {
        "_topk_log_softmax_kernel": topk_log_softmax,
        "_ranks_kernel": ranks,
        "_fill_logprob_token_ids_kernel": fill_logprob_token_ids,
    },
    f"{_V2}.metrics.logits": {"_num_nans_kernel": num_nans},
    f"{_V2}.structured_outputs": {
        "_apply_grammar_bitmask_kernel": apply_grammar_bitmask
    },
}
"""What stands for each kernel, by its module and its name there."""

REPLACEMENTS = by_name(KERNELS)


def npu_kernel(kernel: Any) -> Launcher:
    """What is launched instead of a kernel."""
    return Launcher(kernel, REPLACEMENTS[kernel.__name__])


@cache
def replace_methods() -> None:
    """Have vLLM tell draws whether there is any that needs noise.

    The host knows the temperatures; of a batch without any, the noise would be
    made for nothing.
    """
    from vllm.v1.worker.gpu.sample.states import SamplingStates

    apply_staged_writes = SamplingStates.apply_staged_writes

    def apply_and_tell(self):
        apply_staged_writes(self)
        self.temperature.gpu.npu_all_greedy = not self.temperature.np.any()

    SamplingStates.apply_staged_writes = apply_and_tell


# npu-migrate: end
