# SPDX-License-Identifier: Apache-2.0
"""What the rules about the model runner V2 share: how a tree has none."""

from __future__ import annotations

from migrator.codemod.rule import Absence, Site
from migrator.files.tree import Tree

_CAPTURE = "vllm/v1/worker/gpu/cudagraph_utils.py"
_OTHER_CAPTURES = ("capture_graph", "_capture_full_graph")
_WORKER = "vllm/v1/worker/gpu_worker.py"


def knows_one_runner(tree: Tree) -> bool:
    """Does the worker make a model runner, and know of no V2?"""
    names = tree.names(_WORKER)
    return "GPUModelRunner" in names and not any("v2" in name.lower() for name in names)


def _captures_otherwise(tree: Tree) -> bool:
    """Is V1 the only runner, or does V2 capture a step in another method?"""
    return knows_one_runner(tree) or any(
        tree.definition(_CAPTURE, f"CudaGraphManager.{name}") for name in _OTHER_CAPTURES
    )


CAPTURE_SITE = Site(
    "CudaGraphManager.capture",
    (_CAPTURE,),
    (Absence("<0.18", "there is no V2, or it captures in another method", _captures_otherwise),),
)
"""Where V2 captures graphs of whole steps."""
