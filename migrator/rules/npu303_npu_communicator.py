# SPDX-License-Identifier: Apache-2.0
"""NPU303: collectives over HCCL."""

from __future__ import annotations

from migrator.codemod.rule import Rule, Safety


class NpuCommunicator(Rule):
    """Add the communicator that runs vLLM's collectives over HCCL.

    ## What it does
    Adds `vllm/distributed/device_communicators/npu_communicator.py`, which the NPU platform names.

    ## Why
    vLLM's CUDA communicator loads NCCL and custom all-reduce kernels. On an NPU the process group
    that `torch_npu` registers as `hccl` does the work.

    ## Example
    ```python
    class NPUCommunicator(DeviceCommunicatorBase):
        def all_reduce(self, input_: torch.Tensor) -> torch.Tensor: ...
    ```

    ## Safety
    Guarded: only the NPU platform names it.
    """

    code = "NPU303"
    safety = Safety.GUARDED
    templates = ("vllm/distributed/device_communicators/npu_communicator.py",)
