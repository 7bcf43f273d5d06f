# SPDX-License-Identifier: Apache-2.0
"""The Python API: what the command does, it does; its page is true; importing it costs nothing."""

from __future__ import annotations

import dataclasses
import inspect
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import pytest

import migrator
from migrator.files.tree import LOG_NAME, Tree
from tests.conftest import RunCli
from tests.trees import SELECT, commit_all, copy_mini, git, snapshot

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "api.md"
CODES = SELECT.split(",")


def planner(tree: Tree) -> migrator.Plan:
    return migrator.plan(tree, select=CODES, cache=False)


def test_apply_writes_what_the_command_writes(
    mini_tree: Path, tmp_path: Path, run_cli: RunCli
) -> None:
    assert run_cli("apply", mini_tree, "-o", tmp_path / "cli", "-q", "--select", SELECT).code == 0
    source = migrator.open(mini_tree)
    plan = migrator.plan(source, select=CODES, cache=False)
    done = migrator.apply(source, tmp_path / "api", plan=plan)
    assert snapshot(tmp_path / "api") == snapshot(tmp_path / "cli")
    assert done.target == tmp_path / "api"
    assert done.log.is_file()
    assert done.plan is plan
    assert {change.path for change in done.changes} > {change.path for change in plan.files}
    with pytest.raises(migrator.MigrateError, match="the output is the source itself"):
        migrator.apply(source, mini_tree, plan=plan)
    with pytest.raises(migrator.MigrateError, match="exclude each other"):
        migrator.apply(source, tmp_path / "new", in_place=True)


def test_nothing_is_planned_where_nothing_can_be_written(mini_tree: Path, tmp_path: Path) -> None:
    taken = tmp_path / "taken"
    taken.mkdir()
    (taken / "mine").write_text("mine")

    def never(tree: object) -> migrator.Plan:
        pytest.fail("it was planned")

    layouts: tuple[Literal["tree", "plugin"], ...] = ("tree", "plugin")
    for layout in layouts:
        with pytest.raises(migrator.MigrateError, match="choose another -o"):
            migrator.apply(mini_tree, taken, plan=never, layout=layout)


def test_what_a_rule_misses_is_an_error_with_the_plan_at_hand(
    mini_tree: Path, tmp_path: Path
) -> None:
    plan = migrator.plan(mini_tree, select=["NPU236"], cache=False)
    assert plan.missing
    with pytest.raises(migrator.MigrateError, match="to go on without: --ignore"):
        migrator.apply(mini_tree, tmp_path / "out", plan=plan)
    assert not (tmp_path / "out").exists()


def test_in_place_and_by_commits(mini_tree: Path) -> None:
    git(mini_tree, "init", "-q")
    commit_all(mini_tree)
    told: list[str] = []
    done = migrator.apply(mini_tree, commit=True, plan=planner, tell=told.append)
    assert done.branch is not None
    assert git(mini_tree, "branch", "--show-current").strip() == done.branch
    assert not told
    again = migrator.apply(mini_tree, in_place=True, plan=planner)
    assert (again.changes, again.branch) == ((), None)


def test_update_is_the_commands(tmp_path: Path, run_cli: RunCli) -> None:
    old, new = copy_mini(tmp_path / "old"), copy_mini(tmp_path / "new")
    (new / "README.md").write_text("the next release\n")
    for name in ("cli", "api"):
        migrator.apply(old, tmp_path / name, plan=planner)
        (tmp_path / name / "mine.txt").write_text("by hand\n")
    options = ("--base", old, "-q", "--select", SELECT)
    assert run_cli("update", tmp_path / "cli", new, "-o", tmp_path / "a", *options).code == 0
    seen: list[object] = []
    done = migrator.update(
        tmp_path / "api",
        new,
        tmp_path / "b",
        base=str(old),
        plan=planner,
        cache=False,
        merged=seen.append,
    )
    assert snapshot(tmp_path / "a") == snapshot(tmp_path / "b")
    assert seen == [done.update]
    assert done.written
    assert not done.conflicts
    assert {outcome.path for outcome in done.update.merge.outcomes} >= {"README.md", "mine.txt"}
    dry = migrator.update(
        tmp_path / "api",
        new,
        base=str(old),
        plan=planner,
        cache=False,
        dry_run=True,
    )
    assert not dry.written
    assert not (tmp_path / "new-npu").exists()


def test_results_are_dataclasses_and_the_page_names_what_they_hold() -> None:
    page = PAGE.read_text(encoding="utf-8")
    rows = {row[0]: row[1] for row in re.findall(r"^\| `(\w+)(?:\(.*)?` \| (.*)\|$", page, re.M)}
    for name in migrator.__all__:
        found = getattr(migrator, name)
        assert f"`{name}" in page, name
        if inspect.isfunction(found):
            (signature,) = re.findall(rf"`{name}\((.*?)\)`", page)
            assert signature.split(", ") == _parameters(found)
        elif name not in ("Status", "MigrateError", "UnfinishedError"):
            assert dataclasses.is_dataclass(found), name
            for held in re.findall(r"`(\w+)`", rows[name].split(";")[0]):
                known = {f.name for f in dataclasses.fields(found)} | {*dir(found)}
                assert held in known or held[0].isupper() or held == "None", (name, held)


def _parameters(function: Callable[..., object]) -> list[str]:
    names: list[str] = []
    for parameter in inspect.signature(function).parameters.values():
        if parameter.kind is parameter.KEYWORD_ONLY and "*" not in names:
            names.append("*")
        names.append(parameter.name)
    return names


def test_importing_it_loads_nothing(tmp_path: Path) -> None:
    program = (
        "import sys; before = {*sys.modules}; import migrator\n"
        "new = {n for n in sys.modules if n not in before}\n"
        "assert {n for n in new if n.startswith('migrator')} == {'migrator'}, new\n"
        "assert not new & {'click', 'libcst', 'msgspec', 'rich'}, new\n"
        "assert {*migrator.__all__} < {*dir(migrator)}\n"
        "migrator.open, migrator.apply, migrator.update\n"
        "assert 'libcst' not in sys.modules and callable(migrator.update)\n"
        "import migrator.updating.run, migrator.api.updates\n"
        "assert callable(migrator.update) and callable(migrator.plan)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert not done.returncode, done.stderr
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = migrator.nothing


@pytest.mark.releases
def test_the_pages_example_runs(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    with_plans_of_this_run: None,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (example,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.S)
    exec(compile(example, str(PAGE), "exec"), {})
    assert (tmp_path / "vllm-0.11.0-npu" / LOG_NAME).is_file()
    assert re.fullmatch(r"vllm-0\.11\.0-npu \d+ .*migration-log\.json\n", capsys.readouterr().out)
