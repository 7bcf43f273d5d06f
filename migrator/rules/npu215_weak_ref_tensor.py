# SPDX-License-Identifier: Apache-2.0
"""NPU215: a tensor that shares memory without keeping it."""

from __future__ import annotations

from collections.abc import Iterator

import libcst as cst

from migrator.codemod.matchers import places
from migrator.codemod.recipes import tests_for_npu
from migrator.codemod.rule import (
    TORCH_NPU,
    File,
    Finding,
    Insert,
    Rule,
    Safety,
    Site,
    changed,
    migrated,
)

_HOMES = ("vllm/utils/torch_utils.py", "vllm/utils/__init__.py", "vllm/utils.py")
_SITE = "weak_ref_tensor"


class WeakRefTensor(Rule):
    """Make weak references to NPU tensors with torch_npu.

    ## What it does
    Gives `weak_ref_tensor` a branch for NPU tensors: `torch_npu._C._weak_ref_tensor`.

    ## Why
    It calls `torch.ops._C.weak_ref_tensor`, an operator of vLLM's CUDA extension. Without it, every
    captured graph keeps its inputs and outputs in memory, or the call fails.

    ## Example
    ```python
    if tensor.device.type == "npu":
        return torch_npu._C._weak_ref_tensor(tensor)
    return torch.ops._C.weak_ref_tensor(tensor)
    ```

    ## Safety
    Guarded by the tensor's device.
    """

    code = "NPU215"
    safety = Safety.GUARDED
    paths = _HOMES
    triggers = (r"def weak_ref_tensor\b",)
    sites = (Site(_SITE, _HOMES),)

    def check(self, file: File) -> Iterator[Finding]:
        """Report the function's return of CUDA's operator."""
        function = file.function(_SITE)
        if function is None:
            return
        if any(tests_for_npu(place.node) for place in places(function.body, cst.Comparison)):
            yield migrated(_SITE, function, [TORCH_NPU])
            return
        for place in places(function.body, cst.Return):
            if "_C.weak_ref_tensor(tensor)" in file.code(place.node):
                branch = (
                    'if tensor.device.type == "npu":\n'
                    "    return torch_npu._C._weak_ref_tensor(tensor)\n"
                )
                yield changed(
                    _SITE,
                    function,
                    "the operator is one of vLLM's CUDA extension",
                    Insert(place.statement, branch),
                    needs=[TORCH_NPU],
                )
