# SPDX-License-Identifier: Apache-2.0
"""NPU220: no warm-up of CUDA kernels."""

from __future__ import annotations

from collections.abc import Iterator

from migrator.rule import Absence, Example, File, Finding, Rule, Safety, Site
from migrator.rules._platform_branch import platform_branch

_WARMUP = "vllm/model_executor/warmup/kernel_warmup.py"
_SITE = "kernel_warmup"


class KernelWarmup(Rule):
    """Skip the warm-up of CUDA kernels on NPUs.

    ## What it does
    Lets `kernel_warmup` return at once on an NPU.

    ## Why
    It compiles and tunes DeepGEMM, FlashInfer and Triton kernels. Some of its steps ask for the
    kernels' packages, others just run.

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
    sites = (Site(_SITE, (_WARMUP,), (Absence("<0.10.2", "there is no warm-up of kernels yet"),)),)
    examples = (
        Example(
            path=_WARMUP,
            before='''\
from vllm.platforms import current_platform


def kernel_warmup(worker):
    """Warm up."""
    deep_gemm_warmup(worker)
''',
            after='''\
from vllm.platforms import current_platform


def kernel_warmup(worker):
    """Warm up."""
    if current_platform.device_type == "npu":
        # What follows compiles and tunes CUDA kernels.
        return
    deep_gemm_warmup(worker)
''',
        ),
    )

    def check(self, file: File) -> Iterator[Finding]:
        """Report the function."""
        yield from platform_branch(
            file,
            _SITE,
            body="# What follows compiles and tunes CUDA kernels.\nreturn\n",
            reason="it compiles and tunes CUDA kernels",
        )
