# SPDX-License-Identifier: Apache-2.0
"""A Python package as source: its modules, what they bind, its classes and their bases.

Serves both the emitted tree (a directory) and the torch_npu wheel (a zip file). Whatever cannot
be told from the source is `Unknown`, so that no finding rests on a guess.
"""

from __future__ import annotations

import ast
import builtins
import enum
import warnings
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Protocol

from migrator.files.tree import LARGEST
from migrator.verify.scopes import Binding, FunctionNode, ModuleScopes, Scope, analyse, dotted
from migrator.verify.signature import Kind, Parameter, Signature, of_function
from migrator.verify.wheel import read_member


class Files(Protocol):
    """Where a package's files are read from; paths are relative, with forward slashes."""

    def read(self, path: str) -> bytes | None:
        """The content of a file; None where there is none."""

    def is_directory(self, path: str) -> bool:
        """Whether anything lies below `path`."""


class DirectoryFiles:
    """Files below a directory. Links that leave it are as good as absent."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._resolved = root.resolve()

    def read(self, path: str) -> bytes | None:
        """See `Files.read`."""
        full = self.root / path
        try:
            if not full.resolve().is_relative_to(self._resolved):
                return None
            return full.read_bytes() if full.stat().st_size <= LARGEST else None
        except (OSError, RuntimeError):  # the latter for a loop of links
            return None

    def is_directory(self, path: str) -> bool:
        """See `Files.is_directory`."""
        return (self.root / path).is_dir()


class ZipFiles:
    """Files of a wheel that is never unpacked."""

    def __init__(self, archive: zipfile.ZipFile) -> None:
        self.archive = archive
        self._names = frozenset(archive.namelist())
        self._directories = frozenset(
            "/".join(parts[:end])
            for parts in (name.split("/") for name in self._names)
            for end in range(1, len(parts))
        )

    def read(self, path: str) -> bytes | None:
        """See `Files.read`."""
        return read_member(self.archive, path) if path in self._names else None

    def is_directory(self, path: str) -> bool:
        """See `Files.is_directory`."""
        return path in self._directories


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

    # -- classes

    def bases(self, definition: Definition) -> list[Resolved]:
        """The base classes as written, resolved where the class stands."""
        assert isinstance(definition.node, ast.ClassDef)
        scope = _scope_around(definition)
        return [self.expression(definition.module, scope, b) for b in definition.node.bases]

    def mro(self, definition: Definition) -> list[Definition | External] | None:
        """The class and its bases, nearest first; None where one of them is not known."""
        order: list[Definition | External] = []
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
            for base in self.bases(current):
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

    def class_attribute(self, definition: Definition, name: str) -> Resolved:
        """What `Class.name` means."""
        order = self.mro(definition)
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
            tuple(n for d in order if isinstance(d, Definition) for n in _defined(d)),
        )

    # -- signatures

    def signatures(self, definition: Definition, depth: int = 0) -> list[Signature] | None:
        """The signatures that calling a function or class of the package may bind to.

        None where a decorator, a metaclass or an unknown base may change them.
        """
        node = definition.node
        if isinstance(node, ast.ClassDef):
            return self._constructor(definition)
        if not keeps_signature(node) or _is_property(node):
            return None
        return [of_function(node)]

    def _constructor(self, definition: Definition) -> list[Signature] | None:
        order = self.mro(definition)
        if order is None:
            return None
        assert isinstance(definition.node, ast.ClassDef)
        name = definition.node.name
        for item in order:
            if isinstance(item, External):
                if item.target in _BARE_BASES:
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
                fields = self._dataclass_fields(definition, order) if item is order[0] else None
                return None if fields is None else [Signature(_shown(name, fields), fields)]
        return [Signature(f"{name}()", ())]

    def _dataclass_fields(
        self, definition: Definition, order: list[Definition | External]
    ) -> tuple[Parameter, ...] | None:
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


def _defined(definition: Definition) -> list[str]:
    assert isinstance(definition.node, ast.ClassDef)
    return list(class_members(definition.node).defined)


def _scope_around(definition: Definition) -> Scope:
    """The scope that a class statement's bases are evaluated in."""
    scopes = definition.module.scopes
    assert isinstance(definition.node, ast.ClassDef)
    for base in definition.node.bases:
        for inner in ast.walk(base):
            if inner in scopes.scope_of:
                return scopes.scope_of[inner]
    return scopes.module


_BARE_BASES = frozenset(
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
    if target in _BARE_BASES:
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


_KEEPS_SIGNATURE = frozenset(
    {"staticmethod", "classmethod", "abstractmethod", "contextmanager", "asynccontextmanager",
     "lru_cache", "cache", "override", "final", "wraps", "no_grad", "inference_mode",
     "property", "cached_property", "deprecated"}
)  # fmt: skip


def keeps_signature(node: FunctionNode) -> bool:
    """Whether calls of a function bind to the signature that is written, decorators included."""
    return all(_decorator_name(d) in _KEEPS_SIGNATURE for d in node.decorator_list)


def _decorator_name(node: ast.expr) -> str:
    chain = dotted(node.func if isinstance(node, ast.Call) else node)
    return (chain[1] or (chain[0].id,))[-1] if chain else ""


def decorated_with(node: FunctionNode, name: str) -> bool:
    """Whether one of the decorators is called `name`."""
    return any(_decorator_name(d) == name for d in node.decorator_list)


def _plain_decorators(node: ast.ClassDef) -> bool:
    return all(
        _decorator_name(d)
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


def _has_metaclass(node: ast.ClassDef) -> bool:
    return any(k.arg == "metaclass" for k in node.keywords)


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
