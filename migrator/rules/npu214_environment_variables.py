# SPDX-License-Identifier: Apache-2.0
"""NPU214: the NPU's switches among vLLM's environment variables."""

from __future__ import annotations

from collections.abc import Iterator

import libcst as cst

from migrator.codemod.matchers import dotted
from migrator.codemod.rule import (
    File,
    Finding,
    Insert,
    Rule,
    Safety,
    Site,
    changed,
    migrated,
)

_ENVS = "vllm/envs.py"
_TABLE = "environment_variables"

VARIABLES = """\
environment_variables |= {
    # Whether attention and rotary embedding on an NPU use the operators of NNAL
    # (ATB). If unset, they do where these are installed.
    "VLLM_NPU_USE_NNAL": lambda: (
        bool(int(os.environ["VLLM_NPU_USE_NNAL"]))
        if "VLLM_NPU_USE_NNAL" in os.environ
        else None
    ),
    # Keep the weights of linear layers on an NPU in the FRACTAL_NZ format.
    "VLLM_NPU_WEIGHT_NZ": lambda: bool(int(os.getenv("VLLM_NPU_WEIGHT_NZ", "0"))),
    # Wait for the last step on an NPU before a graph of the next one is replayed.
    "VLLM_NPU_SYNCHRONIZE_STEPS": lambda: bool(
        int(os.getenv("VLLM_NPU_SYNCHRONIZE_STEPS", "1"))
    ),
    # Let float32 models pass to the attention operators of an NPU. No device takes
    # them; a simulated one may.
    "VLLM_NPU_ALLOW_FLOAT32": lambda: bool(
        int(os.getenv("VLLM_NPU_ALLOW_FLOAT32", "0"))
    ),
}
"""


class EnvironmentVariables(Rule):
    """Declare the NPU's switches with vLLM's environment variables.

    ## What it does
    Adds `VLLM_NPU_USE_NNAL`, `VLLM_NPU_WEIGHT_NZ`, `VLLM_NPU_SYNCHRONIZE_STEPS` and
    `VLLM_NPU_ALLOW_FLOAT32` to `environment_variables`.

    ## Why
    `vllm.envs` is how vLLM reads switches, tells them to its workers and, in later releases, warns
    of a variable that it does not know.

    ## Example
    ```python
    environment_variables |= {
        "VLLM_NPU_WEIGHT_NZ": lambda: bool(int(os.getenv("VLLM_NPU_WEIGHT_NZ", "0"))),
    }
    ```

    ## Safety
    Guarded: nothing but the NPU's code reads them.
    """

    code = "NPU214"
    safety = Safety.GUARDED
    paths = (_ENVS,)
    triggers = (_TABLE,)
    sites = (Site(_TABLE, (_ENVS,), whole=False),)

    def check(self, file: File) -> Iterator[Finding]:
        """Report the table of variables."""
        for statement in file.kept.body:
            if not isinstance(statement, cst.SimpleStatementLine):
                continue
            part = statement.body[0]
            if isinstance(part, cst.AugAssign) and dotted(part.target) == _TABLE:
                yield migrated(_TABLE, statement)
                return
        table = file.assignment(_TABLE)
        if table is not None:
            yield changed(
                _TABLE,
                table,
                "the NPU's switches are unknown to vLLM",
                Insert(table, VARIABLES, where="after", blank_lines=1),
            )
