# SPDX-License-Identifier: Apache-2.0
"""Bindings of names, the scopes that they stand in, and what reaches a statement."""

from __future__ import annotations

import ast
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from migrator.codemod.syntax import Function, names_bound, own_nodes, parameters

ITEM = "item"
"""Step of a binding: an item that iterating over the value gives."""
ENTERED = "entered"
"""Step of a binding: what `with` binds by its `as`."""
STARRED = "starred"
"""Step of a binding: a list of some items of the value."""


@dataclass(frozen=True, eq=False, slots=True)
class Binding:
    """One way in which a name gets what it stands for."""

    kind: str
    """`value`, `parameter`, `annotated`, `import`, `definition`, `isinstance`, or `other`."""
    node: ast.AST | None = None
    """The value, parameter, annotation, definition, or the class that `isinstance` asks for."""
    steps: tuple[str | int, ...] = ()
    """From the value to what is bound: `ITEM`, `ENTERED`, `STARRED`, or the place in a tuple."""
    name: str = ""
    """Of an import: the qualified name. Of others: how it is bound, in words."""
    scope: Scope | None = None
    """Where it stands."""


Bindings = frozenset[Binding]


class Env:
    """What reaches a statement: the bindings of names, and of chains of attributes."""

    __slots__ = ("chains", "names")

    def __init__(
        self,
        names: Mapping[str, Bindings] | None = None,
        chains: Mapping[str, Bindings] | None = None,
    ) -> None:
        self.names = dict(names or {})
        self.chains = dict(chains or {})

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Env) and self.names == other.names and self.chains == other.chains

    __hash__ = None  # type: ignore[assignment] # it changes

    def copy(self) -> Env:
        """The same, to be changed apart."""
        return Env(self.names, self.chains)

    def get(self, name: str) -> Bindings | None:
        """What is bound to a name or chain; None where nothing is known of it."""
        return (self.chains if "." in name else self.names).get(name)

    def set(self, name: str, found: Bindings) -> None:
        """Bind a name or chain; what was known of its attributes is gone."""
        self.drop(name)
        (self.chains if "." in name else self.names)[name] = found

    def drop(self, name: str) -> None:
        """Unbind a name or chain."""
        if self.chains:
            start = f"{name}."
            for key in [key for key in self.chains if key.startswith(start)]:
                del self.chains[key]
        (self.chains if "." in name else self.names).pop(name, None)

    def merge(self, other: Env) -> None:
        """Add what reaches by another way."""
        for name, found in other.names.items():
            known = self.names.get(name)
            if known is None:
                self.names[name] = found
            elif known is not found:
                self.names[name] = known | found
        # Where an attribute was not set on some way, it may be anything.
        self.chains = {
            name: found | other.chains[name]
            for name, found in self.chains.items()
            if name in other.chains
        }


def join(*envs: Env | None) -> Env | None:
    """What holds where several ways come together; None where none of them does."""
    joined: Env | None = None
    for env in envs:
        if env is None:
            continue
        if joined is None:
            joined = env.copy()
        else:
            joined.merge(env)
    return joined


@dataclass(eq=False)
class Scope:
    """A module, class, function, lambda or comprehension, and all that it binds."""

    node: ast.AST
    outer: Scope | None
    class_: ast.ClassDef | None = None
    """Of a function right below a class: that class."""
    bound: dict[str, set[Binding]] = field(default_factory=dict)
    """Name → every binding, wherever it stands and from whichever scope it comes."""
    elsewhere: dict[str, set[Binding]] = field(default_factory=dict)
    """Those of them that inner scopes make, by `global` or `nonlocal`."""
    body: Sequence[ast.AST] = ()
    """What is run in it."""

    # Most functions are never looked into: their names are found when they are asked for.

    @cached_property
    def _names(self) -> tuple[frozenset[str], frozenset[str]]:
        names: set[str] = set()
        outside: set[str] = set()
        for part in own_nodes(self.body):
            if isinstance(part, ast.Global | ast.Nonlocal):
                # In a module `global` changes nothing: its names are its own.
                outside.update(part.names if self.outer is not None else ())
            else:
                names.update(names_bound(part))
        if isinstance(self.node, Function):
            names.update(parameter.arg for parameter in parameters(self.node))
        return frozenset(names - outside), frozenset(outside)

    @cached_property
    def locals(self) -> frozenset[str]:
        """The names that are its own, as Python's compiler finds them."""
        return self._names[0]

    @property
    def outside(self) -> frozenset[str]:
        """Names that it declares `global` or `nonlocal`."""
        return self._names[1]

    def add(self, name: str, binding: Binding) -> None:
        """Note a binding of one of the scope's own names."""
        self.bound.setdefault(name, set()).add(binding)


def is_global(scope: Scope, name: str) -> bool:
    """Does a scope declare the name `global`?"""
    body = getattr(scope.node, "body", ())
    return isinstance(body, list) and any(
        isinstance(part, ast.Global) and name in part.names for part in own_nodes(body)
    )


class Noted:
    """What is noted of the names of a module while walkers follow them.

    Args:
        module: Python's syntax tree of it.
        package: parts of the package that relative imports start from; left out where unknown.
    """

    def __init__(self, module: ast.Module, package: Sequence[str]) -> None:
        self.module = module
        self._package = package
        self.reads: dict[int, set[Binding]] = {}
        self.scopes: dict[int, Scope] = {}
        """Identity of a name, a chain of attributes or a definition → the scope it stands in."""
        self.inner: dict[int, Scope] = {}
        """Identity of a definition or comprehension → the scope that it makes."""
        self.made: dict[tuple[str, int, tuple[str | int, ...], str, int], Binding] = {}
        self.sums: dict[int, ast.BinOp] = {}
        """Identity of an augmented assignment → the sum that it binds."""
        self.bodies: dict[int, tuple[ast.AST, Callable[[], None]]] = {}
        """Functions that were not looked into yet, by identity."""
        self.late: list[Callable[[], None]] = []
        """What can be told only when every binding of every scope is known."""
        self.starts: dict[tuple[int, tuple[str, ...]], Env] = {}
        """Identity of a loop, and ways to it → what may hold where it begins. A loop around it only
        adds to that: to begin anew each time takes twice as long for each loop around."""
        self.top = self.new_scope(module, None, module.body)

    def new_scope(self, node: ast.AST, outer: Scope | None, body: Sequence[ast.AST]) -> Scope:
        """A new scope for what is run in a node."""
        scope = Scope(node, outer, body=body)
        if isinstance(outer and outer.node, ast.ClassDef) and isinstance(node, Function):
            assert outer is not None
            assert isinstance(outer.node, ast.ClassDef)
            scope.class_ = outer.node
        return scope

    def lookup(self, name: str, scope: Scope) -> Bindings:
        """Every binding that a name may have when a scope is run at some time."""
        at: Scope | None = scope
        while at is not None:
            if name in at.locals and not (isinstance(at.node, ast.ClassDef) and at is not scope):
                return frozenset(at.bound.get(name, ()))
            at = self.top if name in at.outside and is_global(at, name) else at.outer
        return frozenset(self.top.bound.get(name, ()))

    def owner(self, name: str, scope: Scope) -> Scope:
        """The scope whose name it is that a scope binds."""
        if name not in scope.outside:
            return scope
        at = scope.outer
        while at is not None and at.outer is not None:
            if not is_global(scope, name) and name in at.locals:
                return at
            at = at.outer
        return self.top

    def qualified_import(self, node: ast.ImportFrom) -> str:
        """The module that names are imported from, with what a relative import starts from."""
        if not node.level:
            return node.module or ""
        parts = [*self._package[: len(self._package) - node.level + 1]]
        return ".".join([*(parts or ["." * node.level]), *([node.module] if node.module else [])])
