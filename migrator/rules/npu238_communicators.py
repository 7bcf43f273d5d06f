# SPDX-License-Identifier: Apache-2.0
"""NPU238: communicators are there when memory is measured."""

from __future__ import annotations

import libcst as cst

from migrator.codemod.matchers import parameter_names
from migrator.codemod.recipes.branches import PlatformBranch
from migrator.codemod.rule import File, Finding, Rule, manual

BODY = """\
from vllm.v1.worker.npu_worker import open_communicators

open_communicators(vllm_config.parallel_config)
"""


def _lacks_the_configuration(site: str, function: cst.FunctionDef, _: File) -> Finding | None:
    if "vllm_config" in parameter_names(function):
        return None
    return manual(site, function, "it has no vllm_config to see how engines are parallel")


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
    """

    code = "NPU238"
    recipes = (
        PlatformBranch(
            "init_worker_distributed_environment",
            ("vllm/v1/worker/gpu_worker.py",),
            body=BODY,
            at=lambda function: function.body.body[-1],
            after=True,
            unless=_lacks_the_configuration,
            reason="HCCL's buffers come with a group's first collective, after memory is measured",
        ),
    )
