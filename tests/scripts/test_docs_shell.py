# SPDX-License-Identifier: Apache-2.0
"""Shell blocks of the docs: they paste as they stand, and their commands of this tool exist."""

from __future__ import annotations

import re
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from migrator.cli import main

ROOT = Path(__file__).resolve().parents[2]
PAGES = [*ROOT.glob("*.md"), *sorted((ROOT / "docs").rglob("*.md"))]
TOOL = "vllm-npu-migrate"
ENDS = {"|", "||", "&&", ";", ">", ">>", "2>&1", "do", "done"}


def blocks(page: Path) -> list[str]:
    """The shell blocks of a page, without the indent that they may have in a list."""
    text = page.read_text(encoding="utf-8")
    found = re.finditer(r"^([ ]*)```(?:sh|bash|shell)\b[^\n]*\n(.*?)^\1```", text, re.S | re.M)
    return [re.sub(rf"(?m)^{match[1]}", "", match[2]) for match in found]


def commands(block: str) -> Iterator[list[str]]:
    """The arguments of each command of this tool in a block."""
    for line in block.replace("\\\n", " ").splitlines():
        lexer = shlex.shlex(line, posix=True, punctuation_chars=";&|<>")
        lexer.whitespace_split = True
        words = list(lexer)
        for start, word in enumerate(words):
            # `pip install ….whl` and folders have the name in them, too.
            if word.rpartition("/")[2] == TOOL:
                rest = words[start + 1 :]
                end = next((i for i, w in enumerate(rest) if w in ENDS), len(rest))
                yield rest[:end]


@pytest.fixture(autouse=True)
def every_path_exists(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(click.Path, "convert", lambda self, value, param, ctx: value)


def parse(arguments: list[str]) -> None:
    """Let click take arguments without running what they ask for."""
    command: click.Command = main
    context = click.Context(main, info_name=TOOL)
    while isinstance(command, click.Group):
        _, found, arguments = command.resolve_command(context, list(arguments))
        assert found is not None
        command = found
    with command.make_context(command.name, arguments, parent=context):
        pass


SHELL = {str(page.relative_to(ROOT)): found for page in PAGES if (found := blocks(page))}


@pytest.mark.parametrize("page", SHELL)
def test_shell_blocks_paste(page: str) -> None:
    for block in SHELL[page]:
        done = subprocess.run(["bash", "-n"], input=block, capture_output=True, text=True)
        assert not done.returncode, f"{block}\n{done.stderr}"
        assert not re.search(r"^\s*[$>] ", block, re.M), f"a prompt would be pasted:\n{block}"


def test_no_block_has_prompts() -> None:
    for page in PAGES:
        assert "```console" not in page.read_text(encoding="utf-8"), page


def test_commands_of_the_docs_exist() -> None:
    seen = 0
    for page, found in SHELL.items():
        for arguments in (one for block in found for one in commands(block)):
            seen += 1
            try:
                parse(arguments)
            except click.ClickException as error:
                pytest.fail(f"{page}: {TOOL} {shlex.join(arguments)}: {error.format_message()}")
            except click.exceptions.Exit:
                pass  # --help
    assert seen > 30


@pytest.mark.parametrize("arguments", ["apply --nonsense x", "aply x", "verify", "simulator rum"])
def test_a_command_that_does_not_exist_is_seen(arguments: str) -> None:
    with pytest.raises(click.ClickException):
        parse(arguments.split())
