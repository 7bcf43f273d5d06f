# SPDX-License-Identifier: Apache-2.0
"""Classes as source: their members, their line of bases, and what an attribute of one means."""

from __future__ import annotations

import ast
import builtins
import enum
from collections.abc import Callable
from dataclasses import dataclass

from migrator.verify.modules import Definition, External, Missing, Resolved, Unknown, Value
from migrator.verify.scopes import dotted

Line = list[Definition | External]
"""A class and its bases, nearest first."""


@dataclass(slots=True)
class ClassMembers:
    """What one class statement gives its attributes. `dynamic`: more than the source shows."""

    defined: dict[str, ast.AST]
    on_instances: set[str]
    dynamic: bool


_members_cache: dict[int, tuple[ast.ClassDef, ClassMembers]] = {}


def class_members(node: ast.ClassDef) -> ClassMembers:
    """The members of a class by its own statement, without its bases."""
    cached = _members_cache.get(id(node))
    if cached is not None and cached[0] is node:
        return cached[1]
    result = ClassMembers({}, set(), False)
    _class_body(node.body, result)
    for inner in ast.walk(node):
        if isinstance(inner, ast.Attribute) and isinstance(inner.ctx, ast.Store):
            if isinstance(inner.value, ast.Name):
                result.on_instances.add(inner.attr)
        elif isinstance(inner, ast.Call) and isinstance(inner.func, ast.Name):
            if inner.func.id in ("setattr", "vars", "delattr"):
                if (
                    inner.func.id == "setattr"
                    and len(inner.args) == 3
                    and isinstance(inner.args[1], ast.Constant)
                    and isinstance(inner.args[1].value, str)
                ):
                    result.on_instances.add(inner.args[1].value)
                else:
                    result.dynamic = True
        elif isinstance(inner, ast.Attribute) and inner.attr == "__dict__":
            result.dynamic = True
    slots = result.defined.get("__slots__")
    if slots is not None:
        result.on_instances.update(
            n.value
            for n in ast.walk(slots)
            if isinstance(n, ast.Constant) and isinstance(n.value, str)
        )
    if {"__getattr__", "__getattribute__"} & set(result.defined):
        result.dynamic = True
    _members_cache[id(node)] = (node, result)
    return result


def _class_body(statements: list[ast.stmt], result: ClassMembers) -> None:
    for statement in statements:
        if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            result.defined[statement.name] = statement
        elif isinstance(statement, ast.Assign):
            for target in statement.targets:
                for name in ast.walk(target):
                    if isinstance(name, ast.Name):
                        result.defined[name.id] = statement.value
        elif isinstance(statement, ast.AnnAssign):
            if isinstance(statement.target, ast.Name):
                result.defined[statement.target.id] = statement.value or statement
        elif isinstance(statement, ast.Import | ast.ImportFrom):
            for alias in statement.names:
                result.defined[alias.asname or alias.name.partition(".")[0]] = statement
        elif isinstance(statement, ast.If | ast.Try | ast.For | ast.While | ast.With):
            for part in ("body", "orelse", "finalbody"):
                _class_body(getattr(statement, part, []), result)
            if isinstance(statement, ast.Try):
                for handler in statement.handlers:
                    _class_body(handler.body, result)
            if isinstance(statement, ast.For):
                for target_name in ast.walk(statement.target):
                    if isinstance(target_name, ast.Name):
                        result.defined[target_name.id] = statement
        elif isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Call):
            call = dotted(statement.value.func)
            if call and call[0].id in ("locals", "vars"):
                result.dynamic = True


BARE_BASES = frozenset(
    {
        "builtins.object",
        "abc.ABC",
        "typing.Generic",
        "typing.Protocol",
        "typing_extensions.Protocol",
    }
)


_ENUMS = {
    "enum.Enum": enum.Enum,
    "enum.IntEnum": enum.IntEnum,
    "enum.Flag": enum.Flag,
    "enum.IntFlag": enum.IntFlag,
    "enum.StrEnum": enum.StrEnum,
}


def external_attributes(target: str) -> frozenset[str] | None:
    """The attributes that a class outside the package gives; None where they are not known."""
    if target in BARE_BASES:
        return frozenset(dir(object)) | {"_abc_impl", "__orig_bases__", "__parameters__"}
    if target in _ENUMS:
        return frozenset(dir(_ENUMS[target])) | {
            "name",
            "value",
            "_name_",
            "_value_",
            "__members__",
        }
    module, _, name = target.rpartition(".")
    if module == "builtins":
        found = getattr(builtins, name, None)
        if isinstance(found, type):
            return frozenset(dir(found))
    return None


def line_of(definition: Definition, bases: Callable[[Definition], list[Resolved]]) -> Line | None:
    """The class and its bases, nearest first; None where one of them is not known."""
    order: Line = []
    seen: set[int | str] = set()

    def walk(current: Definition, depth: int) -> bool:
        if depth > 30 or not isinstance(current.node, ast.ClassDef):
            return False
        if id(current.node) in seen:
            return True
        seen.add(id(current.node))
        order.append(current)
        if not _plain_decorators(current.node) or not _plain_metaclass(current.node):
            return False
        for base in bases(current):
            if isinstance(base, Definition):
                if not walk(base, depth + 1):
                    return False
            elif isinstance(base, External) and external_attributes(base.target) is not None:
                if base.target not in seen:
                    seen.add(base.target)
                    order.append(base)
            else:
                return False
        return True

    return order if walk(definition, 0) else None


def class_attribute(definition: Definition, order: Line | None, name: str) -> Resolved:
    """What `Class.name` means; `order` is the line of the class."""
    for item in order or [definition]:
        if isinstance(item, External):
            if name in (external_attributes(item.target) or ()):
                return Unknown()
            continue
        assert isinstance(item.node, ast.ClassDef)
        body = class_members(item.node)
        if name in body.defined:
            found = body.defined[name]
            if isinstance(found, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                return Definition(item.module, found)
            return Value(item.module)
        if name in body.on_instances or body.dynamic:
            return Unknown()
    if order is None or name in dir(type) or name in dir(object):
        return Unknown()
    assert isinstance(definition.node, ast.ClassDef)
    return Missing(
        f"{definition.module.name}.{definition.node.name}",
        name,
        tuple(
            n
            for d in order
            if isinstance(d, Definition) and isinstance(d.node, ast.ClassDef)
            for n in class_members(d.node).defined
        ),
    )


def _plain_decorators(node: ast.ClassDef) -> bool:
    return all(
        decorator_name(d)
        in ("dataclass", "final", "runtime_checkable", "register", "unique", "total_ordering")
        for d in node.decorator_list
    )


def _plain_metaclass(node: ast.ClassDef) -> bool:
    for keyword in node.keywords:
        if keyword.arg == "metaclass":
            chain = dotted(keyword.value)
            if not chain or (chain[1] or (chain[0].id,))[-1] not in ("ABCMeta", "EnumMeta", "type"):
                return False
    return True


def decorator_name(node: ast.expr) -> str:
    """The last part of what a decorator is called."""
    chain = dotted(node.func if isinstance(node, ast.Call) else node)
    return (chain[1] or (chain[0].id,))[-1] if chain else ""
