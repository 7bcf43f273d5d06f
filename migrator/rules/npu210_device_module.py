# SPDX-License-Identifier: Apache-2.0
"""NPU210: streams, events, memory and graphs of the device at hand."""

from __future__ import annotations

from collections.abc import Iterator

import libcst as cst

from migrator.matchers import Place, dotted, places
from migrator.rule import (
    Absence,
    Example,
    File,
    Finding,
    Replace,
    Rule,
    Safety,
    Site,
    changed,
    migrated,
)
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
_WORKER = "vllm/v1/worker/gpu_worker.py"
_STATE = "vllm/distributed/parallel_state.py"
_GRAPH = "vllm/compilation/cuda_graph.py"
_MEMORY = "vllm/utils/mem_utils.py"
_UTILS = "vllm/utils/__init__.py"
_UTILS_SCOPES = ("MemorySnapshot", "memory_profiling", "DeviceMemoryProfiler")
"""What the NPU's worker uses of `vllm.utils`; the rest there is CUDA's own bookkeeping."""


class DeviceModule(Rule):
    """Call the device's own torch module on the path that the NPU worker shares with the GPU's.

    ## What it does
    Rewrites `torch.cuda.Event(...)`, `torch.cuda.Stream(...)`, `torch.cuda.synchronize()` and the
    other names that `torch.npu` has as well to `device_module().…`, and `torch.cuda.CUDAGraph()` to
    `device_graph()`. Only in the files that the NPU worker and model runner inherit from or call:
    GPU worker, GPU model runner, process groups, graph capture, memory measurement. Annotations
    stay.

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
    paths = (_RUNNER, _WORKER, _STATE, _GRAPH, _MEMORY, _UTILS)
    triggers = (r"torch\.cuda\.", r"device_module\(\)")
    sites = (
        Site("GPUModelRunner", (_RUNNER,)),
        Site("GroupCoordinator.graph_capture", (_STATE,)),
        Site("graph_capture", (_STATE,)),
        Site(
            "CUDAGraphWrapper.__call__",
            (_GRAPH,),
            (Absence("<0.10.1", "graphs are captured by CUDAPiecewiseBackend there"),),
        ),
    )
    examples = (
        Example(
            path=_STATE,
            before="""\
import torch

from vllm.logger import init_logger


def graph_capture(device: torch.device, stream: torch.cuda.Stream | None = None):
    if stream is None:
        stream = torch.cuda.Stream(device=device)
    with torch.cuda.stream(stream):
        yield torch.cuda.memory.MemPool
""",
            after="""\
import torch

from vllm.accelerator import device_module
from vllm.logger import init_logger


def graph_capture(device: torch.device, stream: torch.cuda.Stream | None = None):
    if stream is None:
        stream = device_module().Stream(device=device)
    with device_module().stream(stream):
        yield torch.cuda.memory.MemPool
""",
        ),
        Example(
            path=_GRAPH,
            before="""\
import torch

from vllm.logger import init_logger


class CUDAGraphWrapper:
    def __call__(self):
        cudagraph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(cudagraph, pool=self.graph_pool):
            return self.runnable()
""",
            after="""\
import torch

from vllm.accelerator import device_graph, device_module
from vllm.logger import init_logger


class CUDAGraphWrapper:
    def __call__(self):
        cudagraph = device_graph()
        with device_module().graph(cudagraph, pool=self.graph_pool):
            return self.runnable()
""",
        ),
        Example(
            path=_UTILS,
            before="""\
import torch


def _patched_set_stream(stream: torch.cuda.Stream) -> None:
    prev_set_stream(stream)


torch.cuda.set_stream = _patched_set_stream
""",
        ),
    )

    def check(self, file: File) -> Iterator[Finding]:
        """Report calls through `torch.cuda` and those that are rewritten already."""
        for place in places(file.module, cst.Attribute):
            node = place.node
            site = _site(place)
            if file.path == _UTILS and site.partition(".")[0] not in _UTILS_SCOPES:
                continue
            if isinstance(node.value, cst.Call) and dotted(node.value.func) == DEVICE_MODULE:
                yield migrated(site, node, [DEVICE_MODULE])
            elif dotted(node.value) == "torch.cuda" and not _is_annotation(place):
                yield from _rewrite(site, node, place)


def _rewrite(site: str, node: cst.Attribute, place: Place[cst.CSTNode]) -> Iterator[Finding]:
    name = node.attr.value
    if name in NAMES:
        inner = node.value
        yield changed(
            site,
            node,
            f"torch.cuda.{name} belongs to CUDA; the NPU worker shares this code",
            Replace(inner, lambda _: cst.parse_expression(f"{DEVICE_MODULE}()")),
            needs=[DEVICE_MODULE],
        )
    elif name == "CUDAGraph" and isinstance(place.parent, cst.Call) and place.parent.func is node:
        yield changed(
            site,
            node,
            "torch.cuda.CUDAGraph belongs to CUDA; the NPU's graphs are torch.npu.NPUGraph",
            Replace(node, lambda _: cst.Name(DEVICE_GRAPH)),
            needs=[DEVICE_MODULE, DEVICE_GRAPH],
        )


def _site(place: Place[cst.CSTNode]) -> str:
    """The function around a node; all of the model runner's are one site."""
    name = place.qualified_name
    return "GPUModelRunner" if name.startswith("GPUModelRunner.") else name


def _is_annotation(place: Place[cst.CSTNode]) -> bool:
    return any(isinstance(above, cst.Annotation) for above in place.ancestors)
