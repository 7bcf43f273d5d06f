# SPDX-License-Identifier: Apache-2.0
"""Where the program is that called, for refusals and reports."""

from __future__ import annotations

import atexit
import ctypes
import functools
import os
import sys
from pathlib import Path

_OURS = str(Path(__file__).parent) + os.sep
_LIBRARIES = tuple(f"{os.sep}{name}{os.sep}" for name in ("torch", "torch_npu"))


def site() -> str:
    """Where the program called, `package/module.py:line`; empty where it did not by Python.

    It is the innermost frame that is of neither torch, torch_npu nor the simulator.
    """
    frame = sys._getframe()
    while frame.f_back is not None:
        frame = frame.f_back
        path = frame.f_code.co_filename
        if path.startswith(("<", _OURS)) and path != "<string>":
            continue
        if not any(part in path for part in _LIBRARIES):
            return f"{_short(path)}:{frame.f_lineno}"
    return ""


@functools.cache
def _short(path: str) -> str:
    """A path without the folder of sys.path that it lies in."""
    folders = [f.rstrip(os.sep) + os.sep for f in sys.path if f]
    inside = [len(folder) for folder in folders if path.startswith(folder)]
    return path[max(inside, default=0) :]


def _write_site(text: int, room: int) -> None:
    found = site().encode()[: room - 1]
    ctypes.memmove(text, found + b"\0", len(found) + 1)


_CALLED_BY_THE_RUNTIME = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_size_t)(_write_site)


def tell_the_runtime() -> None:
    """Let the simulated runtime ask where the program is, until Python ends."""
    library = ctypes.CDLL(os.path.join(os.environ["ASCEND_SIM"], "lib", "libascendcl.so"))
    library.ascend_sim_set_site(_CALLED_BY_THE_RUNTIME)
    atexit.register(library.ascend_sim_set_site, None)
