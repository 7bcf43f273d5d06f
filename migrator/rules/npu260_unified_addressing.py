# SPDX-License-Identifier: Apache-2.0
"""NPU260: host memory that a device does not read by address."""

from __future__ import annotations

from migrator.codemod.recipes.branches import PlatformBranch
from migrator.codemod.rule import Absence, Rule
from migrator.files.tree import Tree
from migrator.rules._runner_v2 import knows_one_runner

_HOMES = ("vllm/utils/platform_utils.py", "vllm/utils/__init__.py")
_BUFFERS = "vllm/v1/worker/gpu/buffer_utils.py"
_OLDER_BUFFERS = "vllm/v1/worker/gpu/states.py"
_BLOCK_TABLES = "vllm/v1/worker/gpu/block_table.py"
_COPY = """\
# It is filled again while its copy is queued. The copy is of a pinned one, which is
# not given away before it has been read.
return self._uva[:n].copy_(self.cpu[:n].pin_memory(), non_blocking=True)
"""


def _copies_from_no_other_buffer(tree: Tree) -> bool:
    """Is V1 the only runner, or are V2's buffers V1's own, or all read by address?"""
    pool = tree.names(_BUFFERS, "UvaBufferPool.__init__")
    return (
        knows_one_runner(tree)
        or "CpuGpuBuffer" in tree.names(_BLOCK_TABLES)
        or ("UvaBuffer" in pool and "is_uva_available" not in pool)
        or tree.definition(_OLDER_BUFFERS, "UvaBuffer") is not None
    )


class UnifiedAddressing(Rule):
    """Copy to an NPU what the model runner V2 lets other devices read from the host.

    ## What it does
    `is_uva_available` answers False on an NPU, and the buffers that are copied instead are copied
    out of pinned memory that nobody else fills.

    ## Why
    vLLM takes pinned memory for unified addressing. An NPU has the first and not the second: its
    kernels do not read host memory, and making a view of it raises. For what is not pinned the
    host waits with each copy; and if the buffers themselves were pinned, a copy that the device has
    yet to make would take what the host fills in next: vLLM takes turns with two of them, and knows
    of no copy.

    ## Example
    ```python
    return self._uva[:n].copy_(self.cpu[:n].pin_memory(), non_blocking=True)
    ```

    ## Safety
    Guarded by the platform's device type.
    """

    code = "NPU260"
    recipes = (
        PlatformBranch(
            "is_uva_available",
            _HOMES,
            body="# Memory can be pinned, and is not read by address.\nreturn False\n",
            reason="an NPU does not read pinned memory by address",
        ),
        PlatformBranch(
            "NonUvaBuffer.uva",
            (_BUFFERS,),
            body=_COPY,
            reason="the host waits for a copy of memory that is not pinned",
            absent=(
                Absence(
                    "<0.30",
                    "V2, if any, has V1's buffers, or only those read by address",
                    _copies_from_no_other_buffer,
                ),
            ),
        ),
    )
