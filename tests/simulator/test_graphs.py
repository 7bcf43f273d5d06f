# SPDX-License-Identifier: Apache-2.0
"""ACL graphs on the simulated NPU."""

from __future__ import annotations

import pytest

from tests.simulator.conftest import Simulator, checks

pytestmark = pytest.mark.simulator


@pytest.mark.parametrize("check", checks("checks_graphs.py"))
def test_graphs(simulator: Simulator, check: str) -> None:
    simulator.outcome("checks_graphs.py", check)
