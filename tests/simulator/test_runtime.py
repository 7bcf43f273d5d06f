# SPDX-License-Identifier: Apache-2.0
"""The stand-in for CANN's runtime, called directly, and what it lacks."""

from __future__ import annotations

import pytest

from migrator.simulator.runner import Machine
from tests.simulator.conftest import Simulator, checks

pytestmark = pytest.mark.simulator


@pytest.mark.parametrize("check", checks("checks_runtime.py"))
def test_runtime(simulator: Simulator, check: str) -> None:
    simulator.outcome("checks_runtime.py", check, Machine(devices=2, memory=256 << 20))


def test_a_missing_function_is_named(simulator: Simulator) -> None:
    absent = simulator.build.facts()["absent_by_name"]
    if "aclrtGetDeviceUtilizationRate" not in absent:
        pytest.skip("this torch_npu does not ask for a device's utilization")
    done = simulator.run(
        "import torch; torch.ones(1, device='npu'); torch.npu.utilization()", code=1
    )
    assert "aclrtGetDeviceUtilizationRate" in done.stderr


def test_a_fused_operator_without_a_reference_is_named(simulator: Simulator) -> None:
    source = """
    import torch, torch_npu
    boxes = torch.ones(4, 8, device="npu")
    torch_npu.npu_ciou(boxes, boxes, False, False, 0, True)
    """
    done = simulator.run(source, code=1)
    assert "not implement" in done.stderr or "aclnn" in done.stderr
    assert "CIoU" in done.stderr or "ciou" in done.stderr.lower()
