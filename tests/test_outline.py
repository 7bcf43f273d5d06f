# SPDX-License-Identifier: Apache-2.0
"""Outlines: what no rule looks at is left out before the parse, and comes back byte for byte."""

from __future__ import annotations

import ast

import pytest

from migrator import engine
from migrator.engine import migrate_file
from migrator.outline import outline
from migrator.rule import Example, Rule
from migrator.rules import all_rules
from migrator.tree import Tree

SOURCE = b'''\
"""A module."""
import torch


def plain(a):
    # a comment
    """Text."""
    b = a

    return b  # more


class C:
    x = 1

    @deco
    def method(self):
        if self:
            return 1
        return 2

    # above
    def wanted(self, t: torch.Tensor):
        return t.is_cuda


A = 1
B = [
    2,
]
if A:
    C.x = 3
'''


def test_what_is_kept() -> None:
    short = outline(SOURCE, ast.parse(SOURCE), rb"is_cuda")
    assert short is not None
    assert b"return t.is_cuda" in short.data
    assert b"def plain(a):\n    # a comment\n    _elided_0_\n" in short.data
    assert b"return 2" not in short.data
    assert b"B = [" not in short.data
    assert b"import torch" in short.data
    ast.parse(short.data)
    back = short.expand(short.data)
    assert back is not None
    data, lines = back
    assert data == SOURCE
    for number, line in enumerate(short.data.splitlines(), 1):
        if b"_elided_" not in line:
            assert SOURCE.splitlines()[lines.whole(number) - 1] == line
    assert short.expand(short.data.replace(b"_elided_0_", b"x")) is None


@pytest.mark.parametrize("ends", [b"\n", b"\r\n"])
@pytest.mark.parametrize("last", [b"", b"\n"])
def test_ends_of_lines(ends: bytes, last: bytes) -> None:
    data = (SOURCE.rstrip(b"\n") + last).replace(b"\n", ends)
    short = outline(data, ast.parse(data), rb"is_cuda")
    assert short is not None
    back = short.expand(short.data)
    assert back is not None
    assert back[0] == data


@pytest.mark.parametrize("data", [b"_elided_0_\n", b"x = 1\ry = 2\n", b"x = 1\n\f\ny = 2\n"])
def test_what_is_parsed_as_a_whole(data: bytes) -> None:
    assert outline(data, ast.parse(data), rb"is_cuda") is None


EXAMPLES = [
    pytest.param(rule, example, id=f"{rule.code}-{number}")
    for rule in all_rules()
    for number, example in enumerate(rule.examples)
]
MORE = "\n\nclass Other:\n    def one(self):\n        a = 1\n        return a\n\n\nY = 1\nZ = 2\n"


@pytest.mark.parametrize(("rule", "example"), EXAMPLES)
def test_an_outline_gives_what_the_whole_module_gives(
    rule: Rule, example: Example, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = (example.before + MORE).encode()
    tree = Tree({path: text.encode() for path, text in example.others} | {example.path: data})
    rules = [rule, *(r for r in all_rules() if r.provides is not None and r is not rule)]
    found = migrate_file(example.path, data, rules, tree)
    monkeypatch.setattr(engine, "outline", lambda *_: None)
    assert found == migrate_file(example.path, data, rules, tree)
    assert found.failure is None
