# SPDX-License-Identifier: Apache-2.0
"""Triton on the simulated NPU: kernels work in place, are captured, and are refused as there."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from typing import Any

import torch
import triton
import triton.language as tl

NPU = torch.device("npu", 0)


@triton.jit
def add_one(source, target, count, LAST: tl.constexpr, BLOCK: tl.constexpr):
    """target[i] = source[i] + 1 for i below count, and none of them unless LAST is true."""
    place = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    # A scalar and a block: the mask of both is a mask.
    mask = (place < count) & (count > 0) & LAST
    tl.store(target + place, tl.load(source + place, mask=mask) + 1, mask=mask)


@triton.jit
def double_through(table, place):
    """Double the element at `place` of each tensor whose address is in the table."""
    address = tl.load(table + tl.program_id(0))
    memory = tl.cast(address, tl.pointer_type(tl.int32)) + place
    tl.store(memory, tl.load(memory) * 2)


@triton.jit
def count_in(values, counts, BLOCK: tl.constexpr):
    """counts[v] += 1 for each value."""
    tl.atomic_add(counts + tl.load(values + tl.arange(0, BLOCK)), 1)


@triton.jit
def as_double(target):
    tl.store(target, (tl.load(target).to(tl.float64) * 2).to(tl.float32))


@triton.jit
def hold(target, BLOCK: tl.constexpr):
    tl.store(target + tl.arange(0, BLOCK), tl.zeros([BLOCK], dtype=tl.float32))


@contextlib.contextmanager
def refused(pattern: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        if not re.search(pattern, str(error), re.DOTALL):
            raise AssertionError(f"refused for another reason: {error}") from error
    else:
        raise AssertionError("not refused")


def run_add_one(source: Any, target: Any, count: int, grid: int = 2) -> None:
    add_one[(grid,)](source, target, count, LAST=True, BLOCK=8)


def check_there_is_one_driver_and_it_is_the_npus() -> None:
    from triton.backends import backends

    assert [name for name, b in backends.items() if b.driver.is_active()] == ["npu"]
    assert triton.runtime.driver.active.get_current_target().backend == "npu"


def check_arguments_are_worked_on_in_place() -> None:
    memory = torch.zeros(64, device=NPU)
    source = torch.arange(10.0, device=NPU)
    # Neither begins where its storage does, and what lies around is left alone.
    run_add_one(source[1:], memory[3:], 9)
    want = torch.zeros(64)
    want[3:12] = torch.arange(2.0, 11.0)
    torch.testing.assert_close(memory.cpu(), want)


def check_a_table_of_addresses_is_followed() -> None:
    first, second = (torch.ones(4, dtype=torch.int32, device=NPU) for _ in range(2))
    table = torch.tensor([first.data_ptr(), second.data_ptr()], device=NPU)
    double_through[(2,)](table, 3)
    assert first.tolist() == second.tolist() == [1, 1, 1, 2]


def check_a_capture_records_launches() -> None:
    source, target = torch.arange(10.0, device=NPU), torch.zeros(10, device=NPU)
    total = torch.zeros(10, device=NPU)
    first, second = (torch.ones(4, dtype=torch.int32, device=NPU) for _ in range(2))
    table = torch.tensor([first.data_ptr(), second.data_ptr()], device=NPU)
    graph = torch.npu.NPUGraph()
    with torch.npu.graph(graph):
        run_add_one(source, target, 10)
        total.add_(target)
        double_through[(2,)](table, 1)
    # What it wrote is as before the capture.
    assert not target.any()
    assert not total.any()
    assert first.tolist() == [1, 1, 1, 1]
    source.mul_(2)
    graph.replay()
    graph.replay()
    want = torch.arange(10.0) * 2 + 1
    torch.testing.assert_close(target.cpu(), want)
    torch.testing.assert_close(total.cpu(), want * 2)
    assert first.tolist() == second.tolist() == [1, 4, 1, 1]


def check_a_capture_records_atomics() -> None:
    values = torch.tensor([0, 2, 2, 1], dtype=torch.int32, device=NPU)
    counts = torch.zeros(3, dtype=torch.int32, device=NPU)
    graph = torch.npu.NPUGraph()
    with torch.npu.graph(graph):
        count_in[(1,)](values, counts, BLOCK=4)
    assert counts.tolist() == [0, 0, 0]
    for _ in range(3):
        graph.replay()
    assert counts.tolist() == [3, 3, 6]


def check_tensors_of_the_host_are_refused() -> None:
    target = torch.zeros(10, device=NPU)
    for source in (torch.zeros(10), torch.zeros(10).pin_memory()):
        with refused(r"Pointer argument \(at 0\) cannot be accessed from Triton"):
            run_add_one(source, target, 10)
    assert not target.any()


def check_a_grid_has_at_most_65535_programs() -> None:
    target = torch.zeros(16, device=NPU)
    with refused("a grid of 65536 programs, at most 65535"):
        add_one[(256, 256)](target, target, 0, LAST=True, BLOCK=1)
    with refused("a grid of 65536 programs"):
        add_one[lambda _: (65536,)](target, target, 0, LAST=True, BLOCK=1)
    with refused("a grid of 70000 programs"):
        run_add_one(target, target, 0, grid=70000)


def check_there_are_no_64_bit_floats() -> None:
    with refused("64-bit floats"):
        as_double[(1,)](torch.ones(1, device=NPU))


def check_the_unified_buffer_is_full_at_192_kib() -> None:
    hold[(1,)](torch.zeros(32768, device=NPU), BLOCK=32768)
    with refused("a value of 262144 bytes, and the unified buffer holds 196608"):
        hold[(1,)](torch.zeros(65536, device=NPU), BLOCK=65536)


def check_a_kernel_that_fails_leaves_the_next_one_alone() -> None:
    target = torch.zeros(10, device=NPU)
    with refused("64-bit floats"):
        as_double[(1,)](torch.ones(1, device=NPU))
    run_add_one(torch.zeros(10, device=NPU), target, 10)
    assert bool((target == 1).all())
