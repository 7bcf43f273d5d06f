# SPDX-License-Identifier: Apache-2.0
"""Do the rules still find their sites? Plans of several releases, compared site by site.

A rule that had sites in a release and has none in a later one is dead, unless it says itself that
the later release has none (`Absence`). What became of each site is looked for in the later tree,
with the earlier one as the witness of what it looked like.
"""

from __future__ import annotations

import ast
import enum
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from packaging.version import Version

from migrator.codemod.candidates import (
    Anchor,
    Candidate,
    Kind,
    anchor,
    enclosing,
    nearest_candidates,
    nodes_of,
    signature_changes,
)
from migrator.codemod.engine import Record
from migrator.codemod.rule import Rule, Site, Status
from migrator.files.tree import Tree
from migrator.messages.wording import counted
from migrator.planning.plan import Plan

FOUND = (Status.CHANGED, Status.MIGRATED, Status.MANUAL)
"""What counts as a site found; a site that a rule skips is none."""
MODULE = "<module>"
MANY_METHODS = 12
"""Of a class with more methods, only those that a rule edits are compared."""


class Level(enum.Enum):
    """How bad a finding is."""

    ERROR = "error"
    """The rule, or one of its declared sites, is dead."""
    WARNING = "warning"
    """Somebody has to look whether the rule still does what it should."""
    NOTE = "note"
    """It is as it should be, but not as it was."""


class Change(enum.Enum):
    """What became of a site."""

    DEAD = "dead"
    """A declared site, or all of a rule's sites, are no longer found."""
    MOVED = "moved"
    RENAMED = "renamed"
    SIGNATURE = "signature"
    FEWER = "fewer"
    LOST = "lost"
    """The source is where it was, but the rule no longer finds it."""
    GONE = "gone"
    """The source is gone from the release."""
    SKIPPED = "skipped"
    BY_HAND = "by hand"
    """The rule left no place of the site to a person before, and now it leaves them all."""
    UNREAD = "unread"
    """The file cannot be handled any more, so nobody knows."""


@dataclass(frozen=True, slots=True)
class Column:
    """One release, or one tree, with its plan."""

    name: str
    tree: Tree
    plan: Plan

    @property
    def release(self) -> Version | None:
        """The release of the tree; None where the tree does not tell."""
        return Version(self.plan.release) if self.plan.release is not None else None


@dataclass(frozen=True, slots=True)
class Cell:
    """What one rule found in one release."""

    found: int
    skipped: int
    absent: tuple[str, ...] = ()
    """Why declared sites that were not found are known not to be there."""
    missing: tuple[str, ...] = ()
    """Declared sites that should be there."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One site that is not in a later release what it was in an earlier one."""

    rule: str
    site: str
    path: str
    """Where it was; the first declared path where no earlier release had it."""
    line: int | None
    """Where it was, or where the definition is now if `at_later`."""
    earlier: str
    later: str
    change: Change
    level: Level
    message: str
    candidates: tuple[Candidate, ...] = ()
    at_later: bool = False
    """Does `path` and `line` say where the definition is in the later tree?"""

    def describe(self) -> str:
        """One line for people."""
        near = "; ".join(candidate.describe() for candidate in self.candidates if not self.at_later)
        text = f"{self.rule} {self.site}: {self.message} ({self.earlier} → {self.later})"
        return f"{text}; nearest: {near}" if near else text


@dataclass(frozen=True, slots=True)
class Liveness:
    """Rules by releases, and what changed from each release to the next."""

    rules: tuple[Rule, ...]
    columns: tuple[Column, ...]
    findings: tuple[Finding, ...]

    def cell(self, rule: Rule, column: Column) -> Cell:
        """What a rule found in a release."""
        tally = column.plan.tally(rule.code)
        return Cell(
            found=sum(tally[status] for status in FOUND),
            skipped=tally[Status.SKIPPED],
            absent=tuple(f"{a.site}: {a.why}" for a in column.plan.absent if a.rule == rule.code),
            missing=tuple(m.site for m in column.plan.missing if m.rule == rule.code),
        )

    def worst(self) -> Level | None:
        """The worst level of all findings; None where there are none."""
        levels = {finding.level for finding in self.findings}
        return next((level for level in Level if level in levels), None)


def in_order(columns: Sequence[Column]) -> list[Column]:
    """Oldest release first; a tree whose release is unknown counts as the newest."""
    return sorted(columns, key=lambda c: (c.release is None, c.release or Version("0")))


def compare_all(columns: Sequence[Column]) -> Liveness:
    """Compare each release with the one before it; `columns` may come in any order."""
    ordered = in_order(columns)
    rules = ordered[0].plan.rules
    findings: list[Finding] = []
    for n, later in enumerate(ordered):
        if n == 0:
            findings += _missing_from_the_start(later)
        else:
            findings += compare(ordered[n - 1], later)
    return Liveness(rules, tuple(ordered), tuple(findings))


def _missing_from_the_start(column: Column) -> Iterator[Finding]:
    """Sites that the first release should have and has not; there is nothing to compare it with."""
    for missing in column.plan.missing:
        yield Finding(
            rule=missing.rule,
            site=missing.site,
            path=missing.paths[0],
            line=None,
            earlier="no release before it",
            later=column.name,
            change=Change.DEAD,
            level=Level.ERROR,
            message=f"not found in {' or '.join(missing.paths)}"
            + (f"; nearest: {', '.join(missing.candidates)}" if missing.candidates else ""),
        )


def compare(earlier: Column, later: Column) -> list[Finding]:
    """What the rules lost, or find elsewhere, from one release to a later one.

    Returns:
        Errors first, then by rule.
    """
    pair = _Pair(earlier, later)
    findings = [
        finding
        for rule in later.plan.rules
        if rule.provides is None
        for finding in (*pair.declared(rule), *pair.others(rule), *pair.whole(rule))
    ]
    order = list(Level)
    return sorted(findings, key=lambda f: (order.index(f.level), f.rule, f.site))


@dataclass(frozen=True, slots=True)
class _Key:
    path: str
    site: str


class _Pair:
    """Two releases at work."""

    def __init__(self, earlier: Column, later: Column) -> None:
        self.earlier = earlier
        self.later = later
        self.failed = {failure.path: failure.reason for failure in later.plan.failures}
        self.dead: set[str] = set()
        """Rules about which an error is said already."""

    # -- declared sites ------------------------------------------------------------------------

    def declared(self, rule: Rule) -> Iterator[Finding]:
        """What became of the sites that a rule must find."""
        missing = {m.site for m in self.later.plan.missing if m.rule == rule.code}
        absent = {a.site: a.why for a in self.later.plan.absent if a.rule == rule.code}
        for site in rule.sites:
            before = self._records(self.earlier, rule, site.name)
            now = self._records(self.later, rule, site.name)
            old = self._anchor(site, before)
            if site.name in missing:
                yield self._missing(rule, site, before, old)
                continue
            if not before:
                continue
            if site.name in absent:
                text = f"the release has none: {absent[site.name]}"
                yield self._finding(rule, before[0], Change.GONE, Level.NOTE, text)
                continue
            unread = [path for path in site.paths if path in self.failed]
            if not now and unread:
                text = f"{unread[0]} cannot be handled: {self.failed[unread[0]]}"
                yield self._finding(rule, before[0], Change.UNREAD, Level.WARNING, text)
                continue
            if not now:
                skipped = self._records(self.later, rule, site.name, Status.SKIPPED)
                why = skipped[0].reason if skipped else "no record of it"
                yield self._finding(rule, before[0], Change.SKIPPED, Level.NOTE, f"skipped: {why}")
                continue
            if _by_hand(now) and not any(r.status is Status.MANUAL for r in before):
                yield self._left(rule, site, before, now, old)
            if not any(record.path in site.paths for record in now):
                text = f"found in {now[0].path}, which the rule does not declare"
                where = (_as_candidate(now[0], Kind.MOVED),)
                yield self._finding(rule, before[0], Change.MOVED, Level.WARNING, text, where)
            if len(now) < len(before):
                text = f"{counted(len(before), 'site')} before, {len(now)} now{_fewer(before, now)}"
                yield self._finding(rule, before[0], Change.FEWER, Level.WARNING, text)
            yield from self._signature(rule, site, old, before, now)

    def _left(
        self,
        rule: Rule,
        site: Site,
        before: Sequence[Record],
        now: Sequence[Record],
        old: Anchor | None,
    ) -> Finding:
        """A site that is left to a person now, with where its definition went if it went."""
        near: Sequence[Candidate] = ()
        old = self._inner(old, before) or old
        if old is not None and old.name not in nodes_of(self.later.tree, old.path):
            near = nearest_candidates(
                self.later.tree,
                site,
                examples=rule.examples,
                earlier=self.earlier.tree,
                known=old,
            )
        text = f"left to a person: {now[0].reason}"
        return self._finding(rule, before[0], Change.BY_HAND, Level.WARNING, text, tuple(near))

    def _missing(
        self, rule: Rule, site: Site, before: Sequence[Record], old: Anchor | None
    ) -> Finding:
        self.dead.add(rule.code)
        old = self._inner(old, before) or old
        near = nearest_candidates(
            self.later.tree,
            site,
            examples=rule.examples,
            earlier=self.earlier.tree if old is not None else None,
            known=old,
        )
        where = " or ".join(site.paths)
        if old is not None and not any(c.kind is not Kind.SIMILAR for c in near):
            text = f"not found in {where}: {old.name} is gone"
        else:
            text = f"not found in {where}"
        if not before:
            text += f"; {self.earlier.name} did not have it either"
        return Finding(
            rule=rule.code,
            site=site.name,
            path=old.path if old is not None else site.paths[0],
            line=old.node.lineno if old is not None else None,
            earlier=self.earlier.name,
            later=self.later.name,
            change=Change.DEAD,
            level=Level.ERROR,
            message=text,
            candidates=tuple(near),
        )

    def _inner(self, old: Anchor | None, before: Sequence[Record]) -> Anchor | None:
        """The method that the rule edited, where its class is as it was and the method is not."""
        if old is None or old.name not in nodes_of(self.later.tree, old.path):
            return None
        for record in before:
            if record.before is None or record.path != old.path:
                continue
            method = enclosing(self.earlier.tree, record.path, record.before.line)
            if (
                method is not None
                and method.name.startswith(f"{old.name}.")
                and method.name not in nodes_of(self.later.tree, old.path)
            ):
                return method
        return None

    def _anchor(self, site: Site, before: Sequence[Record]) -> Anchor | None:
        """The definition that a declared site stands on in the earlier release."""
        tree = self.earlier.tree
        paths = dict.fromkeys([*(record.path for record in before), *site.paths])
        for path in paths:
            found = anchor(tree, path, site.name)
            if found is not None:
                return found
        for record in before:
            if record.before is not None:
                found = enclosing(tree, record.path, record.before.line)
                if found is not None:
                    return found
        return None

    def _signature(
        self,
        rule: Rule,
        site: Site,
        old: Anchor | None,
        before: Sequence[Record],
        now: Sequence[Record],
    ) -> Iterator[Finding]:
        """What the signatures of a site's functions lost and got, where the rule still finds it."""
        if old is None:
            return
        tree = self.later.tree
        new = next(
            (
                found
                for path in dict.fromkeys([*(record.path for record in now), *site.paths])
                if (found := anchor(tree, path, old.name)) is not None and found.name == old.name
            ),
            None,
        )
        if new is None:
            return
        changes = signature_changes(old.node, new.node, old.name)
        if isinstance(old.node, ast.ClassDef):
            methods = sum(isinstance(s, ast.FunctionDef) for s in old.node.body)
            if methods > MANY_METHODS:
                edited = self._edited(before)
                changes = [change for change in changes if change.name in edited]
        if not changes:
            return
        breaking = any(change.breaking for change in changes)
        text = "; ".join(change.describe() for change in changes)
        yield Finding(
            rule=rule.code,
            site=site.name,
            path=new.path,
            line=new.node.lineno,
            earlier=self.earlier.name,
            later=self.later.name,
            change=Change.SIGNATURE,
            level=Level.WARNING if breaking else Level.NOTE,
            message=f"other signature, still found: {text}",
            candidates=(Candidate(Kind.SIGNATURE, new.path, new.node.lineno, new.name, 1.0),),
            at_later=True,
        )

    def _edited(self, records: Sequence[Record]) -> set[str]:
        """Qualified names of the definitions that records of the earlier release lie in."""
        found = set()
        for record in records:
            if record.before is not None:
                around = enclosing(self.earlier.tree, record.path, record.before.line)
                if around is not None:
                    found.add(around.name)
        return found

    # -- sites of rules that search ------------------------------------------------------------

    def others(self, rule: Rule) -> Iterator[Finding]:
        """What became of the sites that are not declared, by path and function."""
        if rule.templates:
            return
        declared = {site.name for site in rule.sites}
        before = _by_place(self.earlier.plan, rule, declared)
        now = _by_place(self.later.plan, rule, declared)
        new = [key for key in now if key not in before]
        taken: set[_Key] = set()
        for key, records in before.items():
            if len(now.get(key, ())) >= len(records):
                continue
            if key in now:
                left = self._still_there(records, key.path, key.site, now[key])
                text = f"{counted(len(records), 'site')} before, {len(now[key])} now"
                text += _fewer(records, now[key])
                level = Level.WARNING if left else Level.NOTE
                yield self._finding(rule, records[0], Change.FEWER, level, text)
                continue
            yield self._vanished(rule, key, records, now, new, taken)

    def _vanished(
        self,
        rule: Rule,
        key: _Key,
        records: Sequence[Record],
        now: dict[_Key, list[Record]],
        new: Sequence[_Key],
        taken: set[_Key],
    ) -> Finding:
        """Where a function went in which a rule found something before, and nothing now."""
        first = records[0]
        if key.path in self.failed:
            text = f"{key.path} cannot be handled: {self.failed[key.path]}"
            return self._finding(rule, first, Change.UNREAD, Level.WARNING, text)
        skipped = [
            record
            for record in self.later.plan.records_of(rule.code, Status.SKIPPED)
            if (record.path, record.site) == (key.path, key.site)
        ]
        if skipped:
            text = f"skipped: {skipped[0].reason}"
            return self._finding(rule, first, Change.SKIPPED, Level.NOTE, text)
        follows = self._followed(key, records, now, new, taken)
        if follows is not None:
            taken.add(follows)
            record = now[follows][0]
            change = Change.MOVED if follows.path != key.path else Change.RENAMED
            kind = Kind.MOVED if follows.site == key.site else Kind.RENAMED
            if follows.path != key.path and follows.site != key.site:
                kind = Kind.BOTH
            where = (_as_candidate(record, kind),)
            text = f"{kind.value}; the rule finds it there"
            return self._finding(rule, first, change, Level.NOTE, text, where)
        if self._still_there(records, key.path, key.site, ()):
            text = "its source is where it was, but the rule no longer finds it"
            return self._finding(rule, first, Change.LOST, Level.WARNING, text)
        old = anchor(self.earlier.tree, key.path, key.site)
        here = nodes_of(self.later.tree, key.path)
        if old is None or old.name != key.site or old.name in here:
            text = "the source that the rule looks for is gone"
            return self._finding(rule, first, Change.GONE, Level.NOTE, text)
        site = Site(key.site, (key.path,))
        near = [
            candidate
            for candidate in nearest_candidates(
                self.later.tree, site, earlier=self.earlier.tree, known=old
            )
            if candidate.kind in (Kind.MOVED, Kind.RENAMED, Kind.BOTH)
        ]
        if not near:
            text = "the function is gone"
            return self._finding(rule, first, Change.GONE, Level.NOTE, text)
        best = near[0]
        change = Change.MOVED if best.kind is not Kind.RENAMED else Change.RENAMED
        level = (
            Level.WARNING if self._still_there(records, best.path, best.name, ()) else Level.NOTE
        )
        text = f"{best.kind.value}; the rule finds nothing there"
        return self._finding(rule, first, change, level, text, tuple(near))

    def _followed(
        self,
        key: _Key,
        records: Sequence[Record],
        now: dict[_Key, list[Record]],
        new: Sequence[_Key],
        taken: set[_Key],
    ) -> _Key | None:
        """The place where the rule finds the same sources in the later release."""
        wanted = Counter(record.source for record in records)
        scored = []
        for other in new:
            if other in taken:
                continue
            common = (wanted & Counter(record.source for record in now[other])).total()
            same_name = other.site == key.site
            same_path = other.path == key.path
            # Two functions may hold the same few tokens; all of several is no chance.
            if (common and (same_name or same_path)) or common == wanted.total() > 1:
                scored.append((common, same_name, same_path, other))
        return max(scored, key=lambda item: item[:3])[3] if scored else None

    def _still_there(
        self, records: Sequence[Record], path: str, name: str, now: Sequence[Record]
    ) -> bool:
        """Does a function hold more of the records' sources than the rule finds there?"""
        module = self.later.tree.parse(path)
        if module is None:
            return False
        node: ast.AST | None = (
            module if name == MODULE else nodes_of(self.later.tree, path).get(name)
        )
        if node is None:
            return False
        text = _squeezed(ast.unparse(node))
        wanted = Counter(_squeezed(record.source) for record in records)
        have = Counter(_squeezed(record.source) for record in now)
        return any(
            text.count(source) > have[source] and have[source] < count
            for source, count in wanted.items()
            if source and not source.endswith("…")
        )

    # -- the rule as a whole -------------------------------------------------------------------

    def whole(self, rule: Rule) -> Iterator[Finding]:
        """A rule that found something and finds nothing any more, unless that is explained."""
        before = self.earlier.plan.records_of(rule.code, *FOUND)
        if not before or self.later.plan.records_of(rule.code, *FOUND) or rule.code in self.dead:
            return
        absent = {a.site: a.why for a in self.later.plan.absent if a.rule == rule.code}
        if rule.sites and all(site.name in absent for site in rule.sites):
            return
        skipped = len(self.later.plan.records_of(rule.code, Status.SKIPPED))
        text = f"{counted(len(before), 'site')} before, none now"
        if skipped:
            text += f" ({skipped} skipped)"
        yield self._finding(rule, before[0], Change.DEAD, Level.ERROR, text, site="(all)")

    # -- helpers -------------------------------------------------------------------------------

    @staticmethod
    def _records(column: Column, rule: Rule, site: str, *statuses: Status) -> list[Record]:
        wanted = statuses or FOUND
        return [r for r in column.plan.records_of(rule.code, *wanted) if r.site == site]

    def _finding(
        self,
        rule: Rule,
        record: Record,
        change: Change,
        level: Level,
        text: str,
        candidates: tuple[Candidate, ...] = (),
        *,
        site: str | None = None,
    ) -> Finding:
        return Finding(
            rule=rule.code,
            site=site or record.site,
            path=record.path,
            line=record.before.line if record.before is not None else None,
            earlier=self.earlier.name,
            later=self.later.name,
            change=change,
            level=level,
            message=text,
            candidates=candidates,
        )


def _by_hand(records: Sequence[Record]) -> bool:
    return all(record.status is Status.MANUAL for record in records)


def _by_place(plan: Plan, rule: Rule, declared: set[str]) -> dict[_Key, list[Record]]:
    found: dict[_Key, list[Record]] = {}
    for record in plan.records_of(rule.code, *FOUND):
        if record.site not in declared:
            found.setdefault(_Key(record.path, record.site), []).append(record)
    return found


def _as_candidate(record: Record, kind: Kind) -> Candidate:
    line = record.before.line if record.before is not None else 1
    return Candidate(kind, record.path, line, record.site, 1.0)


def _fewer(before: Sequence[Record], now: Sequence[Record]) -> str:
    """The sources that are found less often, for a message."""
    gone = Counter(record.source for record in before) - Counter(record.source for record in now)
    shown = [
        f"{source[:60]}{f' ({count}×)' if count > 1 else ''}" for source, count in gone.items()
    ]
    return f": no longer {', '.join(shown[:3])}{', …' if len(shown) > 3 else ''}" if shown else ""


def _squeezed(text: str) -> str:
    return "".join(text.split()).replace("'", '"')
