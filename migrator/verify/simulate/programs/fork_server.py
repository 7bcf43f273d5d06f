# SPDX-License-Identifier: Apache-2.0
"""Imports once what engines need, and forks a process for each of them.

    python fork_server.py JOB.json

The job has `modules`, names in the order in which a run imported them; `shared`, variables that may
differ from run to run; `socket`, the path to listen at. Variables that are shared are taken out of
the environment before anything is imported. Whatever would make a fork differ from a process of its
own ends this one with the reason, before it listens: a module that asks for a variable that is
shared, that does not import, that starts a thread or a process, or that opens a device.

The first who connects is the owner: when it is gone, this process ends. All others are
`forked.py`, which tell what is to be run. It is refused where any other variable differs. A forked
process is in a session of its own and has what it is known by, the variables in `marks`, where
/proc shows them, as if it had been started with them.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import importlib
import json
import os
import selectors
import signal
import socket
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

ROOM = "NPU_MIGRATE_ROOM"
"""Variable that this process is started with: its place is for the marks of forked processes."""


class UnsafeError(Exception):
    """A fork of this process would not be what a process of its own is."""


def load(modules: list[str], shared: list[str]) -> None:
    """Import the modules, as far as they are there.

    Raises:
        UnsafeError: one of them does something that forks would have to do for themselves.
    """
    asked: list[str] = []
    names = frozenset(shared)
    kind: Any = type(os.environ)
    original = kind.__getitem__

    def noting(self: Any, name: str) -> str:
        if name in names:
            asked.append(name)
        value: str = original(self, name)
        return value

    kind.__getitem__ = noting
    # Nothing of what is imported goes away, so there is nothing to look for.
    gc.disable()
    try:
        for name in modules:
            try:
                importlib.import_module(name)
            except ModuleNotFoundError as error:
                if error.name is None or not f"{name}.".startswith(f"{error.name}."):
                    raise UnsafeError(f"{name} does not import: {error}") from error
            except Exception as error:
                raise UnsafeError(
                    f"{name} does not import: {type(error).__name__}: {error}"
                ) from error
            if asked:
                raise UnsafeError(f"{name} asks for {asked[0]} when it is imported")
    finally:
        kind.__getitem__ = original
        gc.enable()
    if len(os.listdir("/proc/self/task")) > 1:
        raise UnsafeError("what is imported starts a thread")
    if Path("/proc/self/task", str(os.getpid()), "children").read_bytes().strip():
        raise UnsafeError("what is imported starts a process")
    torch_npu = sys.modules.get("torch_npu")
    if torch_npu is not None and torch_npu.npu.is_initialized():
        raise UnsafeError("what is imported opens a device")


def started_with() -> dict[str, str]:
    """The variables that this process was started with, before any Python changed them."""
    text = os.fsdecode(Path("/proc/self/environ").read_bytes())
    return dict(line.split("=", 1) for line in text.split("\0") if "=" in line)


def room() -> tuple[int, int]:
    """Address and bytes of the room for marks, in what /proc shows of the environment."""
    getenv = ctypes.CDLL(None).getenv
    getenv.restype = ctypes.c_void_p
    place, size = getenv(ROOM.encode()), len(os.environ.pop(ROOM, ""))
    if not place:
        raise UnsafeError(f"{ROOM} is not in the environment")
    return place, size


class Server:
    """Forks a process for each that asks for one. `serve` returns in forked processes only."""

    def __init__(
        self, job: dict[str, Any], environment: dict[str, str], place: tuple[int, int]
    ) -> None:
        self._shared = frozenset(job["shared"])
        self._marks: list[str] = job["marks"]
        self._room = place
        self._environment = self._private(environment)
        self._selector = selectors.DefaultSelector()
        self._listening = socket.socket(socket.AF_UNIX)
        self._listening.bind(job["socket"])
        self._listening.listen()
        self._owner: socket.socket | None = None
        self._pids: dict[socket.socket, tuple[int, int]] = {}
        self._selector.register(self._listening, selectors.EVENT_READ, self._accept)

    def _private(self, environment: dict[str, str]) -> dict[str, str]:
        return {k: v for k, v in environment.items() if k not in self._shared and k != ROOM}

    def serve(self) -> dict[str, Any]:
        """What a forked process has to run. This process itself ends with its owner."""
        while True:
            for key, _ in self._selector.select():
                asked: dict[str, Any] | None = key.data(key.fileobj)
                if asked is not None:
                    return asked

    def _accept(self, _: Any) -> None:
        connection, _address = self._listening.accept()
        if self._owner is None:
            self._owner = connection
            self._selector.register(connection, selectors.EVENT_READ, self._end)
        else:
            self._selector.register(connection, selectors.EVENT_READ, self._ask)

    def _end(self, _: Any) -> None:
        for pid, _pidfd in self._pids.values():
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        # Nothing was done here that has to be undone.
        os._exit(0)

    def _ask(self, connection: Any) -> dict[str, Any] | None:
        """Fork what a client asks for; what that is, in the forked process."""
        self._selector.unregister(connection)
        text, files, _, _ = socket.recv_fds(connection, 1 << 20, 3)
        while text and not text.endswith(b"\n"):
            text += connection.recv(1 << 20)
        if not text:
            connection.close()
            return None
        asked: dict[str, Any] = json.loads(text)
        theirs = self._private(asked["environment"])
        differing = sorted(
            name
            for name in theirs.keys() | self._environment.keys()
            if theirs.get(name) != self._environment.get(name)
        )
        answer: dict[str, Any] = {"differing": differing}
        pid = -1
        if not differing:
            pid = os.fork()
            if pid == 0:
                self._become(asked, files)
                return asked
            answer = {"pid": pid}
        for file in files:
            os.close(file)
        connection.sendall(json.dumps(answer).encode() + b"\n")
        if pid > 0:
            pidfd = os.pidfd_open(pid)
            self._pids[connection] = pid, pidfd
            self._selector.register(pidfd, selectors.EVENT_READ, lambda _: self._ended(connection))
            self._selector.register(connection, selectors.EVENT_READ, self._left)
        else:
            connection.close()
        return None

    def _ended(self, connection: socket.socket) -> None:
        """Tell how a forked process ended."""
        pid, pidfd = self._pids.pop(connection)
        self._selector.unregister(pidfd)
        os.close(pidfd)
        _, status = os.waitpid(pid, 0)
        self._selector.unregister(connection)
        with contextlib.suppress(OSError):
            connection.sendall(json.dumps({"status": status}).encode() + b"\n")
        connection.close()

    def _left(self, connection: Any) -> None:
        """A client is gone before what it asked for: that ends, too."""
        os.kill(self._pids[connection][0], signal.SIGKILL)
        self._ended(connection)

    def _become(self, asked: dict[str, Any], files: list[int]) -> None:
        """Make this process, which was just forked, what it would be if it had been started."""
        for connection, (_, pidfd) in self._pids.items():
            connection.close()
            os.close(pidfd)
        self._selector.close()
        self._listening.close()
        assert self._owner is not None
        self._owner.close()
        os.setsid()
        for number, file in enumerate(files):
            os.dup2(file, number)
            os.close(file)
        os.chdir(asked["folder"])
        for name, value in asked["environment"].items():
            if name in self._shared:
                os.environ[name] = value
        simulator = sys.modules.get("ascend_sim._boot")
        if simulator is not None:
            simulator.configure_again()
        marks = [f"{name}={os.environ[name]}" for name in self._marks if name in os.environ]
        written = b"\0" + b"\0".join(mark.encode() for mark in marks) + b"\0"
        place, size = self._room
        if len(written) > size:
            raise UnsafeError("there is no room for what the process is known by")
        ctypes.memmove(place, written.ljust(size, b"\0"), size)


def start(job: dict[str, Any]) -> dict[str, Any]:
    """Import, then fork; returns in forked processes, with what they are to run."""
    try:
        environment, place = started_with(), room()
        for name in job["shared"]:
            os.environ.pop(name, None)
        load(job["modules"], job["shared"])
        server = Server(job, environment, place)
    except UnsafeError as error:
        sys.exit(f"not forked: {error}")
    gc.collect()
    # What forked processes share is not looked through, nor copied for that.
    gc.freeze()
    return server.serve()


if __name__ == "__main__":
    sys.argv = start(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")))["arguments"]
    sys.path[0] = str(Path(sys.argv[0]).resolve().parent)
    program = ModuleType("__main__")
    program.__file__ = sys.argv[0]
    sys.modules["__main__"] = program
    exec(compile(Path(sys.argv[0]).read_bytes(), sys.argv[0], "exec"), program.__dict__)
