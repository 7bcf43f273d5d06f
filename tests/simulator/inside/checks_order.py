# SPDX-License-Identifier: Apache-2.0
"""Races that a device shows: copies that the host does not wait for, and two streams at once.

Every race here is one for certain: nothing in the program orders the two sides.
"""

from __future__ import annotations

import ctypes
import faulthandler
import gc
import os
import signal
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

N = 1024


@contextmanager
def reported(*parts: str) -> Iterator[None]:
    """The body makes the runtime report one race, whose text has all parts; or none, without any.

    A report goes to standard error by its number.
    """
    with tempfile.TemporaryFile() as file:
        before = os.dup(2)
        os.dup2(file.fileno(), 2)
        try:
            yield
            torch.npu.synchronize()
        finally:
            os.dup2(before, 2)
            os.close(before)
        file.seek(0)
        text = file.read().decode()
    races = text.count("ascend simulator: race: ")
    assert races == (1 if parts else 0), text
    missing = [part for part in parts if part not in text]
    assert not missing, f"{missing} not in: {text}"


def pinned(value: int = 0) -> torch.Tensor:
    return torch.full((N,), value, dtype=torch.int32).pin_memory()


def device(value: int = 0) -> torch.Tensor:
    x = torch.full((N,), value, dtype=torch.int32, device="npu")
    torch.npu.synchronize()
    return x


def check_a_source_changed_too_early() -> None:
    source, target = pinned(), device(5)
    with reported("changed while the copy to the device at", "checks_order.py", "4096 bytes"):
        target.copy_(source, non_blocking=True)
        source.fill_(7)
        assert target[0].item() == 7  # what a device may give


def waits() -> list[Callable[[], object]]:
    event = torch.npu.Event()

    def passed(wait: Callable[[], object]) -> Callable[[], object]:
        def both() -> object:
            event.record()
            return wait()

        return both

    one = torch.ones(1, device="npu")
    return [
        torch.npu.synchronize,
        lambda: torch.npu.current_stream().synchronize(),
        lambda: torch.npu.current_stream().query(),
        passed(event.synchronize),
        passed(event.query),
        one.item,
        one.cpu,
        one.nonzero,
        lambda: one.copy_(torch.zeros(1)),
        lambda: one.to("cpu", torch.float64, non_blocking=True),
    ]


def check_every_way_to_wait() -> None:
    for wait in waits():
        source, target = pinned(3), device()
        back = pinned()
        with reported():
            target.copy_(source, non_blocking=True)
            back.copy_(target, non_blocking=True)
            wait()
            assert back.tolist() == [3] * N
            source.fill_(7)
            assert target[0].item() == 3


def check_waits_go_through_events_and_not_past_them() -> None:
    side, event = torch.npu.Stream(), torch.npu.Event()
    source, target = pinned(3), device()
    with reported():
        with torch.npu.stream(side):
            target.copy_(source, non_blocking=True)
            event.record()
        torch.npu.current_stream().wait_event(event)
        torch.npu.current_stream().synchronize()
        source.fill_(4)
    with reported("changed while the copy to the device at"):
        with torch.npu.stream(side):
            event.record()
            target.copy_(source, non_blocking=True)
        event.synchronize()  # recorded before the copy
        torch.npu.current_stream().synchronize()  # another stream
        source.fill_(5)


def line_of(text: str) -> str:
    """Where the one line of this file is that holds `text`, as reports have it."""
    lines = Path(__file__).read_text().splitlines()
    (number,) = [i for i, line in enumerate(lines, 1) if line.strip().startswith(text)]
    return f"checks_order.py:{number} "


def check_a_target_read_too_early() -> None:
    source, target = device(3), pinned()
    floats, read = torch.ones(4, device="npu"), torch.zeros(4).pin_memory()
    first, second = (
        line_of("assert target[0] == -1"),
        line_of("target.copy_(source, non_blocking=True)  #"),
    )
    with reported(f"memory was read at {first}", f"copy to the host at {second}", "4096 bytes"):
        target.copy_(source, non_blocking=True)  # is not waited for
        assert target[0] == -1
        assert target.tolist() == [-1] * N
        torch.npu.synchronize()
        assert target.tolist() == [3] * N
    with reported("host memory was read at", "16 bytes"):
        read.copy_(floats, non_blocking=True)
        assert read.isnan().all()
        torch.npu.synchronize()
        assert read.tolist() == [1.0] * 4


def check_a_target_written_too_early() -> None:
    source, target = device(3), pinned()
    with reported("memory was written at", "while the copy to the host at", "checks_order.py"):
        target.copy_(source, non_blocking=True)
        target[4] = 9
    assert target[4] == 3


def check_a_target_used_by_a_thread() -> None:
    source, target = device(3), pinned()
    seen: list[int] = []
    with reported(f"memory was read at {line_of('seen.append(int(target[7]))')}"):
        target.copy_(source, non_blocking=True)

        def read() -> None:
            seen.append(int(target[7]))

        thread = threading.Thread(target=read)
        thread.start()
        thread.join()
    assert seen == [-1]


def check_what_lies_beside_a_target_may_be_used() -> None:
    source, buffer = device(3), torch.zeros(3 * N, dtype=torch.int32).pin_memory()
    with reported():
        buffer[N : N + 8].copy_(source[:8], non_blocking=True)
        assert buffer[:N].sum() == 0
        buffer[N + 8 :] = 1
        buffer[2 * N :].sum()
        torch.npu.synchronize()
        assert buffer[N : N + 9].tolist() == [3] * 8 + [1]
    with reported("memory was read at", "32 bytes"):
        buffer[N : N + 8].copy_(source[:8], non_blocking=True)
        assert buffer[N + 7] == -1


def check_another_handler_of_faults_is_kept() -> None:
    with reported("memory was read at"):
        target = pinned()
        target.copy_(device(3), non_blocking=True)
        faulthandler.enable()  # takes the signal from us
        faulthandler.disable()
        back = pinned()
        back.copy_(device(4), non_blocking=True)  # here it is taken again
        assert back[0] == -1
    child = os.fork()
    if child == 0:
        ctypes.string_at(8)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGSEGV


def check_a_stream_orders_its_own_copies() -> None:
    a, b, host = device(1), device(2), pinned()
    with reported():
        host.copy_(a, non_blocking=True)
        b.copy_(host, non_blocking=True)
        host.copy_(a + 1, non_blocking=True)
        torch.npu.synchronize()
        assert (b[0].item(), host[0].item()) == (1, 2)


def check_host_memory_let_go_is_kept() -> None:
    target = device()
    with reported():
        for value in range(20):
            target.copy_(pinned(value), non_blocking=True)
            gc.collect()
        assert target[0].item() == 19


def check_copies_that_wait_by_themselves() -> None:
    pageable, target = torch.zeros(N, dtype=torch.int32), device()
    with reported():
        target.copy_(pageable, non_blocking=True)
        pageable.fill_(1)
        wide = torch.zeros(N, dtype=torch.int64).pin_memory()
        target.copy_(wide, non_blocking=True)  # another dtype goes through memory of its own
        wide.fill_(1)
        pageable.copy_(target, non_blocking=True)
        assert pageable[0] == 0


def check_two_streams_with_nothing_between() -> None:
    side = torch.npu.Stream()
    main = torch.npu.current_stream()
    a = torch.ones(N, device="npu")
    with torch.npu.stream(side):
        torch.ones(2, device="npu")  # from now on streams are told apart
    a.add_(1)
    race = reported("aten::mul.Tensor", "reads", "aten::add_.Tensor wrote", "checks_order.py")
    with race, torch.npu.stream(side):
        a * 2
    side.wait_stream(main)
    with reported():
        with torch.npu.stream(side):
            b = a * 2
            half = b[: N // 2]
        main.wait_stream(side)
        b.add_(1)
        a * 3  # two reads are none
        side.wait_stream(main)
        with torch.npu.stream(side):
            half.add_(1)
        b[N // 2 :].add_(1)  # the other half
        b.view(2, -1).t()[:, 1]
        torch.npu.synchronize()
        b.add_(1)


def check_memory_let_go_while_another_stream_uses_it() -> None:
    side, main = torch.npu.Stream(), torch.npu.current_stream()
    for recorded in (False, True):
        torch.npu.synchronize()
        a = torch.ones(1 << 18, device="npu")
        side.wait_stream(main)
        with torch.npu.stream(side):
            a * 2
        if recorded:
            a.record_stream(side)
        where = a.data_ptr()
        del a
        with reported(*(() if recorded else ("aten::full", "read on stream", "record_stream"))):
            c = torch.full((1 << 18,), 9.0, device="npu")
            assert recorded or c.data_ptr() == where
        del c


def check_a_copy_whose_source_is_changed() -> None:
    side, main = torch.npu.Stream(), torch.npu.current_stream()
    for seen in (True, False):
        torch.npu.synchronize()
        a = torch.ones(1 << 18, device="npu")
        side.wait_stream(main)
        with torch.npu.stream(side):
            host = a.to("cpu", non_blocking=True)
        if not seen:
            del host
        del a
        # A target that nobody can look at is none: workers that hand nothing on let go of it.
        parts = ("aten::full", "a copy read on stream", " at checks_order.py", "record_stream")
        with reported(*(parts if seen else ())):
            torch.full((1 << 18,), 9.0, device="npu")
