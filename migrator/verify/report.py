# SPDX-License-Identifier: Apache-2.0
"""Findings, and how they are shown: text for people, JSON for machines, annotations for GitHub."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from migrator.messages.escaping import terminal
from migrator.messages.github import Annotation

CODES = {
    "V001": "a file that the migration log names is not in the tree",
    "V101": "undefined name",
    "V102": "an import of the tree's own package does not resolve",
    "V103": "an attribute of a module or class of the tree does not resolve",
    "V104": "an attribute of self or super() does not resolve",
    "V105": "a call does not fit the signature in the tree",
    "V106": "a name that only type checkers see is used at run time",
    "V107": "a dotted path in a string does not resolve",
    "V108": "nothing leads to a module that the migration added",
    "V201": "torch_npu has no such name",
    "V202": "a call does not bind to the operator's schema or the function's signature",
    "V301": "a file does not compile",
    "V302": "a new warning on compiling",
    "V303": "syntax that the oldest Python of the release does not know",
    "V401": "torch_npu is needed to import the tree",
    "V402": "a module does not import without torch_npu",
    "V403": "a module does not import with torch_npu",
}
"""Stable code of each kind of finding → what it means."""


class Finding(msgspec.Struct, frozen=True, order=True):
    """Something wrong at a place. `path` is relative to the tree, line and column are 1-based."""

    path: str
    line: int
    column: int
    code: str
    message: str
    expected: str | None = None


class Note(msgspec.Struct, frozen=True, order=True):
    """Something that was not checked, and why; it is never an error."""

    path: str
    line: int
    message: str


class Report(msgspec.Struct):
    """The outcome of one run; `torch_npu` says which wheel was read and why that one."""

    schema_version: int
    release: str | None
    torch_npu: dict[str, str] | None
    files: int
    calls: int
    findings: list[Finding]
    notes: list[Note]


def as_text(findings: Iterable[Finding]) -> str:
    """One `path:line:column: code message` a finding, the expected schema indented below it."""
    lines = []
    for f in findings:
        lines.append(f"{f.path}:{f.line}:{f.column}: {f.code} {f.message}")
        if f.expected:
            lines.extend(f"    expected: {part}" for part in f.expected.splitlines())
    return "\n".join(terminal(line) for line in lines)


def as_json(report: Report) -> str:
    """The whole report, indented, keys in a stable order."""
    return msgspec.json.format(msgspec.json.encode(report), indent=2).decode()


def annotated(findings: Iterable[Finding]) -> list[Annotation]:
    """What GitHub is told of the findings."""
    return [
        Annotation(
            "error",
            f.message + (f"\nexpected: {f.expected}" if f.expected else ""),
            path=f.path,
            line=f.line,
            column=f.column,
            title=f.code,
        )
        for f in findings
    ]
