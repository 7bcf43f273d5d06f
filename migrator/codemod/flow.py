# SPDX-License-Identifier: Apache-2.0
"""What a name may be bound to where it is read, in Python's own syntax tree.

Scopes are Python's: functions, lambdas, comprehensions and classes, `global` and `nonlocal`. Within
a function or a module the bindings that reach a read are followed through branches, loops, `try`
and `match`; a function that is called at another time may see any binding of the scopes around it.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property

Function = ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda
Comprehension = ast.ListComp | ast.SetComp | ast.DictComp | ast.GeneratorExp

ITEM = "item"
"""Step of a binding: an item that iterating over the value gives."""
ENTERED = "entered"
"""Step of a binding: what `with` binds by its `as`."""
STARRED = "starred"
"""Step of a binding: a list of some items of the value."""


WAYS = 4
"""So many `finally` in each other are looked at twice, as after an error and as without one."""


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
_NONE: Bindings = frozenset()


class _Env:
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
        return isinstance(other, _Env) and self.names == other.names and self.chains == other.chains

    __hash__ = None  # type: ignore[assignment] # it changes

    def copy(self) -> _Env:
        return _Env(self.names, self.chains)

    def get(self, name: str) -> Bindings | None:
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

    def merge(self, other: _Env) -> None:
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
                outside.update(part.names)
            else:
                names.update(_binds(part))
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


class Flow:
    """The names of a module.

    Functions are looked into when they are asked for: most of a module matters to nobody.

    Args:
        module: Python's syntax tree of it.
        data: its source.
        package: parts of the package that relative imports start from; left out where unknown.
    """

    def __init__(self, module: ast.Module, data: bytes, package: Sequence[str] = ()) -> None:
        self.module = module
        self._package = package
        self._reads: dict[int, set[Binding]] = {}
        self._scopes: dict[int, Scope] = {}
        """Identity of a name, a chain of attributes or a definition → the scope it stands in."""
        self._inner: dict[int, Scope] = {}
        """Identity of a definition or comprehension → the scope that it makes."""
        self._made: dict[tuple[str, int, tuple[str | int, ...], str, int], Binding] = {}
        self._sums: dict[int, ast.BinOp] = {}
        """Identity of an augmented assignment → the sum that it binds."""
        self._bodies: dict[int, tuple[ast.AST, Callable[[], None]]] = {}
        """Functions that were not looked into yet, by identity."""
        self._late: list[Callable[[], None]] = []
        """What can be told only when every binding of every scope is known."""
        self._starts: dict[tuple[int, tuple[str, ...]], _Env] = {}
        """Identity of a loop, and ways to it → what may hold where it begins. A loop around it only
        adds to that: to begin anew each time takes twice as long for each loop around."""
        self.top = self._scope(module, None, module.body)
        walker = _Walker(self, self.top)
        walker.block(module.body, _Env())
        # What these bind is seen everywhere.
        self.enter(lines_of(rb"\b(?:global|nonlocal)\b", data))

    def enter(self, lines: Collection[int]) -> None:
        """Look into the functions around some lines, and those inside of them."""
        entered: set[int] = set()
        more = True
        while more:
            more = False
            for key, (node, look) in [*self._bodies.items()]:
                first, last = _lines(node)
                within = id(self._scopes[key].node) in entered
                if within or any(first <= line <= last for line in lines):
                    del self._bodies[key]
                    entered.add(key)
                    look()
                    more = True
        for add in self._late:
            add()
        self._late.clear()

    def bindings(self, node: ast.Name | ast.Attribute) -> Bindings:
        """What may be bound to a name where it is read; empty for a builtin or an unbound name.

        A chain of attributes has bindings where it was assigned, or asked about by `isinstance`,
        on the way to this read.
        """
        return frozenset(self._reads.get(id(node), ()))

    def scope_of(self, node: ast.AST) -> Scope:
        """The scope that a name, an attribute or a definition stands in."""
        return self._scopes.get(id(node), self.top)

    def lookup(self, name: str, scope: Scope) -> Bindings:
        """Every binding that a name may have when a scope is run at some time."""
        at: Scope | None = scope
        while at is not None:
            if name in at.locals and not (isinstance(at.node, ast.ClassDef) and at is not scope):
                return frozenset(at.bound.get(name, ()))
            at = self.top if name in at.outside and _is_global(at, name) else at.outer
        return frozenset(self.top.bound.get(name, ()))

    def qualified(self, node: ast.AST) -> tuple[str | None, bool]:
        """The qualified name of a name or a chain of attributes, by the imports that reach it.

        Returns:
            The name, None where no import is behind it; and whether that is certain: nothing but
            imports of the same thing, or assignments of it, reach it.
        """
        chain: list[str] = []
        at = node
        while isinstance(at, ast.Attribute):
            chain.append(at.attr)
            at = at.value
        if not isinstance(at, ast.Name):
            return None, True
        found = {self._origin(binding, 0) for binding in self.bindings(at) if not _is_none(binding)}
        names = {name for name in found if name is not None}
        if not names:
            return None, True
        certain = len(found) == 1
        return ".".join([min(names), *reversed(chain)]), certain

    def _origin(self, binding: Binding, depth: int) -> str | None:
        if binding.kind == "import":
            return binding.name
        if binding.kind == "value" and not binding.steps and isinstance(binding.node, ast.expr):
            return self._stands_for(binding.node, depth + 1)
        return None

    def _stands_for(self, node: ast.expr, depth: int) -> str | None:
        """The qualified name that an expression stands for, where only imports reach it."""
        if depth > 4:
            return None
        parts: list[str] = []
        while isinstance(node, ast.Attribute):
            parts.append(node.attr)
            node = node.value
        base: str | None = None
        if isinstance(node, ast.Name):
            found = {self._origin(each, depth) for each in self.bindings(node)}
            base = found.pop() if len(found) == 1 else None
        elif isinstance(node, ast.Call) and node.args:
            last = node.args[-1]
            text = last.value if isinstance(last, ast.Constant) else None
            called = dotted(node.func) or ""
            if not isinstance(text, str):
                base = None
            elif called == "getattr" and len(node.args) == 2:
                of = self._stands_for(node.args[0], depth + 1)
                base = None if of is None else f"{of}.{text}"
            elif called.rpartition(".")[2] == "import_module" and len(node.args) == 1:
                base = text
        return None if base is None else ".".join([base, *reversed(parts)])

    # -- for the walkers -----------------------------------------------------------------------

    def _scope(self, node: ast.AST, outer: Scope | None, body: Sequence[ast.AST]) -> Scope:
        """A new scope for what is run in a node."""
        scope = Scope(node, outer, body=body)
        if isinstance(outer and outer.node, ast.ClassDef) and isinstance(node, Function):
            assert outer is not None
            assert isinstance(outer.node, ast.ClassDef)
            scope.class_ = outer.node
        return scope

    def _owner(self, name: str, scope: Scope) -> Scope:
        """The scope whose name it is that a scope binds."""
        if name not in scope.outside:
            return scope
        at = scope.outer
        while at is not None and at.outer is not None:
            if not _is_global(scope, name) and name in at.locals:
                return at
            at = at.outer
        return self.top

    def _qualified_import(self, node: ast.ImportFrom) -> str:
        if not node.level:
            return node.module or ""
        parts = [*self._package[: len(self._package) - node.level + 1]]
        return ".".join([*(parts or ["." * node.level]), *([node.module] if node.module else [])])


def _is_none(binding: Binding) -> bool:
    """Is nothing bound, as where an import failed?"""
    node = binding.node
    return (
        binding.kind == "value"
        and not binding.steps
        and isinstance(node, ast.Constant)
        and node.value is None
    )


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


def _lines(node: ast.AST) -> tuple[int, int]:
    first, last = getattr(node, "lineno", 0), getattr(node, "end_lineno", None)
    return first, last if last is not None else first


def _is_global(scope: Scope, name: str) -> bool:
    body = getattr(scope.node, "body", ())
    return isinstance(body, list) and any(
        isinstance(part, ast.Global) and name in part.names for part in own_nodes(body)
    )


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


_ORDER: dict[type, tuple[str, ...]] = {
    ast.AsyncFunctionDef: ("decorator_list", "type_params", "args", "returns", "body"),
    ast.ClassDef: ("decorator_list", "type_params", "bases", "keywords", "body"),
    ast.FunctionDef: ("decorator_list", "type_params", "args", "returns", "body"),
    ast.IfExp: ("body", "test", "orelse"),
    ast.DictComp: ("key", "value", "generators"),
}
"""Fields of the nodes that Python does not declare in the order of the source."""


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


def _binds(node: ast.AST) -> Iterator[str]:
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


def _join(*envs: _Env | None) -> _Env | None:
    """What holds where several ways come together; None where none of them does."""
    joined: _Env | None = None
    for env in envs:
        if env is None:
            continue
        if joined is None:
            joined = env.copy()
        else:
            joined.merge(env)
    return joined


@dataclass
class _Loop:
    breaks: list[_Env] = field(default_factory=list)
    continues: list[_Env] = field(default_factory=list)


class _Walker:
    """Follows the bindings through one scope."""

    def __init__(self, flow: Flow, scope: Scope) -> None:
        self.flow = flow
        self.scope = scope
        self.loops: list[_Loop] = []
        self.trying: list[_Env] = []
        """For each `try` around: what may hold when something in it raises."""
        self.ways: tuple[str, ...] = ()
        """Which of several times statements are looked at, for each of what is around them."""

    # -- statements ----------------------------------------------------------------------------

    def block(self, body: Iterable[ast.stmt], env: _Env | None) -> _Env | None:
        """What holds after some statements; None where control does not come past them."""
        for statement in body:
            # What is never reached is looked at as if it were: there is no more to know of it.
            if env is None:
                with self.on("never"):
                    self.statement(statement, _Env())
                continue
            env = self.statement(statement, env)
            if env is not None:
                for raised in self.trying:
                    raised.merge(env)
        return env

    @contextmanager
    def on(self, way: str) -> Iterator[None]:
        """Look at statements on one of several ways."""
        before, self.ways = self.ways, (*self.ways, way)
        yield
        self.ways = before

    def statement(self, node: ast.stmt, env: _Env) -> _Env | None:
        match node:
            case ast.Return() | ast.Raise():
                self.expressions(node, env)
                return None
            case ast.Break() | ast.Continue():
                if self.loops:
                    loop = self.loops[-1]
                    (loop.breaks if isinstance(node, ast.Break) else loop.continues).append(env)
                return None
            case ast.Assign():
                self.expression(node.value, env)
                for target in node.targets:
                    self.assign(target, node.value, (), env)
            case ast.AnnAssign():
                self.expression(node.annotation, env)
                if node.value is not None:
                    self.expression(node.value, env)
                self.annotate(node, env)
            case ast.AugAssign():
                self.expression(node.value, env)
                self.augment(node, env)
            case ast.If():
                self.expression(node.test, env)
                then = self.block(node.body, self.assume(env, node.test, truth=True))
                other = self.block(node.orelse, self.assume(env, node.test, truth=False))
                return _join(then, other)
            case ast.While() | ast.For() | ast.AsyncFor():
                return self.loop(node, env)
            case ast.Try() | ast.TryStar():
                return self.try_(node, env)
            case ast.With() | ast.AsyncWith():
                for item in node.items:
                    self.expression(item.context_expr, env)
                    if item.optional_vars is not None:
                        self.assign(item.optional_vars, item.context_expr, (ENTERED,), env)
                before = env.copy()
                after = self.block(node.body, env)
                # A context may swallow what its body raises.
                return after if after is not None else before
            case ast.Match():
                return self.match(node, env)
            case ast.Assert():
                self.expression(node.test, env)
                if node.msg is not None:
                    self.expression(node.msg, env.copy())
                return self.assume(env, node.test, truth=True)
            case ast.Import():
                for alias in node.names:
                    local = alias.asname or alias.name.partition(".")[0]
                    name = alias.name if alias.asname else local
                    self.bind(local, self.make("import", node, name=name), env)
            case ast.ImportFrom():
                source = self.flow._qualified_import(node)
                for alias in node.names:
                    if alias.name != "*":
                        name = f"{source}.{alias.name}" if source else alias.name
                        made = self.make("import", node, name=name)
                        self.bind(alias.asname or alias.name, made, env)
            case ast.FunctionDef() | ast.AsyncFunctionDef():
                self.function(node, env)
            case ast.ClassDef():
                self.class_(node, env)
            case ast.Delete():
                for target in node.targets:
                    self.expression(target, env)
                    gone = dotted(target)
                    if gone is not None:
                        env.drop(gone)
            case ast.Global() | ast.Nonlocal() | ast.Pass():
                pass
            case _:
                self.expressions(node, env)
        return env

    def expressions(self, node: ast.AST, env: _Env) -> None:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.expr):
                self.expression(child, env)

    def loop(self, node: ast.While | ast.For | ast.AsyncFor, env: _Env) -> _Env | None:
        if not isinstance(node, ast.While):
            self.expression(node.iter, env)
        start = _join(env, self.flow._starts.get((id(node), self.ways))) or env
        done: _Env | None = None
        while True:
            loop = _Loop()
            self.loops.append(loop)
            at = start.copy()
            if isinstance(node, ast.While):
                self.expression(node.test, at)
                done = self.assume(at, node.test, truth=False)
                at = self.assume(at, node.test, truth=True)
            else:
                done = at.copy()
                self.assign(node.target, node.iter, (ITEM,), at)
            end = self.block(node.body, at)
            self.loops.pop()
            again = _join(start, end, *loop.continues) or start
            if again == start:
                break
            start = again
        self.flow._starts[id(node), self.ways] = start
        if isinstance(node, ast.While) and _is_true(node.test):
            return _join(*loop.breaks)
        return _join(self.block(node.orelse, done), *loop.breaks)

    def try_(self, node: ast.Try | ast.TryStar, env: _Env) -> _Env | None:
        caught = env.copy()
        self.trying.append(caught)
        body = self.block(node.body, env.copy())
        self.trying.pop()
        ends = [self.block(node.orelse, body)]
        for handler in node.handlers:
            at = caught.copy()
            if handler.type is not None:
                self.expression(handler.type, at)
            if handler.name is not None:
                self.bind(handler.name, self.other("an exception"), at)
            end = self.block(handler.body, at)
            if end is not None and handler.name is not None:
                end.drop(handler.name)
            ends.append(end)
        after = _join(*ends)
        if not node.finalbody:
            return after
        # It is run after whatever was raised or returned, too.
        with self.on("raised"):
            final = self.block(node.finalbody, _join(after, caught, *ends))
        if after is None or final is None:
            return None
        if len(self.ways) - self.ways.count("never") >= WAYS:
            return final
        with self.on("ended"):
            return self.block(node.finalbody, after)

    def match(self, node: ast.Match, env: _Env) -> _Env | None:
        self.expression(node.subject, env)
        ends: list[_Env | None] = []
        final = False
        for case in node.cases:
            at = env.copy()
            for part in ast.walk(case.pattern):
                if isinstance(part, ast.expr):
                    self.expression(part, at)
                for name in _binds(part) if isinstance(part, ast.pattern) else ():
                    self.bind(name, self.other("a pattern"), at)
            if case.guard is not None:
                self.expression(case.guard, at)
                ends.append(self.block(case.body, self.assume(at, case.guard, truth=True)))
            else:
                ends.append(self.block(case.body, at))
            last = case.pattern
            final = case.guard is None and isinstance(last, ast.MatchAs) and last.pattern is None
        return _join(*ends, *([] if final else [env]))

    def function(self, node: ast.FunctionDef | ast.AsyncFunctionDef, env: _Env) -> None:
        for decorator in node.decorator_list:
            self.expression(decorator, env)
        self.signature(node, env)
        self.bind(node.name, self.make("definition", node), env)
        self.later(node, node.body)

    def signature(self, node: Function, env: _Env) -> None:
        for default in (*node.args.defaults, *node.args.kw_defaults):
            if default is not None:
                self.expression(default, env)
        for parameter in parameters(node):
            if parameter.annotation is not None:
                self.expression(parameter.annotation, env)
        if not isinstance(node, ast.Lambda) and node.returns is not None:
            self.expression(node.returns, env)

    def later(self, node: Function, body: Sequence[ast.AST]) -> None:
        """Look into a function once the scopes around it are known: it is called at some time."""
        self.flow._scopes[id(node)] = self.scope
        if id(node) in self.flow._inner:
            return  # a loop comes by here again
        scope = self.flow._inner[id(node)] = self.flow._scope(node, self.scope, body)

        def look() -> None:
            inner = _Walker(self.flow, scope)
            env = _Env()
            for parameter in parameters(node):
                made = inner.make("parameter", parameter)
                inner.bind(parameter.arg, made, env)
            if isinstance(node, ast.Lambda):
                inner.expression(node.body, env)
            else:
                inner.block(node.body, env)

        self.flow._bodies[id(node)] = node, look

    def class_(self, node: ast.ClassDef, env: _Env) -> None:
        for part in (*node.decorator_list, *node.bases, *(k.value for k in node.keywords)):
            self.expression(part, env)
        self.bind(node.name, self.make("definition", node), env)
        self.flow._scopes[id(node)] = self.scope
        scope = self.flow._inner.get(id(node))
        if scope is None:
            scope = self.flow._inner[id(node)] = self.flow._scope(node, self.scope, node.body)
        # It is run at once, with what holds around it.
        inner = _Walker(self.flow, scope)
        inner.ways = self.ways
        at = self.visible(env)
        for name in scope.locals:
            at.drop(name)
        inner.block(node.body, at)

    def visible(self, env: _Env) -> _Env:
        """What scopes inside that are run at once see of this one: all, save a class's names."""
        at = env.copy()
        if isinstance(self.scope.node, ast.ClassDef):
            for name in self.scope.locals:
                at.drop(name)
        return at

    # -- bindings ------------------------------------------------------------------------------

    def make(
        self,
        kind: str,
        node: ast.AST | None = None,
        steps: tuple[str | int, ...] = (),
        name: str = "",
    ) -> Binding:
        """A binding; the same one for the same place, so that loops come to an end."""
        key = kind, id(node), steps, name, id(self.scope)
        if key not in self.flow._made:
            self.flow._made[key] = Binding(kind, node, steps, name, self.scope)
        return self.flow._made[key]

    def other(self, how: str) -> Binding:
        return self.make("other", name=how)

    def bind(self, name: str, binding: Binding, env: _Env) -> None:
        owner = self.flow._owner(name, self.scope)
        owner.add(name, binding)
        if owner is not self.scope:
            owner.elsewhere.setdefault(name, set()).add(binding)
        env.set(name, frozenset({binding}))

    def assign(
        self, target: ast.expr, value: ast.expr, steps: tuple[str | int, ...], env: _Env
    ) -> None:
        if isinstance(target, ast.Tuple | ast.List):
            parts = target.elts
            starred = next((n for n, p in enumerate(parts) if isinstance(p, ast.Starred)), None)
            for number, part in enumerate(parts):
                if isinstance(part, ast.Starred):
                    self.assign(part.value, value, (*steps, STARRED), env)
                elif starred is not None and number > starred:
                    self.assign(part, value, (*steps, number - len(parts)), env)
                else:
                    self.assign(part, value, (*steps, number), env)
            return
        name = dotted(target)
        if isinstance(target, ast.Attribute | ast.Subscript):
            self.expression(target.value, env)
            if isinstance(target, ast.Subscript):
                self.expression(target.slice, env)
        if name is None:
            return
        made = self.make("value", value, steps)
        if isinstance(target, ast.Name):
            self.flow._scopes[id(target)] = self.scope
            self.bind(name, made, env)
        else:
            env.set(name, frozenset({made}))

    def annotate(self, node: ast.AnnAssign, env: _Env) -> None:
        name = dotted(node.target)
        if isinstance(node.target, ast.Attribute | ast.Subscript):
            self.expression(node.target.value, env)
        if name is None:
            return
        made = self.make("annotated", node)
        if isinstance(node.target, ast.Name):
            if node.value is None and not isinstance(self.scope.node, ast.ClassDef | ast.Module):
                # A declaration: it binds nothing, and says what the name is for.
                made = self.make("declared", node)
                self.flow._owner(name, self.scope).add(name, made)
                return
            self.bind(name, made, env)
        elif node.value is not None:
            env.set(name, frozenset({made}))

    def augment(self, node: ast.AugAssign, env: _Env) -> None:
        name = dotted(node.target)
        if isinstance(node.target, ast.Name):
            total = self.flow._sums.get(id(node))
            if total is None:
                read = ast.copy_location(ast.Name(node.target.id, ast.Load()), node.target)
                total = ast.copy_location(ast.BinOp(read, node.op, node.value), node)
                self.flow._sums[id(node)] = total
            self.expression(total.left, env)
            self.bind(node.target.id, self.make("value", total), env)
        elif name is not None:
            self.expression(node.target, env)
            env.drop(name)

    # -- expressions ---------------------------------------------------------------------------

    def expression(self, node: ast.expr, env: _Env) -> None:
        """Note what reaches each name of an expression."""
        match node:
            case ast.Name():
                if isinstance(node.ctx, ast.Load):
                    self.read(node, node.id, env)
            case ast.Attribute():
                self.flow._scopes[id(node)] = self.scope
                name = dotted(node)
                known = env.get(name) if name is not None else None
                if known is not None:
                    self.flow._reads.setdefault(id(node), set()).update(known)
                elif id(node) in self.flow._reads:
                    self.flow._reads[id(node)].add(self.other("on another way"))
                self.expression(node.value, env)
            case ast.BoolOp():
                at = env.copy()
                truth = isinstance(node.op, ast.And)
                for value in node.values:
                    self.expression(value, at)
                    self.keep(at, env)
                    at = self.assume(at, value, truth=truth) or at
            case ast.IfExp():
                self.expression(node.test, env)
                for part, truth in ((node.body, True), (node.orelse, False)):
                    at = self.assume(env, node.test, truth=truth)
                    self.expression(part, at)
                    self.keep(at, env)
            case ast.NamedExpr():
                self.expression(node.value, env)
                made = self.make("value", node.value)
                self.named(node.target.id, made, env)
            case ast.Lambda():
                self.signature(node, env)
                self.later(node, [node.body])
            case ast.ListComp() | ast.SetComp() | ast.DictComp() | ast.GeneratorExp():
                self.comprehension(node, env)
            case _:
                for child in ast.iter_child_nodes(node):
                    if isinstance(child, ast.expr):
                        self.expression(child, env)
                    elif isinstance(child, ast.keyword):
                        self.expression(child.value, env)

    def named(self, name: str, binding: Binding, env: _Env) -> None:
        """A binding by `:=`, which passes by the comprehensions around it."""
        walker: _Walker = self
        while isinstance(walker, _Inside):
            walker = walker.around
        walker.bind(name, binding, env)

    def keep(self, inner: _Env, env: _Env) -> None:
        """Take over what `:=` may have bound in a part of an expression."""
        for name, found in inner.names.items():
            known = env.names.get(name)
            if known is not found:
                env.names[name] = found if known is None else known | found

    def comprehension(self, node: Comprehension, env: _Env) -> None:
        inner = _Inside(self, self.flow, self.comprehension_scope(node))
        at = self.visible(env)
        for number, part in enumerate(node.generators):
            (self if number == 0 else inner).expression(part.iter, env if number == 0 else at)
            inner.assign(part.target, part.iter, (ITEM,), at)
            for test in part.ifs:
                inner.expression(test, at)
                at = inner.assume(at, test, truth=True)
        parts = [node.key, node.value] if isinstance(node, ast.DictComp) else [node.elt]
        for each in parts:
            inner.expression(each, at)
        own = inner.scope.locals
        walker: _Walker = self
        while isinstance(walker, _Inside):
            walker = walker.around
        names = {n: b for n, b in at.names.items() if n not in own}
        self.keep(_Env({n: b for n, b in names.items() if n in walker.scope.locals}), env)

    def comprehension_scope(self, node: Comprehension) -> Scope:
        scope = self.flow._inner.get(id(node))
        if scope is None:
            scope = Scope(node, self.scope)
            scope.locals = frozenset(
                part.id
                for generator in node.generators
                for part in ast.walk(generator.target)
                if isinstance(part, ast.Name) and isinstance(part.ctx, ast.Store)
            )
            self.flow._inner[id(node)] = scope
        return scope

    def read(self, node: ast.Name, name: str, env: _Env) -> None:
        self.flow._scopes[id(node)] = self.scope
        found = self.flow._reads.setdefault(id(node), set())
        known = env.names.get(name)
        if known is not None:
            found.update(known)
            owner = self._owner_of(name)
            if owner is not None:
                self._whenever(owner, name, found, inner_only=True)
        elif not self._is_local(name):
            self._whenever(self.scope, name, found, inner_only=False)

    def _owner_of(self, name: str) -> Scope | None:
        at: Scope | None = self.scope
        while at is not None and name not in at.locals:
            at = at.outer
        return at

    def _whenever(self, scope: Scope, name: str, found: set[Binding], *, inner_only: bool) -> None:
        """Add, once all is known, what other scopes bind to the name."""

        def add() -> None:
            if inner_only:
                found.update(scope.elsewhere.get(name, ()))
            else:
                found.update(self.flow.lookup(name, scope))

        self.flow._late.append(add)

    def _is_local(self, name: str) -> bool:
        at: Scope | None = self.scope
        while at is not None and isinstance(at.node, Comprehension):
            if name in at.locals:
                return True
            at = at.outer
        inside = at is not None and at.outer is not None
        return inside and at is not None and name in at.locals and isinstance(at.node, Function)

    # -- conditions ----------------------------------------------------------------------------

    def assume(self, env: _Env, test: ast.expr, *, truth: bool) -> _Env:
        """What holds where a condition came out as `truth`."""
        after = env.copy()
        self._assume(after, test, truth=truth)
        return after

    def _assume(self, env: _Env, test: ast.expr, *, truth: bool) -> None:
        match test:
            case ast.UnaryOp(op=ast.Not()):
                self._assume(env, test.operand, truth=not truth)
            case ast.BoolOp():
                if isinstance(test.op, ast.And) is truth:
                    for value in test.values:
                        self._assume(env, value, truth=truth)
            case ast.NamedExpr():
                self._assume(env, test.value, truth=truth)
            case ast.Call():
                asked, kind = _asks_class(test)
                name = dotted(asked)
                if name is None:
                    return
                made = (
                    self.make("isinstance", kind)
                    if truth
                    else self.make("other", test, name=f"it is no {ast.unparse(kind or test)}")
                )
                env.set(name, frozenset({made}))


class _Inside(_Walker):
    """A comprehension: its names are its own, all others those of the scope around it."""

    def __init__(self, around: _Walker, flow: Flow, scope: Scope) -> None:
        super().__init__(flow, scope)
        self.around = around


def _asks_class(node: ast.Call) -> tuple[ast.expr | None, ast.expr | None]:
    """What a call asks to be of a class, and that class; `torch.is_tensor` asks for a tensor."""
    called = dotted(node.func)
    if called == "isinstance" and len(node.args) == 2:
        return node.args[0], node.args[1]
    if called == "torch.is_tensor" and len(node.args) == 1:
        torch = node.func
        assert isinstance(torch, ast.Attribute)
        return node.args[0], torch
    return None, None


def _is_true(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and bool(node.value)
