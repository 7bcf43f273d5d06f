# SPDX-License-Identifier: Apache-2.0
"""Three-way merge of lines: hunks that are clean, and hunks on which both sides disagree.

The merge itself is merge3's. It is given a matcher that anchors on lines which are unique in both
texts (the patience order), because the standard library's takes lines that occur often, blank ones
and brackets, for junk or for anchors, and either breaks hunks apart in the middle of a function.
"""

from __future__ import annotations

import bisect
import difflib
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from merge3 import Merge3

T = TypeVar("T", str, bytes)
Lines = tuple[bytes, ...]
"""Lines with their ends; only a line feed ends one, as git counts."""

QUADRATIC = 4_000_000
"""Product of two lengths from which on popular lines are no anchors, to bound the time."""
NEAR = 3
"""Conflicts with no more lines than these between them are shown as one, as git shows them."""


@dataclass(frozen=True, slots=True)
class Clean:
    """Lines on which the merge is decided."""

    lines: Lines


@dataclass(frozen=True, slots=True)
class Conflict:
    """Lines that both sides changed in different ways."""

    base: Lines
    ours: Lines
    theirs: Lines


Hunk = Clean | Conflict


def split_lines(data: bytes) -> Lines:
    """Lines with their ends, where only a line feed ends one."""
    return tuple(re.findall(rb"[^\n]*\n|[^\n]+\Z", data))


class Matcher(Generic[T]):
    """Finds the lines that two texts have in common; a `SequenceMatcher` for merge3.

    Args:
        isjunk: ignored; it is in the interface.
        a: one sequence.
        b: the other one.
        autojunk: ignored as well.
    """

    def __init__(
        self,
        isjunk: Callable[[T], bool] | None = None,
        a: Sequence[T] = (),
        b: Sequence[T] = (),
        autojunk: bool = True,
    ) -> None:
        self._a: Sequence[T] = a
        self._b: Sequence[T] = b

    def get_matching_blocks(self) -> list[tuple[int, int, int]]:
        """Blocks (start in a, start in b, length), in order, with an empty one at the end."""
        blocks: list[tuple[int, int, int]] = []
        for i, j, n in self._matches(0, len(self._a), 0, len(self._b)):
            if blocks and blocks[-1][0] + blocks[-1][2] == i and blocks[-1][1] + blocks[-1][2] == j:
                i, j, n = blocks[-1][0], blocks[-1][1], blocks[-1][2] + n  # noqa: PLW2901
                blocks.pop()
            blocks.append((i, j, n))
        return [*blocks, (len(self._a), len(self._b), 0)]

    def _matches(self, alo: int, ahi: int, blo: int, bhi: int) -> Iterator[tuple[int, int, int]]:
        # A list of ranges to do, in place of recursion: texts may have thousands of anchors.
        todo = [(alo, ahi, blo, bhi, False)]
        while todo:
            alo, ahi, blo, bhi, known = todo.pop()
            if known:
                yield alo, blo, ahi - alo
                continue
            head = _common(self._a, self._b, alo, ahi, blo, bhi, 1)
            if head:
                yield alo, blo, head
                alo, blo = alo + head, blo + head
            tail = _common(self._a, self._b, alo, ahi, blo, bhi, -1)
            if tail:
                todo.append((ahi - tail, ahi, bhi - tail, bhi, True))
                ahi, bhi = ahi - tail, bhi - tail
            if alo == ahi or blo == bhi:
                continue
            anchors = _anchors(self._a[alo:ahi], self._b[blo:bhi])
            if not anchors:
                yield from self._plain(alo, ahi, blo, bhi)
                continue
            ranges = []
            start_a, start_b = alo, blo
            for i, j in anchors:
                ranges.append((start_a, alo + i, start_b, blo + j, False))
                ranges.append((alo + i, alo + i + 1, blo + j, blo + j + 1, True))
                start_a, start_b = alo + i + 1, blo + j + 1
            ranges.append((start_a, ahi, start_b, bhi, False))
            todo.extend(reversed(ranges))

    def _plain(self, alo: int, ahi: int, blo: int, bhi: int) -> Iterator[tuple[int, int, int]]:
        matcher = difflib.SequenceMatcher(
            None,
            self._a[alo:ahi],
            self._b[blo:bhi],
            autojunk=(ahi - alo) * (bhi - blo) > QUADRATIC,
        )
        for i, j, n in matcher.get_matching_blocks()[:-1]:
            yield alo + i, blo + j, n


def _common(
    a: Sequence[T], b: Sequence[T], alo: int, ahi: int, blo: int, bhi: int, step: int
) -> int:
    """How many lines two ranges share at their beginnings (step 1) or their ends (step -1)."""
    most = min(ahi - alo, bhi - blo)
    i, j = (alo, blo) if step == 1 else (ahi - 1, bhi - 1)
    count = 0
    while count < most and a[i] == b[j]:
        count, i, j = count + 1, i + step, j + step
    return count


def _anchors(a: Sequence[T], b: Sequence[T]) -> list[tuple[int, int]]:
    """Lines that occur once in each text, as the longest run of pairs that is in order in both."""
    once_a, once_b = _once(a), _once(b)
    pairs = [(i, once_b[line]) for line, i in once_a.items() if line in once_b]
    tops: list[int] = []
    at: list[int] = []
    before: list[int] = [-1] * len(pairs)
    for number, (_, j) in enumerate(pairs):
        pile = bisect.bisect_left(tops, j)
        if pile == len(tops):
            tops.append(j)
            at.append(number)
        else:
            tops[pile], at[pile] = j, number
        before[number] = at[pile - 1] if pile else -1
    chain: list[tuple[int, int]] = []
    number = at[-1] if at else -1
    while number >= 0:
        chain.append(pairs[number])
        number = before[number]
    return chain[::-1]


def _once(lines: Sequence[T]) -> dict[T, int]:
    counts = Counter(lines)
    return {line: i for i, line in enumerate(lines) if counts[line] == 1}


def merge_lines(base: Lines, ours: Lines, theirs: Lines) -> list[Hunk]:
    """Merge three texts line by line."""
    if theirs in (ours, base):
        return [Clean(ours)] if ours else []
    if ours == base:
        return [Clean(theirs)] if theirs else []
    hunks: list[Hunk] = []
    kinds: list[str] = []
    merge: Merge3[bytes] = Merge3(base, ours, theirs, sequence_matcher=Matcher)
    for group in merge.merge_groups():
        if group[0] == "conflict":
            found: list[Hunk] = refine(Conflict(*(tuple(part) for part in group[1:])))
        else:
            found = [Clean(tuple(group[1]))]
        for hunk in found:
            hunks.append(hunk)
            kinds.append(group[0])
    return _joined(hunks, kinds)


def refine(conflict: Conflict) -> list[Hunk]:
    """Take out of a conflict the lines at its ends that both sides have."""
    ours, theirs = conflict.ours, conflict.theirs
    head = _common(ours, theirs, 0, len(ours), 0, len(theirs), 1)
    tail = _common(ours, theirs, head, len(ours), head, len(theirs), -1)
    middle = Conflict(
        conflict.base, ours[head : len(ours) - tail], theirs[head : len(theirs) - tail]
    )
    parts: list[Hunk] = [Clean(ours[:head])] if head else []
    if middle.ours or middle.theirs:
        parts.append(middle)
    if tail:
        parts.append(Clean(ours[len(ours) - tail :]))
    return parts


def _joined(hunks: Sequence[Hunk], kinds: Sequence[str]) -> list[Hunk]:
    """Join conflicts that are a few untouched lines apart, and clean hunks with each other."""
    joined: list[Hunk] = []
    for number, hunk in enumerate(hunks):
        if (
            isinstance(hunk, Clean)
            and kinds[number] == "unchanged"
            and len(hunk.lines) <= NEAR
            and joined
            and isinstance(joined[-1], Conflict)
            and number + 1 < len(hunks)
            and isinstance(hunks[number + 1], Conflict)
        ):
            last = joined[-1]
            joined[-1] = Conflict(
                last.base + hunk.lines, last.ours + hunk.lines, last.theirs + hunk.lines
            )
        elif joined and type(joined[-1]) is type(hunk):
            joined[-1] = _together(joined[-1], hunk)
        else:
            joined.append(hunk)
    return joined


def _together(one: Hunk, other: Hunk) -> Hunk:
    if isinstance(one, Conflict) and isinstance(other, Conflict):
        return Conflict(one.base + other.base, one.ours + other.ours, one.theirs + other.theirs)
    assert isinstance(one, Clean)
    assert isinstance(other, Clean)
    return Clean(one.lines + other.lines)


def join(hunks: Iterable[Hunk]) -> list[Hunk]:
    """Hunks with neighbouring clean ones put together.

    One that was the end of its file may lack the end of its line, which it gets.
    """
    joined: list[Hunk] = []
    for hunk in hunks:
        if joined and isinstance(hunk, Clean) and isinstance(joined[-1], Clean):
            if hunk.lines:
                joined[-1] = Clean(_ended(joined[-1].lines, b"\n") + hunk.lines)
        elif not isinstance(hunk, Clean) or hunk.lines:
            joined.append(hunk)
    return joined


def conflicts(hunks: Iterable[Hunk]) -> int:
    """How many of the hunks are conflicts."""
    return sum(isinstance(hunk, Conflict) for hunk in hunks)


def render(hunks: Sequence[Hunk], *, with_base: bool = False) -> bytes:
    """The text of a merge, with git's own markers around what is in conflict.

    Args:
        hunks: the merge.
        with_base: put the base's lines between the two sides, as git's diff3 style does.
    """
    everything = [line for hunk in hunks for part in _parts(hunk) for line in part]
    end = b"\r\n" if everything and all(x.endswith(b"\r\n") for x in everything) else b"\n"
    text: list[bytes] = []
    for number, hunk in enumerate(hunks):
        last = number == len(hunks) - 1
        if isinstance(hunk, Clean):
            text += hunk.lines if last else _ended(hunk.lines, end)
            continue
        text.append(b"<<<<<<< ours" + end)
        text += _ended(hunk.ours, end)
        if with_base:
            text.append(b"||||||| base" + end)
            text += _ended(hunk.base, end)
        text.append(b"=======" + end)
        text += _ended(hunk.theirs, end)
        text.append(b">>>>>>> theirs" + end)
    return b"".join(text)


def _parts(hunk: Hunk) -> Iterator[Lines]:
    if isinstance(hunk, Clean):
        yield hunk.lines
    else:
        yield hunk.ours
        yield hunk.theirs


def _ended(lines: Lines, end: bytes) -> Lines:
    """The lines, the last one with an end."""
    if lines and not lines[-1].endswith(b"\n"):
        return (*lines[:-1], lines[-1] + end)
    return lines


def has_markers(data: bytes) -> bool:
    """Does a text still have a conflict that `render` marked?"""
    return (
        re.search(rb"^<<<<<<< ours\r?$", data, re.M) is not None
        and re.search(rb"^>>>>>>> theirs\r?$", data, re.M) is not None
    )


def lines_of(hunks: Iterable[Hunk]) -> Iterator[bytes]:
    """Every line that a merge shows, those of both sides of a conflict included."""
    for hunk in hunks:
        for part in _parts(hunk):
            yield from part


def side(hunks: Iterable[Hunk], which: str) -> bytes:
    """The text with every conflict decided for `ours` or for `theirs`."""
    chosen = [hunk.lines if isinstance(hunk, Clean) else getattr(hunk, which) for hunk in hunks]
    return b"".join(line for part in chosen for line in _ended(part, b"\n"))
