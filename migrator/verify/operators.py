# SPDX-License-Identifier: Apache-2.0
"""The table of what each operator takes: that of the simulator's references, which read it too.

It is loaded by its path, since the package that it lies in imports torch.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

_ROOM = Path(__file__).resolve().parent.parent / "simulator"
_TABLE = _ROOM / "runtime" / "ascend_sim" / "operators" / "_table.py"
_NAME = "migrator.verify._operator_table"


@cache
def _table() -> Any:
    spec = importlib.util.spec_from_file_location(_NAME, _TABLE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[_NAME] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def problem(operator: str, argument: str, value: object) -> str | None:
    """What the device takes instead of a value of an argument; None where it may take it.

    Args:
        operator: namespace, name and overload, `npu::npu_swiglu`.
        argument: its name in the schema.
        value: a number, a string, a truth value or None.
    """
    ask: Callable[[str, str, object], str | None] = _table().problem
    return ask(operator, argument, value)


def source(operator: str) -> str:
    """The documentation that says what an operator takes."""
    return str(_table().TABLE[operator].source)
