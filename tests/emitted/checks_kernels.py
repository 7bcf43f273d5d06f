# SPDX-License-Identifier: Apache-2.0
"""What `npu_kernels.py` computes, against the same in plain Python."""

from __future__ import annotations

import importlib.util
import itertools
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch.utils._python_dispatch import TorchDispatchMode


def kernels() -> Any:
    place = Path(__file__).parents[2] / "templates/vllm/v1/worker/npu_kernels.py"
    spec = importlib.util.spec_from_file_location("npu_kernels", place)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def block_table(rows: list[list[int]], capacity: int, **sizes: int) -> Any:
    return SimpleNamespace(
        block_size=128,
        block_table=SimpleNamespace(gpu=torch.tensor(rows, dtype=torch.int32)),
        slot_mapping=SimpleNamespace(gpu=torch.full((capacity,), 7, dtype=torch.int64)),
        **sizes,
    )


def check_slots_of_a_mixed_batch() -> None:
    # A decode at position 130, a prefill of 3 tokens from 0, one that crosses into its third block.
    table = block_table([[4, 9, 0], [2, 0, 0], [5, 6, 8]], capacity=10)
    positions = torch.tensor([130, 0, 1, 2, 255, 256])
    starts = torch.tensor([0, 1, 4, 6], dtype=torch.int32)
    kernels().compute_slot_mapping(table, 3, starts, positions)
    expected = [9 * 128 + 2, 256, 257, 258, 6 * 128 + 127, 8 * 128]
    assert table.slot_mapping.gpu.tolist() == [*expected, -1, -1, -1, -1]


def check_requests_after_the_batch_are_ignored() -> None:
    table = block_table([[3], [1]], capacity=3)
    kernels().compute_slot_mapping(
        table, 2, torch.tensor([0, 1, 2, 2, 2], dtype=torch.int32), torch.tensor([5, 6])
    )
    assert table.slot_mapping.gpu.tolist() == [3 * 128 + 5, 128 + 6, -1]


def check_context_parallelism_is_refused() -> None:
    table = block_table([[1]], capacity=1, dcp_world_size=2)
    refused = ""
    try:
        kernels().compute_slot_mapping(
            table, 1, torch.tensor([0, 1], dtype=torch.int32), torch.tensor([0])
        )
    except NotImplementedError as error:
        refused = str(error)
    assert "context parallelism" in refused


def check_slots_of_many_batches() -> None:
    """Against the definition, token by token; nothing is computed in int64, nor searched."""
    random = np.random.default_rng(0)
    for _ in range(30):
        num_reqs = int(random.integers(1, 9))
        # Requests without tokens stand anywhere, and the last takes tokens of padding.
        lengths = random.integers(0, 5, num_reqs) * random.integers(0, 80, num_reqs)
        ends = np.cumsum(lengths)
        num_tokens = int(ends[-1]) + int(random.integers(0, 3))
        rows = random.integers(0, 1000, (num_reqs + 2, 7))
        positions = random.integers(0, 7 * 128, num_tokens)
        owners = np.minimum(np.searchsorted(ends, np.arange(num_tokens), "right"), num_reqs - 1)
        want = rows[owners, positions // 128] * 128 + positions % 128
        table = block_table(rows.tolist(), capacity=num_tokens + 3)
        starts = torch.tensor([0, *ends, *[ends[-1]] * 2], dtype=torch.int32)
        given, module = torch.from_numpy(positions), kernels()
        with Operators() as seen:
            module.compute_slot_mapping(table, num_reqs, starts, given)
        assert table.slot_mapping.gpu.tolist() == [*want.tolist(), -1, -1, -1]
        assert {o for o, dtype in seen.results if dtype == torch.int64} == {"slice"}
        assert not {o for o, _ in seen.results} & {"bucketize", "searchsorted", "index"}


class Operators(TorchDispatchMode):  # type: ignore[misc]
    """Notes the operators that are called and the dtypes of what they make."""

    def __init__(self) -> None:
        super().__init__()
        self.results: list[tuple[str, torch.dtype]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if isinstance(result, torch.Tensor) and not result._is_view():
            self.results.append((func.overloadpacket.__name__, result.dtype))
        return result


class TopKTopP:
    """Stands for torch_npu: the operator, strict about k, which notes how many rows it got."""

    def __init__(self) -> None:
        self.rows: list[int] = []

    def npu_top_k_top_p(
        self, logits: torch.Tensor, p: torch.Tensor | None, k: torch.Tensor | None
    ) -> torch.Tensor:
        self.rows.append(logits.shape[0])
        assert p is not None or k is not None
        if k is not None:
            assert k.dtype == torch.int32
            assert k.min() >= 1
            assert k.max() <= min(1024, logits.shape[1])
        if p is not None:
            assert p.dtype == logits.dtype
        return reference_top_k_top_p(logits, k, p)


def reference_top_k_top_p(
    logits: torch.Tensor, k: torch.Tensor | None, p: torch.Tensor | None
) -> torch.Tensor:
    """What vLLM promises, row by row: ties at the k-th place stay, the best one always."""
    result = logits.clone()
    for index, row in enumerate(result):
        if k is not None:
            row[row < row.sort(descending=True).values[int(k[index]) - 1]] = -torch.inf
        if p is not None:
            values, order = row.sort()
            dropped = values.softmax(-1).cumsum(-1) <= 1 - p[index]
            dropped[-1] = False
            row[order[dropped]] = -torch.inf
    return result


def check_top_k_and_top_p_of_mixed_rows() -> None:
    vocab = 3000
    torch.manual_seed(0)
    tops = (1, 7, 1024, 1025, 2999, vocab, vocab)
    cases: list[tuple[tuple[int, ...] | None, bool, list[int]]] = [
        (tops, True, [3, 2]),
        (tops, False, [3]),
        ((1, 2, 1024, 5, 6, 7, 8), True, [7]),
        ((vocab,) * 7, True, [7]),
        ((vocab,) * 7, False, []),
        ((1025,) * 7, True, []),
        (None, True, [7]),
        (None, False, []),
    ]
    for (given, nucleus, rows), ties, kept in itertools.product(
        cases, (True, False), (True, False)
    ):
        logits = torch.randn(7, vocab)
        if ties:
            logits = logits.mul(2).round().div(2)
        p = torch.tensor([1.0, 0.9, 0.5, 0.3, 1.0, 0.8, 1e-9]) if nucleus else None
        k = None if given is None else torch.tensor(given, dtype=torch.int32)
        want = reference_top_k_top_p(logits, k, p)
        device, module = TopKTopP(), kernels()
        batch = SimpleNamespace(
            sampling_metadata=SimpleNamespace(top_k=k),
            top_k_cpu=np.array([*(given or ()), 9, 9], dtype=np.int32),
        )
        if kept:
            module.keep_top_k_on_host(batch)
        sys.modules["torch_npu"] = device  # type: ignore[assignment]
        try:
            with Operators() as seen:
                got = module.apply_top_k_top_p(logits.clone(), k, p)
        finally:
            del sys.modules["torch_npu"]
        # Of equal logits at the edge of the nucleus the sort chooses, their number is fixed.
        assert torch.equal(got.sort().values, want.sort().values), (given, nucleus, ties)
        if not (ties and nucleus):
            assert torch.equal(got, want), (given, nucleus)
        assert device.rows == rows
        assert "_local_scalar_dense" not in {operator for operator, _ in seen.results}
        if given is not None and max(given) <= 1024:
            assert "sort" not in {operator for operator, _ in seen.results} or not kept


def check_that_kept_k_are_those_of_the_step() -> None:
    """A change of the batch after the step has begun does not reach it."""
    top_k = torch.tensor([3, 3000], dtype=torch.int32)
    batch = SimpleNamespace(
        sampling_metadata=SimpleNamespace(top_k=top_k),
        top_k_cpu=np.array([3, 3000, 5], dtype=np.int32),
    )
    kernels().keep_top_k_on_host(batch)
    batch.top_k_cpu[:] = 1
    assert top_k.npu_host_values.tolist() == [3, 3000]
    batch.sampling_metadata.top_k = None
    kernels().keep_top_k_on_host(batch)


def check_a_bitmask_of_many_rows() -> None:
    random = np.random.default_rng(0)
    bitmask = random.integers(-(2**31), 2**31, (70, 4)).astype(np.int32)
    # A whole slice of rows without a grammar, and some in the others.
    bitmask[32:64] = -1
    bitmask[5] = -1
    logits = torch.zeros(70, 100)
    kernels().apply_token_bitmask(logits, bitmask)
    bits = np.unpackbits(bitmask.view(np.uint8), axis=-1, bitorder="little")[:, :100]
    assert torch.equal(logits == 0, torch.from_numpy(bits == 1))
    assert torch.equal(logits == -torch.inf, torch.from_numpy(bits == 0))


def check_tokens_that_a_bitmask_forbids() -> None:
    # 70 tokens in three words; the second row allows all, as rows without a grammar do.
    allowed = {0, 31, 32, 63, 69}
    bitmask = np.full((2, 3), -1, dtype=np.int32)
    for word in range(3):
        bits = [token - 32 * word in range(32) and 1 << token - 32 * word for token in allowed]
        bitmask[0, word] = np.array(sum(bits), dtype=np.uint32).astype(np.int32)
    logits = torch.arange(140, dtype=torch.float32).reshape(2, 70)
    kept = logits.clone()
    kernels().apply_token_bitmask(logits, bitmask)
    assert {token for token in range(70) if logits[0, token] == kept[0, token]} == allowed
    assert set(logits[0].tolist()) - set(kept[0].tolist()) == {float("-inf")}
    assert torch.equal(logits[1], kept[1])


def check_tokens_without_a_bit_are_allowed() -> None:
    logits = torch.zeros(1, 40, dtype=torch.bfloat16)
    kernels().apply_token_bitmask(logits, np.zeros((1, 1), dtype=np.int32))
    assert logits[0, :32].eq(float("-inf")).all()
    assert logits[0, 32:].eq(0).all()
