# SPDX-License-Identifier: Apache-2.0
"""What a report calls the changes of a plan. It stands alone because reports are slow to load."""

from __future__ import annotations

import enum


class Tense(enum.Enum):
    """What was done, or what would be."""

    PAST = "changed"
    WOULD = "would change"
    PENDING = "pending"
