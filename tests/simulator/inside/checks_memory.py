# SPDX-License-Identifier: Apache-2.0
"""The account of device memory, on two devices of 256 MiB."""

from __future__ import annotations

import ctypes
import gc
import os
from pathlib import Path

import torch

MIB = 1 << 20
TOTAL = 256 * MIB


def taken(device: int = 0) -> int:
    free, total = torch.npu.mem_get_info(device)
    assert total == TOTAL
    return int(total - free)


def empty(mebibytes: int, device: int = 0) -> torch.Tensor:
    return torch.empty(mebibytes * MIB, dtype=torch.uint8, device=f"npu:{device}")


def settle() -> None:
    gc.collect()
    torch.npu.empty_cache()


def check_free_falls_as_memory_is_taken() -> None:
    settle()
    before = taken()
    x = empty(64)
    assert 64 * MIB <= taken() - before <= 68 * MIB
    y = empty(100)
    assert 164 * MIB <= taken() - before <= 170 * MIB
    del x, y
    assert taken() - before >= 164 * MIB  # torch_npu keeps the blocks
    settle()
    assert taken() == before


def check_out_of_memory_is_torch_npus_own_error() -> None:
    settle()
    held = empty(150)
    try:
        empty(150)
    except RuntimeError as error:  # torch.OutOfMemoryError from torch_npu 2.9 on
        message = str(error)
    else:
        raise AssertionError("150 MiB twice fit into 256 MiB")
    assert "NPU out of memory. Tried to allocate 15" in message
    smaller = empty(50)
    del held, smaller
    settle()
    # Freed memory does not stay in pieces.
    for _ in range(3):
        parts = [empty(40) for _ in range(6)]
        del parts[::2]
        settle()
        del parts
        settle()
        whole = empty(240)
        del whole
        settle()


def check_cached_blocks_are_given_up_before_an_error() -> None:
    settle()
    for _ in range(4):
        x = empty(200)
        del x
        y = empty(120)
        del y


def check_devices_have_memory_of_their_own() -> None:
    settle()
    before = taken(0), taken(1)
    x = empty(200, 1)
    assert taken(0) == before[0]
    assert taken(1) - before[1] >= 200 * MIB
    y = empty(200, 0)
    del x, y
    settle()
    assert (taken(0), taken(1)) == before


def check_statistics() -> None:
    settle()
    torch.npu.reset_peak_memory_stats()
    allocated = torch.npu.memory_allocated()
    x = empty(32)
    assert torch.npu.memory_allocated() - allocated >= 32 * MIB
    del x
    assert torch.npu.memory_allocated() == allocated
    assert torch.npu.max_memory_allocated() - allocated >= 32 * MIB
    assert torch.npu.memory_stats()["allocated_bytes.all.current"] == allocated
    assert torch.npu.get_device_properties(0).total_memory == TOTAL


def check_fraction_limits() -> None:
    settle()
    torch.npu.set_per_process_memory_fraction(0.25)
    try:
        empty(128)
    except RuntimeError as error:
        message = str(error)
    else:
        raise AssertionError("128 MiB fit into a quarter of 256 MiB")
    finally:
        torch.npu.set_per_process_memory_fraction(1.0)
    assert "NPU out of memory" in message
    x = empty(128)
    del x


def check_contents_survive_neighbours() -> None:
    settle()
    kept = torch.arange(4 * MIB, dtype=torch.int32, device="npu")
    for size in (1, 3, 60, 7):
        other = empty(size)
        other.fill_(255)
        del other
        settle()
    assert torch.equal(kept.cpu(), torch.arange(4 * MIB, dtype=torch.int32))


FLOATS = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
INTEGERS = (torch.int16, torch.int32, torch.int64)


def dirty(t: torch.Tensor) -> bool:
    """Whether it holds what memory holds that nobody has written."""
    values = t.cpu()
    return bool((values.isnan() if values.is_floating_point() else values > 30000).all())


def check_fresh_memory_holds_garbage() -> None:
    settle()
    for dtype in (*FLOATS, *INTEGERS):
        # Twice: the first may be new on the device, the second lies where the first was written.
        for _ in range(2):
            x = torch.empty(1001, dtype=dtype, device="npu")
            assert dirty(x), (dtype, x)
            x.zero_()
            del x
        strided = torch.empty_strided((7, 5), (1, 7), dtype=dtype, device="npu")
        assert dirty(strided), (dtype, strided)
    # Whoever writes all of it has what was written.
    assert (torch.zeros(1001, device="npu") == 0).all()
    large = torch.empty(40 * MIB, dtype=torch.uint8, device="npu")
    assert large[:4].tolist() == large[-4:].tolist() == [0xFF, 0x7F] * 2


def check_memory_that_was_let_go_holds_garbage() -> None:
    if not Path(os.environ["ASCEND_SIM"], "lib", "libascend_sim_allocator.so").exists():
        return  # torch_npu 2.8
    settle()
    for where in ("reused", "let go"):
        x = torch.full((1001,), 3.0, device="npu")
        like, address = torch.empty_like(x), x.data_ptr()
        assert dirty(like), where
        with torch.inference_mode():
            assert dirty(x.new_empty(12)), where
        del x
        words = (ctypes.c_uint32 * 1001).from_address(address)
        assert set(words) == {0x7FFB7FFB}, where


def check_a_graph_that_reads_memory_let_go_reads_garbage() -> None:
    if not Path(os.environ["ASCEND_SIM"], "lib", "libascend_sim_allocator.so").exists():
        return  # torch_npu 2.8
    settle()
    graph, x = torch.npu.NPUGraph(), torch.full((1001,), 3.0, device="npu")
    with torch.npu.graph(graph):
        y = x * 2
    graph.replay()
    assert (y == 6).all()
    del x
    graph.replay()
    assert dirty(y), y
