# SPDX-License-Identifier: Apache-2.0
"""NPU220: no warm-up of CUDA kernels."""

from __future__ import annotations

import ast

import libcst as cst

from migrator.codemod.matchers import is_call_statement
from migrator.codemod.recipes.branches import PlatformBranch
from migrator.codemod.rule import Absence, File, Finding, Rule, skipped
from migrator.files.tree import Tree

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


def _asks_first(site: str, function: cst.FunctionDef, _: File) -> Finding | None:
    if any(map(is_call_statement, function.body.body)):
        return None
    return skipped(site, function, "every step of it asks for its kernels first")


class KernelWarmup(Rule):
    """Skip the warm-up of CUDA kernels on NPUs.

    ## What it does
    Lets `kernel_warmup` return at once on an NPU, where it has steps that it takes whatever the
    platform.

    ## Why
    It compiles and tunes DeepGEMM, FlashInfer and Triton kernels. Some of its steps ask for the
    kernels' packages, from 0.24 on others just run.
    """

    code = "NPU220"
    recipes = (
        PlatformBranch(
            "kernel_warmup",
            ("vllm/model_executor/warmup/kernel_warmup.py",),
            body="# What follows compiles and tunes CUDA kernels.\nreturn\n",
            unless=_asks_first,
            reason="it compiles and tunes CUDA kernels",
            absent=(Absence("<0.10.1", "there is no warm-up of kernels yet", _warms_no_kernels),),
        ),
    )
