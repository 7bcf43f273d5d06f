# SPDX-License-Identifier: Apache-2.0
"""Every rule on real releases: it applies, a second run changes nothing, the result compiles."""

from __future__ import annotations

import ast
import difflib
import hashlib
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from migrator.codemod import templates
from migrator.files.tree import DiskTree
from migrator.planning.plan import Plan
from migrator.reports.log import make_log
from migrator.rules import all_rules
from tests.conftest import RunCli
from tests.trees import snapshot

DEFAULT = ("0.11.0", "0.33.0")
OTHERS = (
    "0.9.2",
    "0.10.2",
    "0.11.2",
    "0.13.0",
    "0.16.0",
    "0.18.0",
    "0.21.0",
    "0.23.0",
    "0.26.0",
    "0.29.0",
    "0.32.0",
)

pytestmark = pytest.mark.releases


def small_copy(source: Path, target: Path) -> None:
    """Copy the package and the release's metadata; documents and kernels are no rule's business."""
    target.mkdir()
    shutil.copytree(source / "vllm", target / "vllm", symlinks=True)
    for name in ("PKG-INFO", "pyproject.toml", "setup.py"):
        if (source / name).is_file():
            shutil.copy(source / name, target / name)
    if (source / "requirements").is_dir():
        shutil.copytree(source / "requirements", target / "requirements")


@pytest.mark.usefixtures("with_plans_of_this_run")
@pytest.mark.parametrize(
    "version", [*DEFAULT, *(pytest.param(v, marks=pytest.mark.slow) for v in OTHERS)]
)
def test_release(
    version: str, release: Callable[[str], Path], tmp_path: Path, run_cli: RunCli
) -> None:
    tree, out = tmp_path / "vllm", tmp_path / "out"
    small_copy(release(version), tree)
    before = snapshot(tree)

    applied = run_cli("apply", tree, "-o", out)
    assert applied.code == 0, applied.err
    assert applied.out == b""
    after = snapshot(out)
    log = json.loads((out / "migration-log.json").read_bytes())
    assert log["release"] == version

    # What the log says of files is what happened to files.
    listed = {entry["path"]: entry for entry in log["files"]}
    own = {"migration-log.json", "MIGRATION.md"}
    assert {p for p in after if after[p] != before.get(p)} - own == set(listed)
    assert before.keys() <= after.keys()
    for path, entry in listed.items():
        old = before.get(path)
        assert entry["before"] == (None if old is None else _hash(old[1])), path
        assert entry["after"] == _hash(after[path][1]), path

    # Every rule did something, found it done, or knows why this release has no site for it.
    explained = {entry["rule"] for entry in log["absent"]}
    for entry in log["rules"]:
        rule = next(r for r in all_rules() if r.code == entry["code"])
        done = entry["changed"] + entry["migrated"] + entry["skipped"]
        assert done or entry["code"] in explained or rule.provides, f"{entry['code']}: nothing"
        assert entry["manual"] == 0, entry

    again = run_cli("apply", out, "--in-place", "--force")
    assert again.code == 0, again.err
    assert "Nothing to do" in again.err
    assert snapshot(out) == after
    assert run_cli("check", out).code == 0

    changed = [str(out / p) for p in listed if p.endswith(".py")]
    compiled = subprocess.run(
        [sys.executable, "-W", "error", "-m", "compileall", "-q", *changed],
        capture_output=True,
        text=True,
    )
    assert compiled.returncode == 0, compiled.stdout + compiled.stderr


def methods(source: str, *, abstract: bool = False) -> dict[str, list[str]]:
    """Names of methods → names of their parameters, of all classes of a module."""
    return {
        function.name: [argument.arg for argument in function.args.args]
        for node in ast.parse(source).body
        if isinstance(node, ast.ClassDef)
        for function in node.body
        if isinstance(function, ast.FunctionDef)
        and (
            not abstract
            or any(
                isinstance(d, ast.Name) and d.id == "abstractmethod"
                for d in function.decorator_list
            )
        )
    }


@pytest.mark.parametrize(
    "version", [*DEFAULT, *(pytest.param(v, marks=pytest.mark.slow) for v in OTHERS)]
)
def test_lora_takes_what_the_release_hands_over(
    version: str, release: Callable[[str], Path]
) -> None:
    tree = DiskTree(release(version))
    base = tree.read("vllm/lora/punica_wrapper/punica_base.py")
    assert base is not None
    ours = templates.render(templates.load("vllm/lora/punica_wrapper/punica_npu.py"), tree)
    wanted = methods(base.decode(), abstract=True)
    assert {"add_shrink", "add_expand", "add_lora_linear", "add_lora_logits"} <= wanted.keys()
    found = methods(ours.decode())
    assert {name: found.get(name) for name in wanted} == wanted


MOST_LINES = 900
"""Lines of a diff of existing files that a person can still read at one go."""


@pytest.mark.parametrize("version", DEFAULT)
def test_diff_of_existing_files_can_be_read(
    version: str, release_plan: Callable[[str], Plan]
) -> None:
    """It is short, and each of its hunks has an entry in the log."""
    plan = release_plan(version)
    changes = make_log(plan).changes
    count = 0
    for file in plan.files:
        if file.before is None:
            continue
        here = [entry for entry in changes if entry.path == file.path]
        places = [entry.after for entry in here]
        # A line that went, of a statement that is written again behind another one.
        left = [entry.before for entry in here if entry.before is not None]
        before, after = file.before.splitlines(), file.after.splitlines()
        matcher = difflib.SequenceMatcher(None, before, after, autojunk=False)
        for tag, old, old_end, new, new_end in matcher.get_opcodes():
            if tag != "equal":
                count += old_end - old + new_end - new
                told = any(p.line <= new_end and new < p.end_line for p in places)
                if tag == "delete":
                    told |= any(p.line <= old_end and old < p.end_line for p in left)
                assert told, f"{file.path}:{new + 1}: no entry"
    assert 100 < count < MOST_LINES


def _hash(data: bytes | str) -> str:
    assert isinstance(data, bytes)
    return hashlib.sha256(data).hexdigest()
