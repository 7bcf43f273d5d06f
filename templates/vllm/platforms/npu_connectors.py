# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright contributors to the vLLM project
"""Which KV connectors an Ascend NPU serves, and beside which options.

A connector moves blocks of the KV cache by what it knows of their shape. One that
is listed here was run: what it loaded gave the tokens that computing gives. Any
other would at best end a request, and is refused when an engine starts.
"""

from __future__ import annotations

from typing import Any, NamedTuple

KERNEL_BLOCK_SIZE = 128
"""Tokens of a block of attention: connectors do not know of larger ones of the cache
that are several of these."""

Options = dict[str, tuple[Any, ...]]
"""Paths of options and the values that they may have."""


class Connector(NamedTuple):
    """What a connector was run with."""

    options: Options
    extra: tuple[str, ...]
    """Keys of its own configuration."""
    runner_v2: bool
    """Whether it was run with model runner V2."""


_ALIKE: Options = {
    "kv_events_config": (None,),
    "kv_transfer_config.enable_permute_local_kv": (False,),
    "kv_transfer_config.kv_connector_module_path": (None,),
    "model_config.enable_prompt_embeds": (False,),
    "model_config.enforce_eager": (True,),
    "model_config.hf_text_config.attention_chunk_size": (None,),
    "model_config.hf_text_config.num_kv_shared_layers": (None, 0),
    "model_config.hf_text_config.sliding_window": (None,),
    "model_config.quantization": (None,),
    "model_config.use_mla": (False,),
    "parallel_config.tensor_parallel_size": (1,),
}

_FILES = Connector(
    {
        **_ALIKE,
        # It saves a prompt in the first step that has some of it, and names what it
        # saves by the tokens alone.
        "cache_config.enable_prefix_caching": (False,),
        "scheduler_config.chunked_prefill_enabled": (False,),
        "scheduler_config.enable_chunked_prefill": (False,),
        "scheduler_config.long_prefill_token_threshold": (0,),
    },
    ("shared_storage_path",),
    runner_v2=True,
)

CONNECTORS: dict[str, Connector] = {}
# npu-migrate: when platform_registers_kernels
CONNECTORS["ExampleConnector"] = _FILES
CONNECTORS["OffloadingConnector"] = Connector(
    {
        **_ALIKE,
        # Blocks are told by the hashes of prefix caching.
        "cache_config.enable_prefix_caching": (True,),
    },
    ("cpu_bytes_to_use",),
    runner_v2=True,
)
# npu-migrate: end
"""Name of a connector → what it was run with, beside what latent attention and
quantized weights were run with."""
