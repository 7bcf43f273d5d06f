# SPDX-License-Identifier: Apache-2.0
"""Renders a plan for people and for programs: the table of rules, JSON, GitHub, SARIF."""

from __future__ import annotations

import enum
import os
import urllib.parse
from collections.abc import Iterator

from rich.console import Console
from rich.table import Table
from rich.text import Text

from migrator import __version__
from migrator.engine import Record
from migrator.log import make_log, pretty_json, printable
from migrator.plan import Plan
from migrator.rule import Rule, Status


class Tense(enum.Enum):
    """What was done, or what would be."""

    PAST = "changed"
    WOULD = "would change"
    PENDING = "pending"


def render(plan: Plan, output_format: str, tense: Tense) -> str | None:
    """The plan in a format for programs: `json`, `github` or `sarif`; None for `text`."""
    if output_format == "json":
        return pretty_json(make_log(plan)).decode()
    if output_format == "github":
        return "".join(f"{line}\n" for line in _github(plan))
    if output_format == "sarif":
        return _sarif(plan, tense)
    return None


def print_table(console: Console, plan: Plan, tense: Tense, *, verbose: bool = False) -> None:
    """The table of rules, and below it what waits for a person."""
    title = f"vLLM {plan.release or '(release unknown)'}"
    table = Table(title=title, title_justify="left", box=None, header_style="bold", pad_edge=False)
    table.add_column("rule", no_wrap=True)
    table.add_column("name")
    for head in (tense.value, "migrated already", "skipped", "for a person"):
        table.add_column(head, justify="right")
    table.add_column("note")
    for rule in plan.rules:
        counts = plan.tally(rule.code)
        changed, done = counts[Status.CHANGED], counts[Status.MIGRATED]
        skipped, person = counts[Status.SKIPPED], counts[Status.MANUAL]
        table.add_row(
            rule.code,
            rule.name,
            Text(str(changed), style="green" if changed else "dim"),
            Text(str(done), style="" if done else "dim"),
            Text(str(skipped), style="" if skipped else "dim"),
            Text(str(person), style="yellow" if person else "dim"),
            Text(_note(plan, rule), style="dim"),
        )
    console.print(table)
    if verbose:
        for record in plan.records:
            console.print(Text(_line(record, tense)), soft_wrap=True)
    for absent in plan.absent:
        text = f"{absent.rule}: no {absent.site} in releases {absent.releases}: {absent.why}"
        console.print(Text(text, style="dim"), soft_wrap=True)
    for record in plan.records:
        if record.status is Status.MANUAL:
            console.print(Text(_line(record, tense), style="yellow"), soft_wrap=True)
    for failure in plan.failures:
        text = f"{printable(failure.path)}: left as it is: {failure.reason}"
        console.print(Text(text, style="yellow"), soft_wrap=True)
    for path in plan.links_out:
        text = f"{printable(path)}: a link out of the tree; copied as a link, not followed"
        console.print(Text(text, style="dim"), soft_wrap=True)


def _note(plan: Plan, rule: Rule) -> str:
    """Why a rule skips what it skips, the reasons counted."""
    reasons: dict[str, int] = {}
    for record in plan.records_of(rule.code, Status.SKIPPED):
        head = record.reason.partition(":")[0]
        reasons[head] = reasons.get(head, 0) + 1
    return ", ".join(f"{count} {reason}" for reason, count in sorted(reasons.items()))


def _line(record: Record, tense: Tense) -> str:
    path = printable(record.path)
    where = f"{path}:{record.before.line}" if record.before else path
    return f"{where}: {record.rule} {_word(record, tense)}: {record.site}: {record.reason}"


def _word(record: Record, tense: Tense) -> str:
    """What became of a site, or would."""
    return tense.value if record.status is Status.CHANGED else record.status.value


def _github(plan: Plan) -> Iterator[str]:
    """Workflow commands that annotate a pull request."""
    levels = {Status.CHANGED: "notice", Status.MANUAL: "warning"}
    for record in plan.records:
        level = levels.get(record.status)
        if level is not None and record.before is not None:
            place = (
                f"file={_escape(printable(record.path), property_=True)},line={record.before.line},"
                f"endLine={record.before.end_line},title={record.rule}"
            )
            yield f"::{level} {place}::{_escape(f'{record.site}: {record.reason}')}"
    for failure in plan.failures:
        path = _escape(printable(failure.path), property_=True)
        yield f"::error file={path}::{_escape(failure.reason)}"
    for missing in plan.missing:
        yield f"::error title={missing.rule}::{_escape(missing.describe())}"


def _escape(text: str, *, property_: bool = False) -> str:
    text = text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")
    return text.replace(":", "%3A").replace(",", "%2C") if property_ else text


def _uri(path: str) -> str:
    """A path as a relative URI reference."""
    return urllib.parse.quote(os.fsencode(path))


def _sarif(plan: Plan, tense: Tense) -> str:
    """A SARIF 2.1.0 log: one result for each site that changes, and each that waits for a person.

    Files that could not be handled are results too; those that are added have no place yet.
    """
    levels = {Status.CHANGED: "note", Status.MANUAL: "warning"}
    results = [
        {
            "ruleId": record.rule,
            "level": levels[record.status],
            "message": {"text": f"{_word(record, tense)}: {record.site}: {record.reason}"},
            "locations": [
                {
                    "physicalLocation": {
                        "artifactLocation": {"uri": _uri(record.path)},
                        "region": {
                            "startLine": record.before.line,
                            "endLine": record.before.end_line,
                        },
                    }
                }
            ],
        }
        for record in plan.records
        if record.status in levels and record.before is not None
    ]
    results += [
        {
            "level": "error",
            "message": {"text": f"left as it is: {failure.reason}"},
            "locations": [{"physicalLocation": {"artifactLocation": {"uri": _uri(failure.path)}}}],
        }
        for failure in plan.failures
    ]
    results += [
        {"ruleId": m.rule, "level": "error", "message": {"text": m.describe()}}
        for m in plan.missing
    ]
    rules = [
        {
            "id": rule.code,
            "name": rule.name,
            "shortDescription": {"text": rule.summary},
            "help": {"text": rule.doc},
        }
        for rule in plan.rules
    ]
    document = {
        "$schema": "https://json.schemastore.org/sarif-2.1.0.json",
        "version": "2.1.0",
        "runs": [
            {
                "tool": {
                    "driver": {"name": "vllm-npu-migrate", "version": __version__, "rules": rules}
                },
                "results": results,
            }
        ],
    }
    return pretty_json(document).decode()
