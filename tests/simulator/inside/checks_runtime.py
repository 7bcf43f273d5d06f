# SPDX-License-Identifier: Apache-2.0
"""The ACL runtime itself, called through ctypes as a library would call it; two devices."""

from __future__ import annotations

import ctypes
import json
import os
from ctypes import byref, c_char_p, c_float, c_int32, c_int64, c_size_t, c_void_p
from pathlib import Path

import torch

ACL = ctypes.CDLL("libascendcl.so")
ACL.aclGetRecentErrMsg.restype = c_char_p
H2H, H2D, D2H, D2D, DEFAULT = range(5)
PARAM_INVALID, INVALID_DEVICE, MEMORY_TYPE = 107000, 107001, 107016

torch.npu.set_device(0)


def message() -> str:
    return str(ACL.aclGetRecentErrMsg().decode())


def device_memory(size: int) -> c_void_p:
    p = c_void_p()
    assert ACL.aclrtMalloc(byref(p), c_size_t(size), 0) == 0
    return p


def copy(to: object, room: int, source: object, size: int, kind: int) -> int:
    return int(ACL.aclrtMemcpy(to, c_size_t(room), source, c_size_t(size), kind))


def check_copies_are_held_to_their_kind() -> None:
    device, other = device_memory(64), device_memory(64)
    host = ctypes.create_string_buffer(b"x" * 64, 64)
    back = ctypes.create_string_buffer(64)
    assert copy(device, 64, host, 64, H2D) == 0
    assert copy(other, 64, device, 64, D2D) == 0
    assert copy(back, 64, other, 64, D2H) == 0
    assert back.raw == host.raw
    assert copy(device, 64, host, 64, D2H) == MEMORY_TYPE
    assert "kind DEVICE_TO_HOST from host memory to device memory" in message()
    assert copy(back, 64, host, 64, H2D) == MEMORY_TYPE
    assert copy(device, 64, host, 64, H2H) == MEMORY_TYPE
    assert copy(device, 64, host, 64, DEFAULT) == 0
    assert copy(device, 64, host, 64, 99) == PARAM_INVALID


def check_copies_stay_in_their_allocation() -> None:
    device = device_memory(4096)
    host = ctypes.create_string_buffer(8192)
    assert copy(device, 32, host, 64, H2D) == PARAM_INVALID
    assert copy(device, 8192, host, 8192, H2D) == PARAM_INVALID
    assert "leaves its device allocation" in message()
    assert ACL.aclrtMemset(device, c_size_t(8192), 0, c_size_t(8192)) == PARAM_INVALID
    assert ACL.aclrtFree(device) == 0
    assert ACL.aclrtFree(device) == PARAM_INVALID
    assert "not the start of an allocation" in message()
    assert copy(device, 64, host, 64, H2D) == PARAM_INVALID
    assert ACL.aclrtFree(host) == PARAM_INVALID


def check_pointers_are_told_apart() -> None:
    attributes = (ctypes.c_uint32 * 7)()
    pinned = c_void_p()
    assert ACL.aclrtMallocHost(byref(pinned), c_size_t(100)) == 0
    plain = ctypes.create_string_buffer(100)
    inside = c_void_p((pinned.value or 0) + 99)
    for pointer, kind in ((device_memory(64), 1), (pinned, 0), (inside, 0), (plain, 2)):
        assert ACL.aclrtPointerGetAttributes(pointer, byref(attributes)) == 0
        assert attributes[1] == kind
    assert ACL.aclrtFreeHost(pinned) == 0
    assert ACL.aclrtFreeHost(pinned) == PARAM_INVALID
    assert ACL.aclrtHostRegisterV2(plain, ctypes.c_uint64(100), 0) == 0
    assert ACL.aclrtPointerGetAttributes(plain, byref(attributes)) == 0
    assert attributes[1] == 0
    assert ACL.aclrtHostUnregister(plain) == 0


def check_devices_that_do_not_exist_are_refused() -> None:
    assert ACL.aclrtSetDevice(2) == INVALID_DEVICE
    assert "device 2 does not exist: there are 2" in message()
    assert ACL.aclrtSetDevice(-1) == INVALID_DEVICE
    can = c_int32(-1)
    assert ACL.aclrtDeviceCanAccessPeer(byref(can), 0, 1) == 0
    assert can.value == 1
    value = c_int64()
    assert ACL.aclrtGetDeviceInfo(0, 101, byref(value)) == 0
    assert value.value == 24
    assert ACL.aclrtGetDeviceInfo(0, 123456, byref(value)) == 207000


def check_handles_are_checked() -> None:
    assert ACL.aclrtSynchronizeStream(c_void_p(12345)) == 107017
    assert ACL.aclrtRecordEvent(c_void_p(12345), None) == 107017
    assert ACL.aclmdlRIExecuteAsync(c_void_p(12345), None) == 107017
    event = c_void_p()
    assert ACL.aclrtCreateEventExWithFlag(byref(event), 8) == 0
    elapsed = c_float()
    assert ACL.aclrtEventElapsedTime(byref(elapsed), event, event) == 107006
    assert ACL.aclrtRecordEvent(event, None) == 0
    assert ACL.aclrtEventElapsedTime(byref(elapsed), event, event) == 0
    assert elapsed.value == 0
    assert ACL.aclrtDestroyEvent(event) == 0
    assert ACL.aclrtDestroyEvent(event) == 107017


def check_what_is_not_implemented_says_so() -> None:
    facts = json.loads(Path(os.environ["ASCEND_SIM"], "build.json").read_text())
    failing = [name for name in facts["failing"] if name.startswith(("acl", "rt", "_ZN3atb"))]
    assert failing
    for name in failing:
        assert ACL[name]() == 207000
        assert message() == f"ascend simulator: {name} is not implemented"
    assert ACL.aclopCompileAndExecute(b"Mystery") == 207000
    assert "'Mystery'" in message()
    # What torch_npu looks up by name is absent, so that torch_npu can say so.
    for name in facts["absent_by_name"]:
        assert not hasattr(ACL, name)
