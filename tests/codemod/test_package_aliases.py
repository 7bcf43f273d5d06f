# SPDX-License-Identifier: Apache-2.0
"""Other names of `torch.cuda`: what NPU210 makes of them, and that the coverage lists them."""

from __future__ import annotations

import pytest

from migrator.codemod.engine import migrate_file
from migrator.codemod.rule import Status
from migrator.coverage.surface import Kind, read
from migrator.files.tree import Tree
from migrator.rules import all_rules

PATH = "vllm/v1/worker/gpu_model_runner.py"

REWRITTEN = {
    "import torch\ndef f(): torch.cuda.synchronize()": "def f(): device_module().synchronize()",
    "import torch.cuda\ndef f(): torch.cuda.Event()": "def f(): device_module().Event()",
    "import torch.cuda as tc\ndef f(): tc.Event()": "def f(): device_module().Event()",
    "import torch as th\ndef f(): th.cuda.Event()": "def f(): device_module().Event()",
    "from torch import cuda\ndef f(): cuda.Event()": "def f(): device_module().Event()",
    "from torch import cuda as c\ndef f(): c.Event()": "def f(): device_module().Event()",
    "from torch.cuda import Event\ndef f(): Event()": "def f(): device_module().Event()",
    "from torch.cuda import Event as E\ndef f(): E()": "def f(): device_module().Event()",
    "from torch.cuda import CUDAGraph\ndef f(): CUDAGraph()": "def f(): device_graph()",
    "def f():\n    import torch.cuda as tc\n    tc.Event()": "    device_module().Event()",
    "import torch\ncuda = torch.cuda\ndef f(): cuda.Event()": "def f(): device_module().Event()",
    "import torch\ndef f():\n    c = torch.cuda\n    c.Event()": "    device_module().Event()",
    "import torch\ncuda = getattr(torch, 'cuda')\ndef f(): cuda.Event()": (
        "def f(): device_module().Event()"
    ),
    "import importlib\nc = importlib.import_module('torch.cuda')\ndef f(): c.Event()": (
        "def f(): device_module().Event()"
    ),
    "try:\n    import torch\nexcept ImportError:\n    torch = None\ndef f(): torch.cuda.Event()": (
        "def f(): device_module().Event()"
    ),
    "import torch\ndef f(): return [torch.cuda.Event() for _ in g()]": (
        "def f(): return [device_module().Event() for _ in g()]"
    ),
    "import torch\ndef f(): return f'{torch.cuda.current_stream()}'": (
        "def f(): return f'{device_module().current_stream()}'"
    ),
}

DOUBTFUL = [
    "import torch\nif a: cuda = torch.cuda\nelse: cuda = g()\ndef f(): cuda.Event()",
    "try: from torch.cuda import Event\nexcept ImportError: from x import Event\ndef f(): Event()",
    "import torch\ndef f(): getattr(torch, 'cuda').Event()",
    "import torch\ndef f(): getattr(torch.cuda, 'Event')()",
    "import importlib\ndef f(): importlib.import_module('torch.cuda').Event()",
    "import sys\ndef f(): sys.modules['torch.cuda'].Event()",
    "def f(): __import__('torch.cuda').cuda.Event()",
]

LEFT = [
    "from x import cuda\ndef f(): cuda.Event()",
    "import x as torch\ndef f(): torch.cuda.Event()",
    "from torch import cuda\ndef f(cuda): cuda.Event()",
    "from torch import cuda\ndef f(): return [cuda.Event() for cuda in g()]",
    "from torch import cuda\ndef f():\n    cuda = g()\n    cuda.Event()",
    "from torch import cuda\ndef f(): return lambda cuda: cuda.Event()",
    "from torch.cuda import Event\ndef f(x: Event) -> Event: g(Event=1)",
    "from torch.cuda import Event\ndef f(): x.Event()",
    "import torch\ndef f(): torch.cuda.memory.MemPool()",
    "import threading\nfrom threading import Event\ndef f(): Event()",
]


def run(source: str) -> tuple[str, list[Status]]:
    rules = [r for r in all_rules() if r.code in ("NPU200", "NPU210")]
    # An import for the import of `device_module` to go beside.
    data = f"import os\n{source}\n".encode()
    result = migrate_file(PATH, data, rules, Tree({}))
    assert result.failure is None
    after = (result.after or data).decode()
    return after, [r.status for r in result.records if r.rule == "NPU210"]


@pytest.mark.parametrize("source", REWRITTEN)
def test_rewritten(source: str) -> None:
    after, statuses = run(source)
    assert Status.CHANGED in statuses
    assert REWRITTEN[source] in after.splitlines()
    assert "from vllm.accelerator import" in after


@pytest.mark.parametrize("source", DOUBTFUL)
def test_left_for_a_person(source: str) -> None:
    after, statuses = run(source)
    assert after == f"import os\n{source}\n"
    assert set(statuses) == {Status.MANUAL}


@pytest.mark.parametrize("source", LEFT)
def test_left_as_it_is(source: str) -> None:
    after, statuses = run(source)
    assert after == f"import os\n{source}\n"
    assert statuses == []


@pytest.mark.parametrize("source", [*REWRITTEN, *DOUBTFUL])
def test_coverage_lists_them(source: str) -> None:
    if "sys.modules" in source:
        pytest.skip("the coverage reads no table of modules")
    facts = read(PATH, f"{source}\n".encode())
    assert Kind.TORCH_CUDA in {site.kind for site in facts.sites}


@pytest.mark.parametrize("source", LEFT[:1] + LEFT[-1:])
def test_coverage_lists_nothing_else(source: str) -> None:
    facts = read(PATH, f"{source}\n".encode())
    assert Kind.TORCH_CUDA not in {site.kind for site in facts.sites}
