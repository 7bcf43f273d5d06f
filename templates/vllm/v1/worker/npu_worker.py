# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright contributors to the vLLM project
"""A worker that drives one Ascend NPU."""

import atexit
import os
import re
from contextlib import AbstractContextManager, nullcontext

import torch
import torch_npu  # noqa: F401

import vllm.envs as envs
from vllm.distributed.parallel_state import (
    destroy_distributed_environment,
    destroy_model_parallel,
)
from vllm.v1.worker.gpu_worker import Worker
from vllm.v1.worker.npu_model_runner import NPUModelRunner


SUPPORTED_CHIPS = re.compile(r"Ascend910(B\d|_93)")
"""Atlas A2 (910B1 and on) and A3 (910C, of which the chips are called 910_93xx)."""


class NPUWorker(Worker):
    """The GPU worker on an NPU: everything but the model runner is shared."""

    def init_device(self) -> None:
        # Read when the device is opened. Blocks of a fixed place are split until a
        # long prompt finds none large enough.
        os.environ.setdefault("PYTORCH_NPU_ALLOC_CONF", "expandable_segments:True")
        if envs.VLLM_NPU_WEIGHT_NZ:
            # Else torch_npu quietly keeps every tensor in the plain format.
            torch.npu.config.allow_internal_format = True
        super().init_device()
        _check_chip(torch.npu.get_device_name(self.device))
        # torch_npu destroys all process groups when the interpreter exits. What
        # is registered last runs first: without this, an engine that lives until
        # then finds its groups gone when it comes to destroy them itself.
        atexit.register(_destroy_process_groups)

    def _make_model_runner(self) -> NPUModelRunner:
        return NPUModelRunner(self.vllm_config, self.device)

    def _maybe_get_memory_pool_context(self, tag: str) -> AbstractContextManager:
        # Sleep mode, the one user of memory pools, is not available.
        return nullcontext()


def _check_chip(name: str) -> None:
    if SUPPORTED_CHIPS.match(name) is None:
        raise ValueError(
            f"NPU: {name} is not supported, its operators take other data types and "
            "layouts. Atlas A2 (Ascend910B) and A3 (Ascend910_93) are."
        )


def _destroy_process_groups() -> None:
    destroy_model_parallel()
    destroy_distributed_environment()
