# SPDX-License-Identifier: Apache-2.0
"""The simulated Ascend inside a program: what operators written in Python need of it.

This package depends on torch, torch_npu and the standard library alone, because the environment
of the program need not hold anything else.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

__all__ = ["host_view"]


def host_view(tensor: torch.Tensor, *, own: bool = True) -> torch.Tensor:
    """A CPU tensor over the same memory as `tensor`, which is on the npu.

    Same shape, strides and dtype; writing to one writes to the other. Raises `RuntimeError` for a
    tensor elsewhere. It reads device memory from the host without a synchronisation, so it is for
    the inside of operators, never for a program. It keeps the memory, unless it is not to `own` it.
    """
    import torch

    view: torch.Tensor = torch.ops.ascend_sim.host_view(tensor, own)
    return view
