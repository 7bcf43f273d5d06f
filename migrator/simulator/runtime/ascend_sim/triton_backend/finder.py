# SPDX-License-Identifier: Apache-2.0
"""Announces the backend to Triton and waits for the import of its interpreter."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from importlib.abc import Loader
from importlib.machinery import ModuleSpec, PathFinder
from importlib.metadata import Distribution, DistributionFinder
from pathlib import Path
from types import ModuleType
from typing import ClassVar

_NAME = "ascend-sim-triton"


class _Loader(Loader):
    """Loads Triton's interpreter by its own loader, then puts the simulated device below it."""

    def __init__(self, inner: Loader) -> None:
        self._inner = inner

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._inner.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        if module.__spec__ is not None:
            module.__spec__.loader = module.__loader__ = self._inner
        self._inner.exec_module(module)
        from ascend_sim.triton_backend import launching

        launching.take_over(module)


class _Distribution(Distribution):
    """What tells Triton of a backend: the entry point of a package that is not installed."""

    _FILES: ClassVar[dict[str, str]] = {
        "METADATA": f"Metadata-Version: 2.1\nName: {_NAME}\nVersion: 0\n",
        "entry_points.txt": "[triton.backends]\nnpu = ascend_sim.triton_backend\n",
    }

    def read_text(self, filename: str) -> str | None:
        return self._FILES.get(filename)

    def locate_file(self, path: str | os.PathLike[str]) -> Path:
        return Path(__file__).parent / path


class _Finder(DistributionFinder):
    def find_distributions(
        self, context: DistributionFinder.Context | None = None
    ) -> Iterator[Distribution]:
        if context is None or context.name in (None, _NAME):
            yield _Distribution()

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != "triton.runtime.interpreter":
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is None or spec.loader is None:
            return None
        spec.loader = _Loader(spec.loader)
        return spec


def install() -> None:
    """Let this process find the backend; kernels that are defined from now on are interpreted."""
    os.environ["TRITON_INTERPRET"] = "1"
    sys.meta_path.insert(0, _Finder())
