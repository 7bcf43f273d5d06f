# SPDX-License-Identifier: Apache-2.0
"""Checks an emitted tree on the NPUs of this machine, and writes a report that can be sent.

`on_device` looks at the machine, compares each operator of the port with its reference, runs tiny
models and counts tokens a second. Nothing of the simulator is loaded but its references, as plain
functions on the CPU.
"""

from __future__ import annotations

from migrator.verify.on_device.report import DeviceReport, as_json, as_markdown
from migrator.verify.on_device.run import DEFAULT_MODES, DeviceError, choose, on_device

__all__ = [
    "DEFAULT_MODES",
    "DeviceError",
    "DeviceReport",
    "as_json",
    "as_markdown",
    "choose",
    "on_device",
]
