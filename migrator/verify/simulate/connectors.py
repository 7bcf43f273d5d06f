# SPDX-License-Identifier: Apache-2.0
"""Runs in which a KV connector moves blocks of the cache: what engines do, and what has to be seen.

Tokens alone would not tell a cache that was loaded from one that was computed again. So vLLM's
count of tokens that came from outside is compared with what should have come, and what attention
was given with what is left to compute.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from migrator.verify.simulate.judge import Calls, operators, parting
from migrator.verify.simulate.models import Model
from migrator.verify.simulate.modes import ENGINE, Mode

BLOCK = 128
"""Tokens of a block of the cache."""
_FACTORY = "vllm/distributed/kv_transfer/kv_connector/factory.py"
_FILES = ("ExampleConnector", "SharedStorageConnector")
"""The connector that saves blocks as files, by its names of later and of earlier releases."""


@dataclass(frozen=True)
class Step:
    """Prompts that an engine answers at once.

    `part`: of the reference, empty for prompts that only push others out of the cache and are not
    judged; `new_tokens` of each answer, all of the reference's if it is 0; `loaded`: the tokens of
    full blocks come from outside, not from this engine's attention.
    """

    engine: str
    phase: str
    part: str = ""
    new_tokens: int = 0
    loaded: bool = False


@dataclass(frozen=True)
class Proof:
    """Engines with a connector, in groups that run at the same time, and what they do.

    `roles`: engine → its part, as vLLM calls it; `devices`: engine → its device; `connector`: its
    name, empty for the one that saves blocks in files; `left`: last tokens of a prompt that are
    computed whatever is there.
    """

    roles: Mapping[str, str]
    devices: Mapping[str, int]
    groups: Sequence[Sequence[str]]
    steps: Sequence[Step]
    connector: str = ""
    extra: Mapping[str, Any] = field(default_factory=dict)
    left: int = 2


PROOFS: dict[str, Proof] = {
    "files": Proof(
        {"first": "kv_both", "second": "kv_both"},
        {"first": 0, "second": 0},
        (("first",), ("second",)),
        (
            Step("first", "saved", "fresh"),
            Step("second", "loaded", "fresh", loaded=True),
            Step("second", "loaded again", "again", loaded=True),
        ),
    ),
    "pair": Proof(
        {"prefill": "kv_producer", "decode": "kv_consumer"},
        {"prefill": 0, "decode": 1},
        (("prefill", "decode"),),
        (
            Step("prefill", "prefilled", "fresh", new_tokens=1),
            Step("decode", "decoded", "fresh", loaded=True),
        ),
    ),
    "host": Proof(
        {"only": "kv_both"},
        {"only": 0},
        (("only",),),
        (
            Step("only", "stored", "fresh"),
            Step("only", "pushed out"),
            Step("only", "brought back", "fresh", loaded=True),
        ),
        "OffloadingConnector",
        {"cpu_bytes_to_use": 2**26},
        left=1,
    ),
}
"""Connector of a mode → what is done with it."""


_OTHERS = [[3 + (7 * n + 5 * i) % 500 for i in range(2 * BLOCK + 4)] for n in range(1, 7)]
"""Prompts that share no block with those of a reference, and together fill a small cache."""


def asked(reference: dict[str, Any], step: Step) -> list[tuple[list[int], list[int]]]:
    """Prompts of a step and their tokens.

    Of a prompt of one token, vLLM's connector says that less than none was saved.
    """
    if not step.part:
        return [(prompt, []) for prompt in _OTHERS]
    part = reference[step.part]
    count = step.new_tokens or reference["new_tokens"]
    return [
        (prompt, tokens[:count])
        for prompt, tokens in zip(part["prompts"], part["tokens"], strict=True)
        if len(prompt) > 1
    ]


def connector_of(tree: Path) -> str:
    """The release's name of the connector that saves blocks as files."""
    factory = tree / _FACTORY
    known = factory.read_text(encoding="utf-8") if factory.is_file() else ""
    return next((name for name in _FILES if f'"{name}"' in known), _FILES[0])


def job(
    tree: Path, model_folder: Path, mode: Mode, reference: dict[str, Any], out: Path
) -> dict[str, Any]:
    """What the program is told."""
    proof = PROOFS[mode.connector]
    connector, extra = proof.connector, proof.extra
    if not connector:
        connector = connector_of(tree)
        extra = {"shared_storage_path": str(out.parent / "blocks")}
    engines = {
        name: {
            "device": proof.devices[name],
            "engine": {
                **ENGINE,
                **mode.engine,
                "kv_transfer_config": {
                    "kv_connector": connector,
                    "kv_role": role,
                    "kv_connector_extra_config": dict(extra),
                },
            },
        }
        for name, role in proof.roles.items()
    }
    return {
        "out": str(out),
        "model": str(model_folder),
        "engines": engines,
        "groups": [
            {
                "engines": list(group),
                "steps": [
                    {
                        "engine": step.engine,
                        "phase": step.phase,
                        "prompts": [prompt for prompt, _ in asked(reference, step)],
                        "new_tokens": step.new_tokens or reference["new_tokens"],
                    }
                    for step in proof.steps
                    if step.engine in group
                ],
            }
            for group in proof.groups
        ],
    }


def judge(
    model: Model, mode: Mode, reference: dict[str, Any], seen: dict[str, Any], calls: Calls
) -> tuple[bool, list[str]]:
    """Whether every token is the reference's, and everything that is not right."""
    proof = PROOFS[mode.connector]
    phases = seen.get("phases", {})
    problems: list[str] = []
    for step in proof.steps:
        if step.phase not in phases:
            problems.append(f"the run did not come to its part '{step.phase}'")
            continue
        if step.part:
            problems += differences(reference, step, phases[step.phase])
    equal = not problems
    for step in proof.steps:
        if step.part and step.phase in phases:
            problems += hits(model, reference, proof, step, phases[step.phase], calls)
    problems += operators(model, mode, calls)
    if calls.workers != len(proof.roles):
        problems.append(f"{calls.workers} engines computed attention, not {len(proof.roles)}")
    return equal, problems


def differences(reference: dict[str, Any], step: Step, phase: dict[str, Any]) -> Iterator[str]:
    """For each prompt whose tokens are not the reference's: where they part."""
    wanted = [tokens for _, tokens in asked(reference, step)]
    if len(phase["tokens"]) != len(wanted):
        yield f"{step.phase}: {len(phase['tokens'])} answers for {len(wanted)} prompts"
    for number, (ours, theirs) in enumerate(zip(phase["tokens"], wanted, strict=False)):
        if ours != theirs:
            yield f"{step.phase}, prompt {number}: {parting(ours, theirs)}"


def outside(prompt: Sequence[int], left: int) -> int:
    """How many tokens of a prompt are in blocks that come from outside."""
    return max(len(prompt) - left, 0) // BLOCK * BLOCK


def hits(
    model: Model,
    reference: dict[str, Any],
    proof: Proof,
    step: Step,
    phase: dict[str, Any],
    calls: Calls,
) -> Iterator[str]:
    """What is wrong with how many tokens came from outside, and how many were computed."""
    prompts = [prompt for prompt, _ in asked(reference, step)]
    wanted = [outside(prompt, proof.left) if step.loaded else 0 for prompt in prompts]
    # Tokens that attention was given: of prompts what did not come from outside, then one each
    # for all new tokens but the last.
    left = sum(map(len, prompts)) - sum(wanted)
    left += len(prompts) * ((step.new_tokens or reference["new_tokens"]) - 1)
    layers = model.settings.get("num_hidden_layers", 0)
    computed = sum(
        sum(new) for at, new, _ in calls.attention if phase["start"] <= at <= phase["end"]
    )
    if step.loaded and not sum(wanted):
        yield f"{step.phase}: no prompt is long enough to have a block of its own"
    if [count or 0 for count in phase["cached"]] != wanted:
        yield f"{step.phase}: {phase['cached']} tokens were cached, not {wanted}"
    # Older releases do not count them apart.
    external = phase["hits"].get("external", sum(wanted))
    if external != sum(wanted):
        yield f"{step.phase}: {external} tokens came from outside, not {sum(wanted)}"
    if local := phase["hits"].get("local", 0):
        yield f"{step.phase}: {local} tokens were still on the device"
    if computed != left * layers:
        yield (f"{step.phase}: attention computed {computed / layers:g} tokens, not {left}")
