# SPDX-License-Identifier: Apache-2.0
"""Which lines of a file a change touches, and which of its sites each of them belongs to.

Patches, reports and the review page all cut a change here, so they show the same lines.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import pairwise

from migrator.codemod.engine import Record, Span
from migrator.files.changes import FileChange
from migrator.planning.plan import Plan

CONTEXT = 3
"""Unchanged lines around a hunk, as git has them."""


@dataclass(frozen=True, slots=True)
class Block:
    """Lines that differ: `before[start:stop]` became `after[new_start:new_stop]`, from 0 on."""

    start: int
    stop: int
    new_start: int
    new_stop: int
    owners: tuple[int, ...] = ()
    """Indices of the sites that the block belongs to; a site with the fewest lines comes first."""


@dataclass(frozen=True, slots=True)
class Hunk:
    """Blocks that are shown together, with the unchanged lines around them; ranges as in Block."""

    start: int
    stop: int
    new_start: int
    new_stop: int
    blocks: tuple[Block, ...]


def split_lines(data: bytes) -> list[bytes]:
    """Lines with their ends, where only a line feed ends one: that is how git counts."""
    return re.findall(rb"[^\n]*\n|[^\n]+\Z", data)


def blocks_of(
    before: Sequence[bytes], after: Sequence[bytes], sites: Sequence[Span] = ()
) -> list[Block]:
    """What differs between two files, in order.

    Args:
        before: the file's lines.
        after: the same of the emitted file.
        sites: lines of the new code of each site in the emitted file. A block belongs to those
            that it overlaps, or else to the nearest. One that only replaces lines one by one is
            cut where it goes from a site to the next.
    """
    found: list[Block] = []
    for block in _differences(tuple(before), tuple(after)):
        found += _cut(_owned(block, sites), sites)
    return found


@lru_cache(maxsize=64)
def _differences(before: tuple[bytes, ...], after: tuple[bytes, ...]) -> tuple[Block, ...]:
    """What differs, whoever it belongs to: the log and the patch ask for the same."""
    # Popular lines are no anchors (autojunk): a long file with many blank lines would take seconds.
    codes = difflib.SequenceMatcher(None, before, after).get_opcodes()
    return tuple(Block(i1, i2, j1, j2) for tag, i1, i2, j1, j2 in codes if tag != "equal")


def _owned(block: Block, sites: Sequence[Span]) -> Block:
    first, last = block.new_start + 1, max(block.new_stop, block.new_start + 1)

    def distance(index: int) -> int:
        site = sites[index]
        return max(site.line - last, first - site.end_line, 0)

    def order(index: int) -> tuple[int, int]:
        return sites[index].end_line - sites[index].line, index

    near = min((distance(index) for index in range(len(sites))), default=0)
    owners = sorted((i for i in range(len(sites)) if distance(i) == near), key=order)
    return replace(block, owners=tuple(owners if near == 0 else owners[:1]))


def _cut(block: Block, sites: Sequence[Span]) -> Iterator[Block]:
    """Cut a block where the next site begins, if its lines go one to one."""
    starts = sorted({sites[owner].line - 1 for owner in block.owners})
    cuts = [start for start in starts if block.new_start < start < block.new_stop]
    if not cuts or block.stop - block.start != block.new_stop - block.new_start:
        yield block
        return
    shift = block.start - block.new_start
    for start, stop in pairwise([block.new_start, *cuts, block.new_stop]):
        part = Block(start + shift, stop + shift, start, stop)
        inside = [i for i in block.owners if sites[i].line <= stop and sites[i].end_line > start]
        yield replace(part, owners=tuple(inside or block.owners))


def hunks_of(blocks: Sequence[Block], length: int, apart: int = 2 * CONTEXT) -> list[Hunk]:
    """Group blocks, as git does where `apart` is left out.

    Args:
        blocks: in order.
        length: lines of the file before.
        apart: unchanged lines between two blocks that are still shown together.
    """
    groups: list[list[Block]] = []
    for block in blocks:
        if groups and block.start - groups[-1][-1].stop <= apart:
            groups[-1].append(block)
        else:
            groups.append([block])
    return [_hunk(tuple(group), length) for group in groups]


def _hunk(blocks: tuple[Block, ...], length: int) -> Hunk:
    first, last = blocks[0], blocks[-1]
    lead = min(CONTEXT, first.start)
    trail = min(CONTEXT, length - last.stop)
    return Hunk(
        first.start - lead, last.stop + trail, first.new_start - lead, last.new_stop + trail, blocks
    )


@dataclass(frozen=True, slots=True)
class Cut:
    """A changed file, cut into blocks that say which record they belong to."""

    change: FileChange
    records: tuple[Record, ...]
    """The records that changed something in this file."""
    before: list[bytes]
    after: list[bytes]
    blocks: tuple[Block, ...]
    """Their `owners` are indices into `records`."""

    def rule(self, block: Block) -> str:
        """Code of the rule that a block belongs to."""
        return self.records[block.owners[0]].rule

    def lines(self, block: Block) -> tuple[int, int]:
        """How many lines a block adds, and how many it removes."""
        return block.new_stop - block.new_start, block.stop - block.start

    def moved(self, span: Span) -> Span:
        """Where lines of the file before are in the emitted one; of lost ones, what is there."""
        return Span(self.line(span.line), self.line(span.end_line))

    def line(self, line: int) -> int:
        """The new number of a line from 1 on; of one that is gone, that of what replaced it."""
        shift = 0
        for block in self.blocks:
            if line <= block.start:
                break
            if line <= block.stop:
                return max(min(block.new_start + line - block.start, block.new_stop), 1)
            shift = block.new_stop - block.stop
        return line + shift


def cut_plan(plan: Plan) -> list[Cut]:
    """Every file that a plan adds or rewrites, cut by the records of the plan."""
    records: dict[str, list[Record]] = {}
    for record in plan.records:
        if record.after is not None:
            records.setdefault(record.path, []).append(record)
    return [cut(change, records.get(change.path, ())) for change in plan.files]


def cut(change: FileChange, records: Iterable[Record]) -> Cut:
    """One changed file, cut by the records that changed something in it."""
    owners = tuple(record for record in records if record.after is not None)
    before, after = split_lines(change.before or b""), split_lines(change.after)
    sites = [record.after for record in owners if record.after is not None]
    return Cut(change, owners, before, after, tuple(blocks_of(before, after, sites)))


def place_of(record: Record, file: Cut | None, *, emitted: bool) -> Span | None:
    """Lines of a record in the tree that its reader has: the source, or the `emitted` one.

    None for a file that is added, in a tree that does not have it yet.

    Args:
        record: any record of a plan.
        file: the record's file, if the plan changes it.
        emitted: are the changes made?
    """
    if not emitted:
        return record.before
    if record.after is not None or record.before is None:
        return record.after
    return record.before if file is None else file.moved(record.before)
