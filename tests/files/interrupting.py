# SPDX-License-Identifier: Apache-2.0
"""Interrupts the writer at every step, and prints what each interrupt left behind.

Run as `interrupting.py WORK HOW SIGNAL STEP [AT]`. HOW is one of HOWS. Each trial is a forked child
that gets the signal at its n-th point, n growing by STEP. AT says what a point is: `line` is a line
of the writer before it runs, `call` a system call that may change files, stopped by ptrace before
the kernel carries it out. Printed is a JSON list of trials: how the child ended, and what was found
after it and after the next run.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import io
import json
import os
import platform
import shutil
import signal
import struct
import sys
import tarfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

from migrator.files import writer
from migrator.files.changes import Change, Placed, Removal
from migrator.files.tree import DiskTree

HOWS = ("new", "replace", "aside", "in_place", "recover", "unpack")
"""A new tree; one that takes the place of another; the same where the system cannot swap names;
changes in place; what the next run does with a journal; an archive."""
OLD: dict[str, bytes | str] = {
    "vllm/a.py": b"old a\n",
    "vllm/sub/b.py": b"old b\n",
    "README.md": b"kept\n",
    "vllm/gone.py": b"gone\n",
    "vllm/thin/gone.py": b"gone\n",
    "vllm/caf\udce9.py": b"old\n",
    "vllm/link": "a.py",
    "vllm/wide/x.py": b"a file comes here\n",
}
"""Path → bytes, or the target of a link."""
NEW: dict[str, bytes | str] = {
    "vllm/a.py": b"new a\n",
    "vllm/sub/b.py": b"new b\n",
    "README.md": b"kept\n",
    "vllm/added/c.py": b"new c\n",
    "vllm/caf\udce9.py": b"new\n",
    "vllm/link": "sub/b.py",
    "vllm/wide": b"in place of a directory\n",
}


class Rewritten(NamedTuple):
    """What the writer asks of a plan's FileChange: the planner itself would make each fork dear."""

    path: str
    before: bytes | None
    after: bytes
    mode: int = 0o644


def _changes() -> list[Change]:
    found: list[Change] = [Removal(p) for p in sorted(OLD.keys() - NEW.keys())]
    for path, data in sorted(NEW.items()):
        before = OLD.get(path)
        if data == before:
            continue
        if isinstance(data, str):
            found.append(Placed(path, data.encode(), link=True))
        elif path == "vllm/wide":
            found.append(Placed(path, data))
        else:
            assert not isinstance(before, str)
            found.append(Rewritten(path, before, data))  # type: ignore[arg-type]
    return found


CHANGES = _changes()

_CALLS = {
    "x86_64": "1 write 2 open 3 close 18 pwrite64 20 writev 40 sendfile 73 flock 74 fsync "
    "75 fdatasync 76 truncate 77 ftruncate 82 rename 83 mkdir 84 rmdir 85 creat 86 link 87 unlink "
    "88 symlink 90 chmod 91 fchmod 257 openat 258 mkdirat 263 unlinkat 264 renameat 265 linkat "
    "266 symlinkat 268 fchmodat 280 utimensat 316 renameat2 326 copy_file_range 452 fchmodat2",
    "aarch64": "32 flock 34 mkdirat 35 unlinkat 36 symlinkat 37 linkat 38 renameat 45 truncate "
    "46 ftruncate 52 fchmod 53 fchmodat 56 openat 57 close 64 write 66 writev 68 pwrite64 "
    "71 sendfile 82 fsync 83 fdatasync 88 utimensat 276 renameat2 285 copy_file_range "
    "452 fchmodat2",
}
CALLS = {
    int(number): name
    for number, name in zip(*[iter(_CALLS.get(platform.machine(), "").split())] * 2, strict=True)
}
"""The system calls by which files and locks are made, changed and let go; empty: not known."""


def write(root: Path, files: Mapping[str, bytes | str]) -> None:
    for path, data in files.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        if isinstance(data, str):
            (root / path).symlink_to(data)
        else:
            (root / path).write_bytes(data)


def state(root: Path) -> str:
    """`old`, `new`, `absent` or `mixed`, whatever the writer's own directory holds."""
    if not root.exists():
        return "absent"
    tree = DiskTree(root)
    files = {entry.path: entry.link or tree.read(entry.path) for entry in tree.entries()}
    return "old" if files == OLD else "new" if files == NEW else "mixed"


# ---- points at which to interrupt ------------------------------------------------------------


def tracer(point: int, number: int) -> tuple[Callable[..., Any], list[bool]]:
    fired = [False]
    count = 0

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        nonlocal count
        if frame.f_code.co_filename != writer.__file__:
            return None
        if event == "line":
            count += 1
            if count == point:
                fired[0] = True
                os.kill(os.getpid(), number)
        return trace

    return trace, fired


def at_line(work: Callable[[], None], point: int, number: int) -> tuple[int, str]:
    pid = os.fork()
    if pid == 0:
        trace, fired = tracer(point, number)
        code = 99
        try:
            sys.settrace(trace)
            work()
            sys.settrace(None)
            code = 1 if fired[0] else 0
        except KeyboardInterrupt:
            code = 130
        finally:
            os._exit(code)
    _, status = os.waitpid(pid, 0)
    return os.waitstatus_to_exitcode(status), ""


_TRACEME, _CONT, _SYSCALL, _SETOPTIONS, _GET_SYSCALL_INFO = 0, 7, 24, 0x4200, 0x420E
_TRACESYSGOOD, _EXITKILL = 1, 1 << 20
_libc = ctypes.CDLL(None, use_errno=True)
_libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
_libc.ptrace.restype = ctypes.c_long


def ptrace(request: int, pid: int, address: int = 0, data: int = 0) -> None:
    if _libc.ptrace(request, pid, address, data) < 0:
        raise OSError(ctypes.get_errno(), "ptrace")


def at_call(work: Callable[[], None], point: int, number: int) -> tuple[int, str]:
    """How the child ended, and before which system call the signal came; none: it came too late."""
    pid = os.fork()
    if pid == 0:
        code = 99
        try:
            ptrace(_TRACEME, 0)
            os.kill(os.getpid(), signal.SIGSTOP)
            work()
            code = 0
        except KeyboardInterrupt:
            code = 130
        finally:
            os._exit(code)
    _, status = os.waitpid(pid, 0)
    ptrace(_SETOPTIONS, pid, 0, _TRACESYSGOOD | _EXITKILL)
    count = 0
    info = ctypes.create_string_buffer(88)
    ptrace(_SYSCALL, pid)
    while True:
        _, status = os.waitpid(pid, 0)
        if not os.WIFSTOPPED(status):
            return os.waitstatus_to_exitcode(status), ""
        if os.WSTOPSIG(status) == signal.SIGTRAP | 0x80:
            ptrace(_GET_SYSCALL_INFO, pid, len(info), ctypes.addressof(info))
            entering = info.raw[0] == 1
            name = CALLS.get(struct.unpack_from("<Q", info.raw, 24)[0]) if entering else None
            count += name is not None
            if name is not None and count == point:
                os.kill(pid, number)
                return _rest(pid), name
            ptrace(_SYSCALL, pid)
        else:
            ptrace(_SYSCALL, pid, 0, os.WSTOPSIG(status))


def _rest(pid: int) -> int:
    """Let a child go on, with the signals it got, and return how it ended."""
    with contextlib.suppress(OSError):  # SIGKILL was quicker
        ptrace(_CONT, pid)
    while True:
        _, status = os.waitpid(pid, 0)
        if not os.WIFSTOPPED(status):
            return os.waitstatus_to_exitcode(status) or 1
        with contextlib.suppress(OSError):
            ptrace(_CONT, pid, 0, os.WSTOPSIG(status))


# ---- trials ----------------------------------------------------------------------------------


def archive(path: Path) -> None:
    with tarfile.open(path, "w") as tar:
        for name, data in NEW.items():
            member = tarfile.TarInfo(f"top/{name}")
            if isinstance(data, str):
                member.type, member.linkname = tarfile.SYMTYPE, data
                tar.addfile(member)
            else:
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))


def writing(here: Path, how: str) -> tuple[Path, Callable[[], None]]:
    """Prepare a trial: the tree that is written, and what writes it (a second time, too)."""
    source, target = here / "tree", here / "out"
    write(source, OLD)
    if how in ("replace", "aside"):
        write(target, OLD)
    if how == "unpack":
        archive(here / "archive.tar")
        return target, lambda: writer.unpack(here / "archive.tar", target)
    if how in ("in_place", "recover"):

        def in_place() -> None:
            writer.recover(source)
            if state(source) != "new":
                writer.change_in_place(source, CHANGES)

        return source, in_place

    def new_tree() -> None:
        if how == "aside":
            writer._exchange = lambda one, other: False
        writer.write_tree(DiskTree(source), CHANGES, target, replace=target.exists())

    return target, new_tree


def decide(root: Path) -> None:
    """Leave a tree as a kill leaves it right after the journal was put on the disk."""
    pid = os.fork()
    if pid == 0:
        writer._carry_out = lambda *_: os._exit(0)
        writer.change_in_place(root, CHANGES)
    os.waitpid(pid, 0)


def trial(here: Path, how: str, at: str, point: int, number: int) -> dict[str, Any]:
    shutil.rmtree(here, ignore_errors=True)
    here.mkdir()
    written, work = writing(here, how)
    if how == "recover":
        decide(written)
    ended, call = (at_call if at == "call" else at_line)(work, point, number)
    found: dict[str, Any] = {"ended": ended, "call": call}
    found["state"] = state(written)
    found["aside"] = (writer._stage_of(here / "out") / writer.ASIDE).exists()
    found["decided"] = (written / writer.JOURNAL / "journal.json").exists()
    found["left"] = left(here)
    work()
    found["again"] = state(written)
    found["left_again"] = left(here)
    found["source"] = state(here / "tree")
    return found


def left(here: Path) -> list[str]:
    """Whatever the writer keeps for itself, beside a target or in a tree."""
    beside = [p.name for p in here.iterdir() if p.name.startswith(".")]
    return sorted(beside) + [writer.JOURNAL] * (here / "tree" / writer.JOURNAL).exists()


def trials(here: Path, how: str, name: str, step: int, at: str) -> Iterator[dict[str, Any]]:
    """One trial after the other, up to and with the first that runs to its end undisturbed."""
    point = 1
    while True:
        found = trial(here, how, at, point, int(signal.Signals[name]))
        yield found
        if found["ended"] in (0, 99):
            return
        point += step


def main() -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
    gc.freeze()  # children share what is there instead of copying it when they count references
    here, how, name, step = Path(sys.argv[1]), sys.argv[2], sys.argv[3], int(sys.argv[4])
    at = sys.argv[5] if len(sys.argv) > 5 else "line"
    if at == "line":
        os.fsync = lambda fd: None  # waiting for the disk takes most of the time
    found = list(trials(here, how, name, step, at))
    with contextlib.suppress(FileNotFoundError):
        shutil.rmtree(here)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
