# SPDX-License-Identifier: Apache-2.0
"""Engines that are forked from a process that has imported torch, torch_npu and the tree.

Half of what a run takes are imports, and they are the same for most runs of a plan. So the first
run goes as ever and says which modules it imported; a server on the simulated machine, whose
environment differs from those of further runs in SHARED only, imports them, and forks a process for
each run (`programs/fork_server.py`). Where it finds that this would not be the same, or where an
environment differs in more, a run imports for itself.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
import socket
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType

from migrator.verify.simulate import environment, process
from migrator.verify.simulate.process import MARK

RECORD = "NPU_MIGRATE_RECORD"
MACHINE = "ASCEND_SIM_MACHINE"
SHARED = (MARK, RECORD, MACHINE, "VLLM_ENABLE_V1_MULTIPROCESSING")
"""Variables in which runs of one server may differ. Whoever asks for them does so in a run: a
module that asks when it is imported keeps the server from starting. All others have to be equal,
the number of devices among them: torch_npu asks for that once."""
ROOM = {"NPU_MIGRATE_ROOM": "-" * 512}
"""Where a forked process writes MARK and MACHINE, so that /proc shows them."""
MOST = 2
"""Servers at a time: each holds some 500 MB."""


class Forks:
    """The servers of a plan. A context manager: they end with it.

    A kind of runs is the variables of their environment with what else they are told of the
    machine; `kinds` has that of each run that is planned.
    """

    def __init__(
        self,
        folder: Path,
        kept: Path | None,
        kinds: Iterable[str],
        timeout: float,
        progress: Callable[[str], None],
    ) -> None:
        self._folder = folder
        self._kept = kept
        self._timeout = timeout
        self._progress = progress
        self._left: dict[str, int] = {}
        for kind in kinds:
            self._left[kind] = self._left.get(kind, 0) + 1
        self._modules = _read(kept)
        self._stack = contextlib.ExitStack()
        self._sockets: dict[str, Path | None] = {}

    def __enter__(self) -> Forks:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.close()

    def program(
        self,
        kind: str,
        program: Sequence[str],
        command: Callable[[Sequence[str]], Sequence[str]],
        variables: Mapping[str, str],
    ) -> list[str]:
        """The program of a run, by a server where there is one or where one pays.

        Args:
            kind: that of the run.
            program: the path of a Python program and its arguments.
            command: makes the command line of a program on the simulated machine.
            variables: the environment of the run.
        """
        left = self._left.get(kind, 0)
        self._left[kind] = left - 1
        pays = left > 1 and self._modules and len(self._sockets) < MOST
        if pays and kind not in self._sockets:
            self._sockets[kind] = self._start(command, variables)
        path = self._sockets.get(kind)
        if path is None:
            return list(program)
        return ["-I", "-S", str(environment.PROGRAMS / "forked.py"), str(path), *program]

    def learn(self, modules: Sequence[str]) -> None:
        """Take what a run imported; it is kept for the next plan, too."""
        if not modules or self._modules:
            return
        self._modules = list(modules)
        if self._kept is not None:
            part = self._kept.with_suffix(".part")
            part.write_text(json.dumps(self._modules), encoding="utf-8")
            part.replace(self._kept)

    def _start(
        self, command: Callable[[Sequence[str]], Sequence[str]], variables: Mapping[str, str]
    ) -> Path | None:
        """The socket of a server that has started; None where it does not."""
        self._progress("importing once for all runs")
        folder = self._folder / f"server-{len(self._sockets)}"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        # A socket's path must be short.
        place = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="npu-forks-")))
        path, job, log = place / "socket", folder / "job.json", folder / "log"
        content = {
            "modules": self._modules,
            "shared": SHARED,
            "marks": (MARK, MACHINE),
            "socket": str(path),
        }
        job.write_text(json.dumps(content), encoding="utf-8")
        program = [str(environment.PROGRAMS / "fork_server.py"), str(job)]
        settings = {**variables, RECORD: str(folder), **ROOM}
        server = process.Program(command(program), settings, folder, log)
        self._stack.enter_context(server)
        owner = socket.socket(socket.AF_UNIX)
        deadline = time.monotonic() + self._timeout
        while server.poll() is None and time.monotonic() < deadline:
            try:
                owner.connect(str(path))
            except OSError:
                time.sleep(0.05)
                continue
            # Entered last, it is closed first: then the server ends by itself.
            self._stack.callback(server.wait, process.GRACE)
            self._stack.callback(owner.close)
            return path
        owner.close()
        server.end()
        said = process.tail(log, 1) or ["nothing was said"]
        self._progress(f"each run imports for itself: {said[0]}")
        if self._kept is not None:
            # What a run imports now may be something else.
            self._kept.unlink(missing_ok=True)
        return None


def list_of(folder: Path, *about: str) -> Path:
    """The file below a folder where the modules are kept that runs of such a release import."""
    key = hashlib.sha256(json.dumps(about).encode()).hexdigest()[:16]
    place = folder / ".modules"
    place.mkdir(mode=0o700, parents=True, exist_ok=True)
    return place / f"{key}.json"


def _read(kept: Path | None) -> list[str]:
    try:
        found = json.loads(kept.read_bytes()) if kept is not None else []
    except (OSError, ValueError):
        return []
    return [name for name in found if isinstance(name, str)] if isinstance(found, list) else []


def kind_of(variables: Mapping[str, str], *about: object) -> str:
    """The kind of a run, by its environment and what else it is told of the machine."""
    own = {name: value for name, value in variables.items() if name not in SHARED}
    return json.dumps([own, *map(str, about)], sort_keys=True)
