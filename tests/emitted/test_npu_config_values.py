# SPDX-License-Identifier: Apache-2.0
"""The platform's table of what an NPU takes: every other value is refused, and says what it is."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from tests.trees import template_module

ROOT = Path(__file__).resolve().parents[2]
TEMPLATE = ROOT / "templates" / "vllm" / "platforms" / "npu_config.py"


TABLE = template_module("vllm/platforms/npu_config.py")


@pytest.fixture(autouse=True)
def vllm(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the module asks of vLLM when it looks at a configuration."""
    package, envs = ModuleType("vllm"), ModuleType("vllm.envs")
    envs.environment_variables = {"VLLM_WEIGHT_OFFLOADING_DISABLE_UVA": None}  # type: ignore[attr-defined]
    package.envs = envs  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "vllm", package)
    monkeypatch.setitem(sys.modules, "vllm.envs", envs)
    for name in TABLE.TAKEN_VARIABLES:
        monkeypatch.delenv(name, raising=False)


def configuration(path: str, value: Any) -> Any:
    """A configuration in which one option, at a dotted path, has a value."""
    first, *rest = path.split(".")
    for name in reversed(rest):
        value = SimpleNamespace(**{name: value})
    others = {"model_config": None, "speculative_config": None, "kv_transfer_config": None}
    values = {**others, first: value}
    if values["model_config"] is not None:
        vars(values["model_config"]).update(
            use_mla=False,
            is_hybrid=False,
            has_inner_state=False,
            is_attention_free=False,
            max_model_len=128,
            hf_config=SimpleNamespace(model_type="llama"),
            hf_text_config=SimpleNamespace(mova_num_experts=0),
        )
        values["load_config"] = SimpleNamespace(load_format="dummy")
    fields = [(name, Any, dataclasses.field(default=None)) for name in values]
    return dataclasses.make_dataclass("VllmConfig", fields)(**values)


@pytest.mark.parametrize("path", list(TABLE.TAKEN))
def test_platform_refuses_what_it_does_not_take(path: str) -> None:
    taken, why = TABLE.TAKEN[path]
    name = path.rpartition(".")[2]
    for value in taken:
        assert not [r for r in TABLE._reasons(configuration(path, value)) if name in r]
    with pytest.raises(ValueError, match=r"^NPU: ") as refused:
        TABLE.refuse_unsupported(configuration(path, "anything else"))
    assert f"{name}='anything else' is not supported, {why}" in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("name", list(TABLE.TAKEN_VARIABLES))
def test_platform_refuses_variables_that_it_does_not_take(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken, why = TABLE.TAKEN_VARIABLES[name]
    for value in ("", *taken):
        monkeypatch.setenv(name, value)
        TABLE.refuse_unsupported(configuration("cache_config", None))
    monkeypatch.setenv(name, "anything else")
    with pytest.raises(ValueError, match=f"{name}=anything else is not supported, ") as refused:
        TABLE.refuse_unsupported(configuration("cache_config", None))
    assert why in str(refused.value)


def test_a_part_that_a_later_release_brings_is_refused_if_it_is_set() -> None:
    later = configuration("later_config", SimpleNamespace(size=1))
    with pytest.raises(ValueError, match="later_config is not supported"):
        TABLE.refuse_unsupported(later)
    TABLE.refuse_unsupported(configuration("later_config", None))


def test_a_batch_is_as_large_as_attention_takes() -> None:
    path = "scheduler_config.max_num_seqs"
    TABLE.refuse_unsupported(configuration(path, 4096))
    with pytest.raises(ValueError, match=r"^NPU: a batch of 4097 requests is larger than the 4096"):
        TABLE.refuse_unsupported(configuration(path, 4097))


def test_weights_stay_in_host_memory_only_where_the_release_copies_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked = configuration("cache_config.cpu_offload_gb", 4)
    TABLE.refuse_unsupported(asked)
    monkeypatch.setattr(sys.modules["vllm.envs"], "environment_variables", {})
    with pytest.raises(ValueError, match=r"unified addresses\. Leave --cpu-offload-gb out"):
        TABLE.refuse_unsupported(asked)
    TABLE.refuse_unsupported(configuration("cache_config.cpu_offload_gb", 0))


def test_values_that_experts_mix_are_refused() -> None:
    asked = configuration("model_config.enable_sleep_mode", False)
    TABLE.refuse_unsupported(asked)
    asked.model_config.hf_text_config = SimpleNamespace(mova_num_experts=4)
    with pytest.raises(ValueError, match="mixes the values of attention by experts"):
        TABLE.refuse_unsupported(asked)
