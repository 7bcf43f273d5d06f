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
    "pooling": (),
    "model of transformers": ("model_impl",),
    "weights in host memory": (),
}
"""Check of the program → what it has to try at least."""


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
            finished = runner(command, settings, folder, log, options.timeout)
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
