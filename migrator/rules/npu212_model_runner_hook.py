# SPDX-License-Identifier: Apache-2.0
"""NPU212: a method of the worker that makes its model runner."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator, Sequence

import libcst as cst

from migrator.codemod.matchers import Place, bound_by, dotted, places
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
from migrator.files.tree import Tree

_WORKER = "vllm/v1/worker/gpu_worker.py"
_RUNNER = "vllm.v1.worker.gpu_model_runner.GPUModelRunner"
_HOOK = "Worker._make_model_runner"


def _calls_hook(tree: Tree) -> bool:
    """Does any method of the worker make the model runner by the hook?"""
    worker = tree.definition(_WORKER, "Worker")
    return worker is not None and any(
        isinstance(node, ast.Attribute) and node.attr == "_make_model_runner"
        for node in ast.walk(worker)
    )


class ModelRunnerHook(Rule):
    """Make the worker's model runner in a method that a platform's worker can override.

    ## What it does
    Moves `GPUModelRunner(self.vllm_config, self.device)` from `Worker.init_device` into a new
    method `Worker._make_model_runner`, with its import where that was a local one. A model runner
    V2 stays where it is.

    ## Why
    The NPU's model runner is a subclass of the GPU's. vLLM has this very method from 0.32.0 on.

    ## Example
    ```python
    self.model_runner = self._make_model_runner()
    ```

    ## Safety
    Equivalent: the same call, one method further away.
    """

    code = "NPU212"
    safety = Safety.EQUIVALENT
    paths = (_WORKER,)
    triggers = (r"GPUModelRunner",)
    sites = (Site(_HOOK, (_WORKER,)),)

    def check(self, file: File) -> Iterator[Finding]:
        """Report the call that makes the model runner, or the method that is there."""
        own = file.function(_HOOK)
        if own is not None:
            if _calls_hook(file.tree):
                yield migrated(_HOOK, own)
            return
        function = file.function("Worker.init_device")
        if function is None:
            return
        local = {
            name: (place.statement, what)
            for place in places(function.body, cst.ImportFrom)
            for name, what in bound_by(place.node).items()
        }
        calls = [
            place
            for place in places(function.body, cst.Call)
            if _makes_runner(file, place, {name: what for name, (_, what) in local.items()})
        ]
        if len(calls) != 1:
            yield manual(_HOOK, function, f"it makes its model runner in {len(calls)} places")
            return
        yield _move(file, function, calls[0], local)


def _makes_runner(file: File, place: Place[cst.Call], local: dict[str, str]) -> bool:
    call = place.node
    name = dotted(call.func) or ""
    return local.get(name, file.imports.module_level.get(name)) == _RUNNER and [
        dotted(argument.value) for argument in call.args
    ] == ["self.vllm_config", "self.device"]


def _move(
    file: File,
    function: cst.FunctionDef,
    place: Place[cst.Call],
    local: dict[str, tuple[cst.BaseStatement, str]],
) -> Finding:
    call = place.node
    name = dotted(call.func) or ""
    body = f"    return {name}(self.vllm_config, self.device)\n"
    hook = cst.parse_expression("self._make_model_runner()")
    where: cst.CSTNode = call
    if name in local:
        statement = local[name][0]
        plain = statement.with_changes(leading_lines=())
        body = f"{_indented(file.code(plain), '    ')}\n{body}"
        block = next(a for a in reversed(place.ancestors) if isinstance(a, cst.IndentedBlock))
        edit = Replace(block, _without_import(statement, call, hook))
        where = block
    else:
        edit = Replace(call, lambda _: hook)
    code = (
        'def _make_model_runner(self) -> "GPUModelRunner":\n'
        '    """Construct the platform\'s model runner; subclasses override this."""\n'
        f"{body}"
    )
    return changed(
        _HOOK,
        where,
        "the NPU worker makes a model runner of its own class",
        edit,
        Insert(function, code, where="after", blank_lines=1),
    )


def _without_import(
    statement: cst.BaseStatement, call: cst.Call, hook: cst.BaseExpression
) -> Callable[[cst.CSTNode], cst.CSTNode]:
    """Drop the import that only the moved call used, and put the hook in the call's place."""

    def make(block: cst.CSTNode) -> cst.CSTNode:
        assert isinstance(block, cst.IndentedBlock)
        kept = []
        lines: Sequence[cst.EmptyLine] | None = None
        for entry in block.body:
            if entry.deep_equals(statement):
                lines = getattr(entry, "leading_lines", ())
                continue
            new = entry.visit(_Swap(call, hook))
            assert isinstance(new, cst.BaseStatement)
            if lines is not None:
                # It stands where the import stood.
                new = new.with_changes(leading_lines=lines)
                lines = None
            kept.append(new)
        return block.with_changes(body=kept)

    return make


class _Swap(cst.CSTTransformer):
    """Puts an expression in the place of a call that looks like the given one."""

    def __init__(self, call: cst.Call, new: cst.BaseExpression) -> None:
        super().__init__()
        self._call = call
        self._new = new

    def leave_Call(  # noqa: N802
        self, original_node: cst.Call, updated_node: cst.Call
    ) -> cst.BaseExpression:
        return self._new if original_node.deep_equals(self._call) else updated_node


def _indented(code: str, indent: str) -> str:
    """`code`, a statement taken from some block, at `indent`."""
    lines = code.strip("\n").splitlines()
    depth = len(lines[-1]) - len(lines[-1].lstrip())
    return (
        "\n".join(f"{indent}{line[depth:] if i else line.lstrip()}" for i, line in enumerate(lines))
        + "\n"
    )
