# SPDX-License-Identifier: Apache-2.0
"""Operators beside their references, with the simulator in the device's place."""

from __future__ import annotations

import pytest

from tests.simulator.conftest import Simulator, checks

pytestmark = pytest.mark.simulator


@pytest.mark.parametrize("check", checks("checks_on_device.py"))
def test_on_device(simulator: Simulator, check: str) -> None:
    simulator.outcome("checks_on_device.py", check)
