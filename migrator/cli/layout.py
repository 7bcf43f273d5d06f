# SPDX-License-Identifier: Apache-2.0
"""`apply --layout plugin`: write the migration as a package beside an untouched vLLM."""

from __future__ import annotations

import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING

import click

from migrator.errors import MigrateError

if TYPE_CHECKING:
    from migrator.plan import Plan
    from migrator.tree import DiskTree

BUILT = ("build/*", "*.egg-info/*")
"""What `pip install DIR` leaves in a plugin's directory."""


def write_plugin(plan: Plan, tree: DiskTree, target: Path, *, force: bool) -> None:
    """Write the plugin that `plan` comes to, in one step.

    Raises:
        MigrateError: the plan cannot be a plugin, or `target` holds something else or was edited.
    """
    from migrator import writer
    from migrator.plugin import make_plugin

    files = make_plugin(plan, tree)
    _refuse(tree, target, force=force)
    writer.write_tree(None, files, target, replace=target.exists())


def tell(target: Path) -> None:
    """Say what was written, and what to do with it."""
    click.echo(f"Plugin: {target}\nInstall it beside vLLM: pip install {target}", err=True)


def _refuse(tree: DiskTree, target: Path, *, force: bool) -> None:
    from migrator.log import edited_since, read_log
    from migrator.plugin import PACKAGE
    from migrator.tree import LOG_NAME, REPOSITORIES, DiskTree, Tree

    inner, outer = target.resolve(), tree.root.resolve()
    if inner.is_relative_to(outer) or outer.is_relative_to(inner):
        raise MigrateError(f"{target} and the source lie within each other; choose another -o")
    if target.is_symlink() or (target.exists() and not target.is_dir()):
        raise MigrateError(f"{target} is there and is no directory; choose another -o")
    if not target.exists() or not any(target.iterdir()):
        return
    there = DiskTree(target)
    data = there.read(LOG_NAME)
    if data is None or not there.exists(f"{PACKAGE}/__init__.py"):
        raise MigrateError(f"{target} is there and is no plugin of this tool; choose another -o")
    if force:
        return
    edited = [name for name in REPOSITORIES if (target / name).exists()]
    edited += [
        path
        for path in edited_since(Tree({}), there, read_log(data))
        if not any(fnmatch.fnmatch(path, pattern) for pattern in BUILT)
    ]
    if edited:
        shown = ", ".join(edited[:3]) + (f" and {len(edited) - 3} more" if len(edited) > 3 else "")
        raise MigrateError(
            f"{target} has changes that would be lost ({shown}); "
            "choose another -o, or --force to replace it"
        )
