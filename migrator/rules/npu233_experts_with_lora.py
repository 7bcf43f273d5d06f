# SPDX-License-Identifier: Apache-2.0
"""NPU233: LoRA adapters of experts."""

from __future__ import annotations

from collections.abc import Iterator

from migrator.codemod.rule import Absence, File, Finding, Rule, Safety, Site
from migrator.files.tree import Tree
from migrator.rules._platform_branch import platform_branch

_PATH = "vllm/lora/layers/fused_moe.py"
_SITE = "FusedMoEWithLoRA.__init__"

BRANCH = """\
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

    ## Example
    ```python
    if current_platform.device_type == "npu":
        raise ValueError("NPU: LoRA adapters of a mixture's experts are not supported. ...")
    ```

    ## Safety
    Guarded by the platform.
    """

    code = "NPU233"
    safety = Safety.GUARDED
    paths = (_PATH,)
    triggers = (r"class FusedMoEWithLoRA\b",)
    sites = (
        Site(
            _SITE,
            (_PATH,),
            (Absence("<0.11.1", "layers of experts take no LoRA adapters", _no_experts),),
        ),
    )

    def check(self, file: File) -> Iterator[Finding]:
        """Report the constructor of the layer."""
        yield from platform_branch(
            file,
            _SITE,
            body=BRANCH,
            reason="an NPU has no kernel that takes adapters of experts",
        )
