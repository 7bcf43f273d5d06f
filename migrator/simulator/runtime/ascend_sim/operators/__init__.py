# SPDX-License-Identifier: Apache-2.0
"""Reference NPU operators of the simulated Ascend.

One module per family; docs/npu-operators.md lists them. :func:`register` binds them
to the installed torch_npu and is called once, by the simulator's boot.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ._registry import REGISTRY, MetaMismatchError, Operator, SchemaMismatchError, problems

__all__ = [
    "REGISTRY",
    "MetaMismatchError",
    "Operator",
    "SchemaMismatchError",
    "problems",
    "register",
]


def register() -> None:
    """Bind every reference operator to the installed torch_npu. Call it once."""
    from . import _registry
    from . import activation as _activation  # noqa: F401 - declares its operators, as the others do
    from . import attention as _attention  # noqa: F401
    from . import formats as _formats  # noqa: F401
    from . import kv_cache as _kv_cache  # noqa: F401
    from . import linear as _linear  # noqa: F401
    from . import moe as _moe  # noqa: F401
    from . import norm as _norm  # noqa: F401
    from . import rotary as _rotary  # noqa: F401
    from . import sampling as _sampling  # noqa: F401

    _registry.register()


def __getattr__(name: str) -> object:
    # Where this package is imported before torch, importing torch imports torch_npu, whose boot
    # calls register() above: so nothing here may import torch while the package is loading.
    if name in __all__:
        from . import _registry

        return getattr(_registry, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
