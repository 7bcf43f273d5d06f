# SPDX-License-Identifier: Apache-2.0
"""What scripts share: the tool as a user runs it, trees that are alike, this checkout's commit."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def command(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run a subcommand of this checkout in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "migrator", *map(str, arguments)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )


def digest(tree: Path) -> str:
    """One hash over every path, mode and byte of a tree."""
    total = hashlib.sha256()
    for path in sorted(tree.rglob("*")):
        if path.is_file() and not path.is_symlink():
            total.update(f"{path.relative_to(tree)}\0{path.stat().st_mode}\0".encode())
            total.update(hashlib.sha256(path.read_bytes()).digest())
    return total.hexdigest()


def commit() -> str:
    """The short name of this checkout's commit, for what says by which state it was measured."""
    done = subprocess.run(
        ["git", "-C", str(ROOT), "rev-parse", "--short", "HEAD"],
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.strip()
