# SPDX-License-Identifier: Apache-2.0
"""Announces the backend to Triton and waits for the import of its interpreter."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from importlib.machinery import ModuleSpec
from importlib.metadata import Distribution, DistributionFinder
from pathlib import Path
from types import ModuleType
from typing import ClassVar

from .._hook import WaitingLoader

_NAME = "ascend-sim-triton"


class _Loader(WaitingLoader):
    """Loads Triton's interpreter, then puts the simulated device below it."""

    def load(self, module: ModuleType) -> None:
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
        waited = fullname == "triton.runtime.interpreter"
        return _Loader.spec(fullname, path, target) if waited else None


def install() -> None:
    """Let this process find the backend; kernels that are defined from now on are interpreted."""
    os.environ["TRITON_INTERPRET"] = "1"
    sys.meta_path.insert(0, _Finder())
