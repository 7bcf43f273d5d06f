# SPDX-License-Identifier: Apache-2.0
"""Where a string is the backend of a process group, and what goes with it."""

from __future__ import annotations

import libcst as cst

from migrator.codemod.matchers import Place, dotted, walk
from migrator.codemod.recipes.platforms import names_cuda_device

_GROUP_MAKERS = frozenset(
    {
        "init_distributed_environment",
        "init_process_group",
        "init_worker_distributed_environment",
        "new_group",
        "stateless_init_torch_distributed_process_group",
    }
)
"""What makes process groups, by the last part of its name."""


def bound_devices(place: Place[cst.SimpleString]) -> list[cst.FormattedString]:
    """The texts `f"cuda:{index}"` of the devices that a group by device type is bound to."""
    if place.function is None:
        return []
    return [
        argument.value
        for call in walk(place.function.body)
        if isinstance(call, cst.Call) and dotted(call.func) == "torch.device"
        for argument in call.args[:1]
        if isinstance(argument.value, cst.FormattedString) and names_cuda_device(argument.value)
    ]


def is_nccl(node: cst.CSTNode) -> bool:
    if not isinstance(node, cst.SimpleString) or "nccl" not in node.value:
        return False
    return node.evaluated_value == "nccl"


def is_group_argument(place: Place[cst.SimpleString]) -> bool:
    """Is it the backend of a call that makes a process group?"""
    argument = place.parent
    call = place.ancestors[-2] if len(place.ancestors) > 1 else None
    if not isinstance(argument, cst.Arg) or not isinstance(call, cst.Call):
        return False
    called = (dotted(call.func) or "").rpartition(".")[2]
    if called not in _GROUP_MAKERS:
        return False
    if argument.keyword is not None:
        return argument.keyword.value == "backend"
    return called == "init_process_group" and call.args[0] is argument


def is_fallback(place: Place[cst.SimpleString]) -> bool:
    """Is it the right side of `backend or "nccl"`?"""
    parent = place.parent
    return (
        isinstance(parent, cst.BooleanOperation)
        and isinstance(parent.operator, cst.Or)
        and parent.right is place.node
        and (dotted(parent.left) or "").rpartition(".")[2] == "backend"
    )
