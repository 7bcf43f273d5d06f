# SPDX-License-Identifier: Apache-2.0
"""Environments that the tool makes itself, keeps in its cache, and shares between releases.

An environment is made of what a tree asks for in requirements/common.txt, the CPU build of torch,
the torch_npu of the same release, and what older releases import and newer ones no longer ask for,
at the versions that the published runs were made with (`environments/*.txt`). One serves every
release of its torch: what a further tree asks for is put beside what is there. Each step is noted
when it is done, so that one that was interrupted goes on where it stopped.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
from packaging.version import Version

from migrator.files.locations import private_cache
from migrator.files.tree import DiskTree, Label
from migrator.verify.simulate import bytecode, environment
from migrator.verify.simulate.environment import EmittedTree, SimulateError, cpu_variables
from migrator.verify.wheel import torch_pin

CPU_INDEX = "https://download.pytorch.org/whl/cpu"
"""Where PyTorch has its CPU builds."""
STATE = "environment.json"
BUILDING = ("setuptools==78.1.1", "setuptools-scm", "setuptools-rust", "wheel")
"""What a wheel of a tree is built with, without isolation."""
BESIDE = (
    "diskcache", "depyf", "astor", "lm-format-enforcer", "interegular", "gguf", "numba", "llvmlite"
)  # fmt: skip
"""What some releases import without asking for it, or ask for beside versions that exclude each
other; they are put there without what they ask for themselves."""
RAY = "ray==2.60.0"

Run = Callable[[Sequence[str], Path], int]
"""Runs a command with its output appended to a file, and gives its exit code."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """Of what an environment is made."""

    name: str
    torch: str
    torch_npu: str
    needs: str
    """How much is fetched and how much it takes, for people."""

    @property
    def constraints(self) -> Path:
        """The versions that the published runs were made with."""
        return Path(__file__).parent / "environments" / f"{self.name}.txt"


NEW = Recipe("torch-2.13", "2.13.0", "2.13.0", "0.6 GB to fetch, 3.1 GB on disk")
OLD = Recipe(
    "torch-2.8",
    "2.8.0",
    "2.8.0.post2",
    "not measured; that of torch 2.13 is 0.6 GB to fetch, 3.1 GB on disk",
)
RECIPES = (NEW, OLD)


class State(msgspec.Struct):
    """What was done of an environment."""

    recipe: str
    steps: list[str] = []
    """Steps that are done."""
    names: list[str] = []
    """Distributions that trees have asked for."""


@dataclass(frozen=True, slots=True)
class Kept:
    """An environment in the cache."""

    root: Path
    state: State

    @property
    def complete(self) -> bool:
        """Was it made to its end?"""
        return "beside" in self.state.steps

    @property
    def size(self) -> int:
        """Bytes on disk; files that are linked several times count once."""
        found: dict[int, int] = {}
        for directory, _, files in os.walk(self.root):
            for name in files:
                with contextlib.suppress(OSError):
                    entry = os.lstat(os.path.join(directory, name))
                    found[entry.st_ino] = entry.st_blocks * 512
        return sum(found.values())


def directory() -> Path:
    """Where environments are kept."""
    return private_cache("environments")


def recipe_of(root: Path) -> Recipe:
    """The recipe that fits a tree, by the torch that it pins.

    Raises:
        SimulateError: no environment that can be made was run with such a tree.
    """
    tree = DiskTree(root)
    oldest = _oldest_transformers((tree.read("requirements/common.txt") or b"").decode())
    if oldest is not None and oldest < Version("4.53"):
        raise SimulateError(
            f"{root} was made beside transformers {oldest} and needs one before 4.54; make an "
            "environment with that and name it by --env"
        )
    below = (entry.path for entry in tree.entries() if entry.path.startswith("requirements"))
    pin = torch_pin(tree.read, below)
    # Later torch has another signature where older trees patch it, and transformers 5 lacks what
    # they ask for.
    return OLD if pin is not None and Version(pin[0]) < Version("2.9") else NEW


def _oldest_transformers(text: str) -> Version | None:
    """The oldest transformers that requirements take; None where they do not say."""
    found = re.search(r"^transformers[^#;\n]*>=\s*([\d.]+)", text, re.MULTILINE)
    return Version(found[1]) if found is not None else None


def kept() -> Iterator[Kept]:
    """The environments that are there, by name."""
    for recipe in RECIPES:
        root = directory() / recipe.name
        if root.is_dir():
            yield Kept(root, _state(root, recipe))


def _state(root: Path, recipe: Recipe) -> State:
    try:
        return msgspec.json.decode((root / STATE).read_bytes(), type=State)
    except (OSError, msgspec.MsgspecError):
        return State(recipe.name)


def ready(
    tree: Path,
    progress: Callable[[str], None],
    *,
    ray: bool = False,
    run: Run | None = None,
) -> Path:
    """The environment for a tree: the one that is kept, made or completed if need be.

    Args:
        tree: root of an emitted tree.
        progress: called with a sentence on each step, its size and where its log is.
        ray: is Ray needed, too?
        run: runs the commands; None: as processes.

    Raises:
        SimulateError: the tree has no recipe, or a step failed; the next call goes on from there.
    """
    recipe = recipe_of(tree)
    root = directory() / recipe.name
    root.mkdir(exist_ok=True)
    with _locked(root):
        maker = _Maker(recipe, root, _state(root, recipe), progress, run or _run)
        wanted = [
            # Without its extras, fastapi has no server.
            f"{one.name}[{','.join(sorted(one.extras))}]" if one.extras else one.name
            for one in environment.asked_for(EmittedTree(tree, Label(None)))
        ]
        maker.make(wanted, ray=ray)
    return root


def usable(python: Path) -> bool:
    """Has the environment of an interpreter all that runs need?"""
    try:
        # It need not be what a certain tree asks for.
        environment.check(python, EmittedTree(python.parent, Label(None)), serve=False)
    except SimulateError:
        return False
    return True


def remove(names: Sequence[str] = ()) -> list[Path]:
    """Remove the environments of these names; none: all. Gives what was removed.

    Raises:
        SimulateError: there is none of a name, or one is being made.
    """
    there = {one.root.name: one.root for one in kept()}
    for name in names:
        if name not in there:
            known = ", ".join(there) or "none"
            raise SimulateError(f"there is no environment {name}; `env list` lists them: {known}")
    removed = [root for name, root in there.items() if not names or name in names]
    for root in removed:
        with _locked(root):
            # The state goes first: what is left of it is not taken for one that is complete.
            (root / STATE).unlink(missing_ok=True)
            shutil.rmtree(root)
            bytecode.forget(private_cache("bytecode"), root)
    return removed


@contextlib.contextmanager
def _locked(root: Path) -> Iterator[None]:
    """Keep others from making or removing the same environment meanwhile."""
    with open(root.with_name(f".{root.name}.lock"), "w", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise SimulateError(
                f"another run is making or removing {root}; wait for it and try again"
            ) from None
        yield


def _run(command: Sequence[str], log: Path) -> int:
    with open(log, "ab") as out:
        out.write(f"$ {' '.join(command)}\n".encode())
        out.flush()
        return subprocess.run(
            command, stdout=out, stderr=out, stdin=subprocess.DEVNULL, env=_variables(), check=False
        ).returncode


def _variables() -> dict[str, str]:
    return {**cpu_variables(), "PIP_DISABLE_PIP_VERSION_CHECK": "1", "PIP_NO_INPUT": "1"}


@dataclass
class _Maker:
    """Makes one environment."""

    recipe: Recipe
    root: Path
    state: State
    progress: Callable[[str], None]
    run: Run

    @property
    def log(self) -> Path:
        return self.root / "log.txt"

    def make(self, wanted: Sequence[str], *, ray: bool) -> None:
        """Do what is not done yet."""
        recipe = self.recipe
        if "beside" not in self.state.steps:
            self.progress(
                f"Making an environment in {self.root}: {recipe.needs}; some minutes, and it is "
                "kept (`vllm-npu-migrate env list`)"
            )
        self._step("venv", "a virtual environment", self._venv)
        self._step("torch", f"torch {recipe.torch}, the CPU build (200 MB)", self._torch)
        npu = (f"torch_npu=={recipe.torch_npu}", *BUILDING)
        self._step("torch_npu", f"torch_npu {recipe.torch_npu}", lambda: self._pip(*npu))
        new = [name for name in self._asked(wanted) if name not in self.state.names]
        if new:
            self.progress(f"{len(new)} requirements of the tree")
            self._check("requirements", self._pip("-c", str(recipe.constraints), *new))
            self.state.names += new
            self._note()
        beside = ("--no-deps", "-c", str(recipe.constraints), *BESIDE)
        self._step("beside", "what older releases import", lambda: self._pip(*beside))
        if ray:
            self._step("ray", "Ray", lambda: self._pip(RAY))

    def _asked(self, wanted: Sequence[str]) -> list[str]:
        """What the tree asks for, but for what comes otherwise."""
        ours = {"torch", "torch_npu", "torch-npu", "setuptools", *BESIDE}
        needed = [*environment.NEEDED, *environment.SERVING]
        return [name for name in dict.fromkeys([*needed, *wanted]) if name.lower() not in ours]

    def _step(self, name: str, what: str, do: Callable[[], int]) -> None:
        if name in self.state.steps:
            return
        self.progress(what)
        self._check(name, do())
        self.state.steps.append(name)
        self._note()

    def _check(self, name: str, code: int) -> None:
        if code:
            raise SimulateError(
                f"the step {name} of {self.root} ended with {code}: {_last(self.log)}; mend that "
                "and run it again, it goes on from there; or name an environment by --env"
            )

    def _note(self) -> None:
        temporary = self.root / f"{STATE}.new"
        temporary.write_text(json.dumps(msgspec.to_builtins(self.state)), encoding="utf-8")
        temporary.replace(self.root / STATE)

    def _venv(self) -> int:
        return self.run([sys.executable, "-m", "venv", "--clear", str(self.root)], self.log)

    def _torch(self) -> int:
        """The CPU build: from where pip is set up to look, else from PyTorch's own index."""
        build = f"torch=={self.recipe.torch}+cpu"
        code = self._pip(build)
        if code and not os.environ.get("PIP_NO_INDEX"):
            code = self._pip("--extra-index-url", CPU_INDEX, build)
        return code

    def _pip(self, *arguments: str) -> int:
        python = str(self.root / "bin" / "python")
        return self.run([python, "-m", "pip", "install", *arguments], self.log)


def _last(log: Path) -> str:
    """The last error in a log, else its last line."""
    try:
        lines = [line for line in log.read_text("utf-8", "replace").splitlines() if line.strip()]
    except OSError:
        return "no output"
    errors = [line for line in lines if line.startswith("ERROR:")]
    return (errors or lines or ["no output"])[-1]
