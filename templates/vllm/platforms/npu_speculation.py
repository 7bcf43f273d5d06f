# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright contributors to the vLLM project
"""Which speculative decoding an Ascend NPU does.

What is listed here gives the tokens that the model gives without it; the rest is
refused when an engine starts.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vllm.config import VllmConfig

METHODS: dict[str, tuple[str, ...]] = {}
"""Method of making drafts → with which graphs, or without, it was run."""

# npu-migrate: when platform_registers_kernels
METHODS.update(draft_model=("eager",), eagle=("eager",))
# npu-migrate: end
# npu-migrate: when speculation_has_all_kernels
METHODS.update(ngram=("eager",))
# npu-migrate: end

HEADS: dict[str, tuple[str, ...]] = {
    "eagle": ("EagleLlamaForCausalLM",),
}
"""Method whose drafts come from a head of the model → the classes of heads."""

KNOWN = frozenset(
    {
        "code_revision",
        "draft_load_config",
        "draft_model_config",
        "draft_parallel_config",
        "draft_tensor_parallel_size",
        "enforce_eager",
        "max_model_len",
        "method",
        "model",
        "num_speculative_tokens",
        "prompt_lookup_max",
        "prompt_lookup_min",
        "revision",
        "target_model_config",
        "target_parallel_config",
    }
)
"""Options of speculation that have any value; others have the one that vLLM gives.

The configurations among them are those of models and ranks, of which others ask.
"""

OTHERS = frozenset(
    {"disable_log_stats", "enable_chunked_prefill", "speculative_token_tree"}
)
"""Options that vLLM fills in by itself, from the known ones or the engine's own."""


def speculation_reasons(vllm_config: VllmConfig) -> Iterator[str]:
    """What of a configuration's speculation an NPU does not do, in words."""
    config = vllm_config.speculative_config
    if config is None:
        return
    graphs = METHODS.get(config.method or "")
    if graphs is None:
        known = ", ".join(sorted(METHODS))
        only = f", only by {known}" if known else " here"
        yield f"speculative decoding by {config.method!r} is not supported{only}"
        return
    wanted = _graphs(vllm_config)
    if wanted not in graphs:
        yield (
            f"speculative decoding by {config.method!r} is not supported with {wanted} "
            f"graphs, only {' or '.join(graphs)}. Set --enforce-eager"
        )
    yield from _head_reasons(config)
    if getattr(vllm_config, "use_v2_model_runner", False):
        yield "speculative decoding is not supported with model runner V2"
    for field in dataclasses.fields(config):
        if not field.init or field.name in KNOWN or field.name in OTHERS:
            continue
        value, default = getattr(config, field.name), default_of(field)
        if value is not None and value != default:
            yield (
                f"speculative decoding with {field.name}={value!r} is not supported, "
                f"only {default!r}"
            )
    yield from _combinations(vllm_config)


def _head_reasons(config: Any) -> Iterator[str]:
    """Whether a head that makes drafts is none of those that were compared."""
    heads = HEADS.get(config.method)
    draft = getattr(config, "draft_model_config", None)
    if heads is None or draft is None:
        return
    for name in draft.architectures:
        if name not in heads:
            yield (
                f"speculative decoding by {config.method!r} is not supported with "
                f"{name}, only {' or '.join(heads)}"
            )


def _graphs(vllm_config: VllmConfig) -> str:
    """What is captured, as the platform will have it: `eager` is nothing."""
    if vllm_config.model_config.enforce_eager:
        return "eager"
    mode = getattr(vllm_config.compilation_config, "cudagraph_mode", None)
    name = getattr(mode, "name", "")
    return {"NONE": "eager", "FULL_DECODE_ONLY": "full"}.get(name, "piecewise")


def _combinations(vllm_config: VllmConfig) -> Iterator[str]:
    """What else an engine does that was not run together with speculation."""
    parallel = vllm_config.parallel_config
    for name in (
        "tensor_parallel_size",
        "pipeline_parallel_size",
        "data_parallel_size",
    ):
        if getattr(parallel, name) > 1:
            yield (
                f"speculative decoding is not supported with {name}="
                f"{getattr(parallel, name)}"
            )
    if vllm_config.lora_config is not None:
        yield "speculative decoding is not supported with LoRA adapters"
    model_config = vllm_config.model_config
    if getattr(model_config, "multimodal_config", None) is not None:
        yield "speculative decoding is not supported for models of several modalities"


def default_of(field: dataclasses.Field) -> Any:
    """What vLLM gives a part of its configuration by itself."""
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    # Pydantic leaves its own description of a field in the place of a default.
    make = getattr(field.default, "get_default", None)
    return field.default if make is None else make(call_default_factory=True)
