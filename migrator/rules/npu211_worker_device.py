# SPDX-License-Identifier: Apache-2.0
"""NPU211: the GPU worker opens an NPU."""

from __future__ import annotations

from collections.abc import Iterator

import libcst as cst

from migrator.codemod.matchers import dotted, places, walk
from migrator.codemod.recipes import tests_for_npu
from migrator.codemod.rule import (
    File,
    Finding,
    Replace,
    Rule,
    Safety,
    Site,
    changed,
    migrated,
)

_WORKER = "vllm/v1/worker/gpu_worker.py"
_SITE = "Worker.init_device"


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
    safety = Safety.EQUIVALENT
    paths = (_WORKER,)
    triggers = (r"def init_device\b",)
    sites = (Site(_SITE, (_WORKER,)),)

    def check(self, file: File) -> Iterator[Finding]:
        """Report the test for the device type and the device that is built from a literal."""
        function = file.function(_SITE)
        if function is None:
            return
        for place in places(function.body, (cst.Comparison, cst.FormattedString)):
            node = place.node
            if isinstance(node, cst.Comparison) and _asks_for_device_type(node.left):
                if tests_for_npu_too(node):
                    yield migrated(_SITE, node)
                elif _is_cuda(node):
                    yield changed(
                        _SITE,
                        node,
                        "the worker turns every device type but cuda away",
                        Replace(node, _or_npu),
                    )
            elif isinstance(node, cst.FormattedString):
                yield from _device(node)


def tests_for_npu_too(node: cst.Comparison) -> bool:
    """Is this `… in ("cuda", "npu")` or another comparison with `npu`?"""
    return tests_for_npu(node) or any(
        isinstance(inner, cst.SimpleString) and inner.evaluated_value == "npu"
        for inner in walk(node)
    )


def _asks_for_device_type(node: cst.CSTNode) -> bool:
    name = dotted(node) or ""
    return name.endswith((".device_type", "device.type"))


def _is_cuda(node: cst.Comparison) -> bool:
    target = node.comparisons[0]
    return (
        len(node.comparisons) == 1
        and isinstance(target.operator, cst.Equal)
        and isinstance(target.comparator, cst.SimpleString)
        and target.comparator.evaluated_value == "cuda"
    )


def _or_npu(node: cst.CSTNode) -> cst.CSTNode:
    assert isinstance(node, cst.Comparison)
    both = cst.parse_expression('("cuda", "npu")')
    return node.with_changes(comparisons=[cst.ComparisonTarget(cst.In(), both)])


def _device(node: cst.FormattedString) -> Iterator[Finding]:
    first, *rest = node.parts
    if isinstance(first, cst.FormattedStringText) and first.value == "cuda:" and rest:

        def neutral(old: cst.CSTNode) -> cst.CSTNode:
            assert isinstance(old, cst.FormattedString)
            kind = cst.FormattedStringExpression(
                cst.parse_expression("current_platform.device_type")
            )
            return old.with_changes(
                parts=[kind, cst.FormattedStringText(":"), *old.parts[1:]],
            )

        yield changed(
            _SITE,
            node,
            "the device is CUDA's by name; the platform knows its own",
            Replace(node, neutral),
        )
