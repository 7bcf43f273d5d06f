# SPDX-License-Identifier: Apache-2.0
"""What `punica_npu.py` of the emitted tree computes, against dense products row by row."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import torch

from tests.emitted.inside import same, vllm

RELEASES = ("0.9.2", "0.11.0", "0.33.0")
WITH_BIAS = ("0.9.2", "0.11.0")
WITH_ADDED_TOKENS = ("0.9.2", "0.11.0")
MODULE = "vllm.lora.punica_wrapper.punica_npu"
OPERATORS = ("npu_lora_shrink", "npu_lora_expand", "npu_lora_linear", "npu_lora_bias")
VOCABULARY = 100
SLOTS = [7, None, 5]
"""The adapter of each slot; the one in the middle is free."""
TOKENS = (5, 5, 0, 7, 0, 5)
INDICES = (2, 2, -1, 0, -1, 2)
REQUESTS = (5, 0, 7, 0)
REQUEST_INDICES = (2, -1, 0, -1)


@contextmanager
def wrapper(release: str, slots: int = 3, *, capturing: bool = False) -> Iterator[Any]:
    """A wrapper for 16 tokens, its operators called as the functions that they are."""
    with vllm(release) as load:
        module = load(MODULE)
        known = torch.ops.__dict__.get("vllm")
        functions = {name: getattr(module, name, None) for name in OPERATORS}
        torch.ops.__dict__["vllm"] = SimpleNamespace(**functions)
        before = torch.npu.__dict__.get("is_current_stream_capturing")
        torch.npu.is_current_stream_capturing = lambda: capturing
        try:
            config = SimpleNamespace(max_loras=slots)
            yield module.PunicaWrapperNPU(16, 8, "cpu", max_loras=slots, lora_config=config)
        finally:
            torch.ops.__dict__.pop("vllm")
            if known is not None:
                torch.ops.__dict__["vllm"] = known
            torch.npu.is_current_stream_capturing = before


def update(
    made: Any,
    release: str,
    tokens: Sequence[int] = TOKENS,
    requests: Sequence[int] = REQUESTS,
    slots: Sequence[int | None] = SLOTS,
) -> None:
    mapping = SimpleNamespace(
        index_mapping=tuple(tokens), prompt_mapping=tuple(requests), is_prefill=True
    )
    more = [8] if release in WITH_ADDED_TOKENS else []
    made.update_metadata(mapping, slots, len(slots) + 1, VOCABULARY, *more)


def biases(release: str, *values: Any) -> tuple[Any, ...]:
    """The argument that the older releases have behind B."""
    return (values or None,) if release in WITH_BIAS else ()


def dense(
    x: torch.Tensor, stacked: torch.Tensor, indices: Sequence[int], scale: float = 1.0
) -> torch.Tensor:
    """Each row times the matrix of its slot, 0 where it has none."""
    out = torch.zeros(x.shape[0], stacked.shape[-2])
    for row, slot in enumerate(indices):
        if slot >= 0:
            out[row] = stacked.view(-1, *stacked.shape[-2:])[slot] @ x[row] * scale
    return out


def weights(slots: int, rows: int, columns: int) -> torch.Tensor:
    return torch.randn(slots, 1, rows, columns)


def check_linear_with_slices() -> None:
    sizes = (12, 4, 4)
    for release in RELEASES:
        with wrapper(release) as made:
            update(made, release)
            x, y = torch.randn(6, 8), torch.randn(6, 20)
            a = tuple(weights(3, 4, 8) for _ in sizes)
            b = tuple(weights(3, size, 4) for size in sizes)
            parts = [
                dense(dense(x, one, INDICES, 0.5), other, INDICES)
                for one, other in zip(a, b, strict=True)
            ]
            got = y.clone()
            made.add_lora_linear(got, x, a, b, *biases(release), 0.5, sizes)
            same(got, y + torch.cat(parts, 1), atol=1e-5, rtol=1e-5)
            for row, slot in enumerate(INDICES):
                assert slot >= 0 or torch.equal(got[row], y[row])


def check_tokens_may_have_more_dimensions() -> None:
    for release in RELEASES:
        with wrapper(release) as made:
            update(made, release)
            x, y = torch.randn(2, 3, 8), torch.randn(2, 3, 12)
            a, b = weights(3, 4, 8), weights(3, 12, 4)
            got = y.clone()
            made.add_lora_linear(got, x, (a,), (b,), *biases(release), 1.0, (12,))
            wanted = dense(dense(x.view(6, 8), a, INDICES), b, INDICES).view(2, 3, 12)
            same(got, y + wanted, atol=1e-5, rtol=1e-5)


def check_no_adapter_is_not_the_last_slot() -> None:
    # One slot, which is taken: an index of -1 would read it.
    for release in RELEASES:
        with wrapper(release, slots=1) as made:
            update(made, release, (5, 0, 5), (5, 0), [5])
            y = torch.randn(3, 6)
            got = y.clone()
            a, b = weights(1, 4, 8), weights(1, 6, 4)
            made.add_lora_linear(got, torch.randn(3, 8), (a,), (b,), *biases(release), 1.0, (6,))
            assert torch.equal(got[1], y[1])
            assert not torch.isclose(got[::2], y[::2]).all()


def check_an_adapter_stays_within_its_rows() -> None:
    for release in RELEASES:
        with wrapper(release) as made:
            update(made, release)
            x, y = torch.randn(6, 8), torch.randn(6, 6)
            a, b = weights(3, 4, 8), weights(3, 6, 4)
            a[0, 0, 1], b[0, 0, 2] = float("inf"), float("nan")
            got = y.clone()
            made.add_lora_linear(got, x, (a,), (b,), *biases(release), 1.0, (6,))
            others = [row for row, slot in enumerate(INDICES) if slot != 0]
            wanted = y + dense(dense(x, a, INDICES), b, INDICES)
            same(got[others], wanted[others], atol=1e-5, rtol=1e-5)
            assert got[INDICES.index(0)].isnan().any()


def check_shrink_and_expand() -> None:
    # As layers whose adapters are sharded do it, with a buffer wider than the rank.
    for release in RELEASES:
        with wrapper(release) as made:
            update(made, release)
            x, a = torch.randn(6, 8), (weights(3, 4, 8), weights(3, 4, 8))
            wanted = torch.stack([dense(x, one, INDICES, 2.0) for one in a])
            buffer = torch.full((2, 6, 5), 7.0)
            made.add_shrink(buffer, x, a, 2.0)
            same(buffer[..., :4], wanted, atol=1e-5, rtol=1e-5)
            parts = (torch.full((6, 4), 7.0), torch.full((6, 4), 7.0))
            made.add_shrink(parts, x, a, 2.0)
            same(torch.stack(parts), wanted, atol=1e-5, rtol=1e-5)

            b = (weights(3, 3, 4), weights(3, 5, 4))
            products = torch.cat(
                [dense(s, one, INDICES) for s, one in zip(wanted, b, strict=True)], 1
            )
            for inputs in (buffer, parts):
                y = torch.randn(6, 12)
                got = y.clone()
                made.add_expand(
                    got, inputs, b, *biases(release), (3, 5), offset_start=2, add_inputs=True
                )
                same(got[:, 2:10], y[:, 2:10] + products, atol=1e-5, rtol=1e-5)
                assert torch.equal(got[:, :2], y[:, :2])
                assert torch.equal(got[:, 10:], y[:, 10:])
                made.add_expand(got, inputs, b, *biases(release), (3, 5), add_inputs=False)
                same(got[:, :8], products, atol=1e-5, rtol=1e-5)


def check_embedding() -> None:
    for release in RELEASES:
        with wrapper(release) as made:
            update(made, release)
            x, y, b = torch.randn(6, 4), torch.randn(6, 10), weights(3, 10, 4)
            got = y.clone()
            made.add_lora_embedding(got, x, b, add_input=True)
            same(got, y + dense(x, b, INDICES), atol=1e-5, rtol=1e-5)


def check_logits_are_those_of_requests() -> None:
    # Either vocabulary may be padded; rows are requests, not tokens.
    for release in RELEASES:
        for ours, theirs in ((10, 10), (12, 10), (10, 12)):
            with wrapper(release) as made:
                update(made, release)
                x, y = torch.randn(4, 8), torch.randn(4, ours)
                a, b = weights(3, 4, 8), weights(3, theirs, 4)
                got = y.clone()
                made.add_lora_logits(got, x, a, b, 1.0)
                wanted = y.clone()
                width = min(ours, theirs)
                product = dense(dense(x, a, REQUEST_INDICES), b, REQUEST_INDICES)
                wanted[:, :width] += product[:, :width]
                same(got, wanted, atol=1e-5, rtol=1e-5)


def check_half_precision() -> None:
    for release in RELEASES:
        with wrapper(release) as made:
            update(made, release)
            x, y = torch.randn(6, 8).bfloat16(), torch.randn(6, 12).bfloat16()
            a, b = weights(3, 4, 8).bfloat16(), weights(3, 12, 4).bfloat16()
            got = y.clone()
            made.add_lora_linear(got, x, (a,), (b,), *biases(release), 1.0, (12,))
            wanted = y.float() + dense(dense(x.float(), a.float(), INDICES), b.float(), INDICES)
            assert got.dtype is torch.bfloat16
            same(got.float(), wanted, atol=0.1, rtol=0.02)
            buffer = torch.zeros(1, 6, 4)
            made.add_shrink(buffer, x, (a,), 1.0)
            same(buffer[0], dense(x.float(), a.float(), INDICES), atol=0.05, rtol=0.01)


def check_a_graph_serves_other_adapters_than_it_was_captured_with() -> None:
    # What a capture does, replayed by hand: the same operators on the same buffers.
    for release in RELEASES:
        with wrapper(release, capturing=True) as made:
            update(made, release, (0,) * 6, (0,) * 4)
            mask = made._token_mask
            x, y = torch.randn(6, 8), torch.randn(6, 12)
            a, b = weights(3, 4, 8), weights(3, 12, 4)
            in_use = made._token_in_use.clone()
            assert not in_use.any()
            update(made, release)
            assert made._token_mask is mask
            got = y.clone()
            torch.ops.vllm.npu_lora_linear(got, x, (a,), (b,), mask, in_use, 1.0, (12,), True)
            same(got, y + dense(dense(x, a, INDICES), b, INDICES), atol=1e-5, rtol=1e-5)


def check_slots_that_nobody_uses_are_not_computed() -> None:
    for release in RELEASES:
        with wrapper(release) as made:
            update(made, release)
            assert made._token_in_use.tolist() == [True, False, True]
            assert made._sampler_in_use.tolist() == [True, False, True]
            update(made, release, (0, 5), (0, 5))
            assert made._token_in_use.tolist() == [False, False, True]


def check_metadata() -> None:
    for release in RELEASES:
        with wrapper(release) as made:
            update(made, release, (5,) * 16, (7,) * 8)
            update(made, release)
            assert made.token_lora_indices.tolist() == list(INDICES)
            assert made.sampler_indices.tolist() == list(REQUEST_INDICES)
            # The manager has one slot more than there are, for requests without an adapter.
            padded = [slot if slot >= 0 else 3 for slot in REQUEST_INDICES]
            assert made.sampler_indices_padded.tolist() == [
                row + 4 * slot for row, slot in enumerate(padded)
            ]
            offsets = [max(slot, 0) for slot in INDICES]
            rows = made._embeddings_indices.view(-1, 16)
            added = 8 if release in WITH_ADDED_TOKENS else 0
            assert rows[-1, :6].tolist() == [slot * (VOCABULARY + added) for slot in offsets]
            if added:
                assert rows[0, :6].tolist() == [slot * added for slot in offsets]
            # What is behind the batch: no adapter, and no row of an embedding that is not there.
            assert set(made._token_lora_indices[6:].tolist()) == {-1}
            assert not rows[:, 6:].any()
            assert not made._token_mask[:, 6:].any()
            assert not made._sampler_mask[:, 4:].any()
            for slot in range(3):
                assert made._token_mask[slot, :6, 0].tolist() == [i == slot for i in INDICES]


def check_metadata_is_the_base_class_s() -> None:
    # In 0.33.0 the base class copies by a function of a module that is a stub here.
    for release in ("0.9.2", "0.11.0"):
        with wrapper(release) as made:
            update(made, release)
            names = ("token_lora_indices", "sampler_indices", "sampler_indices_padded")
            ours = [getattr(made, name).clone() for name in (*names, "embeddings_indices")]
            lengths = list(made.indices_len)
            mapping = SimpleNamespace(index_mapping=TOKENS, prompt_mapping=REQUESTS)
            made._update_base_metadata(mapping, SLOTS, 4, VOCABULARY, 8)
            theirs = [getattr(made, name) for name in (*names, "embeddings_indices")]
            for one, other in zip(ours, theirs, strict=True):
                assert torch.equal(one, other)
            assert lengths == list(made.indices_len)


def check_an_adapter_without_a_slot_is_an_error() -> None:
    for release in RELEASES:
        with wrapper(release) as made:
            said = ""
            try:
                update(made, release, (5, 9), (5, 9))
            except ValueError as error:
                said = str(error)
            assert "adapter 9 is not in any slot" in said


def check_streams_of_cuda_are_refused() -> None:
    with vllm("0.33.0", switches={"VLLM_LORA_ENABLE_DUAL_STREAM": True}) as load:
        said = ""
        try:
            load(MODULE).PunicaWrapperNPU(16, 8, "cpu", max_loras=1)
        except ValueError as error:
            said = str(error)
        assert said == "NPU: VLLM_LORA_ENABLE_DUAL_STREAM is not supported."


def check_bias() -> None:
    for release in WITH_BIAS:
        with wrapper(release) as made:
            update(made, release)
            x, y = torch.randn(6, 8), torch.randn(6, 9)
            a = tuple(weights(3, 4, 8) for _ in range(3))
            b = tuple(weights(3, 3, 4) for _ in range(3))
            bias = torch.randn(3, 1, 3)
            got, without = y.clone(), y.clone()
            made.add_lora_linear(got, x, a, b, (None, bias, None), 1.0, (3, 3, 3))
            made.add_lora_linear(without, x, a, b, None, 1.0, (3, 3, 3))
            added = torch.zeros(6, 9)
            for row, slot in enumerate(INDICES):
                if slot >= 0:
                    added[row, 3:6] = bias[slot, 0]
            same(got, without + added, atol=1e-6, rtol=1e-6)


def check_a_layer_of_the_adapter_s_own() -> None:
    with wrapper("0.33.0") as made:
        update(made, "0.33.0")
        x, y = torch.randn(4, 8), torch.randn(4, 5)
        weight, bias = weights(3, 5, 8), torch.randn(3, 5)
        enabled = torch.tensor([False, True, True])
        got = y.clone()
        made.apply_lora_full_linear(got, x, weight, bias, enabled)
        wanted = y.clone()
        # The request of slot 0 has an adapter without such a layer.
        wanted[0] = weight[2, 0] @ x[0] + bias[2]
        same(got, wanted, atol=1e-5, rtol=1e-5)


def check_schemas() -> None:
    # Dynamo sees the operators by these: tensors, no state, y changed.
    for release in RELEASES:
        with vllm(release) as load:
            module = load(MODULE)
            operators = OPERATORS if release in WITH_BIAS else OPERATORS[:-1]
            assert [name for name in OPERATORS if hasattr(module, name)] == list(operators)
            for name in operators:
                schema = torch.library.infer_schema(getattr(module, name), mutates_args=["y"])
                assert schema.startswith("(Tensor(a0!) y, ")
                assert schema.endswith("-> ()")
