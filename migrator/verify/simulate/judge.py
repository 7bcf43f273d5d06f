# SPDX-License-Identifier: Apache-2.0
"""What a run's record says: tokens against the reference, paths, operators, sampling, memory."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from migrator.verify.simulate.models import ROLES, SAMPLER, Model
from migrator.verify.simulate.modes import ACCEPTED, Mode
from migrator.verify.simulate.report import Paths

GREEDY = {"fresh": "fresh", "again": "again", "penalties": "penalties"}
"""Phase of the engine → part of the reference that its tokens have to equal."""
FORCED = ("top_k 1", "top_p 0")
"""Phases that draw at random, where only the best token can be drawn."""
RUNNER_V2 = "GPUModelRunner V2"
"""What the engine program calls vLLM's model runner V2, which has no class of an NPU's own."""
SAMPLED_TOP_K = 5
KERNEL_ERROR = 1e-5
"""Largest error of a normalised float32 value that the order of additions explains."""
MISSES_OF_ALL = (2.0, 0.05)
"""Share of tokens that may miss the best one: so many times what transformers misses in the same
dtype, and so much more. A wrong operand makes nearly all of them miss."""
MISSES_OF_ONE = 0.5
"""The same of one answer, in which one rounding weighs more."""


UNLOADED_BEFORE = "loaded again"
"""Batch before which all adapters are unloaded."""
PROMPT_LOGPROBS_OF = "two adapters and none"
"""Batch whose requests ask for log probabilities of their prompts, too."""
LOGPROB_ERROR = 1e-3
"""Largest error of a log probability that the order of additions explains, in float32."""


@dataclass(frozen=True)
class Request:
    """A prompt, the number of its adapter (0: none) and what the reference has of it.

    `logprobs`: of each token of the prompt but the first.
    """

    adapter: int
    prompt: list[int]
    tokens: list[int]
    logprobs: list[float]


def batches(reference: dict[str, Any]) -> dict[str, list[Request]]:
    """What runs at once where there are adapters, by the name of the phase."""
    parts = [reference["fresh"], *reference["adapters"]]
    base, first, second = (
        [
            Request(number, *request)
            for request in zip(
                part["prompts"], part["tokens"], part["prompt_logprobs"], strict=True
            )
        ]
        for number, part in enumerate(parts)
    )
    base = base[-len(first) :]

    def mixed(*groups: list[Request]) -> list[Request]:
        return [one for together in zip(*groups, strict=True) for one in together]

    return {
        "without an adapter": base,
        "one adapter": first,
        "one adapter and none": mixed(first, base),
        "two adapters": mixed(first, second),
        PROMPT_LOGPROBS_OF: mixed(base, second, first),
        UNLOADED_BEFORE: mixed(second, base, first),
        "without an adapter again": base,
    }


@dataclass
class Calls:
    """What the processes of a run called on the NPU."""

    operators: Counter[str] = field(default_factory=Counter)
    collectives: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    """(name, device type, backend) → calls."""
    workers: int = 0
    """Processes that computed attention."""
    variables: list[Mapping[str, str]] = field(default_factory=list)
    """Settings of the device in each of these."""
    measured_early: int = 0
    """Processes of these that looked at the free memory before their first collective."""
    attention: list[tuple[float, list[int], list[int]]] = field(default_factory=list)
    """Time, new tokens and context length of each request, of each call."""


def read_calls(folder: Path, until: float = float("inf")) -> Calls:
    """Read the recorder's files up to a time; a line cut off by its process's end is dropped."""
    calls = Calls()
    for path in sorted(folder.glob("*.jsonl")):
        attended = met = early = False
        variables: Mapping[str, str] = {}
        for line in path.read_text(encoding="utf-8").splitlines():
            try:
                entry = json.loads(line)
            except json.JSONDecodeError:
                continue
            if entry["at"] > until:
                continue
            if entry["op"] == "variables":
                variables = entry["seen"]
                continue
            kind, _, name = entry["op"].partition(" ")
            if entry["op"] == "free memory":
                early |= not met
                continue
            if kind == "collective":
                met |= entry["device"] == "npu"
                calls.collectives[name, entry["device"], entry["backend"]] += 1
                continue
            calls.operators[entry["op"]] += 1
            attended |= entry["op"] in ROLES["attention"]
            if "q" in entry:
                calls.attention.append((entry["at"], entry["q"], entry["kv"]))
        calls.workers += attended
        calls.variables += [variables] * attended
        calls.measured_early += attended and early
    return calls


def count_paths(calls: Calls, phases: dict[str, Any]) -> Paths:
    """Count the attention calls of each kind while requests ran.

    Prefill: some request starts; decode: one new token for each request; chunked: more than one
    new token after some from the cache, in the phase whose prompts share nothing; cached: the
    same in the phase that repeats prompts, where the scheduler found their tokens in the cache.
    """
    paths = Paths(replays=calls.operators["graph replay"])
    spans = {name: (phase["start"], phase["end"]) for name, phase in phases.items()}
    hit = any(phases.get("again", {}).get("cached", ()))

    def within(at: float, names: Iterable[str]) -> bool:
        return any(spans[name][0] <= at <= spans[name][1] for name in names if name in spans)

    for at, new, context in calls.attention:
        pairs = list(zip(new, context, strict=True))
        if not within(at, spans):
            continue
        paths.prefill += any(q == kv for q, kv in pairs)
        paths.decode += all(q == 1 for q, kv in pairs) and any(kv > 1 for _, kv in pairs)
        resumed = any(1 < q < kv for q, kv in pairs)
        paths.chunked += resumed and within(at, ("fresh",))
        paths.cached += resumed and hit and within(at, ("again",))
    return paths


def judge(
    model: Model,
    mode: Mode,
    reference: dict[str, Any],
    record: dict[str, Any],
    calls: Calls,
    score: dict[str, Any] | None = None,
) -> tuple[Paths, bool, list[str]]:
    """Paths, whether every greedy token is the reference's, and everything that is not right.

    `score` is what the program of that name found, for a run that is not in float32.
    """
    phases = record.get("phases", {})
    greedy = set(batches(reference)) if mode.adapters else set(GREEDY)
    if mode.dtype == "float32":
        problems = list(differences(reference, phases, adapters=bool(mode.adapters)))
    else:
        problems = list(misses(phases, score))
    equal = not problems and greedy <= set(phases)
    if mode.adapters:
        problems += prompt_logprobs(reference, phases)
    problems += sampling(phases)
    paths = count_paths(calls, phases)
    wanted = ("prefill", "decode") if mode.adapters else ("prefill", "decode", "chunked", "cached")
    for name in wanted:
        if not getattr(paths, name):
            problems.append(f"no attention call was {name}")
    problems += operators(model, mode, calls)
    if mode.draft:
        problems += acceptance(mode.draft, phases)
    problems += distribution(mode, calls)
    problems += description(record.get("described"))
    # The GPU's own V1 runner works by accident where it keeps keys and values as one tensor.
    wanted_runner = RUNNER_V2 if mode.runner_v2 else "NPUModelRunner"
    if record.get("runners", [wanted_runner]) != [wanted_runner]:
        problems.append(f"the model runner is {record['runners']}, not {wanted_runner}")
    for name, error in record.get("kernels", {}).items():
        if isinstance(error, str) or not error < KERNEL_ERROR:
            problems.append(f"_custom_ops.{name} on NPU tensors: {error}")
    if mode.graphs and 0 in record.get("graph_memory", ()):
        problems.append("the cache is sized as if graphs took no memory")
    if record.get("backend", "hccl") != "hccl":
        problems.append(f"process groups have the backend {record['backend']} by default, not hccl")
    error = record.get("transferred", 0.0)
    if isinstance(error, str) or not error < KERNEL_ERROR:
        problems.append(f"_custom_ops.apply_repetition_penalties under transfer_to_npu: {error}")
    if record.get("tokenizer") and not structured(record.get("structured", ())):
        problems.append(f"structured outputs are {record.get('structured')}, not yes or no")
    if not record.get("follows_streams", True):
        problems.append("vLLM's current_stream() does not follow torch.npu.stream()")
    if record.get("takes_v2_runner", False):
        problems.append("the model runner V2 is taken unasked where Triton seems to be there")
    for device, seen in enumerate(record.get("memory_after", ())):
        if seen["free"] != seen["total"]:
            lost = seen["total"] - seen["free"]
            problems.append(f"device {device}: {lost} bytes are not given back after the end")
    return paths, equal, problems


def structured(answers: Sequence[str]) -> bool:
    """Whether there are answers, all of them ones that the grammar of the engine program allows."""
    return bool(answers) and set(answers) <= {"yes", "no"}


def differences(
    reference: dict[str, Any], phases: dict[str, Any], *, adapters: bool = False
) -> Iterator[str]:
    """For each greedy prompt whose tokens are not the reference's: where they part."""
    if adapters:
        wanted = {
            name: [request.tokens for request in batch]
            for name, batch in batches(reference).items()
        }
    else:
        wanted = {name: reference[part]["tokens"] for name, part in GREEDY.items()}
        wanted |= dict.fromkeys(FORCED, reference["fresh"]["tokens"])
    for name, answers in wanted.items():
        if name not in phases:
            yield f"the run did not come to its part '{name}'"
            continue
        got = phases[name]["tokens"]
        if len(got) != len(answers):
            yield f"{name}: {len(got)} answers for {len(answers)} prompts"
        for number, (ours, theirs) in enumerate(zip(got, answers, strict=False)):
            if ours != theirs:
                yield f"{name}, prompt {number}: {parting(ours, theirs)}"


def prompt_logprobs(reference: dict[str, Any], phases: dict[str, Any]) -> Iterator[str]:
    """Prompts whose log probabilities, by the adapter of their request, are not the reference's."""
    if PROMPT_LOGPROBS_OF not in phases:
        return
    found = phases[PROMPT_LOGPROBS_OF]["prompt_logprobs"]
    batch = batches(reference)[PROMPT_LOGPROBS_OF]
    for number, (ours, request) in enumerate(zip(found, batch, strict=True)):
        name = f"{PROMPT_LOGPROBS_OF}, prompt {number}"
        if ours is None or len(ours) != len(request.logprobs):
            yield f"{name}: no log probability for each of its tokens"
            continue
        errors = [abs(one - other) for one, other in zip(ours, request.logprobs, strict=True)]
        # Not a number is no error that is small.
        wrong = [error for error in errors if not error < LOGPROB_ERROR]
        if wrong:
            yield (
                f"{name}: the log probabilities of {len(wrong)} of {len(errors)} prompt tokens "
                f"are off, by up to {max(wrong):.2g}"
            )


def scored(phases: dict[str, Any]) -> list[tuple[str, int]]:
    """Phase and number of each answer that is compared by its logits."""
    names = [name for name in ("fresh", "again", *FORCED) if name in phases]
    return [(name, number) for name in names for number in range(len(phases[name]["tokens"]))]


def sequences(
    reference: dict[str, Any], phases: dict[str, Any]
) -> list[tuple[list[int], list[int]]]:
    """Prompt and tokens of the same answers."""
    parts = {**GREEDY, **dict.fromkeys(FORCED, "fresh")}
    return [
        (reference[parts[name]]["prompts"][number], phases[name]["tokens"][number])
        for name, number in scored(phases)
    ]


def misses(phases: dict[str, Any], score: dict[str, Any] | None) -> Iterator[str]:
    """What rounding does not explain in the greedy answers of a run in half precision."""
    for name in GREEDY:
        if name not in phases:
            yield f"the run did not come to its part '{name}'"
    if score is None:
        yield "the answers were not compared"
        return
    total = missed = 0
    for (name, number), count in zip(scored(phases), score["misses"], strict=True):
        length = len(phases[name]["tokens"][number])
        total, missed = total + length, missed + count
        if count > MISSES_OF_ONE * length:
            yield f"{name}, prompt {number}: {count} of {length} tokens are not the best"
    factor, more = MISSES_OF_ALL
    if missed > (factor * score["own"] + more) * total:
        yield (
            f"{missed} of {total} tokens are not the best; transformers in the same dtype misses "
            f"{score['own']:.0%}"
        )


def parting(ours: Sequence[int], theirs: Sequence[int]) -> str:
    """Where two lists of tokens part."""
    for place, (one, other) in enumerate(zip(ours, theirs, strict=False)):
        if one != other:
            return f"token {place} is {one}, the reference has {other}"
    return f"{len(ours)} tokens, the reference has {len(theirs)}"


def sampling(phases: dict[str, Any]) -> Iterator[str]:
    """What is wrong with the phases that draw at random."""
    first, second, other = (
        phases.get(name, {}).get("tokens") for name in ("seeded", "seeded again", "another seed")
    )
    if first is not None and second is not None and first != second:
        yield "sampling with the same seed does not reproduce"
    if first is not None and other is not None and first == other:
        yield "sampling with another seed gives the same tokens"
    for name in ("seeded", "drawn"):
        for tokens, places in zip(
            phases.get(name, {}).get("tokens", ()),
            phases.get(name, {}).get("logprobs", ()),
            strict=True,
        ):
            yield from (f"{name}: {text}" for text in log_probabilities(tokens, places))
    for tokens, places in zip(
        phases.get("drawn", {}).get("tokens", ()),
        phases.get("drawn", {}).get("logprobs", ()),
        strict=True,
    ):
        ranks = [places[i][str(token)][1] for i, token in enumerate(tokens) if places]
        if any(rank > SAMPLED_TOP_K for rank in ranks):
            yield f"top_k {SAMPLED_TOP_K} let through a token of rank {max(ranks)}"


def log_probabilities(tokens: Sequence[int], places: Any) -> Iterator[str]:
    """What is wrong with the log probabilities of an answer."""
    if places is None or len(places) != len(tokens):
        yield "no log probability for each token"
        return
    for token, place in zip(tokens, places, strict=True):
        if str(token) not in place:
            yield "a drawn token has no log probability"
            return
        values = [value for value, _ in place.values()]
        if not all(value <= 0 for value in values):
            yield f"a log probability is {max(values)}"
            return


def acceptance(draft: str, phases: Mapping[str, Any]) -> Iterator[str]:
    """What is wrong with how many drafts were made, and accepted of the greedy answers."""
    if not (counted := phases.get("again", {}).get("speculation")):
        yield "nobody counted the drafts"
    elif not (drafted := counted.get("drafted", 0)):
        yield "no token was drafted in speculative decoding"
    elif counted.get("accepted", 0) < ACCEPTED[draft] * drafted:
        yield f"{counted.get('accepted', 0)} of {drafted} drafted tokens were accepted"


def operators(model: Model, mode: Mode, calls: Calls) -> Iterator[str]:
    """Operators that had to be called and were not, and the other way round."""
    for role in model.roles:
        if not any(calls.operators[name] for name in ROLES[role]):
            yield f"no NPU operator for {role} was called ({' or '.join(ROLES[role])})"
    # Requests with adapters, and of engines with a connector, are greedy.
    sampler = () if mode.adapters or mode.connector else (SAMPLER,)
    for names in (*sampler, *mode.operators):
        if not any(calls.operators[name] for name in names):
            yield f"{' or '.join(names)} was not called"
    for name in mode.forbidden:
        if calls.operators[name]:
            yield f"{name} was called {calls.operators[name]} times"
    if mode.graphs:
        for name in ("graph capture_begin", "graph replay"):
            if not calls.operators[name]:
                yield f"no {name.replace('_begin', '')}"
    elif calls.operators["graph capture_begin"]:
        yield "graphs were captured in eager mode"


def description(described: dict[str, Any] | None) -> Iterator[str]:
    """Whether vLLM's configuration takes the device by name, and its bug report names it."""
    if described is None:
        return
    if described["device"] != "npu":
        yield f"DeviceConfig(device='npu') gives {described['device'].splitlines()[0]}"
    if "npu" not in described["devices"]:
        yield f"npu is not among the configuration's devices: {', '.join(described['devices'])}"
    if "NPU 0: Ascend" not in described["reported"]:
        yield "vllm collect-env reports no NPU"
    if "ASCEND_" not in described["variables"]:
        yield "vllm collect-env reports no ASCEND_ variables"


def distribution(mode: Mode, calls: Calls) -> Iterator[str]:
    """Whether the work was done by as many workers as devices, over HCCL."""
    if calls.workers != mode.devices:
        yield f"{calls.workers} processes computed attention, not {mode.devices}"
    for name, value in mode.variables.items() if mode.ray else ():
        got = [variables.get(name) for variables in calls.variables]
        if any(one != value for one in got):
            yield f"workers have {name} {got}, not {value}"
    if mode.devices > 1 and calls.measured_early:
        yield f"{calls.measured_early} workers measured memory before HCCL had its buffers"
    on_device = {(name, backend) for name, device, backend in calls.collectives if device == "npu"}
    for names in mode.collectives:
        if not any((name, "hccl") in on_device for name in names):
            yield f"no {' or '.join(names)} of device tensors over HCCL"
    for name, backend in sorted(on_device):
        if backend != "hccl":
            yield f"{name} of device tensors over {backend}"
