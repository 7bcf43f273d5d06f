# SPDX-License-Identifier: Apache-2.0
"""A simulated process with torch and torch_npu imported, forked for each program that comes.

Importing the two takes longer than most programs of the tests. Run as `ready.py serve SOCKET`, it
imports them, says so, and waits. Run as `ready.py run SOCKET PROGRAM`, where PROGRAM is a file or
`-c SOURCE` with its arguments, it has the program run in a fork of that process, with this
process's streams, directory and environment, and ends as the program does: by its exit code or its
signal. A program whose caller is killed dies as well.
"""

from __future__ import annotations

import array
import contextlib
import fcntl
import json
import os
import runpy
import select
import signal
import socket
import sys
from pathlib import Path
from typing import Any

STREAMS = (0, 1, 2)
MACHINE = "ASCEND_SIM_MACHINE"


def serve(place: str) -> None:
    """Import torch and torch_npu and fork for each caller, until stdin is closed."""
    import torch  # noqa: F401
    import torch_npu  # noqa: F401
    from torch import testing  # noqa: F401

    # What has threads cannot be forked.
    assert len(os.listdir("/proc/self/task")) == 1, os.listdir("/proc/self/task")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(place)
        listening.listen(64)
        print("ready", flush=True)
        while listening in select.select([listening, sys.stdin], [], [])[0]:
            caller, _ = listening.accept()
            with contextlib.suppress(ChildProcessError):
                while os.waitpid(-1, os.WNOHANG)[0]:
                    pass
            if os.fork() == 0:
                listening.close()
                break
            caller.close()
        else:
            return
    program(caller)


def program(caller: socket.socket) -> None:
    """Fork once more for the program, and tell the caller how it ended."""
    asked, descriptors = received(caller)
    pid = os.fork()
    if pid:
        _, status = os.waitpid(pid, 0)
        with contextlib.suppress(BrokenPipeError):  # it was killed, and the program with it
            caller.sendall(json.dumps(os.waitstatus_to_exitcode(status)).encode())
        os._exit(0)
    for stream, descriptor in zip(STREAMS, descriptors, strict=True):
        os.dup2(descriptor, stream)
        os.close(descriptor)
    # Where the caller dies, its end of the connection is closed, and SIGIO ends this process.
    fcntl.fcntl(caller, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(caller, fcntl.F_SETFL, fcntl.fcntl(caller, fcntl.F_GETFL) | os.O_ASYNC)
    caller.detach()
    os.chdir(asked["directory"])
    # What the simulator has set stays, and so does the machine, which the import has read.
    os.environ.update({**asked["environment"], MACHINE: os.environ[MACHINE]})
    if asked["program"][0] == "-c":
        sys.argv = ["-c", *asked["program"][2:]]
        sys.path[0] = ""
        main = type(sys)("__main__")
        sys.modules["__main__"] = main
        exec(compile(asked["program"][1], "<string>", "exec"), vars(main))
        return
    sys.argv = asked["program"]
    sys.path[0] = str(Path(sys.argv[0]).parent)
    runpy.run_path(sys.argv[0], run_name="__main__")


def received(caller: socket.socket) -> tuple[dict[str, Any], list[int]]:
    """What a caller asks, and its streams."""
    descriptors = array.array("i")
    data, more, _, _ = caller.recvmsg(16, socket.CMSG_SPACE(len(STREAMS) * descriptors.itemsize))
    for _, _, given in more:
        descriptors.frombytes(given)
    size = int(data)
    text = b""
    while len(text) < size:
        text += caller.recv(size - len(text))
    return json.loads(text), list(descriptors)


def run(place: str, program: list[str]) -> int:
    """Have a program run, and its exit code; its signal ends this process."""
    asked = {"program": program, "directory": os.getcwd(), "environment": dict(os.environ)}
    text = json.dumps(asked).encode()
    with socket.socket(socket.AF_UNIX) as server:
        server.connect(place)
        streams = array.array("i", STREAMS)
        rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, streams)
        server.sendmsg([b"%16d" % len(text)], [rights])
        server.sendall(text)
        code: int = json.loads(server.recv(100))
    if code < 0:
        if -code != signal.SIGKILL:
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    return code


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        serve(sys.argv[2])
    else:
        sys.exit(run(sys.argv[2], sys.argv[3:]))
