# SPDX-License-Identifier: Apache-2.0
"""Outlines: what no rule looks at is left out before the parse, and comes back byte for byte."""

from __future__ import annotations

import ast

import pytest

from migrator.codemod import engine
from migrator.codemod.engine import migrate_file
from migrator.codemod.outline import outline
from migrator.codemod.rule import Example, Rule
from migrator.files.tree import Tree
from migrator.rules import all_rules

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
    short = outline(SOURCE, ast.parse(SOURCE), [rb"is_cuda"])
    assert short is not None
    assert b"return t.is_cuda" in short.data
    assert b"def plain(a):\n    # a comment\n    _elided_0_\n" in short.data, "the first indent"
    assert b"class C:\n    x = 1\n\n    _elided_1_\n\n    # above\n    def wanted" in short.data
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


def test_what_only_a_comment_or_a_docstring_says_is_left_out() -> None:
    head = b"import torch\n\n\ndef first():\n    return 1\n\n\n"
    for body in (
        b"    # is_cuda\n    return 2\n",
        b'    """Ask\n    is_cuda.\n    """\n    return 2\n',
        b'    "is_cuda"  \n    return 2\n',
        b"    return 2\n    # is_cuda\n",
    ):
        data = head + b"def second():\n" + body
        short = outline(data, ast.parse(data), [rb"is_cuda"])
        assert short is not None
        assert b"second" not in short.data, body
    for body in (
        b"    return x.is_cuda  # here\n",
        b'    "Text."; x.is_cuda\n',
        b'    x = """\n    is_cuda"""\n',
        b"    return (  # more\n        x.is_cuda\n    )\n",
    ):
        data = head + b"def second():\n" + body
        short = outline(data, ast.parse(data), [rb"is_cuda"])
        assert short is None or body in short.data, body


BODY = b'''\
import torch


def first():
    pass


def asks(t, n):
    """Text."""
    import os
    a = 1
    b = 2
    if n:
        c = 3
        d = 4
        return t.is_cuda
    elif a:
        e = 5
        f = 6
        g = 7
    else:
        h = 8
    # above
    try:
        i = 9
        j = 10
        k = 11
    finally:
        l = 12
    return None
'''


def test_what_is_kept_of_a_function() -> None:
    short = outline(BODY, ast.parse(BODY), [rb"is_cuda"])
    assert short is not None
    assert short.data.partition(b"def asks")[2] == (
        b'(t, n):\n    """Text."""\n    import os\n    _elided_0_\n    if n:\n'
        b"        c = 3\n        d = 4\n        return t.is_cuda\n    elif a:\n"
        b"        e = 5\n        _elided_1_\n    else:\n        h = 8\n    # above\n"
        b"    _elided_2_\n"
    )
    back = short.expand(short.data)
    assert back is not None
    assert back[0] == BODY
    whole = outline(BODY, ast.parse(BODY), [rb"is_cuda"], {"asks"})
    assert whole is None or BODY.partition(b"def asks")[2] in whole.data
    heads = outline(BODY, ast.parse(BODY), [rb"is_cuda"], {"asks"}, {"asks"})
    assert heads == short


TABLE = b"""\
import os

table: dict = {
    # the first
    "a": lambda: 1,
    # the second
    "b": lambda: (
        2
    ),  # more
    "c": (
        lambda: 3
    ),
    "d": 4, "e": 5,
    "f": 6,
    "g": 7,  # is_cuda
    "h": 8,
    "i": "is_cuda",
    "j": 9,
    # the last
    "k": 10
}
"""


def test_what_is_kept_of_a_table() -> None:
    short = outline(TABLE, ast.parse(TABLE), [rb"is_cuda"], {"table"}, {"table"})
    assert short is not None
    assert short.data.partition(b"# the second\n")[2] == (
        b'    **_elided_0_,\n    "c": (\n        lambda: 3\n    ),\n    "d": 4, "e": 5,\n'
        b'    "f": 6,\n    "g": 7,  # is_cuda\n    "h": 8,\n    "i": "is_cuda",\n'
        b'    "j": 9,\n    # the last\n    "k": 10\n}\n'
    )
    ast.parse(short.data)
    back = short.expand(short.data)
    assert back is not None
    assert back[0] == TABLE
    assert outline(TABLE, ast.parse(TABLE), [rb"is_cuda"], {"table"}) is None


def test_special_methods_count_in_wanted_classes_only() -> None:
    text = "class {}:\n    def f(self):\n        pass\n\n    def __init__(self):\n        g()\n\n\n"
    data = (text.format("Zero") + text.format("One") + text.format("Two")).encode()
    short = outline(data, ast.parse(data), [rb"\bTwo\b"], {"Two", "__init__"})
    assert short is not None
    assert short.data.count(b"__init__") == 1
    assert b"One" not in short.data
    assert b"__init__" in short.data[short.data.index(b"class Two") :]


@pytest.mark.parametrize(
    "more",
    [
        b"    # below, in it\n",
        b"    # below, in it\n\n        # deeper\n# below\n",
        b"\n# below\n    # and deeper\n",
        b"  # between\n",
    ],
)
def test_comments_below_a_block_go_with_it(more: bytes) -> None:
    text = b"def first():\n    pass\n\n\ndef f():\n    a = 1\n    b = 2\n"
    data = text + more + b"\n\ndef is_cuda():\n    pass\n"
    short = outline(data, ast.parse(data), [rb"is_cuda"])
    assert short is not None
    assert b"in it" not in short.data
    assert b"deeper" not in short.data.partition(b"# below")[0]
    back = short.expand(short.data)
    assert back is not None
    assert back[0] == data


@pytest.mark.parametrize("ends", [b"\n", b"\r\n"])
@pytest.mark.parametrize("last", [b"", b"\n"])
def test_ends_of_lines(ends: bytes, last: bytes) -> None:
    data = (SOURCE.rstrip(b"\n") + last).replace(b"\n", ends)
    short = outline(data, ast.parse(data), [rb"is_cuda"])
    assert short is not None
    back = short.expand(short.data)
    assert back is not None
    assert back[0] == data


@pytest.mark.parametrize("data", [b"_elided_0_\n", b"x = 1\ry = 2\n", b"x = 1\n\f\ny = 2\n"])
def test_what_is_parsed_as_a_whole(data: bytes) -> None:
    assert outline(data, ast.parse(data), [rb"is_cuda"]) is None


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
