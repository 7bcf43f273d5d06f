# SPDX-License-Identifier: Apache-2.0
"""NPU219: where a batch's keys and values go in the cache."""

from __future__ import annotations

import libcst as cst

from migrator.codemod.matchers import bound_by, is_call_statement, walk
from migrator.codemod.recipes.branches import PlatformBranch
from migrator.codemod.rule import Absence, File, Finding, Rule, manual, skipped
from migrator.files.tree import Tree

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


def _launch(function: cst.FunctionDef) -> cst.CSTNode | None:
    """The statement that launches the kernel: the first call that stands for itself."""
    return next(filter(is_call_statement, function.body.body), None)


def _launches_nothing(site: str, function: cst.FunctionDef, file: File) -> Finding | None:
    names = tuple(p.name.value for p in function.params.params)
    if names == _ON_HOST and not _uses_triton(file.kept):
        return skipped(site, function, "it is computed by NumPy on the host")
    if names != _TAKES or _launch(function) is None:
        why = f"it takes {names} or launches its kernel in another way"
        return manual(site, function, why)
    return None


def _uses_triton(module: cst.Module) -> bool:
    return any(
        "triton" in bound_by(node) for node in walk(module) if isinstance(node, cst.ImportFrom)
    )


class SlotMapping(Rule):
    """Compute the slot mapping without Triton on NPUs.

    ## What it does
    Gives `BlockTable.compute_slot_mapping` a branch for the NPU before it launches its kernel: the
    function of the same name in `vllm/v1/worker/npu_kernels.py`, which the tool adds.

    ## Why
    From 0.19 on the slot mapping is an unconditional Triton kernel. vLLM's own hook for replacing
    kernels comes with 0.31 only; a branch in the method works in all of them.
    """

    code = "NPU219"
    reads = (r"triton",)
    recipes = (
        PlatformBranch(
            "BlockTable.compute_slot_mapping",
            ("vllm/v1/worker/block_table.py",),
            body=BODY,
            at=_launch,
            unless=_launches_nothing,
            reason="it launches a Triton kernel whatever the platform",
            absent=(Absence("<0.10", "the model runner computes it", _runner_computes),),
        ),
    )
