# SPDX-License-Identifier: Apache-2.0
"""What is made of the outcomes of two trees on a GPU: a difference of the emitted one is seen."""

from __future__ import annotations

import copy
import gzip
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))

import cuda_path

Outcome = dict[str, Any]
SAME: Outcome = {
    "runs": {"greedy": [{"tokens": [5, 6], "logprobs": [[[5, "-0x1.8p+0", 1]]], "finish": None}]},
    "events": [[["kernel", "a", "1"], ["kernel", "b", "2"]], [["gpu_memcpy", "c", "8"]]],
    "api": {"cudaLaunchKernel": 2, "cudaEventQuery": 7},
    "calls": {"vllm/a.py:f": 3},
    "gpu": "one",
    "torch": "2",
    "v2": False,
}


def token(outcome: Outcome) -> None:
    outcome["runs"]["greedy"][0]["tokens"][1] = 7


def bit(outcome: Outcome) -> None:
    outcome["runs"]["greedy"][0]["logprobs"][0][0][1] = "-0x1.8000000000001p+0"


def set_gone(outcome: Outcome) -> None:
    outcome["runs"] = {}


def order(outcome: Outcome) -> None:
    outcome["events"][0].reverse()


def launch(outcome: Outcome) -> None:
    outcome["events"][0][1][2] = "3"


def fails(outcome: Outcome) -> None:
    outcome.clear()
    outcome["failed"] = "RuntimeError: no"


CHANGES = [token, bit, set_gone, order, launch, fails]


def written(out: Path, emitted: Outcome, again: Outcome) -> Outcome:
    """The summary of one case with these outcomes."""
    out.mkdir(exist_ok=True)
    (out / "trees.json").write_text('{"release": "1.0", "changed": 1, "added": 2}')
    for label, outcome in (("P", SAME), ("E", emitted), ("P2", again)):
        (out / f"llama_eager.{label}.json.gz").write_bytes(
            gzip.compress(json.dumps(outcome).encode())
        )
    return cuda_path.summary(out)


def changed(change: Callable[[Outcome], None]) -> Outcome:
    outcome = copy.deepcopy(SAME)
    change(outcome)
    return outcome


def test_the_same(tmp_path: Path) -> None:
    found = written(tmp_path, SAME, SAME)
    case = found["cases"]["llama, eager"]
    assert not cuda_path.at_fault(case)
    assert (case["E"]["tokens"], case["E"]["logprobs"], case["E"]["events"]) == (2, 1, 3)
    page = cuda_path.page([found])
    assert "| llama, eager | V1 | 1 of 1 | 2 | 1 | 3, equal | equal | equal |" in page
    assert "1 of 1 cases are equal" in page


@pytest.mark.parametrize("change", CHANGES)
def test_what_only_the_emitted_tree_does_is_its_fault(
    change: Callable[[Outcome], None], tmp_path: Path
) -> None:
    found = written(tmp_path, changed(change), SAME)
    assert cuda_path.at_fault(found["cases"]["llama, eager"])
    assert "0 of 1 cases are equal" in cuda_path.page([found])


@pytest.mark.parametrize("change", [order, launch])
def test_what_the_pristine_tree_does_not_keep_is_noise(
    change: Callable[[Outcome], None], tmp_path: Path
) -> None:
    found = written(tmp_path, changed(order), changed(change))
    assert not cuda_path.at_fault(found["cases"]["llama, eager"])
    assert "differs as well" in cuda_path.page([found])


def test_noise_in_events_excuses_no_token(tmp_path: Path) -> None:
    found = written(tmp_path, changed(token), changed(order))
    assert cuda_path.at_fault(found["cases"]["llama, eager"])


def test_calls_are_counted(tmp_path: Path) -> None:
    more = copy.deepcopy(SAME)
    more["calls"]["vllm/accelerator.py:device_module"] = 4
    more["api"]["cudaEventQuery"] = 9
    case = written(tmp_path, more, SAME)["cases"]["llama, eager"]
    assert case["E"]["more calls"] == {"vllm/accelerator.py:device_module": 4}
    assert case["E"]["api differs in"] == ["cudaEventQuery"]
    assert not cuda_path.at_fault(case)
