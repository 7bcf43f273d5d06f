# SPDX-License-Identifier: Apache-2.0
"""NPU262: what a graph of a whole step is told before it is replayed."""

from __future__ import annotations

from collections.abc import Iterator

import libcst as cst

from migrator.codemod.matchers import Place, bound_names, dotted, parameter_names, places
from migrator.codemod.rule import (
    Absence,
    File,
    Finding,
    Replace,
    Rule,
    Safety,
    Site,
    changed,
    manual,
    migrated,
)
from migrator.files.tree import Tree
from migrator.rules._runner_v2 import knows_one_runner
from migrator.rules.npu200_device_module_import import DEVICE_MODULE, REPLAY_CONTEXT

_RUNNER = "vllm/v1/worker/gpu/model_runner.py"
_SITE = "GPUModelRunner.execute_model"
_REPLAY = "self.cudagraph_manager.run_fullgraph"
_CONTEXT = "set_forward_context"
_NEEDS = (DEVICE_MODULE, REPLAY_CONTEXT)


def _replays_otherwise(tree: Tree) -> bool:
    """Is V1 the only runner, or does V2 have its manager run a step of any kind?"""
    names = tree.names(_RUNNER, _SITE)
    return knows_one_runner(tree) or (
        {"cudagraph_manager", "run"} <= names and "run_fullgraph" not in names
    )


class FullGraphContext(Rule):
    """Replay a graph of a whole step where it finds the step's metadata.

    ## What it does
    Puts `with replay_context(attn_metadata, self.vllm_config):` around the call of
    `run_fullgraph` in the model runner V2, with what the forward context of a called model gets as
    its metadata. `replay_context` is in `vllm/accelerator.py`, which the tool adds.

    ## Why
    Attention operators of an NPU take context lengths from the host: a captured step is given new
    ones with each replay, and looks for them in the forward context. The V2 runner has one around
    a model that it calls, and none around a graph.

    ## Example
    ```python
    with replay_context(attn_metadata, self.vllm_config):
        model_output = self.cudagraph_manager.run_fullgraph(batch_desc)
    ```

    ## Safety
    Equivalent: the context does nothing unless the platform's device type is `npu`.
    """

    code = "NPU262"
    safety = Safety.EQUIVALENT
    paths = (_RUNNER,)
    triggers = (r"run_fullgraph\b",)
    sites = (
        Site(
            _SITE,
            (_RUNNER,),
            (
                Absence(
                    "<0.17",
                    "there is no V2, or its manager runs every step",
                    _replays_otherwise,
                ),
            ),
        ),
    )

    def check(self, file: File) -> Iterator[Finding]:
        """Report the replay."""
        function = file.function(_SITE)
        if function is None:
            return
        metadata = _metadata(function)
        for place in places(function.body, cst.Call):
            if dotted(place.node.func) != _REPLAY:
                continue
            if _is_within(place):
                yield migrated(_SITE, function, _NEEDS)
            elif metadata is None:
                reason = f"it gives {_CONTEXT} no metadata that it has at hand"
                yield manual(_SITE, place.node, reason)
            else:
                yield _wrap(place, metadata)


def _metadata(function: cst.FunctionDef) -> str | None:
    """What a step's forward context gets as its metadata: a name of the function, or of one's."""
    names = set(parameter_names(function))
    for statement in places(function.body, (cst.Assign, cst.AnnAssign)):
        names.update(bound_names(statement.node))
    for place in places(function.body, cst.Call):
        if dotted(place.node.func) == _CONTEXT and place.node.args:
            argument = place.node.args[0]
            by_place = argument.keyword is None and not argument.star
            given = dotted(argument.value) if by_place else None
            if given is not None and given.partition(".")[0] in names:
                return given
    return None


def _is_within(place: Place[cst.Call]) -> bool:
    return any(
        isinstance(above, cst.With)
        and any(
            isinstance(item.item, cst.Call) and dotted(item.item.func) == REPLAY_CONTEXT
            for item in above.items
        )
        for above in place.ancestors
    )


def _wrap(place: Place[cst.Call], metadata: str) -> Finding:
    statement = place.statement
    context = cst.parse_expression(f"{REPLAY_CONTEXT}({metadata}, self.vllm_config)")

    def wrap(node: cst.CSTNode) -> cst.CSTNode:
        assert isinstance(node, cst.SimpleStatementLine)
        return cst.With(
            items=[cst.WithItem(context)],
            body=cst.IndentedBlock([node.with_changes(leading_lines=())]),
            leading_lines=node.leading_lines,
        )

    return changed(
        _SITE,
        statement,
        "a graph of an NPU looks for the step's context lengths in the forward context",
        Replace(statement, wrap),
        needs=_NEEDS,
    )
