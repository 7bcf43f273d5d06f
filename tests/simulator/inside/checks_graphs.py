# SPDX-License-Identifier: Apache-2.0
"""ACL graphs: what is captured runs again on the same memory, and what cannot be is refused."""

from __future__ import annotations

import contextlib
import gc
import re
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

NPU = torch.device("npu", 0)
torch._logging.set_logs(all=50)  # the captures that fail here are meant to


@contextlib.contextmanager
def refused(pattern: str) -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        if not re.search(pattern, str(error), re.DOTALL):
            raise AssertionError("refused for another reason") from error
    else:
        raise AssertionError("not refused")


def capture(body: Callable[[], Any], **options: Any) -> tuple[Any, Any]:
    graph = torch.npu.NPUGraph()
    with torch.npu.graph(graph, **options):
        result = body()
    return graph, result


def same(got: Tensor, want: Tensor) -> None:
    torch.testing.assert_close(got.cpu(), want.cpu(), rtol=1e-5, atol=1e-6, equal_nan=True)


def check_replay_equals_eager_with_new_inputs() -> None:
    torch.manual_seed(0)
    model = torch.nn.Sequential(
        torch.nn.Linear(8, 16), torch.nn.GELU(), torch.nn.LayerNorm(16), torch.nn.Linear(16, 4)
    )
    model.to(NPU).requires_grad_(False)
    x = torch.randn(3, 8, device=NPU)
    graph, (y, top) = capture(lambda: (out := model(x).softmax(-1), out.topk(2)))
    for _ in range(3):
        x.copy_(torch.randn(3, 8))
        graph.replay()
        want = model(x).softmax(-1)
        same(y, want)
        same(top.values, want.topk(2).values)
        same(top.indices, want.topk(2).indices)
    # The weights are read at replay, too.
    model[0].weight.mul_(2)
    graph.replay()
    same(y, model(x).softmax(-1))


def check_attention_with_a_cache_replays() -> None:
    torch.manual_seed(0)
    cache = torch.zeros(2, 4, 16, 8, device=NPU)
    slot = torch.zeros(1, dtype=torch.long, device=NPU)
    q, k = (torch.randn(2, 4, 1, 8, device=NPU) for _ in range(2))

    def step() -> Tensor:
        cache.index_copy_(2, slot, k)
        mask = torch.arange(16, device=NPU)[None] <= slot
        return F.scaled_dot_product_attention(q, cache, cache, attn_mask=mask)

    graph, out = capture(step)
    assert not cache.any()
    wanted = torch.zeros(2, 4, 16, 8)
    for at in range(5):
        slot.fill_(at)
        k.copy_(torch.randn(2, 4, 1, 8))
        q.copy_(torch.randn(2, 4, 1, 8))
        graph.replay()
        wanted[:, :, at] = k.cpu()[:, :, 0]
        same(cache, wanted)
        keys = wanted[:, :, : at + 1]
        same(out, F.scaled_dot_product_attention(q.cpu(), keys, keys))


def check_capture_computes_nothing() -> None:
    a = torch.zeros(5, device=NPU)
    index = torch.tensor([3, 1], device=NPU)

    def body() -> tuple[Tensor, Tensor, Tensor]:
        a.add_(1)
        a[index] = 7.0
        torch.add(a, 1, out=out)
        return a * 2, index + 1, a.sum()

    out = torch.full((5,), -1.0, device=NPU)
    graph, (twice, after, total) = capture(body)
    assert a.tolist() == [0.0] * 5
    assert out.tolist() == [-1.0] * 5
    assert twice.isnan().all()
    assert total.isnan()
    assert after.tolist() == [-1, -1]
    graph.replay()
    assert a.tolist() == [1.0, 7.0, 1.0, 7.0, 1.0]
    assert out.tolist() == [2.0, 8.0, 2.0, 8.0, 2.0]
    assert twice.tolist() == [2.0, 14.0, 2.0, 14.0, 2.0]
    assert after.tolist() == [4, 2]
    assert total.item() == 17
    graph.replay()
    assert a.tolist() == [2.0, 7.0, 2.0, 7.0, 2.0]


def check_python_values_are_frozen() -> None:
    a = torch.arange(4.0, device=NPU)
    factor = 2.0
    host = torch.tensor(3.0)
    graph, y = capture(lambda: a * factor + host)
    factor = 100.0
    host.fill_(1000.0)
    graph.replay()
    assert y.tolist() == [3.0, 5.0, 7.0, 9.0]


def check_a_buffer_replaced_after_capture_is_not_seen() -> None:
    buffers = {"x": torch.ones(3, device=NPU)}
    graph, y = capture(lambda: buffers["x"] * 2)
    kept = buffers["x"]
    buffers["x"] = torch.full((3,), 50.0, device=NPU)
    graph.replay()
    assert y.tolist() == [2.0] * 3
    kept.fill_(4)
    graph.replay()
    assert y.tolist() == [8.0] * 3


def check_memory_let_go_after_capture_dangles() -> None:
    buffers = [torch.ones(3 << 20, device=NPU)]
    graph, y = capture(lambda: buffers[0][:3] * 2)
    buffers.clear()
    gc.collect()
    torch.npu.empty_cache()
    other = torch.full((3 << 20,), 5.0, device=NPU)
    graph.replay()
    assert y.tolist() != [2.0] * 3
    assert other[0] == 5


def check_host_reads_are_refused() -> None:
    a = torch.arange(4.0, device=NPU)
    cases: list[Callable[[], object]] = [
        lambda: a.sum().item(),
        lambda: a.cpu(),
        lambda: a.tolist(),
        lambda: bool((a > 0).all()),
        lambda: torch.equal(a, a),
        lambda: torch.npu.synchronize(),
        lambda: torch.npu.current_stream().synchronize(),
        lambda: torch.ones(3).to(NPU),
        lambda: torch.tensor([1.0], device=NPU),
    ]
    for case in cases:
        with refused("not permitted while stream .* captures"):
            capture(case)
    # What can be captured still can.
    graph, y = capture(lambda: a + 1)
    graph.replay()
    assert y.tolist() == [1.0, 2.0, 3.0, 4.0]


def check_shapes_that_depend_on_data_are_refused() -> None:
    a = torch.arange(4.0, device=NPU)
    cases: list[Callable[[], object]] = [
        lambda: a.nonzero(),
        lambda: a[a > 1],
        lambda: torch.masked_select(a, a > 1),
        lambda: torch.unique(a),
        lambda: torch.repeat_interleave(a, a.long()),
    ]
    for case in cases:
        with refused("not permitted while stream .* captures"):
            capture(case)
    graph, y = capture(lambda: torch.where(a > 1, a, 0.0))
    graph.replay()
    assert y.tolist() == [0.0, 0.0, 2.0, 3.0]


def check_pinned_copies_are_captured() -> None:
    source = torch.ones(3).pin_memory()
    back = torch.zeros(3).pin_memory()
    x = torch.zeros(3, device=NPU)

    def body() -> None:
        x.copy_(source, non_blocking=True)
        x.mul_(2)
        back.copy_(x, non_blocking=True)

    graph, _ = capture(body)
    assert back.tolist() == [0.0] * 3
    source.fill_(21)
    graph.replay()
    torch.npu.synchronize()
    assert back.tolist() == [42.0] * 3


def check_random_numbers_differ_between_replays_and_follow_the_seed() -> None:
    state = torch.npu.get_rng_state()
    graph, r = capture(lambda: torch.rand(4, device=NPU))
    assert torch.equal(state, torch.npu.get_rng_state())
    torch.npu.manual_seed(5)
    graph.replay()
    first = r.clone()
    graph.replay()
    assert not torch.equal(first, r)
    torch.npu.manual_seed(5)
    graph.replay()
    assert torch.equal(first, r)


def check_pools_are_shared() -> None:
    pool = torch.npu.graph_pool_handle()
    a = torch.ones(4, device=NPU)
    first, b = capture(lambda: a + 1, pool=pool)
    second, c = capture(lambda: b * 3, pool=pool)
    first.replay()
    second.replay()
    assert c.tolist() == [6.0] * 4
    assert first.pool() == pool
    # Memory of the pool comes back when the graphs go.
    before = torch.npu.memory_reserved()
    third, big = capture(lambda: torch.zeros(1 << 22, device=NPU))
    assert torch.npu.memory_reserved() > before
    del third, big
    gc.collect()
    torch.npu.empty_cache()
    assert torch.npu.memory_reserved() <= before


def check_temporaries_reuse_the_pool() -> None:
    x = torch.ones(1 << 20, device=NPU)

    def body() -> Tensor:
        y = x
        for _ in range(20):
            y = y + 1
        return y

    before = torch.npu.memory_reserved()
    graph, y = capture(body)
    grown = torch.npu.memory_reserved() - before
    assert grown <= 24 << 20, grown  # 20 temporaries of 4 MiB live in a few blocks
    graph.replay()
    assert y[0].item() == 21


def check_streams_join_a_capture() -> None:
    a = torch.ones(3, device=NPU)
    side = torch.npu.Stream()

    def joined() -> Tensor:
        b = a + 1
        side.wait_stream(torch.npu.current_stream())
        with torch.npu.stream(side):
            c = b * 3
        torch.npu.current_stream().wait_stream(side)
        return b + c

    graph, y = capture(joined)
    graph.replay()
    assert y.tolist() == [8.0] * 3


def check_other_streams_run_during_a_capture() -> None:
    a = torch.ones(3, device=NPU)
    side = torch.npu.Stream()
    graph = torch.npu.NPUGraph()
    with torch.npu.graph(graph, capture_error_mode="relaxed"):
        b = a + 1
        assert torch.npu.is_current_stream_capturing()
        with torch.npu.stream(side):
            assert not torch.npu.is_current_stream_capturing()
            a.mul_(5)
    assert a.tolist() == [5.0] * 3
    graph.replay()
    assert b.tolist() == [6.0] * 3
    assert not torch.npu.is_current_stream_capturing()


def check_graphed_callables_train() -> None:
    torch.manual_seed(0)
    module = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Tanh(), torch.nn.Linear(8, 2)).to(
        NPU
    )
    reference = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Tanh(), torch.nn.Linear(8, 2))
    reference.load_state_dict(module.state_dict())
    sample = torch.randn(3, 4, device=NPU, requires_grad=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        graphed = torch.npu.make_graphed_callables(module, (sample,))
        for _ in range(2):
            x = torch.randn(3, 4)
            moved = x.to(NPU).requires_grad_()
            graphed(moved).pow(2).sum().backward()
            x.requires_grad_()
            reference(x).pow(2).sum().backward()
            assert moved.grad is not None
            assert x.grad is not None
            same(moved.grad, x.grad)
            for got, want in zip(module.parameters(), reference.parameters(), strict=True):
                assert got.grad is not None
                assert want.grad is not None
                same(got.grad, want.grad)
                # The next replay writes the same memory: a graph's gradients do not add up.
                got.grad = want.grad = None


def check_task_groups_are_updated() -> None:
    a = torch.arange(3.0, device=NPU)
    out = torch.zeros(3, device=NPU)
    stream = torch.npu.Stream()
    graph = torch.npu.NPUGraph()
    with torch.npu.graph(graph, stream=stream):
        b = a + 1
        torch.npu.graph_task_group_begin(stream)
        torch.mul(b, 2, out=out)
        handle = torch.npu.graph_task_group_end(stream)
        c = out - 1
    graph.replay()
    assert c.tolist() == [1.0, 3.0, 5.0]
    update = torch.npu.Stream()
    with torch.npu.stream(update):
        torch.npu.graph_task_update_begin(update, handle)
        torch.mul(b, 10, out=out)
        torch.npu.graph_task_update_end(update)
    assert out.tolist() == [2.0, 4.0, 6.0]  # an update computes nothing
    graph.replay()
    assert c.tolist() == [9.0, 19.0, 29.0]


def check_a_replay_waits_for_an_update() -> None:
    if not hasattr(torch.npu, "ExternalEvent"):
        return
    a = torch.arange(3.0, device=NPU)
    out = torch.zeros(3, device=NPU)
    stream, update = torch.npu.Stream(), torch.npu.Stream()
    event = torch.npu.ExternalEvent()
    event.record(update)  # torch_npu makes the event at its first record
    event.reset(update)
    graph = torch.npu.NPUGraph()
    with torch.npu.graph(graph, stream=stream):
        event.wait(stream)
        event.reset(stream)
        torch.npu.graph_task_group_begin(stream)
        torch.mul(a, 2, out=out)
        handle = torch.npu.graph_task_group_end(stream)
        c = out + 1
    for factor in (3, 4):
        with torch.npu.stream(stream):
            graph.replay()  # stops at the event, as the device would
            with refused("waits for an event that nobody has recorded"):
                a.add(1)
            with refused("waits for an event that nobody has recorded"):
                out.cpu()
        with torch.npu.stream(update):
            torch.npu.graph_task_update_begin(update, handle)
            torch.mul(a, factor, out=out)
            torch.npu.graph_task_update_end(update)
            event.record(update)
        torch.npu.synchronize()
        assert c.tolist() == [1.0, 1.0 + factor, 1.0 + 2 * factor]


def check_a_failure_in_replay_is_an_error() -> None:
    table = torch.randn(4, 2, device=NPU)
    index = torch.zeros(2, dtype=torch.long, device=NPU)
    graph, y = capture(lambda: F.embedding(index, table))
    index.fill_(9)
    with refused("index out of range"):
        graph.replay()
    index.fill_(3)
    graph.replay()
    same(y[0], table[3])


def check_errors_of_graph_calls() -> None:
    with refused("107029|num_active_captures"):
        torch.npu.NPUGraph().capture_end()
    a = torch.ones(2, device=NPU)
    graph = torch.npu.NPUGraph()
    with torch.npu.graph(graph):
        b = a + 1
    graph.reset()
    with refused("replay|successful capture"):
        graph.replay()
    del b
