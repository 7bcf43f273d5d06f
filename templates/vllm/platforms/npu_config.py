# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright contributors to the vLLM project
"""What of vLLM's configuration an Ascend NPU takes.

vLLM's options are written for several accelerators, and most of what has no NPU
version would show in the middle of a request, or in wrong tokens. So an engine
whose configuration asks for anything else than what is listed here is refused
when it starts, before a device is opened and weights are read.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import vllm.envs as envs
from vllm.platforms.npu_connectors import CONNECTORS, KERNEL_BLOCK_SIZE
from vllm.platforms.npu_speculation import default_of, speculation_reasons

if TYPE_CHECKING:
    from vllm.config import ModelConfig, VllmConfig

MAX_CONTEXT = 262_144
"""Tokens of a context that the fused attention takes, by its documentation."""

MAX_SEQUENCES = 4096
"""Requests of a batch that the fused attention takes, by the source of its tiling."""

LATENT_MODELS = ("DeepseekV2ForCausalLM", "DeepseekV3ForCausalLM")
"""Models with multi-head latent attention that were compared."""

LATENT_SIZES = {
    "kv_lora_rank": 512,
    "qk_nope_head_dim": 128,
    "qk_rope_head_dim": 64,
    "v_head_dim": 128,
}
"""What of heads the fused attention takes with a rotated part of its own."""

MAX_LATENT_HEADS = 128
"""Query heads of the latent one that the fused attention takes."""

PLAIN: dict[str, tuple[Any, ...]] = {
    "cache_config.cpu_offload_gb": (0,),
    "lora_config": (None,),
    "model_config.multimodal_config": (None,),
    "model_config.runner_type": ("generate",),
    "offload_config.uva.cpu_offload_gb": (0,),
    "parallel_config.data_parallel_size": (1,),
    "parallel_config.enable_expert_parallel": (False,),
    "parallel_config.pipeline_parallel_size": (1,),
    "speculative_config": (None,),
}
"""Options beside which latent attention and quantized weights were compared, with
these values alone."""

LATENT_GRAPHS = ("NONE", "PIECEWISE", "FULL", "FULL_DECODE_ONLY", "FULL_AND_PIECEWISE")
"""Modes of graphs that latent attention was compared with; those that hold more than
decode steps become PIECEWISE."""

_LATENT_ONLY: dict[str, tuple[Any, ...]] = {
    "model_config.quantization": (None, "ascend", "compressed-tensors"),
    "parallel_config.enable_expert_parallel": (False, True),
}
# npu-migrate: when common_metadata_only_bounds_host_lengths
SEVERAL_ENGINES = {"parallel_config.data_parallel_size": tuple(range(1, 1025))}
# npu-migrate: otherwise
SEVERAL_ENGINES = {}
# npu-migrate: end
"""Data parallelism that latent attention and quantized weights were compared with, but
for what `engine_options` says."""

LATENT_TAKEN = dict(sorted({**PLAIN, **_LATENT_ONLY, **SEVERAL_ENGINES}.items()))
"""The same of latent attention alone."""

PREFIX_MODELS = ("bagel", "gemma3", "paligemma")
"""Types of models whose images' tokens see each other, in releases that do not say."""

CAPTURED_STREAMS = 1800
"""Of a device's 2048 streams; the rest is for what is not captured."""

EAGER_STREAMS_PER_GROUP = 40
"""That a communicator takes outside of graphs, unless vector cores expand it."""

KNOWN_CONFIGS = frozenset(
    {
        "additional_config",
        "attention_config",
        "aux_output_config",
        "cache_config",
        "compilation_config",
        "decoding_config",
        "device_config",
        "ec_manager_config",
        "instance_id",
        "kernel_config",
        "kv_events_config",
        "load_config",
        "logging_config",
        "lora_config",
        # Of state-space layers, which are refused by the model that has them.
        "mamba_config",
        "model_config",
        "observability_config",
        "offload_config",
        "optimization_level",
        "parallel_config",
        "performance_mode",
        "profiler_config",
        # By name in `verify_quantization`.
        "quant_config",
        "reasoning_config",
        "scheduler_config",
        "shutdown_timeout",
        "structured_outputs_config",
        "watchdog_config",
    }
)
"""Parts of `VllmConfig` that an NPU takes, but for what `TAKEN` says of them.

A part that is not among them, because a later vLLM has it or because nothing of
it runs on an NPU, has to be as vLLM leaves it by itself.
"""

_NO_CONTEXT_PARALLEL = "context parallelism splits the KV cache by CUDA kernels"
_NO_DBO = "two batches overlap on CUDA streams"
_NO_EPLB = "experts are moved and counted by CUDA and Triton kernels"
_NO_ROUTED_EXPERTS = "the experts of an NPU do not record where tokens went"
_NO_POOL = "it needs an allocator that unmaps memory behind a live tensor"
_NO_ENCODER_GRAPHS = "the graphs of encoders are CUDA graphs"
_NO_ENCODER_OPTION = "no encoder was compared with it on an NPU"
_NO_OTHER_KERNELS = "the kernels to choose from are for other accelerators"

TAKEN: dict[str, tuple[tuple[Any, ...], str]] = {
    "aux_output_config.enable_return_routed_experts": ((False,), _NO_ROUTED_EXPERTS),
    "cache_config.cache_dtype": (("auto",), "a KV cache holds the model's own dtype"),
    "cache_config.calculate_kv_scales": (
        (False,),
        "a KV cache holds the model's own dtype",
    ),
    "cache_config.kv_offloading_size": (
        (None,),
        "--kv-transfer-config names a connector and what it needs",
    ),
    "cache_config.kv_sharing_fast_prefill": (
        (False,),
        "layers that share a KV cache read it back in the prefill",
    ),
    "compilation_config.compile_mm_encoder": ((False,), _NO_ENCODER_GRAPHS),
    "compilation_config.cudagraph_mm_encoder": ((False,), _NO_ENCODER_GRAPHS),
    "compilation_config.full_cuda_graph": (
        (False, None),
        "full graphs are chosen by cudagraph_mode FULL_DECODE_ONLY",
    ),
    "compilation_config.inductor_passes": (({},), "Inductor has no NPU backend here"),
    "compilation_config.use_inductor_graph_partition": (
        (False, None),
        "Inductor has no NPU backend here",
    ),
    "device_config.device_type": (("npu",), "this platform drives NPUs"),
    "kernel_config.linear_backend": (("auto",), _NO_OTHER_KERNELS),
    "kernel_config.linear_backend_per_quant": ((None, {}), _NO_OTHER_KERNELS),
    "kernel_config.moe_backend": (("auto",), _NO_OTHER_KERNELS),
    "kernel_config.monokernel": ((False,), _NO_OTHER_KERNELS),
    "load_config.load_format": (
        (
            "auto",
            "dummy",
            "hf",
            "mistral",
            "npcache",
            "pt",
            "runai_streamer",
            "runai_streamer_sharded",
            "safetensors",
            "sharded_state",
        ),
        "it reads quantized weights or goes by CUDA",
    ),
    "lora_config.enable_tower_connector_lora": (
        (False,),
        "no adapter of an encoder was compared on an NPU",
    ),
    "lora_config.lora_extra_vocab_size": (
        (256,),
        "words that adapters add are those of vLLM's own default",
    ),
    "lora_config.specialize_active_lora": (
        (False,),
        "a graph serves any number of adapters",
    ),
    "model_config.enable_cumem_allocator": ((False,), _NO_POOL),
    "model_config.enable_nccl_comm_suspend": ((False,), "communicators are HCCL's"),
    "model_config.enable_return_routed_experts": ((False,), _NO_ROUTED_EXPERTS),
    "model_config.enable_sleep_mode": ((False,), _NO_POOL),
    "model_config.enable_trace_replay": ((False,), "its sampler is in Triton"),
    "model_config.multimodal_config.mm_device_do_normalize": (
        (False, None),
        _NO_ENCODER_OPTION,
    ),
    "model_config.multimodal_config.mm_encoder_attn_backend": (
        (None,),
        "encoders attend by the platform's own choice",
    ),
    "model_config.multimodal_config.mm_encoder_attn_dtype": (
        (None,),
        "encoders attend in the model's own dtype",
    ),
    "model_config.multimodal_config.mm_encoder_only": (
        (False, None),
        _NO_ENCODER_OPTION,
    ),
    "model_config.multimodal_config.mm_encoder_tp_mode": (
        ("weights",),
        _NO_ENCODER_OPTION,
    ),
    "model_config.multimodal_config.video_pruning_rate": (
        (None, 0.0),
        _NO_ENCODER_OPTION,
    ),
    "model_config.quantization_config": (
        (None, {}),
        "no weights are quantized while they are loaded",
    ),
    "model_config.return_sampling_mask": ((False,), "its sampler is in Triton"),
    "model_config.use_fp64_gumbel": ((False,), "an NPU has no float64"),
    "observability_config.enable_layerwise_nvtx_tracing": (
        (False,),
        "NVTX is CUDA's",
    ),
    "offload_config.prefetch.offload_group_size": (
        (0,),
        "weights are fetched ahead on CUDA streams; --cpu-offload-gb works",
    ),
    "parallel_config.all2all_backend": (
        (None, "allgather_reducescatter", "naive"),
        "experts exchange tokens by all-gather and reduce-scatter",
    ),
    "parallel_config.decode_context_parallel_size": ((1,), _NO_CONTEXT_PARALLEL),
    "parallel_config.enable_batch_sharded_sampling": (
        (False, None),
        "its sampler is in Triton",
    ),
    "parallel_config.enable_dbo": ((False,), _NO_DBO),
    "parallel_config.enable_elastic_ep": ((False,), _NO_EPLB),
    "parallel_config.enable_eplb": ((False,), _NO_EPLB),
    "parallel_config.enable_fault_tolerance": (
        (False,),
        "it needs collectives that survive a lost rank",
    ),
    "parallel_config.enable_hc_sp": ((False,), _NO_CONTEXT_PARALLEL),
    "parallel_config.enable_microbatching": ((False,), _NO_DBO),
    "parallel_config.prefill_context_parallel_size": ((1,), _NO_CONTEXT_PARALLEL),
    "parallel_config.ray_workers_use_nsight": ((False,), "Nsight is CUDA's"),
    "parallel_config.ubatch_size": ((0,), _NO_DBO),
    "profiler_config.profiler": (
        (None, "torch"),
        "of the profilers only torch's is not CUDA's",
    ),
}
"""Options whose other values are refused: the values that an NPU takes, and why.

An option that a release does not have is passed over.
"""

# npu-migrate: when platform_registers_kernels
_MODEL_RUNNERS = ("0", "1")
# npu-migrate: otherwise
_MODEL_RUNNERS = ("0",)
# npu-migrate: end

TAKEN_VARIABLES: dict[str, tuple[tuple[str, ...], str]] = {
    "VLLM_BATCH_INVARIANT": (
        ("0",),
        "its kernels are Triton's, and NPU operators promise no order of summation",
    ),
    "VLLM_ALL2ALL_BACKEND": (
        ("allgather_reducescatter", "naive"),
        "experts exchange tokens by all-gather and reduce-scatter",
    ),
    "VLLM_DISTRIBUTED_USE_SPLIT_GROUP": (("0",), "HCCL's groups cannot be split"),
    "VLLM_GPU_SYNC_CHECK": (("0", "off"), "torch.cuda finds the synchronizations"),
    "VLLM_KV_CACHE_LAYOUT": (("NHD",), "the KV cache holds a token's heads together"),
    "VLLM_USE_BREAKABLE_CUDAGRAPH": (("0",), "only CUDA graphs can be taken apart"),
    "VLLM_USE_RAY_COMPILED_DAG_CHANNEL_TYPE": (
        ("auto", "shm"),
        "Ray's channels of device memory are NCCL's",
    ),
    "VLLM_USE_RAY_COMPILED_DAG_OVERLAP_COMM": (("0",), "Ray overlaps on CUDA streams"),
    "VLLM_USE_V1": (("1",), "vLLM's V0 engine has no NPU worker"),
    "VLLM_USE_V2_MODEL_RUNNER": (
        _MODEL_RUNNERS,
        "of this release only model runner V1 was tried on NPUs",
    ),
}
"""The same for environment variables; unset or empty is always taken."""

# npu-migrate: when has_model_runner_v2
_V1_TAKES_IT = "VLLM_USE_V2_MODEL_RUNNER=0 chooses V1, which takes it"
_WITH_TRITON = f"install triton-ascend, or {_V1_TAKES_IT}"

TAKEN_WITH_V2: dict[str, tuple[tuple[Any, ...], str]] = {
    "model_config.enable_prompt_embeds": ((False,), _V1_TAKES_IT),
    "model_config.hf_text_config.attention_chunk_size": ((None,), _V1_TAKES_IT),
    "model_config.hf_text_config.num_kv_shared_layers": ((None, 0), _V1_TAKES_IT),
    "model_config.logits_processors": ((None, []), _V1_TAKES_IT),
    "model_config.logprobs_mode": (("raw_logprobs",), _V1_TAKES_IT),
    "model_config.quantization": ((None,), _V1_TAKES_IT),
    "model_config.runner_type": (("generate",), _V1_TAKES_IT),
    "offload_config.uva.cpu_offload_gb": ((0,), _V1_TAKES_IT),
    "parallel_config.data_parallel_size": ((1,), _V1_TAKES_IT),
    "parallel_config.distributed_executor_backend": ((None, "uni", "mp"), _V1_TAKES_IT),
    "parallel_config.enable_expert_parallel": ((False,), _V1_TAKES_IT),
}
"""Options whose other values are refused with V2, in the same way."""

UNTRIED_PARTS = ("lora_config", "reasoning_config", "speculative_config")
"""Parts of `VllmConfig` that have to be None."""

TAKEN_WITHOUT_TRITON: dict[str, tuple[tuple[Any, ...], str]] = {
    "model_config.enforce_eager": ((True,), _WITH_TRITON),
    "model_config.runner_type": (("generate",), _WITH_TRITON),
    "parallel_config.pipeline_parallel_size": ((1,), _WITH_TRITON),
    "parallel_config.tensor_parallel_size": ((1,), _WITH_TRITON),
}
"""The same with V2 where Triton has no NPU."""

TRITON_PARTS = ("lora_config", "reasoning_config", "speculative_config")
"""Parts of `VllmConfig` that have to be None there."""

TRIED_ALONE: dict[str, tuple[str, Any]] = {
    "tensor parallelism": ("parallel_config.tensor_parallel_size", 1),
    "pipeline parallelism": ("parallel_config.pipeline_parallel_size", 1),
}
"""What was run with V2 each by itself and without graphs → its option, and the value
of that which leaves it out."""

# npu-migrate: end


def refuse_unsupported(vllm_config: VllmConfig, others: Iterable[str] = ()) -> None:
    """Refuse a configuration that an NPU cannot serve.

    Args:
        others: reasons that were found elsewhere.
        vllm_config: the configuration, as vLLM filled it in.

    Raises:
        ValueError: all the reasons, in one line.

    """
    reasons = [*others, *_reasons(vllm_config)]
    if reasons:
        raise ValueError("NPU: " + "; ".join(reasons) + ".")


def _reasons(vllm_config: VllmConfig) -> Iterator[str]:
    if vllm_config.model_config is not None:
        yield from _model_reasons(vllm_config.model_config, vllm_config.load_config)
        yield from _latent_reasons(vllm_config)
    yield from speculation_reasons(vllm_config)
    yield from _draft_reasons(vllm_config)
    sequences = _lookup(vllm_config, "scheduler_config.max_num_seqs")
    if sequences is not _ABSENT and sequences > MAX_SEQUENCES:
        yield (
            f"a batch of {sequences} requests is larger than the {MAX_SEQUENCES} that "
            "attention takes. Set --max-num-seqs"
        )
    yield from _connector_reasons(vllm_config)
    yield from _offload_reasons(vllm_config)
    yield from _untaken(vllm_config, TAKEN)
    # npu-migrate: when has_model_runner_v2
    if getattr(vllm_config, "use_v2_model_runner", False):
        yield from _runner_v2_reasons(vllm_config)
        yield from _untaken(vllm_config, TAKEN_WITH_V2, " with model runner V2")
    # npu-migrate: end
    for name, (taken, why) in TAKEN_VARIABLES.items():
        value = os.environ.get(name, "")
        if value and value not in taken:
            yield f"{name}={value} is not supported, {why}"
    yield from _unknown_configs(vllm_config)


def _draft_reasons(vllm_config: VllmConfig) -> Iterator[str]:
    """What a model that makes drafts is that was not compared."""
    draft = _lookup(vllm_config, "speculative_config.draft_model_config")
    if draft in (_ABSENT, None, vllm_config.model_config):
        return
    reasons = list(_model_reasons(draft, vllm_config.load_config))
    if draft.use_mla:
        reasons.append("latent attention was not compared with drafts")
    if draft.quantization is not None:
        reasons.append(f"{draft.quantization} was not compared with drafts")
    for reason in reasons:
        yield f"the draft model: {reason}"


def _untaken(
    vllm_config: VllmConfig,
    options: dict[str, tuple[tuple[Any, ...], str]],
    where: str = "",
) -> Iterator[str]:
    """What of a table of options is set to another value than those taken."""
    for path, (taken, why) in options.items():
        value = _lookup(vllm_config, path)
        if value is not _ABSENT and value not in taken:
            name = path.rpartition(".")[2]
            yield f"{name}={value!r} is not supported{where}, {why}"


# npu-migrate: when has_model_runner_v2
def _runner_v2_reasons(vllm_config: VllmConfig) -> Iterator[str]:
    """Why model runner V2 does not serve a configuration that an NPU takes with V1."""
    # vllm.triton_utils asks for the platform while it is imported.
    from vllm.triton_utils import HAS_TRITON

    if not HAS_TRITON:
        where = " with model runner V2 and no Triton that has an NPU"
        # What no V2 takes is said once.
        table = TAKEN_WITHOUT_TRITON.items()
        own = {path: entry for path, entry in table if path not in TAKEN_WITH_V2}
        yield from _untaken(vllm_config, own, where)
        for name in TRITON_PARTS:
            given = getattr(vllm_config, name, None)
            if given is not None and name not in UNTRIED_PARTS:
                yield f"{name} was not tried{where}, {_WITH_TRITON}"
    for name in UNTRIED_PARTS:
        if getattr(vllm_config, name, None) is not None:
            yield f"{name} was not tried with model runner V2, {_V1_TAKES_IT}"
    model_config = vllm_config.model_config
    alone = [
        name
        for name, (path, without) in TRIED_ALONE.items()
        if _lookup(vllm_config, path) not in (_ABSENT, without)
    ]
    if len(alone) > 1:
        names = " and ".join(alone)
        yield f"{names} were not tried at once with model runner V2, {_V1_TAKES_IT}"
    if model_config is None:
        return
    if alone and not model_config.enforce_eager:
        yield (
            f"{alone[0]} with graphs was not tried with model runner V2, "
            f"{_V1_TAKES_IT}, and --enforce-eager leaves graphs out"
        )
    if model_config.is_multimodal_model:
        yield f"images were not tried with model runner V2, {_V1_TAKES_IT}"
    if model_config.use_mla:
        yield f"latent attention was not tried with model runner V2, {_V1_TAKES_IT}"


# npu-migrate: end
def _model_reasons(model_config: ModelConfig, load_config: Any) -> Iterator[str]:
    if (
        model_config.is_hybrid
        or model_config.has_inner_state
        or model_config.is_attention_free
    ):
        names = ", ".join(model_config.architectures)
        yield (
            f"{names} has layers of linear attention or of a state space, or none of "
            "attention; their kernels are Triton's, only attention is supported"
        )
    if model_config.max_model_len > MAX_CONTEXT:
        yield (
            f"a context of {model_config.max_model_len} tokens is longer than the "
            f"{MAX_CONTEXT} that attention takes. Set --max-model-len"
        )
    if reason := image_reason(model_config):
        yield reason
    if getattr(model_config.hf_text_config, "mova_num_experts", 0):
        yield (
            "the model mixes the values of attention by experts; their kernels are "
            "Triton's"
        )


def _latent_reasons(vllm_config: VllmConfig) -> Iterator[str]:
    """What of multi-head latent attention no operator takes, or was not compared."""
    model_config = vllm_config.model_config
    config = model_config.hf_text_config
    if hasattr(config, "index_topk"):
        yield (
            "sparse attention, whose tokens an indexer chooses (DeepSeek V3.2, GLM-5), "
            "has no backend here"
        )
        return
    if not model_config.use_mla:
        return
    hint = "Set VLLM_MLA_DISABLE=1 to run the model with plain attention"
    # npu-migrate: when mla_can_be_added
    names = ", ".join(model_config.architectures)
    if names not in LATENT_MODELS:
        yield f"latent attention of {names} was not compared on an NPU. {hint}"
        return
    sizes = {name: getattr(config, name, None) for name in LATENT_SIZES}
    if sizes != LATENT_SIZES:
        wanted, given = (
            ", ".join(f"{name} {size}" for name, size in some.items())
            for some in (LATENT_SIZES, sizes)
        )
        yield f"latent attention takes heads of {wanted}, not of {given}. {hint}"
    heads = model_config.get_num_attention_heads(vllm_config.parallel_config)
    if heads > MAX_LATENT_HEADS:
        yield (
            f"latent attention takes {MAX_LATENT_HEADS} heads on a rank, not {heads}. "
            f"{hint}, or a larger --tensor-parallel-size"
        )
    if not model_config.enforce_eager:
        yield from _latent_graph_reasons(vllm_config)
    options = [
        *not_compared(vllm_config, LATENT_TAKEN),
        *engine_options(vllm_config),
    ]
    for option in options:
        yield f"latent attention was not compared with {option}. {hint}"
    # npu-migrate: otherwise
    yield f"latent attention has no backend in this release. {hint}"
    # npu-migrate: end


def _latent_graph_reasons(vllm_config: VllmConfig) -> Iterator[str]:
    """Why the graphs of a model with latent attention are not taken."""
    # npu-migrate: when mla_layers_part_the_batch
    mode = _lookup(vllm_config, "compilation_config.cudagraph_mode")
    if getattr(mode, "name", None) not in LATENT_GRAPHS:
        yield (
            "latent attention was not compared with these graphs. Set "
            "--enforce-eager or cudagraph_mode PIECEWISE or FULL_DECODE_ONLY"
        )
    # npu-migrate: otherwise
    yield (
        "latent attention was not compared with graphs in this release. Set "
        "--enforce-eager"
    )
    # npu-migrate: end


def image_reason(model_config: ModelConfig) -> str | None:
    """Why images are not taken; None if they are or the model takes none."""
    if hasattr(model_config, "is_mm_prefix_lm"):
        # Which tokens see each other, the runner tells with each batch.
        return None
    # Every backend of this release lets the tokens of an image see earlier ones only.
    # Inside of the model its text part has the configuration of its own.
    model_type = getattr(model_config.hf_config, "model_type", None)
    multimodal = getattr(model_config, "multimodal_config", None)
    if (
        model_type not in PREFIX_MODELS
        or multimodal is None
        or not multimodal.get_limit_per_prompt("image")
    ):
        return None
    return (
        f"images for a {model_type} model are not supported, whose tokens see each "
        "other. For text alone set --limit-mm-per-prompt '{\"image\": 0}'"
    )


def chunk_reason(model_config: ModelConfig, block_size: int) -> str | None:
    """What local attention's chunks are that no operator takes, in words; else None."""
    chunk = getattr(model_config.hf_text_config, "attention_chunk_size", None)
    if chunk is None or chunk % block_size == 0:
        return None
    return (
        f"attention in chunks of {chunk} tokens, no multiple of the KV cache's blocks "
        f"of {block_size}"
    )


def _connector_reasons(vllm_config: VllmConfig) -> Iterator[str]:
    config = vllm_config.kv_transfer_config
    name = config.kv_connector if config is not None else None
    if name is not None and name not in CONNECTORS:
        only = f", only {' or '.join(CONNECTORS)}" if CONNECTORS else " in this release"
        yield (
            f"the KV connector {name} was not tried on an NPU{only}. Leave "
            "--kv-transfer-config out"
        )
    elif name is not None:
        connector = CONNECTORS[name]
        others = list(not_compared(vllm_config, {**PLAIN, **connector.options}))
        given = getattr(config, "kv_connector_extra_config", None) or {}
        others += [key for key in given if key not in connector.extra]
        cache_config = vllm_config.cache_config
        size = cache_config.block_size
        # Where nobody asked for one, the attention's own follows later.
        asked = getattr(cache_config, "user_specified_block_size", size is not None)
        if asked and size != KERNEL_BLOCK_SIZE:
            others.append(f"block_size={size}")
        v2 = getattr(vllm_config, "use_v2_model_runner", False)
        if v2 and not connector.runner_v2:
            others.append("model runner V2")
        for option in others:
            yield f"the KV connector {name} was not compared with {option}"
    config = getattr(vllm_config, "ec_transfer_config", None)
    if config is not None and config.ec_connector is not None:
        yield (
            f"the encoder cache's connector {config.ec_connector} takes memory of "
            "CUDA. Leave --ec-transfer-config out"
        )


def max_capture_sizes(
    graphs_per_size: int, num_groups: int, expansion_mode: str = ""
) -> int:
    """How many batch sizes can be captured before a device is out of streams.

    A captured graph holds a stream for as long as it lives, and each communicator
    that works in it holds others for the parts of a collective that run side by
    side.

    Args:
        graphs_per_size: one for a full graph; in pieces, one before each layer's
            attention and one after the last.
        num_groups: process groups of more than one member.
        expansion_mode: HCCL_OP_EXPANSION_MODE. Collectives that vector cores expand
            ("AIV") take one stream in a graph, others two.

    """
    if expansion_mode == "AIV":
        streams = 1 + num_groups
        # Collectives outside of graphs take as many as those of one size.
        reserved = streams * graphs_per_size if num_groups else 0
    else:
        streams = 1 + 2 * num_groups
        reserved = num_groups * EAGER_STREAMS_PER_GROUP
    return max((CAPTURED_STREAMS - reserved) // (streams * graphs_per_size), 1)


def thin_out(sizes: list[int], limit: int) -> list[int]:
    """At most `limit` of the sizes, ascending and evenly spread; the largest stays."""
    ordered = sorted(sizes)
    step = (len(ordered) - 1) / max(limit - 1, 1)
    return sorted({ordered[len(ordered) - 1 - round(i * step)] for i in range(limit)})


def count_groups(parallel_config: Any) -> int:
    """Process groups of more than one member: each has a communicator of HCCL."""
    tensor = parallel_config.tensor_parallel_size
    data = parallel_config.data_parallel_size
    experts = tensor * data if parallel_config.enable_expert_parallel else 1
    pipeline = parallel_config.pipeline_parallel_size
    return sum(size > 1 for size in (tensor, data, experts, pipeline))


def cpu_offload_gb(vllm_config: VllmConfig) -> float:
    """GiB of weights that stay in host memory."""
    # In the cache's configuration, before offloading got one of its own.
    values = (
        _lookup(vllm_config, "offload_config.uva.cpu_offload_gb"),
        _lookup(vllm_config, "cache_config.cpu_offload_gb"),
    )
    return next((value for value in values if value is not _ABSENT), 0)


def _offload_reasons(vllm_config: VllmConfig) -> Iterator[str]:
    if cpu_offload_gb(vllm_config) == 0:
        return
    if "VLLM_WEIGHT_OFFLOADING_DISABLE_UVA" not in envs.environment_variables:
        yield (
            "weights stay in host memory by CUDA's unified addresses. Leave "
            "--cpu-offload-gb out"
        )


def _unknown_configs(vllm_config: VllmConfig) -> Iterator[str]:
    told = KNOWN_CONFIGS | {
        "ec_transfer_config",
        "kv_transfer_config",
        "speculative_config",
    }
    for field in dataclasses.fields(vllm_config):
        if field.name in told or not field.init:
            continue
        value = getattr(vllm_config, field.name)
        if value is not None and value != default_of(field):
            yield f"{field.name} is not supported, nothing of it was made for NPUs"


_SHORT = 40
"""Characters of a value that is shown with the name of its option."""


def not_compared(
    vllm_config: VllmConfig, taken: dict[str, tuple[Any, ...]]
) -> Iterator[str]:
    """Options that have other values than those of a comparison, in a word each.

    Args:
        taken: path of an option and the values that it was compared with. One that
            a release does not have is passed over.
        vllm_config: the configuration, as vLLM filled it in.

    """
    for path, values in taken.items():
        value = _lookup(vllm_config, path)
        if value is _ABSENT or value in values:
            continue
        name, shown = path.rpartition(".")[2], repr(value)
        # Whole configurations are many lines long.
        yield name if len(shown) > _SHORT else f"{name}={shown}"


def engine_options(vllm_config: VllmConfig) -> Iterator[str]:
    """What `SEVERAL_ENGINES` were not compared with, in a few words each."""
    size = _lookup(vllm_config, "parallel_config.data_parallel_size")
    if not SEVERAL_ENGINES or size in (_ABSENT, 1):
        return
    if not vllm_config.parallel_config.enable_expert_parallel:
        yield f"data_parallel_size={size} without enable_expert_parallel"
    if not vllm_config.model_config.enforce_eager:
        yield f"data_parallel_size={size} and graphs"


_ABSENT = object()


def _lookup(config: Any, path: str) -> Any:
    """The value at a dotted path; `_ABSENT` where an attribute is, or is None."""
    *parents, name = path.split(".")
    for parent in parents:
        config = getattr(config, parent, None)
        if config is None:
            return _ABSENT
    return getattr(config, name, _ABSENT)
