# SPDX-License-Identifier: Apache-2.0
"""The emitted tree: its migration log, its files, and which of their lines the migration wrote."""

from __future__ import annotations

import difflib
import hashlib
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from migrator.files.tree import module_name
from migrator.messages.errors import MigrateError
from migrator.verify.modules import Module, parse_module
from migrator.verify.package import Package
from migrator.verify.package_files import DirectoryFiles

LOG = "migration-log.json"
TOP_LEVEL = frozenset({"vllm"})
"""The import package of a vLLM tree; it stands at the tree's root in every release."""

BUILT = frozenset(
    {
        "vllm._version",
        "vllm._C",
        "vllm._C_stable_libtorch",
        "vllm._moe_C",
        "vllm._rocm_C",
        "vllm._flashmla_C",
        "vllm._flashmla_extension_C",
        "vllm._qutlass_C",
        "vllm._rust",
        "vllm.cumem_allocator",
        "vllm.third_party",
        "vllm.vllm_flash_attn",
    }
)
"""Modules that vLLM's build makes or adds to."""

_NPU_WORD = re.compile(rb"(?<![A-Za-z])npu|ascend", re.IGNORECASE)  # `input` has no word npu


class TreeError(MigrateError):
    """The tree cannot be verified at all; the message says what to do."""


class Lines(msgspec.Struct):
    """1-based, both ends included; `end_line` is absent for a single line."""

    line: int
    end_line: int | None = None


class LoggedChange(msgspec.Struct):
    """What is needed of one change in the log."""

    path: str
    rule: str = ""
    after: Lines | None = None


class LoggedFile(msgspec.Struct):
    """What is needed of one file in the log."""

    path: str
    status: str
    after: str | None = None


class Log(msgspec.Struct):
    """What is needed of `migration-log.json`; everything else in it is ignored."""

    files: list[LoggedFile]
    changes: list[LoggedChange] = []
    release: str | None = None
    claim: str | None = None


@dataclass(slots=True)
class ChangedFile:
    """A Python file of the tree that the migration wrote or touched.

    `ranges` are the lines it wrote, None for all of them. `reason` explains a None of a file that
    was not added whole.
    """

    path: str
    added: bool
    ranges: list[tuple[int, int]] | None
    module: Module | None
    source: bytes
    reason: str | None = None

    def introduced(self, line: int, end_line: int | None = None) -> bool:
        """Whether the migration wrote any of these lines."""
        if self.ranges is None:
            return True
        last = end_line or line
        return any(first <= last and line <= end for first, end in self.ranges)


@dataclass(slots=True)
class Tree:
    """An emitted tree, opened for reading."""

    root: Path
    release: str | None
    package: Package
    changed: list[ChangedFile]
    absent: list[str] = field(default_factory=list)

    def read(self, path: str) -> bytes | None:
        """The content of a file of the tree; None where there is none."""
        return self.package.files.read(path)

    def python_files(self) -> Iterator[str]:
        """The package's Python files, relative to the root, sorted; links are not followed."""
        for top in sorted(TOP_LEVEL):
            for folder, folders, files in os.walk(self.root / top):
                folders.sort()
                relative = Path(folder).relative_to(self.root).as_posix()
                for name in sorted(files):
                    if name.endswith(".py"):
                        yield f"{relative}/{name}"


def open_tree(root: Path, *, base: Path | None = None, everything: bool = False) -> Tree:
    """Open an emitted tree.

    Args:
        root: the tree; `migration-log.json` and the package stand in it.
        base: the tree as it was before, for exact line ranges.
        everything: work without a log, on every file that mentions `npu`, all lines of it.

    Raises:
        TreeError: there is no package, no log, or the log cannot be read.
    """
    if not root.is_dir():
        raise TreeError(f"{root}: no such directory; name an emitted tree")
    files = DirectoryFiles(root)
    if not any(files.is_directory(top) for top in TOP_LEVEL):
        raise TreeError(f"{root}: no vllm/ in it; give the root of an emitted tree")
    tree = Tree(root, None, Package(files, TOP_LEVEL, BUILT), [])
    raw = files.read(LOG)
    if raw is None:
        if not everything:
            raise TreeError(
                f"{root}: no {LOG}; verify what `apply` wrote, or check every file that "
                "mentions npu with --all"
            )
        for path in tree.python_files():
            source = files.read(path)
            if source is not None and _NPU_WORD.search(source):
                _add(tree, path, source, added=True, ranges=None)
        return tree
    try:
        log = msgspec.json.decode(raw, type=Log)
    except msgspec.DecodeError as error:
        raise TreeError(
            f"{root / LOG}: not a migration log ({error}); emit the tree anew"
        ) from error
    tree.release = log.release
    for entry in sorted(log.files, key=lambda f: f.path):
        source = files.read(entry.path)
        if source is None:
            tree.absent.append(entry.path)
        elif entry.path.endswith(".py"):
            _logged(tree, log, entry, source, base)
    return tree


def _logged(tree: Tree, log: Log, entry: LoggedFile, source: bytes, base: Path | None) -> None:
    if entry.status == "added":
        _add(tree, entry.path, source, added=True, ranges=None)
        return
    before = DirectoryFiles(base).read(entry.path) if base is not None else None
    if before is not None:
        _add(tree, entry.path, source, added=False, ranges=_written(before, source))
        return
    if entry.after is not None and hashlib.sha256(source).hexdigest() != entry.after:
        reason = "edited since the migration: all its lines are checked"
        _add(tree, entry.path, source, added=False, ranges=None, reason=reason)
        return
    own = [c for c in log.changes if c.path == entry.path]
    ranges = [(c.after.line, c.after.end_line or c.after.line) for c in own if c.after is not None]
    if own:
        _add(tree, entry.path, source, added=False, ranges=ranges)
    else:
        reason = "the log has no change of it: all its lines are checked"
        _add(tree, entry.path, source, added=False, ranges=None, reason=reason)


def _add(
    tree: Tree,
    path: str,
    source: bytes,
    *,
    added: bool,
    ranges: list[tuple[int, int]] | None,
    reason: str | None = None,
) -> None:
    name = module_name(path)
    module = tree.package.module(name) if tree.package.owns(name) else None
    if module is None or module.path != path:
        module = parse_module(name, path, source)
    tree.changed.append(ChangedFile(path, added, ranges, module, source, reason))


def _written(before: bytes, after: bytes) -> list[tuple[int, int]]:
    old, new = before.splitlines(), after.splitlines()
    matcher = difflib.SequenceMatcher(None, old, new, autojunk=False)
    return [
        (start + 1, end)
        for tag, _, _, start, end in matcher.get_opcodes()
        if tag in ("replace", "insert")
    ]
