# SPDX-License-Identifier: Apache-2.0
"""Renders a comparison of releases: a table for people; JSON, GitHub and SARIF for programs."""

from __future__ import annotations

from typing import Any

import msgspec
from rich.console import Console
from rich.table import Table
from rich.text import Text

from migrator.codemod.candidates import Kind
from migrator.codemod.engine import Span
from migrator.liveness import Cell, Change, Finding, Level, Liveness
from migrator.messages.escaping import terminal
from migrator.messages.github import Annotation
from migrator.messages.wording import counted
from migrator.reports.log import pretty_json, printable
from migrator.reports.render import annotation
from migrator.reports.sarif import document, location, rule_entry

VERSION = 1
"""Of the JSON; it grows where a reader of the one before would misread it."""
STYLES = {Level.ERROR: "red", Level.WARNING: "yellow", Level.NOTE: "dim"}
GITHUB = {Level.ERROR: "error", Level.WARNING: "warning", Level.NOTE: "notice"}


def render(liveness: Liveness, output_format: str, within: str = "") -> str | None:
    """The comparison in a format for programs: `json` or `sarif`; None for another.

    Args:
        liveness: what was found.
        output_format: the name of the format.
        within: what paths of the later tree begin with in the repository around it.
    """
    if output_format == "json":
        return pretty_json(_json(liveness)).decode()
    if output_format == "sarif":
        index = {rule.code: number for number, rule in enumerate(liveness.rules)}
        results = [_result(finding, index, within) for finding in liveness.findings]
        return document([rule_entry(rule) for rule in liveness.rules], results)
    return None


def print_table(console: Console, liveness: Liveness, *, verbose: bool = False) -> None:
    """Rules by releases with the number of sites found, and below it what changed.

    Notes are counted only, unless `verbose`.
    """
    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("rule", no_wrap=True)
    table.add_column("name", no_wrap=True)
    for column in liveness.columns:
        table.add_column(Text(terminal(column.name)), justify="right", no_wrap=True)
    for rule in liveness.rules:
        cells = [_cell(liveness.cell(rule, column)) for column in liveness.columns]
        table.add_row(rule.code, rule.name, *cells)
    names = sum(len(column.name) + 2 for column in liveness.columns)
    width = max(console.width, 12 + max(len(rule.name) for rule in liveness.rules) + names)
    console.print(table, width=width, crop=False, soft_wrap=False)
    console.print(
        Text("–: known not to be there, or for other code to ask for; ✗: a site is missing", "dim")
    )
    notes = 0
    for finding in liveness.findings:
        if finding.level is Level.NOTE and not verbose:
            notes += 1
            continue
        text = terminal(f"{finding.level.value}: {place(finding)}: {finding.describe()}")
        console.print(Text(text, style=STYLES[finding.level]), soft_wrap=True)
    if liveness.worst() is not Level.ERROR:
        console.print(Text("every rule finds its sites", style="green"))
    if notes:
        what = f"{counted(notes, 'more site')} {'is' if notes == 1 else 'are'}"
        text = f"{what} found elsewhere, or went with the code around: --verbose"
        console.print(Text(text, style="dim"), soft_wrap=True)


def place(finding: Finding) -> str:
    """Where a site was, or is, as `path:line`."""
    return finding.path if finding.line is None else f"{finding.path}:{finding.line}"


def _cell(cell: Cell) -> Text:
    if cell.missing:
        return Text(f"{cell.found or ''}✗", style="red")
    if not cell.found:
        return Text("–", style="dim")
    return Text(str(cell.found))


class Compared(msgspec.Struct, frozen=True):
    """A tree or release that is compared."""

    name: str
    release: str | None


class SiteCounts(msgspec.Struct, frozen=True):
    """What a rule finds in one release."""

    found: int
    skipped: int
    absent: list[str]
    """Declared sites that the release is known not to have."""
    missing: list[str]
    """Declared sites that should be there."""


class RuleCounts(msgspec.Struct, frozen=True):
    """What a rule finds, by the names of what is compared."""

    code: str
    name: str
    sites: dict[str, SiteCounts]


class NearbyDefinition(msgspec.Struct, frozen=True):
    """A definition that may be what a site was."""

    what: Kind
    path: str
    line: int
    name: str
    detail: str


class ChangedSite(msgspec.Struct, frozen=True):
    """A site that is not in a later release what it was in an earlier one."""

    rule: str
    site: str
    level: Level
    change: Change
    earlier: str
    later: str
    path: str
    line: int | None
    place_in: str
    """The release in which `path` and `line` are."""
    message: str
    candidates: list[NearbyDefinition]


class Document(msgspec.Struct, frozen=True):
    """What `check --against … --format json` prints."""

    version: int
    releases: list[Compared]
    rules: list[RuleCounts]
    findings: list[ChangedSite]


def _json(liveness: Liveness) -> Document:
    return Document(
        version=VERSION,
        releases=[Compared(column.name, column.plan.release) for column in liveness.columns],
        rules=[
            RuleCounts(
                rule.code,
                rule.name,
                {column.name: _counts(liveness.cell(rule, column)) for column in liveness.columns},
            )
            for rule in liveness.rules
        ],
        findings=[
            ChangedSite(
                rule=finding.rule,
                site=finding.site,
                level=finding.level,
                change=finding.change,
                earlier=finding.earlier,
                later=finding.later,
                path=printable(finding.path),
                line=finding.line,
                place_in=finding.later if finding.at_later else finding.earlier,
                message=finding.message,
                candidates=[
                    NearbyDefinition(
                        what=candidate.kind,
                        path=printable(candidate.path),
                        line=candidate.line,
                        name=candidate.name,
                        detail=candidate.detail,
                    )
                    for candidate in finding.candidates
                ],
            )
            for finding in liveness.findings
        ],
    )


def _counts(cell: Cell) -> SiteCounts:
    return SiteCounts(cell.found, cell.skipped, list(cell.absent), list(cell.missing))


def _later_place(finding: Finding) -> tuple[str, Span | None]:
    """Where to look in the later tree: the definition, what comes nearest, or the old file."""
    if finding.at_later and finding.line is not None:
        return finding.path, Span(finding.line, finding.line)
    if finding.candidates:
        best = finding.candidates[0]
        return best.path, Span(best.line, best.line)
    return finding.path, None


def annotated(liveness: Liveness) -> list[Annotation]:
    """What GitHub is told of a comparison."""
    return [_annotation(finding) for finding in liveness.findings]


def _annotation(finding: Finding) -> Annotation:
    path, span = _later_place(finding)
    return annotation(
        GITHUB[finding.level], finding.describe(), path=path, span=span, title=finding.rule
    )


def _result(finding: Finding, index: dict[str, int], within: str) -> dict[str, Any]:
    path, span = _later_place(finding)
    return {
        "ruleId": finding.rule,
        "ruleIndex": index[finding.rule],
        "level": finding.level.value,
        "message": {"text": finding.describe()},
        "locations": [location(within + path, span)],
        "properties": {"change": finding.change.value},
    }
