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
from vllm.config import ParallelConfig
from vllm.distributed.parallel_state import (
    _groups,
    destroy_distributed_environment,
    destroy_model_parallel,
)

# npu-migrate: when models_bring_their_state
from vllm.model_executor.model_loader import get_model_architecture

# npu-migrate: end
from vllm.platforms import current_platform
from vllm.v1.worker.gpu_model_runner import GPUModelRunner
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
        self.local_rank = current_platform.device_index(self.local_rank)
        super().init_device()
        _check_chip(torch.npu.get_device_name(self.device))
        # npu-migrate: when models_bring_their_state
        _check_state(get_model_architecture(self.model_config)[0])
        # npu-migrate: end
        # torch_npu destroys all process groups when the interpreter exits. What
        # is registered last runs first: without this, an engine that lives until
        # then finds its groups gone when it comes to destroy them itself.
        atexit.register(_destroy_process_groups)

    def _make_model_runner(self) -> GPUModelRunner:
        # npu-migrate: when has_model_runner_v2
        if self.use_v2_model_runner:
            # Nothing of it is an NPU's own.
            runner = super()._make_model_runner()
            stages = getattr(runner, "pp_handler", None)
            if stages is not None:
                # Sampled tokens go between stages by a group of their own, which
                # `open_communicators` does not find: its buffers are measured too.
                value = torch.zeros(1, device=self.device)
                torch.distributed.all_reduce(value, group=stages.broadcast_group)
                torch.npu.synchronize()
            return runner
        # npu-migrate: end
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


# npu-migrate: when models_bring_their_state
def _check_state(model_class: type[torch.nn.Module]) -> None:
    if hasattr(model_class, "get_model_state_cls"):
        raise ValueError(
            f"NPU: {model_class.__name__} is not supported: it keeps a state of its "
            "own for each request, which model runner V1 does not ask for and model "
            "runner V2 was not tried with."
        )


# npu-migrate: end
def open_communicators(parallel_config: ParallelConfig) -> None:
    """Let each process group that works on the device do its first collective.

    HCCL makes a communicator then, and what its buffers take has to be there when
    free memory is measured. All members come by in the same order.
    """
    for reference in list(_groups.values()):
        group = reference()
        if group is None or group.device_communicator is None:
            continue
        # The values are of no interest.
        value = torch.zeros(1, device=group.device)
        kind = group.unique_name.partition(":")[0]
        if kind == "pp":
            # Two stages have a smaller communicator of their own between them.
            if not group.is_first_rank:
                group.recv(value.size(), value.dtype)
            if not group.is_last_rank:
                group.send(value)
        if _does_collectives(kind, parallel_config):
            torch.distributed.all_reduce(value, group=group.device_group)
    torch.npu.synchronize()


def _does_collectives(kind: str, parallel_config: ParallelConfig) -> bool:
    """Whether a group with device tensors ever does more than send and receive."""
    if kind == "ep":
        # Experts that see the same tokens reduce over the tensor parallel group.
        return parallel_config.data_parallel_size > 1
    # npu-migrate: when stages_share_sampled_tokens
    return True
    # npu-migrate: otherwise
    return kind != "pp"
    # npu-migrate: end


def _destroy_process_groups() -> None:
    destroy_model_parallel()
    destroy_distributed_environment()
