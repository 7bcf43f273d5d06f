# SPDX-License-Identifier: Apache-2.0
"""NPU261: where the model runner V2 gets the KV cache from."""

from __future__ import annotations

from collections.abc import Iterator

from migrator.codemod.rule import Absence, File, Finding, Rule, Safety, Site
from migrator.files.tree import Tree
from migrator.rules._platform_branch import platform_branch

_UTILS = "vllm/v1/worker/utils.py"
_SITE = "allocate_kv_cache"
_BODY = """\
from vllm.v1.worker.npu_model_runner import allocate_npu_kv_cache

return allocate_npu_kv_cache(kv_cache_config, device, kernel_block_sizes)
"""


def _backends_say_the_shape(tree: Tree) -> bool:
    """Is the cache allocated in the shape that the attention backend says?"""
    homes = ("vllm/v1/attention/backend.py", "vllm/attention/backends/abstract.py")
    return any(tree.definition(h, "AttentionBackend.get_kv_cache_shape") for h in homes)


class KVCacheAllocation(Rule):
    """Allocate the KV cache as NPU operators take it.

    ## What it does
    Gives `allocate_kv_cache` a branch for the NPU: `vllm/v1/worker/npu_model_runner.py`, which
    the tool adds.

    ## Why
    vLLM's layouts all hold a token's keys and values one after the other. NPU operators take the
    keys of all blocks in one contiguous tensor and the values in another.

    ## Example
    ```python
    if current_platform.device_type == "npu":
        from vllm.v1.worker.npu_model_runner import allocate_npu_kv_cache

        return allocate_npu_kv_cache(kv_cache_config, device, kernel_block_sizes)
    ```

    ## Safety
    Guarded by the platform's device type.
    """

    code = "NPU261"
    safety = Safety.GUARDED
    paths = (_UTILS,)
    triggers = (r"def allocate_kv_cache\b",)
    sites = (
        Site(
            _SITE,
            (_UTILS,),
            (Absence("<0.29", "backends say the shape of their cache", _backends_say_the_shape),),
        ),
    )

    def check(self, file: File) -> Iterator[Finding]:
        """Report the function."""
        yield from platform_branch(
            file,
            _SITE,
            body=_BODY,
            reason="no layout of vLLM keeps all keys in one contiguous tensor",
        )
