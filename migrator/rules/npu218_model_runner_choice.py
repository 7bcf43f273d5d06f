# SPDX-License-Identifier: Apache-2.0
"""NPU218: which model runner an NPU has."""

from __future__ import annotations

from collections.abc import Iterator

from migrator.codemod.recipes.branches import PlatformBranch
from migrator.codemod.rule import Absence, File, Finding, Rule, Safety, Site
from migrator.files.tree import Tree
from migrator.rules._runner_v2 import knows_one_runner

_CONFIG = "vllm/config/vllm.py"
_SITE = "VllmConfig.use_v2_model_runner"


_WORKER = "vllm/v1/worker/gpu_worker.py"
_V1_RUNNER = "vllm/v1/worker/gpu_model_runner.py"
_V2_RUNNER = "vllm/v1/worker/gpu/model_runner.py"


def _variable_decides(tree: Tree) -> bool:
    """Does the worker ask the environment for the V2 runner, or know only one runner?"""
    return "VLLM_USE_V2_MODEL_RUNNER" in tree.names(_WORKER) or knows_one_runner(tree)


class ModelRunnerChoice(Rule):
    """Let the environment choose the model runner of an NPU, V1 unless it says otherwise.

    ## What it does
    Lets `VllmConfig.use_v2_model_runner` answer on an NPU what VLLM_USE_V2_MODEL_RUNNER says: the
    V1 runner without it, or the V2 runner in a tree that has no other.

    ## Why
    From 0.22.1 on the V2 runner is the default of some models, from 0.29.0 on of all, wherever
    vLLM believes in Triton. That is so by accident too: where Ray or somebody else has set an empty
    CUDA_VISIBLE_DEVICES. Not all that V1 does on an NPU was tried with V2.

    ## Example
    ```python
    if current_platform.device_type == "npu":
        # On request only: Triton may seem to be there by accident.
        return bool(envs.VLLM_USE_V2_MODEL_RUNNER)
    ```

    ## Safety
    Guarded by the platform's device type.
    """

    code = "NPU218"
    safety = Safety.GUARDED
    paths = (_CONFIG,)
    triggers = (r"def use_v2_model_runner\b",)
    sites = (
        Site(
            _SITE,
            (_CONFIG,),
            (
                Absence(
                    "<0.22",
                    "only an environment variable turns the V2 runner on there",
                    _variable_decides,
                ),
            ),
        ),
    )

    def check(self, file: File) -> Iterator[Finding]:
        """Report the property."""
        body = (
            "# On request only: Triton may seem to be there by accident.\n"
            "return bool(envs.VLLM_USE_V2_MODEL_RUNNER)\n"
        )
        if file.tree.exists(_V2_RUNNER) and not file.tree.exists(_V1_RUNNER):
            body = "# There is no other runner.\nreturn True\n"
        yield from PlatformBranch(
            _SITE,
            (file.path,),
            body=body,
            reason="its default is the V2 runner wherever Triton seems to be",
        ).check(file)
