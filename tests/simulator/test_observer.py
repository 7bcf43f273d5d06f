# SPDX-License-Identifier: Apache-2.0
"""What a program asks of its devices."""

from __future__ import annotations

import pytest

from tests.simulator.conftest import Simulator, checks

pytestmark = pytest.mark.simulator


@pytest.mark.parametrize("check", checks("checks_observer.py"))
def test_observer(simulator: Simulator, check: str) -> None:
    simulator.outcome("checks_observer.py", check)
