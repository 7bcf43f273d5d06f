# SPDX-License-Identifier: Apache-2.0
"""ACL graphs on the simulated NPU."""

from __future__ import annotations

import pytest

from tests.simulator.conftest import Simulator, checks

pytestmark = pytest.mark.simulator


@pytest.mark.parametrize("check", checks("checks_graphs.py"))
def test_graphs(simulator: Simulator, check: str) -> None:
    simulator.outcome("checks_graphs.py", check)


def test_a_stream_must_be_joined_before_the_capture_ends(simulator: Simulator) -> None:
    # In a process of its own: torch_npu 2.8 captures nothing after a capture that failed to end.
    source = """
    import torch
    a = torch.ones(3, device="npu")
    side = torch.npu.Stream()
    with torch.npu.graph(torch.npu.NPUGraph()):
        side.wait_stream(torch.npu.current_stream())
        with torch.npu.stream(side):
            a * 3
    """
    done = simulator.run(source, code=1)
    assert "error code is 107025" in done.stderr
