# SPDX-License-Identifier: Apache-2.0
"""Puts the CPU kernels and the reference operators behind torch_npu's device."""

from __future__ import annotations

import ctypes
import importlib.util
import os
import warnings

import torch

from ascend_sim import _site

KEPT = frozenset(
    {
        "_lazy_clone",
        "_pin_memory",
        "_to_copy",
        "copy_",
        "_copy_from",
        "_copy_from_and_resize",
        "empty.memory_format",
        "empty_like",
        "empty_strided",
        "is_pinned",
        "is_set_to",
        "new_empty_strided",
        "record_stream",
        "resize_",
        "resize_as_",
        "set_",
        "set_.source_Storage",
        "set_.source_Storage_storage_offset",
        "set_.source_Tensor",
    }
)
"""ATen operators that stay torch_npu's: they allocate, pin or set storage, and compute nothing.

Views stay torch_npu's too, told by their schema.
"""

_CPU_KEYS = (
    "CPU",
    "CompositeExplicitAutograd",
    "CompositeExplicitAutogradNonFunctional",
    "CompositeImplicitAutograd",
)

taken: frozenset[str] = frozenset()
"""Names of the ATen operators that the simulator computes, such as "add.Tensor"."""


def boot() -> None:
    """Take over, right after torch_npu has been imported."""
    global taken  # noqa: PLW0603 - set once, read by tests and the doctor
    build = os.environ["ASCEND_SIM"]
    _site.tell_the_runtime()
    torch.ops.load_library(os.path.join(build, "lib", "libascend_sim_aten.so"))
    # Where its allocator tells what it gives out and gets back; not torch_npu 2.8.
    watching = os.path.join(build, "lib", "libascend_sim_allocator.so")
    told = os.path.exists(watching)
    if told:
        # It knows of the devices once torch_npu has been initialised.
        torch.npu._lazy_call(ctypes.CDLL(watching).ascend_sim_watch_allocator)
    has_kernel = torch._C._dispatch_has_kernel_for_dispatch_key

    def registered(key: str) -> set[str]:
        names = torch._C._dispatch_get_registrations_for_dispatch_key(key)
        return {name.removeprefix("aten::") for name in names if name.startswith("aten::")}

    device = {
        name
        for name in registered("PrivateUse1") - KEPT | {"_local_scalar_dense"}
        if any(has_kernel(f"aten::{name}", key) for key in _CPU_KEYS)
    }
    autograd = registered("AutogradPrivateUse1")
    taken = frozenset(torch.ops.ascend_sim.take_over(sorted(device), sorted(autograd), not told))
    # ASCEND_SIM_OPERATORS=0 leaves torch_npu's own fused operators, which call CANN, in place.
    wanted = os.environ.get("ASCEND_SIM_OPERATORS", "1") != "0"
    if wanted and importlib.util.find_spec("ascend_sim.operators") is not None:
        from ascend_sim import operators

        with warnings.catch_warnings():
            # Taking the place of torch_npu's kernels is the point.
            warnings.filterwarnings("ignore", message=".*[Oo]verrid")
            operators.register()


def configure_again() -> None:
    """Read the variables of the machine anew, in a process that was forked and got others.

    torch_npu asks for them when it is imported. No device may have been opened since.
    """
    build = os.environ["ASCEND_SIM"]
    ctypes.CDLL(os.path.join(build, "lib", "libascendcl.so")).ascend_sim_configure_again()
