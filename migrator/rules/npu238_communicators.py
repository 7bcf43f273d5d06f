# SPDX-License-Identifier: Apache-2.0
"""NPU238: communicators are there when memory is measured."""

from __future__ import annotations

from collections.abc import Iterator

from migrator.codemod.matchers import parameter_names
from migrator.codemod.recipes import has_npu_branch
from migrator.codemod.rule import (
    File,
    Finding,
    Insert,
    Rule,
    Safety,
    Site,
    changed,
    manual,
    migrated,
)
from migrator.rules._platform_branch import IMPORT, TEST, local_import

_WORKER = "vllm/v1/worker/gpu_worker.py"
_SITE = "init_worker_distributed_environment"
CODE = f"""\
if {TEST}:
    from vllm.v1.worker.npu_worker import open_communicators

    open_communicators(vllm_config.parallel_config)
"""


class Communicators(Rule):
    """Let an NPU's communicators have their buffers before memory is measured.

    ## What it does
    Ends `init_worker_distributed_environment` with `open_communicators` on an NPU, which is in
    `vllm/v1/worker/npu_worker.py` and does one tiny collective in each process group that has
    some, and sends one number from each pipeline stage to the next.

    ## Why
    HCCL makes a communicator, with two buffers of HCCL_BUFFSIZE (200 MB), at the first collective
    of a group. vLLM makes the groups before it looks how much memory is free, so that what they
    take counts. NCCL's do; HCCL's would take theirs in the profiling run, or, those of data and
    pipeline parallelism, when the KV cache has taken the rest.

    ## Example
    ```python
    ensure_model_parallel_initialized(...)
    if current_platform.device_type == "npu":
        from vllm.v1.worker.npu_worker import open_communicators

        open_communicators(vllm_config.parallel_config)
    ```

    ## Safety
    Guarded by the platform's device type.
    """

    code = "NPU238"
    safety = Safety.GUARDED
    paths = (_WORKER,)
    triggers = (rf"def {_SITE}\b",)
    sites = (Site(_SITE, (_WORKER,)),)

    def check(self, file: File) -> Iterator[Finding]:
        """Report the end of the function."""
        function = file.function(_SITE)
        if function is None:
            return
        if has_npu_branch(function):
            yield migrated(_SITE, function)
            return
        if "vllm_config" not in parameter_names(function):
            yield manual(_SITE, function, "it has no vllm_config to see how engines are parallel")
            return
        known = "current_platform" in file.imports.module_level or local_import(function)
        yield changed(
            _SITE,
            function,
            "HCCL's buffers come with a group's first collective, after memory is measured",
            Insert(function.body.body[-1], CODE if known else IMPORT + CODE, where="after"),
        )
