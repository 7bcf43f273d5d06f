# SPDX-License-Identifier: Apache-2.0
"""Says what the machine is: `python machine.py JOB.json`.

What cannot be asked is an "error", one line that says what to do.
"""

from __future__ import annotations

import ctypes
import json
import os
import sys
from pathlib import Path
from typing import Any


def machine() -> dict[str, Any]:
    """What the report says of the machine, or an "error"."""
    try:
        import torch
        import torch_npu
    except (ImportError, OSError, RuntimeError) as error:
        line = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        return {
            "error": f"torch_npu cannot be imported: {line}; source CANN's set_env.sh in this shell"
        }
    try:
        devices = torch.npu.device_count()
    except RuntimeError as error:
        return {"error": f"the NPUs cannot be counted: {str(error).strip().splitlines()[0]}"}
    if devices == 0:
        return {
            "error": "no NPU is visible; see `npu-smi info`, the driver and "
            "ASCEND_RT_VISIBLE_DEVICES"
        }
    try:
        chip = torch.npu.get_device_name(0)
    except RuntimeError as error:
        return {"error": f"NPU 0 cannot be opened: {str(error).strip().splitlines()[0]}"}
    try:
        ctypes.CDLL("libatb.so")
        nnal = True
    except OSError:
        nnal = False
    return {
        "torch": torch.__version__,
        "torch_npu": torch_npu.__version__,
        "cann": torch_npu.npu.utils.get_cann_version() or "",
        "chip": chip,
        "devices": devices,
        "nnal": nnal,
        "simulated": "ASCEND_SIM" in os.environ,
    }


if __name__ == "__main__":
    job = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    Path(job["out"]).write_text(json.dumps(machine()), encoding="utf-8")
