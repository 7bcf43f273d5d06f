# SPDX-License-Identifier: Apache-2.0
"""Workspaces of attention: memory that an operator asks for, of the size that a device needs."""

from __future__ import annotations

import os

import torch

MIB = 1 << 20
FUSED = 32 * MIB
"""CANN's 16 MiB for the system (prompt_flash_attention_tiling.cpp) and buffers of each core; the
second half is an estimate, for it depends on the tiling."""
PAGED = 36 * MIB
"""Measured on devices for up to 80 tokens (vllm-ascend #15575; 54 MB for 400)."""
LITTLE = 512
DEFAULT_MEMORY = 4 << 30


def workspace(like: torch.Tensor, size: int) -> torch.Tensor:
    """Memory beside a tensor, uint8, which nothing writes: of `size` bytes where that counts.

    It counts where it is at most a thirty-second of the device, as everything does that a device
    needs for itself (`counts_overhead` in csrc/acl_account.cpp): devices made small for tiny models
    keep what they have.
    """
    said = os.environ.get("ASCEND_SIM_OVERHEADS", "")
    memory = int(os.environ.get("ASCEND_SIM_MEMORY") or DEFAULT_MEMORY)
    counts = not said.startswith("0") if said else size <= memory // 32
    return torch.empty(size if counts else LITTLE, dtype=torch.uint8, device=like.device)
