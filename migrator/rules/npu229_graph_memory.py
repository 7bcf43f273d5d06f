# SPDX-License-Identifier: Apache-2.0
"""NPU229: the memory of captured graphs counts when the KV cache is sized."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator

import libcst as cst

from migrator.codemod.matchers import places
from migrator.codemod.recipes.conditions import Condition, NpuToo, asked, operator_space
from migrator.codemod.rule import Absence, Rule
from migrator.files.tree import Tree

_WORKER = "vllm/v1/worker/gpu_worker.py"
_SITE = "Worker.determine_available_memory"
_PROFILE = "self.model_runner.profile_cudagraph_memory"
_CUDA = {"current_platform.is_cuda_alike", "current_platform.is_cuda"}


def _never_asks(tree: Tree) -> bool:
    """Does the worker measure memory, and capture on trial never, or wherever it is not ROCm?"""
    function = tree.definition(_WORKER, _SITE)
    if function is None or "memory_profiling" not in tree.names(_WORKER, _SITE):
        return False
    captures = [
        node
        for node in ast.walk(function)
        if isinstance(node, ast.If) and _PROFILE in map(ast.unparse, _attributes(node.body))
    ]
    return all(_whatever_the_platform(node.test) for node in captures) and (
        bool(captures) or "profile_cudagraph_memory" not in tree.names(_WORKER, _SITE)
    )


def _attributes(nodes: Iterable[ast.AST]) -> Iterator[ast.Attribute]:
    for node in nodes:
        yield from (part for part in ast.walk(node) if isinstance(part, ast.Attribute))


def _whatever_the_platform(test: ast.expr) -> bool:
    """Is it asked whether there are graphs, and of the platform nothing but whether it is ROCm?"""
    named = {ast.unparse(part) for part in _attributes([test])}
    platform = {name for name in named if "platform" in name}
    graphs = {name.rpartition(".")[2] for name in named} & {"enforce_eager", "cudagraph_mode"}
    return bool(graphs) and platform <= {"current_platform.is_rocm"}


def _conditions(function: cst.FunctionDef) -> Iterator[Condition]:
    """Under what graphs are captured on trial, where it asks for CUDA."""
    for place in places(function.body, cst.If):
        test = place.node.test
        part = _cuda_part(test)
        if _PROFILE in asked(place.node.body) and part is not None:
            yield Condition(place.node, test, part, operator_space(test))


def _cuda_part(test: cst.BaseExpression) -> cst.BaseExpression | None:
    """The part of a conjunction that asks for CUDA or a platform like it."""
    if isinstance(test, cst.BooleanOperation) and isinstance(test.operator, cst.And):
        return _cuda_part(test.left) or _cuda_part(test.right)
    return test if asked(test) & _CUDA else None


class GraphMemory(Rule):
    """Measure the memory of an NPU's graphs before the KV cache gets what is left.

    ## What it does
    In `Worker.determine_available_memory`, lets the condition under which graphs are captured on
    trial be true on an NPU.

    ## Why
    vLLM captures some graphs on trial, sees what they take and leaves as much for all of them, on
    CUDA only. On an NPU the graphs would come out of the share that `gpu_memory_utilization` does
    not ask for, and end as out of memory where that is small.

    ## Example
    ```python
    if (
        (current_platform.is_cuda() or current_platform.device_type == "npu")
        and compilation_config.cudagraph_mode != CUDAGraphMode.NONE
    ):
        cudagraph_memory_estimate = self.model_runner.profile_cudagraph_memory()
    ```
    """

    code = "NPU229"
    triggers = (r"profile_cudagraph_memory\b",)
    recipes = (
        NpuToo(
            _SITE,
            (_WORKER,),
            conditions=_conditions,
            reason="graphs are captured on trial on CUDA only",
            absent=(
                Absence(
                    "<0.21",
                    "no graphs are captured on trial, or wherever it is not ROCm",
                    _never_asks,
                ),
            ),
        ),
    )
