# SPDX-License-Identifier: Apache-2.0
"""The stand-in for triton-ascend, where the environment has a Triton."""

from __future__ import annotations

import subprocess

import pytest

from migrator.simulator import runner
from tests.simulator.conftest import Simulator, checks

pytestmark = pytest.mark.simulator
WITH_TRITON = runner.Machine(triton=True)

SEEN = """
import importlib.metadata
found = [p.name for p in importlib.metadata.entry_points(group="triton.backends")]
print("npu" in found)
"""


@pytest.fixture(scope="module")
def with_triton(simulator: Simulator) -> Simulator:
    """A simulator whose environment has Triton."""
    python = str(simulator.build.environment.python)
    seek = "import importlib.util as u; raise SystemExit(u.find_spec('triton') is None)"
    if subprocess.run([python, "-c", seek], check=False).returncode:
        pytest.skip("Triton is not installed in the environment")
    return simulator


@pytest.mark.parametrize("check", checks("checks_triton.py"))
def test_triton(with_triton: Simulator, check: str) -> None:
    with_triton.outcome("checks_triton.py", check, WITH_TRITON)


def test_there_is_no_npu_for_triton_unless_asked(simulator: Simulator) -> None:
    without = simulator.run(SEEN, anew=True)
    with_one = simulator.run(SEEN, machine=WITH_TRITON, anew=True)
    assert (without.stdout.strip(), with_one.stdout.strip()) == ("False", "True")
