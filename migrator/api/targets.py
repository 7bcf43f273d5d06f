# SPDX-License-Identifier: Apache-2.0
"""Where output may go: what is refused, so that nothing of anybody's is lost."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from migrator.messages.errors import MigrateError


def is_taken(target: Path, root: Path, *, what: str = "source") -> bool:
    """Is there something in the output directory `target`?

    Args:
        target: a directory that need not be there.
        root: the tree that is read.
        what: what messages call that tree.

    Raises:
        MigrateError: nothing can be written there, whatever is in it.
    """
    # In a loop of links, other ways to resolve a path raise.
    inner, outer = Path(os.path.realpath(target)), Path(os.path.realpath(root))
    if inner == outer:
        raise MigrateError(f"the output is the {what} itself; choose another -o, or use --in-place")
    if inner.is_relative_to(outer) or outer.is_relative_to(inner):
        raise MigrateError(f"{target} and the {what} lie within each other; choose another -o")
    if target.is_symlink() or (target.exists() and not target.is_dir()):
        raise MigrateError(f"{target} is there and is no directory; choose another -o")
    return target.is_dir() and any(target.iterdir())


def refuse_lost(target: Path, edited: Sequence[str]) -> None:
    """Raise where replacing `target` would lose `edited`, paths in it."""
    from migrator.files.tree import REPOSITORIES

    lost = [*(name for name in REPOSITORIES if (target / name).exists()), *edited]
    if lost:
        shown = ", ".join(lost[:3]) + (f" and {len(lost) - 3} more" if len(lost) > 3 else "")
        raise MigrateError(
            f"{target} has changes that would be lost ({shown}); "
            "choose another -o, or --force to replace it"
        )


def refuse_unclean(root: Path, *, forcible: bool) -> None:
    """Raise unless `root` is in a git checkout without uncommitted changes below it.

    Args:
        root: the tree that is to be changed in place.
        forcible: would `--force` go on?
    """
    from migrator.updating.git import Repository

    force = ", or --force" if forcible else ""
    repository = Repository.around(root)
    if repository is None:
        raise MigrateError(
            f"{root} is no git checkout, so there would be no way back; use -o DIR{force}"
        )
    if repository.changed():
        raise MigrateError(f"{root} has uncommitted changes; commit or stash them first{force}")
