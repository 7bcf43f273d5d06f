# SPDX-License-Identifier: Apache-2.0
"""NPU218: NPUs run the model runner V1."""

from __future__ import annotations

from collections.abc import Iterator

from migrator.codemod.rule import Absence, File, Finding, Rule, Safety, Site
from migrator.files.tree import Tree
from migrator.rules._platform_branch import platform_branch

_CONFIG = "vllm/config/vllm.py"
_SITE = "VllmConfig.use_v2_model_runner"


_WORKER = "vllm/v1/worker/gpu_worker.py"


def _variable_decides(tree: Tree) -> bool:
    """Does the worker ask the environment for the V2 runner, or know only one runner?"""
    names = tree.names(_WORKER)
    return "VLLM_USE_V2_MODEL_RUNNER" in names or (
        "GPUModelRunner" in names and not any("v2" in name.lower() for name in names)
    )


class V1ModelRunner(Rule):
    """Keep the model runner V2 off on NPUs.

    ## What it does
    Lets `VllmConfig.use_v2_model_runner` answer False on an NPU.

    ## Why
    The V2 runner prepares batches, samples and applies penalties in Triton kernels and keeps its
    state in unified memory: neither exists here. From 0.22.1 on it is the default of some models,
    from 0.29.0 on of all.

    ## Example
    ```python
    if current_platform.device_type == "npu":
        # Its kernels are Triton's and its buffers are unified memory.
        return False
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
        yield from platform_branch(
            file,
            _SITE,
            body="# Its kernels are Triton's and its buffers are unified memory.\nreturn False\n",
            reason="the V2 runner is Triton kernels on unified memory",
        )
