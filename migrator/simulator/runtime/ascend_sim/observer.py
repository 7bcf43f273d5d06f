# SPDX-License-Identifier: Apache-2.0
"""What a program asks of its devices: launches, copies, waits and replays, each with its place."""

from __future__ import annotations

import contextlib
import ctypes
import os
from collections.abc import Iterator
from typing import NamedTuple

from ascend_sim._site import site

_TOLD = ctypes.CFUNCTYPE(None, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_uint64)


class Event(NamedTuple):
    """Something that a program asked of a device."""

    kind: str
    """"launch": an operator that computes; "to device", "to host": a copy; "wait": the host waits
    for the device; "replay": of a graph."""
    what: str
    dtypes: str
    """Of a launch's tensors, read and written, as torch names them: "int64,int64->bool". Nothing
    after the arrow of an operator that is made of others here; empty of torch_npu's own."""
    amount: int
    """Bytes of a copy, launches of a replay."""
    place: str
    """`package/module.py:line` that asked; empty where that was not Python."""


class Observed:
    """What was asked of all devices of this process, by all its threads, in order."""

    def __init__(self) -> None:
        self.events: list[Event] = []


_runtime: ctypes.CDLL | None = None


@contextlib.contextmanager
def observed() -> Iterator[Observed]:
    """Note what the program asks for inside; one at a time."""
    global _runtime  # noqa: PLW0603 - read on each call of an operator
    if _runtime is not None:
        raise RuntimeError("the simulated devices are observed already")
    found = Observed()

    def tell(kind: bytes, what: bytes, dtypes: bytes, amount: int) -> None:
        found.events.append(Event(kind.decode(), what.decode(), dtypes.decode(), amount, site()))

    told = _TOLD(tell)
    runtime = ctypes.CDLL(os.path.join(os.environ["ASCEND_SIM"], "lib", "libascendcl.so"))
    runtime.ascend_sim_set_observer(told)
    _runtime = runtime
    try:
        yield found
    finally:
        _runtime = None
        runtime.ascend_sim_set_observer(None)


class launch:  # noqa: N801 - it is used as a function
    """One launch on a device, whatever it is made of here; a context."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._runtime = _runtime

    def __enter__(self) -> None:
        if self._runtime is not None:
            self._runtime.ascend_sim_observe_begin()

    def __exit__(self, *_: object) -> None:
        if self._runtime is not None:
            self._runtime.ascend_sim_observe_end(self._name.encode(), b"", 1)
