# SPDX-License-Identifier: Apache-2.0
"""Three-way merge of one file. Pure: bytes in, bytes and what is in conflict out.

Python is merged by its definitions (`structure`) and by lines (`lines`). Of the two, the one with
fewer conflicts is taken that holds: no line that a side added may be missing, it has to be Python,
and no definition may be there twice that was there once. With every conflict decided for one side
the last two are so as well if that can be had. Where neither holds, both sides are shown in one
conflict.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from migrator.updating import structure
from migrator.updating.lines import (
    Conflict,
    Hunk,
    Lines,
    conflicts,
    lines_of,
    merge_lines,
    refine,
    render,
    side,
    split_lines,
)

BINARY_PROBE = 8000
"""First bytes in which a NUL makes a file binary, as git judges."""

How = Literal["same", "ours", "theirs", "structure", "lines", "binary"]
"""Which side was taken, or how the two were merged."""


@dataclass(frozen=True, slots=True)
class Merge:
    """A merged file."""

    data: bytes
    """The text, with markers around what is in conflict; the engineer's bytes of a binary file."""
    conflicts: int
    how: How
    reason: str = ""
    """What there is to say about the conflict beside its markers."""


def is_binary(data: bytes) -> bool:
    """Is this no text, in git's judgement?"""
    return b"\0" in data[:BINARY_PROBE]


def merge_file(
    path: str,
    base: bytes | None,
    ours: bytes,
    theirs: bytes,
    *,
    pristine: bytes | None = None,
    with_base: bool = False,
) -> Merge:
    """Merge the engineer's version of a file with that of the next release.

    Args:
        path: the file's path; its ending says whether it is Python.
        base: what both were made from; None where both added the file.
        ours: the engineer's version.
        theirs: that of the next release, migrated.
        pristine: given where it is not sure that the tool once wrote `base`: the file before the
            migration. Lines of `ours` that are not in it are then kept or put in conflict,
            whatever `base` says.
        with_base: show the base's lines in conflicts.
    """
    if ours == theirs:
        return Merge(ours, 0, "same")
    if theirs == base:
        return Merge(ours, 0, "ours")
    if ours == base and pristine is None:
        return Merge(theirs, 0, "theirs")
    if any(is_binary(version) for version in (base or b"", ours, theirs)):
        return Merge(ours, 1, "binary", "binary; both sides changed it, and yours is kept")
    ends = of_base, of_ours, of_theirs = [_line_ends(version) for version in (base, ours, theirs)]
    if len(set().union(*ends)) > 1 and all(len(of_one) <= 1 for of_one in ends):
        # The lines of one side end in another way: they are compared without that.
        (end,) = of_ours if of_theirs <= of_base else of_theirs
        found = merge_file(
            path,
            None if base is None else _unix(base),
            _unix(ours),
            _unix(theirs),
            pristine=None if pristine is None else _unix(pristine),
            with_base=with_base,
        )
        return replace(found, data=found.data.replace(b"\n", end))
    return _merge_text(path, base, ours, theirs, pristine, with_base)


def _line_ends(data: bytes | None) -> set[bytes]:
    """The ways in which lines of a text end."""
    return set(re.findall(rb"\r?\n", data or b""))


def _unix(data: bytes) -> bytes:
    return data.replace(b"\r\n", b"\n")


def _merge_text(
    path: str,
    base: bytes | None,
    ours: bytes,
    theirs: bytes,
    pristine: bytes | None,
    with_base: bool,
) -> Merge:
    b, o, t = split_lines(base or b""), split_lines(ours), split_lines(theirs)
    is_python = path.endswith(".py") and all(structure.parse(x) is not None for x in (ours, theirs))
    candidates: list[tuple[How, list[Hunk], Counter[bytes]]] = []
    # What both wrote from nothing is one file by chance: its parts are not put together unseen.
    if is_python and base is not None:
        found = structure.merge(b, o, t)
        if found is not None:
            candidates.append(("structure", found.hunks, found.rewritten))
    candidates.append(("lines", merge_lines(b, o, t), Counter()))
    candidates.sort(key=lambda candidate: conflicts(candidate[1]))  # stable: structure goes first
    # Beside a conflict there may be text that is no Python even when it is decided, or a definition
    # twice; where there is not, it is easier to decide.
    for how, hunks, rewritten, lenient in [
        (*candidate, lenient) for lenient in (False, True) for candidate in candidates
    ]:
        sound = not is_python or (_is_python(hunks) and not _doubles(hunks, o, t))
        if (
            (sound or (lenient and conflicts(hunks)))
            and not missing_lines(b, o, t, hunks, rewritten)
            and (pristine is None or not _forgets(split_lines(pristine), o, hunks))
        ):
            return Merge(render(hunks, with_base=with_base), conflicts(hunks), how)
    whole = refine(Conflict(b, o, t))
    reason = "a merge by definitions or by lines would not be right; both versions are shown whole"
    return Merge(render(whole, with_base=with_base), conflicts(whole), "lines", reason)


def _is_python(hunks: Sequence[Hunk]) -> bool:
    """Does the merge parse, whichever side its conflicts are decided for?"""
    sides = ("ours", "theirs") if conflicts(hunks) else ("ours",)
    return all(structure.parse(side(hunks, which)) is not None for which in sides)


def missing_lines(
    base: Lines, ours: Lines, theirs: Lines, hunks: Sequence[Hunk], rewritten: Counter[bytes]
) -> Counter[bytes]:
    """Lines that one side added and that the merge does not show, blank ones aside.

    A line that both sides added may be there once. Order does not count: definitions move.
    `rewritten` lines are not missed.
    """
    # What counts is the text: a line that runs into the next one is not there.
    result = split_lines(render(hunks))
    b, o, t, shown = (_count(lines) for lines in (base, ours, theirs, result))
    missing: Counter[bytes] = Counter()
    for line in o.keys() | t.keys():
        added = o[line] - b[line], t[line] - b[line]
        # What both added is wanted as often as the one that added more of it has it.
        wanted = b[line] + max(added) + min(*added, 0)
        short = wanted - shown[line] - rewritten[line.strip()]
        if max(added) > 0 and short > 0:
            missing[line] = short
    return missing


def _count(lines: Iterable[bytes]) -> Counter[bytes]:
    return Counter(text for line in lines if (text := line.strip()))


def _forgets(pristine: Lines, ours: Lines, hunks: Sequence[Hunk]) -> bool:
    """Would lines be gone that the engineer's file has and the pristine one has not?"""
    known, shown = set(_count(pristine)), set(_count(lines_of(hunks)))
    return not set(_count(ours)) <= known | shown


def _doubles(hunks: Sequence[Hunk], ours: Lines, theirs: Lines) -> bool:
    """Is something defined more often than on either side?"""
    merged = split_lines(side(hunks, "ours"))
    twice = structure.defined_twice(merged)
    if not twice:
        return False
    before = structure.defined_twice(ours) | structure.defined_twice(theirs)
    return any(count > before[name] for name, count in twice.items())
