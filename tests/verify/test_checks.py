# SPDX-License-Identifier: Apache-2.0
"""Single checks on small sources: what is found, and what looks alike and is right."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from migrator.messages.github import commands
from migrator.verify import compiles, imports, run
from migrator.verify.api import NpuApi
from migrator.verify.names import NameChecker
from migrator.verify.report import CODES, Finding, annotated, as_text
from migrator.verify.tree import Tree, open_tree
from migrator.verify.wheel import read_contents


def make_tree(root: Path, files: dict[str, str]) -> Tree:
    """A tree of which the migration wrote every file."""
    for name, text in {"vllm/__init__.py": "", **files}.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text, encoding="utf-8")
    entries = ",".join(
        f'{{"path": "{name}", "status": "added", "after": null}}' for name in sorted(files)
    )
    (root / "migration-log.json").write_text(f'{{"files": [{entries}]}}', encoding="utf-8")
    return open_tree(root)


def names(root: Path, source: str, **others: str) -> list[tuple[str, int]]:
    files = {f"vllm/{name}.py": text for name, text in others.items()}
    tree = make_tree(root, {**files, "vllm/mod.py": source})
    checker = NameChecker(tree)
    for file in tree.changed:
        checker.check(file)
    return [(f.code, f.line) for f in checker.findings if f.path == "vllm/mod.py"]


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("def f(c):\n if c:\n  import os\n os.sep", [("V101", 4)]),
        ("def f(c):\n if c:\n  import os\n else:\n  os.sep", [("V101", 5)]),
        ("def f(c):\n if c:\n  import os\n  os.sep", []),
        ("def f(c):\n if c:\n  import os\n if c:\n  os.sep", []),
        ("def f(c):\n if c:\n  import os\n else:\n  return\n os.sep", []),
        ("def f(c):\n if c:\n  import os\n else:\n  import ntpath as os\n os.sep", []),
        ("def f(c):\n try:\n  import os\n except ImportError:\n  raise\n os.sep", []),
        ("if f:\n import os\n@os.x\ndef g(): pass\nf = 1", [("V101", 1), ("V101", 3)]),
        ("class A:\n def m(self): return self.n\nclass B(A):\n n = 1", []),
        ("class A:\n def m(self): return self.n", [("V104", 2)]),
        ("class A:\n def m(self): return self.n\ndef f(a): a.n = 1", []),
        ("class A:\n def m(self): return self.n\ndef f(a): setattr(a, 'n', 1)", []),
        ("class A:\n @staticmethod\n def m(self): return self.n", []),
        ("class A:\n def m(self):\n  self = other()\n  return self.n\ndef other(): pass", []),
        ("class A:\n @classmethod\n def m(cls): return cls.__name__, cls.n", [("V104", 3)]),
        ("import torch\nclass A(torch.nn.Module):\n def m(self): return self.n", []),
        ("class A:\n def a(self, x): pass\n def b(self): self.a()", [("V105", 3)]),
        ("class A:\n def a(self, x): pass\n @classmethod\n def b(cls, o): cls.a(o, 1)", []),
        ("class A:\n def a(self, x): pass\n def b(self): self.a = print\n", []),
        (
            "class A:\n def __init__(self): self.a = print\n def a(self, x): pass\n"
            " def b(self): self.a()",
            [],
        ),
        ("def f(a): pass\ndef f(a, b): pass\nf(1, 2)", []),
        ("from x import odd\n@odd\ndef f(a): pass\nf(1, 2)", []),
        ("def f(a, *, b): pass\nf(*x, **y)\nx = y = 1", [("V101", 2), ("V101", 2)]),
        ("x = 1\nfrom vllm.other import *\ngiven\nnot_given", [("V101", 4)]),
        ("from vllm.other import given, not_given", [("V102", 1)]),
        ("try:\n from vllm.other import not_given\nexcept ImportError: pass", []),
        ("from vllm import other\nother.given\nother.not_given", [("V103", 3)]),
        ("from vllm import other\ntry:\n other.not_given\nexcept AttributeError: pass", []),
        ("from vllm import other\nif hasattr(other, 'maybe'): other.maybe", []),
        ("import vllm.other\nvllm.other.given\nvllm.other.not_given", [("V103", 3)]),
        ("from vllm._C import anything\nimport vllm._moe_C\n", []),
        ("'vllm.other.Given'\nx = 'vllm.other.Gone'\ny = 'vllm.entry_points'", [("V107", 2)]),
    ],
)
def test_names(tmp_path: Path, source: str, found: list[tuple[str, int]]) -> None:
    assert names(tmp_path, source, other="given = 1\n") == found


def needs(root: Path, source: str, path: str = "vllm/mod.py") -> list[int]:
    return [f.line for f in imports.check_source(make_tree(root, {path: source}))]


GUARD = "try:\n import torch_npu\nexcept ImportError:\n torch_npu = None\n"


@pytest.mark.parametrize(
    ("source", "lines"),
    [
        ("import torch_npu", [1]),
        ("from torch_npu import npu_swiglu", [1]),
        ("import torch\nfrom torch import npu", [2]),
        (GUARD, []),
        ("try:\n import torch_npu\nexcept ValueError: pass", [2]),
        ("try:\n import torch_npu\nfinally: pass", [2]),
        ("import contextlib\nwith contextlib.suppress(ImportError):\n import torch_npu", []),
        ("def f():\n import torch_npu", []),
        ("class A:\n import torch_npu", [2]),
        ("class A:\n def f(self):\n  import torch_npu", []),
        ("TYPE_CHECKING = 0\nif TYPE_CHECKING:\n import torch_npu", []),
        ("if __name__ == '__main__':\n import torch_npu", []),
        ("import torch\nif hasattr(torch, 'npu'):\n x = torch.npu.Event", []),
        ("import torch\nx = torch.npu.Event if hasattr(torch, 'npu') else None", []),
        ("import torch\nx = torch.npu.Event", [2]),
        ("import torch\nx = lambda: torch.npu.Event", []),
        ("import torch\ndef f(x=torch.npu.Event): pass", [2]),
        ("import torch\n@torch.npu.graph\ndef f(): pass", [2]),
        ("import torch\nclass A(torch.npu.Stream): pass", [2]),
        ("import torch\nclass A:\n x = torch.npu.Event", [3]),
        ("import torch\nx: torch.npu.Event = None", []),
        (GUARD + "if torch_npu is not None:\n x = torch_npu.npu_swiglu", []),
        (GUARD + "x = torch_npu.npu_swiglu", [5]),
        (GUARD + "has_npu = torch_npu is not None", []),
    ],
)
def test_what_needs_torch_npu_on_import(tmp_path: Path, source: str, lines: list[int]) -> None:
    assert needs(tmp_path, source) == lines


@pytest.mark.parametrize(
    "path",
    [
        "vllm/platforms/npu.py",
        "vllm/v1/npu_worker.py",
        "vllm/ascend/ops.py",
        "vllm/b/ascend_attn.py",
    ],
)
def test_files_for_npu_only_may_need_it(tmp_path: Path, path: str) -> None:
    assert imports.npu_only(path)
    assert needs(tmp_path, "import torch_npu", path) == []


@pytest.mark.parametrize("path", ["vllm/_custom_ops.py", "vllm/input.py", "vllm/inputs/npus.py"])
def test_other_files_may_not(path: str) -> None:
    assert not imports.npu_only(path)


@pytest.mark.parametrize(
    ("text", "oldest"),
    [
        ('[project]\nrequires-python = ">=3.9,<3.14"', (3, 9)),
        ('[project]\nrequires-python = ">3.9.5"', (3, 9)),
        ('[project]\nrequires-python = "<3.14,>=3.11"', (3, 11)),
        ('[project]\nname = "x"', None),
        ("[", None),
    ],
)
def test_the_oldest_python(tmp_path: Path, text: str, oldest: tuple[int, int] | None) -> None:
    tree = make_tree(tmp_path, {})
    (tmp_path / "pyproject.toml").write_text(text, encoding="utf-8")
    assert compiles.oldest_python(tree) == oldest


@pytest.mark.parametrize(
    ("source", "newer"),
    [
        ("def f(x: int | None): pass", 1),
        ("def f() -> int | None: pass", 1),
        ("x: list[int | None] = []", 1),
        ("class A:\n x: int | None = None", 1),
        ("def f():\n x: int | None = None", 0),  # never evaluated
        ("from __future__ import annotations\ndef f(x: int | None): pass", 0),
        ("def f(x: 'int | None'): pass", 0),
        ("match 1:\n case 1: pass", 1),
        ("try: pass\nexcept* ValueError: pass", 1),
    ],
)
def test_newer_syntax(source: str, newer: int) -> None:
    assert len(list(compiles._newer_syntax(ast.parse(source)))) == newer


def test_the_calls_of_files_that_were_not_changed_are_bound_too(
    tmp_path: Path, wheel: Path
) -> None:
    tree = make_tree(tmp_path, {"vllm/mod.py": "x = 1\n"})
    (tmp_path / "vllm/upstream.py").write_text(
        "def f(x):\n    import torch_npu as t\n    return t.npu_swiglu(x, axis=1)\n",
        encoding="utf-8",
    )
    api = NpuApi.open(wheel, read_contents(wheel, None))
    checker = run.check_calls(tree, api)
    assert [(f.path, f.line, f.code) for f in checker.findings] == [("vllm/upstream.py", 3, "V202")]


def test_reports_escape_what_a_format_needs() -> None:
    finding = Finding("a,b:c.py", 1, 2, "V202", "100% \n wrong", "f(x)\nf(y)")
    assert commands(annotated([finding])) == (
        "::error file=a%2Cb%3Ac.py,line=1,col=2,title=V202::"
        "100%25 %0A wrong%0Aexpected: f(x)%0Af(y)\n"
    )
    assert as_text([finding]).splitlines()[-2:] == ["    expected: f(x)", "    expected: f(y)"]


def test_every_code_that_is_reported_is_listed() -> None:
    package = Path(run.__file__).parent
    used = {
        node.value
        for path in package.glob("*.py")
        if path.name != "report.py"
        for node in ast.walk(ast.parse(path.read_bytes()))
        if isinstance(node, ast.Constant)
        and isinstance(node.value, str)
        and node.value[:1] == "V"
        and node.value[1:].isdigit()
    }
    assert used == set(CODES)
