# SPDX-License-Identifier: Apache-2.0
"""What runs out on a device beside the memory that programs ask for."""

from __future__ import annotations

import pytest

from migrator.simulator.runner import Machine
from tests.simulator.conftest import Simulator, checks

pytestmark = pytest.mark.simulator

LARGE = Machine(devices=2, memory=64 << 30)


@pytest.mark.parametrize("check", checks("checks_accounts.py"))
def test_accounts(simulator: Simulator, check: str) -> None:
    simulator.outcome("checks_accounts.py", check, LARGE)


def test_no_memory_for_a_context(simulator: Simulator) -> None:
    small = Machine(devices=1, memory=100 << 20)
    source = "import torch; torch.npu.set_device(0)"
    assert simulator.run(source, machine=small).returncode == 0
    done = simulator.run(source, machine=small, env={"ASCEND_SIM_OVERHEADS": "1"}, code=1)
    assert "207001" in done.stderr
