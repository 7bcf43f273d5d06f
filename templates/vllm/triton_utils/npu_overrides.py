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
def by_name(
    kernels: dict[str, dict[str, Replacement]],
) -> dict[str, Replacement]:
    """Replacements by the names of their kernels alone.

    Args:
        kernels: module → name of a kernel there → what replaces it.

    """
    return {
        name: replacement
        for replacements in kernels.values()
        for name, replacement in replacements.items()
    }


def replaced_kernels(runner_v2: bool, has_triton: bool) -> dict[str, str]:
    """Which kernels are replaced. What the machine holds decides, and here alone.

    - Those of V1's speculation always: faster than what Triton compiles.
    - Those of V2's sampler always: triton-ascend does not take them as they are.
    - Those that make V2's input where Triton has no NPU; else they run unchanged.

    Args:
        runner_v2: the model runner is V2.
        has_triton: Triton has an NPU, as with triton-ascend.

    Returns:
        a kernel's full name → the module that replaces it.

    """
    # What nothing else here needs; not every release has all of them.
    from importlib import import_module

    names = {}
    for home, module in (
        ("vllm.v1.sample.rejection_sampler", "vllm.v1.sample.npu_rejection_kernels"),
        ("vllm.v1.spec_decode.utils", "vllm.v1.spec_decode.npu_draft_kernels"),
    ):
        replaced = import_module(module).REPLACEMENTS
        names.update((f"{home}.{name}", module) for name in replaced)
    modules = ["vllm.v1.worker.npu_sampler_kernels"] if runner_v2 else []
    if runner_v2 and not has_triton:
        modules.append("vllm.v1.worker.npu_input_kernels")
    for module in modules:
        for home, kernels in import_module(module).KERNELS.items():
            names.update((f"{home}.{name}", module) for name in kernels)
    return names


def register() -> None:
    """Have the replacements launched from now on."""
    from importlib import import_module
    from importlib.util import find_spec

    import vllm.envs as envs
    from vllm.triton_utils import HAS_TRITON
    from vllm.triton_utils.dispatcher import register_kernels

    # In a tree without V1 nothing asks for V2.
    runner_v2 = bool(envs.VLLM_USE_V2_MODEL_RUNNER) or not find_spec(
        "vllm.v1.worker.gpu_model_runner"
    )
    launchers = {}
    replaced = replaced_kernels(runner_v2, HAS_TRITON)
    for full_name, replacing in replaced.items():
        home, _, name = full_name.rpartition(".")
        kernel = getattr(import_module(home), name)
        launchers[full_name] = import_module(replacing).npu_kernel(kernel)
    register_kernels(launchers)
    for replacing in sorted(set(replaced.values())):
        # What only a method can do.
        if hasattr(import_module(replacing), "replace_methods"):
            import_module(replacing).replace_methods()


# npu-migrate: end
