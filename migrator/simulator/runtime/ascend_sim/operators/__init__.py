# SPDX-License-Identifier: Apache-2.0
"""Reference NPU operators of the simulated Ascend.

One module per family; docs/npu-operators.md lists them. :func:`register` binds them
to the installed torch_npu and is called once, by the simulator's boot.
"""

from __future__ import annotations

from . import activation, attention, formats, kv_cache, linear, moe, norm, rotary, sampling
from ._registry import (
    REGISTRY,
    MetaMismatchError,
    Operator,
    SchemaMismatchError,
    problems,
    register,
)

__all__ = [
    "REGISTRY",
    "MetaMismatchError",
    "Operator",
    "SchemaMismatchError",
    "activation",
    "attention",
    "formats",
    "kv_cache",
    "linear",
    "moe",
    "norm",
    "problems",
    "register",
    "rotary",
    "sampling",
]
