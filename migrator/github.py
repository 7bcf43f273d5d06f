# SPDX-License-Identifier: Apache-2.0
"""Workflow commands of GitHub Actions: lines of output that annotate a pull request."""

from __future__ import annotations

from migrator.escaping import page


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
