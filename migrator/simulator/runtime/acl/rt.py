# SPDX-License-Identifier: Apache-2.0
"""Functions of the runtime, which give what they return and an error code, 0 for success."""

from __future__ import annotations

import ctypes

from acl._library import library


def get_device_count() -> tuple[int, int]:
    """Number of devices, and the error code; no device is opened."""
    count = ctypes.c_uint32()
    code = int(library().aclrtGetDeviceCount(ctypes.byref(count)))
    return count.value, code
