# SPDX-License-Identifier: Apache-2.0
"""Counts tokens a second of an engine: `python speed.py JOB.json`.

All requests are served twice; the second time is measured, when graphs are captured and operators
compiled.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def main(job: Mapping[str, Any]) -> None:
    """Load the model, serve the requests, write the seconds that they took."""
    import vllm  # type: ignore[import-not-found]

    llm: Any = vllm.LLM(
        model=job["model"], load_format="dummy", skip_tokenizer_init=True, **job["engine"]
    )
    parameters = vllm.SamplingParams(
        temperature=0, max_tokens=job["new"], ignore_eos=True, detokenize=False
    )
    prompts = [
        {"prompt_token_ids": [(31 * i + 7 * j) % job["vocabulary"] for j in range(job["prompt"])]}
        for i in range(job["requests"])
    ]
    seconds = 0.0
    for _ in range(2):
        begin = time.perf_counter()
        answers = llm.generate(prompts, parameters, use_tqdm=False)
        seconds = time.perf_counter() - begin
    tokens = sum(len(answer.outputs[0].token_ids) for answer in answers)
    Path(job["out"]).write_text(
        json.dumps({"tokens": tokens, "seconds": seconds}), encoding="utf-8"
    )


if __name__ == "__main__":
    main(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")))
