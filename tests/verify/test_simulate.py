# SPDX-License-Identifier: Apache-2.0
"""`verify --simulate` and `--serve`: what is run, how it is judged, what is left behind.

A runner that writes what a good run would write stands for vLLM, so that each test can spoil one
thing. The end-to-end test, marked simulator and slow, runs the real ones.
"""

from __future__ import annotations

import copy
import importlib.util
import io
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import click
import pytest

from migrator.verify import simulate
from migrator.verify.simulate import (
    connectors,
    environment,
    judge,
    models,
    modes,
    process,
    refusal_cases,
    refusing,
    server,
)
from migrator.verify.simulate.judge import Calls
from migrator.verify.simulate.models import MODELS, ROLES
from migrator.verify.simulate.modes import MODES
from migrator.verify.simulate.run import Variant, variant_of
from tests.conftest import RunCli

NEW = models.NEW_TOKENS


def answers(count: int, first: int) -> list[list[int]]:
    return [[first + i * NEW + j for j in range(NEW)] for i in range(count)]


def made_reference() -> dict[str, Any]:
    fresh = [[10 + n] * prompt.own for n, prompt in enumerate(models.FRESH)]
    again = [fresh[p.of][: p.shared] + [9] * p.own for p in models.AGAIN]
    return {
        "gap": 0.05,
        "noise": 0.0001,
        "new_tokens": NEW,
        "fresh": {
            "prompts": fresh,
            "tokens": answers(len(fresh), 1000),
            "prompt_logprobs": [[-1.0] * (len(prompt) - 1) for prompt in fresh],
        },
        "again": {"prompts": again, "tokens": answers(len(again), 2000)},
        "penalty": models.PENALTY,
        "penalties": {"prompts": [[5, 6]], "tokens": answers(1, 3000)},
        "adapters": [
            {
                "name": name,
                "prompts": [[n, 1], [n, 2], [n, 3]],
                "tokens": answers(3, first),
                "prompt_logprobs": [[-2.0]] * 3,
            }
            for n, (name, first) in enumerate((("first", 4000), ("second", 5000)), start=20)
        ],
        "chats": [
            {"messages": m, "prompt": [1] * 7, "tokens": [2] * NEW, "text": f"answer {n}"}
            for n, m in enumerate(models.CHATS)
        ],
    }


def good_phases(reference: dict[str, Any]) -> dict[str, Any]:
    """Phases of one second each, as the engine program writes them."""
    fresh = reference["fresh"]["tokens"]
    drawn = [[token + 7 for token in one] for one in fresh]
    tokens = {
        "fresh": fresh,
        "again": reference["again"]["tokens"],
        "penalties": reference["penalties"]["tokens"],
        "top_k 1": fresh,
        "top_p 0": fresh,
        "seeded": drawn,
        "seeded again": drawn,
        "another seed": [[token + 8 for token in one] for one in fresh],
        "drawn": drawn,
    }
    phases = {}
    for start, (name, values) in enumerate(tokens.items()):
        logprobs = [[{str(token): [-1.5, 2], "0": [-0.3, 1]} for token in one] for one in values]
        phases[name] = {
            "start": float(start),
            "end": start + 0.9,
            "tokens": values,
            "cached": [256 if name == "again" else 0 for _ in values],
            "logprobs": logprobs if name in {"seeded", "seeded again", "drawn"} else [None] * 6,
        }
    return phases


def good_lines() -> list[dict[str, Any]]:
    """What the recorder of one worker writes."""
    lines: list[dict[str, Any]] = [
        {"at": 0.1, "op": name} for names in ROLES.values() for name in names[:1]
    ]
    lines += [
        {"at": 5.2, "op": "npu_top_k_top_p"},
        {"at": 0.2, "op": "_npu_flash_attention", "q": [5, 17], "kv": [5, 17]},
        {"at": 0.3, "op": "npu_fused_infer_attention_score", "q": [1, 140], "kv": [6, 142]},
        {"at": 0.4, "op": "_npu_paged_attention", "q": [1, 1], "kv": [7, 143]},
        {"at": 1.2, "op": "npu_fused_infer_attention_score", "q": [44], "kv": [300]},
        # Profiling, outside of all phases.
        {"at": -5.0, "op": "_npu_paged_attention", "q": [1], "kv": [500]},
    ]
    return lines


class FakeRunner:
    """Writes what the programs would write; `spoil` may change it, `code` is the exit code."""

    def __init__(self) -> None:
        self.commands: list[list[str]] = []
        self.variables: list[dict[str, str]] = []
        self.jobs: list[dict[str, Any]] = []
        self.record: dict[str, Any] = {
            "finished": True,
            "described": {
                "device": "npu",
                "devices": ["cuda", "npu"],
                "reported": "NPU 0: Ascend910B1",
                "variables": "ASCEND_HOME_PATH=/x",
            },
        }
        self.lines = good_lines()
        self.workers = 1
        self.finished = process.Finished(0, 12.3)
        self.reference = made_reference()
        self.phases = good_phases(self.reference)
        self.log = ""
        self.misses, self.score_code = 0, 0

    def __call__(
        self,
        command: Sequence[str],
        variables: dict[str, str],
        folder: Path,
        log: Path,
        timeout: float,
    ) -> process.Finished:
        self.commands.append(list(command))
        self.variables.append(variables)
        job = json.loads(Path(command[-1]).read_text(encoding="utf-8"))
        self.jobs.append(job)
        log.write_text(self.log, encoding="utf-8")
        if command[-2].endswith("reference.py"):
            Path(job["out"], "reference.json").write_text(json.dumps(self.reference))
            return process.Finished(0, 1.0)
        if command[-2].endswith("draft.py"):
            Path(job["out"], "config.json").write_text("{}")
            return process.Finished(0, 1.0)
        if command[-2].endswith("score.py"):
            found = {"misses": [self.misses for _ in job["sequences"]], "own": 0.05}
            Path(job["out"]).write_text(json.dumps(found))
            return process.Finished(self.score_code, 1.0)
        record = {"phases": self.phases, **self.record}
        Path(job["out"]).write_text(json.dumps(record), encoding="utf-8")
        for worker in range(self.workers):
            text = "".join(json.dumps(line) + "\n" for line in self.lines)
            Path(variables["NPU_MIGRATE_RECORD"], f"{worker}.jsonl").write_text(text)
        return self.finished


@pytest.fixture
def emitted(tmp_path: Path) -> Path:
    """The least that is an emitted tree."""
    tree = tmp_path / "emitted"
    (tree / "vllm").mkdir(parents=True)
    (tree / "vllm" / "__init__.py").touch()
    (tree / "requirements").mkdir()
    (tree / "requirements" / "common.txt").write_text(
        "-r other.txt\nmsgspec  # fast\nnot_a_distribution_of_anybody >= 2\n"
        'only_elsewhere; sys_platform == "plan9"\n'
    )
    log = {"files": [], "release": "9.8.7"}
    (tree / "migration-log.json").write_text(json.dumps(log), encoding="utf-8")
    return tree


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pretend that the environment has what is needed."""
    versions = environment.Versions(dict.fromkeys(environment.NEEDED, "1.0"), ("scipy",))
    monkeypatch.setattr(environment, "check", lambda *_, **__: versions)


Simulate = Callable[..., simulate.Report]


@pytest.fixture
def run(emitted: Path, installed: None, tmp_path: Path) -> Simulate:
    def call(runner: FakeRunner, *names: str, model: str = "llama", **more: Any) -> simulate.Report:
        options = simulate.Options(
            tree=emitted,
            launcher=simulate.Launcher(("sim", "run"), Path("/env/bin/python")),
            models=simulate.select_models(model.split(",")),
            modes=simulate.select_modes(names or ("eager",)),
            work=tmp_path / "work",
            cache=tmp_path / "cache",
            **more,
        )
        return simulate.simulate(options, runner=runner)

    return call


# -- names


def test_names_of_models_and_modes() -> None:
    assert [m.name for m in simulate.select_models(("moe", "llama", "mixtral"))] == [
        "mixtral",
        "qwen3-moe",
        "llama",
    ]
    with pytest.raises(ValueError, match=r"no model is called 'gpt'; there are llama, "):
        simulate.select_models(("gpt",))
    with pytest.raises(ValueError, match=r"no mode is called 'fast'; there are eager, "):
        simulate.select_modes(("eager", "fast"))


@pytest.mark.parametrize("model", MODELS.values(), ids=list(MODELS))
def test_sizes_reach_every_path(model: models.Model) -> None:
    settings = model.settings
    if model.common:
        heads, kv_heads = settings["num_attention_heads"], settings["num_key_value_heads"]
        assert heads > kv_heads >= 2  # grouped queries, also in each half of TP=2
        assert settings["head_dim"] in {64, 128, 192}
        if model.name == "qwen2":
            assert settings["hidden_size"] == heads * settings["head_dim"]
    elif "kv_lora_rank" in settings:
        # The only sizes that the device's attention takes with a rotated part apart.
        names = ("kv_lora_rank", "qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim")
        assert [settings[name] for name in names] == [512, 128, 64, 128]
        assert settings["num_attention_heads"] % 2 == 0
    else:
        assert settings["n_embd"] // settings["n_head"] in {64, 128, 192}
    longest = max(prompt.own + prompt.shared for prompt in (*models.FRESH, *models.AGAIN))
    assert longest + NEW <= models.MAX_MODEL_LENGTH
    assert max(prompt.own for prompt in models.FRESH) > models.BATCHED_TOKENS
    assert models.BATCHED_TOKENS % 128
    assert any(prompt.shared >= 256 for prompt in models.AGAIN)
    assert any(prompt.own < 128 < prompt.own + NEW for prompt in models.FRESH)


# -- judging


def test_a_good_run_passes(run: Simulate) -> None:
    runner = FakeRunner()
    report = run(runner)
    (outcome,) = report.runs
    assert report.passed
    assert outcome.problems == []
    assert outcome.equal
    assert (report.release, report.missing) == ("9.8.7", ["scipy"])
    paths = outcome.paths
    assert (paths.prefill, paths.decode, paths.chunked, paths.cached) == (1, 1, 1, 1)
    assert (outcome.gap, outcome.noise, outcome.seconds) == (0.05, 0.0001, 12.3)
    assert outcome.operators["npu_swiglu"] == 1


def spoil_token(r: FakeRunner) -> None:
    r.phases["again"]["tokens"][1][3] += 1


def spoil_length(r: FakeRunner) -> None:
    r.phases["fresh"]["tokens"][0].pop()


def spoil_penalties(r: FakeRunner) -> None:
    r.phases["penalties"]["tokens"] = answers(1, 0)


def spoil_top_k(r: FakeRunner) -> None:
    r.phases["top_k 1"]["tokens"] = [[0] * NEW for _ in models.FRESH]


def spoil_seed(r: FakeRunner) -> None:
    r.phases["seeded again"]["tokens"][2][0] = 0


def dead_seed(r: FakeRunner) -> None:
    r.phases["another seed"]["tokens"] = r.phases["seeded"]["tokens"]


def spoil_rank(r: FakeRunner) -> None:
    token = r.phases["drawn"]["tokens"][0][4]
    r.phases["drawn"]["logprobs"][0][4][str(token)][1] = 6


def spoil_logprobs(r: FakeRunner) -> None:
    r.phases["seeded"]["logprobs"][0] = None


def positive_logprob(r: FakeRunner) -> None:
    token = r.phases["drawn"]["tokens"][0][4]
    r.phases["drawn"]["logprobs"][0][4][str(token)][0] = 0.5


def no_phase(r: FakeRunner) -> None:
    del r.phases["again"]


def without(*names: str) -> Callable[[FakeRunner], None]:
    def spoil(r: FakeRunner) -> None:
        r.lines = [line for line in r.lines if line["op"] not in names]

    return spoil


def whole_prompts(r: FakeRunner) -> None:
    for line in r.lines:
        if line.get("q") == [1, 140]:
            line["kv"] = [6, 140]


def nothing_cached(r: FakeRunner) -> None:
    r.phases["again"]["cached"] = [0] * len(models.AGAIN)


def no_decode(r: FakeRunner) -> None:
    r.lines = [line for line in r.lines if line.get("q") != [1, 1]]


def unexpected_graph(r: FakeRunner) -> None:
    r.lines.append({"at": 0.5, "op": "graph capture_begin"})


def leftover(r: FakeRunner) -> None:
    r.finished = process.Finished(0, 1.0, ("VLLM::EngineCore",))


def unfinished(r: FakeRunner) -> None:
    r.record = {}


def lost_memory(r: FakeRunner) -> None:
    r.record["memory_after"] = [{"free": 90, "total": 100}]


def bad_exit(r: FakeRunner) -> None:
    r.finished = process.Finished(1, 1.0)


def wrong_kernel(r: FakeRunner) -> None:
    r.record["kernels"] = {"rms_norm": 0.5, "fused_add_rms_norm": 1e-7}


def unknown_name(r: FakeRunner) -> None:
    r.record["described"]["devices"] = ["cuda", "cpu"]


def gpu_runner(r: FakeRunner) -> None:
    r.record["runners"] = ["GPUModelRunner"]


def refused_name(r: FakeRunner) -> None:
    r.record["described"]["device"] = "ValidationError: 1 error\nInput should be"


def silent_report(r: FakeRunner) -> None:
    r.record["described"].update(reported="None", variables="TORCH_X=1")


def wrong_backend(r: FakeRunner) -> None:
    r.record["backend"] = "gloo"


def wrong_guard(r: FakeRunner) -> None:
    r.record["transferred"] = "AttributeError: no apply_repetition_penalties_"


def wrong_penalties(r: FakeRunner) -> None:
    r.record["transferred"] = 0.25


def deaf_stream(r: FakeRunner) -> None:
    r.record["follows_streams"] = False


def other_runner(r: FakeRunner) -> None:
    r.record["takes_v2_runner"] = True


def no_structure(r: FakeRunner) -> None:
    r.record.update(tokenizer=True, structured=["yes", "maybe"])


def structure_missed(r: FakeRunner) -> None:
    r.record.update(tokenizer=True)


@pytest.mark.parametrize(
    ("spoil", "problem"),
    [
        (no_structure, "structured outputs are ['yes', 'maybe'], not yes or no"),
        (structure_missed, "structured outputs are None, not yes or no"),
        (spoil_token, "again, prompt 1: token 3 is 2028, the reference has 2027"),
        (spoil_length, "fresh, prompt 0: 23 tokens, the reference has 24"),
        (spoil_penalties, "penalties, prompt 0: token 0 is 0, the reference has 3000"),
        (spoil_top_k, "top_k 1, prompt 0: token 0 is 0, the reference has 1000"),
        (no_phase, "the run did not come to its part 'again'"),
        (spoil_seed, "sampling with the same seed does not reproduce"),
        (dead_seed, "sampling with another seed gives the same tokens"),
        (spoil_rank, "top_k 5 let through a token of rank 6"),
        (spoil_logprobs, "seeded: no log probability for each token"),
        (positive_logprob, "drawn: a log probability is 0.5"),
        (without("npu_swiglu"), "no NPU operator for swiglu was called (npu_swiglu)"),
        (without("npu_top_k_top_p"), "npu_top_k_top_p was not called"),
        (without("npu_add_rms_norm"), "no NPU operator for residual norm was called"),
        (without("_npu_reshape_and_cache"), "no NPU operator for cache write was called"),
        (whole_prompts, "no attention call was chunked"),
        (nothing_cached, "no attention call was cached"),
        (no_decode, "no attention call was decode"),
        (unexpected_graph, "graphs were captured in eager mode"),
        (leftover, "left a process behind: VLLM::EngineCore"),
        (unfinished, "the run ended before it was done"),
        (lost_memory, "device 0: 10 bytes are not given back after the end"),
        (bad_exit, "exit code 1"),
        (wrong_kernel, "_custom_ops.rms_norm on NPU tensors: 0.5"),
        (unknown_name, "npu is not among the configuration's devices: cuda, cpu"),
        (gpu_runner, "the model runner is ['GPUModelRunner'], not NPUModelRunner"),
        (refused_name, "DeviceConfig(device='npu') gives ValidationError: 1 error"),
        (silent_report, "vllm collect-env reports no NPU"),
        (wrong_backend, "process groups have the backend gloo by default, not hccl"),
        (wrong_guard, "_custom_ops.apply_repetition_penalties under transfer_to_npu: Attribute"),
        (wrong_penalties, "_custom_ops.apply_repetition_penalties under transfer_to_npu: 0.25"),
        (deaf_stream, "vLLM's current_stream() does not follow torch.npu.stream()"),
        (other_runner, "the model runner V2 is taken unasked"),
    ],
)
def test_what_is_wrong_is_said(
    run: Simulate, spoil: Callable[[FakeRunner], None], problem: str
) -> None:
    runner = FakeRunner()
    # Without sharing between phases.
    runner.phases = json.loads(json.dumps(runner.phases))
    spoil(runner)
    report = run(runner)
    assert not report.passed
    assert any(text.startswith(problem) for text in report.runs[0].problems)


def test_operators_that_only_a_probe_calls_do_not_count(run: Simulate) -> None:
    runner = FakeRunner()
    without("npu_rms_norm")(runner)
    runner.lines.append({"at": 99.0, "op": "npu_rms_norm"})
    assert run(runner).runs[0].problems == ["no NPU operator for norm was called (npu_rms_norm)"]


def test_tokens_alone_decide_what_is_equal(run: Simulate) -> None:
    runner = FakeRunner()
    runner.lines = []
    (outcome,) = run(runner).runs
    assert outcome.equal
    assert not outcome.passed


def test_a_moe_needs_its_operators(run: Simulate) -> None:
    runner = FakeRunner()
    assert run(runner, model="qwen3-moe").passed
    without("npu_grouped_matmul")(runner)
    (outcome,) = run(runner, model="qwen3-moe").runs
    assert outcome.problems == ["no NPU operator for experts was called (npu_grouped_matmul)"]


def test_a_crash_shows_the_end_of_its_log_only(run: Simulate) -> None:
    runner = FakeRunner()
    runner.phases, runner.record = {}, {}
    runner.finished = process.Finished(1, 3.0)
    words = [chr(97 + n) * 3 for n in range(26)]
    runner.log = "".join(f"{word}\n\n" for word in words) + "ValueError: no device\n"
    (outcome,) = run(runner).runs
    assert outcome.problems == ["exit code 1"]
    assert outcome.log[-1] == "ValueError: no device"
    assert len(outcome.log) == 15


def test_races_that_the_simulator_names_are_problems(run: Simulate) -> None:
    runner = FakeRunner()
    race = "race: host memory was read at a.py:3 while the copy to the host at a.py:2"
    runner.log = f"ascend simulator: {race}\n" * 2
    (outcome,) = run(runner).runs
    assert outcome.problems == [f"{race} (simulated Ascend)"]
    assert runner.variables[-1]["ASCEND_SIM_RACES"] == "error"
    # It ends the run, as a rule.
    runner.phases, runner.record = {}, {}
    runner.finished = process.Finished(1, 3.0)
    (outcome,) = run(runner).runs
    assert outcome.problems == ["exit code 1", f"{race} (simulated Ascend)"]


def test_the_caller_may_leave_checks_of_the_simulator_out(
    run: Simulate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ASCEND_SIM_RACES", "report")
    monkeypatch.setenv("ASCEND_SIM_GARBAGE", "0")
    runner = FakeRunner()
    run(runner)
    settings = runner.variables[-1]
    assert (settings["ASCEND_SIM_RACES"], settings["ASCEND_SIM_GARBAGE"]) == ("report", "0")


def test_a_run_out_of_time(run: Simulate) -> None:
    runner = FakeRunner()
    runner.phases, runner.record = {}, {}
    runner.finished = process.Finished(None, 600.0)
    assert run(runner).runs[0].problems == ["not done after 600 s"]


def test_graphs_have_to_be_replayed(run: Simulate) -> None:
    runner = FakeRunner()
    runner.lines.append({"at": -1.0, "op": "graph capture_begin"})
    assert run(runner, "graph").runs[0].problems == ["no graph replay"]
    runner.lines.append({"at": 0.5, "op": "graph replay"})
    report = run(runner, "graph")
    assert report.passed
    assert report.runs[0].paths.replays == 1
    runner.record["graph_memory"] = [0]
    (outcome,) = run(runner, "graph").runs
    assert outcome.problems == ["the cache is sized as if graphs took no memory"]
    runner.record["graph_memory"] = [4 << 20]
    assert run(runner, "graph").passed


def adapted() -> FakeRunner:
    """A runner of a good run with LoRA adapters."""
    runner = FakeRunner()
    runner.lines = [line for line in runner.lines if line["op"] != "npu_top_k_top_p"]
    runner.phases = {
        name: {
            "start": float(start),
            "end": start + 0.9,
            "tokens": [request.tokens for request in batch],
            "prompt_logprobs": [request.logprobs for request in batch],
        }
        for start, (name, batch) in enumerate(judge.batches(runner.reference).items())
    }
    return runner


def test_requests_with_adapters(run: Simulate) -> None:
    runner = adapted()
    (outcome,) = run(runner, "lora1-eager").runs
    assert outcome.passed
    assert outcome.equal
    job = runner.jobs[-1]
    assert [Path(path).name for path in job["adapters"]] == ["first", "second"]
    assert job["engine"]["max_loras"] == 1
    # The adapters are in it alone, with each other, and with requests that have none.
    together = {name: {number for number, _ in batch} for name, batch in job["batches"].items()}
    kinds = [set(), *together.values()]
    assert all(kind in kinds for kind in ({0}, {1}, {0, 1}, {1, 2}, {0, 1, 2}))
    assert job["unload_before"] in job["batches"]
    assert not run(FakeRunner(), "eager").runs[0].problems


def test_an_adapter_that_is_ignored_is_seen(run: Simulate) -> None:
    runner = adapted()
    runner.phases["one adapter"]["tokens"][1] = answers(1, 0)[0]
    (outcome,) = run(runner, "lora2-eager").runs
    assert not outcome.equal
    assert outcome.problems == ["one adapter, prompt 1: token 0 is 0, the reference has 4024"]


def test_log_probabilities_of_prompts_are_by_their_adapters(run: Simulate) -> None:
    runner = adapted()
    name = judge.PROMPT_LOGPROBS_OF
    assert run(runner, "lora2-eager").runs[0].passed
    assert runner.jobs[-1]["prompt_logprobs_of"] in runner.jobs[-1]["batches"]
    runner.phases[name]["prompt_logprobs"][1] = [-1.5]
    runner.phases[name]["prompt_logprobs"][2] = None
    runner.phases[name]["prompt_logprobs"][4] = [float("nan")]
    (outcome,) = run(runner, "lora2-eager").runs
    assert outcome.problems == [
        f"{name}, prompt 1: the log probabilities of 1 of 1 prompt tokens are off, by up to 0.5",
        f"{name}, prompt 2: no log probability for each of its tokens",
        f"{name}, prompt 4: the log probabilities of 1 of 1 prompt tokens are off, by up to nan",
    ]


def test_a_part_without_an_answer_is_seen(run: Simulate) -> None:
    runner = adapted()
    del runner.phases["loaded again"]
    (outcome,) = run(runner, "lora2-eager").runs
    assert not outcome.equal
    assert outcome.problems == ["the run did not come to its part 'loaded again'"]


def test_a_model_without_adapters_does_not_run_with_them(run: Simulate) -> None:
    with pytest.raises(simulate.SimulateError, match="qwen2 has no LoRA adapters, which lora1-"):
        run(FakeRunner(), "lora1-eager", model="qwen2")


def test_shared_memory_of_killed_actors_is_removed() -> None:
    path = environment.PROGRAMS / "ray_cluster.py"
    spec = importlib.util.spec_from_file_location("ray_cluster", path)
    assert spec is not None
    assert spec.loader is not None
    cluster = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(cluster)
    # As in an actor that Ray kills: nobody is left who would remove it.
    code = (
        "from multiprocessing import resource_tracker, shared_memory as s\n"
        "m = s.SharedMemory(create=True, size=1000)\n"
        "resource_tracker.unregister(m._name, 'shared_memory')\n"
        "print(m.name, flush=True)\ninput()"
    )
    marks = [f"{cluster.MARK}={name}-{os.getpid()}" for name in ("ours", "another", "ours")]
    started = [
        subprocess.Popen(
            [sys.executable, "-c", code],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | dict([mark.split("=")]),
        )
        for mark in marks
    ]
    blocks = []
    try:
        blocks = [Path("/dev/shm", (one.stdout or sys.stdin).readline().strip()) for one in started]
        queues = cluster.Queues(marks[0])
        queues.look()
        assert queues.remove() == []
        for one in started[:2]:
            one.kill()
            one.wait()
        # Nor what is another run's, nor what somebody still has.
        assert queues.remove() == [str(blocks[0])]
        assert [block.exists() for block in blocks] == [False, True, True]
    finally:
        for one in started:
            one.kill()
            one.communicate()
        for block in blocks:
            block.unlink(missing_ok=True)


def test_two_devices_talk_over_hccl(run: Simulate) -> None:
    runner = FakeRunner()
    call = {"at": 0.1, "op": "collective all_reduce", "device": "npu", "backend": "gloo"}
    runner.lines.append(call)
    assert set(run(runner, "tp2").runs[0].problems) == {
        "1 processes computed attention, not 2",
        "no all_reduce of device tensors over HCCL",
        "all_reduce of device tensors over gloo",
    }
    runner.workers, call["backend"] = 2, "hccl"
    assert run(runner, "tp2").passed
    assert run(runner, "pp2").runs[0].problems == [
        "no isend or send of device tensors over HCCL",
        "no irecv or recv of device tensors over HCCL",
    ]


def test_buffers_of_hccl_are_there_before_memory_is_measured(run: Simulate) -> None:
    runner = FakeRunner()
    runner.workers = 2
    met = {"at": -8.0, "op": "collective all_reduce", "device": "npu", "backend": "hccl"}
    runner.lines = [met, {"at": -7.0, "op": "free memory"}, *runner.lines]
    assert run(runner, "tp2").passed
    runner.lines[:2] = reversed(runner.lines[:2])
    (outcome,) = run(runner, "tp2").runs
    assert outcome.problems == ["2 workers measured memory before HCCL had its buffers"]
    runner.workers = 1
    runner.lines.remove(met)
    assert run(runner, "eager").passed


def test_a_graph_has_the_collectives_of_the_model(run: Simulate) -> None:
    """Those that open the communicators show nothing of it: Dynamo may have made others."""
    runner = FakeRunner()
    runner.workers = 2
    call = {"at": -8.0, "op": "collective all_reduce", "device": "npu", "backend": "hccl"}
    runner.lines = [
        call,
        {"at": -7.0, "op": "free memory"},
        *runner.lines,
        *({"at": 0.1, "op": f"graph {what}"} for what in ("capture_begin", "replay")),
    ]
    found = "no all_reduce of the model over HCCL, in or out of graphs"
    assert run(runner, "tp2-graph").runs[0].problems == [found]
    assert found not in run(runner, "tp2").runs[0].problems
    runner.lines.append({**call, "at": 0.1, "backend": "gloo"})
    assert found in run(runner, "tp2-graph").runs[0].problems
    runner.lines[-1] = {**call, "at": 0.1}
    assert run(runner, "tp2-graph").passed


def test_workers_of_ray_get_the_settings_of_the_device(run: Simulate) -> None:
    runner = FakeRunner()
    runner.workers = 2
    runner.lines.append(
        {"at": 0.1, "op": "collective all_reduce", "device": "npu", "backend": "hccl"}
    )
    got = {**modes.SET_FOR_WORKERS, "HCCL_CONNECT_TIMEOUT": "120"}
    runner.lines.insert(0, {"at": 0.0, "op": "variables", "seen": got})
    assert run(runner, "ray-tp2").runs[0].problems == [
        "workers have HCCL_CONNECT_TIMEOUT ['120', '120'], not 601"
    ]
    got["HCCL_CONNECT_TIMEOUT"] = "601"
    assert run(runner, "ray-tp2").passed
    assert runner.variables[-1]["HCCL_CONNECT_TIMEOUT"] == "601"
    *_, python, cluster, engine, _ = runner.commands[-1]
    assert (python, Path(cluster).name) == ("/env/bin/python", "ray_cluster.py")
    assert Path(engine).name == "engine.py"
    assert runner.jobs[-1]["engine"]["distributed_executor_backend"] == "ray"


def test_ray_is_asked_for_where_it_is_needed(
    run: Simulate, emitted: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[dict[str, bool]] = []
    versions = environment.Versions(dict.fromkeys(environment.NEEDED, "1.0"), ())

    def check(*_: object, **how: bool) -> environment.Versions:
        asked.append(how)
        return versions

    monkeypatch.setattr(environment, "check", check)
    run(FakeRunner(), "eager")
    run(FakeRunner(), "eager", "ray-pp2")
    assert [how["ray"] for how in asked] == [False, True]
    monkeypatch.undo()
    monkeypatch.setattr(environment, "RAY", ("ray_that_nobody_has",))
    python, tree = Path(sys.executable), environment.open_tree(emitted)
    with pytest.raises(simulate.SimulateError, match="ray_that_nobody_has"):
        environment.check(python, tree, serve=False, ray=True)


def test_without_nnal_none_of_its_operators_is_called(run: Simulate) -> None:
    runner = FakeRunner()
    (outcome,) = run(runner, "no-nnal").runs
    assert "_npu_paged_attention was called 3 times" in outcome.problems
    assert runner.variables[-1]["VLLM_NPU_USE_NNAL"] == "0"


def test_half_precision_is_judged_by_the_best_tokens(run: Simulate) -> None:
    runner = FakeRunner()
    runner.phases["fresh"]["tokens"] = answers(len(models.FRESH), 7)
    runner.misses = 3
    (outcome,) = run(runner, "bfloat16").runs
    assert outcome.problems == []
    assert (outcome.equal, outcome.exact) == (True, False)
    engine, score = runner.jobs[-2:]
    assert engine["engine"]["dtype"] == score["dtype"] == "bfloat16"
    assert "ASCEND_SIM_RELAX" not in runner.variables[-2]
    assert score["sequences"][0] == [
        runner.reference["fresh"]["prompts"][0],
        runner.phases["fresh"]["tokens"][0],
    ]
    # fresh twice more: what was drawn with one token left
    assert len(score["sequences"]) == 3 * len(models.FRESH) + len(models.AGAIN)
    runner.misses = 4
    assert run(runner, "bfloat16").runs[0].problems == [
        "92 of 552 tokens are not the best; transformers in the same dtype misses 5%"
    ]
    runner.misses = 13
    assert "fresh, prompt 0: 13 of 24 tokens are not the best" in (
        run(runner, "bfloat16").runs[0].problems
    )
    runner.score_code = 1
    assert run(runner, "bfloat16").runs[0].problems == ["the answers were not compared"]
    assert (
        "npu_format_cast or npu_format_cast_ was not called" in run(runner, "nz").runs[0].problems
    )


# -- what is run


def test_jobs_and_commands(
    run: Simulate, monkeypatch: pytest.MonkeyPatch, emitted: Path, tmp_path: Path
) -> None:
    for name in ("VLLM_USE_V1", "ASCEND_RT_VISIBLE_DEVICES", "CUDA_VISIBLE_DEVICES"):
        monkeypatch.setenv(name, "foreign")
    monkeypatch.setenv("PYTHONPATH", "/somewhere")
    runner = FakeRunner()
    runner.workers = 2
    run(runner, "tp2", "eager")
    reference, tp2, eager = runner.commands
    assert reference[0] == "/env/bin/python"
    assert "/somewhere" not in runner.variables[0].get("PYTHONPATH", "")
    machine = ["sim", "run", "--devices", "2", "--memory", modes.DEVICE_MEMORY, "--"]
    assert tp2[:8] == [*machine, "/env/bin/python"]
    assert eager[3] == "1"
    for settings, multiprocess in zip(runner.variables[1:], "10", strict=True):
        assert settings["VLLM_ENABLE_V1_MULTIPROCESSING"] == multiprocess
        assert "foreign" not in settings.values()
        paths = settings["PYTHONPATH"].split(os.pathsep)
        assert str(emitted) in paths
        assert "/somewhere" not in paths
        metadata = Path(paths[0], "vllm-9.8.7+npu.dist-info", "METADATA")
        assert "Version: 9.8.7+npu" in metadata.read_text(encoding="utf-8")
    assert runner.jobs[1]["engine"]["tensor_parallel_size"] == 2
    assert runner.jobs[1]["workers_are_children"]
    assert runner.jobs[2]["engine"]["enforce_eager"]
    assert (tmp_path / "work" / "llama-tp2" / "job.json").is_file()


def test_a_model_is_made_once(run: Simulate, tmp_path: Path) -> None:
    runner = FakeRunner()
    run(runner)
    run(runner)
    assert sum(command[-2].endswith("reference.py") for command in runner.commands) == 1
    assert [path.name.split("-")[0] for path in (tmp_path / "cache").glob("*-*")] == ["llama"]


def test_a_model_that_is_newer_than_the_release_is_left_out(run: Simulate, emitted: Path) -> None:
    registry = emitted / "vllm" / "model_executor" / "models" / "registry.py"
    registry.parent.mkdir(parents=True)
    registry.write_text('MODELS = {"LlamaForCausalLM": ("llama", "LlamaForCausalLM")}\n')
    report = run(FakeRunner(), model="llama,minimax-m2")
    assert [outcome.model for outcome in report.runs] == ["llama"]
    with pytest.raises(simulate.SimulateError, match="the release has no MiniMaxM2ForCausalLM"):
        run(FakeRunner(), model="minimax-m2")


def test_a_reference_that_cannot_be_made(run: Simulate, tmp_path: Path) -> None:
    def fail(
        command: Sequence[str], variables: object, folder: Path, log: Path, timeout: float
    ) -> process.Finished:
        log.write_text("Traceback\nImportError: no transformers\n")
        return process.Finished(1, 1.0)

    with pytest.raises(simulate.SimulateError, match="of llama cannot be made: ImportError"):
        run(fail)
    assert list((tmp_path / "cache").glob("*llama*")) == []


@pytest.mark.parametrize(
    ("mode", "model"),
    [("eagle-eager", "llama"), ("eagle3-eager", "llama"), ("mtp-eager", "deepseek-v3")],
)
def test_what_drafts_is_made_beside_the_model(
    run: Simulate, tmp_path: Path, mode: str, model: str
) -> None:
    runner = FakeRunner()
    run(runner, mode, model=model)
    run(runner, mode, model=model)
    made = [command for command in runner.commands if command[-2].endswith("draft.py")]
    assert len(made) == 1
    job = runner.jobs[-1]
    drafts = job["engine"]["speculative_config"].get("model", job["model"])
    assert Path(drafts).name.startswith(f"{model}-")
    assert f"-{mode.partition('-')[0]}-" in Path(drafts).name
    # One layer more is part of the model's own checkpoint.
    assert (job["model"] == drafts) == (model == "deepseek-v3")


def test_drafts_by_the_model_and_by_none(run: Simulate) -> None:
    runner = FakeRunner()
    run(runner, "ngram-eager", "draft-eager")
    assert not any(command[-2].endswith("draft.py") for command in runner.commands)
    ngram, draft = [job for job in runner.jobs if "engine" in job]
    assert "model" not in ngram["engine"]["speculative_config"]
    assert draft["engine"]["speculative_config"]["model"] == draft["model"] == ngram["model"]


def test_drafts_of_another_model(run: Simulate) -> None:
    with pytest.raises(simulate.SimulateError, match="needs a LlamaForCausalLM, which qwen2 is no"):
        run(FakeRunner(), "eagle-eager", model="qwen2")


def test_stop_at_the_first_failure(run: Simulate) -> None:
    runner = FakeRunner()
    runner.record = {}
    assert len(run(runner, "eager", "mp").runs) == 2
    assert len(run(runner, "eager", "mp", stop_at_failure=True).runs) == 1


# -- reports


def test_table_and_json(run: Simulate) -> None:
    from rich.console import Console

    runner = FakeRunner()
    runner.lines = [line for line in runner.lines if line["op"] != "npu_swiglu"]
    report = run(runner, "eager", "graph", model="llama")
    console = Console(width=110, record=True, force_terminal=False, file=open(os.devnull, "w"))  # noqa: SIM115
    simulate.write_table(report, console)
    text = console.export_text()
    assert "llama" in text
    assert "FAIL" in text
    assert "llama eager: no NPU operator for swiglu was called (npu_swiglu)" in text
    again = json.loads(simulate.as_json(simulate.merge([report, report])))
    assert [one["mode"] for one in again["runs"]] == ["eager", "graph"] * 2
    assert again["schema_version"] == 1
    console.file.close()


# -- the environment


def test_what_is_missing_is_said_in_one_line(emitted: Path) -> None:
    tree = environment.open_tree(emitted)
    assert environment.requirements(tree) == ["msgspec", "not_a_distribution_of_anybody"]
    if importlib.util.find_spec("torch") is None:
        with pytest.raises(simulate.SimulateError, match=r"torch, torch_npu, .* not installed"):
            environment.check(Path(sys.executable), tree, serve=False)
    with pytest.raises(simulate.SimulateError, match="does not run"):
        environment.check(Path("/nowhere/bin/python"), tree, serve=False)


@pytest.mark.parametrize(
    ("told", "title", "version"),
    [
        ({"release": "9.8.7"}, "vLLM 9.8.7 on the", "9.8.7+npu"),
        (
            {"release": None, "claim": "0.10.1.dev12124"},
            "vLLM 0.10.1.dev12124, no release on the",
            "0.0.0+npu",
        ),
        ({"release": None}, "vLLM (release unknown) on the", "0.0.0+npu"),
    ],
)
def test_a_tree_is_called_what_its_log_calls_it(
    emitted: Path, tmp_path: Path, told: dict[str, str | None], title: str, version: str
) -> None:
    from rich.console import Console

    log = json.loads((emitted / "migration-log.json").read_text("utf-8"))
    (emitted / "migration-log.json").write_text(json.dumps({**log, **told}), "utf-8")
    tree = environment.open_tree(emitted)
    assert (
        environment.metadata_folder(tree, tmp_path / "i")
        .joinpath(f"vllm-{version}.dist-info/METADATA")
        .is_file()
    )
    report = simulate.Report(1, "t", tree.label.release, "p", {}, [], [], tree.label.claim)
    said = io.StringIO()
    simulate.write_table(report, Console(file=said, width=120))
    assert said.getvalue().startswith(title)


def test_only_emitted_trees_are_run(emitted: Path, tmp_path: Path) -> None:
    with pytest.raises(simulate.SimulateError, match="no vllm package in it"):
        environment.open_tree(tmp_path)
    (emitted / "migration-log.json").write_text("{")
    with pytest.raises(simulate.SimulateError, match="cannot be read"):
        environment.open_tree(emitted)
    (emitted / "migration-log.json").unlink()
    with pytest.raises(simulate.SimulateError, match="emit the tree with `vllm-npu-migrate apply`"):
        environment.open_tree(emitted)


# -- processes

SLEEPER = "import time; time.sleep(300)"


def python(folder: Path, source: str, timeout: float) -> process.Finished:
    variables = {"PATH": os.environ["PATH"]}
    command = [sys.executable, "-c", source]
    return process.run(command, variables, folder, folder / "log", timeout)


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state not in "ZX"


def test_a_program_that_ends(tmp_path: Path) -> None:
    finished = python(tmp_path, "import sys; print('said'); sys.exit(3)", 60)
    assert (finished.code, finished.left) == (3, ())
    assert process.tail(tmp_path / "log") == ["said"]
    assert process.tail(tmp_path / "nothing") == []
    (tmp_path / "log").write_text("start\n" + "10:01 waiting\n10:02 waiting\n" * 20 + "end\n")
    assert process.tail(tmp_path / "log") == ["start", "10:02 waiting", "end"]


def test_what_hangs_is_ended_with_its_children(tmp_path: Path) -> None:
    child = f"subprocess.Popen([sys.executable, '-c', {SLEEPER!r}], start_new_session=True)"
    source = (
        "import signal, subprocess, sys, time\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        f"child = {child}\n"
        "print(child.pid, flush=True)\n"
        "time.sleep(300)\n"
    )
    process_grace = process.GRACE
    process.GRACE = 1.0
    try:
        finished = python(tmp_path, source, 3)
    finally:
        process.GRACE = process_grace
    assert finished.code is None
    assert not alive(int((tmp_path / "log").read_text()))


def test_what_a_program_leaves_is_named_and_ended(tmp_path: Path) -> None:
    source = (
        "import subprocess, sys\n"
        f"child = subprocess.Popen([sys.executable, '-c', {SLEEPER!r}])\n"
        "print(child.pid, flush=True)\n"
    )
    process_grace = process.GRACE
    process.GRACE = 1.0
    try:
        finished = python(tmp_path, source, 60)
    finally:
        process.GRACE = process_grace
    assert finished.code == 0
    assert len(finished.left) == 1
    assert "time.sleep(300)" in finished.left[0]
    assert not alive(int((tmp_path / "log").read_text()))


def test_an_interrupt_ends_the_program(tmp_path: Path) -> None:
    command = [sys.executable, "-c", SLEEPER]
    program = process.Program(command, dict(os.environ), tmp_path, tmp_path / "log")

    def interrupted() -> None:
        with program:
            assert process.members(program.pid, program.mark)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert not alive(program.pid)


# -- the server

READY = """
import http.server, sys
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200 if self.path == "/health" else 404)
        self.end_headers()
    def log_message(self, *_):
        pass
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""


def test_waiting_for_a_server(tmp_path: Path) -> None:
    port = server.free_port()
    assert not server.accepts(port)
    command = [sys.executable, "-c", READY, str(port)]
    with process.Program(command, dict(os.environ), tmp_path, tmp_path / "log") as program:
        assert server.wait_until_ready(program, port, 60)
        assert server.accepts(port)
        program.send(signal.SIGTERM)
        assert program.wait(30).code == -signal.SIGTERM
    assert not server.accepts(port)


def test_a_server_that_ends_is_not_waited_for(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "raise SystemExit(1)"]
    started = time.monotonic()
    with process.Program(command, dict(os.environ), tmp_path, tmp_path / "log") as program:
        assert not server.wait_until_ready(program, server.free_port(), 60)
    assert time.monotonic() - started < 50


def test_a_free_port_is_one_of_this_machine() -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", server.free_port()))


def test_a_server_of_several_engines(tmp_path: Path) -> None:
    dense, sparse = simulate.select_models(["llama", "mixtral"])
    assert "--data-parallel-size" not in server.arguments(sparse, tmp_path, 8000, 1)
    dense_arguments = server.arguments(dense, tmp_path, 8000, 2)
    assert dense_arguments[dense_arguments.index("--data-parallel-size") + 1] == "2"
    assert "--enable-expert-parallel" not in dense_arguments
    assert "--enable-expert-parallel" in server.arguments(sparse, tmp_path, 8000, 2)

    way = server.way_to_serve(sparse, 2)
    assert (way.name, way.devices) == ("serve-dp2", 2)
    over_ray = server.way_to_serve(sparse, 2, ray=True)
    assert (over_ray.name, over_ray.ray, over_ray.collectives) == (
        "serve-ray-dp2",
        True,
        way.collectives,
    )
    asked = server.arguments(sparse, tmp_path, 8000, 2, ray=True)
    assert asked[asked.index("--data-parallel-backend") + 1] == "ray"
    calls = judge.Calls(workers=1)
    assert list(judge.distribution(way, calls)) == [
        "1 processes computed attention, not 2",
        "no all_gather_into_tensor or broadcast of device tensors over HCCL",
        "no reduce_scatter_tensor or all_reduce of device tensors over HCCL",
    ]
    calls.workers = 2
    calls.collectives["all_gather_into_tensor", "npu", "hccl"] = 1
    calls.collectives["reduce_scatter_tensor", "npu", "hccl"] = 1
    assert list(judge.distribution(way, calls)) == []
    assert server.way_to_serve(sparse, 1).name == "serve"


def test_answers_of_a_server() -> None:
    reference = made_reference()

    def answer(chat: dict[str, Any], **more: Any) -> dict[str, Any]:
        return {
            "text": chat["text"],
            "reason": "length",
            "prompt_tokens": 7,
            "new_tokens": NEW,
            **more,
        }

    chats = reference["chats"]
    good: dict[str, Any] = {
        "models": ["tiny"],
        "refused": 404,
        "answers": [answer(chat) for chat in chats],
        "streams": [answer(chat, pieces=9) for chat in chats],
        "together": [answer(chat, pieces=9) for chat in [*chats, *chats]],
    }
    assert list(server.differences(reference, good)) == []
    bad = copy.deepcopy(good)
    bad["streams"][1].update(text="else", pieces=1)
    bad["answers"][0].update(reason="stop", new_tokens=3)
    bad["together"].pop()
    bad.update(refused=None, models=["a"])
    assert list(server.differences(reference, bad)) == [
        "the server lists the models ['a'], not [tiny]",
        "a model that is not served is answered with None, not 404",
        "answers, conversation 0: ended by stop, not by its length",
        f"answers, conversation 0: new_tokens 3, not {NEW}",
        "streams, conversation 1: 'else', the reference has 'answer 1'",
        "streams, conversation 1: came in one piece",
        "together: 3 for 4 conversations",
    ]


# -- the wheel


def wheel_runner(metadata: str, *names: str) -> Callable[..., process.Finished]:
    """Stands for the build: leaves a wheel with such metadata and files."""

    def build(
        command: Sequence[str], variables: dict[str, str], folder: Path, log: Path, timeout: float
    ) -> process.Finished:
        assert variables["VLLM_TARGET_DEVICE"] == "npu"
        assert (folder / "vllm" / "__init__.py").is_file()
        log.touch()
        with zipfile.ZipFile(Path(command[-1], "vllm-0.whl"), "w") as wheel:
            wheel.writestr("vllm-0.dist-info/METADATA", metadata)
            for name in names:
                wheel.writestr(name, "")
        return process.Finished(0, 5.0)

    return build


GOOD_WHEEL = "Name: vllm\nVersion: 0.0.1+npu\nRequires-Dist: torch-npu~=2.8\n\ncuda\n"


@pytest.mark.parametrize(
    ("metadata", "names", "problems"),
    [
        (GOOD_WHEEL, ["vllm/platforms/npu.py"], []),
        (GOOD_WHEEL, [], ["the wheel lacks vllm/platforms/npu.py"]),
        (
            GOOD_WHEEL,
            ["vllm/platforms/npu.py", "vllm/_C.so"],
            ["the wheel holds a compiled module: vllm/_C.so"],
        ),
        (
            "Name: vllm\nVersion: 0.0.1+empty\nRequires-Dist: nvidia-x\n"
            'Requires-Dist: flashinfer; extra == "flashinfer"\n\n',
            ["vllm/platforms/npu.py"],
            [
                "the wheel's version, 0.0.1+empty, does not name the NPU",
                "the wheel does not require torch_npu",
                "the wheel requires nvidia-x, which is for CUDA",
            ],
        ),
    ],
)
def test_the_wheel_of_a_tree(
    emitted: Path,
    installed: None,
    tmp_path: Path,
    metadata: str,
    names: list[str],
    problems: list[str],
) -> None:
    files = [
        {"path": "vllm/platforms/npu.py", "status": "added"},
        {"path": "setup.py", "status": "modified"},
    ]
    (emitted / "migration-log.json").write_text(json.dumps({"files": files, "release": "9.8.7"}))
    options = simulate.Options(
        tree=emitted,
        launcher=simulate.Launcher((), Path(sys.executable)),
        models=(),
        modes=(),
        work=tmp_path / "work",
    )
    (run,) = simulate.install(options, runner=wheel_runner(metadata, *names)).runs
    assert run.problems == problems
    assert run.equal is None


# -- the recorder


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> ModuleType:
    """The recorder's module, active, without its hook."""
    monkeypatch.setenv("NPU_MIGRATE_RECORD", str(tmp_path))
    monkeypatch.setattr(sys, "meta_path", list(sys.meta_path))
    path = environment.PROGRAMS / "recorder" / "sitecustomize.py"
    spec = importlib.util.spec_from_file_location("recorder", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("name", "call", "lengths"),
    [
        ("_npu_paged_attention", {"context_lens": [7, 143]}, ([1, 1], [7, 143])),
        ("_npu_flash_attention", {"seq_len": [5, 17]}, ([5, 17], [5, 17])),
        (
            "_npu_flash_attention_qlens",
            {"seq_len": [1, 3], "context_lens": [9, 9]},
            ([1, 3], [9, 9]),
        ),
        (
            "npu_fused_infer_attention_score",
            {
                "actual_seq_lengths": [1, 141],
                "actual_seq_lengths_kv": [6, 142],
                "input_layout": "TND",
                "block_table": object(),
            },
            ([1, 140], [6, 142]),
        ),
        (
            "npu_fused_infer_attention_score",
            {
                "actual_seq_lengths": [1, 141],
                "actual_seq_lengths_kv": [6, 148],
                "input_layout": "TND",
            },
            ([1, 140], [6, 142]),
        ),
        (
            "npu_fused_infer_attention_score",
            {
                "query": SimpleNamespace(shape=(2, 4, 1, 512)),
                "actual_seq_lengths_kv": [6, 142],
                "input_layout": "BNSD",
            },
            ([1, 1], [6, 142]),
        ),
        (
            "npu_fused_infer_attention_score_v2",
            {"actual_seq_qlen": [2, 3], "actual_seq_kvlen": [6, 7], "input_layout": "BSND"},
            ([2, 3], [6, 7]),
        ),
    ],
)
def test_lengths_of_attention_calls(
    recorder: ModuleType, name: str, call: dict[str, Any], lengths: tuple[list[int], list[int]]
) -> None:
    assert recorder._lengths(name, call) == {"q": lengths[0], "kv": lengths[1]}
    assert recorder._lengths("npu_rms_norm", {}) == {}


def test_lines_of_the_recorder_are_read_again(recorder: ModuleType, tmp_path: Path) -> None:
    for name in ("npu_swiglu", "npu_swiglu", "graph replay"):
        recorder._write({"op": name})
    recorder._write({"op": "_npu_paged_attention", "q": [1], "kv": [4]})
    recorder._write({"op": "collective all_reduce", "device": "npu", "backend": "hccl"})
    path = tmp_path / f"{os.getpid()}.jsonl"
    path.write_text(path.read_text() + '{"at": 3, "op"')
    calls = judge.read_calls(tmp_path)
    assert calls.operators == {"npu_swiglu": 2, "graph replay": 1, "_npu_paged_attention": 1}
    assert calls.collectives == {("all_reduce", "npu", "hccl"): 1}
    assert calls.workers == 1
    assert [(q, kv) for _, q, kv in calls.attention] == [([1], [4])]


def test_calls_outside_of_the_phases_do_not_count() -> None:
    calls = Calls(attention=[(99.0, [5], [5]), (99.0, [1], [6])])
    paths = judge.count_paths(calls, good_phases(made_reference()))
    assert (paths.prefill, paths.decode) == (0, 0)


# -- the command


def test_the_command_checks_its_options(run_cli: RunCli, emitted: Path) -> None:
    outcome = run_cli("verify", emitted, "--models", "llama")
    assert outcome.code == 2
    assert "go with --simulate or --serve" in outcome.err
    outcome = run_cli("verify", emitted, "--simulate", "--modes", "warp")
    assert outcome.code == 2
    assert "no mode is called 'warp'" in outcome.err
    outcome = run_cli("verify", emitted, "--simulate", "--format", "github")
    assert outcome.code == 2
    outcome = run_cli("verify", emitted, "--simulate", "--env", emitted)
    assert outcome.code == 2
    assert "no bin/python in it" in outcome.err


@pytest.mark.parametrize(
    ("option", "known"),
    [
        ("models", {*models.MODELS, *models.ALIASES}),
        (
            "modes",
            {name for name, mode in MODES.items() if not (mode.adapters or mode.draft)},
        ),
    ],
)
def test_help_names_every_model_and_mode(option: str, known: set[str]) -> None:
    """The help spells them out, because what defines them is slow to load."""
    from migrator.cli.verify import command

    (text,) = (p.help for p in command.params if isinstance(p, click.Option) and p.name == option)
    listed = re.sub(
        r"\(.*?\)", "", (text or "").partition("comma separated: ")[2].partition(".")[0]
    )
    assert {name.strip() for name in listed.split(",")} == known
    if option == "modes":
        ways = {way for name in MODES if (way := name.partition("lora1-")[2])}
        with_adapters = {f"lora{slots}-{way}" for slots in (1, 2) for way in ways}
        with_adapters.add("lora2-tp2-sharded")
        assert {name for name, mode in MODES.items() if mode.adapters} == with_adapters
        sentence = (text or "").partition("With LoRA adapters")[2]
        assert all(re.search(rf"\b{way}\b", sentence) for way in ways)
        assert "lora2-tp2-sharded" in sentence
        drafts = {name.partition("-")[::2] for name, mode in MODES.items() if mode.draft}
        sentence = (text or "").partition("With drafts")[2]
        assert all(f"{kind}-" in sentence for kind, _ in drafts)
        assert all(re.search(rf"\b{way}\b", sentence) for _, way in drafts)


@pytest.mark.parametrize(("passed", "code"), [(True, 0), (False, 1)])
def test_the_exit_code_says_what_came_out(
    run_cli: RunCli, emitted: Path, monkeypatch: pytest.MonkeyPatch, passed: bool, code: int
) -> None:
    seen = []

    def fake(options: simulate.Options, progress: object) -> simulate.Report:
        seen.append(options)
        problems = [] if passed else ["no attention call was decode"]
        runs = [simulate.Run("llama", mode.name, True, problems, 1.0) for mode in options.modes]
        return simulate.Report(1, str(options.tree), "9.8.7", "python", {}, ["scipy"], runs)

    monkeypatch.setattr(simulate, "simulate", fake)
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    outcome = run_cli(
        "verify", emitted, "--simulate", "--models", "moe", "--modes", "mp,tp2", "--format", "json"
    )
    assert outcome.code == code
    assert "not installed, though the tree asks for it: scipy" in outcome.err
    assert [run["mode"] for run in json.loads(outcome.out)["runs"]] == ["mp", "tp2"]
    (options,) = seen
    assert [model.name for model in options.models] == ["mixtral", "qwen3-moe"]
    assert options.launcher.simulated(2, "1GiB", ["p.py"])[3:] == [
        *("simulator", "run", "--env", sys.executable),
        *("--devices", "2", "--memory", "1GiB", "--", sys.executable, "p.py"),
    ]


DEEPSEEK = models.MODELS["deepseek-v3"]


@pytest.mark.parametrize(
    ("call", "dtype"),
    [
        ("self.gate.set_out_dtype(torch.float32 if fused else torch.bfloat16)", "bfloat16"),
        ("self.gate.set_out_dtype(torch.float32)", ""),
        ("self.gate.set_out_dtype(self.gate.weight.dtype)", ""),
        ("keys = torch.zeros(2, dtype=torch.bfloat16)", ""),
        ("not Python", ""),
    ],
)
def test_a_release_may_round_what_routers_give(tmp_path: Path, call: str, dtype: str) -> None:
    module = tmp_path / DEEPSEEK.routed_in
    module.parent.mkdir(parents=True)
    module.write_text(call)
    for mode in ("eager", "tp2"):
        assert variant_of(tmp_path, DEEPSEEK, MODES[mode]) == Variant(router=dtype)
    assert variant_of(tmp_path, models.MODELS["llama"], MODES["eager"]) == Variant()
    assert variant_of(tmp_path / "none", DEEPSEEK, MODES["eager"]) == Variant()


@pytest.mark.parametrize(
    ("model", "mode", "variant"),
    [
        ("llama-w8a8", "eager", Variant()),
        ("llama-w8a8", "tp2", Variant(shards=2)),
        # One scale for all of an input, wherever its parts are.
        ("llama-w8a8-static", "tp2", Variant()),
        ("llama-w8a8-static", "float16", Variant()),
        ("qwen3-moe-modelslim", "tp2", Variant(shards=2)),
        ("qwen3-moe-modelslim", "tp2-ep", Variant(shards=2, spread=True)),
        ("llama-modelslim", "float16", Variant(packed=True)),
        ("llama-modelslim", "bfloat16", Variant()),
        ("qwen3-moe", "tp2-ep", Variant()),
    ],
)
def test_what_a_mode_makes_of_a_checkpoint(
    tmp_path: Path, model: str, mode: str, variant: Variant
) -> None:
    assert variant_of(tmp_path, models.MODELS[model], MODES[mode]) == variant


@pytest.mark.parametrize("mode", MODES.values(), ids=list(MODES))
def test_modes_say_what_they_need(mode: modes.Mode) -> None:
    parallel = [mode.engine.get(f"{kind}_parallel_size", 1) for kind in ("tensor", "pipeline")]
    engines = connectors.PROOFS[mode.connector].devices.values() if mode.connector else (0,)
    assert mode.devices == max(parallel) * len(set(engines))
    assert mode.multiprocess or max(parallel) == 1
    assert mode.graphs is not mode.engine["enforce_eager"]
    known = {name for names in ROLES.values() for name in names}
    known |= {"npu_format_cast", "npu_format_cast_"}
    assert {name for names in mode.operators for name in names} <= known
    assert set(mode.forbidden) <= known


# -- refusals


def refuse(
    emitted: Path, tmp_path: Path, errors: dict[str, Any], finished: process.Finished
) -> tuple[simulate.Run, dict[str, str]]:
    seen: dict[str, str] = {}
    machines = []
    asked, _ = refusing.possible(emitted)

    def machine_of(case: refusal_cases.Case) -> tuple[str, bool, bool]:
        return case.soc, case.nnal, case.triton

    def runner(
        command: Sequence[str], variables: dict[str, str], folder: Path, log: Path, timeout: float
    ) -> process.Finished:
        seen.update(variables)
        job = json.loads(Path(command[-1]).read_text(encoding="utf-8"))
        soc = command[command.index("--soc") + 1] if "--soc" in command else ""
        nnal = "--without-nnal" not in command
        machines.append((soc, nnal, "--with-triton" in command))
        names = [case["name"] for case in job["cases"]]
        assert names == [case.name for case in asked if machine_of(case) == machines[-1]]
        said = {name: errors[name] for name in ("front end", *names) if name in errors}
        Path(job["out"]).write_text(json.dumps(said), encoding="utf-8")
        log.write_text("the end\n")
        return finished if (soc, nnal) == ("", True) else process.Finished(0, 1.0)

    options = simulate.Options(
        tree=emitted,
        launcher=simulate.Launcher(("sim", "run"), Path("/env/bin/python")),
        models=(),
        modes=(),
        work=tmp_path / "work",
    )
    (run,) = simulate.refusals(options, runner=runner).runs
    assert machines == [("", True, False), ("", False, False), ("Ascend310P3", True, False)]
    return run, seen


def good_errors() -> dict[str, Any]:
    return {"front end": {"error": None, "seconds": 1.0}} | {
        case.name: {"error": f"ValueError: Sl{case.says}.", "seconds": 1.0}
        for case in refusal_cases.CASES
    }


def test_refusals_in_plain_words_pass(emitted: Path, installed: None, tmp_path: Path) -> None:
    run, variables = refuse(emitted, tmp_path, good_errors(), process.Finished(0, 9.0))
    assert (run.model, run.mode, run.problems, run.log) == ("vllm", "refusals", [], [])
    # The device's own refusal of float32 must not be turned off.
    assert not set(environment.FLOAT32) & set(variables)


def test_bytecode_is_made_once(emitted: Path, tmp_path: Path) -> None:
    tree = environment.open_tree(emitted)
    base = {"PYTHONDONTWRITEBYTECODE": "1", "VLLM_USE_V1": "0", "HOME": "/home/somebody"}
    variables = environment.variables(tree, tmp_path, base)
    # A prefix without bytecode in it means that all is compiled in each process.
    assert variables["PYTHONPYCACHEPREFIX"] == str(tmp_path / "bytecode")
    kept = replace(tree, bytecode=tmp_path / "kept")
    for program in (
        environment.variables(kept, tmp_path, base),
        environment.cpu_variables(base, bytecode=tmp_path / "kept"),
    ):
        assert program["PYTHONPYCACHEPREFIX"] == str(tmp_path / "kept")
        assert "PYTHONDONTWRITEBYTECODE" not in program
    assert "PYTHONDONTWRITEBYTECODE" not in variables
    assert "VLLM_USE_V1" not in variables
    assert variables["HOME"] == "/home/somebody"


def test_what_is_not_refused_is_said(emitted: Path, installed: None, tmp_path: Path) -> None:
    errors = good_errors()
    errors["float32"]["error"] = None
    errors["ALiBi"]["error"] = "RuntimeError: aclnn error 161002\nKeyError: 3"
    del errors["encoder"]
    errors["front end"]["error"] = "it opens a device"
    run, _ = refuse(emitted, tmp_path, errors, process.Finished(1, 9.0))
    assert run.problems == [
        "exit code 1",
        "front end: it opens a device",
        "float32: an engine starts",
        "ALiBi: stopped by another error, RuntimeError: aclnn error 161002",
        "encoder: not tried",
    ]
    assert run.log == ["the end"]


def test_what_a_release_cannot_have_is_not_asked(emitted: Path) -> None:
    asked, unasked = refusing.possible(emitted)
    assert unasked["option: enable_dbo"] == "vllm/config has no enable_dbo"
    assert "float32" in {case.name for case in asked}
    (emitted / "vllm" / "config").mkdir()
    (emitted / "vllm" / "config" / "parallel.py").write_text("enable_dbo: bool = False\n")
    asked, unasked = refusing.possible(emitted)
    assert "option: enable_dbo" in {case.name for case in asked}
    assert "option: enable_dbo" not in unasked
    method = unasked["--quantization fp8"]
    assert method == 'vllm/model_executor/layers/quantization/__init__.py has no "fp8"'


def test_cases_have_names_of_their_own() -> None:
    names = [case.name for case in refusal_cases.CASES]
    assert len(names) == len(set(names))


# -- model runner V2


def test_runner_v2_is_asked_for_where_triton_has_an_npu(run: Simulate) -> None:
    runner = FakeRunner()
    runner.record["runners"] = ["GPUModelRunner V2"]
    (outcome,) = run(runner, "v2").runs
    assert not [text for text in outcome.problems if "model runner" in text]
    assert runner.variables[-1]["VLLM_USE_V2_MODEL_RUNNER"] == "1"
    assert "--with-triton" in runner.commands[-1]


def test_another_runner_than_v2_is_said(run: Simulate) -> None:
    runner = FakeRunner()
    runner.record["runners"] = ["NPUModelRunner"]
    (outcome,) = run(runner, "v2").runs
    assert "the model runner is ['NPUModelRunner'], not GPUModelRunner V2" in outcome.problems
