# SPDX-License-Identifier: Apache-2.0
"""Tries features that none of the models has: poolers, prompts as embeddings, rotary embeddings.

What each has to come to is judged by the program itself, which compares with transformers or with
the same layer on the CPU.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from typing import Any

from migrator.verify.simulate import environment, process
from migrator.verify.simulate.models import MODELS
from migrator.verify.simulate.modes import DEVICE_MEMORY, ENGINE
from migrator.verify.simulate.report import Report, Run
from migrator.verify.simulate.run import Options, Runner, ended, opened, reference, report

MODE = "features"
CHECKS: dict[str, tuple[str, ...]] = {
    "rotary embeddings": (
        "RotaryEmbedding",
        "LinearScalingRotaryEmbedding",
        "Llama3RotaryEmbedding",
        "MRotaryEmbedding",
        "YaRNScalingRotaryEmbedding",
    ),
    "options": ("enable_prompt_embeds", "logprobs_mode", "scheduling_policy"),
    "logits processor": ("logits_processors",),
    "pooling": ("runner", "convert"),
    "model of transformers": ("model_impl",),
    "mean pooling": (),
    "weights in host memory": (),
    "some weights in host memory": (),
    "external launcher": ("external_launcher",),
    "settings": ("hf_overrides", "load_format", "max_logprobs", "num_gpu_blocks_override"),
    "settings of graphs": ("enforce_eager",),
}
"""Check of the program → what it has to try at least."""
VARIABLES: dict[str, str] = {
    "VLLM_ATTENTION_BACKEND": "FLASH_ATTN",
    "VLLM_COMPUTE_NANS_IN_LOGITS": "1",
    "VLLM_DISABLE_COMPILE_CACHE": "1",
    "VLLM_DISABLE_PAD_FOR_CUDAGRAPH": "1",
    "VLLM_ENABLE_CUDAGRAPH_GC": "1",
    "VLLM_ENABLE_INDUCTOR_COORDINATE_DESCENT_TUNING": "0",
    "VLLM_ENABLE_INDUCTOR_MAX_AUTOTUNE": "0",
    "VLLM_ENABLE_PREGRAD_PASSES": "1",
    "VLLM_FLOAT32_MATMUL_PRECISION": "high",
    "VLLM_LOGITS_PROCESSOR_THREADS": "2",
    "VLLM_LOG_BATCHSIZE_INTERVAL": "0.1",
    "VLLM_MEMORY_PROFILER_ESTIMATE_CUDAGRAPHS": "0",
    "VLLM_RAISE_ON_LOGIT_NANS": "1",
    "VLLM_USE_AOT_COMPILE": "0",
    "VLLM_USE_BYTECODE_HOOK": "0",
    "VLLM_USE_LAYERNAME": "0",
    "VLLM_USE_MEGA_AOT_ARTIFACT": "0",
    "VLLM_USE_STANDALONE_COMPILE": "0",
    "VLLM_WEIGHT_OFFLOADING_DISABLE_PIN_MEMORY": "1",
}
"""What has another value than its own in some checks, and in these alone."""
WITH_VARIABLES = frozenset({"settings", "settings of graphs", "some weights in host memory"})


def features(
    options: Options,
    progress: Callable[[str], None] = lambda _: None,
    runner: Runner = process.run,
) -> Report:
    """Try each of CHECKS with the model `llama`; models and modes are not used.

    Raises:
        SimulateError: the tree or the environment cannot be run at all.
    """
    with opened(options) as (tree, work):
        versions = environment.check(options.launcher.python, tree, serve=False)
        progress(MODE)
        model = reference(MODELS["llama"], options, versions, runner)
        shutil.rmtree(work / MODE, ignore_errors=True)
        settings = {**environment.variables(tree, work), "VLLM_ENABLE_V1_MULTIPROCESSING": "0"}
        others = {**settings, **VARIABLES}
        found: dict[str, Any] = {}
        problems: list[str] = []
        tail: list[str] = []
        seconds = 0.0
        # A process each: 0.11.0 takes it for a fault if an engine finds memory that another left.
        for check in CHECKS:
            progress(f"{MODE}: {check}")
            folder = work / MODE / check.replace(" ", "-")
            folder.mkdir(parents=True)
            job, out, log = folder / "job.json", folder / "out.json", folder / "log"
            content: dict[str, Any] = {
                "out": str(out),
                "model": str(model),
                "checks": [check],
                "engine": {**ENGINE, "enforce_eager": True},
            }
            job.write_text(json.dumps(content), encoding="utf-8")
            program = [str(environment.PROGRAMS / "features.py"), str(job)]
            command = options.launcher.simulated(1, DEVICE_MEMORY, program)
            variables = others if check in WITH_VARIABLES else settings
            finished = runner(command, variables, folder, log, options.timeout)
            seconds += finished.seconds
            came = json.loads(out.read_text(encoding="utf-8")) if out.is_file() else {}
            broken = list(ended(finished))
            if broken or any(entry["error"] for entry in came.values()):
                tail += process.tail(log)
            found |= came
            problems += broken
        run = Run(
            model="vllm",
            mode=MODE,
            equal=None,
            problems=[*problems, *faults(found)],
            seconds=round(seconds, 1),
            log=tail,
        )
        return report(tree, options, versions, [run])


def faults(found: dict[str, Any]) -> Iterator[str]:
    """What is wrong with what the program wrote: check → what it tried, and its error."""
    for name, wanted in CHECKS.items():
        entry = found.get(name)
        if entry is None:
            yield f"{name}: not tried"
        elif entry["error"] is not None:
            yield f"{name}: {entry['error'][:300]}"
        elif missing := sorted(set(wanted) - set(entry["tried"])):
            yield f"{name}: {', '.join(missing)} not tried"
