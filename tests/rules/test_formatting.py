# SPDX-License-Identifier: Apache-2.0
"""Emitted code is as clean to the tree's own ruff as the untouched code was.

`scripts/lint_table.py` holds every release against the linters that it pins; here are the rules'
examples and the fixture tree, under rules such as vLLM's.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from migrator.cli import main
from migrator.codemod import line_breaks, tree_style
from migrator.codemod.engine import migrate_file
from migrator.codemod.rule import File, Finding, Replace, Rule, Safety, changed
from migrator.files.tree import Tree
from migrator.rules import all_rules
from tests.trees import MINI

sys.path.append(str(Path(__file__).resolve().parents[2] / "scripts"))

import libcst as cst
import try_rule

CONFIG = """\
line-length = 88
target-version = "py310"
[lint]
select = ["D", "E", "F", "UP", "B", "ISC", "SIM", "I", "G"]
ignore = [
    "D100", "D101", "D102", "D103", "D104", "D105", "D106", "D107", "D203", "D205", "D209",
    "D213", "D301", "D400", "D401", "D404", "D415", "E731", "B007", "B905", "UP007", "UP032",
    "UP045",
]
[lint.pydocstyle]
ignore-var-parameters = true
[lint.isort]
known-first-party = ["vllm"]
"""


def complaints(root: Path) -> Counter[tuple[str, str]]:
    """What ruff finds in a folder: by path and kind."""
    ruff = shutil.which("ruff") or str(Path(sys.executable).parent / "ruff")
    (root / "ruff.toml").write_text(CONFIG)

    def run(*arguments: str) -> str:
        done = subprocess.run(
            [ruff, *arguments, "--no-cache", "."],
            cwd=root,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode in (0, 1), done.stderr
        return done.stdout

    found = Counter(
        (str(Path(entry["filename"]).relative_to(root.resolve())), str(entry["code"]))
        for entry in json.loads(run("check", "--output-format=json"))
    )
    for line in run("format", "--diff").splitlines():
        if line.startswith("--- "):
            path = line.removeprefix("--- ")
        elif line.startswith("@@"):
            found[path, "format"] += 1
    return found


def test_examples_come_out_as_clean_as_they_went_in(tmp_path: Path) -> None:
    before, after = tmp_path / "before", tmp_path / "after"
    for rule in all_rules():
        for number, example in enumerate(rule.examples):
            if not example.path.endswith(".py"):
                continue
            text, _ = try_rule.run(rule, example, example.before)
            for root, code in ((before, example.before), (after, text)):
                place = root / f"{rule.code}-{number}" / example.path
                place.parent.mkdir(parents=True)
                place.write_text(code)
    old, new = complaints(before.resolve()), complaints(after.resolve())
    # An example shows a part of a file: what it does not define is not found before or after.
    parts = {"F821", "F401", "E402", "I001", "SIM105", "B018", "D417"}
    # A hunk of what was written in another way may come apart into two.
    worse = {
        key: count
        for key, count in (new - old).items()
        if key[1] not in parts and not (key[1] == "format" and old[key])
    }
    assert worse == {}


def test_the_fixture_tree_comes_out_as_clean_as_it_went_in(tmp_path: Path) -> None:
    target = tmp_path / "out"
    with pytest.raises(SystemExit) as stopped:
        main(["apply", str(MINI), "-o", str(target), "-q", "--select", "NPU0,NPU1,NPU302"])
    assert stopped.value.code == 0
    untouched = tmp_path / "in"
    shutil.copytree(MINI, untouched)
    worse = complaints(target.resolve()) - complaints(untouched.resolve())
    assert dict(worse) == {}


class LongName(Rule):
    """Makes a name longer."""

    code = "NPU999"
    safety = Safety.EQUIVALENT
    triggers = ("name",)

    def check(self, file: File) -> list[Finding]:  # type: ignore[override]
        """Replace each `name`."""
        new = cst.parse_expression("a_name.that_is.rather_long(with_an_argument)")
        return [
            changed("<module>", node, "it is short", Replace(node, lambda _: new))
            for node in _names(file.module)
        ]


def _names(module: cst.Module) -> list[cst.Name]:
    found: list[cst.Name] = []

    class Names(cst.CSTVisitor):
        def visit_Name(self, node: cst.Name) -> None:
            if node.value == "name":
                found.append(node)

    module.visit(Names())
    return found


STATEMENTS = [
    "x = first_function(second_function, name)",
    "x = first_function(second_function=name, third_function=[name, name])",
    "some.attribute = name.attribute",
    "some.attribute[0:1] = a_rather_long_name_of_a_function(name)[name]",
    "x = name.first_method(argument).second_method(argument).third",
    "x: dict[str, int] = {key: name, **name}",
    "x += name - another_one_that_is_long * name",
    "x = name if name else another_name",
    "x = not name",
    "x = f'{a_text}' f'{that_is_two}', name",
    "raise ValueError('a text that is not short', name)",
    "assert name, 'a message that takes up most of the line or more'",
    "assert isinstance(some_object.attribute, (FirstClass, name))",
    "x = [element for element in name if element is not None]",
    "if name and other_condition.is_true:\n    pass",
    "if (name or other_condition) and (name or another_condition):\n    pass",
    "if short:\n    pass\nelif name or other_condition:\n    pass",
    "while name == another_name_of_it:\n    break",
    "for element in first_function(second_function, name):\n    pass",
    "with a_function_of_a_context(name, name):\n    pass",
    "def f():\n    if short:\n        return name, None, None",
    "def f():\n    return another_name is not None and name[0] < x * 2",
    "def f():\n    return {'key': name, 'another': name}",
]


def formatted(code: str, *, width: int) -> str:
    """Code as ruff formats it."""
    ruff = shutil.which("ruff") or str(Path(sys.executable).parent / "ruff")
    asked = [ruff, "format", "--isolated", "--no-cache", f"--line-length={width}", "-"]
    done = subprocess.run(asked, input=code, capture_output=True, text=True, check=True)
    return done.stdout


@pytest.mark.parametrize("before", STATEMENTS)
def test_an_edited_statement_is_written_as_ruff_does(before: str) -> None:
    tree = Tree({"pyproject.toml": b"[tool.ruff]\nline-length = 64\n"})
    before = formatted(before, width=64)
    result = migrate_file("vllm/x.py", before.encode(), [LongName()], tree)
    assert result.failure is None
    assert result.after is not None
    assert result.after.decode() == formatted(result.after.decode(), width=64)
    assert "rather_long" in result.after.decode()


@pytest.mark.parametrize(
    "before", ["x = f( name,  second_argument_that_is_long )\n", "x = f(\n    name,  # why\n)\n"]
)
def test_a_layout_of_ones_own_stays(before: str) -> None:
    result = migrate_file("vllm/x.py", before.encode(), [LongName()], Tree({}))
    assert result.after is not None
    new = "a_name.that_is.rather_long(with_an_argument)"
    assert result.after.decode() == before.replace("name", new)


@pytest.mark.parametrize("head", ["if x and \\\n    name", "while name or \\\n    x"])
def test_a_line_that_goes_on_by_a_backslash_is_left_so(head: str) -> None:
    before = f"{head}:\n    pass\n"
    result = migrate_file("vllm/x.py", before.encode(), [LongName()], Tree({}))
    assert result.failure is None
    assert result.after is not None
    new = "a_name.that_is.rather_long(with_an_argument)"
    assert result.after.decode() == before.replace("name", new)


@pytest.mark.parametrize("text", [b"", b"[tool.ruff]\nline-length = 'x'\n", b"\xff", b"tool = 1"])
def test_a_configuration_that_says_nothing_leaves_what_ruff_has_by_itself(text: bytes) -> None:
    style = tree_style.Style.of(Tree({"pyproject.toml": text}))
    assert style.width == tree_style.RUFF_WIDTH


def test_what_is_not_known_is_left_alone() -> None:
    statement = cst.parse_statement("x = (yield)")
    assert isinstance(statement, cst.SimpleStatementLine)
    assert line_breaks.simple(statement.body[0], 88) is not None
    commented = cst.parse_statement("x = f(\n    a,  # why\n)")
    assert isinstance(commented, cst.SimpleStatementLine)
    assert line_breaks.simple(commented.body[0], 88) is None


def test_templates_are_as_clean_before_they_are_fitted(tmp_path: Path) -> None:
    shutil.copytree(TEMPLATES / "vllm", tmp_path / "vllm", ignore=_no_caches)
    # A file with variants holds two of some definitions, and imports in more than one block.
    variants = {"F811", "I001"}
    found = complaints(tmp_path.resolve())
    assert {key: count for key, count in found.items() if key[1] not in variants} == {}


TEMPLATES = Path(__file__).resolve().parents[2] / "templates"
_no_caches = shutil.ignore_patterns("__pycache__", ".ruff_cache")
