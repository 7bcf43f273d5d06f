# SPDX-License-Identifier: Apache-2.0
"""Whether what the migration wrote resolves within the tree (V101 to V107).

Only lines that the migration wrote are judged, and only what the source settles: an attribute of
a class is missing when the whole line of bases is known, a call misfits when no decorator stands
between it and the signature.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from migrator.files.tree import module_name
from migrator.verify.api import Absent, NpuApi
from migrator.verify.classes import class_members, external_attributes
from migrator.verify.constructors import decorated_with, keeps_signature
from migrator.verify.modules import Definition, External, Missing, Module, Resolved
from migrator.verify.report import Finding
from migrator.verify.scopes import BUILTINS, Binding, Scope, Use, dotted
from migrator.verify.signature import Signature, bind, did_you_mean, of_function
from migrator.verify.tree import ChangedFile, Tree

PLATFORM = "vllm.platforms.current_platform"
"""The one instance whose class is known by convention: a subclass of vllm's Platform."""

_BUILT = re.compile(r"(^|\.)_\w*C(_\w+)?$")  # compiled extensions, by vLLM's habit
_PATH_IN_STRING = re.compile(r"vllm(\.[A-Za-z_]\w*){2,}")


class NameChecker:
    """Checks the changed files of one tree."""

    def __init__(self, tree: Tree, api: NpuApi | None = None) -> None:
        self.tree = tree
        self.package = tree.package
        self.api = api
        self.findings: list[Finding] = []
        self._sources: dict[str, bytes] = {}
        self._platform: frozenset[str] | None = None

    def check(self, file: ChangedFile) -> None:
        """Check the lines of `file` that the migration wrote."""
        if file.module is None:
            return
        self._uses(file, file.module)
        self._imports(file, file.module)
        probed = set(_probed(file.module.tree))
        for node in ast.walk(file.module.tree):
            line = getattr(node, "lineno", None)
            if line is None:
                continue
            if isinstance(node, ast.Attribute):
                if file.introduced(line, node.end_lineno) and node.attr not in probed:
                    self._attribute(file, file.module, node)
            elif isinstance(node, ast.Call):
                if file.introduced(line, node.end_lineno):
                    self._call(file, file.module, node)
            elif isinstance(node, ast.Constant) and file.introduced(line):
                self._string(file, file.module, node)

    # -- names

    def _uses(self, file: ChangedFile, module: Module) -> None:
        for use in module.scopes.uses:
            name = use.node.id
            if use.may_be_missing or not file.introduced(use.node.lineno):
                continue
            found = use.scope.lookup(name)
            if found is None:
                if not self._bound_elsewhere(module, use, name):
                    known = sorted(_visible(use.scope))
                    self._report(
                        file,
                        use.node,
                        "V101",
                        f"undefined name `{name}`" + did_you_mean(name, known),
                    )
            elif _used_too_early(use, *found):
                self._report(
                    file, use.node, "V101", f"`{name}` is used on import, before it is bound"
                )
            elif _imported_in_other_branch(module, use, *found):
                self._report(
                    file,
                    use.node,
                    "V101",
                    f"`{name}` is imported in a branch that need not have run here",
                )
            elif (
                not use.annotation
                and not use.type_checking
                and name not in BUILTINS
                and all(binding.type_checking for binding in found[1])
            ):
                self._report(
                    file,
                    use.node,
                    "V106",
                    f"`{name}` is bound under `if TYPE_CHECKING:` only, and used at run time",
                )

    def _bound_elsewhere(self, module: Module, use: Use, name: str) -> bool:
        if name in BUILTINS or module.scopes.dynamic:
            return True
        if name == "__class__" and module.scopes.enclosing_class(use.scope):
            return True
        scope: Scope | None = use.scope
        while scope is not None:
            for star in scope.stars:
                if not self.package.owns(star):
                    return True
                source = self.package.module(star)
                if source is None or not isinstance(self.package.member(source, name), Missing):
                    return True
            scope = scope.parent
        return False

    def _imports(self, file: ChangedFile, module: Module) -> None:
        for use in module.scopes.imports:
            if use.guarded or not file.introduced(use.node.lineno, use.node.end_lineno):
                continue
            if not self.package.owns(use.module) or _BUILT.search(use.module):
                continue
            if not self.package.has_module(use.module):
                self._report(file, use.node, "V102", f"the tree has no module `{use.module}`")
            elif use.name is not None:
                result = self.package.resolve_from(use.module, use.name)
                if isinstance(result, Missing) and not _BUILT.search(use.name):
                    hint = did_you_mean(use.name, list(result.known))
                    self._report(
                        file, use.node, "V102", f"`{use.module}` has no `{use.name}`{hint}"
                    )

    def _string(self, file: ChangedFile, module: Module, node: ast.Constant) -> None:
        if not isinstance(node.value, str) or not _PATH_IN_STRING.fullmatch(node.value):
            return
        first_two = ".".join(node.value.split(".")[:2])
        if not self.package.has_module(first_two) or _BUILT.search(node.value):
            return
        if isinstance(module.scopes.parents.get(node), ast.Expr):
            return
        result = self.package.resolve(node.value)
        if isinstance(result, Missing):
            where = result.where or node.value
            hint = did_you_mean(result.name, list(result.known)) if result.where else ""
            self._report(
                file,
                node,
                "V107",
                f'"{node.value}" does not resolve: `{where}` has no `{result.name}`{hint}',
            )

    # -- attributes

    def _attribute(self, file: ChangedFile, module: Module, node: ast.Attribute) -> None:
        if not isinstance(node.ctx, ast.Load) or node in module.scopes.guarded_attributes:
            return
        scope = module.scopes.scope_of.get(node)
        if scope is None:
            return
        own = self._own_class(module, scope, node.value)
        if own is not None:
            self._own_attribute(file, node, *own)
            return
        if self._is_platform(module, scope, node.value):
            self._platform_attribute(file, node)
            return
        owner = self.package.expression(module, scope, node.value)
        if isinstance(owner, Module | Definition) and self._in_package(owner):
            result = self.package.attribute(owner, node.attr)
            if isinstance(result, Missing) and not self._stored_somewhere(node.attr):
                hint = did_you_mean(node.attr, list(result.known))
                self._report(
                    file, node, "V103", f"`{result.where}` has no attribute `{node.attr}`{hint}"
                )

    def _in_package(self, owner: Module | Definition) -> bool:
        module = owner if isinstance(owner, Module) else owner.module
        return self.package.owns(module.name)

    def _own_class(
        self, module: Module, scope: Scope, node: ast.expr
    ) -> tuple[Definition, bool] | None:
        """The class whose instance (or, for super(), whose bases) `node` stands for."""
        enclosing = module.scopes.enclosing_class(scope)
        if enclosing is None:
            return None
        class_node, method = enclosing
        if (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Name)
            and node.func.id == "super"
            and not node.args
        ):
            return Definition(module, class_node), True
        positional = [*method.args.posonlyargs, *method.args.args]
        if (
            isinstance(node, ast.Name)
            and positional
            and node.id == positional[0].arg
            and not decorated_with(method, "staticmethod")
        ):
            found = scope.lookup(node.id)
            if found is not None and [b.kind for b in found[1]] == ["parameter"]:
                return Definition(module, class_node), False
        return None

    def _own_attribute(
        self, file: ChangedFile, node: ast.Attribute, owner: Definition, above: bool
    ) -> None:
        order = self.package.mro(owner)
        if order is None:
            return
        known: set[str] = set(dir(object)) | {"__dict__", "__name__", "__mro__"}
        for item in order[1:] if above else order:
            if isinstance(item, External):
                known |= external_attributes(item.target) or frozenset()
                continue
            assert isinstance(item.node, ast.ClassDef)
            members = class_members(item.node)
            if members.dynamic:
                return
            known |= set(members.defined) | members.on_instances
        if node.attr in known or node.attr in dir(type) or node.attr.startswith("__"):
            return
        if self._stored_somewhere(node.attr) or self._in_subclass(owner, node.attr):
            return
        assert isinstance(owner.node, ast.ClassDef)
        what = f"the bases of `{owner.node.name}` have" if above else f"`{owner.node.name}` has"
        hint = did_you_mean(node.attr, known)
        self._report(file, node, "V104", f"{what} no attribute `{node.attr}`{hint}")

    def _all_sources(self) -> dict[str, bytes]:
        if not self._sources:
            for path in self.tree.python_files():
                source = self.tree.read(path)
                if source is not None:
                    self._sources[path] = source
        return self._sources

    def _stored_somewhere(self, name: str) -> bool:
        """Whether any file sets an attribute of that name on something other than `self`."""
        word = name.encode()
        pattern = re.compile(
            rb"(?<!\bself)(?<!\bcls)\." + word + rb"\s*(?::[^=\n]+)?=(?!=)"
            rb"|setattr\([^\n]*[\"']" + word + rb"[\"']"
        )
        return any(word in s and pattern.search(s) for s in self._all_sources().values())

    def _in_subclass(self, owner: Definition, name: str) -> bool:
        """Whether a subclass of a mixin's kind brings the attribute along."""
        assert isinstance(owner.node, ast.ClassDef)
        word = owner.node.name.encode()
        pattern = re.compile(rb"^[ \t]*class\s+\w+\s*\([^)]*\b" + word + rb"\b", re.MULTILINE)
        for path, source in self._all_sources().items():
            if word not in source or not pattern.search(source):
                continue
            module = self.package.module(module_name(path))
            for node in ast.walk(module.tree) if module is not None else ():
                if not isinstance(node, ast.ClassDef) or not node.bases or module is None:
                    continue
                order = self.package.mro(Definition(module, node))
                if order is None:
                    # Some base is unknown: it may well have the attribute.
                    if any(owner.node.name in ast.unparse(b) for b in node.bases):
                        return True
                    continue
                if not any(isinstance(i, Definition) and i.node is owner.node for i in order):
                    continue
                for item in order:
                    if isinstance(item, Definition) and isinstance(item.node, ast.ClassDef):
                        members = class_members(item.node)
                        if members.dynamic or name in members.defined | dict.fromkeys(
                            members.on_instances
                        ):
                            return True
        return False

    # -- the current platform

    def _is_platform(self, module: Module, scope: Scope, node: ast.expr) -> bool:
        if not isinstance(node, ast.Name):
            return False
        found = scope.lookup(node.id)
        return found is not None and any(b.target == PLATFORM for b in found[1])

    def _platform_names(self) -> frozenset[str]:
        if self._platform is None:
            names: set[str] = set(dir(object))
            for path in self.tree.python_files():
                if not path.startswith("vllm/platforms/"):
                    continue
                module = self.package.module(module_name(path))
                for node in ast.walk(module.tree) if module is not None else ():
                    if isinstance(node, ast.ClassDef):
                        members = class_members(node)
                        names |= set(members.defined) | members.on_instances
            self._platform = frozenset(names)
        return self._platform

    def _platform_attribute(self, file: ChangedFile, node: ast.Attribute) -> None:
        names = self._platform_names()
        if node.attr in names:
            return
        # Platform hands unknown names on to the device's torch module: torch.npu here.
        if "__getattr__" in names and (
            self.api is None or not isinstance(self.api.answer(f"torch.npu.{node.attr}"), Absent)
        ):
            return
        hint = did_you_mean(node.attr, set(names))
        self._report(
            file, node, "V103", f"no platform of the tree has an attribute `{node.attr}`{hint}"
        )

    # -- calls

    def _call(self, file: ChangedFile, module: Module, node: ast.Call) -> None:
        scope = module.scopes.scope_of.get(node)
        if scope is None:
            return
        signatures = self._called(module, scope, node.func)
        if not signatures:
            return
        attempts = [bind(signature, node) for signature in signatures]
        bound = min(attempts, key=lambda b: len(b.problems))
        name = ast.unparse(node.func)
        for problem in bound.problems:
            place = problem.node if hasattr(problem.node, "lineno") else node
            self._report(
                file,
                place,
                "V105",
                f"`{name}`: {problem.message}",
                "\n".join(s.text for s in signatures),
            )

    def _called(self, module: Module, scope: Scope, function: ast.expr) -> list[Signature] | None:
        if isinstance(function, ast.Attribute):
            own = self._own_class(module, scope, function.value)
            if own is not None:
                enclosing = module.scopes.enclosing_class(scope)
                on_class = enclosing is not None and (
                    decorated_with(enclosing[1], "classmethod") or enclosing[1].name == "__new__"
                )
                return self._method(own[0], function.attr, above=own[1], on_class=on_class)
            given = self._annotated(module, scope, function.value)
            if given is not None:
                return self._method(given, function.attr, above=False, on_class=False)
            if self._is_platform(module, scope, function.value):
                platform = self.package.resolve("vllm.platforms.interface.Platform")
                if isinstance(platform, Definition):
                    return self._platform_method(platform, function.attr)
                return None
        elif not isinstance(function, ast.Name):
            return None
        resolved = self.package.expression(module, scope, function)
        if not isinstance(resolved, Definition) or not self._in_package(resolved):
            return None
        signatures = self.package.signatures(resolved)
        if signatures is None or isinstance(resolved.node, ast.ClassDef):
            return signatures
        if isinstance(function, ast.Attribute):
            holder: Resolved = self.package.expression(module, scope, function.value)
            if isinstance(holder, Definition) and decorated_with(resolved.node, "classmethod"):
                return [s.without_first() for s in signatures]
        if len(self._definitions(resolved)) > 1:
            return None
        return signatures

    def _annotated(self, module: Module, scope: Scope, node: ast.expr) -> Definition | None:
        """The tree's class that a parameter is said to be an instance of."""
        found = scope.lookup(node.id) if isinstance(node, ast.Name) else None
        if found is None or [binding.kind for binding in found[1]] != ["parameter"]:
            return None
        annotation = found[1][0].annotation
        if not isinstance(annotation, ast.Name | ast.Attribute):
            return None
        meant = self.package.expression(module, found[0].parent or scope, annotation)
        if isinstance(meant, Definition) and isinstance(meant.node, ast.ClassDef):
            return meant if self._in_package(meant) else None
        return None

    def _definitions(self, resolved: Definition) -> list[ast.AST]:
        """All bindings of a function's name where it stands: overloads, if/else, conditionals."""
        bindings = resolved.module.bindings.get(resolved.node.name, [])
        return [b.node for b in bindings]

    def _platform_method(self, platform: Definition, name: str) -> list[Signature] | None:
        assert isinstance(platform.node, ast.ClassDef)
        found = class_members(platform.node).defined.get(name)
        return _bound_method(found)

    def _method(
        self, owner: Definition, name: str, *, above: bool, on_class: bool
    ) -> list[Signature] | None:
        order = self.package.mro(owner)
        if order is None:
            # A base from outside may come in between, but the class's own method comes first.
            if above:
                return None
            order = [owner]
        for item in order[1:] if above else order:
            if isinstance(item, External):
                if name in (external_attributes(item.target) or ()) and name not in dir(object):
                    return None
                continue
            assert isinstance(item.node, ast.ClassDef)
            members = class_members(item.node)
            if name in members.on_instances:
                return None
            if name in members.defined:
                return _bound_method(members.defined[name], on_class=on_class)
            if item.node.decorator_list and name == "__init__":
                return None
        return None

    def _report(
        self, file: ChangedFile, node: ast.AST, code: str, message: str, expected: str | None = None
    ) -> None:
        line, column = getattr(node, "lineno", 1), getattr(node, "col_offset", 0) + 1
        finding = Finding(file.path, line, column, code, message, expected)
        if finding not in self.findings:
            self.findings.append(finding)


def _bound_method(node: ast.AST | None, *, on_class: bool = False) -> list[Signature] | None:
    """The signature of a method looked up on an instance or, with `on_class`, on its class."""
    if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) or not keeps_signature(node):
        return None
    if decorated_with(node, "property") or decorated_with(node, "cached_property"):
        return None
    signature = of_function(node)
    plain = not decorated_with(node, "classmethod") and node.name != "__new__"
    if decorated_with(node, "staticmethod") or (on_class and plain):
        return [signature]
    return [signature.without_first()]


def _used_too_early(use: Use, owner: Scope, bindings: list[Binding]) -> bool:
    """Whether code that runs straight through uses a name that is only bound further down."""
    scope: Scope | None = use.scope
    while scope is not None and scope is not owner:
        if scope.kind == "function":
            return False
        scope = scope.parent
    if use.annotation or use.type_checking or owner.kind == "comprehension":
        return False
    if use.node.id in BUILTINS or owner.kind == "function":
        return False
    return all(getattr(b.node, "lineno", 0) > use.node.lineno for b in bindings)


def _imported_in_other_branch(
    module: Module, use: Use, owner: Scope, bindings: list[Binding]
) -> bool:
    """Whether the one import that binds a name is in an `if` branch that the use is not under.

    A use under a condition of its own is left alone: it may be the same condition again.
    """
    if len(bindings) != 1 or bindings[0].kind != "import" or owner is not use.scope:
        return False
    if use.annotation or bindings[0].type_checking or use.node.id in BUILTINS:
        return False
    importing = _branches(module, bindings[0].node)
    using = _branches(module, use.node)
    for position, (statement, branch) in enumerate(importing):
        if position < len(using) and using[position] == (statement, branch):
            continue
        if position < len(using) and using[position][0] is statement:
            return True  # the other branch of the same `if`
        if len(using) > position:
            return False
        other = statement.orelse if branch == "body" else statement.body
        return not (other and isinstance(other[-1], _LEAVES))
    return False


_LEAVES = ast.Return | ast.Raise | ast.Continue | ast.Break


def _branches(module: Module, node: ast.AST) -> list[tuple[ast.If, str]]:
    """The branches of `if` statements that `node` is in, within its function, outermost first."""
    found: list[tuple[ast.If, str]] = []
    child = node
    for parent in module.scopes.ancestors(node):
        if isinstance(parent, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) and any(
            child is s
            for s in parent.body  # decorators and bases run where the statement stands
        ):
            break
        if isinstance(parent, ast.If):
            if any(child is s for s in parent.body):
                found.append((parent, "body"))
            elif any(child is s for s in parent.orelse):
                found.append((parent, "orelse"))
        child = parent
    return found[::-1]


def _visible(scope: Scope | None) -> set[str]:
    names: set[str] = set()
    while scope is not None:
        names |= set(scope.bindings)
        scope = scope.parent
    return names


def _probed(tree: ast.Module) -> Iterator[str]:
    """Attributes that the module tests for: `hasattr(x, "name")`, `getattr(x, "name", …)`."""
    for node in ast.walk(tree):
        if (
            isinstance(node, ast.Call)
            and (chain := dotted(node.func)) is not None
            and (chain[1] or (chain[0].id,))[-1] in ("hasattr", "getattr")
            and len(node.args) >= 2
            and isinstance(node.args[1], ast.Constant)
            and isinstance(node.args[1].value, str)
        ):
            yield node.args[1].value
