# SPDX-License-Identifier: Apache-2.0
"""Engines that an NPU cannot serve: what each asks for, and what its refusal has to say."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from migrator.verify.simulate.modes import RUNNER_VARIABLE

ENGINE: dict[str, Any] = {
    "dtype": "bfloat16",
    "load_format": "dummy",
    "skip_tokenizer_init": True,
    "max_model_len": 128,
    "enforce_eager": True,
    "gpu_memory_utilization": 0.6,
}
MODEL: dict[str, Any] = {
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
"""A model that is served, of which the cases differ."""
_NGRAM = {"method": "ngram", "num_speculative_tokens": 2, "prompt_lookup_max": 2}
_REGISTRY = "vllm/model_executor/models/registry.py"
_TAKEN_METHODS = "vllm/platforms/npu_quantization.py"
_METHODS = "vllm/model_executor/layers/quantization/__init__.py"
_ENVS = "vllm/envs.py"


@dataclass(frozen=True)
class Case:
    """A model or an option that an NPU does not serve. `says` has to be in the error.

    `variables` are set in the environment, `files` lie beside the model's configuration, and the
    devices of the machine are of the chip `soc`, a usual one if that is empty; `nnal` and `triton`
    say whether NNAL is installed on it and whether Triton has an NPU. A release that does not have
    `needs`, a text in the file `where` or, if that is empty, anywhere in vLLM's configuration,
    cannot be asked; one that has `unless` in its configuration serves it.
    """

    name: str
    says: str
    config: dict[str, Any] = field(default_factory=lambda: MODEL)
    engine: dict[str, Any] = field(default_factory=dict)
    variables: dict[str, str] = field(default_factory=dict)
    files: dict[str, str] = field(default_factory=dict)
    soc: str = ""
    nnal: bool = True
    triton: bool = False
    needs: str = ""
    where: str = ""
    unless: str = ""

    def absent(self, tree: Path) -> str | None:
        """Why the release in `tree` cannot have it; None if it can."""
        if self.unless and _says(_configuration(tree), self.unless):
            return f"vllm/config has {self.unless}"
        if not self.needs:
            return None
        if _says([tree / self.where] if self.where else _configuration(tree), self.needs):
            return None
        return f"{self.where or 'vllm/config'} has no {self.needs}"


def _says(places: Iterable[Path], text: str) -> bool:
    """Whether one of these files holds a text."""
    return any(p.is_file() and text in p.read_text(encoding="utf-8") for p in places)


def _configuration(tree: Path) -> Iterator[Path]:
    """The files in which vLLM's options are defined."""
    yield tree / "vllm" / "config.py"
    yield tree / "vllm" / "engine" / "arg_utils.py"
    yield from sorted((tree / "vllm" / "config").rglob("*.py"))


def _state(name: str, model_type: str, **config: Any) -> Case:
    """A model with layers that keep a state."""
    return Case(
        f"state: {name}",
        f"NPU: {name} has layers of linear attention or of a state space",
        {**MODEL, "architectures": [name], "model_type": model_type, **config},
        needs=f'"{name}"',
        where=_REGISTRY,
    )


_AS_TAKEN: dict[str, Any] = {}


def _quantized(method: str, *, needs: str = "", **config: Any) -> Case:
    """A checkpoint that says in its configuration how it is quantized.

    vLLM may give the method another name, by the kernels that it has for it.
    """
    return Case(
        f"quantized: {method}",
        "quantization is not supported, ",
        {**MODEL, "quantization_config": {"quant_method": method, **config}},
        needs=needs,
        where=_METHODS if needs else "",
    )


def _scheme(
    name: str,
    says: str,
    *,
    weights: dict[str, Any] | None = None,
    inputs: dict[str, Any] | None = _AS_TAKEN,
    **settings: Any,
) -> Case:
    """A scheme of compressed-tensors: what is taken, but for what is given here."""
    rounding = {"num_bits": 8, "type": "int", "symmetric": True}
    group: dict[str, Any] = {
        "targets": ["Linear"],
        "weights": {**rounding, "strategy": "channel", **(weights or {})},
    }
    if inputs is not None:
        group["input_activations"] = {**rounding, "strategy": "token", "dynamic": True, **inputs}
    config = {
        "quant_method": "compressed-tensors",
        "format": "int-quantized",
        "ignore": ["lm_head"],
        "config_groups": {"group_0": group},
        **settings,
    }
    return Case(
        f"compressed-tensors: {name}",
        f"NPU: compressed-tensors quantization with {says}",
        {**MODEL, "quantization_config": config},
        needs='METHODS = ("compressed-tensors"',
        where=_TAKEN_METHODS,
    )


def _modelslim(name: str, says: str, description: dict[str, str]) -> Case:
    """A checkpoint of ModelSlim, which its own file tells of."""
    return Case(
        f"ModelSlim: {name}",
        f"NPU: ascend quantization with {says}",
        engine={"load_format": "auto"},
        files={"quant_model_description.json": json.dumps(description)},
        needs='METHODS = ("compressed-tensors", "ascend")',
        where=_TAKEN_METHODS,
    )


def _asked(method: str) -> Case:
    """A quantization that the command line asks for."""
    return Case(
        f"--quantization {method}",
        f"NPU: {method} quantization is not supported",
        engine={"quantization": method},
        needs=f'"{method}"',
        where=_METHODS,
    )


def _option(name: str, value: Any, needs: str = "", says: str = "") -> Case:
    """An option of the engine that the platform's table refuses."""
    return Case(
        f"option: {name}",
        f"NPU: {says or name}",
        engine={name: value},
        needs=needs or name,
    )


def _variable(name: str, value: str) -> Case:
    return Case(
        f"variable: {name}",
        f"NPU: {name}={value} is not supported",
        variables={name: value},
        needs=f'"{name}"',
        where=_ENVS,
    )


_DEEPSEEK: dict[str, Any] = {
    "architectures": ["DeepseekV2ForCausalLM"],
    "model_type": "deepseek_v2",
    "vocab_size": 512,
    "hidden_size": 130,
    "intermediate_size": 128,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "kv_lora_rank": 512,
    "q_lora_rank": None,
    "qk_nope_head_dim": 128,
    "qk_rope_head_dim": 64,
    "v_head_dim": 128,
    "n_routed_experts": 4,
    "first_k_dense_replace": 1,
    "max_position_embeddings": 256,
}


def _with_runner_v2(says: str, engine: dict[str, Any]) -> Case:
    """What V1 takes and V2 does not, where a release has V2 on NPUs."""
    return Case(
        f"runner V2: {says.partition('=')[0]}",
        says,
        engine=engine,
        variables={RUNNER_VARIABLE: "1"},
        triton=True,
        needs="TAKEN_WITH_V2",
        where="vllm/platforms/npu_config.py",
    )


CASES = (
    Case("float32", "takes float16 and bfloat16, not float32", engine={"dtype": "float32"}),
    Case("block size", "--block-size must be a multiple of 128", engine={"block_size": 64}),
    Case("sleep mode", "leep mode is not supported", engine={"enable_sleep_mode": True}),
    Case(
        "speculative decoding",
        "NPU: speculative decoding by 'ngram_gpu' is not supported",
        engine={"speculative_config": {**_NGRAM, "method": "ngram_gpu"}},
        needs="ngram_gpu",
    ),
    Case(
        "speculative decoding with adapters",
        "NPU: speculative decoding ",
        engine={"speculative_config": _NGRAM, "enable_lora": True},
    ),
    Case("head size", "needs a head size", {**MODEL, "head_dim": 72}),
    Case(
        "query heads of a key's head",
        "at most 64 query heads of a key's head, not 65",
        {**MODEL, "hidden_size": 130, "num_attention_heads": 65, "num_key_value_heads": 1},
    ),
    Case(
        "sliding window with large heads",
        "heads of 64 or 128 for a sliding window, not 192, with a sliding window",
        {
            **MODEL,
            "architectures": ["MistralForCausalLM"],
            "model_type": "mistral",
            "head_dim": 192,
            "sliding_window": 64,
        },
    ),
    Case(
        "grouped queries with large heads, without NNAL",
        "a key's head for each query's with heads of 192, without NNAL",
        {**MODEL, "num_attention_heads": 4, "head_dim": 192},
        nnal=False,
    ),
    Case("head size without NNAL", "not 80, without NNAL", {**MODEL, "head_dim": 80}, nnal=False),
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
            **MODEL,
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
        "qk_rope_head_dim 64, v_head_dim 128, not of kv_lora_rank 64",
        {
            **_DEEPSEEK,
            "kv_lora_rank": 64,
            "qk_nope_head_dim": 32,
            "qk_rope_head_dim": 32,
            "v_head_dim": 32,
        },
    ),
    Case(
        "latent heads",
        "NPU: latent attention takes 128 heads on a rank, not 130",
        {**_DEEPSEEK, "num_attention_heads": 130, "num_key_value_heads": 130},
    ),
    Case(
        "latent attention with adapters",
        "latent attention was not compared with lora_config",
        _DEEPSEEK,
        engine={"enable_lora": True},
    ),
    Case(
        "sparse attention",
        "NPU: sparse attention, whose tokens an indexer chooses",
        {
            **_DEEPSEEK,
            "architectures": ["DeepseekV32ForCausalLM"],
            "model_type": "deepseek_v32",
            "q_lora_rank": 64,
            "index_n_heads": 2,
            "index_head_dim": 128,
            "index_topk": 64,
        },
        needs='"DeepseekV32ForCausalLM"',
        where=_REGISTRY,
    ),
    _state(
        "Qwen3NextForCausalLM",
        "qwen3_next",
        num_hidden_layers=2,
        layer_types=["linear_attention", "full_attention"],
        linear_num_key_heads=2,
        linear_num_value_heads=2,
        linear_key_head_dim=64,
        linear_value_head_dim=64,
        num_experts=4,
        num_experts_per_tok=2,
        moe_intermediate_size=64,
        shared_expert_intermediate_size=64,
    ),
    _state(
        "Mamba2ForCausalLM",
        "mamba2",
        num_heads=4,
        head_dim=64,
        state_size=16,
        n_groups=1,
        expand=2,
    ),
    _state(
        "JambaForCausalLM", "jamba", num_hidden_layers=2, attn_layer_period=2, attn_layer_offset=1
    ),
    _state("FalconH1ForCausalLM", "falcon_h1", mamba_d_ssm=128, mamba_n_heads=4),
    Case(
        "chunked local attention",
        "NPU: no attention in chunks of 192 tokens, no multiple of",
        {
            "architectures": ["Llama4ForCausalLM"],
            "model_type": "llama4_text",
            **{k: v for k, v in MODEL.items() if k not in ("architectures", "model_type")},
            "attention_chunk_size": 192,
            "intermediate_size_mlp": 128,
            "num_local_experts": 1,
        },
        needs='"Llama4ForCausalLM"',
        where=_REGISTRY,
    ),
    Case(
        "images whose tokens see each other",
        "NPU: images for a gemma3 model are not supported, whose tokens see each other",
        {
            "architectures": ["Gemma3ForConditionalGeneration"],
            "model_type": "gemma3",
            "mm_tokens_per_image": 4,
            "image_token_index": 500,
            "text_config": {
                **{k: v for k, v in MODEL.items() if k != "architectures"},
                "model_type": "gemma3_text",
                "sliding_window": 64,
            },
            "vision_config": {
                "model_type": "siglip_vision_model",
                "hidden_size": 64,
                "intermediate_size": 64,
                "num_hidden_layers": 1,
                "num_attention_heads": 2,
                "image_size": 32,
                "patch_size": 8,
            },
        },
        needs='"Gemma3ForConditionalGeneration"',
        where=_REGISTRY,
        unless="is_mm_prefix_lm",
    ),
    Case(
        "state of a model's own",
        "NPU: LongcatFlashNgramForCausalLM is not supported: it keeps a state of its own",
        {
            **MODEL,
            "architectures": ["LongcatFlashNgramForCausalLM"],
            "model_type": "longcat_flash",
            "num_layers": 1,
            "ffn_hidden_size": 128,
            "expert_ffn_hidden_size": 128,
            "n_routed_experts": 2,
            "zero_expert_num": 1,
            "moe_topk": 1,
            "kv_lora_rank": 512,
            "q_lora_rank": 128,
            "qk_nope_head_dim": 128,
            "qk_rope_head_dim": 64,
            "v_head_dim": 128,
            "ngram_vocab_size_ratio": 2,
            "emb_neighbor_num": 3,
            "emb_split_num": 2,
        },
        variables={"VLLM_MLA_DISABLE": "1"},
        needs='"LongcatFlashNgramForCausalLM"',
        where=_REGISTRY,
    ),
    Case(
        "long context",
        "NPU: a context of 300000 tokens is longer than the 262144 that attention takes",
        {**MODEL, "max_position_embeddings": 300_000},
        engine={"max_model_len": 300_000},
    ),
    Case(
        "batch",
        "NPU: a batch of 5000 requests is larger than the 4096 that attention takes",
        engine={"max_num_seqs": 5000, "max_num_batched_tokens": 8192},
    ),
    _quantized("awq", bits=4, group_size=128, zero_point=True, version="gemm"),
    _quantized("gptq", bits=4, group_size=128, desc_act=False, sym=True),
    _quantized("fp8", activation_scheme="dynamic"),
    _scheme("weights alone", "weights or activations alone", inputs=None),
    _scheme("FP8", "type 'float' of weights", weights={"type": "float"}),
    _scheme("W4A8", "num_bits 4 of weights", weights={"num_bits": 4}),
    _scheme("groups", "strategy 'group' of weights", weights={"strategy": "group"}),
    _scheme("asymmetric tokens", "symmetric False of activations", inputs={"symmetric": False}),
    _scheme("quantized head", "a quantized lm_head", ignore=[]),
    _scheme("quantized cache", "kv_cache_scheme", kv_cache_scheme={"num_bits": 8, "type": "int"}),
    replace(
        _scheme("adapters", ""),
        name="compressed-tensors with adapters",
        says="NPU: compressed-tensors quantization was not compared with lora_config",
        engine={"enable_lora": True},
    ),
    _quantized("bitsandbytes", needs='"bitsandbytes"', load_in_4bit=True),
    _quantized("modelopt", quant_algo="FP8"),
    _quantized("mxfp4", needs='"mxfp4"'),
    _quantized("torchao", needs='"torchao"', quant_type={"default": {"_type": "x", "_data": {}}}),
    _asked("fp8"),
    _asked("bitsandbytes"),
    _asked("experts_int8"),
    _asked("int8_per_channel_weight_only"),
    _asked("mxfp8"),
    _modelslim(
        "W4A8", "W4A8_DYNAMIC weights", {"model.layers.0.mlp.up_proj.weight": "W4A8_DYNAMIC"}
    ),
    _modelslim("quantized cache", "kv_quant_type 'C8'", {"kv_quant_type": "C8"}),
    Case(
        "LoRA of experts",
        "NPU: LoRA adapters of a mixture's experts are not supported",
        {
            **MODEL,
            "architectures": ["Qwen3MoeForCausalLM"],
            "model_type": "qwen3_moe",
            "num_experts": 4,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 64,
            "norm_topk_prob": True,
            "decoder_sparse_step": 1,
            "mlp_only_layers": [],
        },
        engine={"enable_lora": True},
        needs="class FusedMoEWithLoRA(",
        where="vllm/lora/layers/fused_moe.py",
    ),
    Case(
        "option: specialize_active_lora",
        "NPU: specialize_active_lora=True is not supported",
        engine={"enable_lora": True, "specialize_active_lora": True},
        needs="specialize_active_lora: bool",
    ),
    Case(
        "option: enable_tower_connector_lora",
        "NPU: enable_tower_connector_lora=True is not supported",
        engine={"enable_lora": True, "enable_tower_connector_lora": True},
        needs="enable_tower_connector_lora: bool",
    ),
    Case(
        "option: lora_extra_vocab_size",
        "NPU: lora_extra_vocab_size=512 is not supported",
        engine={"enable_lora": True, "lora_extra_vocab_size": 512},
        needs="lora_extra_vocab_size: ",
    ),
    # vLLM's own words, of every platform without CUDA's streams.
    Case(
        "variable: VLLM_LORA_ENABLE_DUAL_STREAM",
        "Dual CUDA streams are only supported on CUDA platforms",
        engine={"enable_lora": True},
        variables={"VLLM_LORA_ENABLE_DUAL_STREAM": "1"},
        needs='"VLLM_LORA_ENABLE_DUAL_STREAM"',
        where=_ENVS,
    ),
    Case("chip: 310P", "NPU: Ascend310P3 is not supported", soc="Ascend310P3"),
    _option("kv_cache_dtype", "fp8", needs="cache_dtype", says="cache_dtype="),
    _option("calculate_kv_scales", True),
    Case(
        "KV connector",
        "NPU: the KV connector P2pNcclConnector was not tried on an NPU",
        engine={"kv_transfer_config": {"kv_connector": "P2pNcclConnector", "kv_role": "kv_both"}},
    ),
    Case(
        "KV connector beside prefix caching",
        # Not tried at all in releases that count blocks otherwise.
        "NPU: the KV connector ExampleConnector was not ",
        engine={"kv_transfer_config": {"kv_connector": "ExampleConnector", "kv_role": "kv_both"}},
    ),
    Case(
        "KV offload",
        "kv_offloading_size=0.1 is not supported",
        engine={"kv_offloading_size": 0.1},
        needs="kv_offloading_size",
    ),
    Case(
        "encoder cache connector",
        "NPU: the encoder cache's connector ECExampleConnector",
        engine={"ec_transfer_config": {"ec_connector": "ECExampleConnector", "ec_role": "ec_both"}},
        needs="ec_both",
    ),
    _option("enable_dbo", True),
    Case(
        "option: enable_eplb",
        "load balancing is only supported on CUDA",
        engine={"enable_eplb": True},
        needs="enable_eplb",
    ),
    Case(
        "option: decode_context_parallel_size",
        "NPU: decode_context_parallel_size=2 is not supported",
        {**MODEL, "num_key_value_heads": 1},
        engine={
            "decode_context_parallel_size": 2,
            "tensor_parallel_size": 2,
            "distributed_executor_backend": "mp",
        },
        needs="decode_context_parallel_size",
    ),
    _option("prefill_context_parallel_size", 2),
    _option("offload_group_size", 2),
    _option("kv_sharing_fast_prefill", True),
    _option("moe_backend", "triton"),
    _option("linear_backend", "triton"),
    _option("enable_return_routed_experts", True),
    _option("enable_layerwise_nvtx_tracing", True),
    _option("all2all_backend", "deepep_low_latency"),
    _option("profiler_config", {"profiler": "cuda"}, says="profiler='cuda'"),
    _option("load_format", "fastsafetensors", says="load_format='fastsafetensors'"),
    _option(
        "compilation_config",
        {"cudagraph_mm_encoder": True},
        needs="cudagraph_mm_encoder",
        says="cudagraph_mm_encoder=True",
    ),
    _option("watermark_config", {"key": 1}),
    _option("diffusion_config", {"canvas_length": 8}),
    _option("weight_transfer_config", {"backend": "nccl"}),
    _option("device", "cpu", needs="device: Device", says="device_type='cpu'"),
    _variable("VLLM_BATCH_INVARIANT", "1"),
    _variable("VLLM_DISTRIBUTED_USE_SPLIT_GROUP", "1"),
    _variable("VLLM_USE_RAY_COMPILED_DAG_CHANNEL_TYPE", "nccl"),
    _variable("VLLM_USE_RAY_COMPILED_DAG_OVERLAP_COMM", "1"),
    _variable("VLLM_USE_BREAKABLE_CUDAGRAPH", "1"),
    # Of a release whose platforms register no kernels.
    Case(
        "variable: VLLM_USE_V2_MODEL_RUNNER",
        "VLLM_USE_V2_MODEL_RUNNER",
        variables={RUNNER_VARIABLE: "1"},
        needs='_MODEL_RUNNERS = ("0",)',
        where="vllm/platforms/npu_config.py",
    ),
    _with_runner_v2("lora_config", {"enable_lora": True}),
    _with_runner_v2("runner_type='pooling'", {"runner": "pooling", "convert": "embed"}),
    _with_runner_v2("enable_expert_parallel=True", {"enable_expert_parallel": True}),
    _with_runner_v2("enable_prompt_embeds=True", {"enable_prompt_embeds": True}),
    _with_runner_v2("logprobs_mode='raw_logits'", {"logprobs_mode": "raw_logits"}),
    _variable("VLLM_GPU_SYNC_CHECK", "error"),
    _variable("VLLM_KV_CACHE_LAYOUT", "HND"),
)
