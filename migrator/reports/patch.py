# SPDX-License-Identifier: Apache-2.0
"""Renders file changes as one patch that `git apply` takes. Bytes in, bytes out."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence

from migrator.files.changes import FileChange
from migrator.reports.changed_lines import Block, Cut, blocks_of, hunks_of, split_lines


def unified_patch(changes: Iterable[FileChange]) -> bytes:
    """One patch for all changes, in the order given; it keeps CRLF, encodings and missing ends.

    Files that do not differ are left out: git takes a patch without hunks for garbage.
    """
    return b"".join(
        part for change in changes if change.before != change.after for part in _file(change)
    )


def rule_patches(cuts: Sequence[Cut]) -> Iterator[tuple[str, bytes]]:
    """Rule by rule, in the order of their codes: what it changes, as a patch.

    Each patch starts from what those before it leave, so `git apply` takes them one by one, or all
    at once: together they give what `unified_patch` gives.
    """
    codes = sorted({cut.rule(block) for cut in cuts for block in cut.blocks})
    for code in codes:
        parts = [part for cut in cuts for part in _file_of_rule(cut, code)]
        yield code, b"".join(parts)


def _file_of_rule(cut: Cut, code: str) -> Iterator[bytes]:
    """The patch of one rule for one file, after those of the rules before it."""
    before: list[bytes] = []
    after: list[bytes] = []
    blocks: list[Block] = []
    done = 0
    for block in cut.blocks:
        same = cut.before[done : block.start]
        before += same
        after += same
        old, new = cut.before[block.start : block.stop], cut.after[block.new_start : block.new_stop]
        place = len(before), len(after)
        rule = cut.rule(block)
        before += new if rule < code else old
        after += new if rule <= code else old
        if rule == code:
            blocks.append(Block(place[0], len(before), place[1], len(after)))
        done = block.stop
    if blocks:
        before += cut.before[done:]
        yield from _header(cut.change)
        yield from _hunks(before, after, blocks)


def _file(change: FileChange) -> Iterator[bytes]:
    before, after = split_lines(change.before or b""), split_lines(change.after)
    yield from _header(change)
    yield from _hunks(before, after, blocks_of(before, after))


def _header(change: FileChange) -> Iterator[bytes]:
    old, new = _quoted(f"a/{change.path}"), _quoted(f"b/{change.path}")
    yield b"diff --git %s %s\n" % (old, new)
    if change.before is None:
        yield b"new file mode %s\n" % (b"100755" if change.mode & 0o100 else b"100644")
    yield b"--- %s\n" % (b"/dev/null" if change.before is None else old)
    yield b"+++ %s\n" % new


def _hunks(before: list[bytes], after: list[bytes], blocks: Sequence[Block]) -> Iterator[bytes]:
    for hunk in hunks_of(blocks, len(before)):
        old, new = _range(hunk.start, hunk.stop), _range(hunk.new_start, hunk.new_stop)
        yield b"@@ -%s +%s @@\n" % (old, new)
        done = hunk.start
        for block in hunk.blocks:
            yield from _lines(b" ", before[done : block.start])
            yield from _lines(b"-", before[block.start : block.stop])
            yield from _lines(b"+", after[block.new_start : block.new_stop])
            done = block.stop
        yield from _lines(b" ", before[done : hunk.stop])


def _range(start: int, stop: int) -> bytes:
    length = stop - start
    first = start + 1 if length else start
    return b"%d" % first if length == 1 else b"%d,%d" % (first, length)


def _lines(sign: bytes, lines: list[bytes]) -> Iterator[bytes]:
    for line in lines:
        yield sign + line
        if not line.endswith(b"\n"):
            yield b"\n\\ No newline at end of file\n"


def _quoted(path: str) -> bytes:
    """A path as git writes it: in C quotes where it has odd bytes."""
    data = path.encode("utf-8", "surrogateescape")
    if not re.search(rb'[\x00-\x1f\x7f-\xff"\\]', data):
        return data
    escapes = {0x22: b'\\"', 0x5C: b"\\\\", 0x09: b"\\t", 0x0A: b"\\n"}
    parts = (
        escapes.get(b) or (b"\\%03o" % b if b < 0x20 or b >= 0x7F else bytes([b])) for b in data
    )
    return b'"%s"' % b"".join(parts)
