# SPDX-License-Identifier: Apache-2.0
"""The real ProcessGroupHCCL of torch_npu over the simulated HCCL, one process a rank.

Runs inside the ranks of test_hccl.py, as a script: `hccl_process_group.py RANK SIZE
PORT CASE...`; prints one JSON line a case. Each case has a group of its own, so that what one
breaks stays there. Every rank knows every rank's input by seed and computes the result on the CPU.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist

FLOATS = (torch.float32, torch.float16, torch.bfloat16)
# What HCCL reduces on this chip; torch_npu casts bool and uint8 to int32 and back.
REDUCED = (*FLOATS, torch.int8, torch.int16, torch.int32, torch.int64)
CAST = (torch.bool, torch.uint8)
MOVED = (*REDUCED, *CAST, torch.float64)
OPS = {
    "sum": (dist.ReduceOp.SUM, torch.add),
    "product": (dist.ReduceOp.PRODUCT, torch.mul),
    "max": (dist.ReduceOp.MAX, torch.maximum),
    "min": (dist.ReduceOp.MIN, torch.minimum),
}
SIZES = (1, 7, 8, 1000, 33_333)

rank = size = 0


def sample(
    dtype: torch.dtype, shape: int | tuple[int, ...], of: int, seed: int = 0
) -> torch.Tensor:
    """Rank `of`'s input on the CPU: small numbers, so that integers do not wrap by accident."""
    generator = torch.Generator().manual_seed(1000 * seed + of)
    shape = (shape,) if isinstance(shape, int) else shape
    if dtype.is_floating_point:
        return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)
    if dtype is torch.bool:
        return torch.rand(shape, generator=generator) < 0.5
    low = 0 if dtype is torch.uint8 else -3
    return torch.randint(low, 4, shape, generator=generator, dtype=torch.int64).to(dtype)


def every(
    dtype: torch.dtype, shape: int | tuple[int, ...], n: int, seed: int = 0
) -> list[torch.Tensor]:
    return [sample(dtype, shape, r, seed) for r in range(n)]


def npu(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.to(f"npu:{rank}")


def combined(parts: list[torch.Tensor], op: str) -> torch.Tensor:
    """In rank order; the narrow floating types in float32, rounded once."""
    dtype = parts[0].dtype
    wide = [p.float() if dtype in (torch.float16, torch.bfloat16) else p for p in parts]
    if dtype in CAST:
        wide = [p.int() for p in parts]
    total = wide[0]
    for part in wide[1:]:
        total = OPS[op][1](total, part)
    return total.to(dtype)


def same(got: torch.Tensor, want: torch.Tensor, *what: Any) -> None:
    assert got.device.type == "npu", (what, got.device)
    host = got.cpu()
    assert host.dtype == want.dtype, what
    assert host.shape == want.shape, (what, host.shape, want.shape)
    assert torch.equal(host, want), (what, host.flatten()[:8], want.flatten()[:8])


def error_of(action: Callable[[], Any]) -> tuple[str, float]:
    """The message of the RuntimeError of `action`, and the seconds until it came.

    torch_npu queues calls: an error of one comes out of the next that waits for the device.
    """
    begin = time.monotonic()
    try:
        action()
        torch.npu.synchronize()
    except RuntimeError as error:
        return str(error), time.monotonic() - begin
    raise AssertionError("no error")


# ---- cases ------------------------------------------------------------------------------------


def case_all_reduce(group: Any) -> Any:
    for dtype in REDUCED:
        for op, (reduce_op, _) in OPS.items():
            for n in SIZES:
                x = npu(sample(dtype, n, rank))
                dist.all_reduce(x, reduce_op, group=group)
                same(x, combined(every(dtype, n, size), op), dtype, op, n)


def case_all_reduce_shapes(group: Any) -> Any:
    for shape in ((), (0,), (0, 5), (3, 5, 7), (1, 1, 129)):
        x = npu(sample(torch.bfloat16, shape, rank))
        dist.all_reduce(x, group=group)
        same(x, combined(every(torch.bfloat16, shape, size), "sum"), shape)
    # A view in the middle of its storage: what lies around stays.
    whole = npu(torch.zeros(30))
    whole[10:20] = float(rank)
    dist.all_reduce(whole[10:20], group=group)
    assert whole.cpu().tolist() == [0.0] * 10 + [float(sum(range(size)))] * 10 + [0.0] * 10


def case_all_reduce_average(group: Any) -> Any:
    x = npu(sample(torch.float32, 100, rank))
    dist.all_reduce(x, dist.ReduceOp.AVG, group=group)
    same(x, combined(every(torch.float32, 100, size), "sum") / size)


def case_all_reduce_cast(group: Any) -> Any:
    for dtype in CAST:
        for op in ("sum", "max", "min"):
            x = npu(sample(dtype, 77, rank))
            dist.all_reduce(x, OPS[op][0], group=group)
            same(x, combined(every(dtype, 77, size), op), dtype, op)


def case_all_reduce_large(group: Any) -> Any:
    """48 MB: many stages, and the reduction shared between the ranks."""
    n = 12 * 1024 * 1024 + 1
    # Made without a generator: the same numbers four times over would take the time.
    base = torch.arange(n, dtype=torch.float32) / 7
    x = npu(base * (rank + 1))
    dist.all_reduce(x, group=group)
    want = base * 1
    for r in range(1, size):
        want += base * (r + 1)
    same(x, want)


def case_unsupported_type(group: Any) -> Any:
    """What this chip's HCCL cannot reduce is torch_npu's own error, before any communication."""
    message, _ = error_of(
        lambda: dist.all_reduce(npu(torch.ones(3, dtype=torch.float64)), group=group)
    )
    assert "nsupported data type" in message, message
    x = npu(torch.ones(3))
    dist.all_reduce(x, group=group)
    same(x, torch.full((3,), float(size)))


def case_broadcast(group: Any) -> Any:
    for dtype in MOVED:
        for root in range(size):
            x = npu(sample(dtype, 1001, rank, root))
            dist.broadcast(x, root, group=group)
            same(x, sample(dtype, 1001, root, root), dtype, root)


def case_reduce(group: Any) -> Any:
    for dtype in REDUCED:
        for op in OPS:
            for root in (0, size - 1):
                x = npu(sample(dtype, 501, rank))
                dist.reduce(x, root, OPS[op][0], group=group)
                if rank == root:
                    same(x, combined(every(dtype, 501, size), op), dtype, op)


def case_all_gather(group: Any) -> Any:
    """The list form; sizes that are no multiple of 32 bytes as well."""
    for dtype in (*REDUCED, torch.float64):
        for n in (32, 33, 1):
            out = [npu(torch.zeros(n, dtype=dtype)) for _ in range(size)]
            dist.all_gather(out, npu(sample(dtype, n, rank)), group=group)
            for r in range(size):
                same(out[r], sample(dtype, n, r), dtype, n, r)


def case_all_gather_uneven(group: Any) -> Any:
    out = [npu(torch.zeros(r * 3 + 1, 2)) for r in range(size)]
    dist.all_gather(out, npu(sample(torch.float32, (rank * 3 + 1, 2), rank)), group=group)
    for r in range(size):
        same(out[r], sample(torch.float32, (r * 3 + 1, 2), r), r)


def case_all_gather_into_tensor(group: Any) -> Any:
    for dtype in MOVED:
        for n in (0, 1, 7, 1000):
            out = npu(torch.zeros(size * n, dtype=dtype))
            dist.all_gather_into_tensor(out, npu(sample(dtype, n, rank)), group=group)
            same(out, torch.cat(every(dtype, n, size)), dtype, n)
    large = torch.arange(3_000_001, dtype=torch.int32)
    out = npu(torch.zeros(size * large.numel(), dtype=torch.int32))
    dist.all_gather_into_tensor(out, npu(large * (rank + 1)), group=group)
    same(out, torch.cat([large * (r + 1) for r in range(size)]))


def case_reduce_scatter(group: Any) -> Any:
    for dtype in REDUCED:
        for op in OPS:
            for n in (1, 77, 9000):
                want = combined(every(dtype, (size, n), size), op)[rank]
                mine = sample(dtype, (size, n), rank)
                out = npu(torch.zeros(n, dtype=dtype))
                dist.reduce_scatter_tensor(out, npu(mine.flatten()), OPS[op][0], group=group)
                same(out, want, dtype, op, n)
        out = npu(torch.zeros(96, dtype=dtype))
        mine = sample(dtype, (size, 96), rank, 1)
        dist.reduce_scatter(out, [npu(m) for m in mine], group=group)
        same(out, combined(every(dtype, (size, 96), size, 1), "sum")[rank], dtype, "list")


def case_scatter(group: Any) -> Any:
    for dtype in (*REDUCED, torch.float64):
        for root in range(size):
            whole = sample(dtype, (size, 33), root)
            out = npu(torch.zeros(33, dtype=dtype))
            given = [npu(w) for w in whole] if rank == root else None
            dist.scatter(out, given, root, group=group)
            same(out, whole[rank], dtype, root)


def case_all_to_all(group: Any) -> Any:
    for dtype in (*REDUCED, torch.float64):
        whole = every(dtype, (size, 3, 5), size)
        out = npu(torch.zeros(size, 3, 5, dtype=dtype))
        dist.all_to_all_single(out, npu(whole[rank]), group=group)
        same(out, torch.stack([w[rank] for w in whole]), dtype)


def case_all_to_all_splits(group: Any) -> Any:
    # Rank s sends s * d + (d == s) rows to rank d; some of them none.
    splits = [[s * d + (d == s and s > 0) for d in range(size)] for s in range(size)]
    for dtype in (torch.float32, torch.bfloat16, torch.int64):
        whole = [sample(dtype, (sum(splits[s]), 5), s) for s in range(size)]
        pieces = [w.split(splits[s])[rank] for s, w in enumerate(whole)]
        out = npu(torch.zeros(sum(p.shape[0] for p in pieces), 5, dtype=dtype))
        dist.all_to_all_single(
            out, npu(whole[rank]), [p.shape[0] for p in pieces], splits[rank], group=group
        )
        same(out, torch.cat(pieces), dtype)


def case_all_to_all_list(group: Any) -> Any:
    def piece(s: int, d: int) -> torch.Tensor:
        return sample(torch.float16, (s + 1) * 16, 10 * s + d)

    out = [npu(torch.zeros((s + 1) * 16, dtype=torch.float16)) for s in range(size)]
    dist.all_to_all(out, [npu(piece(rank, d)) for d in range(size)], group=group)
    for s in range(size):
        same(out[s], piece(s, rank), s)


def case_barrier(group: Any) -> Any:
    """Nobody passes before the last has come."""
    time.sleep(0.3 * (rank == size - 1))
    begin = torch.tensor([time.monotonic()], dtype=torch.float64)
    dist.barrier(group=group)
    end = time.monotonic()
    begins = npu(torch.zeros(size, dtype=torch.float64))
    dist.all_gather_into_tensor(begins, npu(begin), group=group)
    assert end >= begins.max().item()


def case_objects(group: Any) -> Any:
    mine = {"rank": rank, "text": "x" * (rank * 100), "list": list(range(rank))}
    out: list[Any] = [None] * size
    dist.all_gather_object(out, mine, group=group)
    assert [o["rank"] for o in out] == list(range(size))
    assert [len(o["text"]) for o in out] == [100 * r for r in range(size)]
    objects: list[Any] = [mine, "second"] if rank == 1 else [None, None]
    dist.broadcast_object_list(objects, src=1, group=group, device=torch.device("npu", rank))
    assert objects[0]["list"] == [0]
    assert objects[1] == "second"


def case_send_recv(group: Any) -> Any:
    """Round the ring, even ranks sending first; every type, odd sizes, large ones."""
    right, left = (rank + 1) % size, (rank - 1) % size
    for dtype in MOVED:
        for n in (1, 257) if dtype is not torch.float32 else (1, 257, 2_200_001):
            out, x = npu(torch.zeros(n, dtype=dtype)), npu(sample(dtype, n, rank))
            for turn in (0, 1):
                if rank % 2 == turn:
                    dist.send(x, right, group=group)
                else:
                    dist.recv(out, left, group=group)
            same(out, sample(dtype, n, left), dtype, n)


def case_isend_first(group: Any) -> Any:
    """Both of a pair send, then receive: as asynchronous as on the device."""
    peer = rank ^ 1
    sent = [npu(sample(torch.float32, 1000 + i, rank, i)) for i in range(5)]
    works = [dist.isend(x, peer, group=group) for x in sent]
    for i in range(5):
        out = npu(torch.zeros(1000 + i))
        works.append(dist.irecv(out, peer, group=group))
        same(out, sample(torch.float32, 1000 + i, peer, i), i)
    for work in works:
        work.wait()
    # All pairs are connected now: a ring of sends first.
    right, left = (rank + 1) % size, (rank - 1) % size
    for turn in (0, 1):
        if rank % 2 == turn:
            dist.send(sent[0], right, group=group)
        else:
            dist.recv(npu(torch.zeros(1000)), left, group=group)
    dist.isend(sent[1], right, group=group)
    out = npu(torch.zeros(1001))
    dist.recv(out, left, group=group)
    same(out, sample(torch.float32, 1001, left, 1))


def case_batch_isend_irecv(group: Any) -> Any:
    """Receives listed first, with every other rank, several tensors each way."""
    for n in (5, 700_001):
        ops, outs = [], []
        for peer in range(size):
            if peer == rank:
                continue
            for i in range(2):
                outs.append((peer, i, npu(torch.zeros(n))))
                ops.append(dist.P2POp(dist.irecv, outs[-1][2], peer, group))
        for peer in range(size):
            if peer == rank:
                continue
            for i in range(2):
                x = npu(sample(torch.float32, n, rank, 10 * peer + i))
                ops.append(dist.P2POp(dist.isend, x, peer, group))
        for work in dist.batch_isend_irecv(ops):
            work.wait()
        for peer, i, out in outs:
            same(out, sample(torch.float32, n, peer, 10 * rank + i), peer, i)


def case_coalesced(group: Any) -> Any:
    tensors = [npu(sample(torch.float32, n, rank)) for n in (3, 64, 1001)]
    dist.all_reduce_coalesced(tensors, group=group)
    for x in tensors:
        same(x, combined(every(torch.float32, x.numel(), size), "sum"))
    if not group._get_backend(torch.device("npu")).supports_coalescing:
        return "torch_npu 2.8.0 has no groups of collectives"
    inputs = [npu(sample(torch.float32, n, rank)) for n in (8, 72)]
    outputs = [npu(torch.zeros(size * n)) for n in (8, 72)]
    with dist._coalescing_manager(
        group=group, device=torch.device("npu", rank), async_ops=True
    ) as manager:
        for out, x in zip(outputs, inputs, strict=True):
            dist.all_gather_into_tensor(out, x, group=group)
    manager.wait()
    for out in outputs:
        same(out, torch.cat(every(torch.float32, out.numel() // size, size)))
    tensors = [npu(sample(torch.float32, n, rank)) for n in (5, 50)]
    with dist._coalescing_manager(group=group, device=torch.device("npu", rank)):
        for x in tensors:
            dist.all_reduce(x, group=group)
    for x in tensors:
        same(x, combined(every(torch.float32, x.numel(), size), "sum"))
    return "grouped"


def case_asynchronous(group: Any) -> Any:
    tensors = [npu(sample(torch.float32, 100, rank, i)) for i in range(30)]
    works = [dist.all_reduce(x, async_op=True, group=group) for x in tensors]
    for i, (work, x) in enumerate(zip(works, tensors, strict=True)):
        work.wait()
        same(x, combined(every(torch.float32, 100, size, i), "sum"), i)


def case_functional(group: Any) -> Any:
    """torch's functional collectives, which compiled models use."""
    import torch.distributed._functional_collectives as functional

    x = npu(sample(torch.float32, (4, 6), rank))
    want = every(torch.float32, (4, 6), size)
    same(functional.all_reduce(x, "sum", group).clone(), combined(want, "sum"))
    same(functional.all_gather_tensor(x, 1, group).clone(), torch.cat(want, 1))
    same(functional.reduce_scatter_tensor(x, "max", 0, group).clone(),
         combined(want, "max").chunk(size)[rank])  # fmt: skip


def case_sub_groups(_group: Any) -> Any:
    """Overlapping groups in use at the same time, and in another order than they were made."""
    lists = [[0, 2], [1, 3], [1, 2, 3], [0], [3, 0]]
    groups = [dist.new_group(ranks) for ranks in lists]
    for turn in range(3):
        for ranks, group in zip(lists, groups, strict=True):
            if rank not in ranks:
                continue
            ranks = sorted(ranks)
            x = npu(sample(torch.float32, 50, rank, turn))
            dist.all_reduce(x, group=group)
            same(x, combined([sample(torch.float32, 50, r, turn) for r in ranks], "sum"), ranks)
            out = npu(torch.zeros(len(ranks) * 8))
            dist.all_gather_into_tensor(out, npu(sample(torch.float32, 8, rank)), group=group)
            same(out, torch.cat([sample(torch.float32, 8, r) for r in ranks]), ranks)
            y = npu(torch.full((3,), float(rank)))
            dist.broadcast(y, ranks[-1], group=group)
            same(y, torch.full((3,), float(ranks[-1])), ranks)
            if len(ranks) > 1:
                position = ranks.index(rank)
                if position == 0:
                    dist.send(y, ranks[1], group=group)
                elif position == 1:
                    dist.recv(y, ranks[0], group=group)
        whole = npu(torch.ones(2))
        dist.all_reduce(whole)
        same(whole, torch.full((2,), float(size)))
    dist.destroy_process_group(groups[1] if rank in lists[1] else groups[0])


def case_threads(_group: Any) -> Any:
    """Two groups, each used by a thread of its own."""
    groups = [dist.new_group(list(range(size))) for _ in range(2)]
    failures: list[BaseException] = []

    def work(number: int) -> None:
        try:
            torch.npu.set_device(rank)
            for i in range(20):
                x = npu(sample(torch.float32, 64, rank, 100 * number + i))
                dist.all_reduce(x, group=groups[number])
                same(x, combined(every(torch.float32, 64, size, 100 * number + i), "sum"))
        except BaseException as error:
            failures.append(error)

    # One communicator after the other: making one is a collective itself.
    for group in groups:
        dist.barrier(group=group)
    threads = [threading.Thread(target=work, args=(n,)) for n in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]


def case_data_parallel(group: Any) -> Any:
    """DistributedDataParallel: gradients are the mean of all ranks', on every rank."""
    torch.manual_seed(0)
    reference = torch.nn.Linear(6, 3)
    model = torch.nn.Linear(6, 3)
    model.load_state_dict(reference.state_dict())
    parallel = torch.nn.parallel.DistributedDataParallel(
        model.to(f"npu:{rank}"), device_ids=[rank], process_group=group
    )
    parallel(npu(sample(torch.float32, (4, 6), rank))).square().sum().backward()
    for r in range(size):
        (reference(sample(torch.float32, (4, 6), r)).square().sum() / size).backward()
    for got, want in zip(parallel.parameters(), reference.parameters(), strict=True):
        assert got.grad is not None
        assert want.grad is not None
        torch.testing.assert_close(got.grad.cpu(), want.grad)


def case_graph(group: Any) -> Any:
    """Collectives in a captured graph run at each replay, on what the buffers hold then."""
    x, y = npu(torch.zeros(16)), npu(torch.zeros(size * 16))
    dist.all_reduce(x, group=group)
    torch.npu.synchronize()
    graph = torch.npu.NPUGraph()
    with torch.npu.graph(graph):
        z = x * 2
        dist.all_reduce(z, group=group)
        dist.all_gather_into_tensor(y, z, group=group)
    for turn in range(3):
        x.copy_(npu(sample(torch.float32, 16, rank, turn)))
        graph.replay()
        torch.npu.synchronize()
        want = combined([2 * p for p in every(torch.float32, 16, size, turn)], "sum")
        same(z, want, turn)
        same(y, want.repeat(size), turn)


def case_mismatch(group: Any) -> Any:
    """Every rank is told, with the calls of both; the group is over, others go on."""
    messages = []
    n = 5 if rank == 2 else 4
    message, _ = error_of(lambda: dist.all_reduce(npu(torch.ones(n)), group=group))
    assert "rank 0 called HcclAllReduce(count=4, float32, sum)" in message, message
    assert "rank 2 called HcclAllReduce(count=5, float32, sum)" in message, message
    messages.append(message)
    other = dist.new_group(list(range(size)))

    def differs() -> None:
        if rank == 1:
            dist.broadcast(npu(torch.ones(3)), 0, group=other)
        else:
            dist.all_reduce(npu(torch.ones(3)), group=other)

    message, _ = error_of(differs)
    assert "rank 1 called HcclBroadcast(count=3, float32, root 0)" in message, message
    x = npu(torch.ones(3))
    dist.all_reduce(x)
    same(x, torch.full((3,), float(size)))
    return messages


def case_host_tensor(group: Any) -> Any:
    message, _ = error_of(lambda: dist.all_reduce(torch.ones(3), group=group))
    assert "cpu" in message.lower(), message


def case_killed(group: Any) -> Any:
    """The last case: one rank dies, the others find out when they need it."""
    dist.barrier(group=group)
    if rank == size - 1:
        sys.stdout.flush()
        os.kill(os.getpid(), signal.SIGKILL)
    message, seconds = error_of(lambda: dist.all_reduce(npu(torch.ones(3)), group=group))
    assert f"rank {size - 1} " in message, message
    assert " died " in message, message
    return seconds


def run(number: int, n: int, port: str, cases: list[str], emit: Callable[[str], None]) -> None:
    global rank, size
    rank, size = number, n
    import torch_npu  # noqa: F401

    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=port, RANK=str(rank), WORLD_SIZE=str(n))
    warnings.filterwarnings("ignore", category=FutureWarning)
    torch.npu.set_device(rank)
    dist.init_process_group("hccl", rank=rank, world_size=size)
    for name in cases:
        begin = time.monotonic()
        report: dict[str, Any] = {"case": name, "rank": rank}
        try:
            group = dist.new_group(list(range(size)))
            report["result"] = globals()[f"case_{name}"](group)
            torch.npu.synchronize()
        except BaseException:
            report["error"] = traceback.format_exc()
        report["seconds"] = time.monotonic() - begin
        emit(json.dumps(report))
    if "killed" in cases:
        # A program that does not catch the error, whose exit handlers meet the dead rank too.
        emit(json.dumps({"case": "ending", "rank": rank, "result": time.time()}))
        dist.all_reduce(npu(torch.ones(3)))
        torch.npu.synchronize()
    dist.destroy_process_group()


def emit_line(line: str) -> None:
    # In one write: ranks that torch.multiprocessing started share the pipe.
    os.write(1, f"REPORT {line}\n".encode())


def spawned(number: int, n: int, port: str, cases: list[str]) -> None:
    run(number, n, port, cases, emit_line)


def main() -> None:
    """`RANK SIZE PORT CASE...`; a RANK of "spawn" starts SIZE ranks by torch.multiprocessing."""
    first, n, port, cases = sys.argv[1], int(sys.argv[2]), sys.argv[3], sys.argv[4:]
    if first == "spawn":
        torch.multiprocessing.spawn(spawned, (n, port, cases), n)
    else:
        run(int(first), n, port, cases, emit_line)


if __name__ == "__main__":
    main()
