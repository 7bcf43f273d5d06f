# SPDX-License-Identifier: Apache-2.0
"""Has a program run by a fork of `fork_server.py`, and ends as it does.

    python -I -S forked.py SOCKET PROGRAM.py ARGUMENT...

The program gets this process's folder, standard streams and environment, and the signals that come
here. Where there is no such server, or it refuses, this process becomes the program itself.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
from types import FrameType
from typing import Any, NoReturn

FORWARDED = ("SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2", "SIGINT", "SIGQUIT")


def ask(server: socket.socket, program: list[str]) -> dict[str, Any]:
    """What the server says to a program and its arguments."""
    with open("/proc/self/environ", "rb") as file:
        lines = os.fsdecode(file.read()).split("\0")
    # As they were given: Python adds LC_CTYPE by itself.
    variables = dict(line.split("=", 1) for line in lines if "=" in line)
    asked = {"arguments": program, "folder": os.getcwd(), "environment": variables}
    text = json.dumps(asked).encode() + b"\n"
    sent = socket.send_fds(server, [text], [0, 1, 2])
    server.sendall(text[sent:])
    return said(server)


def said(server: socket.socket) -> dict[str, Any]:
    """The next line of the server; nothing if it is gone."""
    text = b""
    while not text.endswith(b"\n"):
        more = server.recv(1 << 16)
        if not more:
            return {}
        text += more
    found: dict[str, Any] = json.loads(text)
    return found


def end(status: int) -> NoReturn:
    """End as a process of this wait status did."""
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [number])
        os.kill(os.getpid(), number)
    os._exit(os.waitstatus_to_exitcode(status) if os.WIFEXITED(status) else 1)


def main(path: str, program: list[str]) -> None:
    """Have the program run."""
    numbers = [getattr(signal, name) for name in FORWARDED]
    signal.pthread_sigmask(signal.SIG_BLOCK, numbers)
    try:
        server = socket.socket(socket.AF_UNIX)
        server.connect(path)
        answer = ask(server, program)
    except OSError:
        answer = {}
    pid = answer.get("pid")
    if pid is None:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, numbers)
        os.execv(sys.executable, [sys.executable, *program])

    def forward(number: int, _frame: FrameType | None) -> None:
        os.kill(pid, number)

    for number in numbers:
        signal.signal(number, forward)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, numbers)
    ended = said(server)
    if "status" not in ended:
        sys.exit("the server that forked this program is gone")
    end(ended["status"])


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
