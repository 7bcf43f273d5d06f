# SPDX-License-Identifier: Apache-2.0
"""Device memory: its account in one process and between processes."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Mapping

import pytest

from migrator.simulator.runner import Machine
from tests.simulator.conftest import Simulator, checks

pytestmark = pytest.mark.simulator

MIB = 1 << 20
CONTEXT = 106 * MIB
"""What a process takes of a device of 4 GiB that it opens; of SMALL ones it takes nothing."""
SMALL = Machine(devices=2, memory=256 * MIB)

HOLD = """
import signal, torch
x = torch.empty(100 << 20, dtype=torch.uint8, device="npu")
print("held", flush=True)
signal.pause()
"""
LOOK = """
import torch
free, total = torch.npu.mem_get_info()
print(total - free)
"""


@pytest.mark.parametrize("check", checks("checks_memory.py"))
def test_memory(simulator: Simulator, check: str) -> None:
    simulator.outcome("checks_memory.py", check, SMALL)


def test_garbage_can_be_turned_off(simulator: Simulator) -> None:
    source = "import torch; print(torch.empty(4, device='npu').tolist())"
    assert simulator.run(source).stdout == "[nan, nan, nan, nan]\n"
    clean = simulator.run(source, env={"ASCEND_SIM_GARBAGE": "0"})
    assert clean.stdout == "[0.0, 0.0, 0.0, 0.0]\n"


def hold(simulator: Simulator, env: Mapping[str, str] | None = None) -> subprocess.Popen[str]:
    """A process that has taken 100 MiB of device 0."""
    process = simulator.start(["-c", HOLD], SMALL, env)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_processes_share_a_device(simulator: Simulator) -> None:
    first, second = hold(simulator), hold(simulator)
    try:
        looked = simulator.run(LOOK, machine=SMALL)
        assert 200 * MIB <= int(looked.stdout) <= 210 * MIB
        # A third of that size does not fit: torch_npu's own error.
        third = simulator.run(HOLD, machine=SMALL, code=1)
        assert "NPU out of memory" in third.stderr
        # The other device of the machine is free, and so is another machine.
        other = simulator.run("import torch; print(*torch.npu.mem_get_info(1))", machine=SMALL)
        assert other.stdout.split()[0] == str(256 * MIB)
        elsewhere = simulator.run(LOOK)
        assert int(elsewhere.stdout) == CONTEXT
        # A process that is killed gives its share back.
        first.kill()
        first.communicate()
        deadline = time.monotonic() + 600
        while time.monotonic() < deadline:
            used = int(simulator.run(LOOK, machine=SMALL).stdout)
            if used < 110 * MIB:
                break
        assert 100 * MIB <= used <= 105 * MIB
    finally:
        for process in (first, second):
            process.kill()
            process.communicate()


def test_visible_devices_choose_physical_ones(simulator: Simulator) -> None:
    name = simulator.run(
        "import os; print(os.environ['ASCEND_SIM_MACHINE'])", machine=SMALL
    ).stdout.strip()
    swapped = {"ASCEND_SIM_MACHINE": name, "ASCEND_RT_VISIBLE_DEVICES": "1,0"}
    look = (
        "import torch; print(torch.npu.device_count(),"
        "*(int(t - f) >> 20 for f, t in map(torch.npu.mem_get_info, range(2))))"
    )
    holder = hold(simulator, swapped)
    try:
        # 100 MiB and the padding that torch_npu adds, in pages of 2 MiB.
        seen = simulator.run(look, machine=SMALL)
        assert seen.stdout.split() == ["2", "0", "102"]
        seen = simulator.run(look, machine=SMALL, env=swapped)
        assert seen.stdout.split() == ["2", "102", "0"]
    finally:
        holder.kill()
        holder.communicate()


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
