# SPDX-License-Identifier: Apache-2.0
"""A plan as a SARIF 2.1.0 log (OASIS) whose results carry fixes.

All fixes together give, byte for byte, the files that `apply` writes, but for its two logs. Each
block of changed lines is in one fix only, so that none stands in another's way.
"""

from __future__ import annotations

import io
import os
import tokenize
import urllib.parse
from collections.abc import Iterator, Sequence
from typing import Any

from migrator import __version__
from migrator.codemod.engine import Record, Span
from migrator.codemod.rule import Rule, Safety, Status
from migrator.planning.plan import Plan
from migrator.reports.changed_lines import Cut, cut_plan, place_of
from migrator.reports.log import pretty_json

Object = dict[str, Any]

LEVELS = {Status.CHANGED: "note", Status.MANUAL: "warning"}
"""Level of a result by what became of its site; other sites are no results."""


def sarif(plan: Plan, *, word: str, emitted: bool, within: str = "") -> str:
    """The log of one run: a result for each site that changes and each that waits for a person.

    Files that could not be handled are results too, and sites that should be there and are not.

    Args:
        plan: whose records are told.
        word: what became of a site that changes, such as `would change`.
        emitted: the changes are made. Places are then those of the emitted files, and there is
            nothing left to fix.
        within: what paths begin with in the repository around the tree.
    """
    cuts = {cut.change.path: cut for cut in cut_plan(plan)}
    index = {rule.code: number for number, rule in enumerate(plan.rules)}
    results = []
    for record in plan.records:
        if record.status not in LEVELS:
            continue
        cut = cuts.get(record.path)
        text = f"{word if record.status is Status.CHANGED else record.status.value}: {record.site}"
        result = {
            "ruleId": record.rule,
            "ruleIndex": index[record.rule],
            "level": LEVELS[record.status],
            "message": {"text": f"{text}: {record.reason}"},
            "locations": [location(within + record.path, place_of(record, cut, emitted=emitted))],
        }
        if cut is not None and not emitted and record.after is not None:
            replacements = list(_replacements(cut, record))
            if replacements:
                result["fixes"] = [_fix(record, replacements, within)]
        results.append(result)
    results += [
        {
            "level": "error",
            "message": {"text": f"left as it is: {failure.reason}"},
            "locations": [location(within + failure.path, None)],
        }
        for failure in plan.failures
    ]
    results += [
        {
            "ruleId": missing.rule,
            "ruleIndex": index[missing.rule],
            "level": "error",
            "message": {"text": missing.describe()},
            # Code scanning refuses a whole log for one result without a place.
            "locations": [location(within + missing.paths[0], None)],
        }
        for missing in plan.missing
    ]
    artifacts = [_artifact(cut, within) for cut in cuts.values()]
    return document([rule_entry(rule) for rule in plan.rules], results, artifacts)


def document(
    rules: Sequence[Object], results: Sequence[Object], artifacts: Sequence[Object] = ()
) -> str:
    """One run of this tool as a log.

    Args:
        rules: what `ruleId` and `ruleIndex` of the results mean.
        results: findings, as objects of the format.
        artifacts: files that the run is about.
    """
    driver = {"name": "vllm-npu-migrate", "version": __version__, "rules": rules}
    run = {
        "tool": {"driver": driver},
        "columnKind": "unicodeCodePoints",
        "artifacts": artifacts,
        "results": results,
    }
    log = {
        "$schema": "https://json.schemastore.org/sarif-2.1.0.json",
        "version": "2.1.0",
        "runs": [run],
    }
    return pretty_json(log).decode()


def rule_entry(rule: Rule) -> Object:
    """A rule as the format describes one."""
    why = rule.section("Why")
    level = "warning" if rule.safety is Safety.BEHAVIOUR else "note"
    return {
        "id": rule.code,
        "name": rule.name,
        "shortDescription": {"text": rule.summary},
        **({"fullDescription": {"text": why}} if why else {}),
        "defaultConfiguration": {"level": level},
        "help": {"text": rule.doc, "markdown": rule.doc},
        "properties": {"safety": rule.safety.value},
    }


def _artifact(cut: Cut, within: str) -> Object:
    return {
        "location": {"uri": _uri(within + cut.change.path)},
        "roles": ["added" if cut.change.before is None else "modified"],
        "encoding": _encoding(cut.change.before or cut.change.after).removesuffix("-sig"),
    }


def location(path: str, place: Span | None) -> Object:
    """Lines of a file; its first one where all of it is meant, since code scanning wants a line."""
    place = place or Span(1, 1)
    region = {"startLine": place.line, "endLine": place.end_line}
    return {"physicalLocation": {"artifactLocation": {"uri": _uri(path)}, "region": region}}


def _fix(record: Record, replacements: list[Object], within: str) -> Object:
    change = {
        "artifactLocation": {"uri": _uri(within + record.path)},
        "replacements": replacements,
    }
    return {"description": {"text": record.reason}, "artifactChanges": [change]}


def _replacements(cut: Cut, record: Record) -> Iterator[Object]:
    """The blocks of a file that are a record's own: whole lines, which may be none."""
    encoding = _encoding(cut.change.before or cut.change.after)
    for block in cut.blocks:
        if cut.records[block.owners[0]] is not record:
            continue
        region = {"startLine": block.start + 1, "startColumn": 1}
        last = cut.before[block.stop - 1] if block.stop > block.start else b"\n"
        if last.endswith(b"\n"):
            region |= {"endLine": block.stop + 1, "endColumn": 1}
        else:
            region |= {"endLine": block.stop, "endColumn": len(last.decode(encoding)) + 1}
        new = b"".join(cut.after[block.new_start : block.new_stop]).decode(encoding)
        yield {"deletedRegion": region, **({"insertedContent": {"text": new}} if new else {})}


def _encoding(data: bytes) -> str:
    """The encoding that Python reads a file in; a file that it parsed has one."""
    return tokenize.detect_encoding(io.BytesIO(data).readline)[0]


def _uri(path: str) -> str:
    """A path as a relative URI reference."""
    return urllib.parse.quote(os.fsencode(path))
