# SPDX-License-Identifier: Apache-2.0
"""A squarified treemap (Bruls, Huizing, van Wijk, 2000): areas in proportion, near to squares."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


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
    scale = box.width * box.height / sum(sizes) if sizes else 0.0
    areas = [size * scale for size in sizes]
    parts: list[Box] = []
    while areas:
        side = min(box.width, box.height)
        row = [areas[0]]
        while len(row) < len(areas) and _worst([*row, areas[len(row)]], side) <= _worst(row, side):
            row.append(areas[len(row)])
        box, placed = _place(box, row)
        parts += placed
        areas = areas[len(row) :]
    return parts


def _worst(row: Sequence[float], side: float) -> float:
    """The worst ratio of sides in a row of areas that is laid along `side`."""
    total = sum(row)
    return max(side**2 * max(row) / total**2, total**2 / (side**2 * min(row)))


def _place(box: Box, row: Sequence[float]) -> tuple[Box, list[Box]]:
    """Lay a row along the shorter side; what is left of the box, and the row's parts."""
    total = sum(row)
    placed = []
    if box.width >= box.height:
        depth, at = total / box.height, box.top
        for area in row:
            placed.append(Box(box.left, at, depth, area / depth))
            at += area / depth
        return Box(box.left + depth, box.top, box.width - depth, box.height), placed
    depth, at = total / box.width, box.left
    for area in row:
        placed.append(Box(at, box.top, area / depth, depth))
        at += area / depth
    return Box(box.left, box.top + depth, box.width, box.height - depth), placed
