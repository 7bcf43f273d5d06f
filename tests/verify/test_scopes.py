# SPDX-License-Identifier: Apache-2.0
"""Names, bindings and imports of a module, by the scoping rules of the language."""

from __future__ import annotations

import ast
import builtins
import symtable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from migrator.verify.scopes import BUILTINS, ModuleScopes, absolute_module, analyse


def scopes(source: str, module: str = "pkg.mod", is_package: bool = False) -> ModuleScopes:
    return analyse(ast.parse(source), module, is_package)


def undefined(source: str) -> list[str]:
    return [
        u.node.id
        for u in scopes(source).uses
        if u.scope.lookup(u.node.id) is None and u.node.id not in BUILTINS
    ]


@pytest.mark.parametrize(
    "source",
    [
        "x = 1\nx",
        "def f(a, /, b=1, *c, d, **e): return a, b, c, d, e",
        "def f():\n return g()\ndef g(): return f",
        "class A:\n x = 1\n y = x\n def m(self): return A",
        "[a for a in range(3) if a]",
        "[b for a in [] for b in a]",
        "{k: v for k, v in {}.items()}",
        "(y := 1)\ny",
        "def f():\n [z := i for i in range(3)]\n return z",
        "lambda q=1, *r: (q, r)",
        "def f():\n global g\n g = 1\ng",
        "def f():\n n = 1\n def h():\n  nonlocal n\n  n = 2\n  return n\n return h",
        "try: pass\nexcept ValueError as error: error",
        "with open('f') as stream: stream",
        "for i, (j, *k) in []: i, j, k",
        "import a.b.c\na",
        "import a.b as c\nc",
        "from . import d\nd",
        "match 1:\n case [first, *rest]: first, rest\n case {'k': v, **others}: v, others\n"
        " case int() as n: n",
        "def f(x: 'Later'): pass\nclass Later: pass",
        "from typing import Literal\ndef f(x: Literal['no_name']): pass",
        "from typing import Annotated\ndef f(x: Annotated[int, 'no name']): pass",
        "class A:\n def m(self): return __class__",
        "def f():\n del_me = 1\n del del_me",
        "async def f():\n async for i in g():\n  async with i as j: await j\ndef g(): pass",
        "@dataclass\nclass A:\n x: int = 1\nfrom dataclasses import dataclass",
        "x: int\ndef f(): return x",
    ],
)
def test_bound_names_are_bound(source: str) -> None:
    assert [n for n in undefined(source) if n != "__class__"] == []


@pytest.mark.parametrize(
    ("source", "names"),
    [
        ("x", ["x"]),
        ("def f(): return y", ["y"]),
        ("class A:\n x = 1\n def m(self): return x", ["x"]),
        ("class A:\n x = 1\n y = [x for _ in range(2)]", ["x"]),
        ("[a for a in b]\na", ["b", "a"]),
        ("def f(a=missing): pass", ["missing"]),
        ("def f(x: Missing): pass", ["Missing"]),
        ("def f(x: 'Missing[int]'): pass", ["Missing"]),
        ("def f():\n inner = 1\ninner", ["inner"]),
        ("@missing\ndef f(): pass", ["missing"]),
        ("x += 1", []),
        ("lambda: missing", ["missing"]),
        ("f'{missing!r:>{width}}'", ["missing", "width"]),
    ],
)
def test_unbound_names_are_not(source: str, names: list[str]) -> None:
    assert undefined(source) == names


STATEMENTS = [
    "a = b", "b: int = a", "def f(a, *b, c=d):\n    return a, e", "class C(a):\n    a = b",
    "for a in b:\n    c = a", "with a as b:\n    pass", "import a.b as c", "import d.e",
    "from x import a as b, c", "d = [a for a in b if c]", "e = lambda a: (a, b)",
    "try:\n    a\nexcept E as b:\n    b", "a = (c := b)", "def g():\n    global a\n    a = b",
    "def h():\n    c = 1\n    def i():\n        nonlocal c\n        c = a\n    return c, b",
    "if a:\n    b = c", "del_ = {a: b for a, b in c}", "class D:\n    a = 1\n    def m(self):\n"
    "        return a, self",
]  # fmt: skip


def _global_names(table: symtable.SymbolTable) -> set[str]:
    """Names that the interpreter's own compiler looks up outside every function."""
    found: set[str] = set()
    for symbol in table.get_symbols():
        outside = symbol.is_global() if table.get_type() != "module" else not symbol.is_local()
        if outside and symbol.is_referenced():
            found.add(symbol.get_name())
    for child in table.get_children():
        found |= _global_names(child)
    return found


@settings(max_examples=200)
@given(st.lists(st.sampled_from(STATEMENTS), max_size=6))
def test_unbound_names_agree_with_the_compiler(statements: list[str]) -> None:
    source = "\n".join(statements) + "\n"
    table = symtable.symtable(source, "m", "exec")
    bound = {s.get_name() for s in table.get_symbols() if s.is_assigned() or s.is_imported()}
    for child in _all_tables(table):
        bound |= {
            s.get_name() for s in child.get_symbols() if s.is_declared_global() and s.is_assigned()
        }
    wanted = _global_names(table) - bound - set(dir(builtins))
    assert set(undefined(source)) == wanted


def _all_tables(table: symtable.SymbolTable) -> list[symtable.SymbolTable]:
    children = list(table.get_children())
    return children + [t for child in children for t in _all_tables(child)]


def test_imports_know_their_module_and_their_guard() -> None:
    found = scopes(
        "import torch_npu\n"
        "from ..sibling import name\n"
        "try:\n    import optional\nexcept ImportError:\n    optional = None\n"
        "from typing import TYPE_CHECKING\n"
        "if TYPE_CHECKING:\n    import hints\n"
        "import contextlib\n"
        "with contextlib.suppress(ImportError):\n    import quiet\n",
        "pkg.sub.mod",
    ).imports
    assert [(i.module, i.name, i.guarded, i.type_checking) for i in found] == [
        ("torch_npu", None, False, False),
        ("pkg.sibling", "name", False, False),
        ("optional", None, True, False),
        ("typing", "TYPE_CHECKING", False, False),
        ("hints", None, False, True),
        ("contextlib", None, False, False),
        ("quiet", None, True, False),
    ]


@pytest.mark.parametrize(
    ("package", "level", "module", "absolute"),
    [
        ("a.b", 0, "x.y", "x.y"),
        ("a.b", 1, "x", "a.b.x"),
        ("a.b", 1, None, "a.b"),
        ("a.b", 2, "x", "a.x"),
    ],
)
def test_relative_imports(package: str, level: int, module: str | None, absolute: str) -> None:
    assert absolute_module(package, level, module) == absolute


def test_the_method_around_a_nested_function_is_found() -> None:
    tree = ast.parse("class A:\n def m(self):\n  def inner():\n   return self.x\n  return inner")
    result = analyse(tree, "m", False)
    (use,) = [u for u in result.uses if u.node.id == "self"]
    enclosing = result.enclosing_class(use.scope)
    assert enclosing is not None
    assert (enclosing[0].name, enclosing[1].name) == ("A", "m")
