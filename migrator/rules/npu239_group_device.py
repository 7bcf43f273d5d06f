# SPDX-License-Identifier: Apache-2.0
"""NPU239: the device of a group of ranks."""

from __future__ import annotations

from collections.abc import Iterator

import libcst as cst

from migrator.codemod.matchers import dotted, walk
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
    skipped,
)

_STATE = "vllm/distributed/parallel_state.py"
_SITE = "GroupCoordinator.__init__"
_STATELESS = "StatelessGroupCoordinator.__init__"
_CUDA = "current_platform.is_cuda_alike"
_OTHERS = "current_platform.is_out_of_tree"
_MAPPED = "logical_device_id_to_visible_device_id"


class GroupDevice(Rule):
    """Let a group of ranks work on the NPU that its worker has.

    ## What it does
    In `GroupCoordinator.__init__`, and where a release has groups without a state of
    `torch.distributed` in theirs too, takes the device of a platform outside of vLLM's tree from
    the worker's place among the devices that were assigned to the engine, as CUDA's is.

    ## Why
    An engine may be told which devices are its own, as each data-parallel one over Ray is. Its
    worker then opens the first of them, while its groups would take the first of the machine: two
    engines in one communicator of HCCL on one NPU, which refuses that.

    ## Example
    ```python
    elif current_platform.is_out_of_tree():
        visible_device_index = (
            current_platform.logical_device_id_to_visible_device_id(self.device_index)
        )
        self.device = torch.device(
            f"{current_platform.device_name}:{visible_device_index}"
        )
    ```

    ## Safety
    Other platforms outside of vLLM's tree take the same way, which is the same device for them
    unless devices were assigned; then it is the one that their workers were assigned, too.
    """

    code = "NPU239"
    safety = Safety.BEHAVIOUR
    paths = (_STATE, "vllm/distributed/stateless_coordinator.py")
    triggers = (r"is_out_of_tree\b",)
    sites = (Site(_SITE, (_STATE,)),)

    def check(self, file: File) -> Iterator[Finding]:
        """Report the branch of platforms outside of vLLM's tree."""
        site = _SITE if file.path == _STATE else _STATELESS
        function = file.function(site)
        if function is None:
            return
        cuda, others = (_branch(function, name) for name in (_CUDA, _OTHERS))
        if cuda is None or others is None:
            return
        place = _mapping(cuda)
        if _mapping(others) is not None:
            yield migrated(site, others)
        elif place is None:
            yield skipped(site, others, "the groups of CUDA take the rank's own place, too")
        else:
            yield _take(file, site, others, *place)


def _branch(function: cst.FunctionDef, asked: str) -> cst.If | None:
    """The branch of a function that is taken where the platform says yes to a question."""
    for node in walk(function.body):
        if (
            isinstance(node, cst.If)
            and isinstance(node.test, cst.Call)
            and dotted(node.test.func) == asked
        ):
            return node
    return None


def _mapping(branch: cst.If) -> tuple[cst.SimpleStatementLine, cst.Call] | None:
    """What of a branch looks for a place among the devices seen: the statement and its call."""
    for statement in branch.body.body:
        if isinstance(statement, cst.SimpleStatementLine):
            for node in walk(statement):
                if isinstance(node, cst.Call) and (dotted(node.func) or "").endswith(f".{_MAPPED}"):
                    return statement, node
    return None


def _take(
    file: File, site: str, branch: cst.If, place: cst.SimpleStatementLine, call: cst.Call
) -> Finding:
    """The finding that gives a branch the place that CUDA's looks for."""
    assign = place.body[0]
    named = assign.targets[0].target if isinstance(assign, cst.Assign) else None
    rank = dotted(call.args[0].value) if len(call.args) == 1 else None
    parts = [
        node
        for statement in branch.body.body
        for node in walk(statement)
        if isinstance(node, cst.FormattedStringExpression) and dotted(node.expression) == rank
    ]
    if not isinstance(named, cst.Name) or rank is None or len(parts) != 1:
        return manual(site, branch, "how it names the device is not known")
    name = cst.Name(named.value)
    return changed(
        site,
        branch,
        "the worker's device is one of those assigned, the group's would be the rank's own",
        Insert(branch.body.body[0], file.code(place).strip() + "\n"),
        Replace(parts[0].expression, lambda _: name),
    )
