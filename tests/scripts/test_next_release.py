# SPDX-License-Identifier: Apache-2.0
"""What action.yml runs: a new tag becomes a branch and a summary, a drifted one an issue."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml  # type: ignore[import-untyped]

from tests.trees import SELECT, commit_all, copy_mini, git, git_environment
from tests.verify.conftest import make_wheel

ROOT = Path(__file__).parents[2]
SETTINGS = f"[tool.vllm-npu-migrate]\nselect = {json.dumps(SELECT.split(','))}\n"
GH = """#!/usr/bin/env python3
import json, os, sys
with open(os.environ["GH_CALLS"], "a") as file:
    file.write(json.dumps(sys.argv[1:]) + "\\n")
if sys.argv[2] == "list":
    print(os.environ.get("GH_LIST", "[]"))
"""


@pytest.fixture
def upstream(tmp_path: Path) -> Callable[..., Path]:
    """The repository with vLLM's tags; each call adds one with an edit of the operators."""
    root = copy_mini(tmp_path / "upstream")
    commit_all(root)
    git(root, "tag", "v0.11.0")

    def release(version: str, old: bytes = b"", new: bytes = b"") -> Path:
        info = root / "PKG-INFO"
        info.write_bytes(
            re.sub(rb"(?m)^Version: .*$", f"Version: {version}".encode(), info.read_bytes())
        )
        ops = root / "vllm/_custom_ops.py"
        assert old in ops.read_bytes()
        ops.write_bytes(ops.read_bytes().replace(old, new))
        git(root, "commit", "-q", "-a", "-m", version)
        git(root, "tag", f"v{version}")
        return root

    return release


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """The adapted branch of a fork, with an edit by hand, and the remote that it is pushed to."""
    tree = copy_mini(tmp_path / "fork")
    (tree / "pyproject.toml").write_text(SETTINGS, encoding="utf-8")
    subprocess.run(
        [sys.executable, "-m", "migrator", "apply", ".", "--in-place", "--force", "-q"],
        cwd=tree,
        check=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    (tree / "vllm/mine.py").write_text("MINE = 1\n", encoding="utf-8")
    commit_all(tree)
    git(tmp_path, "init", "-q", "--bare", "remote")
    git(tree, "remote", "add", "origin", str(tmp_path / "remote"))
    git(tree, "push", "-q", "origin", "HEAD:main")
    return tree


@pytest.fixture
def port(checkout: Path, tmp_path: Path) -> Callable[..., dict[str, str]]:
    """Runs the script as a runner does; what it tells GitHub."""
    wheel = make_wheel(tmp_path)
    bin_ = tmp_path / "bin"
    bin_.mkdir()
    (bin_ / "gh").write_text(GH, encoding="utf-8")
    (bin_ / "gh").chmod(0o755)

    def run(upstream: Path, *arguments: str, **variables: str) -> dict[str, str]:
        told = tmp_path / "told"
        told.write_bytes(b"")
        environment = git_environment() | {
            "PATH": f"{bin_}:{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT),
            "HOME": str(tmp_path),
            "GITHUB_OUTPUT": str(told),
            "GH_CALLS": str(tmp_path / "calls"),
        }
        script = [sys.executable, str(ROOT / "scripts/next_release.py"), "--publish"]
        options = ["--output", str(tmp_path / "out"), "--upstream", str(upstream)]
        options.append(f"--verify-options=--torch-npu-wheel {wheel}")
        done = subprocess.run(
            [*script, *options, *arguments],
            cwd=checkout,
            env=environment | variables,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        assert git(checkout, "status", "--porcelain") == "", "the checkout is as it was"
        assert len(git(checkout, "worktree", "list").splitlines()) == 1
        return dict(line.split("=", 1) for line in told.read_text("utf-8").splitlines())

    return run


def calls(tmp_path: Path) -> list[list[str]]:
    place = tmp_path / "calls"
    lines = place.read_text("utf-8").splitlines() if place.exists() else []
    place.unlink(missing_ok=True)
    return [json.loads(line) for line in lines]


def test_nothing_newer(
    port: Callable[..., dict[str, str]], upstream: Callable[..., Path], tmp_path: Path
) -> None:
    root = upstream("0.11.1rc1")
    git(root, "tag", "v0.10.2")
    assert port(root) == {"outcome": "none"}
    assert calls(tmp_path) == []


def test_a_new_tag_becomes_a_branch(
    port: Callable[..., dict[str, str]],
    upstream: Callable[..., Path],
    checkout: Path,
    tmp_path: Path,
) -> None:
    root = upstream("0.11.1", b"import torch\n", b"import torch\n\nNEW = 1\n")
    told = port(root)
    assert told["outcome"] == "pull-request"
    assert (told["release"], told["branch"]) == ("0.11.1", "npu/vllm-0.11.1")
    branch = git(tmp_path / "remote", "rev-parse", "npu/vllm-0.11.1").strip()
    assert git(tmp_path / "remote", "rev-parse", f"{branch}^") == git(checkout, "rev-parse", "HEAD")
    ops = git(tmp_path / "remote", "show", f"{branch}:vllm/_custom_ops.py")
    assert "NEW = 1" in ops
    assert "npu_rms_norm" in ops, "it is adapted"
    assert git(tmp_path / "remote", "show", f"{branch}:vllm/mine.py") == "MINE = 1\n"
    log = json.loads(git(tmp_path / "remote", "show", f"{branch}:migration-log.json"))
    assert log["release"] == "0.11.1"
    body = Path(told["body"]).read_text("utf-8")
    assert body.startswith("vLLM 0.11.0 → 0.11.1, carried over")
    for name in ("check", "coverage", "update", "verify", "review"):
        assert re.search(rf"^\| `{name}` \| [01] \| ", body, re.M), body
    assert str(tmp_path) not in body
    assert (tmp_path / "out/review.html").read_text("utf-8").startswith("<!doctype html>")
    listed, created = calls(tmp_path)
    assert listed[:2] == ["pr", "list"]
    assert created[:4] == ["pr", "create", "--title", "Port to vLLM 0.11.1"]
    assert created[-2:] == ["--head", "npu/vllm-0.11.1"]

    # Again: the branch is as it is, and the request is brought up to date.
    open_ = json.dumps([{"number": 7, "title": "Port to vLLM 0.11.1"}])
    assert port(root, GH_LIST=open_) == told
    assert git(tmp_path / "remote", "rev-parse", "npu/vllm-0.11.1").strip() == branch
    assert [call[:3] for call in calls(tmp_path)][1] == ["pr", "edit", "7"]

    # The adapted branch goes on: the branch of the port is made anew on it.
    (checkout / "vllm/mine.py").write_text("MINE = 2\n", encoding="utf-8")
    git(checkout, "commit", "-q", "-a", "-m", "more")
    port(root, GH_LIST=open_)
    assert git(tmp_path / "remote", "rev-parse", "npu/vllm-0.11.1^") == git(
        checkout, "rev-parse", "HEAD"
    )
    assert git(tmp_path / "remote", "show", "npu/vllm-0.11.1:vllm/mine.py") == "MINE = 2\n"


def test_a_drifted_tag_becomes_an_issue(
    port: Callable[..., dict[str, str]], upstream: Callable[..., Path], tmp_path: Path
) -> None:
    root = upstream("0.12.0", b"def rms_norm(", b"def normalize_rms(")
    told = port(root)
    assert (told["outcome"], told["branch"]) == ("issue", "")
    body = Path(told["body"]).read_text("utf-8")
    assert "the rules do not hold for it: `check` ends with exit code 2" in body
    assert re.search(r"NPU102.*rms_norm", body)
    assert "vllm/_custom_ops.py" in body
    assert str(tmp_path) not in body
    assert "npu/" not in git(tmp_path / "remote", "branch", "--list")
    listed, created = calls(tmp_path)
    assert listed[:2] == ["issue", "list"]
    assert created[:4] == ["issue", "create", "--title", "vLLM 0.12.0: the rules have drifted"]
    print(body)


def test_the_action_runs_the_script() -> None:
    """Its inputs reach the script by variables, and its outputs are those that the script tells."""
    action = yaml.safe_load((ROOT / "action.yml").read_text("utf-8"))
    assert action["runs"]["using"] == "composite"
    text = "\n".join(step["run"] for step in action["runs"]["steps"])
    assert "${{" not in text, "nothing from outside is pasted into the script"
    assert "scripts/next_release.py" in text
    assert subprocess.run(["bash", "-n"], input=text, text=True).returncode == 0
    for name in re.findall(r"--[a-z-]+(?= )", text.partition("next_release.py")[2]):
        assert (
            name
            in subprocess.run(
                [sys.executable, str(ROOT / "scripts/next_release.py"), "--help"],
                capture_output=True,
                text=True,
                env={**os.environ, "PYTHONPATH": str(ROOT)},
            ).stdout
        )
    for name, output in action["outputs"].items():
        assert output["value"] == f"${{{{ steps.port.outputs.{name} }}}}"


def test_the_hook_runs_check() -> None:
    (hook,) = yaml.safe_load((ROOT / ".pre-commit-hooks.yaml").read_text("utf-8"))
    from click.testing import CliRunner

    from migrator.cli import main

    command = hook["entry"].split()
    assert command[0] == "vllm-npu-migrate"
    assert CliRunner().invoke(main, [*command[1:], "--help"]).exit_code == 0
    assert hook["pass_filenames"] is False
