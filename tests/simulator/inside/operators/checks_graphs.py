# SPDX-License-Identifier: Apache-2.0
"""Reference operators in captured graphs."""

from __future__ import annotations

import random

import torch
import torch_npu
from torch import Tensor

from tests.simulator.inside.operators.attending import TRIANGLE, attention, paged
from tests.simulator.inside.operators.calling import (
    close,
    npu,
    rand,
    refused,
)


def check_graphs() -> None:
    """Captured operators run again on the same memory, with the host operands of the capture."""
    rng = random.Random(9)
    half = torch.float16
    x, residual, gamma = npu(rand(rng, 4, 64)), npu(rand(rng, 4, 64)), npu(rand(rng, 64))
    total = npu(torch.zeros(4, 32))
    key = npu(rand(rng, 4, 2, 16, dtype=half))
    caches = [npu(torch.zeros(2, 16, 2, 16, dtype=half)) for _ in range(2)]
    slots = npu(torch.arange(4, dtype=torch.int32))
    contexts = torch.tensor([1, 2, 3, 4], dtype=torch.int32)
    table = npu(torch.zeros(4, 1, dtype=torch.int32))
    out = npu(torch.zeros(4, 2, 16, dtype=half))
    lengths = [1, 2, 3, 4]

    def body() -> tuple[Tensor, Tensor, Tensor]:
        y, _, added = torch_npu.npu_add_rms_norm(x, residual, gamma, 1e-5)
        total.add_(torch_npu.npu_swiglu(y))
        torch_npu._npu_reshape_and_cache(
            key=key, value=key, key_cache=caches[0], value_cache=caches[1], slot_indices=slots
        )
        torch_npu._npu_paged_attention(
            query=key, key_cache=caches[0], value_cache=caches[1], num_kv_heads=2, num_heads=2,
            scale_value=0.3, block_table=table, context_lens=contexts, out=out,
        )  # fmt: skip
        fused, _ = torch_npu.npu_fused_infer_attention_score(
            key.flatten(1).unsqueeze(1), caches[0].flatten(2), caches[1].flatten(2),
            block_table=table, block_size=16, actual_seq_lengths_kv=lengths, num_heads=2,
            num_key_value_heads=2, scale=0.3, input_layout="BSH",
        )  # fmt: skip
        return y, added, fused

    graph = torch.npu.NPUGraph()
    with torch.npu.graph(graph):
        y, added, fused = body()
    assert not caches[0].any(), "a capture computes nothing"
    assert not total.any()
    assert y.isnan().all(), "memory of a capture has no value before the first replay"
    x.copy_(rand(rng, 4, 64))
    key.copy_(rand(rng, 4, 2, 16, dtype=half))
    contexts.fill_(1)
    lengths[:] = [1, 1, 1, 1]
    for _ in range(2):
        graph.replay()
    torch.npu.synchronize()
    seen = [t.cpu() for t in (total, out, y, added, fused, caches[0])]
    contexts.copy_(torch.tensor([1, 2, 3, 4]))
    lengths[:] = [1, 2, 3, 4]
    total.zero_()
    eager = [body() for _ in range(2)][1]
    want = [t.cpu() for t in (total, out, *eager, caches[0])]
    for a, b in zip(seen, want, strict=True):
        assert torch.equal(a, b)
    assert torch.equal(seen[1].flatten(), seen[4].flatten())

    # What goes wrong at a replay is an error of the replay.
    with torch.npu.graph(bad := torch.npu.NPUGraph()):
        torch_npu._npu_reshape_and_cache(
            key=key, value=key, key_cache=caches[0], value_cache=caches[1], slot_indices=slots
        )
    slots.fill_(99)
    with refused("slot_indices"):
        bad.replay()
        torch.npu.synchronize()


def check_task_groups() -> None:
    """A decode captured with one set of host lengths is updated to another before a replay."""
    rng = random.Random(4)
    kc, vc, table, keys, values = paged(rng, [5, 20], 16, 2, 64, torch.float16)
    q = rand(rng, 2, 4, 64, dtype=torch.float16)
    query, out, fused = npu(q), npu(torch.zeros_like(q)), npu(torch.zeros_like(q))
    unused = npu(torch.zeros(1))
    caches, blocks, triangle = (npu(kc), npu(vc)), npu(table[:, :2].contiguous()), npu(TRIANGLE)

    def decode(lengths: list[int]) -> None:
        torch_npu._npu_paged_attention(
            query=query, key_cache=caches[0], value_cache=caches[1], num_kv_heads=2, num_heads=4,
            scale_value=0.1, block_table=blocks, out=out,
            context_lens=torch.tensor(lengths, dtype=torch.int32),
        )  # fmt: skip

    def decode_fused(lengths: list[int]) -> None:
        torch_npu.npu_fused_infer_attention_score.out(
            query, caches[0].flatten(2), caches[1].flatten(2), atten_mask=triangle,
            actual_seq_lengths=[1, 2], actual_seq_lengths_kv=lengths, block_table=blocks,
            num_heads=4, num_key_value_heads=2, scale=0.1, input_layout="TND", sparse_mode=3,
            block_size=16, out=[fused, unused],
        )  # fmt: skip

    for body, result in ((decode, out), (decode_fused, fused)):
        stream, update, graph = torch.npu.Stream(), torch.npu.Stream(), torch.npu.NPUGraph()
        with torch.npu.graph(graph, stream=stream):
            torch.npu.graph_task_group_begin(stream)
            body([2, 3])
            handle = torch.npu.graph_task_group_end(stream)
        assert not result.any()
        for lengths in ([2, 3], [5, 20], [1, 17]):
            with torch.npu.stream(update):
                torch.npu.graph_task_update_begin(update, handle)
                body(lengths)
                torch.npu.graph_task_update_end(update)
            graph.replay()
            torch.npu.synchronize()
            want = []
            for i, n in enumerate(lengths):
                want += attention(q[i : i + 1], keys[i][:n], values[i][:n], 0.1, lambda i, j: True)[
                    0
                ]
            close(result, want, terms=64 + 20, size=4)
