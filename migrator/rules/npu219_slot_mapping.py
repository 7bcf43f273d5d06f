# SPDX-License-Identifier: Apache-2.0
"""NPU219: where a batch's keys and values go in the cache."""

from __future__ import annotations

from collections.abc import Iterator

import libcst as cst

from migrator.codemod.matchers import bound_by, walk
from migrator.codemod.rule import (
    Absence,
    File,
    Finding,
    Rule,
    Safety,
    Site,
    manual,
    skipped,
)
from migrator.files.tree import Tree
from migrator.rules._platform_branch import platform_branch

_BLOCK_TABLE = "vllm/v1/worker/block_table.py"
_SITE = "BlockTable.compute_slot_mapping"
_TAKES = ("self", "num_reqs", "query_start_loc", "positions")
BODY = """\
from vllm.v1.worker.npu_kernels import compute_slot_mapping

compute_slot_mapping(self, num_reqs, query_start_loc, positions)
return
"""


_RUNNER = "vllm/v1/worker/gpu_model_runner.py"
_ON_HOST = ("self", "req_indices", "positions")
"""What the method takes where NumPy computes the slots."""


def _runner_computes(tree: Tree) -> bool:
    """Does the model runner write the slots into the block table's array by itself?"""
    return "slot_mapping_np" in tree.names(_RUNNER, "GPUModelRunner._prepare_inputs")


class SlotMapping(Rule):
    """Compute the slot mapping without Triton on NPUs.

    ## What it does
    Gives `BlockTable.compute_slot_mapping` a branch for the NPU before it launches its kernel: the
    function of the same name in `vllm/v1/worker/npu_kernels.py`, which the tool adds.

    ## Why
    From 0.19 on the slot mapping is an unconditional Triton kernel. vLLM's own hook for replacing
    kernels comes with 0.31 only; a branch in the method works in all of them.

    ## Example
    ```python
    if current_platform.device_type == "npu":
        from vllm.v1.worker.npu_kernels import compute_slot_mapping

        compute_slot_mapping(self, num_reqs, query_start_loc, positions)
        return
    ```

    ## Safety
    Guarded by the platform's device type.
    """

    code = "NPU219"
    safety = Safety.GUARDED
    paths = (_BLOCK_TABLE,)
    triggers = (r"compute_slot_mapping",)
    reads = (r"triton",)
    sites = (
        Site(
            _SITE,
            (_BLOCK_TABLE,),
            (Absence("<0.10", "the model runner computes it", _runner_computes),),
        ),
    )

    def check(self, file: File) -> Iterator[Finding]:
        """Report the method where it launches a Triton kernel."""
        function = file.function(_SITE)
        if function is None:
            return
        names = tuple(p.name.value for p in function.params.params)
        if names == _ON_HOST and not _uses_triton(file.kept):
            yield skipped(_SITE, function, "it is computed by NumPy on the host")
            return
        launch = next(
            (
                s
                for s in function.body.body
                if isinstance(s, cst.SimpleStatementLine)
                and isinstance(s.body[0], cst.Expr)
                and isinstance(s.body[0].value, cst.Call)
            ),
            None,
        )
        if names != _TAKES or launch is None:
            yield manual(_SITE, function, f"it takes {names} or launches its kernel in another way")
            return
        yield from platform_branch(
            file,
            _SITE,
            body=BODY,
            reason="it launches a Triton kernel whatever the platform",
            before=launch,
        )


def _uses_triton(module: cst.Module) -> bool:
    return any(
        "triton" in bound_by(node) for node in walk(module) if isinstance(node, cst.ImportFrom)
    )
