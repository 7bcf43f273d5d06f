# SPDX-License-Identifier: Apache-2.0
"""The signatures that calls of functions and classes bind to, as the source settles them."""

from __future__ import annotations

import ast
from collections.abc import Callable

from migrator.verify.classes import BARE_BASES, Line, class_members, decorator_name
from migrator.verify.modules import Definition, External, Module
from migrator.verify.scopes import FunctionNode, dotted
from migrator.verify.signature import Kind, Parameter, Signature, of_function


def signatures(
    definition: Definition, line: Callable[[Definition], Line | None]
) -> list[Signature] | None:
    """The signatures that calling a function or class may bind to.

    None where a decorator, a metaclass or an unknown base may change them.
    """
    node = definition.node
    if isinstance(node, ast.ClassDef):
        return _constructor(definition, line(definition))
    if not keeps_signature(node) or _is_property(node):
        return None
    return [of_function(node)]


def _constructor(definition: Definition, order: Line | None) -> list[Signature] | None:
    if order is None:
        return None
    assert isinstance(definition.node, ast.ClassDef)
    name = definition.node.name
    for item in order:
        if isinstance(item, External):
            if item.target in BARE_BASES:
                continue
            return None
        assert isinstance(item.node, ast.ClassDef)
        body = class_members(item.node).defined
        if "__new__" in body or ("__call__" in body and _has_metaclass(item.node)):
            return None
        init = body.get("__init__")
        if isinstance(init, ast.FunctionDef):
            if not keeps_signature(init):
                return None
            return [of_function(init, name).without_first()]
        if init is not None:
            return None
        if item.node.decorator_list:
            fields = _dataclass_fields(order) if item is order[0] else None
            return None if fields is None else [Signature(_shown(name, fields), fields)]
    return [Signature(f"{name}()", ())]


def _dataclass_fields(order: Line) -> tuple[Parameter, ...] | None:
    fields: dict[str, Parameter] = {}
    for item in reversed(order):
        if isinstance(item, External):
            continue
        assert isinstance(item.node, ast.ClassDef)
        if not item.node.decorator_list:
            continue
        options = _dataclass_options(item.node, item.module)
        if options is None:
            return None
        for statement in item.node.body:
            if not isinstance(statement, ast.AnnAssign) or not isinstance(
                statement.target, ast.Name
            ):
                continue
            annotation = ast.unparse(statement.annotation)
            if "ClassVar" in annotation:
                continue
            if "KW_ONLY" in annotation:
                return None
            keyword_only = options
            required = statement.value is None
            if isinstance(statement.value, ast.Call):
                given = {k.arg: k.value for k in statement.value.keywords}
                called = dotted(statement.value.func)
                if called and (called[1] or (called[0].id,))[-1] == "field":
                    if _is_false(given.get("init")):
                        fields.pop(statement.target.id, None)
                        continue
                    required = not {"default", "default_factory"} & set(given)
                    if "kw_only" in given:
                        return None
            fields[statement.target.id] = Parameter(
                statement.target.id,
                Kind.KEYWORD_ONLY if keyword_only else Kind.EITHER,
                required,
            )
    return tuple(fields.values())


_KEEPS_SIGNATURE = frozenset(
    {"staticmethod", "classmethod", "abstractmethod", "contextmanager", "asynccontextmanager",
     "lru_cache", "cache", "override", "final", "wraps", "no_grad", "inference_mode",
     "property", "cached_property", "deprecated"}
)  # fmt: skip


def keeps_signature(node: FunctionNode) -> bool:
    """Whether calls of a function bind to the signature that is written, decorators included."""
    return all(decorator_name(d) in _KEEPS_SIGNATURE for d in node.decorator_list)


def decorated_with(node: FunctionNode, name: str) -> bool:
    """Whether one of the decorators is called `name`."""
    return any(decorator_name(d) == name for d in node.decorator_list)


def _has_metaclass(node: ast.ClassDef) -> bool:
    return any(k.arg == "metaclass" for k in node.keywords)


def _is_false(node: ast.expr | None) -> bool:
    return isinstance(node, ast.Constant) and node.value is False


def _is_property(node: FunctionNode) -> bool:
    return any(
        (isinstance(d, ast.Name) and "property" in d.id)
        or (
            isinstance(d, ast.Attribute)
            and (d.attr in ("setter", "getter") or "property" in d.attr)
        )
        for d in node.decorator_list
    )


def _dataclass_options(node: ast.ClassDef, module: Module) -> bool | None:
    """`kw_only` of a standard library dataclass; None where it is something else."""
    if len(node.decorator_list) != 1:
        return None
    decorator = node.decorator_list[0]
    chain = dotted(decorator.func if isinstance(decorator, ast.Call) else decorator)
    if chain is None:
        return None
    base, attributes = chain
    bindings = module.bindings.get(base.id, [])
    target = ".".join([bindings[0].target or "", *attributes]) if bindings else ""
    if target != "dataclasses.dataclass":
        return None
    keyword_only = False
    if isinstance(decorator, ast.Call):
        for keyword in decorator.keywords:
            if keyword.arg in (None, "init"):
                return None
            if keyword.arg == "kw_only":
                keyword_only = not _is_false(keyword.value)
    return keyword_only


def _shown(name: str, fields: tuple[Parameter, ...]) -> str:
    shown = [f.name if f.required else f"{f.name}=…" for f in fields]
    return f"{name}({', '.join(shown)})"
