# SPDX-License-Identifier: Apache-2.0
"""A Python package as source: its modules, and what its names mean through re-exports.

Serves both the emitted tree (a directory) and the torch_npu wheel (a zip file). Whatever cannot
be told from the source is `Unknown`, so that no finding rests on a guess.
"""

from __future__ import annotations

import ast
import builtins
from collections.abc import Iterator

from migrator.verify import constructors
from migrator.verify.classes import Line, class_attribute, line_of
from migrator.verify.modules import (
    Definition,
    External,
    Missing,
    Module,
    Resolved,
    Unknown,
    Value,
    is_none,
    parse_module,
)
from migrator.verify.package_files import Files
from migrator.verify.scopes import Binding, FunctionNode, Scope, dotted
from migrator.verify.signature import Signature

_MODULE_ATTRIBUTES = frozenset(
    {"__name__", "__doc__", "__file__", "__path__", "__spec__", "__loader__", "__package__",
     "__dict__", "__all__", "__version__", "__annotations__", "__builtins__"}
)  # fmt: skip


class Package:
    """The modules below some top-level names, found as the import system would find them."""

    def __init__(
        self, files: Files, top_level: frozenset[str], built: frozenset[str] = frozenset()
    ) -> None:
        """`built` names packages that a build adds files to: their source is not the whole."""
        self.files = files
        self.top_level = top_level
        self.built = built
        self._modules: dict[str, Module | None] = {}
        self._members: dict[tuple[str, str], Resolved] = {}

    def owns(self, target: str) -> bool:
        """Whether a dotted path lies in this package."""
        return target.partition(".")[0] in self.top_level

    def is_built(self, target: str) -> bool:
        """Whether a build adds to what `target` lies in."""
        return any(target == name or target.startswith(name + ".") for name in self.built)

    def module(self, name: str) -> Module | None:
        """The module called `name`; None if it is absent or cannot be parsed."""
        if name not in self._modules:
            self._modules[name] = self._load(name)
        return self._modules[name]

    def has_module(self, name: str) -> bool:
        """Whether `name` could be imported: a module, a package, a folder, something built."""
        if self.is_built(name):
            return True
        path = name.replace(".", "/")
        return self.module(name) is not None or self.files.is_directory(path)

    def _load(self, name: str) -> Module | None:
        if not name or not self.owns(name):
            return None
        base = name.replace(".", "/")
        for path in (f"{base}/__init__.py", f"{base}.py"):
            source = self.files.read(path)
            if source is not None:
                return parse_module(name, path, source)
        return None

    def resolve(self, target: str, depth: int = 0) -> Resolved:
        """What the absolute dotted path `target` means, through re-exports."""
        if not self.owns(target):
            return External(target)
        if self.is_built(target):
            return Unknown()
        parts = target.split(".")
        module: Module | None = None
        used = 0
        for end in range(1, len(parts) + 1):
            path = ".".join(parts[:end])
            found = self.module(path)
            if found is None:
                if self.files.is_directory(path.replace(".", "/")):  # a package without __init__
                    continue
                break
            # A name bound in the package wins over a submodule that shares its name.
            if module is not None and parts[end - 1] in module.bindings:
                own = self.member(module, parts[end - 1], depth + 1)
                if not isinstance(own, Module):
                    break
            module, used = found, end
        if module is None:
            if self.files.is_directory(parts[0]):
                return Unknown()
            return Missing("", target)
        if used < len(parts) and self.files.is_directory("/".join(parts[: used + 1])):
            return Unknown()
        result: Resolved = module
        for attribute in parts[used:]:
            result = self.attribute(result, attribute, depth + 1)
            if isinstance(result, Missing | Unknown | External):
                break
        return result

    def resolve_from(self, module: str, name: str, depth: int = 0) -> Resolved:
        """What `from module import name` binds: `module` goes by files, not by attributes."""
        if not self.owns(module):
            return External(f"{module}.{name}")
        if self.is_built(f"{module}.{name}"):
            return Unknown()
        found = self.module(module)
        if found is not None:
            return self.member(found, name, depth + 1)
        child = self.module(f"{module}.{name}")
        if child is not None:
            return child
        return Unknown() if self.has_module(module) else Missing("", module)

    def attribute(self, owner: Resolved, name: str, depth: int = 0) -> Resolved:
        """What `owner.name` means."""
        if isinstance(owner, Module):
            return self.member(owner, name, depth)
        if isinstance(owner, Definition) and isinstance(owner.node, ast.ClassDef):
            return self.class_attribute(owner, name)
        return Unknown()

    def member(self, module: Module, name: str, depth: int = 0) -> Resolved:
        """What `module.name` means."""
        key = (module.name, name)
        if key not in self._members:
            if depth > 40:
                return Unknown()
            # `from . import x` in a package asks for the package's own x again: the submodule.
            self._members[key] = self.module(f"{module.name}.{name}") or Unknown()
            self._members[key] = self._member(module, name, depth)
        return self._members[key]

    def _member(self, module: Module, name: str, depth: int) -> Resolved:
        bindings = [b for b in module.bindings.get(name, ()) if not b.type_checking]
        if bindings:
            return self.of_bindings(module, bindings, depth)
        child = f"{module.name}.{name}"
        if module.is_package and self.has_module(child):
            found = self.module(child)
            return found if found is not None else Unknown()
        if name in _MODULE_ATTRIBUTES:
            return Value(module)
        for star in module.scopes.module.stars:
            if not self.owns(star):
                return Unknown()
            source = self.module(star)
            if source is None:
                return Unknown()
            public = source.exported
            if name in public if public is not None else not name.startswith("_"):
                result = self.member(source, name, depth + 1)
                if not isinstance(result, Missing):
                    return result
        if module.scopes.dynamic:
            return Unknown()
        if "__getattr__" in module.bindings:
            if name in module.strings:
                return Value(module)
            if not module.lazy_names_are_strings:
                return Unknown()
        return Missing(module.name, name, tuple(self.names(module)))

    def of_bindings(self, module: Module, bindings: list[Binding], depth: int = 0) -> Resolved:
        """What a name means that has these bindings in `module`."""
        useful = [b for b in bindings if not is_none(b.value)] or bindings
        results = [self._of_binding(module, b, depth) for b in useful]
        known = [r for r in results if not isinstance(r, Missing)]
        if not known:
            return results[0]
        if len(known) == 1:
            return known[0]
        first = known[0]
        if all(isinstance(r, External) and r == first for r in known) or all(
            isinstance(r, Module | Definition) and r is first for r in known
        ):
            return first
        return Value(module, None)

    def _of_binding(self, module: Module, binding: Binding, depth: int) -> Resolved:
        if binding.target is not None:
            if binding.module is not None:
                name = binding.target[len(binding.module) + 1 :]
                result = self.resolve_from(binding.module, name, depth + 1)
            else:
                result = self.resolve(binding.target, depth + 1)
            if isinstance(result, Missing):
                # The importing module would fail first: only that place is to blame.
                return Unknown()
            return result
        if isinstance(binding.node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            return Definition(module, binding.node)
        return Value(module, binding)

    def names(self, module: Module) -> Iterator[str]:
        """The names that `module` is known to have, for suggestions."""
        yield from module.bindings
        for star in module.scopes.module.stars:
            source = self.module(star) if self.owns(star) else None
            if source is not None and source is not module:
                yield from source.exported or source.bindings

    def expression(self, module: Module, scope: Scope, node: ast.expr) -> Resolved:
        """What an expression of names and attributes means in `scope` of `module`."""
        if isinstance(node, ast.Subscript):  # Generic[T]
            return self.expression(module, scope, node.value)
        chain = dotted(node)
        if chain is None:
            return Unknown()
        base, attributes = chain
        found = scope.lookup(base.id)
        if found is None:
            if hasattr(builtins, base.id) and not attributes:
                return External(f"builtins.{base.id}")
            return Unknown()
        owner, bindings = found
        if owner is not module.scopes.module and any(
            b.target is None and not isinstance(b.node, ast.ClassDef | FunctionNode)
            for b in bindings
        ):
            return Unknown()
        runtime = [b for b in bindings if not b.type_checking] or bindings
        result = self.of_bindings(module, runtime)
        for attribute in attributes:
            if isinstance(result, External):
                result = External(f"{result.target}.{attribute}")
            else:
                result = self.attribute(result, attribute)
        return result

    def bases(self, definition: Definition) -> list[Resolved]:
        """The base classes as written, resolved where the class stands."""
        assert isinstance(definition.node, ast.ClassDef)
        scope = _scope_around(definition)
        return [self.expression(definition.module, scope, b) for b in definition.node.bases]

    def mro(self, definition: Definition) -> Line | None:
        """The class and its bases, nearest first; None where one of them is not known."""
        return line_of(definition, self.bases)

    def class_attribute(self, definition: Definition, name: str) -> Resolved:
        """What `Class.name` means."""
        return class_attribute(definition, self.mro(definition), name)

    def signatures(self, definition: Definition) -> list[Signature] | None:
        """The signatures that calling a function or class of the package may bind to.

        None where a decorator, a metaclass or an unknown base may change them.
        """
        return constructors.signatures(definition, self.mro)


def _scope_around(definition: Definition) -> Scope:
    """The scope that a class statement's bases are evaluated in."""
    scopes = definition.module.scopes
    assert isinstance(definition.node, ast.ClassDef)
    for base in definition.node.bases:
        for inner in ast.walk(base):
            if inner in scopes.scope_of:
                return scopes.scope_of[inner]
    return scopes.module
