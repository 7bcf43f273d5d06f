# SPDX-License-Identifier: Apache-2.0
"""What the section on linters says, and what counts as worse."""

from __future__ import annotations

import sys
from pathlib import Path

import msgspec
import pytest

from migrator.cli import main
from migrator.files.tree import LOG_NAME
from migrator.reports.releases import KNOWN
from tests.trees import MINI

sys.path.append(str(Path(__file__).resolve().parents[2] / "scripts"))

import lint_table

PINS = """\
repos:
- repo: https://example.org/ruff
  rev: v0.14.0
  hooks:
  - id: ruff-check
  - id: ruff-format
    files: ^vllm/
    exclude: ^vllm/left/
- repo: local
  hooks:
  - id: mypy-3.12
    entry: tools/mypy.sh 1 "3.12"
    stages: [manual]
    additional_dependencies: ["mypy==1.2.3"]
  - id: mypy
    entry: python tools/pre_commit/mypy.py "3.11"
    additional_dependencies: ["mypy==1.20.2", regex]
"""


def outcome(**fields: object) -> lint_table.Linted:
    whole = {"tools": ("ruff 0.14.0",), "changed": 3, "added": 1, **fields}
    return msgspec.convert(whole, lint_table.Linted)


def test_hooks_are_those_that_the_tree_pins(tmp_path: Path) -> None:
    (tmp_path / lint_table.PINS).write_text(PINS)
    check, layout = lint_table.hooks(tmp_path)
    assert (check.tool, check.version, check.task) == ("ruff", "0.14.0", "check")
    assert layout.task == "format"
    assert check.takes("tools/x.py")
    assert not layout.takes("tools/x.py")
    assert layout.takes("vllm/x.py")
    assert not layout.takes("vllm/left/x.py")


def test_mypy_is_the_hook_that_runs_by_itself(tmp_path: Path) -> None:
    (tmp_path / lint_table.PINS).write_text(PINS)
    hook = lint_table.TypeHook.of(tmp_path)
    assert hook.entry == ("python", "tools/pre_commit/mypy.py", "3.11")
    assert hook.name == "mypy 1.20.2"
    (tmp_path / lint_table.PINS).write_text("repos: []\n")
    with pytest.raises(RuntimeError, match="names no mypy"):
        lint_table.TypeHook.of(tmp_path)


def test_worse_is_what_the_untouched_file_has_not() -> None:
    found = outcome(
        old=[[["a.py", "E501"], 2], [["b.py", "E501"], 1]],
        new=[[["a.py", "E501"], 1], [["b.py", "F401"], 1], [["c.py", "E501"], 4]],
    )
    assert found.worse == {("b.py", "F401"): 1, ("c.py", "E501"): 4}
    assert lint_table.summary(found) == ["b.py: F401 (1)", "c.py: E501 (4)"]


def test_the_section_has_a_row_for_each_release() -> None:
    linted = {"0.11.0": outcome(off={"yapf": 2}), "0.33.0": outcome(new=[[["a.py", "E501"], 2]])}
    typed = {"0.33.0": outcome(tools=("mypy 1.20.2",))}
    lines = lint_table.section(linted, typed).splitlines()
    assert "| 0.11.0 | ruff 0.14.0 | 3 | 1 | 0 | 0 | 0 | yapf +2 |" in lines
    assert "| 0.33.0 | ruff 0.14.0 | 3 | 1 | 0 | 2 | 2 | – |" in lines
    assert "| 0.33.0 | mypy 1.20.2 | 3 | 1 | 0 | 0 | 0 |" in lines


def test_the_section_takes_the_place_of_the_last_one(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    assert lint_table.kept_section(page) == ""
    page.write_text("# Page\n\ntext\n")
    assert lint_table.kept_section(page) == ""
    once = lint_table.with_section("# Page\n\ntext\n", f"{lint_table.HEADING}\n\nold\n")
    page.write_text(once)
    assert once == "# Page\n\ntext\n" + lint_table.kept_section(page)
    again = lint_table.with_section(once, f"{lint_table.HEADING}\n\nnew\n")
    assert again == once.replace("old", "new")


def test_comments_that_switch_a_linter_off_are_counted(tmp_path: Path) -> None:
    target = tmp_path / "out"
    with pytest.raises(SystemExit) as stopped:
        main(["apply", str(MINI), "-o", str(target), "-q", "--select", "NPU0,NPU302"])
    assert stopped.value.code == 0
    assert (target / LOG_NAME).is_file()
    emitted = lint_table.Emitted(MINI, target)
    assert "vllm/accelerator.py" in emitted.added
    before, key = emitted.switched_off(), emitted.key
    added = target / "vllm" / "accelerator.py"
    added.write_text(
        added.read_text() + "x = 1  # type: ignore[x]  # noqa: E501\n# yapf: disable\n"
    )
    now = emitted.switched_off()
    assert {name: now[name] - before.get(name, 0) for name in now} == {
        **dict.fromkeys(before, 0), "type: ignore": 1, "noqa": 1, "yapf": 1,
    }  # fmt: skip
    assert emitted.key != key


def test_an_outcome_holds_while_the_files_are_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Fake:
        key = "1"

        def lint(self) -> lint_table.Linted:
            return outcome(key=self.key, changed=int(self.key))

    fake = Fake()
    for key, changed in (("1", 1), ("1", 1), ("2", 2)):
        fake.key = key
        found = lint_table.measured(fake, "0.1", tmp_path, types=False)  # type: ignore[arg-type]
        assert found.changed == changed
        monkeypatch.setattr(Fake, "lint", lambda self: outcome(key=self.key, changed=2))


def test_a_section_of_what_is_kept_names_what_was_not_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lint_table, "PAGE", tmp_path / "page.md")
    lint_table.PAGE.write_text("# Page\n")
    for release in KNOWN[1:]:
        (tmp_path / f"{release}.json").write_bytes(msgspec.json.encode(outcome()))
    assert lint_table.write_kept(tmp_path) == 0
    assert lint_table.PAGE.read_text().count("| ruff 0.14.0 |") == len(KNOWN) - 1
    assert f"| {KNOWN[0]} | not measured |" in lint_table.PAGE.read_text()
    first = tmp_path / f"{KNOWN[0]}.json"
    first.write_bytes(msgspec.json.encode(outcome(new=[[["a.py", "E501"], 1]])))
    assert lint_table.write_kept(tmp_path) == 1
    assert "not measured" not in lint_table.PAGE.read_text()
