# SPDX-License-Identifier: Apache-2.0
"""Counts what each step of an engine asks of the simulated device.

    python cost.py JOB.json

A model of random weights serves fixed batches in this process. What is launched, copied and waited
for from one call of the executor to the next belongs to the step that the first of them begins.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ascend_sim.ai_core import on_ai_cpu
from ascend_sim.observer import Event, observed

DECODES = 8
"""Requests of a batch that is decoded."""
NEW_TOKENS = 6
"""Of each request: the last steps but one are counted, when nothing is done for the first time."""


class Steps:
    """The steps of an engine: how many tokens of each request, and what was asked for."""

    def __init__(self, executor: Any, events: list[Event]) -> None:
        self._events = events
        self._begun: list[tuple[list[int], int]] = []
        execute = executor.execute_model

        def noted(scheduled: Any, *args: Any, **kwargs: Any) -> Any:
            tokens = sorted(int(n) for n in scheduled.num_scheduled_tokens.values())
            self._begun.append((tokens, len(events)))
            return execute(scheduled, *args, **kwargs)

        executor.execute_model = noted

    def begin(self) -> None:
        """Forget the steps so far."""
        self._begun.clear()

    def like(self, tokens: Sequence[int]) -> list[Event]:
        """What the last step with these tokens, but for the very last step, asked for.

        Raises:
            RuntimeError: the engine made no such step.
        """
        ends = [start for _, start in self._begun[1:]]
        steps = zip(self._begun, ends, strict=False)
        found = [(start, end) for (had, start), end in steps if had == sorted(tokens)]
        if not found:
            made = [had for had, _ in self._begun]
            raise RuntimeError(f"no step had {list(tokens)} tokens of its requests, but {made}")
        start, end = found[-1]
        return self._events[start:end]


def counted(events: Sequence[Event]) -> list[dict[str, Any]]:
    """Events alike but for their amounts together: how often, and the sum of their amounts."""
    times: Counter[tuple[str, str, str, str]] = Counter()
    amounts: Counter[tuple[str, str, str, str]] = Counter()
    for event in events:
        alike = event.kind, event.what, event.dtypes, event.place
        times[alike] += 1
        amounts[alike] += event.amount
    return [
        {
            "kind": kind,
            "what": what,
            "dtypes": dtypes,
            "place": place,
            "times": n,
            "amount": amounts[kind, what, dtypes, place],
            "ai_cpu": on_ai_cpu(what, dtypes) if kind == "launch" else False,
        }
        for (kind, what, dtypes, place), n in sorted(times.items())
    ]


def main(job: Mapping[str, Any]) -> None:
    """Load the model, serve the batches, write what their steps asked for."""
    import vllm  # type: ignore[import-not-found]

    llm: Any = vllm.LLM(
        model=job["model"], load_format="dummy", skip_tokenizer_init=True, **job["engine"]
    )
    executor = llm.llm_engine.engine_core.engine_core.model_executor
    vocabulary = job["vocabulary"]

    def prompt(length: int, start: int) -> dict[str, list[int]]:
        return {"prompt_token_ids": [(start + 7 * i) % vocabulary for i in range(length)]}

    def serve(prompts: Sequence[Mapping[str, Any]], new_tokens: int, **settings: Any) -> None:
        parameters = vllm.SamplingParams(
            max_tokens=new_tokens, ignore_eos=True, detokenize=False, **settings
        )
        llm.generate(list(prompts), parameters, use_tqdm=False)

    short = [prompt(job["short"], 31 * i) for i in range(DECODES)]
    found: dict[str, Any] = {}
    with observed() as seen:
        steps = Steps(executor, seen.events)
        for start in (1, 2):
            steps.begin()
            serve([prompt(job["prefill"], start)], 2, temperature=0)
        found["prefill"] = counted(steps.like([job["prefill"]]))
        # The long prompt comes in two pieces: the second beside the first decodes of the others.
        for start in (3, 4):
            steps.begin()
            long = prompt(job["budget"] - DECODES * job["short"] + job["rest"], start)
            serve([*short, long], NEW_TOKENS, temperature=0)
        found["mixed"] = counted(steps.like([1] * DECODES + [job["rest"]]))
        for name, settings in job["sampling"].items():
            steps.begin()
            serve(short, NEW_TOKENS, **settings)
            found[name] = counted(steps.like([1] * DECODES))
    Path(job["out"]).write_text(json.dumps(found), encoding="utf-8")


if __name__ == "__main__":
    main(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")))
