# SPDX-License-Identifier: Apache-2.0
"""NPU224: collectives of an NPU in compiled models."""

from __future__ import annotations

from collections.abc import Iterator

import libcst as cst

from migrator.codemod.matchers import dotted, places
from migrator.codemod.recipes.conditions import Condition, NpuToo, asked
from migrator.codemod.rule import Finding, Rule, skipped

_SITE = "GroupCoordinator.__init__"
_NAME = "use_custom_op_call"


def _conditions(function: cst.FunctionDef) -> Iterator[Condition | Finding]:
    """What the attribute is set to, where the platform itself is not asked."""
    for place in places(function.body, cst.Assign):
        node, value = place.node, place.node.value
        if dotted(node.targets[0].target) != f"self.{_NAME}":
            continue
        names = asked(value)
        if "current_platform.use_custom_op_collectives" in names:
            yield skipped(_SITE, node, "vLLM asks the platform itself")
        elif "current_platform.is_cuda_alike" in names and value.lpar:
            yield Condition(node, value, value)


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
    """

    code = "NPU224"
    triggers = (rf"{_NAME}\b",)
    recipes = (
        NpuToo(
            _SITE,
            ("vllm/distributed/parallel_state.py",),
            conditions=_conditions,
            reason="Dynamo takes collectives apart that are no custom operators",
        ),
    )
