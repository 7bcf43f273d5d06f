# SPDX-License-Identifier: Apache-2.0
"""The emitted mixture of experts on a simulated NPU."""

from __future__ import annotations

import pytest

from tests.simulator.conftest import Simulator, checks

pytestmark = pytest.mark.simulator


@pytest.mark.parametrize("check", checks("checks_moe.py"))
def test_moe(simulator: Simulator, check: str) -> None:
    simulator.outcome("checks_moe.py", check)
