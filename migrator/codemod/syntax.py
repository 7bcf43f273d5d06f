# SPDX-License-Identifier: Apache-2.0
"""Python's own syntax tree: names in it, its nodes in the order of the source."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator
from functools import lru_cache

Function = ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda
Comprehension = ast.ListComp | ast.SetComp | ast.DictComp | ast.GeneratorExp


def lines_of(pattern: bytes, data: bytes) -> list[int]:
    """The lines, counted from 1 as Python does, in which a regular expression matches."""
    found = []
    line, at = 1, 0
    for match in re.finditer(pattern, data):
        line += len(_END.findall(data, at, match.start()))
        at = match.start()
        found.append(line)
    return found


_END = re.compile(rb"\r\n?|\n")


def span(node: ast.AST) -> tuple[int, int]:
    """The first and the last line of a node."""
    first, last = getattr(node, "lineno", 0), getattr(node, "end_lineno", None)
    return first, last if last is not None else first


def parameters(node: Function) -> list[ast.arg]:
    """The parameters of a function in order, `*args` and `**kwargs` included."""
    spec = node.args
    found = [*spec.posonlyargs, *spec.args]
    found += [spec.vararg] if spec.vararg is not None else []
    found += spec.kwonlyargs
    return [*found, *([spec.kwarg] if spec.kwarg is not None else [])]


def dotted(node: ast.AST | None) -> str | None:
    """`a.b.c` for a name or a chain of attributes; None for any other expression."""
    parts: list[str] = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    if not isinstance(node, ast.Name):
        return None
    return ".".join([node.id, *reversed(parts)])


def in_order(node: ast.AST) -> Iterator[ast.AST]:
    """A node and all below it, each before its parts, in the order of the source."""
    stack = [node]
    while stack:
        at = stack.pop()
        yield at
        stack += reversed(_children(at))


def _children(node: ast.AST) -> list[ast.AST]:
    if isinstance(node, ast.Dict):
        pairs = zip(node.keys, node.values, strict=True)
        return [part for pair in pairs for part in pair if part is not None]
    if isinstance(node, ast.arguments):
        return _arguments(node)
    if isinstance(node, ast.Call | ast.ClassDef):
        # A starred argument may come after a keyword.
        first = [] if isinstance(node, ast.Call) else [*node.decorator_list]
        first += getattr(node, "type_params", ())
        given = [*(node.args if isinstance(node, ast.Call) else node.bases), *node.keywords]
        given.sort(key=_position)
        rest = [] if isinstance(node, ast.Call) else node.body
        return [*([node.func] if isinstance(node, ast.Call) else []), *first, *given, *rest]
    if isinstance(node, ast.MatchMapping):
        return [part for pair in zip(node.keys, node.patterns, strict=True) for part in pair]
    names = _ORDER.get(type(node), node._fields)
    found: list[ast.AST] = []
    for name in names:
        value = getattr(node, name, None)
        if isinstance(value, list):
            found += [item for item in value if isinstance(item, ast.AST)]
        elif isinstance(value, ast.AST):
            found.append(value)
    return found


_ORDER: dict[type, tuple[str, ...]] = {
    ast.AsyncFunctionDef: ("decorator_list", "type_params", "args", "returns", "body"),
    ast.ClassDef: ("decorator_list", "type_params", "bases", "keywords", "body"),
    ast.FunctionDef: ("decorator_list", "type_params", "args", "returns", "body"),
    ast.IfExp: ("body", "test", "orelse"),
    ast.DictComp: ("key", "value", "generators"),
}
"""Fields of the nodes that Python does not declare in the order of the source."""


def _position(node: ast.AST) -> tuple[int, int]:
    value = node.value if isinstance(node, ast.keyword) else node
    return value.lineno, value.col_offset  # type: ignore[attr-defined]


def _arguments(node: ast.arguments) -> list[ast.AST]:
    found: list[ast.AST] = []
    plain = [*node.posonlyargs, *node.args]
    bare = len(plain) - len(node.defaults)
    for number, parameter in enumerate(plain):
        found.append(parameter)
        if number >= bare:
            found.append(node.defaults[number - bare])
    if node.vararg is not None:
        found.append(node.vararg)
    for parameter, default in zip(node.kwonlyargs, node.kw_defaults, strict=True):
        found += [parameter, *([default] if default is not None else [])]
    return [*found, *([node.kwarg] if node.kwarg is not None else [])]


def own_nodes(body: Iterable[ast.AST]) -> Iterator[ast.AST]:
    """The nodes of a scope, without those of the scopes inside but with what these bind outside."""
    stack = list(body)
    while stack:
        node = stack.pop()
        yield node
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            stack += [*node.decorator_list, *node.args.defaults]
            stack += [default for default in node.args.kw_defaults if default is not None]
        elif isinstance(node, ast.ClassDef):
            stack += [*node.decorator_list, *node.bases, *node.keywords]
        elif isinstance(node, ast.Lambda):
            stack += [*node.args.defaults, *(d for d in node.args.kw_defaults if d is not None)]
        elif isinstance(node, Comprehension):
            # `:=` in a comprehension binds in the scope around it.
            stack += [part for part in ast.walk(node) if isinstance(part, ast.NamedExpr)]
            stack.append(node.generators[0].iter)
        else:
            stack += ast.iter_child_nodes(node)


def names_bound(node: ast.AST) -> Iterator[str]:
    """Names that a node itself binds."""
    if isinstance(node, ast.Name):
        if not isinstance(node.ctx, ast.Load):
            yield node.id
    elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        yield node.name
    elif isinstance(node, ast.NamedExpr):
        yield node.target.id
    elif isinstance(node, ast.Import):
        yield from (alias.asname or alias.name.partition(".")[0] for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        yield from (alias.asname or alias.name for alias in node.names if alias.name != "*")
    elif isinstance(node, ast.ExceptHandler | ast.MatchAs | ast.MatchStar):
        if node.name is not None:
            yield node.name
    elif isinstance(node, ast.MatchMapping) and node.rest is not None:
        yield node.rest


@lru_cache(maxsize=64)
def _self_targets(
    class_: ast.ClassDef,
) -> dict[str, list[tuple[ast.expr | None, ast.expr | None, ast.expr | None, ast.stmt]]]:
    """Attribute → (target, value, annotation, method) of what a class's methods set on `self`."""
    found: dict[str, list[tuple[ast.expr | None, ast.expr | None, ast.expr | None, ast.stmt]]] = {}
    for method in class_.body:
        if not isinstance(method, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        given = parameters(method)
        if not given:
            continue
        own = given[0].arg

        def note(
            target: ast.expr,
            value: ast.expr | None,
            annotation: ast.expr | None,
            own: str = own,
            method: ast.stmt = method,
        ) -> None:
            if isinstance(target, ast.Tuple | ast.List):
                for part in target.elts:
                    note(part, None, None)
            elif (
                isinstance(target, ast.Attribute)
                and isinstance(target.value, ast.Name)
                and target.value.id == own
            ):
                found.setdefault(target.attr, []).append((target, value, annotation, method))

        for node in ast.walk(method):
            if isinstance(node, ast.Assign):
                for target in node.targets:
                    note(target, node.value, None)
            elif isinstance(node, ast.AnnAssign):
                note(node.target, node.value, node.annotation)
            elif isinstance(node, ast.AugAssign | ast.For | ast.AsyncFor):
                note(node.target, None, None)
            elif isinstance(node, ast.withitem) and node.optional_vars is not None:
                note(node.optional_vars, None, None)
    return found


def set_on_self(
    class_: ast.ClassDef, name: str
) -> list[tuple[ast.expr | None, ast.expr | None, ast.expr | None, ast.stmt]]:
    """Target, value, annotation and method of what sets an attribute on `self`."""
    return _self_targets(class_).get(name, [])
