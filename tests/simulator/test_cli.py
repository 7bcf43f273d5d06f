# SPDX-License-Identifier: Apache-2.0
"""`vllm-npu-migrate simulator`: what it runs, passes on and complains of."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import venv
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
from click.testing import CliRunner

from migrator.cli.simulator import command
from migrator.simulator import build, janitor, runner
from tests.simulator.conftest import Simulator

ENTRY = "from migrator.cli import main; main()"


NNAL = """
import torch, torch_npu
print(hasattr(torch_npu, "_npu_rotary_embedding"), hasattr(torch.ops.atb, "_npu_rotary_embedding"))
x = torch.ones(2, 64, dtype=torch.float16, device="npu")
cache = torch.cat([torch.zeros(8, 32), torch.ones(8, 32)], -1).half().npu()
try:
    torch_npu._npu_rotary_embedding(torch.arange(2).npu(), x, x.clone(), 64, cache, True)
    print(x[0, ::32].tolist())
except OSError as error:
    print(error)
"""
"""Asks for an operator of NNAL's library."""
ALONE = """
import importlib.util, os
assert importlib.util.find_spec("torch_npu") is not None
import torch
n = torch.npu.device_count()
x = torch.ones(1, device=f"npu:{n - 1}")
print(n, x.device, torch.npu.get_device_name(), torch.npu.mem_get_info(3))
machine = "." + os.environ["ASCEND_SIM_MACHINE"] + "."
print(machine, sum(machine in name for name in os.listdir("/dev/shm")))
import torch_npu
normed, _ = torch_npu.npu_rms_norm(torch.ones(2, 4, device="npu"), torch.ones(4, device="npu"))
torch.testing.assert_close(normed.cpu(), torch.ones(2, 4))
"""
"""Asks for the spec of torch_npu before anything else, which must leave its operators in place."""


def tool(
    *arguments: str, env: Mapping[str, str] | None = None, start_new_session: bool = False
) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", ENTRY, "simulator", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=env,
        start_new_session=start_new_session,
    )


def run_in(simulator: Simulator, options: Sequence[str], *program: str) -> tuple[int, str, str]:
    env = ["--env", str(simulator.build.environment.python.parent.parent)]
    with tool("run", *env, *options, "--", *program) as process:
        out, err = process.communicate(timeout=600)
    return process.returncode, out, err


@pytest.mark.simulator
def test_the_documented_line(simulator: Simulator) -> None:
    """It prints that line; and a machine has NNAL unless it is told otherwise."""
    line = (
        "import torch, torch_npu; "
        "print(torch.npu.get_device_name(0), (torch.ones(2, device='npu')+1).cpu())"
    )
    code, out, err = run_in(simulator, [], "python", "-c", f"{line}\n{NNAL}")
    said = ["Ascend910B1 tensor([2., 2.])", "True True", "[-1.0, 1.0]"]
    assert (code, out.splitlines()) == (0, said), err
    assert "verrid" not in err  # no word about kernels whose place was taken


@pytest.mark.simulator
def test_torch_alone_finds_the_device_and_leaves_nothing(simulator: Simulator) -> None:
    """And where NNAL is not installed, its operators alone are missing."""
    code, out, err = run_in(
        simulator,
        ["--devices=8", "--memory=1.5GiB", "--soc=Ascend910_9391", "--without-nnal"],
        "python",
        "-c",
        f"{ALONE}{NNAL}import sys; sys.stdout.flush(); os._exit(7)",
    )
    assert code == 7, err
    said, counted, there, refused = out.splitlines()
    assert said == "8 npu:7 Ascend910_9391 (1610612736, 1610612736)", err
    assert there == "True False"
    # What follows depends on how torch words that the library does not load.
    assert refused.startswith("[Errno")
    machine, count = counted.split()
    assert int(count) > 0
    assert not [name for name in os.listdir("/dev/shm") if machine in name]


@pytest.mark.simulator
def test_ray_counts_devices_by_pyacl(simulator: Simulator) -> None:
    """What Ray's manager of NPUs asks, in a process that has loaded no torch."""
    source = """
        import acl, sys
        print(*acl.rt.get_device_count(), acl.get_soc_name(), "torch" in sys.modules)
        """
    machine = runner.Machine(devices=3, soc="Ascend910B2")
    done = simulator.run(source, machine=machine, anew=True)
    assert done.stdout.split() == ["3", "0", "Ascend910B2", "False"]
    seen = {"ASCEND_RT_VISIBLE_DEVICES": "2,0"}
    done = simulator.run(source, machine=machine, env=seen, anew=True)
    assert done.stdout.split()[:2] == ["2", "0"]
    simulator.run("import acl; acl.rt.malloc", code=1, anew=True)


@pytest.mark.simulator
def test_pyacl_copies_bytes(simulator: Simulator) -> None:
    source = """
        import torch, acl
        x, y = torch.arange(4), torch.zeros(4, dtype=torch.int64, device="npu")
        torch.npu.synchronize()
        print(acl.rt.memcpy(y.data_ptr(), 32, x.data_ptr(), 24, 1), y.tolist())
        print(acl.rt.memcpy(y.data_ptr(), 8, x.data_ptr(), 24, 1), y.tolist())
        """
    done = simulator.run(source)
    assert done.stdout.splitlines() == ["0 [0, 1, 2, 0]", "107000 [0, 1, 2, 0]"]


@pytest.mark.simulator
def test_children_inherit_the_simulator(simulator: Simulator, tmp_path: Path) -> None:
    script = tmp_path / "parent.py"
    script.write_text(
        """
import os, subprocess, sys
import ascend_sim.operators  # the registry, before torch
import torch, torch.multiprocessing as mp

def work(rank, queue):
    torch.npu.set_device(rank)
    x = torch.full((2,), float(rank), device="npu")
    queue.put((rank, x.sum().item(), str(x.device)))

def share(inbox, outbox):
    for rank in (1, 0):
        work(rank, outbox)
    x = inbox.get(timeout=600)
    x += 1
    outbox.put(x.tolist())
    inbox.get(timeout=600)
    del x

if __name__ == "__main__":
    print(ascend_sim.operators.problems())
    context = mp.get_context("spawn")
    inbox, queue = context.Queue(), context.Queue()
    process = context.Process(target=share, args=(inbox, queue))
    process.start()
    print(sorted(queue.get(timeout=600) for _ in range(2)))
    # A tensor of a device goes to another process.
    x = torch.arange(3.0, device="npu")
    inbox.put(x)
    print(queue.get(timeout=600))
    inbox.put(None)
    process.join()
    print(x.tolist())
    count = "import acl; print(acl.rt.get_device_count())"
    print(subprocess.check_output([sys.executable, "-c", count], text=True).strip())
    # A forked child that uses the CPU only, as data loaders do.
    data = torch.utils.data.DataLoader(torch.arange(6.0), batch_size=2, num_workers=1)
    print([b.to("npu").sum().item() for b in data])
"""
    )
    code, out, err = run_in(simulator, ["--devices", "2"], "python", str(script))
    assert code == 0, err
    assert out.splitlines() == [
        "{}",
        "[(0, 0.0, 'npu:0'), (1, 2.0, 'npu:1')]",
        "[1.0, 2.0, 3.0]",
        "[1.0, 2.0, 3.0]",
        "(2, 0)",
        "[1.0, 5.0, 9.0]",
    ]


@pytest.mark.simulator
@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT", "SIGUSR1"])
def test_signals_reach_the_program(simulator: Simulator, name: str) -> None:
    source = f"""
import signal, sys, time
def leave(number, frame):
    print("got", number, flush=True)
    sys.exit(9)
signal.signal(signal.{name}, leave)
print("ready", flush=True)
time.sleep(600)
"""
    env = ["--env", str(simulator.build.environment.python.parent.parent)]
    with tool("run", *env, "--", "python", "-c", source, start_new_session=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        number = getattr(signal, name)
        process.send_signal(number)
        out, err = process.communicate(timeout=600)
    assert (process.returncode, out) == (9, f"got {int(number)}\n"), err


@pytest.mark.simulator
def test_a_launcher_that_is_killed_leaves_nothing(simulator: Simulator) -> None:
    source = """
import os, subprocess, sys, time
import torch
import torch_npu
torch.ones(1, device="npu")
sleep = [sys.executable, "-c", "import time; time.sleep(600)"]
child = subprocess.Popen(sleep, start_new_session=True)
print(os.environ["ASCEND_SIM_MACHINE"], child.pid, flush=True)
time.sleep(600)
"""
    env = ["--env", str(simulator.build.environment.python.parent.parent)]
    with tool("run", *env, "--", "python", "-c", source, start_new_session=True) as process:
        assert process.stdout is not None
        machine, child = process.stdout.readline().split()
        assert int(child) in janitor.programs(machine)
        process.kill()
        process.wait()
        # The program's output ends when the last of its processes has.
        process.stdout.read()
    deadline = time.monotonic() + 600
    left = True
    while left and time.monotonic() < deadline:
        shared = list(Path("/dev/shm").glob(f"ascend_sim.*.{machine}.*"))
        left = bool(janitor.programs(machine) or shared)
    assert not left


@pytest.mark.simulator
def test_memory_of_machines_that_are_gone_is_removed(simulator: Simulator) -> None:
    with subprocess.Popen(["true"]) as gone:
        gone.wait()
    folder, user = Path("/dev/shm"), os.getuid()
    old = folder / f"ascend_sim.{user}.run{gone.pid}-0a.account"
    alive = folder / f"ascend_sim.{user}.run{os.getpid()}-0b.account"
    young = folder / f"ascend_sim.{user}.run{gone.pid}-0c.account"
    for path in (old, alive, young):
        path.touch()
    for path in (old, alive):
        os.utime(path, (0, 0))
    try:
        code, _, err = run_in(simulator, [], "true")
        assert code == 0, err
        assert not old.exists()
        assert alive.exists()
        assert young.exists()  # it may be of another container
    finally:
        alive.unlink()
        young.unlink()


@pytest.mark.simulator
def test_death_by_a_signal_is_passed_on(simulator: Simulator) -> None:
    code, _, _ = run_in(simulator, [], "python", "-c", "import os; os.kill(os.getpid(), 9)")
    assert code == -9


@pytest.mark.simulator
def test_without_the_variable_nothing_happens(simulator: Simulator) -> None:
    variables = {**os.environ, "PYTHONPATH": str(build.RUNTIME)}
    variables.pop("ASCEND_SIM", None)
    done = subprocess.run(
        [
            str(simulator.build.environment.python),
            "-c",
            "import sys; print('ascend_sim' in sys.modules,"
            " [f for f in sys.meta_path if 'ascend' in str(f)])",
        ],
        env=variables,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "False []\n"


@pytest.mark.simulator
def test_the_environments_own_sitecustomize_runs(simulator: Simulator, tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text("import builtins; builtins.mine = 'ran'\n")
    done = simulator.run(
        "import acl; print(mine, acl.rt.get_device_count())",
        env={"PYTHONPATH": os.pathsep.join([str(build.RUNTIME), str(tmp_path)])},
        anew=True,
    )
    assert done.stdout == "ran (1, 0)\n"


@pytest.mark.simulator
def test_the_doctor_finds_what_is_there(simulator: Simulator) -> None:
    env = str(simulator.build.environment.python.parent.parent)
    result = CliRunner().invoke(command, ["doctor", "--env", env])
    assert result.exit_code == 0, result.output
    assert "MISSING" not in result.output
    assert str(simulator.build.directory) in result.output


@pytest.mark.simulator
def test_wrong_machines_are_refused(simulator: Simulator) -> None:
    env = ["--env", str(simulator.build.environment.python.parent.parent)]
    cases = {
        ("--devices", "0"): "0 devices: the simulator has 1 to 64",
        ("--devices", "65"): "1 to 64",
        ("--memory", "lots"): "'lots' is not an amount of memory",
        ("--memory", "12"): "12 bytes of memory are too few",
        ("--soc", "Ascend1"): "knows no chip Ascend1; it knows",
    }
    for options, message in cases.items():
        result = CliRunner().invoke(command, ["run", *env, *options, "--", "python", "-V"])
        assert result.exit_code == 2
        assert message in result.output
    program = "import acl, sys; sys.exit(acl.rt.get_device_count() != (0, 0))"
    for name, value in (("ASCEND_SIM_DEVICES", "many"), ("ASCEND_SIM_MEMORY", "1k")):
        refused_by(simulator, program, name, value)
    result = CliRunner().invoke(command, ["run", *env, "--", "no-such-program"])
    assert result.exit_code == 2
    assert "cannot run no-such-program: No such file or directory" in result.output


def refused_by(simulator: Simulator, program: str, name: str, value: str) -> None:
    """A program ends by the simulator's complaint of a variable."""
    done = simulator.run(program, env={name: value}, code=None, anew=True)
    assert done.returncode != 0
    assert f"{name}='{value}' is not a number" in done.stderr


@pytest.mark.simulator
@pytest.mark.slow
def test_torch_says_that_a_machine_is_wrong(simulator: Simulator) -> None:
    program = "import torch; torch.ones(1, device='npu')"
    refused_by(simulator, program, "ASCEND_SIM_DEVICES", "many")


def test_an_environment_without_torch_is_named(tmp_path: Path) -> None:
    venv.create(tmp_path / "bare", symlinks=True)
    result = CliRunner().invoke(command, ["install", "--env", str(tmp_path / "bare")])
    assert result.exit_code == 2
    assert "torch is not installed in" in result.output
    result = CliRunner().invoke(command, ["doctor", "--env", str(tmp_path / "bare")])
    assert result.exit_code == 1
    assert "MISSING  torch: not installed" in result.output
    result = CliRunner().invoke(command, ["install", "--env", str(tmp_path)])
    assert result.exit_code == 2
    assert "is not a Python environment" in result.output


def test_a_missing_compiler_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    simulator: Simulator = request.getfixturevalue("simulator")
    monkeypatch.setenv("ASCEND_SIM_CACHE", str(tmp_path))
    monkeypatch.setenv("PATH", "")
    with pytest.raises(build.SimulatorError, match="gcc is missing"):
        build.build(simulator.build.environment)


@pytest.mark.parametrize(
    ("text", "size"),
    [("1024", 1024), ("8GiB", 8 << 30), ("8g", 8 << 30), ("1.5 MB", 1_500_000), ("3k", 3072)],
)
def test_amounts_of_memory(text: str, size: int) -> None:
    assert runner.parse_memory(text) == size


@pytest.mark.parametrize("text", ["", "GiB", "-1", "8 bananas", "1e9"])
def test_what_is_no_amount_of_memory(text: str) -> None:
    with pytest.raises(ValueError, match="not an amount of memory"):
        runner.parse_memory(text)


@pytest.mark.simulator
@pytest.mark.slow
def test_two_builds_at_once(simulator: Simulator, tmp_path: Path) -> None:
    env = str(simulator.build.environment.python.parent.parent)
    variables = {**os.environ, "ASCEND_SIM_CACHE": str(tmp_path)}
    started = [tool("install", "--env", env, env=variables) for _ in range(2)]
    for process in started:
        _, err = process.communicate(timeout=600)
        assert process.returncode == 0, err
    assert len(list(tmp_path.iterdir())) == 1
    started_at = time.monotonic()
    with tool("install", "--env", env, env=variables) as again:
        assert again.wait(timeout=600) == 0
    assert time.monotonic() - started_at < 20  # from the cache
