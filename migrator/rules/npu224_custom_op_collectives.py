# SPDX-License-Identifier: Apache-2.0
"""NPU224: collectives of an NPU in compiled models."""

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
    skipped,
)
from migrator.rules._platform_branch import or_npu

_STATE = "vllm/distributed/parallel_state.py"
_SITE = "GroupCoordinator.__init__"
_NAME = "use_custom_op_call"
_ASKED = "current_platform.use_custom_op_collectives"


class CustomOpCollectives(Rule):
    """Keep an NPU's collectives whole where a model is compiled.

    ## What it does
    In `GroupCoordinator.__init__`, lets `use_custom_op_call` be true on an NPU.

    ## Why
    With it, collectives are custom operators, which `torch.compile` does not look into, as on CUDA
    and, from 0.18 on, on every platform that says so. Without it, Dynamo traces through the
    communicator and puts functional collectives of its own into the graph. They give the same
    tokens, but a captured graph then holds what Dynamo made of a collective, and whoever wraps
    `torch.distributed`'s functions to watch them, as profilers and `verify --simulate` do, sees
    none of them.

    ## Example
    ```python
    self.use_custom_op_call = (
        current_platform.is_cuda_alike() or current_platform.is_tpu()
        or current_platform.device_type == "npu"
    )
    ```

    ## Safety
    Equivalent on every other platform.
    """

    code = "NPU224"
    safety = Safety.EQUIVALENT
    paths = (_STATE,)
    triggers = (rf"{_NAME}\b",)
    sites = (Site(_SITE, (_STATE,)),)

    def check(self, file: File) -> Iterator[Finding]:
        """Report the assignment where the platform itself is not asked."""
        function = file.function(_SITE)
        if function is None:
            return
        for place in places(function.body, cst.Assign):
            node = place.node
            if dotted(node.targets[0].target) != f"self.{_NAME}":
                continue
            if any(tests_for_npu(inner) for inner in walk(node.value)):
                yield migrated(_SITE, node)
            elif any(dotted(n) == _ASKED for n in walk(node.value) if isinstance(n, cst.Attribute)):
                yield skipped(_SITE, node, "vLLM asks the platform itself")
            elif isinstance(node.value, cst.BooleanOperation) and node.value.lpar:
                names = {dotted(n) for n in walk(node.value) if isinstance(n, cst.Attribute)}
                if "current_platform.is_cuda_alike" in names:
                    yield changed(
                        _SITE,
                        node,
                        "Dynamo takes collectives apart that are no custom operators",
                        Replace(node.value, or_npu),
                    )
