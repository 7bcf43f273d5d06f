# SPDX-License-Identifier: Apache-2.0
"""Words that all reports use alike. They stand alone because reports are slow to load."""

from __future__ import annotations

import enum
from collections.abc import Iterable


class Tense(enum.Enum):
    """What a report calls the changes of a plan: what was done, or what would be."""

    PAST = "changed"
    WOULD = "would change"
    PENDING = "pending"


def counted(count: int, noun: str) -> str:
    """`1 file`, `2 files`, `0 files`."""
    return f"{count} {noun}{'' if count == 1 else 's'}"


def did_you_mean(text: str, names: Iterable[str]) -> str:
    """`; did you mean …?` for the nearest of `names`, or nothing.

    Only letters and digits count, so that `rmsnorm` is next to `rms-norm`.
    """
    import difflib

    spelled = {_letters(name): name for name in reversed(list(names))}
    near = difflib.get_close_matches(_letters(text), spelled, n=3, cutoff=0.7)
    if near and near[0] == _letters(text):
        near = near[:1]
    return f"; did you mean {' or '.join(spelled[name] for name in near)}?" if near else ""


def _letters(text: str) -> str:
    return "".join(sign for sign in text.lower() if sign.isalnum())
