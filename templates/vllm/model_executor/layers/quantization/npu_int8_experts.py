# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright contributors to the vLLM project
"""Experts of int8 weights on an Ascend NPU."""

from __future__ import annotations

from typing import Any

import torch

from vllm.model_executor.layers.fused_moe.routed_experts import (
    FusedMoeWeightScaleSupported,
)
from vllm.model_executor.layers.fused_moe.unquantized_fused_moe_method import (
    UnquantizedFusedMoEMethod,
)
from vllm.model_executor.utils import set_weight_attrs


class NPUInt8ExpertsMethod(UnquantizedFusedMoEMethod):
    """Weights scaled by channel, activations by token while it runs.

    But for the products they are unquantized experts: these look at the weights.
    """

    has_offsets = False
    """Whether the checkpoint has offsets of the weights, which have to be 0."""

    def create_weights(
        self,
        layer: torch.nn.Module,
        num_experts: int,
        hidden_size: int,
        intermediate_size_per_partition: int,
        params_dtype: torch.dtype,
        **extra_weight_attrs,
    ) -> None:
        super().create_weights(
            layer,
            num_experts,
            hidden_size,
            intermediate_size_per_partition,
            torch.int8,
            **extra_weight_attrs,
        )
        if getattr(layer, "w13_bias", None) is not None:
            raise ValueError("NPU: int8 experts with a bias are not supported.")
        # What the product of the results' dtype takes.
        half = params_dtype is torch.bfloat16
        self.scale_dtype = torch.bfloat16 if half else torch.float32
        attributes = {
            **extra_weight_attrs,
            "quant_method": FusedMoeWeightScaleSupported.CHANNEL.value,
        }
        parts = ("scale", "offset") if self.has_offsets else ("scale",)
        for weight in ("w13_weight", "w2_weight"):
            outputs = getattr(layer, weight).shape[1]
            for part in parts:
                parameter = torch.nn.Parameter(
                    torch.zeros(num_experts, outputs, 1, dtype=torch.float32),
                    requires_grad=False,
                )
                layer.register_parameter(f"{weight}_{part}", parameter)
                set_weight_attrs(parameter, attributes)

    def process_weights_after_loading(self, layer: torch.nn.Module) -> None:
        for weight in ("w13_weight", "w2_weight"):
            if self.has_offsets:
                refuse_offset(layer, f"{weight}_offset")
            scale = getattr(layer, f"{weight}_scale").data
            scale = scale.squeeze(-1).to(self.scale_dtype)
            layer.register_parameter(
                f"{weight}_scale", torch.nn.Parameter(scale, requires_grad=False)
            )


def experts_method(
    quant_config: Any, moe: Any, weight_quant: Any, input_quant: Any
) -> NPUInt8ExpertsMethod:
    """The method of experts that compressed-tensors has quantized.

    Args:
        quant_config: of the model; it tells schemes apart.
        moe: configuration of the layer.
        weight_quant: how weights are quantized.
        input_quant: how activations are.

    Raises:
        ValueError: It is another scheme than the one that is computed here.

    """
    by_token = quant_config._is_dynamic_token_w8a8(weight_quant, input_quant)
    if not by_token or weight_quant.strategy != "channel":
        raise ValueError(
            "NPU: experts are supported in int8 with weights scaled by channel and "
            f"activations by token, not with {weight_quant} and {input_quant}."
        )
    return NPUInt8ExpertsMethod(moe)


def refuse_offset(layer: torch.nn.Module, name: str) -> None:
    """Drop a parameter with the offset of weights.

    Raises:
        ValueError: It is not 0.

    """
    if getattr(layer, name).data.any():
        raise ValueError("NPU: int8 weights with an offset are not supported.")
    delattr(layer, name)
