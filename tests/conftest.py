# SPDX-License-Identifier: Apache-2.0
"""What the tests share: the small tree, real releases, the command line."""

from __future__ import annotations

import compileall
import fcntl
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import HealthCheck, settings

import migrator
from migrator.codemod import engine
from migrator.codemod.engine import FileResult
from migrator.codemod.rule import Rule
from migrator.files import sources
from migrator.files.tree import DiskTree, Question, Tree, WatchedTree, answer
from migrator.planning import plan as planning
from migrator.planning.cache import Cache
from migrator.planning.plan import Plan, make_plan
from tests import trees

# No test depends on how fast a machine is.
settings.register_profile("any-speed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any-speed")


@dataclass(frozen=True)
class Outcome:
    """What a run of the command line came to."""

    code: int
    out: bytes
    err: str

    @property
    def text(self) -> str:
        return self.out.decode()


RunCli = Callable[..., Outcome]

TESTS = Path(__file__).parent
LONGEST = ("simulator", "rules", "planning", "emitted", "plugin")
"""The rooms whose tests take longest."""
TERMINAL = ("NO_COLOR", "FORCE_COLOR", "COLUMNS")
"""Variables by which the terminal that pytest runs in would change what is printed."""


def pytest_configure(config: pytest.Config) -> None:
    """Leave the tool's byte code for the many processes that the tests start.

    Where PYTHONDONTWRITEBYTECODE is set none of them leaves any, and each compiles the tool anew.
    """
    if not hasattr(config, "workerinput"):
        compileall.compile_dir(Path(migrator.__file__).parent, quiet=2)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave slow tests out unless `-m` says which ones are wanted; begin with what takes longest.

    A worker that comes to a long file when the others have nothing left to do is waited for.
    """
    if not config.option.markexpr:
        slow = [item for item in items if item.get_closest_marker("slow")]
        config.hook.pytest_deselected(items=slow)
        items[:] = [item for item in items if not item.get_closest_marker("slow")]
    room = {item: item.path.relative_to(TESTS).parts[0] for item in items}
    items.sort(
        key=lambda item: LONGEST.index(room[item]) if room[item] in LONGEST else len(LONGEST)
    )


@pytest.fixture(autouse=True)
def _without_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no test take a plan from an earlier run; those of the cache undo it."""
    monkeypatch.setenv("VLLM_NPU_MIGRATE_NO_CACHE", "1")


_results: dict[
    tuple[str, bytes, tuple[Rule, ...]], list[tuple[FileResult, Mapping[Question, str]]]
] = {}


@pytest.fixture
def kept_results(monkeypatch: pytest.MonkeyPatch) -> None:
    """Run the rules once over a file that many trees hold, as long as they are told the same.

    For tests of what becomes of a plan. Those of rules, and of how files are handled, do without.
    """

    def migrate_once(path: str, data: bytes, rules: Sequence[Rule], tree: Tree) -> FileResult:
        known = _results.setdefault((path, data, tuple(rules)), [])
        for result, asked in known:
            if all(answer(tree, question) == said for question, said in asked.items()):
                return result
        watched = WatchedTree(tree)
        result = engine.migrate_file(path, data, rules, watched)
        known.append((result, watched.asked))
        return result

    monkeypatch.setattr(planning, "migrate_file", migrate_once)


@pytest.fixture
def mini_tree(tmp_path: Path) -> Path:
    """A copy of the small tree to do with as one likes."""
    return trees.copy_mini(tmp_path / "mini")


@pytest.fixture
def run_cli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunCli:
    """Run the command line in this process: `run_cli("apply", tree, cwd=…, env=…)`.

    It runs below the test's directory, where no pyproject.toml is found, and without a terminal.
    What it runs makes no environment.
    """
    from migrator.cli import main
    from migrator.verify.simulate import environments

    monkeypatch.setattr(environments, "usable", lambda python: True)

    def run(
        *arguments: str | Path, cwd: Path | None = None, env: dict[str, str] | None = None
    ) -> Outcome:
        monkeypatch.chdir(cwd or tmp_path)
        variables = {**dict.fromkeys(TERMINAL), **(env or {})}
        done = CliRunner().invoke(main, [str(a) for a in arguments], env=variables)
        if done.exception is not None and not isinstance(done.exception, SystemExit):
            raise done.exception
        return Outcome(done.exit_code, done.stdout_bytes, done.stderr)

    return run


@pytest.fixture
def run_process(tmp_path: Path) -> RunCli:
    """The same as `run_cli` in a process of its own, for what a process alone can show."""

    def run(
        *arguments: str | Path,
        cwd: Path | None = None,
        env: dict[str, str] | None = None,
        prefix: Sequence[str] = (),
    ) -> Outcome:
        variables = {k: v for k, v in os.environ.items() if k not in TERMINAL}
        done = subprocess.run(
            [*prefix, *cli_command(*arguments)],
            cwd=cwd or tmp_path,
            env=variables | (env or {}),
            capture_output=True,
            timeout=600,
        )
        return Outcome(done.returncode, done.stdout, done.stderr.decode())

    return run


def cli_command(*arguments: str | Path) -> list[str]:
    """The command line, run by this interpreter."""
    program = "from migrator.cli import main; main()"
    return [sys.executable, "-c", program, *map(str, arguments)]


@pytest.fixture(scope="session")
def release() -> Callable[[str], Path]:
    """The unpacked source of a real release, fetched by name into the user's cache."""
    return sources.fetch


@pytest.fixture(scope="session")
def of_this_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory that all workers of this run of pytest have, and no other run."""
    own = tmp_path_factory.getbasetemp()
    place = (own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / "of-this-run"
    place.mkdir(mode=0o700, exist_ok=True)
    return place


@pytest.fixture(scope="session")
def plans_of_this_run(of_this_run: Path) -> Path:
    """Where this run of pytest keeps what it planned of real releases, for all its workers."""
    return of_this_run / "plans"


@pytest.fixture
def with_plans_of_this_run(plans_of_this_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the command line keep what it plans, as it does for its users, for this run of pytest.

    For tests of what becomes of a real release. That a plan is the same with the cache and without
    is shown in test_cache.py.
    """
    monkeypatch.delenv("VLLM_NPU_MIGRATE_NO_CACHE")
    monkeypatch.setattr("migrator.planning.cache.cache_directory", lambda: plans_of_this_run)


_plans: dict[str, Plan] = {}


@pytest.fixture(scope="session")
def release_plan(
    release: Callable[[str], Path], of_this_run: Path, plans_of_this_run: Path
) -> Iterator[Callable[[str], Plan]]:
    """The plan of all rules for a real release, made once, whichever worker asks for it first."""

    def plan(version: str) -> Plan:
        if version not in _plans:
            tree, cache = DiskTree(release(version)), Cache(plans_of_this_run)
            with open(of_this_run / f"{version}.lock", "w") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                _plans[version] = cache.planned(
                    tree, ["-"], lambda tree: make_plan(tree, jobs=2, results=cache)
                )
        return _plans[version]

    yield plan
    _plans.clear()
