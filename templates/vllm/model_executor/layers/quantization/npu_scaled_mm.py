# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright contributors to the vLLM project
"""The kernel of int8 linear layers that vLLM chooses on an Ascend NPU.

Only the module with the table of kernels imports this one.
"""

from __future__ import annotations

from typing import Any

import torch

# npu-migrate: when int8_kernels_have_a_table
from vllm.model_executor.kernels.linear.scaled_mm.ScaledMMLinearKernel import (
    Int8ScaledMMLinearKernel,
)

# npu-migrate: end
# npu-migrate: when int8_kernels_have_a_class
from vllm.model_executor.layers.quantization.kernels.scaled_mm import (
    Int8ScaledMMLinearKernel,
)

# npu-migrate: end
# npu-migrate: when scaled_products_are_int8
from vllm.model_executor.layers.quantization.kernels.scaled_mm import (
    ScaledMMLinearKernel as Int8ScaledMMLinearKernel,
)

# npu-migrate: end
from vllm.model_executor.layers.quantization.npu_int8 import (
    dynamic_linear,
    int8_weight,
    output_scale,
    static_linear,
)
from vllm.model_executor.layers.quantization.utils import replace_parameter
from vllm.model_executor.layers.quantization.utils.w8a8_utils import (
    convert_to_channelwise,
)
from vllm.platforms import current_platform


class NPUInt8ScaledMMLinearKernel(Int8ScaledMMLinearKernel):
    """Weights scaled by channel or by tensor, activations by token or by tensor.

    The scale of a token is found while it runs; that of a tensor is the
    checkpoint's, and so is its zero point.
    """

    # npu-migrate: when int8_kernels_have_a_capability
    @classmethod
    def get_min_capability(cls) -> int:
        # CUDA's; it is not asked for where the platform has none.
        return 0

    # npu-migrate: end
    @classmethod
    def is_supported(
        cls, compute_capability: int | None = None
    ) -> tuple[bool, str | None]:
        if current_platform.device_type != "npu":
            return False, "requires an Ascend NPU"
        return True, None

    @classmethod
    def can_implement(cls, c: Any) -> tuple[bool, str | None]:
        # Releases whose choice does not ask the other question ask this one.
        supported, reason = cls.is_supported()
        if not supported:
            return False, reason
        if not c.is_static_input_scheme and not c.input_symmetric:
            return False, "takes no zero points that are found while it runs"
        return True, None

    def process_weights_after_loading(self, layer: torch.nn.Module) -> None:
        weight, scale = layer.weight.data, layer.weight_scale.data
        if not self.config.is_channelwise:
            scale = convert_to_channelwise(scale, layer.logical_widths)
        scale = scale.flatten()
        if self.config.is_static_input_scheme:
            input_scale = layer.input_scale.data.reshape(1)
            if not self.config.input_symmetric:
                zero_point = layer.input_zero_point.data.reshape(1).to(torch.int32)
                # The sum over the inputs holds the zero point once for each of them.
                correction = -zero_point * weight.sum(dim=1, dtype=torch.int32)
                layer.azp_adj = torch.nn.Parameter(correction, requires_grad=False)
                replace_parameter(
                    layer,
                    "input_zero_point",
                    torch.nn.Parameter(zero_point, requires_grad=False),
                )
            scale = output_scale(scale * input_scale, layer.params_dtype)
            replace_parameter(
                layer,
                "input_scale",
                torch.nn.Parameter(input_scale, requires_grad=False),
            )
        for name, value in (("weight", int8_weight(weight)), ("weight_scale", scale)):
            # The parameter of the checkpoint's layout goes, and so does its loader.
            layer.register_parameter(
                name, torch.nn.Parameter(value, requires_grad=False)
            )

    def apply_weights(
        self,
        layer: torch.nn.Module,
        x: torch.Tensor,
        bias: torch.Tensor | None = None,
    ) -> torch.Tensor:
        if not self.config.is_static_input_scheme:
            return dynamic_linear(x, layer.weight, layer.weight_scale, bias)
        asymmetric = not self.config.input_symmetric
        return static_linear(
            x,
            layer.weight,
            layer.weight_scale,
            layer.input_scale,
            layer.input_zero_point if asymmetric else None,
            layer.azp_adj if asymmetric else None,
            bias,
        )
