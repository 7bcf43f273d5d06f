# SPDX-License-Identifier: Apache-2.0
"""NPU403: NPUs in the report of the environment."""

from __future__ import annotations

from collections.abc import Iterator

import libcst as cst

from migrator.codemod.matchers import dotted, first_statement, mentions, places
from migrator.codemod.recipes.rewrites import with_elements
from migrator.codemod.rule import (
    File,
    Finding,
    Insert,
    Replace,
    Rule,
    Safety,
    Site,
    changed,
    migrated,
)

_PATH = "vllm/collect_env.py"
_PREFIXES = ('"ASCEND"', '"CANN"', '"HCCL"')

CODE = """\
if TORCH_AVAILABLE and hasattr(torch, "npu") and torch.npu.is_available():
    return "\\n".join(
        f"NPU {i}: {torch.npu.get_device_name(i)}"
        for i in range(torch.npu.device_count())
    )
"""


class CollectEnv(Rule):
    """Report NPUs and the environment variables of CANN in `vllm collect-env`.

    ## What it does
    `get_gpu_info` names the NPUs where there are some, and `get_env_vars` reports variables that
    begin with `ASCEND`, `CANN` and `HCCL`. The version of `torch_npu` is in the list of packages
    already, which looks for `torch`.

    ## Why
    It is the first thing that is asked for in a bug report, and `nvidia-smi` knows no NPU.

    ## Example
    ```text
    GPU models and configuration : NPU 0: Ascend910B1
    ```

    ## Safety
    Guarded: without an NPU the functions go on as before; only more variables may be reported.
    """

    code = "NPU403"
    safety = Safety.GUARDED
    paths = (_PATH,)
    triggers = (r"def get_gpu_info",)
    sites = (Site("get_gpu_info", (_PATH,)), Site("get_env_vars", (_PATH,)))

    def check(self, file: File) -> Iterator[Finding]:
        """Report the two functions."""
        info = file.function("get_gpu_info")
        if info is not None:
            if mentions(info, "npu"):
                yield migrated("get_gpu_info", info)
            else:
                yield changed(
                    "get_gpu_info",
                    info,
                    "nvidia-smi knows no NPU",
                    Insert(first_statement(info), CODE),
                )
        variables = file.function("get_env_vars")
        if variables is not None:
            for place in places(variables, cst.Assign):
                node = place.node
                if dotted(node.targets[0].target) != "report_prefix" or not isinstance(
                    node.value, cst.Tuple
                ):
                    continue
                if '"HCCL"' in file.code(node.value):
                    yield migrated("get_env_vars", node)
                else:
                    yield changed(
                        "get_env_vars",
                        node,
                        "the variables of CANN and HCCL are not reported",
                        Replace(node.value, lambda value: with_elements(value, *_PREFIXES)),
                    )
