# SPDX-License-Identifier: Apache-2.0
"""The picture of the whole: rooms in layers by the import contract, and the way of a user's tree.

Layers are those of the contract in pyproject.toml, which `lint-imports` holds the code to, and what
a room is for is the first line of its docstring. Every step of the way names the function that
takes it, so one that moves or goes is noticed. `scripts/docs.py` writes docs/images/rooms.svg.
"""

from __future__ import annotations

import importlib
import re
import textwrap
import tomllib
from dataclasses import dataclass
from html import escape
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "images" / "rooms.svg"

WIDTH, MARGIN, GAP, LINE, PAD = 960, 20, 10, 16, 12
CHARACTER = 6.6
"""Pixels that a character of a sentence takes at most, on the average of a line."""
CHIP = 100
"""Width of what is handed on."""

STYLE = """
svg { font-family: system-ui, "Segoe UI", Helvetica, Arial, "DejaVu Sans", sans-serif }
.card { fill: #fff } .room { fill: #f6f8fa; stroke: #d0d7de }
.chip { fill: #e8eaf6; stroke: #9fa8da } .way { stroke: #3f51b5; stroke-width: 1.5; fill: none }
.tip, .badge { fill: #3f51b5 } .number { fill: #fff; font-size: 11px; font-weight: 700 }
.name { font-size: 15px; font-weight: 600; fill: #1f2328 } .text { font-size: 12px; fill: #3d444d }
.what { font-size: 12px; font-weight: 600; fill: #1a237e } .side { font-size: 12px; fill: #59636e }
"""


@dataclass(frozen=True)
class Step:
    """A step of the way that a user's tree goes."""

    by: tuple[str, ...]
    """The functions that take it, as `room.module.function`."""
    gives: tuple[str, str]
    """What comes of it, in two lines."""

    @property
    def rooms(self) -> list[str]:
        """The rooms that it happens in, in the order of the functions."""
        return [name.partition(".")[0] for name in self.by]


START = ("vLLM source", "or a release")
WAY = (
    Step(("files.sources.open_source",), ("tree", "that is read")),
    Step(("rules.all_rules", "codemod.engine.migrate_file"), ("findings", "and edits")),
    Step(("planning.plan.make_plan",), ("plan", "of all files")),
    Step(("reports.log.make_log", "reports.patch.unified_patch"), ("diff, logs", "SARIF")),
    Step(("files.writer.write_tree",), ("NPU tree", "that runs")),
    Step(("verify.run.verify", "simulator.build.build"), ("proof", "on a CPU alone")),
)


def layers() -> list[list[str]]:
    """The rooms of each layer, from the command down, as the import contract has them."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    (contract,) = (
        one for one in settings["tool"]["importlinter"]["contracts"] if one["type"] == "layers"
    )
    return [re.split(r" *[|:] *", layer) for layer in contract["layers"]]


def sentence(room: str) -> str:
    """What a room is for: the first line of its docstring."""
    documentation = importlib.import_module(f"migrator.{room}").__doc__
    if documentation is None:
        raise ValueError(f"migrator/{room}/__init__.py does not say what it is for")
    return documentation.strip().splitlines()[0].replace("`", "")


def numbers() -> dict[str, list[int]]:
    """Room → the steps that happen in it.

    Raises:
        AttributeError: a step names a function that is not there.
    """
    found: dict[str, list[int]] = {}
    for number, step in enumerate(WAY, 1):
        for name in step.by:
            module, _, function = f"migrator.{name}".rpartition(".")
            getattr(importlib.import_module(module), function)
        for room in dict.fromkeys(step.rooms):
            found.setdefault(room, []).append(number)
    return found


def picture() -> str:
    """The picture as SVG."""
    steps = numbers()
    if lost := steps.keys() - {room for layer in layers() for room in layer}:
        raise ValueError(f"the import contract has no {', '.join(sorted(lost))}")
    parts = _way()
    top = 124
    for layer in layers():
        drawn, height = _layer(layer, top, steps)
        parts += drawn
        top += height + GAP
    parts.append(_imports(124, top - GAP))
    height = top - GAP + MARGIN
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" '
            f'width="{WIDTH}" height="{height}" role="img" aria-labelledby="title text">',
            '<title id="title">The rooms of vllm-npu-migrate</title>',
            f'<desc id="text">{escape(_told())}</desc>',
            f"<style>{STYLE}</style>",
            '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="8" '
            'markerHeight="8" orient="auto"><path class="tip" d="M0 0L8 4L0 8z"/></marker></defs>',
            f'<rect class="card" width="{WIDTH}" height="{height}" rx="10"/>',
            *parts,
            "</svg>",
            "",
        ]
    )


def _told() -> str:
    """The picture in words, for who does not see it."""
    way = [" ".join(START)]
    for number, step in enumerate(WAY, 1):
        rooms = " and ".join(dict.fromkeys(step.rooms))
        way.append(f"{number}. {rooms}: {' '.join(step.gives)}")
    rooms = "; ".join(", ".join(layer) for layer in layers())
    return f"{'. '.join(way)}. Layers, each importing from those after it only: {rooms}."


def _way() -> list[str]:
    """The row of what is handed on, with the steps between."""
    parts = []
    apart = (WIDTH - 2 * MARGIN - CHIP) / len(WAY)
    for place, lines in enumerate((START, *(step.gives for step in WAY))):
        left = MARGIN + place * apart
        middle = left + CHIP / 2
        parts += [
            f'<rect class="chip" x="{left:g}" y="20" width="{CHIP}" height="48" rx="24"/>',
            _text("what", middle, 40, lines[0], "middle"),
            _text("side", middle, 56, lines[1], "middle"),
        ]
        if place:
            step = WAY[place - 1]
            start = left - apart + CHIP
            parts += [
                f'<path class="way" d="M{start:g} 44H{left - 2:g}" marker-end="url(#tip)"/>',
                _badge(start + (apart - CHIP) / 2 - 3, 44, place),
            ]
            for row, room in enumerate(dict.fromkeys(step.rooms)):
                parts.append(
                    _text("side", start + (apart - CHIP) / 2 - 3, 84 + 15 * row, room, "middle")
                )
    return parts


def _layer(rooms: list[str], top: int, steps: dict[str, list[int]]) -> tuple[list[str], int]:
    """The boxes of one layer, and how high they are."""
    left = MARGIN + 30.0
    width = (WIDTH - MARGIN - left - GAP * (len(rooms) - 1)) / len(rooms)
    fit = int((width - 2 * PAD) / CHARACTER)
    texts = [textwrap.wrap(sentence(room), fit, break_on_hyphens=False) for room in rooms]
    height = 2 * PAD + 16 + LINE * max(map(len, texts))
    parts = []
    for room, lines in zip(rooms, texts, strict=True):
        parts += [
            f'<rect class="room" x="{left:g}" y="{top}" width="{width:g}" height="{height}" '
            'rx="6"/>',
            _text("name", left + PAD, top + PAD + 11, f"{room}/"),
        ]
        parts += [
            _text("text", left + PAD, top + PAD + 14 + LINE * row, line)
            for row, line in enumerate(lines, 1)
        ]
        for place, number in enumerate(reversed(steps.get(room, []))):
            parts.append(_badge(left + width - PAD - 8 - 22 * place, top + PAD + 6, number))
        left += width + GAP
    return parts, height


def _imports(top: int, bottom: int) -> str:
    """The arrow beside the layers, which says what they mean."""
    x, middle = MARGIN + 12, (top + bottom) / 2
    return (
        f'<path class="way" d="M{x} {top}V{bottom - 2}" marker-end="url(#tip)"/>\n'
        f'<text class="side" x="{x - 8}" y="{middle:g}" text-anchor="middle" '
        f'transform="rotate(-90 {x - 8} {middle:g})">imports go down only</text>'
    )


def _badge(x: float, y: float, number: int) -> str:
    return (
        f'<circle class="badge" cx="{x:g}" cy="{y:g}" r="9"/>'
        f'<text class="number" x="{x:g}" y="{y + 4:g}" text-anchor="middle">{number}</text>'
    )


def _text(kind: str, x: float, y: float, text: str, anchor: str = "start") -> str:
    return f'<text class="{kind}" x="{x:g}" y="{y:g}" text-anchor="{anchor}">{escape(text)}</text>'
