# SPDX-License-Identifier: Apache-2.0
"""Coverage: what is accelerator-specific, whether an NPU comes to it, and that counts are right."""

from __future__ import annotations

import ast
import json
import resource
import subprocess
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path

import jsonschema
import pytest

from migrator.api.plans import choose_rules
from migrator.coverage import Grade, Item, Survey, survey
from migrator.coverage.conditions import evaluate
from migrator.coverage.effort import Effort
from migrator.coverage.reach import elsewhere, models, reach
from migrator.coverage.render import IDENTIFIERS, annotated, render
from migrator.coverage.surface import ANNOTATION, Facts, Kind, read
from migrator.files.tree import DiskTree, Tree
from migrator.messages.github import commands
from migrator.rules import all_rules
from tests.conftest import RunCli, cli_command
from tests.coverage import surface_count
from tests.trees import SELECT, copy_mini

RULES = choose_rules(["NPU1"], [])
"""Rules that need nothing of a tree but their sites."""
INIT = {"vllm/__init__.py": b""}
LLM = "vllm/entrypoints/llm.py"


def sites(text: str, path: str = "vllm/x.py") -> list[tuple[Kind, int, str]]:
    facts = read(path, text.encode())
    assert facts.failure is None
    return [(site.kind, site.line, site.source) for site in facts.sites]


# ---- kinds ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("torch.cuda.Event()", [(Kind.TORCH_CUDA, "torch.cuda.Event")]),
        ("torch.cuda.current_stream().x", [(Kind.TORCH_CUDA, "torch.cuda.current_stream")]),
        ("import torch.cuda.nvtx as n", [(Kind.TORCH_CUDA, "import torch.cuda.nvtx")]),
        ("from torch import cuda", [(Kind.TORCH_CUDA, "from torch import cuda")]),
        ("my.torch.cuda.Event()", []),
        ("f'{torch.cuda.device_count()}'", [(Kind.TORCH_CUDA, "torch.cuda.device_count")]),
        ("'torch.cuda.Event'", []),
        ("x.is_cuda", [(Kind.IS_CUDA, "x.is_cuda")]),
        ("a[0].b().is_cuda", [(Kind.IS_CUDA, "a[0].b().is_cuda")]),
        ("current_platform.is_cuda", []),
        ("p.is_cuda()", [(Kind.PLATFORM_BRANCH, "p.is_cuda()")]),
        ("p.is_cuda_alike()", [(Kind.PLATFORM_BRANCH, "p.is_cuda_alike()")]),
        ("zeros(1, device='cuda')", [(Kind.DEVICE_LITERAL, 'device="cuda"')]),
        ("torch.device(f'cuda:{i}')", [(Kind.DEVICE_LITERAL, 'device("cuda")')]),
        ("x.to('cuda:0')", [(Kind.DEVICE_LITERAL, 'to("cuda")')]),
        ("def f(device='cuda'): pass", [(Kind.DEVICE_LITERAL, 'device="cuda"')]),
        ("self.device = 'cuda'", [(Kind.DEVICE_LITERAL, 'self.device = "cuda"')]),
        ("print('cuda'); x = 'cuda'; f(name='cuda')", []),
        ("model.cuda()", [(Kind.CUDA_CALL, "model.cuda()")]),
        ("x.device.type == 'cuda'", [(Kind.DEVICE_TYPE, "x.device.type == 'cuda'")]),
        ("'cuda' != device_type", [(Kind.DEVICE_TYPE, "'cuda' != device_type")]),
        ("str(d) in ('cpu', 'cuda')", [(Kind.DEVICE_TYPE, "str(d) in ('cpu', 'cuda')")]),
        ("name == 'cuda'", []),
        ("init('nccl')", [(Kind.NCCL, "'nccl'")]),
        ("init('cpu:gloo,cuda:nccl')", [(Kind.NCCL, "'cpu:gloo,cuda:nccl'")]),
        ("import vllm.pynccl", [(Kind.NCCL, "import vllm.pynccl")]),
        ("from a import SyncClient", []),
        ("torch.ops._C.rms_norm(x)", [(Kind.CUSTOM_OP, "torch.ops._C.rms_norm")]),
        ("torch.ops._C_cache_ops.f", [(Kind.CUSTOM_OP, "torch.ops._C_cache_ops.f")]),
        ("torch.ops.vllm.all_reduce(x); torch.ops.aten.add", []),
        ("import flashinfer.sampling", [(Kind.CUDA_IMPORT, "import flashinfer.sampling")]),
        (
            "from .vllm_flash_attn import x",
            [(Kind.CUDA_IMPORT, "from vllm.vllm_flash_attn import x")],
        ),
        ("import vllm._moe_C", [(Kind.CUDA_IMPORT, "import vllm._moe_C")]),
        ("importlib.import_module('cupy')", [(Kind.CUDA_IMPORT, 'import_module("cupy")')]),
        ("import flash_attention", []),
        ("try: pass\nexcept torch.cuda.E: pass", [(Kind.TORCH_CUDA, "torch.cuda.E")]),
        ("match x:\n case torch.cuda.E: pass", [(Kind.TORCH_CUDA, "torch.cuda.E")]),
    ],
)
def test_kinds(text: str, expected: list[tuple[Kind, str]]) -> None:
    assert [(kind, source) for kind, _, source in sites(text)] == expected


KERNEL = """\
import triton

@triton.autotune(configs=[])
@triton.jit
def add_kernel(x, N: tl.constexpr):
    pass


def launch(x):
    add_kernel[(1,)](x)
    table[0](x)
    other[grid](x)
"""


def test_triton() -> None:
    assert [s for s in sites(KERNEL) if s[0] is Kind.TRITON_KERNEL] == [
        (Kind.TRITON_KERNEL, 5, "def add_kernel")
    ]
    found = survey(Tree({**INIT, "vllm/x.py": KERNEL.encode()}), RULES)
    launches = [i.source for i in found.items if i.kind is Kind.TRITON_LAUNCH]
    assert launches == ["add_kernel[(1,)]", "other[grid]"]


def test_what_another_compiler_compiles_is_no_triton_kernel() -> None:
    body = "@jit(nopython=True)\ndef f(x): pass\n"
    assert sites(f"from numba import jit\n{body}") == []
    assert sites(f"from triton import jit\n{body}") == [(Kind.TRITON_KERNEL, 3, "def f")]


def test_a_file_that_does_not_parse() -> None:
    found = survey(Tree({**INIT, "vllm/x.py": b"x.cuda(\n"}), RULES)
    assert [path for path, _ in found.failures] == ["vllm/x.py"]
    assert found.items == ()


# ---- conditions -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("current_platform.is_cuda()", False),
        ("not current_platform.is_cuda_alike()", True),
        ("current_platform.is_out_of_tree()", True),
        ("self.platform.is_rocm() or current_platform.is_xpu()", False),
        ("current_platform.has_device_capability(90)", False),
        ("current_platform.is_cuda() and flag", False),
        ("flag and not current_platform.is_tpu()", None),
        ("flag or current_platform.is_out_of_tree()", True),
        ("x.is_cuda", False),
        ("x.device.type == 'cuda'", False),
        ("device_type != 'cuda'", True),
        ("current_platform.device_type == 'npu'", True),
        ("x.device.type in ('cuda', 'xpu')", False),
        ("x.device.type in ('cuda', 'npu')", True),
        ("x.device.type not in ['cuda']", True),
        ("torch.cuda.is_available()", False),
        ("torch.version.hip is not None", False),
        ("torch_npu is not None", True),
        ("TYPE_CHECKING", False),
        ("HAS_TRITON", False),
        ("has_flashinfer()", False),
        ("has_deep_gemm() and n > 1", False),
        ("platform._enum == PlatformEnum.CUDA", False),
        ("is_hip", True),
        ("envs.VLLM_USE_V1", None),
        ("x.kind == 'cuda'", None),
        ("n > 3", None),
        ("0", False),
    ],
)
def test_conditions(text: str, value: bool | None) -> None:
    test = ast.parse(text, mode="eval").body
    assert evaluate(test, {"is_hip": True}) is value


def guards(text: str) -> list[str | None]:
    return [s.guard for s in read("vllm/x.py", text.encode()).sites if s.source.endswith(".X")]


X = "torch.cuda.X"
INIT_A = "class A:\n    def __init__(self):\n        "
F_A = f"\n    def f(self):\n        if self.a:\n            {X}"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (f"if current_platform.is_cuda():\n    {X}\nelse:\n    {X}", [True, False]),
        (
            f"if not current_platform.is_cuda():\n    {X}\nelif y:\n    {X}\n{X}",
            [False, True, False],
        ),
        (f"def f():\n    if not current_platform.is_cuda():\n        return\n    {X}", [True]),
        (f"def f():\n    if y.is_cuda:\n        return\n    {X}", [False]),
        (f"def f():\n    assert current_platform.is_cuda()\n    {X}", [True]),
        (f"for y in z:\n    if not y.is_cuda:\n        continue\n    {X}\n{X}", [True, False]),
        (f"try:\n    import flash_attn\n    {X}\nexcept ImportError:\n    {X}", [True, False]),
        (f"try:\n    import flash_attn\nexcept ImportError:\n    pass\nelse:\n    {X}", [True]),
        (f"try:\n    import flash_attn\n    {X}\nexcept KeyError:\n    {X}", [False, False]),
        (f"with suppress(ImportError):\n    import vllm._C\n    {X}\n{X}", [True, False]),
        (f"y = {X} if current_platform.is_cuda() else {X}", [True, False]),
        (f"y = current_platform.is_cuda() and {X}", [True]),
        (f"y = current_platform.is_cuda() or {X}", [False]),
        (f"is_hip = current_platform.is_rocm()\nif is_hip:\n    {X}", [True]),
        (f"flag = HAS_TRITON\nflag = read()\nif flag:\n    {X}", [False]),
        (f"{INIT_A}self.a = n > 1 and current_platform.is_cuda(){F_A}", [True]),
        (f"{INIT_A}self.a = HAS_TRITON; self.a = n > 1{F_A}", [False]),
        (f"{INIT_A}self.a = False{F_A}", [False]),
        (f"def f(x: {X}) -> {X}:\n    y: {X} = 1", [True, True, True]),
        (f"class A:\n    if HAS_TRITON:\n        def m(self):\n            {X}", [True]),
    ],
)
def test_guards(text: str, expected: list[bool]) -> None:
    assert [guard is not None for guard in guards(text)] == expected


def test_a_guard_names_its_condition() -> None:
    assert guards(f"if current_platform.is_cuda():\n    {X}") == [
        "below `if current_platform.is_cuda()` in line 1"
    ]
    assert guards(f"def f(x: {X}): pass") == [ANNOTATION]


# ---- reach ----------------------------------------------------------------------------------

LLM_TEXT = """\
from vllm.a import used, Child
from vllm import pkg

def generate():
    used()
    Child().run()
    pkg.exported()
    if current_platform.is_cuda():
        from vllm.c import never_called
        never_called()
"""
A_TEXT = """\
class Base:
    def __init__(self):
        self.prepare()
    def run(self):
        pass
    def prepare(self):
        pass
    def left(self):
        pass

class Child(Base):
    def run(self):
        super().finish()
        getattr(self, "by_name")()
    def by_name(self):
        pass

class Mixin:
    pass

class Unused(Base):
    def prepare(self):
        pass

def used():
    return helper

def helper():
    pass

def unused():
    pass
"""
GRAPH = {
    "vllm/__init__.py": "",
    LLM: LLM_TEXT,
    "vllm/entrypoints/__init__.py": "",
    "vllm/a.py": A_TEXT,
    "vllm/b.py": "",
    "vllm/c.py": "def never_called(): pass\n",
    "vllm/pkg/__init__.py": "from .inner import *\nfrom .other import hidden as exported\n",
    "vllm/pkg/inner.py": "def starred(): pass\n",
    "vllm/pkg/other.py": "def hidden(): pass\ndef quiet(): pass\n",
    "vllm/model_executor/models/registry.py": 'M = {"A": ("tiny", "Tiny")}\n',
    "vllm/model_executor/models/tiny.py": "class Tiny:\n    def forward(self): pass\n"
    "    def odd(self): pass\nclass Other:\n    def forward(self): pass\n",
    "vllm/platforms/cuda.py": "def f(): pass\n",
    "vllm/platforms/npu.py": "WORKER = 'vllm.worker.NPUWorker'\n",
    "vllm/worker.py": "class NPUWorker:\n    def __init__(self): pass\n    def odd(self): pass\n",
}


def graph(extra: Mapping[str, str] | None = None) -> dict[str, Facts]:
    return {p: read(p, text.encode()) for p, text in {**GRAPH, **(extra or {})}.items()}


def test_reach() -> None:
    registry = GRAPH["vllm/model_executor/models/registry.py"].encode()
    found = reach(graph(), ["vllm/platforms/npu.py"], registry)
    called = {f"{path}:{unit}" for path, unit in found.units if unit != "<module>"}
    assert called == {
        f"{LLM}:generate",
        "vllm/a.py:used",
        "vllm/a.py:helper",
        "vllm/a.py:Base.__init__",
        "vllm/a.py:Base.prepare",
        "vllm/a.py:Child.run",
        "vllm/a.py:Child.by_name",
        "vllm/pkg/other.py:hidden",
        "vllm/model_executor/models/tiny.py:Tiny.forward",
        "vllm/worker.py:NPUWorker.__init__",
    }
    assert "vllm/pkg/inner.py" in found.modules
    assert not {"vllm/b.py", "vllm/c.py", "vllm/platforms/cuda.py"} & found.modules
    assert found.why_not("vllm/a.py", "used") is None
    assert found.via("vllm/a.py", "helper")[:2] == ("vllm/a.py used", f"{LLM} generate")
    assert found.why_not("vllm/a.py", "unused") == "nothing on the NPU's path calls the function"
    assert found.why_not("vllm/b.py", "f") == "nothing on the NPU's path imports the module"
    assert found.why_not("vllm/platforms/cuda.py", "f") == "another platform"


def test_a_method_that_an_heir_overrides_is_not_called() -> None:
    extra = {
        "vllm/worker.py": "from vllm.base import Worker\n"
        "class NPUWorker(Worker):\n    def init(self): self.more()\n",
        "vllm/base.py": "class Worker:\n    def init(self): pass\n    def more(self): pass\n"
        "    def run(self): self.init()\n    def __init__(self): self.run()\n",
    }
    found = reach(graph(extra), ["vllm/platforms/npu.py"], None)
    called = {unit for path, unit in found.units if path in extra and unit != "<module>"}
    assert called == {"NPUWorker.init", "Worker.more", "Worker.run", "Worker.__init__"}


def test_what_custom_ops_call_on_other_platforms() -> None:
    extra = {
        "vllm/worker.py": "from vllm.op import Op, mixer\n"
        "class NPUWorker:\n    def __init__(self): Op().forward_cuda(); mixer()\n",
        "vllm/op.py": "from vllm.base import Base\n"
        "class Op(Base):\n    def forward_cuda(self): pass\n    def forward_oot(self): pass\n"
        "    def forward(self): self.forward_oot()\n"
        "def mixer():\n    self = layers[0]\n    self.forward_hip()\n",
        "vllm/base.py": "class Base:\n    def forward_hip(self): pass\n"
        "    def forward_xpu(self): pass\n",
    }
    found = reach(graph(extra), ["vllm/platforms/npu.py"], None)
    called = {unit for path, unit in found.units if "." in unit and path != "vllm/worker.py"}
    assert called & {"Op.forward_oot", "Op.forward", "Base.forward_hip"} == {
        *("Op.forward_oot", "Op.forward", "Base.forward_hip"),
    }
    assert not called & {"Op.forward_cuda", "Base.forward_xpu"}


@pytest.mark.parametrize(
    ("path", "there"),
    [
        ("vllm/platforms/interface.py", True),
        ("vllm/platforms/rocm.py", False),
        ("vllm/v1/worker/gpu_worker.py", True),
        ("vllm/v1/worker/xpu_worker.py", False),
        ("vllm/model_executor/layers/quantization/__init__.py", True),
        ("vllm/model_executor/layers/quantization/fp8.py", False),
        ("vllm/v1/attention/backends/ascend_attn.py", True),
        ("vllm/v1/attention/backends/flashinfer.py", False),
        ("vllm/v1/attention/backends/mla/common.py", False),
        ("vllm/compilation/cuda_graph.py", True),
        ("vllm/compilation/fusion.py", False),
        ("vllm/models/x/nvidia/ops.py", False),
    ],
)
def test_areas(path: str, there: bool) -> None:
    assert (elsewhere(path) is None) is there


def test_a_function_behind_an_operator_is_called_where_the_operator_is() -> None:
    ops = (
        "def impl(): inner()\ndef inner(): pass\ndef fake(): pass\ndef other(): pass\n"
        "direct_register_custom_op(op_name='named', op_func=impl, fake_impl=fake)\n"
        "direct_register_custom_op('quiet', other)\n"
    )
    extra = {
        "vllm/worker.py": "import vllm.ops\n"
        "class NPUWorker:\n    def __init__(self): torch.ops.vllm.named(1)\n",
        "vllm/ops.py": ops,
    }
    found = reach(graph(extra), ["vllm/platforms/npu.py"], None)
    assert {u for p, u in found.units if p == "vllm/ops.py"} == {"<module>", "impl", "inner"}
    loud = {**extra, "vllm/ops.py": ops.replace("op_name='named'", "op_name=NAME")}
    found = reach(graph(loud), ["vllm/platforms/npu.py"], None)
    assert ("vllm/ops.py", "impl") in found.units


def test_an_import_whose_failure_is_caught_is_guarded() -> None:
    for text in (
        "try:\n    import flash_attn\nexcept ImportError:\n    flash_attn = None",
        "with contextlib.suppress(ImportError):\n    import vllm._C",
    ):
        (site,) = read("vllm/x.py", text.encode()).sites
        assert site.guard is not None
        assert site.guard.endswith("fails on an NPU, and that is caught")
    (site,) = read("vllm/x.py", b"def f():\n    import flash_attn").sites
    assert site.guard is None


def test_models_of_the_table() -> None:
    text = (
        b'A = {"X": ("llama", "Llama"), "Y": ("vllm.models.y", "Y"), "Z": ("a", 1), "V": (">=1",)}'
    )
    assert list(models(text)) == [
        ("vllm.model_executor.models.llama", "Llama"),
        ("vllm.models.y", "Y"),
    ]
    assert list(models(b"(")) == []


# ---- the survey -----------------------------------------------------------------------------

NEW = {
    "vllm/__init__.py": "",
    LLM: "from vllm.a import f, g\ndef generate():\n    f(); g()\n",
    "vllm/a.py": """\
import torch

def f(x: torch.Tensor):
    if x.is_cuda:
        torch.cuda.synchronize()
    torch.cuda.synchronize()
    torch.cuda.nvtx.mark("x")

def g():
    return torch.zeros(1, device="cuda")

def h():
    return torch.zeros(1, device="cuda")
""",
}


OPS = "vllm/_custom_ops.py"
OPS_TEXT = """\
import torch

def rms_norm(out: torch.Tensor, input: torch.Tensor, weight: torch.Tensor, epsilon: float) -> None:
    torch.ops._C.rms_norm(out, input, weight, epsilon)

def other(out):
    torch.ops._C.rms_norm(out)
    torch.ops._C.unknown(out)
"""


def surveyed(files: Mapping[str, str], older: Mapping[str, str] | None = None) -> Survey:
    def tree(texts: Mapping[str, str], name: str) -> Tree:
        return Tree({path: text.encode() for path, text in texts.items()}, name)

    return survey(tree(files, "new"), RULES, older=None if older is None else tree(older, "old"))


def brief(items: tuple[Item, ...]) -> list[tuple[int, str, Grade]]:
    return [(item.line, item.source, item.grade) for item in items]


def test_survey() -> None:
    found = surveyed(NEW)
    assert found.claimed == {Kind.IS_CUDA: 1}
    assert found.by_rule == {"NPU110": 1}
    assert brief(found.items) == [
        (5, "torch.cuda.synchronize", Grade.GUARDED),
        (6, "torch.cuda.synchronize", Grade.REACHABLE),
        (7, "torch.cuda.nvtx.mark", Grade.REACHABLE),
        (10, 'device="cuda"', Grade.REACHABLE),
        (13, 'device="cuda"', Grade.UNREACHABLE),
    ]
    guarded, sync, nvtx, *_ = found.items
    assert sync.via == (f"{LLM} generate",)
    assert (sync.effort, nvtx.effort) == (Effort.TRIVIAL, Effort.SMALL)
    assert "NPU210" in sync.effort_why
    assert guarded.reason == "below `if x.is_cuda` in line 4"
    assert found.counts()[Kind.DEVICE_LITERAL] == {Grade.REACHABLE: 1, Grade.UNREACHABLE: 1}


def test_what_a_rewritten_function_keeps_from_an_npu_is_claimed_and_the_rest_is_not() -> None:
    text = OPS_TEXT.replace("-> None:", '-> None:\n    torch.cuda.nvtx.mark("rms")')
    found = surveyed({"vllm/__init__.py": "", OPS: text})
    assert found.claimed == {Kind.CUSTOM_OP: 1, Kind.TORCH_CUDA: 1}
    assert {claim.kind for claim in found.claims} == {Kind.CUSTOM_OP, Kind.TORCH_CUDA}
    assert all(claim.rules and claim.path and claim.source for claim in found.claims)
    assert found.by_rule == {"NPU102": 2}
    by_source = {item.source: item for item in found.items if item.function == "other"}
    assert by_source["torch.ops._C.rms_norm"].effort is Effort.SMALL
    assert by_source["torch.ops._C.unknown"].effort is Effort.LARGE


def test_what_an_npu_still_comes_to_in_a_rewritten_function_is_not_claimed() -> None:
    state = "vllm/distributed/parallel_state.py"
    text = """\
import torch

def init_distributed_environment(world_size: int = -1, rank: int = -1, backend: str = "nccl"):
    torch.cuda.nvtx.mark("x")
    torch.distributed.init_process_group(backend=backend, world_size=world_size, rank=rank)
"""
    found = surveyed({"vllm/__init__.py": "", state: text})
    assert found.by_rule.keys() == {"NPU130"}
    assert [item.source for item in found.items] == ["torch.cuda.nvtx.mark"]


def test_since() -> None:
    same = surveyed(NEW, NEW)
    assert same.items == ()
    assert same.known == 5
    # Lines that shift are not new, nor is a function that moved, or was renamed.
    moved = {**NEW, "vllm/b/c.py": NEW["vllm/a.py"], "vllm/a.py": "x = 1\n\n\n"}
    assert surveyed(moved, NEW).items == ()
    shifted = {**NEW, "vllm/a.py": "# a line\n" + NEW["vllm/a.py"].replace("def h", "def other")}
    assert surveyed(shifted, NEW).items == ()
    # The same source once more is, and so is a copy in another file.
    twice = NEW["vllm/a.py"].replace(
        "    torch.cuda.nvtx", "    torch.cuda.synchronize()\n    torch.cuda.nvtx"
    )
    found = surveyed({**NEW, "vllm/a.py": twice}, NEW)
    assert brief(found.items) == [(7, "torch.cuda.synchronize", Grade.REACHABLE)]
    copied = {
        **NEW,
        "vllm/d.py": "import torch\ndef h():\n    return torch.zeros(1, device='cuda')\n",
    }
    found = surveyed(copied, NEW)
    assert [(i.path, i.line) for i in found.items] == [("vllm/d.py", 3)]
    assert found.since == "old"


def test_what_waits_for_a_person_is_claimed() -> None:
    blind = {**NEW, "vllm/a.py": NEW["vllm/a.py"].replace("(x: torch.Tensor)", "(x)")}
    assert surveyed(blind).claimed == {Kind.IS_CUDA: 1}
    assert surveyed(blind, NEW).items == ()


def test_what_a_rule_lost_since_is_new() -> None:
    old = {"vllm/__init__.py": "", OPS: OPS_TEXT}
    new = {**old, OPS: OPS_TEXT.replace("def rms_norm", "def normalise")}
    assert surveyed(old).claimed == {Kind.CUSTOM_OP: 1}
    (lost,) = surveyed(new, old).items
    assert (lost.function, lost.source) == ("normalise", "torch.ops._C.rms_norm")
    assert surveyed(old, new).items == ()


def test_processes_do_not_matter() -> None:
    files = {f"vllm/m{n}.py": NEW["vllm/a.py"] for n in range(60)} | NEW
    tree = Tree({path: text.encode() for path, text in files.items()})
    older = Tree({path: text.encode() for path, text in NEW.items()})
    assert survey(tree, RULES, older=older, jobs=2) == survey(tree, RULES, older=older)


# ---- formats and the command ----------------------------------------------------------------


def write(root: Path, files: Mapping[str, str]) -> Path:
    for path, text in files.items():
        place = root / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text, encoding="utf-8")
    return root


def test_command(tmp_path: Path, run_cli: RunCli) -> None:
    new, old = write(tmp_path / "new", NEW), write(tmp_path / "old", {**NEW, "vllm/a.py": ""})
    done = run_cli("coverage", "--select", "NPU1", new)
    assert done.code == 0
    assert done.text.startswith(
        "new: 5 accelerator-specific sites that no rule claims; rules claim 1\n"
    )
    listed = [line for line in done.text.splitlines() if line.startswith("  ")]
    assert listed[0] == (
        "  6: f: torch.cuda: torch.cuda.synchronize [reachable, trivial] called from "
        f"{LLM} generate; torch.npu has synchronize; NPU210 rewrites it elsewhere"
    )
    assert len(listed) == 3
    every = run_cli("coverage", "--select", "NPU1", new, "--show", "all")
    assert len([line for line in every.text.splitlines() if line.startswith("  ")]) == 5
    assert (
        "torch.cuda                          2            1            –            –" in every.text
    )
    since = run_cli("coverage", "--select", "NPU1", new, "--since", old, "-q")
    assert since.code == 1
    assert since.err == ""
    assert "5 new accelerator-specific sites since old that no rule claims" in since.text
    assert run_cli("coverage", "--select", "NPU1", new, "--since", new).code == 0
    assert run_cli("coverage", tmp_path / "none").code == 2
    assert run_cli("coverage", "--select", "NPU1", new, "--since", "nowhere").code == 2


def test_an_adapted_tree_has_what_its_source_has(tmp_path: Path, run_cli: RunCli) -> None:
    source = copy_mini(tmp_path / "old", {"vllm/a.py": NEW["vllm/a.py"].encode()})
    adapted = tmp_path / "adapted"
    assert run_cli("apply", source, "-o", adapted, "--select", SELECT).code == 0

    def listed(tree: Path) -> list[tuple[object, ...]]:
        done = run_cli("coverage", tree, "--select", SELECT, "--format", "json")
        keys = ("kind", "path", "function", "source", "grade")
        return [tuple(site[key] for key in keys) for site in json.loads(done.out)["sites"]]

    assert listed(adapted) == listed(source)
    assert len(listed(source)) > 5
    since = run_cli("coverage", adapted, "--since", source, "--select", SELECT)
    assert since.code == 0, since.text


def test_json(tmp_path: Path, run_cli: RunCli) -> None:
    new = write(tmp_path / "new", NEW)
    data = json.loads(run_cli("coverage", "--select", "NPU1", new, "--format", "json").out)
    assert len(data["sites"]) == 5
    assert Counter(site["kind"] for site in data["sites"]) == {
        row["kind"]: row["reachable"] + row["guarded"] + row["unreachable"]
        for row in data["counts"]
        if row["reachable"] + row["guarded"] + row["unreachable"]
    }
    assert {row["kind"]: row["claimed"] for row in data["counts"]}["tensor-is-cuda"] == 1
    assert data["sites"][1] == {
        "kind": "torch-cuda",
        "path": "vllm/a.py",
        "line": 6,
        "end_line": 6,
        "function": "f",
        "source": "torch.cuda.synchronize",
        "grade": "reachable",
        "reason": f"called from {LLM} generate",
        "via": [f"{LLM} generate"],
        "effort": "trivial",
        "effort_reason": "torch.npu has synchronize; NPU210 rewrites it elsewhere",
    }


def test_sarif_and_annotations() -> None:
    found = surveyed(NEW)
    log = json.loads(render(found, "sarif", {Grade.REACHABLE}))
    (run,) = log["runs"]
    assert len(run["results"]) == 5
    assert [r["level"] for r in run["results"]] == ["note", "warning", "warning", "warning", "none"]
    for result in run["results"]:
        assert run["tool"]["driver"]["rules"][result["ruleIndex"]]["id"] == result["ruleId"]
    jsonschema.validate(log["version"], {"const": "2.1.0"})
    lines = commands(annotated(found, {Grade.REACHABLE})).splitlines()
    assert len(lines) == 3
    assert lines[0].startswith("::warning file=vllm/a.py,line=6,endLine=6,title=torch.cuda")


# ---- the numbers against a count of tokens ---------------------------------------------------


def totals(found: Survey) -> dict[str, int]:
    """Sites by kind, whether a rule claims them or not."""
    counted = Counter({IDENTIFIERS[kind]: count for kind, count in found.claimed.items()})
    counted.update(IDENTIFIERS[item.kind] for item in found.items)
    return dict(counted)


def package(tree: Tree) -> list[tuple[str, bytes]]:
    return [
        (entry.path, tree.read(entry.path) or b"")
        for entry in tree.entries()
        if entry.link is None and entry.path.startswith("vllm/") and entry.path.endswith(".py")
    ]


EVERY_KIND = f"""\
import os, torch.cuda, triton
from vllm.distributed.pynccl import (Communicator,
                                     PyNcclCommunicator)
from vllm import vllm_flash_attn as fa
import importlib

{KERNEL}
DEVICE: str = "cuda"
kv_buffer_device = 'cuda'
NOT_ONE = "torch.cuda.Event x.is_cuda device='cuda'"  # torch.cuda.Event()

def f(x, y, device: str = "cuda", *, kind="cuda", other_device=f"cuda:{{0}}"):
    '''torch.cuda.Event, nccl, .cuda()'''
    a = torch.zeros(1, 2, device="cuda:0"); b = x.to("cuda", non_blocking=True)
    c = torch.device(f"cuda:{{torch.cuda.current_device()}}")
    if x.is_cuda and y[0].is_cuda or current_platform.is_cuda() and current_platform.is_cuda:
        x.cuda().cuda(1)
    if x.device.type == "cuda" or "cuda" == self.device_type or str(d) in ("cpu", "cuda"):
        return f"{{torch.cuda.memory_allocated(device='cuda'):.2f}}"
    if x.device.type not in ["cuda", "cuda:0"] and name == "cuda":
        torch.distributed.init_process_group(backend="nccl")
    groups = {{"a": "cpu:gloo,cuda:nccl", "nccl": 1, "nccl2": 2}}
    torch.ops._C.rms_norm(x); torch.ops._moe_C.topk(x); torch.ops.vllm.f(x)
    hasattr(torch.ops._C_cache_ops, "x")
    importlib.import_module("flashinfer"); importlib.import_module("json")
    try:
        torch.autocast("cuda", dtype=x.dtype)
    except (torch.cuda.OutOfMemoryError, ValueError):
        grids[grid](x); plain[0](x); a.b.add_kernel[lambda meta: (1,)](x)
    match x:
        case torch.cuda.Event:
            pass
"""


def test_counts_of_a_module_with_everything() -> None:
    tree = Tree({**INIT, "vllm/every.py": EVERY_KIND.encode()})
    counted = surface_count.count(package(tree))
    assert counted == {
        "cuda-call": 2,
        "cuda-import": 2,
        "custom-op": 3,
        "device-literal": 9,
        "device-type": 4,
        "nccl": 4,
        "platform-branch": 1,
        "tensor-is-cuda": 2,
        "torch-cuda": 5,
        "triton-kernel": 1,
        "triton-launch": 4,
    }
    assert totals(survey(tree, RULES)) == counted


@pytest.mark.releases
def test_counts_of_a_part_of_a_real_release(release: Callable[[str], Path]) -> None:
    source = DiskTree(release("0.11.0"))
    files = {
        path: data
        for path, data in package(source)
        if path.startswith(("vllm/v1/worker/", "vllm/distributed/", "vllm/attention/"))
        or path.count("/") < 2
    }
    found = totals(survey(Tree(files), RULES))
    assert found == surface_count.count(files.items())
    assert set(found) >= {"torch-cuda", "custom-op", "nccl", "triton-kernel", "cuda-import"}


@pytest.mark.slow
@pytest.mark.releases
@pytest.mark.parametrize("version", ["0.11.0", "0.18.0", "0.33.0"])
def test_counts_of_real_releases(version: str, release: Callable[[str], Path]) -> None:
    tree = DiskTree(release(version))
    found = survey(tree, jobs=2)
    assert totals(found) == surface_count.count(package(tree))
    assert found.failures == ()
    assert {item.grade for item in found.items} == set(Grade)
    assert set(found.by_rule) <= {rule.code for rule in all_rules()}
    # What the workers of an NPU inherit is reached, and what other platforms have is not.
    assert 0.3 < found.imported / found.modules < 0.9
    for item in found.items:
        if item.path.startswith(("vllm/platforms/cuda.py", "vllm/v1/worker/xpu")):
            assert item.grade is Grade.UNREACHABLE


@pytest.mark.slow
@pytest.mark.releases
def test_what_is_new_in_a_release_takes_less_than_thirty_seconds(tmp_path: Path) -> None:
    """On two cores; measured in processor time, as the machine has other things to do."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = cli_command("coverage", "vllm==0.33.0", "--since", "vllm==0.32.0")
    done = subprocess.run([*command, "--format", "json"], cwd=tmp_path, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    assert done.returncode == 1, done.stderr
    data = json.loads(done.stdout)
    assert 0 < len(data["sites"]) < data["known"]
    # About 6 of these seconds are one process's; the rest is spread over two.
    assert 6 + (used - 6) / 2 < 30
