# SPDX-License-Identifier: Apache-2.0
"""Operator schemas: the grammar, finding them in libraries, and binding calls to them."""

from __future__ import annotations

import ast
import inspect
import keyword

import pytest
from hypothesis import given
from hypothesis import strategies as st

from migrator.verify import schema
from migrator.verify.schema import BASE_TYPES, Schema, SchemaError, bind_schema, parse


def call(text: str) -> ast.Call:
    node = ast.parse(text, mode="eval").body
    assert isinstance(node, ast.Call)
    return node


def problems(schema_text: str, call_text: str) -> list[str]:
    return [p.message for p in bind_schema(parse(schema_text), call(call_text)).problems]


# -- grammar


def test_every_part_is_read() -> None:
    text = (
        "npu::fused.out(Tensor(a!) self, Tensor?[] masks, int[2]? sizes=[1, 2], *, "
        "str layout='BSH', float eps=-1e-06, int reduction=Mean, Tensor(b!)[] out) "
        "-> (Tensor(a!) y, Tensor(b!)[])"
    )
    found = parse(text)
    assert (found.namespace, found.name, found.overload) == ("npu", "fused", "out")
    assert found.text == text
    assert [(a.name, a.type_text, a.default, a.keyword_only) for a in found.arguments] == [
        ("self", "Tensor(a!)", None, False),
        ("masks", "Tensor?[]", None, False),
        ("sizes", "int[2]?", "[1, 2]", False),
        ("layout", "str", "'BSH'", True),
        ("eps", "float", "-1e-06", True),
        ("reduction", "int", "Mean", True),
        ("out", "Tensor(b!)[]", None, True),
    ]
    assert found.returns == "(Tensor(a!) y, Tensor(b!)[])"
    masks, sizes = found.arguments[1].type, found.arguments[2].type
    assert masks.base == "list"
    assert not masks.optional
    assert masks.element is not None
    assert masks.element.optional
    assert (sizes.size, sizes.optional) == (2, True)


@pytest.mark.parametrize(
    "text",
    [
        "f() -> ()",
        "f(Tensor x) -> Tensor",
        "f(Tensor x, *,Tensor? w=None) -> ()",  # no blank after the star, as in the wheels
        "f(Tensor x, *, int ? kind = 0) -> ()",  # blanks inside a type, as in the wheels
        "f(int k=1,  bool norm=True) -> (Tensor, Tensor)",
        "f(Tensor(a -> *) x) -> Tensor(a)[]",
        "f(Dict(str, Tensor) x, float scale=1.) -> Tensor",
        "f(bool[3] mask, ScalarType? dtype=None, str s=\"a, b) -> c\") -> Tensor",
    ],
)  # fmt: skip
def test_what_the_wheels_write_is_read(text: str) -> None:
    assert parse(text).name == "f"


@pytest.mark.parametrize(
    ("text", "column"),
    [
        ("", 1),
        ("f", 2),
        ("f(Tensor x)", 12),
        ("f(Tensor) -> ()", 9),
        ("f(Tenser x) -> ()", 3),
        ("f(Tensor x,) -> ()", 12),
        ("f(Tensor x, *, *, int y) -> ()", 17),
        ("f(Tensor x) -> Tensor junk", 23),
        ("f(Tensor x=) -> Tensor", 12),
        ("f(Tensor x) -> (Tensor", 23),
        ("f(int[x] y) -> ()", 7),
        ("f(Tensor(a y) -> ()", 15),
        ("1f() -> ()", 1),
        ("f(@) -> ()", 3),
    ],
)
def test_an_error_names_the_column(text: str, column: int) -> None:
    with pytest.raises(SchemaError, match=rf"column {column}:"):
        parse(text)


def test_an_argument_cannot_be_there_twice() -> None:
    with pytest.raises(SchemaError, match="twice"):
        parse("f(int x, int x) -> ()")


NAMES = st.from_regex(r"[a-z_][a-z0-9_]{0,8}", fullmatch=True).filter(
    lambda name: not keyword.iskeyword(name)
)
DEFAULTS = {"int": "-3", "float": "1e-06", "bool": "True", "str": "'TND'", "Tensor?": "None"}


@st.composite
def schemas(draw: st.DrawFn) -> tuple[str, list[tuple[str, str, str | None, bool]]]:
    """A schema's text and its arguments: name, type, default, keyword only."""
    names = draw(st.lists(NAMES, unique=True, max_size=6))
    star = draw(st.integers(0, len(names)))
    arguments = []
    with_default = False
    for index, name in enumerate(names):
        type_ = draw(st.sampled_from([*DEFAULTS, "Tensor", "Tensor(a!)", "int[]", "SymInt[2]?"]))
        keyword_only = index >= star
        can = type_ in DEFAULTS
        with_default = can and (draw(st.booleans()) or (with_default and not keyword_only))
        default = DEFAULTS[type_] if with_default else None
        arguments.append((name, type_, default, keyword_only))
    parts = []
    for index, (name, type_, default, _) in enumerate(arguments):
        if index == star:
            parts.append("*")
        parts.append(f"{type_} {name}" + (f"={default}" if default else ""))
    comma = draw(st.sampled_from([", ", ",", ",  "]))
    return f"{draw(NAMES)}({comma.join(parts)}) -> Tensor", arguments


@given(schemas())
def test_what_is_written_is_read(made: tuple[str, list[tuple[str, str, str | None, bool]]]) -> None:
    text, arguments = made
    found = parse(text)
    assert [(a.name, a.type_text, a.default, a.keyword_only) for a in found.arguments] == arguments


@given(st.text(alphabet="Tensor int?[](),*=->a!.:'\" 12", max_size=60))
def test_any_text_is_a_schema_or_a_schema_error(text: str) -> None:
    try:
        found = parse(text)
    except SchemaError:
        return
    assert isinstance(found, Schema)
    assert parse(found.text) == found


@given(
    schemas(),
    st.integers(0, 7),
    st.lists(st.one_of(NAMES, st.integers(0, 5)), max_size=5, unique=True),
)
def test_binding_agrees_with_the_interpreter(
    made: tuple[str, list[tuple[str, str, str | None, bool]]],
    positional: int,
    keywords: list[str | int],
) -> None:
    text, arguments = made
    parameters = [
        inspect.Parameter(
            name,
            inspect.Parameter.KEYWORD_ONLY if only else inspect.Parameter.POSITIONAL_OR_KEYWORD,
            default=inspect.Parameter.empty if default is None else default,
        )
        for name, _, default, only in arguments
    ]
    try:
        signature = inspect.Signature(parameters)
    except ValueError:  # a required argument behind one with a default: no Python signature
        return
    names = {
        k if isinstance(k, str) else arguments[k % len(arguments)][0] if arguments else "none"
        for k in keywords
    }
    # A name that holds a value only a run can tell: no literal type is judged.
    source = ["v"] * positional + [f"{name}=v" for name in sorted(names)]
    try:
        signature.bind(*["v"] * positional, **dict.fromkeys(names, "v"))
        binds = True
    except TypeError:
        binds = False
    assert (problems(text, f"f({', '.join(source)})") == []) == binds


# -- libraries


def test_schemas_are_found_in_a_library() -> None:
    wanted = [
        "npu_a(Tensor x, int k=1) -> Tensor",
        "npu_a.out(Tensor x, *, Tensor(a!) out) -> Tensor(a!)",
        "npu_b(Tensor x) -> (Tensor, Tensor)",
    ]
    library = (
        b"\x7fELF\x02\x01"
        + wanted[0].encode()
        + b"\0\xff\xff"
        + wanted[1].encode()
        + b"\0\0(%d) -> %s\0f(x) -> y\0torn(Tensor x, Tens\0or y) -> Tensor\0"
        + wanted[2].encode()
        + b"\xfe\0"
        + wanted[0].encode()
    )
    assert schema.extract(library) == sorted(wanted)
    assert schema.extract(b"") == []


@given(st.binary(max_size=300), st.binary(max_size=300))
def test_a_schema_is_found_between_any_bytes(before: bytes, after: bytes) -> None:
    text = "npu_x(Tensor x) -> Tensor"
    found = schema.extract(before + b"\0" + text.encode() + b"\0" + after)
    assert text in found


# -- literals: which ones torch.ops converts, measured with torch 2.13.0

LITERALS = {
    "None": "None", "bool": "True", "int": "3", "float": "1.5", "complex": "1j", "str": "'a'",
    "ints": "[1, 2]", "floats": "[1.0, 2.0]", "bools": "[True, False]", "strs": "['a', 'b']",
    "Nones": "[None, None]", "empty": "[]", "tuple": "(1, 2)",
}  # fmt: skip
_NUMBER_LISTS = ["ints", "floats", "bools", "empty", "tuple"]
_INT_LISTS = ["ints", "bools", "empty", "tuple"]
TAKEN = {
    "Tensor": ["None"],
    "Tensor?": ["None"],
    "Scalar": ["bool", "int", "float", "complex"],
    "int": ["bool", "int"],
    "SymInt": ["bool", "int"],
    "float": ["bool", "int", "float"],
    "bool": ["None", "bool", "int", "float", "complex"],
    "str": ["str"],
    "ScalarType": ["bool", "int"],
    "ScalarType?": ["None", "bool", "int"],
    "Generator": [],
    "int[]": _INT_LISTS,
    "int[2]": ["bool", "int", *_INT_LISTS],
    "SymInt[]": _INT_LISTS,
    "SymInt[2]": _INT_LISTS,
    "float[]": _NUMBER_LISTS,
    "float[2]": ["float", *_NUMBER_LISTS],
    "bool[]": [*_NUMBER_LISTS, "Nones"],
    "Tensor[]": ["empty"],
    "Tensor?[]": ["Nones", "empty"],
    "str[]": ["str", "strs", "empty"],
    "int[]?": ["None", *_INT_LISTS],
    "int[2]?": ["None", "bool", "int", *_INT_LISTS],
    "str?": ["None", "str"],
    "int?": ["None", "bool", "int"],
}
STRICTER = {
    ("Tensor", "None"), ("bool", "None"), ("bool", "complex"), ("ScalarType", "bool"),
    ("ScalarType?", "bool"), ("bool[]", "Nones"), ("str[]", "str"),
}  # fmt: skip
"""What torch.ops lets through and is a finding all the same: it breaks the schema."""


@pytest.mark.parametrize("type_", TAKEN)
def test_literals_are_taken_as_torch_takes_them(type_: str) -> None:
    for name, text in LITERALS.items():
        taken = problems(f"f({type_} x) -> Tensor", f"f({text})") == []
        wanted = name in TAKEN[type_] and (type_, name) not in STRICTER
        assert taken == wanted, (type_, name)


def test_a_type_problem_names_argument_and_type() -> None:
    text = "f(Tensor x, int[] sizes, str mode='a') -> Tensor"
    assert problems(text, "f(x, [1, 2.5], mode=None)") == [
        "argument `sizes` has an element that is a float but the type is `int[]`",
        "argument `mode` is None but the type is `str`",
    ]
    assert problems(text, "f(x, 3, f'{x}')") == [
        "argument `sizes` is an int but the type is `int[]`"
    ]
    assert problems(text, "f(x, [*sizes, -1], mode=mode)") == []


def test_the_nearest_overload_is_the_one_reported() -> None:
    overloads = [parse("f(Tensor x, *, int k) -> Tensor"), parse("f.out(Tensor x) -> Tensor")]
    assert schema.bind_overloads(overloads, call("f(x)"))[0].overload == "out"
    found, bound = schema.bind_overloads(overloads, call("f(x, k=1, z=2)"))
    assert found.overload == ""
    assert [p.message for p in bound.problems] == ["has no argument `z`"]


def test_base_types_are_names() -> None:
    assert all(name.isidentifier() for name in BASE_TYPES)
