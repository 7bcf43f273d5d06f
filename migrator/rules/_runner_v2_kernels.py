# SPDX-License-Identifier: Apache-2.0
"""What the rules about the kernels of the model runner V2 share."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from migrator.codemod.rule import Absence, File, Finding, Site, skipped
from migrator.files.tree import Tree
from migrator.rules._kernel_replacements import has_kernel_hook

_WRAPPERS = ("vllm/v1/worker/worker_base.py", "vllm/worker/worker_base.py")
_REGISTERS = "register_triton_kernel_overrides"


def _registers_nothing(tree: Tree) -> bool:
    """Are workers made without a platform's kernels?"""
    return any(
        "load_general_plugins" in names and _REGISTERS not in names
        for names in (tree.names(path, "WorkerWrapperBase.init_worker") for path in _WRAPPERS)
    )


_ABSENT = Absence("<0.31", "an NPU takes no V2 there: none registers kernels", _registers_nothing)


def kernel_sites(kernels: Mapping[str, tuple[str, ...]]) -> tuple[Site, ...]:
    """Sites of kernels, which are named below the file that defines them."""
    return tuple(
        Site(name, (path,), (_ABSENT,)) for path, names in kernels.items() for name in names
    )


def kernel_triggers(kernels: Mapping[str, tuple[str, ...]]) -> tuple[str, ...]:
    """What a file holds that defines some of them."""
    return tuple(rf"def {re.escape(name)}\b" for names in kernels.values() for name in names)


def registered(file: File, kernels: Mapping[str, tuple[str, ...]]) -> Iterator[Finding]:
    """Report the kernels of a file, which the platform replaces."""
    for name in kernels.get(file.path, ()):
        kernel = file.function(name)
        if kernel is None:
            continue
        if has_kernel_hook(file.tree):
            yield skipped(name, kernel, "the platform registers its replacement")
        else:
            yield skipped(name, kernel, "an NPU takes no model runner V2 there")
