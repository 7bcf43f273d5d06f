# SPDX-License-Identifier: Apache-2.0
"""Which names of a module stand for a package, by the imports that reach them.

`torch.cuda`, `import torch.cuda as tc`, `from torch import cuda`, `import torch as th` and
`getattr(torch, "cuda")` name one module. Scopes count: a parameter called `cuda` is none of it.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass

import libcst as cst

from migrator.flow import Flow, in_order
from migrator.matchers import Place, places


@dataclass(frozen=True, slots=True)
class Origin:
    """A use of a package: the longest chain of attributes that begins with a name."""

    place: Place[cst.CSTNode]
    """The name where the chain begins."""
    name: str
    """The qualified name that it stands for."""
    certain: bool
    """Does nothing else reach it?"""

    def chain(self) -> Iterator[tuple[str, Place[cst.CSTNode]]]:
        """The name and each attribute asked of it in turn, with the qualified name up to there."""
        place, name = self.place, self.name
        yield name, place
        while isinstance(place.parent, cst.Attribute) and place.parent.value is place.node:
            place = Place(place.parent, place.parents)
            assert isinstance(place.node, cst.Attribute)
            name = f"{name}.{place.node.attr.value}"
            yield name, place


def origins(module: cst.Module, syntax: ast.Module, data: bytes, package: str) -> list[Origin]:
    """The names of a module that may stand for a package or a part of it, where they are read.

    Args:
        module: the module.
        syntax: what Python's own parser makes of it.
        data: its source.
        package: the package: `torch`.
    """
    roots = _roots(syntax, package)
    reads = [n for n in in_order(syntax) if isinstance(n, ast.Name) and n.id in roots]
    names = [
        p
        for p in places(module, cst.Name)
        if isinstance(p.node, cst.Name) and p.node.value in roots and _is_expression(p)
    ]
    if [n.id for n in reads] != [p.node.value for p in names if isinstance(p.node, cst.Name)]:
        raise AssertionError(f"Python and LibCST see other names of {package}")
    if not reads:
        return []
    flow = Flow(syntax, data)
    flow.enter([node.lineno for node in reads])
    found = []
    for read, place in zip(reads, names, strict=True):
        if not isinstance(read.ctx, ast.Load):
            continue
        name, certain = flow.qualified(read)
        if name is None and read.id == package and not flow.bindings(read):
            name = package  # nothing that is seen here binds it
        if name is not None and (name == package or name.startswith(f"{package}.")):
            found.append(Origin(place, name, certain))
    return found


def _roots(syntax: ast.Module, package: str) -> set[str]:
    """Names that are bound to the package, a part of it, or what such a name is given to."""
    roots = {package}
    assigned: list[tuple[str, ast.expr]] = []
    for node in ast.walk(syntax):
        if isinstance(node, ast.Import):
            names = [(a.asname or a.name.partition(".")[0], a.name) for a in node.names]
            roots.update(local for local, name in names if _within(name, package))
        elif isinstance(node, ast.ImportFrom):
            if not node.level and _within(node.module or "", package):
                roots.update(alias.asname or alias.name for alias in node.names)
        elif isinstance(node, ast.Assign):
            assigned += [(t.id, node.value) for t in node.targets if isinstance(t, ast.Name)]
        elif isinstance(node, ast.AnnAssign | ast.NamedExpr):
            name = node.target.id if isinstance(node.target, ast.Name) else None
            if name is not None and node.value is not None:
                assigned.append((name, node.value))
    more = True
    while more:
        new = {
            name
            for name, value in assigned
            if name not in roots and (_root(value) in roots or _by_string(value, package))
        }
        roots |= new
        more = bool(new)
    return roots


def _within(name: str, package: str) -> bool:
    return name == package or name.startswith(f"{package}.")


def _root(node: ast.expr) -> str | None:
    """The name that an alias is made of: `torch` of `torch.cuda` and `getattr(torch, "cuda")`."""
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.args:
        return _root(node.args[0]) if node.func.id == "getattr" else None
    while isinstance(node, ast.Attribute):
        node = node.value
    return node.id if isinstance(node, ast.Name) else None


def _by_string(node: ast.expr, package: str) -> bool:
    """Does a call name the package by a string, as `import_module` does?"""
    return isinstance(node, ast.Call) and any(
        isinstance(argument, ast.Constant)
        and isinstance(argument.value, str)
        and _within(argument.value, package)
        for argument in node.args
    )


def _is_expression(place: Place[cst.Name]) -> bool:
    """Is it a name to Python's syntax tree, not a parameter, a keyword or the like?"""
    node, parent = place.node, place.parent
    match parent:
        case cst.Attribute():
            return parent.value is node and not _in_import(place)
        case cst.Param() | cst.FunctionDef() | cst.ClassDef() | cst.Arg() | cst.NamedExpr():
            return node is not getattr(parent, "name", None) and node is not getattr(
                parent, "keyword", None
            )
        case cst.AsName():
            return isinstance(Place(parent, place.parents).parent, cst.WithItem)
        case (
            cst.ImportAlias()
            | cst.ImportFrom()
            | cst.NameItem()
            | cst.MatchAs()
            | cst.MatchStar()
            | cst.MatchMapping()
            | cst.MatchKeywordElement()
            | cst.TypeVar()
            | cst.TypeVarTuple()
            | cst.ParamSpec()
        ):
            return False
    return True


def _in_import(place: Place[cst.Name]) -> bool:
    return any(isinstance(above, (cst.ImportAlias, cst.ImportFrom)) for above in place.ancestors)
