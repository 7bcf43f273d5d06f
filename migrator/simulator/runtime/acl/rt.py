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


def memcpy(dst: int, dest_max: int, src: int, count: int, direction: int) -> int:
    """Copy bytes between addresses and wait; the error code.

    Args:
        dst: where they go.
        dest_max: bytes that fit there.
        src: where they are.
        count: how many.
        direction: 0 within the host, 1 to a device, 2 to the host, 3 within a device.
    """
    return int(library().aclrtMemcpy(dst, dest_max, src, count, direction))
