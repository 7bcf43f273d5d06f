# SPDX-License-Identifier: Apache-2.0
"""The settings and their schema say the same; codes complete; examples of `--help` exist."""

from __future__ import annotations

import json
import shlex
from typing import Any

import click
import jsonschema
import pytest
from click.shell_completion import ShellComplete
from click.testing import CliRunner

from migrator.cli import COMMANDS, main
from migrator.cli.examples import EXAMPLES
from migrator.cli.settings import TAKES, Settings, schema, wrong

TABLES: list[tuple[dict[str, Any], bool]] = [
    ({}, True),
    ({"select": ["NPU1"], "ignore": [], "jobs": 1, "cache": False, "format": "sarif"}, True),
    ({"selekt": []}, False),
    ({"select": "NPU1"}, False),
    ({"select": [1]}, False),
    ({"ignore": [["NPU1"]]}, False),
    ({"jobs": 0}, False),
    ({"jobs": True}, False),
    ({"jobs": 1.5}, False),
    ({"cache": 1}, False),
    ({"format": "xml"}, False),
]


@pytest.mark.parametrize(("table", "right"), TABLES)
def test_schema_and_check_agree(table: dict[str, Any], right: bool) -> None:
    document = json.loads(schema())
    jsonschema.Draft202012Validator.check_schema(document)
    assert jsonschema.Draft202012Validator(document).is_valid(table) is right
    assert (wrong(table) is None) is right


def test_every_setting_is_told() -> None:
    assert tuple(TAKES) == Settings.__struct_fields__


def completed(*words: str, begun: str) -> list[str]:
    shell = ShellComplete(main, {}, "vllm-npu-migrate", "_COMPLETE")
    return [item.value for item in shell.get_completions(list(words), begun)]


def test_codes_complete() -> None:
    assert completed("explain", begun="npu10") == ["NPU101", "NPU102", "NPU103"]
    assert completed("apply", "x", "--select", begun="NPU1,NPU10") == [
        "NPU1,NPU101",
        "NPU1,NPU102",
        "NPU1,NPU103",
    ]
    assert completed(begun="re") == ["review"]


@pytest.mark.parametrize("name", COMMANDS)
def test_help_has_examples(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    told = CliRunner().invoke(main, [name, "--help"], env={"COLUMNS": "100"})
    assert told.exit_code == 0
    monkeypatch.setattr(click.Path, "convert", lambda self, value, param, ctx: value)
    for line in EXAMPLES[name]:
        assert f"  vllm-npu-migrate {line}\n" in told.output
        command: click.Command = main
        context = click.Context(main, info_name="vllm-npu-migrate")
        arguments = shlex.split(line)
        while isinstance(command, click.Group):
            _, found, arguments = command.resolve_command(context, arguments)
            assert found is not None
            command = found
        command.make_context(command.name, arguments, parent=context)
