# SPDX-License-Identifier: Apache-2.0
"""The driver by which Triton, and whoever asks it, sees that there is an NPU."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from triton.backends.driver import DriverBase


class NPUDriver(DriverBase):  # type: ignore[misc]
    """Active on the simulated device, and nowhere else."""

    @classmethod
    def is_active(cls) -> bool:
        """Whether this process has a simulated NPU."""
        return bool(os.environ.get("ASCEND_SIM"))

    def map_python_to_cpp_type(self, ty: str) -> str:
        """Refuse: no launcher is compiled."""
        raise NotImplementedError("kernels are interpreted (simulated Ascend)")

    def get_current_target(self) -> Any:
        """The device, as Triton names it."""
        from triton.backends.compiler import GPUTarget

        return GPUTarget("npu", os.environ.get("ASCEND_SIM_SOC", "Ascend910B1"), 0)

    def get_active_torch_device(self) -> Any:
        """The current NPU."""
        import torch

        return torch.device("npu", torch.npu.current_device())

    def get_current_device(self) -> int:
        """Its number."""
        import torch

        return int(torch.npu.current_device())

    def get_device_interface(self) -> Any:
        """The torch module of the device."""
        import torch

        return torch.npu

    def get_benchmarker(self) -> Callable[..., Any]:
        """A clock that stands still: the first configuration of an autotuner that runs is taken."""

        def benchmark(call: Callable[[], Any], *, quantiles: list[float], **_: Any) -> list[float]:
            call()
            return [0.0] * len(quantiles)

        return benchmark
