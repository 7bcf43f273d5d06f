# SPDX-License-Identifier: Apache-2.0
"""What a migration leaves in the tree to say what it did: MIGRATION.md and migration-log.json.

Rendered from a plan alone: same plan, same bytes; no time, no absolute path.
"""

from __future__ import annotations

import hashlib
from importlib import resources
from typing import Literal

import jinja2
import msgspec

from migrator import __version__
from migrator.engine import Span
from migrator.errors import MigrateError
from migrator.plan import FileChange, Plan
from migrator.rule import Status

SCHEMA_VERSION: Literal[1] = 1
LOG_NAME = "migration-log.json"
SUMMARY_NAME = "MIGRATION.md"


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
    name: str
    summary: str
    safety: str
    changed: int
    migrated: int
    skipped: int
    manual: int


class FileEntry(msgspec.Struct, frozen=True):
    """A file that the migration added or rewrote."""

    path: str
    status: Literal["added", "modified"]
    before: str | None
    """SHA-256 of the file before, in hexadecimal; null for an added one."""
    after: str
    """SHA-256 of the emitted file."""


class ChangeEntry(msgspec.Struct, frozen=True):
    """One change: by which rule, where, why."""

    rule: str
    path: str
    site: str
    """Qualified name of the function, method or attribute."""
    before: Lines | None
    """Lines of the site in the source; null in an added file."""
    after: Lines
    """Lines of the new code in the emitted file."""
    source: str
    """First line of the site's source."""
    reason: str


class LeftEntry(msgspec.Struct, frozen=True):
    """Something that was left alone, and why."""

    rule: str | None
    """Null for a file that no rule could look at."""
    path: str
    site: str | None
    line: int | None
    kind: Literal["skipped", "manual", "failed", "link"]
    """`skipped` is right as it is; `manual` and `failed` wait for a person."""
    reason: str


class AbsentEntry(msgspec.Struct, frozen=True):
    """A site that this release is known not to have."""

    rule: str
    site: str
    releases: str
    why: str


class Log(msgspec.Struct, frozen=True):
    """The whole of migration-log.json."""

    schema_version: Literal[1]
    tool: Tool
    release: str | None
    """The vLLM release that was migrated; null where the tree does not say."""
    rules: tuple[RuleEntry, ...]
    files: tuple[FileEntry, ...]
    changes: tuple[ChangeEntry, ...]
    left_alone: tuple[LeftEntry, ...]
    absent: tuple[AbsentEntry, ...]


def schema() -> bytes:
    """The JSON Schema of migration-log.json, as it is published in the project."""
    document = msgspec.json.schema(Log)
    document = {"$schema": "https://json-schema.org/draft/2020-12/schema", **document}
    return msgspec.json.format(msgspec.json.encode(document, order="sorted"), indent=2) + b"\n"


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
    """The log of a plan; what an earlier run recorded and is still there is kept."""
    earlier = read_log(plan.earlier_log) if plan.earlier_log is not None else None
    return Log(
        schema_version=SCHEMA_VERSION,
        tool=Tool(),
        release=plan.release,
        rules=tuple(
            RuleEntry(
                code=rule.code,
                name=rule.name,
                summary=rule.summary,
                safety=rule.safety.value,
                changed=len(plan.records_of(rule.code, Status.CHANGED)),
                migrated=len(plan.records_of(rule.code, Status.MIGRATED)),
                skipped=len(plan.records_of(rule.code, Status.SKIPPED)),
                manual=len(plan.records_of(rule.code, Status.MANUAL)),
            )
            for rule in plan.rules
        ),
        files=_files(plan, earlier),
        changes=_changes(plan, earlier),
        left_alone=_left_alone(plan),
        absent=tuple(AbsentEntry(a.rule, a.site, a.releases, a.why) for a in plan.absent),
    )


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _files(plan: Plan, earlier: Log | None) -> tuple[FileEntry, ...]:
    entries = {entry.path: entry for entry in (earlier.files if earlier else ())}
    for change in plan.files:
        before = None if change.before is None else _digest(change.before)
        if change.path in entries:
            before = entries[change.path].before
        entries[change.path] = FileEntry(
            change.path, "added" if before is None else "modified", before, _digest(change.after)
        )
    return tuple(entries[path] for path in sorted(entries))


def _lines(span: Span | None) -> Lines | None:
    return None if span is None else Lines(span.line, span.end_line)


def _changes(plan: Plan, earlier: Log | None) -> tuple[ChangeEntry, ...]:
    now = {(r.rule, r.path, r.site): r for r in plan.records if r.status is Status.MIGRATED}
    entries = []
    for entry in earlier.changes if earlier else ():
        there = now.get((entry.rule, entry.path, entry.site))
        after = _lines(there.before) if there is not None else None
        entries.append(msgspec.structs.replace(entry, after=after or entry.after))
    entries += [
        ChangeEntry(
            rule=r.rule,
            path=r.path,
            site=r.site,
            before=_lines(r.before),
            after=Lines(r.after.line, r.after.end_line),
            source=r.source,
            reason=r.reason,
        )
        for r in plan.records
        if r.after is not None
    ]
    return tuple(sorted(entries, key=lambda e: (e.path, e.after.line, e.rule, e.site)))


def _left_alone(plan: Plan) -> tuple[LeftEntry, ...]:
    entries = [
        LeftEntry(
            rule=r.rule,
            path=r.path,
            site=r.site,
            line=r.before.line if r.before is not None else None,
            kind="manual" if r.status is Status.MANUAL else "skipped",
            reason=r.reason,
        )
        for r in plan.records
        if r.status in (Status.MANUAL, Status.SKIPPED)
    ]
    entries += [LeftEntry(None, f.path, None, None, "failed", f.reason) for f in plan.failures]
    entries += [
        LeftEntry(None, path, None, None, "link", "a link out of the tree; copied, not followed")
        for path in plan.links_out
    ]
    return tuple(sorted(entries, key=lambda e: (e.path, e.line or 0, e.rule or "", e.site or "")))


def _markdown(text: str) -> str:
    """Escape what would break a table's cell."""
    return text.replace("|", "\\|")


def make_summary(log: Log) -> str:
    """MIGRATION.md: the log for people, by rule."""
    environment = jinja2.Environment(
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["cell"] = _markdown
    source = resources.files("migrator").joinpath("MIGRATION.md.j2").read_text(encoding="utf-8")
    return environment.from_string(source).render(log=log)


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
    encoded = msgspec.json.format(msgspec.json.encode(log), indent=2) + b"\n"
    return (
        FileChange(SUMMARY_NAME, plan.earlier_summary, make_summary(log).encode()),
        FileChange(LOG_NAME, plan.earlier_log, encoded),
        *plan.files,
    )
