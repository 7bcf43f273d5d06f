# SPDX-License-Identifier: Apache-2.0
"""Every JSON output is what its published schema says, and the schema takes nothing else."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from migrator.cli.schemas import schemas
from tests.conftest import RunCli
from tests.trees import SELECT, copy_mini

DOCS = Path(__file__).parents[2] / "docs"
SCHEMAS = schemas()


def valid(name: str, document: Any) -> bool:
    schema = json.loads(SCHEMAS[f"{name}.schema.json"])
    return bool(jsonschema.Draft202012Validator(_closed(schema)).is_valid(document))


def _closed(schema: Any) -> Any:
    """The schema with objects that have no other keys: what is printed is all described."""
    if isinstance(schema, dict):
        closed = {key: _closed(value) for key, value in schema.items()}
        if "properties" in closed:
            closed.setdefault("additionalProperties", False)
        return closed
    return [_closed(value) for value in schema] if isinstance(schema, list) else schema


def assert_described(name: str, text: bytes) -> None:
    """The output is what the schema says, and every key that has to be there is missed."""
    document = json.loads(text)
    assert valid(name, document)
    first = document[0] if isinstance(document, list) else document
    required = [key for key in first if key not in ("from_claim", "to_claim", "to_commit")]
    for key in required:
        without = {k: v for k, v in first.items() if k != key}
        assert not valid(name, [without] if isinstance(document, list) else without), key
    more = {**first, "more": 1}
    assert not valid(name, [more] if isinstance(document, list) else more)


def test_update(tmp_path: Path, run_cli: RunCli) -> None:
    old, new = copy_mini(tmp_path / "old"), copy_mini(tmp_path / "new")
    ours = tmp_path / "ours"
    assert run_cli("apply", old, "-o", ours, "-q", "--select", SELECT).code == 0
    (ours / "mine.txt").write_text("by hand\n")
    (ours / "README.md").write_text("ours\n")
    (new / "README.md").write_text("theirs\n")
    options = ("--base", old, "-q", "--select", SELECT, "--format", "json", "--dry-run")
    done = run_cli("update", ours, new, *options)
    assert done.code == 1
    assert_described("update", done.out)
    assert {file["fate"] for file in json.loads(done.out)["files"]} == {"conflict", "added by hand"}


def test_check_against(tmp_path: Path, run_cli: RunCli) -> None:
    old, new = copy_mini(tmp_path / "old"), copy_mini(tmp_path / "new")
    place = new / "vllm" / "model_executor" / "layers" / "activation.py"
    place.write_text(place.read_text().replace("class SiluAndMul", "class SiluAndMult"))
    done = run_cli("check", new, "--against", old, "--select", SELECT, "--format", "json", "-q")
    assert json.loads(done.out)["findings"]
    assert_described("check-against", done.out)


def test_coverage(mini_tree: Path, run_cli: RunCli) -> None:
    (mini_tree / "vllm" / "broken.py").write_text("(\n")
    done = run_cli("coverage", mini_tree, "--select", "NPU1", "-q", "--format", "json")
    document = json.loads(done.out)
    assert document["sites"]
    assert_described("coverage", done.out)


def test_lists(run_cli: RunCli) -> None:
    assert_described("rules", run_cli("rules", "--format", "json").out)


@pytest.mark.releases
def test_since(run_cli: RunCli, release: Any) -> None:
    release("0.11.0")
    done = run_cli("since", "SiluAndMul.forward_cuda", "--format", "json")
    assert done.code == 0
    assert_described("since", done.out)


def test_log(mini_tree: Path, run_cli: RunCli) -> None:
    done = run_cli("check", mini_tree, "--select", SELECT, "-q", "--format", "json")
    assert valid("migration-log", json.loads(done.out))
    assert not valid("migration-log", {})


@pytest.mark.parametrize("name", SCHEMAS)
def test_schemas_are_published_and_named(name: str) -> None:
    jsonschema.Draft202012Validator.check_schema(json.loads(SCHEMAS[name]))
    assert (DOCS / name).read_bytes() == SCHEMAS[name]
    assert re.search(rf"\]\(\.\./{re.escape(name)}\)", (DOCS / "reference" / "api.md").read_text())


def test_every_json_output_has_a_schema() -> None:
    """A subcommand that takes `--format json` is in the page's table."""
    from click import Choice, Context, Group

    from migrator.cli import main

    page = (DOCS / "reference" / "api.md").read_text()
    found = []
    context = Context(main)
    for name in main.list_commands(context):
        command = main.get_command(context, name)
        assert command is not None
        assert not isinstance(command, Group) or name in ("cache", "simulator", "env")
        types = [parameter.type for parameter in command.params]
        found += [name for kind in types if isinstance(kind, Choice) and "json" in kind.choices]
    assert len(found) > 5
    for name in found:
        assert re.search(rf"^\|[^|]*`{name}\b", page, re.M), name
