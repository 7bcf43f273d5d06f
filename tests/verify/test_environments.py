# SPDX-License-Identifier: Apache-2.0
"""Environments that are made and kept: which, in which steps, again after an interrupt, shared."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from migrator.messages.errors import MigrateError
from migrator.verify.simulate import environment, environments
from migrator.verify.simulate.environments import NEW, OLD, RECIPES, STATE
from tests.conftest import RunCli

COMMON = (
    "requests >= 2.26 # of the hub\nfastapi[standard] >= 0.115\n"
    "transformers >= 4.56, < 5\nnumba == 0.61\n"
    "six; python_version < '3'\n"
)


class Pip:
    """Stands for the commands that make an environment."""

    def __init__(self, *failing: str) -> None:
        self.failing = list(failing)
        self.commands: list[str] = []

    def __call__(self, command: Sequence[str], log: Path) -> int:
        line = " ".join(command)
        self.commands.append(line)
        for word in self.failing:
            if word in line:
                log.write_text(f"Collecting {word}\nERROR: no {word} for this machine\nbye\n")
                return 1
        return 0

    def installs(self) -> list[str]:
        return [c.partition(" pip install ")[2] for c in self.commands if " pip install " in c]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("PIP_NO_INDEX", raising=False)
    return tmp_path / "cache" / "vllm-npu-migrate" / "environments"


def tree(root: Path, torch: str = "2.9.1", common: str = COMMON) -> Path:
    """The requirements of a tree."""
    (root / "requirements").mkdir(parents=True)
    (root / "requirements" / "common.txt").write_text(common)
    (root / "requirements" / "cuda.txt").write_text(f"torch=={torch}\n")
    return root


def make(root: Path, pip: Pip, *, ray: bool = False) -> list[str]:
    told: list[str] = []
    environments.ready(root, told.append, ray=ray, run=pip)
    return told


def test_it_is_made_of_what_the_tree_asks_for(tmp_path: Path, cache: Path) -> None:
    pip = Pip()
    told = make(tree(tmp_path / "a"), pip)
    assert pip.commands[0] == f"{sys.executable} -m venv --clear {cache / 'torch-2.13'}"
    torch, npu, wanted, beside = pip.installs()
    assert torch == "torch==2.13.0+cpu"
    assert npu.startswith("torch_npu==2.13.0 setuptools")
    names = wanted.split()
    assert names[:2] == ["-c", str(NEW.constraints)]
    assert "requests" in names
    assert {"transformers", "fastapi[standard]"} <= {*names}
    assert {"six", "numba", "torch"}.isdisjoint(names)
    assert "--no-deps" in beside
    assert " numba " in f"{beside} "
    assert re.search(r"GB to fetch, .* GB on disk", told[0])


def test_what_is_done_is_not_done_again(tmp_path: Path) -> None:
    first = tree(tmp_path / "a")
    make(first, Pip())
    again = Pip()
    assert make(first, again) == []
    assert not again.commands
    other, pip = tree(tmp_path / "b", common=COMMON + "mcp\n"), Pip()
    make(other, pip)
    assert pip.installs() == [f"-c {NEW.constraints} mcp"]
    pip = Pip()
    make(other, pip, ray=True)
    assert pip.installs() == [environments.RAY]


def test_it_goes_on_where_it_stopped(tmp_path: Path, run_cli: RunCli) -> None:
    root = tree(tmp_path / "a")
    with pytest.raises(MigrateError, match=r"step torch_npu .* ERROR: no torch_npu for this"):
        make(root, Pip("torch_npu"))
    listed = run_cli("env", "list")
    assert "not complete: venv, torch done; the next run goes on" in listed.text
    pip = Pip()
    make(root, pip)
    assert not [c for c in pip.commands if "venv" in c.split() or "+cpu" in c]
    assert pip.installs()[0].startswith("torch_npu")
    assert "not complete" not in run_cli("env", "list").text


def test_pytorchs_own_index_is_asked_where_the_users_has_no_cpu_build(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pip = Pip("torch==2.13.0+cpu")
    with pytest.raises(MigrateError, match="step torch "):
        make(tree(tmp_path / "a"), pip)
    assert pip.installs()[1] == f"--extra-index-url {environments.CPU_INDEX} torch==2.13.0+cpu"
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    offline = Pip("torch==2.13.0+cpu")
    with pytest.raises(MigrateError, match="step torch "):
        make(tmp_path / "a", offline)
    assert len(offline.installs()) == 1


@pytest.mark.parametrize(
    ("torch", "transformers", "recipe"),
    [("2.7.1", ">= 4.53.2", OLD), ("2.8.0", ">= 4.55.2", OLD), ("2.9.0", ">= 4.56, < 5", NEW)],
)
def test_the_tree_says_which(
    tmp_path: Path, torch: str, transformers: str, recipe: environments.Recipe
) -> None:
    root = tree(tmp_path / "a", torch, f"transformers {transformers}\n")
    assert environments.recipe_of(root) is recipe


def test_what_none_was_run_with_is_said(tmp_path: Path) -> None:
    root = tree(tmp_path / "a", "2.7.0", "transformers >= 4.51.1\n")
    with pytest.raises(MigrateError, match=r"needs one before 4\.54; .* --env"):
        environments.recipe_of(root)


@pytest.mark.releases
@pytest.mark.parametrize(
    ("release_", "recipe"), [("0.10.0", OLD), ("0.11.0", OLD), ("0.13.0", NEW), ("0.33.0", NEW)]
)
def test_releases_have_a_recipe(release: object, release_: str, recipe: object) -> None:
    assert callable(release)
    assert environments.recipe_of(release(release_)) is recipe


def test_list_and_clean(tmp_path: Path, cache: Path, run_cli: RunCli) -> None:
    assert "none was made yet" in run_cli("env", "list").err
    make(tree(tmp_path / "a"), Pip())
    make(tree(tmp_path / "b", "2.8.0"), Pip())
    (cache / "torch-2.8" / "big").write_bytes(b"\1" * 60_000_000)
    lines = run_cli("env", "list").text.splitlines()
    assert lines == [f"{cache / 'torch-2.13'}: 0.0 GB", f"{cache / 'torch-2.8'}: 0.1 GB"]
    wrong = run_cli("env", "clean", "torch-2.7")
    assert wrong.code == 2
    assert "`env list` lists them: torch-2.13, torch-2.8" in wrong.err
    with environments._locked(cache / "torch-2.8"):
        busy = run_cli("env", "clean", "torch-2.8")
    assert busy.code == 2
    assert "another run" in busy.err
    compiled = cache.parent / "bytecode" / str((cache / "torch-2.8").resolve()).lstrip("/")
    other = compiled.with_name("torch-2.13")
    for folder in (compiled, other):
        folder.mkdir(parents=True)
    assert run_cli("env", "clean", "torch-2.8").text.endswith("torch-2.8, 0.1 GB.\n")
    assert not compiled.exists()
    assert other.exists()
    assert run_cli("env", "clean").code == 0
    assert not [*cache.glob("torch-*")]


def test_verify_makes_it_only_where_its_own_will_not_do(
    tmp_path: Path, run_cli: RunCli, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Path] = []

    def ready(root: Path, say: object, *, ray: bool) -> Path:
        asked.append(root)
        raise environment.SimulateError(f"ray: {ray}")

    monkeypatch.setattr(environments, "ready", ready)
    options = ("verify", tmp_path, "--simulate", "--models", "llama", "--modes", "ray-tp2")
    assert "ray: True" not in run_cli(*options).err
    monkeypatch.setattr(environments, "usable", lambda python: False)
    done = run_cli(*options)
    assert (done.code, asked) == (2, [tmp_path])
    assert "ray: True" in done.err
    assert "bin/python" in run_cli(*options, "--env", tmp_path).err
    assert len(asked) == 1


def test_usable_is_asked_of_the_interpreter(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "e"], check=True)
    assert not environments.usable(tmp_path / "e" / "bin" / "python")
    assert not environments.usable(tmp_path / "nothing")


@pytest.mark.parametrize("recipe", RECIPES)
def test_constraints_are_exact(recipe: environments.Recipe) -> None:
    lines = recipe.constraints.read_text().splitlines()
    assert len(lines) > 100
    assert all(re.fullmatch(r"[\w.-]+==[\w.]+", line) for line in lines)
    names = {line.partition("==")[0].lower() for line in lines}
    assert {"transformers", "tokenizers", "numba", "ray"} <= names
    assert not {name for name in names if name.startswith(("torch", "nvidia", "triton"))}
    assert STATE.endswith(".json")
