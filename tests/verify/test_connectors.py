# SPDX-License-Identifier: Apache-2.0
"""Runs with a KV connector: what engines are told, and that nothing but a loaded cache passes."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from migrator.verify.simulate import connectors
from migrator.verify.simulate.judge import Calls
from migrator.verify.simulate.models import MODELS, ROLES
from migrator.verify.simulate.modes import MODES

LLAMA = MODELS["llama"]
LAYERS = LLAMA.settings["num_hidden_layers"]
NEW = 24


def reference() -> dict[str, Any]:
    """Of prompts with no full block, with one that is saved or not, and with two."""
    prompts = [[7], [5] * 17, [4] * 129, [3] * 300]
    part = {"prompts": prompts, "tokens": [[n + i for i in range(NEW)] for n in range(4)]}
    return {"new_tokens": NEW, "fresh": part, "again": part}


def good(kind: str) -> tuple[dict[str, Any], Calls]:
    """What a good run writes."""
    calls = Calls(workers=len(connectors.PROOFS[kind].roles))
    for role in LLAMA.roles:
        calls.operators[ROLES[role][0]] = 1
    phases: dict[str, Any] = {}
    for at, step in enumerate(connectors.PROOFS[kind].steps):
        loads = {"host": [0, 128, 256]}.get(kind, [0, 0, 256])
        pairs = connectors.asked(reference(), step)
        cached = loads if step.loaded else [0] * len(pairs)
        new = sum(len(prompt) for prompt, _ in pairs) - sum(cached)
        new += len(pairs) * ((step.new_tokens or NEW) - 1)
        calls.attention += [(at + 0.5, [new], [new])] * LAYERS
        phases[step.phase] = {
            "start": float(at),
            "end": at + 0.9,
            "tokens": [tokens for _, tokens in pairs],
            "cached": cached,
            "hits": {"external": sum(cached), "local": 0},
        }
    return {"phases": phases}, calls


def judged(kind: str, seen: dict[str, Any], calls: Calls) -> tuple[bool, list[str]]:
    mode = next(mode for mode in MODES.values() if mode.connector == kind)
    return connectors.judge(LLAMA, mode, reference(), seen, calls)


LAST = {"files": "loaded again", "pair": "decoded", "host": "brought back"}


@pytest.mark.parametrize("kind", connectors.PROOFS)
def test_a_good_run_passes(kind: str) -> None:
    assert judged(kind, *good(kind)) == (True, [])


def forgot(seen: dict[str, Any], calls: Calls, phase: str) -> None:
    del seen["phases"][phase]


def parted(seen: dict[str, Any], calls: Calls, phase: str) -> None:
    answers = copy.deepcopy(seen["phases"][phase]["tokens"])
    answers[-1][5] = 999
    seen["phases"][phase]["tokens"] = answers


def uncached(seen: dict[str, Any], calls: Calls, phase: str) -> None:
    seen["phases"][phase]["cached"] = [0, 0, 0]


def uncounted(seen: dict[str, Any], calls: Calls, phase: str) -> None:
    seen["phases"][phase]["hits"]["external"] = 0


def stayed(seen: dict[str, Any], calls: Calls, phase: str) -> None:
    seen["phases"][phase]["hits"]["local"] = 128


def computed(seen: dict[str, Any], calls: Calls, phase: str) -> None:
    calls.attention.append((seen["phases"][phase]["start"] + 0.1, [256], [256]))


def alone(seen: dict[str, Any], calls: Calls, phase: str) -> None:
    calls.workers -= 1


@pytest.mark.parametrize("kind", connectors.PROOFS)
@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (forgot, "did not come to its part"),
        (parted, "prompt 2: token 5 is 999"),
        (uncached, "tokens were cached, not"),
        (uncounted, "0 tokens came from outside"),
        (stayed, "128 tokens were still on the device"),
        (computed, "attention computed"),
        (alone, "engines computed attention"),
    ],
)
def test_one_thing_wrong_is_named(
    kind: str, spoil: Callable[[dict[str, Any], Calls, str], None], said: str
) -> None:
    seen, calls = good(kind)
    spoil(seen, calls, LAST[kind])
    equal, problems = judged(kind, seen, calls)
    assert equal == (spoil not in (forgot, parted))
    assert any(said in problem for problem in problems), problems


@pytest.mark.parametrize("name", ["ExampleConnector", "SharedStorageConnector"])
def test_engines_get_the_connector_of_the_release(tmp_path: Path, name: str) -> None:
    factory = tmp_path / "vllm/distributed/kv_transfer/kv_connector/factory.py"
    factory.parent.mkdir(parents=True)
    factory.write_text(f'Factory.register_connector("{name}", "module", "{name}")\n')
    job = connectors.job(
        tmp_path, tmp_path, MODES["connector-pair"], reference(), tmp_path / "out.json"
    )
    prefill, decode = job["engines"]["prefill"], job["engines"]["decode"]
    assert (prefill["device"], decode["device"]) == (0, 1)
    told = [one["engine"]["kv_transfer_config"] for one in (prefill, decode)]
    assert [one["kv_role"] for one in told] == ["kv_producer", "kv_consumer"]
    assert {one["kv_connector"] for one in told} == {name}
    (group,) = job["groups"]
    assert [step["new_tokens"] for step in group["steps"]] == [1, NEW]


def test_prompts_that_push_others_out_share_no_block_and_fill_the_cache() -> None:
    job = connectors.job(
        Path("/nowhere"), Path("/model"), MODES["connector-host"], reference(), Path("/out.json")
    )
    engine = job["engines"]["only"]["engine"]
    _, others, _ = job["groups"][0]["steps"]
    firsts = {tuple(prompt[: connectors.BLOCK]) for prompt in others["prompts"]}
    assert len(firsts) == len(others["prompts"])
    assert 2 * len(firsts) >= engine["num_gpu_blocks_override"] - 1
