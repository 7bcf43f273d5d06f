# SPDX-License-Identifier: Apache-2.0
"""Recipes: the shapes of changes that recur, which a rule states in a few lines.

A branch for NPU tensors or for the NPU platform (`branches`), a `forward_oot` beside a
`forward_cuda` (`forward_oot`), a condition that counts an NPU as CUDA (`conditions`), and
expressions that become others, such as a call that becomes the device's (`rewrites`).
"""

from __future__ import annotations

from collections.abc import Collection, Iterator

from migrator.codemod.matchers import mentions
from migrator.codemod.recipes.branches import (
    NpuBranch,
    has_npu_branch,
    refuse_unless_none,
)
from migrator.codemod.recipes.forward_oot import ForwardOot
from migrator.codemod.recipes.platforms import tests_for_npu
from migrator.codemod.rule import File, Finding

__all__ = ["has_npu_branch", "mentions", "refuse_unless_none", "tests_for_npu"]


def npu_branch(
    file: File,
    name: str,
    *,
    tensor: str,
    known: Collection[str],
    optional: Collection[str] = (),
    body: str,
    reason: str,
    needs: Collection[str] = (),  # noqa: ARG001 - the code says what it needs
    helper: str = "",
) -> Iterator[Finding]:
    """What `NpuBranch` reports."""
    return NpuBranch(
        name,
        (file.path,),
        tensor=tensor,
        takes=[one for one in known if one not in optional],
        optional=optional,
        body=body,
        reason=reason,
        helper=helper,
    ).check(file)


def forward_oot(
    file: File,
    class_name: str,
    *,
    takes: tuple[str, ...],
    body: str,
    reason: str,
    needs: Collection[str] = (),  # noqa: ARG001 - the code says what it needs
    signature: str = "",
) -> Iterator[Finding]:
    """What `ForwardOot` reports."""
    return ForwardOot(
        class_name, (file.path,), takes=takes, body=body, reason=reason, signature=signature
    ).check(file)
