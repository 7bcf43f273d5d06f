# SPDX-License-Identifier: Apache-2.0
"""Waits for the import of torch_npu; imports nothing heavy itself."""

from __future__ import annotations

import contextlib
import os
import sys
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence


@contextlib.contextmanager
def _allocator_options_aside() -> Iterator[None]:
    """Let torch_npu register its allocator options beside those of a CUDA build of torch."""
    import ctypes

    # torch first, and without its own import of torch_npu, which is under way.
    autoload = os.environ.get("TORCH_DEVICE_BACKEND_AUTOLOAD")
    os.environ["TORCH_DEVICE_BACKEND_AUTOLOAD"] = "0"
    try:
        import torch  # noqa: F401
    finally:
        if autoload is None:
            del os.environ["TORCH_DEVICE_BACKEND_AUTOLOAD"]
        else:
            os.environ["TORCH_DEVICE_BACKEND_AUTOLOAD"] = autoload
    build = os.environ["ASCEND_SIM"]
    library = ctypes.CDLL(os.path.join(build, "lib", "libascend_sim_torch.so"))
    library.ascend_sim_set_allocator_options_aside()
    try:
        yield
    finally:
        library.ascend_sim_bring_allocator_options_back()


class WaitingLoader(Loader):
    """Loads a module by its own loader, with something done around that."""

    def __init__(self, inner: Loader) -> None:
        self._inner = inner

    @classmethod
    def spec(
        cls, fullname: str, path: Sequence[str] | None, target: ModuleType | None
    ) -> ModuleSpec | None:
        """The spec of a module that this loads; None where there is none."""
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is None or spec.loader is None:
            return None
        spec.loader = cls(spec.loader)
        return spec

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._inner.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        if module.__spec__ is not None:
            # Who asks for the source or resources of the module finds its real loader.
            module.__spec__.loader = module.__loader__ = self._inner
        self.load(module)

    def load(self, module: ModuleType) -> None:
        """Run the module, and what there is to do around it."""
        raise NotImplementedError


class _Loader(WaitingLoader):
    """Loads torch_npu, then boots the simulator."""

    def load(self, module: ModuleType) -> None:
        _Finder.remove()
        with _allocator_options_aside():
            self._inner.exec_module(module)
        from ascend_sim import _boot

        _boot.boot()


class _Finder(MetaPathFinder):
    """Finds torch_npu until it is loaded: whoever only asks for its spec, as transformers does, may
    be the first to do so.
    """

    @classmethod
    def remove(cls) -> None:
        """Leave the import system alone again."""
        sys.meta_path[:] = [finder for finder in sys.meta_path if not isinstance(finder, cls)]

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        return _Loader.spec(fullname, path, target) if fullname == "torch_npu" else None


def install() -> None:
    """Prepare this process: settings that torch_npu reads at import, and the import hook."""
    # torch_npu would run its own work on a thread of its queue, out of step with the kernels
    # here, which run at once.
    os.environ["TASK_QUEUE_ENABLE"] = "0"
    # Where CANN would be: torch_npu complains on stdout without it.
    home = os.path.join(os.environ["ASCEND_SIM"], "home")
    if not os.environ.get("ASCEND_HOME_PATH"):
        os.environ["ASCEND_HOME_PATH"] = home
    if not os.environ.get("ASCEND_OPP_PATH"):
        os.environ["ASCEND_OPP_PATH"] = os.path.join(home, "opp")
    if not os.environ.get("ASCEND_SIM_MACHINE"):
        # A process that was not started by `simulator run` is a machine of its own, shared
        # with its children.
        os.environ["ASCEND_SIM_MACHINE"] = f"pid{os.getpid()}"
        import atexit

        atexit.register(_tear_down, os.getpid(), os.environ["ASCEND_SIM_MACHINE"])
    sys.meta_path.insert(0, _Finder())
    if os.environ.get("ASCEND_SIM_TRITON"):
        from ascend_sim.triton_backend import finder

        finder.install()


def _tear_down(owner: int, machine: str) -> None:
    """Remove the shared memory of a machine when the process that made it ends."""
    if os.getpid() != owner:
        return
    prefix = f"ascend_sim.{os.getuid()}.{machine}."
    try:
        for name in os.listdir("/dev/shm"):
            if name.startswith(prefix):
                os.unlink(os.path.join("/dev/shm", name))
    except OSError:
        pass
