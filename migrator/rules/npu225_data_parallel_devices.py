# SPDX-License-Identifier: Apache-2.0
"""NPU225: the devices of data-parallel engines."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import partial

import libcst as cst

from migrator.codemod.matchers import dotted, places, walk
from migrator.codemod.recipes import tests_for_npu
from migrator.codemod.rule import (
    Absence,
    File,
    Finding,
    Replace,
    Rule,
    Safety,
    Site,
    changed,
    migrated,
)
from migrator.files.tree import Tree
from migrator.rules._platform_branch import operator_space, or_npu

_UTILS = "vllm/v1/engine/utils.py"
_SITE = "CoreEngineProcManager.__init__"
_ASKED = "current_platform.is_cuda_alike"


_CORE = "vllm/v1/engine/core.py"


def _narrows_everywhere(tree: Tree) -> bool:
    """Does an engine narrow its devices itself, or for no other reason than that there are more?"""
    if "device_control_env_var" in tree.names(_CORE, "DPEngineCoreProc"):
        return True
    function = tree.definition(_UTILS, _SITE)
    return function is not None and any(
        isinstance(node, ast.IfExp)
        and isinstance(node.test, ast.Name)
        and isinstance(node.body, ast.Call)
        and isinstance(node.body.func, ast.Name)
        and node.body.func.id == "set_device_control_env_var"
        for node in ast.walk(function)
    )


class DataParallelDevices(Rule):
    """Let the workers of a data-parallel engine choose their NPUs, as on CUDA.

    ## What it does
    In `CoreEngineProcManager.__init__`, lets an NPU be treated as CUDA where the devices of each
    engine are narrowed before its process starts.

    ## Why
    From 0.11.1 on the worker that NPUs share with CUDA counts its device from the engine's place
    among the data-parallel ones. Where the engine sees its own devices only as well, that is
    counted twice: the second engine asks for a device that it does not see and does not start.

    ## Example
    ```python
    needs_device_env_isolation = not (
        current_platform.is_cuda_alike() or current_platform.is_xpu()
        or current_platform.device_type == "npu"
    )
    ```

    ## Safety
    Equivalent on every other platform.
    """

    code = "NPU225"
    safety = Safety.EQUIVALENT
    paths = (_UTILS,)
    triggers = (rf"\bnot\s*\(?\s*{_ASKED}\b",)
    sites = (
        Site(
            _SITE,
            (_UTILS,),
            (
                Absence(
                    "<0.11.1",
                    "devices are narrowed on every platform, and counted from 0",
                    _narrows_everywhere,
                ),
            ),
        ),
    )

    def check(self, file: File) -> Iterator[Finding]:
        """Report the condition on which devices are narrowed."""
        function = file.function(_SITE)
        if function is None:
            return
        for place in places(function.body, cst.UnaryOperation):
            node = place.node
            asked = {dotted(n) for n in walk(node.expression) if isinstance(n, cst.Attribute)}
            if not isinstance(node.operator, cst.Not) or _ASKED not in asked:
                continue
            if tests_for_npu(node.expression):
                yield migrated(_SITE, node)
                continue
            yield changed(
                _SITE,
                node,
                "the shared worker counts its device from the engine's place itself",
                Replace(node.expression, partial(or_npu, space=operator_space(place.parent))),
            )
