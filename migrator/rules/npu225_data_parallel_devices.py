# SPDX-License-Identifier: Apache-2.0
"""NPU225: the devices of data-parallel engines."""

from __future__ import annotations

import ast
from collections.abc import Iterator

import libcst as cst

from migrator.codemod.matchers import places
from migrator.codemod.recipes.conditions import Condition, NpuToo, asked, operator_space
from migrator.codemod.rule import Absence, Rule
from migrator.files.tree import Tree

_UTILS = "vllm/v1/engine/utils.py"
_CORE = "vllm/v1/engine/core.py"
_SITE = "CoreEngineProcManager.__init__"
_ASKED = "current_platform.is_cuda_alike"


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


def _conditions(function: cst.FunctionDef) -> Iterator[Condition]:
    """What has to be false where devices are narrowed."""
    for place in places(function.body, cst.UnaryOperation):
        node, test = place.node, place.node.expression
        if isinstance(node.operator, cst.Not) and _ASKED in asked(test):
            yield Condition(node, test, test, operator_space(place.parent))


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
    """

    code = "NPU225"
    triggers = (rf"\bnot\s*\(?\s*{_ASKED}\b",)
    recipes = (
        NpuToo(
            _SITE,
            (_UTILS,),
            conditions=_conditions,
            reason="the shared worker counts its device from the engine's place itself",
            absent=(
                Absence(
                    "<0.11.1",
                    "devices are narrowed on every platform, and counted from 0",
                    _narrows_everywhere,
                ),
            ),
        ),
    )
