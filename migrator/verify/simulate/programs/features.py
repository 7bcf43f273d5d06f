# SPDX-License-Identifier: Apache-2.0
"""Tries features of vLLM that no model of the other programs has; writes what each came to.

    python features.py JOB.json

A check returns what it tried. Its error is written in its place, with all that it came from.
"""

from __future__ import annotations

import gc
import inspect
import json
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from refuse import chain  # type: ignore[import-not-found]

Job = dict[str, Any]
PROMPTS = [[1, 17, 5, 9], list(range(3, 150)), [2, 400, 31]]


def engine(job: Job, **options: Any) -> Any:
    """An engine of the model of the job."""
    from vllm import LLM  # type: ignore[import-not-found]

    return LLM(model=job["model"], **{**job["engine"], **options})


def close(llm: Any) -> None:
    """Shut an engine down, so that the next one has the device."""
    from vllm.distributed import cleanup_dist_env_and_memory  # type: ignore[import-not-found]

    core = getattr(llm.llm_engine, "engine_core", None)
    if core is not None:
        core.shutdown()
    gc.collect()
    cleanup_dist_env_and_memory()


def near(what: str, found: Any, wanted: Any, tolerance: float = 1e-4) -> None:
    """Raise if two tensors differ."""
    difference = (found.float().cpu() - wanted.float().cpu()).abs().max().item()
    if not difference <= tolerance:
        raise AssertionError(f"{what}: differs by {difference:.3g}")


def transformer(job: Job, **config: Any) -> Any:
    """The model by transformers, on the CPU, with changes to its configuration."""
    import torch
    import transformers

    model = transformers.AutoModelForCausalLM.from_pretrained(job["model"], **config)
    model = model.float().eval()
    assert next(model.parameters()).device == torch.device("cpu")
    return model


def check_pooling(job: Job) -> list[str]:
    """A decoder as an embedding model: the last token's hidden state, normalized."""
    compare_embeddings(job, lambda states: states[-1])
    return ["runner", "convert"]


def check_mean_pooling(job: Job) -> list[str]:
    """The mean of all tokens' hidden states in its place."""
    from vllm.config import PoolerConfig  # type: ignore[import-not-found]

    (name,) = known({"pooler_config": None}) or known({"override_pooler_config": None})
    # It takes a prompt in one piece, so that a step has to hold the longest.
    longest = job["engine"]["max_model_len"]
    options = {name: PoolerConfig(pooling_type="MEAN"), "max_num_batched_tokens": longest}
    compare_embeddings(job, lambda states: states.mean(0), **options)
    return [name]


def compare_embeddings(job: Job, pool: Callable[[Any], Any], **options: Any) -> None:
    """Raise where embeddings are not what `pool` makes of the states [tokens, size], normalized."""
    import torch

    model = transformer(job).model
    llm = engine(job, runner="pooling", convert="embed", **options)
    found = llm.embed([{"prompt_token_ids": prompt} for prompt in PROMPTS], use_tqdm=False)
    close(llm)
    for prompt, result in zip(PROMPTS, found, strict=True):
        with torch.no_grad():
            states = model(torch.tensor([prompt])).last_hidden_state[0]
        wanted = torch.nn.functional.normalize(pool(states), dim=-1)
        near("embedding", torch.tensor(result.outputs.embedding), wanted)


def check_weights_in_host_memory(job: Job) -> list[str]:
    """Weights that are copied to the device in each forward pass, or a refusal that says so."""
    from vllm import envs

    if "VLLM_WEIGHT_OFFLOADING_DISABLE_UVA" not in envs.environment_variables:
        try:
            engine(job, cpu_offload_gb=1)
        except Exception as error:  # what it is wrapped in depends on the release
            if "Leave --cpu-offload-gb out" in chain(error):
                return ["refused"]
            raise
        raise AssertionError("an engine starts")
    compare(job, cpu_offload_gb=1)
    return ["cpu_offload_gb"]


def check_some_weights_in_host_memory(job: Job) -> list[str]:
    """Only those of some layers, where a release has that choice."""
    chosen = known({"cpu_offload_params": {"down_proj"}})
    if chosen:
        compare(job, cpu_offload_gb=1, **chosen)
    return sorted(chosen)


def check_model_of_transformers(job: Job) -> list[str]:
    """The model as transformers has it, with vLLM's attention: its own greedy tokens."""
    compare(job, model_impl="transformers")
    return ["model_impl"]


EPSILON = 0.5
"""Of the norms, where the configuration is overridden: large enough for other tokens."""
SETTINGS: dict[str, Any] = {
    "async_scheduling": False,
    "attention_backend": "FLASH_ATTN",
    "device_ids": [0],
    "disable_cascade_attn": False,
    "disable_sliding_window": True,
    "generation_config": "vllm",
    "hf_overrides": {"rms_norm_eps": EPSILON},
    "ir_op_priority": {"rms_norm": ["native"]},
    "kv_cache_memory_bytes": 16 << 20,
    "load_format": "safetensors",
    "long_prefill_token_threshold": 32,
    "max_logprobs": 3,
    "num_gpu_blocks_override": 24,
    "override_attention_dtype": "float16",
    "swap_space": 0,
}
SETTINGS_OF_GRAPHS: dict[str, Any] = {
    "async_scheduling": True,
    "cuda_graph_sizes": [4],
    "cudagraph_capture_sizes": [1, 2, 4],
    "enforce_eager": False,
    "max_cudagraph_capture_size": 4,
    "optimization_level": 1,
    "performance_mode": "interactivity",
}
"""Options at other values than their own; a release takes those that it has."""


def known(options: dict[str, Any]) -> dict[str, Any]:
    """Those of the options that the release has."""
    import dataclasses

    from vllm.engine.arg_utils import EngineArgs  # type: ignore[import-not-found]

    names = {field.name for field in dataclasses.fields(EngineArgs)}
    return {name: value for name, value in options.items() if name in names}


def check_settings(job: Job) -> list[str]:
    """Many options at once, in a model with another epsilon, without graphs."""
    options = known(SETTINGS)
    compare(job, {"rms_norm_eps": EPSILON}, **options)
    return sorted(options)


def check_settings_of_graphs(job: Job) -> list[str]:
    """Many options at once, with graphs."""
    options = known(SETTINGS_OF_GRAPHS)
    compare(job, **options)
    return sorted(options)


def check_external_launcher(job: Job) -> list[str]:
    """An engine that another program starts as one of its ranks: here the only one."""
    import socket
    from unittest.mock import patch

    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    ranks = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1"}
    with patch.dict("os.environ", ranks | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}):
        compare(job, distributed_executor_backend="external_launcher")
    return ["external_launcher"]


def compare(job: Job, config: dict[str, Any] | None = None, **options: Any) -> None:
    """Start an engine with these options; its greedy tokens have to be those of transformers.

    `config` is what differs in the configuration of the model.
    """
    from vllm import SamplingParams

    # Before vLLM makes the classes of transformers its own.
    model = transformer(job, **(config or {}))
    wanted = [greedy(model, prompt, 4) for prompt in PROMPTS]
    llm = engine(job, **options)
    parameters = SamplingParams(max_tokens=4, temperature=0, detokenize=False, ignore_eos=True)
    found = llm.generate([{"prompt_token_ids": p} for p in PROMPTS], parameters, use_tqdm=False)
    close(llm)
    tokens = [list(result.outputs[0].token_ids) for result in found]
    if tokens != wanted:
        raise AssertionError(f"{tokens}, not {wanted}")


FAVOURITE = 7
"""The token that the processor of logits leaves."""


def favourite() -> type:
    """A processor of logits as a user writes one."""
    from vllm.v1.sample.logits_processor import (  # type: ignore[import-not-found]
        LogitsProcessor,
    )

    class Favourite(LogitsProcessor):  # type: ignore[misc]
        def __init__(self, *_: Any) -> None:
            """Nothing of the engine matters."""

        def is_argmax_invariant(self) -> bool:
            return False

        def update_state(self, batch_update: Any) -> None:
            """Nothing depends on the batch."""

        def apply(self, logits: Any) -> Any:
            # [requests, vocabulary]
            kept = logits[:, FAVOURITE].clone()
            logits.fill_(float("-inf"))
            logits[:, FAVOURITE] = kept
            return logits

    return Favourite


def check_options(job: Job) -> list[str]:
    """Options that other programs leave alone: prompts as embeddings, log probabilities, priority.

    Greedy tokens have to be those of transformers all the same.
    """
    import torch

    from vllm import SamplingParams

    options: dict[str, Any] = {
        "enable_prompt_embeds": True,
        "logprobs_mode": "processed_logprobs",
        "scheduling_policy": "priority",
        "logits_processors": [],
    }
    llm = engine(job, **options)
    model = transformer(job)
    wanted = [greedy(model, prompt, 6) for prompt in PROMPTS]
    parameters = SamplingParams(max_tokens=6, temperature=0, detokenize=False, ignore_eos=True)
    table = model.get_input_embeddings().weight.detach()
    asked = [{"prompt_embeds": table[torch.tensor(prompt)]} for prompt in PROMPTS]
    for name, prompts in (
        ("tokens", [{"prompt_token_ids": prompt} for prompt in PROMPTS]),
        ("embeddings", asked),
    ):
        found = llm.generate(prompts, parameters, use_tqdm=False, priority=[2, 0, 1])
        tokens = [list(result.outputs[0].token_ids) for result in found]
        if tokens != wanted:
            raise AssertionError(f"prompts as {name}: {tokens}, not {wanted}")
    drawn = SamplingParams(max_tokens=1, temperature=1.0, top_k=1, logprobs=1, detokenize=False)
    (result,) = llm.generate([{"prompt_token_ids": PROMPTS[0]}], drawn, use_tqdm=False)
    (best,) = (entry.logprob for entry in result.outputs[0].logprobs[0].values())
    near("log probability of the token that top_k left", torch.tensor(best), torch.tensor(0.0))
    close(llm)
    return sorted(options)


def greedy(model: Any, prompt: list[int], count: int) -> list[int]:
    """The best tokens by transformers."""
    import torch

    tokens = list(prompt)
    for _ in range(count):
        with torch.no_grad():
            tokens.append(int(model(torch.tensor([tokens])).logits[0, -1].argmax()))
    return tokens[len(prompt) :]


def check_logits_processor(job: Job) -> list[str]:
    """A processor of the user's."""
    from vllm import SamplingParams

    llm = engine(job, logits_processors=[favourite()])
    parameters = SamplingParams(max_tokens=3, temperature=0, detokenize=False, ignore_eos=True)
    found = llm.generate([{"prompt_token_ids": PROMPTS[0]}], parameters, use_tqdm=False)
    close(llm)
    tokens = list(found[0].outputs[0].token_ids)
    if tokens != [FAVOURITE] * 3:
        raise AssertionError(f"the processor leaves {FAVOURITE}, the engine chose {tokens}")
    return ["logits_processors"]


# -- rotary embeddings

TOKENS, HEADS, SIZE, LENGTH = 5, 2, 64, 128
# By the names that the constructors have.
ARGUMENTS: dict[str, Any] = {
    "head_size": SIZE,
    "rotary_dim": SIZE,
    "max_position_embeddings": LENGTH,
    "max_trained_positions": LENGTH,
    "original_max_position_embeddings": LENGTH // 2,
    "orig_max_position": LENGTH // 2,
    "base": 10000.0,
    "is_neox_style": True,
    "scaling_factor": 2.0,
    "scaling_factors": 2.0,
    "scaling_alpha": 2.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "short_factor": [1.0] * (SIZE // 2),
    "long_factor": [2.0] * (SIZE // 2),
    "mrope_section": [16, 8, 8],
    "xdrope_section": [8, 8, 8, 8],
    "scaling_beta_fast": 32,
    "init_cache": True,
}
SECTIONS = {"mrope_section", "xdrope_section"}
SECTIONED = {"MRotaryEmbedding": 3, "XDRotaryEmbedding": 4}
"""Positions of a token have as many parts."""


def rotary_classes() -> Iterator[Any]:
    """The classes that turn queries and keys by positions."""
    import pkgutil
    from importlib import import_module

    package = import_module("vllm.model_executor.layers.rotary_embedding")
    for module in pkgutil.iter_modules(package.__path__):
        if module.name.startswith("rocm"):
            continue
        for name, value in vars(import_module(f"{package.__name__}.{module.name}")).items():
            native = getattr(value, "forward_native", None)
            if not inspect.isclass(value) or native is None or value.__name__ != name:
                continue
            if "positions" in inspect.signature(native).parameters:
                yield value


def made(kind: Any, dtype: Any) -> Any | None:
    """A layer of a class, with its sections if it has some; None if it wants other arguments."""
    import torch

    from vllm.config import VllmConfig, set_current_vllm_config

    parameters = list(inspect.signature(kind.__init__).parameters.values())[1:]
    given = {
        p.name: ARGUMENTS[p.name]
        for p in parameters
        if p.name in ARGUMENTS and (p.default is p.empty or p.name in SECTIONS)
    }
    if kind.__name__.startswith("Ernie"):
        # Height and width come first.
        given["mrope_section"] = [8, 8, 16]
    if "dtype" in {p.name for p in parameters}:
        given["dtype"] = dtype
    needed = {p.name for p in parameters if p.default is p.empty}
    if needed - given.keys():
        return None
    # As a model is made: what is given no device is on the NPU.
    with set_current_vllm_config(VllmConfig()), torch.device("npu"):
        return kind(**given)


def compare_rotary(kind: Any, dtype: Any) -> bool:
    """Compare a class on the device and on the CPU; False if it cannot be made here."""
    import torch

    layer = made(kind, dtype)
    if layer is None:
        return False
    parts = [n for base, n in SECTIONED.items() if base in {b.__name__ for b in kind.__mro__}]
    positions = torch.randint(0, LENGTH // 2, (*parts, TOKENS))
    query = torch.randn(TOKENS, HEADS * SIZE, dtype=dtype)
    key = torch.randn(TOKENS, SIZE, dtype=dtype)
    layer.cpu()
    # What a class does that dispatches to nothing, it does on the CPU too.
    native = layer.forward_native if "forward" not in vars(kind) else layer
    wanted = native(positions, query.clone(), key.clone())
    found = layer.npu()(positions.npu(), query.npu(), key.npu())
    for part, right in zip(found, wanted, strict=True):
        near(kind.__name__, part, right, 2e-2 if dtype is torch.bfloat16 else 4e-3)
    return True


def check_rotary(_: Job) -> list[str]:
    """Each class that can be made of plain arguments, on the device and on the CPU."""
    import torch

    torch.manual_seed(0)
    tried, errors = [], []
    for kind in dict.fromkeys(rotary_classes()):
        try:
            if all(compare_rotary(kind, dtype) for dtype in (torch.bfloat16, torch.float16)):
                tried.append(kind.__name__)
        except Exception as error:  # the other classes are to be seen all the same
            traceback.print_exc()
            errors.append(f"{kind.__name__}: {type(error).__name__}: {error}")
    if errors:
        raise AssertionError(f"{'; '.join(errors)}; right: {', '.join(tried)}")
    return tried


CHECKS: dict[str, Callable[[Job], list[str]]] = {
    "rotary embeddings": check_rotary,
    "options": check_options,
    "logits processor": check_logits_processor,
    "pooling": check_pooling,
    "model of transformers": check_model_of_transformers,
    "mean pooling": check_mean_pooling,
    "weights in host memory": check_weights_in_host_memory,
    "some weights in host memory": check_some_weights_in_host_memory,
    "external launcher": check_external_launcher,
    "settings": check_settings,
    "settings of graphs": check_settings_of_graphs,
}


def main(job: Job) -> None:
    """Write what each check came to, one after the other."""
    out = Path(job["out"])
    found: dict[str, Any] = {}
    for name in job["checks"]:
        began = time.time()
        entry: dict[str, Any] = {"tried": [], "error": None}
        try:
            entry["tried"] = CHECKS[name](job)
        except Exception as error:  # whatever it is, it is what a user would see
            entry["error"] = f"{type(error).__name__}: {error}"
            traceback.print_exc()
        found[name] = {**entry, "seconds": time.time() - began}
        out.write_text(json.dumps(found), encoding="utf-8")


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent))
    main(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")))
