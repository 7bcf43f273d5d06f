# SPDX-License-Identifier: Apache-2.0
"""What of speculation the platform refuses, and that each refusal names what it is about."""

from __future__ import annotations

import dataclasses
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from tests.trees import template_module


@pytest.fixture(scope="module")
def speculation() -> ModuleType:
    module = template_module("vllm/platforms/npu_speculation.py")
    # A release in which something is done.
    module.METHODS = {"eagle": ("eager",), "ngram": ("eager",)}  # type: ignore[attr-defined]
    return module


@dataclasses.dataclass
class Speculative:
    """The least of a SpeculativeConfig."""

    method: str = "ngram"
    model: str | None = "somewhere"
    num_speculative_tokens: int = 3
    draft_sample_method: str = "greedy"
    later_option: int | None = None
    draft_model_config: Any = None


def head(architecture: str) -> Speculative:
    config = SimpleNamespace(architectures=[architecture])
    return Speculative("eagle", draft_model_config=config)


def said(speculation: ModuleType, speculative: Speculative | None, **parts: Any) -> list[str]:
    parallel = {"tensor_parallel_size": 1, "pipeline_parallel_size": 1, "data_parallel_size": 1}
    config = SimpleNamespace(
        speculative_config=speculative,
        model_config=SimpleNamespace(enforce_eager=parts.pop("enforce_eager", True)),
        compilation_config=SimpleNamespace(
            cudagraph_mode=SimpleNamespace(name=parts.pop("graphs", "PIECEWISE"))
        ),
        lora_config=parts.pop("lora_config", None),
        use_v2_model_runner=parts.pop("v2", False),
        parallel_config=SimpleNamespace(**{**parallel, **parts}),
    )
    return list(speculation.speculation_reasons(config))


def test_nothing_is_said_without_speculation_and_of_what_is_done(speculation: ModuleType) -> None:
    assert said(speculation, None, tensor_parallel_size=2) == []
    assert said(speculation, Speculative()) == []
    assert said(speculation, head("EagleLlamaForCausalLM")) == []


@pytest.mark.parametrize(
    ("speculative", "parts", "says"),
    [
        (Speculative("medusa"), {}, "by 'medusa' is not supported, only by eagle, ngram"),
        (
            head("EagleDeepSeekMTPModel"),
            {},
            "by 'eagle' is not supported with EagleDeepSeekMTPModel, only EagleLlamaForCausalLM",
        ),
        (Speculative(), {"enforce_eager": False}, "with piecewise graphs, only eager"),
        (
            Speculative(),
            {"enforce_eager": False, "graphs": "FULL_DECODE_ONLY"},
            "with full graphs, only eager",
        ),
        (Speculative(), {"v2": True}, "model runner V2"),
        (Speculative(), {"tensor_parallel_size": 2}, "tensor_parallel_size=2"),
        (Speculative(), {"pipeline_parallel_size": 2}, "pipeline_parallel_size=2"),
        (Speculative(), {"data_parallel_size": 2}, "data_parallel_size=2"),
        (Speculative(), {"lora_config": object()}, "LoRA adapters"),
        (
            Speculative(draft_sample_method="probabilistic"),
            {},
            "draft_sample_method='probabilistic' is not supported, only 'greedy'",
        ),
        (Speculative(later_option=4), {}, "later_option=4 is not supported"),
    ],
)
def test_what_was_not_run_is_refused_by_name(
    speculation: ModuleType, speculative: Speculative, parts: dict[str, Any], says: str
) -> None:
    (reason,) = said(speculation, speculative, **parts)
    assert says in reason
    assert "\n" not in reason


def test_graphs_that_are_not_captured_are_none(speculation: ModuleType) -> None:
    assert said(speculation, Speculative(), enforce_eager=False, graphs="NONE") == []
