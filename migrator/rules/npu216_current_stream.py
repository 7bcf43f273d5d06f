# SPDX-License-Identifier: Apache-2.0
"""NPU216: the stream that work of this thread goes to."""

from __future__ import annotations

from migrator.codemod.recipes.branches import PlatformBranch
from migrator.codemod.rule import Rule


class CurrentStream(Rule):
    """Ask torch_npu for the current stream on an NPU.

    ## What it does
    Lets `vllm.utils`' `current_stream` return `torch.npu.current_stream()` on an NPU.

    ## Why
    The function remembers a stream which `torch.cuda.set_stream` keeps up to date, since vLLM
    replaces that function. `torch.npu.stream` does not pass by it: the answer would stay the first
    stream for good, and a graph captured on it would miss the work of the side stream.
    """

    code = "NPU216"
    recipes = (
        PlatformBranch(
            "current_stream",
            ("vllm/utils/torch_utils.py", "vllm/utils/__init__.py", "vllm/utils.py"),
            body="return torch.npu.current_stream()\n",
            reason="what it remembers is kept up to date by torch.cuda.set_stream only",
        ),
    )
