# SPDX-License-Identifier: Apache-2.0
"""The tiny models of a simulated run: what they are made of and which operators must serve them.

Sizes are the smallest at which every path of the port exists: grouped queries (four heads on two
key/value heads, so that TP=2 still has one each), a head size that the device's attention takes
(64), three layers (an uneven split for PP=2), prompts of several KV blocks of 128 tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

VOCABULARY = 512
NEW_TOKENS = 24
MAX_MODEL_LENGTH = 1024
BATCHED_TOKENS = 144
"""Tokens of one engine step: fewer than the longer prompts have, so that they come in chunks, and
no multiple of the KV block, so that chunks end within one."""
PENALTY = {"repetition_penalty": 1.3, "frequency_penalty": 0.4, "presence_penalty": 0.6}
"""Penalties of the greedy answers that check them."""

_SHAPE: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 64,
    "max_position_embeddings": MAX_MODEL_LENGTH,
    # What vLLM falls back to (Qwen2, Qwen3: another): releases from before transformers 5 do not
    # find what its configuration says.
    "rope_theta": 10000.0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
    "tie_word_embeddings": False,
}
_EXPERTS: dict[str, Any] = {
    "num_experts": 8,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 64,
    "norm_topk_prob": True,
    "decoder_sparse_step": 1,
}

# Absolute positions and a plain layer norm, whose operators are ATen's; every head has its own
# keys. What it is here for is its activation.
_GPT2: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "n_embd": 128,
    "n_layer": 3,
    "n_head": 2,
    "n_inner": 256,
    "n_positions": MAX_MODEL_LENGTH,
    "activation_function": "quick_gelu",
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
    "resid_pdrop": 0.0,
    "embd_pdrop": 0.0,
    "attn_pdrop": 0.0,
}

_DEEPSEEK = "vllm/model_executor/models/deepseek_v2.py"
# A head is not the hidden size divided, and no size of it is free.
_LATENT: dict[str, Any] = {
    **{name: value for name, value in _SHAPE.items() if name != "head_dim"},
    "num_key_value_heads": 4,
    "kv_lora_rank": 512,
    "qk_nope_head_dim": 128,
    "qk_rope_head_dim": 64,
    "v_head_dim": 128,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 64,
    "first_k_dense_replace": 1,
}
_YARN: dict[str, Any] = {
    "rope_type": "yarn",
    "factor": 4.0,
    "original_max_position_embeddings": MAX_MODEL_LENGTH // 4,
    "beta_fast": 32,
    "beta_slow": 1,
    "mscale": 1.0,
    "mscale_all_dim": 1.0,
}
_DEEPSEEK_V2: dict[str, Any] = {
    **_LATENT,
    "q_lora_rank": None,
    "n_routed_experts": 8,
    "n_shared_experts": 2,
    "n_group": 1,
    "topk_group": 1,
    "topk_method": "greedy",
    # Later configurations take these for granted.
    "scoring_func": "softmax",
    "moe_layer_freq": 1,
    "norm_topk_prob": False,
}

ROLES: dict[str, tuple[str, ...]] = {
    "norm": ("npu_rms_norm",),
    "residual norm": ("npu_add_rms_norm",),
    "gemma norm": ("npu_gemma_rms_norm",),
    "swiglu": ("npu_swiglu",),
    "geglu": ("npu_geglu",),
    "quick gelu": ("npu_fast_gelu", "fast_gelu"),
    "rotary": (
        "_npu_rotary_embedding",
        "npu_rotary_mul",
        "npu_apply_rotary_pos_emb",
        "npu_mrope",
        "npu_interleave_rope",
    ),
    "cache write": (
        "_npu_reshape_and_cache",
        "_npu_reshape_and_cache_siso",
        "npu_scatter_pa_kv_cache",
        "npu_scatter_nd_update_",
    ),
    "attention": (
        "_npu_paged_attention",
        "_npu_flash_attention",
        "_npu_flash_attention_qlens",
        "_npu_flash_attention_unpad",
        "npu_fused_infer_attention_score",
        "npu_fused_infer_attention_score_v2",
    ),
    "router": (
        "npu_moe_gating_top_k_softmax",
        "npu_moe_gating_top_k_softmax_v2",
        "npu_moe_gating_top_k",
    ),
    "experts": ("npu_grouped_matmul",),
    "token scales": ("npu_dynamic_quant",),
    "given scales": ("npu_quantize",),
    "int8 product": ("npu_quant_matmul",),
}
"""What an operator is for → the operators that do it; one of them has to be called."""
SAMPLER = ("npu_top_k_top_p",)
"""What sampling with top-k and top-p has to call, whatever the model."""
_DENSE = ("norm", "residual norm", "swiglu", "rotary", "cache write", "attention")
_SPARSE = (*_DENSE, "router", "experts")
# A router that no operator of the device has: of PyTorch, as vLLM computes it.
_OTHER_ROUTER = (*_DENSE, "experts")
# Positions stretched as DeepSeek does it are rotated by PyTorch, as vLLM computes it.
_STRETCHED = tuple(role for role in _OTHER_ROUTER if role != "rotary")
_GEMMA = ("gemma norm", "geglu", "rotary", "cache write", "attention")


@dataclass(frozen=True)
class Adapter:
    """A LoRA adapter: its rank and the layers that it changes, by the last part of their names."""

    name: str
    rank: int
    targets: tuple[str, ...]


# A rank below the engine's, which pads it; all that can have an adapter.
_LINEAR = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
_ADAPTERS = (
    Adapter("first", 8, _LINEAR),
    Adapter("second", 4, ("embed_tokens", *_LINEAR[:3], *_LINEAR[4:], "lm_head")),
)
MAX_RANK = 8
"""Rank that the engine reserves for each adapter."""


@dataclass(frozen=True)
class Quantization:
    """How a checkpoint is quantized, and by what: "compressed-tensors" or "modelslim".

    `weights`: "channel" or "tensor", what has a scale of its own; `dynamic`: each token is scaled
    by its own values, in place of all by a scale that the checkpoint has; `symmetric`: without a
    zero point of activations; `floats`: layers that are left as they are, by the last part of their
    names.
    """

    weights: str = "channel"
    dynamic: bool = True
    symmetric: bool = True
    method: str = "compressed-tensors"
    floats: tuple[str, ...] = ()


@dataclass(frozen=True)
class Model:
    """One architecture.

    `config` goes to the transformers class `config_class`, on top of the common shape where
    `common` is set; `roles` are the keys of ROLES that it needs; `adapters` are those of the modes
    with LoRA. `routed_in` is vLLM's module with the model's routers, if some releases round what
    they give.
    """

    name: str
    config_class: str
    model_class: str
    config: dict[str, Any] = field(default_factory=dict)
    roles: tuple[str, ...] = _DENSE
    common: bool = True
    adapters: tuple[Adapter, ...] = ()
    quantization: Quantization | None = None
    routed_in: str = ""

    @property
    def settings(self) -> dict[str, Any]:
        """All arguments of the configuration class."""
        return {**(_SHAPE if self.common else {}), **self.config}


_ALL = (
    Model("llama", "LlamaConfig", "LlamaForCausalLM", adapters=_ADAPTERS),
    # vLLM takes no head size from its configuration: it divides, as all its checkpoints allow.
    Model(
        "qwen2",
        "Qwen2Config",
        "Qwen2ForCausalLM",
        {"hidden_size": 256, "rope_theta": 1000000.0},
    ),
    Model("qwen3", "Qwen3Config", "Qwen3ForCausalLM", {"rope_theta": 1000000.0}),
    # A window shorter than a KV block and than most prompts.
    Model("mistral", "MistralConfig", "MistralForCausalLM", {"sliding_window": 64}),
    Model(
        "mixtral",
        "MixtralConfig",
        "MixtralForCausalLM",
        {"num_local_experts": 8, "num_experts_per_tok": 2, "sliding_window": None},
        _SPARSE,
    ),
    Model("qwen3-moe", "Qwen3MoeConfig", "Qwen3MoeForCausalLM", _EXPERTS, _SPARSE),
    # An expert that every token goes through, weighted by a gate of its own.
    Model(
        "qwen2-moe",
        "Qwen2MoeConfig",
        "Qwen2MoeForCausalLM",
        {
            **_EXPERTS,
            "hidden_size": 256,
            "shared_expert_intermediate_size": 64,
            "rope_theta": 1000000.0,
        },
        _SPARSE,
    ),
    # Sigmoid scores, a bias that only chooses, experts in groups, a shared expert without a gate,
    # half of a head rotated. The router is vLLM's own, of PyTorch.
    Model(
        "glm4-moe",
        "Glm4MoeConfig",
        "Glm4MoeForCausalLM",
        {
            "n_routed_experts": 8,
            "n_shared_experts": 1,
            "num_experts_per_tok": 2,
            "n_group": 2,
            "topk_group": 1,
            "moe_intermediate_size": 64,
            "first_k_dense_replace": 1,
            "norm_topk_prob": True,
            "routed_scaling_factor": 1.5,
            "partial_rotary_factor": 0.5,
            "use_qk_norm": True,
        },
        _OTHER_ROUTER,
    ),
    # Attention in chunks of a KV block in all layers but one, which does not rotate; an expert that
    # weighs its input, chosen by a function of the model's own, and a shared one.
    Model(
        "llama4",
        "Llama4TextConfig",
        "Llama4ForCausalLM",
        {
            "attention_chunk_size": 128,
            "intermediate_size_mlp": 128,
            "num_local_experts": 4,
            "num_experts_per_tok": 1,
            "interleave_moe_layer_step": 2,
            "no_rope_layers": [1, 1, 0],
            "use_qk_norm": True,
            "attn_temperature_tuning": False,
        },
        _OTHER_ROUTER,
    ),
    Model(
        "gemma",
        "GemmaConfig",
        "GemmaForCausalLM",
        {"hidden_activation": "gelu_pytorch_tanh", "tie_word_embeddings": True},
        _GEMMA,
    ),
    # Norms of queries and keys as they lie in one projection; layers with a window and without one,
    # which turn by different bases.
    Model(
        "gemma3",
        "Gemma3TextConfig",
        "Gemma3ForCausalLM",
        {
            "hidden_activation": "gelu_pytorch_tanh",
            "tie_word_embeddings": True,
            "query_pre_attn_scalar": 64,
            "sliding_window": 64,
            "layer_types": ["sliding_attention", "sliding_attention", "full_attention"],
            "rope_theta": 1000000.0,
        },
        _GEMMA,
    ),
    # A router of sigmoids, with a bias that chooses and does not weigh.
    Model(
        "minimax-m2",
        "MiniMaxM2Config",
        "MiniMaxM2ForCausalLM",
        {
            "num_local_experts": 8,
            "num_experts_per_tok": 2,
            "rotary_dim": 32,
            "scoring_func": "sigmoid",
            "use_routing_bias": True,
        },
        _OTHER_ROUTER,
    ),
    # Latent attention with the sizes of all DeepSeeks, which are those that the device takes: one
    # latent for all heads, queries without one. Experts by softmax, two of them shared.
    Model(
        "deepseek-v2",
        "DeepseekV2Config",
        "DeepseekV2ForCausalLM",
        _DEEPSEEK_V2,
        _OTHER_ROUTER,
        common=False,
        routed_in=_DEEPSEEK,
    ),
    # Queries of a latent of their own; sigmoid scores, a bias that only chooses, experts in groups;
    # positions stretched by yarn, which scales the logits, too.
    Model(
        "deepseek-v3",
        "DeepseekV3Config",
        "DeepseekV3ForCausalLM",
        {
            **_LATENT,
            "q_lora_rank": 96,
            "n_routed_experts": 8,
            "n_shared_experts": 1,
            "n_group": 2,
            "topk_group": 1,
            "topk_method": "noaux_tc",
            "scoring_func": "sigmoid",
            "norm_topk_prob": True,
            "routed_scaling_factor": 2.5,
            "num_nextn_predict_layers": 0,
            "rope_scaling": _YARN,
        },
        _STRETCHED,
        common=False,
        routed_in=_DEEPSEEK,
    ),
    Model(
        "gpt2",
        "GPT2Config",
        "GPT2LMHeadModel",
        _GPT2,
        ("quick gelu", "cache write", "attention"),
        common=False,
    ),
    # Quantized by compressed-tensors: activations by token; by tensor; by tensor with a zero point
    # (and weights by tensor, in layers with a bias).
    Model(
        "llama-w8a8",
        "LlamaConfig",
        "LlamaForCausalLM",
        roles=(*_DENSE, "token scales", "int8 product"),
        quantization=Quantization(),
    ),
    Model(
        "llama-w8a8-static",
        "LlamaConfig",
        "LlamaForCausalLM",
        roles=(*_DENSE, "given scales", "int8 product"),
        quantization=Quantization(dynamic=False),
    ),
    Model(
        "llama-w8a8-zero",
        "LlamaConfig",
        "LlamaForCausalLM",
        {"attention_bias": True, "mlp_bias": True},
        (*_DENSE, "given scales", "int8 product"),
        quantization=Quantization(weights="tensor", dynamic=False, symmetric=False),
    ),
    # By ModelSlim: attention by tensor, with a zero point and the bias among the integers; the rest
    # by token, but for one layer that is not quantized.
    Model(
        "llama-modelslim",
        "LlamaConfig",
        "LlamaForCausalLM",
        {"attention_bias": True},
        (*_DENSE, "given scales", "token scales", "int8 product"),
        quantization=Quantization(symmetric=False, method="modelslim"),
    ),
    Model(
        "qwen3-moe-w8a8",
        "Qwen3MoeConfig",
        "Qwen3MoeForCausalLM",
        _EXPERTS,
        (*_SPARSE, "token scales", "int8 product"),
        quantization=Quantization(),
    ),
    Model(
        "qwen3-moe-modelslim",
        "Qwen3MoeConfig",
        "Qwen3MoeForCausalLM",
        _EXPERTS,
        (*_SPARSE, "given scales", "token scales", "int8 product"),
        quantization=Quantization(symmetric=False, method="modelslim"),
    ),
    # Latent attention, whose latents are projected up by a layer that is never quantized: decode
    # steps take it apart. Positions are stretched: without that releases before transformers 5 read
    # no DeepSeek-V2 that it has written.
    Model(
        "deepseek-v2-w8a8",
        "DeepseekV2Config",
        "DeepseekV2ForCausalLM",
        {**_DEEPSEEK_V2, "rope_scaling": _YARN},
        (*_STRETCHED, "token scales", "int8 product"),
        common=False,
        quantization=Quantization(floats=("kv_b_proj",)),
        routed_in=_DEEPSEEK,
    ),
    Model(
        "deepseek-v2-modelslim",
        "DeepseekV2Config",
        "DeepseekV2ForCausalLM",
        {**_DEEPSEEK_V2, "rope_scaling": _YARN},
        (*_STRETCHED, "given scales", "token scales", "int8 product"),
        common=False,
        quantization=Quantization(symmetric=False, method="modelslim", floats=("kv_b_proj",)),
        routed_in=_DEEPSEEK,
    ),
)
MODELS: dict[str, Model] = {model.name: model for model in _ALL}
ALIASES: dict[str, tuple[str, ...]] = {
    "moe": ("mixtral", "qwen3-moe"),
    "all": tuple(MODELS),
    "int8": tuple(name for name, model in MODELS.items() if model.quantization is not None),
}
DEFAULT_MODELS = ("llama", "qwen2", "qwen3", "moe")


@dataclass(frozen=True)
class Prompt:
    """How a prompt is made: `shared` first tokens of prompt number `of`, then `own` random ones."""

    own: int
    shared: int = 0
    of: int = 0


# No two of these share a token block, so that whatever the attention reads from the cache for one
# of them is an earlier chunk of it. One token; a few; one that crosses into the second KV block
# while it decodes; more than a step takes.
FRESH = (Prompt(1), Prompt(5), Prompt(17), Prompt(119), Prompt(260), Prompt(300))
# They run after FRESH, on a prefix cache which holds that: a prompt that goes on where an earlier
# one ended, one that shares two blocks with it, two earlier ones as they were, and a new one.
AGAIN = (
    Prompt(7, shared=300, of=5),
    Prompt(40, shared=256, of=5),
    Prompt(0, shared=119, of=3),
    Prompt(0, shared=260, of=4),
    Prompt(9),
)
# They run with an adapter: a few tokens, more than a block, more than a step takes.
ADAPTED = (Prompt(5), Prompt(140), Prompt(170))
CHATS: tuple[list[dict[str, str]], ...] = (
    [{"role": "user", "content": "What does a cat eat?"}],
    [
        {"role": "system", "content": "Be short."},
        {"role": "user", "content": "Name three rivers of Asia, in order of their length."},
    ],
)
"""Conversations for the server; a word is added to each until the answer is robust."""


def select(names: Sequence[str]) -> list[Model]:
    """The models called `names`, aliases resolved, each once; raises `ValueError` with the list."""
    chosen: dict[str, Model] = {}
    for name in names:
        for real in ALIASES.get(name, (name,)):
            if real not in MODELS:
                known = ", ".join([*MODELS, *ALIASES])
                raise ValueError(f"no model is called '{name}'; there are {known}")
            chosen[real] = MODELS[real]
    return list(chosen.values())
