# SPDX-License-Identifier: Apache-2.0
"""NPU261: where the model runner V2 gets the KV cache from."""

from __future__ import annotations

from migrator.codemod.recipes.branches import PlatformBranch
from migrator.codemod.rule import Absence, Rule
from migrator.files.tree import Tree

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
    recipes = (
        PlatformBranch(
            "allocate_kv_cache",
            ("vllm/v1/worker/utils.py",),
            body=_BODY,
            reason="no layout of vLLM keeps all keys in one contiguous tensor",
            absent=(
                Absence("<0.29", "backends say the shape of their cache", _backends_say_the_shape),
            ),
        ),
    )
