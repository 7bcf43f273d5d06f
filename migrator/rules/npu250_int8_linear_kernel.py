# SPDX-License-Identifier: Apache-2.0
"""NPU250: the kernel of int8 linear layers in vLLM's table of kernels."""

from __future__ import annotations

from collections.abc import Iterator

import libcst as cst

from migrator.codemod.matchers import dotted
from migrator.codemod.rule import (
    Absence,
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

_NEW = "vllm/model_executor/kernels/linear/__init__.py"
_OLD = "vllm/model_executor/layers/quantization/kernels/scaled_mm/__init__.py"
_NEW_TABLE = "_POSSIBLE_INT8_KERNELS"
_OLD_TABLE = "_POSSIBLE_KERNELS"
_TABLES = {_NEW: (_NEW_TABLE,), _OLD: (_NEW_TABLE, _OLD_TABLE)}
"""Other tables of the first name are of kernels for other types."""
_KEY = "PlatformEnum.OOT"
_KERNEL = "NPUInt8ScaledMMLinearKernel"
_MODULE = "vllm.model_executor.layers.quantization.npu_scaled_mm"
_IMPORT = f"from {_MODULE} import (\n    {_KERNEL},\n)\n"


def _table_is_new(tree: Tree) -> bool:
    """Do int8 kernels have a table of their own, beside those of other types?"""
    return any(_NEW_TABLE in tree.names(path) for path in (_NEW, _OLD))


def _table_is_old(tree: Tree) -> bool:
    """Is the table of scaled products that of int8 kernels?"""
    return _OLD_TABLE in tree.names(_OLD) and not _table_is_new(tree)


class Int8LinearKernel(Rule):
    """Offer the NPU's kernel where vLLM chooses one for an int8 linear layer.

    ## What it does
    Gives the table of int8 kernels an entry for out-of-tree platforms, which an NPU's is, and
    imports the kernel: `NPUInt8ScaledMMLinearKernel` of `npu_scaled_mm.py`, which the tool adds.

    ## Why
    The table has kernels for CUDA, ROCm, CPUs and others. For a platform that is not in it, a
    checkpoint of compressed-tensors in W8A8 ends in "Failed to find a kernel", with no reason
    behind it, or in a `KeyError`.

    ## Example
    ```python
    _POSSIBLE_INT8_KERNELS = {
        PlatformEnum.CPU: [CPUInt8ScaledMMLinearKernel],
        PlatformEnum.OOT: [NPUInt8ScaledMMLinearKernel],
    }
    ```

    ## Safety
    Guarded: the kernel says that it is not supported where the platform's device is no NPU.
    """

    code = "NPU250"
    safety = Safety.GUARDED
    paths = (_NEW, _OLD)
    triggers = (rf"^({_NEW_TABLE}|{_OLD_TABLE})\b",)
    reads = (r"^(?:from|import) ",)
    sites = (
        Site(
            _NEW_TABLE,
            (_NEW, _OLD),
            (
                Absence(
                    "<0.16", "the table of scaled products is that of int8 kernels", _table_is_old
                ),
            ),
        ),
        Site(
            _OLD_TABLE,
            (_OLD,),
            (Absence(">=0.16", "int8 kernels have a table of their own", _table_is_new),),
        ),
    )

    def check(self, file: File) -> Iterator[Finding]:
        """Report the table that has no kernel for an NPU."""
        for name in _TABLES[file.path]:
            statement = file.assignment(name)
            if statement is not None:
                yield from _offer(file, name, statement)


def _offer(file: File, name: str, statement: cst.SimpleStatementLine) -> Iterator[Finding]:
    """Report a table that has no kernel for an NPU."""
    value = getattr(statement.body[0], "value", None)
    if not isinstance(value, cst.Dict) or len(value.elements) < 2:
        if isinstance(value, cst.Dict) and _entry(value) is not None:
            yield manual(name, statement, "the table has other kernels for this platform")
            return
        yield manual(name, statement, "the table is no dictionary with entries")
        return
    entry = _entry(value)
    if entry is not None:
        if _KERNEL in file.code(entry):
            yield migrated(name, statement)
        else:
            yield manual(name, statement, "the table has other kernels for this platform")
        return
    yield changed(
        name,
        statement,
        "int8 linear layers have no kernel for an out-of-tree platform",
        Replace(value, _with_entry),
        Insert(*_import_place(file)),
    )


def _entry(table: cst.Dict) -> cst.BaseExpression | None:
    """What the table has for the platform."""
    for element in table.elements:
        if isinstance(element, cst.DictElement) and dotted(element.key) == _KEY:
            return element.value
    return None


def _with_entry(node: cst.CSTNode) -> cst.CSTNode:
    """The table with one more entry at its end, written as the others are."""
    assert isinstance(node, cst.Dict)
    *rest, last = node.elements
    entry = cst.DictElement(
        cst.parse_expression(_KEY), cst.parse_expression(f"[{_KERNEL}]"), comma=last.comma
    )
    return node.with_changes(
        elements=[*rest, last.with_changes(comma=node.elements[0].comma), entry]
    )


def _import_place(file: File) -> tuple[cst.CSTNode, str, str]:
    """Where the import of the kernel goes: in the order of the imports of vLLM."""
    last: cst.CSTNode | None = None
    for statement in file.kept.body:
        if not isinstance(statement, cst.SimpleStatementLine):
            continue
        node = statement.body[0]
        if not isinstance(node, cst.ImportFrom) or node.module is None or node.relative:
            continue
        module = dotted(node.module) or ""
        if not module.startswith("vllm."):
            continue
        if module > _MODULE:
            return statement, _IMPORT, "before"
        last = statement
    assert last is not None, "the table's own kernels are imported"
    return last, _IMPORT, "after"
