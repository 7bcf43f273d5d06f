# SPDX-License-Identifier: Apache-2.0
"""Whole runs over a small emitted tree: clean it gives nothing, broken it gives file and line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner

from migrator.cli.verify import command
from migrator.verify.report import Report
from tests.verify.conftest import FIXTURES, write_log

Check = Callable[..., Report]
Edit = Callable[[str, str, str], int]

OPS = "vllm/_custom_ops.py"
WORKER = "vllm/worker/npu_worker.py"
NPU = "vllm/platforms/npu.py"
INTERFACE = "vllm/platforms/interface.py"
PLATFORMS = "vllm/platforms/__init__.py"

RMS_NORM = "npu_rms_norm(Tensor input, Tensor gamma, float epsilon=1e-06) -> (Tensor, Tensor)"
SWIGLU = "npu_swiglu(Tensor input, int dim=-1) -> Tensor"


def test_a_clean_tree_gives_nothing(check: Check) -> None:
    report = check()
    assert report.findings == []
    assert report.files == 5
    # is_available, set_device, mem_get_info, rms_norm, and in the worker synchronize, swiglu,
    # write_cache, swiglu.default, current_stream.
    assert report.calls == 9
    assert report.notes == []


BROKEN = [
    pytest.param(
        OPS, "weight, epsilon)\n        out", "weight, epsilom=epsilon)\n        out",
        "V202", "has no argument `epsilom`; did you mean `epsilon`?", RMS_NORM,
        id="misspelt keyword",
    ),
    pytest.param(
        OPS, "weight, epsilon)\n        out", "weight, epsilon, 1)\n        out",
        "V202", "takes at most 3 positional arguments, 4 given", RMS_NORM,
        id="an argument too many",
    ),
    pytest.param(
        OPS, "torch_npu.npu_rms_norm(input", "torch_npu.npu_rms_nrom(input",
        "V201", "no such name; nearest: `npu_rms_norm`", RMS_NORM,
        id="operator that does not exist",
    ),
    pytest.param(
        WORKER, "torch.ops.npu.npu_swiglu.default", "torch.ops.npu.npu_swigly.default",
        "V201", "no such operator; nearest: `npu_swiglu`", SWIGLU,
        id="operator that torch.ops.npu does not have",
    ),
    pytest.param(
        WORKER, "npu_swiglu.default", "npu_swiglu.out",
        "V201", "no such operator; nearest: `default`", SWIGLU,
        id="overload that does not exist",
    ),
    pytest.param(
        OPS, "out.copy_(result)", "out.copy_(reslut)",
        "V101", "undefined name `reslut`; did you mean `result`?", None,
        id="undefined name",
    ),
    pytest.param(
        WORKER, "torch_npu import npu_swiglu", "torch_npu import npu_swiglo",
        "V201", "`torch_npu.npu_swiglo`", SWIGLU, id="import of an absent operator",
    ),
    pytest.param(
        WORKER, "npu_swiglu(gate, dim=-1)", "npu_swiglu(gate, dim='last')",
        "V202", "argument `dim` is a str but the type is `int`", SWIGLU, id="literal type",
    ),
    pytest.param(
        WORKER, "torch.ops.npu.npu_swiglu.default(gate)",
        "torch.ops.npu.npu_gelu(gate, approximate='erf')",
        "V202", "argument `approximate` is 'erf' but the device takes 'none' or 'tanh'",
        "npu_gelu(Tensor input, *, str approximate='none') -> Tensor\ntorch_npu.npu_gelu",
        id="literal that the device does not take",
    ),
    pytest.param(
        WORKER, "(hidden, cache, slot_indices=slots)", "(hidden, slot_indices=slots)",
        "V202", "required argument `cache` is missing",
        "_npu_write_cache(Tensor key, Tensor(a!) cache, Tensor slot_indices) -> ()",
        id="missing argument",
    ),
    pytest.param(
        WORKER, "(hidden, cache, slot_indices=slots)", "(hidden, cache, slots, key=hidden)",
        "V202", "argument `key` is given twice",
        "_npu_write_cache(Tensor key, Tensor(a!) cache, Tensor slot_indices) -> ()",
        id="argument given twice",
    ),
    pytest.param(
        NPU, "torch.npu.set_device(device)", "torch.npu.set_device(device, 1)",
        "V202", "takes at most 1 positional argument, 2 given", "set_device(device)",
        id="Python function of torch.npu",
    ),
    pytest.param(
        NPU, "torch.npu.mem_get_info", "torch.npu.memory_get_info",
        "V201", "torch_npu 9.1.0 has no such name; nearest: `mem_get_info`",
        "mem_get_info(device=None)", id="name that torch.npu does not have",
    ),
    pytest.param(
        WORKER, "npu.current_stream()", "npu.current_streams()",
        "V201", "`torch.npu.current_streams`", "current_stream(device=None)", id="through an alias",
    ),
    pytest.param(
        WORKER, "import Snapshot, Worker", "import Snapshots as Snapshot, Worker",
        "V102", "`vllm.worker` has no `Snapshots`; did you mean `Snapshot`?", None,
        id="import through a star import",
    ),
    pytest.param(
        WORKER, "from vllm.worker import", "from vllm.workers import",
        "V102", "the tree has no module `vllm.workers`", None, id="module that does not exist",
    ),
    pytest.param(
        WORKER, "self.backend = PlatformEnum.NPU", "self.backend = PlatformEnum.NPUS",
        "V103", "has no attribute `NPUS`; did you mean `NPU`?", None, id="member of an enum",
    ),
    pytest.param(
        INTERFACE, "def is_npu(", "def is_ascend(",
        "V103", "no platform of the tree has an attribute `is_npu`", None,
        id="method that the platform lost",
    ),
    pytest.param(
        WORKER, "current_platform.synchronize()", "current_platform.synchronise()",
        "V103", "`synchronise`", None, id="name that the platform would pass on to torch.npu",
    ),
    pytest.param(
        WORKER, "self.streams, self", "self.steams, self",
        "V104", "`NPUWorker` has no attribute `steams`; did you mean `streams`?", None,
        id="attribute of self",
    ),
    pytest.param(
        WORKER, "super().__init__(config, rank, is_driver=rank == 0)", "super().setup(config)",
        "V104", "the bases of `NPUWorker` have no attribute `setup`", None,
        id="attribute of super()",
    ),
    pytest.param(
        WORKER, "is_driver=rank == 0", "driver=rank == 0",
        "V105", "has no argument `driver`; did you mean `is_driver`?",
        "__init__(config, rank: int, *, is_driver: bool=False)", id="signature of super().__init__",
    ),
    pytest.param(
        WORKER, "Snapshot(free=1)", "Snapshot(total=1)",
        "V105", "required argument `free` is missing", "Snapshot(free, total=…)",
        id="fields of a dataclass",
    ),
    pytest.param(
        WORKER, 'self.load("weights", strict=False)', 'self.load("weights", False, 1)',
        "V105", "takes at most 2 positional arguments, 3 given",
        "load(path: str, strict: bool=True)",
        id="method of a base class",
    ),
    pytest.param(
        WORKER, "def step(self, gate, cache, slots):\n",
        "def step(self, gate, cache, slots, other: Worker):\n        other.load('weights', 1, 2)\n",
        "V105", "takes at most 2 positional arguments, 3 given",
        "load(path: str, strict: bool=True)",
        id="method of an annotated parameter",
    ),
    pytest.param(
        NPU, "npu_worker.NPUWorker", "npu_worker.AscendWorker",
        "V107", "`vllm.worker.npu_worker` has no `AscendWorker`", None,
        id="class named in a string",
    ),
    pytest.param(
        OPS, "try:\n    import torch_npu\nexcept ImportError:\n    torch_npu = None",
        "import torch_npu", "V401", "imports torch_npu on import, without a guard", None,
        id="unguarded import",
    ),
    pytest.param(
        PLATFORMS, 'PLUGINS = {"npu": npu_plugin}',
        'from .npu import NPUPlatform\nPLUGINS = {"npu": npu_plugin}',
        "V401", "imports `vllm.platforms.npu` on import, which needs torch_npu", None,
        id="import of a module that needs torch_npu",
    ),
    pytest.param(
        OPS, "    torch_npu = None\n", "    torch_npu = None\n\nNORM = torch_npu.npu_rms_norm\n",
        "V401", "uses `torch_npu.npu_rms_norm` on import", None, id="use on import",
    ),
    pytest.param(
        PLATFORMS, 'PLUGINS = {"npu": npu_plugin}', "PLUGINS = {'npu': later}\nlater = None",
        "V101", "`later` is used on import, before it is bound", None, id="used before it is bound",
    ),
    pytest.param(
        OPS, "        out.copy_(result)\n", "        out.copy_(result\n",
        "V301", "does not compile: '(' was never closed", None, id="syntax error",
    ),
    pytest.param(
        OPS, "        out.copy_(result)\n", "        assert (out, 'a tuple is always true')\n",
        "V302", "SyntaxWarning: assertion is always true", None, id="warning",
    ),
    pytest.param(
        OPS, "        out.copy_(result)\n",
        "        match out:\n            case None:\n                pass\n",
        "V303", "`match` needs Python 3.10; the release runs on 3.9 too", None,
        id="syntax that is too new",
    ),
    pytest.param(
        NPU, "def set_device(cls, device)", "def set_device(cls, device: int | str)",
        "V303", "`X | Y` as a type needs Python 3.10", None, id="annotation that is too new",
    ),
    pytest.param(
        INTERFACE, "import enum\n", "import enum\nfrom typing import TYPE_CHECKING\n\n"
        "if TYPE_CHECKING:\n    from .npu import NPUPlatform\n\nKIND = NPUPlatform\n",
        "V106", "`NPUPlatform` is bound under `if TYPE_CHECKING:` only", None,
        id="name for type checkers only",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("path", "old", "new", "code", "message", "expected"), BROKEN)
def test_a_break_is_found_at_its_line(
    tree: Path, check: Check, edit: Edit, path: str, old: str, new: str, code: str, message: str,
    expected: str | None,
) -> None:  # fmt: skip
    edit(path, old, new)
    report = check()
    found = [f for f in report.findings if f.code == code and message in f.message]
    assert len(found) == 1, report.findings
    (finding,) = found
    broken = WORKER if "is_ascend" in new else path
    source = (FIXTURES / "after" / broken).read_text(encoding="utf-8").splitlines()
    assert finding.path == broken
    assert finding.expected == expected
    # The line is one that the break touched, or uses what it took away.
    if broken == path:
        now = (tree / path).read_text(encoding="utf-8").splitlines()
        assert now[finding.line - 1] not in source
    else:
        assert "current_platform.is_npu()" in source[finding.line - 1]


def test_lines_that_the_migration_did_not_write_are_left_alone(tree: Path, check: Check) -> None:
    # `input` is undefined in a line that both trees have: vLLM's own business.
    shared = "vllm/layers/norm.py"
    text = (FIXTURES / "before" / shared).read_text(encoding="utf-8")
    (tree / shared).write_text(text + "\n\ndef npu():\n    return 1\n", encoding="utf-8")
    assert check().findings == []
    (tree / shared).write_text(text + "\n\ndef npu():\n    return weight\n", encoding="utf-8")
    (finding,) = check().findings
    assert (finding.code, finding.line) == ("V101", text.count("\n") + 4)


def test_an_edited_file_is_checked_whole(tree: Path, check: Check, wheel: Path) -> None:
    check()
    path = tree / OPS
    path.write_text(path.read_text(encoding="utf-8") + "\nundefined_here\n", encoding="utf-8")
    from migrator.verify.run import Options, verify

    report = verify(Options(tree, wheel_file=wheel, cache=tree.parent / "cache"))
    assert [f.code for f in report.findings] == ["V101"]
    assert [(n.path, n.message) for n in report.notes] == [
        (OPS, "edited since the migration: all its lines are checked")
    ]
    exact = verify(
        Options(tree, wheel_file=wheel, cache=tree.parent / "cache", base=FIXTURES / "before")
    )
    assert [f.code for f in exact.findings] == ["V101"]
    assert exact.notes == []


def test_a_file_that_is_gone_is_a_finding(tree: Path, check: Check, wheel: Path) -> None:
    check()
    (tree / NPU).unlink()
    from migrator.verify.run import Options, verify

    report = verify(Options(tree, wheel_file=wheel, cache=tree.parent / "cache"))
    assert ("V001", NPU) in [(f.code, f.path) for f in report.findings]


def test_guards_are_honoured(check: Check, edit: Edit) -> None:
    edit(
        OPS,
        "        out.copy_(result)\n",
        "        if hasattr(torch_npu, 'npu_newer'):\n"
        "            torch_npu.npu_newer(input)\n"
        "        try:\n"
        "            torch_npu.npu_newest(input)\n"
        "        except AttributeError:\n"
        "            pass\n"
        "        try:\n"
        "            maybe_defined\n"
        "        except NameError:\n"
        "            pass\n",
    )
    report = check()
    assert report.findings == []
    assert len([n for n in report.notes if "its use is guarded" in n.message]) == 2


def test_what_has_no_signature_is_said(check: Check, edit: Edit) -> None:
    edit(
        NPU,
        "        return free, total\n",
        "        torch.npu.Graph(1, 2, 3)\n"
        "        torch.npu.FloatStorage(1)\n"
        "        torch_npu._npu_only_named(1)\n"
        "        torch_npu._C.anything(1)\n"
        "        return free, total\n",
    )
    report = check()
    assert report.findings == []
    assert [n.message for n in report.notes] == [
        "`torch.npu.Graph` exists; the wheel gives no signature of it",
        "`torch.npu.FloatStorage` exists; the wheel gives no signature of it",
        "`torch_npu._npu_only_named` exists; the wheel gives no signature of it",
        "`torch_npu._C.anything`: the wheel's Python code does not tell",
    ]


def test_overloads_and_python_operators_bind(check: Check, edit: Edit) -> None:
    edit(
        NPU,
        "        return free, total\n",
        "        torch_npu.npu_sort(free, dim=1, out=total)\n"
        "        torch_npu.npu_sort.out(free, out=total)\n"
        "        torch_npu.print_tensor(free, label='x')\n"
        "        torch_npu.atb.npu_ring(free, 2, mask=None)\n"
        "        torch_npu.npu_pad(free, [1, 2], 3, dtype=torch.float16)\n"
        "        torch_npu.erase(free, keep=True)\n"
        "        torch_npu.npu_pad(*free, **total)\n"
        "        return torch_npu.int4, torch_npu.Format, torch.npu.lazy_part\n",
    )
    assert check().findings == []


def run_cli(*arguments: str | Path) -> tuple[int, str, str]:
    result = CliRunner().invoke(command, [str(a) for a in arguments])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.stdout, result.stderr


@pytest.fixture
def broken(tree: Path, edit: Edit) -> Path:
    edit(OPS, "torch_npu.npu_rms_norm(input", "torch_npu.npu_rms_norm(inputs")
    write_log(FIXTURES / "before", tree)
    return tree


def test_text_names_place_and_schema(broken: Path, wheel: Path, monkeypatch: pytest.MonkeyPatch,
                                     tmp_path: Path) -> None:  # fmt: skip
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    code, out, err = run_cli(broken, "--torch-npu-wheel", wheel)
    assert code == 1
    assert out.splitlines() == [
        f"{OPS}:12:44: V101 undefined name `inputs`; did you mean `input`?",
    ]
    assert "1 finding in 5 changed files and 9 calls of torch_npu against torch_npu 9.1.0" in err


def test_json_and_github(broken: Path, wheel: Path, monkeypatch: pytest.MonkeyPatch,
                         tmp_path: Path) -> None:  # fmt: skip
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    code, out, _ = run_cli(broken, "--torch-npu-wheel", wheel, "--format", "json")
    report = json.loads(out)
    assert code == 1
    assert report["schema_version"] == 1
    assert report["release"] == "0.0.1"
    assert report["torch_npu"]["version"] == "9.1.0"
    assert [(f["path"], f["line"], f["code"]) for f in report["findings"]] == [(OPS, 12, "V101")]
    code, out, _ = run_cli(broken, "--torch-npu-wheel", wheel, "--format", "github", "-q")
    assert code == 1
    assert out.startswith(f"::error file={OPS},line=12,col=44,title=V101::undefined name `inputs`")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "nowhere: no such directory"),
        (["."], "no vllm/ in it; give the root of an emitted tree"),
        (["tree"], "no migration-log.json; verify what `apply` wrote"),
        (["tree", "--torch-npu", "x"], "no migration-log.json"),
        (["tree", "--all", "--torch-npu", "x"], "--torch-npu x: Invalid version"),
        (["tree", "--all", "--torch-npu", "1", "--torch-npu-wheel", "w"], "exclude each other"),
        (["tree", "--all", "--torch-npu-wheel", "w"], "not a torch_npu wheel"),
        (["tree", "--all", "--launcher", "nice"], "name it with --env or --python"),
        (["tree", "--all", "--env", "tree"], "no bin/python in it"),
    ],
)
def test_errors_are_one_line_and_exit_2(
    tree: Path, arguments: list[str], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tree.parent)
    Path("w").write_text("not a zip file", encoding="utf-8")
    code, out, err = run_cli(*arguments)
    assert (code, out) == (2, "")
    assert message in err
    assert err.count("\n") == 1


def test_without_a_log_all_files_that_say_npu_are_checked(tree: Path, wheel: Path) -> None:
    code, out, err = run_cli(tree, "--all", "--torch-npu-wheel", wheel)
    assert (code, out) == (0, "")
    assert "no findings in 5 changed files" in err


# -- imports by running: the interpreter of the tests, with a stand-in for torch


@pytest.fixture
def interpreter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """This interpreter, with a torch and a torch_npu that have what the tree uses on import."""
    site = tmp_path / "site"
    (site / "torch_npu").mkdir(parents=True)
    (site / "torch.py").write_text(
        "class Tensor: pass\nclass nn:\n    class Module: pass\n", encoding="utf-8"
    )
    (site / "torch_npu" / "__init__.py").write_text(
        "def npu_swiglu(x, dim=-1): return x\n", encoding="utf-8"
    )
    monkeypatch.setenv("PYTHONPATH", str(site))
    return Path(sys.executable)


def verify_running(
    tree: Path, wheel: Path, interpreter: Path, *more: str | Path
) -> tuple[int, str, str]:
    write_log(FIXTURES / "before", tree)
    return run_cli(tree, "--torch-npu-wheel", wheel, "--python", interpreter, "-v", *more)


def test_a_clean_tree_imports_both_ways(tree: Path, wheel: Path, interpreter: Path) -> None:
    code, out, err = verify_running(tree, wheel, interpreter)
    assert (code, out) == (0, ""), err
    assert "not checked" not in err


def test_an_import_that_breaks_without_torch_npu(
    tree: Path, wheel: Path, interpreter: Path, edit: Edit
) -> None:
    edit(OPS, "    torch_npu = None\n", "    raise\n")
    code, out, _ = verify_running(tree, wheel, interpreter)
    assert code == 1
    assert out.startswith(f"{OPS}:5:1: V402 import without torch_npu: ModuleNotFoundError")


def test_an_import_that_breaks_with_torch_npu(
    tree: Path, wheel: Path, interpreter: Path, edit: Edit
) -> None:
    edit(NPU, "class NPUPlatform", "torch.npu_is_not_there\n\n\nclass NPUPlatform")
    code, out, _ = verify_running(tree, wheel, interpreter)
    assert code == 1
    assert f"{NPU}:8:1: V403 import with torch_npu: AttributeError" in out


def test_a_crash_is_told_and_the_other_modules_are_still_imported(
    tree: Path, wheel: Path, interpreter: Path, edit: Edit
) -> None:
    edit(OPS, "import torch\n\ntry", "import os\n\nimport torch\n\nos.abort()\ntry")
    code, out, err = verify_running(tree, wheel, interpreter, "--base", FIXTURES / "before")
    assert code == 1
    assert f"{OPS}:1:1: V402 import without torch_npu: the process died of SIGABRT" in out
    assert f"{OPS}:1:1: V403 import with torch_npu: the process died of SIGABRT" in out
    assert out.count("V40") == 2, (out, err)


def test_what_the_environment_lacks_is_a_note(
    tree: Path, wheel: Path, interpreter: Path, edit: Edit
) -> None:
    edit(NPU, "class NPUPlatform", "import no_such_package\n\n\nclass NPUPlatform")
    code, out, err = verify_running(tree, wheel, interpreter)
    assert (code, out) == (0, "")
    assert (
        f"{NPU}:8: not checked: import with torch_npu not checkable here: "
        "ModuleNotFoundError: No module named 'no_such_package'" in err
    )


def test_what_failed_before_the_migration_is_a_note(
    tree: Path, wheel: Path, interpreter: Path, tmp_path: Path
) -> None:
    before = tmp_path / "before"
    subprocess.run(["cp", "-r", FIXTURES / "before", before], check=True)
    for root in (tree, before):
        path = root / INTERFACE
        path.write_text(
            path.read_text(encoding="utf-8").replace(
                "import torch\n", "import torch\n\ntorch.gone\n"
            )
        )
    write_log(before, tree)
    _, out, err = run_cli(
        tree, "--torch-npu-wheel", wheel, "--python", interpreter, "-v", "--base", before
    )
    assert "the tree before the migration fails alike" in err
    assert not any(line.startswith(INTERFACE) for line in out.splitlines())


def test_an_environment_without_torch_checks_nothing(
    tree: Path, wheel: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PYTHONPATH", raising=False)
    write_log(FIXTURES / "before", tree)
    code, out, err = run_cli(
        tree, "--torch-npu-wheel", wheel, "--python", Path(sys.base_prefix) / "bin" / "python3",
        "--launcher", "env -u PYTHONPATH", "-v",
    )  # fmt: skip
    assert (code, out) == (0, "")
    assert "imports not checked: no torch in" in err
    assert os.environ.get("PYTHONPATH") is None
