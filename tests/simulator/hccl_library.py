# SPDX-License-Identifier: Apache-2.0
"""The simulated libhccl.so through its C interface, without torch.

Runs inside the ranks of test_hccl.py, as a script: `hccl_library.py RANK SIZE KEY CASE...`; prints
one JSON line a case. KEY begins the names of the files by which rank 0 gives a root info to the
others. Needs numpy and the simulator's libraries on LD_LIBRARY_PATH.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

ROOT_INFO_BYTES = 4108
SUM, PROD, MAX, MIN = range(4)
OPS = {"sum": SUM, "prod": PROD, "max": MAX, "min": MIN}
# name -> (number in HcclDataType, numpy type of the same width)
TYPES: dict[str, tuple[int, Any]] = {
    "int8": (0, np.int8),
    "int16": (1, np.int16),
    "int32": (2, np.int32),
    "float16": (3, np.float16),
    "float32": (4, np.float32),
    "int64": (5, np.int64),
    "uint64": (6, np.uint64),
    "uint8": (7, np.uint8),
    "uint16": (8, np.uint16),
    "uint32": (9, np.uint32),
    "float64": (10, np.float64),
    "bfloat16": (11, np.uint16),  # its bits
}
Array: TypeAlias = Any  # of numpy, which the checker's environment need not have


class HcclError(Exception):
    """An Hccl* function failed: its code and the message that torch_npu would print."""

    def __init__(self, name: str, code: int, message: str) -> None:
        super().__init__(f"{name}: {code}: {message}")
        self.code = code
        self.message = message


acl = ctypes.CDLL("libascendcl.so")
hccl = ctypes.CDLL("libhccl.so")
acl.aclGetRecentErrMsg.restype = ctypes.c_char_p
hccl.HcclGetErrorString.restype = ctypes.c_char_p
u64, u32, ptr = ctypes.c_uint64, ctypes.c_uint32, ctypes.c_void_p


def call(name: str, *arguments: Any) -> None:
    code = getattr(hccl, name)(*arguments)
    if code:
        raise HcclError(name, code, (acl.aclGetRecentErrMsg() or b"").decode())


def set_device(device: int) -> None:
    assert acl.aclrtSetDevice(device) == 0


class Device:
    """A device allocation holding a copy of a numpy array."""

    def __init__(self, array: Array) -> None:
        self.array = np.ascontiguousarray(array)
        self.pointer = ptr()
        assert acl.aclrtMalloc(ctypes.byref(self.pointer), u64(max(self.array.nbytes, 1)), 0) == 0
        self.write(self.array)

    def write(self, array: Array) -> None:
        # Device memory of the simulator is host memory.
        ctypes.memmove(self.pointer, array.ctypes.data, array.nbytes)

    def read(self) -> Array:
        out = np.empty_like(self.array)
        ctypes.memmove(out.ctypes.data, self.pointer, out.nbytes)
        return out

    def __del__(self) -> None:
        acl.aclrtFree(self.pointer)


def root_info() -> bytes:
    info = ctypes.create_string_buffer(ROOT_INFO_BYTES)
    call("HcclGetRootInfo", info)
    return info.raw


def exchange(key: str, rank: int, make: Callable[[], bytes] = root_info) -> bytes:
    """Give rank 0's bytes to every rank through the file `key`, as a store would."""
    if rank == 0:
        data = make()
        with open(key + ".part", "wb") as file:
            file.write(data)
        os.rename(key + ".part", key)
        return data
    until = time.monotonic() + 600
    while not os.path.exists(key):
        assert time.monotonic() < until, "rank 0 gave nothing"
        time.sleep(0.005)
    with open(key, "rb") as file:
        return file.read()


def init(info: bytes, size: int, rank: int) -> ctypes.c_void_p:
    comm = ptr()
    call("HcclCommInitRootInfo", u32(size), info, u32(rank), ctypes.byref(comm))
    return comm


class Comm:
    """A communicator with its collectives on device copies of numpy arrays, default stream."""

    def __init__(self, handle: ctypes.c_void_p, rank: int, size: int) -> None:
        self.handle, self.rank, self.size = handle, rank, size

    def all_reduce(self, x: Array, kind: str, op: str = "sum") -> Array:
        send, recv = Device(x), Device(x)
        number = TYPES[kind][0]
        count = u64(x.size)
        call("HcclAllReduce", send.pointer, recv.pointer, count, number, OPS[op], self.handle, None)
        assert np.array_equal(send.read(), x, equal_nan=x.dtype.kind == "f")
        return recv.read()

    def barrier(self) -> None:
        call("HcclBarrier", self.handle, None)

    def send(self, x: Array, to: int) -> None:
        buffer = Device(x)
        call("HcclSend", buffer.pointer, u64(x.size), 4, u32(to), self.handle, None)

    def recv(self, count: int, source: int) -> Array:
        buffer = Device(np.zeros(count, np.float32))
        call("HcclRecv", buffer.pointer, u64(count), 4, u32(source), self.handle, None)
        return buffer.read()

    def destroy(self) -> None:
        call("HcclCommDestroy", self.handle)


# ---- an independent computation -----------------------------------------------------------


def widen_bfloat(bits: Array) -> Array:
    wide: Array = (bits.astype(np.uint32) << 16).view(np.float32)
    return wide


def narrow_bfloat(x: Array) -> Array:
    """Round float32 to the nearest bfloat16, ties to even, by comparing the two neighbours."""
    bits = np.ascontiguousarray(x, np.float32).view(np.uint32)
    low = (bits >> 16).astype(np.uint16)
    high = (low + 1).astype(np.uint16)
    exact = x.astype(np.float64)
    down, up = widen_bfloat(low).astype(np.float64), widen_bfloat(high).astype(np.float64)
    # Beyond the largest finite value the next step stands for infinity.
    up = np.where(np.isinf(up), np.sign(down) * 2.0**128, up)
    closer_up = np.abs(up - exact) < np.abs(exact - down)
    tie = np.abs(up - exact) == np.abs(exact - down)
    rounded: Array = np.where(closer_up | (tie & (low & 1 == 1)), high, low)
    return rounded


def expected(parts: list[Array], kind: str, op: str) -> Array:
    if kind in ("float16", "bfloat16"):
        wide = [widen_bfloat(p) if kind == "bfloat16" else p.astype(np.float32) for p in parts]
    else:
        wide = parts
    combine: dict[str, Any] = {
        "sum": np.add,
        "prod": np.multiply,
        "max": np.maximum,
        "min": np.minimum,
    }
    total = wide[0]
    with np.errstate(over="ignore"):
        for part in wide[1:]:
            total = combine[op](total, part)
        if kind == "float16":
            return total.astype(np.float16)
    return narrow_bfloat(total) if kind == "bfloat16" else total


def sample(kind: str, count: int, rank: int, seed: int = 0) -> Array:
    generator = np.random.default_rng([seed, rank, count])
    numpy_type = TYPES[kind][1]
    if kind == "bfloat16":
        return narrow_bfloat(generator.standard_normal(count).astype(np.float32))
    if kind.startswith("float"):
        return generator.standard_normal(count).astype(numpy_type)
    limits = np.iinfo(numpy_type)
    drawn: Array = generator.integers(limits.min, limits.max, count, numpy_type, endpoint=True)
    return drawn


def memory_files() -> list[str]:
    """Descriptors of communicators' memory files that this process has open."""
    links = []
    for fd in os.listdir("/proc/self/fd"):
        try:
            if "memfd:ascend-sim-hccl" in os.readlink(f"/proc/self/fd/{fd}"):
                links.append(fd)
        except FileNotFoundError:  # the descriptor of the listing itself
            continue
    return links


def shared_memory_names() -> list[str]:
    """What lies in /dev/shm with our name; "ascend_sim." begins those of the ACL runtime."""
    names = os.listdir("/dev/shm")
    return [name for name in names if "hccl" in name and not name.startswith("ascend_sim.")]


# ---- cases: run by every rank; what they return is compared by the test ----------------------


def case_reductions(rank: int, size: int, key: str) -> Any:
    """Every type, reduction and a spread of sizes, bit by bit, in and out of place."""
    comm = Comm(init(exchange(key, rank), size, rank), rank, size)
    checked = 0
    for kind, (number, _) in TYPES.items():
        for op in OPS:
            # None; one; odd; over 32 KiB, where ranks share the work; over one stage of 1 MiB.
            counts = [0, 1, 13]
            if op == "sum" or kind in ("bfloat16", "int32"):
                counts.append(40_001)
            if op == "sum" and kind in ("bfloat16", "float32", "int64"):
                counts.append(600_003)
            for count in counts:
                parts = [sample(kind, count, r) for r in range(size)]
                want = expected(parts, kind, op)
                got = comm.all_reduce(parts[rank], kind, op)
                assert got.tobytes() == want.tobytes(), (kind, op, count)
                place = Device(parts[rank])
                call("HcclAllReduce", place.pointer, place.pointer, u64(count), number, OPS[op],
                     comm.handle, None)  # fmt: skip
                assert place.read().tobytes() == want.tobytes(), (kind, op, count, "in place")
                checked += 2
            for root in (0, size - 1):
                parts = [sample(kind, 777, r, 1) for r in range(size)]
                send, recv = Device(parts[rank]), Device(np.zeros_like(parts[rank]))
                call("HcclReduce", send.pointer, recv.pointer, u64(777), number, OPS[op], u32(root),
                     comm.handle, None)  # fmt: skip
                want = expected(parts, kind, op) if rank == root else np.zeros_like(parts[rank])
                assert recv.read().tobytes() == want.tobytes(), (kind, op, root)
                checked += 1
            for count in (1, 333, 70_001 if op == "sum" else 500):
                parts = [sample(kind, count * size, r, 2) for r in range(size)]
                send, recv = Device(parts[rank]), Device(np.zeros(count, parts[0].dtype))
                call("HcclReduceScatter", send.pointer, recv.pointer, u64(count), number, OPS[op],
                     comm.handle, None)  # fmt: skip
                want = expected(parts, kind, op)[rank * count : (rank + 1) * count]
                assert recv.read().tobytes() == want.tobytes(), (kind, op, count)
                checked += 1
    comm.destroy()
    return checked


def case_special_values(rank: int, size: int, key: str) -> Any:
    """NaN, infinities, signed zeros, subnormals and overflow of the narrow types."""
    comm = Comm(init(exchange(key, rank), size, rank), rank, size)
    # Every float16 bit pattern with a partner drawn at random, ranks above 1 give zero.
    patterns = np.arange(65536, dtype=np.uint16)
    partners = np.random.default_rng(3).permutation(patterns)
    mine = [patterns, partners][rank] if rank < 2 else np.zeros_like(patterns)
    for kind in ("float16", "bfloat16"):
        x = mine.view(np.float16) if kind == "float16" else mine
        parts = [patterns, partners] + [np.zeros_like(patterns)] * (size - 2)
        if kind == "float16":
            parts = [p.view(np.float16) for p in parts]
            wide = [p.astype(np.float32) for p in parts]
        else:
            wide = [widen_bfloat(p) for p in parts]
        got = comm.all_reduce(x, kind, "sum")
        with np.errstate(all="ignore"):
            total = np.sum(np.stack(wide), axis=0, dtype=np.float32)
        result = got.astype(np.float32) if kind == "float16" else widen_bfloat(got)
        assert np.array_equal(np.isnan(result), np.isnan(total))
        finite = ~np.isnan(total) & ~np.isinf(total)
        with np.errstate(over="ignore"):
            want = total.astype(np.float16) if kind == "float16" else None
        if want is None:
            bits = narrow_bfloat(total[finite])
            assert np.array_equal(got[finite], bits)
            assert np.array_equal(result[np.isinf(total)], total[np.isinf(total)])
        else:
            assert np.array_equal(want[~np.isnan(total)], got[~np.isnan(total)])
    nan = np.array([1.0, np.nan, 3.0], np.float32) if rank == 1 else np.full(3, 2.0, np.float32)
    got = comm.all_reduce(nan, "float32", "max")
    assert np.array_equal(got, [2.0, np.nan, 3.0], equal_nan=True), got
    comm.destroy()
    return "ok"


def case_movement(rank: int, size: int, key: str) -> Any:
    """What moves data without computing: all gathers, broadcasts, scatters, all-to-alls."""
    comm = Comm(init(exchange(key, rank), size, rank), rank, size)
    for kind in ("int8", "float16", "float64"):
        number, numpy_type = TYPES[kind]
        for count in (0, 1, 77, 300_001 if kind == "float16" else 1000):
            parts = [sample(kind, count, r) for r in range(size)]
            send, recv = Device(parts[rank]), Device(np.zeros(count * size, numpy_type))
            call("HcclAllGather", send.pointer, recv.pointer, u64(count), number, comm.handle, None)
            assert recv.read().tobytes() == np.concatenate(parts).tobytes()
            for root in range(size):
                buffer = Device(parts[rank])
                call("HcclBroadcast", buffer.pointer, u64(count), number, u32(root), comm.handle,
                     None)  # fmt: skip
                assert buffer.read().tobytes() == parts[root].tobytes()
                whole = [sample(kind, count * size, r, 1) for r in range(size)]
                source = Device(whole[root]) if rank == root else None
                recv = Device(np.zeros(count, numpy_type))
                call("HcclScatter", source.pointer if source else None, recv.pointer, u64(count),
                     number, u32(root), comm.handle, None)  # fmt: skip
                want = whole[root][rank * count : (rank + 1) * count]
                assert recv.read().tobytes() == want.tobytes()
            whole = [sample(kind, count * size, r, 2) for r in range(size)]
            send, recv = Device(whole[rank]), Device(np.zeros(count * size, numpy_type))
            call("HcclAlltoAll", send.pointer, u64(count), number, recv.pointer, u64(count), number,
                 comm.handle, None)  # fmt: skip
            mine = [w[rank * count : (rank + 1) * count] for w in whole]
            assert recv.read().tobytes() == np.concatenate(mine).tobytes()
    comm.destroy()
    return "ok"


def numbers(values: Any) -> Any:
    return (u64 * len(values))(*[int(v) for v in values])


def offsets(counts: Any) -> Any:
    return [0, *np.cumsum(counts)[:-1]]


def case_uneven(rank: int, size: int, key: str) -> Any:
    """The collectives with a count for each rank, zero among them, some over one stage."""
    comm = Comm(init(exchange(key, rank), size, rank), rank, size)
    generator = np.random.default_rng(7)
    for scale in (5, 400_000):
        counts = generator.integers(0, scale, size)
        counts[1] = 0
        parts = [sample("float32", int(counts[r]), r) for r in range(size)]
        send, recv = Device(parts[rank]), Device(np.zeros(counts.sum(), np.float32))
        call("HcclAllGatherV", send.pointer, u64(int(counts[rank])), recv.pointer, numbers(counts),
             numbers(offsets(counts)), 4, comm.handle, None)  # fmt: skip
        assert np.array_equal(recv.read(), np.concatenate(parts))

        whole = [sample("float32", int(counts.sum()), r, 1) for r in range(size)]
        send, recv = Device(whole[rank]), Device(np.zeros(int(counts[rank]), np.float32))
        call("HcclReduceScatterV", send.pointer, numbers(counts), numbers(offsets(counts)),
             recv.pointer, u64(int(counts[rank])), 4, SUM, comm.handle, None)  # fmt: skip
        begin = offsets(counts)[rank]
        want = expected(whole, "float32", "sum")[begin : begin + counts[rank]]
        assert np.array_equal(recv.read(), want)

        matrix = generator.integers(0, scale, (size, size))
        matrix[0, size - 1] = 0
        blocks = [[sample("float32", int(matrix[s, d]), s * 100 + d) for d in range(size)]
                  for s in range(size)]  # fmt: skip
        want = np.concatenate([blocks[s][rank] for s in range(size)])
        # With a gap of three elements before every block, on both sides.
        spread = np.full(matrix[rank].sum() + 3 * size, np.nan, np.float32)
        send_at = [int(o) + 3 * (i + 1) for i, o in enumerate(offsets(matrix[rank]))]
        for d in range(size):
            spread[send_at[d] : send_at[d] + matrix[rank, d]] = blocks[rank][d]
        column = matrix[:, rank]
        recv_at = [int(o) + 3 * (i + 1) for i, o in enumerate(offsets(column))]
        send, recv = Device(spread), Device(np.full(column.sum() + 3 * size, -1, np.float32))
        call("HcclAlltoAllV", send.pointer, numbers(matrix[rank]), numbers(send_at), 4,
             recv.pointer, numbers(column), numbers(recv_at), 4, comm.handle, None)  # fmt: skip
        got = recv.read()
        inside = np.zeros(got.size, bool)
        for at, n in zip(recv_at, column, strict=True):
            inside[at : at + n] = True
        assert np.array_equal(got[inside], want)
        assert (got[~inside] == -1).all(), "wrote between the blocks"

        send = Device(np.concatenate(blocks[rank]))
        recv = Device(np.zeros(column.sum(), np.float32))
        call("HcclAlltoAllVC", send.pointer, numbers(matrix.reshape(-1)), 4, recv.pointer, 4,
             comm.handle, None)  # fmt: skip
        assert np.array_equal(recv.read(), want)
    comm.destroy()
    return "ok"


class Item(ctypes.Structure):
    _fields_ = (
        ("kind", ctypes.c_int),
        ("buffer", ctypes.c_void_p),
        ("count", u64),
        ("type", ctypes.c_int),
        ("peer", u32),
    )


def case_transfers(rank: int, size: int, key: str) -> Any:
    """Sends first everywhere, order of messages, large messages, batches and groups."""
    comm = Comm(init(exchange(key, rank), size, rank), rank, size)
    right, left = (rank + 1) % size, (rank - 1) % size

    def block(source: int, i: int, count: int) -> Array:
        return np.arange(count, dtype=np.float32) + source * 1000 + i

    # Every rank sends before it receives, many messages each way, sizes mixed.
    for i in range(40):
        comm.send(block(rank, i, i * 7), right)
        comm.send(block(rank, i, 5), left)
    for i in range(40):
        assert np.array_equal(comm.recv(i * 7, left), block(left, i, i * 7))
        assert np.array_equal(comm.recv(5, right), block(right, i, 5))

    # 24 MB both ways at once: several fragments.
    large = 6_000_001
    comm.send(block(rank, 0, large), right)
    assert np.array_equal(comm.recv(large, left), block(left, 0, large))

    # Receives listed before sends, over more bytes than may be buffered for one rank.
    sends = [Device(block(rank, i, large)) for i in range(2)]
    recvs = [Device(np.zeros(large, np.float32)) for _ in range(2)]
    items = (Item * 4)(
        *[Item(1, r.pointer, large, 4, left) for r in recvs],
        *[Item(0, s.pointer, large, 4, right) for s in sends],
    )
    call("HcclBatchSendRecv", items, u32(4), comm.handle, None)
    for i, r in enumerate(recvs):
        assert np.array_equal(r.read(), block(left, i, large))

    # A group: receives first, then sends to all and one to itself, then a collective.
    inputs = [Device(block(rank, d, 64)) for d in range(size)]
    outputs = [Device(np.zeros(64, np.float32)) for _ in range(size)]
    total, x = Device(np.zeros(3, np.float32)), Device(np.full(3, rank, np.float32))
    call("HcclGroupStart")
    call("HcclGroupStart")
    for s in range(size):
        call("HcclRecv", outputs[s].pointer, u64(64), 4, u32(s), comm.handle, None)
    call("HcclAllReduce", x.pointer, total.pointer, u64(3), 4, SUM, comm.handle, None)
    for d in range(size):
        call("HcclSend", inputs[d].pointer, u64(64), 4, u32(d), comm.handle, None)
    call("HcclGroupEnd")
    assert not total.read().any(), "ran before the outermost group ended"
    call("HcclGroupEnd")
    for s in range(size):
        assert np.array_equal(outputs[s].read(), block(s, rank, 64))
    assert np.array_equal(total.read(), np.full(3, sum(range(size)), np.float32))
    comm.barrier()
    # What was received has been given back: only the stages and the rings are left.
    held = sum(os.stat(f"/proc/self/fd/{fd}").st_blocks * 512 for fd in memory_files())
    assert held < 16 << 20, held
    comm.destroy()
    return "ok"


def case_no_traces(rank: int, size: int, key: str) -> Any:
    """The memory never has a name in /dev/shm; destroying gives back files and mappings."""
    before = len(os.listdir("/proc/self/fd")), Path("/proc/self/maps").read_text().count("\n")
    for turn in range(20):
        comm = Comm(init(exchange(f"{key}.{turn}", rank), size, rank), rank, size)
        comm.barrier()
        lines = Path("/proc/self/maps").read_text().splitlines()
        lines = [x for x in lines if "hccl" in x and "ascend_sim." not in x]
        mapped = [x for x in lines if "memfd:ascend-sim-hccl (deleted)" in x]
        assert len(mapped) == 1, lines
        assert not any("/dev/shm" in x for x in lines), lines
        assert len(memory_files()) == 1
        comm.destroy()
    assert not memory_files()
    after = len(os.listdir("/proc/self/fd")), Path("/proc/self/maps").read_text().count("\n")
    assert after[0] == before[0], (before, after)
    assert after[1] < before[1] + 10, (before, after)
    return shared_memory_names()


def case_sub_communicators(rank: int, size: int, key: str) -> Any:
    """Several communicators at once: overlapping sub-groups, made twice, used in between."""
    comm = Comm(init(exchange(key, rank), size, rank), rank, size)
    groups = [[0, 2], [1, 3], [3, 1, 0], [2], list(range(size))[::-1]]
    made: list[tuple[Comm, list[int]]] = []
    for turn in range(2):
        for number, members in enumerate(groups):
            sub = ptr()
            if rank in members:
                new = members.index(rank)
                call("HcclCreateSubCommConfig", ctypes.byref(comm.handle), u32(len(members)),
                     (u32 * len(members))(*members), u64(number), u32(new), None,
                     ctypes.byref(sub))  # fmt: skip
                made.append((Comm(sub, new, len(members)), members))
            else:
                call("HcclCreateSubCommConfig", ctypes.byref(comm.handle), u32(0), None,
                     u64(number), u32(0), None, ctypes.byref(sub))  # fmt: skip
                assert not sub.value
        for sub_comm, members in made:
            x = np.full(4, 10**rank, np.int64)
            assert (sub_comm.all_reduce(x, "int64") == sum(10**m for m in members)).all()
        assert (comm.all_reduce(np.full(4, rank + turn, np.int64), "int64")
                == sum(range(size)) + size * turn).all()  # fmt: skip
    size_out, rank_out = u32(), u32()
    call("HcclGetRankSize", made[0][0].handle, ctypes.byref(size_out))
    call("HcclGetRankId", made[0][0].handle, ctypes.byref(rank_out))
    assert (size_out.value, rank_out.value) == (made[0][0].size, made[0][0].rank)
    name = ctypes.create_string_buffer(128)
    call("HcclGetCommName", comm.handle, name)
    found = ptr()
    call("HcomGetCommHandleByGroup", name, ctypes.byref(found))
    assert found.value == comm.handle.value
    comm.barrier()
    for sub_comm, _ in made:
        sub_comm.destroy()
    comm.destroy()
    # A root info serves once: its memory is closed when all have joined.
    late = failure(lambda: init(exchange(key, 1), size, rank))
    assert "out of date" in late["message"] or "joins a second time" in late["message"], late
    return name.value.decode()


def case_config(rank: int, size: int, key: str) -> Any:
    """A configured name, rank tables and several roots."""
    info = exchange(key, rank)
    # HcclCommConfig: size, magic, version, reserved, two numbers, the name.
    config = ctypes.create_string_buffer(24 + 8 + 128)
    ctypes.memmove(config, (u64 * 1)(len(config)), 8)
    ctypes.memmove(ctypes.byref(config, 8), (u32 * 2)(0xF0F0F0F0, 4), 8)
    ctypes.memmove(ctypes.byref(config, 32), b"tp:0", 5)
    comm = ptr()
    call("HcclCommInitRootInfoConfig", u32(size), info, u32(rank), config, ctypes.byref(comm))
    name = ctypes.create_string_buffer(128)
    call("HcclGetCommName", comm, name)
    assert name.value == b"tp:0"
    bad = ctypes.create_string_buffer(len(config))
    found = failure(
        lambda: call(
            "HcclCommInitRootInfoConfig", u32(size), info, u32(rank), bad, ctypes.byref(comm)
        )
    )
    assert found["code"] == 1, "a configuration without its magic number was taken"

    table = key + ".table.json"
    devices = [{"device_id": str(r), "rank_id": str(r)} for r in range(size)]
    text = json.dumps({"version": "1.0", "server_list": [{"device": devices}]})
    exchange(table, rank, text.encode)
    for turn in range(2):
        by_table = ptr()
        call("HcclCommInitClusterInfo", table.encode(), u32(rank), ctypes.byref(by_table))
        x = Comm(by_table, rank, size).all_reduce(np.full(2, rank + turn, np.int32), "int32")
        assert (x == sum(range(size)) + turn * size).all()

    roots = exchange(key + ".roots", rank, lambda: root_info() + root_info())
    scalable = ptr()
    call("HcclCommInitRootInfoScalable", u32(size), u32(2), roots, u32(rank), u32(0), None,
         ctypes.byref(scalable))  # fmt: skip
    assert (Comm(scalable, rank, size).all_reduce(np.ones(2, np.int32), "int32") == size).all()
    assert hccl.HcclGetCommConfigCapability() == 12
    assert hccl.HcclGetErrorString(9) == b"timeout"
    return "ok"


def case_registered_memory(rank: int, size: int, key: str) -> Any:
    """Windows, ranges and settings: accepted when right, refused when not."""
    comm = init(exchange(key, rank), size, rank)
    x, host = Device(np.zeros(64, np.float32)), np.zeros(64, np.float32)
    window, found, offset = ptr(), ptr(), ctypes.c_size_t()
    peers = (u32 * 2)(0, size - 1)

    def code(name: str, *arguments: Any) -> int:
        outcome: int = failure(lambda: call(name, *arguments))["code"]
        return outcome

    size_t = ctypes.c_size_t
    assert code("HcclCommRegister", comm, x.pointer, u64(256), ctypes.byref(window), u32(0)) == 0
    assert code("HcclCommExchangeMem", comm, window, peers, u32(2)) == 0
    assert code("HcclCommExchangeMem", comm, window, (u32 * 1)(size), u32(1)) == 1
    assert code("HcclCommDeregister", comm, window) == 0
    assert code("HcclCommDeregister", comm, window) == 6
    assert code("HcclCommExchangeMem", comm, window, peers, u32(2)) == 6
    on_host = ptr(host.ctypes.data)
    assert code("HcclCommRegister", comm, on_host, u64(256), ctypes.byref(window), u32(0)) == 1

    block = ptr()
    assert code("HcommMemAlloc", ctypes.byref(block), size_t(4096)) == 0
    assert code("HcclCommSymWinRegister", comm, block, u64(4096), ctypes.byref(window), u32(1)) == 0
    inside = ptr((block.value or 0) + 16)
    get = ("HcclCommSymWinGet", comm, inside)
    assert code(*get, size_t(64), ctypes.byref(found), ctypes.byref(offset)) == 0
    assert (found.value, offset.value) == (window.value, 16)
    assert code(*get, size_t(4096), ctypes.byref(found), ctypes.byref(offset)) == 6
    assert code("HcclCommSymWinDeregister", window) == 0
    assert code("HcclCommSymWinDeregister", window) == 6
    assert code("HcommMemFree", block) == 0

    zero = size_t(0), u64(0)
    assert code("HcclCommSetMemoryRange", comm, x.pointer, size_t(256), *zero) == 0
    activate = ("HcclCommActivateCommMemory", comm, x.pointer, size_t(256), size_t(0), None, u64(0))
    assert code(*activate) == 0
    assert code("HcclCommDeactivateCommMemory", comm, x.pointer) == 0
    assert code("HcclCommDeactivateCommMemory", comm, x.pointer) == 6
    assert code("HcclCommUnsetMemoryRange", comm, x.pointer) == 0
    assert code("HcclCommUnsetMemoryRange", comm, x.pointer) == 6

    backup = (ctypes.c_bool * 2)(True, False)
    assert code("HcclCommWorkingDevNicSet", comm, peers, backup, u32(2)) == 0
    assert code("HcclCommWorkingDevNicSet", comm, (u32 * 1)(size), backup, u32(1)) == 1
    value = ctypes.c_int32(-1)
    assert code("HcclSetConfig", 0, ctypes.c_int32(1)) == 0
    assert code("HcclGetConfig", 0, ctypes.byref(value)) == 0
    assert value.value == 1
    assert code("HcclCommResume", comm) == 0
    assert code("HcclCommSuspend", comm) == 5
    state = ctypes.c_int(-1)
    assert code("HcclGetCommAsyncError", comm, ctypes.byref(state)) == 0
    assert state.value == 0
    call("HcclBarrier", comm, None)
    return code("HcclCommDestroy", comm), code("HcclCommDestroy", comm)


def case_threads(rank: int, size: int, key: str) -> Any:
    """Ranks that are threads of one process (HcclCommInitAll), many calls at once."""
    if rank > 0:
        return None
    n = size
    comms = (ptr * n)()
    set_device(0)
    call("HcclCommInitAll", u32(n), (ctypes.c_int32 * n)(*range(n)), comms)
    failures: list[BaseException] = []

    def run(r: int) -> None:
        try:
            set_device(r)
            comm = Comm(ptr(comms[r]), r, n)
            for i in range(100):
                got = comm.all_reduce(np.full(33, r + i, np.int64), "int64")
                assert (got == sum(range(n)) + n * i).all()
                comm.send(np.full(9, r * 100 + i, np.float32), (r + 1) % n)
                assert (comm.recv(9, (r - 1) % n) == (r - 1) % n * 100 + i).all()
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=run, args=(r,)) for r in range(n)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]
    return failure(lambda: call("HcclCommInitAll", u32(2), (ctypes.c_int32 * 2)(1, 1), comms))


def failure(action: Callable[[], Any]) -> dict[str, Any]:
    """The error of `action` and the seconds until it came."""
    begin = time.monotonic()
    try:
        action()
    except HcclError as error:
        seconds = time.monotonic() - begin
        return {"code": error.code, "message": error.message, "seconds": seconds}
    return {"code": 0}


def case_mismatch(rank: int, size: int, key: str) -> Any:
    """One rank calls something else; every rank gets the error, and the communicator is over."""
    x = Device(np.zeros(64, np.float32))
    y = Device(np.zeros(64 * size, np.float32))
    odd = rank == 2

    def differs(n: int) -> dict[str, Any]:
        comm = init(exchange(f"{key}.{n}", rank), size, rank)
        calls: list[Callable[[], None]] = [
            lambda: call("HcclAllReduce", x.pointer, y.pointer, u64(9 if odd else 8), 4, SUM, comm,
                         None),
            lambda: call("HcclAllReduce", x.pointer, y.pointer, u64(8), 3 if odd else 4, SUM, comm,
                         None),
            lambda: call("HcclAllReduce", x.pointer, y.pointer, u64(8), 4, MAX if odd else SUM,
                         comm, None),
            lambda: call("HcclBroadcast", x.pointer, u64(8), 4, u32(1 if odd else 0), comm, None),
            lambda: (call("HcclBarrier", comm, None) if odd
                     else call("HcclAllGather", x.pointer, y.pointer, u64(8), 4, comm, None)),
            lambda: call("HcclAllGatherV", x.pointer, u64(8), y.pointer,
                         numbers([8, 8, 8, 9 if odd else 8]), numbers([0, 8, 16, 24]), 4, comm,
                         None),
            lambda: call("HcclAlltoAllV", x.pointer, numbers([1, 2, 3, 4]), numbers([0, 1, 3, 6]),
                         4, y.pointer, numbers([rank + 1] * 3 + [9 if odd else rank + 1]),
                         numbers([0, 9, 18, 27]), 4, comm, None),
        ]  # fmt: skip
        first = failure(calls[n])
        again = failure(lambda: call("HcclBarrier", comm, None))
        call("HcclCommDestroy", comm)
        return {**first, "again": again["code"]}

    results = [differs(n) for n in range(7)]
    comm = Comm(init(exchange(f"{key}.p2p", rank), size, rank), rank, size)
    if rank == 0:
        comm.send(np.zeros(4, np.float32), 1)
    results.append(failure(lambda: comm.recv(5, 0)) if rank == 1 else failure(comm.barrier))
    return results


def case_wrong_arguments(rank: int, size: int, key: str) -> Any:
    """Host memory, another device's memory, a buffer too short, wrong numbers."""
    host = np.zeros(64, np.float32)
    x = Device(host)
    set_device((rank + 1) % size)
    elsewhere = Device(host)
    set_device(rank)

    def wrong(n: int) -> dict[str, Any]:
        comm = init(exchange(f"{key}.{n}", rank), size, rank)

        def good() -> None:
            call("HcclAllReduce", x.pointer, x.pointer, u64(8), 4, SUM, comm, None)

        bad: list[Callable[[], None]] = [
            lambda: call("HcclAllReduce", ptr(host.ctypes.data), x.pointer, u64(8), 4, SUM, comm,
                         None),
            lambda: call("HcclAllReduce", x.pointer, elsewhere.pointer, u64(8), 4, SUM, comm, None),
            lambda: call("HcclAllGather", x.pointer, x.pointer, u64(10**6), 4, comm, None),
            lambda: call("HcclAllReduce", None, x.pointer, u64(8), 4, SUM, comm, None),
            lambda: call("HcclAllReduce", x.pointer, x.pointer, u64(8), 14, SUM, comm, None),
            lambda: call("HcclAllReduce", x.pointer, x.pointer, u64(8), 99, SUM, comm, None),
            lambda: call("HcclBroadcast", x.pointer, u64(8), 4, u32(size), comm, None),
        ]  # fmt: skip
        return failure(bad[n] if rank == 1 else good)

    results = [wrong(n) for n in range(7)]
    results.append(failure(lambda: call("HcclBarrier", ptr(12345), None)))
    results.append(failure(lambda: call("HcclGroupEnd")))
    return results


def case_spoilt_group(rank: int, size: int, key: str) -> Any:
    """A call of a group fails, and its end is never reached: nothing after is lost in silence."""
    spoilt = init(exchange(f"{key}.0", rank), size, rank)
    whole = init(exchange(f"{key}.1", rank), size, rank)
    x = Device(np.ones(8, np.float32))

    def reduce(comm: Any, pointer: Any) -> Callable[[], None]:
        return lambda: call("HcclAllReduce", pointer, x.pointer, u64(8), 4, SUM, comm, None)

    call("HcclGroupStart")
    results = [failure(reduce(spoilt, None)), failure(reduce(whole, x.pointer))]
    results.append(failure(lambda: call("HcclGroupEnd")))
    assert (x.read() == 1).all()
    reduce(whole, x.pointer)()
    assert (x.read() == size).all()
    return [found["code"] for found in results]


def case_destroyed_while_waiting(rank: int, size: int, key: str) -> Any:
    """A thread waits in a collective; another destroys the communicator, as exit handlers do."""
    comm = Comm(init(exchange(key, rank), size, rank), rank, size)
    comm.barrier()
    if rank == 0:
        time.sleep(1)
        return None
    timer = threading.Timer(0.2, comm.destroy)
    timer.start()
    found = failure(comm.barrier)
    timer.join()
    return found


def case_same_device(rank: int, size: int, key: str) -> Any:
    set_device(0)
    return failure(lambda: init(exchange(key, rank), size, rank))


def case_killed(rank: int, size: int, key: str) -> Any:
    """The last case. Rank 2 dies; the others wait for it in different ways."""
    comm = Comm(init(exchange(key, rank), size, rank), rank, size)
    comm.barrier()
    if rank == 2:
        sys.stdout.flush()
        os.kill(os.getpid(), signal.SIGKILL)
    if rank == 0:
        first = failure(comm.barrier)
    elif rank == 1:
        first = failure(lambda: comm.recv(4, 2))
    else:
        time.sleep(0.5)
        first = failure(lambda: comm.all_reduce(np.zeros(4, np.int8), "int8"))
    return first


def case_left(rank: int, size: int, key: str) -> Any:
    """Rank 2 destroys the communicator, after a message that is still to be received."""
    comm = Comm(init(exchange(key, rank), size, rank), rank, size)
    if rank == 2:
        comm.send(np.full(4, 7.0, np.float32), 1)
        comm.destroy()
        return {"code": failure(comm.barrier)["code"]}
    if rank == 1:
        time.sleep(0.2)
        assert (comm.recv(4, 2) == 7.0).all()
        return failure(lambda: comm.recv(4, 2))
    time.sleep(0.6)
    return failure(comm.barrier)


def case_absent(rank: int, size: int, key: str) -> Any:
    """The last rank never calls: an error within ASCEND_SIM_HCCL_TIMEOUT, saying who and what."""
    comm = Comm(init(exchange(key, rank), size, rank), rank, size)
    comm.barrier()
    if rank < size - 1:
        return failure(comm.barrier)
    time.sleep(0.4)  # so that the others find out first
    return failure(lambda: comm.recv(4, 0))


def case_never_joins(rank: int, size: int, key: str) -> Any:
    info = exchange(key, rank)
    if rank == size - 1:
        time.sleep(0.1)
        return {"code": -1}
    return failure(lambda: init(info, size, rank))


def case_fork(rank: int, size: int, key: str) -> Any:
    """A child made by fork is not the rank: its end must not end the communicator."""
    comm = Comm(init(exchange(key, rank), size, rank), rank, size)
    read_end, write_end = os.pipe()
    child = os.fork()
    if child == 0:
        found = failure(comm.barrier)
        os.write(write_end, json.dumps(found).encode())
        comm.destroy()
        os._exit(0)
    os.waitpid(child, 0)
    got = comm.all_reduce(np.ones(3, np.int32), "int32")
    assert (got == size).all()
    return json.loads(os.read(read_end, 65536))


def main() -> None:
    rank, size, key, cases = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4:]
    for name in cases:
        set_device(rank)
        begin = time.monotonic()
        report: dict[str, Any] = {"case": name, "rank": rank}
        try:
            report["result"] = globals()[f"case_{name}"](rank, size, f"{key}.{name}")
        except BaseException:
            report["error"] = traceback.format_exc()
        report["seconds"] = time.monotonic() - begin
        print("REPORT " + json.dumps(report), flush=True)


if __name__ == "__main__":
    main()
