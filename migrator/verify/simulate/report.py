# SPDX-License-Identifier: Apache-2.0
"""The outcome of simulated runs: structures, JSON and a table."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from migrator.files.tree import Label
from migrator.messages.escaping import terminal

if TYPE_CHECKING:
    from rich.console import Console

SCHEMA_VERSION = 1


class Paths(msgspec.Struct):
    """Attention calls of each kind, over all layers and workers, and replays of graphs."""

    prefill: int = 0
    decode: int = 0
    chunked: int = 0
    cached: int = 0
    replays: int = 0


class Run(msgspec.Struct):
    """One model in one mode. `equal`: every greedy token is the reference's (None: there are none).

    `problems` is empty if all is right; `log` are the last lines of a run that failed; `gap` is
    the smallest lead of a best logit in the reference and `noise` what float32 changes of one. A
    run in half precision is not `exact`: its tokens are as good as rounding lets them be.
    """

    model: str
    mode: str
    equal: bool | None
    problems: list[str]
    seconds: float
    paths: Paths = msgspec.field(default_factory=Paths)
    operators: dict[str, int] = {}
    gap: float | None = None
    noise: float | None = None
    log: list[str] = []
    exact: bool = True

    @property
    def passed(self) -> bool:
        """Nothing is wrong."""
        return not self.problems


class Report(msgspec.Struct):
    """All runs of a tree in an environment (name → version of what was installed)."""

    schema_version: int
    tree: str
    release: str | None
    python: str
    versions: dict[str, str]
    missing: list[str]
    runs: list[Run]
    claim: str | None = None
    """What the tree says of its version where it is no release."""

    @property
    def passed(self) -> bool:
        """There were runs, and nothing is wrong in any."""
        return bool(self.runs) and all(run.passed for run in self.runs)


def as_json(report: Report) -> str:
    """The whole report, indented, keys in a stable order."""
    return msgspec.json.format(msgspec.json.encode(report), indent=2).decode()


def merge(reports: list[Report]) -> Report:
    """One report of the same tree in the same environment."""
    first, *rest = reports
    return msgspec.structs.replace(
        first, runs=[*first.runs, *(run for report in rest for run in report.runs)]
    )


HEADINGS = ("model", "mode", "prefill", "decode", "chunked", "cached", "replays", "equal", "s", "")


def equality(run: Run) -> str:
    """What the table says of the tokens of a run."""
    if run.equal is None:
        return "–"
    return ("yes" if run.exact else "near") if run.equal else "NO"


def cells(run: Run) -> tuple[str, ...]:
    """A line of the table, a text for each of HEADINGS."""
    paths = run.paths
    counts = (paths.prefill, paths.decode, paths.chunked, paths.cached, paths.replays)
    return (
        run.model,
        run.mode,
        *(str(count) if count else "–" for count in counts),
        equality(run),
        f"{run.seconds:.0f}",
        "pass" if run.passed else "FAIL",
    )


def write_table(report: Report, console: Console) -> None:
    """The table, and below it what is wrong in the runs that failed."""
    from rich.markup import escape
    from rich.table import Table

    label = Label(report.release, report.claim)
    table = Table(title=f"{label} on the simulated Ascend", title_justify="left")
    for heading in HEADINGS:
        numeric = heading in {"prefill", "decode", "chunked", "cached", "replays", "s"}
        table.add_column(heading, justify="right" if numeric else "left", no_wrap=True)
    for run in report.runs:
        style = None if run.passed else "red"
        table.add_row(*(escape(cell) for cell in cells(run)), style=style)
    console.print(table)
    for run in report.runs:
        for problem in run.problems:
            console.print(
                terminal(f"{run.model} {run.mode}: {problem}"), markup=False, soft_wrap=True
            )
        for line in run.log:
            console.print(terminal(f"    {line}"), markup=False, soft_wrap=True)
