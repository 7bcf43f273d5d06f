# SPDX-License-Identifier: Apache-2.0
"""What Triton asks a backend for beside its driver. Nothing is compiled here."""

from __future__ import annotations

from typing import Any

from triton.backends.compiler import BaseBackend


class NPUBackend(BaseBackend):  # type: ignore[misc]
    """The compiler that is none: kernels are interpreted."""

    binary_ext = "none"

    @staticmethod
    def supports_target(target: Any) -> bool:
        """Whether a target is an NPU."""
        return bool(target.backend == "npu")

    def hash(self) -> str:
        """What tells results of this backend from others'."""
        return "ascend-sim"

    def parse_options(self, options: dict[str, Any]) -> Any:
        """Refuse: only a kernel that is compiled has options."""
        raise NotImplementedError("kernels are interpreted (simulated Ascend)")

    def add_stages(self, *arguments: Any) -> None:
        """Refuse: there are no stages."""
        raise NotImplementedError("kernels are interpreted (simulated Ascend)")

    def load_dialects(self, context: Any) -> None:
        """Nothing: there is no dialect."""

    def get_module_map(self) -> dict[str, Any]:
        """No module of Triton's language is one of this device's own."""
        return {}
