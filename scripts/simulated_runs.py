# SPDX-License-Identifier: Apache-2.0
"""Run emitted releases on the simulated Ascend and write docs/simulated-runs.md.

For each release: `apply`, `verify` without running, and tiny models through the tree, mode by mode,
compared with transformers on the CPU. Every outcome is kept below --state as soon as it is there,
by what it came from (the tree's files, the programs, the simulator, the environment), so that an
interrupted run goes on where it was and nothing runs twice. The table shows what ran, failures
too; runs that are planned and have no outcome are listed below it.

    python scripts/simulated_runs.py --env DIR                     # all releases
    python scripts/simulated_runs.py --env DIR 0.11.0 0.32.0       # these
    python scripts/simulated_runs.py --env DIR --old-env DIR       # 0.11.0's graphs and server too
    python scripts/simulated_runs.py --write-only                  # the page from what is there
"""

from __future__ import annotations

import argparse
import hashlib
import json
import signal
import sys
import time
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import msgspec
import platformdirs
from tool import ROOT, command

from migrator.files.interpreters import interpreter
from migrator.files.sources import fetch
from migrator.files.tree import LOG_NAME
from migrator.verify import simulate
from migrator.verify.simulate import models as all_models
from migrator.verify.simulate import modes as all_modes
from migrator.verify.simulate.report import Run, equality

PAGE = ROOT / "docs" / "simulated-runs.md"
EARLY = ("0.10.0",)
"""Releases of which a model runs eagerly, no more: their model runners ask for other things."""
RELEASES = (*EARLY, "0.11.0", "0.13.0", "0.18.0", "0.23.0", "0.29.0", "0.32.0", "0.33.0")
DEEP = ("0.11.0", "0.32.0")
"""Releases that run in every mode and with every model."""
DRAFTS = ("ngram-eager", "draft-eager", "eagle-eager")
"""Modes with speculative decoding that an NPU does."""
RUNNER_V2 = tuple(name for name, mode in simulate.MODES.items() if mode.runner_v2)
CONNECTORS = tuple(name for name, m in simulate.MODES.items() if m.connector and not m.runner_v2)
NEWER = {"0.11.0": ("minimax-m2", *CONNECTORS, *DRAFTS, *RUNNER_V2)}
"""Release → models and modes that came later."""
UNFIT = {"0.11.0": (("llama-w8a8", "graph"), ("llama-w8a8", "full-graph"))}
"""Release → what its torch_npu does not trace in float32, but in the device's own dtypes."""
LORA = tuple(name for name, mode in simulate.MODES.items() if mode.adapters)
OLD = {
    "0.10.0": ("llama",),
    "0.11.0": (
        "serve",
        "serve-dp2",
        "serve-dp2-tp2",
        "serve-ray-dp2",
        "graph",
        "tp2-graph",
        "full-graph",
        "bfloat16-full-graph",
        "gemma",
        "gemma3",
        "llama4",
        "qwen2-moe",
        "refusals",
        *(name for name in LORA if name.endswith("graph")),
        "features",
    ),
}
"""Release → modes and models that do not go with the newer environment, on any device."""
EVERYWHERE = (
    ("llama", "eager"),
    ("llama", "mp"),
    ("llama", "tp2"),
    ("qwen2", "eager"),
    ("qwen3", "eager"),
    ("mistral", "eager"),
    ("deepseek-v2", "eager"),
    ("deepseek-v3", "eager"),
    ("llama-w8a8", "eager"),
    ("vllm", "install"),
)
ALSO = (
    ("llama", "graph"),
    ("llama", "pp2"),
    ("mixtral", "eager"),
    ("qwen3-moe", "eager"),
    ("qwen2-moe", "eager"),
    ("glm4-moe", "eager"),
    ("llama4", "eager"),
    ("llama", "serve"),
    ("mixtral", "serve-dp2"),
    ("qwen3-moe", "serve-dp2-tp2"),
    ("vllm", "refusals"),
    ("vllm", "features"),
    ("llama", "bfloat16"),
    ("llama", "nz"),
    ("llama", "no-nnal"),
    ("llama", "no-nnal-installed"),
    ("llama", "full-graph"),
    ("gemma", "eager"),
    ("gemma3", "eager"),
    ("gemma3", "full-graph"),
    ("minimax-m2", "eager"),
    ("gpt2", "eager"),
    *(("deepseek-v2", mode) for mode in ("full-graph", "no-nnal", "bfloat16", "nz")),
    *(("deepseek-v3", mode) for mode in ("full-graph", "tp2", "tp2-full-graph", "bfloat16")),
    ("mixtral", "tp2"),
    ("llama", "tp2-graph"),
    ("qwen2", "tp2"),
    ("llama", "ray-tp2"),
    ("llama", "ray-pp2"),
    ("mixtral", "serve-ray-dp2"),
    *(("llama-w8a8", name) for name in ("graph", "full-graph", "bfloat16-full-graph")),
    *(("llama-w8a8", name) for name in ("tp2", "nz")),
    ("llama-w8a8-static", "eager"),
    ("llama-w8a8-zero", "eager"),
    ("llama-w8a8-zero", "bfloat16"),
    ("llama-modelslim", "eager"),
    ("llama-modelslim", "tp2"),
    ("llama-modelslim", "float16"),
    ("qwen3-moe-modelslim", "eager"),
    *(("llama", name) for name in (*LORA, *DRAFTS, *CONNECTORS, *RUNNER_V2)),
)
TIMEOUT = 900.0

RECIPE = """\
## The environment

One environment with torch 2.13.0 runs every release: vLLM itself is not installed, the emitted
tree stands on PYTHONPATH with a metadata folder of its own. The requirements are those of a tree of
0.32.0, which `apply` fetches and writes:

    vllm-npu-migrate apply vllm==0.32.0 -o vllm-0.32.0-npu
    python3.11 -m venv ENV
    ENV/bin/pip install torch==2.13.0 torch_npu==2.13.0 setuptools==78.1.1
    ENV/bin/pip install setuptools-scm setuptools-rust wheel
    ENV/bin/pip install -r vllm-0.32.0-npu/requirements/common.txt
    ENV/bin/pip install --no-deps diskcache depyf astor lm-format-enforcer interegular gguf \\
        numba llvmlite
    ENV/bin/pip install ray==2.60.0

The second line is what `install` builds a wheel with, the last but one what older releases import
and 0.32.0 no longer asks for; the last one is for the runs over Ray alone, which are not made
without it. The CPU build of torch is the one to take:
torch_npu refuses to run beside an active CUDA. `vllm-npu-migrate simulator doctor --env ENV` says
whether torch, torch_npu and a compiler fit.

Five things of 0.11.0 do not go with it, on any device: its server, its Gemmas and its Llama 4 ask
transformers 5 for attributes that are gone, its GLM-4 gives wrong tokens with it, its Qwen2-MoE has
a sliding window of 0 tokens by it, and its graphs patch a function of torch that has another
signature now. They run in an environment of the torch that
0.11.0 was made for:

    vllm-npu-migrate apply vllm==0.11.0 -o vllm-0.11.0-npu
    python3.11 -m venv ENV-OLD
    ENV-OLD/bin/pip install torch==2.8.0 torch_npu==2.8.0.post2 setuptools==78.1.1
    ENV-OLD/bin/pip install -r vllm-0.11.0-npu/requirements/common.txt "transformers<5"
    ENV-OLD/bin/pip install --no-deps numba llvmlite
    ENV-OLD/bin/pip install ray==2.60.0

So does 0.10.0: it does not serve without a tokenizer, and asks those of transformers 5 for
attributes that are gone. Later releases run without one there. 0.9.2 goes with transformers before
4.54 alone, and is in no table: its llama, eager, passed `verify --simulate` with 4.53.3.

Each run has 256 MiB a device, so that the size of the KV cache comes from vLLM's own profiling.
"""


INTRODUCTION = """\
Made by `python scripts/simulated_runs.py`: emitted releases run tiny random models on the simulated
Ascend. Every greedy token is compared with transformers on the CPU in float32: for prompts of 1 to
307 tokens, for such prompts on a warm prefix cache, with penalties, and where `top_k` 1 or `top_p`
near 0 leaves one token to draw. Prefill, decode, chunked and cached are calls of the attention
operators, over all layers and workers; replays are those of captured graphs; gap is the smallest
lead of a best logit in the reference. A run also fails if an NPU operator of the model is not
reached, if sampling with a seed does not reproduce, if collectives do not go over HCCL, or if a
process or device memory is left behind. `serve` is `vllm serve`, asked through the OpenAI client:
answers in one piece, streamed, and several at once; `serve-dp2` has two engines (data parallel),
over which the experts are spread, and each of those of `serve-dp2-tp2` has two workers, which part
the tokens among them before the experts. `ray-tp2`, `ray-pp2` and `serve-ray-dp2` do the same with
workers or engines in actors of a local Ray cluster, which lacks the settings of HCCL and CANN that
vLLM has: each worker has to have them. `install` builds a wheel with `VLLM_TARGET_DEVICE=npu`.
`refusals` starts engines that an NPU cannot serve (float32, ALiBi, a soft cap, an encoder, latent
attention, odd sizes of heads and blocks, sleep mode, speculative decoding) and wants a clear error
of each. `features` tries what no model here has: poolers, prompts as embeddings, a user's processor
of logits, classes of rotary embedding. Where transformers lets the release load a tokenizer, a
structured output has to be one of the answers that it was given to choose from. A run in one
process also asks some functions of vLLM directly: kernels that layers do not go through, the
current stream, the default backend of process groups, `transfer_to_npu`.

Modes with `lora1` and `lora2` have one and two slots for LoRA adapters. There two adapters (one of
all linear layers, one of a lower rank also of the embedding and the head) are compared with the
same model with the adapter merged into its weights: requests without an adapter, with one, with
both, and batches of these mixed, then again after all adapters were unloaded; `-sharded` shards the
adapters over both devices.

The device's attention takes float16 and bfloat16 only, so the simulator is told to let float32
pass, but not in `bfloat16` and `nz` (linear weights in FRACTAL_NZ). There the tokens are near if no
more of them miss the best one, by transformers in float32, than twice what transformers itself
misses in bfloat16 and 5% of all.

What such runs cannot show: numerics of the device's kernels, asynchrony, speed.
"""


@dataclass(frozen=True)
class Job:
    """One model in one mode on one release."""

    release: str
    model: str
    mode: str


class Outcome(msgspec.Struct):
    """A run that was made, with what it was made with; `key` names all that it came from."""

    release: str
    key: str
    torch: str
    transformers: str
    run: Run


class Static(msgspec.Struct):
    """What `apply` and `verify` without running said of a release."""

    release: str
    key: str
    problem: str = ""


class State:
    """Outcomes on disk, one file each, and the emitted trees."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "outcomes").mkdir(parents=True, exist_ok=True)

    def tree(self, release: str) -> Path:
        """Where the emitted tree of a release stands."""
        return self.folder / "trees" / release

    def _file(self, job: Job) -> Path:
        return self.folder / "outcomes" / f"{job.release}-{job.model}-{job.mode}.json"

    def read(self, job: Job) -> Outcome | None:
        """The outcome of a job, whatever it came from."""
        try:
            return msgspec.json.decode(self._file(job).read_bytes(), type=Outcome)
        except (FileNotFoundError, msgspec.DecodeError):
            return None

    def write(self, job: Job, outcome: Outcome) -> None:
        self._file(job).write_bytes(msgspec.json.format(msgspec.json.encode(outcome)))

    def read_static(self, release: str) -> Static | None:
        path = self.folder / "outcomes" / f"{release}.json"
        try:
            return msgspec.json.decode(path.read_bytes(), type=Static)
        except (FileNotFoundError, msgspec.DecodeError):
            return None

    def write_static(self, static: Static) -> None:
        path = self.folder / "outcomes" / f"{static.release}.json"
        path.write_bytes(msgspec.json.encode(static))


def plan(releases: Iterable[str]) -> list[Job]:
    """All jobs, the ones that every release has first."""
    chosen = list(releases)
    jobs = [Job(release, "llama", "eager") for release in chosen if release in EARLY]
    chosen = [release for release in chosen if release not in EARLY]
    jobs += [Job(release, *what) for what in EVERYWHERE for release in chosen]
    deep = [release for release in chosen if release in DEEP]
    jobs += [
        Job(release, model, mode)
        for model, mode in ALSO
        for release in deep
        if not {model, mode} & set(NEWER.get(release, ()))
        and (model, mode) not in UNFIT.get(release, ())
    ]
    return jobs


def digest(paths: Iterable[Path]) -> str:
    """One hash over the contents of files."""
    total = hashlib.sha256()
    for path in sorted(paths):
        total.update(hashlib.sha256(path.read_bytes()).digest())
    return total.hexdigest()


SIMULATE = ROOT / "migrator" / "verify" / "simulate"
OWN = {
    "features": ("trying.py", "programs/features.py"),
    "refusals": ("refusing.py", "refusal_cases.py"),
    "install": ("installation.py",),
    "connectors": ("connectors.py", "programs/connectors.py"),
}
"""Mode, or kind of modes → the sources that no other mode reads."""
LORA_ONLY = ("vllm/lora/punica_wrapper/punica_npu.py",)
"""Files of an emitted tree that nothing imports without adapters."""
TABLES = {"MODELS", "DEFAULT_MODELS", "MODES", "DEFAULT_MODES"}


def simulator_digest() -> str:
    """What the device is simulated by."""
    return digest(_sources(ROOT / "migrator" / "simulator"))


def run_digest(model: str, mode: str) -> str:
    """What one run is made and judged by: another model or check does not make it run again."""
    way = simulate.MODES.get(mode)
    kind = "connectors" if way is not None and way.connector else mode
    own = {SIMULATE / name for name in OWN.get(kind, ())}
    if way is not None and way.graphs and way.collectives:
        own.add(SIMULATE / "collectives.py")
    # Checks of features and refusals are made from a model of their own choice.
    models = repr(simulate.MODELS.get(model, simulate.MODELS))
    read = digest({*_shared(), SIMULATE / "judge.py", *own})
    modes = repr(simulate.MODES.get(mode))
    told = (read, models, modes, *(constants(module) for module in (all_models, all_modes)))
    return hashlib.sha256("\n".join(told).encode()).hexdigest()


def run_key(tree: Path, job: Job, python: Path) -> str:
    """Names what the outcome of a job on an emitted tree comes from."""
    mode = simulate.MODES.get(job.mode)
    without = () if mode is not None and mode.adapters else LORA_ONLY
    read = tree_digest(tree, without)[:16]
    return f"{read}-{run_digest(job.model, job.mode)[:16]}-{python}"


def constants(module: ModuleType) -> str:
    """What a module's public constants say, but for its tables of all models or modes."""
    values = {name: value for name, value in vars(module).items() if name.isupper()}
    return repr(
        [(name, values[name]) for name in sorted(values) if name[0] != "_" and name not in TABLES]
    )


def _shared() -> set[Path]:
    """The simulator, and the programs that any mode may run."""
    own = {SIMULATE / name for names in OWN.values() for name in names}
    return _sources(ROOT / "migrator" / "simulator") | _sources(SIMULATE / "programs") - own


def _sources(folder: Path) -> set[Path]:
    return {path for path in folder.rglob("*") if path.suffix in {".py", ".cpp", ".h"}}


def tree_digest(tree: Path, without: Collection[str] = ()) -> str:
    """What the migration made of a release, but for some files: the hashes in its log."""
    log = json.loads((tree / LOG_NAME).read_bytes())
    files = sorted(
        (entry["path"], entry["after"] or "")
        for entry in log["files"]
        if entry["path"] not in without
    )
    return hashlib.sha256(json.dumps(files).encode()).hexdigest()


def emit(state: State, release: str) -> Static:
    """Apply a release and verify it without running; the tree stands in the state afterwards."""
    tree = state.tree(release)
    tree.parent.mkdir(parents=True, exist_ok=True)
    applied = command("apply", "-q", "--force", fetch(release), "-o", tree)
    if applied.returncode != 0:
        return Static(release, "", f"apply exits {applied.returncode}: {applied.stderr.strip()}")
    key = tree_digest(tree)
    known = state.read_static(release)
    if known is not None and known.key == key and not known.problem:
        return known
    checked = command("verify", tree, "-q")
    problem = ""
    if checked.returncode != 0:
        lines = (checked.stdout or checked.stderr).strip().splitlines()
        problem = f"verify exits {checked.returncode}: {lines[0] if lines else ''}"
    return Static(release, key, problem)


def launcher(python: Path) -> simulate.Launcher:
    source = f"import sys; sys.path.insert(0, {str(ROOT)!r}); from migrator.cli import main; main()"
    run = (sys.executable, "-c", source, "simulator", "run", "--env", str(python))
    return simulate.Launcher(run, python)


def run_one(
    model: str,
    mode: str,
    tree: Path,
    python: Path,
    work: Path,
    *,
    vllm: Path | None = None,
    timeout: float = TIMEOUT,
) -> simulate.Report:
    """Run a model of the plan in a mode of the plan; `tree` is a plugin if there is `vllm`."""
    others = {
        "serve": simulate.serve,
        "serve-dp2": simulate.serve,
        "serve-dp2-tp2": simulate.serve,
        "serve-ray-dp2": simulate.serve,
        "install": simulate.install,
        "refusals": simulate.refusals,
        "features": simulate.features,
    }
    how = simulate.Options(
        tree=tree,
        vllm=vllm,
        launcher=launcher(python),
        models=() if model == "vllm" else simulate.select_models((model,)),
        modes=() if mode in others else simulate.select_modes((mode,)),
        work=work,
        timeout=timeout,
        data_parallel=2 if "-dp2" in mode else 1,
        tensor_parallel=2 if mode.endswith("dp2-tp2") else 1,
        ray=mode == "serve-ray-dp2",
    )
    return others.get(mode, simulate.simulate)(how)


def make(state: State, job: Job, python: Path) -> simulate.Report:
    """Run one job."""
    work = state.folder / "work" / job.release
    return run_one(job.model, job.mode, state.tree(job.release), python, work)


def interpreter_for(job: Job, env: Path, old_env: Path | None) -> Path | None:
    """The interpreter of a job; None where it needs an environment that was not given."""
    if {job.mode, job.model} & set(OLD.get(job.release, ())):
        return interpreter(old_env) if old_env is not None else None
    return interpreter(env)


# -- the page


def rows(state: State, releases: Iterable[str], earlier: Collection[Job]) -> Iterator[str]:
    for release in releases:
        for job in plan((release,)):
            outcome = state.read(job)
            if outcome is None:
                continue
            run = outcome.run
            cells = [
                release,
                run.model,
                run.mode,
                outcome.torch.partition("+")[0],
                *path_cells(run),
                equality(run).replace("NO", "**no**"),
                f"{run.gap:.3f}" if run.gap is not None else "–",
                f"{run.seconds:.0f}",
                ("pass" if run.passed else "**FAIL**") + (", earlier" if job in earlier else ""),
            ]
            yield f"| {' | '.join(cells)} |"


def is_earlier(state: State, job: Job) -> bool:
    """Whether a job's outcome comes from another state of the tree, the programs or the simulator.

    The tree is the one that was emitted last.
    """
    outcome = state.read(job)
    if outcome is None:
        return False
    _, programs, python = outcome.key.split("-", 2)
    emitted = state.tree(job.release)
    if (emitted / LOG_NAME).is_file():
        return outcome.key != run_key(emitted, job, Path(python))
    return programs != run_digest(job.model, job.mode)[:16]


def path_cells(run: Run) -> list[str]:
    """How often a run took each path, in the order of the columns."""
    paths = run.paths
    counts = (paths.prefill, paths.decode, paths.chunked, paths.cached, paths.replays)
    return [str(count) if count else "–" for count in counts]


COLUMNS = "release model mode torch prefill decode chunked cached replays equal gap s".split()


def page(state: State, releases: Iterable[str]) -> str:
    """The page in Markdown."""
    chosen = list(releases)
    outcomes = [o for o in (state.read(job) for job in plan(chosen)) if o is not None]
    failed = [o for o in outcomes if not o.run.passed]
    absent = [job for job in plan(chosen) if state.read(job) is None]
    earlier = {job for job in plan(chosen) if is_earlier(state, job)}
    versions = sorted({f"torch {o.torch} with transformers {o.transformers}" for o in outcomes})
    lines = [
        "# Simulated runs",
        "",
        INTRODUCTION,
        f"{len(outcomes)} runs, {len(failed)} failed; {', '.join(versions) or 'no environment'}. "
        "Seconds are those of a machine with two cores and other work to do."
        + (
            f" {len(earlier)}, marked so, are from an earlier state of tree, runs or simulator."
            if earlier
            else ""
        ),
        "",
        f"| {' | '.join(COLUMNS)} | |",
        "| --- | --- | --- | --- | ---: | ---: | ---: | ---: | ---: | --- | ---: | ---: | --- |",
        *rows(state, chosen, earlier),
        "",
    ]
    statics = [s for s in (state.read_static(release) for release in chosen) if s is not None]
    if statics:
        good = [s.release for s in statics if not s.problem]
        lines += [f"`apply` and `verify` without running pass for {', '.join(good) or 'none'}.", ""]
        lines += [f"- {s.release}: {s.problem}" for s in statics if s.problem]
    if failed:
        lines += ["", "## Failures", ""]
        for outcome in failed:
            run = outcome.run
            lines.append(f"- {outcome.release} {run.model} {run.mode}:")
            lines += [f"  - {problem}" for problem in run.problems[:4]]
            if len(run.problems) > 4:
                lines.append(f"  - and {len(run.problems) - 4} more")
            said = [line for line in run.log if "Error" in line]
            lines += [f"  - its log: `{said[-1].strip()[:200]}`"] if said else []
    if absent:
        lines += ["", "## Not run", ""]
        lines += [f"- {job.release} {job.model} {job.mode}" for job in absent]
    return "\n".join(lines).replace("\n\n\n", "\n\n").rstrip() + "\n\n" + RECIPE


# -- the command line, which scripts/plugin_runs.py and scripts/mutations.py share

ONLY = "models and modes, such as llama:eager,llama:tp2"
NO_ENV = "--env DIR names the environment that the trees run in"


def options(doc: str | None, page: Path, state: str) -> argparse.ArgumentParser:
    """The options of a script that runs emitted trees.

    Args:
        doc: Its docstring, of which the first paragraph describes it.
        page: The page that it writes.
        state: The folder of its outcomes in the user's cache.
    """
    outcomes = platformdirs.user_cache_path("vllm-npu-migrate") / state
    parser = argparse.ArgumentParser(description=(doc or "").split("\n\n")[0])
    parser.add_argument("releases", nargs="*", metavar="RELEASE", help="what to run [default: all]")
    parser.add_argument("--env", type=Path, help="environment with torch, torch_npu, transformers")
    parser.add_argument("--old-env", type=Path, help="the environment of 0.11.0's own torch")
    parser.add_argument("--state", type=Path, default=outcomes, help="where outcomes are kept")
    parser.add_argument("--write-only", action="store_true", help="run nothing")
    parser.add_argument("--page", type=Path, default=page, help="what to write")
    return parser


def pairs(text: str) -> set[tuple[str, str]]:
    """The value of --only: pairs of a model and a mode.

    Raises:
        argparse.ArgumentTypeError: One is no such pair.
    """
    found = set()
    for part in text.split(","):
        model, colon, mode = part.partition(":")
        if not (model and colon and mode):
            raise argparse.ArgumentTypeError(f"{part!r} is not MODEL:MODE, such as llama:eager")
        found.add((model, mode))
    return found


def exit_on_sigterm() -> None:
    """Let `kill` end the processes of a run as an interrupt does."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))


def main(arguments: list[str]) -> int:
    parser = options(__doc__, PAGE, "simulated-runs")
    parser.add_argument("--only", type=pairs, help=ONLY)
    given = parser.parse_args(arguments)
    exit_on_sigterm()
    state = State(given.state.absolute())
    releases = given.releases or RELEASES
    only = given.only
    jobs = [job for job in plan(releases) if not only or (job.model, job.mode) in only]
    if not given.write_only:
        if given.env is None:
            parser.error(NO_ENV)
        statics = {}
        for release in releases:
            statics[release] = emit(state, release)
            state.write_static(statics[release])
            print(f"{release}: {statics[release].problem or 'applied and verified'}", flush=True)
        for job in jobs:
            python = interpreter_for(job, given.env, given.old_env)
            if python is None or not statics[job.release].key:
                print(f"{job.release} {job.model} {job.mode}: not run", flush=True)
                continue
            key = run_key(state.tree(job.release), job, python)
            known = state.read(job)
            if known is not None and known.key == key and known.run.passed:
                continue
            started = time.monotonic()
            try:
                report = make(state, job, python)
            except simulate.SimulateError as error:
                # Such as Ray, which only some of the runs need.
                print(f"{job.release} {job.model} {job.mode}: not run: {error}", flush=True)
                continue
            (run,) = report.runs
            state.write(
                job,
                Outcome(
                    job.release, key, report.versions["torch"], report.versions["transformers"], run
                ),
            )
            given.page.write_text(page(state, RELEASES), encoding="utf-8")
            took = time.monotonic() - started
            result = "pass" if run.passed else "FAIL: " + run.problems[0]
            print(f"{job.release} {job.model} {job.mode}: {result} ({took:.0f} s)", flush=True)
    given.page.write_text(page(state, RELEASES), encoding="utf-8")
    outcomes = [state.read(job) for job in jobs]
    return 0 if all(o is not None and o.run.passed for o in outcomes) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
