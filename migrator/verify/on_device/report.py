# SPDX-License-Identifier: Apache-2.0
"""The report of a tree on a device: structures, JSON and Markdown, with nothing of whose it is."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import msgspec

from migrator.files.tree import Label

SCHEMA_VERSION = 1


class Machine(msgspec.Struct):
    """What the machine says of itself."""

    torch: str
    torch_npu: str
    cann: str
    """Empty where CANN does not say."""
    chip: str
    devices: int
    nnal: bool
    """Whether the library of NNAL can be loaded."""
    simulated: bool
    """Whether the simulator is in the device's place."""


class Compared(msgspec.Struct):
    """One call of an operator beside its reference.

    `verdict` is "equal" (the same bits), "close" (as far off as rounding may be), "differs",
    "refused" (the device takes no such call) or "absent" (torch_npu has no such operator). `norm`
    is the root mean square of all differences by that of all values, `largest` the largest
    difference, `at` its place, `off` the share of elements that are further off than rounding.
    """

    operator: str
    case: str
    verdict: str
    why: str = ""
    norm: float = 0.0
    largest: float = 0.0
    at: str = ""
    off: float = 0.0

    @property
    def right(self) -> bool:
        """Nothing is wrong: a torch_npu that lacks an operator is told by its version."""
        return self.verdict in ("equal", "close", "absent")


class Tokens(msgspec.Struct):
    """A model in a mode: what is wrong with its tokens, or why it was left out."""

    model: str
    mode: str
    problems: list[str]
    skipped: str = ""


class Speed(msgspec.Struct):
    """Tokens a second of a mode, by a model of random weights."""

    mode: str
    requests: int
    prompt: int
    """Tokens of each prompt."""
    new: int
    """Tokens that each request gets."""
    per_second: float
    """New tokens of all requests by the seconds that all took, prompts included."""
    problem: str = ""


class DeviceReport(msgspec.Struct):
    """A tree on a device."""

    schema_version: int
    release: str | None
    claim: str | None
    machine: Machine
    operators: list[Compared]
    tokens: list[Tokens]
    speed: list[Speed]
    problems: list[str]
    """What ended a part of it before its end."""

    @property
    def passed(self) -> bool:
        """Everything was looked at and nothing is wrong."""
        return (
            not self.problems
            and bool(self.operators)
            and all(one.right for one in self.operators)
            and not any(one.problems for one in self.tokens)
            and not any(one.problem for one in self.speed)
        )


def as_json(report: DeviceReport) -> str:
    """All of it, indented."""
    return msgspec.json.format(msgspec.json.encode(report), indent=2).decode() + "\n"


def as_markdown(report: DeviceReport) -> str:
    """All of it for a reader, the operators that differ first."""
    return "\n".join(_lines(report)) + "\n"


def _lines(report: DeviceReport) -> Iterator[str]:
    machine = report.machine
    yield f"# {Label(report.release, report.claim)} on a device"
    yield ""
    if machine.simulated:
        yield "**The simulator was in the device's place: this says nothing about a device.**"
        yield ""
    yield "| | |"
    yield "| --- | --- |"
    yield f"| chip | {machine.chip}, {machine.devices} of them |"
    yield f"| CANN | {machine.cann or 'it does not say'} |"
    yield f"| NNAL | {'there' if machine.nnal else 'not there'} |"
    yield f"| torch, torch_npu | {machine.torch}, {machine.torch_npu} |"
    yield ""
    yield f"Verdict: {'nothing is wrong' if report.passed else 'see below'}."
    if report.problems:
        yield ""
        yield from (f"- {problem}" for problem in report.problems)
    yield from _table(
        "Operators beside their references",
        "",
        "| operator | case | verdict | all values off by | largest, at | elements off |\n"
        "| --- | --- | --- | ---: | --- | ---: |",
        map(_operator, sorted(report.operators, key=lambda one: one.right)),
    )
    yield from _table(
        "Tokens",
        "",
        "| model | mode | tokens |\n| --- | --- | --- |",
        map(_model, report.tokens),
    )
    yield from _table(
        "Tokens a second",
        "A model of four layers with random weights, served a second time: new tokens of all\n"
        "requests by the seconds that all took together.",
        "| mode | requests | prompt | new | tokens a second |\n| --- | ---: | ---: | ---: | ---: |",
        map(_rate, report.speed),
    )


def _table(title: str, said: str, columns: str, rows: Iterable[str]) -> Iterator[str]:
    """A section with a table, whose columns are given as its first two lines."""
    yield from ("", f"## {title}", "")
    if said:
        yield from (said, "")
    yield columns
    yield from rows


def _operator(one: Compared) -> str:
    verdict = one.verdict if one.right else f"**{one.verdict}**"
    if one.why:
        verdict += f": {_cell(one.why)}"
    by, largest, off = "–", "–", "–"
    if one.verdict in ("close", "differs"):
        by, largest, off = f"{one.norm:.2%}", f"{one.largest:.3g}, {one.at}", f"{one.off:.2%}"
    return f"| `{one.operator}` | {one.case} | {verdict} | {by} | {largest} | {off} |"


def _model(one: Tokens) -> str:
    said = "; ".join(map(_cell, one.problems)) or "as near to transformers' as rounding lets be"
    if one.skipped:
        said = f"left out: {one.skipped}"
    return f"| {one.model} | {one.mode} | {said} |"


def _rate(one: Speed) -> str:
    rate = _cell(one.problem) if one.problem else f"{one.per_second:.1f}"
    return f"| {one.mode} | {one.requests} | {one.prompt} | {one.new} | {rate} |"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
