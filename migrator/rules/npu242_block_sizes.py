# SPDX-License-Identifier: Apache-2.0
"""NPU242: the sizes of blocks, which are computed on the host."""

from __future__ import annotations

from collections.abc import Iterator

from migrator.codemod.matchers import mentions
from migrator.codemod.rule import File, Finding, Insert, Rule, Safety, Site, changed, migrated

_IMPORTING = "vllm/triton_utils/importing.py"
_CLASS = "TritonPlaceholder"
_FUNCTION = "next_power_of_2"
_SITE = f"{_CLASS}.{_FUNCTION}"
CODE = """\
@staticmethod
def next_power_of_2(n: int) -> int:
    # Sizes of blocks are asked for on the host, whatever runs in a kernel's place.
    return 1 << max(n - 1, 0).bit_length()
"""


class BlockSizes(Rule):
    """Answer `triton.next_power_of_2` where Triton is not.

    ## What it does
    Gives `TritonPlaceholder`, which stands for `triton` where there is no Triton, the function
    `next_power_of_2`.

    ## Why
    Releases before 0.20 ask it for the size of a block before they launch a kernel of speculative
    decoding, and the model runner V2 before several of its own. An NPU runs operators of PyTorch in
    the place of the kernel, and there is no Triton to ask: the request ends the engine.

    ## Example
    ```python
    class TritonPlaceholder(types.ModuleType):
        @staticmethod
        def next_power_of_2(n: int) -> int: ...
    ```

    ## Safety
    Equivalent where Triton is: the placeholder is not used there.
    """

    code = "NPU242"
    safety = Safety.EQUIVALENT
    paths = (_IMPORTING,)
    triggers = (rf"class {_CLASS}\b",)
    sites = (Site(_SITE, (_IMPORTING,)),)

    def check(self, file: File) -> Iterator[Finding]:
        """Report the placeholder's class."""
        class_ = file.class_(_CLASS)
        if class_ is None:
            return
        if mentions(class_, _FUNCTION):
            yield migrated(_SITE, class_)
            return
        yield changed(
            _SITE,
            class_,
            "a launch asks for the size of a block where no Triton is",
            Insert(class_.body.body[-1], CODE, where="after", blank_lines=1),
        )
