# SPDX-License-Identifier: Apache-2.0
"""Rejection sampling by the replacements of Triton kernels: whose distribution the tokens have.

scripts/replacement_table.py compares them with vLLM's kernels.
"""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import torch


def load(name: str) -> Any:
    """A template as a module, with the templates that it imports."""
    root = str(Path(__file__).parents[2] / "templates")
    others = {n: sys.modules.pop(n) for n in list(sys.modules) if n.partition(".")[0] == "vllm"}
    sys.path.insert(0, root)
    try:
        return import_module(name)
    finally:
        sys.path.remove(root)
        for n in [n for n in sys.modules if n.partition(".")[0] == "vllm"]:
            del sys.modules[n]
        sys.modules.update(others)


SAMPLER = load("vllm.v1.sample.npu_rejection_kernels")
ROUNDS = 60_000


def sample(target: torch.Tensor, draft: torch.Tensor | None, drafts: torch.Tensor) -> torch.Tensor:
    """The tokens of a request for each row of `drafts` [rounds, drafted], -1 where there is none.

    target, draft: [drafted, vocabulary], the probabilities at each place.
    """
    generator = torch.Generator().manual_seed(5)
    rounds, drafted = drafts.shape
    vocabulary = target.shape[1]
    ends = torch.arange(1, rounds + 1, dtype=torch.int32) * drafted
    q = torch.empty(rounds, vocabulary).exponential_(generator=generator)
    common = {
        "cu_num_draft_tokens_ptr": ends,
        "draft_token_ids_ptr": drafts.flatten().int(),
        "draft_probs_ptr": None if draft is None else draft.repeat(rounds, 1),
        "target_probs_ptr": target.repeat(rounds, 1),
        "vocab_size": vocabulary,
        "NO_DRAFT_PROBS": draft is None,
    }
    recovered = torch.empty(rounds * drafted, dtype=torch.int32)
    SAMPLER.sample_recovered_tokens(
        output_token_ids_ptr=recovered, inv_q_ptr=q.reciprocal(), **common
    )
    output = torch.full((rounds, drafted + 1), -1, dtype=torch.int32)
    chance = torch.rand(rounds * drafted, generator=generator, dtype=torch.float64)
    SAMPLER.rejection_random_sample(
        output_token_ids_ptr=output,
        bonus_token_ids_ptr=torch.full((rounds, 1), vocabulary, dtype=torch.int32),
        recovered_token_ids_ptr=recovered,
        uniform_probs_ptr=chance,
        is_greedy_ptr=torch.zeros(rounds, dtype=torch.bool),
        max_spec_len=drafted,
        **common,
    )
    return output


def far(seen: torch.Tensor, wanted: torch.Tensor) -> bool:
    """Whether tokens are not drawn with these probabilities, by more than chance explains."""
    counts = torch.bincount(seen.long(), minlength=len(wanted)).float()
    expected = wanted * len(seen)
    chi_squared = float(((counts - expected) ** 2 / expected.clamp(min=1e-9)).sum())
    # With four degrees of freedom once in a million.
    return len(counts) > len(wanted) or chi_squared > 33


TARGET = torch.tensor([[0.1, 0.2, 0.3, 0.15, 0.25], [0.4, 0.05, 0.05, 0.3, 0.2]])
DRAFT = torch.tensor([[0.6, 0.1, 0.1, 0.1, 0.1], [0.1, 0.2, 0.3, 0.2, 0.2]])


def check_tokens_of_drawn_drafts_have_the_distribution_of_the_target() -> None:
    distribution(drawn=True)


def check_tokens_of_certain_drafts_have_the_distribution_of_the_target() -> None:
    distribution(drawn=False)


def distribution(*, drawn: bool) -> None:
    generator = torch.Generator().manual_seed(7)
    if drawn:
        drafts = torch.stack(
            [torch.multinomial(row, ROUNDS, True, generator=generator) for row in DRAFT], 1
        )
    else:
        # As of ngram: whatever it is, each has the probability 1.
        drafts = torch.tensor([[3, 0]]).repeat(ROUNDS, 1)
    output = sample(TARGET, DRAFT if drawn else None, drafts)
    first, second = output[:, 0], output[:, 1]
    assert not far(first, TARGET[0])
    accepted = second >= 0
    # A second token follows an accepted first alone, and it is independent of it here.
    assert torch.equal(accepted, first == drafts[:, 0])
    assert not far(second[accepted], TARGET[1])
    # And the measure tells a distribution from another.
    assert far(first, DRAFT[0])


def check_padding_is_rejected_and_requests_without_drafts_get_the_bonus() -> None:
    output = torch.full((3, 3), -1, dtype=torch.int32)
    SAMPLER.rejection_greedy_sample(
        output_token_ids_ptr=output,
        cu_num_draft_tokens_ptr=torch.tensor([2, 2, 3], dtype=torch.int32),
        draft_token_ids_ptr=torch.tensor([4, -1, 6], dtype=torch.int32),
        target_argmax_ptr=torch.tensor([4, 5, 6]),
        bonus_token_ids_ptr=torch.tensor([[7], [8], [9]]),
        is_greedy_ptr=None,
        max_spec_len=2,
    )
    assert output.tolist() == [[4, 5, -1], [8, -1, -1], [6, 9, -1]]


def check_a_batch_without_drafts_gets_bonuses() -> None:
    output = torch.full((2, 1), -1, dtype=torch.int32)
    none = torch.empty(0, dtype=torch.int32)
    SAMPLER.rejection_greedy_sample(
        output, torch.zeros(2, dtype=torch.int32), none, none.long(), torch.tensor([3, 4]), None, 0
    )
    assert output.tolist() == [[3], [4]]


def check_a_kernel_with_a_parameter_of_its_own_is_not_replaced() -> None:
    def expand_kernel(output_ptr, input_ptr, cu_num_tokens_ptr, wisdom) -> None:  # type: ignore[no-untyped-def]
        pass

    try:
        SAMPLER.npu_kernel(expand_kernel)
        said = "nothing"
    except TypeError as error:
        said = str(error)
    assert "expand does not know the kernel's wisdom" in said


def check_launch_goes_by_the_kernels_own_order() -> None:
    def expand_kernel(  # type: ignore[no-untyped-def]
        replace_to, output_ptr, input_ptr, cu_num_tokens_ptr, replace_from, MAX_NUM_TOKENS
    ) -> None:
        pass

    output = torch.zeros(3)
    ends = torch.tensor([1, 1, 3], dtype=torch.int32)
    SAMPLER.npu_kernel(expand_kernel)[(3,)](
        9, output, torch.tensor([1.0, 2.0, 0.0]), ends, 0, MAX_NUM_TOKENS=8, num_warps=1
    )
    assert output.tolist() == [1.0, 9.0, 9.0]


def check_drafts_may_be_a_column() -> None:
    drafts = torch.tensor([1, 0, 2], dtype=torch.int32)
    ends = torch.tensor([2, 3], dtype=torch.int32)
    target = torch.tensor([[0.1, 0.8, 0.1], [0.7, 0.1, 0.2], [0.2, 0.3, 0.5]])
    found = []
    for shape in ((3,), (3, 1)):
        output = torch.full(shape, -1, dtype=torch.int32)
        SAMPLER.sample_recovered_tokens(
            output, ends, drafts.view(shape), None, target, torch.ones(2, 3), 3, NO_DRAFT_PROBS=True
        )
        found.append(output.flatten().tolist())
    assert found == [[0, 2, 1]] * 2
