# SPDX-License-Identifier: Apache-2.0
"""Runs an untouched vLLM on Huawei Ascend NPUs. Made by vllm-npu-migrate.

vLLM asks `platform` in every process, when something first wants to know the platform, which is
before any engine is made. Where an NPU is found, the patches of this package are checked against
the installed vLLM and put in force: at once in modules that are there, and in others as they are
imported. `finish` is called by vLLM in every process before its worker is made.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .importing import Entry, Finder

HERE = Path(__file__).resolve().parent
PLATFORM = f"{__name__}.platforms.npu.NPUPlatform"
"""What vLLM is told where an NPU is found."""
REFUSED = f"{__name__}.refused.NPUPlatform"
"""What it is told where the patches do not fit: vLLM logs or drops what a plugin raises, but not
what raises while it imports the platform."""

logger = logging.getLogger(f"vllm.{__name__}")


class RefusedError(RuntimeError):
    """The installed vLLM is not the one that the patches were made from."""


class _State:
    finder: Finder | None = None
    refusal: str | None = None


def platform() -> str | None:
    """Entry point of `vllm.platform_plugins`: the platform's class, where there is an NPU."""
    try:
        import torch
        import torch_npu  # noqa: F401

        if not torch.npu.is_available():
            logger.debug("No NPU is found.")
            return None
    except Exception as error:
        logger.debug("The NPU platform is not available: %s", error)
        return None
    return PLATFORM if activate() else REFUSED


def finish() -> None:
    """Entry point of `vllm.general_plugins`: see to it that every patch is in force.

    Raises:
        RefusedError: the patches do not fit this vLLM, or a module is loaded without its patch.
    """
    if _State.refusal is not None:
        raise RefusedError(_State.refusal)
    if _State.finder is None:
        return
    left = _State.finder.patch_pending() or _State.finder.unpatched()
    if left:
        raise RefusedError(f"{__name__}: {', '.join(left)} could not be patched in this process")


def activate() -> bool:
    """Check the patches and put them in force; False, and a refusal, where they do not fit."""
    from .importing import Finder, misfits
    from .patching import PatchError

    if _State.finder is not None or _State.refusal is not None:
        return _State.refusal is None
    import vllm  # type: ignore[import-not-found]

    package = Path(vllm.__path__[0])
    try:
        chosen = entries()
        problems = _foreign(package) or misfits(chosen, package)
        if not problems:
            _State.finder = Finder({entry.module: entry for entry in chosen})
            _State.finder.install()
            logger.info("%d patches fit the vLLM in %s", len(chosen), package.parent)
            return True
    except PatchError as error:
        problems = str(error).splitlines()
    except Exception as error:
        # vLLM would drop it.
        logger.exception("The patches cannot be applied")
        problems = [f"{type(error).__name__}: {error}"]
    _State.refusal = _refusal(package, problems)
    return False


def entries() -> list[Entry]:
    """The patches of this package, those of the platform first."""
    from .importing import Entry
    from .patches import PATCHES

    folder = HERE / "patches"
    return [Entry(module, folder / file, sha256) for module, (file, sha256) in PATCHES.items()]


def _foreign(package: Path) -> list[str]:
    if (package / "platforms" / "npu.py").is_file():
        return ["this vLLM has an NPU platform of its own: use one without, or no plugin"]
    return []


def _refusal(package: Path, problems: list[str]) -> str:
    from .patches import MADE_FROM

    shown = "\n".join(f"  {problem}" for problem in problems)
    return (
        f"{__name__} refuses the vLLM in {package.parent}. It was made from {MADE_FROM}, and:\n"
        f"{shown}\n"
        "Make the plugin from the source of this vLLM and install that one:\n"
        "  vllm-npu-migrate apply SOURCE --layout plugin -o DIR && pip install DIR"
    )
