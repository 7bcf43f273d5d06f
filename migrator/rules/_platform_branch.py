# SPDX-License-Identifier: Apache-2.0
"""What the rules about the platform share: a branch on the platform's device type."""

from __future__ import annotations

from collections.abc import Collection, Iterator

import libcst as cst

from migrator.codemod.matchers import first_statement
from migrator.codemod.recipes.branches import PlatformBranch
from migrator.codemod.recipes.conditions import operator_space, or_npu
from migrator.codemod.recipes.platforms import IMPORT, TEST, binds_platform, local_import
from migrator.codemod.rule import File, Finding

__all__ = ["IMPORT", "TEST", "binds_platform", "local_import", "operator_space", "or_npu"]


def platform_branch(
    file: File,
    name: str,
    *,
    body: str,
    reason: str,
    before: cst.CSTNode | None = None,
    needs: Collection[str] = (),  # noqa: ARG001 - the code says what it needs
) -> Iterator[Finding]:
    """What `PlatformBranch` reports."""
    at = first_statement if before is None else lambda _: before
    return PlatformBranch(name, (file.path,), body=body, reason=reason, at=at).check(file)
