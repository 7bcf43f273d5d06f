# SPDX-License-Identifier: Apache-2.0
"""NPU301: the NPU platform."""

from __future__ import annotations

from migrator.codemod.rule import Rule, Safety


class NpuPlatform(Rule):
    """Add the NPU platform, which tells vLLM what an Ascend device is and can do.

    ## What it does
    Adds `vllm/platforms/npu_nnal.py`, which says whether NNAL's operators are used, and
    `vllm/platforms/npu.py`: names, memory, data types, the `hccl` backend, the attention
    backend, the worker and the communicator, and how a configuration is adjusted (block size 128,
    graph policy, model runner V1, how worker processes start). Adds `vllm/platforms/npu_config.py`:
    which options and models an NPU takes; an engine that asks for others is refused at start-up.

    ## Why
    Without a platform of its own an NPU is taken for a machine without an accelerator. Its
    `PlatformEnum` is `OOT`: every branch that vLLM has for out-of-tree platforms is right for an
    NPU, and no branch of another platform has to change.

    ## Example
    ```python
    class NPUPlatform(Platform):
        _enum = PlatformEnum.OOT
        device_type = "npu"
        dist_backend = "hccl"
    ```

    ## Safety
    Guarded: the file is loaded where rule NPU213's plugin finds an NPU, and nowhere else.
    """

    code = "NPU301"
    safety = Safety.GUARDED
    templates = (
        "vllm/platforms/npu.py",
        "vllm/platforms/npu_config.py",
        "vllm/platforms/npu_connectors.py",
        "vllm/platforms/npu_quantization.py",
        "vllm/platforms/npu_speculation.py",
    )
