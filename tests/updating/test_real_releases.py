# SPDX-License-Identifier: Apache-2.0
"""Show 1 on one real upgrade; scripts/update_table.py does the others."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from tests.conftest import RunCli
from tests.trees import executables, git, git_environment, snapshot

SCRIPT = Path(__file__).parents[2] / "scripts" / "update_table.py"


@pytest.fixture
def update_table(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The script that makes docs/updates.md, as a module."""
    monkeypatch.syspath_prepend(SCRIPT.parent)  # scripts import one another by name
    spec = importlib.util.spec_from_file_location("update_table", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "update_table", module)  # its dataclasses look there
    spec.loader.exec_module(module)
    return module


@pytest.mark.releases
@pytest.mark.slow
def test_an_upgrade_loses_nothing(tmp_path: Path, update_table: ModuleType) -> None:
    outcome = update_table.upgrade("0.11.0", "0.11.1", tmp_path)
    assert outcome.problems == []
    assert outcome.lost == []
    found = sum(outcome.carried.values()) + sum(outcome.in_conflict.values())
    assert found == len(update_table.FUNCTIONS) + 1 + 2 + 2
    assert outcome.conflicts <= outcome.git_same <= outcome.git_pristine


@pytest.mark.releases
@pytest.mark.slow
def test_a_real_release_rule_by_rule_and_its_update(
    tmp_path: Path, run_cli: RunCli, release: Callable[[str], Path]
) -> None:
    """The commits end in what plain `apply` writes, and the update in what it writes next."""
    root = tmp_path / "vllm"
    for version in ("0.11.0", "0.11.1"):
        for path, (mode, data) in snapshot(release(version)).items():
            if isinstance(data, bytes):
                (root / path).parent.mkdir(parents=True, exist_ok=True)
                (root / path).write_bytes(data)
                (root / path).chmod(mode)
        if version == "0.11.0":
            git(root, "init", "-q")
        else:
            gone = snapshot(root).keys() - snapshot(release(version)).keys()
            for path in gone:
                (root / path).unlink()
        git(root, "add", "-A", "-f")
        git(root, "commit", "-q", "-m", version)
        git(root, "tag", f"v{version}")
    git(root, "checkout", "-q", "v0.11.0")
    for old, new, command in (
        ("0.11.0", None, ("apply", root, "--commit", "-q")),
        ("0.11.0", "0.11.1", ("update", root, "v0.11.1", "--commit", "-q")),
    ):
        done = run_cli(*command, env=git_environment())
        assert done.code == 0, done.err
        plain = tmp_path / f"plain-{new or old}"
        assert run_cli("apply", release(new or old), "-o", plain, "-q").code == 0
        found, wanted = (executables(snapshot(tree)) for tree in (root, plain))
        for tree in (found, wanted):
            del tree["migration-log.json"]
        assert found == wanted
        assert git(root, "status", "--porcelain") == ""
