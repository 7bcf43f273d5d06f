# SPDX-License-Identifier: Apache-2.0
"""Which names of a module stand for a package, by the imports that reach them.

`torch.cuda`, `import torch.cuda as tc`, `from torch import cuda`, `import torch as th` and
`getattr(torch, "cuda")` name one module. Scopes count: a parameter called `cuda` is none of it.
"""

from __future__ import annotations

import ast
from bisect import bisect_left, bisect_right
from collections.abc import Collection, Iterator
from dataclasses import dataclass

import libcst as cst

from migrator.codemod.flow import Flow
from migrator.codemod.matchers import Place, places
from migrator.codemod.matchers import dotted as node_name
from migrator.codemod.rule import File
from migrator.codemod.syntax import dotted, in_order, lines_of


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


def origins(file: File, module: str) -> list[Origin]:
    """The names of a file that may stand for a module, a package around it, or a part of it.

    Args:
        file: the file; what it keeps has to hold each statement that matters and names the package.
        module: the module: `torch.cuda`.

    Returns:
        Where they are read, in the order of the source.

    Raises:
        WantedError: other names of the module are looked for in what is not parsed yet.
    """
    package = module.partition(".")[0]
    roots = _roots(file, module)
    file.want(*roots - {package})
    syntax = file.kept_syntax
    reads = [n for n in in_order(syntax) if isinstance(n, ast.Name) and n.id in roots]
    names = [
        p
        for p in places(file.kept, cst.Name)
        if isinstance(p.node, cst.Name) and p.node.value in roots and _is_expression(p)
    ]
    if [n.id for n in reads] != [p.node.value for p in names if isinstance(p.node, cst.Name)]:
        raise AssertionError(f"Python and LibCST see other names of {module}")
    if not reads:
        return []
    flow = Flow(syntax, file.kept_data)
    flow.enter([node.lineno for node in reads])
    found = []
    for read, place in zip(reads, names, strict=True):
        if not isinstance(read.ctx, ast.Load):
            continue
        name, certain = flow.qualified(read)
        if name is None and read.id == package and not flow.bindings(read):
            name = package  # nothing that is seen here binds it
        if name is not None and _is_akin(name, module):
            found.append(Origin(place, name, certain))
    return found


def _roots(file: File, module: str) -> set[str]:
    """Names that are bound to the module, a package around it, or what is in one of them."""
    package = module.partition(".")[0]
    roots = {package}
    assigned: list[tuple[str, ast.expr]] = []
    for node in _binding_nodes(file):
        if isinstance(node, ast.Import):
            for alias in node.names:
                bound = alias.name if alias.asname else alias.name.partition(".")[0]
                if _is_akin(bound, module):
                    roots.add(alias.asname or bound)
        elif isinstance(node, ast.ImportFrom):
            if not node.level:
                roots.update(
                    alias.asname or alias.name
                    for alias in node.names
                    if _is_akin(f"{node.module}.{alias.name}", module)
                )
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
            if name not in roots
            and (_is_made_of(value, roots, module) or _by_string(value, module))
        }
        roots |= new
        more = bool(new)
    return roots


def _binding_nodes(file: File) -> Iterator[ast.AST]:
    """The statements of a file, at every level, and its expressions `a := b`."""
    named = lines_of(rb":=", file.data)
    stack: list[ast.AST] = [*file.syntax.body]
    while stack:
        node = stack.pop()
        yield node
        first, last = getattr(node, "lineno", 0), getattr(node, "end_lineno", None) or 0
        here = not last or bisect_left(named, first) < bisect_right(named, last)
        for part in ast.iter_child_nodes(node) if here else _below(node):
            if isinstance(part, ast.stmt | ast.excepthandler | ast.match_case):
                stack.append(part)
            else:
                yield from (n for n in ast.walk(part) if isinstance(n, ast.NamedExpr))


def _below(node: ast.AST) -> Iterator[ast.AST]:
    """The statements right below another one."""
    for part in ("body", "orelse", "finalbody", "handlers", "cases"):
        yield from getattr(node, part, ())


def _is_akin(name: str, module: str) -> bool:
    """Is a name that of a module, of a package around it, or of what is in it?"""
    return f"{module}.".startswith(f"{name}.") or name.startswith(f"{module}.")


def _is_made_of(node: ast.expr, roots: set[str], module: str) -> bool:
    """Does an expression begin with one of some names: `torch.cuda`, `getattr(torch, "cuda")`?"""
    name = dotted(node)
    if name is None:
        if not isinstance(node, ast.Call) or not node.args or dotted(node.func) != "getattr":
            return isinstance(node, ast.Attribute) and _is_made_of(node.value, roots, module)
        return _is_made_of(node.args[0], roots, module)
    root = name.partition(".")[0]
    return root in roots and (root != module.partition(".")[0] or _is_akin(name, module))


def _by_string(node: ast.expr, module: str) -> bool:
    """Does a call name the module by a string, as `import_module` does?"""
    return isinstance(node, ast.Call) and any(
        isinstance(argument, ast.Constant)
        and isinstance(argument.value, str)
        and _is_akin(argument.value, module)
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


def named_by_string(node: cst.CSTNode, package: str, names: Collection[str]) -> str | None:
    """The string by which a call or an index takes a package such as `torch.cuda`, or its name.

    Args:
        node: a call or an index.
        package: two names with a dot.
        names: those of its names that count.
    """
    if isinstance(node, cst.Subscript):
        strings = [e.slice.value for e in node.slice if isinstance(e.slice, cst.Index)]
    elif isinstance(node, cst.Call):
        strings = [argument.value for argument in node.args]
    else:
        return None
    texts = [s.evaluated_value for s in strings if isinstance(s, cst.SimpleString)]
    called = node_name(node.func if isinstance(node, cst.Call) else node.value) or ""
    if called.rpartition(".")[2] in ("import_module", "__import__") or called == "sys.modules":
        for text in texts:
            if isinstance(text, str) and (text == package or text.startswith(f"{package}.")):
                return text
    if isinstance(node, cst.Call) and node_name(node.func) == "getattr" and len(node.args) > 1:
        parent, _, child = package.rpartition(".")
        of = node_name(node.args[0].value) or ""
        asked = of == package and not set(names).isdisjoint(texts)
        if asked or (of == parent and child in texts):
            return f"{of}.{texts[0]!s}"
    return None
