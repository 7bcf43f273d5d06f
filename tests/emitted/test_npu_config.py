# SPDX-License-Identifier: Apache-2.0
"""What `npu_config.py` refuses and how many graphs it lets be captured, without vLLM."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from tests.trees import template_module


@pytest.fixture(scope="module")
def npu_config() -> ModuleType:
    return template_module("vllm/platforms/npu_config.py")


@pytest.mark.parametrize(
    ("layers", "full", "groups", "expansion", "kept"),
    [
        (36, False, 0, "", 48),
        (36, False, 0, "AIV", 48),
        (36, False, 1, "", 15),
        (36, False, 1, "AIV", 23),
        (36, False, 2, "", 9),
        (36, False, 2, "AIV", 15),
        (28, False, 1, "", 20),
        (94, False, 3, "", 2),
        (900, False, 3, "", 1),
        (36, True, 0, "", 1800),
        (36, True, 1, "", 586),
        (36, True, 1, "AIV", 899),
    ],
)
def test_sizes_by_layers_mode_groups_and_expansion(
    npu_config: ModuleType, layers: int, full: bool, groups: int, expansion: str, kept: int
) -> None:
    graphs = 1 if full else layers + 1
    assert npu_config.max_capture_sizes(graphs, groups, expansion) == kept
    # What the graphs hold, and what collectives outside of them take, is within the device's.
    streams = 1 + groups * (1 if expansion == "AIV" else 2)
    assert kept == 1 or kept * graphs * streams <= 1800


@pytest.mark.parametrize(
    ("tensor", "data", "pipeline", "experts", "groups"),
    [
        (1, 1, 1, False, 0),
        (1, 1, 1, True, 0),
        (2, 1, 1, False, 1),
        (2, 1, 1, True, 2),
        (1, 2, 1, False, 1),
        (1, 1, 2, False, 1),
        (2, 2, 2, True, 4),
    ],
)
def test_groups_of_more_than_one_member(
    npu_config: ModuleType, tensor: int, data: int, pipeline: int, experts: bool, groups: int
) -> None:
    config = SimpleNamespace(
        tensor_parallel_size=tensor,
        data_parallel_size=data,
        pipeline_parallel_size=pipeline,
        enable_expert_parallel=experts,
    )
    assert npu_config.count_groups(config) == groups


def test_sizes_are_thinned_evenly_and_the_largest_stays(npu_config: ModuleType) -> None:
    assert npu_config.thin_out([1, 2, 4, 8, 16, 24, 32], 3) == [1, 8, 32]
    assert npu_config.thin_out([32, 1, 2], 1) == [32]


@dataclass
class Watermark:
    key: int = 0


@dataclass
class Config:
    """The least of a VllmConfig."""

    model_config: Any = None
    parallel_config: Any = None
    speculative_config: Any = None
    kv_transfer_config: Any = None
    lora_config: Any = None
    offload_config: Any = None
    watermark: Watermark = field(default_factory=Watermark)
    later_config: Any = None


def said(npu_config: ModuleType, **parts: Any) -> list[str]:
    return list(npu_config._reasons(Config(**parts)))


@pytest.fixture(autouse=True)
def variables(monkeypatch: pytest.MonkeyPatch, npu_config: ModuleType) -> None:
    for name in npu_config.TAKEN_VARIABLES:
        monkeypatch.delenv(name, raising=False)


def test_a_configuration_as_vllm_leaves_it_is_taken(npu_config: ModuleType) -> None:
    assert said(npu_config, parallel_config=SimpleNamespace(enable_dbo=False)) == []
    npu_config.refuse_unsupported(Config())


def test_all_reasons_are_in_one_line(
    npu_config: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VLLM_BATCH_INVARIANT", "1")
    config = Config(parallel_config=SimpleNamespace(enable_dbo=True))
    with pytest.raises(ValueError, match=r"NPU: enable_dbo=True .*; VLLM_BATCH_INVARIANT=1") as e:
        npu_config.refuse_unsupported(config)
    assert "\n" not in str(e.value)


def test_a_part_that_a_later_vllm_has_is_refused_by_name(npu_config: ModuleType) -> None:
    (reason,) = said(npu_config, later_config=object())
    assert reason.startswith("later_config is not supported")
    (reason,) = said(npu_config, watermark=Watermark(key=3))
    assert reason.startswith("watermark is not supported")


def test_connectors_are_refused_by_name(npu_config: ModuleType) -> None:
    (reason,) = said(npu_config, kv_transfer_config=SimpleNamespace(kv_connector="LMCache"))
    assert reason.startswith("the KV connector LMCache ")
    assert said(npu_config, kv_transfer_config=SimpleNamespace(kv_connector=None)) == []


def test_without_any_connector_the_reason_names_none(
    npu_config: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(npu_config, "CONNECTORS", {})
    (reason,) = said(npu_config, kv_transfer_config=SimpleNamespace(kv_connector="LMCache"))
    assert "was not tried on an NPU in this release. Leave" in reason


def connected(name: str, *, cache: dict[str, Any] | None = None, **other: Any) -> dict[str, Any]:
    """A configuration with a connector: as it was run, but for what is told."""
    files = name != "OffloadingConnector"
    parts: dict[str, dict[str, Any]] = {
        "kv_transfer_config": {"kv_connector": name, "kv_connector_extra_config": {}},
        "model_config": {"enforce_eager": True, "use_mla": False, "quantization": None},
        "parallel_config": {"tensor_parallel_size": 1},
        "scheduler_config": {"max_num_seqs": 8, "enable_chunked_prefill": not files},
    }
    size = {"block_size": 128, "enable_prefix_caching": not files, **(cache or {})}
    for path, value in other.items():
        part, _, option = path.partition("__")
        parts[part][option] = value
    config = {part: SimpleNamespace(**options) for part, options in parts.items()}
    return {**config, "cache_config": SimpleNamespace(**size)}


CONNECTORS = ("ExampleConnector", "OffloadingConnector")


@pytest.mark.parametrize("name", CONNECTORS)
@pytest.mark.parametrize(
    ("other", "named"),
    [
        ({"model_config__use_mla": True}, "use_mla=True"),
        ({"model_config__enforce_eager": False}, "enforce_eager=False"),
        ({"model_config__enable_prompt_embeds": True}, "enable_prompt_embeds=True"),
        ({"parallel_config__tensor_parallel_size": 2}, "tensor_parallel_size=2"),
        ({"cache": {"block_size": 256}}, "block_size=256"),
        ({"kv_transfer_config__kv_connector_module_path": "mine"}, "kv_connector_module_path"),
        ({"kv_transfer_config__kv_connector_extra_config": {"spec_name": "My"}}, "spec_name"),
    ],
)
def test_connectors_are_taken_as_they_were_run(
    npu_config: ModuleType, name: str, other: dict[str, Any], named: str
) -> None:
    assert list(npu_config._connector_reasons(SimpleNamespace(**connected(name)))) == []
    config = SimpleNamespace(**connected(name, **other))
    (reason,) = npu_config._connector_reasons(config)
    assert reason.startswith(f"the KV connector {name} was not compared with {named}")


@pytest.mark.parametrize("name", CONNECTORS)
def test_connectors_are_taken_with_the_runners_that_they_were_run_with(
    npu_config: ModuleType, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = SimpleNamespace(**connected(name), use_v2_model_runner=True)
    assert list(npu_config._connector_reasons(config)) == []
    without = npu_config.CONNECTORS[name]._replace(runner_v2=False)
    monkeypatch.setitem(npu_config.CONNECTORS, name, without)
    (reason,) = npu_config._connector_reasons(config)
    assert reason == f"the KV connector {name} was not compared with model runner V2"


def test_prompts_are_saved_as_a_whole(npu_config: ModuleType) -> None:
    """What a first chunk has not computed would be saved, and loaded without a word."""
    name = CONNECTORS[0]
    config = SimpleNamespace(**connected(name, scheduler_config__enable_chunked_prefill=True))
    (reason,) = npu_config._connector_reasons(config)
    assert reason.endswith("enable_chunked_prefill=True")
    config = SimpleNamespace(**connected(name, cache={"enable_prefix_caching": True}))
    (reason,) = npu_config._connector_reasons(config)
    assert reason.endswith("enable_prefix_caching=True")


@pytest.mark.parametrize(("chunk", "taken"), [(None, True), (256, True), (192, False)])
def test_chunks_of_local_attention_are_whole_blocks(
    npu_config: ModuleType, chunk: int | None, taken: bool
) -> None:
    model = SimpleNamespace(hf_text_config=SimpleNamespace(attention_chunk_size=chunk))
    assert (npu_config.chunk_reason(model, 128) is None) is taken


@pytest.mark.parametrize(
    ("kind", "images", "taken"),
    [
        ("gemma3", 999, False),
        ("paligemma", 1, False),
        ("gemma3", 0, True),
        ("gemma3", None, True),
        ("llava", 1, True),
        ("gemma3_text", None, True),
    ],
)
def test_images_whose_tokens_see_each_other(
    npu_config: ModuleType, kind: str, images: int | None, taken: bool
) -> None:
    limits = {"image": images}
    model = SimpleNamespace(
        hf_config=SimpleNamespace(model_type=kind),
        multimodal_config=images
        if images is None
        else SimpleNamespace(get_limit_per_prompt=limits.get),
    )
    reason = npu_config.image_reason(model)
    assert (reason is None) is taken
    assert taken or reason.startswith(f"images for a {kind} model are not supported")
    # A release that tells which tokens they are serves them.
    model.is_mm_prefix_lm = True
    assert npu_config.image_reason(model) is None


def test_a_model_that_makes_drafts_is_as_those_that_were_compared(npu_config: ModuleType) -> None:
    def drafts(**more: Any) -> list[str]:
        plain = {
            "is_hybrid": False,
            "has_inner_state": False,
            "is_attention_free": False,
            "is_mm_prefix_lm": False,
            "max_model_len": 4096,
            "hf_text_config": SimpleNamespace(),
            "use_mla": False,
            "quantization": None,
        }
        draft = SimpleNamespace(**{**plain, **more})
        speculative = SimpleNamespace(draft_model_config=draft)
        config = SimpleNamespace(
            speculative_config=speculative, model_config=None, load_config=None
        )
        return list(npu_config._draft_reasons(config))

    assert drafts() == []
    assert drafts(use_mla=True, quantization="compressed-tensors") == [
        "the draft model: latent attention was not compared with drafts",
        "the draft model: compressed-tensors was not compared with drafts",
    ]
    (reason,) = drafts(max_model_len=300_000)
    assert reason.startswith("the draft model: a context of 300000 tokens")


class WithRunnerV2(Config):
    """The same of an engine that has model runner V2."""

    use_v2_model_runner = True


def model(**more: Any) -> SimpleNamespace:
    """A plain decoder without graphs, as far as V2 is asked about it."""
    plain = {"is_multimodal_model": False, "use_mla": False, "enforce_eager": True}
    return SimpleNamespace(**{**plain, **more})


def text_model(**config: Any) -> SimpleNamespace:
    """One whose text part has this in its own configuration."""
    return model(hf_text_config=SimpleNamespace(**config))


@pytest.fixture(params=[True])
def triton(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """A vLLM that has Triton or, by its parameter, not."""
    utils = ModuleType("vllm.triton_utils")
    vars(utils)["HAS_TRITON"] = request.param
    monkeypatch.setitem(sys.modules, "vllm", ModuleType("vllm"))
    monkeypatch.setitem(sys.modules, "vllm.triton_utils", utils)


def of_v2(npu_config: ModuleType, **parts: Any) -> list[str]:
    config = WithRunnerV2(**parts)
    table = npu_config.TAKEN_WITH_V2
    where = " with model runner V2"
    return [*npu_config._runner_v2_reasons(config), *npu_config._untaken(config, table, where)]


def test_runner_v2_takes_a_decoder(npu_config: ModuleType, triton: None) -> None:
    parallel = SimpleNamespace(data_parallel_size=1, distributed_executor_backend="mp")
    text = SimpleNamespace(attention_chunk_size=None, num_kv_shared_layers=0)
    plain = model(
        runner_type="generate",
        logprobs_mode="raw_logprobs",
        logits_processors=None,
        hf_text_config=text,
    )
    offload = SimpleNamespace(uva=SimpleNamespace(cpu_offload_gb=0))
    parts = {"model_config": plain, "parallel_config": parallel, "offload_config": offload}
    assert of_v2(npu_config, **parts) == []


@pytest.mark.parametrize(
    ("parts", "name"),
    [
        ({"model_config": model(runner_type="pooling")}, "runner_type='pooling'"),
        ({"model_config": model(logprobs_mode="raw_logits")}, "logprobs_mode='raw_logits'"),
        ({"model_config": model(enable_prompt_embeds=True)}, "enable_prompt_embeds=True"),
        ({"model_config": model(logits_processors=["mine"])}, "logits_processors=['mine']"),
        (
            {"parallel_config": SimpleNamespace(distributed_executor_backend="ray")},
            "distributed_executor_backend='ray'",
        ),
        ({"parallel_config": SimpleNamespace(data_parallel_size=2)}, "data_parallel_size=2"),
        (
            {"parallel_config": SimpleNamespace(enable_expert_parallel=True)},
            "enable_expert_parallel=True",
        ),
        ({"speculative_config": object()}, "speculative_config"),
        ({"model_config": text_model(attention_chunk_size=8192)}, "attention_chunk_size=8192"),
        ({"model_config": text_model(num_kv_shared_layers=2)}, "num_kv_shared_layers=2"),
        (
            {"offload_config": SimpleNamespace(uva=SimpleNamespace(cpu_offload_gb=1.5))},
            "cpu_offload_gb=1.5",
        ),
        ({"model_config": model(is_multimodal_model=True)}, "images"),
        ({"model_config": model(use_mla=True)}, "latent attention"),
    ],
)
def test_what_was_not_tried_with_runner_v2_is_refused_by_name(
    npu_config: ModuleType, triton: None, parts: dict[str, Any], name: str
) -> None:
    (reason,) = of_v2(npu_config, **parts)
    assert reason.startswith(name)
    assert "VLLM_USE_V2_MODEL_RUNNER=0" in reason


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("tensor parallelism", "tensor_parallel_size"),
        ("pipeline parallelism", "pipeline_parallel_size"),
    ],
)
def test_runner_v2_takes_these_alone_and_without_graphs(
    npu_config: ModuleType, triton: None, name: str, size: str
) -> None:
    ranks = SimpleNamespace(**{"tensor_parallel_size": 1, "pipeline_parallel_size": 1, size: 2})
    assert of_v2(npu_config, model_config=model(), parallel_config=ranks) == []
    graphs = model(enforce_eager=False)
    (reason,) = of_v2(npu_config, model_config=graphs, parallel_config=ranks)
    assert reason.startswith(f"{name} with graphs was not tried with model runner V2")
    assert "VLLM_USE_V2_MODEL_RUNNER=0" in reason


def test_several_ways_at_once_were_not_tried_with_runner_v2(
    npu_config: ModuleType, triton: None
) -> None:
    ranks = SimpleNamespace(tensor_parallel_size=2, pipeline_parallel_size=2)
    (reason,) = of_v2(npu_config, model_config=model(), parallel_config=ranks)
    assert reason.startswith(
        "tensor parallelism and pipeline parallelism were not tried at once with model runner V2"
    )


@pytest.mark.parametrize("triton", [False], indirect=True)
def test_what_was_not_tried_without_triton_is_refused_by_name(
    npu_config: ModuleType, triton: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of what V2 takes, that was run without Triton."""
    assert of_v2(npu_config, model_config=model(enforce_eager=True, runner_type="generate")) == []
    (reason,) = of_v2(npu_config, model_config=model(enforce_eager=False))
    assert reason.startswith("enforce_eager=False is not supported with model runner V2 and no")
    assert "triton-ascend" in reason
    monkeypatch.setattr(npu_config, "UNTRIED_PARTS", ())
    monkeypatch.setattr(npu_config, "TAKEN_WITH_V2", {})
    monkeypatch.setattr(npu_config, "TRIED_ALONE", {})
    parallel = SimpleNamespace(tensor_parallel_size=2, pipeline_parallel_size=2)
    parts: dict[str, Any] = {"parallel_config": parallel, "speculative_config": object()}
    stages, ranks, drafts = of_v2(npu_config, **parts)
    assert stages.startswith("pipeline_parallel_size=2")
    assert ranks.startswith("tensor_parallel_size=2")
    assert drafts.startswith("speculative_config was not tried with model runner V2 and no Triton")


def test_the_reasons_of_runner_v2_are_asked_of_it_alone(
    npu_config: ModuleType, triton: None
) -> None:
    parts: dict[str, Any] = {
        "parallel_config": SimpleNamespace(enable_expert_parallel=True, data_parallel_size=1)
    }
    with_v1 = list(npu_config._reasons(Config(**parts)))
    with_v2 = list(npu_config._reasons(WithRunnerV2(**parts)))
    assert [r for r in with_v2 if r not in with_v1] == of_v2(npu_config, **parts)
