# SPDX-License-Identifier: Apache-2.0
"""Why a test of vLLM says nothing about an NPU: what failed or was skipped, and how it says so."""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Reason:
    """`tests` matches the whole of a test's id, `says` a part of its message."""

    name: str
    tests: str
    says: str
    why: str

    def fits(self, test: str, message: str) -> bool:
        """Whether a test that says this is one of the kind."""
        return bool(re.fullmatch(self.tests, test) and re.search(self.says, message))


REASONS: tuple[Reason, ...] = ()
