# SPDX-License-Identifier: Apache-2.0
"""NPU226: the grammar's mask of structured outputs."""

from __future__ import annotations

from collections.abc import Iterator

import libcst as cst

from migrator.codemod.matchers import walk
from migrator.codemod.recipes import has_npu_branch, mentions
from migrator.codemod.rule import (
    File,
    Finding,
    Insert,
    Rule,
    Safety,
    Site,
    changed,
    manual,
    migrated,
)

_UTILS = "vllm/v1/structured_output/utils.py"
_RUNNER = "vllm/v1/worker/gpu_model_runner.py"
_SITE = "apply_grammar_bitmask"
_NAMES = {_UTILS: _SITE, _RUNNER: f"GPUModelRunner.{_SITE}"}
_MASK = "sorted_bitmask"
BODY = """\
if logits.device.type == "npu":
    from vllm.v1.worker.npu_kernels import apply_token_bitmask

    apply_token_bitmask(logits, sorted_bitmask)
    return
"""


class GrammarBitmask(Rule):
    """Forbid what a grammar forbids without xgrammar's kernels on NPUs.

    ## What it does
    Gives `apply_grammar_bitmask` a branch for NPU tensors once the mask is in the order of the
    batch: `apply_token_bitmask` in `vllm/v1/worker/npu_kernels.py`, which the tool adds.

    ## Why
    For an NPU the xgrammar that older releases ask for compiles its kernel with Inductor, which
    asks Triton for a driver: the first request with a structured output ends the engine. The mask
    is made on the host anyway, one bit a token; its words are copied and unpacked on the device.

    ## Example
    ```python
    if logits.device.type == "npu":
        from vllm.v1.worker.npu_kernels import apply_token_bitmask

        apply_token_bitmask(logits, sorted_bitmask)
        return
    ```

    ## Safety
    Guarded by the device of the logits.
    """

    code = "NPU226"
    safety = Safety.GUARDED
    paths = (_UTILS, _RUNNER)
    triggers = (rf"def {_SITE}\b",)
    sites = (Site(_SITE, (_UTILS, _RUNNER)),)

    def check(self, file: File) -> Iterator[Finding]:
        """Report the function that orders the mask and applies it."""
        function = file.function(_NAMES[file.path])
        if function is None:
            return
        if has_npu_branch(function):
            yield migrated(_SITE, function)
            return
        filled = [s for s in function.body.body if _fills_mask(s)]
        takes_logits = any(p.name.value == "logits" for p in function.params.params)
        if not filled or not takes_logits:
            yield manual(_SITE, function, f"there is no loop that orders {_MASK} for the logits")
            return
        yield changed(
            _SITE,
            function,
            "xgrammar's kernel for other devices than CUDA is compiled by Inductor",
            Insert(filled[-1], BODY, where="after"),
        )


def _fills_mask(statement: cst.CSTNode) -> bool:
    """Is the statement a loop that assigns to rows of the mask?"""
    return isinstance(statement, cst.For) and any(
        isinstance(node, cst.AssignTarget)
        and isinstance(node.target, cst.Subscript)
        and mentions(node.target.value, _MASK)
        for node in walk(statement.body)
    )
