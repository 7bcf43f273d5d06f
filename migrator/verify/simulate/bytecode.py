# SPDX-License-Identifier: Apache-2.0
"""Bytecode that runs leave for the next ones: of the environment, and of the trees that are run.

It lies in the tool's cache, below the path of each source, as PYTHONPYCACHEPREFIX has it. Python
takes bytecode for good whose source has the same size and the same second of change, which holds
for packages that are installed once; a tree is emitted again and again. So the bytecode of a tree
is noted with a hash of its sources, and goes when they differ.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

NOTES = ".trees"
"""Folder of the notes below the prefix: a file for each tree, with its path and its hash."""


def kept(prefix: Path, roots: Sequence[Path]) -> Path:
    """`prefix`, a private folder, with no bytecode of other sources than `roots` have now.

    Bytecode of trees that are there no more is removed, too.
    """
    notes = prefix / NOTES
    notes.mkdir(mode=0o700, parents=True, exist_ok=True)
    for root in (root.resolve() for root in roots):
        noted = notes / hashlib.sha256(os.fsencode(root)).hexdigest()[:16]
        now = f"{root}\n{_hash(root)}\n"
        if _text(noted) != now:
            forget(prefix, root)
            noted.write_text(now, encoding="utf-8", errors="surrogateescape")
    for noted in notes.iterdir():
        path, _, _ = _text(noted).partition("\n")
        if path and not Path(path).exists():
            shutil.rmtree(_below(prefix, Path(path)), ignore_errors=True)
            with contextlib.suppress(FileNotFoundError):
                noted.unlink()
    return prefix


def forget(prefix: Path, root: Path) -> None:
    """Remove the bytecode of what lies below a folder."""
    shutil.rmtree(_below(prefix, root.resolve()), ignore_errors=True)


def _below(prefix: Path, root: Path) -> Path:
    """Where Python keeps the bytecode of what lies below an absolute path."""
    return prefix / root.relative_to(root.anchor)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="surrogateescape")
    except FileNotFoundError:
        return ""


def _hash(root: Path) -> str:
    """Of the paths and contents of all Python files below a folder."""
    found = hashlib.sha256()
    for place, folders, names in os.walk(root):
        folders.sort()
        for name in sorted(names):
            if name.endswith(".py"):
                path = os.path.join(place, name)
                with open(path, "rb") as file:
                    content = hashlib.sha256(file.read()).digest()
                found.update(os.fsencode(os.path.relpath(path, root)) + b"\0" + content)
    return found.hexdigest()
