# SPDX-License-Identifier: Apache-2.0
"""Reference NPU operators of the simulated Ascend.

One module per family; docs/npu-operators.md lists them. :func:`register` binds them
to the installed torch_npu and is called once, by the simulator's boot.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ._registry import REGISTRY, MetaMismatchError, Operator, SchemaMismatchError, problems

FAMILIES = (
    "activation",
    "attention",
    "formats",
    "kv_cache",
    "linear",
    "moe",
    "norm",
    "quantization",
    "rotary",
    "sampling",
)
"""Modules of this package that declare operators."""

__all__ = [
    "FAMILIES",
    "REGISTRY",
    "MetaMismatchError",
    "Operator",
    "SchemaMismatchError",
    "problems",
    "register",
]


def register() -> None:
    """Bind every reference operator to the installed torch_npu. Call it once."""
    for family in FAMILIES:
        importlib.import_module(f".{family}", __name__)
    from . import _registry

    _registry.register()


def __getattr__(name: str) -> object:
    # Where this package is imported before torch, importing torch imports torch_npu, whose boot
    # calls register() above: so nothing here may import torch while the package is loading.
    if name in __all__:
        from . import _registry

        return getattr(_registry, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
