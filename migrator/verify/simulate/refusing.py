# SPDX-License-Identifier: Apache-2.0
"""Sees that what the NPU's operators do not take is refused when an engine starts, in plain words.

The other way for such a model would be wrong tokens, or an operator's error in the middle of a
request.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from migrator.verify.simulate import environment, process
from migrator.verify.simulate.modes import DEVICE_MEMORY
from migrator.verify.simulate.report import Report, Run
from migrator.verify.simulate.run import Options, Runner, ended, opened, report

MODE = "refusals"
_ENGINE: dict[str, Any] = {
    "dtype": "bfloat16",
    "load_format": "dummy",
    "skip_tokenizer_init": True,
    "max_model_len": 128,
    "enforce_eager": True,
    "gpu_memory_utilization": 0.6,
}
_LLAMA: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "vocab_size": 512,
    "hidden_size": 128,
    "intermediate_size": 128,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "head_dim": 64,
    "max_position_embeddings": 256,
}


@dataclass(frozen=True)
class Case:
    """A model that an NPU does not serve. `says` has to be in the error."""

    name: str
    says: str
    config: dict[str, Any] = field(default_factory=lambda: _LLAMA)
    engine: dict[str, Any] = field(default_factory=dict)


CASES = (
    Case("float32", "takes float16 and bfloat16, not float32", engine={"dtype": "float32"}),
    Case("block size", "--block-size must be a multiple of 128", engine={"block_size": 64}),
    Case("sleep mode", "leep mode is not supported", engine={"enable_sleep_mode": True}),
    Case(
        "speculative decoding",
        "NPU: speculative decoding accepts drafts in Triton kernels",
        engine={
            "speculative_config": {
                "method": "ngram",
                "num_speculative_tokens": 2,
                "prompt_lookup_max": 2,
            }
        },
    ),
    Case("head size", "needs a head size", {**_LLAMA, "head_dim": 72}),
    Case(
        "ALiBi",
        "NPU attention does not support ALiBi",
        {
            "architectures": ["BloomForCausalLM"],
            "model_type": "bloom",
            "vocab_size": 512,
            "hidden_size": 128,
            "n_layer": 1,
            "n_head": 2,
            "seq_length": 256,
        },
    ),
    Case(
        "soft cap",
        "NPU attention does not support a logits soft cap",
        {
            **_LLAMA,
            "architectures": ["Gemma2ForCausalLM"],
            "model_type": "gemma2",
            "attn_logit_softcapping": 50.0,
            "query_pre_attn_scalar": 64,
            "hidden_activation": "gelu_pytorch_tanh",
            "sliding_window": 64,
        },
    ),
    Case(
        "encoder",
        "NPU attention does not support attention of type encoder_only",
        {
            "architectures": ["BertModel"],
            "model_type": "bert",
            "vocab_size": 512,
            "hidden_size": 128,
            "intermediate_size": 128,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "max_position_embeddings": 256,
        },
    ),
    Case(
        "latent attention",
        "NPU: multi-head latent attention has no backend here",
        {
            "architectures": ["DeepseekV2ForCausalLM"],
            "model_type": "deepseek_v2",
            "vocab_size": 512,
            "hidden_size": 128,
            "intermediate_size": 128,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "num_key_value_heads": 2,
            "kv_lora_rank": 64,
            "q_lora_rank": None,
            "qk_nope_head_dim": 32,
            "qk_rope_head_dim": 32,
            "v_head_dim": 32,
            "n_routed_experts": 4,
            "first_k_dense_replace": 1,
            "max_position_embeddings": 256,
        },
    ),
)


def refusals(
    options: Options,
    progress: Callable[[str], None] = lambda _: None,
    runner: Runner = process.run,
) -> Report:
    """Start an engine of each of CASES; models and modes are not used.

    Raises:
        SimulateError: the tree or the environment cannot be run at all.
    """
    with opened(options) as (tree, work):
        versions = environment.check(options.launcher.python, tree, serve=False)
        progress("refusals")
        folder = work / MODE
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        job, out, log = folder / "job.json", folder / "out.json", folder / "log"
        cases = [{"name": c.name, "config": c.config, "engine": c.engine} for c in CASES]
        job.write_text(json.dumps({"out": str(out), "engine": _ENGINE, "cases": cases}))
        settings = {**environment.variables(tree, work), "VLLM_ENABLE_V1_MULTIPROCESSING": "0"}
        for name in environment.FLOAT32:
            settings.pop(name)
        program = [str(environment.PROGRAMS / "refuse.py"), str(job)]
        command = options.launcher.simulated(1, DEVICE_MEMORY, program)
        finished = runner(command, settings, folder, log, options.timeout)
        found = json.loads(out.read_text(encoding="utf-8")) if out.is_file() else {}
        broken = ended(finished)
        run = Run(
            model="vllm",
            mode=MODE,
            equal=None,
            problems=[*broken, *faults(found)],
            seconds=round(finished.seconds, 1),
            log=process.tail(log) if broken else [],
        )
        return report(tree, options, versions, [run])


def faults(found: dict[str, Any]) -> Iterator[str]:
    """What is wrong with the errors: case → what stopped its engine."""
    for case in CASES:
        if case.name not in found:
            yield f"{case.name}: not tried"
            continue
        error = found[case.name]["error"]
        if error is None:
            yield f"{case.name}: an engine starts"
        elif case.says not in " ".join(error.split()):
            lines = [line for line in error.splitlines() if line.strip()]
            yield f"{case.name}: stopped by another error, {lines[0][:200]}"
