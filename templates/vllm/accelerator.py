# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright contributors to the vLLM project
"""The torch module that owns streams, events and memory of this process.

A leaf module: it imports nothing of vLLM at import time, so that `vllm.utils`
and `vllm.platforms` can both use it.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from types import ModuleType
from typing import Any

import torch


def device_module() -> ModuleType:
    """`torch.npu` on an Ascend NPU, `torch.cuda` everywhere else.

    Names are looked up at every call. The CPU and XPU workers put their own
    `Stream`, `Event` and friends into `torch.cuda`, and `vllm.utils` replaces
    `torch.cuda.set_stream`: both are still seen by callers of this function.
    """
    # A leaf module imports it late.
    from vllm.platforms import current_platform

    if current_platform.device_type == "npu":
        return torch.npu
    return torch.cuda


def device_graph():
    """An empty graph to capture this device's work into."""
    if device_module() is torch.cuda:
        return torch.cuda.CUDAGraph()
    # It imports torch_npu.
    from vllm.compilation.npu_graph import NPUGraph

    return NPUGraph()


def replay_context(
    attn_metadata: dict[str, Any] | None, vllm_config: Any
) -> AbstractContextManager[None]:
    """Where a captured step of this device is replayed.

    Attention of an NPU has its context lengths from the host: a graph takes the
    new ones from the forward context. Graphs of other devices need none.

    Args:
        attn_metadata: of the batch, layer name to what its backend has built.
        vllm_config: the engine's `VllmConfig`.

    """
    if device_module() is torch.cuda:
        return nullcontext()
    # It imports vllm.config, which imports this module.
    import vllm.forward_context

    return vllm.forward_context.set_forward_context(attn_metadata, vllm_config)
