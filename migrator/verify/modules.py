# SPDX-License-Identifier: Apache-2.0
"""Modules as source: what they bind and export, and what a name of a package can mean.

Whatever cannot be told from the source is `Unknown`, so that no finding rests on a guess.
"""

from __future__ import annotations

import ast
import warnings
from dataclasses import dataclass
from functools import cached_property

from migrator.verify.scopes import Binding, FunctionNode, ModuleScopes, analyse


class Module:
    """One module of a package, parsed when first looked into."""

    def __init__(self, name: str, path: str, source: bytes, tree: ast.Module) -> None:
        self.name = name
        self.path = path
        self.source = source
        self.tree = tree
        self.is_package = path.endswith("__init__.py")

    @cached_property
    def scopes(self) -> ModuleScopes:
        """The scopes and uses of the module."""
        return analyse(self.tree, self.name, self.is_package)

    @property
    def bindings(self) -> dict[str, list[Binding]]:
        """What the module's own scope binds."""
        return self.scopes.module.bindings

    @cached_property
    def strings(self) -> frozenset[str]:
        """All string constants: a lazy module keeps the names it exports in some table of these."""
        return frozenset(
            node.value
            for node in ast.walk(self.tree)
            if isinstance(node, ast.Constant) and isinstance(node.value, str)
        )

    @cached_property
    def lazy_names_are_strings(self) -> bool:
        """Whether the module's `__getattr__` answers for strings of the module and nothing else.

        It does where it raises AttributeError in the end and hands the name to no function.
        """
        for binding in self.bindings.get("__getattr__", ()):
            function = binding.node
            if binding.value is not None and "__getattr__" in ast.unparse(binding.value):
                continue  # wrapped in a cache, as vllm.envs does
            if not isinstance(function, ast.FunctionDef) or not function.args.args:
                return False
            name = function.args.args[0].arg
            raises = False
            for node in ast.walk(function):
                if isinstance(node, ast.Raise) and node.exc is not None:
                    raises = raises or "AttributeError" in ast.unparse(node.exc)
                elif isinstance(node, ast.Call) and not isinstance(
                    self.scopes.parents.get(node), ast.Raise
                ):
                    inner = [n for a in node.args for n in ast.walk(a)]
                    if any(
                        isinstance(n, ast.Name)
                        and n.id == name
                        and not isinstance(self.scopes.parents.get(n), ast.Subscript)
                        for n in inner
                    ):
                        return False
            if not raises:
                return False
        return True

    @cached_property
    def exported(self) -> frozenset[str] | None:
        """The names in `__all__`; None where there is none that can be read off."""
        names: set[str] = set()
        found = False
        for statement in self.tree.body:
            value: ast.expr | None = None
            if (
                isinstance(statement, ast.Assign)
                and any(isinstance(t, ast.Name) and t.id == "__all__" for t in statement.targets)
            ) or (
                isinstance(statement, ast.AugAssign | ast.AnnAssign)
                and isinstance(statement.target, ast.Name)
                and statement.target.id == "__all__"
            ):
                value = statement.value
            if value is None:
                continue
            found = True
            names.update(
                n.value
                for n in ast.walk(value)
                if isinstance(n, ast.Constant) and isinstance(n.value, str)
            )
        return frozenset(names) if found else None


def parse_module(name: str, path: str, source: bytes) -> Module | None:
    """Parse one file; None where it is not Python that this interpreter reads."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            tree = ast.parse(source, path)
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            return None
    return Module(name, path, source, tree)


def is_none(node: ast.expr | None) -> bool:
    """Whether an assigned value is the constant None, the usual stand-in for a failed import."""
    return isinstance(node, ast.Constant) and node.value is None


@dataclass(frozen=True, slots=True, eq=False)
class Definition:
    """A function or class of the package."""

    module: Module
    node: FunctionNode | ast.ClassDef


@dataclass(frozen=True, slots=True)
class External:
    """A name from outside the package, by its dotted path."""

    target: str


@dataclass(frozen=True, slots=True, eq=False)
class Value:
    """A name of the package that is neither a module nor a function or class."""

    module: Module
    binding: Binding | None = None


@dataclass(frozen=True, slots=True)
class Unknown:
    """The source does not tell."""


@dataclass(frozen=True, slots=True, eq=False)
class Missing:
    """`name` is not there; `known` are the names that are."""

    where: str
    name: str
    known: tuple[str, ...] = ()


Resolved = Module | Definition | External | Value | Unknown | Missing
