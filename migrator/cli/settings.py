# SPDX-License-Identifier: Apache-2.0
"""The table `[tool.vllm-npu-migrate]` of a pyproject.toml: what it takes, and its schema."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, get_args

import msgspec

from migrator.reports.log import pretty_json

Format = Literal["text", "json", "github", "sarif"]
Codes = Annotated[list[str], msgspec.Meta(description="Codes or names of rules, or beginnings.")]


class Settings(msgspec.Struct, forbid_unknown_fields=True):
    """Settings of vllm-npu-migrate; options on the command line come first."""

    select: Codes = []
    """Only these rules."""
    ignore: Codes = []
    """Not these rules."""
    jobs: Annotated[int, msgspec.Meta(ge=1, description="Processes.")] | None = None
    """None: one for each processor."""
    cache: Annotated[bool, msgspec.Meta(description="Use and keep plans and results.")] = True
    format: Annotated[Format, msgspec.Meta(description="What is printed on stdout.")] = "text"


TAKES = {
    "select": "a list of codes",
    "ignore": "a list of codes",
    "jobs": "a number from 1 on",
    "cache": "true or false",
    "format": f"one of {', '.join(get_args(Format))}",
}
"""Each setting, and what it takes in words."""


def wrong(table: Mapping[str, Any]) -> str | None:
    """The first setting that is unknown or of a wrong type, or None."""
    for name, value in table.items():
        try:
            # TOML has no null: a setting that is there has a value.
            msgspec.convert({name: value}, Settings)
        except msgspec.ValidationError:
            return name
    return None


def schema() -> bytes:
    """The JSON Schema of the table, as editors take it."""
    return pretty_json(
        {
            "$schema": "https://json-schema.org/draft/2020-12/schema",
            **msgspec.json.schema(Settings),
        },
        order="sorted",
    )
