# SPDX-License-Identifier: Apache-2.0
"""Renders a survey: grouped text for people; JSON, SARIF and annotations for programs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from itertools import groupby

import msgspec

from migrator.codemod.engine import Span
from migrator.coverage import Grade, Item, Survey
from migrator.coverage.effort import Effort
from migrator.coverage.surface import Kind
from migrator.messages.escaping import terminal
from migrator.messages.github import Annotation
from migrator.messages.wording import counted
from migrator.reports.log import pretty_json, printable
from migrator.reports.render import annotation
from migrator.reports.sarif import document, location

VERSION = 1
"""Of the JSON; it grows where a reader of the one before would misread it."""
LEVELS = {Grade.REACHABLE: "warning", Grade.GUARDED: "note", Grade.UNREACHABLE: "none"}
IDENTIFIERS = {
    Kind.TORCH_CUDA: "torch-cuda",
    Kind.IS_CUDA: "tensor-is-cuda",
    Kind.DEVICE_LITERAL: "device-literal",
    Kind.CUDA_CALL: "cuda-call",
    Kind.DEVICE_TYPE: "device-type",
    Kind.NCCL: "nccl",
    Kind.CUSTOM_OP: "custom-op",
    Kind.PLATFORM_BRANCH: "platform-branch",
    Kind.TRITON_KERNEL: "triton-kernel",
    Kind.TRITON_LAUNCH: "triton-launch",
    Kind.CUDA_IMPORT: "cuda-import",
}
"""What programs call each kind."""
DESCRIPTIONS = {
    Kind.TORCH_CUDA: "A name of torch.cuda",
    Kind.IS_CUDA: "A tensor is asked whether it is CUDA's",
    Kind.DEVICE_LITERAL: "The device cuda, written out",
    Kind.CUDA_CALL: "Something is moved to CUDA",
    Kind.DEVICE_TYPE: "A device's type is compared with cuda",
    Kind.NCCL: "NCCL, by name or by its wrapper",
    Kind.CUSTOM_OP: "An operator of vLLM's CUDA extensions",
    Kind.PLATFORM_BRANCH: "A branch on the CUDA platform",
    Kind.TRITON_KERNEL: "A kernel written in Triton",
    Kind.TRITON_LAUNCH: "A Triton kernel is launched",
    Kind.CUDA_IMPORT: "An import of a package for CUDA or ROCm",
}


def render(survey: Survey, output_format: str, grades: Collection[Grade], within: str = "") -> str:
    """The survey in a format: `text`, `json` or `sarif`.

    Args:
        survey: what was found.
        output_format: the name of the format.
        grades: what the text lists; JSON and SARIF hold all.
        within: what paths begin with in the repository around the tree, for SARIF.
    """
    if output_format == "json":
        return pretty_json(_json(survey)).decode()
    if output_format == "sarif":
        return _sarif(survey, within)
    items = [item for item in survey.items if item.grade in grades]
    return "".join(f"{terminal(line)}\n" for line in _text(survey, items))


def _text(survey: Survey, items: Iterable[Item]) -> Iterator[str]:
    sites = counted(len(survey.items), f"{'new ' if survey.since else ''}accelerator-specific site")
    since = f" since {survey.since}" if survey.since else ""
    yield (
        f"{survey.name}: {sites}{since} that no rule claims; "
        f"rules claim {sum(survey.claimed.values())}"
    )
    if survey.since:
        yield f"not new: {survey.known}, which {survey.since} has as well, there or elsewhere"
    yield f"an NPU imports {survey.imported} of {survey.modules} modules"
    yield ""
    yield f"{'kind':<24}{''.join(f'{grade.value:>13}' for grade in Grade)}{'claimed':>13}"
    for kind, counts in survey.counts().items():
        cells = "".join(f"{counts[grade] or '–':>13}" for grade in Grade)
        yield f"{kind.value:<24}{cells}{survey.claimed.get(kind, 0) or '–':>13}"
    totals = Counter(item.grade for item in survey.items)
    cells = "".join(f"{totals[grade]:>13}" for grade in Grade)
    yield f"{'all':<24}{cells}{sum(survey.claimed.values()):>13}"
    yield ""
    efforts = Counter((item.grade, item.effort) for item in survey.items)
    for grade in Grade:
        parts = ", ".join(f"{efforts[grade, effort]} {effort.value}" for effort in Effort)
        yield f"{grade.value}: {parts}"
    for path, reason in survey.failures:
        yield f"{path}: not read: {reason}"
    for path, group in groupby(items, key=lambda item: item.path):
        yield ""
        yield path
        for item in group:
            yield (
                f"  {item.line}: {item.function}: {_what(item)} [{item.grade.value}, "
                f"{item.effort.value}] {item.reason}; {item.effort_why}"
            )


def _what(item: Item) -> str:
    return f"{item.kind.value}: {item.source}"


class KindCount(msgspec.Struct, frozen=True):
    """Sites of one kind, by whether an NPU comes to them."""

    kind: str
    reachable: int
    guarded: int
    unreachable: int
    claimed: int
    """Sites that rules change, or leave alone for a reason."""


class UnreadFile(msgspec.Struct, frozen=True):
    """A file that does not parse."""

    path: str
    reason: str


class UnclaimedSite(msgspec.Struct, frozen=True):
    """A site that no rule claims."""

    kind: str
    path: str
    line: int
    end_line: int
    function: str
    source: str
    grade: Grade
    reason: str
    via: list[str]
    """How an NPU comes there: callers as `path function`, the nearest first."""
    effort: Effort
    effort_reason: str


class Document(msgspec.Struct, frozen=True):
    """What `coverage --format json` prints."""

    version: int
    tree: str
    release: str | None
    since: str | None
    """The older tree, if only what is new since it is listed."""
    known: int
    """Sites that are not listed because the older tree had them."""
    modules: int
    imported: int
    """How many of the modules an NPU imports."""
    counts: list[KindCount]
    claimed_by: dict[str, int]
    failures: list[UnreadFile]
    sites: list[UnclaimedSite]


def _json(survey: Survey) -> Document:
    return Document(
        version=VERSION,
        tree=printable(survey.name),
        release=survey.release,
        since=survey.since,
        known=survey.known,
        modules=survey.modules,
        imported=survey.imported,
        counts=[
            KindCount(
                kind=IDENTIFIERS[kind],
                **{grade.value: counts[grade] for grade in Grade},
                claimed=survey.claimed.get(kind, 0),
            )
            for kind, counts in survey.counts().items()
        ],
        claimed_by=dict(survey.by_rule),
        failures=[UnreadFile(printable(path), reason) for path, reason in survey.failures],
        sites=[
            UnclaimedSite(
                kind=IDENTIFIERS[item.kind],
                path=printable(item.path),
                line=item.line,
                end_line=item.end_line,
                function=item.function,
                source=item.source,
                grade=item.grade,
                reason=item.reason,
                via=list(item.via),
                effort=item.effort,
                effort_reason=item.effort_why,
            )
            for item in survey.items
        ],
    )


def annotated(survey: Survey, grades: Collection[Grade]) -> list[Annotation]:
    """What GitHub is told of a survey: what an NPU comes to first."""
    levels = {"warning": "warning", "note": "notice", "none": "notice"}
    items = [item for item in survey.items if item.grade in grades]
    return [
        annotation(
            levels[LEVELS[item.grade]],
            f"{_what(item)}: {item.grade.value}: {item.reason}; {item.effort_why}",
            path=item.path,
            span=Span(item.line, item.end_line),
            title=f"{item.kind.value} ({item.effort.value})",
        )
        for item in sorted(items, key=lambda item: [*LEVELS].index(item.grade))
    ]


def _sarif(survey: Survey, within: str) -> str:
    index = {kind: number for number, kind in enumerate(Kind)}
    rules = [
        {
            "id": IDENTIFIERS[kind],
            "name": kind.value,
            "shortDescription": {"text": DESCRIPTIONS[kind]},
        }
        for kind in Kind
    ]
    results = [
        {
            "ruleId": IDENTIFIERS[item.kind],
            "ruleIndex": index[item.kind],
            "level": LEVELS[item.grade],
            # What no level is given to is no problem, in the format's words: an observation.
            "kind": "informational" if item.grade is Grade.UNREACHABLE else "fail",
            "message": {"text": f"{item.source}: {item.grade.value}: {item.reason}"},
            "locations": [location(within + item.path, Span(item.line, item.end_line))],
            "properties": {
                "function": item.function,
                "grade": item.grade.value,
                "effort": item.effort.value,
                "effortReason": item.effort_why,
                "via": list(item.via),
            },
        }
        for item in survey.items
    ]
    return document(rules, results)
