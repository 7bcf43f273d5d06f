# SPDX-License-Identifier: Apache-2.0
"""The simulated libascendcl.so, as ctypes calls it."""

from __future__ import annotations

import ctypes
import functools
import os


@functools.cache
def library() -> ctypes.CDLL:
    """The library, with the types of what is called here.

    Raises:
        ImportError: the program does not run on the simulator.
    """
    try:
        build = os.environ["ASCEND_SIM"]
    except KeyError:
        raise ImportError("acl: not on the simulator, ASCEND_SIM is not set") from None
    loaded = ctypes.CDLL(os.path.join(build, "lib", "libascendcl.so"))
    loaded.aclrtGetSocName.restype = ctypes.c_char_p
    loaded.aclrtGetDeviceCount.argtypes = [ctypes.POINTER(ctypes.c_uint32)]
    place, size = ctypes.c_void_p, ctypes.c_size_t
    loaded.aclrtMemcpy.argtypes = [place, size, place, size, ctypes.c_int]
    return loaded
