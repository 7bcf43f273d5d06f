# SPDX-License-Identifier: Apache-2.0
"""Plans and results as bytes, for the cache. Decoding checks types; what does not fit is None."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

import msgspec

from migrator.codemod.engine import FileResult, Record
from migrator.codemod.known_shapes import UncheckedSite
from migrator.files.changes import FileChange
from migrator.files.tree import LOG_NAME, SUMMARY_NAME, Label, Question, Tree, digest
from migrator.planning.plan import AbsentSite, MissingSite, Plan
from migrator.rules import all_rules

T = TypeVar("T")


class _Result(msgspec.Struct):
    asked: list[tuple[str, str, str]]
    after: bytes | None
    records: tuple[Record, ...]
    unchecked: tuple[UncheckedSite, ...]


class _File(msgspec.Struct):
    path: str
    before: str | None
    """Hash of the file, which is in the tree."""
    after: bytes
    mode: int


class _Plan(msgspec.Struct):
    tree_name: str
    label: Label
    rules: list[str]
    files: list[_File]
    records: tuple[Record, ...]
    absent: tuple[AbsentSite, ...]
    missing: tuple[MissingSite, ...]
    links_out: tuple[str, ...]
    unchecked: tuple[UncheckedSite, ...]


def encode_result(result: FileResult, asked: Mapping[Question, str]) -> bytes | None:
    """A result, and what its rules asked of the tree; None where a name is no text."""
    listed = [(kind, path, answer) for (kind, path), answer in asked.items()]
    return _encode(_Result(listed, result.after, result.records, result.unchecked))


def decode_result(path: str, data: bytes) -> tuple[FileResult, dict[Question, str]] | None:
    """What `encode_result` was given."""
    found = _decode(data, _Result)
    if found is None:
        return None
    asked = {(kind, question): answer for kind, question, answer in found.asked}
    return FileResult(path, found.after, found.records, unchecked=found.unchecked), asked


def encode_plan(plan: Plan) -> bytes | None:
    """A plan without failures; None where a name is no text."""
    files = [
        _File(f.path, None if f.before is None else digest(f.before), f.after, f.mode)
        for f in plan.files
    ]
    return _encode(
        _Plan(
            tree_name=plan.tree_name,
            label=plan.label,
            rules=[rule.code for rule in plan.rules],
            files=files,
            records=plan.records,
            absent=plan.absent,
            missing=plan.missing,
            links_out=plan.links_out,
            unchecked=plan.unchecked,
        )
    )


def decode_plan(data: bytes, tree: Tree) -> Plan | None:
    """The plan that `encode_plan` was given.

    Args:
        data: what `encode_plan` gave.
        tree: the plan's tree, unchanged since; the files before come from it.
    """
    found = _decode(data, _Plan)
    if found is None:
        return None
    rules = {rule.code: rule for rule in all_rules()}
    files = []
    for file in found.files:
        before = tree.read(file.path)
        if file.before != (None if before is None else digest(before)):
            return None
        files.append(FileChange(file.path, before, file.after, file.mode))
    if not rules.keys() >= set(found.rules):
        return None
    return Plan(
        tree_name=found.tree_name,
        label=found.label,
        rules=tuple(rules[code] for code in found.rules),
        files=tuple(files),
        records=found.records,
        absent=found.absent,
        missing=found.missing,
        failures=(),
        links_out=found.links_out,
        unchecked=found.unchecked,
        earlier_log=tree.read(LOG_NAME),
        earlier_summary=tree.read(SUMMARY_NAME),
    )


def _encode(value: msgspec.Struct) -> bytes | None:
    try:
        return msgspec.msgpack.encode(value)
    except UnicodeEncodeError:  # the path of a file is not UTF-8
        return None


def _decode(data: bytes, kind: type[T]) -> T | None:
    try:
        return msgspec.msgpack.decode(data, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None
