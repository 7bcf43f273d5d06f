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

from migrator.simulator import build, runner

INSIDE = Path(__file__).parent / "inside"
ENV_VARIABLE = "VLLM_NPU_MIGRATE_SIMULATOR_ENV"
REQUIRE_VARIABLE = "VLLM_NPU_MIGRATE_REQUIRE_SIMULATOR"


@dataclass
class Simulator:
    """Runs programs on the simulated Ascend of one environment."""

    build: build.Build
    _outcomes: dict[tuple[str, runner.Machine], dict[str, str | None]] = field(default_factory=dict)

    def start(
        self,
        arguments: Sequence[str],
        machine: runner.Machine | None = None,
        env: Mapping[str, str] | None = None,
    ) -> subprocess.Popen[str]:
        """Start the environment's python with `arguments`; `env` goes on top of ours."""
        variables = {**runner.variables(self.build, machine), **(env or {})}
        return subprocess.Popen(
            [str(self.build.environment.python), *arguments],
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
        timeout: float = 120,
    ) -> subprocess.CompletedProcess[str]:
        """Run Python source; the test fails where the exit code is not `code` (None: any)."""
        with self.start(["-c", textwrap.dedent(source), *arguments], machine, env) as process:
            try:
                out, err = process.communicate(timeout=timeout)
            except subprocess.TimeoutExpired:
                process.kill()
                raise
        if code is not None and process.returncode != code:
            pytest.fail(f"exit code {process.returncode}, not {code}\n{out}\n{err}")
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)

    def outcome(self, file: str, check: str, machine: runner.Machine | None = None) -> None:
        """Fail the test where the check of that name in tests/simulator/inside failed.

        The file runs once for all its checks, in a process of its own.
        """
        key = (file, machine or runner.Machine())
        if key not in self._outcomes:
            with self.start([str(INSIDE / "driver.py"), str(INSIDE / file)], machine) as process:
                out, err = process.communicate(timeout=300)
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
def simulator() -> Iterator[Simulator]:
    """The simulator, built for the environment under test."""
    env = environment_path()
    facts = build.probe(env)
    if not facts["torch_npu"] and not os.environ.get(REQUIRE_VARIABLE):
        pytest.skip(f"torch_npu is not installed in {env or sys.prefix}")
    yield Simulator(build.build(build.environment(env)))
    runner.remove_machine(f"run{os.getpid()}-*")  # of every process that the tests started
