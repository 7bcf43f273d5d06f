# SPDX-License-Identifier: Apache-2.0
"""Costs of a step: what two models asked for, folded, shown and held to limits."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
from rich.console import Console

from migrator.verify.simulate import (
    Launcher,
    Options,
    SimulateError,
    cost,
    select_modes,
)
from migrator.verify.simulate.cost import Budget, Costs, Count, Way
from migrator.verify.simulate.process import Finished
from tests.conftest import RunCli

PLACE = "vllm/v1/worker/gpu_model_runner.py:7"


def decode(layers: int) -> list[Count]:
    return [
        Count("launch", "aten::argmax", PLACE, 1, 0),
        Count("launch", "npu::npu_swiglu", "vllm/a.py:3", layers, 0),
        Count("launch", "aten::matmul", "vllm/a.py:4", 4 * layers, 0),
        Count("replay", "a graph", "vllm/a.py:9", 1, 3 + 2 * layers),
        Count("to device", "of pinned memory", PLACE, 3, 96),
        Count("to device", "of pageable memory", PLACE, 1, 8),
        Count("to host", "of pinned memory", PLACE, 1, 32),
        Count("wait", "a copy to the device", PLACE, 1, 0),
        Count("wait", "an event", "vllm/a.py:12", 2, 0),
        Count("launch", "aten::cumsum", "vllm/a.py:13", 2, 0, "int64->int64", ai_cpu=True),
        Count("launch", "aten::erfinv", "vllm/a.py:14", 1, 0, "float32->float32", ai_cpu=None),
    ]


def costs(*ways: Way, against: Costs | None = None) -> Costs:
    return Costs(1, "tree", "0.33.0", None, {}, list(ways), against)


FOLDED = cost.folded({"decode": decode(2)}, {"decode": decode(4)})


def test_what_differs_between_the_models_is_the_layers() -> None:
    (step,) = FOLDED
    assert step.name == "decode"
    assert (step.launches, step.replayed) == (4 + 5 * 4, 3 + 2 * 4)
    assert step.layer == 5 + 2
    assert (step.to_device, step.to_device_bytes, step.to_host) == (4, 104, 1)
    assert (step.pageable, step.waits, step.ai_cpu) == (1, 3, 2)


@pytest.mark.parametrize(
    ("text", "over"),
    [
        ("decode.waits=3", []),
        ("decode.waits=2", ["eager, decode: 3 waits, at most 2"]),
        ("decode.layer=6.5", ["eager, decode: 7 layer, at most 6.5"]),
        ("decode.ai_cpu=0", ["eager, decode: 2 ai_cpu, at most 0"]),
        ("prefill.waits=0", []),
    ],
)
def test_a_budget_names_what_is_above_it(text: str, over: list[str]) -> None:
    assert cost.overrun(costs(Way("eager", FOLDED)), [Budget.parse(text)]) == over


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("decode.waits", "no budget"),
        ("waits=1", "no budget"),
        ("sleep.waits=1", "no budget"),
        ("decode.seconds=1", "no budget"),
        ("decode.waits=one", "'one' is no number"),
    ],
)
def test_what_is_no_budget_is_told(text: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        Budget.parse(text)


def test_a_budget_takes_steps_whose_names_hold_spaces() -> None:
    assert Budget.parse("top-k, top-p.to_device=9") == Budget("top-k, top-p", "to_device", 9)


def shown(found: Costs, *, places: bool = False) -> str:
    text = io.StringIO()
    cost.write(found, Console(file=text, width=120), places=places)
    return text.getvalue()


def test_a_table_says_where_the_host_waits_and_what_the_ai_cpu_computes() -> None:
    text = shown(costs(Way("eager", FOLDED)))
    assert "2 wait, an event: vllm/a.py:12 (every step)" in text
    assert "2 launch on the AI CPU, aten::cumsum of int64->int64: vllm/a.py:13" in text
    assert "npu_swiglu" not in text
    assert "erfinv" not in text
    assert "4 launch, npu::npu_swiglu: vllm/a.py:3" in shown(
        costs(Way("eager", FOLDED)), places=True
    )


def test_another_tree_stands_beside() -> None:
    other = cost.folded({"decode": decode(2)}, {"decode": [*decode(4), decode(1)[0]]})
    assert "24; 25" in shown(costs(Way("eager", FOLDED), against=costs(Way("eager", other))))


class Runner:
    """Stands for the processes of the runs; the one of a broken depth ends with an error."""

    def __init__(self, broken: int = 0) -> None:
        self.broken = broken
        self.engines: list[dict[str, object]] = []

    def __call__(
        self,
        command: Sequence[str],
        variables: Mapping[str, str],
        folder: Path,
        log: Path,
        timeout: float,
    ) -> Finished:
        job = json.loads((folder / "job.json").read_text())
        config = json.loads((Path(job["model"]) / "config.json").read_text())
        self.engines.append(job["engine"])
        log.write_text("the last line\n")
        layers = config["num_hidden_layers"]
        if layers == self.broken:
            return Finished(1, 1.0)
        Path(job["out"]).write_bytes(msgspec.json.encode({"decode": decode(layers)}))
        return Finished(0, 1.0)


@pytest.fixture
def options(runnable: Path, tmp_path: Path) -> Options:
    launcher = Launcher(("sim", "run"), Path("/env/bin/python"))
    modes = select_modes(("eager", "full-graph"))
    return Options(runnable, launcher, (), modes, work=tmp_path / "work")


def test_two_models_run_in_each_mode(options: Options) -> None:
    runner = Runner()
    found = cost.costs(options, runner=runner)
    assert found.passed
    assert [way.mode for way in found.ways] == ["eager", "full-graph"]
    assert found.ways[0].steps == FOLDED
    assert [engine["dtype"] for engine in runner.engines] == ["bfloat16"] * 4
    assert [engine.get("enforce_eager", False) for engine in runner.engines] == [True] * 2 + [
        False
    ] * 2


def test_a_run_that_breaks_says_so_and_fails(options: Options) -> None:
    found = cost.costs(options, runner=Runner(broken=4))
    assert not found.passed
    assert [way.steps for way in found.ways] == [[], []]
    text = shown(found)
    assert "eager: " in text
    assert "the last line" in text


def test_a_mode_with_several_processes_is_not_counted(options: Options) -> None:
    with pytest.raises(SimulateError, match=r"steps are counted in eager, .*, not in tp2"):
        cost.costs(replace(options, modes=select_modes(("tp2",))), runner=Runner())


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (("--cost",), "--cost goes with --simulate"),
        (("--cost", "--simulate", "--serve"), "no other kind of run"),
        (("--simulate", "--budget", "decode.waits=1"), "go with --simulate --cost"),
        (("--simulate", "--cost", "--models", "llama"), "leave --models out"),
        (("--simulate", "--cost", "--budget", "decode=1"), "no budget"),
    ],
)
def test_what_does_not_go_together_is_told(
    run_cli: RunCli, tmp_path: Path, arguments: Sequence[str], why: str
) -> None:
    result = run_cli("verify", str(tmp_path), *arguments)
    assert result.code == 2
    assert why in result.err
