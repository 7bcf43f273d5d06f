# SPDX-License-Identifier: Apache-2.0
"""NPU217: graph capture with an NPU's communicator."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import libcst as cst

from migrator.codemod.matchers import dotted, mentions, places
from migrator.codemod.recipes.rewrites import with_elements
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

_STATE = "vllm/distributed/parallel_state.py"
_SITE = "GroupCoordinator.graph_capture"
_NAME = "NPUCommunicator"
_MODULE = "vllm.distributed.device_communicators.npu_communicator"
_IMPORT = f"from {_MODULE} import {_NAME}\n"


class GraphCaptureCommunicator(Rule):
    """Let a process group of NPUs take part in graph capture.

    ## What it does
    In `GroupCoordinator.graph_capture`, adds `NPUCommunicator` to the communicators that the
    assertion accepts.

    ## Why
    The assertion is there for `ca_comm`, the custom all-reduce of CUDA; the NPU's communicator says
    that it has none. Without this, tensor parallelism and graphs exclude each other.

    ## Example
    ```python
    assert isinstance(self.device_communicator, (CudaCommunicator, NPUCommunicator))
    ```

    ## Safety
    Equivalent on other platforms: one more class passes an assertion.
    """

    code = "NPU217"
    safety = Safety.EQUIVALENT
    paths = (_STATE,)
    triggers = (r"def graph_capture\b",)
    sites = (Site(_SITE, (_STATE,)),)

    def check(self, file: File) -> Iterator[Finding]:
        """Report the assertion about the communicator's class."""
        function = file.function(_SITE)
        if function is None:
            return
        if mentions(function, _NAME):
            yield migrated(_SITE, function)
            return
        imported = [
            (module, place.statement)
            for place in places(function.body, cst.ImportFrom)
            if "device_communicators" in (module := dotted(place.node.module) or "")
        ]
        for place in places(function.body, cst.Assert):
            test = place.node.test
            if not (
                isinstance(test, cst.Call)
                and dotted(test.func) == "isinstance"
                and len(test.args) == 2
                and dotted(test.args[0].value) == "self.device_communicator"
            ):
                continue
            if not imported:
                yield manual(_SITE, place.node, "it imports no communicator class")
                return
            yield changed(
                _SITE,
                place.node,
                "it asserts CUDA's communicator, whose custom all-reduce others have not",
                Replace(test.args[1].value, _accept),
                _insert(imported),
            )
            return


def _insert(imported: Sequence[tuple[str, cst.CSTNode]]) -> Insert:
    """The import of the communicator, in the order of the modules' names."""
    later = [statement for module, statement in imported if module > _MODULE]
    if later:
        return Insert(later[0], _IMPORT)
    return Insert(imported[-1][1], _IMPORT, where="after")


def _accept(node: cst.CSTNode) -> cst.CSTNode:
    if isinstance(node, cst.Tuple) and node.elements:
        return with_elements(node, _NAME)
    assert isinstance(node, cst.BaseExpression)
    return with_elements(cst.Tuple([cst.Element(node)]), _NAME)
