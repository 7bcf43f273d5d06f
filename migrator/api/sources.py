# SPDX-License-Identifier: Apache-2.0
"""What a caller names, opened: a directory or a release, neither older than what is known."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import TYPE_CHECKING

from migrator.messages.errors import MigrateError

if TYPE_CHECKING:
    from migrator.files.sources import Source
    from migrator.files.tree import Tree


def open(  # noqa: A001 - as tarfile.open is called
    source: str | os.PathLike[str], *, release: str | None = None, too_old: bool = False
) -> Source:
    """Open a source: a directory, or a release such as `vllm==0.11.0`, which is fetched by name.

    Args:
        source: what is opened.
        release: what to call a tree that does not say itself which release it is. A label only.
        too_old: take releases, too, that are older than the oldest one known.

    Raises:
        MigrateError: it is neither, there is no vLLM in it, it cannot be had, or it is too old.
    """
    from migrator.files.sources import open_source, requested_release

    text = os.fspath(source)
    named = None if os.path.lexists(text) else requested_release(text)
    if named is not None and not too_old:
        from migrator.reports.releases import is_too_old

        if is_too_old(named):
            raise too_old_error(f"vLLM {named}")
    opened = open_source(text)
    name_release(opened.tree, release, named)
    return replace(opened, release=release)


def name_release(tree: Tree, release: str | None, named: str | None = None) -> None:
    """Call a tree what the caller says it is, if anything.

    Args:
        tree: what was opened.
        release: what the caller says.
        named: the release by whose name it was opened.

    Raises:
        MigrateError: it was opened by the name of another release.
    """
    from migrator.files.tree import Label

    if release is None:
        return
    if named is not None and named != release:
        raise MigrateError(
            f"vllm=={named} is no release {release}; leave --release out, or name that one"
        )
    tree.label = Label(release)


def too_old_error(name: str, why: str = "") -> MigrateError:
    """The error of a source that is older than all releases known."""
    from migrator.reports.releases import KNOWN

    return MigrateError(
        f"{name} is older than {KNOWN[0]}, the oldest release known{why}; name a later one, or by "
        "--select rules to try all the same"
    )


def refuse_too_old(tree: Tree) -> None:
    """Raise for a tree that has the shape of a release older than all known."""
    from migrator.reports.releases import older_shape

    shape = older_shape(tree)
    if shape is not None:
        raise too_old_error(str(tree.label), f": {shape}")
