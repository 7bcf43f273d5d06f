# SPDX-License-Identifier: Apache-2.0
"""Tiny random models for `cuda_path.py`: `models.py DIRECTORY`, with torch and transformers."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
    PreTrainedTokenizerFast,
    Qwen3Config,
    Qwen3ForCausalLM,
)

COMMON = {
    "vocab_size": 1024,
    "hidden_size": 512,
    "max_position_embeddings": 4096,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": 2,
    "tie_word_embeddings": False,
    "initializer_range": 0.05,
}
TEXT = '{"name": "value", "n": 12345, "list": [true, false, null]} the quick brown fox jumps'


def tokenizer() -> PreTrainedTokenizerFast:
    """Bytes and a few merges: enough for a JSON schema."""
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<s>", "</s>", "<pad>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    made.train_from_iterator([TEXT] * 20, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=made, bos_token="<s>", eos_token="</s>", pad_token="<pad>"
    )


def main(root: Path) -> None:
    shapes = {
        "llama": LlamaForCausalLM(
            LlamaConfig(
                intermediate_size=1408,
                num_hidden_layers=4,
                num_attention_heads=8,
                num_key_value_heads=4,
                head_dim=64,
                **COMMON,
            )
        ),
        "qwen3": Qwen3ForCausalLM(
            Qwen3Config(
                intermediate_size=1408,
                num_hidden_layers=4,
                num_attention_heads=4,
                num_key_value_heads=2,
                head_dim=128,
                **COMMON,
            )
        ),
        "mixtral": MixtralForCausalLM(
            MixtralConfig(
                intermediate_size=1024,
                num_hidden_layers=3,
                num_attention_heads=8,
                num_key_value_heads=4,
                head_dim=64,
                num_local_experts=8,
                num_experts_per_tok=2,
                sliding_window=None,
                **COMMON,
            )
        ),
    }
    for name, model in shapes.items():
        model.to(torch.bfloat16).save_pretrained(root / name)
        tokenizer().save_pretrained(root / name)


if __name__ == "__main__":
    torch.manual_seed(1234)
    main(Path(sys.argv[1]))
