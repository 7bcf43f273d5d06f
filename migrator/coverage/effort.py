# SPDX-License-Identifier: Apache-2.0
"""How much work a site is to whoever ports it, and why: judged by its kind and its source."""

from __future__ import annotations

import enum
from collections.abc import Collection
from dataclasses import dataclass

from migrator.coverage.surface import ANNOTATION, NAMESPACE, Kind, Site
from migrator.rules.npu210_device_module import NAMES

KERNEL = 60
"""Lines of a Triton kernel above which writing it anew is a large piece of work."""


class Effort(enum.Enum):
    """How much work it is."""

    TRIVIAL = "trivial"
    """One expression is written in another way, as a rule does it elsewhere."""
    SMALL = "small"
    """A function is looked at, a branch or an import guard is added."""
    LARGE = "large"
    """An operator or a kernel has to be found or written for the NPU."""


@dataclass(frozen=True, slots=True)
class Judgement:
    """An effort and its reason."""

    effort: Effort
    why: str


_BY_KIND = {
    Kind.IS_CUDA: Judgement(Effort.TRIVIAL, "ask for the device's type, as NPU110 does"),
    Kind.DEVICE_LITERAL: Judgement(Effort.TRIVIAL, "take the platform's device type"),
    Kind.CUDA_CALL: Judgement(Effort.TRIVIAL, "move to the platform's device type"),
    Kind.DEVICE_TYPE: Judgement(Effort.TRIVIAL, "ask for the platform's device type as well"),
    Kind.PLATFORM_BRANCH: Judgement(Effort.SMALL, "see what an NPU needs beside this branch"),
}


def judge(site: Site, ported: Collection[str], kernels: dict[str, int]) -> Judgement:
    """Judge one site.

    Args:
        site: what was found.
        ported: operators of vLLM's CUDA extension that a rule has an NPU's operator for.
        kernels: lines of every Triton kernel of the tree, by name.
    """
    if site.guard == ANNOTATION:
        return Judgement(Effort.TRIVIAL, "an annotation; torch has the name on every device")
    match site.kind:
        case Kind.TORCH_CUDA:
            return _torch_cuda(site)
        case Kind.NCCL:
            if "nccl" in site.source.lower() and site.source[:1] in "'\"":
                return Judgement(Effort.TRIVIAL, "name the platform's backend, as NPU130 does")
            return Judgement(Effort.LARGE, "NCCL's library is called; HCCL has another interface")
        case Kind.CUSTOM_OP:
            operator = NAMESPACE.sub("", site.source).strip(".")
            if not operator:
                return Judgement(Effort.TRIVIAL, "asks which operators the CUDA extension has")
            if operator.partition(".")[0] in ported:
                return Judgement(Effort.SMALL, "a rule knows an NPU's operator for it")
            return Judgement(Effort.LARGE, "an operator of vLLM's CUDA extension")
        case Kind.TRITON_KERNEL:
            return _kernel(site.size)
        case Kind.TRITON_LAUNCH:
            return _kernel(kernels.get(site.source.partition("[")[0].rpartition(".")[2], 0))
        case Kind.CUDA_IMPORT:
            if site.guard is not None:
                return Judgement(Effort.TRIVIAL, "the import is guarded")
            if site.unit == site.function == "<module>":
                return Judgement(Effort.LARGE, "the whole module is made for the package")
            return Judgement(Effort.SMALL, "guard the import, or do without the package")
    return _BY_KIND[site.kind]


def _torch_cuda(site: Site) -> Judgement:
    name = site.source.removeprefix("torch.cuda.").partition(".")[0]
    if name in NAMES:
        return Judgement(Effort.TRIVIAL, f"torch.npu has {name}; NPU210 rewrites it elsewhere")
    if site.source.startswith(("import", "from")):
        return Judgement(Effort.SMALL, "see what is used of the module")
    return Judgement(Effort.SMALL, f"see whether torch.npu has {name}")


def _kernel(lines: int) -> Judgement:
    if 0 < lines <= KERNEL:
        return Judgement(Effort.SMALL, f"a Triton kernel of {lines} lines: a few torch operators")
    length = f" of {lines} lines" if lines else ""
    return Judgement(Effort.LARGE, f"a Triton kernel{length}; it needs one for the NPU")
