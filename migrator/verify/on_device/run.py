# SPDX-License-Identifier: Apache-2.0
"""Looks at the machine, compares operators, runs models and counts tokens a second."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from migrator.messages.errors import MigrateError
from migrator.verify.on_device.report import (
    SCHEMA_VERSION,
    Compared,
    DeviceReport,
    Machine,
    Speed,
    Tokens,
)
from migrator.verify.simulate import cost, environment, judge, process
from migrator.verify.simulate.environment import EmittedTree, Versions
from migrator.verify.simulate.models import Model
from migrator.verify.simulate.modes import Mode
from migrator.verify.simulate.run import (
    Options,
    Runner,
    drafts,
    ended_badly,
    ending,
    engine_job,
    opened,
    reference,
    score_answers,
    served,
    variant_of,
)

PROGRAMS = Path(__file__).resolve().parent / "programs"
# By its path: what runs trees knows nothing of how the simulator is built.
RUNTIME = Path(__file__).resolve().parents[2] / "simulator" / "runtime"
DEFAULT_MODES = ("bfloat16", "bfloat16-full-graph", "float16")
DEVICE = ("ASCEND_", "ATB_", "HCCL_", "LCCL_", "TORCH_NPU", "PYTORCH_NPU")
"""How the variables begin by which a shell says where CANN is and which devices are meant."""
REQUESTS, PROMPT, NEW = 32, 128, 128
LAYERS = 4


class DeviceError(MigrateError):
    """Nothing can be run on this machine; the message says what to do."""


def choose(modes: Sequence[Mode]) -> None:
    """See that each mode can be run on a device.

    Raises:
        ValueError: one cannot; the message names those that can.
    """
    for mode in modes:
        if mode.dtype == "float32":
            raise ValueError(
                f"{mode.name} runs in float32, which an NPU's attention does not take; take "
                "bfloat16, bfloat16-full-graph or float16"
            )
        if mode.ray or mode.connector or mode.triton or not mode.nnal or mode.adapters:
            raise ValueError(
                f"{mode.name} needs a machine that the simulator makes; take bfloat16, "
                "bfloat16-full-graph or float16"
            )


def on_device(
    options: Options,
    progress: Callable[[str], None] = lambda _: None,
    runner: Runner = process.run,
) -> DeviceReport:
    """Check a tree on the NPUs of this machine.

    Raises:
        DeviceError: there is no NPU that can be used.
        SimulateError: the tree or the environment cannot be run at all.
    """
    with opened(options) as (tree, work):
        versions = environment.check(options.launcher.python, tree, serve=False)
        progress("the machine")
        machine = look(tree, work, options, runner)
        problems: list[str] = []
        progress("operators")
        operators, problem = compare(tree, work, options, runner)
        problems += [problem] if problem else []
        tokens = []
        for model in served(tree.root, options.models, progress):
            for mode in options.modes:
                progress(f"{model.name} {mode.name}")
                tokens.append(generate(tree, model, mode, machine, work, versions, options, runner))
        speed = []
        for mode in options.modes:
            if mode.devices <= machine.devices and not mode.draft:
                progress(f"tokens a second, {mode.name}")
                speed.append(measure(tree, mode, work, options, runner))
        return DeviceReport(
            schema_version=SCHEMA_VERSION,
            release=tree.label.release,
            claim=tree.label.claim,
            machine=machine,
            operators=operators,
            tokens=tokens,
            speed=speed,
            problems=problems,
        )


def variables(
    tree: EmittedTree, work: Path, base: Mapping[str, str] | None = None
) -> dict[str, str]:
    """Environment of a program on the device: the tree's, with what the caller says of CANN."""
    caller = dict(os.environ if base is None else base)
    ours = environment.variables(tree, work, caller, float32=False)
    kept = {name: value for name, value in caller.items() if name.startswith(DEVICE)}
    ours = {name: value for name, value in ours.items() if name not in environment.CHECKS}
    # CANN's compiler of operators is Python, which its set_env.sh puts there.
    paths = [path for path in (caller.get("PYTHONPATH"), ours["PYTHONPATH"]) if path]
    return {**ours, **kept, "PYTHONPATH": os.pathsep.join(paths)}


def look(tree: EmittedTree, work: Path, options: Options, runner: Runner) -> Machine:
    """What the machine is.

    Raises:
        DeviceError: it has no NPU that can be used.
    """
    out, log = _folder(work, "machine") / "out.json", work / "machine" / "log"
    program = [str(options.launcher.python), str(PROGRAMS / "machine.py"), str(out)]
    finished = runner(program, variables(tree, work), out.parent, log, options.timeout)
    if not out.is_file():
        said = process.tail(log, 1)
        raise DeviceError(f"the machine cannot be asked: {said[0] if said else ending(finished)}")
    found = json.loads(out.read_text(encoding="utf-8"))
    if "error" in found:
        raise DeviceError(found["error"])
    return msgspec.convert(found, Machine)


def compare(
    tree: EmittedTree, work: Path, options: Options, runner: Runner
) -> tuple[list[Compared], str]:
    """Each operator's cases beside its reference; and what ended the program early, or ""."""
    folder = _folder(work, "operators")
    job, out, log = folder / "job.json", folder / "out.json", folder / "log"
    job.write_text(json.dumps({"runtime": str(RUNTIME), "out": str(out)}), encoding="utf-8")
    program = [str(options.launcher.python), str(PROGRAMS / "compare_operators.py"), str(job)]
    finished = runner(program, variables(tree, work), folder, log, options.timeout)
    found = msgspec.json.decode(out.read_bytes(), type=list[Compared]) if out.is_file() else []
    if finished.code == 0:
        return found, ""
    last = f"after {found[-1].operator}, {found[-1].case}" if found else "before the first"
    said = process.tail(log, 1)
    return found, f"operators: {ending(finished)} {last}" + (f": {said[0][:300]}" if said else "")


def generate(
    tree: EmittedTree,
    model: Model,
    mode: Mode,
    machine: Machine,
    work: Path,
    versions: Versions,
    options: Options,
    runner: Runner,
) -> Tokens:
    """A model in a mode: its greedy tokens by transformers' logits of them."""
    if mode.devices > machine.devices:
        needs = f"it needs {mode.devices} NPUs, {machine.devices} visible"
        return Tokens(model.name, mode.name, [], needs)
    variant = variant_of(tree.root, model, mode)
    model_folder = reference(model, options, versions, runner, variant)
    wanted = json.loads((model_folder / "reference.json").read_text(encoding="utf-8"))
    folder = _folder(work, f"{model.name}-{mode.name}")
    job, out, log = folder / "job.json", folder / "out.json", folder / "log"
    drafting = drafts(model_folder, mode, options, runner)
    job.write_text(
        json.dumps(engine_job(model_folder, mode, wanted, out, drafting)), encoding="utf-8"
    )
    settings = {
        **variables(tree, work),
        "VLLM_ENABLE_V1_MULTIPROCESSING": "1" if mode.multiprocess else "0",
        **mode.variables,
    }
    program = [str(options.launcher.python), str(environment.PROGRAMS / "engine.py"), str(job)]
    finished = runner(program, settings, folder, log, options.timeout)
    seen = json.loads(out.read_text(encoding="utf-8")) if out.is_file() else {}
    phases = seen.get("phases", {})
    problems = list(ended_badly(finished, seen))
    if problems and not phases:
        return Tokens(model.name, mode.name, [*problems, *process.tail(log, 1)])
    score = score_answers(model_folder, variant, mode, wanted, phases, folder, options, runner)
    problems += judge.misses(phases, score)
    problems += judge.sampling(phases)
    return Tokens(model.name, mode.name, problems)


def measure(tree: EmittedTree, mode: Mode, work: Path, options: Options, runner: Runner) -> Speed:
    """Tokens a second of a mode."""
    folder = _folder(work, f"speed-{mode.name}")
    model, out, log = folder / "model", folder / "out.json", folder / "log"
    model.mkdir()
    config = {**cost.MODEL, "num_hidden_layers": LAYERS}
    (model / "config.json").write_text(json.dumps(config), encoding="utf-8")
    job: dict[str, Any] = {
        "model": str(model),
        "out": str(out),
        "engine": {**cost.ENGINE, **mode.engine, "max_num_seqs": REQUESTS},
        "vocabulary": cost.MODEL["vocab_size"],
        "requests": REQUESTS,
        "prompt": PROMPT,
        "new": NEW,
    }
    (folder / "job.json").write_text(json.dumps(job), encoding="utf-8")
    settings = {
        **variables(tree, work),
        "VLLM_ENABLE_V1_MULTIPROCESSING": "1" if mode.multiprocess else "0",
        **mode.variables,
    }
    program = [str(options.launcher.python), str(PROGRAMS / "speed.py"), str(folder / "job.json")]
    finished = runner(program, settings, folder, log, options.timeout)
    if finished.code != 0 or not out.is_file():
        said = process.tail(log, 1)
        problem = ending(finished) + (f": {said[0][:300]}" if said else "")
        return Speed(mode.name, REQUESTS, PROMPT, NEW, 0.0, problem)
    found = json.loads(out.read_text(encoding="utf-8"))
    return Speed(mode.name, REQUESTS, PROMPT, NEW, found["tokens"] / found["seconds"])


def _folder(work: Path, name: str) -> Path:
    folder = work / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder
