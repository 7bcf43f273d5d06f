# SPDX-License-Identifier: Apache-2.0
"""NPU245: the dtypes that a worker takes."""

from __future__ import annotations

import libcst as cst

from migrator.codemod.matchers import parameter_names
from migrator.codemod.recipes.branches import PlatformBranch
from migrator.codemod.rule import Absence, Rule
from migrator.files.tree import Tree

_WORKER = "vllm/v1/worker/gpu_worker.py"
_QUESTION = "check_if_supports_dtype"


def _asks_the_platform(tree: Tree) -> bool:
    """Does the worker ask its platform where it opens the device?"""
    return _QUESTION in tree.names(_WORKER, "Worker.init_device")


def _body(function: cst.FunctionDef) -> str:
    dtype = parameter_names(function)[0]
    return f"current_platform.{_QUESTION}({dtype})\nreturn\n"


class WorkerDtype(Rule):
    """Ask the platform whether an NPU computes in a dtype.

    ## What it does
    Lets the worker's `_check_if_gpu_supports_dtype` ask `NPUPlatform.check_if_supports_dtype`, as
    the workers of later releases do, and return.

    ## Why
    For bfloat16 it asks for a CUDA capability of 8.0. An NPU has none and computes in bfloat16: the
    engine would not start, with a line about GPUs.

    ## Example
    ```python
    if current_platform.device_type == "npu":
        current_platform.check_if_supports_dtype(torch_dtype)
        return
    ```
    """

    code = "NPU245"
    recipes = (
        PlatformBranch(
            "_check_if_gpu_supports_dtype",
            (_WORKER,),
            body=_body,
            reason="it asks for a CUDA capability, of which an NPU has none",
            absent=(
                Absence(">=0.10.2", "the worker asks the platform for it", _asks_the_platform),
            ),
        ),
    )
