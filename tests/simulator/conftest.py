# SPDX-License-Identifier: Apache-2.0
"""Builds the simulator once and runs programs on it.

The environment with torch and torch_npu is the one that pytest runs in, or the one that
VLLM_NPU_MIGRATE_SIMULATOR_ENV names. Where neither holds torch_npu the tests are skipped, unless
VLLM_NPU_MIGRATE_REQUIRE_SIMULATOR is set: then they fail.
"""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from migrator.simulator import build, janitor, runner

INSIDE = Path(__file__).parent / "inside"
READY = INSIDE / "ready.py"
LATE = {
    "ASCEND_SIM_CHECK_META",
    "ASCEND_SIM_GARBAGE",
    "ASCEND_SIM_HCCL_TIMEOUT",
    "ASCEND_SIM_ORDER",
    "ASCEND_SIM_RACES",
    "EMITTED_TREE",
}
"""Variables that are read when they are needed, and not by the import of torch and torch_npu."""
MOST_READY = 4
"""Processes with torch and torch_npu that wait at the same time, for the memory they take."""
SHARED = runner.Machine(devices=4)
"""The machine of what asks for none: one import of torch and torch_npu serves all of that."""
ENV_VARIABLE = "VLLM_NPU_MIGRATE_SIMULATOR_ENV"
REQUIRE_VARIABLE = "VLLM_NPU_MIGRATE_REQUIRE_SIMULATOR"


_Key = tuple[runner.Machine, frozenset[tuple[str, str]]]
"""What the import of torch and torch_npu reads: the machine, and variables."""


@dataclass
class Simulator:
    """Runs programs on the simulated Ascend of one environment."""

    build: build.Build
    folder: Path
    """For the sockets of the processes that are forked."""
    _ready: dict[_Key, subprocess.Popen[str]] = field(default_factory=dict)
    _outcomes: dict[tuple[str, runner.Machine], dict[str, str | None]] = field(default_factory=dict)

    def start(
        self,
        arguments: Sequence[str],
        machine: runner.Machine | None = None,
        env: Mapping[str, str] | None = None,
        *,
        anew: bool = False,
    ) -> subprocess.Popen[str]:
        """Start the environment's python with `arguments`; `env` goes on top of ours.

        It is the fork of a process that has imported torch and torch_npu on such a machine, unless
        it is to import them `anew`. Forks whose ASCEND_SIM_MACHINE is not said share a machine,
        which is SHARED where none is given.
        """
        if machine is None and not anew:
            machine = SHARED
        variables = {**runner.variables(self.build, machine), **(env or {})}
        python = [str(self.build.environment.python)]
        if not anew:
            # Without sitecustomize: what calls is no simulated process.
            python += [
                "-S",
                str(READY),
                "run",
                self._socket(machine or SHARED, env or {}),
            ]
        return subprocess.Popen(
            [*python, *arguments],
            env=variables,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(
        self,
        source: str,
        *arguments: str,
        machine: runner.Machine | None = None,
        env: Mapping[str, str] | None = None,
        code: int | None = 0,
        anew: bool = False,
        timeout: float = 600,
    ) -> subprocess.CompletedProcess[str]:
        """Run Python source; the test fails where the exit code is not `code` (None: any)."""
        command = ["-c", textwrap.dedent(source), *arguments]
        with self.start(command, machine, env, anew=anew) as process:
            try:
                out, err = process.communicate(timeout=timeout)
            except subprocess.TimeoutExpired:
                process.kill()
                raise
        if code is not None and process.returncode != code:
            pytest.fail(f"exit code {process.returncode}, not {code}\n{out}\n{err}")
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)

    def _socket(self, machine: runner.Machine, env: Mapping[str, str]) -> str:
        """Where a process takes programs of which it is forked; it is started when it is needed."""
        early = {name: text for name, text in env.items() if name not in LATE}
        key = (machine, frozenset(early.items()))
        place = str(self.folder / str(abs(hash(key))))
        if key not in self._ready:
            while len(self._ready) >= MOST_READY:
                self._end(next(iter(self._ready)))
            self._ready[key] = subprocess.Popen(
                [str(self.build.environment.python), str(READY), "serve", place],
                env={**runner.variables(self.build, machine), **early},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            stdout = self._ready[key].stdout
            assert stdout is not None
            assert stdout.readline() == "ready\n"
        self._ready[key] = self._ready.pop(key)  # the one that was used last is the last to go
        return place

    def _end(self, key: _Key) -> None:
        process = self._ready.pop(key)
        with process:  # not `communicate`: programs that still run have its streams, too
            assert process.stdin is not None
            process.stdin.close()
        (self.folder / str(abs(hash(key)))).unlink()

    def end(self) -> None:
        """End the processes that are forked."""
        for key in list(self._ready):
            self._end(key)

    def outcome(self, file: str, check: str, machine: runner.Machine | None = None) -> None:
        """Fail the test where the check of that name in tests/simulator/inside failed.

        The file runs once for all its checks, in a process of its own.
        """
        key = (file, machine or SHARED)
        if key not in self._outcomes:
            with self.start([str(INSIDE / "driver.py"), str(INSIDE / file)], machine) as process:
                out, err = process.communicate(timeout=1200)
            if process.returncode != 0:
                pytest.fail(f"{file} ended with {process.returncode}\n{out}\n{err}")
            self._outcomes[key] = json.loads(out.splitlines()[-1])
        trace = self._outcomes[key][check]
        if trace:
            pytest.fail(trace, pytrace=False)


def checks(file: str) -> list[str]:
    """Names of the checks in a file of tests/simulator/inside, without importing it."""
    tree = ast.parse((INSIDE / file).read_text())
    return [
        node.name
        for node in tree.body
        if isinstance(node, ast.FunctionDef) and node.name.startswith("check_")
    ]


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave the slow tests of this directory out unless -m speaks of them."""
    if "slow" in str(config.getoption("-m")):
        return
    here = Path(__file__).parent
    slow = [i for i in items if i.get_closest_marker("slow") and here in i.path.parents]
    if slow:
        config.hook.pytest_deselected(items=slow)
        items[:] = [item for item in items if item not in slow]


def environment_path() -> Path | None:
    """The environment that the tests simulate; None for pytest's own."""
    named = os.environ.get(ENV_VARIABLE)
    return Path(named) if named else None


@pytest.fixture(scope="session")
def simulator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Simulator]:
    """The simulator, built for the environment under test."""
    env = environment_path()
    facts = build.probe(env)
    if not facts["torch_npu"] and not os.environ.get(REQUIRE_VARIABLE):
        pytest.skip(f"torch_npu is not installed in {env or sys.prefix}")
    folder = tmp_path_factory.mktemp("simulator")
    simulator = Simulator(build.build(build.environment(env)), folder)
    yield simulator
    simulator.end()
    janitor.remove_machine(f"run{os.getpid()}-*")  # of every process that the tests started
