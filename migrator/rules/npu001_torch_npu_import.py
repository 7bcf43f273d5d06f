# SPDX-License-Identifier: Apache-2.0
"""NPU001: the optional import of torch_npu."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import libcst as cst

from migrator.codemod.rule import (
    TORCH_NPU,
    File,
    Finding,
    Insert,
    Rule,
    Safety,
    changed,
    manual,
    migrated,
)


class TorchNpuImport(Rule):
    """Import `torch_npu` where a rule's code needs it, and go on without it where it is missing.

    ## What it does
    Adds, once a file and after its leading imports, a guarded import that leaves `torch_npu` as
    `None` where the package is not installed. A file that binds the name at run time already keeps
    its own import; one below `TYPE_CHECKING` does not count, since it is not there at run time.

    ## Why
    The tree has to import on a machine without `torch_npu`, such as a CUDA machine or a build
    host. Code that other rules add looks at the tensor's device first, and a tensor can only be on
    an NPU where `torch_npu` has been imported.

    ## Example
    ```python
    import torch

    try:
        import torch_npu
    except ImportError:
        torch_npu = None
    ```

    ## Safety
    Guarded. `torch_npu` raises `ImportError` where CANN's libraries are missing as well.
    """

    code = "NPU001"
    safety = Safety.GUARDED
    triggers = ()
    reads = (r"torch_npu",)
    provides = TORCH_NPU

    def check(self, file: File) -> Iterator[Finding]:
        """Report the import that is there, or the statement after which it has to go."""
        body = file.kept.body
        if "torch_npu" in file.imports.module_level:
            yield migrated("<module>", _binding(body))
            return
        last = _last_leading_import(body)
        if last is None:
            yield manual("<module>", file.kept, "there is no import to put torch_npu's after")
            return
        yield changed(
            "<module>",
            last,
            "code that other rules add to this file uses torch_npu",
            Insert(last, CODE, where="after", blank_lines=1),
        )


CODE = """\
try:
    import torch_npu
except ImportError:
    torch_npu = None
"""


def _binding(body: Sequence[cst.CSTNode]) -> cst.CSTNode:
    """The module-level statement that mentions torch_npu first."""
    return next(s for s in body if "torch_npu" in cst.Module([]).code_for_node(s))


def _last_leading_import(body: Sequence[cst.CSTNode]) -> cst.CSTNode | None:
    """The last plain import statement before the module's first definition."""
    last: cst.CSTNode | None = None
    for statement in body:
        if isinstance(statement, (cst.FunctionDef, cst.ClassDef)):
            break
        if isinstance(statement, cst.SimpleStatementLine) and isinstance(
            statement.body[0], (cst.Import, cst.ImportFrom)
        ):
            last = statement
    return last
