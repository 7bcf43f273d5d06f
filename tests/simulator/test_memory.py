# SPDX-License-Identifier: Apache-2.0
"""Device memory: its account in one process and between processes."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Mapping

import pytest

from migrator.simulator.runner import Machine, remove_machine
from tests.simulator.conftest import Simulator, checks

pytestmark = pytest.mark.simulator

MIB = 1 << 20
SMALL = Machine(devices=2, memory=256 * MIB)

HOLD = """
import time, torch
x = torch.empty(100 << 20, dtype=torch.uint8, device="npu")
print("held", flush=True)
time.sleep(300)
"""
LOOK = """
import torch
free, total = torch.npu.mem_get_info()
print(total - free)
"""


@pytest.mark.parametrize("check", checks("checks_memory.py"))
def test_memory(simulator: Simulator, check: str) -> None:
    simulator.outcome("checks_memory.py", check, SMALL)


def hold(simulator: Simulator, env: Mapping[str, str]) -> subprocess.Popen[str]:
    """A process that has taken 100 MiB of device 0."""
    process = simulator.start(["-c", HOLD], SMALL, env)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_processes_share_a_device(simulator: Simulator) -> None:
    env = {"ASCEND_SIM_MACHINE": "test-shared"}
    first, second = hold(simulator, env), hold(simulator, env)
    try:
        looked = simulator.run(LOOK, machine=SMALL, env=env)
        assert 200 * MIB <= int(looked.stdout) <= 210 * MIB
        # A third of that size does not fit: torch_npu's own error.
        third = simulator.run(HOLD, machine=SMALL, env=env, code=1)
        assert "NPU out of memory" in third.stderr
        # The other device of the machine is free, and so is another machine.
        other = simulator.run(
            "import torch; print(*torch.npu.mem_get_info(1))", machine=SMALL, env=env
        )
        assert other.stdout.split()[0] == str(256 * MIB)
        elsewhere = simulator.run(LOOK, machine=SMALL)
        assert int(elsewhere.stdout) == 0
        # A process that is killed gives its share back.
        first.kill()
        first.communicate()
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            used = int(simulator.run(LOOK, machine=SMALL, env=env).stdout)
            if used < 110 * MIB:
                break
        assert 100 * MIB <= used <= 105 * MIB
    finally:
        for process in (first, second):
            process.kill()
            process.communicate()
        remove_machine("test-shared")


def test_visible_devices_choose_physical_ones(simulator: Simulator) -> None:
    env = {"ASCEND_SIM_MACHINE": "test-visible"}
    holder = hold(simulator, {**env, "ASCEND_RT_VISIBLE_DEVICES": "1"})
    try:
        both = simulator.run(
            "import torch; print(torch.npu.device_count(),"
            "*(int(t - f) >> 20 for f, t in map(torch.npu.mem_get_info, range(2))))",
            machine=SMALL,
            env=env,
        )
        # 100 MiB and the padding that torch_npu adds, in pages of 2 MiB.
        assert both.stdout.split() == ["2", "0", "102"]
        swapped = simulator.run(
            "import torch;"
            "print(*(int(t - f) >> 20 for f, t in map(torch.npu.mem_get_info, (0, 1))))",
            machine=SMALL,
            env={**env, "ASCEND_RT_VISIBLE_DEVICES": "1,0"},
        )
        assert swapped.stdout.split() == ["102", "0"]
    finally:
        holder.kill()
        holder.communicate()
        remove_machine("test-visible")


def test_expandable_segments(simulator: Simulator) -> None:
    source = """
    import gc, torch
    def used():
        free, total = torch.npu.mem_get_info()
        return (total - free) >> 20
    xs = [torch.full((20 << 20,), i, dtype=torch.uint8, device="npu") for i in range(5)]
    assert 100 <= used() <= 125, used()
    assert [int(x[-1]) for x in xs] == [0, 1, 2, 3, 4]
    y = torch.cat(xs)
    assert y.sum().item() == sum(i * (20 << 20) for i in range(5))
    del xs, y
    gc.collect()
    torch.npu.empty_cache()
    assert used() == 0, used()
    try:
        torch.empty(300 << 20, dtype=torch.uint8, device="npu")
    except RuntimeError as error:
        print(str(error)[:17])
    """
    done = simulator.run(
        source, machine=SMALL, env={"PYTORCH_NPU_ALLOC_CONF": "expandable_segments:True"}
    )
    assert done.stdout == "NPU out of memory\n"
