# SPDX-License-Identifier: Apache-2.0
"""A squarified treemap (Bruls, Huizing, van Wijk, 2000): areas in proportion, near to squares."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import squarify


@dataclass(frozen=True, slots=True)
class Box:
    """A rectangle, in the unit of the one that was divided."""

    left: float
    top: float
    width: float
    height: float


def divide(box: Box, sizes: Sequence[float]) -> list[Box]:
    """Divide a rectangle into one for each size.

    Args:
        box: what to divide.
        sizes: positive, the largest first: then the parts come out nearest to squares.

    Returns:
        The parts in the order of `sizes`, with areas in proportion to them.
    """
    areas = squarify.normalize_sizes(sizes, box.width, box.height)
    parts = squarify.squarify(areas, box.left, box.top, box.width, box.height)
    return [Box(part["x"], part["y"], part["dx"], part["dy"]) for part in parts]
