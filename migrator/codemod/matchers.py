# SPDX-License-Identifier: Apache-2.0
"""Helpers to match by structure and qualified name on LibCST trees, for the rules.

LibCST's own metadata costs ten times a parse; what rules need of it (definitions by qualified name,
what a name is bound to by imports, ancestors of a node) is had here from one cheap walk.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from operator import itemgetter
from typing import Generic, TypeVar, cast

import libcst as cst

N = TypeVar("N", bound=cst.CSTNode)
N_co = TypeVar("N_co", bound=cst.CSTNode, covariant=True)
T = TypeVar("T")

Definitions = Mapping[str, cst.FunctionDef | cst.ClassDef]

_LAYOUT = (
    cst.BaseParenthesizableWhitespace,
    cst.Comment,
    cst.EmptyLine,
    cst.Newline,
    cst.TrailingWhitespace,
    cst.Comma,
    cst.LeftParen,
    cst.RightParen,
    cst.LeftSquareBracket,
    cst.RightSquareBracket,
    cst.LeftCurlyBrace,
    cst.RightCurlyBrace,
    cst.Colon,
    cst.Dot,
    cst.Semicolon,
    cst.AssignEqual,
)
_LAYOUT_FIELDS = frozenset({"lines_after_decorators", "header", "footer", "trailing_whitespace"})

_SOURCE_ORDER: dict[type, tuple[str, ...]] = {
    cst.Arg: ("keyword", "value"),
    cst.ClassDef: ("decorators", "name", "type_parameters", "bases", "keywords", "body"),
    cst.CompFor: ("asynchronous", "target", "iter", "ifs", "inner_for_in"),
    cst.ExceptHandler: ("type", "name", "body"),
    cst.ExceptStarHandler: ("type", "name", "body"),
    cst.For: ("asynchronous", "target", "iter", "body", "orelse"),
    cst.FunctionDef: (
        *("decorators", "asynchronous", "name", "type_parameters", "params", "returns", "body"),
    ),
    cst.IfExp: ("body", "test", "orelse"),
    cst.MatchCase: ("pattern", "guard", "body"),
    cst.MatchMapping: ("elements", "rest"),
    cst.Parameters: (
        *("posonly_params", "posonly_ind", "params", "star_arg", "kwonly_params", "star_kwarg"),
    ),
    cst.TypeAlias: ("name", "type_parameters", "value"),
    cst.With: ("asynchronous", "items", "body"),
}
"""Fields of the nodes that LibCST does not declare in the order of the source."""

_fields: dict[type, tuple[str, ...]] = {}
_is_syntax: dict[type, bool] = {str: False, tuple: False, list: False}


def _fields_of(kind: type) -> tuple[str, ...]:
    names = tuple(
        name
        for name in kind.__dataclass_fields__  # type: ignore[attr-defined]
        if not name.startswith(("whitespace", "leading", "lpar", "rpar", "comma", "semicolon"))
        and name not in _LAYOUT_FIELDS
    )
    order = _SOURCE_ORDER.get(kind, ())
    names = (*order, *(name for name in names if name not in order))
    _fields[kind] = names
    return names


def _judge_type(kind: type) -> bool:
    _is_syntax[kind] = issubclass(kind, cst.CSTNode) and not issubclass(kind, _LAYOUT)
    return _is_syntax[kind]


def children(node: cst.CSTNode) -> list[cst.CSTNode]:
    """The syntax nodes right below `node`, in source order, without white space and punctuation."""
    # This is the inner loop of every search, hence the dictionaries instead of isinstance.
    kind = type(node)
    found = []
    for name in _fields.get(kind) or _fields_of(kind):
        value = getattr(node, name)
        if value.__class__ is tuple or value.__class__ is list:
            for item in value:
                kind = item.__class__
                if _is_syntax[kind] if kind in _is_syntax else _judge_type(kind):
                    found.append(item)
        else:
            kind = value.__class__
            if _is_syntax[kind] if kind in _is_syntax else _judge_type(kind):
                found.append(value)
    return found


def walk(node: cst.CSTNode) -> Iterator[cst.CSTNode]:
    """`node` and every syntax node below it, in source order."""
    stack = [node]
    while stack:
        current = stack.pop()
        yield current
        below = children(current)
        if below:
            below.reverse()
            stack += below


_forgetting: list[Callable[[], None]] = []


def remembered(maxsize: int) -> Callable[[Callable[[N], T]], Callable[[N], T]]:
    """Keep what a function finds in the last syntax trees, until `forget` is called.

    Nodes are compared by identity, so several rules that search one module share what is found.
    """

    def decorate(function: Callable[[N], T]) -> Callable[[N], T]:
        kept = lru_cache(maxsize)(function)
        _forgetting.append(kept.cache_clear)
        return kept

    return decorate


def forget() -> None:
    """Let go of the syntax trees that were searched: they take a hundred times their text."""
    for clear in _forgetting:
        clear()


Parents = Mapping[int, cst.CSTNode]
"""Identity of a node → the node right above it."""


@dataclass(frozen=True, slots=True)
class Place(Generic[N_co]):
    """A node with its ancestors."""

    node: N_co
    parents: Parents

    @property
    def ancestors(self) -> tuple[cst.CSTNode, ...]:
        """The nodes above, outermost first."""
        found = []
        above = self.parents.get(id(self.node))
        while above is not None:
            found.append(above)
            above = self.parents.get(id(above))
        return tuple(reversed(found))

    @property
    def parent(self) -> cst.CSTNode:
        """The node right above."""
        return self.parents[id(self.node)]

    @property
    def qualified_name(self) -> str:
        """Dotted names of the classes and functions around the node; `<module>` for none."""
        names = [
            a.name.value for a in self.ancestors if isinstance(a, (cst.FunctionDef, cst.ClassDef))
        ]
        return ".".join(names) or "<module>"

    @property
    def function(self) -> cst.FunctionDef | None:
        """The innermost function around the node."""
        return next((a for a in reversed(self.ancestors) if isinstance(a, cst.FunctionDef)), None)

    @property
    def functions(self) -> list[cst.FunctionDef]:
        """The functions around the node, innermost first."""
        return [a for a in reversed(self.ancestors) if isinstance(a, cst.FunctionDef)]

    @property
    def class_(self) -> cst.ClassDef | None:
        """The innermost class around the node."""
        return next((a for a in reversed(self.ancestors) if isinstance(a, cst.ClassDef)), None)

    @property
    def statement(self) -> cst.BaseStatement:
        """The innermost statement around the node."""
        return next(a for a in reversed(self.ancestors) if isinstance(a, cst.BaseStatement))


def places(root: cst.CSTNode, kinds: type[N] | tuple[type[N], ...]) -> Iterator[Place[N]]:
    """Every node of `kinds` below `root` with its ancestors up to `root`, in source order."""
    parents, by_type = _index(root)
    found = [item for kind, items in by_type.items() if issubclass(kind, kinds) for item in items]
    found.sort(key=itemgetter(0))
    return iter([Place(cast("N", node), parents) for _, node in found])


@remembered(maxsize=8)
def _index(
    root: cst.CSTNode,
) -> tuple[dict[int, cst.CSTNode], dict[type, list[tuple[int, cst.CSTNode]]]]:
    """Parents of all nodes below `root`, and the nodes by type with their place in source order."""
    parents: dict[int, cst.CSTNode] = {}
    by_type: dict[type, list[tuple[int, cst.CSTNode]]] = {}
    stack = [root]
    number = 0
    while stack:
        node = stack.pop()
        by_type.setdefault(node.__class__, []).append((number, node))
        number += 1
        below = children(node)
        for child in below:
            parents[id(child)] = node
        below.reverse()
        stack += below
    return parents, by_type


def parents_of(root: cst.CSTNode) -> Parents:
    """For every node below `root`, by its identity, the node right above it."""
    return _index(root)[0]


@dataclass(frozen=True, slots=True)
class Bound:
    """One statement of a module or a class body that binds a name."""

    node: cst.CSTNode
    definition: bool
    """Is it a `def` or `class`, not an assignment, an import or a `del`?"""
    branch: tuple[int, ...]
    """Identities of the suites around it that may not be run."""
    order: int
    """Place among the statements of the body."""
    typing: bool
    """Is it for type checkers only?"""


class DoubtfulError(Exception):
    """Which of several things a name stands for is not certain: a person has to look.

    Args:
        name: the qualified name.
        node: the first definition.
        why: why it is not certain.
        defined: is one of them a definition?
    """

    def __init__(self, name: str, node: cst.CSTNode, why: str, *, defined: bool) -> None:
        super().__init__(f"{name}: {why}")
        self.defined = defined
        self.name = name
        self.node = node
        self.why = why


class Namespace:
    """What the statements of a module or a class body bind, at any level but in other scopes."""

    def __init__(self, body: Iterable[cst.CSTNode]) -> None:
        self.bound: dict[str, list[Bound]] = {}
        self._statements: list[cst.CSTNode] = []
        self._visit(body, (), typing=False)

    def _visit(self, body: Iterable[cst.CSTNode], branch: tuple[int, ...], *, typing: bool) -> None:
        for statement in body:
            order = len(self._statements)
            self._statements.append(statement)
            if isinstance(statement, (cst.FunctionDef, cst.ClassDef)):
                self._add(statement.name.value, statement, branch, order, typing, definition=True)
            elif isinstance(statement, (cst.SimpleStatementLine, cst.BaseSmallStatement)):
                # What stands on the line of an `if` is no line of its own.
                line = isinstance(statement, cst.SimpleStatementLine)
                for part in getattr(statement, "body", ()) if line else (statement,):
                    for name in bound_names(part):
                        self._add(name, statement, branch, order, typing, definition=False)
            elif isinstance(statement, cst.With):
                self._visit(statement.body.body, branch, typing=typing)
            elif isinstance(statement, cst.Match):
                for case in statement.cases:
                    self._visit(case.body.body, (*branch, id(case)), typing=typing)
            else:
                for suite, only in _branches(statement):
                    inside = (*branch, id(suite))
                    self._visit(getattr(suite, "body", ()), inside, typing=typing or only)

    def _add(
        self,
        name: str,
        node: cst.CSTNode,
        branch: tuple[int, ...],
        order: int,
        typing: bool,
        *,
        definition: bool,
    ) -> None:
        self.bound.setdefault(name, []).append(Bound(node, definition, branch, order, typing))

    def definitions(self, name: str) -> list[cst.FunctionDef | cst.ClassDef]:
        """All definitions of a name, without those that only say something of another one."""
        found = [b.node for b in self.bound.get(name, ()) if b.definition]
        return [
            node
            for node in found
            if isinstance(node, (cst.FunctionDef, cst.ClassDef))
            and (len(found) == 1 or not _only_adds(node))
        ]

    def in_force(self, name: str) -> Bound | None:
        """What a name stands for once the body was run; None where nothing binds it.

        A later binding takes the place of an earlier one that it is run after in any case.

        Raises:
            DoubtfulError: there is more than one, or a definition is bound to something else.
        """
        found = [b for b in self.bound.get(name, ()) if not (b.definition and _only_adds(b.node))]
        found = [b for b in found if not b.typing] or found
        left: list[Bound] = []
        for each in found:
            if not each.definition and any(b.definition for b in left) and _wraps(each.node, name):
                continue  # `f = wrapper(f)` is still f
            kept = [
                before
                for before in left
                if before.branch[: len(each.branch)] != each.branch
                or self._used_between(name, before, each)
            ]
            left = [*kept, each]
        if len(left) < 2 and not (left and not left[0].definition and len(found) > 1):
            return left[0] if left else None
        first = next((b for b in found if b.definition), found[0])
        count = sum(b.definition for b in found)
        if count > 1:
            why = f"it is defined {count} times"
        elif count:
            why = "it is defined, and bound to something else as well"
        elif len(left) == 1:
            return left[0]
        else:
            why = f"it is assigned {len(left)} times"
        why = f"{why}: which of them an NPU runs is not certain"
        raise DoubtfulError(name, first.node, why, defined=count > 0)

    def _used_between(self, name: str, before: Bound, after: Bound) -> bool:
        """Is a name used, while the body is run, before it is bound again?"""
        if not before.definition:
            return False
        for statement in self._statements[before.order + 1 : after.order + 1]:
            parts: Iterable[cst.CSTNode] = ()
            if isinstance(statement, (cst.FunctionDef, cst.ClassDef)):
                parts = statement.decorators
            elif isinstance(statement, cst.SimpleStatementLine):
                parts = statement.body if statement is not after.node else ()
            for part in parts:
                if any(isinstance(n, cst.Name) and n.value == name for n in walk(part)):
                    return True
        return False


def bound_names(statement: cst.CSTNode) -> list[str]:
    """Names that a simple statement binds; one that is only annotated is not."""
    if isinstance(statement, (cst.Import, cst.ImportFrom)):
        return list(bound_by(statement))
    targets: list[cst.CSTNode] = []
    if isinstance(statement, cst.Assign):
        targets = [target.target for target in statement.targets]
    elif isinstance(statement, cst.Del) or (
        isinstance(statement, cst.AnnAssign) and statement.value is not None
    ):
        targets = [statement.target]
    names = []
    for target in targets:
        if isinstance(target, cst.Name):
            names.append(target.value)
        elif isinstance(target, (cst.Tuple, cst.List)):
            names += [e.value.value for e in target.elements if isinstance(e.value, cst.Name)]
    return names


def _only_adds(node: cst.CSTNode) -> bool:
    """Is it an `@overload`, or the setter or deleter of a property defined before?"""
    if not isinstance(node, cst.FunctionDef):
        return False
    own = node.name.value
    kinds = {"overload", *(f"{own}.{kind}" for kind in ("setter", "deleter", "getter"))}
    kinds |= {"typing.overload", "typing_extensions.overload"}
    return any(dotted(decorator.decorator) in kinds for decorator in node.decorators)


def _wraps(statement: cst.CSTNode, name: str) -> bool:
    """Does an assignment bind a name to a call that takes what the name stood for before?"""
    if not isinstance(statement, cst.SimpleStatementLine):
        return False
    return any(
        isinstance(part, cst.Assign)
        and isinstance(part.value, cst.Call)
        and any(dotted(argument.value) == name for argument in part.value.args)
        for part in statement.body
    )


def _branches(statement: cst.CSTNode) -> Iterator[tuple[cst.CSTNode, bool]]:
    """Each suite of a compound statement, and whether it is for type checkers only."""
    typing = isinstance(statement, cst.If) and dotted(statement.test) in (
        *("TYPE_CHECKING", "typing.TYPE_CHECKING"),
    )
    for child in children(statement):
        if isinstance(child, (cst.IndentedBlock, cst.SimpleStatementSuite)):
            yield child, typing
        elif isinstance(
            child, (cst.If, cst.Else, cst.ExceptHandler, cst.ExceptStarHandler, cst.Finally)
        ):
            yield from _branches(child)


@remembered(maxsize=64)
def namespace(node: cst.CSTNode) -> Namespace:
    """What a module or a class binds."""
    assert isinstance(node, (cst.Module, cst.ClassDef))
    return Namespace(node.body if isinstance(node, cst.Module) else node.body.body)


def definition(module: cst.Module, qualified_name: str) -> cst.FunctionDef | cst.ClassDef | None:
    """The function or class called `qualified_name` that is in force; None where there is none.

    Definitions below `if`, `try` and the like of a module or a class body are found too; those
    inside functions are not.

    Raises:
        DoubtfulError: it is not certain which of several is in force.
    """
    try:
        found = bound(module, qualified_name)
    except DoubtfulError as error:
        if error.defined:
            raise
        return None  # it is assigned only, in several places
    node = found.node if found is not None and found.definition else None
    return node if isinstance(node, (cst.FunctionDef, cst.ClassDef)) else None


def bound(module: cst.Module, qualified_name: str) -> Bound | None:
    """What binds a qualified name for good: a definition, an assignment or an import.

    Raises:
        DoubtfulError: it is not certain which of several does.
    """
    at: cst.CSTNode = module
    above: list[str] = []
    found: Bound | None = None
    for part in qualified_name.split("."):
        if not isinstance(at, (cst.Module, cst.ClassDef)):
            return None
        try:
            found = namespace(at).in_force(part)
        except DoubtfulError as error:
            whole = ".".join([*above, part])
            raise DoubtfulError(whole, error.node, error.why, defined=error.defined) from None
        if found is None:
            return None
        at = found.node
        above.append(part)
    return found


def definitions(module: cst.Module) -> Definitions:
    """Functions and classes by qualified name: the one in force, the first where none is for sure.

    Definitions below `if`, `try` and the like of a module or a class body are found too; those
    inside functions are not.
    """
    found: dict[str, cst.FunctionDef | cst.ClassDef] = {}
    for name, node in every_definition(module):
        if name not in found:
            try:
                found[name] = definition(module, name) or node
            except DoubtfulError:
                found[name] = node
    return found


def every_definition(
    module: cst.Module,
) -> Iterator[tuple[str, cst.FunctionDef | cst.ClassDef]]:
    """Every function and class with its qualified name, in source order, all of one name too."""
    stack: list[tuple[str, cst.FunctionDef | cst.ClassDef]] = []

    def below(node: cst.Module | cst.ClassDef, prefix: str) -> None:
        inside = namespace(node)
        made = [b.node for bounds in inside.bound.values() for b in bounds if b.definition]
        order = {id(b.node): b.order for bounds in inside.bound.values() for b in bounds}
        for each in sorted(made, key=lambda each: -order[id(each)]):
            assert isinstance(each, (cst.FunctionDef, cst.ClassDef))
            stack.append((prefix + each.name.value, each))

    below(module, "")
    while stack:
        name, node = stack.pop()
        yield name, node
        if isinstance(node, cst.ClassDef):
            below(node, f"{name}.")


def _suites(statement: cst.CSTNode) -> Iterator[cst.CSTNode]:
    """The statements of every suite of a compound statement, `else` and handlers included."""
    for suite, _ in _branches(statement):
        yield from getattr(suite, "body", ())


def dotted(node: cst.CSTNode | None) -> str | None:
    """`a.b.c` for a name or a chain of attributes; None for any other expression."""
    if isinstance(node, cst.Name):
        return node.value
    if isinstance(node, cst.Attribute):
        base = dotted(node.value)
        return None if base is None else f"{base}.{node.attr.value}"
    return None


@dataclass
class Imports:
    """What the imports of a module bind: local name → qualified name."""

    module_level: dict[str, str] = field(default_factory=dict)
    """Bound when the module is imported, guarded imports included, `TYPE_CHECKING` ones not."""
    typing_only: dict[str, str] = field(default_factory=dict)
    """Bound for type checkers only."""
    unguarded: set[str] = field(default_factory=set)
    """Qualified names imported whatever happens: not below `try`, `if` or `with`."""

    @classmethod
    def of(cls, module: cst.Module) -> Imports:
        """Read the imports at module level and below its `if`, `try` and `with`."""
        imports = cls()
        imports._visit(module.body, imports.module_level)
        for statement in module.body:
            if isinstance(statement, cst.SimpleStatementLine):
                for part in statement.body:
                    imports.unguarded.update(bound_by(part).values())
        return imports

    def _visit(self, body: Iterable[cst.CSTNode], into: dict[str, str]) -> None:
        for statement in body:
            if isinstance(statement, cst.SimpleStatementLine):
                for part in statement.body:
                    into.update(bound_by(part))
            elif isinstance(statement, cst.If):
                typing = dotted(statement.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING")
                self._visit(statement.body.body, self.typing_only if typing else into)
                if isinstance(statement.orelse, cst.If):
                    self._visit([statement.orelse], into)
                elif statement.orelse is not None:
                    self._visit(statement.orelse.body.body, into)
            elif isinstance(statement, (cst.Try, cst.TryStar, cst.With)):
                self._visit(_suites(statement), into)

    def resolve(self, node: cst.CSTNode | None) -> str | None:
        """Qualified name of a name or attribute chain, its first part seen through the imports."""
        name = dotted(node)
        if name is None:
            return None
        first, dot, rest = name.partition(".")
        return self.module_level.get(first, first) + dot + rest


def bound_by(statement: cst.CSTNode) -> dict[str, str]:
    """Local name → qualified name for an `import` or `from … import` statement; else empty."""
    bound: dict[str, str] = {}
    if isinstance(statement, cst.Import):
        for alias in statement.names:
            name = dotted(alias.name) or ""
            if alias.asname is not None:
                bound[dotted(alias.asname.name) or ""] = name
            else:
                bound[name.partition(".")[0]] = name.partition(".")[0]
    elif isinstance(statement, cst.ImportFrom) and not isinstance(statement.names, cst.ImportStar):
        source = "." * len(statement.relative) + (dotted(statement.module) or "")
        for alias in statement.names:
            name = dotted(alias.name) or ""
            local = dotted(alias.asname.name) if alias.asname is not None else name
            bound[local or ""] = f"{source}.{name}" if not source.endswith(".") else source + name
    return bound


def docstring(body: Iterable[cst.CSTNode]) -> cst.CSTNode | None:
    """The statement that holds the docstring of a function, class or module body, if any."""
    for statement in body:
        if (
            isinstance(statement, cst.SimpleStatementLine)
            and isinstance(statement.body[0], cst.Expr)
            and isinstance(statement.body[0].value, (cst.SimpleString, cst.ConcatenatedString))
        ):
            return statement
        return None
    return None


def first_statement(definition: cst.FunctionDef | cst.ClassDef) -> cst.CSTNode:
    """The first statement of a body after its docstring; the docstring where there is no other."""
    body = definition.body.body
    skip = docstring(body)
    return next((s for s in body if s is not skip), body[0])


def annotated(class_: cst.ClassDef) -> dict[str | None, cst.SimpleStatementLine]:
    """The attributes that a class's body declares with a type, and their statements."""
    return {
        dotted(part.target): statement
        for statement in class_.body.body
        if isinstance(statement, cst.SimpleStatementLine)
        for part in statement.body
        if isinstance(part, cst.AnnAssign)
    }


def mentions(node: cst.CSTNode, name: str) -> bool:
    """Does the code of `node` use the name?"""
    return any(isinstance(n, cst.Name) and n.value == name for n in walk(node))


def holds_string(node: cst.CSTNode, text: str) -> bool:
    """Is the string literal `text` in the code of `node`?"""
    return any(isinstance(n, cst.SimpleString) and n.evaluated_value == text for n in walk(node))


def is_call_statement(statement: cst.CSTNode) -> bool:
    """Is it a call that stands for itself?"""
    return (
        isinstance(statement, cst.SimpleStatementLine)
        and isinstance(statement.body[0], cst.Expr)
        and isinstance(statement.body[0].value, cst.Call)
    )


def parameter_names(function: cst.FunctionDef) -> list[str]:
    """Names of a function's parameters in order, `*args` and `**kwargs` included."""
    return [parameter.name.value for parameter in parameters(function)]


def parameters(function: cst.FunctionDef) -> list[cst.Param]:
    """A function's parameters in order, `*args` and `**kwargs` included."""
    spec = function.params
    found = [*spec.posonly_params, *spec.params]
    if isinstance(spec.star_arg, cst.Param):
        found.append(spec.star_arg)
    found += spec.kwonly_params
    if spec.star_kwarg is not None:
        found.append(spec.star_kwarg)
    return found


def annotation_text(node: cst.Annotation | None) -> str:
    """Source text of an annotation, without quotes; empty where there is none."""
    if node is None:
        return ""
    return cst.Module([]).code_for_node(node.annotation).replace('"', "").replace("'", "")


_CUDA_ONLY = re.compile(
    r"(?:^|/)(?:nvidia|amd|cute_?dsl|cutlass\w*|rocm\w*|\w*flashinfer\w*|flash_?mla\w*|"
    r"\w*rocm\w*|pynccl\w*|cuda|cuda_communicator|cuda_wrapper|custom_all_reduce\w*|quick_all_reduce\w*|deep_?gemm\w*|"
    r"flash_attn\w*|deep_?ep\w*|nvshmem\w*|xpu\w*|tpu\w*|hpu\w*)(?:/|\.py$)"
)
_CUDA_PACKAGES = frozenset(
    {"aiter", "cuda", "cupy", "cutlass", "deep_ep", "deep_gemm", "flash_attn", "flashinfer"}
)


def cuda_only(path: str, imports: Imports) -> str | None:
    """Why a module only ever runs beside a CUDA, ROCm, XPU or TPU device; None where it may not.

    Told by its place (`models/x/nvidia/`, `backends/flashinfer.py`) or by an import, at module
    level and not guarded by `try`, of a package that exists for those devices only.
    """
    found = _CUDA_ONLY.search(path)
    if found is not None:
        return f"only runs on another device: its path says {found.group().strip('/')}"
    for name in sorted(imports.unguarded):
        package = name.partition(".")[0]
        if package in _CUDA_PACKAGES:
            return f"only runs on another device: it imports {package}"
    return None
