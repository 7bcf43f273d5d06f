# SPDX-License-Identifier: Apache-2.0
"""Tests of the bytecode that simulated runs keep."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from migrator.verify.simulate import bytecode


def run(prefix: Path, root: Path) -> str:
    """What a program prints that imports `package` from `root`."""
    variables = {"PYTHONPATH": str(root), "PYTHONPYCACHEPREFIX": str(prefix)}
    command = [sys.executable, "-c", "import package; print(package.NAME)"]
    return subprocess.run(
        command, env=variables, capture_output=True, text=True, check=True
    ).stdout.strip()


def package(root: Path, name: str) -> Path:
    """A package of one module, always of the same size and time."""
    module = root / "package" / "__init__.py"
    module.parent.mkdir(parents=True, exist_ok=True)
    module.write_text(f"NAME = {name!r}\n", encoding="utf-8")
    os.utime(module, (1e9, 1e9))
    return module


def pycs(prefix: Path, root: Path) -> list[str]:
    return [path.name for path in (prefix / root.relative_to("/")).rglob("*.pyc")]


def test_a_tree_emitted_again_does_not_run_old_bytecode(tmp_path: Path) -> None:
    prefix, root = tmp_path / "prefix", tmp_path / "tree"
    package(root, "old")
    bytecode.kept(prefix, [root])
    assert run(prefix, root) == "old"
    package(root, "new")
    # By size and time Python sees no difference.
    assert run(prefix, root) == "old"
    bytecode.kept(prefix, [root])
    assert run(prefix, root) == "new"


def test_bytecode_of_the_same_sources_stays(tmp_path: Path) -> None:
    prefix, root, other = tmp_path / "prefix", tmp_path / "tree", tmp_path / "other"
    package(root, "one")
    package(other, "two")
    bytecode.kept(prefix, [root])
    run(prefix, root)
    run(prefix, other)
    bytecode.kept(prefix, [root])
    assert len(pycs(prefix, root)) == len(pycs(prefix, other)) == 1
    # The tree itself stays as it was emitted.
    assert not list(root.rglob("*.pyc"))
    package(root, "two")
    bytecode.kept(prefix, [root])
    assert (len(pycs(prefix, root)), len(pycs(prefix, other))) == (0, 1)


def test_a_module_that_moved_makes_another_tree(tmp_path: Path) -> None:
    prefix, root = tmp_path / "prefix", tmp_path / "tree"
    module = package(root, "one")
    bytecode.kept(prefix, [root])
    run(prefix, root)
    module.rename(module.with_name("other.py"))
    bytecode.kept(prefix, [root])
    assert pycs(prefix, root) == []


def test_bytecode_of_a_tree_that_is_gone_goes(tmp_path: Path) -> None:
    prefix, root, other = tmp_path / "prefix", tmp_path / "tree", tmp_path / "other"
    package(root, "one")
    bytecode.kept(prefix, [root])
    run(prefix, root)
    root.rename(tmp_path / "away")
    package(other, "two")
    bytecode.kept(prefix, [other])
    assert pycs(prefix, root) == []
    assert len(list((prefix / bytecode.NOTES).iterdir())) == 1
