# SPDX-License-Identifier: Apache-2.0
"""NPU305: the worker and its model runner."""

from __future__ import annotations

from migrator.codemod.rule import Rule, Safety


class NpuWorker(Rule):
    """Add the worker and the model runner of the NPU, small subclasses of the GPU's.

    ## What it does
    Adds `npu_worker.py`, `npu_model_runner.py` and `npu_kernels.py` below `vllm/v1/worker/`. The
    worker and the runner override what differs on an NPU; the kernels stand in for Triton ones.

    ## Why
    The GPU worker opens a CUDA device and its runner allocates the KV cache in CUDA's layout and
    launches Triton kernels. What they share with an NPU stays shared, so that a new release's
    features arrive with it.

    ## Example
    ```python
    class NPUWorker(Worker):
        def _make_model_runner(self): ...
    ```

    ## Safety
    Guarded: only the NPU platform names the worker.
    """

    code = "NPU305"
    safety = Safety.GUARDED
    templates = (
        "vllm/v1/worker/npu_kernels.py",
        "vllm/v1/worker/npu_model_runner.py",
        "vllm/v1/worker/npu_worker.py",
    )
