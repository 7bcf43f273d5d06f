# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright contributors to the vLLM project
"""Checkpoints that Ascend's ModelSlim has quantized.

Beside the weights lies `quant_model_description.json`: the name of each tensor and
how it is quantized. What belongs to a linear layer is, by that:

* `FLOAT`: `weight`, as if nothing were quantized.
* `W8A8_DYNAMIC`: `weight` [outputs, inputs] int8, `weight_scale` and `weight_offset`
  [outputs, 1]. Each token is quantized by the greatest of its own values.
  Experts have the same, each layer of each for itself.
* `W8A8`: these, `input_scale` and `input_offset` [1] for all tokens, and what the
  product of the integers is turned back by: `deq_scale` [outputs], and `quant_bias`
  [outputs] int32, which holds the offset's part and the layer's bias.
"""

from __future__ import annotations

from typing import Any

import torch

from vllm.distributed.parallel_state import get_tensor_model_parallel_rank
from vllm.model_executor.layers.fused_moe.unquantized_fused_moe_method import (
    UnquantizedFusedMoEMethod,
)
from vllm.model_executor.layers.linear import (
    WEIGHT_LOADER_V2_SUPPORTED,
    LinearBase,
    LinearMethodBase,
    RowParallelLinear,
    UnquantizedLinearMethod,
)
from vllm.model_executor.layers.quantization import QuantizationMethods
from vllm.model_executor.layers.quantization.base_config import (
    QuantizationConfig,
    QuantizeMethodBase,
)
from vllm.model_executor.layers.quantization.npu_int8 import (
    dynamic_linear,
    int8_weight,
    output_scale,
    static_linear,
)
from vllm.model_executor.layers.quantization.npu_int8_experts import (
    NPUInt8ExpertsMethod,
    refuse_offset,
)
from vllm.model_executor.parameter import (
    ChannelQuantScaleParameter,
    ModelWeightParameter,
    PerTensorScaleParameter,
)
from vllm.platforms.npu_quantization import MODELSLIM_DESCRIPTION

FLOAT = "FLOAT"
STATIC = "W8A8"
DYNAMIC = "W8A8_DYNAMIC"

SAME_SCALE = 0.02
"""Relative difference of a `deq_scale` from the product that it is of."""


class AscendConfig(QuantizationConfig):
    """How ModelSlim has quantized each layer of a model.

    Args:
        description: how each tensor is quantized, by the names of the checkpoint.

    """

    def __init__(self, description: dict[str, Any]) -> None:
        super().__init__()
        self.description = description

    def get_name(self) -> QuantizationMethods:
        return "ascend"

    @classmethod
    def get_supported_act_dtypes(cls) -> list[torch.dtype]:
        return [torch.bfloat16, torch.float16, torch.float32]

    @classmethod
    def get_min_capability(cls) -> int:
        # CUDA's; it is not asked for where the platform has none.
        return 0

    @staticmethod
    def get_config_filenames() -> list[str]:
        return [MODELSLIM_DESCRIPTION]

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> AscendConfig:
        return cls(config)

    def apply_vllm_mapper(self, hf_to_vllm_mapper) -> None:
        self.description = hf_to_vllm_mapper.apply_dict(self.description)

    def get_quant_method(
        self, layer: torch.nn.Module, prefix: str
    ) -> QuantizeMethodBase | None:
        # Layers of experts have one, and no others.
        moe = getattr(layer, "moe_config", None)
        if moe is not None:
            if self.kind_of_experts(prefix) == FLOAT:
                return UnquantizedFusedMoEMethod(moe)
            return AscendExpertsMethod(moe)
        if not isinstance(layer, LinearBase):
            # Embeddings and attention are never quantized here.
            return None
        kind = self.kind_of(prefix)
        return UnquantizedLinearMethod() if kind == FLOAT else AscendLinearMethod(kind)

    def kind_of(self, prefix: str) -> str:
        """How a linear layer is quantized.

        Raises:
            ValueError: The file does not say it, or the parts of a layer that is
                computed at once differ.

        """
        parent, dot, name = prefix.rpartition(".")
        parts = self.packed_modules_mapping.get(name, [name])
        return self._common_kind([f"{parent}{dot}{part}.weight" for part in parts])

    def kind_of_experts(self, prefix: str) -> str:
        """How the experts of a layer are quantized.

        Raises:
            ValueError: The file does not say it, or they differ, or are of what no
                experts are.

        """
        start = f"{prefix.removesuffix('.routed_experts')}."
        names = [
            name
            for name in self.description
            if name.startswith(start) and name.endswith(".weight")
        ]
        kind = self._common_kind(names or [f"{start}weight"])
        if kind == STATIC:
            raise ValueError(f"NPU: experts of {STATIC} are not supported ({prefix}).")
        return kind

    def _common_kind(self, names: list[str]) -> str:
        kinds = {self.description.get(name) for name in names}
        if len(kinds) != 1:
            raise ValueError(
                f"NPU: {names[0]} to {names[-1]} are computed at once and quantized in "
                f"several ways: {', '.join(sorted(map(str, kinds)))}."
            )
        (kind,) = kinds
        if kind not in (FLOAT, STATIC, DYNAMIC):
            raise ValueError(
                f"NPU: {MODELSLIM_DESCRIPTION} says {kind} of {names[0]}, which is not "
                "supported."
            )
        return kind


class AscendLinearMethod(LinearMethodBase):
    """A linear layer of int8 weights and activations.

    Args:
        kind: STATIC or DYNAMIC.

    """

    def __init__(self, kind: str) -> None:
        self.static = kind == STATIC

    def create_weights(
        self,
        layer: torch.nn.Module,
        input_size_per_partition: int,
        output_partition_sizes: list[int],
        input_size: int,
        output_size: int,
        params_dtype: torch.dtype,
        **extra_weight_attrs,
    ) -> None:
        loader = extra_weight_attrs.get("weight_loader")
        outputs = sum(output_partition_sizes)
        layer.register_parameter(
            "weight",
            ModelWeightParameter(
                data=torch.empty(outputs, input_size_per_partition, dtype=torch.int8),
                input_dim=1,
                output_dim=0,
                weight_loader=loader,
            ),
        )
        channels: dict[str, tuple[tuple[int, ...], torch.dtype]] = {
            "weight_scale": ((outputs, 1), torch.float32),
            "weight_offset": ((outputs, 1), torch.float32),
        }
        if self.static:
            packed = params_dtype is torch.float16
            channels["quant_bias"] = (outputs,), torch.int32
            channels["deq_scale"] = (outputs,), torch.int64 if packed else torch.float32
            parts = len(output_partition_sizes)
            for name, dtype in (
                ("input_scale", torch.float32),
                ("input_offset", torch.int8),
            ):
                parameter = PerTensorScaleParameter(
                    data=torch.zeros(parts, dtype=dtype), weight_loader=loader
                )
                layer.register_parameter(name, parameter)
        for name, (shape, dtype) in channels.items():
            parameter = ChannelQuantScaleParameter(
                data=torch.zeros(shape, dtype=dtype), output_dim=0, weight_loader=loader
            )
            layer.register_parameter(name, parameter)

    def process_weights_after_loading(self, layer: torch.nn.Module) -> None:
        refuse_offset(layer, "weight_offset")
        scale = layer.weight_scale.data.flatten()
        values = {"weight": int8_weight(layer.weight.data), "weight_scale": scale}
        if self.static:
            input_scale = _only_one(layer.input_scale.data)
            deq_scale = _unpacked(layer.deq_scale.data)
            wanted = scale * input_scale
            if ((deq_scale - wanted).abs() > SAME_SCALE * wanted).any():
                raise ValueError(
                    "NPU: the deq_scale of a layer is not the product of its "
                    "input_scale and weight_scale. ModelSlim packs it for one dtype: "
                    f"load the model in that, not in {layer.params_dtype}."
                )
            values["input_scale"] = input_scale
            values["input_offset"] = _only_one(layer.input_offset.data).to(torch.int32)
            values["deq_scale"] = output_scale(deq_scale, layer.params_dtype)
            if isinstance(layer, RowParallelLinear) and _rank(layer) > 0:
                # It is of the whole layer, whose parts are added up.
                values["quant_bias"] = torch.zeros_like(layer.quant_bias.data)
        for name, value in values.items():
            # The parameter of the checkpoint's layout goes, and so does its loader.
            layer.register_parameter(
                name, torch.nn.Parameter(value, requires_grad=False)
            )

    def apply(
        self,
        layer: torch.nn.Module,
        x: torch.Tensor,
        bias: torch.Tensor | None = None,
    ) -> torch.Tensor:
        if not self.static:
            return dynamic_linear(x, layer.weight, layer.weight_scale, bias)
        # The layer's bias is part of `quant_bias`.
        return static_linear(
            x,
            layer.weight,
            layer.deq_scale,
            layer.input_scale,
            layer.input_offset,
            layer.quant_bias,
        )


class AscendExpertsMethod(NPUInt8ExpertsMethod):
    """Experts of W8A8_DYNAMIC."""

    has_offsets = True


# Of the two ways to load a layer's parameters, this is the one that asks them.
WEIGHT_LOADER_V2_SUPPORTED.append(AscendLinearMethod.__name__)


def _rank(layer: torch.nn.Module) -> int:
    rank = getattr(layer, "tp_rank", None)
    return get_tensor_model_parallel_rank() if rank is None else rank


def _only_one(values: torch.Tensor) -> torch.Tensor:
    """[1], what all parts of a layer have.

    Raises:
        ValueError: They differ.

    """
    if (values != values[:1]).any():
        raise ValueError(
            "NPU: layers that are computed at once have several scales or offsets of "
            f"their input: {values.tolist()}."
        )
    return values[:1].clone()


def _unpacked(scale: torch.Tensor) -> torch.Tensor:
    """A `deq_scale` as float32; the checkpoint has its bits in int64 for float16."""
    if scale.dtype is not torch.int64:
        return scale
    bits = scale.cpu().to(torch.int32)
    return bits.view(torch.float32).to(scale.device)
