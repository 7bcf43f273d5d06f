# SPDX-License-Identifier: Apache-2.0
"""What a migration leaves in the tree to say what it did: MIGRATION.md and migration-log.json.

Rendered from a plan alone: same plan, same bytes; no time, no absolute path.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterable, Mapping
from functools import cache
from importlib import resources
from typing import Literal

import jinja2
import msgspec

from migrator import __version__
from migrator.codemod.engine import Record, Span
from migrator.codemod.rule import Rule, Status
from migrator.files.changes import FileChange
from migrator.files.tree import LOG_NAME, SUMMARY_NAME, Label, Tree, best_label, digest
from migrator.messages.errors import MigrateError
from migrator.messages.escaping import code, prose
from migrator.messages.wording import counted
from migrator.planning.plan import Plan
from migrator.reports.changed_lines import Cut, cut

SCHEMA_VERSION: Literal[1] = 1


class Tool(msgspec.Struct, frozen=True):
    """What wrote the log."""

    name: str = "vllm-npu-migrate"
    version: str = __version__


class Lines(msgspec.Struct, frozen=True):
    """Lines of a file, counted from 1, first and last included."""

    line: int
    end_line: int


class RuleEntry(msgspec.Struct, frozen=True):
    """A rule that was asked for, and how many sites became what."""

    code: str
    """Stable, such as `NPU101`."""
    name: str
    summary: str
    """What it does, in one sentence."""
    safety: str
    """`equivalent`, `guarded` or `behaviour`."""
    changed: int
    """Sites that a run changed."""
    migrated: int
    """Sites that had the change already."""
    skipped: int
    """Sites that are rightly left alone."""
    manual: int
    """Sites that wait for a person."""


class FileEntry(msgspec.Struct, frozen=True, omit_defaults=True):
    """A file that the migration added or rewrote."""

    path: str
    """From the tree's root, with `/`."""
    status: Literal["added", "modified"]
    """`added` by the migration, or `modified`."""
    before: str | None
    """SHA-256 of the file before, in hexadecimal; null for an added one."""
    after: str
    """SHA-256 of the emitted file."""
    edited: bool = False
    """Had somebody edited the file when a later run wrote it? What `after` names has that too."""


class ChangeEntry(msgspec.Struct, frozen=True):
    """One change: by which rule, where, why."""

    rule: str
    """Its code."""
    path: str
    """The file."""
    site: str
    """Qualified name of the function, method or attribute."""
    before: Lines | None
    """Lines of the site in the file that the run found; null in an added file."""
    after: Lines
    """Lines of the new code in the emitted file."""
    source: str
    """First line of the site's source."""
    reason: str
    """Why this site was changed."""


class LeftEntry(msgspec.Struct, frozen=True):
    """Something that was left alone, and why."""

    rule: str | None
    """Null for a file that no rule could look at."""
    path: str
    """The file."""
    site: str | None
    """As in a change; null for a file."""
    line: int | None
    """In the emitted file; in a report that is printed, in the source."""
    kind: Literal["skipped", "manual", "failed", "link"]
    """`skipped` is right as it is; `manual` and `failed` wait for a person."""
    reason: str
    """Why it was left alone."""


class AbsentEntry(msgspec.Struct, frozen=True):
    """A site that this release is known not to have."""

    rule: str
    """Its code."""
    site: str
    """The declared site."""
    releases: str
    """A version specifier, such as `<0.10.1`."""
    why: str
    """Why these releases cannot have it."""


class UncheckedEntry(msgspec.Struct, frozen=True):
    """A site that was changed and that no known release has in this form."""

    rule: str
    """Its code."""
    site: str
    """The declared site."""
    path: str
    """The file of its definition."""
    line: int
    """Where the definition begins in the source."""


class HandEntry(msgspec.Struct, frozen=True):
    """Somebody's own work that `update` found in the tree and carried over."""

    path: str
    """The file."""
    kind: Literal["edited", "merged", "added", "deleted", "renamed", "conflict"]
    """`merged`: the next release changed the file as well; `conflict`: a person has to decide."""
    was: str | None
    """The file's path before, where it was renamed."""
    reason: str
    """What became of it, in words."""


class Updated(msgspec.Struct, frozen=True, omit_defaults=True):
    """What `update` brought a tree to."""

    release: str | None
    """The release that the tree was made from before; null where it did not say."""
    source: str
    """SHA-256 over the paths and bytes of the new source."""
    commit: str | None = None
    """The commit that the new source is, of the repository that the tree is in."""


class Log(msgspec.Struct, frozen=True, omit_defaults=True):
    """The whole of migration-log.json."""

    schema_version: Literal[1]
    """Raised when a reader has to change."""
    tool: Tool
    release: str | None
    """The vLLM release that was migrated; null where the tree does not say."""
    rules: tuple[RuleEntry, ...]
    """The rules that were asked for, by code."""
    files: tuple[FileEntry, ...]
    """By path."""
    changes: tuple[ChangeEntry, ...]
    """By path and line."""
    left_alone: tuple[LeftEntry, ...]
    """By path and line."""
    absent: tuple[AbsentEntry, ...]
    """By rule and site."""
    by_hand: tuple[HandEntry, ...] = ()
    """What `update` carried over, by path."""
    updated: Updated | None = None
    """Null where the tree was migrated once and never updated."""
    summary: str | None = None
    """SHA-256 of the MIGRATION.md that was written with the log."""
    claim: str | None = None
    """What the tree says of its version where that is no release, such as `0.10.1.dev12124`."""

    unchecked: tuple[UncheckedEntry, ...] = ()
    """What nobody has checked: a person should, first of all. By rule and site."""

    @property
    def label(self) -> Label:
        """What the tree is called."""
        return Label(self.release, self.claim)


def schema(kind: type = Log) -> bytes:
    """The JSON Schema of migration-log.json, or of another output, as the project publishes it."""
    document = msgspec.json.schema(kind)
    document = {"$schema": "https://json-schema.org/draft/2020-12/schema", **document}
    return pretty_json(document, order="sorted")


def pretty_json(value: object, order: Literal["sorted"] | None = None) -> bytes:
    """Encode a value as JSON for people to read, with a line feed at its end."""
    return msgspec.json.format(msgspec.json.encode(value, order=order), indent=2) + b"\n"


def read_log(data: bytes) -> Log:
    """Decode migration-log.json.

    Raises:
        MigrateError: it is not a log, or one of a later schema.
    """
    try:
        return msgspec.json.decode(data, type=Log)
    except msgspec.MsgspecError as error:
        raise MigrateError(
            f"{LOG_NAME} cannot be read ({error}); remove it, or migrate from a fresh source"
        ) from error


def make_log(plan: Plan) -> Log:
    """The log of one plan, whatever earlier runs did to its tree."""
    return Log(
        schema_version=SCHEMA_VERSION,
        tool=Tool(),
        release=plan.release,
        rules=tuple(_rule(plan, rule) for rule in plan.rules),
        files=tuple(_file(change) for change in plan.files),
        changes=_changes(plan),
        left_alone=_left_alone(plan),
        absent=tuple(AbsentEntry(a.rule, a.site, a.releases, a.why) for a in plan.absent),
        claim=plan.label.claim,
        unchecked=tuple(
            UncheckedEntry(one.rule, one.site, printable(one.path), one.line)
            for one in plan.unchecked
        ),
    )


def with_earlier(plan: Plan, tree: Tree) -> Plan:
    """The plan of an adapted tree with the sites that only the tree's log still knows.

    A rewritten guard has lost what its rule searches for, so a second plan may not see it. Only
    files that are as the log left them count: in others nobody knows what the lines hold now.
    """
    try:
        log = read_log(plan.earlier_log or b"")
    except MigrateError:
        return plan
    codes = {rule.code for rule in plan.rules}
    left = {entry.path: entry.after for entry in log.files}
    data = {path: tree.read(path) for path in left}
    same = {path for path, after in left.items() if digest(data[path] or b"") == after}
    seen = Counter((r.rule, r.path, r.site) for r in plan.records)
    lines = {(r.rule, r.path, r.before.line) for r in plan.records if r.before is not None}
    unseen: dict[tuple[str, str, str], list[ChangeEntry]] = {}
    for change in log.changes:
        key = (change.rule, change.path, change.site)
        if change.rule not in codes or change.path not in same:
            continue
        if (change.rule, change.path, change.after.line) in lines:
            seen[key] -= 1
        else:
            unseen.setdefault(key, []).append(change)
    # What the plan sees on lines that the log does not name stands for some of the rest.
    added = [
        Record(
            *key,
            Status.MIGRATED,
            "already migrated",
            Span(change.after.line, change.after.end_line),
            None,
            change.source,
        )
        for key, changes in unseen.items()
        for change in changes[max(seen[key], 0) :]
    ]
    return dataclasses.replace(plan, records=(*plan.records, *added))


def merge_logs(earlier: Log, now: Log, plan: Plan) -> Log:
    """The log of a tree that an earlier run, of all rules or of some, had migrated before.

    What that run recorded stays, its lines moved to where this run's changes put them.
    """
    files = {entry.path: entry for entry in earlier.files}
    for entry in now.files:
        first = files.get(entry.path, entry)
        files[entry.path] = msgspec.structs.replace(
            entry,
            before=first.before,
            status="added" if first.before is None else "modified",
            edited=first is not entry and (first.edited or first.after != entry.before),
        )
    moves = _moves(plan, [*earlier.changes, *earlier.left_alone])
    # A file that the tool added is one site, and has one entry: that of the run that wrote it last.
    rewritten = {(e.rule, e.path) for e in now.changes if e.site == e.path}
    changes = [
        msgspec.structs.replace(entry, after=_moved_lines(entry.after, moves[entry.path]))
        if entry.path in moves
        else entry
        for entry in earlier.changes
        if (entry.rule, entry.path) not in rewritten
    ]
    before = Counter(entry.rule for entry in changes)
    changes += [
        msgspec.structs.replace(entry, before=None)
        if (entry.rule, entry.path) in rewritten and files[entry.path].before is None
        else entry
        for entry in now.changes
    ]
    ran = {rule.code for rule in now.rules}
    rules = [rule for rule in earlier.rules if rule.code not in ran]
    rules += [
        msgspec.structs.replace(
            rule,
            changed=rule.changed + before[rule.code],
            migrated=max(rule.migrated - before[rule.code], 0),
        )
        for rule in now.rules
    ]
    left = [e for e in earlier.left_alone if e.rule is not None and e.rule not in ran]
    absent = [entry for entry in earlier.absent if entry.rule not in ran]
    label = best_label(now.label, earlier.label)
    return Log(
        schema_version=SCHEMA_VERSION,
        tool=Tool(),
        release=label.release,
        claim=label.claim,
        unchecked=(*(e for e in earlier.unchecked if e not in now.unchecked), *now.unchecked),
        rules=tuple(sorted(rules, key=lambda rule: rule.code)),
        files=tuple(files[path] for path in sorted(files)),
        changes=_sorted_changes(changes),
        left_alone=_sorted_left([*_moved(left, moves), *now.left_alone]),
        absent=tuple(sorted([*absent, *now.absent], key=lambda entry: (entry.rule, entry.site))),
        by_hand=earlier.by_hand,
        updated=earlier.updated,
    )


def updated_log(
    plan: Plan,
    merged: Iterable[FileChange],
    places: Mapping[str, str | None],
    by_hand: Iterable[HandEntry],
    updated: Updated,
) -> Log:
    """The log of a tree that `update` merged with the plan for its next release.

    Args:
        plan: the migration of the next release.
        merged: emitted files that are not as the plan has them: `before` as the plan emits it,
            `after` as it is in the tree.
        places: emitted files that are elsewhere in the tree → their path there; None where
            somebody has deleted them.
        by_hand: what was carried over.
        updated: from what to what.

    Returns:
        The plan's log with its lines moved to where they are in the tree. Hashes are those of
        what the plan emits, so that the next run sees what is the engineer's.
    """
    log = make_log(plan)
    moves = {printable(change.path): cut(change, ()) for change in merged}
    left = _moved(log.left_alone, _moves(plan, log.left_alone))
    changes = [
        msgspec.structs.replace(entry, after=_moved_lines(entry.after, moves[entry.path]))
        if entry.path in moves
        else entry
        for entry in log.changes
    ]
    names = {printable(path): place and printable(place) for path, place in places.items()}
    changes = [
        msgspec.structs.replace(entry, path=place)
        for entry in changes
        if (place := names.get(entry.path, entry.path)) is not None
    ]
    left = [
        msgspec.structs.replace(entry, path=place)
        for entry in _moved(left, moves)
        if (place := names.get(entry.path, entry.path)) is not None
    ]
    return msgspec.structs.replace(
        log,
        changes=_sorted_changes(changes),
        left_alone=_sorted_left(left),
        by_hand=tuple(sorted(by_hand, key=lambda entry: (entry.path, entry.kind))),
        updated=updated,
    )


def _moves(plan: Plan, entries: Iterable[ChangeEntry | LeftEntry]) -> dict[str, Cut]:
    """Path → where the lines of a rewritten file went, of the files that some entries are in."""
    paths = {entry.path for entry in entries}
    changes = [(printable(change.path), change) for change in plan.files]
    return {path: cut(change, ()) for path, change in changes if path in paths}


def _moved_lines(lines: Lines, move: Cut) -> Lines:
    return Lines(move.line(lines.line), move.line(lines.end_line))


def _moved(entries: Iterable[LeftEntry], moves: Mapping[str, Cut]) -> list[LeftEntry]:
    """Entries with the lines that their sites have in the emitted files."""
    return [
        msgspec.structs.replace(entry, line=moves[entry.path].line(entry.line))
        if entry.path in moves and entry.line is not None
        else entry
        for entry in entries
    ]


def printable(path: str) -> str:
    """A path as text: bytes of a name that are not UTF-8 are written as `\\xe9`."""
    return path.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def _rule(plan: Plan, rule: Rule) -> RuleEntry:
    counts = plan.tally(rule.code)
    return RuleEntry(
        code=rule.code,
        name=rule.name,
        summary=rule.summary,
        safety=rule.safety.value,
        changed=counts[Status.CHANGED],
        migrated=counts[Status.MIGRATED],
        skipped=counts[Status.SKIPPED],
        manual=counts[Status.MANUAL],
    )


def _file(change: FileChange) -> FileEntry:
    before = None if change.before is None else digest(change.before)
    status: Literal["added", "modified"] = "added" if before is None else "modified"
    return FileEntry(printable(change.path), status, before, digest(change.after))


def _lines(span: Span | None) -> Lines | None:
    return None if span is None else Lines(span.line, span.end_line)


def _changes(plan: Plan) -> tuple[ChangeEntry, ...]:
    return _sorted_changes(
        ChangeEntry(
            rule=r.rule,
            path=printable(r.path),
            site=printable(r.site),
            before=_lines(r.before),
            after=Lines(r.after.line, r.after.end_line),
            source=r.source,
            reason=r.reason,
        )
        for r in plan.records
        if r.after is not None
    )


def _sorted_changes(entries: Iterable[ChangeEntry]) -> tuple[ChangeEntry, ...]:
    return tuple(sorted(entries, key=lambda e: (e.path, e.after.line, e.rule, e.site)))


def _left_alone(plan: Plan) -> tuple[LeftEntry, ...]:
    entries = [
        LeftEntry(
            rule=r.rule,
            path=printable(r.path),
            site=printable(r.site),
            line=r.before.line if r.before is not None else None,
            kind="manual" if r.status is Status.MANUAL else "skipped",
            reason=r.reason,
        )
        for r in plan.records
        if r.status in (Status.MANUAL, Status.SKIPPED)
    ]
    entries += [
        LeftEntry(None, printable(f.path), None, None, "failed", f.reason) for f in plan.failures
    ]
    why = "a link out of the tree; copied, not followed"
    entries += [
        LeftEntry(None, printable(path), None, None, "link", why) for path in plan.links_out
    ]
    return _sorted_left(entries)


def _sorted_left(entries: Iterable[LeftEntry]) -> tuple[LeftEntry, ...]:
    return tuple(sorted(entries, key=lambda e: (e.path, e.line or 0, e.rule or "", e.site or "")))


def _markdown(text: str) -> str:
    """Escape what would break a table's cell."""
    return text.replace("|", "\\|")


def make_summary(log: Log) -> str:
    """MIGRATION.md: the log for people, by rule."""
    return _summary().render(log=log)


@cache
def _summary() -> jinja2.Template:
    """The template of MIGRATION.md; compiling it takes longer than filling it in."""
    environment = jinja2.Environment(
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["cell"] = _markdown
    environment.filters["code"] = code
    environment.filters["prose"] = prose
    environment.filters["counted"] = counted
    source = resources.files("migrator.reports").joinpath("MIGRATION.md.j2").read_text("utf-8")
    return environment.from_string(source)


def emitted_files(plan: Plan) -> tuple[FileChange, ...]:
    """Every file that applying the plan writes: the migrated ones and the two logs.

    Raises:
        MigrateError: the tree has a MIGRATION.md that is not ours.
    """
    if not plan.files:
        return ()
    if plan.earlier_summary is not None and plan.earlier_log is None:
        raise MigrateError(
            f"the tree has a {SUMMARY_NAME} of its own, without a {LOG_NAME} beside it; "
            "move it away first"
        )
    log = make_log(plan)
    left = _moved(log.left_alone, _moves(plan, log.left_alone))
    log = msgspec.structs.replace(log, left_alone=tuple(left))
    if plan.earlier_log is not None:
        log = merge_logs(read_log(plan.earlier_log), log, plan)
    log, summary = with_summary(log)
    return (
        FileChange(SUMMARY_NAME, plan.earlier_summary, summary),
        FileChange(LOG_NAME, plan.earlier_log, pretty_json(log)),
        *plan.files,
    )


def with_summary(log: Log) -> tuple[Log, bytes]:
    """A log that knows its MIGRATION.md by hash, and that file."""
    summary = make_summary(log).encode()
    return msgspec.structs.replace(log, summary=digest(summary)), summary


def edited_since(source: Tree, emitted: Tree, log: Log) -> list[str]:
    """Files of an emitted tree that are neither as they were written nor as the source has them.

    Args:
        source: what the tree was made from.
        emitted: the tree as it is now.
        log: the log that was left in it.

    Returns:
        Their paths, and those of files that are gone; links and the two logs are left out.
    """
    written = {entry.path: entry.after for entry in log.files}
    edited = []
    entries = {entry.path: entry for entry in emitted.entries()}
    for path, entry in entries.items():
        if path in (LOG_NAME, SUMMARY_NAME) or entry.link is not None:
            continue
        data = emitted.read(path) or b""
        known = written.get(printable(path))
        if known is None:
            if data != source.read(path):
                edited.append(path)
        elif digest(data) != known:
            edited.append(path)
    expected = {printable(entry.path) for entry in source.entries()} | set(written)
    return edited + sorted(expected - {printable(path) for path in entries})
