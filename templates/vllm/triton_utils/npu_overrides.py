# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright contributors to the vLLM project
"""What runs on an NPU in the place of a Triton kernel.

A replacement is a function of PyTorch operators whose parameters are called as
the kernel's. Parameters that only some releases have are optional.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch

Replacement = Callable[..., None]


class Launcher:
    """Calls a replacement as the kernel is launched: `kernel[grid](*arguments)`."""

    def __init__(self, kernel: Any, replacement: Replacement) -> None:
        """Stand in for a kernel.

        Args:
            kernel: Triton's, or the plain function where there is no Triton.
            replacement: takes the kernel's arguments by their names.

        Raises:
            TypeError: the kernel has a parameter that the replacement does not know.

        """
        names = getattr(kernel, "arg_names", None)
        if names is None:
            names = inspect.signature(getattr(kernel, "fn", kernel)).parameters
        self.arg_names = tuple(names)
        self.__name__ = replacement.__name__
        self.replacement = replacement
        unknown = set(self.arg_names) - set(inspect.signature(replacement).parameters)
        if unknown:
            raise TypeError(
                f"NPU: {replacement.__name__} does not know the kernel's "
                f"{', '.join(sorted(unknown))}."
            )

    def __getitem__(self, grid: Any) -> Callable[..., None]:
        return self

    def __call__(self, *args: Any, **kwargs: Any) -> None:
        # Options of a launch such as num_warps are no parameters of the kernel.
        given = {name: kwargs[name] for name in self.arg_names if name in kwargs}
        self.replacement(**dict(zip(self.arg_names, args)), **given)


def rows_of_tokens(cu_num_tokens: torch.Tensor, num_tokens: int) -> torch.Tensor:
    """[num_tokens] int32: the request of each token.

    All in int32: search and sums of int64 are left to the device's CPU. A request
    without tokens begins where the next one does.

    Args:
        cu_num_tokens: [num_reqs] int32: where each request's tokens end.
        num_tokens: length of the result.

    """
    ends = cu_num_tokens[:-1]
    begins = torch.zeros(num_tokens + 1, dtype=torch.int32, device=ends.device)
    begins.index_add_(0, ends, torch.ones_like(ends, dtype=torch.int32))
    return begins[:num_tokens].cumsum(0, dtype=torch.int32)


# npu-migrate: when platform_registers_kernels
def register() -> None:
    """Have the replacements launched from now on."""
    # What nothing else here needs; not every release has the second.
    from importlib import import_module

    from vllm.triton_utils.dispatcher import register_kernels

    launchers = {}
    for home, replacing in (
        ("vllm.v1.sample.rejection_sampler", "vllm.v1.sample.npu_rejection_kernels"),
        ("vllm.v1.spec_decode.utils", "vllm.v1.spec_decode.npu_draft_kernels"),
    ):
        kernels, module = import_module(home), import_module(replacing)
        for name in module.REPLACEMENTS:
            launchers[f"{home}.{name}"] = module.npu_kernel(getattr(kernels, name))
    register_kernels(launchers)


# npu-migrate: end
