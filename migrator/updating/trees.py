# SPDX-License-Identifier: Apache-2.0
"""Three-way merge of whole trees: files that were added, deleted, renamed and edited on two sides.

Base is what the tool once wrote, ours is the engineer's tree, theirs what the tool writes for the
next release. Only read here; the result says what to put and what to remove in the engineer's tree.
"""

from __future__ import annotations

import enum
import os
import re
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from migrator.files.changes import FileChange
from migrator.files.tree import LOG_NAME, SUMMARY_NAME, Entry, Tree
from migrator.messages.errors import MigrateError
from migrator.updating.lines import has_markers
from migrator.updating.merge import is_binary, merge_file
from migrator.updating.structure import parse

LIKE, LIKE_ELSEWHERE = 0.5, 0.6
"""Share of two files' text that has to be the same for a rename, with and without the same name."""
SMALL = 80
"""Bytes below which two files are alike by chance, such as those of an empty package."""
COMMON = 8
"""Files that may share a line for it to tell one of them from the others."""
_GENERATED = re.compile(r"PKG-INFO|vllm/_version\.py|[^/]+\.egg-info/.*")


@dataclass(frozen=True, slots=True)
class Item:
    """What is at a path: a regular file, or a link with its target as data."""

    data: bytes
    mode: int = 0o644
    """Permission bits; of those only the owner's execution is compared."""
    link: bool = False

    @property
    def executable(self) -> bool:
        """May its owner run it?"""
        return bool(self.mode & 0o100)

    def like(self, other: Item | None) -> bool:
        """Is the other one the same to git?"""
        return (
            other is not None
            and self.data == other.data
            and self.link == other.link
            and (self.link or self.executable == other.executable)
        )


class Version:
    """A tree with some of its files changed, read when it is asked for.

    Args:
        tree: the tree.
        changes: files to see in place of the tree's, or beside them.
        leave_out: paths that are not to be seen.
    """

    def __init__(
        self,
        tree: Tree,
        changes: Iterable[FileChange] = (),
        leave_out: Collection[str] = (),
    ) -> None:
        self._tree = tree
        self._changes: dict[str, bytes] = {}
        hidden = {LOG_NAME, SUMMARY_NAME, *leave_out}
        self.entries: dict[str, Entry] = {
            entry.path: entry for entry in tree.entries() if entry.path not in hidden
        }
        for change in changes:
            self.put(change.path, change.after, change.mode)

    def put(self, path: str, data: bytes | None, mode: int = 0o644) -> None:
        """Let a file have other bytes; None takes it away."""
        if data is None:
            self.entries.pop(path, None)
            self._changes.pop(path, None)
            return
        there = self.entries.get(path)
        if there is None or there.link is not None:
            self.entries[path] = Entry(path, mode)
        self._changes[path] = data

    def add(self, path: str, item: Item) -> None:
        """Let something be there that the tree does not have on disk."""
        link = os.fsdecode(item.data) if item.link else None
        self.entries[path] = Entry(path, item.mode, link)
        self._changes[path] = item.data

    def item(self, path: str) -> Item | None:
        """What is at a path; None where there is nothing.

        Raises:
            MigrateError: it cannot be read.
        """
        entry = self.entries.get(path)
        if entry is None:
            return None
        if entry.link is not None:
            return Item(entry.link.encode("utf-8", "surrogateescape"), entry.mode, link=True)
        data = self._changes.get(path)
        if data is None:
            data = self._tree.read(path)
        if data is None:
            # To take it for a file that is not there would be to delete it.
            raise MigrateError(f"{path} in {self._tree.name} cannot be read; make it readable")
        return Item(data, entry.mode)


class Fate(enum.Enum):
    """What became of a file."""

    CONFLICT = "conflict"
    MERGED = "merged"
    KEPT = "kept"
    ADDED_BY_HAND = "added by hand"
    DELETED_BY_HAND = "deleted by hand"
    RENAMED_BY_HAND = "renamed by hand"
    UPDATED = "updated"
    ADDED = "added upstream"
    DELETED = "deleted upstream"
    RENAMED = "renamed upstream"


UPSTREAM = frozenset({Fate.UPDATED, Fate.ADDED, Fate.DELETED, Fate.RENAMED})
"""Fates of files that nobody had touched by hand."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one file, and why."""

    path: str
    """Where it is now, or was, where it is deleted."""
    fate: Fate
    reason: str = ""
    was: str | None = None
    """Its path before, where it was renamed."""
    conflicts: int = 0
    """Places in the file that are in conflict; 1 where the whole file is."""
    marked: bool = False
    """Are the conflicts marked in the text?"""
    stages: tuple[Item | None, Item | None, Item | None] = (None, None, None)
    """For a conflict: base, ours, theirs, as git's index has them."""


@dataclass
class TreeMerge:
    """The merged tree, told as what changes in the engineer's."""

    puts: dict[str, Item] = field(default_factory=dict)
    removals: set[str] = field(default_factory=set)
    outcomes: list[Outcome] = field(default_factory=list)
    places: dict[str, str | None] = field(default_factory=dict)
    """Files of the next release that are elsewhere in the tree → where; None: nowhere."""

    def of(self, *fates: Fate) -> list[Outcome]:
        """The files with one of these fates."""
        return [outcome for outcome in self.outcomes if outcome.fate in fates]

    @property
    def conflicts(self) -> list[Outcome]:
        """The files in conflict."""
        return self.of(Fate.CONFLICT)


@dataclass
class _Cell:
    """One file through the three versions."""

    target: str
    base: Item | None
    ours: Item | None
    theirs: Item | None
    base_path: str | None = None
    ours_path: str | None = None
    theirs_path: str | None = None

    @property
    def renamed_by_hand(self) -> bool:
        return self.base_path is not None and self.ours_path not in (None, self.base_path)

    @property
    def renamed_upstream(self) -> bool:
        return self.base_path is not None and self.theirs_path not in (None, self.base_path)


def merge_trees(
    base: Version,
    ours: Version,
    theirs: Version,
    *,
    unsure: Mapping[str, bytes] | None = None,
    pristine: Mapping[str, bytes] | None = None,
    with_base: bool = False,
) -> TreeMerge:
    """Merge three versions of a tree.

    Args:
        base: what the tool wrote.
        ours: the engineer's tree, made from that.
        theirs: what the tool writes for the next release.
        unsure: files of which `base` may not be what the tool once wrote → their pristine bytes;
            no line of the engineer's is dropped there, whatever `base` says.
        pristine: files of the next release that the tool changes and that are others than in the
            release before → their bytes without the tool's changes. Who has those, as after a
            rebase by hand, has nothing of their own there.
        with_base: show the base's lines in conflicts.
    """
    merged = TreeMerge()
    cells = _cells(base, ours, theirs)
    taken: dict[str, Item] = {}
    for target in sorted(cells):
        first, *others = cells[target]
        item, outcome = _merge_cell(first, unsure or {}, pristine or {}, with_base)
        for other in others:
            item, outcome = _collide(target, item, outcome, other, with_base)
        if item is not None:
            taken[target] = item
        for cell in cells[target]:
            if cell.theirs_path is not None and (item is None or cell.theirs_path != target):
                merged.places[cell.theirs_path] = None if item is None else target
        if outcome is not None:
            merged.outcomes.append(outcome)
    _untangle(taken, merged, ours)
    for path, item in taken.items():
        mine = ours.item(path)
        if not item.like(mine):
            merged.puts[path] = item
    merged.removals = {path for path in ours.entries if path not in taken}
    merged.outcomes.sort(key=lambda outcome: (outcome.path, outcome.fate.value))
    return merged


def _cells(base: Version, ours: Version, theirs: Version) -> dict[str, list[_Cell]]:
    by_hand, upstream = find_renames(base, ours), find_renames(base, theirs)
    cells: dict[str, list[_Cell]] = defaultdict(list)
    for path in base.entries:
        at_ours = by_hand.get(path, path if path in ours.entries else None)
        at_theirs = upstream.get(path, path if path in theirs.entries else None)
        moved = at_ours if at_ours != path else at_theirs
        target = moved or at_ours or at_theirs
        if target is None:
            continue
        cells[target].append(
            _Cell(
                target,
                base.item(path),
                ours.item(at_ours) if at_ours else None,
                theirs.item(at_theirs) if at_theirs else None,
                path,
                at_ours,
                at_theirs,
            )
        )
    new_ours = ours.entries.keys() - base.entries.keys() - set(by_hand.values())
    new_theirs = theirs.entries.keys() - base.entries.keys() - set(upstream.values())
    for path in sorted(new_ours | new_theirs):
        cells[path].append(
            _Cell(
                path,
                None,
                ours.item(path) if path in new_ours else None,
                theirs.item(path) if path in new_theirs else None,
                None,
                path if path in new_ours else None,
                path if path in new_theirs else None,
            )
        )
    return cells


def _merge_cell(
    cell: _Cell,
    unsure: Mapping[str, bytes],
    pristine: Mapping[str, bytes],
    with_base: bool,
) -> tuple[Item | None, Outcome | None]:
    """The merged file and what to say of it; None where there is nothing (to say)."""
    if _GENERATED.fullmatch(cell.target):
        return _generated(cell)
    if cell.ours is None:
        return _without_ours(cell)
    if cell.theirs is None:
        return _without_theirs(cell)
    if not cell.ours.link and pristine.get(cell.theirs_path or "") == cell.ours.data:
        item = replace(cell.theirs, mode=_mode(cell.ours, cell.theirs))
        return item, Outcome(cell.target, Fate.UPDATED)
    if cell.base is not None and cell.ours.like(cell.base) and not cell.renamed_by_hand:
        if cell.theirs.like(cell.base) and not cell.renamed_upstream:
            return cell.ours, None
        if (cell.base_path or "") not in unsure:
            fate = Fate.RENAMED if cell.renamed_upstream else Fate.UPDATED
            item = replace(cell.theirs, mode=_mode(cell.ours, cell.theirs))
            was = cell.base_path if cell.renamed_upstream else None
            return item, Outcome(cell.target, fate, was=was)
    return _merge_both(cell, unsure, with_base)


def _generated(cell: _Cell) -> tuple[Item | None, Outcome | None]:
    """What packaging writes is the new source's, never merged; the engineer's own stays."""
    if cell.theirs is not None:
        return cell.theirs, None if cell.theirs.like(cell.ours) else Outcome(
            cell.target, Fate.UPDATED
        )
    return (None if cell.base is not None else cell.ours), None


def _without_ours(cell: _Cell) -> tuple[Item | None, Outcome | None]:
    assert cell.theirs is not None
    if cell.base is None:
        return cell.theirs, Outcome(cell.target, Fate.ADDED)
    assert cell.base_path is not None
    if cell.theirs.like(cell.base):
        return None, Outcome(cell.base_path, Fate.DELETED_BY_HAND, "unchanged upstream")
    return cell.theirs, _conflict(
        cell, "deleted by hand and changed upstream; the new version is there", None
    )


def _without_theirs(cell: _Cell) -> tuple[Item | None, Outcome | None]:
    assert cell.ours is not None
    if cell.base is None:
        return cell.ours, Outcome(cell.target, Fate.ADDED_BY_HAND)
    if cell.renamed_by_hand:
        return cell.ours, _conflict(cell, "renamed by hand and deleted upstream; yours is kept")
    if cell.ours.like(cell.base):
        return None, Outcome(cell.target, Fate.DELETED)
    return cell.ours, _conflict(cell, "edited by hand and deleted upstream; yours is kept")


def _conflict(
    cell: _Cell, reason: str, ours: Item | None = None, count: int = 1, *, marked: bool = False
) -> Outcome:
    return Outcome(
        cell.target,
        Fate.CONFLICT,
        reason,
        cell.base_path if cell.base_path != cell.target else None,
        count,
        marked,
        (cell.base, ours or cell.ours, cell.theirs),
    )


def _merge_both(
    cell: _Cell, unsure: Mapping[str, bytes], with_base: bool
) -> tuple[Item, Outcome | None]:
    base, ours, theirs = cell.base, cell.ours, cell.theirs
    assert ours is not None
    assert theirs is not None
    reasons: list[str] = []
    in_conflict = False
    if cell.renamed_by_hand and cell.renamed_upstream and cell.ours_path != cell.theirs_path:
        in_conflict = True
        reasons.append(f"renamed upstream to {cell.theirs_path} and by hand; your name is kept")
    elif cell.renamed_by_hand:
        reasons.append("renamed by hand")
    elif cell.renamed_upstream:
        reasons.append("renamed upstream")
    if ours.link or theirs.link or (base is not None and base.link):
        return _merge_links(cell, reasons, in_conflict=in_conflict)
    done = merge_file(
        cell.target,
        None if base is None else base.data,
        ours.data,
        theirs.data,
        pristine=unsure.get(cell.base_path or cell.target),
        with_base=with_base,
    )
    item = Item(done.data, _merged_mode(base, ours, theirs))
    was = cell.base_path if cell.base_path != cell.target else None
    if done.conflicts or in_conflict:
        reasons.append(done.reason or ("added by both" if base is None else ""))
        text = "; ".join(filter(None, reasons))
        return item, _conflict(
            cell, text, None, max(done.conflicts, 1), marked=has_markers(done.data)
        )
    edited = base is None or not ours.like(base)
    mixed = edited and not theirs.like(item) and cell.target.endswith(".py")
    if mixed and parse(done.data) is None:
        whose = "your tree" if parse(theirs.data) is not None else "the new release"
        return item, _conflict(cell, f"it does not parse, as it does not in {whose}")
    if done.how == "same" and item.like(theirs) and not cell.renamed_by_hand:
        return item, None  # by hand and upstream alike: nobody's own any more
    if cell.renamed_by_hand and (done.how == "theirs" or (base and ours.like(base))):
        fate, reason = Fate.RENAMED_BY_HAND, ""
    elif done.how == "ours" and not cell.renamed_upstream:
        fate = Fate.RENAMED_BY_HAND if cell.renamed_by_hand else Fate.KEPT
        reason = "edited by hand"
    else:
        how = {"structure": "by definitions", "lines": "by lines"}.get(done.how, "")
        fate, reason = Fate.MERGED, "; ".join(filter(None, [*reasons, how]))
    return item, Outcome(cell.target, fate, reason, was)


def _merge_links(
    cell: _Cell, reasons: list[str], *, in_conflict: bool
) -> tuple[Item, Outcome | None]:
    base, ours, theirs = cell.base, cell.ours, cell.theirs
    assert ours is not None
    assert theirs is not None
    was = cell.base_path if cell.base_path != cell.target else None
    if base is not None and ours.like(base):
        item, outcome = theirs, Outcome(cell.target, Fate.UPDATED, was=was)
    elif ours.like(theirs) and not in_conflict:
        return ours, None
    elif base is not None and theirs.like(base):
        item, outcome = ours, Outcome(cell.target, Fate.KEPT, "edited by hand", was)
    else:
        reasons.append("a link, and changed on both sides; yours is kept")
        item, in_conflict = ours, True
    if in_conflict:
        return item, _conflict(cell, "; ".join(reasons))
    return item, outcome


def _mode(ours: Item, theirs: Item) -> int:
    """Theirs, as far as git knows of modes."""
    return ours.mode if ours.executable == theirs.executable else theirs.mode


def _merged_mode(base: Item | None, ours: Item, theirs: Item) -> int:
    if base is not None and ours.executable == base.executable:
        return _mode(ours, theirs)
    return ours.mode


def _collide(
    target: str, item: Item | None, outcome: Outcome | None, other: _Cell, with_base: bool
) -> tuple[Item | None, Outcome | None]:
    """Two files that want the same path: a rename of one side, and a file of the other."""
    second, said = _merge_cell(other, {}, {}, with_base)
    if item is None or second is None or item.like(second):
        # What is a conflict has to be named, whatever became of the other file.
        conflicts = [o for o in (outcome, said) if o is not None and o.fate is Fate.CONFLICT]
        return item or second, next(iter(conflicts), outcome or said)
    reason = "two files have come to the same path"
    mine_first = other.ours is None
    mine, upstream = (item, second) if mine_first else (second, item)
    if item.link or second.link or is_binary(item.data) or is_binary(second.data):
        return mine, Outcome(
            target,
            Fate.CONFLICT,
            f"{reason}; yours is kept",
            None,
            1,
            False,
            (None, mine, upstream),
        )
    done = merge_file(target, None, mine.data, upstream.data, with_base=with_base)
    return Item(done.data, mine.mode), Outcome(
        target,
        Fate.CONFLICT,
        reason,
        None,
        max(done.conflicts, 1),
        has_markers(done.data),
        (None, mine, upstream),
    )


def _untangle(taken: dict[str, Item], merged: TreeMerge, ours: Version) -> None:
    """Let a file that is where other files need a directory step aside, and name it."""
    above = {
        "/".join(parts[:n])
        for path in taken
        if len(parts := path.split("/")) > 1
        for n in range(1, len(parts))
    }
    for path in sorted(above & taken.keys()):
        whose = "ours" if path in ours.entries else "theirs"
        aside = f"{path}.{whose}"
        while aside in taken:
            aside += "~"
        taken[aside] = taken.pop(path)
        item = taken[aside]
        merged.outcomes = [o for o in merged.outcomes if o.path != path]
        stages = (None, item, None) if whose == "ours" else (None, None, item)
        reason = "the other side has a directory of its name"
        merged.outcomes.append(Outcome(aside, Fate.CONFLICT, reason, path, 1, False, stages))


# ---- renames -------------------------------------------------------------------------------


def find_renames(old: Version, new: Version) -> dict[str, str]:
    """Files of one version that have another path in the other one: old path → new path.

    Files with the same bytes come first, then those that share most of their lines.
    """
    gone = {p: i for p in old.entries.keys() - new.entries.keys() if (i := _telling(old, p))}
    come = {p: i for p in new.entries.keys() - old.entries.keys() if (i := _telling(new, p))}
    renamed: dict[str, str] = {}
    by_data: dict[bytes, list[str]] = defaultdict(list)
    for path, item in come.items():
        by_data[item.data].append(path)
    for path in sorted(gone):
        same = by_data.get(gone[path].data)
        if same:
            best = max(sorted(same), key=lambda p: _nearness(path, p))
            same.remove(best)
            renamed[path] = best
    left = {p: i for p, i in gone.items() if p not in renamed}
    free = {p: i for p, i in come.items() if p not in renamed.values()}
    scores = [(score, _nearness(p, q), p, q) for score, p, q in _similar(left, free)]
    taken: set[str] = set()
    for _, _, path, candidate in sorted(scores, reverse=True):
        if path not in renamed and candidate not in taken:
            renamed[path] = candidate
            taken.add(candidate)
    return renamed


def _telling(version: Version, path: str) -> Item | None:
    """The file, where it has enough in it to be recognised."""
    if _GENERATED.fullmatch(path):
        return None
    item = version.item(path)
    if item is None or item.link or len(item.data) < SMALL:
        return None
    return item


def _nearness(one: str, other: str) -> tuple[bool, int]:
    """Same file name first, then more directories in common."""
    parts, those = one.split("/"), other.split("/")
    return parts[-1] == those[-1], len(set(parts) & set(those))


def _similar(
    gone: Mapping[str, Item], come: Mapping[str, Item]
) -> Iterator[tuple[float, str, str]]:
    """Pairs of files that are alike enough, and how much."""
    lines = {path: _weights(item.data) for path, item in gone.items() if not is_binary(item.data)}
    places: dict[bytes, list[str]] = defaultdict(list)
    for path, weights in lines.items():
        for line in weights:
            places[line].append(path)
    for path, item in sorted(come.items()):
        if is_binary(item.data):
            continue
        weights = _weights(item.data)
        shared: Counter[str] = Counter()
        for line in weights:
            owners = places.get(line, ())
            if len(owners) <= COMMON:
                shared.update(owners)
        for candidate, _ in shared.most_common(4):
            score = _likeness(lines[candidate], weights)
            same_name = candidate.rpartition("/")[2] == path.rpartition("/")[2]
            if score >= (LIKE if same_name else LIKE_ELSEWHERE):
                yield score, candidate, path


def _weights(data: bytes) -> Counter[bytes]:
    """The lines of a file, each weighing its bytes."""
    weights: Counter[bytes] = Counter()
    for line in data.split(b"\n"):
        text = line.strip()
        weights[text] += len(text)
    del weights[b""]
    return weights


def _likeness(one: Counter[bytes], other: Counter[bytes]) -> float:
    total = sum(one.values()) + sum(other.values())
    return 2 * sum((one & other).values()) / total if total else 0.0


def by_fate(outcomes: Sequence[Outcome]) -> dict[Fate, list[Outcome]]:
    """The outcomes, sorted by what became of the files."""
    found: dict[Fate, list[Outcome]] = {fate: [] for fate in Fate}
    for outcome in outcomes:
        found[outcome.fate].append(outcome)
    return found
