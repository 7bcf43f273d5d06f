# SPDX-License-Identifier: Apache-2.0
"""NPU216: the stream that work of this thread goes to."""

from __future__ import annotations

from collections.abc import Iterator

from migrator.codemod.rule import File, Finding, Rule, Safety, Site
from migrator.rules._platform_branch import platform_branch

_HOMES = ("vllm/utils/torch_utils.py", "vllm/utils/__init__.py", "vllm/utils.py")
_SITE = "current_stream"


class CurrentStream(Rule):
    """Ask torch_npu for the current stream on an NPU.

    ## What it does
    Lets `vllm.utils`' `current_stream` return `torch.npu.current_stream()` on an NPU.

    ## Why
    The function remembers a stream which `torch.cuda.set_stream` keeps up to date, since vLLM
    replaces that function. `torch.npu.stream` does not pass by it: the answer would stay the first
    stream for good, and a graph captured on it would miss the work of the side stream.

    ## Example
    ```python
    if current_platform.device_type == "npu":
        return torch.npu.current_stream()
    ```

    ## Safety
    Guarded by the platform's device type.
    """

    code = "NPU216"
    safety = Safety.GUARDED
    paths = _HOMES
    triggers = (r"def current_stream\b",)
    sites = (Site(_SITE, _HOMES),)

    def check(self, file: File) -> Iterator[Finding]:
        """Report the function."""
        yield from platform_branch(
            file,
            _SITE,
            body="return torch.npu.current_stream()\n",
            reason="what it remembers is kept up to date by torch.cuda.set_stream only",
        )
