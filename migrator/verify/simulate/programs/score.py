# SPDX-License-Identifier: Apache-2.0
"""How many greedy tokens of a half precision run are the best ones by transformers in float32.

    python score.py JOB.json

For each sequence of the job (prompt and new tokens) the model sees the tokens that the run chose,
so that one other choice does not make all that follows incomparable. `misses`: of each sequence,
the number of tokens that are not the best; `own`: the share of steps at which transformers in half
precision, on the same sequences, would miss the best token.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

# transformers asks whether torch_npu is there and would then put itself on the NPU.
sys.modules["torch_npu"] = None  # type: ignore[assignment]

import torch  # noqa: E402
import transformers  # noqa: E402


def load(folder: str, dtype: torch.dtype, shards: int, *, spread: bool) -> Any:
    """The model in eager attention, which rounds as its checkpoint says if that is quantized."""
    config = json.loads((Path(folder) / "config.json").read_text(encoding="utf-8"))
    if "quantization_config" in config or (Path(folder) / "quant_model_description.json").is_file():
        import quantized  # type: ignore[import-not-found]  # beside this program

        return quantized.load(Path(folder), dtype, shards, spread=spread)
    model = transformers.AutoModelForCausalLM.from_pretrained(
        folder, dtype=dtype, attn_implementation="eager"
    )
    return model.eval()


def main(job: dict[str, Any]) -> None:
    """Write shortfalls and noise to the file that the job names."""
    transformers.utils.logging.set_verbosity_error()
    exact = load(job["model"], torch.float32, job["shards"], spread=job["spread"])
    half = load(job["model"], getattr(torch, job["dtype"]), job["shards"], spread=job["spread"])
    misses, own, total = [], 0, 0
    with torch.no_grad():
        for prompt, tokens in job["sequences"]:
            ids = torch.tensor([[*prompt, *tokens[:-1]]])
            best = exact(input_ids=ids).logits[0, len(prompt) - 1 :].argmax(-1)
            rounded = half(input_ids=ids).logits[0, len(prompt) - 1 :].argmax(-1)
            misses.append(int((best != torch.tensor(tokens)).sum()))
            own += int((best != rounded).sum())
            total += len(tokens)
    found = {"misses": misses, "own": own / total}
    Path(job["out"]).write_text(json.dumps(found), encoding="utf-8")


if __name__ == "__main__":
    main(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")))
