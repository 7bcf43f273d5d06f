# SPDX-License-Identifier: Apache-2.0
"""Kinds of what an expression may be, and unions of them."""

from __future__ import annotations

import ast
from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Type:
    """What an expression may be.

    Kinds: `tensor`; `plain` (nothing that has `is_cuda`, None included); `items` (a collection of
    `parts[0]`); `tuple`; `map` (of keys to values); `own` (an object of one of the module's
    classes); `class` (such a class itself); `layer` (a torch module); `imported`; `other` (known to
    be something else); `union`; `unknown`. What is said about it does not tell two apart.
    """

    kind: str
    why: str = field(default="", compare=False)
    parts: tuple[Type, ...] = ()
    node: ast.ClassDef | None = None


NOTHING = Type("union")
"""What never comes to be."""
UNKNOWN = Type("unknown", "nothing in the module tells whether it is a tensor")
PLAIN = Type("plain")


def parts_of(found: Type) -> tuple[Type, ...]:
    """What a union may be; a type itself where it is none."""
    return found.parts if found.kind == "union" else (found,)


def union(found: Sequence[Type]) -> Type:
    """What may be any of several."""
    parts: list[Type] = []
    for each in found:
        for part in parts_of(each):
            if part not in parts:
                parts.append(part)
    if len(parts) == 1:
        return parts[0]
    return Type("union", parts=tuple(parts))


def named(found: Type, why: str) -> Type:
    """The same, with words about where it is said."""
    if found.kind == "union":
        return Type("union", parts=tuple(named(part, why) for part in found.parts))
    if found.kind in ("items", "tuple", "map", "tensor"):
        return Type(found.kind, why, found.parts, found.node)
    return found


def within(part: Type, whole: Type) -> Type:
    """A part, with words about the collection that it is of."""
    if part.kind == "tensor" and whole.why:
        return Type("tensor", f"an item of a collection: {whole.why}")
    return part
