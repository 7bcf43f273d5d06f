# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright contributors to the vLLM project
"""Whether NNAL (Ascend Transformer Boost) computes attention and rotary embedding."""

from functools import cache

import torch

import vllm.envs as envs


@cache
def is_nnal_installed() -> bool:
    """Whether torch_npu could load what NNAL needs, `libatb.so`.

    `torch_npu` itself has a wrapper under every operator's name either way,
    which raises when it is called. Operators are registered by the load only.
    """
    # vllm._custom_ops imports this module on every platform.
    import torch_npu  # noqa: F401

    return hasattr(torch.ops.atb, "_npu_reshape_and_cache")


@cache
def uses_nnal() -> bool:
    """What `VLLM_NPU_USE_NNAL` says; without it, whether NNAL is installed."""
    wanted = envs.VLLM_NPU_USE_NNAL
    return is_nnal_installed() if wanted is None else wanted


def check_nnal() -> None:
    """Refuse a machine that lacks what `VLLM_NPU_USE_NNAL` asks for.

    Raises:
        ValueError: NNAL is to be used and is not installed.

    """
    if uses_nnal() and not is_nnal_installed():
        raise ValueError(
            "NPU: VLLM_NPU_USE_NNAL=1, but NNAL is not installed: torch_npu cannot "
            "load libatb.so. Source NNAL's set_env.sh, or leave the variable unset."
        )
