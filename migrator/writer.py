# SPDX-License-Identifier: Apache-2.0
"""The one module that writes files.

A new tree is staged beside its target and put in place by one rename. A tree that is changed in
place is changed through a journal: everything is staged first, one rename of the journal decides,
and what a crash leaves half done is finished or thrown away by the next run. Signals wait while
files are moved.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
import shutil
import signal
import tarfile
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import FrameType

import msgspec

from migrator.errors import MigrateError
from migrator.plan import FileChange
from migrator.tree import DiskTree

JOURNAL = ".vllm-npu-migrate"
"""Directory in a tree that holds the staged files and the journal while they are put in place."""


class Step(msgspec.Struct, frozen=True):
    """One file to put in place: its path in the tree and the name of its staged copy."""

    path: str
    staged: str


class Journal(msgspec.Struct, frozen=True):
    """The decision to put staged files in place; once it is on disk, it is carried out."""

    steps: tuple[Step, ...]


@contextlib.contextmanager
def deferred_signals() -> Iterator[None]:
    """Let SIGINT and SIGTERM wait until the block is over.

    Outside of the main thread, where Python runs no signal handlers, this does nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    waiting: list[int] = []

    def wait(number: int, _: FrameType | None) -> None:
        waiting.append(number)

    old = {number: signal.signal(number, wait) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for signum, handler in old.items():
            signal.signal(signum, handler)
        if waiting:
            signal.raise_signal(waiting[0])


@contextlib.contextmanager
def sigterm_interrupts() -> Iterator[None]:
    """Let SIGTERM end the block as SIGINT does, so that what was staged is removed."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(_: int, __: FrameType | None) -> None:
        raise KeyboardInterrupt

    old = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, old)


def _explain(error: OSError, target: Path) -> MigrateError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return MigrateError(
            f"the disk of {target.parent} is full; nothing was written, make room and run it again"
        )
    return MigrateError(f"cannot write {error.filename or target}: {error.strerror or error}")


@sigterm_interrupts()
def write_tree(
    source: DiskTree,
    changes: Sequence[FileChange],
    target: Path,
    *,
    replace: bool = False,
    progress: Callable[[int], None] | None = None,
) -> None:
    """Write a copy of `source` with `changes` to `target`, in one step.

    The copy is staged in a hidden directory beside `target` and renamed. Modes are kept, links are
    copied as links, and version control is left out.

    Args:
        source: the tree.
        changes: files to add or to write instead of the source's.
        target: directory that gets the tree.
        replace: `target` exists and its place is to be taken.
        progress: called with the number of files written so far.

    Raises:
        MigrateError: `target` is there and `replace` was not asked for, or it cannot be written;
            nothing is left behind then.
    """
    parent = target.parent
    if not parent.is_dir():
        raise MigrateError(f"there is no directory {parent} to put {target.name} in")
    if os.path.lexists(target) and not replace:
        raise MigrateError(f"{target} exists already")
    stage: Path | None = None
    try:
        with deferred_signals():
            stage = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=parent))
        root = stage / "tree"
        _copy(source, {c.path: c for c in changes}, root, progress)
        _put(root, target, stage / "old")
    except OSError as error:
        raise _explain(error, target) from error
    finally:
        if stage is not None:
            shutil.rmtree(stage, ignore_errors=True)


def _copy(
    source: DiskTree,
    changes: dict[str, FileChange],
    root: Path,
    progress: Callable[[int], None] | None,
) -> None:
    root.mkdir()
    shutil.copymode(source.root, root)
    made: set[str] = {""}

    def parent_of(path: str) -> None:
        above = path.rpartition("/")[0]
        if above not in made:
            parent_of(above)
            place = root / above
            place.mkdir()
            original = source.root / above
            if original.is_dir():
                shutil.copymode(original, place)
            place.chmod(place.stat().st_mode | 0o700)
            made.add(above)

    left = dict(changes)
    for done, entry in enumerate(source.entries(), start=1):
        parent_of(entry.path)
        place = root / entry.path
        change = left.pop(entry.path, None)
        if change is not None:
            place.write_bytes(change.after)
            place.chmod(entry.mode if entry.link is None else change.mode)
        elif entry.link is not None:
            place.symlink_to(entry.link)
        else:
            shutil.copyfile(source.root / entry.path, place, follow_symlinks=False)
            place.chmod(entry.mode)
        if progress is not None:
            progress(done)
    for path in sorted(left):
        parent_of(path)
        (root / path).write_bytes(left[path].after)
        (root / path).chmod(left[path].mode)


def _put(root: Path, target: Path, aside: Path) -> None:
    """Rename `root` to `target`; a tree that is there goes to `aside`, in the same instant."""
    with deferred_signals():
        if not os.path.lexists(target):
            root.rename(target)
        elif _exchange(root, target):
            root.rename(aside)
        else:
            target.rename(aside)
            try:
                root.rename(target)
            except OSError:
                aside.rename(target)
                raise


def _exchange(one: Path, other: Path) -> bool:
    """Swap two paths atomically (Linux's renameat2); False where the system cannot."""
    try:
        renameat2 = ctypes.CDLL(None, use_errno=True).renameat2
    except (OSError, AttributeError):
        return False
    at_fdcwd, rename_exchange = -100, 2
    result: int = renameat2(
        at_fdcwd, os.fsencode(one), at_fdcwd, os.fsencode(other), rename_exchange
    )
    return result == 0


@contextlib.contextmanager
def locked(root: Path) -> Iterator[None]:
    """Keep a tree for this process, so that no other one changes it in place meanwhile.

    The system lets the lock go with the process, should it be killed.

    Raises:
        MigrateError: another process has the tree.
    """
    held = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    try:
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise MigrateError(f"another run is changing {root}; wait for it to end") from error
        yield
    finally:
        os.close(held)


def recover(root: Path) -> bool:
    """Finish or throw away what an interrupted run left in a tree.

    With a journal on disk the run had decided: its remaining files are put in place. Without one
    the tree is as it was, and what was staged is removed.

    Returns:
        True where files were put in place.
    """
    stage = root / JOURNAL
    if stage.is_symlink() or not stage.is_dir():
        return False
    journal = stage / "journal.json"
    decided = journal.is_file()
    if decided:
        try:
            steps = msgspec.json.decode(journal.read_bytes(), type=Journal).steps
        except msgspec.MsgspecError as error:
            raise MigrateError(
                f"{journal} is damaged; restore the tree from git and remove {stage}"
            ) from error
        _carry_out(root, stage, steps)
    shutil.rmtree(stage)
    return decided


def _carry_out(root: Path, stage: Path, steps: Sequence[Step]) -> None:
    for step in steps:
        staged = stage / step.staged
        if staged.exists():
            place = _safe_place(root, step.path)
            place.parent.mkdir(parents=True, exist_ok=True)
            os.replace(staged, place)


def _safe_place(root: Path, path: str) -> Path:
    """Where `path` is in the tree, refusing to go through a link or out of it."""
    place = root
    for part in path.split("/"):
        place = place / part
        if part in ("", ".", "..") or (place.is_symlink()):
            raise MigrateError(f"{path} leads out of the tree through a link; nothing was written")
    return place


@sigterm_interrupts()
def change_in_place(root: Path, changes: Sequence[FileChange]) -> None:
    """Write `changes` into the tree at `root`: all of them, or after a crash all or none.

    Raises:
        MigrateError: a file cannot be staged; the tree is as it was then.
    """
    stage = root / JOURNAL
    journal = stage / "journal.json"
    try:
        stage.mkdir()
    except FileExistsError as error:
        raise MigrateError(
            f"{stage} is there: another run is at work on this tree, or one was killed; "
            "where none runs, remove it"
        ) from error
    except OSError as error:
        raise _explain(error, root) from error
    try:
        steps = _stage(root, stage, changes)
        with deferred_signals():
            draft = stage / "journal.draft"
            _write_through(draft, msgspec.json.encode(Journal(steps)))
            os.replace(draft, journal)
            _carry_out(root, stage, steps)
            shutil.rmtree(stage)
    except OSError as error:
        if journal.exists():
            raise MigrateError(
                f"cannot put {error.filename or root} in place: {error.strerror or error}; part of "
                "the files are; when that is mended, run it again to put the others in place"
            ) from error
        raise _explain(error, root) from error
    finally:
        if not journal.exists():
            shutil.rmtree(stage, ignore_errors=True)


def _stage(root: Path, stage: Path, changes: Sequence[FileChange]) -> tuple[Step, ...]:
    steps = []
    for number, change in enumerate(changes):
        place = _safe_place(root, change.path)
        staged = stage / f"{number}.new"
        _write_through(staged, change.after)
        if place.exists():
            shutil.copymode(place, staged)
        else:
            staged.chmod(change.mode)
        steps.append(Step(change.path, staged.name))
    return tuple(steps)


def _write_through(path: Path, data: bytes) -> None:
    """Write a file and wait until the disk has it."""
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def unpack(archive: Path, target: Path) -> None:
    """Unpack the one directory of a source archive as `target`, in one step.

    Nothing of the archive is run, and members that would leave it are refused.

    Raises:
        MigrateError: the archive is damaged or has more than one directory at its top.
    """
    if target.is_dir():
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    stage = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    try:
        with tarfile.open(archive) as tar:
            tar.extractall(stage / "x", filter="data")
        tops = list((stage / "x").iterdir())
        if len(tops) != 1 or not tops[0].is_dir():
            raise MigrateError(f"{archive.name} is not a source archive: it has no single folder")
        with contextlib.suppress(FileExistsError):
            tops[0].rename(target)
    except (tarfile.TarError, EOFError) as error:
        raise MigrateError(f"{archive} is damaged ({error}); remove it and try again") from error
    except OSError as error:
        if not target.is_dir():
            raise _explain(error, target) from error
    finally:
        shutil.rmtree(stage, ignore_errors=True)
