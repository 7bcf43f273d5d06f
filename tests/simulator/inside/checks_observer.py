# SPDX-License-Identifier: Apache-2.0
"""What a program asks of the device is counted as a device would be asked, place by place."""

from __future__ import annotations

import sys
from collections.abc import Callable

import torch
import torch_npu

from ascend_sim.observer import Event, observed

N = 8


def seen(body: Callable[[], object]) -> list[tuple[str, str, int]]:
    """What `body` asks for; each of its lines has to be named as the place."""
    code = body.__code__
    with observed() as found, torch.inference_mode():
        body()
    lines = {line for _, _, line in code.co_lines() if line is not None}
    for event in found.events:
        file, _, line = event.place.rpartition(":")
        assert code.co_filename.endswith(file), event
        assert int(line) in lines, event
    return [(event.kind, event.what, event.amount) for event in found.events]


def device() -> torch.Tensor:
    return torch.ones(N, N, device="npu", dtype=torch.bfloat16)


def check_views_and_allocations_are_no_launches() -> None:
    x = device()
    assert seen(lambda: (x.t(), x[1:], x.view(-1), x.reshape(-1), x.contiguous())) == []
    assert seen(lambda: torch.empty(3, device="npu")) == []


def check_an_operator_is_one_launch_whatever_it_is_made_of() -> None:
    x = device()
    assert seen(lambda: x + x) == [("launch", "aten::add.Tensor", 0)]
    (linear,) = seen(lambda: torch.nn.functional.linear(x, x))
    assert linear[0] == "launch"
    (copied,) = seen(lambda: x.t().contiguous())
    assert copied[0] == "launch"
    w = torch.ones(N, device="npu", dtype=torch.bfloat16)
    assert seen(lambda: torch_npu.npu_rms_norm(x, w)) == [("launch", "npu::npu_rms_norm", 0)]
    assert seen(lambda: x.to(torch.float32)) == [("launch", "aten::copy_", 0)]
    assert seen(lambda: x[1].copy_(x[2])) == [("launch", "aten::copy_", 0)]


def check_a_launch_has_the_dtypes_that_it_reads_and_writes() -> None:
    x, n = device(), torch.arange(N, device="npu")
    dtypes: list[tuple[str, str]] = []
    bodies: list[Callable[[], object]] = [
        lambda: n < 3,
        lambda: torch.cat([n, n]),
        lambda: n.to(torch.int32),
        lambda: torch.topk(x, 2),
        lambda: torch.arange(3, device="npu"),
        lambda: n.masked_fill_(n > 2, 0),
        lambda: torch.nn.functional.linear(x, x),
        lambda: torch_npu.npu_rms_norm(x, x[0].contiguous()),
    ]
    for body in bodies:
        with observed() as found, torch.inference_mode():
            body()
        dtypes += [(event.what, event.dtypes) for event in found.events if event.kind == "launch"]
    assert dtypes == [
        ("aten::lt.Scalar", "int64->bool"),
        ("aten::cat", "int64,int64->int64"),
        ("aten::copy_", "int64->int32"),
        ("aten::topk", "bfloat16->bfloat16,int64"),
        ("aten::arange", "->int64"),
        ("aten::gt.Scalar", "int64->bool"),
        ("aten::masked_fill_.Scalar", "int64,bool->int64"),
        ("aten::matmul", "bfloat16,bfloat16->"),
        ("npu::npu_rms_norm", ""),
    ]


def check_copies_wait_unless_their_memory_is_pinned() -> None:
    x = device()
    pinned, pageable = torch.ones(N).pin_memory(), torch.ones(N)
    target = torch.empty(N, device="npu")
    size = 4 * N
    assert seen(lambda: target.copy_(pinned, non_blocking=True)) == [
        ("to device", "of pinned memory", size)
    ]
    waited = ("wait", "a copy to the device", 0)
    assert seen(lambda: target.copy_(pinned)) == [("to device", "of pageable memory", size), waited]
    assert seen(lambda: target.copy_(pageable, non_blocking=True)) == [
        ("to device", "of pageable memory", size),
        waited,
    ]
    assert seen(lambda: pinned.copy_(target, non_blocking=True)) == [
        ("to host", "of pinned memory", size)
    ]
    assert [kind for kind, _, _ in seen(lambda: target.cpu())] == ["to host", "wait"]
    assert [kind for kind, _, _ in seen(lambda: x.sum().item())] == ["launch", "to host", "wait"]


def check_waits_are_told_by_what_is_waited_for() -> None:
    x = device()
    event = torch.npu.Event()
    event.record()
    assert seen(lambda: event.synchronize()) == [("wait", "an event", 0)]
    assert seen(lambda: torch.npu.synchronize()) == [("wait", "a device", 0)]
    assert seen(lambda: torch.npu.current_stream().synchronize()) == [("wait", "a stream", 0)]
    mask, index = x[0] > 0, torch.zeros(2, dtype=torch.int64, device="npu")
    assert "wait" in [kind for kind, _, _ in seen(lambda: x[mask])]
    assert [kind for kind, _, _ in seen(lambda: x[index])] == ["launch"]


def check_a_replay_has_the_launches_that_it_holds() -> None:
    x = device()
    graph = torch.npu.NPUGraph()
    with torch.npu.graph(graph):
        y = x + 1
        y = y * 2
    found = seen(lambda: graph.replay())
    assert found == [("replay", "a graph", 2)]


def check_nobody_is_told_afterwards_or_twice() -> None:
    x = device()
    with observed() as found:
        x + 1
        try:
            with observed():
                raise AssertionError("two observers at once")
        except RuntimeError:
            pass
    x + 1
    assert len(found.events) == 1
    assert isinstance(found.events[0], Event)
    assert sys.modules["ascend_sim.observer"]._runtime is None
