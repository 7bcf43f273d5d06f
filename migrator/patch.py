# SPDX-License-Identifier: Apache-2.0
"""Renders file changes as one patch that `git apply` takes. Bytes in, bytes out."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator

from migrator.plan import FileChange

CONTEXT = 3
"""Unchanged lines around a hunk, as git has them."""


def unified_patch(changes: Iterable[FileChange]) -> bytes:
    """One patch for all changes, in the order given; it keeps CRLF, encodings and missing ends.

    Files that do not differ are left out: git takes a patch without hunks for garbage.
    """
    return b"".join(
        part for change in changes if change.before != change.after for part in _file(change)
    )


def _file(change: FileChange) -> Iterator[bytes]:
    old, new = _quoted(f"a/{change.path}"), _quoted(f"b/{change.path}")
    yield b"diff --git %s %s\n" % (old, new)
    if change.before is None:
        yield b"new file mode %s\n" % (b"100755" if change.mode & 0o100 else b"100644")
    yield b"--- %s\n" % (b"/dev/null" if change.before is None else old)
    yield b"+++ %s\n" % new
    yield from _hunks(_split(change.before or b""), _split(change.after))


def _split(data: bytes) -> list[bytes]:
    """Lines with their ends, where only a line feed ends one: that is how git counts."""
    return re.findall(rb"[^\n]*\n|[^\n]+\Z", data)


def _hunks(before: list[bytes], after: list[bytes]) -> Iterator[bytes]:
    # Popular lines are no anchors (autojunk): a long file with many blank lines would take seconds.
    matcher = difflib.SequenceMatcher(None, before, after)
    for group in matcher.get_grouped_opcodes(CONTEXT):
        first, last = group[0], group[-1]
        yield b"@@ -%s +%s @@\n" % (_range(first[1], last[2]), _range(first[3], last[4]))
        for tag, i1, i2, j1, j2 in group:
            if tag == "equal":
                yield from _lines(b" ", before[i1:i2])
                continue
            yield from _lines(b"-", before[i1:i2])
            yield from _lines(b"+", after[j1:j2])


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
