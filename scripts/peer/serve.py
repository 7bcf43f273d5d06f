# SPDX-License-Identifier: Apache-2.0
"""Serve the prompts of a reference through `vllm.LLM` and write the tokens.

python serve.py JOB.json
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any


def main(job: dict[str, Any]) -> None:
    """Load the model, serve each batch of prompts, write what came out."""
    import vllm  # type: ignore[import-not-found]

    llm: Any = vllm.LLM(model=job["model"], skip_tokenizer_init=True, **job["engine"])
    parameters = vllm.SamplingParams(
        max_tokens=job["new_tokens"], temperature=0, ignore_eos=True, detokenize=False
    )
    found = {}
    for name in ("fresh", "again"):
        prompts = [{"prompt_token_ids": prompt} for prompt in job[name]]
        results = llm.generate(prompts, parameters, use_tqdm=False)
        found[name] = [list(result.outputs[0].token_ids) for result in results]
    Path(job["out"]).write_text(json.dumps(found), encoding="utf-8")


if __name__ == "__main__":
    main(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")))
