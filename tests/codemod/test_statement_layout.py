# SPDX-License-Identifier: Apache-2.0
"""The lines of statements: what is written in pieces is what the whole module is written as."""

from __future__ import annotations

import ast
import random
from pathlib import Path

import libcst as cst
import pytest

import migrator
from migrator.codemod.engine import _Source
from migrator.codemod.matchers import walk
from migrator.codemod.statement_layout import Layout, Nodes

SAMPLE = b'''\
# A header.

"""A docstring
of two lines."""
import a; import b  # on one line

# above the decorators
@one
# between them
@two(
    3
)
async def f(x, *, y=[
    1,
]):
    # at the top
    async with x as y, z:
        await y
        # below the body

    async for i in y:
        break
    else:
        pass
      # further in than the next

    return i
    # a footer of f


class C(
    A, metaclass=B
):
    x: int = 1; y = 2
    if x: y = 3
    elif y:
        z = """
        text
    """
        # a footer of the branch
    else:
        for z in x: pass
        while z:
              z = 1
              break
        else:
            pass

    def g(self): return (
        1 +
        2)
    # a footer of C

# above the try
try:
    x = 1 \\
        + 2
except A as a:
    pass
    # of a handler
except (B, C):
    def inner():
        pass
else:
    pass
finally:
    with x: pass
    # of finally
try:
    pass
except* E:
    del x
match x:
    # above a case
    case [1, *_] if y:
        if x:
            pass
        # of a case
    case {"a": 1}: pass
    # of the match

if x:
  if y:
    pass
  # of the inner one
# the footer of the module
'''


def spans(data: bytes) -> int:
    """Compare each statement's lines, written alone, with those in the module as a whole."""
    module = cst.parse_module(data)
    nodes = [n for n in walk(module) if isinstance(n, (cst.BaseStatement, cst.BaseSmallStatement))]
    whole = _Source(module, [Nodes((module,))], {id(node) for node in nodes})
    assert whole.data == data
    layout = Layout.of(module, data, ast.parse(data), nodes)
    assert layout.places, "the layout is lost"
    chosen = random.Random(0).sample(nodes, min(len(nodes), 60))
    for node in chosen:
        pieces = layout.around([node])
        assert pieces[0] != Nodes((module,))
        source = _Source(module, pieces, {id(node)})
        assert source.data == data
        assert source.spans[id(node)] == whole.spans[id(node)]
    together = _Source(module, layout.around(chosen), {id(node) for node in chosen})
    assert together.data == data
    assert together.spans == {id(node): whole.spans[id(node)] for node in chosen}
    return len(chosen)


@pytest.mark.parametrize("newline", [b"\n", b"\r\n"])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_every_kind_of_statement(newline: bytes, mark: bytes) -> None:
    assert spans(mark + SAMPLE.replace(b"\n", newline)) == 60


def test_the_modules_of_this_project() -> None:
    files = sorted((Path(migrator.__file__).parent / "codemod").glob("*.py"))
    assert sum(spans(path.read_bytes()) for path in files) > 500


@pytest.mark.parametrize(
    "data", [b"x = 1\rif y:\n    z\n", b"x = 1", b"if x:\n    y", b"x = '''\r'''\ny\n"]
)
def test_what_has_no_safe_lines_is_written_as_a_whole(data: bytes) -> None:
    module = cst.parse_module(data)
    layout = Layout.of(module, data, ast.parse(data), module.body)
    pieces = layout.around([module.body[-1]])
    source = _Source(module, pieces, set())
    assert pieces == [Nodes((module,))] or source.data != data
    assert _Source(module, Layout(module).around([module.body[-1]]), set()).data == data
