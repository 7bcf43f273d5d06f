# SPDX-License-Identifier: Apache-2.0
"""What a step of an emitted engine asks of the device: launches, copies, waits.

The same batches are served by a model of two layers and by one of four, of random weights and in
bfloat16, on the simulated Ascend. What differs is what the layers ask for. Nothing is measured in
seconds: a launch is one operator that computes, a wait is one for which the host stops.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from migrator.messages.escaping import terminal
from migrator.verify.simulate import environment, process
from migrator.verify.simulate.environment import EmittedTree, SimulateError, Versions
from migrator.verify.simulate.modes import DEVICE_MEMORY, Mode
from migrator.verify.simulate.run import Options, Runner, ending, opened

if TYPE_CHECKING:
    from rich.console import Console

SCHEMA_VERSION = 1
LAYERS = (2, 4)
"""Of the two models."""
MODEL: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "vocab_size": 2048,
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "head_dim": 64,
    "hidden_act": "silu",
    "rms_norm_eps": 1e-6,
    "rope_theta": 10000.0,
    "max_position_embeddings": 1024,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
}
PREFILL, BUDGET, SHORT, REST = 256, 256, 16, 100
"""Tokens of a prompt alone, of a step at most, of each prompt of a batch, and of what is left of a
long prompt beside decodes."""
ENGINE: dict[str, Any] = {
    "dtype": "bfloat16",
    "max_model_len": 1024,
    "max_num_batched_tokens": BUDGET,
    "max_num_seqs": 16,
    "enable_prefix_caching": False,
    "gpu_memory_utilization": 0.6,
    "seed": 0,
}
SAMPLING: dict[str, dict[str, Any]] = {
    "decode": {"temperature": 0},
    "random": {"temperature": 1.0},
    "top-p": {"temperature": 1.0, "top_p": 0.9},
    "top-k, top-p": {"temperature": 1.0, "top_k": 20, "top_p": 0.9},
    "min-p": {"temperature": 1.0, "min_p": 0.1},
    "seeds": {"temperature": 1.0, "seed": 1},
    "penalties": {
        "temperature": 0,
        "repetition_penalty": 1.1,
        "presence_penalty": 0.1,
        "frequency_penalty": 0.1,
    },
    "log-probabilities": {"temperature": 0, "logprobs": 3},
}
"""Ways in which eight requests are decoded; the first is greedy."""
WAYS = ("eager", "graph", "full-graph", "no-nnal")
"""Modes of `verify --simulate` whose steps can be counted: one process, one device."""
COST_MODES = ("eager", "full-graph")
"""Those that are counted where none is named."""


class Count(msgspec.Struct):
    """What a place of the program asked for in a step: how often, and bytes or launches in all.

    `kind` is "launch", "to device", "to host", "wait" or "replay". `dtypes` are those that a launch
    reads and writes ("int64,int64->bool"), where the simulator knows them; `ai_cpu` says whether
    CANN has no kernel on AI cores for them, None where no list of CANN's names the operator.
    """

    kind: str
    what: str
    place: str
    times: int
    amount: int
    dtypes: str = ""
    ai_cpu: bool | None = False


class Step(msgspec.Struct):
    """A step of the model of four layers.

    `launches` are asked for by the host one by one, `replayed` are those of replayed graphs; of
    both together `layer` are asked for by each layer. `pageable` of the copies in both directions
    are of memory that is not pinned, for which the host waits; `waits` counts these too. `ai_cpu`
    of the launches are computed by the AI CPU.
    """

    name: str
    launches: int
    replayed: int
    layer: float
    to_device: int
    to_device_bytes: int
    to_host: int
    pageable: int
    waits: int
    ai_cpu: int
    counts: list[Count]


class Way(msgspec.Struct):
    """The steps of one mode; what went wrong where there are none."""

    mode: str
    steps: list[Step]
    problem: str = ""
    log: list[str] = []


class Costs(msgspec.Struct):
    """All steps of a tree in an environment (name → version of what was installed)."""

    schema_version: int
    tree: str
    release: str | None
    claim: str | None
    versions: dict[str, str]
    ways: list[Way]
    against: Costs | None = None
    """Those of another tree, in the same environment."""

    @property
    def passed(self) -> bool:
        """Every mode has its steps."""
        return not any(way.problem for way in self.ways) and (
            self.against is None or self.against.passed
        )


QUANTITIES = (
    "launches",
    "layer",
    "replayed",
    "to_device",
    "to_host",
    "pageable",
    "waits",
    "ai_cpu",
)
"""Fields of a step that a budget can name."""


class Budget(msgspec.Struct, frozen=True):
    """The most that a step may take of something."""

    step: str
    quantity: str
    most: float

    @classmethod
    def parse(cls, text: str) -> Budget:
        """A budget from `STEP.QUANTITY=NUMBER`.

        Raises:
            ValueError: that says no budget, and why.
        """
        name, equals, number = text.partition("=")
        step, _, quantity = name.rpartition(".")
        steps = ("prefill", "mixed", *SAMPLING)
        if not equals or step not in steps or quantity not in QUANTITIES:
            raise ValueError(
                f"{text!r} is no budget: write STEP.QUANTITY=NUMBER, such as decode.waits=1, with "
                f"a step of {'; '.join(steps)} and a quantity of {', '.join(QUANTITIES)}"
            )
        try:
            return cls(step, quantity, float(number))
        except ValueError:
            raise ValueError(f"{text!r} is no budget: {number!r} is no number") from None


def costs(
    options: Options,
    progress: Callable[[str], None] = lambda _: None,
    runner: Runner = process.run,
) -> Costs:
    """Count the steps of a tree in each mode.

    Raises:
        SimulateError: the tree or the environment cannot be run at all, or a mode has no steps that
            can be counted.
    """
    for mode in options.modes:
        if mode.name not in WAYS:
            raise SimulateError(f"steps are counted in {', '.join(WAYS)}, not in {mode.name}")
    with opened(options) as (tree, work):
        versions = environment.check(options.launcher.python, tree, serve=False)
        ways = []
        for mode in options.modes:
            progress(f"steps, {mode.name}")
            ways.append(count(tree, mode, work, options, runner))
        return _costs(tree, options, versions, ways)


def _costs(tree: EmittedTree, options: Options, versions: Versions, ways: list[Way]) -> Costs:
    shown = ("torch", "torch_npu", "transformers")
    return Costs(
        schema_version=SCHEMA_VERSION,
        tree=str(options.tree),
        release=tree.label.release,
        claim=tree.label.claim,
        versions={name: versions.installed[name] for name in shown},
        ways=ways,
    )


def count(tree: EmittedTree, mode: Mode, work: Path, options: Options, runner: Runner) -> Way:
    """Count the steps of one mode, in the folder `work`."""
    found = []
    for layers in LAYERS:
        folder = work / f"cost-{mode.name}-{layers}"
        shutil.rmtree(folder, ignore_errors=True)
        model = folder / "model"
        model.mkdir(parents=True)
        settings = {**MODEL, "num_hidden_layers": layers}
        (model / "config.json").write_text(json.dumps(settings), encoding="utf-8")
        job, out, log = folder / "job.json", folder / "out.json", folder / "log"
        job.write_text(json.dumps(_job(model, mode, out)), encoding="utf-8")
        variables = {
            **environment.variables(tree, work, float32=False),
            "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
            **mode.variables,
        }
        program = [str(environment.PROGRAMS / "cost.py"), str(job)]
        command = options.launcher.simulated(1, DEVICE_MEMORY, program, nnal=mode.nnal)
        finished = runner(command, variables, folder, log, options.timeout)
        if finished.code != 0 or not out.is_file():
            return Way(mode.name, [], ending(finished), process.tail(log))
        found.append(msgspec.json.decode(out.read_bytes(), type=dict[str, list[Count]]))
    return Way(mode.name, folded(*found))


def _job(model: Path, mode: Mode, out: Path) -> dict[str, Any]:
    # What a mode says of its dtype is said for its tokens.
    told = {name: value for name, value in mode.engine.items() if name != "dtype"}
    return {
        "model": str(model),
        "out": str(out),
        "engine": {**ENGINE, **told},
        "vocabulary": MODEL["vocab_size"],
        "prefill": PREFILL,
        "budget": BUDGET,
        "short": SHORT,
        "rest": REST,
        "sampling": SAMPLING,
    }


def folded(few: Mapping[str, Sequence[Count]], many: Mapping[str, Sequence[Count]]) -> list[Step]:
    """The steps of two models whose layers are LAYERS."""
    between = LAYERS[1] - LAYERS[0]
    return [
        Step(
            name=name,
            launches=_times(counts, "launch"),
            replayed=_amount(counts, "replay"),
            layer=(_launched(counts) - _launched(few[name])) / between,
            to_device=_times(counts, "to device"),
            to_device_bytes=_amount(counts, "to device"),
            to_host=_times(counts, "to host"),
            pageable=sum(count.times for count in counts if count.what == "of pageable memory"),
            waits=_times(counts, "wait"),
            ai_cpu=sum(count.times for count in counts if count.ai_cpu),
            counts=sorted(counts, key=lambda c: (c.kind, -c.times, c.what, c.place)),
        )
        for name, counts in many.items()
    ]


def _times(counts: Iterable[Count], kind: str) -> int:
    return sum(count.times for count in counts if count.kind == kind)


def _amount(counts: Iterable[Count], kind: str) -> int:
    return sum(count.amount for count in counts if count.kind == kind)


def _launched(counts: Sequence[Count]) -> int:
    return _times(counts, "launch") + _amount(counts, "replay")


def overrun(found: Costs, budgets: Sequence[Budget]) -> list[str]:
    """What takes more than it may, a line each."""
    return [
        f"{way.mode}, {step.name}: {getattr(step, budget.quantity):g} {budget.quantity}, at most "
        f"{budget.most:g}"
        for way in found.ways
        for step in way.steps
        for budget in budgets
        if budget.step == step.name and getattr(step, budget.quantity) > budget.most
    ]


def as_json(found: Costs) -> str:
    """All costs, indented."""
    return msgspec.json.format(msgspec.json.encode(found), indent=2).decode()


HEADINGS = (
    "step",
    "launches",
    "replayed",
    "a layer",
    "to device",
    "bytes",
    "to host",
    "pageable",
    "waits",
    "AI CPU",
)


def cells(step: Step) -> tuple[str, ...]:
    """A line of the table, a text for each of HEADINGS."""
    return (
        step.name,
        str(step.launches),
        str(step.replayed or "–"),
        f"{step.layer:g}",
        str(step.to_device),
        str(step.to_device_bytes),
        str(step.to_host),
        str(step.pageable or "–"),
        str(step.waits or "–"),
        str(step.ai_cpu or "–"),
    )


def write(found: Costs, console: Console, *, places: bool) -> None:
    """Tables of all modes, those of another tree beside, and what the host waited for or the AI CPU
    computed.

    Args:
        found: of a tree.
        console: where they go.
        places: list every place of the program, not those alone at which it waits or which the
            AI CPU computes.
    """
    others = {way.mode: way for way in found.against.ways} if found.against is not None else {}
    for way in found.ways:
        _write_way(way, console, others.get(way.mode))
        for one in asked(way, everything=places):
            where = "every step" if len(one.steps) == len(way.steps) else "; ".join(one.steps)
            line = f"  {one.times} {one.asks}: {one.place} ({where})"
            console.print(terminal(line), markup=False, soft_wrap=True)


class Asked(NamedTuple):
    """What a place asks for, alike in some steps."""

    kind: str
    what: str
    dtypes: str
    ai_cpu: bool | None
    place: str
    times: int
    steps: tuple[str, ...]

    @property
    def asks(self) -> str:
        """What it asks for, in words."""
        if not self.ai_cpu:
            return f"{self.kind}, {self.what}"
        return f"{self.kind} on the AI CPU, {self.what} of {self.dtypes}"


def asked(way: Way, *, everything: bool) -> list[Asked]:
    """What each place asks for and in which steps; of all, or of what the host waits for and the AI
    CPU computes."""
    steps: dict[tuple[str, str, str, bool | None, str, int], list[str]] = {}
    for step in way.steps:
        for count in step.counts:
            if everything or count.kind == "wait" or count.ai_cpu:
                one = count.kind, count.what, count.dtypes, count.ai_cpu, count.place
                key = *one, count.times
                steps.setdefault(key, []).append(step.name)
    return [Asked(*key, tuple(names)) for key, names in steps.items()]


def _write_way(way: Way, console: Console, other: Way | None) -> None:
    from rich.table import Table

    if way.problem:
        console.print(terminal(f"{way.mode}: {way.problem}"), markup=False, soft_wrap=True)
        for line in way.log:
            console.print(terminal(f"    {line}"), markup=False, soft_wrap=True)
        return
    title = f"{way.mode}: what a step of {LAYERS[1]} layers asks for"
    table = Table(
        title=title if other is None else f"{title}; the other tree", title_justify="left"
    )
    for heading in HEADINGS:
        table.add_column(heading, justify="left" if heading == "step" else "right", no_wrap=True)
    beside = {step.name: cells(step) for step in other.steps} if other is not None else {}
    for step in way.steps:
        name, *numbers = cells(step)
        if name in beside:
            both = zip(numbers, beside[name][1:], strict=True)
            numbers = [f"{ours}; {theirs}" for ours, theirs in both]
        table.add_row(name, *numbers)
    console.print(table)
