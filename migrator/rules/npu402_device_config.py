# SPDX-License-Identifier: Apache-2.0
"""NPU402: `npu` as a device of the configuration."""

from __future__ import annotations

from collections.abc import Iterator

import libcst as cst

from migrator.codemod.matchers import dotted
from migrator.codemod.rule import (
    File,
    Finding,
    Replace,
    Rule,
    Safety,
    Site,
    changed,
    migrated,
)

_HOMES = ("vllm/config/device.py", "vllm/config/__init__.py", "vllm/config.py")


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
    safety = Safety.EQUIVALENT
    paths = _HOMES
    triggers = (r"^Device = Literal\[",)
    sites = (Site("Device", _HOMES),)

    def check(self, file: File) -> Iterator[Finding]:
        """Report the assignment of the literal type."""
        statement = file.assignment("Device")
        part = statement.body[0] if statement is not None else None
        if (
            statement is None
            or not isinstance(part, cst.Assign)
            or not isinstance(part.value, cst.Subscript)
            or (dotted(part.value.value) or "").rpartition(".")[2] != "Literal"
        ):
            return
        if '"npu"' in file.code(part.value).replace("'", '"'):
            yield migrated("Device", statement)
        else:
            yield changed(
                "Device",
                statement,
                "the configuration refuses the device npu",
                Replace(part.value, _with_npu),
            )


def _with_npu(node: cst.CSTNode) -> cst.CSTNode:
    assert isinstance(node, cst.Subscript)
    *rest, last = node.slice
    separator = rest[-1].comma if rest else cst.Comma(cst.SimpleWhitespace(""))
    item = cst.SubscriptElement(cst.Index(cst.SimpleString('"npu"')), comma=last.comma)
    return node.with_changes(slice=[*rest, last.with_changes(comma=separator), item])
