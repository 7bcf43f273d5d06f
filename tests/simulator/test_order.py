# SPDX-License-Identifier: Apache-2.0
"""What a program does while a device has not done its work yet."""

from __future__ import annotations

import pytest

from tests.simulator.conftest import Simulator, checks

pytestmark = pytest.mark.simulator

RACE = """
import torch
host = torch.zeros(8).pin_memory()
target = torch.empty(8, device="npu")
target.copy_(host, non_blocking=True)
host.fill_(7)
torch.npu.synchronize()
print("went on")
"""


@pytest.mark.parametrize("check", checks("checks_order.py"))
def test_order(simulator: Simulator, check: str) -> None:
    simulator.outcome("checks_order.py", check)


def test_a_race_is_a_report_an_error_or_nothing(simulator: Simulator) -> None:
    race = "race: host memory was changed while the copy to the device at <string>:5"
    done = simulator.run(RACE)
    assert race in done.stderr
    assert "before <string>:7" in done.stderr
    assert done.stdout == "went on\n"
    done = simulator.run(RACE, env={"ASCEND_SIM_RACES": "error"}, code=1)
    assert race in done.stderr
    assert "RuntimeError" in done.stderr
    done = simulator.run(RACE, env={"ASCEND_SIM_RACES": "0"})
    assert "race" not in done.stderr
    assert done.stdout == "went on\n"
