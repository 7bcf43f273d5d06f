# SPDX-License-Identifier: Apache-2.0
"""NPU251: ModelSlim's checkpoints among vLLM's quantisation methods."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeVar

import libcst as cst

from migrator.codemod.matchers import dotted
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

_PATH = "vllm/model_executor/layers/quantization/__init__.py"
_NAMES = "QuantizationMethods"
_CHOICE = "get_quantization_config"
_TABLE = "method_to_config"
_METHOD = '"ascend"'
_CONFIG = "AscendConfig"
_MODULE = "npu_modelslim"
_IMPORT = f"from .{_MODULE} import {_CONFIG}"

_Element = TypeVar("_Element", cst.SubscriptElement, cst.DictElement)


class AscendQuantization(Rule):
    """Make `ascend` a quantisation method, as which ModelSlim's checkpoints are known.

    ## What it does
    Adds `"ascend"` to the names of quantisation methods and, in `get_quantization_config`, to the
    table of their classes: `AscendConfig` of `npu_modelslim.py`, which the tool adds.

    ## Why
    What Ascend's ModelSlim quantises says so in a file of its own, and vLLM has no method for it.
    A method that is registered from outside is not there before its module is imported, which is
    too late for `--quantization ascend`.

    ## Example
    ```python
    method_to_config: dict[str, type[QuantizationConfig]] = {
        "fp8": Fp8Config,
        "ascend": AscendConfig,
    }
    ```

    ## Safety
    Guarded: a platform other than an NPU's has no checkpoint that names the method, and its layers
    say that they need an NPU.
    """

    code = "NPU251"
    safety = Safety.GUARDED
    paths = (_PATH,)
    triggers = (rf"^{_NAMES}\b", rf"def {_CHOICE}\b")
    sites = (Site(_NAMES, (_PATH,)), Site(_CHOICE, (_PATH,)))

    def check(self, file: File) -> Iterator[Finding]:
        """Report the names and the table that lack the method."""
        yield from _names(file)
        yield from _table(file)


def _names(file: File) -> Iterator[Finding]:
    statement = file.assignment(_NAMES)
    if statement is None:
        return
    value = getattr(statement.body[0], "value", None)
    if not isinstance(value, cst.Subscript) or len(value.slice) < 2:
        yield manual(_NAMES, statement, "the names are no Literal of several")
        return
    if _METHOD in [file.code(element.slice) for element in value.slice]:
        yield migrated(_NAMES, statement)
        return

    def with_name(node: cst.CSTNode) -> cst.CSTNode:
        assert isinstance(node, cst.Subscript)
        index = cst.Index(cst.parse_expression(_METHOD))
        more = cst.SubscriptElement(index)
        return node.with_changes(slice=_appended(list(node.slice), more))

    yield changed(
        _NAMES, statement, "ModelSlim's checkpoints have no method", Replace(value, with_name)
    )


def _table(file: File) -> Iterator[Finding]:
    function = file.function(_CHOICE)
    if function is None:
        return
    tables = [
        statement
        for statement in function.body.body
        if isinstance(statement, cst.SimpleStatementLine) and _binds_table(statement.body[0])
    ]
    value = getattr(tables[0].body[0], "value", None) if tables else None
    if not isinstance(value, cst.Dict) or len(value.elements) < 2:
        yield manual(_CHOICE, function, f"it has no table {_TABLE} of several classes")
        return
    keys = [file.code(e.key) for e in value.elements if isinstance(e, cst.DictElement)]
    if _METHOD in keys:
        yield migrated(_CHOICE, function)
        return

    def with_class(node: cst.CSTNode) -> cst.CSTNode:
        assert isinstance(node, cst.Dict)
        more = cst.DictElement(cst.parse_expression(_METHOD), cst.Name(_CONFIG))
        elements = [e for e in node.elements if isinstance(e, cst.DictElement)]
        if len(elements) != len(node.elements):
            return node
        return node.with_changes(elements=_appended(elements, more))

    place, where = _import_place(function, tables[0])
    yield changed(
        _CHOICE,
        function,
        "ModelSlim's checkpoints have no class",
        Replace(value, with_class),
        Insert(place, _IMPORT + "\n", where=where),
    )


def _appended(elements: list[_Element], more: _Element) -> list[_Element]:
    """The elements and one more behind them, written as the others are."""
    *rest, last = elements
    return [
        *rest,
        last.with_changes(comma=elements[0].comma),
        more.with_changes(comma=last.comma),
    ]


def _binds_table(node: cst.CSTNode) -> bool:
    if isinstance(node, cst.AnnAssign):
        return dotted(node.target) == _TABLE
    return isinstance(node, cst.Assign) and any(dotted(t.target) == _TABLE for t in node.targets)


def _import_place(
    function: cst.FunctionDef, table: cst.SimpleStatementLine
) -> tuple[cst.CSTNode, str]:
    """Where the import of the class goes: in the order of those of the package's own modules."""
    last: cst.CSTNode | None = None
    for statement in function.body.body:
        if not isinstance(statement, cst.SimpleStatementLine):
            continue
        node = statement.body[0]
        if not isinstance(node, cst.ImportFrom) or len(node.relative) != 1 or node.module is None:
            continue
        if (dotted(node.module) or "") > _MODULE:
            return statement, "before"
        last = statement
    return (table, "before") if last is None else (last, "after")
