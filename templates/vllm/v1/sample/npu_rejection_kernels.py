# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright contributors to the vLLM project
"""The kernels of `rejection_sampler`, of operators that an NPU has.

Nothing here waits for the device, and no shape depends on what is accepted.
Parameters are called as those of the kernels.
"""

from __future__ import annotations

from typing import Any

import torch

from vllm.triton_utils.npu_overrides import Launcher, Replacement, rows_of_tokens

# Rows for which scores of the whole vocabulary are on the device at a time.
ROWS = 64


def _spans(
    cu_num_tokens: torch.Tensor, width: int, num_tokens: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Where each request's drafts lie, as a table of one row a request.

    Args:
        cu_num_tokens: [num_reqs] int32: where each request's drafts end.
        width: most drafts of a request.
        num_tokens: drafts of all requests.

    Returns:
        [num_reqs, 1] int32, how many drafts; [num_reqs, width] bool, whether there
        is one; [num_reqs, width] int32, which one of all (any, where there is none).

    """
    counts = torch.diff(cu_num_tokens, prepend=cu_num_tokens.new_zeros(1))
    counts = counts.to(torch.int32).unsqueeze(1)
    place = torch.arange(width, dtype=torch.int32, device=counts.device)
    index = cu_num_tokens.to(torch.int32).unsqueeze(1) - counts + place
    return counts, place < counts, index.clamp(max=max(num_tokens - 1, 0))


def _pick(values: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    """`values` [num_tokens] at each place of a table; without values, anything."""
    if values.shape[0] == 0:
        return values.new_zeros(index.shape)
    return values.index_select(0, index.flatten()).view(index.shape)


def _write(
    output: torch.Tensor,
    counts: torch.Tensor,
    valid: torch.Tensor,
    accepted: torch.Tensor,
    tokens: torch.Tensor,
    bonus: torch.Tensor,
    chosen: torch.Tensor | None,
) -> None:
    """Write each request's tokens up to the first that is rejected, or the bonus.

    Args:
        output: [num_reqs, width + 1], written in place.
        accepted: [num_reqs, width] bool.
        tokens: [num_reqs, width]: what is written where it is valid.
        bonus: [num_reqs] or [num_reqs, 1]: what follows if no draft is rejected.
        chosen: [num_reqs] bool: rows that are written, or None for all.
        counts: [num_reqs], as of `_spans`.
        valid: [num_reqs, width] bool, as of `_spans`.

    """
    width = valid.shape[1]
    rejected = (valid & ~accepted).to(torch.int32)
    so_far = rejected.cumsum(1, dtype=torch.int32)
    # The first one that is rejected is replaced, nothing follows it.
    written = valid & (so_far - rejected == 0)
    place = torch.arange(width + 1, dtype=torch.int32, device=output.device)
    last = (place == counts) & (rejected.sum(1, keepdim=True, dtype=torch.int32) == 0)
    if chosen is not None:
        written &= chosen.unsqueeze(1)
        last &= chosen.unsqueeze(1)
    found = output.clone()
    kept = torch.where(written, tokens.to(output.dtype), output[:, :width])
    found[:, :width] = kept
    bonus = bonus.view(-1, 1).to(output.dtype)
    output.copy_(torch.where(last, bonus, found))


def rejection_greedy_sample(
    output_token_ids_ptr: torch.Tensor,
    cu_num_draft_tokens_ptr: torch.Tensor,
    draft_token_ids_ptr: torch.Tensor,
    target_argmax_ptr: torch.Tensor,
    bonus_token_ids_ptr: torch.Tensor,
    is_greedy_ptr: torch.Tensor | None,
    max_spec_len: int,
    uniform_probs_ptr: torch.Tensor | None = None,
    synthetic_conditional_rates_ptr: torch.Tensor | None = None,
    SYNTHETIC_MODE: bool = False,
) -> None:
    """Accept drafts as long as they are the target's best tokens.

    Args:
        output_token_ids_ptr: [num_reqs, max_spec_len + 1] int32, written in place.
        cu_num_draft_tokens_ptr: [num_reqs] int32: where each request's drafts end.
        draft_token_ids_ptr: [num_tokens] int32; -1 is rejected.
        target_argmax_ptr: [num_tokens] int64.
        bonus_token_ids_ptr: [num_reqs, 1] int32 or int64.
        is_greedy_ptr: [num_reqs] bool: requests of this kind; None: all.
        SYNTHETIC_MODE: drafts are accepted at random, at given rates.
        max_spec_len: the most drafts that a request may have.
        synthetic_conditional_rates_ptr: [max_spec_len], counts with SYNTHETIC_MODE.
        uniform_probs_ptr: [num_tokens], counts with SYNTHETIC_MODE.

    """
    drafts = draft_token_ids_ptr
    counts, valid, index = _spans(
        cu_num_draft_tokens_ptr, max_spec_len, drafts.shape[0]
    )
    drafts = _pick(drafts, index)
    tokens = _pick(target_argmax_ptr, index)
    if SYNTHETIC_MODE:
        assert uniform_probs_ptr is not None
        assert synthetic_conditional_rates_ptr is not None
        rates = synthetic_conditional_rates_ptr[:max_spec_len]
        accepted = (_pick(uniform_probs_ptr, index) < rates) & (drafts >= 0)
        tokens = torch.where(accepted, drafts.to(tokens.dtype), tokens)
    else:
        accepted = drafts == tokens
    _write(
        output_token_ids_ptr,
        counts,
        valid,
        accepted,
        tokens,
        bonus_token_ids_ptr,
        is_greedy_ptr,
    )


def rejection_random_sample(
    output_token_ids_ptr: torch.Tensor,
    cu_num_draft_tokens_ptr: torch.Tensor,
    draft_token_ids_ptr: torch.Tensor,
    draft_probs_ptr: torch.Tensor | None,
    target_probs_ptr: torch.Tensor,
    bonus_token_ids_ptr: torch.Tensor,
    recovered_token_ids_ptr: torch.Tensor,
    uniform_probs_ptr: torch.Tensor,
    is_greedy_ptr: torch.Tensor,
    max_spec_len: int,
    vocab_size: int,
    synthetic_conditional_rates_ptr: torch.Tensor | None = None,
    NO_DRAFT_PROBS: bool = False,
    SYNTHETIC_MODE: bool = False,
) -> None:
    """Accept each draft with the probability min(1, target / draft).

    Args:
        draft_probs_ptr: [num_tokens, vocab_size] float32; None where the drafts
            were not drawn (NO_DRAFT_PROBS): each had the probability 1.
        target_probs_ptr: [num_tokens, vocab_size] float32.
        recovered_token_ids_ptr: [num_tokens]: what takes a rejected one's place.
        uniform_probs_ptr: [num_tokens] float64 from 0 to 1.
        is_greedy_ptr: [num_reqs] bool: requests that are left as they are.
        NO_DRAFT_PROBS: the drafts were not drawn.
        SYNTHETIC_MODE: drafts are accepted at random, at given rates.
        bonus_token_ids_ptr: as of `rejection_greedy_sample`.
        cu_num_draft_tokens_ptr: as of `rejection_greedy_sample`.
        draft_token_ids_ptr: as of `rejection_greedy_sample`.
        max_spec_len: the most drafts that a request may have.
        output_token_ids_ptr: as of `rejection_greedy_sample`.
        synthetic_conditional_rates_ptr: [max_spec_len], counts with SYNTHETIC_MODE.
        vocab_size: size of the vocabulary.

    """
    drafts = draft_token_ids_ptr
    counts, valid, index = _spans(
        cu_num_draft_tokens_ptr, max_spec_len, drafts.shape[0]
    )
    # Rounding to float32 keeps a probability above 0 above it, which is what they
    # are drawn in float64 for. An NPU compares these on its CPU.
    chance = uniform_probs_ptr.to(torch.float32)
    if SYNTHETIC_MODE:
        assert synthetic_conditional_rates_ptr is not None
        rates = synthetic_conditional_rates_ptr[:max_spec_len]
        accepted = _pick(chance, index) < rates
    else:
        at_draft = drafts.clamp(min=0).long().unsqueeze(1)
        target = target_probs_ptr.gather(1, at_draft).squeeze(1)
        if NO_DRAFT_PROBS:
            taken = target >= chance
        else:
            assert draft_probs_ptr is not None
            draft = draft_probs_ptr.gather(1, at_draft).squeeze(1)
            taken = (draft > 0) & (target / draft >= chance)
        accepted = _pick(taken, index)
    drafts = _pick(drafts, index)
    # -1 pads drafts.
    accepted &= drafts >= 0
    recovered = _pick(recovered_token_ids_ptr, index).to(drafts.dtype)
    _write(
        output_token_ids_ptr,
        counts,
        valid,
        accepted,
        torch.where(accepted, drafts, recovered),
        bonus_token_ids_ptr,
        ~is_greedy_ptr,
    )


def expand(
    output_ptr: torch.Tensor,
    input_ptr: torch.Tensor,
    cu_num_tokens_ptr: torch.Tensor,
    replace_from: int,
    replace_to: int,
    MAX_NUM_TOKENS: int,
) -> None:
    """Repeat a value of each request for all of its tokens.

    Args:
        output_ptr: [num_tokens], written in place.
        input_ptr: [num_reqs]; `replace_from` becomes `replace_to`.
        cu_num_tokens_ptr: [num_reqs] int32: where each request's tokens end.
        MAX_NUM_TOKENS: not needed.
        replace_from: the value that is replaced.
        replace_to: what takes its place.

    """
    values = torch.where(input_ptr == replace_from, replace_to, input_ptr)
    rows = rows_of_tokens(cu_num_tokens_ptr, output_ptr.shape[0])
    output_ptr.copy_(values.index_select(0, rows))


def sample_recovered_tokens(
    output_token_ids_ptr: torch.Tensor,
    cu_num_draft_tokens_ptr: torch.Tensor,
    draft_token_ids_ptr: torch.Tensor,
    draft_probs_ptr: torch.Tensor | None,
    target_probs_ptr: torch.Tensor,
    inv_q_ptr: torch.Tensor | None = None,
    vocab_size: int = 0,
    q_ptr: torch.Tensor | None = None,
    BLOCK_SIZE: int = 0,
    PADDED_VOCAB_SIZE: int = 0,
    NO_DRAFT_PROBS: bool = False,
    USE_FP64_GUMBEL: bool = False,
) -> None:
    """Draw what takes a draft's place from what the target has more of than it.

    The largest of probability / q, where q is exponentially distributed, is a
    sample of the distribution.

    Args:
        output_token_ids_ptr: [num_tokens] or [num_tokens, 1], written in place.
        cu_num_draft_tokens_ptr: [num_reqs] int32: where each request's drafts end.
        draft_token_ids_ptr: as the output, int32; -1 pads.
        draft_probs_ptr: [num_tokens, vocab_size] float32, or None with
            NO_DRAFT_PROBS: then the draft itself is left out.
        target_probs_ptr: [num_tokens, vocab_size] float32.
        BLOCK_SIZE: not needed.
        NO_DRAFT_PROBS: the drafts were not drawn.
        PADDED_VOCAB_SIZE: not needed.
        USE_FP64_GUMBEL: not needed.
        inv_q_ptr: [num_reqs, vocab_size]: 1 / q.
        q_ptr: [num_reqs, vocab_size]: q itself.
        vocab_size: size of the vocabulary.

    """
    output = output_token_ids_ptr.view(-1)
    num_tokens = output.shape[0]
    requests = rows_of_tokens(cu_num_draft_tokens_ptr, num_tokens)
    for start in range(0, num_tokens, ROWS):
        rows = slice(start, start + ROWS)
        target = target_probs_ptr[rows]
        if NO_DRAFT_PROBS:
            drafts = draft_token_ids_ptr[rows].long().view(-1, 1)
            at_draft = drafts.clamp(min=0)
            # Padding leaves nothing out.
            kept = torch.where(drafts < 0, target.gather(1, at_draft), 0.0)
            scores = target.scatter(1, at_draft, kept)
        else:
            assert draft_probs_ptr is not None
            scores = (target - draft_probs_ptr[rows]).clamp(min=0)
        if inv_q_ptr is not None:
            scores = scores * inv_q_ptr.index_select(0, requests[rows])
        else:
            assert q_ptr is not None
            scores = scores / q_ptr.index_select(0, requests[rows])
        output[rows] = scores.argmax(-1).to(output.dtype)


REPLACEMENTS: dict[str, Replacement] = {
    "rejection_greedy_sample_kernel": rejection_greedy_sample,
    "rejection_random_sample_kernel": rejection_random_sample,
    "expand_kernel": expand,
    "sample_recovered_tokens_kernel": sample_recovered_tokens,
}
"""What stands for each kernel of `rejection_sampler`, by its name there."""


def npu_kernel(kernel: Any) -> Launcher:
    """What is launched instead of a kernel."""
    return Launcher(kernel, REPLACEMENTS[kernel.__name__])
