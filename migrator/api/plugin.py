# SPDX-License-Identifier: Apache-2.0
"""The migration as a package beside an untouched vLLM, and where it may be written."""

from __future__ import annotations

import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING

from migrator.api import targets
from migrator.messages.errors import MigrateError

if TYPE_CHECKING:
    from migrator.files.tree import DiskTree
    from migrator.planning.plan import Plan

BUILT = ("build/*", "*.egg-info/*")
"""What `pip install DIR` leaves in a plugin's directory."""


def write_plugin(plan: Plan, tree: DiskTree, target: Path, *, force: bool) -> None:
    """Write the plugin that `plan` comes to, in one step.

    Raises:
        MigrateError: the plan cannot be a plugin, or `target` holds something else or was edited.
    """
    from migrator.files import writer
    from migrator.plugin import make_plugin

    files = make_plugin(plan, tree)
    refuse_plugin_target(tree, target, force=force)
    writer.write_tree(None, files, target, replace=target.exists())


def refuse_plugin_target(tree: DiskTree, target: Path, *, force: bool) -> None:
    """Raise where writing a plugin to `target` would lose something that is not this tool's."""
    from migrator.files.tree import LOG_NAME, DiskTree, Tree
    from migrator.plugin import PACKAGE
    from migrator.reports.log import edited_since, read_log

    if not targets.is_taken(target, tree.root):
        return
    there = DiskTree(target)
    data = there.read(LOG_NAME)
    if data is None or not there.exists(f"{PACKAGE}/__init__.py"):
        raise MigrateError(f"{target} is there and is no plugin of this tool; choose another -o")
    if not force:
        edited = edited_since(Tree({}), there, read_log(data))
        own = [p for p in edited if not any(fnmatch.fnmatch(p, pattern) for pattern in BUILT)]
        targets.refuse_lost(target, own)
