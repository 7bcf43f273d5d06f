# SPDX-License-Identifier: Apache-2.0
"""What a review shows, gathered from a plan or from an adapted tree, its log and its source."""

from __future__ import annotations

import io
import re
import tokenize
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Literal

import msgspec

from migrator.codemod.engine import Span
from migrator.codemod.rule import Rule
from migrator.files.changes import FileChange
from migrator.files.tree import LOG_NAME, SUMMARY_NAME, VLLM, DiskTree, Entry, Label, Tree, digest
from migrator.messages.errors import MigrateError
from migrator.planning.plan import MissingSite, Plan, make_plan
from migrator.reports.changed_lines import Block, blocks_of, split_lines
from migrator.reports.log import (
    AbsentEntry,
    ChangeEntry,
    HandEntry,
    LeftEntry,
    Log,
    RuleEntry,
    edited_since,
    make_log,
    printable,
    read_log,
)
from migrator.rules import all_rules
from migrator.verify.report import Report as Verified
from migrator.verify.simulate.report import Report as Simulated

UPSTREAM = "https://github.com/vllm-project/vllm/blob/v{release}/{path}#L{line}-L{end}"
"""Where the source of a release of vLLM is to be read."""


@dataclass(frozen=True, slots=True)
class Change:
    """One site that a rule changes; `anchor` is where the page shows it, and what marks go by."""

    anchor: str
    """The rule's code and a digest of rule, path and the change's own lines before and after."""
    rule: str
    path: str
    site: str
    reason: str
    line: int | None
    """Where its site begins in the source; None in an added file."""
    end_line: int | None
    """Where the site ends there."""
    after: Span
    """In the emitted file."""
    side: Literal["LEFT", "RIGHT"]
    """Where its own lines are: in the source if it only removes some, else in the emitted file."""
    own: Span
    """The first of its own lines, as far as they follow each other."""


class Text:
    """A file as text for people: lines without their ends, in the encoding that it names."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        raw = split_lines(data)
        self.raw = raw
        # Where every line ends as on Windows, the carriage returns are no news.
        self._strip = bool(raw) and all(line.endswith(b"\r\n") for line in raw if b"\n" in line)
        try:
            self.encoding = tokenize.detect_encoding(io.BytesIO(data).readline)[0]
            data.decode(self.encoding)
        except (SyntaxError, UnicodeDecodeError):
            self.encoding = "utf-8"

    @cached_property
    def lines(self) -> list[str]:
        """The lines; bytes that are no text are written as `\\xe9`."""
        lines = []
        for line in self.raw:
            text = line.decode(self.encoding, "backslashreplace").removesuffix("\n")
            lines.append(text.removesuffix("\r") if self._strip else text)
        return lines

    @property
    def exact(self) -> bool:
        """Are the lines all that the file has, in UTF-8? Then a patch can be made of them."""
        try:
            self.data.decode()
        except UnicodeDecodeError:
            return False
        return self.encoding == "utf-8"

    @property
    def windows(self) -> bool:
        """Does every line end as on Windows?"""
        return self._strip

    @property
    def ends_open(self) -> bool:
        """Does the last line lack its line feed?"""
        return bool(self.data) and not self.data.endswith(b"\n")


@dataclass(frozen=True)
class Diff:
    """Two states of a file and what differs; `owners` of a block are indices into `changes`."""

    before: Text
    after: Text
    blocks: tuple[Block, ...]
    changes: tuple[Change, ...] = ()

    @cached_property
    def added(self) -> int:
        """Lines that are new."""
        return sum(block.new_stop - block.new_start for block in self.blocks)

    @cached_property
    def removed(self) -> int:
        """Lines that are gone."""
        return sum(block.stop - block.start for block in self.blocks)


@dataclass(frozen=True)
class FileReview:
    """A file that the migration adds or rewrites, or that somebody edited since."""

    path: str
    is_new: bool
    diff: Diff | None
    """What the migration did; None where it did nothing to the file."""
    hand: Diff | None = None
    """What was edited by hand since."""
    mixed: bool = False
    """The file was edited, and what the migration wrote cannot be told apart any more."""
    removed: bool = False
    """The file is gone from the adapted tree."""

    @property
    def by_hand(self) -> bool:
        """Was the file edited by hand since?"""
        return self.hand is not None or self.mixed or self.removed


@dataclass(frozen=True)
class RuleReview:
    """A rule, what became of its sites, and what its docstring says."""

    entry: RuleEntry
    rule: Rule | None
    """None where this version of the tool has no such rule any more."""
    changes: tuple[Change, ...]
    left: tuple[LeftEntry, ...]
    absent: tuple[AbsentEntry, ...]

    @property
    def files(self) -> int:
        """Files that the rule changes."""
        return len({change.path for change in self.changes})


@dataclass(frozen=True)
class Package:
    """A part of vLLM: a package below `vllm/`, or what lies outside of it."""

    name: str
    """Its directory, such as `vllm/v1/worker`; `vllm` for the modules right in it."""
    files: int
    lines: int
    touched: int
    new: int
    added: int
    removed: int


@dataclass(frozen=True, slots=True)
class Unclaimed:
    """Code for another accelerator that an NPU may come to and no rule claims."""

    path: str
    line: int
    function: str
    kind: str
    source: str
    effort: str
    """How much work it is: `trivial`, `small`, `large`."""
    why: str


@dataclass(frozen=True)
class Coverage:
    """What is left of the accelerator-specific code of a tree."""

    kinds: tuple[tuple[str, tuple[int, ...]], ...]
    """Kind of code → how many of its sites are reachable, guarded, unreachable, claimed."""
    reachable: tuple[Unclaimed, ...]


@dataclass(frozen=True)
class Review:
    """All that the page shows."""

    label: Label
    tool: str
    """Version of the tool that made, or would make, the changes."""
    done: bool
    """Is it an adapted tree, or a plan for one?"""
    rules: tuple[RuleReview, ...]
    files: tuple[FileReview, ...]
    left: tuple[LeftEntry, ...]
    missing: tuple[MissingSite, ...]
    packages: tuple[Package, ...]
    sources: Mapping[str, str] = field(default_factory=dict)
    """`path:line` of what was left alone → that line of source."""
    simulated: Simulated | None = None
    verified: Verified | None = None
    coverage: Coverage | None = None
    upstream: str | None = UPSTREAM
    """Pattern of addresses of lines of the source; None for no links."""
    carried: tuple[HandEntry, ...] = ()
    """Somebody's own work that an update of the tree carried over."""
    conflicts: tuple[str, ...] = ()
    """Files in which an update left marks of a conflict."""

    @property
    def changes(self) -> tuple[Change, ...]:
        """Every change, by file."""
        return tuple(c for file in self.files if file.diff for c in file.diff.changes)

    @property
    def waiting(self) -> tuple[LeftEntry, ...]:
        """What somebody has to look at."""
        return tuple(entry for entry in self.left if entry.kind in ("manual", "failed"))


def review_plan(plan: Plan, tree: Tree, simulated: Simulated | None = None) -> Review:
    """What a plan would do to its tree."""
    log = make_log(plan)
    files = [_reviewed(change, log) for change in plan.files]
    return _review(log, files, tree, tree, done=False, missing=plan.missing, simulated=simulated)


def review_tree(tree: DiskTree, base: DiskTree, simulated: Simulated | None = None) -> Review:
    """What was done to an adapted tree, against the source that it was made from.

    Args:
        tree: has a migration-log.json.
        base: the source before the migration.
        simulated: the outcome of simulated runs of the tree.

    Raises:
        MigrateError: the tree has no log, or `base` is not what it was made from.
    """
    data = tree.read(LOG_NAME)
    if data is None:
        raise MigrateError(
            f"{tree.name} has no {LOG_NAME}; it was not made by this tool: name a tree that it made"
        )
    log = read_log(data)
    here = {printable(entry.path): entry.path for entry in tree.entries() if entry.link is None}
    there = {printable(entry.path): entry.path for entry in base.entries() if entry.link is None}
    for file in log.files:
        before = base.read(there.get(file.path, file.path))
        if (None if before is None else digest(before)) != file.before:
            raise MigrateError(
                f"{base.name} is not the source of {tree.name}: its {file.path} differs from what "
                "was migrated; name the right one with --base"
            )
    edited = set(edited_since(base, tree, log))
    edited |= {here.get(file.path, file.path) for file in log.files if file.edited}
    written, log = _written(base, log, edited)
    files = []
    for file in log.files:
        path = here.get(file.path, file.path)
        before, now = base.read(there.get(file.path, file.path)), tree.read(path)
        if path not in edited and now is not None:
            files.append(_reviewed(FileChange(path, before, now), log))
            continue
        emitted = written.get(file.path)
        if emitted is not None:
            known = _reviewed(FileChange(path, before, emitted), log)
            hand = _diff(emitted, now or b"")
            files.append(
                FileReview(known.path, known.is_new, known.diff, hand, removed=now is None)
            )
        else:
            shown = _reviewed(FileChange(path, before, now or b""), log)
            files.append(
                FileReview(shown.path, shown.is_new, shown.diff, None, True, removed=now is None)
            )
    done = {here.get(file.path, file.path) for file in log.files}
    for path in sorted(edited - done):
        before, now = base.read(path), tree.read(path)
        hand = _diff(before or b"", now or b"")
        files.append(FileReview(printable(path), before is None, None, hand, removed=now is None))
    files.sort(key=lambda file: file.path)
    review = _review(log, files, tree, base, done=True, simulated=simulated)
    marked = [
        entry.path
        for entry in log.by_hand
        if _MARKS.search(tree.read(here.get(entry.path, entry.path)) or b"")
    ]
    return replace(review, carried=log.by_hand, conflicts=tuple(dict.fromkeys(marked)))


_MARKS = re.compile(rb"^(?:<{7}|>{7}) ", re.M)
"""What stands around the two sides of a conflict."""


class _Part(DiskTree):
    """A tree that lists only some of its files."""

    def __init__(self, whole: DiskTree, paths: Collection[str]) -> None:
        super().__init__(whole.root, whole.name)
        self._paths = paths

    def entries(self) -> Iterator[Entry]:
        for path in sorted(self._paths):
            if self.exists(path):
                yield Entry(path, 0o644)


def _written(base: DiskTree, log: Log, edited: Collection[str]) -> tuple[dict[str, bytes], Log]:
    """What the log's rules make of the files that were edited since, to tell whose lines are whose.

    Another version of the tool may write something else; the log's digests tell.

    Returns:
        The bytes of those files that are as the log has them, and the log with the lines that the
        changes have in these: those of a tree that was updated are the edited file's.
    """
    wanted = {file.path: file.after for file in log.files if file.path in edited}
    if not wanted:
        return {}, log
    codes = {entry.code for entry in log.rules}
    part = _Part(base, wanted)
    part.label = base.label
    plan = make_plan(part, [rule for rule in all_rules() if rule.code in codes])
    found = {
        printable(change.path): change.after
        for change in plan.files
        if digest(change.after) == wanted.get(printable(change.path))
    }
    changes = [entry for entry in log.changes if entry.path not in found]
    changes += [entry for entry in make_log(plan).changes if entry.path in found]
    changes.sort(key=lambda entry: (entry.path, entry.after.line, entry.rule, entry.site))
    return found, msgspec.structs.replace(log, changes=tuple(changes))


def _diff(before: bytes, after: bytes) -> Diff:
    one, two = Text(before), Text(after)
    return Diff(one, two, tuple(blocks_of(one.raw, two.raw)))


def _reviewed(change: FileChange, log: Log) -> FileReview:
    """A file that the migration wrote, cut by the changes that its log has for it."""
    path = printable(change.path)
    entries = [entry for entry in log.changes if entry.path == path]
    before, after = Text(change.before or b""), Text(change.after)
    spans = [Span(entry.after.line, entry.after.end_line) for entry in entries]
    blocks = blocks_of(before.raw, after.raw, spans)
    changes = tuple(_changes(path, entries, before, after, blocks))
    return FileReview(path, change.before is None, Diff(before, after, tuple(blocks), changes))


def _changes(
    path: str,
    entries: Sequence[ChangeEntry],
    before: Text,
    after: Text,
    blocks: Sequence[Block],
) -> Iterator[Change]:
    """The changes of a file, each by an anchor that only its own lines decide.

    A change's own lines are those of its site in the source, and those of its new code that the
    site did not have and no smaller site is around. So what another rule does beside it, or inside
    of its site, leaves its anchor as it is.
    """
    added: list[list[int]] = [[] for _ in entries]
    for block in blocks:
        for index in range(block.new_start, block.new_stop):
            for owner in _owners(block.owners, index + 1, entries):
                added[owner].append(index)
    counts: Counter[str] = Counter()
    for number, entry in enumerate(entries):
        site = entry.before
        old = () if site is None else before.raw[site.line - 1 : site.end_line]
        new = _new_lines(old, entry, entries, after)
        text = (b"".join(old).hex(), b"".join(new).hex())
        key = digest("\0".join((entry.rule, path, *text)).encode())[:10]
        anchor = f"{entry.rule}-{key}"
        counts[anchor] += 1
        if added[number]:
            side: Literal["LEFT", "RIGHT"] = "RIGHT"
            own = _run([index + 1 for index in added[number]])
        elif site is not None:
            gone = [
                index + 1
                for block in blocks
                if number in block.owners
                for index in range(block.start, block.stop)
            ]
            side, own = "LEFT", _run(gone or [site.line])
        else:
            side, own = "RIGHT", Span(entry.after.line, entry.after.end_line)
        yield Change(
            anchor=anchor if counts[anchor] == 1 else f"{anchor}-{counts[anchor]}",
            rule=entry.rule,
            path=path,
            site=entry.site,
            reason=entry.reason,
            line=None if site is None else site.line,
            after=Span(entry.after.line, entry.after.end_line),
            side=side,
            own=own,
            end_line=None if site is None else site.end_line,
        )


def _new_lines(
    old: Sequence[bytes], entry: ChangeEntry, entries: Sequence[ChangeEntry], after: Text
) -> Iterator[bytes]:
    """The lines of a change's new code that its site did not have, but for those of sites in it."""
    first, last = entry.after.line, entry.after.end_line
    inner = {
        line
        for other in entries
        if first <= other.after.line <= other.after.end_line <= last
        and other.after.end_line - other.after.line < last - first
        for line in range(other.after.line, other.after.end_line + 1)
    }
    had = Counter(old)
    for line, text in enumerate(after.raw[first - 1 : last], first):
        if line in inner:
            continue
        if had[text]:
            had[text] -= 1
        else:
            yield text


def _owners(owners: Sequence[int], line: int, entries: Sequence[ChangeEntry]) -> list[int]:
    """Those of a block's owners whose own a new line is: the innermost sites, else the nearest."""
    around = {
        owner: entries[owner].after.end_line - entries[owner].after.line
        for owner in owners
        if entries[owner].after.line <= line <= entries[owner].after.end_line
    }
    least = min(around.values(), default=0)
    return [owner for owner in around if around[owner] == least] or list(owners[:1])


def _run(lines: Sequence[int]) -> Span:
    """The first of some lines and those that follow it without a gap."""
    last = lines[0]
    for line in lines[1:]:
        if line != last + 1:
            break
        last = line
    return Span(lines[0], last)


def _review(
    log: Log,
    files: Sequence[FileReview],
    tree: Tree,
    base: Tree,
    *,
    done: bool,
    missing: Sequence[MissingSite] = (),
    simulated: Simulated | None = None,
) -> Review:
    known = {rule.code: rule for rule in all_rules()}
    changes = [c for file in files if file.diff is not None for c in file.diff.changes]
    rules = [
        RuleReview(
            entry=entry,
            rule=known.get(entry.code),
            changes=tuple(c for c in changes if c.rule == entry.code),
            left=tuple(left for left in log.left_alone if left.rule == entry.code),
            absent=tuple(absent for absent in log.absent if absent.rule == entry.code),
        )
        for entry in log.rules
    ]
    return Review(
        label=log.label,
        tool=log.tool.version,
        done=done,
        rules=tuple(rules),
        files=tuple(files),
        left=log.left_alone,
        missing=tuple(missing),
        packages=tuple(_packages(base, files)),
        sources=_sources(tree, log.left_alone),
        simulated=simulated,
    )


def _sources(tree: Tree, left: Sequence[LeftEntry]) -> dict[str, str]:
    """The lines of source that were left alone."""
    texts: dict[str, list[str]] = {}
    found = {}
    for entry in left:
        if entry.line is None:
            continue
        if entry.path not in texts:
            texts[entry.path] = Text(tree.read(entry.path) or b"").lines
        lines = texts[entry.path]
        if 0 < entry.line <= len(lines):
            found[f"{entry.path}:{entry.line}"] = lines[entry.line - 1].strip()
    return found


OUTSIDE = "outside vllm/"
"""Name of what lies outside of the package: the build, requirements, containers."""


def package_of(path: str) -> str:
    """The package at most two levels below `vllm/` that a file is in."""
    if not path.startswith(VLLM):
        return OUTSIDE
    return "/".join(path.split("/")[:-1][:3])


def _packages(base: Tree, files: Sequence[FileReview]) -> Iterator[Package]:
    """Every package of the source with what happens to it; by name."""
    counts: Counter[str] = Counter()
    lines: Counter[str] = Counter()
    for entry in base.entries():
        if entry.link is None and entry.path.startswith(VLLM) and entry.path.endswith(".py"):
            name = package_of(printable(entry.path))
            counts[name] += 1
            lines[name] += (base.read(entry.path) or b"").count(b"\n")
    touched: dict[str, list[FileReview]] = {}
    for file in files:
        if file.diff is not None:
            touched.setdefault(package_of(file.path), []).append(file)
    for name in sorted({*counts, *touched}):
        here = touched.get(name, [])
        diffs = [file.diff for file in here if file.diff is not None]
        yield Package(
            name=name,
            files=counts[name],
            lines=lines[name],
            touched=sum(not file.is_new for file in here),
            new=sum(file.is_new for file in here),
            added=sum(diff.added for diff in diffs),
            removed=sum(diff.removed for diff in diffs),
        )


__all__ = ["LOG_NAME", "SUMMARY_NAME", "Review", "review_plan", "review_tree"]
