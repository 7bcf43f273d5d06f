# SPDX-License-Identifier: Apache-2.0
"""NPU210: streams, events, memory and graphs of the device at hand."""

from __future__ import annotations

from collections.abc import Iterator

import libcst as cst

from migrator.codemod.matchers import Place, dotted, places
from migrator.codemod.package_aliases import named_by_string, origins
from migrator.codemod.rule import (
    Absence,
    File,
    Finding,
    Replace,
    Rule,
    Safety,
    Site,
    changed,
    manual,
    migrated,
)
from migrator.files.tree import Tree
from migrator.rules._runner_v2 import CAPTURE_SITE
from migrator.rules.npu200_device_module_import import DEVICE_GRAPH, DEVICE_MODULE

NAMES = frozenset(
    {
        "Event",
        "Stream",
        "current_stream",
        "default_stream",
        "device_count",
        "empty_cache",
        "get_device_properties",
        "graph",
        "graph_pool_handle",
        "is_available",
        "max_memory_allocated",
        "mem_get_info",
        "memory_allocated",
        "memory_reserved",
        "memory_stats",
        "reset_peak_memory_stats",
        "set_device",
        "set_stream",
        "stream",
        "synchronize",
    }
)
"""Names of `torch.cuda` that `torch.npu` has with the same meaning and parameters."""

_RUNNER = "vllm/v1/worker/gpu_model_runner.py"
_RUNNER_V2 = "vllm/v1/worker/gpu/**/*.py"
_WORKER = "vllm/v1/worker/gpu_worker.py"
_STATE = "vllm/distributed/parallel_state.py"
_GRAPH = "vllm/compilation/cuda_graph.py"
_PIECEWISE = "vllm/compilation/cuda_piecewise_backend.py"
_MEMORY = "vllm/utils/mem_utils.py"
_UTILS = "vllm/utils/__init__.py"
_CUDA = "torch.cuda"
_UTILS_SCOPES = ("MemorySnapshot", "memory_profiling", "DeviceMemoryProfiler")
"""What the NPU's worker uses of `vllm.utils`; the rest there is CUDA's own bookkeeping."""


def _piecewise_captures(tree: Tree) -> bool:
    """Does the backend of a model's pieces capture their graphs by itself?"""
    return "CUDAGraph" in tree.names(_PIECEWISE, "CUDAPiecewiseBackend")


class DeviceModule(Rule):
    """Call the device's own torch module on the path that the NPU worker shares with the GPU's.

    ## What it does
    Rewrites `torch.cuda.Event(...)`, `torch.cuda.Stream(...)`, `torch.cuda.synchronize()` and the
    other names that `torch.npu` has as well to `device_module().…`, and `torch.cuda.CUDAGraph()` to
    `device_graph()`. Only in the files that the NPU worker and model runner inherit from or call:
    GPU worker, GPU model runners V1 and V2, process groups, graph capture, memory measurement.
    Annotations stay. `torch.cuda` is what the imports say: `import torch.cuda as tc`, `from torch
    import cuda`, `from torch.cuda import Stream` and `import torch as th` are seen through, and a
    parameter or variable of such a name is not. What is taken by a string, or may be something
    else, is left for a person.

    ## Why
    These calls are unconditional there, and on an NPU they would open a CUDA device. Replacing the
    names inside of `torch.cuda` at run time, as the CPU and XPU workers do, would change them for
    every library of the process. `current_platform.Event` is no way: `torch.cpu` and `torch.xpu`
    lack some of the names which those workers put into `torch.cuda` for themselves.

    ## Example
    ```python
    self.transfer_event = device_module().Event()
    with device_module().stream(self.copy_stream):
    ```

    ## Safety
    Equivalent: `device_module()` returns `torch.cuda` unless the platform's device type is `npu`,
    and looks names up at every call, so replacements made by other workers are still seen.
    """

    code = "NPU210"
    safety = Safety.EQUIVALENT
    paths = (_RUNNER, _WORKER, _STATE, _GRAPH, _MEMORY, _UTILS, _RUNNER_V2)
    triggers = (r"\bcuda\b", r"device_module\(\)")
    reads = (r"\btorch\b(?!\.)",)  # what may bind the name
    sites = (
        Site("GPUModelRunner", (_RUNNER,)),
        Site("GroupCoordinator.graph_capture", (_STATE,)),
        Site("graph_capture", (_STATE,)),
        CAPTURE_SITE,
        Site(
            "CUDAGraphWrapper.__call__",
            (_GRAPH,),
            (
                Absence(
                    "<0.10.1",
                    "graphs are captured by CUDAPiecewiseBackend there",
                    _piecewise_captures,
                ),
            ),
        ),
    )

    def check(self, file: File) -> Iterator[Finding]:
        """Report calls through `torch.cuda`, by whatever name, and those rewritten already."""
        for place in places(file.kept, cst.Attribute):
            node = place.node
            called = dotted(node.value.func) if isinstance(node.value, cst.Call) else None
            if called == DEVICE_MODULE and _is_shared(file, place):
                yield migrated(_site(file, place), node, [DEVICE_MODULE])
        for origin in origins(file, _CUDA):
            if _is_annotation(origin.place) or not _is_shared(file, origin.place):
                continue
            before: cst.CSTNode | None = None
            for name, use in origin.chain():
                if name.rpartition(".")[0] == _CUDA:
                    site, attribute = _site(file, use), name.rpartition(".")[2]
                    yield from _rewrite(site, use, before, attribute, origin.certain)
                before = use.node
        for asked in places(file.kept, (cst.Call, cst.Subscript)):
            text = named_by_string(asked.node, _CUDA, NAMES)
            if text is not None and _is_shared(file, asked):
                why = f"it names torch.cuda by a string: {text}"
                yield manual(_site(file, asked), asked.node, why)


def _rewrite(
    site: str, place: Place[cst.CSTNode], before: cst.CSTNode | None, name: str, certain: bool
) -> Iterator[Finding]:
    """Report one use of a name of `torch.cuda`.

    Args:
        site: that it belongs to.
        place: the attribute, or the name where it was imported by itself.
        before: what stands for `torch.cuda` before the dot; None for an imported name.
        name: the name in `torch.cuda`.
        certain: whether it is that for certain.
    """
    node = place.node
    is_called = isinstance(place.parent, cst.Call) and place.parent.func is node
    is_graph = is_called and name == "CUDAGraph"
    if name not in NAMES and not is_graph:
        return
    if not certain:
        yield manual(site, node, f"it may be torch.cuda.{name}, or what else its name is bound to")
    elif is_graph:
        yield changed(
            site,
            node,
            "torch.cuda.CUDAGraph belongs to CUDA; the NPU's graphs are torch.npu.NPUGraph",
            Replace(node, lambda _: cst.Name(DEVICE_GRAPH)),
            needs=[DEVICE_MODULE, DEVICE_GRAPH],
        )
    else:
        call = cst.parse_expression(f"{DEVICE_MODULE}()")
        edit = (
            Replace(node, lambda _: cst.Attribute(call, cst.Name(name)))
            if before is None
            else Replace(before, lambda _: call)
        )
        why = f"torch.cuda.{name} belongs to CUDA; the NPU worker shares this code"
        yield changed(site, node, why, edit, needs=[DEVICE_MODULE])


def _is_shared(file: File, place: Place[cst.CSTNode]) -> bool:
    """Does the NPU's worker share the code around a place?"""
    return file.path != _UTILS or place.qualified_name.partition(".")[0] in _UTILS_SCOPES


def _site(file: File, place: Place[cst.CSTNode]) -> str:
    """The function around a node; all of V1's model runner are one site."""
    name = place.qualified_name
    of_v1 = file.path == _RUNNER and name.startswith("GPUModelRunner.")
    return "GPUModelRunner" if of_v1 else name


def _is_annotation(place: Place[cst.CSTNode]) -> bool:
    return any(isinstance(above, cst.Annotation) for above in place.ancestors)
