# SPDX-License-Identifier: Apache-2.0
"""NPU260: host memory that a device does not read by address."""

from __future__ import annotations

from collections.abc import Iterator

import libcst as cst

from migrator.codemod.matchers import Place, dotted, places
from migrator.codemod.recipes.branches import PlatformBranch
from migrator.codemod.rule import (
    Absence,
    File,
    Finding,
    Insert,
    Replace,
    Rule,
    Safety,
    Site,
    changed,
    migrated,
)
from migrator.files.tree import Tree
from migrator.rules._runner_v2 import knows_one_runner

_HOMES = ("vllm/utils/platform_utils.py", "vllm/utils/__init__.py")
_BUFFERS = "vllm/v1/worker/gpu/buffer_utils.py"
_OLDER_BUFFERS = "vllm/v1/worker/gpu/states.py"
_BLOCK_TABLES = "vllm/v1/worker/gpu/block_table.py"
_ASKED = "is_uva_available"
_COPIED = "NonUvaBuffer.__init__"
_PINNED = "is_pin_memory_available()"


def _copies_from_no_other_buffer(tree: Tree) -> bool:
    """Is V1 the only runner, or are V2's buffers V1's own, or all read by address?"""
    pool = tree.names(_BUFFERS, "UvaBufferPool.__init__")
    return (
        knows_one_runner(tree)
        or "CpuGpuBuffer" in tree.names(_BLOCK_TABLES)
        or ("UvaBuffer" in pool and _ASKED not in pool)
        or tree.definition(_OLDER_BUFFERS, "UvaBuffer") is not None
    )


class UnifiedAddressing(Rule):
    """Copy to an NPU what the model runner V2 lets other devices read from the host.

    ## What it does
    `is_uva_available` answers False on an NPU, and the buffers that are copied instead are pinned
    where that can be.

    ## Why
    vLLM takes pinned memory for unified addressing. An NPU has the first and not the second: its
    kernels do not read host memory, and making a view of it raises. What is not pinned is copied
    while the host waits.

    ## Example
    ```python
    self.cpu = torch.zeros(size, dtype=dtype, device="cpu", pin_memory=is_pin_memory_available())
    ```

    ## Safety
    Guarded by the platform's device type; the buffers that are copied are those of platforms
    without unified addressing, and stay as they are where memory cannot be pinned.
    """

    code = "NPU260"
    safety = Safety.GUARDED
    paths = (*_HOMES, _BUFFERS)
    triggers = (r"def is_uva_available\b", r"class NonUvaBuffer\b")
    sites = (
        Site(_ASKED, _HOMES),
        Site(
            _COPIED,
            (_BUFFERS,),
            (
                Absence(
                    "<0.30",
                    "V2, if any, has V1's buffers, or only those read by address",
                    _copies_from_no_other_buffer,
                ),
            ),
        ),
    )

    def check(self, file: File) -> Iterator[Finding]:
        """Report the question and the buffer."""
        yield from PlatformBranch(
            _ASKED,
            (file.path,),
            body="# Memory can be pinned, and is not read by address.\nreturn False\n",
            reason="an NPU does not read pinned memory by address",
        ).check(file)
        function = file.function(_COPIED)
        if function is not None:
            yield from _pin(file, function)


def _pin(file: File, function: cst.FunctionDef) -> Iterator[Finding]:
    """Report the buffer's host memory."""
    for place in places(function.body, cst.Call):
        call = place.node
        keywords = {a.keyword.value: a.value for a in call.args if a.keyword is not None}
        device = keywords.get("device")
        on_host = isinstance(device, cst.SimpleString) and device.evaluated_value == "cpu"
        if dotted(call.func) != "torch.zeros" or not on_host:
            continue
        if "pin_memory" in keywords:
            yield migrated(_COPIED, function)
            return
        yield _pinned(file, place)
        return


def _pinned(file: File, place: Place[cst.Call]) -> Finding:
    arguments = ", ".join(
        file.code(argument.with_changes(comma=cst.MaybeSentinel.DEFAULT)).strip()
        for argument in place.node.args
    )
    new = cst.parse_expression(f"torch.zeros(\n    {arguments}, pin_memory={_PINNED}\n)\n")
    code = "from vllm.utils.platform_utils import is_pin_memory_available\n"
    return changed(
        _COPIED,
        place.node,
        "memory that is not pinned is copied while the host waits",
        Insert(place.statement, code),
        Replace(place.node, lambda _: new),
    )
