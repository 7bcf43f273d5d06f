# SPDX-License-Identifier: Apache-2.0
"""Is the object before `.is_cuda` a tensor? A table of sources and verdicts."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import libcst as cst
import pytest

from migrator import receivers
from migrator.engine import migrate_file
from migrator.matchers import Imports, places, walk
from migrator.receivers import Evidence, evidence
from migrator.rule import Status
from migrator.rules import all_rules
from migrator.tree import Tree

TENSOR = [
    # annotations of parameters
    "def f(x: torch.Tensor): x.is_cuda",
    "def f(x: 'torch.Tensor'): x.is_cuda",
    "def f(x: torch.Tensor | None): x.is_cuda",
    "def f(x: Optional[torch.Tensor] = None): x.is_cuda",
    "def f(*, x: Tensor): x.is_cuda",
    "def f(x: torch.nn.Parameter, /): x.is_cuda",
    "async def f(x: torch.Tensor): x.is_cuda",
    "def f(x: torch.Tensor):\n    def g(): return x.is_cuda",
    "def f(x: torch.Tensor):\n    return lambda: x.is_cuda",
    "def f(x: torch.Tensor): return [x.is_cuda for _ in y]",
    # collections of tensors
    "def f(x: list[torch.Tensor]): x[0].is_cuda",
    "def f(x: dict[str, torch.Tensor]):\n    for v in x.values(): v.is_cuda",
    "def f(x: list[torch.Tensor]): return all(v.is_cuda for v in x)",
    "def f(a: torch.Tensor, b):\n    for v in (a, b): v.is_cuda",
    "def f(x: dict[str, torch.Tensor]):\n    for k, v in x.items(): v.is_cuda",
    # assignments
    "def f():\n    x = torch.empty(1)\n    x.is_cuda",
    "def f(y: torch.Tensor):\n    x = y\n    z = x\n    z.is_cuda",
    "def f():\n    x: torch.Tensor = g()\n    x.is_cuda",
    "def f(y):\n    x = y.contiguous()\n    x.is_cuda",
    "def f(y):\n    if (x := torch.ones(1)) is not None: x.is_cuda",
    "def f(): torch.ones(1).is_cuda",
    "def f(y): y.view(1, 2).is_cuda",
    "def f(m): next(m.parameters()).is_cuda",
    "def f(m):\n    for p in m.parameters(): p.is_cuda",
    "def f(m):\n    x = next(m.buffers())\n    x.is_cuda",
    # what else is asked of it
    "def f(x):\n    if x.is_cuda and x.is_contiguous(): pass",
    "def f(x):\n    y = x.shape\n    return x.is_cuda",
    "def f(a): return a.b.is_cuda and a.b.dtype == 1",
    "def f(d): return d[0].is_cuda and d[0].dim() == 1",
    "def f(x):\n    assert isinstance(x, torch.Tensor)\n    x.is_cuda",
    # fields of the module's classes
    "class A:\n    w: torch.Tensor\ndef f(a: A): a.w.is_cuda",
    "class A:\n    w: torch.Tensor\n    def f(self): self.w.is_cuda",
    "class A:\n    def __init__(self):\n        self.w: torch.Tensor = g()\n"
    "    def f(self): self.w.is_cuda",
    "def f(layer): layer.weight.is_cuda",
    "def f(p): p.data.is_cuda",
]

NO_TENSOR = [
    "from vllm.platforms import current_platform\ndef f(): current_platform.is_cuda",
    "from vllm.platforms import current_platform as p\ndef f(): p.is_cuda",
    "import vllm.platforms\ndef f(): vllm.platforms.current_platform.is_cuda",
    "from vllm import platforms\nx = platforms.current_platform.is_cuda",
    "class P:\n    def f(self): self.is_cuda",
    "class P:\n    @classmethod\n    def f(cls): cls.is_cuda",
    "import config\ndef f(): config.is_cuda",
]

UNKNOWN = [
    "def f(x): x.is_cuda",
    "def f(x: object): x.is_cuda",
    "def f(x: Platform): x.is_cuda",
    "def f(x: TensorParallel): x.is_cuda",
    "def f(): g().is_cuda",
    "def f(x):\n    y = x\n    y.is_cuda",
    "def f(x):\n    x = x\n    x.is_cuda",
    "def f(a): a.b.is_cuda",
    "def f(x): return x.is_cuda\ndef g(x): return x.dtype",
    "def f(a): a[0].is_cuda",
    "def f(a):\n    for x in a: x.is_cuda",
    "platform = g()\nplatform.is_cuda",
    "def f(): torch.cuda.is_cuda_of(1).is_cuda",
]


def judge(source: str) -> Evidence:
    module = cst.parse_module("import torch\nfrom torch import Tensor\n" + source)
    found = [
        place
        for place in places(module, cst.Attribute)
        if isinstance(place.node, cst.Attribute) and place.node.attr.value == "is_cuda"
    ]
    assert len(found) == 1
    node = found[0].node
    assert isinstance(node, cst.Attribute)
    return evidence(found[0], node.value, module, Imports.of(module))


@pytest.mark.parametrize("source", TENSOR)
def test_tensor(source: str) -> None:
    found = judge(source)
    assert found.tensor is True, found
    assert found.why


@pytest.mark.parametrize("source", NO_TENSOR)
def test_no_tensor(source: str) -> None:
    found = judge(source)
    assert found.tensor is False, found
    assert found.why


@pytest.mark.parametrize("source", UNKNOWN)
def test_unknown(source: str) -> None:
    found = judge(source)
    assert found.tensor is None, found
    assert found.why == "nothing in the module tells whether it is a tensor"


def test_a_parameter_hides_an_import() -> None:
    source = "from vllm.platforms import current_platform\n"
    assert judge(source + "def f(current_platform: Tensor): current_platform.is_cuda").tensor
    hidden = judge(source + "def f(current_platform): current_platform.is_cuda and 1")
    assert hidden.tensor is not True


def test_assignments_that_go_in_circles_end() -> None:
    assert judge("def f():\n    a = b\n    b = c\n    c = a\n    a.is_cuda").tensor is None


REWRITES = {
    "x.is_cuda": 'x.device.type == "cuda"',
    "not x.is_cuda": 'x.device.type != "cuda"',
    "not (x.is_cuda)": 'x.device.type != "cuda"',
    "(x.is_cuda)": '(x.device.type == "cuda")',
    "(not x.is_cuda)": '(x.device.type != "cuda")',
    "x.is_cuda and y": 'x.device.type == "cuda" and y',
    "y or not x.is_cuda": 'y or x.device.type != "cuda"',
    "x.is_cuda == y": '(x.device.type == "cuda") == y',
    "y == x.is_cuda": 'y == (x.device.type == "cuda")',
    "y is (not x.is_cuda)": 'y is (x.device.type != "cuda")',
    "x.is_cuda + 1": '(x.device.type == "cuda") + 1',
    "x.is_cuda & y": '(x.device.type == "cuda") & y',
    "1 if x.is_cuda else 2": '1 if x.device.type == "cuda" else 2',
    "f(x.is_cuda, a=not x.is_cuda)": 'f(x.device.type == "cuda", a=x.device.type != "cuda")',
    "[x.is_cuda]": '[x.device.type == "cuda"]',
    "y[x.is_cuda]": 'y[x.device.type == "cuda"]',
    "x.is_cuda.real": '(x.device.type == "cuda").real',
    "not not x.is_cuda": 'not x.device.type != "cuda"',
    "-x.is_cuda": '-(x.device.type == "cuda")',
    "~x.is_cuda": '~(x.device.type == "cuda")',
    "lambda: x.is_cuda": 'lambda: x.device.type == "cuda"',
    "(yield x.is_cuda)": '(yield x.device.type == "cuda")',
    "f(*x.is_cuda)": 'f(*x.device.type == "cuda")',
    "[*x.is_cuda]": '[*(x.device.type == "cuda")]',
    "{**x.is_cuda}": '{**(x.device.type == "cuda")}',
    "x . is_cuda": 'x.device.type == "cuda"',
    "(x\n     .is_cuda)": '(x.device.type == "cuda")',
    'f"{x.is_cuda}"': "f\"{x.device.type == 'cuda'}\"",
    "f'{x.is_cuda}'": "f'{x.device.type == \"cuda\"}'",
    'f"{not x.is_cuda!r:>9}"': "f\"{x.device.type != 'cuda'!r:>9}\"",
    'f"""{x.is_cuda}"""': 'f"""{x.device.type == \'cuda\'}"""',
}


@pytest.mark.parametrize(("before", "after"), REWRITES.items(), ids=lambda v: str(v)[:20])
def test_rewrite_means_the_same(before: str, after: str | None) -> None:
    """The new text is as written here, parses, and has the value that the old one has."""
    source = f"import torch\ndef f(x: torch.Tensor, y):\n    return {before}\n"
    data = source.encode()
    rules = [r for r in all_rules() if r.code == "NPU110"]
    result = migrate_file("vllm/x.py", data, rules, Tree({}))
    assert result.failure is None
    assert result.after is not None
    text = result.after.decode()
    if after is not None:
        assert text == source.replace(before, after)
    for device in ("cuda", "npu"):
        assert value(source, device) == value(text, device)


def value(source: str, device: str) -> object:
    """What `f` returns for a tensor on a device, with enough around to evaluate it."""

    where = SimpleNamespace(type=device)
    tensor = SimpleNamespace(is_cuda=device == "cuda", device=where)
    body = source.replace("import torch\n", "")

    def called(*args: object, **kwargs: object) -> object:
        return args, kwargs

    scope: dict[str, Any] = {"torch": SimpleNamespace(Tensor=object)}
    exec(compile(body, "x", "exec"), scope)
    function = scope["f"]
    scope["f"] = called
    try:
        result = function(tensor, {True: "yes", False: "no"})
        if hasattr(result, "__next__"):
            result = next(result)
        return result() if callable(result) else result
    except TypeError as error:
        return type(error)


def test_f_strings_that_use_both_quotes() -> None:
    data = b"import torch\ndef f(x: torch.Tensor):\n    return f'{f\"{x.is_cuda}\"}'\n"
    rules = [r for r in all_rules() if r.code == "NPU110"]
    result = migrate_file("vllm/x.py", data, rules, Tree({}))
    assert result.after is None
    assert [(r.status, r.reason) for r in result.records] == [
        (Status.MANUAL, "f-strings around it use both quotes")
    ]


@pytest.mark.parametrize(
    "source",
    [
        "x.is_cuda = True",
        "x.is_cuda: bool = True",
        "x.is_cuda()",
        "x.is_cuda ()",
        "(x.is_cuda)()",
    ],
)
def test_stores_and_calls_stay(source: str) -> None:
    data = f"import torch\ndef f(x: torch.Tensor):\n    {source}\n".encode()
    rules = [r for r in all_rules() if r.code == "NPU110"]
    result = migrate_file("vllm/x.py", data, rules, Tree({}))
    assert result.after is None
    assert result.failure is None
    assert Status.CHANGED not in [r.status for r in result.records]


@pytest.mark.parametrize(
    "line",
    ["y{0} = x.is_cuda", "y{0} = x{0}.is_cuda", "y{0} = x[{0}].is_cuda", "x = y.is_cuda"],
    ids=["one", "many", "items", "bound again"],
)
def test_many_guards_in_one_function(line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The work grows with the file, not with its square: counted in nodes, not in seconds."""
    nodes = 0

    def counting(node: cst.CSTNode) -> Iterator[cst.CSTNode]:
        nonlocal nodes
        for found in walk(node):
            nodes += 1
            yield found

    def work(count: int) -> int:
        nonlocal nodes
        nodes = 0
        body = "".join(f"    {line.format(number)}\n" for number in range(count))
        rules = [rule for rule in all_rules() if rule.code == "NPU110"]
        result = migrate_file("vllm/x.py", f"def f(x, y):\n{body}".encode(), rules, Tree({}))
        assert len(result.records) == count
        return nodes

    monkeypatch.setattr(receivers, "walk", counting)
    assert work(200) <= 2.1 * work(100)
