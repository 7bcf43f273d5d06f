# SPDX-License-Identifier: Apache-2.0
"""What `npu_kernels.py` computes, against the same in plain Python."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch


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
