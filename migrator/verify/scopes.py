# SPDX-License-Identifier: Apache-2.0
"""Which binding a name in a module means: the scopes of Python's execution model, from source.

`symtable` knows the scopes too, but not where a name is used, nor what an import binds it to.
"""

from __future__ import annotations

import ast
import builtins
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

BUILTINS = frozenset(dir(builtins)) | {
    "__file__",
    "__path__",
    "__annotations__",
    "__builtins__",
    "__cached__",
    "WindowsError",
}
"""Names that every module has without binding them."""

FunctionNode = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True, slots=True, eq=False)
class Binding:
    """One place where a scope binds a name.

    `target` is the absolute dotted path of an import, `module` the module that a `from` import
    takes it from, `value` what an assignment of a single name assigns. `type_checking` marks what
    runs under `if TYPE_CHECKING:` only.
    """

    name: str
    kind: str
    node: ast.AST
    target: str | None = None
    module: str | None = None
    value: ast.expr | None = None
    annotation: ast.expr | None = None
    type_checking: bool = False


@dataclass(slots=True, eq=False)
class Scope:
    """A module, class, function (lambdas too) or comprehension."""

    kind: str
    node: ast.AST
    parent: Scope | None
    bindings: dict[str, list[Binding]] = field(default_factory=lambda: defaultdict(list))
    global_names: set[str] = field(default_factory=set)
    nonlocal_names: set[str] = field(default_factory=set)
    stars: list[str] = field(default_factory=list)

    def lookup(self, name: str) -> tuple[Scope, list[Binding]] | None:
        """The scope that `name` belongs to when used here, and its bindings; None if unbound."""
        scope: Scope | None = self
        if name in self.global_names:
            while scope is not None and scope.parent is not None:
                scope = scope.parent
        elif name in self.nonlocal_names:
            scope = self.parent
        first = scope
        while scope is not None:
            visible = scope.kind != "class" or scope is first
            if visible and name in scope.global_names and scope is not self:
                while scope.parent is not None:
                    scope = scope.parent
                continue
            if visible and scope.bindings.get(name):
                return scope, scope.bindings[name]
            scope = scope.parent
        return None


@dataclass(frozen=True, slots=True, eq=False)
class Use:
    """A name that is read. `annotation`: only where annotations are evaluated, if ever."""

    node: ast.Name
    scope: Scope
    annotation: bool
    type_checking: bool
    may_be_missing: bool
    """Inside `try: … except NameError`."""


@dataclass(frozen=True, slots=True, eq=False)
class ImportUse:
    """An import statement's name. `guarded`: a failure of it is caught, or it never runs."""

    node: ast.Import | ast.ImportFrom
    module: str
    name: str | None
    guarded: bool
    type_checking: bool
    scope: Scope


@dataclass(slots=True, eq=False)
class ModuleScopes:
    """All that is known of the names of one module."""

    module: Scope
    uses: list[Use]
    imports: list[ImportUse]
    scope_of: dict[ast.AST, Scope]
    """Every expression node's scope (names, attributes and calls only)."""
    guarded_attributes: set[ast.AST]
    """Attributes inside `try: … except AttributeError`."""
    dynamic: bool
    """The module writes to `globals()`: nothing can be called unbound."""
    parents: dict[ast.AST, ast.AST]

    def enclosing_class(self, scope: Scope) -> tuple[ast.ClassDef, FunctionNode] | None:
        """The class and its method that code in `scope` runs in, through nested functions."""
        current: Scope | None = scope
        method: FunctionNode | None = None
        while current is not None:
            if current.kind == "class":
                if method is not None and isinstance(current.node, ast.ClassDef):
                    return current.node, method
                return None
            method = (
                current.node
                if isinstance(current.node, ast.FunctionDef | ast.AsyncFunctionDef)
                else None
            )
            current = current.parent
        return None

    def ancestors(self, node: ast.AST) -> Iterator[ast.AST]:
        """The nodes around `node`, innermost first."""
        current = self.parents.get(node)
        while current is not None:
            yield current
            current = self.parents.get(current)


def analyse(tree: ast.Module, module: str, is_package: bool) -> ModuleScopes:
    """Work out scopes, uses and imports of the module called `module` (dotted)."""
    return _Builder(tree, module, is_package).run()


def dotted(node: ast.expr) -> tuple[ast.Name, tuple[str, ...]] | None:
    """The name and the attributes of `a.b.c`; None for anything else."""
    attributes: list[str] = []
    current = node
    while isinstance(current, ast.Attribute):
        attributes.append(current.attr)
        current = current.value
    if isinstance(current, ast.Name):
        return current, tuple(reversed(attributes))
    return None


def absolute_module(package: str, level: int, module: str | None) -> str:
    """The absolute name that `from ..module import` means inside `package`."""
    if level == 0:
        return module or ""
    parts = package.split(".")
    base = parts[: len(parts) - (level - 1)]
    return ".".join([*base, module] if module else base)


def is_type_checking(test: ast.expr) -> bool:
    """Whether an `if` with this test is for type checkers only."""
    return (isinstance(test, ast.Name) and test.id == "TYPE_CHECKING") or (
        isinstance(test, ast.Attribute) and test.attr == "TYPE_CHECKING"
    )


class _Builder(ast.NodeVisitor):
    """One walk over the module; function bodies are visited in place, only lookups need order."""

    def __init__(self, tree: ast.Module, module: str, is_package: bool) -> None:
        self.tree = tree
        self.package = module if is_package else module.rpartition(".")[0]
        self.scope = Scope("module", tree, None)
        self.result = ModuleScopes(self.scope, [], [], {}, set(), False, {})
        self.annotation = 0
        self.type_checking = 0
        self.catches: list[frozenset[str]] = []

    def run(self) -> ModuleScopes:
        stack: list[ast.AST] = [self.tree]
        while stack:
            node = stack.pop()
            for child in ast.iter_child_nodes(node):
                self.result.parents[child] = node
                stack.append(child)
        self.body(self.tree.body)
        return self.result

    # -- helpers

    def bind(
        self,
        name: str,
        kind: str,
        node: ast.AST,
        *,
        target: str | None = None,
        module: str | None = None,
        value: ast.expr | None = None,
        annotation: ast.expr | None = None,
    ) -> None:
        scope = self.scope
        if kind == "walrus":
            while scope.kind == "comprehension" and scope.parent is not None:
                scope = scope.parent
        if name in scope.global_names:
            scope = self.result.module
        elif name in scope.nonlocal_names:
            outer = scope.parent
            while outer is not None and not (outer.kind == "function" and name in outer.bindings):
                outer = outer.parent
            scope = outer or scope
        scope.bindings[name].append(
            Binding(name, kind, node, target, module, value, annotation, self.type_checking > 0)
        )

    def caught(self, *names: str) -> bool:
        return any(frame & {*names, "Exception", "BaseException", "*"} for frame in self.catches)

    def body(self, statements: Sequence[ast.stmt]) -> None:
        for statement in statements:
            self.visit(statement)

    def visit(self, node: ast.AST | None) -> None:
        if node is None:
            return
        method = getattr(self, "visit_" + type(node).__name__, None)
        if method is not None:
            method(node)
        else:
            self.children(node)

    def children(self, node: ast.AST) -> None:
        for child in ast.iter_child_nodes(node):
            self.visit(child)

    def annotated(self, node: ast.expr | None) -> None:
        if node is None:
            return
        self.annotation += 1
        self.visit(node)
        self.annotation -= 1

    def inside(self, kind: str, node: ast.AST) -> Scope:
        outer = self.scope
        self.scope = Scope(kind, node, outer)
        return outer

    # -- scopes

    def function(self, node: FunctionNode) -> None:
        self.bind(node.name, "function", node)
        for decorator in node.decorator_list:
            self.visit(decorator)
        for default in [*node.args.defaults, *node.args.kw_defaults]:
            self.visit(default)
        outer = self.type_parameters(node)
        for argument in _arguments(node.args):
            self.annotated(argument.annotation)
        self.annotated(node.returns)
        before = self.inside("function", node)
        self.parameters(node.args)
        self.declarations(node.body)
        catches, self.catches = self.catches, []
        self.body(node.body)
        self.catches = catches
        self.scope = before
        self.scope = outer

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        self.function(node)

    def visit_AsyncFunctionDef(self, node: ast.AsyncFunctionDef) -> None:
        self.function(node)

    def visit_Lambda(self, node: ast.Lambda) -> None:
        for default in [*node.args.defaults, *node.args.kw_defaults]:
            self.visit(default)
        outer = self.inside("function", node)
        self.parameters(node.args)
        self.visit(node.body)
        self.scope = outer

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        self.bind(node.name, "class", node)
        for decorator in node.decorator_list:
            self.visit(decorator)
        outer = self.type_parameters(node)
        for base in node.bases:
            self.visit(base)
        for keyword in node.keywords:
            self.visit(keyword.value)
        before = self.inside("class", node)
        for implicit in ("__module__", "__qualname__"):
            self.bind(implicit, "implicit", node)
        self.body(node.body)
        self.scope = before
        self.scope = outer

    def type_parameters(self, node: ast.AST) -> Scope:
        """PEP 695: a scope of its own that holds the type parameters (Python 3.12 syntax)."""
        outer = self.scope
        parameters = getattr(node, "type_params", None)
        if parameters:
            self.inside("function", node)
            for parameter in parameters:
                self.bind(parameter.name, "type parameter", parameter)
                self.annotated(getattr(parameter, "bound", None))
        return outer

    def visit_TypeAlias(self, node: ast.AST) -> None:
        name = getattr(node, "name", None)
        if isinstance(name, ast.Name):
            self.bind(name.id, "assign", node)
        outer = self.type_parameters(node)
        self.annotated(getattr(node, "value", None))
        self.scope = outer

    def parameters(self, args: ast.arguments) -> None:
        for argument in _arguments(args):
            self.bind(argument.arg, "parameter", argument, annotation=argument.annotation)

    def declarations(self, body: Sequence[ast.stmt]) -> None:
        """`global` and `nonlocal` hold for the whole function: find them before its bindings."""
        stack: list[ast.AST] = list(body)
        while stack:
            node = stack.pop()
            if isinstance(node, ast.Global):
                self.scope.global_names.update(node.names)
            elif isinstance(node, ast.Nonlocal):
                self.scope.nonlocal_names.update(node.names)
            elif not isinstance(
                node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Lambda
            ):
                stack.extend(ast.iter_child_nodes(node))

    def comprehension(
        self, node: ast.ListComp | ast.SetComp | ast.GeneratorExp | ast.DictComp
    ) -> None:
        self.visit(node.generators[0].iter)
        outer = self.inside("comprehension", node)
        for index, generator in enumerate(node.generators):
            if index:
                self.visit(generator.iter)
            self.store(generator.target)
            for condition in generator.ifs:
                self.visit(condition)
        if isinstance(node, ast.DictComp):
            self.visit(node.key)
            self.visit(node.value)
        else:
            self.visit(node.elt)
        self.scope = outer

    def visit_ListComp(self, node: ast.ListComp) -> None:
        self.comprehension(node)

    def visit_SetComp(self, node: ast.SetComp) -> None:
        self.comprehension(node)

    def visit_GeneratorExp(self, node: ast.GeneratorExp) -> None:
        self.comprehension(node)

    def visit_DictComp(self, node: ast.DictComp) -> None:
        self.comprehension(node)

    # -- bindings

    def store(self, target: ast.expr, value: ast.expr | None = None) -> None:
        if isinstance(target, ast.Name):
            self.result.scope_of[target] = self.scope
            self.bind(target.id, "assign", target, value=value)
        elif isinstance(target, ast.Tuple | ast.List):
            for item in target.elts:
                self.store(item)
        elif isinstance(target, ast.Starred):
            self.store(target.value)
        else:
            self.visit(target)

    def visit_Assign(self, node: ast.Assign) -> None:
        self.visit(node.value)
        for target in node.targets:
            self.store(target, node.value)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        self.annotated(node.annotation)
        self.visit(node.value)
        if isinstance(node.target, ast.Name):
            self.result.scope_of[node.target] = self.scope
            self.bind(
                node.target.id,
                "assign" if node.value is not None else "declare",
                node,
                value=node.value,
                annotation=node.annotation,
            )
        else:
            self.visit(node.target)

    def visit_AugAssign(self, node: ast.AugAssign) -> None:
        self.visit(node.value)
        if isinstance(node.target, ast.Name):
            self.use(node.target)
        self.store(node.target)

    def visit_NamedExpr(self, node: ast.NamedExpr) -> None:
        self.visit(node.value)
        self.bind(node.target.id, "walrus", node.target, value=node.value)

    def loop(self, node: ast.For | ast.AsyncFor) -> None:
        self.visit(node.iter)
        self.store(node.target)
        self.body(node.body)
        self.body(node.orelse)

    def visit_For(self, node: ast.For) -> None:
        self.loop(node)

    def visit_AsyncFor(self, node: ast.AsyncFor) -> None:
        self.loop(node)

    def visit_withitem(self, node: ast.withitem) -> None:
        self.visit(node.context_expr)
        if node.optional_vars is not None:
            self.store(node.optional_vars)

    def visit_With(self, node: ast.With | ast.AsyncWith) -> None:
        suppressed: set[str] = set()
        for item in node.items:
            self.visit(item)
            call = item.context_expr
            if isinstance(call, ast.Call):
                function = dotted(call.func)
                if function and (function[1] or (function[0].id,))[-1] == "suppress":
                    suppressed.update(_exception_names(call.args))
        self.catches.append(frozenset(suppressed))
        self.body(node.body)
        self.catches.pop()

    def visit_AsyncWith(self, node: ast.AsyncWith) -> None:
        self.visit_With(node)

    def visit_Try(self, node: ast.Try | ast.TryStar) -> None:
        names: set[str] = set()
        for handler in node.handlers:
            names.update(_exception_names([handler.type]) if handler.type else {"*"})
        self.catches.append(frozenset(names))
        self.body(node.body)
        self.catches.pop()
        for handler in node.handlers:
            self.visit(handler.type)
            if handler.name:
                self.bind(handler.name, "exception", handler)
            self.body(handler.body)
        self.body(node.orelse)
        self.body(node.finalbody)

    def visit_TryStar(self, node: ast.TryStar) -> None:
        self.visit_Try(node)

    def visit_If(self, node: ast.If) -> None:
        self.visit(node.test)
        checking = is_type_checking(node.test)
        self.type_checking += checking
        self.body(node.body)
        self.type_checking -= checking
        self.body(node.orelse)

    def visit_MatchAs(self, node: ast.MatchAs) -> None:
        self.visit(node.pattern)
        if node.name:
            self.bind(node.name, "assign", node)

    def visit_MatchStar(self, node: ast.MatchStar) -> None:
        if node.name:
            self.bind(node.name, "assign", node)

    def visit_MatchMapping(self, node: ast.MatchMapping) -> None:
        self.children(node)
        if node.rest:
            self.bind(node.rest, "assign", node)

    def visit_Import(self, node: ast.Import) -> None:
        for alias in node.names:
            if alias.asname:
                self.bind(alias.asname, "import", node, target=alias.name)
            else:
                top = alias.name.partition(".")[0]
                self.bind(top, "import", node, target=top)
            self.imported(node, alias.name, None)

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        module = absolute_module(self.package, node.level, node.module)
        for alias in node.names:
            if alias.name == "*":
                self.scope.stars.append(module)
                self.imported(node, module, None)
            else:
                self.bind(
                    alias.asname or alias.name,
                    "import",
                    node,
                    target=f"{module}.{alias.name}",
                    module=module,
                )
                self.imported(node, module, alias.name)

    def imported(self, node: ast.Import | ast.ImportFrom, module: str, name: str | None) -> None:
        guarded = self.caught("ImportError", "ModuleNotFoundError")
        self.result.imports.append(
            ImportUse(node, module, name, guarded, self.type_checking > 0, self.scope)
        )

    # -- uses

    def use(self, node: ast.Name) -> None:
        self.result.scope_of[node] = self.scope
        self.result.uses.append(
            Use(
                node,
                self.scope,
                self.annotation > 0,
                self.type_checking > 0,
                self.caught("NameError"),
            )
        )

    def visit_Name(self, node: ast.Name) -> None:
        if isinstance(node.ctx, ast.Load):
            self.use(node)
        elif isinstance(node.ctx, ast.Store):
            self.store(node)
        else:
            self.result.scope_of[node] = self.scope

    def visit_Attribute(self, node: ast.Attribute) -> None:
        self.result.scope_of[node] = self.scope
        if self.caught("AttributeError"):
            self.result.guarded_attributes.add(node)
        self.visit(node.value)

    def visit_Call(self, node: ast.Call) -> None:
        self.result.scope_of[node] = self.scope
        if (
            isinstance(node.func, ast.Name)
            and node.func.id == "globals"
            # A lazy module caches under the name it was asked for: no name beyond its tables.
            and getattr(self.scope.node, "name", "") != "__getattr__"
        ):
            above = self.result.parents.get(node)
            if isinstance(above, ast.Subscript) and isinstance(above.ctx, ast.Store):
                self.result.dynamic = True
            if isinstance(above, ast.Attribute) and above.attr in ("update", "setdefault"):
                self.result.dynamic = True
        self.children(node)

    def visit_Subscript(self, node: ast.Subscript) -> None:
        if self.annotation:
            named = dotted(node.value)
            last = (named[1] or (named[0].id,))[-1] if named else ""
            if last == "Literal":
                self.visit(node.value)
                return
            if last == "Annotated" and isinstance(node.slice, ast.Tuple):
                self.visit(node.value)
                first, *rest = node.slice.elts
                self.visit(first)
                annotation, self.annotation = self.annotation, 0
                for extra in rest:
                    self.visit(extra)
                self.annotation = annotation
                return
        self.children(node)

    def visit_Constant(self, node: ast.Constant) -> None:
        if not self.annotation or not isinstance(node.value, str):
            return
        try:
            parsed = ast.parse(node.value.strip(), mode="eval").body
        except SyntaxError:
            return
        for inner in ast.walk(parsed):
            ast.copy_location(inner, node)
        self.visit(parsed)


def _arguments(args: ast.arguments) -> list[ast.arg]:
    found = [*args.posonlyargs, *args.args, *args.kwonlyargs]
    found.extend(a for a in (args.vararg, args.kwarg) if a is not None)
    return found


def _exception_names(nodes: Sequence[ast.expr]) -> set[str]:
    names: set[str] = set()
    for node in nodes:
        parts = node.elts if isinstance(node, ast.Tuple) else [node]
        for part in parts:
            named = dotted(part)
            if named:
                names.add((named[1] or (named[0].id,))[-1])
    return names
