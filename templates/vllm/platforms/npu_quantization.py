# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright contributors to the vLLM project
"""Which quantized checkpoints an Ascend NPU takes.

A method such as compressed-tensors has many schemes. Those that are listed here
were compared, token by token, with a model that rounds as the checkpoint says; any
other is refused when an engine starts, by what it says of itself.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from vllm.platforms.npu_config import (
    PLAIN,
    SEVERAL_ENGINES,
    engine_options,
    not_compared,
)

if TYPE_CHECKING:
    from vllm.config import ModelConfig, VllmConfig

# npu-migrate: when int8_kernels_have_a_class
# No kernel of this release's table was compared.
METHODS = ()
# npu-migrate: end
# npu-migrate: when config_has_cudagraph_mode
# npu-migrate: otherwise
# No product of int8 was compared in this release.
METHODS = ()
# npu-migrate: end
# npu-migrate: when modes_capture_scaled_products
METHODS = ("compressed-tensors", "ascend")
# npu-migrate: end
# npu-migrate: when int8_kernels_have_a_table
METHODS = ("compressed-tensors", "ascend")
# npu-migrate: end
"""Quantization methods with a scheme for NPUs that was compared in this release."""

KNOWN_METHODS = ("compressed-tensors", "ascend")
"""Those that were compared in one release or another."""

QUANTIZED_TAKEN: dict[str, tuple[Any, ...]] = {
    **PLAIN,
    "parallel_config.enable_expert_parallel": (False, True),
    **SEVERAL_ENGINES,
}
"""Options beside which quantized weights were compared, with these values alone."""

NO_FLOAT8 = ("fp8", "mxfp", "nvfp4", "modelopt")
"""How the names of methods begin or go on that need numbers an NPU does not have."""

MODELSLIM_DESCRIPTION = "quant_model_description.json"
"""Lies beside weights that Ascend's ModelSlim has quantized; config.json is silent."""

MODELSLIM_KINDS = ("FLOAT", "W8A8", "W8A8_DYNAMIC")
"""What it may say of a weight."""

# What it may say beside that; of anything else only that it is not so.
_MODELSLIM_SETTINGS = ("group_size", "metadata", "model_quant_type", "version")

_ROUNDING = {
    "num_bits": (8,),
    "type": ("int",),
    "group_size": (None, -1),
    "block_structure": (None,),
    "actorder": (None,),
    "scale_dtype": (None,),
    "zp_dtype": (None, "torch.int8"),
}
_WEIGHTS: dict[str, tuple[Any, ...]] = {
    **_ROUNDING,
    "symmetric": (True,),
    "strategy": ("channel", "tensor"),
    "dynamic": (False, None),
}
_TOKEN: dict[str, tuple[Any, ...]] = {
    **_ROUNDING,
    "symmetric": (True,),
    "strategy": ("token",),
    "dynamic": (True,),
}
_TENSOR: dict[str, tuple[Any, ...]] = {
    **_ROUNDING,
    "symmetric": (True, False),
    "strategy": ("tensor",),
    "dynamic": (False, None),
}
# npu-migrate: when modes_capture_scaled_products
_ACTIVATIONS = (_TOKEN,)
# npu-migrate: otherwise
_ACTIVATIONS = (_TOKEN, _TENSOR)
# npu-migrate: end
# How the numbers were found, which the checkpoint holds.
_HISTORY = {"observer", "observer_kwargs"}

# Settings of compressed-tensors; what is not among them has to be empty.
_SETTINGS: dict[str, tuple[Any, ...] | None] = {
    "config_groups": None,
    "format": ("int-quantized",),
    "global_compression_ratio": None,
    "ignore": None,
    "quant_method": None,
    "quantization_status": ("compressed", "frozen"),
    # Written by vLLM itself when it has read the settings.
    "total_num_heads": None,
    "total_num_kv_heads": None,
    "version": None,
}
_GROUP = {"targets", "weights", "input_activations", "format"}


def method_refusal(method: str) -> str:
    """Why a method that is not in `METHODS` is refused, in one line."""
    why = "it has no kernels for NPUs here"
    if method in KNOWN_METHODS:
        why = "it was not compared in this release"
    if any(name in method for name in NO_FLOAT8):
        why = "Atlas A2 and A3 compute with no floats of 8 or 4 bits"
    others = f", or one quantized by {' or '.join(METHODS)}" if METHODS else ""
    return (
        f"NPU: {method} quantization is not supported, {why}. Use the model's "
        f"unquantized weights{others}."
    )


def is_modelslim(model_config: ModelConfig) -> bool:
    """Whether the weights are those of ModelSlim."""
    # It imports the client of Hugging Face's hub, which no platform needs.
    from vllm.transformers_utils.repo_utils import file_or_path_exists

    return file_or_path_exists(
        model_config.model, MODELSLIM_DESCRIPTION, model_config.revision
    )


def quantization_reasons(vllm_config: VllmConfig) -> Iterator[str]:
    """Why the quantization of a model is not taken."""
    model_config = vllm_config.model_config
    if model_config is None:
        return
    name = model_config.quantization
    if name not in METHODS:
        if name == "ascend":
            # vLLM has not asked `verify_quantization`: its config.json is silent.
            yield (
                f"{name} quantization was not compared in this release. Use the "
                "model's unquantized weights"
            )
        return
    settings: Mapping[str, Any] = {}
    by_tensor = False
    if name == "ascend":
        found = _modelslim(model_config)
    else:
        settings = _settings(model_config)
        by_tensor = _by_tensor(settings)
        found = _compressed_tensors(settings)
    for reason in dict.fromkeys(found):
        yield f"{name} quantization with {reason} is not supported"
    by_tensors = by_tensor or _weights_by_tensor(settings)
    if by_tensors and _has_experts(model_config):
        yield (
            f"experts of {name} quantization with weights or activations by tensor "
            "are not supported"
        )
    options = [
        *not_compared(vllm_config, QUANTIZED_TAKEN),
        *engine_options(vllm_config),
    ]
    if str(getattr(model_config, "dtype", None)) == "torch.float16":
        options.append("dtype=float16")
    if by_tensor and not model_config.enforce_eager:
        options.append("activations by tensor and graphs")
    # npu-migrate: when modes_capture_scaled_products
    # What later releases were compared with.
    if not model_config.enforce_eager and (
        name == "ascend" or _has_experts(model_config)
    ):
        options.append("graphs" if name == "ascend" else "experts and graphs")
    # npu-migrate: end
    for option in options:
        yield (
            f"{name} quantization was not compared with {option}. Change that, or "
            "use the model's unquantized weights"
        )


def _modelslim(model_config: ModelConfig) -> Iterator[str]:
    """What of ModelSlim's description is not taken."""
    # As in `is_modelslim`.
    from vllm.transformers_utils.repo_utils import get_hf_file_to_dict

    description = get_hf_file_to_dict(
        MODELSLIM_DESCRIPTION, model_config.model, model_config.revision
    )
    for name, value in (description or {}).items():
        if "." in name:
            if value not in MODELSLIM_KINDS:
                yield f"{value} weights"
        elif name not in _MODELSLIM_SETTINGS and value:
            yield f"{name} {value!r}"
    if not description:
        yield f"no {MODELSLIM_DESCRIPTION}"


def _settings(model_config: ModelConfig) -> Mapping[str, Any]:
    for config in (model_config.hf_config, model_config.hf_text_config):
        for name in ("quantization_config", "compression_config"):
            settings = getattr(config, name, None)
            if settings is not None:
                return settings if isinstance(settings, Mapping) else settings.to_dict()
    return {}


def _by_tensor(settings: Mapping[str, Any]) -> bool:
    """Whether some activations have a scale that is known before."""
    groups = (settings.get("config_groups") or {}).values()
    return any(
        not (group.get("input_activations") or {}).get("dynamic") for group in groups
    )


def _weights_by_tensor(settings: Mapping[str, Any]) -> bool:
    """Whether some weights have one scale for all channels."""
    groups = (settings.get("config_groups") or {}).values()
    return any(
        (group.get("weights") or {}).get("strategy") == "tensor" for group in groups
    )


def _has_experts(model_config: ModelConfig) -> bool:
    names = ("num_experts", "num_local_experts", "n_routed_experts")
    return any(getattr(model_config.hf_text_config, name, None) for name in names)


def _compressed_tensors(settings: Mapping[str, Any]) -> Iterator[str]:
    """What of the settings of compressed-tensors is not taken."""
    for name, value in settings.items():
        taken = _SETTINGS.get(name, ())
        if value and taken is not None and value not in taken:
            yield f"{name} {value!r}"
    ignored = settings.get("ignore") or []
    if not settings.get("config_groups"):
        yield "no config_groups in config.json"
    for group in (settings.get("config_groups") or {}).values():
        for name, value in group.items():
            if name not in _GROUP and value:
                yield f"{name} {value!r}"
        format_ = group.get("format")
        if format_ not in (None, "int-quantized"):
            yield f"format {format_!r}"
        weights, inputs = group.get("weights"), group.get("input_activations")
        if not weights or not inputs:
            yield "weights or activations alone"
            continue
        yield from _not_taken("weights", weights, _WEIGHTS)
        activations = _TOKEN if inputs.get("dynamic") else _TENSOR
        if activations not in _ACTIVATIONS:
            yield "activations by tensor, which were not compared in this release,"
            continue
        yield from _not_taken("activations", inputs, activations)
        if _names_head(group["targets"]) and not _names_head(ignored):
            yield "a quantized lm_head"


def _not_taken(
    what: str, rounding: Mapping[str, Any], taken: Mapping[str, tuple[Any, ...]]
) -> Iterator[str]:
    for name, value in rounding.items():
        if name in _HISTORY or (name not in taken and not value):
            continue
        if value not in taken.get(name, ()):
            yield f"{name} {value!r} of {what}"
    for name in ("num_bits", "type", "strategy"):
        if name not in rounding:
            yield f"no {name} of {what}"


def _names_head(targets: Iterable[str]) -> bool:
    """Whether targets, or what is left out of them, name the last linear layer."""
    return any(
        re.match(target[3:], "lm_head")
        if target.startswith("re:")
        else target in ("lm_head", "Linear")
        for target in targets
    )
