# SPDX-License-Identifier: Apache-2.0
"""NPU125: the rotary embedding layer on NPU."""

from __future__ import annotations

from migrator.codemod.recipes.forward_oot import ForwardOot
from migrator.codemod.rule import Rule

BODY = """\
# forward_cuda reaches _custom_ops.rotary_embedding, which has a branch for
# NPU tensors. A subclass that rotates in another way keeps its native path.
if (
    positions.device.type != "npu"
    or type(self).forward_cuda is not RotaryEmbedding.forward_cuda
    or type(self).forward_native is not RotaryEmbedding.forward_native
):
    return self.forward_native(positions, *args, **kwargs)

# Heads of a split projection would be copied out, rotated, copied back, and out
# again by attention. A copy that is rotated in place serves attention as well.
def contiguous(value):
    return value.contiguous() if isinstance(value, torch.Tensor) else value

args = tuple(contiguous(value) for value in args)
kwargs = {name: contiguous(value) for name, value in kwargs.items()}
return self.forward_cuda(positions, *args, **kwargs)
"""


class RotaryEmbeddingForwardOot(Rule):
    """Send `RotaryEmbedding` through `_custom_ops.rotary_embedding` on an NPU.

    ## What it does
    Gives `RotaryEmbedding` a `forward_oot` that calls `forward_cuda` for an NPU tensor, where rule
    NPU101's branch takes over, with query and key contiguous: four copies a layer less, for what
    comes back is what attention takes. A subclass with a `forward_cuda` of its own (multimodal,
    vision and long-context rotations), or with a `forward_native` of its own and none (Fourier),
    stays on its native path.

    ## Why
    `CustomOp` sends an out-of-tree platform to `forward_oot`, which defaults to the native path, so
    NPU101's branch alone is never reached. Subclasses take other arguments, which is why the method
    hands on whatever it gets.
    """

    code = "NPU125"
    recipes = (
        ForwardOot(
            "RotaryEmbedding",
            (
                "vllm/model_executor/layers/rotary_embedding/base.py",
                "vllm/model_executor/layers/rotary_embedding.py",
            ),
            takes=("self", "positions", "query", "key"),
            body=BODY,
            signature="def forward_oot(self, positions: torch.Tensor, *args, **kwargs):",
            reason="RotaryEmbedding falls to the native path on an out-of-tree platform and never "
            "reaches _custom_ops.rotary_embedding, which rule NPU101 gives an NPU branch",
        ),
    )
