# SPDX-License-Identifier: Apache-2.0
"""Which schemes of quantization `npu_quantization.py` takes, without vLLM."""

from __future__ import annotations

import copy
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from tests.trees import NEWEST, chosen, template_module

TOKENS: dict[str, Any] = {
    "quant_method": "compressed-tensors",
    "format": "int-quantized",
    "quantization_status": "compressed",
    "version": "0.17.0",
    "global_compression_ratio": 1.4,
    "ignore": ["lm_head"],
    "kv_cache_scheme": None,
    "sparsity_config": {},
    "transform_config": {},
    "config_groups": {
        "group_0": {
            "targets": ["Linear"],
            "output_activations": None,
            "weights": {
                "num_bits": 8,
                "type": "int",
                "symmetric": True,
                "strategy": "channel",
                "dynamic": False,
                "group_size": None,
                "observer": "minmax",
                "observer_kwargs": {},
                "zp_dtype": None,
            },
            "input_activations": {
                "num_bits": 8,
                "type": "int",
                "symmetric": True,
                "strategy": "token",
                "dynamic": True,
                "observer": None,
            },
        }
    },
}


@pytest.fixture(scope="module")
def module() -> ModuleType:
    return template_module("vllm/platforms/npu_quantization.py")


def said(
    module: ModuleType, change: dict[str, Any], options: dict[str, Any] | None = None
) -> list[str]:
    """What is said of the settings above with values at dotted paths put in, and of options."""
    settings = copy.deepcopy(TOKENS)
    for path, value in change.items():
        at: Any = settings
        *parents, last = path.split(".")
        for name in parents:
            at = at[name]
        at[last] = value
    hf_config = SimpleNamespace(quantization_config=settings)
    model = SimpleNamespace(
        quantization="compressed-tensors",
        hf_config=hf_config,
        hf_text_config=hf_config,
        enforce_eager=True,
    )
    config = SimpleNamespace(model_config=model)
    for path, value in (options or {}).items():
        at = config
        *parents, last = path.split(".")
        for name in parents:
            if not hasattr(at, name):
                setattr(at, name, SimpleNamespace())
            at = getattr(at, name)
        setattr(at, last, value)
    return list(module.quantization_reasons(config))


GROUP = "config_groups.group_0"
STATIC = {
    f"{GROUP}.input_activations.strategy": "tensor",
    f"{GROUP}.input_activations.dynamic": False,
}


@pytest.mark.parametrize(
    "change",
    [
        {},
        {f"{GROUP}.weights.strategy": "tensor"},
        STATIC,
        {**STATIC, f"{GROUP}.input_activations.symmetric": False},
        {"ignore": ["re:.*lm_head"]},
        {f"{GROUP}.targets": ["re:.*_proj"], "ignore": []},
        # vLLM writes into the settings what it has read elsewhere.
        {"total_num_heads": 4, "total_num_kv_heads": 2},
    ],
)
def test_what_was_compared_is_taken(module: ModuleType, change: dict[str, Any]) -> None:
    assert said(module, change) == []


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({f"{GROUP}.weights.num_bits": 4}, "num_bits 4 of weights"),
        ({f"{GROUP}.weights.type": "float"}, "type 'float' of weights"),
        ({f"{GROUP}.weights.symmetric": False}, "symmetric False of weights"),
        ({f"{GROUP}.weights.strategy": "group"}, "strategy 'group' of weights"),
        ({f"{GROUP}.weights.actorder": "weight"}, "actorder 'weight' of weights"),
        ({f"{GROUP}.weights.later": 3}, "later 3 of weights"),
        ({f"{GROUP}.input_activations": None}, "weights or activations alone"),
        ({f"{GROUP}.input_activations.symmetric": False}, "symmetric False of activations"),
        ({f"{GROUP}.input_activations.strategy": "group"}, "strategy 'group' of activations"),
        ({f"{GROUP}.output_activations": {"num_bits": 8}}, "output_activations"),
        ({f"{GROUP}.format": "pack-quantized"}, "format 'pack-quantized'"),
        ({"format": "float-quantized"}, "format 'float-quantized'"),
        ({"kv_cache_scheme": {"num_bits": 8}}, "kv_cache_scheme"),
        ({"transform_config": {"config_groups": {"R1": {}}}}, "transform_config"),
        ({"sparsity_config": {"format": "sparse-24-bitmask"}}, "sparsity_config"),
        ({"ignore": []}, "a quantized lm_head"),
        ({"config_groups": {}}, "no config_groups"),
        ({"later": True}, "later True"),
    ],
)
def test_any_other_scheme_is_refused_by_name(
    module: ModuleType, change: dict[str, Any], words: str
) -> None:
    (reason,) = said(module, change)
    assert words in reason
    assert reason.startswith("compressed-tensors quantization with")


def test_what_a_quantized_model_was_not_compared_with_is_refused(module: ModuleType) -> None:
    for path, (taken, *_) in module.QUANTIZED_TAKEN.items():
        assert said(module, {}, {path: taken}) == []
        for other in (7, SimpleNamespace(many="words " * 20)):
            (reason,) = said(module, {}, {path: other})
            name = path.rpartition(".")[2]
            shown = f"{name}=7" if other == 7 else name
            assert reason.startswith(
                f"compressed-tensors quantization was not compared with {shown}. Change that"
            )
            assert "\n" not in reason


@pytest.fixture(scope="module")
def newest(tmp_path_factory: pytest.TempPathFactory) -> ModuleType:
    """The variant of releases with a table of int8 kernels."""
    folder = chosen(tmp_path_factory.mktemp("chosen"), NEWEST)
    return template_module("vllm/platforms/npu_quantization.py", folder)


@pytest.mark.parametrize(
    ("change", "taken"),
    [({}, True), (STATIC, False), ({f"{GROUP}.weights.strategy": "tensor"}, False)],
)
def test_experts_of_compressed_tensors(
    module: ModuleType, monkeypatch: pytest.MonkeyPatch, change: dict[str, Any], taken: bool
) -> None:
    assert said(module, change) == []
    monkeypatch.setattr(module, "_has_experts", lambda _: True)
    assert said(module, change) == [
        "experts of compressed-tensors quantization with weights or activations by tensor are not "
        "supported"
    ] * (not taken)


@pytest.mark.parametrize("method", ["compressed-tensors", "ascend"])
@pytest.mark.parametrize("experts", [True, False])
@pytest.mark.parametrize("new", [True, False])
def test_graphs_that_were_compared(
    module: ModuleType,
    newest: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    method: str,
    experts: bool,
    new: bool,
) -> None:
    table = newest if new else module
    monkeypatch.setattr(table, "METHODS", ("compressed-tensors", "ascend"))
    monkeypatch.setattr(table, "_modelslim", lambda _: ())
    monkeypatch.setattr(table, "_has_experts", lambda _: experts)
    options = {"model_config.enforce_eager": False, "model_config.quantization": method}
    found = [reason.partition(". ")[0] for reason in said(table, {}, options)]
    refused = not new and (method == "ascend" or experts)
    what = "graphs" if method == "ascend" else "experts and graphs"
    assert found == [f"{method} quantization was not compared with {what}"] * refused


@pytest.mark.parametrize(
    ("spread", "eager", "words"),
    [
        (True, True, ""),
        (False, True, "data_parallel_size=2 without enable_expert_parallel"),
        (True, False, "data_parallel_size=2 and graphs"),
    ],
)
def test_several_engines(
    module: ModuleType,
    newest: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    spread: bool,
    eager: bool,
    words: str,
) -> None:
    monkeypatch.setattr(newest, "METHODS", ("compressed-tensors", "ascend"))
    options = {
        "parallel_config.data_parallel_size": 2,
        "parallel_config.enable_expert_parallel": spread,
        "model_config.enforce_eager": eager,
    }
    found = [reason.partition(". ")[0] for reason in said(newest, {}, options)]
    assert found == [f"compressed-tensors quantization was not compared with {words}"] * bool(words)
    (reason,) = said(module, {}, options)
    assert "was not compared with data_parallel_size=2. " in reason


def test_experts_may_be_spread_over_ranks(module: ModuleType) -> None:
    spread = {"parallel_config.enable_expert_parallel": True}
    assert said(module, {}, spread) == []


@pytest.mark.parametrize(("dtype", "taken"), [("bfloat16", True), ("float16", False)])
def test_dtypes_that_were_compared(module: ModuleType, dtype: str, taken: bool) -> None:
    class Dtype:
        def __str__(self) -> str:
            return f"torch.{dtype}"

    found = said(module, {}, {"model_config.dtype": Dtype()})
    assert [reason.partition(". ")[0] for reason in found] == [
        "compressed-tensors quantization was not compared with dtype=float16"
    ] * (not taken)


def test_activations_by_tensor_were_compared_in_some_releases_and_without_graphs(
    module: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    graphs = {"model_config.enforce_eager": False}
    assert said(module, {}, graphs) == []
    (reason,) = said(module, STATIC, graphs)
    assert "was not compared with activations by tensor and graphs. " in reason
    monkeypatch.setattr(module, "_ACTIVATIONS", (module._TOKEN,))
    assert said(module, {}) == []
    (reason,) = said(module, STATIC)
    assert reason.startswith("compressed-tensors quantization with activations by tensor, ")


def test_an_option_that_a_release_does_not_have_is_no_reason(module: ModuleType) -> None:
    assert said(module, {}, {"offload_config.uva": None, "offload_config.other": 3}) == []


@pytest.mark.parametrize(
    ("method", "words"),
    [("fp8", "floats of 8"), ("modelopt", "floats of 8"), ("awq", "no kernels for NPUs")],
)
def test_other_methods_are_refused_in_one_line(module: ModuleType, method: str, words: str) -> None:
    said = module.method_refusal(method)
    assert "or one quantized by compressed-tensors or ascend." in said
    assert said.startswith(f"NPU: {method} quantization is not supported, ")
    assert words in said
    assert "\n" not in said


@pytest.mark.parametrize("method", ["compressed-tensors", "ascend"])
def test_a_release_may_have_compared_no_method(
    module: ModuleType, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    monkeypatch.setattr(module, "METHODS", ())
    said = module.method_refusal(method)
    assert said.endswith(
        "it was not compared in this release. Use the model's unquantized weights."
    )
    model = SimpleNamespace(quantization=method)
    found = list(module.quantization_reasons(SimpleNamespace(model_config=model)))
    # The other one vLLM asks `verify_quantization` about.
    assert len(found) == (method == "ascend")
    assert all("ascend quantization was not compared in this release" in one for one in found)
