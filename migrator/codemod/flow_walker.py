# SPDX-License-Identifier: Apache-2.0
"""Follows the bindings of names through one scope: branches, loops, `try`, `with` and `match`."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from migrator.codemod.bindings import (
    ENTERED,
    ITEM,
    STARRED,
    Binding,
    Env,
    Noted,
    Scope,
    join,
)
from migrator.codemod.syntax import (
    Comprehension,
    Function,
    dotted,
    names_bound,
    parameters,
)

WAYS = 4
"""So many `finally` in each other are looked at twice, as after an error and as without one."""


@dataclass
class _Loop:
    breaks: list[Env] = field(default_factory=list)
    continues: list[Env] = field(default_factory=list)


class _Walker:
    """Follows the bindings through one scope."""

    def __init__(self, flow: Noted, scope: Scope) -> None:
        self.flow = flow
        self.scope = scope
        self.loops: list[_Loop] = []
        self.trying: list[Env] = []
        """For each `try` around: what may hold when something in it raises."""
        self.ways: tuple[str, ...] = ()
        """Which of several times statements are looked at, for each of what is around them."""

    # -- statements ----------------------------------------------------------------------------

    def block(self, body: Iterable[ast.stmt], env: Env | None) -> Env | None:
        """What holds after some statements; None where control does not come past them."""
        for statement in body:
            # What is never reached is looked at as if it were: there is no more to know of it.
            if env is None:
                with self.on("never"):
                    self.statement(statement, Env())
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

    def statement(self, node: ast.stmt, env: Env) -> Env | None:
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
                return join(then, other)
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
                source = self.flow.qualified_import(node)
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

    def expressions(self, node: ast.AST, env: Env) -> None:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.expr):
                self.expression(child, env)

    def loop(self, node: ast.While | ast.For | ast.AsyncFor, env: Env) -> Env | None:
        if not isinstance(node, ast.While):
            self.expression(node.iter, env)
        start = join(env, self.flow.starts.get((id(node), self.ways))) or env
        done: Env | None = None
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
            again = join(start, end, *loop.continues) or start
            if again == start:
                break
            start = again
        self.flow.starts[id(node), self.ways] = start
        if isinstance(node, ast.While) and _is_true(node.test):
            return join(*loop.breaks)
        return join(self.block(node.orelse, done), *loop.breaks)

    def try_(self, node: ast.Try | ast.TryStar, env: Env) -> Env | None:
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
        after = join(*ends)
        if not node.finalbody:
            return after
        # It is run after whatever was raised or returned, too.
        with self.on("raised"):
            final = self.block(node.finalbody, join(after, caught, *ends))
        if after is None or final is None:
            return None
        if len(self.ways) - self.ways.count("never") >= WAYS:
            return final
        with self.on("ended"):
            return self.block(node.finalbody, after)

    def match(self, node: ast.Match, env: Env) -> Env | None:
        self.expression(node.subject, env)
        ends: list[Env | None] = []
        final = False
        for case in node.cases:
            at = env.copy()
            for part in ast.walk(case.pattern):
                if isinstance(part, ast.expr):
                    self.expression(part, at)
                for name in names_bound(part) if isinstance(part, ast.pattern) else ():
                    self.bind(name, self.other("a pattern"), at)
            if case.guard is not None:
                self.expression(case.guard, at)
                ends.append(self.block(case.body, self.assume(at, case.guard, truth=True)))
            else:
                ends.append(self.block(case.body, at))
            last = case.pattern
            final = case.guard is None and isinstance(last, ast.MatchAs) and last.pattern is None
        return join(*ends, *([] if final else [env]))

    def function(self, node: ast.FunctionDef | ast.AsyncFunctionDef, env: Env) -> None:
        for decorator in node.decorator_list:
            self.expression(decorator, env)
        self.signature(node, env)
        self.bind(node.name, self.make("definition", node), env)
        self.later(node, node.body)

    def signature(self, node: Function, env: Env) -> None:
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
        self.flow.scopes[id(node)] = self.scope
        if id(node) in self.flow.inner:
            return  # a loop comes by here again
        scope = self.flow.inner[id(node)] = self.flow.new_scope(node, self.scope, body)

        def look() -> None:
            inner = _Walker(self.flow, scope)
            env = Env()
            for parameter in parameters(node):
                made = inner.make("parameter", parameter)
                inner.bind(parameter.arg, made, env)
            if isinstance(node, ast.Lambda):
                inner.expression(node.body, env)
            else:
                inner.block(node.body, env)

        self.flow.bodies[id(node)] = node, look

    def class_(self, node: ast.ClassDef, env: Env) -> None:
        for part in (*node.decorator_list, *node.bases, *(k.value for k in node.keywords)):
            self.expression(part, env)
        self.bind(node.name, self.make("definition", node), env)
        self.flow.scopes[id(node)] = self.scope
        scope = self.flow.inner.get(id(node))
        if scope is None:
            scope = self.flow.inner[id(node)] = self.flow.new_scope(node, self.scope, node.body)
        # It is run at once, with what holds around it.
        inner = _Walker(self.flow, scope)
        inner.ways = self.ways
        at = self.visible(env)
        for name in scope.locals:
            at.drop(name)
        inner.block(node.body, at)

    def visible(self, env: Env) -> Env:
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
        if key not in self.flow.made:
            self.flow.made[key] = Binding(kind, node, steps, name, self.scope)
        return self.flow.made[key]

    def other(self, how: str) -> Binding:
        return self.make("other", name=how)

    def bind(self, name: str, binding: Binding, env: Env) -> None:
        owner = self.flow.owner(name, self.scope)
        owner.add(name, binding)
        if owner is not self.scope:
            owner.elsewhere.setdefault(name, set()).add(binding)
        env.set(name, frozenset({binding}))

    def assign(
        self, target: ast.expr, value: ast.expr, steps: tuple[str | int, ...], env: Env
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
            self.flow.scopes[id(target)] = self.scope
            self.bind(name, made, env)
        else:
            env.set(name, frozenset({made}))

    def annotate(self, node: ast.AnnAssign, env: Env) -> None:
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
                self.flow.owner(name, self.scope).add(name, made)
                return
            self.bind(name, made, env)
        elif node.value is not None:
            env.set(name, frozenset({made}))

    def augment(self, node: ast.AugAssign, env: Env) -> None:
        name = dotted(node.target)
        if isinstance(node.target, ast.Name):
            total = self.flow.sums.get(id(node))
            if total is None:
                read = ast.copy_location(ast.Name(node.target.id, ast.Load()), node.target)
                total = ast.copy_location(ast.BinOp(read, node.op, node.value), node)
                self.flow.sums[id(node)] = total
            self.expression(total.left, env)
            self.bind(node.target.id, self.make("value", total), env)
        elif name is not None:
            self.expression(node.target, env)
            env.drop(name)

    # -- expressions ---------------------------------------------------------------------------

    def expression(self, node: ast.expr, env: Env) -> None:
        """Note what reaches each name of an expression."""
        match node:
            case ast.Name():
                if isinstance(node.ctx, ast.Load):
                    self.read(node, node.id, env)
            case ast.Attribute():
                self.flow.scopes[id(node)] = self.scope
                name = dotted(node)
                known = env.get(name) if name is not None else None
                if known is not None:
                    self.flow.reads.setdefault(id(node), set()).update(known)
                elif id(node) in self.flow.reads:
                    self.flow.reads[id(node)].add(self.other("on another way"))
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

    def named(self, name: str, binding: Binding, env: Env) -> None:
        """A binding by `:=`, which passes by the comprehensions around it."""
        walker: _Walker = self
        while isinstance(walker, _Inside):
            walker = walker.around
        walker.bind(name, binding, env)

    def keep(self, inner: Env, env: Env) -> None:
        """Take over what `:=` may have bound in a part of an expression."""
        for name, found in inner.names.items():
            known = env.names.get(name)
            if known is not found:
                env.names[name] = found if known is None else known | found

    def comprehension(self, node: Comprehension, env: Env) -> None:
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
        self.keep(Env({n: b for n, b in names.items() if n in walker.scope.locals}), env)

    def comprehension_scope(self, node: Comprehension) -> Scope:
        scope = self.flow.inner.get(id(node))
        if scope is None:
            scope = Scope(node, self.scope)
            scope.locals = frozenset(
                part.id
                for generator in node.generators
                for part in ast.walk(generator.target)
                if isinstance(part, ast.Name) and isinstance(part.ctx, ast.Store)
            )
            self.flow.inner[id(node)] = scope
        return scope

    def read(self, node: ast.Name, name: str, env: Env) -> None:
        self.flow.scopes[id(node)] = self.scope
        found = self.flow.reads.setdefault(id(node), set())
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

        self.flow.late.append(add)

    def _is_local(self, name: str) -> bool:
        at: Scope | None = self.scope
        while at is not None and isinstance(at.node, Comprehension):
            if name in at.locals:
                return True
            at = at.outer
        inside = at is not None and at.outer is not None
        return inside and at is not None and name in at.locals and isinstance(at.node, Function)

    # -- conditions ----------------------------------------------------------------------------

    def assume(self, env: Env, test: ast.expr, *, truth: bool) -> Env:
        """What holds where a condition came out as `truth`."""
        after = env.copy()
        self._assume(after, test, truth=truth)
        return after

    def _assume(self, env: Env, test: ast.expr, *, truth: bool) -> None:
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

    def __init__(self, around: _Walker, flow: Noted, scope: Scope) -> None:
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


def walk(flow: Noted, body: Sequence[ast.stmt]) -> None:
    """Note what the statements of a module bind, and which bindings reach their names."""
    _Walker(flow, flow.top).block(body, Env())
