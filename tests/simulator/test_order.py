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


LATE = """
import sys, torch, torch_npu
waits = sys.argv[1] == "waits"
def wait():
    if waits: torch.npu.synchronize()
n = 1 << 12
host = torch.zeros(n, dtype=torch.int32).pin_memory()
target = torch.empty(n, dtype=torch.int32, device="npu")
weight = torch.eye(64, device="npu")
for _ in range(20): weight = torch_npu.npu_rms_norm(weight @ weight, weight[0])[0]
target.copy_(host, non_blocking=True)
wait()
host.fill_(7)
sent = int(target[0])
back = torch.full((n,), -5, dtype=torch.int32).pin_memory()
back.copy_(target, non_blocking=True)
wait()
read = int(back[0])
side = torch.npu.Stream()
a = torch.ones(n, device="npu")
if waits: side.wait_stream(torch.npu.current_stream())
with torch.npu.stream(side): b = a * 2
if waits: a.record_stream(side)
del a
c = torch.full((n,), 9.0, device="npu")
torch.npu.synchronize()
torch.manual_seed(3)
d = torch.randn(n, device="npu")
d[::2] += 1
d = d[d > 0]
print(sent, read, float(b[0]), float(c[0]), "%.4f" % float(d.double().sum()))
"""


def late(simulator: Simulator, how: str, seed: str) -> list[str]:
    """What the program above prints where work runs late, in the order of a seed."""
    env = {"ASCEND_SIM_ORDER": seed, "ASCEND_SIM_RACES": "0"}
    return simulator.run(LATE, how, env=env).stdout.split()


def test_races_are_wrong_results_where_work_runs_late(simulator: Simulator) -> None:
    right = simulator.run(LATE, "waits").stdout.split()
    assert right[:4] == ["0", "0", "2.0", "9.0"]
    seen = []
    for seed in "12345":
        assert late(simulator, "waits", seed) == right
        sent, read, twice, *rest = late(simulator, "races", seed)
        # The copy to the device reads what was written later; that to the host has not run.
        assert (sent, read, rest) == ("7", "-5", right[3:])
        seen.append(twice)
    assert len(set(seen)) > 1
    assert late(simulator, "races", "2")[2] == seen[1]
    wrong = [twice for twice in seen if twice != "2.0"]
    assert len(wrong) >= 2, seen


def test_late_work_is_what_it_would_have_been(simulator: Simulator) -> None:
    source = """
    import torch
    x, out = torch.zeros(4, device="npu"), torch.empty(0, device="npu")
    torch.add(x, 1, out=out)  # grows
    for i in range(5): x += out * i
    kept = x.clone()
    graph = torch.npu.NPUGraph()
    with torch.npu.graph(graph): y = x * 2
    x += 1
    graph.replay()
    try: x[torch.tensor([9], device="npu")]
    except Exception as error: print("refused")
    event, side = torch.npu.Event(), torch.npu.Stream()
    x += 1
    event.record()
    with torch.npu.stream(side):
        side.wait_event(event)
        z = x * 3
    torch.npu.current_stream().wait_stream(side)
    x -= 5
    print(kept.tolist(), y.tolist(), z.tolist(), x.tolist(), x.nonzero().shape[0])
    """
    want = simulator.run(source).stdout
    for seed in "123":
        assert simulator.run(source, env={"ASCEND_SIM_ORDER": seed}).stdout == want


def test_late_work_of_reference_operators_may_be_in_inference_mode(simulator: Simulator) -> None:
    """Its results are tensors of that mode, and the host waits for it outside."""
    source = """
    import torch, torch_npu
    with torch.inference_mode():
        x = torch.arange(1.0, 9.0, device="npu").repeat(2, 1)
        y = torch_npu.npu_rms_norm(x, torch.ones(8, device="npu"))[0] * 2
    torch.npu.synchronize()
    print(round(float(y.pow(2).mean()), 4))
    """
    orders: tuple[dict[str, str], ...] = ({}, {"ASCEND_SIM_ORDER": "2"})
    for env in orders:
        assert simulator.run(source, env=env).stdout == "4.0\n"


def test_memory_that_is_mapped_piece_by_piece_is_taken_back_too(simulator: Simulator) -> None:
    """The port sets expandable segments: what is guessed there must not be done twice."""
    source = """
    import torch
    x, event, kept = torch.zeros(1 << 12, device="npu"), torch.npu.Event(), []
    for i in range(8):
        x += 1
        kept.append(x.clone())
        if i == 3: event.record()
        if i == 5: event.synchronize()
        if i == 6: torch.npu.empty_cache()
    print([int(one[7]) for one in kept])
    """
    mapped = {"PYTORCH_NPU_ALLOC_CONF": "expandable_segments:True"}
    for seed in "123":
        done = simulator.run(source, env={**mapped, "ASCEND_SIM_ORDER": seed})
        assert done.stdout == "[1, 2, 3, 4, 5, 6, 7, 8]\n"
