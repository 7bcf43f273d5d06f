# SPDX-License-Identifier: Apache-2.0
"""The simulated HCCL: its C interface, and torch_npu's own ProcessGroupHCCL over it.

Starting a rank is what takes time (importing torch and torch_npu), so four ranks run all the
cases of a session one after the other, and each test looks at one case. The ranks are forks of a
process that has done so.
"""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from migrator.simulator.runner import Machine
from tests.simulator.conftest import Simulator

pytestmark = pytest.mark.simulator

HERE = Path(__file__).parent
RANKS = 4
WAIT = 400
"""Seconds that a rank waits for the others; what ends long before was not ended by that."""
LIMIT = 900
"""Seconds after which a session of ranks hangs; on an idle machine it takes ten or twenty."""

LIBRARY = (
    "reductions special_values movement uneven transfers no_traces sub_communicators config"
    " registered_memory threads"
    " mismatch wrong_arguments spoilt_group destroyed_while_waiting same_device left fork"
).split()
LIBRARY_TIMES = ["absent", "never_joins", "killed"]
GROUP = (
    "all_reduce all_reduce_shapes all_reduce_average all_reduce_cast all_reduce_large"
    " unsupported_type broadcast reduce all_gather all_gather_uneven all_gather_into_tensor"
    " reduce_scatter scatter all_to_all all_to_all_splits all_to_all_list barrier objects send_recv"
    " isend_first batch_isend_irecv coalesced asynchronous functional sub_groups threads"
    " data_parallel graph mismatch host_tensor killed"
).split()
SPAWNED = ["all_reduce_average", "all_gather", "batch_isend_irecv"]


@dataclass
class Session:
    """What the ranks reported: by case and rank the report, by rank exit code and output."""

    reports: dict[tuple[str, int], dict[str, Any]]
    codes: list[int]
    output: list[str]
    ends: list[float]
    in_shared_memory: list[str]

    def results(self, case: str, ranks: Sequence[int] = range(RANKS)) -> list[Any]:
        """The results of one case; the test fails with the ranks' errors."""
        errors = []
        for rank in ranks:
            report = self.reports.get((case, rank))
            if report is None:
                output = self.output[rank if len(self.output) > 1 else 0]
                errors.append(f"rank {rank} reported nothing; it printed\n{output[-3000:]}")
            elif "error" in report:
                errors.append(f"rank {rank}:\n{report['error']}")
        if errors:
            pytest.fail("\n".join(errors), pytrace=False)
        return [self.reports[case, rank]["result"] for rank in ranks]


def run_ranks(
    simulator: Simulator, commands: Sequence[Sequence[str]], wait: float = WAIT
) -> Session:
    """Run the commands, a rank each, on one machine of four devices, to their ends."""
    env = {"ASCEND_SIM_HCCL_TIMEOUT": str(wait)}
    processes = [simulator.start(command, Machine(devices=RANKS), env) for command in commands]
    output = [""] * len(processes)
    ends = [0.0] * len(processes)

    def collect(number: int, process: subprocess.Popen[str]) -> None:
        out, err = process.communicate()
        ends[number] = time.time()
        output[number] = f"{out}\n{err}"

    threads = [threading.Thread(target=collect, args=pair) for pair in enumerate(processes)]
    for thread in threads:
        thread.start()
    until = time.monotonic() + LIMIT
    try:
        for thread in threads:
            thread.join(max(0.0, until - time.monotonic()))
        hanging = [number for number, thread in enumerate(threads) if thread.is_alive()]
    finally:
        for process in processes:
            process.kill()
        for thread in threads:
            thread.join()
    if hanging:
        pytest.fail(f"ranks {hanging} hang\n" + "\n".join(output[n][-3000:] for n in hanging))
    reports = {}
    for line in "\n".join(output).splitlines():
        if line.startswith("REPORT "):
            report = json.loads(line.removeprefix("REPORT "))
            reports[report["case"], report["rank"]] = report
    # "ascend_sim." begins the names of the ACL runtime, whose account is the machine's.
    names = [path.name for path in Path("/dev/shm").iterdir()]
    left = [n for n in names if "hccl" in n and not n.startswith("ascend_sim.")]
    return Session(reports, [process.returncode for process in processes], output, ends, left)


def run_library(
    simulator: Simulator, directory: Path, cases: list[str], wait: float = WAIT
) -> Session:
    script = str(HERE / "hccl_library.py")
    commands = [
        [script, str(rank), str(RANKS), str(directory / "key"), *cases] for rank in range(RANKS)
    ]
    return run_ranks(simulator, commands, wait)


def free_port() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


@pytest.fixture(scope="module")
def library(simulator: Simulator, tmp_path_factory: pytest.TempPathFactory) -> Session:
    return run_library(simulator, tmp_path_factory.mktemp("library"), LIBRARY)


@pytest.fixture(scope="module")
def library_times(simulator: Simulator, tmp_path_factory: pytest.TempPathFactory) -> Session:
    directory = tmp_path_factory.mktemp("times")
    # Ranks of a busy machine have to join in it, and the cases wait for it to end.
    return run_library(simulator, directory, LIBRARY_TIMES, wait=5.0)


@pytest.fixture(scope="module")
def group(simulator: Simulator) -> Session:
    script, port = str(HERE / "hccl_process_group.py"), free_port()
    commands = [[script, str(rank), str(RANKS), port, *GROUP] for rank in range(RANKS)]
    return run_ranks(simulator, commands)


# ---- the C interface ------------------------------------------------------------------------


@pytest.mark.parametrize(
    "case", ["special_values", "movement", "uneven", "transfers", "sub_communicators", "config"]
)
def test_library(library: Session, case: str) -> None:
    results = library.results(case)
    assert results == results[:1] * RANKS


def test_every_type_and_reduction_bit_by_bit(library: Session) -> None:
    # 12 types by 4 reductions, each at several sizes and in place too.
    assert min(library.results("reductions")) > 12 * 4 * 10


def test_registered_memory_and_settings(library: Session) -> None:
    # Destroyed once; the second time there is no such communicator.
    assert library.results("registered_memory") == [[0, 2]] * RANKS


def test_ranks_as_threads_of_one_process(library: Session) -> None:
    twice = library.results("threads")[0]
    assert "device 1 twice" in twice["message"]


def test_no_name_in_dev_shm(library: Session, library_times: Session, group: Session) -> None:
    """Not while it runs, not after a normal end, not after a kill."""
    assert library.results("no_traces") == [[]] * RANKS
    for session in (library, library_times, group):
        assert session.in_shared_memory == []


def test_calls_that_differ_are_named(library: Session) -> None:
    expected = [
        ("HcclAllReduce(count=8, float32, sum)", "HcclAllReduce(count=9, float32, sum)"),
        ("HcclAllReduce(count=8, float32, sum)", "HcclAllReduce(count=8, float16, sum)"),
        ("HcclAllReduce(count=8, float32, sum)", "HcclAllReduce(count=8, float32, max)"),
        ("HcclBroadcast(count=8, float32, root 0)", "HcclBroadcast(count=8, float32, root 1)"),
        ("HcclAllGather(count=8, float32)", "HcclBarrier"),
        ("rank 3 gives 8 elements", "rank 2 expects 9"),
        ("rank 3 sends 3 elements to rank 2", "expects 9"),
        ("HcclSend(count=4, float32, to rank 1)", "HcclRecv(count=5, float32, from rank 0)"),
    ]
    for results in library.results("mismatch"):
        assert len(results) == len(expected)
        for found, (one, other) in zip(results, expected, strict=True):
            assert found["code"] == 1
            assert one in found["message"]
            assert other in found["message"]
            assert found["seconds"] < WAIT / 2
        assert all(found["again"] == 1 for found in results[:-1])


def test_wrong_arguments_are_told_to_every_rank(library: Session) -> None:
    expected = [
        "the send buffer 0x",
        "the receive buffer lies on npu:2, the communicator on npu:1",
        "the send buffer of 4000000 bytes runs out of its device allocation",
        "the send buffer is null",
        "hif8 cannot be reduced",
        "there is no data type 99",
        "the communicator has 4 ranks",
        "which is no communicator of this process",
        "HcclGroupEnd without HcclGroupStart",
    ]
    for results in library.results("wrong_arguments"):
        assert all(found["code"] for found in results)
        for found, text in zip(results, expected, strict=True):
            assert text in found["message"]
        assert "host memory" in results[0]["message"]
        assert all("rank 1 of communicator" in found["message"] for found in results[:7])


def test_failed_group_is_not_left_open_in_silence(library: Session) -> None:
    for results in library.results("spoilt_group"):
        assert results == [2, 2, 2]


def test_destroying_ends_a_wait(library: Session) -> None:
    for found in library.results("destroyed_while_waiting")[1:]:
        assert found["code"] in {7, 21}  # its own end, or another rank's
        assert found["seconds"] < WAIT / 2


def test_two_ranks_on_one_device(library: Session) -> None:
    for found in library.results("same_device"):
        assert found["code"] == 1
        assert "both use device 0" in found["message"]


def test_rank_that_left(library: Session) -> None:
    results = library.results("left")
    assert results.pop(2)["code"] == 2
    for found in results:
        assert found["code"] == 21
        assert "rank 2 (" in found["message"]
        assert "has destroyed the communicator" in found["message"]


def test_forked_child_is_not_a_rank(library: Session) -> None:
    for found in library.results("fork"):
        assert "does not survive fork" in found["message"]


def test_absent_rank_is_an_error_in_time(library_times: Session) -> None:
    for found in library_times.results("absent"):
        assert found["code"] == 9
        assert 1 < found["seconds"] < 60
    # It says what the one that did not come does instead.
    assert "rank 3 (" in found["message"]
    assert "waits in HcclRecv(count=4, float32, from rank 0)" in found["message"]
    for found in library_times.results("never_joins")[:-1]:
        assert found["code"] == 9
        assert "rank 3 has not joined" in found["message"]


def test_killed_rank_is_an_error_at_once(library_times: Session) -> None:
    assert library_times.codes[2] == -signal.SIGKILL
    for found in library_times.results("killed", [0, 1, 3]):
        assert found["code"] == 21
        assert "rank 2 (" in found["message"]
        assert " died " in found["message"]
        assert found["seconds"] < 60


# ---- ProcessGroupHCCL -------------------------------------------------------------------------


@pytest.mark.parametrize("case", [case for case in GROUP if case != "killed"])
def test_process_group(group: Session, case: str) -> None:
    group.results(case)


def test_killed_rank_ends_the_others_with_an_error(group: Session) -> None:
    living = range(RANKS - 1)
    for seconds in group.results("killed", living):
        assert seconds < WAIT / 2
    # What does not catch the error ends by it, and soon.
    assert group.codes == [1] * (RANKS - 1) + [-signal.SIGKILL]
    for rank, begin in enumerate(group.results("ending", living)):
        assert " died " in group.output[rank].rpartition("Traceback")[2]
        assert group.ends[rank] - begin < WAIT / 2


def test_spawned_ranks(simulator: Simulator) -> None:
    """torch.multiprocessing.spawn: the simulator is in child processes too."""
    script = str(HERE / "hccl_process_group.py")
    commands = [[script, "spawn", "2", free_port(), *SPAWNED]]
    session = run_ranks(simulator, commands)
    assert session.codes == [0], session.output
    for case in SPAWNED:
        session.results(case, range(2))
