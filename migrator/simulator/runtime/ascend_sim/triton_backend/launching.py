# SPDX-License-Identifier: Apache-2.0
"""Launches of interpreted kernels as an NPU would take them.

Triton's interpreter copies the storage of every argument to the host and back, whole. Here device
memory is host memory at the same address, so a kernel works on its arguments in place, and on
what a table of addresses leads to. In a capture a launch is recorded as other operators are: each
address that it writes is told to the capture before.

Refused as triton-ascend or the device refuses it: tensors of the host, pinned ones too, more
programs than a launch may have, 64-bit floats, and values that the unified buffer of a vector
core does not hold. What its compiler refuses beside these is not known here.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

MOST_PROGRAMS = 65_535
UNIFIED_BUFFER = 192 * 1024
"""Bytes of the buffer in which a vector core of Atlas A2 and A3 keeps what it works on."""

_capturing: list[tuple[Any, str]] = []
"""The stream that captures the launch under way, and the kernel's name; empty outside of one."""


class _Memory:
    """The interpreter's access to memory, which a capture hears of."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def load(self, addresses: Any, mask: Any, other: Any, dtype: Any) -> Any:
        # A mask made of a scalar and a block comes as integers.
        return self._inner.load(addresses, mask.astype(bool, copy=False), other, dtype)

    def store(self, addresses: Any, values: Any, mask: Any) -> Any:
        mask = mask.astype(bool, copy=False)
        _tell(addresses, values, mask)
        return self._inner.store(addresses, values, mask)

    def atomic_rmw(self, operation: Any, addresses: Any, values: Any, mask: Any, order: Any) -> Any:
        mask = mask.astype(bool, copy=False)
        _tell(addresses, values, mask)
        return self._inner.atomic_rmw(operation, addresses, values, mask, order)

    def atomic_cas(self, addresses: Any, compared: Any, values: Any, order: Any) -> Any:
        _tell(addresses, values, None)
        return self._inner.atomic_cas(addresses, compared, values, order)


def _tell(addresses: Any, values: Any, mask: Any) -> None:
    """Let the capture keep the bytes that are about to be written."""
    if not _capturing:
        return
    from ascend_sim.operators import _capture

    stream = _capturing[-1][0]
    written = addresses.ravel() if mask is None else addresses[mask]
    size = values.dtype.itemsize
    for first, last in _ranges(sorted(int(address) for address in written), size):
        _capture.will_write_bytes(stream, first, last - first)


def _ranges(addresses: list[int], size: int) -> Iterator[tuple[int, int]]:
    """Start and end of each stretch of memory that elements of so many bytes fill."""
    start: int | None = None
    end = 0
    for address in addresses:
        if start is not None and address <= end:
            end = max(end, address + size)
            continue
        if start is not None:
            yield start, end
        start, end = address, address + size
    if start is not None:
        yield start, end


def _check_tensors(name: str, arguments: list[Any]) -> Any:
    """The device of a launch; refuses what is elsewhere and what the device has no type for."""
    import torch

    device = None
    for place, argument in enumerate(arguments):
        tensor = getattr(argument, "base", argument)
        if not isinstance(tensor, torch.Tensor):
            continue
        if tensor.device.type != "npu":
            raise ValueError(
                f"Pointer argument (at {place}) cannot be accessed from Triton (cpu tensor?)"
            )
        if tensor.dtype == torch.float64:
            raise TypeError(f"{name}: argument {place} is float64, an NPU has none")
        if device is not None and tensor.device != device:
            raise ValueError(f"{name}: arguments on {device} and {tensor.device}")
        device = tensor.device
    if device is None:
        device = torch.device("npu", torch.npu.current_device())
    return device


def _check_value(handle: Any, language: ModuleType) -> None:
    """Refuse a value that no vector core holds."""
    scalar = handle.get_element_ty()
    if scalar == language.float64:
        raise TypeError("64-bit floats, of which an NPU has none (simulated Ascend)")
    size = handle.data.size * max(int(getattr(scalar, "primitive_bitwidth", 64)) // 8, 1)
    if size > UNIFIED_BUFFER:
        raise MemoryError(
            f"a value of {size} bytes, and the unified buffer holds {UNIFIED_BUFFER} "
            "(simulated Ascend)"
        )


def take_over(interpreter: ModuleType) -> None:
    """Let `triton.runtime.interpreter`, just imported, launch on the simulated device."""
    interpreter._interpreter = _Memory(interpreter._interpreter)  # type: ignore[attr-defined]
    handle: Any = interpreter.TensorHandle
    prepare = handle.__post_init__

    def check(self: Any) -> None:
        prepare(self)
        _check_value(self, interpreter.tl)

    handle.__post_init__ = check
    interpreter._patch_lang = _once(interpreter._patch_lang)  # type: ignore[attr-defined]
    executor: Any = interpreter.GridExecutor
    run: Callable[..., None] = executor.__call__
    executor._init_args_hst = _as_they_are
    executor._restore_args_dev = _nothing_to_restore

    def launch(self: Any, *args: Any, **kwargs: Any) -> None:
        from ascend_sim.operators import _capture

        name = getattr(self.fn, "__name__", "a kernel")
        taken = inspect.signature(self.fn).parameters
        kwargs = {key: value for key, value in kwargs.items() if key in taken}
        device = _check_tensors(name, [*args, *kwargs.values()])
        grid = self.grid
        if callable(grid):
            # Called once: a replay has the grid of its capture.
            bound = inspect.signature(self.fn).bind(*args, **kwargs)
            bound.apply_defaults()
            grid = grid(dict(bound.arguments))
        self.grid = grid = tuple(int(size) for size in grid)
        programs = 1
        for size in grid:
            programs *= size
        if programs > MOST_PROGRAMS:
            raise RuntimeError(
                f"{name}: a grid of {programs} programs, at most {MOST_PROGRAMS} can be launched "
                "(simulated Ascend)"
            )
        stream = _capture.stream_of(device, name)
        if stream is None:
            with _capture.nothing_queued():
                run(self, *args, **kwargs)
            return
        _capturing.append((stream, name))
        try:
            run(self, *args, **kwargs)
        finally:
            _capturing.pop()
        # Addresses, as the device would keep: the arguments' memory is their owner's affair.
        _capture.record(stream, lambda: run(self, *args, **kwargs), ())

    executor.__call__ = launch


class _Kept:
    """What stays as it is after a launch."""

    def restore(self) -> None:
        """Nothing."""


def _once(patch: Callable[[Any], Any]) -> Callable[[Any], _Kept]:
    """Let the language of a module mean the interpreter's from the first launch on.

    The stock interpreter puts all of its names in place and back with every launch and every call
    of a device function, a third of what a small kernel takes. All kernels are interpreted here.
    """
    seen: dict[int, Any] = {}

    def patch_once(function: Any) -> _Kept:
        names = function.__globals__
        if id(names) not in seen:
            patch(function)
            # Kept alive, so that no other module's names come to lie there.
            seen[id(names)] = names
        return _Kept()

    return patch_once


def _as_they_are(_: Any, args: Any, kwargs: dict[str, Any]) -> tuple[list[Any], dict[str, Any]]:
    return list(args), dict(kwargs)


def _nothing_to_restore(*_: Any) -> None:
    return
