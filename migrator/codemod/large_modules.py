# SPDX-License-Identifier: Apache-2.0
"""A large module without the statements that no site can depend on.

Python's own parser takes two hundred times a module's text in memory. So a large module is parsed
in pieces, one after the other, and only those are kept that hold what a rule looks for, or define
a name which those use in turn. The rest is left out, as an outline does it.
"""

from __future__ import annotations

import ast
import re
from bisect import bisect_right
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass

from migrator.codemod.outline import Outline, footer, has_plain_lines
from migrator.files.tree import Definition

PIECES = "_left_out_"
_MARK = PIECES.encode()
_BEGINS = re.compile(rb"(?m)^(?!(?:else|elif|except|finally)\b)[@A-Za-z_\x80-\xff]")
"""Where a statement of a module may begin: at the start of a line, and with no word that goes on
with the one before."""
_CODING = re.compile(rb"(?:.*\n)?.*coding[:=]")
_ANYWHERE = re.compile(rb"\b(?:global|nonlocal)\b")


@dataclass(frozen=True, slots=True)
class Piece:
    """Statements of a module that follow each other, with what stands below them."""

    start: int
    """Where they begin in the text, in bytes."""
    stop: int
    """Where the last of them ends, comments that are indented below it included."""
    names: frozenset[str] | None
    """The names that they bind; None where they may do more."""


def pieces(data: bytes, parse: Callable[[bytes], ast.Module | None]) -> list[Piece] | None:
    """A module in pieces, or None where it is not certain where they are.

    A text that begins where a statement does, and parses, ends where a statement ends: in no
    string, no parentheses and no block that goes on. So no more than that has to be known of
    Python to find the next piece, and where all of them parse, so does the module.

    Args:
        data: the module's source.
        parse: Python's parser; None where it refuses a text.
    """
    if not has_plain_lines(data) or _CODING.match(data) or _MARK in data:
        return None
    starts = [*dict.fromkeys([0, *(match.start() for match in _BEGINS.finditer(data))]), len(data)]
    found: list[Piece] = []
    at, end = 0, len(starts) - 1
    while at < end:
        count = 1
        while (parsed := parse(data[starts[at] : starts[at + count]])) is None:
            if at + count == end:
                return None
            # Twice as many each time: what is read again is no more than what is read once.
            count = min(2 * count, end - at)
        text = data[starts[at] : starts[at + count]]
        found.append(_piece(starts[at], text, parsed))
        at += count
    return found


def _piece(start: int, text: bytes, parsed: ast.Module) -> Piece:
    lines = text.splitlines(keepends=True)
    last = parsed.body[-1] if parsed.body else None
    stop = (last.end_lineno or last.lineno) if last is not None else 0
    if isinstance(last, Definition):
        stop = footer(lines, stop, 0)
    size = sum(map(len, lines[:stop]))
    names: set[str] = set()
    for statement in parsed.body:
        if isinstance(statement, Definition):
            names.add(statement.name)
        elif isinstance(statement, ast.Assign) and all(
            isinstance(target, ast.Name) for target in statement.targets
        ):
            names.update(target.id for target in statement.targets if isinstance(target, ast.Name))
        else:
            return Piece(start, start + size, None)
    plain = all(name.isascii() for name in names) and text.endswith(b"\n")
    known = names and plain and not _ANYWHERE.search(text)
    return Piece(start, start + size, frozenset(names) if known else None)


def without_others(
    data: bytes, found: Sequence[Piece], wanted: Iterable[bytes], names: Collection[str]
) -> Outline:
    """A module without the pieces that nothing in the others can depend on.

    Args:
        data: the module's source.
        found: its pieces.
        wanted: regular expressions; each piece in which one matches is kept.
        names: names of which all definitions are kept.
    """
    binders: dict[str, list[int]] = {}
    for n, piece in enumerate(found):
        for name in piece.names or ():
            binders.setdefault(name, []).append(n)
    # The first piece has the docstring.
    new = {0, *(n for name in names for n in binders.get(name, ()))}
    new.update(n for n, piece in enumerate(found) if piece.names is None)
    starts = [piece.start for piece in found]
    for text in wanted:
        new.update(bisect_right(starts, m.start()) - 1 for m in re.finditer(text, data))
    kept: set[int] = set()
    while new:
        kept |= new
        texts_of_new = (data[found[n].start : found[n].stop] for n in new)
        said = {word.decode() for text in texts_of_new for word in re.findall(rb"\w+", text)}
        new = {n for name in said & binders.keys() for n in binders[name]} - kept
    runs: list[tuple[int, int]] = []
    for n, piece in enumerate(found):
        if n not in kept:
            start = runs.pop()[0] if n - 1 not in kept else piece.start
            runs.append((start, piece.stop))
    parts: list[bytes] = []
    texts: list[bytes] = []
    at = 0
    for start, stop in runs:
        end = b"\r\n" if data.endswith(b"\r\n", start, stop) else b"\n"
        parts += [data[at:start], _MARK, b"%d_" % len(texts), end]
        texts.append(data[start:stop])
        at = stop
    return Outline(b"".join([*parts, data[at:]]), tuple(texts), _MARK)
