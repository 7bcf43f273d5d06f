# SPDX-License-Identifier: Apache-2.0
"""Structural helpers, against LibCST's own visitor and Python's own parser."""

from __future__ import annotations

import ast
from collections.abc import Callable
from pathlib import Path

import libcst as cst
import pytest

from migrator.codemod import engine, matchers
from migrator.codemod.matchers import (
    Imports,
    children,
    cuda_only,
    definitions,
    docstring,
    dotted,
    first_statement,
    parameter_names,
    parents_of,
    places,
    walk,
)
from migrator.files.tree import Tree
from migrator.planning import plan

SYNTAX = '''\
from __future__ import annotations
import a.b, c as d
from .x import *
from ..y import (e as f, g,)
@deco(1)
@other
async def h(p, /, q: int = 1, *args: int, r, s: str = "x", **kw) -> "t":
    """Doc."""
    global z
    async with a as b, (c): await d
    async for i in x: yield i
    else: pass
    return [j async for j in k if l if m]
class C(B, *bases, metaclass=M, **kws):
    nonlocal_ = 1
    def m(self): nonlocal n; del self.x, y[0]; raise E from None
for (u, *v), w in t: continue
while not a or b and c: break
else: assert a, b
try: pass
except (A, B) as e: pass
except: raise
else: pass
finally: pass
try: pass
except* V as g: pass
with (open(a) as b, c): pass
x: list[int] = {**a, 1: 2}; y = {*b, 3}; x += (1, *c); x @= -y ** ~z // +w
s = "a" "b" f"{x!r:>{y}}"; rb"\\0" b""; t = u[1:2, ::3, ..., None]; l = lambda *a, b=1, **c: (yield)
if (n := 10) > 5 < 6 is not None in x not in y: pass
elif a if b else c: pass
else: (yield from z)
match p:
    case {"k": [1, *rest], **kw} if g: pass
    case Cls(a, b=2) | -1 | 1+2j | x.y | None: pass
    case (1, *_) as whole: pass
    case _: pass
print(*a, *d, c=1, **b)
async def co(): return (await x, {a: b for a, b in c}, {d for d in e}, (f for f in g), ...)
x = 1j + 0x1F + 1_0.5e3 + True; del x
'''


def visited(module: cst.Module) -> list[cst.CSTNode]:
    """Every node that LibCST's visitor meets."""

    class Collector(cst.CSTVisitor):
        def __init__(self) -> None:
            super().__init__()
            self.nodes: list[cst.CSTNode] = []

        def on_visit(self, node: cst.CSTNode) -> bool:
            self.nodes.append(node)
            return True

    collector = Collector()
    module.visit(collector)
    return collector.nodes


def assert_walk_is_complete(source: bytes) -> None:
    """The walk meets each node of the visitor once, in its order, but for white space and signs."""
    module = cst.parse_module(source)
    every = visited(module)
    mine = list(walk(module))
    assert len({id(n) for n in mine}) == len(mine)
    met = {id(n) for n in mine}
    expected = [n for n in every if not isinstance(n, matchers._LAYOUT)]
    left_out = [n for n in expected if id(n) not in met]
    # Comments and blank lines hold no other node; a decorator's or an operator's is one of these.
    assert {type(n).__name__ for n in left_out} <= {"TrailingWhitespace", "EmptyLine", "Newline"}
    assert {id(n) for n in mine} <= {id(n) for n in every}
    kinds = (cst.BaseExpression, cst.BaseStatement, cst.BaseSmallStatement, cst.Param, cst.Arg)
    assert [id(n) for n in mine if isinstance(n, kinds)] == [
        id(n) for n in every if isinstance(n, kinds)
    ]


def test_walk_meets_all_of_pythons_syntax() -> None:
    ast.parse(SYNTAX.replace("nonlocal n; ", ""))
    assert_walk_is_complete(SYNTAX.encode())


@pytest.mark.parametrize("module", [engine, matchers, plan], ids=lambda m: m.__name__)
def test_walk_meets_all_of_a_module(module: object) -> None:
    path = module.__file__  # type: ignore[attr-defined]
    assert_walk_is_complete(Path(path).read_bytes())


@pytest.mark.releases
@pytest.mark.parametrize(
    "path",
    ["vllm/_custom_ops.py", "vllm/distributed/parallel_state.py", "vllm/v1/worker/gpu_worker.py"],
)
def test_walk_meets_all_of_a_real_module(release: Callable[[str], Path], path: str) -> None:
    assert_walk_is_complete((release("0.33.0") / path).read_bytes())


def test_parents_and_places() -> None:
    module = cst.parse_module(SYNTAX)
    parents = parents_of(module)
    for node in walk(module):
        for child in children(node):
            assert parents[id(child)] is node
    found = list(places(module, cst.Name))
    assert [id(p.node) for p in found] == [id(n) for n in walk(module) if type(n) is cst.Name]
    several = list(places(module, (cst.Name, cst.Attribute)))
    assert [id(p.node) for p in several] == [
        id(n) for n in walk(module) if isinstance(n, (cst.Name, cst.Attribute))
    ]
    for place in found:
        assert place.ancestors[0] is module
        assert place.ancestors[-1] is place.parent


def test_where_a_place_is() -> None:
    source = (
        "x0\n"
        "class A:\n"
        "    x1\n"
        "    def f(self, p=x2):\n"
        "        def g():\n"
        "            class B:\n"
        "                x3\n"
        "        return x4\n"
    )
    module = cst.parse_module(source)
    found = {
        p.node.value: p
        for p in places(module, cst.Name)
        if isinstance(p.node, cst.Name) and p.node.value.startswith("x")
    }
    assert {name: place.qualified_name for name, place in found.items()} == {
        "x0": "<module>",
        "x1": "A",
        "x2": "A.f",
        "x3": "A.f.g.B",
        "x4": "A.f",
    }
    inner = found["x3"]
    assert [f.name.value for f in inner.functions] == ["g", "f"]
    assert inner.class_ is not None
    assert inner.class_.name.value == "B"
    assert found["x0"].function is None
    assert found["x0"].class_ is None
    assert isinstance(found["x4"].statement, cst.SimpleStatementLine)


# ---- definitions ---------------------------------------------------------------------------

DEFINITIONS = """\
def plain(): pass
async def coroutine(): pass
if a:
    def under_if(): pass
elif b:
    def under_elif(): pass
else:
    def under_else(): pass
try:
    def under_try(): pass
except ImportError:
    def under_except(): pass
else:
    class UnderTryElse:
        def method(self): pass
finally:
    def under_finally(): pass
with context:
    def under_with(): pass
class Outer:
    if a:
        def conditional(self): pass
    class Inner:
        def deep(self):
            def hidden(): pass
    def method(self): "first"
    def method(self): "second"
for x in y:
    def under_for(): pass
if a:
    if b:
        try:
            def nested(): pass
        except E: pass
if c: def_ = 1
"""


def test_definitions() -> None:
    module = cst.parse_module(DEFINITIONS)
    found = definitions(module)
    assert set(found) == {
        *("plain", "coroutine", "under_if", "under_elif", "under_else", "under_try"),
        *("under_except", "UnderTryElse", "UnderTryElse.method", "under_finally", "under_with"),
        *("Outer", "Outer.conditional", "Outer.Inner", "Outer.Inner.deep", "Outer.method"),
        *("nested", "under_for"),
    }
    assert '"second"' in module.code_for_node(found["Outer.method"])


def test_trees_see_the_same_definitions() -> None:
    """Probes read with Python's parser what rules read with LibCST."""
    tree = Tree({"vllm/x.py": DEFINITIONS.encode()})
    for name in definitions(cst.parse_module(DEFINITIONS)):
        if name not in ("under_finally", "under_with"):
            assert tree.definition("vllm/x.py", name) is not None, name
    assert tree.definition("vllm/x.py", "no") is None
    assert tree.definition("vllm/no.py", "plain") is None


def test_parameters() -> None:
    source = "def f(a, /, b: int, c=1, *d, e, f=2, **g): pass\ndef h(*, i): pass\ndef j(): pass\n"
    module = cst.parse_module(source)
    tree = Tree({"vllm/x.py": source.encode()})
    for name, wanted in {"f": list("abcdefg"), "h": ["i"], "j": []}.items():
        function = definitions(module)[name]
        assert isinstance(function, cst.FunctionDef)
        assert parameter_names(function) == wanted
        assert sorted(tree.parameters("vllm/x.py", name) or []) == wanted


@pytest.mark.parametrize(
    ("body", "doc", "first"),
    [
        ('    """Doc."""\n    x\n', '"""Doc."""', "x"),
        ('    """Doc."""\n', '"""Doc."""', '"""Doc."""'),
        ("    x\n    'y'\n", None, "x"),
        ("    # remark\n    'a' 'b'\n    x\n", "'a' 'b'", "x"),
        ("    f'{x}'\n    y\n", None, "f'{x}'"),
    ],
)
def test_docstring_and_first_statement(body: str, doc: str | None, first: str) -> None:
    function = cst.parse_module(f"def f():\n{body}").body[0]
    assert isinstance(function, cst.FunctionDef)
    found = docstring(function.body.body)
    text = cst.Module([]).code_for_node
    assert (None if found is None else text(found).split("\n")[-2].strip()) == doc
    assert text(first_statement(function)).strip().endswith(first)


# ---- names and imports ---------------------------------------------------------------------


def test_dotted() -> None:
    for text in ("a", "a.b", "a.b.c"):
        assert dotted(cst.parse_expression(text)) == text
    for text in ("a().b", "a[0].b", "'a'.b", "1", "(a + b).c"):
        assert dotted(cst.parse_expression(text)) is None
    assert dotted(None) is None


def test_imports() -> None:
    module = cst.parse_module(
        "import torch, torch.nn\n"
        "import numpy as np, a.b.c as abc\n"
        "from vllm.platforms import current_platform\n"
        "from vllm import envs as e, x\n"
        "from . import sibling\n"
        "from ..up import thing as t\n"
        "from stars import *\n"
        "if TYPE_CHECKING:\n    import for_types\n    from p import Q\n"
        "if typing.TYPE_CHECKING:\n    import more_types\nelse:\n    import at_run_time\n"
        "if a:\n    import in_if\nelif b:\n    import in_elif\nelse:\n    import in_else\n"
        "try:\n    import in_try\nexcept ImportError:\n    import in_except\n"
        "with suppress(E):\n    import in_with\n"
        "def f():\n    import local\n"
        "class C:\n    import in_class\n"
    )
    imports = Imports.of(module)
    assert imports.module_level == {
        "torch": "torch",
        "np": "numpy",
        "abc": "a.b.c",
        "current_platform": "vllm.platforms.current_platform",
        "e": "vllm.envs",
        "x": "vllm.x",
        "sibling": ".sibling",
        "t": "..up.thing",
        **{n: n for n in ("in_if", "in_elif", "in_else", "in_try", "in_except", "in_with")},
        "at_run_time": "at_run_time",
    }
    assert imports.typing_only == {
        "for_types": "for_types",
        "Q": "p.Q",
        "more_types": "more_types",
    }
    assert "numpy" in imports.unguarded
    assert not {"in_try", "in_if", "in_with", "for_types"} & imports.unguarded
    for text, full in {
        "np.array": "numpy.array",
        "e.VLLM": "vllm.envs.VLLM",
        "unknown.x": "unknown.x",
        "current_platform": "vllm.platforms.current_platform",
    }.items():
        assert imports.resolve(cst.parse_expression(text)) == full
    assert imports.resolve(cst.parse_expression("f().x")) is None


@pytest.mark.parametrize(
    ("path", "source", "only"),
    [
        ("vllm/v1/attention/backends/flashinfer.py", "", True),
        ("vllm/v1/attention/backends/flash_attn.py", "", True),
        ("vllm/v1/attention/backends/mla/flashmla.py", "", True),
        ("vllm/v1/attention/backends/rocm_aiter_fa.py", "", True),
        ("vllm/distributed/device_communicators/pynccl.py", "", True),
        ("vllm/distributed/device_communicators/cuda_communicator.py", "", True),
        ("vllm/distributed/device_communicators/custom_all_reduce.py", "", True),
        ("vllm/models/x/nvidia/y.py", "", True),
        ("vllm/platforms/cuda.py", "", True),
        ("vllm/platforms/xpu.py", "", True),
        ("vllm/_custom_ops.py", "", False),
        ("vllm/v1/worker/gpu_worker.py", "", False),
        ("vllm/compilation/cuda_graph.py", "", False),
        ("vllm/distributed/parallel_state.py", "import torch\n", False),
        ("vllm/model_executor/layers/activation.py", "", False),
        ("vllm/x.py", "import deep_gemm\n", True),
        ("vllm/x.py", "from flashinfer.comm import y\n", True),
        ("vllm/x.py", "try:\n    import deep_gemm\nexcept ImportError:\n    pass\n", False),
        ("vllm/x.py", "if has_cuda:\n    import cupy\n", False),
        ("vllm/x.py", "def f():\n    import flashinfer\n", False),
        ("vllm/x.py", "from vllm.utils.flashinfer import has_flashinfer\n", False),
    ],
)
def test_cuda_only(path: str, source: str, only: bool) -> None:
    why = cuda_only(path, Imports.of(cst.parse_module(source)))
    assert (why is not None) == only
    assert why is None or why.startswith("only runs on another device: ")
