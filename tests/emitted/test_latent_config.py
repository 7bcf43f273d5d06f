# SPDX-License-Identifier: Apache-2.0
"""What of latent attention the NPU platform refuses at start-up."""

from __future__ import annotations

from collections.abc import Mapping
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from tests.trees import NEWEST, chosen, template_module

TABLE = template_module("vllm/platforms/npu_config.py")
OTHER_VARIANTS = (
    "latent attention has no backend in this release",
    "latent attention was not compared with graphs in this release",
)
"""Of trees whose layers write the cache themselves, and of those whose graphs were not compared: a
template holds all variants."""


def reasons(
    change: Mapping[str, Any] | None = None,
    *,
    heads: int = 16,
    arch: str = TABLE.LATENT_MODELS[0],
    text: Mapping[str, Any] | None = None,
    table: ModuleType = TABLE,
) -> list[str]:
    """What is said of a DeepSeek, of whose configuration these parts are other."""
    given = {path: taken[0] for path, taken in table.LATENT_TAKEN.items()} | dict(change or {})
    model = SimpleNamespace(
        hf_text_config=SimpleNamespace(**{**TABLE.LATENT_SIZES, **(text or {})}),
        use_mla=True,
        enforce_eager=True,
        architectures=[arch],
        get_num_attention_heads=lambda _: heads,
    )
    whole = SimpleNamespace(model_config=model, parallel_config=SimpleNamespace())
    for path, value in given.items():
        at: Any = whole
        *parents, last = path.split(".")
        for name in parents:
            if not hasattr(at, name):
                setattr(at, name, SimpleNamespace())
            at = getattr(at, name)
        setattr(at, last, value)
    found = table._latent_reasons(whole)
    return [reason for reason in found if not reason.startswith(OTHER_VARIANTS)]


def test_deepseeks_as_they_are_are_taken() -> None:
    for arch in TABLE.LATENT_MODELS:
        assert reasons(arch=arch, heads=128) == []


def test_plain_attention_is_no_matter_of_sizes() -> None:
    assert reasons({"model_config.use_mla": False}, text={"kv_lora_rank": 3}) == []


@pytest.mark.parametrize("name", list(TABLE.LATENT_SIZES))
def test_other_sizes_are_refused_in_one_line(name: str) -> None:
    (reason,) = reasons(text={name: 32})
    assert f"{name} {TABLE.LATENT_SIZES[name]}" in reason
    assert f"{name} 32" in reason
    assert reason.endswith("Set VLLM_MLA_DISABLE=1 to run the model with plain attention")
    assert "\n" not in reason


def test_more_heads_than_the_operator_takes() -> None:
    (reason,) = reasons(heads=129)
    assert "128 heads on a rank, not 129" in reason


def test_a_model_that_was_not_compared_is_refused_by_name() -> None:
    (reason,) = reasons(arch="LongcatFlashForCausalLM")
    assert "LongcatFlashForCausalLM was not compared" in reason


@pytest.mark.parametrize("latent", [True, False])
def test_an_indexer_is_refused_with_plain_attention_too(latent: bool) -> None:
    (reason,) = reasons({"model_config.use_mla": latent}, text={"index_topk": 2048})
    assert reason.startswith("sparse attention, whose tokens an indexer chooses")


@pytest.mark.parametrize(
    ("eager", "mode", "taken"),
    [
        (True, "PIECEWISE", True),
        (False, "FULL_DECODE_ONLY", True),
        (False, "PIECEWISE", True),
        (False, "FULL_AND_PIECEWISE", True),
        (False, "LATER", False),
    ],
)
def test_graphs_that_were_compared(eager: bool, mode: str, taken: bool) -> None:
    graphs = SimpleNamespace(cudagraph_mode=SimpleNamespace(name=mode))
    found = reasons({"model_config.enforce_eager": eager, "compilation_config": graphs})
    assert [reason[:57] for reason in found] == [
        "latent attention was not compared with these graphs. Set "
    ] * (not taken)


@pytest.fixture(scope="module")
def newest(tmp_path_factory: pytest.TempPathFactory) -> ModuleType:
    """The variant of releases whose host only bounds the lengths of contexts."""
    folder = chosen(tmp_path_factory.mktemp("chosen"), NEWEST)
    return template_module("vllm/platforms/npu_config.py", folder)


@pytest.mark.parametrize(
    ("path", "values", "other"),
    [
        ("model_config.quantization", (None, "ascend", "compressed-tensors"), "awq"),
        ("parallel_config.enable_expert_parallel", (False, True), 7),
        ("parallel_config.tensor_parallel_size", (1, 2), None),
        ("parallel_config.pipeline_parallel_size", (1,), 2),
    ],
)
def test_what_the_newest_releases_were_compared_with(
    newest: ModuleType, path: str, values: tuple[Any, ...], other: Any
) -> None:
    for value in values:
        assert newest.LATENT_TAKEN.get(path, values)[0] == values[0]
        given = dict.fromkeys([path], value)
        assert reasons(given, table=newest) == []
    if other is not None:
        (reason,) = reasons({path: other}, table=newest)
        assert path.rpartition(".")[2] in reason


@pytest.mark.parametrize(
    ("size", "spread", "eager", "said"),
    [
        (2, True, True, ""),
        (2, False, True, "data_parallel_size=2 without enable_expert_parallel"),
        (2, True, False, "data_parallel_size=2 and graphs"),
        (1, False, False, ""),
    ],
)
def test_several_engines_have_each_expert_once_and_no_graphs(
    newest: ModuleType, size: int, spread: bool, eager: bool, said: str
) -> None:
    change = {
        "parallel_config.data_parallel_size": size,
        "parallel_config.enable_expert_parallel": spread,
        "model_config.enforce_eager": eager,
        "compilation_config": SimpleNamespace(cudagraph_mode=SimpleNamespace(name="PIECEWISE")),
    }
    found = [reason.partition(". ")[0] for reason in reasons(change, table=newest)]
    assert found == [f"latent attention was not compared with {said}"] * bool(said)
    assert bool(reasons(change)) == (size > 1)


@pytest.mark.parametrize("path", list(TABLE.LATENT_TAKEN))
def test_what_was_not_compared_is_refused_by_name(path: str) -> None:
    (reason,) = reasons({path: 7})
    name = path.rpartition(".")[2]
    assert reason.startswith(f"latent attention was not compared with {name}=7")


def test_graphs_of_a_release_that_were_not_compared_are_refused() -> None:
    model = SimpleNamespace(
        hf_text_config=SimpleNamespace(**TABLE.LATENT_SIZES),
        use_mla=True,
        enforce_eager=False,
        architectures=[TABLE.LATENT_MODELS[0]],
        get_num_attention_heads=lambda _: 16,
        quantization=None,
    )
    mode = SimpleNamespace(cudagraph_mode=SimpleNamespace(name="FULL_DECODE_ONLY"))
    parallel = SimpleNamespace(tensor_parallel_size=2)
    whole = SimpleNamespace(model_config=model, parallel_config=parallel, compilation_config=mode)
    found = [reason.partition(". ")[0] for reason in TABLE._latent_reasons(whole)]
    assert "latent attention was not compared with graphs in this release" in found
