# SPDX-License-Identifier: Apache-2.0
"""What rules about Triton kernels share: other functions in their place on an NPU."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import libcst as cst

from migrator.codemod.matchers import bound_by, parameter_names, walk
from migrator.codemod.recipes.platforms import IMPORT, TEST, tests_for_npu
from migrator.codemod.rule import Edit, File, Finding, Insert, changed, manual, migrated, skipped
from migrator.files.tree import Tree

_WIDTH = 88
"""Characters of a line of vLLM's, and its end."""
_HOOK = "vllm/triton_utils/dispatcher.py"


def has_kernel_hook(tree: Tree) -> bool:
    """Can a platform register what runs in the place of a kernel?"""
    return tree.definition(_HOOK, "register_kernels") is not None


def replace_kernels(
    file: File, kernels: Mapping[str, tuple[str, ...]], module: str
) -> Iterator[Finding]:
    """Bind kernels of a module to what an NPU runs in their place, behind their definitions.

    Args:
        file: the module that defines them.
        kernels: name → the parameters that the replacement knows it by.
        module: has a function `npu_kernel`, which takes a kernel and answers what is launched.
    """
    edits = list(_platform_import(file))
    for name, known in kernels.items():
        kernel = file.function(name)
        if kernel is None:
            continue
        missing = [n for n in known if n not in parameter_names(kernel)]
        if _replaced(file, name):
            yield migrated(name, kernel)
        elif has_kernel_hook(file.tree):
            yield skipped(name, kernel, "the platform registers its replacement")
        elif missing:
            yield manual(name, kernel, f"it takes no {', '.join(missing)}")
        else:
            bound = f"    {name} = npu_kernel({name})\n"
            if len(bound) > _WIDTH:
                bound = f"    {name} = npu_kernel(\n        {name}\n    )\n"
            code = f"if {TEST}:\n    from {module} import npu_kernel\n\n{bound}"
            insert = Insert(kernel, code, where="after", blank_lines=2)
            yield changed(name, kernel, "no NPU runs a Triton kernel", *edits, insert)
            edits = []


def _replaced(file: File, name: str) -> bool:
    """Does the module bind the kernel's name again in a branch for NPUs?"""
    return any(
        isinstance(statement, cst.If)
        and tests_for_npu(statement.test)
        and any(
            isinstance(node, cst.AssignTarget)
            and isinstance(node.target, cst.Name)
            and node.target.value == name
            for node in walk(statement.body)
        )
        for statement in file.kept.body
    )


def _platform_import(file: File) -> Iterator[Edit]:
    """The import of the platform, where it belongs in the order; nothing where it is there."""
    last = None
    for statement in file.kept.body:
        if not isinstance(statement, cst.SimpleStatementLine):
            continue
        part = statement.body[0]
        if not isinstance(part, cst.ImportFrom) or part.module is None:
            continue
        if "current_platform" in bound_by(part):
            return
        path = file.code(part.module)
        if path.startswith("vllm.") and path < "vllm.platforms":
            last = statement
        elif path.startswith("vllm.") and last is None:
            yield Insert(statement, IMPORT)
            return
    if last is not None:
        yield Insert(last, IMPORT, where="after")
