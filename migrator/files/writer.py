# SPDX-License-Identifier: Apache-2.0
"""The one module that writes files.

A new tree is staged beside its target and put in place by one rename. A tree that is changed in
place is changed through a journal: everything is staged first, one rename of the journal decides,
and what a crash leaves half done is finished or thrown away by the next run. Signals wait while
files are moved. Both ways a lock that goes with its process keeps a second run off.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
import re
import shutil
import signal
import threading
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from types import FrameType
from urllib.parse import quote, unquote

import msgspec

from migrator.files.archive import ArchiveError, Member, read_members
from migrator.files.changes import Change, Placed, Removal
from migrator.files.tree import DiskTree
from migrator.messages.errors import MigrateError, UnfinishedError

JOURNAL = ".vllm-npu-migrate"
"""Directory in a tree that holds the staged files and the journal while they are put in place."""

STAGE = ".vllm-npu-migrate"
"""End of the name of the hidden directory beside a target in which it is staged."""
ASIDE = "old"
"""Name in there of the tree whose place is taken, where the system cannot swap two names."""


class Step(msgspec.Struct, frozen=True):
    """One file to put in place: its path in the tree and the name of its staged copy.

    Without a staged copy the file is removed.
    """

    path: str
    """Percent-encoded where it is not plain ASCII: a name need not be UTF-8."""
    staged: str | None

    @property
    def place(self) -> str:
        """The path as the system has it."""
        return unquote(self.path, errors="surrogateescape")


def _step(path: str, staged: str | None) -> Step:
    return Step(quote(path, errors="surrogateescape"), staged)


class Journal(msgspec.Struct, frozen=True):
    """The decision to put staged files in place; once it is on disk, it is carried out."""

    steps: tuple[Step, ...]


def _handles_signals() -> bool:
    """Is this the thread in which Python runs signal handlers?"""
    return threading.current_thread() is threading.main_thread()


@contextlib.contextmanager
def deferred_signals() -> Iterator[None]:
    """Let SIGINT and SIGTERM wait until the block is over.

    Outside of the main thread, where Python runs no signal handlers, this does nothing.
    """
    if not _handles_signals():
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
    if not _handles_signals():
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
    source: DiskTree | None,
    changes: Sequence[Change],
    target: Path,
    *,
    replace: bool = False,
    progress: Callable[[int], None] | None = None,
) -> None:
    """Write a copy of `source` with `changes` to `target`, in one step.

    The copy is staged in a hidden directory beside `target` and renamed. Modes are kept, links are
    copied as links, and version control is left out.

    Args:
        source: the tree; None for a target of the added files alone.
        changes: files to add, to write instead of the source's, or to leave out.
        target: directory that gets the tree.
        replace: `target` exists and its place is to be taken.
        progress: called with the number of files written so far.

    Raises:
        MigrateError: `target` is there and `replace` was not asked for, or it cannot be written;
            nothing is left behind then.
    """
    if not target.parent.is_dir():
        raise MigrateError(f"there is no directory {target.parent} to put {target.name} in")
    there = os.path.lexists(target)
    try:
        with _staged_beside(target) as stage, contextlib.ExitStack() as stack:
            if os.path.lexists(target):
                # One that was not there before is what a killed run had set aside to replace it.
                if there and not replace:
                    raise MigrateError(f"{target} exists already")
                stack.enter_context(locked(target))
            root = stage / "tree"
            _copy(source, {c.path: c for c in changes}, root, progress)
            _put(root, target, stage)
    except OSError as error:
        raise _explain(error, target) from error


@contextlib.contextmanager
def _staged_beside(target: Path, *, wait: bool = False) -> Iterator[Path]:
    """Have an empty directory beside `target` to stage it in, for this process alone.

    Its name follows from the target's, so that a second run on the same target meets it, and the
    next one finds and removes what a killed run left. The lock on it says whether its run lives.

    Args:
        target: what is to be staged.
        wait: wait for another run on the same target instead of refusing.

    Raises:
        MigrateError: another process has it.
    """
    stage = _stage_of(target)
    held: int | None = None

    def let_go() -> None:
        nonlocal held
        with deferred_signals():
            if held is None:
                return
            descriptor, held = held, None
            try:
                _clear(stage, target)
                with contextlib.suppress(OSError):
                    stage.rmdir()
            finally:
                os.close(descriptor)

    try:
        while True:
            with deferred_signals():
                held = _claim(stage)
            if held is not None:
                break
            if not wait:
                raise MigrateError(f"another run is writing {target}; wait for it to end")
            time.sleep(0.05)
        _clear(stage, target)
        yield stage
    finally:
        try:
            let_go()
        except KeyboardInterrupt:
            let_go()  # it may have come just before signals were held back
            raise


def _stage_of(target: Path) -> Path:
    return target.parent / f".{target.name}{STAGE}"


def _claim(stage: Path) -> int | None:
    """Make `stage`, or take over that of a dead run; None where a living process has it.

    Returns:
        An open descriptor with the lock on it.
    """
    while True:
        with contextlib.suppress(FileExistsError):
            stage.mkdir(mode=0o700)
        try:
            held = os.open(stage, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        except FileNotFoundError:
            continue  # the run that had it ended in between
        try:
            there = os.fstat(held)
            if there.st_uid != os.geteuid():
                raise PermissionError(errno.EPERM, "it is another user's", str(stage))
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # It may have been removed, and made anew by a third run, before the lock was had.
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(there, stage.lstat()):
                    return held
        except BlockingIOError:
            os.close(held)
            return None
        except BaseException:
            os.close(held)
            raise
        os.close(held)


def _clear(stage: Path, target: Path) -> None:
    """Empty the staging directory; a target that had stepped aside into it goes back first."""
    aside = stage / ASIDE
    if os.path.lexists(aside) and not os.path.lexists(target):
        aside.rename(target)
    for entry in list(stage.iterdir()):
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry, ignore_errors=True)
        else:
            entry.unlink()


def _copy(
    source: DiskTree | None,
    changes: dict[str, Change],
    root: Path,
    progress: Callable[[int], None] | None,
) -> None:
    root.mkdir()
    if source is not None:
        shutil.copymode(source.root, root)
        root.chmod(root.stat().st_mode | 0o700)
    made: set[str] = {""}

    def parent_of(path: str) -> None:
        above = path.rpartition("/")[0]
        if above not in made:
            parent_of(above)
            place = root / above
            place.mkdir()
            if source is not None and (source.root / above).is_dir():
                shutil.copymode(source.root / above, place)
            place.chmod(place.stat().st_mode | 0o700)
            made.add(above)

    left = dict(changes)
    entries = source.entries() if source is not None else ()
    for done, entry in enumerate(entries, start=1):
        change = left.pop(entry.path, None)
        if isinstance(change, Removal):
            continue
        parent_of(entry.path)
        place = root / entry.path
        if isinstance(change, Placed):
            _make(change, place)
        elif change is not None:
            place.write_bytes(change.after)
            place.chmod(entry.mode if entry.link is None else change.mode)
        elif entry.link is not None:
            place.symlink_to(entry.link)
        elif source is not None:
            shutil.copyfile(source.root / entry.path, place, follow_symlinks=False)
            place.chmod(entry.mode)
        if progress is not None:
            progress(done)
    for path, change in sorted(left.items()):
        if isinstance(change, Removal):
            continue
        parent_of(path)
        if isinstance(change, Placed):
            _make(change, root / path)
        else:
            (root / path).write_bytes(change.after)
            (root / path).chmod(change.mode)


def _make(change: Placed, place: Path, *, through: bool = False) -> None:
    """Make a file or link at a free place; `through` waits until the disk has it."""
    if change.link:
        place.symlink_to(os.fsdecode(change.data))
        return
    if through:
        _write_through(place, change.data)
    else:
        place.write_bytes(change.data)
    place.chmod(change.mode)


def _put(root: Path, target: Path, stage: Path) -> None:
    """Rename `root` to `target`; a tree that is there leaves its place in the same instant."""
    with deferred_signals():
        if not os.path.lexists(target):
            root.rename(target)
        elif not _exchange(root, target):
            # Whatever ends this between its two steps: the old tree is put back by _clear.
            target.rename(stage / ASIDE)
            root.rename(target)


def _exchange(one: Path, other: Path) -> bool:
    """Swap two paths atomically (Linux's renameat2); False where the system cannot."""
    try:
        renameat2 = ctypes.CDLL(None).renameat2
    except (OSError, AttributeError):
        return False
    at_fdcwd, rename_exchange = -100, 2
    failed: int = renameat2(
        at_fdcwd, os.fsencode(one), at_fdcwd, os.fsencode(other), rename_exchange
    )
    return not failed


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


def unfinished(root: Path) -> bool:
    """Did a run that was killed leave one part of this tree new and the other old?"""
    return (root / JOURNAL / "journal.json").is_file()


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
    decided = unfinished(root)
    if decided:
        try:
            steps = msgspec.json.decode(journal.read_bytes(), type=Journal).steps
        except (msgspec.MsgspecError, RecursionError) as error:
            raise MigrateError(
                f"{journal} is damaged; restore the tree from git and remove {stage}"
            ) from error
        if any(s.staged is not None and not _is_staged(s.staged) for s in steps):
            raise MigrateError(
                f"{journal} was not written by this tool; remove {stage} if you do not know it"
            )
        try:
            with deferred_signals():
                _carry_out(root, stage, steps)
                shutil.rmtree(stage)
        except OSError as error:
            raise _half_written(error, root) from error
    else:
        try:
            shutil.rmtree(stage)
        except OSError as error:
            raise _explain(error, stage) from error
    return decided


def _half_written(error: OSError, root: Path) -> UnfinishedError:
    return UnfinishedError(
        f"cannot put {error.filename or root} in place: {error.strerror or error}; part of "
        "the files are; when that is mended, run it again to put the others in place"
    )


def _is_staged(name: str) -> bool:
    """Is this a name that we give to a staged file? No other is taken from a journal."""
    return re.fullmatch(r"\d+\.new", name) is not None


def _carry_out(root: Path, stage: Path, steps: Sequence[Step]) -> None:
    # Done again after a crash, each step does what is left of it, or nothing.
    for step in steps:
        place = _safe_place(root, step.place, itself=True)
        if step.staged is None:
            _remove(place)
        elif os.path.lexists(staged := stage / step.staged):
            place.parent.mkdir(parents=True, exist_ok=True)
            os.replace(staged, place)


def _remove(place: Path) -> None:
    """Remove a file or link, and the directories above it that have nothing else in them."""
    if place.is_symlink() or place.is_file():
        place.unlink()
    with contextlib.suppress(OSError):  # it is not empty, or a file has taken its place already
        os.removedirs(place.parent)  # no further than to the tree, which has the journal in it


def _safe_place(root: Path, path: str, removed: Collection[str] = (), *, itself: bool) -> Path:
    """Where `path` is in the tree, refusing to go through a link or out of it.

    `itself` says that a link at `path` is what is meant, not what it leads to; links among those
    that are `removed` do not count.
    """
    place = root
    gone = {*removed, path} if itself else removed
    for part in path.split("/"):
        place = place / part
        through = place.is_symlink() and place.relative_to(root).as_posix() not in gone
        if part in ("", ".", "..") or through:
            raise MigrateError(f"{path} leads out of the tree through a link; nothing was written")
    return place


def _free_place(root: Path, path: str, removed: Collection[str], *, itself: bool) -> Path:
    """Where `path` is in the tree, if a file can be put there.

    What would make that fail is looked for here, before the journal decides: later it would leave
    one part of the tree new and the other old until somebody mends it.

    Args:
        root: the tree.
        path: of the file.
        removed: paths that are free by then.
        itself: a link that is there is replaced.

    Raises:
        MigrateError: it cannot.
    """
    place = _safe_place(root, path, removed, itself=itself)
    if not (
        place.is_file()
        or (itself and place.is_symlink())
        or not os.path.lexists(place)
        or (removed and place.is_dir() and _all_removed(root, place, removed))
    ):
        raise MigrateError(f"{place} is there and is no file; nothing was written, move it away")
    above = place.parent
    while not os.path.lexists(above) or above.relative_to(root).as_posix() in removed:
        above = above.parent
    if not above.is_dir():
        raise MigrateError(
            f"{above} is there and is no directory; nothing was written, move it away"
        )
    if not os.access(above, os.W_OK | os.X_OK):
        raise MigrateError(f"cannot write in {above}; nothing was written, make it writable")
    if above.stat().st_dev != root.stat().st_dev:
        raise MigrateError(
            f"{above} is on another file system than {root}, so its files cannot be put in place "
            "in one step; nothing was written, use -o DIR"
        )
    return place


def _all_removed(root: Path, directory: Path, removed: Collection[str]) -> bool:
    """Will a directory be empty, and gone, when these files are?"""
    return all(
        (Path(above) / name).relative_to(root).as_posix() in removed
        for above, directories, files in os.walk(directory)
        for name in [*files, *(d for d in directories if (Path(above) / d).is_symlink())]
    ) and all(files or directories for _, directories, files in os.walk(directory))


@sigterm_interrupts()
def change_in_place(root: Path, changes: Sequence[Change]) -> None:
    """Write `changes` into the tree at `root`: all of them, or after a crash all or none.

    Raises:
        MigrateError: a file cannot be staged; the tree is as it was then.
        UnfinishedError: one cannot be put in place; the journal stays, for a run that can.
    """
    stage = root / JOURNAL
    journal = stage / "journal.json"
    made = decided = False
    try:
        with deferred_signals():
            try:
                stage.mkdir()
            except FileExistsError as error:
                raise MigrateError(
                    f"{stage} is there: another run is at work on this tree, or one was killed; "
                    "where none runs, remove it"
                ) from error
            made = True
        steps = _stage(root, stage, changes)
        with deferred_signals():
            draft = stage / "journal.draft"
            _write_through(draft, msgspec.json.encode(Journal(steps)))
            os.replace(draft, journal)
            decided = True
            _carry_out(root, stage, steps)
            shutil.rmtree(stage)
    except OSError as error:
        if decided:
            raise _half_written(error, root) from error
        raise _explain(error, root) from error
    finally:
        if made and not decided:
            shutil.rmtree(stage, ignore_errors=True)


def _stage(root: Path, stage: Path, changes: Sequence[Change]) -> tuple[Step, ...]:
    # What goes makes room first: a file may come where a directory was.
    removed = {change.path for change in changes if isinstance(change, Removal)}
    steps = []
    for path in sorted(removed):
        place = _safe_place(root, path, itself=True)
        if os.path.lexists(place) and not os.access(place.parent, os.W_OK | os.X_OK):
            raise MigrateError(
                f"cannot write in {place.parent}; nothing was written, make it writable"
            )
        steps.append(_step(path, None))
    for number, change in enumerate(changes):
        if isinstance(change, Removal):
            continue
        place = _free_place(root, change.path, removed, itself=isinstance(change, Placed))
        staged = stage / f"{number}.new"
        if isinstance(change, Placed):
            _make(change, staged, through=True)
            steps.append(_step(change.path, staged.name))
            continue
        _write_through(staged, change.after)
        if place.exists():
            shutil.copymode(place, staged)
        else:
            staged.chmod(change.mode)
        steps.append(_step(change.path, staged.name))
    return tuple(steps)


def _write_through(path: Path, data: bytes) -> None:
    """Write a file and wait until the disk has it."""
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


@sigterm_interrupts()
def unpack(archive: Path, target: Path) -> None:
    """Unpack the one directory of a source archive as `target`, in one step.

    Nothing of the archive is run, and members that would leave it are refused.

    Raises:
        MigrateError: the archive is damaged, has more than one directory at its top, or what no
            source archive has.
    """
    if target.is_dir() and not _stage_of(target).exists():
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        with _staged_beside(target, wait=True) as stage:
            if target.is_dir():
                return
            inside = stage / "x"
            inside.mkdir()  # which an archive without members would not make
            for member in read_members(archive):
                _make_member(inside, member)
            match list(inside.iterdir()):
                case [top] if top.is_dir():
                    top.rename(target)
                case _:
                    raise MigrateError(
                        f"{archive.name} is not a source archive: it has no single folder"
                    )
    except ArchiveError as error:
        raise MigrateError(
            f"{archive.name} is damaged or no source archive ({error}); fetch it from elsewhere"
        ) from error
    except OSError as error:
        raise _explain(error, target) from error


@contextlib.contextmanager
def waiting_for(directory: Path) -> Iterator[None]:
    """Keep a directory of the cache for this process, once no other one has it."""
    held = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(held, fcntl.LOCK_EX)
        yield
    finally:
        os.close(held)


def discard(target: Path) -> None:
    """Remove an unpacked source archive.

    Raises:
        MigrateError: it cannot be removed.
    """
    try:
        shutil.rmtree(target)
    except OSError as error:
        raise _explain(error, target) from error


def note(path: Path, data: bytes) -> None:
    """Write a file of the cache in one step."""
    staged = path.with_name(f".{os.getpid()}-{path.name}")
    try:
        _write_through(staged, data)
        staged.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            staged.unlink()
        raise _explain(error, path) from error


def _make_member(root: Path, member: Member) -> None:
    """Make one member of an archive; what is above it is a directory or not there."""
    place = root / member.path
    if member.directory:
        place.mkdir(parents=True, exist_ok=True)
        return
    place.parent.mkdir(parents=True, exist_ok=True)
    if member.link is not None:
        place.symlink_to(member.link)
    elif member.same is not None:
        shutil.copy(root / member.same, place)
    else:
        with place.open("wb") as file:
            for chunk in member.chunks:
                file.write(chunk)
        place.chmod(0o755 if member.executable else 0o644)
