# SPDX-License-Identifier: Apache-2.0
"""`verify PLUGIN --simulate --with-vllm SRC`: what is put beside an untouched source."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path

import jsonschema
import pytest

from migrator.cli.schemas import schemas
from migrator.verify import simulate
from migrator.verify.simulate import environment
from migrator.verify.simulate.environment import SimulateError
from migrator.verify.simulate.process import Finished
from migrator.verify.simulate.run import opened
from migrator.verify.simulate.run import run as run_model
from tests import trees
from tests.conftest import RunCli

PIP = """\
#!/bin/sh
# Stands for `python -m pip install … --target SITE COPY`.
echo "$@" > {said}
if [ -n "{fails}" ]; then echo "first"; echo "{fails}" >&2; exit 1; fi
while [ "$1" != --target ]; do shift; done
mkdir -p "$2" && cp -r "$3"/vllm_npu_plugin "$2"/
"""


@pytest.fixture
def plugin(mini_tree: Path, run_cli: RunCli, tmp_path: Path) -> Path:
    target = tmp_path / "plugin"
    options = ("--layout", "plugin", "--select", trees.SELECT, "-o", target)
    assert run_cli("apply", mini_tree, *options).code == 0
    return target


def interpreter(tmp_path: Path, fails: str = "") -> Path:
    python = tmp_path / "python"
    python.write_text(PIP.format(said=tmp_path / "said", fails=fails))
    python.chmod(0o755)
    return python


def test_plugin_is_installed_beside_the_source(
    plugin: Path, mini_tree: Path, tmp_path: Path
) -> None:
    work = tmp_path / "work"
    options = simulate.Options(
        tree=plugin,
        vllm=mini_tree,
        launcher=simulate.Launcher((), interpreter(tmp_path)),
        models=(),
        modes=(),
        work=work,
    )
    before = sorted(path for path in plugin.rglob("*"))
    with opened(options) as (tree, folder):
        assert tree.root == mini_tree.resolve()
        (site,) = tree.beside
        assert (site / "vllm_npu_plugin" / "patching.py").is_file()
        paths = environment.variables(tree, folder)["PYTHONPATH"].split(os.pathsep)
        assert paths.index(str(site)) < paths.index(str(mini_tree.resolve()))
        (info,) = (folder / "metadata").glob("*.dist-info")
        assert info.name.startswith(f"vllm-{tree.label.release}+npu")
    said = (tmp_path / "said").read_text()
    for option in ("--no-index", "--no-deps", "--no-build-isolation", f"--target {site}"):
        assert option in said
    # Neither the plugin nor the source is written to.
    assert sorted(path for path in plugin.rglob("*")) == before


def test_runs_are_made_with_the_plugin(plugin: Path, mini_tree: Path, tmp_path: Path) -> None:
    seen: list[dict[str, str]] = []

    def runner(
        command: Sequence[str],
        variables: dict[str, str],
        folder: Path,
        log: Path,
        timeout: float,
    ) -> Finished:
        seen.append(variables)
        return Finished(1, 0.0)

    python = interpreter(tmp_path)
    options = simulate.Options(
        tree=plugin,
        vllm=mini_tree,
        launcher=simulate.Launcher((), python),
        models=simulate.select_models(["llama"]),
        modes=simulate.select_modes(["eager"]),
        work=tmp_path / "work",
        cache=tmp_path / "cache",
    )
    with opened(options) as (tree, work):
        model = tmp_path / "model"
        model.mkdir()
        reference = (
            '{"fresh": {"prompts": [], "tokens": []}, "again": {"prompts": [], "tokens": []}'
        )
        reference += ', "penalties": {"prompts": [], "tokens": []}, "penalty": {}, "new_tokens": 1'
        (model / "reference.json").write_text(reference + ', "gap": 1.0, "noise": 0.0}')
        run = run_model(tree, options.models[0], options.modes[0], model, work, options, runner)
    assert run.problems[0] == "exit code 1"
    assert str(tree.beside[0]) in seen[0]["PYTHONPATH"]


def test_what_is_no_plugin_is_refused(plugin: Path, mini_tree: Path, tmp_path: Path) -> None:
    work = tmp_path / "work"
    work.mkdir()
    python = interpreter(tmp_path, fails="no such option")
    with pytest.raises(SimulateError, match=r"pip cannot install npu of .*: no such option"):
        environment.open_plugin(plugin, mini_tree, python, work)
    with pytest.raises(SimulateError, match="no plugin for vLLM; emit one"):
        environment.open_plugin(mini_tree, mini_tree, python, work)
    with pytest.raises(SimulateError, match="no vllm package in it"):
        environment.open_plugin(plugin, tmp_path, python, work)


def test_options_that_do_not_go_together(plugin: Path, mini_tree: Path, run_cli: RunCli) -> None:
    marked = run_cli("verify", plugin, "--with-vllm", mini_tree, "--format", "github")
    assert marked.code == 2
    assert "--format github marks lines" in marked.err
    wheel = run_cli("verify", plugin, "--with-vllm", mini_tree, "--install")
    assert wheel.code == 2
    assert "--install builds a tree" in wheel.err


def test_plugin_is_compared_without_running(
    plugin: Path, mini_tree: Path, run_cli: RunCli, tmp_path: Path
) -> None:
    fits = run_cli("verify", plugin, "--with-vllm", mini_tree)
    assert (fits.code, fits.text) == (0, "")
    assert "7 patches; all fit the vLLM in " in fits.err
    place = mini_tree / "vllm" / "_custom_ops.py"
    place.write_text(place.read_text().replace("input.contiguous()", "input"))
    other = run_cli("verify", plugin, "--with-vllm", mini_tree, "--format", "json")
    assert other.code == 1
    found = json.loads(other.text)
    schema = json.loads(schemas()["plugin-fit.schema.json"])
    assert jsonschema.Draft202012Validator(schema).is_valid(found)
    assert not jsonschema.Draft202012Validator(schema).is_valid({"patches": 7})
    assert found["patches"] == 7
    (line,) = found["misfits"]
    assert line.startswith("vllm/_custom_ops.py: rms_norm is not the one")
    assert "1 do not fit" in other.err
    for plugin_or_source in ((mini_tree, mini_tree), (plugin, tmp_path)):
        done = run_cli("verify", plugin_or_source[0], "--with-vllm", plugin_or_source[1])
        assert done.code == 2
        assert "Error: " in done.err
