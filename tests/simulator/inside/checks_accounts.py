# SPDX-License-Identifier: Apache-2.0
"""What a device has of streams, events and memory for itself; two devices of 64 GiB."""

from __future__ import annotations

import ctypes
import gc
import os
import subprocess
import sys
from collections.abc import Callable
from ctypes import byref, c_char_p, c_int32, c_uint32, c_void_p
from pathlib import Path
from unittest import mock

import torch
import torch_npu

ACL = ctypes.CDLL("libascendcl.so")
HCCL = ctypes.CDLL("libhccl.so")
ACL.aclGetRecentErrMsg.restype = c_char_p
STREAMS, EVENTS = 2048, 65536
NO_EVENTS, NO_STREAMS = 207007, 207008
MIB = 1 << 20
CONTEXT = 106 * MIB

torch.npu.set_device(0)


def message() -> str:
    return str(ACL.aclGetRecentErrMsg().decode())


def used(device: int) -> int:
    free, total = torch.npu.mem_get_info(device)
    return int(total - free)


def made(create: Callable[[], int], most: int) -> tuple[int, int]:
    """How many can be made, and the error of the one too many."""
    for count in range(most + 1):
        if code := create():
            return count, code
    return most + 1, 0


def stream() -> c_void_p:
    handle = c_void_p()
    assert ACL.aclrtCreateStream(byref(handle)) == 0, message()
    return handle


def capture(origin: c_void_p, joined: c_void_p | None = None) -> c_void_p:
    """A captured graph without work, whose capture another stream may join."""
    assert ACL.aclmdlRICaptureBegin(origin, 0) == 0, message()
    if joined is not None:
        event = c_void_p()
        assert ACL.aclrtCreateEventExWithFlag(byref(event), 0) == 0
        assert ACL.aclrtRecordEvent(event, origin) == 0
        assert ACL.aclrtStreamWaitEvent(joined, event) == 0, message()
        assert ACL.aclrtDestroyEvent(event) == 0
    graph = c_void_p()
    assert ACL.aclmdlRICaptureEnd(origin, byref(graph)) == 0
    return graph


def check_streams_and_graphs_share_what_a_device_has() -> None:
    streams: list[c_void_p] = []

    def create() -> int:
        handle = c_void_p()
        if code := ACL.aclrtCreateStream(byref(handle)):
            return int(code)
        streams.append(handle)
        return 0

    free, code = made(create, STREAMS)
    assert STREAMS - 100 < free <= STREAMS, free
    assert code == NO_STREAMS
    assert f"{STREAMS} of {STREAMS} are in use" in message()
    # A graph takes one, and one for each stream that joins its capture.
    assert ACL.aclmdlRICaptureBegin(streams[0], 0) == NO_STREAMS
    assert "a captured graph takes 1" in message()
    for handle in streams[2:4]:
        assert ACL.aclrtDestroyStream(handle) == 0
    both = capture(streams[0], streams[1])
    assert create() == NO_STREAMS
    assert ACL.aclmdlRIDestroy(both) == 0
    alone = capture(streams[0])
    assert create() == 0
    assert create() == NO_STREAMS
    assert ACL.aclmdlRIDestroy(alone) == 0
    # The other device has its own.
    torch.npu.set_device(1)
    other = stream()
    assert ACL.aclrtDestroyStream(other) == 0
    torch.npu.set_device(0)
    # Another process shares the device: it gets the one that is left.
    source = (
        "import checks_accounts as c; print(c.made(lambda: c.ACL.aclrtCreateStream("
        "c.byref(c.c_void_p())), c.STREAMS))"
    )
    path = f"{Path(__file__).parent}:{os.environ['PYTHONPATH']}"
    found = subprocess.run(
        [sys.executable, "-c", source],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert f"(1, {NO_STREAMS})" in found.stdout, found
    for handle in streams[:2] + streams[4:]:
        assert ACL.aclrtDestroyStream(handle) == 0
    assert ACL.aclrtDestroyStream(stream()) == 0


def check_torch_captures_as_many_graphs_as_there_are_streams() -> None:
    x, graphs = torch.ones(2, device="npu"), []
    streams = [stream() for _ in range(STREAMS - 200)]
    said = ""
    try:
        for _ in range(201):
            graphs.append(torch.npu.NPUGraph())
            with torch.npu.graph(graphs[-1]):
                x + 1
    except RuntimeError as error:
        said = str(error)
    assert f"error code is {NO_STREAMS}" in said
    for handle in streams:
        assert ACL.aclrtDestroyStream(handle) == 0
    graphs.clear()
    gc.collect()


def check_events_run_out() -> None:
    events: list[c_void_p] = []

    def create() -> int:
        handle = c_void_p()
        if code := ACL.aclrtCreateEventExWithFlag(byref(handle), 0):
            return int(code)
        events.append(handle)
        return 0

    free, code = made(create, EVENTS)
    assert EVENTS - 100 < free <= EVENTS
    assert code == NO_EVENTS
    assert "no event resource" in message()
    for handle in events:
        assert ACL.aclrtDestroyEvent(handle) == 0


def check_a_graph_holds_streams_for_each_communicator_once() -> None:
    origin, graph, first, second = stream(), c_void_p(), c_void_p(1), c_void_p(2)
    take = ACL.ascend_sim_capture_takes_streams
    assert take(origin, first, STREAMS) == 0  # it captures nothing
    assert ACL.aclmdlRICaptureBegin(origin, 0) == 0
    assert take(origin, first, 1500) == 0
    assert take(origin, first, 1500) == 0
    assert take(origin, second, 600) == NO_STREAMS
    assert "a captured graph takes 600" in message()
    assert ACL.aclmdlRICaptureEnd(origin, byref(graph)) == 0
    assert ACL.aclmdlRIDestroy(graph) == 0
    assert ACL.aclmdlRICaptureBegin(origin, 0) == 0
    assert take(origin, second, 600) == 0
    assert ACL.aclmdlRICaptureEnd(origin, byref(graph)) == 0
    assert ACL.aclmdlRIDestroy(graph) == 0
    assert ACL.aclrtDestroyStream(origin) == 0


def check_communicators_take_buffers() -> None:
    before = [used(device) for device in range(2)]
    handles = (c_void_p * 2)()
    devices = (c_int32 * 2)(0, 1)
    assert HCCL.HcclCommInitAll(c_uint32(2), devices, handles) == 0, message()
    assert [used(d) - b for d, b in enumerate(before)] == [400 * MIB] * 2
    for handle in handles:
        assert HCCL.HcclCommDestroy(c_void_p(handle)) == 0
    assert [used(device) for device in range(2)] == before
    with mock.patch.dict(os.environ, HCCL_BUFFSIZE="50"):
        assert HCCL.HcclCommInitAll(c_uint32(2), devices, handles) == 0, message()
        assert [used(d) - b for d, b in enumerate(before)] == [100 * MIB] * 2
    for handle in handles:
        assert HCCL.HcclCommDestroy(c_void_p(handle)) == 0


def check_a_context_takes_memory() -> None:
    assert used(0) >= CONTEXT
    assert used(1) >= CONTEXT


def check_workspaces_have_the_size_of_a_device() -> None:
    q = torch.zeros(2, 1, 16, dtype=torch.float16, device="npu")
    get = torch_npu._npu_fused_infer_attention_score_get_max_workspace
    arguments = {"num_heads": 1, "input_layout": "BSH"}
    settled = torch.npu.memory_allocated()
    assert get(q, q, q, **arguments).numel() == 32 * MIB
    kept = [get(q, q, q, **arguments) for _ in range(3)]
    assert torch.npu.memory_allocated() - settled >= 96 * MIB
    del kept
    cache = torch.zeros(1, 16, 1, 16, dtype=torch.float16, device="npu")
    table = torch.zeros(2, 1, dtype=torch.int32, device="npu")
    lengths = torch.ones(2, dtype=torch.int32)
    flat = q.view(2, 1, 16)
    space = torch.ops.atb._npu_paged_attention_get_workspace(
        flat, cache, cache, 1, 1, 1.0, table, lengths, flat.clone()
    )
    assert space.numel() == 36 * MIB
    with mock.patch.dict(os.environ, ASCEND_SIM_MEMORY=str(256 * MIB)):
        assert get(q, q, q, **arguments).numel() == 512
        with mock.patch.dict(os.environ, ASCEND_SIM_OVERHEADS="1"):
            assert get(q, q, q, **arguments).numel() == 32 * MIB
    with mock.patch.dict(os.environ, ASCEND_SIM_OVERHEADS="0"):
        assert get(q, q, q, **arguments).numel() == 512
