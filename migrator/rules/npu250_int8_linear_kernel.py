# SPDX-License-Identifier: Apache-2.0
"""NPU250: the kernel of int8 linear layers in vLLM's table of kernels."""

from __future__ import annotations

from collections.abc import Iterator

import libcst as cst

from migrator.codemod.matchers import dotted
from migrator.codemod.recipes.platforms import IMPORT, TEST
from migrator.codemod.rule import (
    Absence,
    File,
    Finding,
    Insert,
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
OFFER = f"""\
if {TEST}:
    from {_MODULE} import (
        {_KERNEL},
    )

    {{table}}[{_KEY}] = [{_KERNEL}]
"""


def _table_is_new(tree: Tree) -> bool:
    """Do int8 kernels have a table of their own, beside those of other types?"""
    return any(_NEW_TABLE in tree.names(path) for path in (_NEW, _OLD))


def _table_is_old(tree: Tree) -> bool:
    """Is the table of scaled products that of int8 kernels?"""
    return _OLD_TABLE in tree.names(_OLD) and not _table_is_new(tree)


class Int8LinearKernel(Rule):
    """Offer the NPU's kernel where vLLM chooses one for an int8 linear layer.

    ## What it does
    On an NPU, gives the table of int8 kernels an entry for out-of-tree platforms, which an NPU's
    is: `NPUInt8ScaledMMLinearKernel` of `npu_scaled_mm.py`, which the tool adds.

    ## Why
    The table has kernels for CUDA, ROCm, CPUs and others. For a platform that is not in it, a
    checkpoint of compressed-tensors in W8A8 ends in "Failed to find a kernel", with no reason
    behind it, or in a `KeyError`.

    ## Example
    ```python
    if current_platform.device_type == "npu":
        from vllm.model_executor.layers.quantization.npu_scaled_mm import (
            NPUInt8ScaledMMLinearKernel,
        )

        _POSSIBLE_INT8_KERNELS[PlatformEnum.OOT] = [NPUInt8ScaledMMLinearKernel]
    ```

    ## Safety
    Guarded: the table is as it was where the platform's device is no NPU.
    """

    code = "NPU250"
    safety = Safety.GUARDED
    paths = (_NEW, _OLD)
    triggers = (rf"^({_NEW_TABLE}|{_OLD_TABLE})\b",)
    reads = (r"^(?:from|import) ", r"^if current_platform\b")
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
    if _KERNEL in file.kept.code:
        yield migrated(name, statement)
        return
    value = getattr(statement.body[0], "value", None)
    if not isinstance(value, cst.Dict):
        yield manual(name, statement, "the table is no dictionary")
        return
    if any(isinstance(e, cst.DictElement) and dotted(e.key) == _KEY for e in value.elements):
        yield manual(name, statement, "the table has other kernels for this platform")
        return
    known = file.imports.module_level.get("current_platform") == "vllm.platforms.current_platform"
    code = OFFER.format(table=name)
    yield changed(
        name,
        statement,
        "int8 linear layers have no kernel for an out-of-tree platform",
        Insert(statement, code if known else f"{IMPORT}\n{code}", where="after", blank_lines=1),
    )
