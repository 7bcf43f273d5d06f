# SPDX-License-Identifier: Apache-2.0
"""Looks at the machine, compares operators, runs models and counts tokens a second."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

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
OUT, LOG = "out.json", "log"
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
        programs = Programs(options, runner, tree, work)
        progress("the machine")
        machine = look(programs)
        progress("operators")
        operators, problem = compare(programs)
        tokens = []
        for model in served(tree.root, options.models, progress):
            for mode in options.modes:
                progress(f"{model.name} {mode.name}")
                tokens.append(generate(programs, model, mode, machine, versions))
        speed = []
        for mode in options.modes:
            if mode.devices <= machine.devices and not mode.draft:
                progress(f"tokens a second, {mode.name}")
                speed.append(measure(programs, mode))
        return DeviceReport(
            schema_version=SCHEMA_VERSION,
            release=tree.label.release,
            claim=tree.label.claim,
            machine=machine,
            operators=operators,
            tokens=tokens,
            speed=speed,
            problems=[problem] if problem else [],
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


class Ended(NamedTuple):
    """A program that has ended, and its folder."""

    finished: process.Finished
    folder: Path

    @property
    def written(self) -> bytes | None:
        """What it wrote; None for nothing."""
        out = self.folder / OUT
        return out.read_bytes() if out.is_file() else None

    @property
    def last(self) -> str:
        """The last line that it printed, behind a colon; empty where it printed nothing."""
        said = process.tail(self.folder / LOG, 1)
        return f": {said[0][:300]}" if said else ""

    @property
    def how(self) -> str:
        """How it ended, and its last line."""
        return ending(self.finished) + self.last


@dataclass(frozen=True)
class Programs:
    """Runs programs on the device, each in a process and a folder of its own."""

    options: Options
    runner: Runner
    tree: EmittedTree
    work: Path

    def out(self, name: str) -> Path:
        """Where the program of a name writes."""
        return self.work / name / OUT

    def run(
        self, name: str, program: Path, content: Mapping[str, Any], mode: Mode | None = None
    ) -> Ended:
        """Run a program to its end.

        Args:
            name: of its folder.
            program: its path.
            content: of its job, which `out` is added to.
            mode: that sets variables of its environment; None: none does.
        """
        folder = self.work / name
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        job = folder / "job.json"
        job.write_text(json.dumps({**content, "out": str(self.out(name))}), encoding="utf-8")
        settings = {**variables(self.tree, self.work), **(mode.environment if mode else {})}
        command = [str(self.options.launcher.python), str(program), str(job)]
        log, timeout = folder / LOG, self.options.timeout
        return Ended(self.runner(command, settings, folder, log, timeout), folder)


def look(programs: Programs) -> Machine:
    """What the machine is.

    Raises:
        DeviceError: it has no NPU that can be used.
    """
    ended = programs.run("machine", PROGRAMS / "machine.py", {})
    if ended.written is None:
        why = ended.last or f": {ending(ended.finished)}"
        raise DeviceError(f"the machine cannot be asked{why}")
    found = json.loads(ended.written)
    if "error" in found:
        raise DeviceError(found["error"])
    return msgspec.convert(found, Machine)


def compare(programs: Programs) -> tuple[list[Compared], str]:
    """Each operator's cases beside its reference; and what ended the program early, or ""."""
    program = PROGRAMS / "compare_operators.py"
    ended = programs.run("operators", program, {"runtime": str(RUNTIME)})
    found = msgspec.json.decode(ended.written or b"[]", type=list[Compared])
    if ended.finished.code == 0:
        return found, ""
    place = f"after {found[-1].operator}, {found[-1].case}" if found else "before the first"
    return found, f"operators: {ending(ended.finished)} {place}{ended.last}"


def generate(
    programs: Programs, model: Model, mode: Mode, machine: Machine, versions: Versions
) -> Tokens:
    """A model in a mode: its greedy tokens by transformers' logits of them."""
    if mode.devices > machine.devices:
        needs = f"it needs {mode.devices} NPUs, {machine.devices} visible"
        return Tokens(model.name, mode.name, [], needs)
    options, runner = programs.options, programs.runner
    variant = variant_of(programs.tree.root, model, mode)
    model_folder = reference(model, options, versions, runner, variant)
    wanted = json.loads((model_folder / "reference.json").read_text(encoding="utf-8"))
    drafting = drafts(model_folder, mode, options, runner)
    name = f"{model.name}-{mode.name}"
    content = engine_job(model_folder, mode, wanted, programs.out(name), drafting)
    ended = programs.run(name, environment.PROGRAMS / "engine.py", content, mode)
    seen = json.loads(ended.written or b"{}")
    phases = seen.get("phases", {})
    problems = list(ended_badly(ended.finished, seen))
    if problems and not phases:
        return Tokens(model.name, mode.name, [*problems, *process.tail(ended.folder / LOG, 1)])
    score = score_answers(
        model_folder, variant, mode, wanted, phases, ended.folder, options, runner
    )
    problems += judge.misses(phases, score)
    problems += judge.sampling(phases)
    return Tokens(model.name, mode.name, problems)


def measure(programs: Programs, mode: Mode) -> Speed:
    """Tokens a second of a mode."""
    model = programs.work / "speed-model"
    model.mkdir(parents=True, exist_ok=True)
    config = {**cost.MODEL, "num_hidden_layers": LAYERS}
    (model / "config.json").write_text(json.dumps(config), encoding="utf-8")
    content = {
        "model": str(model),
        "engine": {**cost.ENGINE, **mode.engine, "max_num_seqs": REQUESTS},
        "vocabulary": cost.MODEL["vocab_size"],
        "requests": REQUESTS,
        "prompt": PROMPT,
        "new": NEW,
    }
    ended = programs.run(f"speed-{mode.name}", PROGRAMS / "speed.py", content, mode)
    if ended.finished.code != 0 or ended.written is None:
        return Speed(mode.name, REQUESTS, PROMPT, NEW, 0.0, ended.how)
    found = json.loads(ended.written)
    return Speed(mode.name, REQUESTS, PROMPT, NEW, found["tokens"] / found["seconds"])
