# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright contributors to the vLLM project
"""The torch module that owns streams, events and memory of this process.

A leaf module: it imports nothing of vLLM at import time, so that `vllm.utils`
and `vllm.platforms` can both use it.
"""

from types import ModuleType

import torch


def device_module() -> ModuleType:
    """`torch.npu` on an Ascend NPU, `torch.cuda` everywhere else.

    Names are looked up at every call. The CPU and XPU workers put their own
    `Stream`, `Event` and friends into `torch.cuda`, and `vllm.utils` replaces
    `torch.cuda.set_stream`: both are still seen by callers of this function.
    """
    from vllm.platforms import current_platform

    if current_platform.device_type == "npu":
        return torch.npu
    return torch.cuda


def device_graph():
    """An empty graph to capture this device's work into."""
    if device_module() is torch.cuda:
        return torch.cuda.CUDAGraph()
    from vllm.compilation.npu_graph import NPUGraph

    return NPUGraph()
