# SPDX-License-Identifier: Apache-2.0
"""Applies patches to modules of the installed vLLM as they are imported, or at once where they are.

Nothing of vLLM is written: a patched module is compiled from the installed file and the patch in
every process. A file is checked again when it is compiled, so what runs is what was checked.
"""

from __future__ import annotations

import importlib.machinery
import importlib.util
import sys
import types
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.abc import MetaPathFinder
from pathlib import Path

from .loaded import patch_loaded
from .patching import Patch, PatchError, Source, apply, compiled, digest, read_patch


@dataclass(frozen=True)
class Entry:
    """One patch: of a module, from a file, made from vLLM's file of a hash."""

    module: str
    file: Path
    sha256: str

    def read(self) -> Patch:
        """The patch; raises PatchError."""
        return read_patch(self.file.read_bytes(), self.file.name)

    def installed(self, package: Path) -> Path:
        """Where the module is in an installed package `vllm`: as a file, or as a package."""
        place = package.joinpath(*self.module.split(".")[1:])
        return place / "__init__.py" if place.is_dir() else place.with_suffix(".py")


class Loader(importlib.machinery.SourceFileLoader):
    """Loads a module of vLLM with its patch in it."""

    def __init__(self, entry: Entry, path: str) -> None:
        super().__init__(entry.module, path)
        self.entry = entry

    def get_code(self, fullname: str) -> types.CodeType:
        """Compile the installed file with the patch; vLLM's bytecode is neither read nor written.

        Raises:
            PatchError: the patch is not for this file.
        """
        tree = apply(Source.parse(self.get_data(self.path)), self.entry.read())
        return compiled(tree, self.path, str(self.entry.file))


class Finder(MetaPathFinder):
    """Stands before Python's own finders and gives the modules that have a patch their loader."""

    def __init__(self, entries: Mapping[str, Entry]) -> None:
        self.entries = entries
        self.pending: dict[str, Entry] = {}
        """Modules that were on their way when the patches came; patched once they are there."""
        self.patched: set[str] = set()
        """Modules that were there already, and were patched in place."""

    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None,
        target: types.ModuleType | None = None,
    ) -> importlib.machinery.ModuleSpec | None:
        """The spec of a patched module; None for any other one."""
        if self.pending:
            self.patch_pending()
        entry = self.entries.get(fullname)
        if entry is None:
            return None
        spec = importlib.machinery.PathFinder.find_spec(fullname, path, target)
        if spec is None:
            return None
        if spec.origin is None or not spec.origin.endswith(".py"):
            raise PatchError(fullname, [f"{spec.origin} has no source that could be patched"])
        spec.loader = Loader(entry, spec.origin)
        return spec

    def install(self) -> None:
        """Patch what is loaded, and everything else when it is imported."""
        for name, entry in self.entries.items():
            if name in sys.modules:
                self.pending[name] = entry
        if self not in sys.meta_path:
            sys.meta_path.insert(0, self)
        self.patch_pending()

    def patch_pending(self) -> list[str]:
        """Patch modules that were on their way; the names of those that still are."""
        for name, entry in list(self.pending.items()):
            module = sys.modules.get(name)
            spec = getattr(module, "__spec__", None)
            if getattr(spec, "_initializing", False):
                continue
            # Patching may import, which comes here again.
            del self.pending[name]
            if module is not None:
                _patch_now(module, entry)
                self.patched.add(name)
        return sorted(self.pending)

    def unpatched(self) -> list[str]:
        """Modules that are loaded without their patch; there is no way to that which we know."""
        loaded = (name for name in self.entries if name in sys.modules)
        return sorted(
            name
            for name in loaded
            if name not in self.patched and not isinstance(_loader_of(sys.modules[name]), Loader)
        )


def _patch_now(module: types.ModuleType, entry: Entry) -> None:
    data = Path(str(module.__file__)).read_bytes()
    patch = entry.read()
    tree = apply(Source.parse(data), patch)
    patch_loaded(module, patch.path, tree, patch.steps, str(entry.file))


def misfits(entries: Iterable[Entry], package: Path) -> list[str]:
    """Everything in an installed vLLM that is not what the patches were made from, a line each.

    A file that is the same as a whole is not parsed, so this takes milliseconds for the vLLM that
    the patches are for.
    """
    found: list[str] = []
    for entry in entries:
        file = entry.installed(package)
        try:
            data = file.read_bytes()
        except OSError:
            found.append(f"{entry.module}: vLLM has no {file.name} of it")
            continue
        if digest(data) == entry.sha256:
            continue
        try:
            apply(Source.parse(data), entry.read())
        except PatchError as error:
            found += [f"{error.path}: {problem}" for problem in error.problems]
        except SyntaxError as error:
            found.append(f"{entry.module}: {file} does not parse: {error}")
    return found


def _loader_of(module: types.ModuleType) -> object:
    return getattr(getattr(module, "__spec__", None), "loader", None)
