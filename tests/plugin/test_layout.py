# SPDX-License-Identifier: Apache-2.0
"""`apply --layout plugin`: what it writes, and what the written package does beside a vLLM."""

from __future__ import annotations

import ast
import compileall
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest

from migrator.files.tree import DiskTree, Tree, digest, module_name
from migrator.planning.plan import Plan, make_plan
from migrator.plugin import PACKAGE, PluginError, make_plugin
from migrator.plugin import entries as read_entries
from migrator.plugin.emit import RUNTIME
from migrator.plugin.runtime.importing import misfits
from migrator.plugin.runtime.patching import Source, apply
from migrator.reports.log import read_log
from migrator.reports.releases import KNOWN
from tests import trees
from tests.conftest import RunCli
from tests.plugin import changing

RUNTIME_FOLDER = Path(__file__).parents[2] / "migrator" / "plugin" / "runtime"


@pytest.fixture
def plugin(mini_tree: Path, run_cli: RunCli, kept_results: None, tmp_path: Path) -> Path:
    """The plugin of the small tree."""
    target = tmp_path / "plugin"
    done = run_cli("apply", mini_tree, "--layout", "plugin", "--select", trees.SELECT, "-o", target)
    assert done.code == 0, done.err
    assert f"pip install {target}" in done.err
    return target


def content(root: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(root)): path.read_bytes()
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }


def test_package_is_whole(plugin: Path, mini_tree: Path) -> None:
    project = tomllib.loads((plugin / "pyproject.toml").read_text("utf-8"))["project"]
    assert project["version"] == DiskTree(mini_tree).label.release
    assert project["entry-points"] == {
        "vllm.platform_plugins": {"npu": f"{PACKAGE}:platform"},
        "vllm.general_plugins": {"npu": f"{PACKAGE}:finish"},
    }
    assert f"vllm=={project['version']}" in project["dependencies"]
    for name in RUNTIME:
        assert (plugin / PACKAGE / name).read_bytes() == (RUNTIME_FOLDER / name).read_bytes()
    for path in (plugin / PACKAGE).rglob("*.py"):
        assert (path.parent / "__init__.py").is_file()
        assert path.read_text("utf-8").startswith("# SPDX-License-Identifier: Apache-2.0\n")


def test_patches_and_modules_do_what_the_tree_does(
    plugin: Path, mini_tree: Path, run_cli: RunCli, tmp_path: Path
) -> None:
    tree = tmp_path / "tree"
    assert run_cli("apply", mini_tree, "--select", trees.SELECT, "-o", tree).code == 0
    log = read_log((tree / "migration-log.json").read_bytes())
    entries = {entry.module: entry for entry in read_entries(plugin)}
    added = [module_name(file.path) for file in log.files if file.before is None]
    for file in log.files:
        in_tree = ast.dump(ast.parse((tree / file.path).read_text("utf-8")))
        for module in added:  # the plugin's own, and imported from there
            in_tree = in_tree.replace(f"'{module}'", f"'{PACKAGE}{module.removeprefix('vllm')}'")
        if file.before is None:
            place = plugin / PACKAGE / file.path.removeprefix("vllm/")
            assert ast.dump(ast.parse(place.read_text("utf-8"))) == in_tree
            continue
        entry = entries.pop(module_name(file.path))
        source = Source.parse((mini_tree / file.path).read_bytes())
        assert ast.dump(apply(source, entry.read())) == in_tree
        assert entry.sha256 == file.before
    assert not entries


def test_log_points_into_the_patches(plugin: Path) -> None:
    log = read_log((plugin / "migration-log.json").read_bytes())
    files = content(plugin)
    assert {entry.path: entry.after for entry in log.files} == {
        path: digest(data) for path, data in files.items() if path != "migration-log.json"
    }
    changes = [change for change in log.changes if "/patches/" in change.path]
    assert changes
    for change in changes:
        lines = (
            files[change.path].decode().split("\n")[change.after.line - 1 : change.after.end_line]
        )
        assert lines
        assert lines[0].strip()
        if change.rule in ("NPU101", "NPU102", "NPU103", "NPU110"):
            assert "npu" in "\n".join(lines) or "device.type" in "\n".join(lines)


@pytest.mark.parametrize("name", RUNTIME)
def test_what_is_copied_is_python_of_the_oldest_that_vllm_runs_in(name: str) -> None:
    # vLLM takes Python 3.9 until 0.11, and this tool is for 3.11 on.
    text = (RUNTIME_FOLDER / name).read_text("utf-8")
    tree = ast.parse(text, feature_version=(3, 9))
    evaluated = [node for node in ast.walk(tree) if isinstance(node, (ast.FunctionDef, ast.Assign))]
    assert evaluated or name == "refused.py"
    assert "from __future__ import annotations" in text


def test_patches_are_linted_python(plugin: Path) -> None:
    check_linted(plugin)
    assert compileall.compile_dir(plugin, quiet=2)


def check_linted(plugin: Path) -> None:
    """The package passes the checks that its own pyproject.toml asks for."""
    ruff = Path(sys.executable).with_name("ruff")
    command = [str(ruff), "check", "--no-cache", "."]
    done = subprocess.run(command, cwd=plugin, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_written_again_it_is_the_same(
    plugin: Path, mini_tree: Path, run_cli: RunCli, tmp_path: Path
) -> None:
    def write(target: Path, *more: str) -> int:
        options = ("--layout", "plugin", "--select", trees.SELECT, "-o", target, *more)
        return run_cli("apply", mini_tree, *options).code

    other = tmp_path / "other"
    assert write(other, "--jobs", "2") == 0
    assert content(other) == content(plugin)
    # What `pip install DIR` leaves is no edit.
    (plugin / "build" / "lib").mkdir(parents=True)
    (plugin / "build" / "lib" / "x.py").write_text("")
    assert write(plugin) == 0
    assert content(other) == content(plugin)
    patch = next((plugin / PACKAGE / "patches" / "worker").glob("*ops.py"))
    patch.write_text(patch.read_text() + "\n# mine\n")
    assert write(plugin) == 2
    assert patch.read_text().endswith("# mine\n")
    assert write(plugin, "--force") == 0
    assert content(other) == content(plugin)


def test_what_cannot_be_a_plugin_is_said(mini_tree: Path, run_cli: RunCli, tmp_path: Path) -> None:
    def said(source: Path, *options: str | Path) -> str:
        done = run_cli("apply", source, "--layout", "plugin", "--select", trees.SELECT, *options)
        assert done.code == 2
        return done.err

    assert "writes new files only" in said(mini_tree, "--in-place")
    assert "writes new files only" in said(mini_tree, "--dry-run")
    assert "lie within each other" in said(mini_tree, "-o", mini_tree / "plugin")
    other = tmp_path / "other"
    other.mkdir()
    (other / "mine").write_text("")
    assert "is no plugin of this tool" in said(mini_tree, "-o", other)
    adapted = tmp_path / "adapted"
    assert run_cli("apply", mini_tree, "--select", trees.SELECT, "-o", adapted).code == 0
    assert "is adapted already" in said(adapted, "-o", tmp_path / "plugin")
    assert not (tmp_path / "plugin").exists()


def test_what_to_install_is_a_path_to_pip(
    mini_tree: Path, run_cli: RunCli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`pip install NAME` would fetch some package of that name."""
    monkeypatch.chdir(tmp_path)
    apply = ("apply", mini_tree, "--layout", "plugin", "--select", trees.SELECT, "-o")
    assert "pip install ./plugin\n" in run_cli(*apply, "plugin").err
    where = tmp_path / "my plugin"
    assert f"pip install '{where}'\n" in run_cli(*apply, where).err


def test_nothing_to_package_is_an_error() -> None:
    tree = Tree({"vllm/__init__.py": b""})
    with pytest.raises(PluginError, match="nothing to package"):
        make_plugin(make_plan(tree, []), tree)


# -- the package beside a vLLM, in processes of their own

LOADER = """\
import importlib
import importlib.metadata


def ask():
    # Drops what a plugin raises, as every release of vLLM does.
    names = []
    points = importlib.metadata.entry_points()
    group = "vllm.platform_plugins"
    for point in points.select(group=group) if hasattr(points, "select") else points[group]:
        try:
            names.append(point.load()())
        except Exception:
            pass
    (name,) = [name for name in names if name] or ["platforms.none"]
    module, _, cls = name.rpartition(".")
    return name, getattr(importlib.import_module(module), cls)
"""
TORCH = """\
class Tensor:
    pass


class nn:
    Module = object


class npu:
    is_available = staticmethod(lambda: {there})
"""


@pytest.fixture
def beside(plugin: Path, mini_tree: Path, tmp_path: Path) -> Callable[..., str]:
    """Run a program with the plugin, the small vLLM and a torch that sees an NPU or none."""
    site = tmp_path / "site"
    shutil.copytree(plugin / PACKAGE, site / PACKAGE)
    (site / PACKAGE / "platforms").mkdir(exist_ok=True)
    (site / PACKAGE / "platforms" / "__init__.py").write_text("")
    (site / PACKAGE / "platforms" / "npu.py").write_text("class NPUPlatform:\n    pass\n")
    info = site / "vllm_npu_plugin-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: vllm-npu-plugin\nVersion: 1\n")
    (info / "entry_points.txt").write_text(
        f"[vllm.platform_plugins]\nnpu = {PACKAGE}:platform\n"
        f"[vllm.general_plugins]\nnpu = {PACKAGE}:finish\n"
    )
    (site / "torch_npu.py").write_text("")
    (mini_tree / "vllm" / "loader.py").write_text(LOADER)
    # As with rule NPU214, which the small tree has no site for.
    (mini_tree / "vllm" / "envs.py").write_text("VLLM_NPU_USE_NNAL = False\n")

    def run(
        program: str, *, npu: bool = True, fails: bool = False, python: str = sys.executable
    ) -> str:
        (site / "torch.py").write_text(TORCH.format(there=npu))
        done = subprocess.run(
            [python, "-c", program],
            env={"PYTHONPATH": f"{site}:{mini_tree}", "PYTHONDONTWRITEBYTECODE": "1"},
            capture_output=True,
            text=True,
            check=False,
            timeout=600,
        )
        assert (done.returncode != 0) == fails, done.stderr
        return done.stderr if fails else done.stdout

    return run


ASK = "import json, sys, vllm.loader\nname, cls = vllm.loader.ask()\n"
RMS = "import vllm._custom_ops as ops\nprint(ops.rms_norm.__code__.co_filename)\n"


def test_patches_are_in_force_where_there_is_an_npu(beside: Callable[..., str]) -> None:
    out = beside(ASK + "print(name)\n" + RMS + f"import {PACKAGE}\n{PACKAGE}.finish()\n")
    name, file = out.splitlines()
    assert name == f"{PACKAGE}.platforms.npu.NPUPlatform"
    assert file.endswith(f"{PACKAGE}/patches/worker/_custom_ops.py")


def test_loaded_modules_are_patched_when_the_platform_is_asked_for(
    beside: Callable[..., str],
) -> None:
    early = "import vllm._custom_ops\nfrom vllm._custom_ops import rms_norm\n"
    out = beside(early + ASK + RMS + "print(ops.rms_norm is rms_norm)\n")
    file, same = out.splitlines()
    assert file.endswith(f"{PACKAGE}/patches/worker/_custom_ops.py")
    assert same == "True"


@pytest.mark.parametrize("version", ["3.9", "3.10", "3.12", "3.13", "3.14"])
def test_other_pythons_do_the_same(beside: Callable[..., str], version: str) -> None:
    """vLLM takes Python 3.9 until 0.11, this tool from 3.11 on."""
    python = shutil.which(f"python{version}")
    works = python and subprocess.run([python, "-c", ""], capture_output=True, check=False)
    if python is None or not works or works.returncode:
        pytest.skip(f"no Python {version} here")
    early = "import vllm.model_executor.layers.activation as a\n"
    out = beside(
        early + ASK + RMS + "print(a.SiluAndMul.forward_oot.__code__.co_filename)\n", python=python
    )
    assert [line.rpartition(f"{PACKAGE}/")[2] for line in out.splitlines()] == [
        "patches/worker/_custom_ops.py",
        "patches/worker/model_executor__layers__activation.py",
    ]


def test_nothing_happens_without_an_npu(beside: Callable[..., str]) -> None:
    program = (
        "import sys, vllm.loader\nbefore = list(sys.meta_path)\ntry:\n    vllm.loader.ask()\n"
        f"except ImportError:\n    print('none', sys.meta_path == before)\nimport {PACKAGE}\n"
        f"{PACKAGE}.finish()\n" + RMS
    )
    none, file = beside(program, npu=False).splitlines()
    assert none == "none True"
    assert file.endswith("vllm/_custom_ops.py")
    assert PACKAGE not in file


def test_changed_function_is_refused_by_name(beside: Callable[..., str], mini_tree: Path) -> None:
    place = mini_tree / "vllm" / "_custom_ops.py"
    text = place.read_text()
    place.write_text(text.replace("    # Rows have to be contiguous.\n", "    pass\n"))
    said = beside(ASK, fails=True)
    assert said.rstrip().endswith("-o DIR && pip install DIR")
    assert "vllm/_custom_ops.py: rms_norm is not the one that the patch was made from" in said
    assert "NPU102: expected sha256 " in said
    assert said.count("is not the one") == 1
    # It goes on refusing, and the general plugin does too.
    again = (
        f"import vllm.loader, {PACKAGE}\ntry:\n    vllm.loader.ask()\nexcept RuntimeError:\n    "
    )
    for then in ("vllm.loader.ask()", f"{PACKAGE}.finish()"):
        assert "rms_norm is not the one" in beside(again + then, fails=True)
    # A change of something else in the file is none of the plugin's business.
    place.write_text(text.replace("logits.div_(penalties)", "logits.div_(penalties)") + "\nX = 1\n")
    assert beside(ASK + "import vllm._custom_ops as o\nprint(o.X)\n") == "1\n"


def test_tree_that_is_adapted_in_place_is_refused(
    beside: Callable[..., str], mini_tree: Path
) -> None:
    (mini_tree / "vllm" / "platforms" / "npu.py").write_text("")
    assert "has an NPU platform of its own" in beside(ASK, fails=True)


def test_fault_of_the_plugin_itself_is_not_dropped(
    beside: Callable[..., str], tmp_path: Path
) -> None:
    (tmp_path / "site" / PACKAGE / "patches" / "__init__.py").write_text("MADE_FROM = 'vLLM'\n")
    assert "ImportError: cannot import name 'PATCHES'" in beside(ASK, fails=True)


# -- real releases


def check_release(source: Path, plan: Plan, folder: Path, every: int = 1) -> None:
    """A plugin fits its source, and a line more in a function that it replaces does not."""
    tree = DiskTree(source)
    files = make_plugin(plan, tree)
    plugin = changing.write(files, folder / "plugin")
    assert compileall.compile_dir(plugin, quiet=2)
    package = source / "vllm"
    entries = read_entries(plugin)
    assert misfits(entries, package) == []
    targets = list(changing.targets(entries, package))
    assert len(targets) > 25
    for target in targets[::every]:
        data = changing.with_a_line(target.entry.installed(package).read_bytes(), target.original)
        other = changing.copy_package(package, folder / "vllm", target.entry, data)
        (said,) = misfits([target.entry], other)
        assert said.startswith(f"{target.path}: {target.name} is not the one")


@pytest.mark.releases
def test_plugin_of_a_release(
    release: Callable[[str], Path], release_plan: Callable[[str], Plan], tmp_path: Path
) -> None:
    check_release(release("0.11.0"), release_plan("0.11.0"), tmp_path, every=6)


@pytest.mark.slow
@pytest.mark.releases
@pytest.mark.parametrize("version", KNOWN)
def test_plugin_of_every_release(
    version: str, release: Callable[[str], Path], tmp_path: Path
) -> None:
    source = release(version)
    tree = DiskTree(source)
    plan = make_plan(tree)
    check_release(source, plan, tmp_path)
    check_linted(tmp_path / "plugin")
    assert [f.after for f in make_plugin(plan, tree)] == [f.after for f in make_plugin(plan, tree)]
