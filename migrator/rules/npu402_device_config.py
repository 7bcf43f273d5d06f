# SPDX-License-Identifier: Apache-2.0
"""NPU402: `npu` as a device of the configuration."""

from __future__ import annotations

import libcst as cst

from migrator.codemod.matchers import Place, dotted, holds_string
from migrator.codemod.recipes.rewrites import Rewrite, with_elements
from migrator.codemod.rule import Rule


def _is_literal(place: Place[cst.CSTNode]) -> bool:
    """Is it `Literal[...]`, by whatever import?"""
    node = place.node
    name = dotted(node.value) if isinstance(node, cst.Subscript) else None
    return (name or "").rpartition(".")[2] == "Literal"


class DeviceConfigLiteral(Rule):
    """Accept `npu` wherever vLLM's configuration takes the name of a device.

    ## What it does
    Adds `"npu"` to the literal type `Device`, from which the checks of `DeviceConfig` and the
    choices of `--device` are made.

    ## Why
    The device is found by the platform as a rule, but a configuration that names it outright, or
    one that is read back from a file, is refused otherwise.

    ## Example
    ```python
    Device = Literal["auto", "cuda", "cpu", "tpu", "xpu", "npu"]
    ```

    ## Safety
    Equivalent for every other name.
    """

    code = "NPU402"
    triggers = (r"^Device = Literal\[",)
    recipes = (
        Rewrite(
            "Device",
            ("vllm/config/device.py", "vllm/config/__init__.py", "vllm/config.py"),
            kinds=cst.Subscript,
            old=_is_literal,
            new=lambda node: with_elements(node, '"npu"'),
            done=lambda place: holds_string(place.node, "npu"),
            reason="the configuration refuses the device npu",
        ),
    )
