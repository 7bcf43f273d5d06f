# SPDX-License-Identifier: Apache-2.0
"""Workflow commands of GitHub Actions: annotations of a pull request, and the job summary.

GitHub shows ten annotations of each level of a step and drops the others without a word. So the
most important ones come first, and what is not shown is in the summary.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from migrator.messages.escaping import code, page, prose

SHOWN = 10
"""Annotations of one level that GitHub shows of a step."""
LEVELS = ("error", "warning", "notice")
"""The most important first."""
SUMMARY = "GITHUB_STEP_SUMMARY"
"""Variable that names the file of a step's summary, in Markdown."""
SUMMARY_BYTES = 900_000
"""How long that file may get: GitHub takes 1 MiB of a step, and none of it where it is longer."""


@dataclass(frozen=True, slots=True)
class Annotation:
    """Something said of a place, or of none."""

    level: str
    """One of `LEVELS`."""
    text: str
    path: str | None = None
    line: int | None = None
    end_line: int | None = None
    column: int | None = None
    title: str | None = None


def by_importance(found: Iterable[Annotation]) -> list[Annotation]:
    """Annotations in the order in which GitHub is told; among equals, as they are given."""
    return sorted(found, key=lambda one: LEVELS.index(one.level))


def commands(found: Iterable[Annotation], within: str = "") -> str:
    """Annotations as GitHub's runner reads them, a line each, the most important first.

    Args:
        found: in order of importance within a level.
        within: what paths begin with in the repository, such as `third_party/vllm/`.
    """
    return "".join(f"{_command(one, within)}\n" for one in by_importance(found))


def _command(one: Annotation, within: str) -> str:
    return workflow_command(
        one.level,
        one.text,
        file=None if one.path is None else f"{within}{one.path}",
        line=one.line,
        endLine=one.end_line,
        col=one.column,
        title=one.title,
    )


def not_shown(found: Iterable[Annotation]) -> list[Annotation]:
    """The annotations that GitHub drops."""
    count: Counter[str] = Counter()
    left = []
    for one in by_importance(found):
        count[one.level] += 1
        if count[one.level] > SHOWN:
            left.append(one)
    return left


def summary(left: Sequence[Annotation], within: str = "", room: int = SUMMARY_BYTES) -> str:
    """Markdown that lists annotations; empty where there are none, or no room for one.

    Args:
        left: in order of importance.
        within: as for `commands`.
        room: bytes that it may take; what is beyond is counted.
    """
    head = f"### vllm-npu-migrate: {len(left)} more than GitHub shows as annotations\n\n"
    foot = "\n…and {} more: see the log of the step.\n"
    used = len((head + foot).encode()) + 10
    lines: list[str] = []
    for line in (_item(one, within) for one in left):
        used += len(line.encode("utf-8", "surrogateescape"))
        if used > room:
            break
        lines.append(line)
    if not lines:
        return ""
    cut = len(left) - len(lines)
    return head + "".join(lines) + (foot.format(cut) if cut else "")


def _item(one: Annotation, within: str) -> str:
    place = ""
    if one.path is not None:
        line = "" if one.line is None else f":{one.line}"
        place = f" {code(f'{within}{one.path}{line}')}"
    title = "" if one.title is None else f" {prose(one.title)}:"
    text = "; ".join(prose(line) for line in one.text.splitlines())
    return f"- **{one.level}**{place}{title} {text}\n"


def append_summary(
    found: Iterable[Annotation], within: str = "", environment: Mapping[str, str] = os.environ
) -> None:
    """Add what GitHub does not show to the summary of the step, where there is one.

    Raises:
        OSError: the file cannot be written.
    """
    name = environment.get(SUMMARY)
    left = not_shown(found)
    if not name or not left:
        return
    with open(name, "ab") as file:
        text = summary(left, within, SUMMARY_BYTES - file.tell())
        file.write(text.encode("utf-8", "backslashreplace"))


def within_repository(root: Path, environment: Mapping[str, str] = os.environ) -> str:
    """What the paths of a tree begin with in the repository that it lies in, as GitHub has them.

    Told by the nearest `.git` at the tree or above it; where there is none, as in a checkout that
    GitHub made without git, by the workspace of the job. Empty for a tree in no repository.
    """
    root = Path(os.path.realpath(root))
    workspace = environment.get("GITHUB_WORKSPACE")
    for above in (root, *root.parents):
        if os.path.lexists(above / ".git"):
            return _below(above, root)
    if workspace and root.is_relative_to(os.path.realpath(workspace)):
        return _below(Path(os.path.realpath(workspace)), root)
    return ""


def _below(top: Path, root: Path) -> str:
    return "" if top == root else f"{root.relative_to(top).as_posix()}/"


def workflow_command(level: str, text: str, **properties: str | int | None) -> str:
    """A `notice`, `warning` or `error`, escaped as GitHub's runner reads it.

    Args:
        level: one of the three.
        text: what is said; it may have several lines.
        properties: such as `file`, `line`, `endLine`, `col` and `title`, written in the order
            given; None leaves one out.
    """
    written = ",".join(
        f"{name}={_escaped(str(value), property_=True)}"
        for name, value in properties.items()
        if value is not None
    )
    return f"::{level}{' ' if written else ''}{written}::{_escaped(text)}"


def _escaped(text: str, *, property_: bool = False) -> str:
    # A line feed is written as one below; nothing else of a name or a source does more than show.
    text = page(text).replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")
    return text.replace(":", "%3A").replace(",", "%2C") if property_ else text
