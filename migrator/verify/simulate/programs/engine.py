# SPDX-License-Identifier: Apache-2.0
"""Runs one model through `LLM.generate` of the tree on PYTHONPATH and writes what came out.

    python engine.py JOB.json

Nothing is judged here: tokens, cached tokens, times of the phases and memory go to the file that
the job names, after each phase, so that a crash keeps what was seen before it.
"""

from __future__ import annotations

import gc
import json
import os
import sys
import time
from importlib import import_module
from pathlib import Path
from typing import Any, get_args

from refuse import inspect_here  # type: ignore[import-not-found]


class Record:
    """The output file, rewritten as it grows."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.folder = path.parent
        self.content: dict[str, Any] = {"phases": {}}

    def save(self, **values: Any) -> None:
        """Add values and write all of them."""
        self.content.update(values)
        part = self._path.with_suffix(".part")
        part.write_text(json.dumps(self.content), encoding="utf-8")
        part.replace(self._path)

    def phase(self, name: str, start: float, **values: Any) -> None:
        """Add a phase, which began at `start` and ends now."""
        self.content["phases"][name] = {"start": start, "end": time.time(), **values}
        self.save()


def outputs(
    llm: Any, prompts: list[list[int]], parameters: Any, adapters: list[Any] | None = None
) -> dict[str, Any]:
    """Tokens and cached prompt tokens of each prompt, and log probabilities if asked for.

    `adapters` has a LoRA request or None for each prompt.
    """
    more = {} if adapters is None else {"lora_request": adapters}
    results = llm.generate(
        [{"prompt_token_ids": prompt} for prompt in prompts], parameters, use_tqdm=False, **more
    )
    completions = [result.outputs[0] for result in results]
    return {
        "tokens": [[int(token) for token in one.token_ids] for one in completions],
        "cached": [result.num_cached_tokens for result in results],
        "logprobs": [
            None
            if one.logprobs is None
            else [
                {str(token): [entry.logprob, entry.rank] for token, entry in place.items()}
                for place in one.logprobs
            ]
            for one in completions
        ],
        "prompt_logprobs": [
            None
            if result.prompt_logprobs is None
            # The first token follows nothing.
            else [
                entry[token].logprob
                for token, entry in zip(prompt[1:], result.prompt_logprobs[1:], strict=True)
            ]
            for prompt, result in zip(prompts, results, strict=True)
        ],
    }


def run(job: dict[str, Any], llm: Any, record: Record) -> None:
    """All phases, one after the other, on one engine."""
    from vllm import SamplingParams  # type: ignore[import-not-found]

    base: dict[str, Any] = {
        "max_tokens": job["new_tokens"],
        "ignore_eos": True,
        "detokenize": False,
    }

    if job["batches"]:
        run_adapters(job, llm, record, SamplingParams, {**base, "temperature": 0})
        return

    def phase(name: str, prompts: list[list[int]], **settings: Any) -> None:
        start = time.time()
        found = outputs(llm, prompts, SamplingParams(**{**base, **settings}))
        if "speculative_config" in job["engine"]:
            found["speculation"] = speculation(llm)
        record.phase(name, start, **found)

    phase("fresh", job["fresh"], temperature=0)
    phase("again", job["again"], temperature=0)
    phase("penalties", job["penalties"], temperature=0, **job["penalty"])
    # The best token is the only one that is left to draw from.
    phase("top_k 1", job["fresh"], temperature=1.0, top_k=1, seed=1)
    phase("top_p 0", job["fresh"], temperature=1.0, top_p=1e-6, seed=1)
    sampling = {
        "temperature": 0.9,
        "top_k": 20,
        "top_p": 0.95,
        "presence_penalty": 0.2,
        "frequency_penalty": 0.1,
        "repetition_penalty": 1.1,
        "min_tokens": 8,
        "logprobs": 3,
    }
    for name, seed in (("seeded", 7), ("seeded again", 7), ("another seed", 8)):
        phase(name, job["fresh"], seed=seed, **sampling)
    # Without a seed, so that the batch is drawn by one call and no loop over requests.
    phase("drawn", job["fresh"], temperature=0.9, top_k=5, logprobs=5)


def run_adapters(
    job: dict[str, Any], llm: Any, record: Record, sampling: Any, settings: dict[str, Any]
) -> None:
    """Batches of requests with and without LoRA adapters."""
    from vllm.lora.request import LoRARequest  # type: ignore[import-not-found]

    requests = [None] + [
        LoRARequest(Path(path).name, number, path)
        for number, path in enumerate(job["adapters"], start=1)
    ]
    for name, batch in job["batches"].items():
        if name == job["unload_before"]:
            for number in range(1, len(requests)):
                llm.llm_engine.remove_lora(number)
        start = time.time()
        adapters = [requests[number] for number, _ in batch]
        more = {"prompt_logprobs": 0} if name == job["prompt_logprobs_of"] else {}
        parameters = sampling(**settings, **more)
        found = outputs(llm, [prompt for _, prompt in batch], parameters, adapters)
        record.phase(name, start, **found)


CHOICES = ("yes", "no")


def structured(llm: Any, record: Record) -> None:
    """Let a grammar leave two answers, in a batch with a request that has none."""
    from vllm import SamplingParams, sampling_params

    # 0.11.0 has both; the older name is deprecated there.
    asked = getattr(sampling_params, "StructuredOutputsParams", None)
    if asked is not None:
        grammar = {"structured_outputs": asked(choice=list(CHOICES))}
    else:
        grammar = {"guided_decoding": sampling_params.GuidedDecodingParams(choice=list(CHOICES))}
    parameters = [
        SamplingParams(max_tokens=8, temperature=temperature, seed=1, **settings)
        for temperature, settings in ((0, grammar), (0, {}), (1.0, grammar))
    ]
    results = llm.generate(
        [{"prompt_token_ids": [1, 2, 3 + number]} for number in range(len(parameters))],
        parameters,
        use_tqdm=False,
    )
    record.save(structured=[results[0].outputs[0].text, results[2].outputs[0].text])


def speculation(llm: Any) -> dict[str, int]:
    """How many tokens were drafted and how many of them accepted until now, by vLLM's count."""
    names = {
        "vllm:spec_decode_num_draft_tokens": "drafted",
        "vllm:spec_decode_num_accepted_tokens": "accepted",
    }
    return {
        names[metric.name]: int(metric.value)
        for metric in llm.get_metrics()
        if metric.name in names
    }


def release(llm: Any) -> None:
    """Shut the engine down as the end of a program does."""
    engine = getattr(llm, "llm_engine", None)
    core = getattr(engine, "engine_core", None)
    if core is not None:
        core.shutdown()


def wait_for_memory(torch: Any, devices: int) -> list[dict[str, int]]:
    """Free and total bytes of each device once the workers have gone, at most 20 s later."""
    deadline = time.time() + 20
    while True:
        seen = []
        for device in range(devices):
            free, total = torch.npu.mem_get_info(device)
            seen.append({"free": int(free), "total": int(total)})
        if time.time() > deadline or all(one["free"] == one["total"] for one in seen):
            return seen
        time.sleep(0.5)


def device_names() -> list[str]:
    """Names that the configuration takes for a device, of which `--device` makes its choices."""
    for home in ("vllm.config.device", "vllm.config"):
        try:
            return [str(name) for name in get_args(import_module(home).Device)]
        except (ImportError, AttributeError):
            continue
    return []


GRAPH_MEMORY = "cudagraph_memory_estimate"


def runners() -> list[str]:
    """Names of the classes of the model runners in this process."""
    kinds = {}
    for home, suffix in (("gpu_model_runner", ""), ("gpu.model_runner", " V2")):
        module = sys.modules.get(f"vllm.v1.worker.{home}")
        if module is not None:
            kinds[module.GPUModelRunner] = suffix
    # vLLM freezes what stands after start-up, which hides it from the collector's list.
    gc.unfreeze()
    return sorted(
        type(found).__name__ + suffix
        for found in gc.get_objects()
        for kind, suffix in kinds.items()
        if issubclass(type(found), kind)
    )


def graph_memory() -> list[int]:
    """Bytes that the workers of this process counted for graphs; none where a release does not."""
    from vllm.v1.worker.gpu_worker import Worker  # type: ignore[import-not-found]

    gc.unfreeze()
    workers = [found for found in gc.get_objects() if issubclass(type(found), Worker)]
    return [int(getattr(w, GRAPH_MEMORY)) for w in workers if hasattr(w, GRAPH_MEMORY)]


def described() -> dict[str, Any]:
    """What vLLM's configuration and bug report make of the device."""
    from vllm import collect_env
    from vllm.config import DeviceConfig  # type: ignore[import-not-found]

    try:
        device = str(DeviceConfig(device="npu").device)
    except (TypeError, ValueError, RuntimeError) as error:
        device = f"{type(error).__name__}: {error}"
    return {
        "device": device,
        "devices": device_names(),
        "reported": str(collect_env.get_gpu_info(collect_env.run)),
        "variables": str(collect_env.get_env_vars()),
    }


def kernels() -> dict[str, Any]:
    """Calls of vLLM's own kernel functions on NPU tensors: the largest error of each, or why not.

    Layers need not go through them, other callers do.
    """
    import torch

    from vllm import _custom_ops as ops

    generator = torch.Generator().manual_seed(3)
    x, residual = (torch.randn(5, 64, generator=generator) for _ in range(2))
    weight = torch.randn(64, generator=generator)

    def norm(value: Any) -> Any:
        return value * torch.rsqrt(value.pow(2).mean(-1, keepdim=True) + 1e-6) * weight

    def rms_norm() -> list[tuple[Any, Any]]:
        out = torch.empty_like(x).npu()
        ops.rms_norm(out, x.npu(), weight.npu(), 1e-6)
        return [(out, norm(x))]

    def fused_add_rms_norm() -> list[tuple[Any, Any]]:
        ours, total = x.npu(), residual.npu()
        ops.fused_add_rms_norm(ours, total, weight.npu(), 1e-6)
        return [(ours, norm(x + residual)), (total, x + residual)]

    def get_token_bin_counts_and_mask() -> list[tuple[Any, Any]]:
        utils = import_module("vllm.model_executor.layers.utils")
        # Token 8 is padding.
        tokens = torch.tensor([[3, 3, 1, 8], [0, 8, 8, 8]])
        counts, mask = utils.get_token_bin_counts_and_mask(tokens.npu(), 8, 2)
        if counts.dtype != torch.int32:
            raise TypeError(f"counts in {counts.dtype}, which the device's CPU adds up")
        wanted = torch.tensor([[0, 1, 0, 2, 0, 0, 0, 0], [1, 0, 0, 0, 0, 0, 0, 0]])
        return [(counts, wanted), (mask.int(), wanted.gt(0).int())]

    def grouped_topk() -> list[tuple[Any, Any]]:
        folder = "vllm.model_executor.layers.fused_moe"
        home = next(
            module
            for name in ("router.grouped_topk_router", "fused_moe")
            if (module := import_if_there(f"{folder}.{name}")) is not None
            and hasattr(module, "grouped_topk")
        )
        logits = torch.randn(4, 8, generator=generator)
        bias = torch.randn(8, generator=generator)
        scores = logits.sigmoid()
        # Only releases with an operator promise something of what is no number.
        rows = 3 if hasattr(home, "fused_grouped_topk") else 4
        logits[rows:] = float("nan")
        weights, _ = home.grouped_topk(
            x[:4].npu(),
            logits.npu(),
            topk=2,
            renormalize=True,
            num_expert_group=2,
            topk_group=2,
            scoring_func="sigmoid",
            e_score_correction_bias=bias.npu(),
        )
        wanted = scores.gather(1, (scores + bias).topk(2).indices)
        wanted = wanted / wanted.sum(-1, keepdim=True)
        wanted[rows:] = 0.5
        return [(weights.sort().values, wanted.sort().values)]

    found: dict[str, Any] = {}
    for call in (rms_norm, fused_add_rms_norm, get_token_bin_counts_and_mask, grouped_topk):
        try:
            pairs = call()
        except (AttributeError, RuntimeError, TypeError, NotImplementedError) as error:
            found[call.__name__] = f"{type(error).__name__}: {error}".splitlines()[0]
            continue
        errors = [float((a.cpu() - b).abs().nan_to_num(nan=float("inf")).max()) for a, b in pairs]
        found[call.__name__] = max(errors)
    return found


def import_if_there(name: str) -> Any | None:
    """A module, or None in a release that has no such one."""
    try:
        return import_module(name)
    except ModuleNotFoundError:
        return None


def follows_streams() -> bool:
    """Whether vLLM's current stream is the one that torch_npu was told to work on."""
    import torch

    for home in ("vllm.utils.torch_utils", "vllm.utils"):
        try:
            current_stream = import_module(home).current_stream
            break
        except (ImportError, AttributeError):
            continue
    outer = current_stream()
    side = torch.npu.Stream()
    with torch.npu.stream(side):
        inner = current_stream()
    return bool(inner == side and current_stream() == outer)


def takes_v2_runner(config: Any) -> bool:
    """Whether vLLM would take its model runner V2 unasked, if it believed in Triton.

    That depends on the machine: by Triton's own count of drivers, or an empty variable of CUDA's.
    """
    from vllm import envs

    # Later releases read their switches once.
    getattr(envs, "disable_envs_cache", lambda: None)()
    asked = os.environ.pop("VLLM_USE_V2_MODEL_RUNNER", None)
    home: Any = sys.modules[type(config).__module__]
    believed = getattr(home, "HAS_TRITON", None)
    try:
        if believed is not None:
            home.HAS_TRITON = True
        return bool(getattr(config, "use_v2_model_runner", False))
    finally:
        if believed is not None:
            home.HAS_TRITON = believed
        if asked is not None:
            os.environ["VLLM_USE_V2_MODEL_RUNNER"] = asked


def default_backend(folder: Path) -> str:
    """Backend of the group that vLLM makes where its caller names none, or why there is none."""
    import torch

    from vllm.distributed import parallel_state  # type: ignore[import-not-found]

    parallel_state.destroy_model_parallel()
    parallel_state.destroy_distributed_environment()
    try:
        parallel_state.init_distributed_environment(1, 0, f"file://{folder / 'store'}", 0)
        group = parallel_state.get_world_group().device_group
        return str(torch.distributed.get_backend(group))
    except (AssertionError, RuntimeError, ValueError) as error:
        return f"{type(error).__name__}: {error}".splitlines()[0]
    finally:
        parallel_state.destroy_distributed_environment()


def transferred() -> float | str:
    """Penalties of an NPU tensor after `transfer_to_npu`: the largest error, or why not.

    Programs of CUDA import that to run on an NPU. It makes `is_cuda` of an NPU tensor true and
    cannot be undone: this is the last that a process does.
    """
    import torch
    from torch_npu.contrib import transfer_to_npu  # noqa: F401 - its import does it all

    from vllm import _custom_ops as ops

    generator = torch.Generator().manual_seed(4)
    logits = torch.randn(3, 32, generator=generator)
    seen, other = (torch.rand(3, 32, generator=generator) < 0.3 for _ in range(2))
    penalties = torch.tensor([1.0, 1.3, 2.0])
    factor = torch.where(seen | other, penalties[:, None], 1.0)
    wanted = torch.where(logits > 0, logits / factor, logits * factor)
    ours = logits.npu()
    try:
        ops.apply_repetition_penalties(ours, seen.npu(), other.npu(), penalties.npu())
    except (AttributeError, RuntimeError, TypeError, NotImplementedError) as error:
        return f"{type(error).__name__}: {error}".splitlines()[0]
    return float((ours.cpu() - wanted).abs().max())


def loads_tokenizer(model: str) -> bool:
    """Whether vLLM can load the tokenizer with the transformers that is installed.

    0.10.0 does not serve token ids without one; older releases ask tokenizers of transformers 5
    for attributes that are gone.
    """
    for home in ("vllm.tokenizers", "vllm.transformers_utils.tokenizer"):
        try:
            get_tokenizer = import_module(home).get_tokenizer
        except (ImportError, AttributeError):
            continue
        try:
            get_tokenizer(model)
        except AttributeError:
            return False
        return True
    return False


def modules() -> list[str]:
    """Names of the modules that were imported from files, this program's own left out, in order."""
    ours = str(Path(__file__).resolve().parent)
    found = []
    for name, module in list(sys.modules.items()):
        spec = vars(module).get("__spec__") if module is not None else None
        if spec is None or spec.name != name or not spec.has_location:
            continue
        if not str(spec.origin).startswith(ours):
            found.append(name)
    return found


def main(job: dict[str, Any]) -> None:
    """Import vLLM, load, run, shut down."""
    record = Record(Path(job["out"]))
    started = time.time()
    import vllm

    # A process of its own would import all of it once more. Servers have one.
    inspect_here()
    record.save(vllm=vllm.__file__, release=getattr(vllm, "__version__", ""))
    imported = time.time()
    tokenizer = loads_tokenizer(job["model"])
    llm: Any = vllm.LLM(model=job["model"], skip_tokenizer_init=not tokenizer, **job["engine"])
    loaded = time.time()
    record.save(
        import_seconds=imported - started, load_seconds=loaded - imported, tokenizer=tokenizer
    )
    run(job, llm, record)
    if tokenizer:
        structured(llm, record)
    # Before anything is imported that other runs do without.
    record.save(modules=modules())
    if not job["workers_are_children"]:
        record.save(runners=runners(), graph_memory=graph_memory())
    config = llm.llm_engine.vllm_config
    release(llm)
    del llm
    gc.collect()
    import torch
    import torch_npu  # noqa: F401 - a process with a worker elsewhere has not needed it

    record.save(described=described())
    if job["workers_are_children"]:
        record.save(memory_after=wait_for_memory(torch, job["devices"]))
    else:
        record.save(kernels=kernels())
        record.save(follows_streams=follows_streams(), takes_v2_runner=takes_v2_runner(config))
        record.save(backend=default_backend(record.folder))
        record.save(transferred=transferred())
    record.save(finished=True)


if __name__ == "__main__":
    main(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")))
