# SPDX-License-Identifier: Apache-2.0
"""NPU213: vLLM finds the NPU platform."""

from __future__ import annotations

from collections.abc import Iterator

import libcst as cst

from migrator.codemod.matchers import walk
from migrator.codemod.rule import (
    File,
    Finding,
    Insert,
    Replace,
    Rule,
    Safety,
    Site,
    changed,
    manual,
    migrated,
)

_PLATFORMS = "vllm/platforms/__init__.py"
_TABLE = "builtin_platform_plugins"

PLUGIN = """\
def npu_platform_plugin() -> "str | None":
    logger.debug("Checking if NPU platform is available.")
    try:
        import torch
        import torch_npu  # noqa: F401

        if torch.npu.is_available():
            logger.debug("Confirmed NPU platform is available.")
            return "vllm.platforms.npu.NPUPlatform"
        logger.debug("NPU platform is not available because no NPU is found.")
    except Exception as e:
        logger.debug("NPU platform is not available because: %s", str(e))
    return None
"""


class PlatformPlugin(Rule):
    """Register the NPU platform among vLLM's own.

    ## What it does
    Adds `npu_platform_plugin`, which imports `torch_npu` and asks for a device, and its entry in
    `builtin_platform_plugins`.

    ## Why
    vLLM chooses its platform from this table. An NPU platform in the tree needs no package beside
    vLLM, and no entry point that could get lost in an installation.

    ## Example
    ```python
    builtin_platform_plugins = {
        "npu": npu_platform_plugin,
        "tpu": tpu_platform_plugin,
    }
    ```

    ## Safety
    Guarded: without `torch_npu`, or without a device, the plugin answers None like the others do.
    """

    code = "NPU213"
    safety = Safety.GUARDED
    paths = (_PLATFORMS,)
    triggers = (_TABLE,)
    sites = (Site(_TABLE, (_PLATFORMS,)),)

    def check(self, file: File) -> Iterator[Finding]:
        """Report the table of platforms."""
        statement = file.assignment(_TABLE)
        part = statement.body[0] if statement is not None else None
        if (
            statement is None
            or not isinstance(part, (cst.Assign, cst.AnnAssign))
            or not isinstance(part.value, cst.Dict)
        ):
            return
        table = part.value
        if any(
            isinstance(node, cst.Name) and node.value == "npu_platform_plugin"
            for node in walk(table)
        ):
            yield migrated(_TABLE, statement)
        elif not table.elements or not isinstance(table.elements[0], cst.DictElement):
            yield manual(_TABLE, statement, "the table has no entry to put another one beside")
        else:
            yield changed(
                _TABLE,
                statement,
                "vLLM knows no NPU platform",
                Insert(statement, PLUGIN, blank_lines=2),
                Replace(table, _with_entry),
            )


def _with_entry(node: cst.CSTNode) -> cst.CSTNode:
    assert isinstance(node, cst.Dict)
    between = node.lbrace.whitespace_after
    entry = cst.DictElement(
        cst.SimpleString('"npu"'),
        cst.Name("npu_platform_plugin"),
        comma=cst.Comma(whitespace_after=between),
    )
    return node.with_changes(elements=[entry, *node.elements])
