# SPDX-License-Identifier: Apache-2.0
"""Emitted plugins against changed sources: what a patch replaces, and vLLMs in which that differs.

Nothing here needs torch: patches are read and applied, not run.
"""

from __future__ import annotations

import ast
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from migrator.files.changes import FileChange
from migrator.plugin.runtime.importing import Entry
from migrator.plugin.runtime.patching import Patch, Source, Step, apply, first_line


def write(files: Sequence[FileChange], root: Path) -> Path:
    """Write a plugin's files below `root`."""
    for file in files:
        place = root / file.path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(file.after)
    return root


@dataclass(frozen=True)
class Target:
    """A function of vLLM that a patch replaces."""

    entry: Entry
    path: str
    name: str
    original: ast.stmt


def targets(all_entries: Sequence[Entry], package: Path) -> Iterator[Target]:
    """Every function that the patches replace in the vLLM package at `package`."""
    for entry in all_entries:
        patch = entry.read()
        apply(Source.parse(entry.installed(package).read_bytes()), patch)
        for step in _replacing(patch.steps):
            assert step.original is not None
            if isinstance(step.original, (ast.FunctionDef, ast.AsyncFunctionDef)):
                yield Target(entry, patch.path, step.name, step.original)


def _replacing(steps: Sequence[Step]) -> Iterator[Step]:
    for step in steps:
        yield from _replacing(step.steps)
        if step.action == "replaces":
            yield step


def counts(patches: Sequence[Patch]) -> dict[str, int]:
    """How many functions and other statements patches replace, and how many things they add."""
    found = {"functions": 0, "statements": 0, "added": 0}

    def count(steps: Sequence[Step]) -> None:
        for step in steps:
            if step.action == "enters":
                count(step.steps)
            elif step.action == "added":
                found["added"] += 1
            else:
                function = isinstance(step.node, (ast.FunctionDef, ast.AsyncFunctionDef))
                found["functions" if function else "statements"] += 1

    for patch in patches:
        count(patch.steps)
    return found


def with_a_line(data: bytes, function: ast.stmt) -> bytes:
    """A module with one line more in a function, before its last statement."""
    assert isinstance(function, (ast.FunctionDef, ast.AsyncFunctionDef))
    last = function.body[-1]
    assert last.lineno > function.lineno, "its body stands in lines of its own"
    lines = data.split(b"\n")
    lines.insert(first_line(last) - 1, b" " * last.col_offset + b"pass")
    return b"\n".join(lines)


def copy_package(package: Path, target: Path, entry: Entry, data: bytes) -> Path:
    """A vLLM at `target` that has nothing but the module of an entry, with other bytes."""
    place = target.joinpath(entry.installed(package).relative_to(package))
    if target.exists():
        shutil.rmtree(target)
    place.parent.mkdir(parents=True)
    place.write_bytes(data)
    return target
