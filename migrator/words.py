# SPDX-License-Identifier: Apache-2.0
"""Words that all reports use alike. They stand alone because reports are slow to load."""

from __future__ import annotations

import enum


class Tense(enum.Enum):
    """What a report calls the changes of a plan: what was done, or what would be."""

    PAST = "changed"
    WOULD = "would change"
    PENDING = "pending"


def counted(count: int, noun: str) -> str:
    """`1 file`, `2 files`, `0 files`."""
    return f"{count} {noun}{'' if count == 1 else 's'}"
