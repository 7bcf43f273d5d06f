# SPDX-License-Identifier: Apache-2.0
"""NPU264: a model runner V2 that needs no Triton."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import libcst as cst

from migrator.codemod.matchers import walk
from migrator.codemod.recipes.platforms import TEST, binds_platform, tests_for_npu
from migrator.codemod.rule import (
    File,
    Finding,
    Replace,
    Rule,
    Safety,
    Site,
    changed,
    manual,
    migrated,
    skipped,
)

_WORKER = "vllm/v1/worker/gpu_worker.py"
_SITE = "Worker.__init__"
_KNOWN = "HAS_TRITON"


def _always(new: cst.CSTNode) -> Callable[[cst.CSTNode], cst.CSTNode]:
    return lambda _: new


class RunnerWithoutTriton(Rule):
    """Let an NPU without Triton have the model runner V2.

    ## What it does
    `Worker.__init__` does not refuse V2 without Triton on an NPU.

    ## Why
    vLLM's V2 is made of Triton kernels. Of those that an NPU reaches, its platform replaces each.

    ## Example
    ```python
    if (
        self.use_v2_model_runner
        and not HAS_TRITON
        and current_platform.device_type != "npu"
    ):
        raise ValueError("Model Runner V2 requires Triton.")
    ```

    ## Safety
    Guarded by the platform's device type.
    """

    code = "NPU264"
    safety = Safety.GUARDED
    paths = (_WORKER,)
    triggers = (r"class Worker\b",)
    sites = (Site(_SITE, (_WORKER,)),)

    def check(self, file: File) -> Iterator[Finding]:
        """Report the refusal, if there is one."""
        function = file.function(_SITE)
        if function is None:
            return
        refusals = [
            statement
            for statement in function.body.body
            if isinstance(statement, cst.If)
            and any(isinstance(n, cst.Name) and n.value == _KNOWN for n in walk(statement.test))
            and any(isinstance(node, cst.Raise) for node in walk(statement.body))
        ]
        if not refusals:
            yield skipped(_SITE, function, "it asks for no Triton")
            return
        for refusal in refusals:
            test = refusal.test
            if tests_for_npu(test):
                yield migrated(_SITE, refusal)
            elif not (
                isinstance(test, cst.BooleanOperation)
                and isinstance(test.operator, cst.And)
                and binds_platform(file, [function])
            ):
                yield manual(_SITE, refusal, "it asks for Triton in another way")
            else:
                other = TEST.replace("==", "!=")
                new: cst.BaseExpression = cst.parse_expression(f"({file.code(test)} and {other})")
                yield changed(
                    _SITE,
                    refusal,
                    "an NPU's platform replaces each kernel of V2 that it reaches",
                    Replace(test, _always(new)),
                )
