# SPDX-License-Identifier: Apache-2.0
"""A tree on a device: what is run with which variables, what is refused, what the report says."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from migrator.files.tree import Label
from migrator.verify import on_device, simulate
from migrator.verify.on_device import DeviceError, run
from migrator.verify.on_device.report import (
    Compared,
    DeviceReport,
    Machine,
    Speed,
    Tokens,
    as_json,
    as_markdown,
)
from migrator.verify.simulate import environment
from migrator.verify.simulate.process import Finished
from tests.cli.test_schemas import assert_described
from tests.conftest import RunCli

MACHINE = {
    "torch": "2.8.0",
    "torch_npu": "2.8.0.post2",
    "cann": "8.3.RC1",
    "chip": "Ascend910B4",
    "devices": 1,
    "nnal": True,
    "simulated": False,
}
OFF = {
    "operator": "npu::npu_swiglu",
    "case": "bfloat16",
    "verdict": "differs",
    "why": "",
    "norm": 0.01,
    "largest": 0.25,
    "at": "result 0[1, 7]",
    "off": 0.4,
}


class Runner:
    """Stands for the processes: each program writes what is given here by its name."""

    def __init__(self, **written: Any) -> None:
        self.written: dict[str, Any] = {
            "machine": MACHINE,
            "compare_operators": [{**OFF, "verdict": "equal"}],
            "speed": {"tokens": 4096, "seconds": 2.0},
            "engine": {"finished": True, "phases": {}},
            **written,
        }
        self.variables: dict[str, Mapping[str, str]] = {}
        self.commands: list[Sequence[str]] = []

    def __call__(
        self,
        command: Sequence[str],
        variables: Mapping[str, str],
        folder: Path,
        log: Path,
        timeout: float,
    ) -> Finished:
        program = Path(command[1]).stem
        self.variables[program] = variables
        self.commands.append(command)
        log.write_text("the last line\n")
        written = self.written[program]
        if isinstance(written, int):
            return Finished(written, 1.0)
        Path(json.loads(Path(command[2]).read_text())["out"]).write_text(json.dumps(written))
        return Finished(0, 1.0)


@pytest.fixture
def options(runnable: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> simulate.Options:
    model = tmp_path / "model"
    model.mkdir()
    (model / "reference.json").write_text("{}")
    monkeypatch.setattr(run, "reference", lambda *_: model)
    monkeypatch.setattr(run, "engine_job", lambda *a: {"out": str(a[3])})
    monkeypatch.setattr(run, "score_answers", lambda *_: None)
    launcher = simulate.Launcher((), Path("/env/bin/python"))
    models = simulate.select_models(("llama",))
    modes = simulate.select_modes(("bfloat16", "bfloat16-full-graph"))
    return simulate.Options(
        runnable, launcher, models, modes, work=tmp_path / "work", cache=tmp_path / "cache"
    )


def test_each_part_runs_once_without_the_simulator(options: simulate.Options) -> None:
    runner = Runner()
    found = on_device.on_device(options, runner=runner)
    names = [Path(command[1]).stem for command in runner.commands]
    assert names == ["machine", "compare_operators", "engine", "engine", "speed", "speed"]
    assert {command[0] for command in runner.commands} == {"/env/bin/python"}
    assert found.machine == Machine(**MACHINE)  # type: ignore[arg-type]
    assert [one.per_second for one in found.speed] == [2048.0, 2048.0]
    assert [one.mode for one in found.tokens] == ["bfloat16", "bfloat16-full-graph"]
    assert "the answers were not compared" in found.tokens[0].problems


def test_variables_say_where_cann_is_and_ask_nothing_of_a_simulator(tmp_path: Path) -> None:
    caller = {
        "ASCEND_HOME_PATH": "/cann",
        "ATB_HOME_PATH": "/nnal",
        "ASCEND_RT_VISIBLE_DEVICES": "3",
        "LD_LIBRARY_PATH": "/cann/lib64",
        "PYTHONPATH": "/cann/python",
        "VLLM_PLUGINS": "other",
        "CUDA_VISIBLE_DEVICES": "",
    }
    tree = environment.EmittedTree(tmp_path, Label("9.8.7", None))
    found = run.variables(tree, tmp_path, caller)
    kept = ("ASCEND_HOME_PATH", "ATB_HOME_PATH", "ASCEND_RT_VISIBLE_DEVICES", "LD_LIBRARY_PATH")
    assert {name: found[name] for name in kept} == {name: caller[name] for name in kept}
    assert found["PYTHONPATH"].split(":")[0] == "/cann/python"
    assert str(tmp_path) in found["PYTHONPATH"].split(":")
    assert not [name for name in found if name.startswith("ASCEND_SIM")]
    assert "VLLM_NPU_ALLOW_FLOAT32" not in found
    assert not {"VLLM_PLUGINS", "CUDA_VISIBLE_DEVICES", "NPU_MIGRATE_RECORD"} & found.keys()


def test_a_machine_without_an_npu_ends_it_in_one_line(options: simulate.Options) -> None:
    runner = Runner(machine={"error": "no NPU is visible"})
    with pytest.raises(DeviceError, match="no NPU is visible"):
        on_device.on_device(options, runner=runner)
    assert len(runner.commands) == 1
    with pytest.raises(DeviceError, match=r"cannot be asked: the last line"):
        on_device.on_device(options, runner=Runner(machine=1))


def test_a_mode_with_more_devices_than_there_are_is_left_out(options: simulate.Options) -> None:
    modes = simulate.select_modes(("bfloat16",))
    two = replace(modes[0], name="two", devices=2)
    found = on_device.on_device(replace(options, modes=[two]), runner=Runner())
    assert found.tokens == [Tokens("llama", "two", [], "it needs 2 NPUs, 1 visible")]
    assert found.speed == []


def test_what_ends_a_program_is_said_with_what_came_before(options: simulate.Options) -> None:
    found = on_device.on_device(options, runner=Runner(compare_operators=-11, speed=1, engine=1))
    assert found.problems == ["operators: died of signal 11 before the first: the last line"]
    assert found.speed[0].problem == "exit code 1: the last line"
    assert found.tokens[0].problems == ["exit code 1", "the last line"]
    assert not found.passed


def report(*operators: Mapping[str, Any]) -> DeviceReport:
    return DeviceReport(
        1,
        "9.8.7",
        None,
        Machine(**MACHINE),  # type: ignore[arg-type]
        [Compared(**one) for one in operators],
        [Tokens("llama", "bfloat16", [])],
        [Speed("bfloat16", 32, 128, 128, 1234.56)],
        [],
    )


def test_an_operator_that_differs_comes_first_and_fails() -> None:
    right = {**OFF, "operator": "npu::npu_rms_norm", "verdict": "close", "norm": 0.001}
    found = report(right, OFF)
    assert not found.passed
    assert report(right).passed
    text = as_markdown(found)
    lines = text.splitlines()
    first = next(i for i, line in enumerate(lines) if line.startswith("| `npu::"))
    wanted = (
        "| `npu::npu_swiglu` | bfloat16 | **differs** | 1.00% | 0.25, result 0[1, 7] | 40.00% |"
    )
    assert lines[first] == wanted
    assert "| bfloat16 | 32 | 128 | 128 | 1234.6 |" in text
    assert "| chip | Ascend910B4, 1 of them |" in text
    assert "simulator" not in text
    found.machine.simulated = True
    assert "The simulator was in the device's place" in as_markdown(found)


@pytest.mark.parametrize("verdict", ["differs", "refused"])
def test_what_is_wrong_fails(verdict: str) -> None:
    assert not report({**OFF, "verdict": verdict}).passed


@pytest.mark.parametrize("verdict", ["equal", "close", "absent"])
def test_what_is_right_passes(verdict: str) -> None:
    assert report({**OFF, "verdict": verdict}).passed


def test_nothing_compared_is_no_proof() -> None:
    assert not report().passed


def test_the_report_is_as_its_schema_says() -> None:
    assert_described("on-device", as_json(report(OFF)).encode())


@pytest.mark.parametrize("mode", ["eager", "no-nnal", "v2-no-triton", "connector-files"])
def test_modes_that_no_device_has_are_refused(mode: str) -> None:
    with pytest.raises(ValueError, match=f"{mode} .*take bfloat16, bfloat16-full-graph"):
        on_device.choose(simulate.select_modes((mode,)))


def test_modes_of_a_plan_by_default_can_be_run() -> None:
    on_device.choose(simulate.select_modes(on_device.DEFAULT_MODES))


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (("--on-device",), "--on-device needs --env"),
        (("--on-device", "--simulate"), "a kind of run of its own"),
        (("--report", "a.json"), "--report goes with --on-device"),
        (("--on-device", "--python", "PYTHON", "--modes", "eager"), "eager runs in float32"),
        (("--on-device", "--python", "PYTHON", "--models", "none"), "none"),
        (("--on-device", "--python", "PYTHON", "--format", "github"), "take text or json"),
        (("--on-device", "--python", "PYTHON", "--report", "no/a.json"), "no is no folder"),
        (("--on-device", "--python", "PYTHON", "--all"), "run nothing; leave them out"),
    ],
)
def test_what_does_not_go_together_is_told(
    run_cli: RunCli, tmp_path: Path, arguments: Sequence[str], why: str
) -> None:
    python = tmp_path / "python"
    python.touch()
    given = [str(python) if argument == "PYTHON" else argument for argument in arguments]
    result = run_cli("verify", str(tmp_path), *given)
    assert result.code == 2
    assert why in result.err
