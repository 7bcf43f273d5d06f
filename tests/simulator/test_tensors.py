# SPDX-License-Identifier: Apache-2.0
"""Tensors, autograd, random numbers and streams on simulated NPUs."""

from __future__ import annotations

import pytest

from tests.simulator.conftest import Simulator, checks

pytestmark = pytest.mark.simulator


@pytest.mark.parametrize("check", checks("checks_tensors.py"))
def test_tensors(simulator: Simulator, check: str) -> None:
    simulator.outcome("checks_tensors.py", check)
