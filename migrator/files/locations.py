# SPDX-License-Identifier: Apache-2.0
"""Where this tool has its own files, and where it keeps what it fetches and makes."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from migrator.messages.errors import MigrateError

NAME = "vllm-npu-migrate"
PACKAGE = Path(__file__).resolve().parents[1]
_ROOMS_OF_PLANS = ("codemod", "files", "messages", "planning", "reports", "rules")
"""Where the code stands that a plan and its patch come from."""


def cache_directory() -> Path:
    """The user's cache directory for this tool, where platformdirs says that it is.

    A user who has no home, as in many containers, has one of their own among temporary files.
    """
    home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    if sys.platform == "linux" and home.startswith("/"):
        # To load platformdirs takes as long as to find the plan of a whole tree.
        return Path(home) / NAME
    import platformdirs

    try:
        found = platformdirs.user_cache_path(NAME)
    except RuntimeError:  # nobody knows where the home is
        return _temporary()
    return _temporary() if str(found).startswith("~") else found


def _temporary() -> Path:
    import tempfile

    return Path(tempfile.gettempdir()) / f"{NAME}-{os.getuid()}"


def is_private(directory: Path) -> bool:
    """Can nobody else have put anything into a directory? One that is missing is ours to make."""
    try:
        found = os.stat(directory)
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return found.st_uid == os.getuid() and not found.st_mode & 0o022


def private_cache(*below: str) -> Path:
    """A directory of the cache, made if need be, in which nobody else can have put anything.

    All that is fetched or built and used again later is kept in such: sources, wheels, native code,
    models. Where the user's own cache cannot be made, one among temporary files takes its place.

    Args:
        below: parts of its path in the cache.

    Raises:
        MigrateError: others can write to it, or it cannot be made.
    """
    made: Path | None = None
    for root in (cache_directory(), _temporary()):
        try:
            root.mkdir(mode=0o700, parents=True, exist_ok=True)
        except (PermissionError, FileNotFoundError, NotADirectoryError):
            continue
        except OSError as error:
            if error.errno != errno.EROFS:
                raise MigrateError(f"cannot make {root}: {error.strerror}; make room") from error
            continue
        made = root
        break
    if made is None:
        raise MigrateError(
            f"cannot make {cache_directory()}; name a directory that you can write to by "
            "XDG_CACHE_HOME"
        )
    place = made
    for part in ("", *below):
        place = place / part
        try:
            place.mkdir(mode=0o700, exist_ok=True)
        except OSError as error:
            raise MigrateError(f"cannot make {place}: {error.strerror}") from error
        if not is_private(place):
            raise MigrateError(
                f"{place} is another user's, or others can write to it, so what is in it is not "
                "used; `chmod go-w` it, or name another directory by XDG_CACHE_HOME"
            )
    return place


@cache
def template_root() -> Path | None:
    """The folder of templates: inside of an installed package, or beside it in a checkout."""
    places = (PACKAGE / "_templates", PACKAGE.parent / "templates")
    return next((place for place in places if place.is_dir()), None)


def sources_of_plans() -> Iterator[str]:
    """The files of this tool that a plan and its patch depend on, in no order."""
    yield f"{PACKAGE}/__init__.py"
    for room in _ROOMS_OF_PLANS:
        for place, _, names in os.walk(PACKAGE / room):
            for name in names:
                if name.endswith((".py", ".j2", ".json", ".diff")):
                    yield f"{place}/{name}"
    for place, _, names in os.walk(template_root() or PACKAGE / "_templates"):
        for name in names:
            if not name.endswith(".pyc"):
                yield f"{place}/{name}"
