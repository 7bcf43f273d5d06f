# SPDX-License-Identifier: Apache-2.0
"""NPU233: LoRA adapters of experts."""

from __future__ import annotations

from migrator.codemod.recipes.branches import PlatformBranch
from migrator.codemod.rule import Absence, Rule
from migrator.files.tree import Tree

BODY = """\
raise ValueError(
    "NPU: LoRA adapters of a mixture's experts are not supported. Leave "
    "--enable-lora out, or name other layers by --lora-target-modules if "
    "this release has it."
)
"""

_LAYERS = ("vllm/lora/layers/__init__.py", "vllm/lora/layers.py")


def _no_experts(tree: Tree) -> bool:
    """Are there layers that take LoRA adapters, and none of experts among them?"""
    found = frozenset[str]().union(*map(tree.names, _LAYERS))
    return "RowParallelLinearWithLoRA" in found and not any("MoE" in name for name in found)


class ExpertsWithLora(Rule):
    """Refuse LoRA on the experts of a mixture when the model is loaded.

    ## What it does
    Lets `FusedMoEWithLoRA.__init__` raise on an NPU, with the way out in its message.

    ## Why
    The class puts its products into the Triton kernels of the experts. On NPUs there are none, and
    what came of it was an assertion about kernels, or an attribute of None.

    ## Safety
    Guarded by the platform.
    """

    code = "NPU233"
    recipes = (
        PlatformBranch(
            "FusedMoEWithLoRA.__init__",
            ("vllm/lora/layers/fused_moe.py",),
            body=BODY,
            reason="an NPU has no kernel that takes adapters of experts",
            absent=(Absence("<0.11.1", "layers of experts take no LoRA adapters", _no_experts),),
        ),
    )
