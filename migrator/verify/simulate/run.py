# SPDX-License-Identifier: Apache-2.0
"""Runs models through a tree, mode by mode, and judges what came out."""

from __future__ import annotations

import ast
import hashlib
import json
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from migrator.files.locations import private_cache
from migrator.verify.simulate import (
    bytecode,
    collectives,
    connectors,
    environment,
    forking,
    judge,
    models,
    process,
)
from migrator.verify.simulate.environment import EmittedTree, Launcher, SimulateError, Versions
from migrator.verify.simulate.models import Model
from migrator.verify.simulate.modes import DEVICE_MEMORY, ENGINE, MADE, SAME, WITHIN, Mode
from migrator.verify.simulate.report import SCHEMA_VERSION, Report, Run

WANTED_GAP = 0.03
"""Least lead of a best logit in a reference: far above what float32 changes of a logit."""
TRIES = 400
PENALIZED = 3


class Runner(Protocol):
    """Runs a command line; `process.run` in earnest, something quick in tests."""

    def __call__(
        self,
        command: Sequence[str],
        variables: dict[str, str],
        folder: Path,
        log: Path,
        timeout: float,
    ) -> process.Finished:
        """Run it in `folder` to its end, at most `timeout` seconds, its output in `log`."""
        ...


@dataclass(frozen=True)
class Options:
    """What to run.

    `work` keeps the jobs and logs of the runs (None: a temporary folder that is removed);
    `cache` holds the models, which are made once, and bytecode; `timeout` is that of one run, in
    seconds.
    """

    tree: Path
    launcher: Launcher
    models: Sequence[Model]
    modes: Sequence[Mode]
    work: Path | None = None
    cache: Path | None = None
    timeout: float = 600.0
    stop_at_failure: bool = False
    data_parallel: int = 1
    """Engines of a server, each on devices of its own; experts are spread over them."""
    tensor_parallel: int = 1
    """Workers of each engine of a server."""
    ray: bool = False
    """Whether the several engines of a server are actors of a Ray cluster."""
    vllm: Path | None = None
    """An untouched source of vLLM: then `tree` is a plugin, which is installed beside it."""


def simulate(
    options: Options,
    progress: Callable[[str], None] = lambda _: None,
    runner: Runner = process.run,
) -> Report:
    """Run every model in every mode.

    Raises:
        SimulateError: the tree or the environment cannot be run at all.
    """
    for mode in options.modes:
        without = [model.name for model in options.models if mode.adapters and not model.adapters]
        if without:
            raise SimulateError(f"{without[0]} has no LoRA adapters, which {mode.name} needs")
        drafted = MADE.get(mode.draft)
        for model in options.models:
            if drafted not in (None, model.model_class):
                raise SimulateError(f"{mode.name} needs a {drafted}, which {model.name} is not")
    runs: list[Run] = []
    with opened(options) as (tree, work):
        over_ray = any(mode.ray for mode in options.modes)
        versions = environment.check(options.launcher.python, tree, serve=False, ray=over_ray)
        present = served(tree.root, options.models, progress)
        with forks_of(tree, present, work, options, versions, progress) as forks:
            for model in present:
                folders: dict[Variant, Path] = {}
                for mode in options.modes:
                    variant = variant_of(tree.root, model, mode)
                    if variant not in folders:
                        progress(f"{model.name}: reference")
                        folders[variant] = reference(model, options, versions, runner, variant)
                    folder = folders[variant]
                    progress(f"{model.name} {mode.name}")
                    runs.append(run(tree, model, mode, folder, work, options, runner, forks))
                    if options.stop_at_failure and not runs[-1].passed:
                        return report(tree, options, versions, runs)
        return report(tree, options, versions, runs)


def forks_of(
    tree: EmittedTree,
    present: Sequence[Model],
    work: Path,
    options: Options,
    versions: Versions,
    progress: Callable[[str], None],
) -> forking.Forks:
    """What forks the engines of a plan."""
    installed = (f"{name} {version}" for name, version in versions.installed.items())
    about = [tree.version, str(options.launcher.python), *installed]
    return forking.Forks(
        work / "forks",
        forking.list_of(bytecode_folder(options), *sorted(about)),
        [kind_of(mode, settings_of(tree, mode, work)) for mode in options.modes if forkable(mode)]
        * len(present),
        options.timeout,
        progress,
    )


def forkable(mode: Mode) -> bool:
    """Whether a run is one program that starts in the way of most others."""
    return not mode.connector and not mode.ray


def settings_of(tree: EmittedTree, mode: Mode, work: Path) -> dict[str, str]:
    """The environment of a run, but for where it is recorded."""
    return {
        # In half precision, what the device refuses is to be refused.
        **environment.variables(tree, work, float32=mode.dtype == "float32"),
        **mode.environment,
    }


def kind_of(mode: Mode, settings: Mapping[str, str]) -> str:
    """What the runs of one server have in common with a run in this mode and environment."""
    return forking.kind_of(settings, mode.devices, mode.nnal, mode.triton)


def served(tree: Path, chosen: Sequence[Model], progress: Callable[[str], None]) -> Sequence[Model]:
    """The models that the release in `tree` has.

    Raises:
        SimulateError: it has none of them.
    """
    registry = tree / "vllm" / "model_executor" / "models" / "registry.py"
    if not registry.is_file():
        return chosen
    known = registry.read_text(encoding="utf-8")
    newer = [model for model in chosen if f'"{model.model_class}"' not in known]
    for model in newer:
        progress(f"{model.name} is left out, the release has no {model.model_class}")
    if chosen and len(newer) == len(chosen):
        raise SimulateError(f"the release has no {chosen[0].model_class}")
    return [model for model in chosen if model not in newer]


def report(tree: EmittedTree, options: Options, versions: Versions, runs: Sequence[Run]) -> Report:
    """The report of some runs."""
    shown = ("torch", "torch_npu", "transformers")
    return Report(
        schema_version=SCHEMA_VERSION,
        tree=str(options.tree),
        release=tree.label.release,
        claim=tree.label.claim,
        python=str(options.launcher.python),
        versions={name: versions.installed[name] for name in shown},
        missing=list(versions.missing),
        runs=list(runs),
    )


@contextmanager
def opened(options: Options) -> Iterator[tuple[EmittedTree, Path]]:
    """What is to be run, and the folder of the runs.

    Raises:
        SimulateError: there is no such tree or plugin.
    """
    emitted = environment.open_tree(options.tree) if options.vllm is None else None
    with work_folder(options.work) as work:
        if options.vllm is not None:
            python = options.launcher.python
            emitted = environment.open_plugin(options.tree, options.vllm, python, work)
        assert emitted is not None
        kept = bytecode.kept(bytecode_folder(options), (emitted.root / "vllm", *emitted.beside))
        yield replace(emitted, bytecode=kept), work


@contextmanager
def work_folder(wanted: Path | None) -> Iterator[Path]:
    """The folder of the runs: the one asked for, or a temporary one."""
    if wanted is not None:
        wanted.mkdir(parents=True, exist_ok=True)
        yield wanted.resolve()
        return
    with tempfile.TemporaryDirectory(
        prefix="vllm-npu-migrate-", ignore_cleanup_errors=True
    ) as folder:
        yield Path(folder)


def cache_folder(options: Options) -> Path:
    """Where models are kept."""
    return options.cache or private_cache("models")


def bytecode_folder(options: Options) -> Path:
    """Where bytecode is kept, for trees and environments alike."""
    return private_cache("bytecode") if options.cache is None else options.cache / "bytecode"


@dataclass(frozen=True)
class Variant:
    """What a model's checkpoint and tokens have of the way in which it is run.

    `shards`: devices whose parts of a layer's input are quantized each by itself; `spread`: experts
    lie on one device each, and their inputs are in one part; `packed`: scales of products are as
    ModelSlim has them for float16; `router`: dtype that the release rounds the logits of routers
    to, whatever the model's is.
    """

    shards: int = 1
    spread: bool = False
    packed: bool = False
    router: str = ""


PLAIN = Variant()


def variant_of(tree: Path, model: Model, mode: Mode) -> Variant:
    """What the release in `tree` and the mode make of a model."""
    router = rounded_router(tree / model.routed_in) if model.routed_in else ""
    quantization = model.quantization
    if quantization is None:
        return Variant(router=router)
    packed = quantization.method == "modelslim" and mode.dtype == "float16"
    if not quantization.dynamic:
        return Variant(packed=packed, router=router)
    return Variant(
        int(mode.engine.get("tensor_parallel_size", 1)),
        bool(mode.engine.get("enable_expert_parallel")),
        packed,
        router,
    )


def rounded_router(module: Path) -> str:
    """The dtype of half precision that a module of vLLM gives the logits of its routers, or ""."""
    try:
        tree = ast.parse(module.read_bytes())
    except (OSError, SyntaxError):
        return ""
    for node in ast.walk(tree):
        if (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Attribute)
            and node.func.attr == "set_out_dtype"
            and any("torch.bfloat16" in ast.unparse(argument) for argument in node.args)
        ):
            return "bfloat16"
    return ""


def reference(
    model: Model, options: Options, versions: Versions, runner: Runner, variant: Variant = PLAIN
) -> Path:
    """The folder of a model and its reference tokens, made now or earlier.

    Raises:
        SimulateError: transformers cannot make them.
    """
    job: dict[str, Any] = {
        "model": model.name,
        "config_class": model.config_class,
        "model_class": model.model_class,
        "config": model.settings,
        "new_tokens": models.NEW_TOKENS,
        "wanted_gap": WANTED_GAP,
        "tries": TRIES,
        "fresh": [asdict(prompt) for prompt in models.FRESH],
        "again": [asdict(prompt) for prompt in models.AGAIN],
        "chats": models.CHATS,
        "penalty": models.PENALTY,
        "penalized": PENALIZED,
        "adapters": [asdict(adapter) for adapter in model.adapters],
        "adapted": [asdict(prompt) for prompt in models.ADAPTED],
    }
    if variant.router:
        job["router"] = variant.router
    programs = [environment.PROGRAMS / "reference.py"]
    if model.quantization is not None:
        job["quantization"] = {
            **asdict(model.quantization),
            "shards": variant.shards,
            "spread": variant.spread,
            "packed": variant.packed,
        }
        programs.insert(0, environment.PROGRAMS / "quantized.py")
    made_by = {name: versions.installed[name] for name in ("torch", "transformers", "tokenizers")}
    key = hashlib.sha256(
        json.dumps([job, made_by], sort_keys=True).encode()
        + b"".join(program.read_bytes() for program in programs)
    ).hexdigest()[:16]
    folder = cache_folder(options) / f"{model.name}-{key}"
    return made(folder, programs[0], job, "reference.json", options, runner)


def made(
    folder: Path,
    program: Path,
    job: dict[str, Any],
    last: str,
    options: Options,
    runner: Runner,
) -> Path:
    """`folder` with what a program writes into it, of which `last` is a file, made once.

    Raises:
        SimulateError: the program fails.
    """
    if (folder / last).is_file():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    name = folder.name.rpartition("-")[0]
    part = Path(tempfile.mkdtemp(prefix=f".{name}-", dir=folder.parent))
    try:
        job_file, log = part / "job.json", part / "log"
        job_file.write_text(json.dumps({**job, "out": str(part)}), encoding="utf-8")
        command = [str(options.launcher.python), str(program), str(job_file)]
        # On the CPU, without the simulator: it must not depend on what is judged by it.
        settings = environment.cpu_variables(bytecode=bytecode_folder(options))
        finished = runner(command, settings, part, log, options.timeout)
        if finished.code != 0 or not (part / last).is_file():
            said = process.tail(log, 1)
            raise SimulateError(
                f"{last} of {name} cannot be made: {said[0] if said else ending(finished)}"
            )
        if not (folder / last).is_file():
            part.rename(folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return folder


def drafts(model_folder: Path, mode: Mode, options: Options, runner: Runner) -> Path | None:
    """The folder of what makes a mode's drafts, made now or earlier; None where no model does.

    Raises:
        SimulateError: it cannot be made.
    """
    if mode.draft not in MADE:
        return model_folder if mode.draft in SAME else None
    program = environment.PROGRAMS / "draft.py"
    key = hashlib.sha256(program.read_bytes()).hexdigest()[:16]
    content = {"kind": mode.draft, "model": str(model_folder)}
    return made(
        model_folder.with_name(f"{model_folder.name}-{mode.draft}-{key}"),
        program,
        content,
        "config.json",
        options,
        runner,
    )


def engine_job(
    model_folder: Path, mode: Mode, reference: dict[str, Any], out: Path, drafts: Path | None = None
) -> dict[str, Any]:
    """What the engine program is told; `drafts` is the folder of what makes them."""
    batches = judge.batches(reference) if mode.adapters else {}
    engine = {**ENGINE, **mode.engine}
    served = drafts if drafts is not None and mode.draft in WITHIN else model_folder
    if drafts is not None and mode.draft not in WITHIN:
        engine["speculative_config"] = {**engine["speculative_config"], "model": str(drafts)}
    return {
        "adapters": [
            str(model_folder / adapter["name"]) for adapter in reference.get("adapters", ())
        ],
        "batches": {
            name: [(request.adapter, request.prompt) for request in batch]
            for name, batch in batches.items()
        },
        "unload_before": judge.UNLOADED_BEFORE,
        "prompt_logprobs_of": judge.PROMPT_LOGPROBS_OF,
        "out": str(out),
        "model": str(served),
        "devices": mode.devices,
        "workers_are_children": mode.multiprocess,
        "new_tokens": reference["new_tokens"],
        "fresh": reference["fresh"]["prompts"],
        "again": reference["again"]["prompts"],
        "penalties": reference["penalties"]["prompts"],
        "penalty": reference["penalty"],
        "engine": engine,
    }


def run(
    tree: EmittedTree,
    model: Model,
    mode: Mode,
    model_folder: Path,
    work: Path,
    options: Options,
    runner: Runner,
    forks: forking.Forks | None = None,
) -> Run:
    """One model in one mode, in a process of its own, which `forks` may fork."""
    wanted = json.loads((model_folder / "reference.json").read_text(encoding="utf-8"))
    folder = work / f"{model.name}-{mode.name}"
    shutil.rmtree(folder, ignore_errors=True)
    record = folder / "record"
    record.mkdir(parents=True)
    job, out, log = folder / "job.json", folder / "out.json", folder / "log"
    if mode.connector:
        content = connectors.job(tree.root, model_folder, mode, wanted, out)
    else:
        drafting = drafts(model_folder, mode, options, runner)
        content = engine_job(model_folder, mode, wanted, out, drafting)
    job.write_text(json.dumps(content), encoding="utf-8")
    settings = {**settings_of(tree, mode, work), forking.RECORD: str(record)}
    name = "connectors.py" if mode.connector else "engine.py"
    program = [str(environment.PROGRAMS / name), str(job)]
    if mode.ray:
        program = environment.over_ray(program)

    def command(program: Sequence[str]) -> list[str]:
        return options.launcher.simulated(
            mode.devices, DEVICE_MEMORY, program, nnal=mode.nnal, triton=mode.triton
        )

    if forks is not None and forkable(mode):
        program = forks.program(kind_of(mode, settings), program, command, settings)
    finished = runner(command(program), settings, folder, log, options.timeout)
    seen = json.loads(out.read_text(encoding="utf-8")) if out.is_file() else {}
    if forks is not None:
        forks.learn(seen.get("modules", ()))
    # What is called after the requests are probes of ours, and shows nothing about the model.
    ends = [phase["end"] for phase in seen.get("phases", {}).values()]
    until = max(ends, default=float("inf"))
    calls = judge.read_calls(record, until)
    exact = mode.dtype == "float32"
    score = None
    if not exact and seen.get("phases"):
        variant = variant_of(tree.root, model, mode)
        score = score_answers(
            model_folder, variant, mode, wanted, seen["phases"], folder, options, runner
        )
    if mode.connector:
        paths = judge.count_paths(calls, seen.get("phases", {}))
        equal, problems = connectors.judge(model, mode, wanted, seen, calls)
    else:
        paths, equal, problems = judge.judge(model, mode, wanted, seen, calls, score)
    problems += collectives.unseen(mode, record, until)
    broken = ended_badly(finished, seen)
    if broken and not seen.get("phases"):
        # What it did not come to says nothing.
        problems = []
    problems = [*broken, *races(log), *problems]
    return Run(
        model=model.name,
        mode=mode.name,
        equal=equal,
        problems=problems,
        seconds=round(finished.seconds, 1),
        paths=paths,
        operators=dict(sorted(calls.operators.items())),
        gap=wanted["gap"],
        noise=wanted["noise"],
        log=process.tail(log) if broken else [],
        exact=exact,
    )


def races(log: Path) -> list[str]:
    """What the simulator said in a log of races, each once.

    The error that it makes of one reaches whoever waits next, and may be caught there.
    """
    try:
        text = log.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return []
    found = re.findall(r"ascend simulator: (race: [^\n]*)", text)
    return list(dict.fromkeys(f"{line[:600]} (simulated Ascend)" for line in found))


def score_answers(
    model_folder: Path,
    variant: Variant,
    mode: Mode,
    wanted: dict[str, Any],
    phases: dict[str, Any],
    folder: Path,
    options: Options,
    runner: Runner,
) -> dict[str, Any] | None:
    """What the score program says of a run in half precision; None if it failed."""
    job, out = folder / "score.json", folder / "scored.json"
    content = {
        "out": str(out),
        "model": str(model_folder),
        "dtype": mode.dtype,
        "shards": variant.shards,
        "spread": variant.spread,
        "sequences": judge.sequences(wanted, phases),
    }
    job.write_text(json.dumps(content), encoding="utf-8")
    command = [str(options.launcher.python), str(environment.PROGRAMS / "score.py"), str(job)]
    settings = environment.cpu_variables(bytecode=bytecode_folder(options))
    finished = runner(command, settings, folder, folder / "score.log", options.timeout)
    if finished.code != 0 or not out.is_file():
        return None
    score: dict[str, Any] = json.loads(out.read_text(encoding="utf-8"))
    return score


def ending(finished: process.Finished) -> str:
    """How a program ended."""
    if finished.code is None:
        return f"not done after {finished.seconds:.0f} s"
    if finished.code < 0:
        return f"died of signal {-finished.code}"
    return f"exit code {finished.code}"


def ended(finished: process.Finished) -> list[str]:
    """What is wrong with how a program ended and with what it left."""
    problems = [ending(finished)] if finished.code != 0 else []
    return problems + [f"left a process behind: {command[:200]}" for command in finished.left]


def ended_badly(finished: process.Finished, seen: dict[str, Any]) -> list[str]:
    """What is wrong with the way in which a run ended."""
    if finished.code == 0 and not seen.get("finished"):
        return ["the run ended before it was done", *ended(finished)]
    return ended(finished)
