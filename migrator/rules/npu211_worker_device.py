# SPDX-License-Identifier: Apache-2.0
"""NPU211: the GPU worker opens an NPU."""

from __future__ import annotations

from typing import TypeGuard

import libcst as cst

from migrator.codemod.matchers import Place, dotted, holds_string
from migrator.codemod.recipes.platforms import names_cuda_device, platform_device
from migrator.codemod.recipes.rewrites import Rewrite
from migrator.codemod.rule import Rule


def _is_for_cuda(place: Place[cst.CSTNode]) -> bool:
    """Is it `device_type == "cuda"`, of whatever?"""
    node = place.node
    return (
        _asks_for_device_type(node)
        and len(node.comparisons) == 1
        and isinstance(node.comparisons[0].operator, cst.Equal)
        and holds_string(node.comparisons[0], "cuda")
    )


def _is_for_both(place: Place[cst.CSTNode]) -> bool:
    return _asks_for_device_type(place.node) and holds_string(place.node, "npu")


def _asks_for_device_type(node: cst.CSTNode) -> TypeGuard[cst.Comparison]:
    name = dotted(node.left) if isinstance(node, cst.Comparison) else None
    return name is not None and name.endswith((".device_type", "device.type"))


def _or_npu(node: cst.CSTNode) -> cst.CSTNode:
    both = cst.parse_expression('("cuda", "npu")')
    return node.with_changes(comparisons=[cst.ComparisonTarget(cst.In(), both)])


class WorkerDevice(Rule):
    """Let the GPU worker's `init_device` open an NPU.

    ## What it does
    In `Worker.init_device`, lets the test for the device type `"cuda"` take `"npu"` too, and builds
    the device from the platform's device type instead of the literal `cuda:`.

    ## Why
    All that follows the test (data-parallel ranks, process groups, seeds, the memory snapshot) is
    the same on an NPU. A worker with an `init_device` of its own would have to repeat it in every
    release's way.

    ## Example
    ```python
    if self.device_config.device_type in ("cuda", "npu"):
        self.device = torch.device(f"{current_platform.device_type}:{self.local_rank}")
    ```

    ## Safety
    Equivalent on CUDA and ROCm, whose platforms both have the device type `cuda`.
    """

    code = "NPU211"
    recipes = (
        Rewrite(
            "Worker.init_device",
            ("vllm/v1/worker/gpu_worker.py",),
            kinds=cst.Comparison,
            old=_is_for_cuda,
            new=_or_npu,
            done=_is_for_both,
            reason="the worker turns every device type but cuda away",
        ),
        Rewrite(
            "Worker.init_device",
            ("vllm/v1/worker/gpu_worker.py",),
            kinds=cst.FormattedString,
            old=lambda place: names_cuda_device(place.node),
            new=platform_device,
            reason="the device is CUDA's by name; the platform knows its own",
        ),
    )
