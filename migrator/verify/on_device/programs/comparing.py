# SPDX-License-Identifier: Apache-2.0
"""How far what a device computed is from what the reference did."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.utils._pytree import tree_leaves

NORM = {torch.bfloat16: 2.0**-7, torch.float16: 2.0**-9, torch.float32: 2.0**-12}
"""The most that all differences together may be of all values, by root mean squares: one place of
the dtype, since a device rounds once and may round what it multiplies on the way. A result that is
one per cent off is above each."""
ELEMENT = 8.0
"""How many times that one element may be off, of itself and of the root mean square of all."""
ROUNDED_INTEGERS = 0.01
"""The share of int8 values that may be off by one: those that lie between two."""
CHOICES = 0.002
"""The share of values that may be chosen by one and left out by the other: those at a bound."""


def tensors(value: Any) -> list[torch.Tensor]:
    """All tensors of a value, in order."""
    return [leaf for leaf in tree_leaves(value) if isinstance(leaf, torch.Tensor)]


def compared(ours: Any, theirs: Any) -> dict[str, Any]:
    """The verdict on one call.

    Args:
        ours: what the reference returned and wrote, on the CPU; NaN where a device may leave
            anything.
        theirs: the same of the device, on the CPU.

    Returns:
        `verdict`: equal, close or differs; `norm`: the relative difference of all values;
        `largest`: that of one element, `at` its place, `off` the share of elements that are not
        close. The result that is furthest off counts.
    """
    wanted, found = tensors(ours), tensors(theirs)
    if len(wanted) != len(found):
        return _differs(f"{len(found)} results, not {len(wanted)}")
    verdicts = [_compared(a, b, i) for i, (a, b) in enumerate(zip(wanted, found, strict=True))]
    if not verdicts:
        return _differs("no results")
    return max(verdicts, key=lambda one: (_RANK[one["verdict"]], one["norm"]))


_RANK = {"equal": 0, "close": 1, "differs": 2}


def _differs(why: str) -> dict[str, Any]:
    return {"verdict": "differs", "why": why, "norm": 0.0, "largest": 0.0, "at": "", "off": 1.0}


def _compared(ours: torch.Tensor, theirs: torch.Tensor, index: int) -> dict[str, Any]:
    if ours.shape != theirs.shape or ours.dtype != theirs.dtype:
        said = f"{_brief(theirs)}, not {_brief(ours)}"
        return _differs(f"result {index} is {said}")
    if ours.numel() == 0:
        return {"verdict": "equal", "why": "", "norm": 0.0, "largest": 0.0, "at": "", "off": 0.0}
    if not ours.dtype.is_floating_point:
        return _integers(ours, theirs, index)
    defined = ~ours.isnan()
    a, b = ours.double(), theirs.double()
    # What is left out is minus infinity on both sides.
    chosen = (a.isinf() != b.isinf()) & defined
    both = defined & a.isfinite() & b.isfinite()
    broken = defined & b.isnan()
    difference = torch.where(both, (a - b).abs(), 0.0)
    count = max(int(both.sum()), 1)
    size = float((torch.where(both, a, 0.0).square().sum() / count).sqrt())
    norm = float((difference.square().sum() / count).sqrt()) / (size or 1.0)
    limit = NORM[ours.dtype]
    far = (difference > ELEMENT * limit * (a.abs().nan_to_num(0.0, 0.0, 0.0) + size)) | broken
    total = max(int(defined.sum()), 1)
    few = float(chosen.sum()) / total <= CHOICES
    why = [] if few else [f"{int(chosen.sum())} values chosen by one side alone"]
    if norm > limit:
        why.append(f"all values together are off by more than {limit:.2%}")
    close = norm <= limit and not bool(far.any()) and few
    same = close and not bool(difference.any()) and not bool(chosen.any())
    missing = broken | chosen
    worst = _place(difference.masked_fill(missing, float("inf")), ours, index)
    return {
        "verdict": "equal" if same else "close" if close else "differs",
        "why": "; ".join(why),
        "norm": norm,
        "largest": float(difference.max()),
        "at": "" if same else worst,
        "off": float((far | chosen).sum()) / total,
    }


def _integers(ours: torch.Tensor, theirs: torch.Tensor, index: int) -> dict[str, Any]:
    difference = (ours.long() - theirs.long()).abs()
    off = float((difference > 0).double().mean())
    rounded = ours.dtype is torch.int8 and int(difference.max()) <= 1 and off <= ROUNDED_INTEGERS
    verdict = "equal" if off == 0 else "close" if rounded else "differs"
    return {
        "verdict": verdict,
        "why": "",
        "norm": 0.0,
        "largest": float(difference.max()),
        "at": "" if off == 0 else _place(difference.double(), ours, index),
        "off": off,
    }


def _place(difference: torch.Tensor, of: torch.Tensor, index: int) -> str:
    flat = int(difference.argmax())
    place: Sequence[int] = [int(i) for i in torch.unravel_index(torch.tensor(flat), of.shape)]
    return f"result {index}{list(place)}"


def _brief(tensor: torch.Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}"
