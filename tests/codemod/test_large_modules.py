# SPDX-License-Identifier: Apache-2.0
"""Large modules in pieces: what comes out is what comes out of the whole, byte for byte."""

from __future__ import annotations

import ast

import pytest

from migrator.codemod import engine
from migrator.codemod.engine import migrate_file
from migrator.codemod.large_modules import Piece, pieces, without_others
from migrator.codemod.rule import Example, Rule
from migrator.files.tree import Tree
from migrator.rules import all_rules


def parse(text: bytes) -> ast.Module | None:
    try:
        return ast.parse(text)
    except SyntaxError:
        return None


def texts(data: bytes) -> list[bytes]:
    found = pieces(data, parse)
    assert found is not None
    stops = [*(piece.start for piece in found[1:]), len(data)]
    return [data[piece.start : stop] for piece, stop in zip(found, stops, strict=True)]


@pytest.mark.parametrize(
    "parts",
    [
        ["# only a comment\n"],
        ['"""Text.\n\ndef no(): pass\n"""\n', "a = 1\n", "b = (\nc,\n)\n"],
        ["def f():\n    return '''\nclass C:\n    pass\n'''\n\n\n", "class D: pass\n"],
        ["@deco\n# between\nasync def f():\n    pass\n", "x = 1\n"],
        ["if a:\n    b\nelif c:\n    d\nelse:\n    e\n# below\n", "elsewhere = 1\n"],
        ["try:\n    a\nexcept E:\n    b\nfinally:\n    c\n\n", "finally_ = 2\n"],
        ["a = 1 + \\\nb\n", "c = 3\n"],
        ["match x:\n    case 1:\n        pass\n", "é = 4\n"],
        ["x = '''\na\nb\nc\nd\ne\nf\n'''\ny = 1\n", "y = 1\n", "z = 2\n"],
    ],
)
def test_a_piece_ends_where_a_statement_ends(parts: list[str]) -> None:
    data = "".join(parts).encode()
    found = texts(data)
    assert b"".join(found) == data
    assert found == [part.encode() for part in parts]
    whole = ast.dump(ast.parse(data))
    assert whole == ast.dump(ast.Module([s for text in found for s in ast.parse(text).body], []))


@pytest.mark.parametrize(
    "data",
    [
        b"a = 1\nb = (\n",
        b"a = 1\n  b = 2\n",
        b"def f():\nx = 1\n",
        b"a = '''\nb\n",
        b"else:\n    pass\n",
        b"# coding: latin-1\na = 1\n",
        b"#!/bin/sh\n# -*- coding: utf-8 -*-\na = 1\n",
        b"a = 1\rb = 2\n",
        b"a = 1\n\x0cb = 2\n",
        b"_left_out_0\n",
        b"a = '\xff'\n",
    ],
)
def test_what_is_parsed_as_a_whole(data: bytes) -> None:
    assert pieces(data, parse) is None


def test_pieces_tell_what_they_bind() -> None:
    data = (
        b"def f():\n    pass\n    # in it\n# below\n\nx = y = 1\nx.z = 2\ndef g():\n    global x\n"
    )
    assert pieces(data, parse) == [
        Piece(0, 30, frozenset({"f"})),
        Piece(39, 49, frozenset({"x", "y"})),
        Piece(49, 57, None),
        Piece(57, 79, None),
    ]


def test_what_the_kept_ones_name_is_kept() -> None:
    parts = [
        b"import torch\n\n\n",
        b"def unused():\n    return used()\n\n\n",
        b"def alone():\n    pass\n    # in it\n\n# above\n",
        b"def asks(t):\n    return used(t).is_cuda\n\n\n",
        b"LIMIT = 1\n",
        b"NEVER = 2\n",
        b"def used(t):\n    return t[LIMIT]\n",
    ]
    data = b"".join(parts)
    found = pieces(data, parse)
    assert found is not None
    short = without_others(data, found, [rb"is_cuda"], {"alone"})
    kept = [b"import torch\n\n\n", b"_left_out_0_\n\n\n", *parts[2:5], b"_left_out_1_\n", parts[6]]
    assert short.data == b"".join(kept)
    back = short.expand(short.data)
    assert back is not None
    assert back[0] == data
    assert back[1].whole(5) == 6


def test_what_is_last_is_left_out_with_its_end_of_line_only() -> None:
    for end in (b"\n", b""):
        data = b"import torch\ndef f():\n    pass" + end
        found = pieces(data, parse)
        assert found is not None
        short = without_others(data, found, [rb"is_cuda"], ())
        assert (b"_left_out_0_" in short.data) == bool(end)


EXAMPLES = [
    pytest.param(rule, example, id=f"{rule.code}-{number}")
    for rule in all_rules()
    for number, example in enumerate(rule.examples)
]
MORE = """

class Other:
    def one(self):
        a = 1
        return a


Y = 1


def helper(t):
    return t.contiguous()


def caller(u):
    return helper(u).is_cuda or Y
"""


@pytest.mark.parametrize(("rule", "example"), EXAMPLES)
def test_pieces_give_what_the_whole_module_gives(
    rule: Rule, example: Example, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = (example.before + MORE).encode()
    tree = Tree({path: text.encode() for path, text in example.others} | {example.path: data})
    rules = [rule, *(r for r in all_rules() if r.provides is not None and r is not rule)]
    monkeypatch.setattr(engine, "LARGE", len(data) + 1)
    found = migrate_file(example.path, data, rules, tree)
    monkeypatch.setattr(engine, "LARGE", 0)
    assert found == migrate_file(example.path, data, rules, tree)
    assert found.failure is None


def test_a_syntax_error_is_told_as_in_a_small_module(monkeypatch: pytest.MonkeyPatch) -> None:
    data = b"def f(t):\n    return t.is_cuda\n\n\ndef g():\n    return (\n\n\nx = 1\n"
    rules = [rule for rule in all_rules() if rule.code == "NPU110"]
    told = migrate_file("vllm/x.py", data, rules, Tree({}))
    assert told.failure is not None
    assert "line 6" in told.failure
    monkeypatch.setattr(engine, "LARGE", 0)
    assert migrate_file("vllm/x.py", data, rules, Tree({})) == told
