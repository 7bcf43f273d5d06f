# SPDX-License-Identifier: Apache-2.0
"""Operator schemas: reading them from text and from libraries, and binding calls to them.

The grammar is PyTorch's for `TORCH_LIBRARY` definitions: `ns::name.overload(Type arg=default, *,
Type? kw=None) -> (Type, Type)`, with alias marks such as `Tensor(a!)`.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum

from migrator.verify.signature import Bound, Kind, Parameter, Problem, Signature, bind


class SchemaError(ValueError):
    """The text is no operator schema; the message names the column."""


@dataclass(frozen=True, slots=True)
class TypeSpec:
    """A schema type such as `Tensor(a!)`, `int[2]?` or `Tensor?[]`.

    `size` is the fixed length of a list: a single number may stand for such a list.
    """

    base: str
    optional: bool = False
    element: TypeSpec | None = None
    size: int | None = None


@dataclass(frozen=True, slots=True)
class Argument:
    """One argument of a schema; `default` is its text, None where the argument is required."""

    name: str
    type: TypeSpec
    type_text: str
    default: str | None
    keyword_only: bool


@dataclass(frozen=True, slots=True)
class Schema:
    """An operator schema. `namespace` is empty where the text does not name one."""

    namespace: str
    name: str
    overload: str
    arguments: tuple[Argument, ...]
    returns: str
    text: str

    @property
    def signature(self) -> Signature:
        """The same as a signature that calls are bound to."""
        return Signature(
            self.text,
            tuple(
                Parameter(
                    a.name,
                    Kind.KEYWORD_ONLY if a.keyword_only else Kind.EITHER,
                    required=a.default is None,
                    type=a.type_text,
                )
                for a in self.arguments
            ),
        )


BASE_TYPES = frozenset(
    "Tensor Scalar int SymInt float SymFloat bool SymBool str complex ScalarType Device "
    "DeviceIndex "
    "Layout MemoryFormat Generator Stream Storage Dimname ConstQuantizerInfo QScheme Any NoneType "
    "None".split()
)
"""Types that a schema may name without further structure."""

_TOKEN = re.compile(
    r"""\s*(?:(?P<arrow>->)|(?P<number>[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)|
    (?P<string>"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*')|(?P<name>[A-Za-z_]\w*)|(?P<ns>::)|
    (?P<mark>[()\[\],=*?.!|]))""",
    re.VERBOSE,
)

_PRINTABLE = re.compile(rb"[\t\n\r -~]*")
_PRINTABLE_TAIL = re.compile(rb"(?<![\t\n\r -~])[\t\n\r -~]*\Z")


class _Parser:
    """Recursive descent over the tokens of one schema."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.tokens: list[tuple[str, str, int]] = []
        self.index = 0
        position = 0
        end = len(text.rstrip())
        while position < end:
            match = _TOKEN.match(text, position)
            if match is None or match.lastgroup is None:
                raise SchemaError(f"column {position + 1}: unexpected {text[position]!r}")
            self.tokens.append(
                (match.lastgroup, match.group(match.lastgroup), match.start(match.lastgroup))
            )
            position = match.end()

    def peek(self, ahead: int = 0) -> tuple[str, str]:
        index = self.index + ahead
        if index >= len(self.tokens):
            return ("end", "")
        kind, value, _ = self.tokens[index]
        return (kind, value)

    def fail(self, wanted: str) -> SchemaError:
        column = self.tokens[self.index][2] if self.index < len(self.tokens) else len(self.text)
        return SchemaError(f"column {column + 1}: expected {wanted}")

    def accept(self, value: str) -> bool:
        if self.peek()[1] == value and self.peek()[0] in ("mark", "arrow", "ns"):
            self.index += 1
            return True
        return False

    def expect(self, value: str) -> None:
        if not self.accept(value):
            raise self.fail(repr(value))

    def name(self) -> str:
        kind, value = self.peek()
        if kind != "name":
            raise self.fail("a name")
        self.index += 1
        return value

    def schema(self) -> Schema:
        namespace = ""
        name = self.name()
        if self.accept("::"):
            namespace, name = name, self.name()
        overload = self.name() if self.accept(".") else ""
        self.expect("(")
        arguments = self.arguments()
        self.expect("->")
        start = self.index
        self.returns()
        if self.peek()[0] != "end":
            raise self.fail("the end")
        returns = self.text[self.tokens[start][2] :].strip()
        return Schema(namespace, name, overload, arguments, returns, self.text.strip())

    def arguments(self) -> tuple[Argument, ...]:
        found: list[Argument] = []
        keyword_only = False
        if self.accept(")"):
            return ()
        while True:
            if self.accept("*"):
                if keyword_only:
                    raise self.fail("one `*`")
                keyword_only = True
            else:
                found.append(self.argument(keyword_only))
            if self.accept(")"):
                break
            self.expect(",")
        names = [a.name for a in found]
        if len(set(names)) != len(names):
            raise SchemaError(f"an argument of `{self.text}` is there twice")
        return tuple(found)

    def argument(self, keyword_only: bool) -> Argument:
        start = self.tokens[self.index][2] if self.index < len(self.tokens) else len(self.text)
        spec = self.type()
        end = self.tokens[self.index][2] if self.index < len(self.tokens) else len(self.text)
        type_text = re.sub(r"\s+", "", self.text[start:end])
        name = self.name()
        default = self.default() if self.accept("=") else None
        return Argument(name, spec, type_text, default, keyword_only)

    def type(self) -> TypeSpec:
        base = self.name()
        if base in ("Dict", "Future", "Await", "Union", "RRef", "Optional", "List"):
            self.expect("(")
            self.type()
            while self.accept(","):
                self.type()
            self.expect(")")
        elif base == "__torch__":
            while self.accept("."):
                base += "." + self.name()
        elif base not in BASE_TYPES:
            self.index -= 1
            raise self.fail("a type")
        if self.peek() == ("mark", "("):
            self.alias()
        spec = TypeSpec(base)
        while True:
            if self.accept("?"):
                spec = TypeSpec(spec.base, True, spec.element, spec.size)
            elif self.accept("["):
                size = None
                if self.peek()[0] == "number":
                    size = int(self.peek()[1])
                    self.index += 1
                self.expect("]")
                if self.peek() == ("mark", "("):
                    self.alias()
                spec = TypeSpec("list", element=spec, size=size)
            else:
                return spec

    def alias(self) -> None:
        """`(a)`, `(a!)`, `(a -> *)`, `(a|b)`: where the result lives, of no concern to a call."""
        self.expect("(")
        while not self.accept(")"):
            if self.peek()[0] == "end" or (
                self.peek()[1] not in ("!", "*", "->", "|") and (self.peek()[0] != "name")
            ):
                raise self.fail("an alias set")
            self.index += 1

    def default(self) -> str:
        kind, value = self.peek()
        if kind in ("number", "string", "name"):
            self.index += 1
            return value
        if self.accept("["):
            items: list[str] = []
            while not self.accept("]"):
                items.append(self.default())
                if not self.accept(",") and self.peek() != ("mark", "]"):
                    raise self.fail("`]`")
            return "[" + ", ".join(items) + "]"
        raise self.fail("a default value")

    def returns(self) -> None:
        if not self.accept("("):
            self.type()
            return
        if self.accept(")"):
            return
        while True:
            self.type()
            if self.peek()[0] == "name":
                self.name()
            if self.accept(")"):
                return
            self.expect(",")


def parse(text: str) -> Schema:
    """Read one schema.

    Raises:
        SchemaError: the text is not one.
    """
    return _Parser(text).schema()


def extract(library: bytes) -> list[str]:
    """All operator schemas that stand as text in a shared library, sorted, each once.

    A compiler may build short strings from constants in code, and then they stand nowhere: GCC does
    that on x86_64 (20 of 37 in libop_plugin_atb.so of torch_npu 2.13.0) and not on aarch64.
    """
    found: set[str] = set()
    for text in _printable_runs_around(library, b") ->"):
        try:
            parse(text)
        except SchemaError:
            continue
        found.add(text)
    return sorted(found)


def _printable_runs_around(data: bytes, mark: bytes) -> Iterator[str]:
    """The longest runs of printable ASCII in `data` that contain `mark`.

    Not C strings: the bytes before a string need not be NUL.
    """
    position = data.find(mark)
    while position != -1:
        before = _PRINTABLE_TAIL.search(data, max(0, position - 16384), position)
        after = _PRINTABLE.match(data, position)
        if before is None or after is None:  # both patterns match the empty run
            return
        yield (before.group() + after.group()).decode("ascii")
        position = data.find(mark, after.end())


class Literal(Enum):
    """What the source shows of an argument's type."""

    NONE = "None"
    BOOL = "bool"
    INT = "int"
    FLOAT = "float"
    COMPLEX = "complex"
    STR = "str"
    LIST = "list"


def literal_of(node: ast.expr) -> Literal | None:
    """The type of a literal, None where only a run can tell."""
    if isinstance(node, ast.Constant):
        value = node.value
        for type_, literal in (
            (bool, Literal.BOOL),
            (int, Literal.INT),
            (float, Literal.FLOAT),
            (complex, Literal.COMPLEX),
            (str, Literal.STR),
        ):
            if isinstance(value, type_):
                return literal
        return Literal.NONE if value is None else None
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub | ast.UAdd):
        inner = literal_of(node.operand)
        return inner if inner in (Literal.INT, Literal.FLOAT, Literal.COMPLEX) else None
    if isinstance(node, ast.JoinedStr):
        return Literal.STR
    if isinstance(node, ast.List | ast.Tuple | ast.ListComp):
        return Literal.LIST
    return None


_ACCEPTS: dict[str, frozenset[Literal]] = {
    "Tensor": frozenset(),
    "Scalar": frozenset({Literal.BOOL, Literal.INT, Literal.FLOAT, Literal.COMPLEX}),
    "int": frozenset({Literal.INT, Literal.BOOL}),
    "SymInt": frozenset({Literal.INT, Literal.BOOL}),
    "DeviceIndex": frozenset({Literal.INT}),
    "float": frozenset({Literal.FLOAT, Literal.INT, Literal.BOOL}),
    "SymFloat": frozenset({Literal.FLOAT, Literal.INT, Literal.BOOL}),
    "complex": frozenset({Literal.COMPLEX, Literal.FLOAT, Literal.INT, Literal.BOOL}),
    # pybind11 converts a number to bool by its truth value.
    "bool": frozenset({Literal.BOOL, Literal.INT, Literal.FLOAT}),
    "SymBool": frozenset({Literal.BOOL, Literal.INT, Literal.FLOAT}),
    "str": frozenset({Literal.STR}),
    # ScalarType, Layout and MemoryFormat are ints to the operator library.
    "ScalarType": frozenset({Literal.INT}),
    "Layout": frozenset({Literal.INT}),
    "MemoryFormat": frozenset({Literal.INT}),
    "Device": frozenset({Literal.STR}),
    "Generator": frozenset(),
}

_FILLS_A_LIST: dict[str, frozenset[Literal]] = {
    "int": frozenset({Literal.INT, Literal.BOOL}),
    "float": frozenset({Literal.FLOAT}),
}
"""Single numbers that stand for a list of fixed length, by the list's element type."""


def type_problem(spec: TypeSpec, node: ast.expr, type_text: str) -> Problem | None:
    """The reason why a literal is no argument of this type, None where it is or may be.

    What torch.ops converts is right, with these exceptions, which it lets through and which break
    the schema all the same: None for a Tensor, a bool or an element of a list, a str for a `str[]`,
    a bool for a ScalarType.
    """
    literal = literal_of(node)
    if literal is None:
        return None
    if literal is Literal.NONE:
        if spec.optional or spec.base in ("NoneType", "None", "Any"):
            return None
        return Problem(f"is None but the type is `{type_text}`", node)
    if spec.base == "list":
        element = spec.element
        if element is None:
            return None
        if literal is Literal.LIST:
            if isinstance(node, ast.List | ast.Tuple):
                return _elements_problem(element, node, type_text)
            return None
        if spec.size is not None and literal in _FILLS_A_LIST.get(element.base, frozenset()):
            return None
        return Problem(f"is {_shown(literal)} but the type is `{type_text}`", node)
    accepted = _ACCEPTS.get(spec.base)
    if accepted is None or literal in accepted:
        return None
    return Problem(f"is {_shown(literal)} but the type is `{type_text}`", node)


def _elements_problem(
    element: TypeSpec, node: ast.List | ast.Tuple, type_text: str
) -> Problem | None:
    for item in node.elts:
        if isinstance(item, ast.Starred):
            continue
        problem = type_problem(element, item, type_text)
        if problem is not None:
            return Problem(f"has an element that {problem.message}", item)
    return None


def _shown(literal: Literal) -> str:
    article = "an" if literal is Literal.INT else "a"
    return f"{article} {literal.value}"


def bind_schema(schema: Schema, call: ast.Call) -> Bound:
    """Bind a call to one schema, literal types included."""
    bound = bind(schema.signature, call)
    by_name = {a.name: a for a in schema.arguments}
    problems = list(bound.problems)
    for parameter, node in bound.arguments:
        argument = by_name[parameter.name]
        problem = type_problem(argument.type, node, argument.type_text)
        if problem is not None:
            problems.append(Problem(f"argument `{argument.name}` {problem.message}", problem.node))
    return Bound(tuple(problems), bound.arguments)


def bind_overloads(schemas: Sequence[Schema], call: ast.Call) -> tuple[Schema, Bound]:
    """The overload that takes a call, or the one that is nearest to doing so, and the binding."""
    attempts = [(schema, bind_schema(schema, call)) for schema in schemas]
    return min(attempts, key=lambda attempt: len(attempt[1].problems))
