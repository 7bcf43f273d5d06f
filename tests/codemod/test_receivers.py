# SPDX-License-Identifier: Apache-2.0
"""Is the object before `.is_cuda` a tensor? Tables of small programs and what becomes of them."""

from __future__ import annotations

import ast
from types import SimpleNamespace
from typing import Any

import pytest

from migrator.codemod import bindings, expression_types, flow_walker, receivers
from migrator.codemod.engine import migrate_file
from migrator.codemod.receivers import Evidence
from migrator.codemod.rule import Status
from migrator.files.tree import Tree
from migrator.planning.plan import make_plan
from migrator.rules import all_rules

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
    "T = torch.Tensor\ndef f(x: T): x.is_cuda",
    "from torch import Tensor as T\ndef f(x: T): x.is_cuda",
    "import torch as th\ndef f(x: th.Tensor): x.is_cuda",
    'def f(x):\n    """Do it.\n\n    Args:\n        x: torch.Tensor\n    """\n    x.is_cuda',
    "class T(torch.Tensor):\n    def f(self): self.is_cuda",
    "class T(torch.Tensor): pass\ndef f(x: T): x.is_cuda",
    # collections of tensors
    "def f(x: list[torch.Tensor]): x[0].is_cuda",
    "def f(x: dict[str, torch.Tensor]):\n    for v in x.values(): v.is_cuda",
    "def f(x: list[torch.Tensor]): return all(v.is_cuda for v in x)",
    "def f(a: torch.Tensor, b: torch.Tensor):\n    for v in (a, b): v.is_cuda",
    "def f(x: dict[str, torch.Tensor]):\n    for k, v in x.items(): v.is_cuda",
    "def f(x: tuple[int, torch.Tensor]):\n    n, t = x\n    t.is_cuda",
    "def f(x: tuple[int, torch.Tensor]): x[1].is_cuda",
    "def f(x: list[torch.Tensor], y: list[int]):\n    for a, b in zip(x, y): a.is_cuda",
    "def f(x: list[torch.Tensor]):\n    for n, a in enumerate(x): a.is_cuda",
    "def f(*x: torch.Tensor): x[0].is_cuda",
    "def f(**x: torch.Tensor): x['a'].is_cuda",
    "def f(x: list[torch.Tensor]):\n    a, *b = x\n    b[0].is_cuda",
    "def f(x: dict[str, torch.Tensor]): next(iter(x.values()), None).is_cuda",
    # assignments
    "def f():\n    x = torch.empty(1)\n    x.is_cuda",
    "def f(y: torch.Tensor):\n    x = y\n    z = x\n    z.is_cuda",
    "def f():\n    x: torch.Tensor = g()\n    x.is_cuda",
    "def f():\n    x: torch.Tensor\n    x = g()\n    x.is_cuda",
    "def f(y: torch.Tensor):\n    x = y.contiguous()\n    x.is_cuda",
    "def f(y):\n    if (x := torch.ones(1)) is not None: x.is_cuda",
    "def f(): torch.ones(1).is_cuda",
    # a use after the value may have been replaced by another says it of both
    "def f(y):\n    for x in y:\n        x = x.half()\n        if x.is_cuda: x = x.cpu()\n"
    "        x.untyped_storage()",
    "def f(y: Tensor): y.view(1, 2).is_cuda",
    "def f(y: Tensor): (y * 2).is_cuda",
    "def f(y: Tensor): y[0, 1:].is_cuda",
    "def f(y: Tensor):\n    while y.sum() > 0: y = y.sub(1)\n    y.is_cuda",
    "def f(m: torch.nn.Module): next(m.parameters()).is_cuda",
    "def f(m: torch.nn.Module):\n    for n, p in m.named_parameters(): p.is_cuda",
    "class M(torch.nn.Module):\n    def f(self): next(self.buffers()).is_cuda",
    "def f(a):\n    if a: x = torch.empty(1)\n    else: x = torch.ones(1)\n    x.is_cuda",
    "def f(a):\n    x = None\n    if a: x = torch.empty(1)\n    x.is_cuda",
    "def f(a: Tensor):\n    x = g()\n    x = a\n    x.is_cuda",
    "def f(a: Tensor):\n    a.is_cuda\n    a = g()",
    "def f(a: Tensor):\n    try: b = a\n    except ValueError: raise\n    b.is_cuda",
    "def g() -> torch.Tensor: ...\ndef f(): g().is_cuda",
    "def g(): return torch.ones(1)\ndef f(): g().is_cuda",
    "def g():\n    yield 1, torch.ones(1)\ndef f():\n    for n, t in g(): t.is_cuda",
    "from typing import cast\ndef f(x): cast(torch.Tensor, x).is_cuda",
    "import torch.nn.functional as F\ndef f(x): F.relu(x).is_cuda",
    "import itertools\ndef f(m: torch.nn.Module):\n"
    "    for t in itertools.chain(m.parameters(), m.buffers()): t.is_cuda",
    # what else is asked of it
    "def f(x):\n    if x.is_cuda and x.is_contiguous(): pass",
    "def f(x):\n    y = x.numel()\n    return x.is_cuda",
    "def f(a): return a.b.is_cuda and a.b.data_ptr()",
    "def f(d): return d[0].is_cuda and d[0].dim() == 1",
    "def f(x):\n    assert isinstance(x, torch.Tensor)\n    x.is_cuda",
    "def f(x): return isinstance(x, torch.Tensor) and x.is_cuda",
    "def f(x): return torch.is_tensor(x) and x.is_cuda",
    "def f(x):\n    if not isinstance(x, Tensor): return\n    x.is_cuda",
    "def f(x: object): return x.is_cuda if isinstance(x, Tensor) else 0",
    "def f(x): return [v.is_cuda for v in x if isinstance(v, Tensor)]",
    "def f(s): return isinstance(s.x, Tensor) and s.x.is_cuda",
    "def f(w): return w.is_cuda and torch.equal(w, w)",
    "def f(w):\n    h = torch.empty(1)\n    h.copy_(w)\n    w.is_cuda",
    "def f(q, k): return any(t.stride(0) for t in (q, k)) or q.is_cuda",
    # fields of the module's classes
    "class A:\n    w: torch.Tensor\ndef f(a: A): a.w.is_cuda",
    "class A:\n    w: torch.Tensor\n    def f(self): self.w.is_cuda",
    "class A:\n    def __init__(self):\n        self.w: torch.Tensor = g()\n"
    "    def f(self): self.w.is_cuda",
    "class A:\n    def __init__(self):\n        self.w = torch.ones(1)\n"
    "    def f(self): self.w.is_cuda",
    "class A:\n    @property\n    def w(self) -> Tensor: ...\ndef f(a: A): a.w.is_cuda",
    "class B:\n    w: Tensor\nclass A(B): pass\ndef f(a: A): a.w.is_cuda",
    "class A:\n    w: Tensor\ndef f():\n    a = A()\n    a.w.is_cuda",
    "def f(layer: torch.nn.Linear): layer.weight.is_cuda",
    "def f(p: Tensor): p.data.is_cuda",
    "def f(a):\n    a.b = torch.ones(1)\n    a.b.is_cuda",
]

PLACE = """
class Placement:
    device: str
    is_cuda: bool
"""

NO_TENSOR = [
    "from vllm.platforms import current_platform\ndef f(): current_platform.is_cuda",
    "from vllm.platforms import current_platform as p\ndef f(): p.is_cuda",
    "import vllm.platforms\ndef f(): vllm.platforms.current_platform.is_cuda",
    "from vllm import platforms\nx = platforms.current_platform.is_cuda",
    "class P:\n    def f(self): self.is_cuda",
    "class P:\n    @classmethod\n    def f(cls): cls.is_cuda",
    "import config\ndef f(): config.is_cuda",
    PLACE + "def f(x: Placement): x.is_cuda",
    PLACE + "def f(): Placement('', True).is_cuda",
    PLACE + "class A:\n    p: Placement\ndef f(a: A): a.p.is_cuda",
    PLACE + "def f(x: list[Placement]): return [p.is_cuda for p in x]",
]

UNKNOWN = [
    "def f(x): x.is_cuda",
    "def f(x: object): x.is_cuda",
    "def f(x: Platform): x.is_cuda",
    "def f(x: TensorParallel): x.is_cuda",
    "from vllm.config import Spec\ndef f(x: Spec): x.is_cuda and x.numel()",
    "from vllm.config import Spec\ndef f(x: Spec | torch.Tensor): x.is_cuda",
    "def f(): g().is_cuda",
    "def f(x):\n    y = x\n    y.is_cuda",
    "def f(x):\n    x = x\n    x.is_cuda",
    "def f(a): a.b.is_cuda",
    "def f(x): return x.is_cuda\ndef g(x): return x.numel()",
    "def f(a): a[0].is_cuda",
    "def f(a):\n    for x in a: x.is_cuda",
    "platform = g()\nplatform.is_cuda",
    # what other objects have as well
    "def f(x): return x.is_cuda and x.device",
    "def f(x): return x.is_cuda and x.shape and x.dtype and x.ndim",
    "class A:\n    def f(self): self.cfg.is_cuda and self.cfg.device",
    "def f(m): next(m.parameters()).is_cuda",
    "def f(layer): layer.weight.is_cuda",
    "def f(p): p.data.is_cuda",
    "def f(y): y.contiguous().is_cuda",
    # results of torch that are no tensors
    "def f(): torch.device('cuda').is_cuda",
    "def f(): torch.load('x').is_cuda",
    "def f(): torch.cuda.is_cuda_of(1).is_cuda",
    "def f(): torch.Generator().is_cuda",
    "def f(x: Tensor): torch.topk(x, 1).is_cuda",
    "def f(x: Tensor): torch.where(x).is_cuda",
    "def f(x): torch.compile(x).is_cuda",
    "def f(): torch.get_default_dtype().is_cuda",
    "def f(x: Tensor): x.size().is_cuda",
    "def f(x: Tensor): x.storage().is_cuda",
    "def f(x: Tensor): x.max(0).is_cuda",
    "def f(): torch.nn.Linear(1, 1).is_cuda",
    # another class
    "class A:\n    w: Tensor\nclass B:\n    w: int | Foo\ndef f(b: B): b.w.is_cuda",
    "class A:\n    w: Tensor\ndef f(b): b.w.is_cuda",
    "class Tensor: pass\ndef f(x: Tensor): x.is_cuda and x.numel()",
    PLACE + "def f(x): x.is_cuda and x.numel()",
    PLACE + "def f(x: Placement | Tensor): x.is_cuda",
    "def f(x: type[torch.Tensor]): x.is_cuda",
    "class A:\n    w: Tensor\n    def g(self, o: Foo): self.w: Foo = o\n"
    "    def f(self): self.w.is_cuda",
    # a name that is bound again
    "def f(x: Tensor, c):\n    x = c.get()\n    x.is_cuda",
    "def f(x: Tensor, c):\n    if c: x = c.get()\n    x.is_cuda",
    "def f(a):\n    if a: x = torch.ones(1)\n    else: x = a\n    x.is_cuda",
    "def f(x: Tensor): return [x.is_cuda for x in g()]",
    "def f(x: Tensor): return {x.is_cuda: 1 for x in g()}",
    "def f(x: Tensor): return lambda x: x.is_cuda",
    "def f(x: Tensor):\n    def g(x): return x.is_cuda",
    "def f(x: Tensor):\n    def g():\n        x = h()\n        return x.is_cuda",
    "def f(x: Tensor):\n    def g():\n        nonlocal x\n        x = h()\n    g()\n    x.is_cuda",
    "def f(x: Tensor):\n    def g(): return x.is_cuda\n    x = h()\n    return g",
    "x = torch.ones(1)\ndef f():\n    global x\n    x = g()\ndef h(): x.is_cuda",
    "x = torch.ones(1)\nclass A:\n    x = g()\n    y = x.is_cuda",
    "x = torch.ones(1)\nx = g()\ndef f(): x.is_cuda",
    "def f(x: Tensor): return (x := g()).is_cuda",
    "def f(x: Tensor): return g(x := h()) and x.is_cuda",
    "def f(x: Tensor): return [y for y in z if (x := y)] and x.is_cuda",
    "def f(x: Tensor):\n    for x in g(): x.is_cuda",
    "def f(x: Tensor):\n    for x in g(): pass\n    x.is_cuda",
    "def f(x: Tensor):\n    while g():\n        x.is_cuda\n        x = h()",
    "def f(x: Tensor):\n    with g() as x: x.is_cuda",
    "def f(x: Tensor):\n    try: pass\n    except E as x: x.is_cuda",
    "def f(x: Tensor):\n    try: x = g()\n    except E: pass\n    x.is_cuda",
    "def f(x: Tensor):\n    match g():\n        case x: x.is_cuda",
    "def f(x: Tensor):\n    match g():\n        case {'a': [1, *x]}: x.is_cuda",
    "def f(x: Tensor):\n    del x\n    x.is_cuda",
    "def f(x: Tensor):\n    x, y = g()\n    x.is_cuda",
    "def f(x: Tensor, y):\n    y += x\n    y.is_cuda",
    "def f(a):\n    a.b = torch.ones(1)\n    a = g()\n    a.b.is_cuda",
    "def f(a):\n    if a: a.b = torch.ones(1)\n    a.b.is_cuda",
    # questions that say the contrary, or are asked elsewhere
    "def f(x):\n    if isinstance(x, Tensor): return\n    x.is_cuda",
    "def f(x):\n    if isinstance(x, Tensor): pass\n    x.is_cuda",
    "def f(x): return isinstance(x, Tensor) or x.is_cuda",
    "def f(x): return not isinstance(x, Tensor) and x.is_cuda",
    "def f(x): return isinstance(x, (Tensor, Foo)) and x.is_cuda",
    "def f(x):\n    assert isinstance(x, Tensor)\n    x = g()\n    x.is_cuda",
    "def f(x):\n    x.numel()\n    x = g()\n    x.is_cuda",
    "@deco\ndef g() -> Tensor: ...\ndef f(): g().is_cuda",
    "async def g() -> Tensor: ...\ndef f(): g().is_cuda",
    "def g(): return torch.ones(1)\ndef g(): return h()\ndef f(): g().is_cuda",
]


def judge(source: str) -> Evidence:
    data = ("import torch\nfrom torch import Tensor\n" + source).encode()
    found = receivers.receivers(ast.parse(data), data, "is_cuda", lambda _: None)
    asked = [item for item in found if isinstance(item[0].ctx, ast.Load)]
    assert len(asked) == 1
    return asked[0][1]


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
    assert found.why


@pytest.mark.parametrize("source", [*TENSOR, *NO_TENSOR, *UNKNOWN])
def test_only_what_is_certain_is_rewritten(source: str) -> None:
    """The engine rewrites what is a tensor, leaves what is none, and lists the rest."""
    data = ("import torch\nfrom torch import Tensor\n" + source + "\n").encode()
    rules = [r for r in all_rules() if r.code == "NPU110"]
    result = migrate_file("vllm/x.py", data, rules, Tree({}))
    assert result.failure is None
    (record,) = result.records
    if source in TENSOR:
        assert record.status is Status.CHANGED
        assert b".device.type ==" in (result.after or b"")
        assert b".is_cuda" not in (result.after or b"")
    else:
        assert record.status is (Status.SKIPPED if source in NO_TENSOR else Status.MANUAL)
        assert result.after is None


def test_a_function_of_another_module() -> None:
    """What it returns is looked up in the tree."""
    other = b"import torch\ndef g(x) -> list[torch.Tensor]: ...\ndef h(x): ...\n"
    tree = Tree({"vllm/other.py": other})
    rules = [r for r in all_rules() if r.code == "NPU110"]
    for called, status in (("g", Status.CHANGED), ("h", Status.MANUAL), ("no", Status.MANUAL)):
        data = f"from vllm.other import {called}\nx = {called}(1)[0].is_cuda\n".encode()
        result = migrate_file("vllm/x.py", data, rules, tree)
        assert [r.status for r in result.records] == [status], called


def test_a_parameter_hides_an_import() -> None:
    source = "from vllm.platforms import current_platform\n"
    assert judge(source + "def f(current_platform: Tensor): current_platform.is_cuda").tensor
    hidden = judge(source + "def f(current_platform): current_platform.is_cuda and 1")
    assert hidden.tensor is None


def test_assignments_that_go_in_circles_end() -> None:
    assert judge("def f():\n    a = b\n    b = c\n    c = a\n    a.is_cuda").tensor is None
    source = "def f(a: Tensor):\n    while a: a = a.{}\n    a.is_cuda"
    assert judge(source.format("contiguous()")).tensor is True
    assert judge(source.format("grad_fn")).tensor is None


COMMENTS = {
    "not (  # keep\n        x.is_cuda\n    )": '(  # keep\n        x.device.type != "cuda"\n    )',
    "(  # keep\n        x.is_cuda)": '(  # keep\n        x.device.type == "cuda")',
    "(x.is_cuda  # keep\n    )": '(x.device.type == "cuda"  # keep\n    )',
    "(not  # keep\n        x.is_cuda)": None,
    "(x.  # keep\n        is_cuda)": None,
    "(x  # keep\n        .is_cuda)": None,
    "(not (  # one\n        x.is_cuda\n    )  # two\n    )": None,
}


@pytest.mark.parametrize(("before", "after"), COMMENTS.items())
def test_no_comment_is_lost(before: str, after: str | None) -> None:
    source = f"import torch\ndef f(x: torch.Tensor):\n    return {before}\n"
    rules = [r for r in all_rules() if r.code == "NPU110"]
    result = migrate_file("vllm/x.py", source.encode(), rules, Tree({}))
    assert result.failure is None
    if after is None:
        assert result.after is None
        assert [r.status for r in result.records] == [Status.MANUAL]
    else:
        assert (result.after or b"").decode() == source.replace(before, after)


def test_an_f_string_that_prints_its_source() -> None:
    data = b'import torch\ndef f(x: torch.Tensor):\n    return f"{x.is_cuda=}{not x.is_cuda = }"\n'
    rules = [r for r in all_rules() if r.code == "NPU110"]
    result = migrate_file("vllm/x.py", data, rules, Tree({}))
    assert result.after is None
    assert [r.status for r in result.records] == [Status.MANUAL] * 2


TRIGGERED = [
    "x.is_cuda\n\n\n(A, B) = 1, 2",
    "x.is_cuda \\\n",
    "x. is_cuda",
    "x.\\\n    is_cuda",
    "(x.  # why\n    is_cuda)",
    "x.is_cuda",
    "(x.is_cuda)",
    "f'{x.is_cuda}('",
]


@pytest.mark.parametrize("text", TRIGGERED)
def test_the_search_before_the_parse_finds_too_much_rather_than_too_little(text: str) -> None:
    data = f"import torch\ndef f(x: torch.Tensor):\n    return {text}\n".encode()
    (rule,) = (r for r in all_rules() if r.code == "NPU110")
    plan = make_plan(Tree({"vllm/x.py": data}), [rule])
    assert [r.path for r in plan.records] == ["vllm/x.py"]


@pytest.mark.parametrize("before", ["global torch\n", "x = [y for y in z]\nglobal torch\n"])
def test_global_in_a_module_changes_nothing(before: str) -> None:
    data = f"{before}import torch\n\n\ndef f(x: torch.Tensor):\n    return x.is_cuda\n".encode()
    (rule,) = (r for r in all_rules() if r.code == "NPU110")
    plan = make_plan(Tree({"vllm/x.py": data}), [rule])
    assert [r.status.value for r in plan.records] == ["changed"]
    unbound = Tree({"vllm/x.py": data.replace(b"import torch\n", b"y = [torch for _ in x]\n")})
    assert make_plan(unbound, [rule]).failures == ()


def test_a_guard_in_what_is_no_python_is_named() -> None:
    (rule,) = (r for r in all_rules() if r.code == "NPU110")
    data = b"import torch\ndef f(t: torch.Tensor):\n    return t.is_cuda\n\n(((\n"
    plan = make_plan(Tree({"vllm/x.py": data}), [rule])
    assert [f.path for f in plan.failures] == ["vllm/x.py"]
    assert "not valid Python" in plan.failures[0].reason


def test_every_search_over_many_files_is_as_wide_as_the_rule() -> None:
    """A rule that names its files outright sees them whatever they hold; the others are few."""
    wide = [r.code for r in all_rules() if r.triggers and any("*" in path for path in r.paths)]
    assert wide == ["NPU110", "NPU130", "NPU210"], "test its triggers as theirs are tested here"


@pytest.mark.parametrize(
    "text", ["torch.cuda.Event()", "torch . cuda.Event()", "torch.\\\n    cuda.Event()"]
)
def test_a_device_module_is_found_before_the_parse(text: str) -> None:
    data = f"import torch\n\n\ndef f():\n    return {text}\n".encode()
    path = "vllm/v1/worker/gpu/new.py"
    (rule,) = (r for r in all_rules() if r.code == "NPU210")
    plan = make_plan(Tree({path: data}), [rule])
    assert [r.path for r in plan.records] == [path]


@pytest.mark.parametrize("text", ['"nccl"', "'cpu:gloo,cuda:nccl'", '"cuda:nccl,cpu:gloo"'])
def test_a_backend_is_found_before_the_parse(text: str) -> None:
    data = f"import torch\ntorch.distributed.new_group(backend={text})\n".encode()
    (rule,) = (r for r in all_rules() if r.code == "NPU130")
    plan = make_plan(Tree({"vllm/x.py": data}), [rule])
    assert "vllm/x.py" in [r.path for r in plan.records]


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
    """The work grows with the file, not with its square: counted in steps, not in seconds."""
    steps = 0

    def counted(function: Any) -> Any:
        def counting(*args: Any, **kwargs: Any) -> Any:
            nonlocal steps
            steps += 1
            return function(*args, **kwargs)

        return counting

    def work(count: int) -> int:
        nonlocal steps
        steps = 0
        body = "".join(f"    {line.format(number)}\n" for number in range(count))
        rules = [rule for rule in all_rules() if rule.code == "NPU110"]
        result = migrate_file("vllm/x.py", f"def f(x, y):\n{body}".encode(), rules, Tree({}))
        assert len(result.records) == count
        return steps

    for owner, name in (
        (flow_walker._Walker, "expression"),
        (bindings.Env, "set"),
        (expression_types.Types, "_remember"),
        (receivers._Judge, "_use"),
    ):
        monkeypatch.setattr(owner, name, counted(getattr(owner, name)))
    assert work(200) <= 2.1 * work(100)


@pytest.mark.parametrize(
    "around",
    ["for _ in y:", "while y:", "for _ in y:|class C:", "try:|finally:", "if y:", "with y:"],
)
def test_statements_in_each_other(around: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each more around a guard may not double the work, as looking at a loop twice would."""
    seen = 0
    statement = flow_walker._Walker.statement

    def counting(
        self: flow_walker._Walker, node: ast.stmt, env: bindings.Env
    ) -> bindings.Env | None:
        nonlocal seen
        seen += 1
        return statement(self, node, env)

    monkeypatch.setattr(flow_walker._Walker, "statement", counting)
    rules = [rule for rule in all_rules() if rule.code == "NPU110"]

    def work(depth: int) -> int:
        nonlocal seen
        seen = 0
        lines = around.replace("try:|", "try: pass|").split("|") * depth
        source = "import torch\n" + "\n".join(nested(lines))
        result = migrate_file("vllm/x.py", source.encode(), rules, Tree({}))
        assert result.failure is None
        assert [record.rule for record in result.records] == ["NPU110"]
        return seen

    assert work(16) < 16 * work(8)


def nested(lines: list[str]) -> list[str]:
    """A function of statements, each in the one before it, and a guard in the last."""
    found = ["def f(x: torch.Tensor, y):"]
    depth = 1
    for line in lines:
        found.append(" " * depth + line)
        depth += not line.startswith("try")
    return [*found, " " * depth + "if x.is_cuda: pass", ""]


def test_a_loop_in_a_loop_sees_what_the_outer_one_binds() -> None:
    """What was known of a loop from an earlier round of the one around it is where it goes on."""
    source = """\
import torch


def f(x: torch.Tensor, y, a):
    for _ in y:
        for _ in y:
            for _ in y:
                if x.is_cuda:
                    pass
            x = a
"""
    rules = [rule for rule in all_rules() if rule.code == "NPU110"]
    (record,) = migrate_file("vllm/x.py", source.encode(), rules, Tree({})).records
    assert record.status is Status.MANUAL
    kept = source.replace("            x = a\n", "            x = x.cpu()\n")
    (record,) = migrate_file("vllm/x.py", kept.encode(), rules, Tree({})).records
    assert record.status is Status.CHANGED
