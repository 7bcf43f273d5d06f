# SPDX-License-Identifier: Apache-2.0
"""The rules: one module each, named `npu<number>_<name>.py`, registered by being here."""

from __future__ import annotations

import importlib
import pkgutil
from functools import cache

from migrator.codemod.rule import Rule


@cache
def all_rules() -> tuple[Rule, ...]:
    """Every rule of this package, in the order of their codes.

    Raises:
        TypeError: a rule module does not hold exactly one rule, or two rules share a code.
    """
    found: dict[str, Rule] = {}
    for info in pkgutil.iter_modules(__path__):
        if not info.name.startswith("npu"):
            continue
        module = importlib.import_module(f"{__name__}.{info.name}")
        own = [
            value
            for value in vars(module).values()
            if isinstance(value, type)
            and issubclass(value, Rule)
            and value.__module__ == module.__name__
        ]
        if len(own) != 1:
            raise TypeError(f"{module.__name__} must hold one rule, not {len(own)}")
        rule = own[0]()
        if rule.code in found or not info.name.startswith(f"{rule.code.lower()}_"):
            raise TypeError(f"{module.__name__}: its code {rule.code} is taken or not in its name")
        found[rule.code] = rule
    return tuple(found[code] for code in sorted(found))
