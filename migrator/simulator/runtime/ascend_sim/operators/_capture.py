# SPDX-License-Identifier: Apache-2.0
"""Graph capture of the reference operators, through the C interface of the simulated runtime.

While a stream captures, an operator runs, so that the ones after it find sane values, and is
recorded; the runtime puts the bytes that it wrote back when the capture ends. What is recorded
holds addresses of device memory and the values of host operands, as on the device: a host
tensor or list that changes afterwards has no effect on a replay.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import traceback
from collections.abc import Callable, Iterable, Iterator

import torch

_MODEL_EXECUTE = 507011  # ACL_ERROR_RT_MODEL_EXECUTE
_CALL = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p)
_DROP = ctypes.CFUNCTYPE(None, ctypes.c_void_p)
_recorded: dict[int, Callable[[], None]] = {}
_next = 0


@functools.cache
def _runtime() -> ctypes.CDLL:
    """libascendcl.so, which torch_npu has loaded already."""
    runtime = ctypes.CDLL("libascendcl.so")
    runtime.ascend_sim_streams_busy.restype = ctypes.c_int
    runtime.ascend_sim_stream_capturing.argtypes = [ctypes.c_void_p]
    runtime.ascend_sim_stream_host_access.argtypes = [ctypes.c_void_p, ctypes.c_char_p]
    runtime.ascend_sim_stream_submit.argtypes = [ctypes.c_void_p, _CALL, ctypes.c_void_p, _DROP]
    for name in ("ascend_sim_capture_will_write", "ascend_sim_capture_will_create"):
        call = getattr(runtime, name)
        call.restype = None
        call.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t]
    runtime.ascend_sim_work_begin.argtypes = [ctypes.c_void_p]
    end = runtime.ascend_sim_work_end
    end.restype, end.argtypes = None, [ctypes.c_void_p, _CALL, ctypes.c_void_p, _DROP, ctypes.c_int]
    runtime.ascend_sim_error.argtypes = [ctypes.c_int, ctypes.c_char_p, ctypes.c_char_p]
    return runtime


def _replay(argument: int | None) -> int:
    try:
        # Late work may have made its results in this mode, and the host waits outside of it.
        with torch.inference_mode():
            _recorded[argument or 0]()
    except Exception:  # the caller is C: the error goes out as an ACL code
        _runtime().ascend_sim_error(_MODEL_EXECUTE, b"%s", traceback.format_exc().encode())
        return _MODEL_EXECUTE
    return 0


def _forget(argument: int | None) -> None:
    _recorded.pop(argument or 0, None)


# ctypes frees a callback with the object: these must live as long as the process.
_REPLAY, _FORGET = _CALL(_replay), _DROP(_forget)


def stream_of(device: torch.device, operator: str) -> int | None:
    """The handle of the device's current stream if it captures, else None.

    RuntimeError if that stream waits for something that nobody has recorded: the device would
    hang.
    """
    runtime = _runtime()
    if not runtime.ascend_sim_streams_busy():
        return None
    stream = int(torch.npu.current_stream(device).npu_stream)
    if runtime.ascend_sim_stream_capturing(stream):
        return stream
    code = runtime.ascend_sim_stream_host_access(stream, operator.encode())
    if code:
        raise RuntimeError(f"{operator}: the stream cannot run it, error {code} (simulated Ascend)")
    return None


@contextlib.contextmanager
def nothing_queued() -> Iterator[None]:
    """The body does to device memory what cannot be done again."""
    runtime = _runtime()
    runtime.ascend_sim_direct_begin()
    try:
        yield
    finally:
        runtime.ascend_sim_direct_end()


def begin_late(device: torch.device) -> int | None:
    """The handle of the device's current stream where the operator is to run late, else None.

    Then it is guessed until :func:`end_late`.
    """
    runtime = _runtime()
    if not runtime.ascend_sim_deferring():
        return None
    stream = int(torch.npu.current_stream(device).npu_stream)
    return stream if runtime.ascend_sim_work_begin(stream) else None


def end_late(stream: int, again: Callable[[], None] | None) -> None:
    """Queue ``again``, which is what the operator did; nothing where it failed."""
    if again is None:
        _runtime().ascend_sim_work_end(stream, _CALL(), None, _DROP(), 0)
    else:
        _runtime().ascend_sim_work_end(stream, _REPLAY, _kept(again), _FORGET, 0)


def _kept(again: Callable[[], None]) -> int:
    global _next  # noqa: PLW0603 - keys must never be used twice while a graph lives
    _next += 1
    _recorded[_next] = again
    return _next


def _extent(tensor: torch.Tensor) -> int:
    if not tensor.numel():
        return 0
    last = sum((n - 1) * step for n, step in zip(tensor.shape, tensor.stride(), strict=True))
    return int((last + 1) * tensor.element_size())


def will_write(stream: int, tensors: Iterable[torch.Tensor]) -> None:
    """Tell the capture which device memory the operator is about to change."""
    for tensor in tensors:
        _runtime().ascend_sim_capture_will_write(stream, tensor.data_ptr(), _extent(tensor))


def will_write_bytes(stream: int, address: int, size: int) -> None:
    """The same of memory that no tensor of the caller describes."""
    _runtime().ascend_sim_capture_will_write(stream, address, size)


def record(stream: int, again: Callable[[], None], created: Iterable[torch.Tensor]) -> None:
    """Record ``again`` for every replay; ``created`` are device tensors that the call made."""
    runtime = _runtime()
    for tensor in created:
        storage = tensor.untyped_storage()
        runtime.ascend_sim_capture_will_create(stream, storage.data_ptr(), storage.nbytes())
    code = runtime.ascend_sim_stream_submit(stream, _REPLAY, _kept(again), _FORGET)
    if code:
        raise RuntimeError(f"the capture took no operator, error {code} (simulated Ascend)")
