# SPDX-License-Identifier: Apache-2.0
"""Run one case in the vLLM that PYTHONPATH names, on a CUDA GPU, and keep what can be compared.

Run by `cuda_path.py`, in a process of its own: `engine.py CASE.json OUT.json.gz`. Written down are,
for each set of sampling parameters, every token, every log-probability as a hexadecimal number and
every rank; then, of a profiled run, every device event in the order of its stream (kernel, grid,
block, shared memory, bytes copied), the number of CUDA API calls and of Python calls.
"""

from __future__ import annotations

import collections
import cProfile
import gzip
import json
import os
import pstats
import random
import re
import sys
import tempfile
import traceback
from pathlib import Path

LENGTHS = (1, 5, 17, 33, 64, 100, 257, 500)
"""Tokens of the prompts."""
NEW = 48
"""Tokens made for each."""
SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 8},
        "n": {"type": "integer", "minimum": 0, "maximum": 99},
    },
    "required": ["name", "n"],
    "additionalProperties": False,
}
DEVICE = ("kernel", "gpu_memcpy", "gpu_memset")
HOST = ("cuda_runtime", "cuda_driver")


def sampling(case: dict) -> dict:
    """Name → the sampling parameters of a run."""
    from vllm import SamplingParams

    if case.get("json"):
        from vllm.sampling_params import StructuredOutputsParams

        shape = {"max_tokens": 64, "structured_outputs": StructuredOutputsParams(json=SCHEMA)}
        return {
            "json": SamplingParams(temperature=0, logprobs=3, **shape),
            "json, seeded": SamplingParams(temperature=1.0, seed=4, **shape),
        }
    drafts = "speculative_config" in case["arguments"]
    base = {"max_tokens": NEW, "ignore_eos": True, "detokenize": False}
    # vLLM gives no log-probabilities of a prompt where it speculates.
    prompt = {} if drafts else {"prompt_logprobs": 3}
    rest = [
        {} if drafts else {"min_p": 0.05 * (i % 2), "min_tokens": 4, "n": 2 if i % 3 else 1}
        for i in range(len(LENGTHS))
    ]
    return {
        "greedy": SamplingParams(temperature=0, logprobs=5, **prompt, **base),
        "seeded": SamplingParams(temperature=0.9, top_p=0.9, top_k=40, seed=11, logprobs=5, **base),
        "penalties": SamplingParams(
            temperature=0.8,
            seed=5,
            presence_penalty=0.4,
            frequency_penalty=0.3,
            repetition_penalty=1.15,
            logprobs=3,
            **base,
        ),
        "top-p": SamplingParams(temperature=1.0, top_p=0.8, seed=9, logprobs=2, **base),
        "unseeded": SamplingParams(temperature=1.0, top_k=20, **base),
        "mixed": [
            SamplingParams(
                temperature=(0, 0.7, 1.1)[i % 3],
                top_p=(1, 0.9)[i % 2],
                top_k=(0, 10)[i % 2],
                seed=i,
                **rest[i],
                **base,
            )
            for i in range(len(LENGTHS))
        ],
    }


def packed(outputs: list) -> list[dict]:
    """What a run gave, in numbers that do not round."""
    found = []
    for output in outputs:
        for one in output.outputs:
            chosen = [
                [(token, float(p.logprob).hex(), p.rank) for token, p in step.items()]
                for step in one.logprobs or []
            ]
            found.append(
                {
                    "tokens": list(one.token_ids),
                    "logprobs": chosen,
                    "finish": one.finish_reason,
                }
            )
        if output.prompt_logprobs:
            of_prompt = [
                None
                if step is None
                else [(token, float(p.logprob).hex()) for token, p in step.items()]
                for step in output.prompt_logprobs
            ]
            found.append({"tokens": [], "logprobs": of_prompt, "finish": None})
    return found


def events(generate) -> tuple[list[list], dict[str, int]]:
    """Each stream's device events in their order, and how often each CUDA function was called."""
    import torch
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CUDA, ProfilerActivity.CPU]) as profiler:
        generate()
        torch.cuda.synchronize()
    with tempfile.TemporaryDirectory() as folder:
        trace = Path(folder) / "trace.json"
        profiler.export_chrome_trace(str(trace))
        entries = json.loads(trace.read_bytes())["traceEvents"]
    streams: dict[int, list] = collections.defaultdict(list)
    api: collections.Counter[str] = collections.Counter()
    for entry in sorted(entries, key=lambda e: e.get("ts", 0)):
        kind = entry.get("cat", "")
        if kind in DEVICE:
            a = entry.get("args", {})
            shape = [str(a.get(part)) for part in ("grid", "block", "shared memory", "bytes")]
            streams[a.get("stream")].append([kind, entry["name"], *shape])
        elif kind in HOST:
            api[entry["name"]] += 1
    return sorted(streams.values(), key=len, reverse=True), dict(api)


def python_calls(generate, root: str) -> dict[str, int]:
    """How often each Python function was called: `vllm/file.py:function` → calls."""
    profiler = cProfile.Profile()
    profiler.enable()
    generate()
    profiler.disable()
    calls: collections.Counter[str] = collections.Counter()
    for (path, _, function), (_, count, _, _, _) in pstats.Stats(profiler).stats.items():
        place = path.replace(root, "vllm")
        if place.startswith(os.environ["VLLM_CACHE_ROOT"]) or "/torchinductor" in place:
            place = "compiled"
        calls[f"{place}:{re.sub(r'0x[0-9a-f]+', '0x', function)}"] += count
    return dict(calls)


def measure(case: dict) -> dict:
    """All that is kept of a case."""
    import torch
    from torch._inductor.runtime.triton_heuristics import CachingAutotuner

    # Inductor times several launch configurations and keeps the fastest: noise decides, and the
    # order of a sum with it. The first one stands for all trees.
    CachingAutotuner.benchmark_all_configs = lambda self, *_, **__: {
        launcher: float(n) for n, launcher in enumerate(self.launchers)
    }
    import vllm
    from vllm import LLM

    arguments = {
        "dtype": "bfloat16",
        "max_model_len": 1024,
        "max_num_seqs": 32,
        "max_num_batched_tokens": 2048,
        "seed": 7,
        "gpu_memory_utilization": 0.5,
        # Engines share the GPU, and a measured cache would see the others.
        "kv_cache_memory_bytes": 1 << 30,
        "disable_log_stats": True,
        **case["arguments"],
    }
    if not arguments.get("enforce_eager"):
        given = arguments.get("compilation_config", {})
        sizes = {"cudagraph_capture_sizes": [1, 2, 4, 8, 16, 32]}
        arguments["compilation_config"] = {**sizes, **given}
    llm = LLM(**arguments)
    prompts = random.Random(3)
    asked = [
        {"prompt_token_ids": [prompts.randrange(3, 1000) for _ in range(length)]}
        for length in LENGTHS
    ]
    sets = sampling(case)
    runs = {
        name: packed(llm.generate(asked, parameters, use_tqdm=False))
        for name, parameters in sets.items()
    }
    if case.get("sleep"):
        llm.sleep(level=1)
        llm.wake_up()
        runs["after sleep"] = packed(llm.generate(asked, sets["greedy"], use_tqdm=False))

    def generate() -> None:
        for parameters in list(sets.values())[:2]:
            llm.generate(asked, parameters, use_tqdm=False)
        torch.cuda.synchronize()

    llm.reset_prefix_cache()
    generate()
    llm.reset_prefix_cache()
    device, api = events(generate)
    llm.reset_prefix_cache()
    calls = python_calls(generate, str(Path(vllm.__file__).parent))
    return {
        "runs": runs,
        "events": device,
        "api": api,
        "calls": calls,
        "v2": bool(getattr(llm.llm_engine.vllm_config, "use_v2_model_runner", False)),
        "torch_npu": "torch_npu" in sys.modules,
        "gpu": torch.cuda.get_device_name(),
        "torch": torch.__version__,
        "vllm": vllm.__version__,
    }


def main(arguments: list[str]) -> int:
    case, out = json.loads(Path(arguments[0]).read_text()), Path(arguments[1])
    try:
        found = measure(case)
    except Exception as error:
        # A case that cannot run is an outcome, too.

        traceback.print_exc()
        found = {"failed": f"{type(error).__name__}: {error}"[:800]}
    out.write_bytes(gzip.compress(json.dumps(found).encode(), mtime=0))
    sys.stdout.flush()
    sys.stderr.flush()
    # Engines leave threads that would keep this process.
    os._exit("failed" in found)


if __name__ == "__main__":
    main(sys.argv[1:])
