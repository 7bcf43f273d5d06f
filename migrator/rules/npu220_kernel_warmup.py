# SPDX-License-Identifier: Apache-2.0
"""NPU220: no warm-up of CUDA kernels."""

from __future__ import annotations

import ast
from collections.abc import Iterator

import libcst as cst

from migrator.codemod.rule import Absence, File, Finding, Rule, Safety, Site, skipped
from migrator.files.tree import Tree
from migrator.rules._platform_branch import platform_branch

_WARMUP = "vllm/model_executor/warmup/kernel_warmup.py"
_SITE = "kernel_warmup"
_WORKER = "vllm/v1/worker/gpu_worker.py"


def _warms_no_kernels(tree: Tree) -> bool:
    """Does the worker warm up its model and sampler, and import nothing that warms up kernels?"""
    module = tree.parse(_WORKER)
    if module is None or tree.definition(_WORKER, "Worker.compile_or_warm_up_model") is None:
        return False
    return not any(
        "warmup" in (node.module or "")
        for node in ast.walk(module)
        if isinstance(node, ast.ImportFrom)
    )


class KernelWarmup(Rule):
    """Skip the warm-up of CUDA kernels on NPUs.

    ## What it does
    Lets `kernel_warmup` return at once on an NPU, where it has steps that it takes whatever the
    platform.

    ## Why
    It compiles and tunes DeepGEMM, FlashInfer and Triton kernels. Some of its steps ask for the
    kernels' packages, from 0.24 on others just run.

    ## Example
    ```python
    if current_platform.device_type == "npu":
        # What follows compiles and tunes CUDA kernels.
        return
    ```

    ## Safety
    Guarded by the platform's device type.
    """

    code = "NPU220"
    safety = Safety.GUARDED
    paths = (_WARMUP,)
    triggers = (r"def kernel_warmup\b",)
    sites = (
        Site(
            _SITE,
            (_WARMUP,),
            (Absence("<0.10.1", "there is no warm-up of kernels yet", _warms_no_kernels),),
        ),
    )

    def check(self, file: File) -> Iterator[Finding]:
        """Report the function where a step of it is under no condition."""
        function = file.function(_SITE)
        if function is None:
            return
        if not any(_is_step(s) for s in function.body.body):
            yield skipped(_SITE, function, "every step of it asks for its kernels first")
            return
        yield from platform_branch(
            file,
            _SITE,
            body="# What follows compiles and tunes CUDA kernels.\nreturn\n",
            reason="it compiles and tunes CUDA kernels",
        )


def _is_step(statement: cst.CSTNode) -> bool:
    """Is it a call that stands for itself?"""
    return (
        isinstance(statement, cst.SimpleStatementLine)
        and isinstance(statement.body[0], cst.Expr)
        and isinstance(statement.body[0].value, cst.Call)
    )
