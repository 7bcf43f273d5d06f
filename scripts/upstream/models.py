# SPDX-License-Identifier: Apache-2.0
"""Writes the models that vLLM's tests ask a hub for: configurations, and weights of a tiny one.

    python models.py FOLDER

FOLDER becomes what HF_HOME names. The shapes that attention is tested with are those of the models,
but for the heads of the one with a window; the one whose weights are loaded is tiny and its weights
are made up.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

REVISION = "0" * 40

CONFIGURATIONS: dict[str, dict[str, Any]] = {
    "meta-llama/Meta-Llama-3-8B": {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "vocab_size": 128256,
        "max_position_embeddings": 8192,
        "rope_theta": 500000.0,
        "torch_dtype": "bfloat16",
    },
    "microsoft/Phi-tiny-MoE-instruct": {
        "architectures": ["PhiMoEForCausalLM"],
        "model_type": "phimoe",
        "hidden_size": 4096,
        "intermediate_size": 448,
        "num_hidden_layers": 32,
        # Its own are of 256, which is refused with a window.
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "num_local_experts": 16,
        "num_experts_per_tok": 2,
        "vocab_size": 32064,
        "max_position_embeddings": 4096,
        "sliding_window": 2047,
        "attention_bias": True,
        "lm_head_bias": True,
        "torch_dtype": "bfloat16",
    },
    "google/embeddinggemma-300m": {
        "architectures": ["Gemma3TextModel"],
        "model_type": "gemma3_text",
        "hidden_size": 768,
        "intermediate_size": 1152,
        "num_hidden_layers": 24,
        "num_attention_heads": 3,
        "num_key_value_heads": 1,
        "head_dim": 256,
        "query_pre_attn_scalar": 256,
        "vocab_size": 262144,
        "max_position_embeddings": 2048,
        "sliding_window": 512,
        "use_bidirectional_attention": True,
        "torch_dtype": "float32",
    },
    "Qwen/Qwen3-0.6B": {
        "architectures": ["Qwen3ForCausalLM"],
        "model_type": "qwen3",
        "hidden_size": 1024,
        "intermediate_size": 3072,
        "num_hidden_layers": 28,
        "num_attention_heads": 16,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "vocab_size": 151936,
        "max_position_embeddings": 40960,
        "tie_word_embeddings": True,
        "torch_dtype": "bfloat16",
    },
    "facebook/opt-125m": {
        "architectures": ["OPTForCausalLM"],
        "model_type": "opt",
        "hidden_size": 128,
        "word_embed_proj_dim": 128,
        "ffn_dim": 256,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "vocab_size": 512,
        "max_position_embeddings": 2048,
        "do_layer_norm_before": True,
        "dropout": 0.0,
        "torch_dtype": "float16",
    },
}
LOADED = "facebook/opt-125m"


def snapshot(hub: Path, name: str) -> Path:
    """The folder of a model's files as the hub's cache has it."""
    model = hub / ("models--" + name.replace("/", "--"))
    (model / "refs").mkdir(parents=True, exist_ok=True)
    (model / "refs" / "main").write_text(REVISION, encoding="utf-8")
    folder = model / "snapshots" / REVISION
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def main(home: Path) -> None:
    for name, configuration in CONFIGURATIONS.items():
        folder = snapshot(home / "hub", name)
        (folder / "config.json").write_text(json.dumps(configuration, indent=1), encoding="utf-8")
    # transformers would load it, and there is no device here.
    sys.modules["torch_npu"] = None  # type: ignore[assignment]
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    folder = snapshot(home / "hub", LOADED)
    configuration = AutoConfig.from_pretrained(folder)
    model = AutoModelForCausalLM.from_config(configuration, dtype=torch.float16)
    weights = folder / "weights"
    model.save_pretrained(weights)
    for path in weights.glob("*.safetensors*"):
        path.replace(folder / path.name)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
