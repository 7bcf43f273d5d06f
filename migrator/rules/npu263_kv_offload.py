# SPDX-License-Identifier: Apache-2.0
"""NPU263: blocks of the KV cache that are kept in host memory."""

from __future__ import annotations

from migrator.codemod.recipes.branches import PlatformBranch
from migrator.codemod.rule import Absence, Rule
from migrator.files.tree import Tree

_CONNECTOR = "vllm/distributed/kv_transfer/kv_connector/v1/offloading/worker.py"
_SPEC = "vllm/v1/kv_offload/cpu/spec.py"
_FACTORY = "vllm/distributed/kv_transfer/kv_connector/factory.py"
_HANDLERS = "vllm/v1/kv_offload/worker/worker.py"
_PAGES = """\
from vllm.v1.kv_offload.cpu.npu_worker import canonical_kv_caches

self._init_worker(canonical_kv_caches(self, kv_caches))
return
"""
_WORKER = """\
from vllm.v1.kv_offload.cpu.npu_worker import NPUOffloadingWorker

return NPUOffloadingWorker(self, kv_caches)
"""


def _offloads_nothing(tree: Tree) -> bool:
    """Do connectors register themselves, and none that offloads?"""
    known = tree.definition(_FACTORY, "KVConnectorFactory.register_connector") is not None
    return known and b'"OffloadingConnector"' not in (tree.read(_FACTORY) or b"")


def _offloads_by_handlers(tree: Tree) -> bool:
    """Does a handler move blocks, one for each pair of media?"""
    return tree.definition(_HANDLERS, "OffloadingHandler.transfer_async") is not None


_ABSENT = (
    Absence("<0.11", "no connector offloads the cache", _offloads_nothing),
    Absence(">=0.11,<0.25", "offloading is done by handlers", _offloads_by_handlers),
)


class KVOffload(Rule):
    """Keep blocks of the KV cache in host memory.

    ## What it does
    Adds `vllm/v1/kv_offload/cpu/npu_worker.py`. Gives `register_kv_caches` of the offloading
    connector a branch for the NPU that hands on two pages of each block, and `get_worker` of the
    host's spec one that makes the worker which copies them.

    ## Why
    vLLM takes a layer's block for one piece of memory. On an NPU its keys and its values lie apart:
    the half of a block would be copied, and the other half lost without a word. The worker of
    other platforms copies by address in kernels of CUDA or Triton.

    ## Example
    ```python
    if current_platform.device_type == "npu":
        # It is made of torch_npu, which is there on an NPU only.
        from vllm.v1.kv_offload.cpu.npu_worker import canonical_kv_caches

        self._init_worker(canonical_kv_caches(self, kv_caches))
        return
    ```

    ## Safety
    Guarded by the platform's device type.
    """

    code = "NPU263"
    recipes = (
        PlatformBranch(
            "OffloadingConnectorWorker.register_kv_caches",
            (_CONNECTOR,),
            body=_PAGES,
            reason="a block's keys and values lie apart on an NPU",
            absent=_ABSENT,
        ),
        PlatformBranch(
            "CPUOffloadingSpec.get_worker",
            (_SPEC,),
            body=_WORKER,
            reason="blocks are copied in kernels of CUDA or Triton",
            absent=_ABSENT,
        ),
    )
    templates = ("vllm/v1/kv_offload/cpu/npu_worker.py",)
