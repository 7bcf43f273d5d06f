# SPDX-License-Identifier: Apache-2.0
"""Renders an update for people and for programs."""

from __future__ import annotations

import msgspec
from rich.console import Console
from rich.table import Table
from rich.text import Text

from migrator.files.tree import Label
from migrator.messages.escaping import terminal
from migrator.messages.wording import counted
from migrator.reports.log import pretty_json, printable
from migrator.updating.base import Pristine
from migrator.updating.run import Update
from migrator.updating.trees import UPSTREAM, Fate, Outcome, by_fate

_STYLES = {Fate.CONFLICT: "red", Fate.MERGED: "green"}
SHOWN = 40
"""Files of one kind that the table names; the rest is counted, and JSON has them all."""


def print_report(console: Console, update: Update, *, verbose: bool = False) -> None:
    """The table of files: conflicts first, then what was carried over, then upstream's counts."""
    old, new = _named(update.old.label, update.base.pristine), _named(update.plan.label, update.new)
    title = f"{old} → {new}; TREE was made from {update.base.pristine.origin}"
    console.print(Text(terminal(title), style="bold"), soft_wrap=True)
    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("file", overflow="fold")
    table.add_column("became", no_wrap=True)
    table.add_column("note")
    fates = by_fate(update.merge.outcomes)
    counted = []
    for fate, outcomes in fates.items():
        if fate in UPSTREAM and not verbose:
            if outcomes:
                counted.append(f"{len(outcomes)} {fate.value}")
            continue
        shown = len(outcomes) if verbose or fate is Fate.CONFLICT else SHOWN
        for outcome in outcomes[:shown]:
            table.add_row(
                Text(terminal(outcome.path)),
                Text(fate.value, style=_STYLES.get(fate, "")),
                Text(terminal(_note(outcome)), style="dim"),
            )
        if len(outcomes) > shown:
            table.add_row(f"… {len(outcomes) - shown} more", fate.value, "")
    if table.row_count:
        console.print(table)
    if counted:
        console.print(Text(f"Untouched by hand: {', '.join(counted)}"))
    for path in sorted(update.base.unsure):
        text = terminal(
            f"{path}: what the tool once wrote is not known for sure; "
            "no line of yours is dropped there"
        )
        console.print(Text(text, style="yellow"), soft_wrap=True)
    recorded = {rule.code for rule in update.old.rules}
    new_rules = [rule.code for rule in update.plan.rules if rule.code not in recorded]
    if new_rules:
        text = "Rules that TREE was not migrated with; --ignore leaves them out: "
        console.print(Text(text + ", ".join(new_rules)), soft_wrap=True)
    if update.base.gone_rules:
        text = f"Rules that there are no more: {', '.join(update.base.gone_rules)}"
        console.print(Text(text, style="yellow"), soft_wrap=True)


def _named(label: Label, source: Pristine) -> str:
    """What a source is called; its commit where nothing says a release."""
    if label.release is None and source.commit is not None:
        return f"vLLM at {source.origin}"
    return str(label)


def _note(outcome: Outcome) -> str:
    parts = []
    if outcome.was is not None:
        parts.append(f"was {outcome.was}")
    if outcome.fate is Fate.CONFLICT and outcome.marked:
        parts.append(f"{counted(outcome.conflicts, 'place')} marked")
    if outcome.reason:
        parts.append(outcome.reason)
    return "; ".join(parts)


class UpdatedFile(msgspec.Struct, frozen=True):
    """What became of one file."""

    path: str
    was: str | None
    """Its path before, where somebody has renamed it."""
    fate: Fate
    conflicts: int
    marked: bool
    """Are the conflicts between git's markers in the file?"""
    reason: str


class Document(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """What `update --format json` prints: from what to what, and what became of every file."""

    from_: str | None = msgspec.field(name="from")
    """The release that the tree was."""
    to: str | None
    from_claim: str | None = None
    """What a tree that is no release says that it is."""
    to_claim: str | None = None
    to_commit: str | None = None
    base: str
    """What the tree was made from."""
    unsure: list[str]
    """Files of which it is not known what the tool once wrote."""
    counts: dict[str, int]
    """Files by what became of them."""
    files: list[UpdatedFile]


def render(update: Update) -> str:
    """The update as JSON: from what to what, and what became of every file."""
    document = Document(
        from_=update.old.release,
        to=update.plan.release,
        from_claim=update.old.claim,
        to_claim=update.plan.label.claim,
        to_commit=update.new.commit,
        base=update.base.pristine.origin,
        unsure=[printable(path) for path in sorted(update.base.unsure)],
        counts={fate.value: len(o) for fate, o in by_fate(update.merge.outcomes).items()},
        files=[
            UpdatedFile(
                path=printable(outcome.path),
                was=None if outcome.was is None else printable(outcome.was),
                fate=outcome.fate,
                conflicts=outcome.conflicts,
                marked=outcome.marked,
                reason=outcome.reason,
            )
            for outcome in update.merge.outcomes
        ],
    )
    return pretty_json(document).decode()
