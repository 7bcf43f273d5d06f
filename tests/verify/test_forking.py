# SPDX-License-Identifier: Apache-2.0
"""Tests of forked engines, with a small package in the place of torch and vLLM."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from migrator.verify.simulate import environment, forking, process
from migrator.verify.simulate.forking import MACHINE, RECORD, SHARED, Forks, kind_of
from migrator.verify.simulate.process import MARK

COUNTING = """
import os
with open({path!r}, "a") as file:
    file.write(str(os.getpid()) + "\\n")
"""
PROGRAM = """
import json, os, sys
import heavy
print("to stderr", file=sys.stderr)
mine = open("/proc/self/environ", "rb").read().split(b"\\0")
with open(sys.argv[1], "w") as file:
    json.dump({
        "environment": dict(os.environ),
        "shown": [line.decode() for line in mine if line],
        "session": os.getsid(0) == os.getpid(),
        "folder": os.getcwd(),
        "main": sys.modules["__main__"].__file__,
        "beside": __import__("beside").__name__,
    }, file)
exec(sys.argv[2])
"""


class Plan:
    """A folder with a package `heavy` that notes each import, and a program that uses it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.imports = folder / "imports"
        self.said: list[str] = []
        (folder / "site").mkdir()
        self.heavy(COUNTING.format(path=str(self.imports)))
        self.program = folder / "program.py"
        self.program.write_text(PROGRAM, encoding="utf-8")
        (folder / "beside.py").write_text("", encoding="utf-8")
        self.variables = {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(folder / "site"),
            RECORD: "record",
            MACHINE: "run1-0",
            "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        }

    def heavy(self, text: str) -> None:
        (self.folder / "site" / "heavy.py").write_text(text, encoding="utf-8")

    @property
    def kind(self) -> str:
        return kind_of(self.variables)

    def forks(self, runs: int = 2) -> Forks:
        kept = self.folder / "kept.json"
        return Forks(self.folder / "forks", kept, [self.kind] * runs, 60.0, self.said.append)

    def command(
        self, forks: Forks, does: str = "", variables: dict[str, str] | None = None
    ) -> tuple[list[str], dict[str, str]]:
        def command(program: Sequence[str]) -> list[str]:
            return [sys.executable, *program]

        wanted = self.variables if variables is None else variables
        program = [str(self.program), str(self.folder / "out.json"), does]
        return command(forks.program(self.kind, program, command, wanted)), wanted

    def run(
        self,
        forks: Forks,
        does: str = "",
        variables: dict[str, str] | None = None,
        timeout: float = 60.0,
    ) -> process.Finished:
        command, wanted = self.command(forks, does, variables)
        return process.run(command, wanted, self.folder, self.folder / "log", timeout)

    @property
    def imported(self) -> int:
        """How many processes have run the package."""
        return len(self.imports.read_text().splitlines()) if self.imports.exists() else 0

    def seen(self) -> dict[str, object]:
        found: dict[str, object] = json.loads((self.folder / "out.json").read_text())
        return found


@pytest.fixture
def plan(tmp_path: Path) -> Iterator[Plan]:
    made = Plan(tmp_path)
    yield made
    assert not left(tmp_path)


def left(folder: Path) -> list[str]:
    """Command lines of processes that are still there."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                words = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            except OSError:
                continue
            if str(folder) in words and entry.name != str(os.getpid()):
                found.append(words)
    return found


def test_what_is_imported_once_serves_all_runs(plan: Plan) -> None:
    with plan.forks(runs=3) as forks:
        # Nobody knows yet what runs import.
        assert plan.run(forks).code == 0
        forks.learn(["json", "heavy"])
        assert plan.imported == 1
        for number in (1, 2):
            variables = {
                **plan.variables,
                RECORD: f"record {number}",
                MACHINE: f"run{number}-1",
                "VLLM_ENABLE_V1_MULTIPROCESSING": str(number),
            }
            assert plan.run(forks, variables=variables).code == 0
            seen = plan.seen()
            assert {k: v for k, v in seen["environment"].items() if k in variables} == variables  # type: ignore[attr-defined]
            # By these the janitor and whoever ends a run find its processes.
            shown = seen["shown"]
            assert f"{MACHINE}=run{number}-1" in shown  # type: ignore[operator]
            assert sum(line.startswith(f"{MARK}=") for line in shown) == 2  # type: ignore[attr-defined]
            assert (seen["session"], seen["folder"]) == (True, str(plan.folder))
            assert seen["main"] == str(plan.program)
            assert (plan.folder / "log").read_text() == "to stderr\n"
    assert plan.imported == 2
    assert plan.said == ["importing once for all runs"]
    # The next plan knows.
    with plan.forks() as forks:
        assert plan.run(forks).code == plan.run(forks).code == 0
    assert plan.imported == 3


def test_a_single_run_imports_for_itself(plan: Plan) -> None:
    with plan.forks(runs=1) as forks:
        forks.learn(["heavy"])
        assert plan.run(forks).code == 0
    assert plan.said == []


@pytest.mark.parametrize(
    ("does", "code"),
    [
        ("sys.exit(3)", 3),
        ("raise ValueError", 1),
        ("os._exit(4)", 4),
        ("os.kill(os.getpid(), 11)", -11),
    ],
)
def test_a_forked_run_ends_as_its_own_process_would(plan: Plan, does: str, code: int) -> None:
    with plan.forks() as forks:
        forks.learn(["heavy"])
        assert plan.run(forks, does).code == code
        # Another one does not notice.
        assert plan.run(forks).code == 0
    assert plan.imported == 1


def test_a_forked_run_has_its_time(plan: Plan) -> None:
    with plan.forks() as forks:
        forks.learn(["heavy"])
        plan.run(forks)
        plan.run(forks, "import time; time.sleep(600)", timeout=1.0)
        assert not [line for line in left(plan.folder) if "forked.py" in line]


def test_what_a_forked_run_leaves_is_found_and_ended(plan: Plan) -> None:
    # A process in a session of its own, of which only its variables tell.
    does = "import time\nif os.fork() == 0:\n    os.setsid()\n    time.sleep(600)"
    with plan.forks() as forks:
        forks.learn(["heavy"])
        finished = plan.run(forks, does)
        assert finished.code == 0
        assert len(finished.left) == 1


def test_signals_reach_a_forked_run(plan: Plan) -> None:
    handles = "import signal, time\nsignal.signal(15, lambda *_: sys.exit(7))"
    does = f"{handles}\nprint(1, flush=True)\ntime.sleep(600)"
    with plan.forks() as forks:
        forks.learn(["heavy"])
        command, variables = plan.command(forks, does)
        log = plan.folder / "log"
        with process.Program(command, variables, plan.folder, log) as program:
            while "1\n" not in log.read_text():
                time.sleep(0.02)
            program.send(signal.SIGTERM)
            assert program.wait(60).code == 7


def test_no_other_variable_is_shared(plan: Plan) -> None:
    with plan.forks(runs=4) as forks:
        forks.learn(["heavy"])
        assert plan.run(forks).code == 0
        assert plan.imported == 1
        more = {**plan.variables, "VLLM_NPU_USE_NNAL": "0"}
        fewer = {k: v for k, v in plan.variables.items() if k != "PATH"}
        for number, variables in enumerate((more, fewer), 2):
            # It is run all the same, by a process of its own.
            assert plan.run(forks, variables=variables).code == 0
            assert plan.imported == number
            assert "VLLM_NPU_USE_NNAL" in variables or "PATH" not in variables


@pytest.mark.parametrize("name", SHARED)
def test_a_module_that_asks_for_a_shared_variable_keeps_from_forking(plan: Plan, name: str) -> None:
    plan.heavy(f"import os\nDEVICES = os.environ.get({name!r})\n")
    with plan.forks() as forks:
        forks.learn(["heavy"])
        assert plan.run(forks).code == plan.run(forks).code == 0
    assert plan.said[1:] == [
        f"each run imports for itself: not forked: heavy asks for {name} when it is imported"
    ]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("import _thread, time\n_thread.start_new_thread(time.sleep, (60,))",
         "what is imported starts a thread"),
        ("import subprocess\nP = subprocess.Popen(['sleep', '3'])",
         "what is imported starts a process"),
        ("1 / 0", "heavy does not import: ZeroDivisionError: division by zero"),
        ("import absent", "heavy does not import: No module named 'absent'"),
    ],
)  # fmt: skip
def test_what_a_fork_would_lack_keeps_from_forking(plan: Plan, text: str, said: str) -> None:
    plan.heavy(text)
    with plan.forks() as forks:
        forks.learn(["heavy"])
        plan.run(forks)
    assert plan.said[1:] == [f"each run imports for itself: not forked: {said}"]
    # What a run imports is found out anew.
    assert not (plan.folder / "kept.json").exists()


def test_a_module_that_is_not_there_is_left_out(plan: Plan) -> None:
    with plan.forks() as forks:
        forks.learn(["gone", "gone.too", "heavy"])
        assert plan.run(forks).code == plan.run(forks).code == 0
    assert plan.imported == 1


def test_without_a_server_a_program_runs_by_itself(plan: Plan) -> None:
    client = str(environment.PROGRAMS / "forked.py")
    command = [sys.executable, "-I", "-S", client, str(plan.folder / "none"), str(plan.program)]
    command += [str(plan.folder / "out.json"), "sys.exit(5)"]
    assert subprocess.run(command, env=plan.variables, cwd=plan.folder).returncode == 5


def test_servers_end_with_who_started_them(plan: Plan) -> None:
    forks = plan.forks()
    forks.learn(["heavy"])
    assert plan.run(forks).code == 0
    (line,) = left(plan.folder)
    assert "fork_server.py" in line
    forks.__exit__(None, None, None)
    assert not left(plan.folder)


def test_a_list_that_cannot_be_read_is_none(tmp_path: Path) -> None:
    kept = forking.list_of(tmp_path, "0.32.0", "torch 2.13")
    assert kept != forking.list_of(tmp_path, "0.32.0", "torch 2.8")
    kept.write_text("{", encoding="utf-8")
    forks = Forks(tmp_path, kept, ["a", "a"], 1.0, print)
    assert forks.program("a", ["program.py"], lambda program: [], {}) == ["program.py"]


def test_sockets_can_be_waited_for() -> None:
    # What the server needs of the system.
    assert hasattr(os, "pidfd_open")
    assert hasattr(socket, "recv_fds")
