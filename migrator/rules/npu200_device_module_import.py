# SPDX-License-Identifier: Apache-2.0
"""NPU200: the import of `device_module`."""

from __future__ import annotations

from collections.abc import Iterator

import libcst as cst

from migrator.codemod.rule import (
    Edit,
    File,
    Finding,
    Insert,
    Replace,
    Rule,
    Safety,
    changed,
    manual,
    migrated,
)

DEVICE_MODULE = "device_module"
"""Need of a change whose code calls `device_module()`."""
DEVICE_GRAPH = "device_graph"
"""Need, beside `DEVICE_MODULE`, of a change whose code calls `device_graph()`."""

REPLAY_CONTEXT = "replay_context"
"""Need, beside `DEVICE_MODULE`, of a change whose code calls `replay_context()`."""


class DeviceModuleImport(Rule):
    """Import `device_module` where a rewritten `torch.cuda` call needs it.

    ## What it does
    Adds `from vllm.accelerator import device_module` (and `device_graph`, where a graph is
    captured) before the first import from vLLM of a file. `vllm/accelerator.py` is a file that the
    tool adds.

    ## Why
    One function answers for every call site, and it is the only place that knows of `torch.npu`.
    The module imports nothing of vLLM, so it can be imported from anywhere.

    ## Example
    ```python
    from vllm.accelerator import device_module
    from vllm.config import VllmConfig
    ```

    ## Safety
    Equivalent: an import of a module without side effects.
    """

    code = "NPU200"
    safety = Safety.EQUIVALENT
    triggers = ()
    provides = DEVICE_MODULE

    def check(self, file: File) -> Iterator[Finding]:
        """Report the import that is there, or the statement beside which it has to go."""
        names = [DEVICE_MODULE]
        if DEVICE_GRAPH in file.needs:
            names.insert(0, DEVICE_GRAPH)
        if REPLAY_CONTEXT in file.needs:
            names.append(REPLAY_CONTEXT)
        own, first, relative, last = None, None, None, None
        for statement in file.kept.body:
            if isinstance(statement, (cst.FunctionDef, cst.ClassDef)):
                break
            if not isinstance(statement, cst.SimpleStatementLine):
                continue
            part = statement.body[0]
            if not isinstance(part, (cst.Import, cst.ImportFrom)):
                continue
            last = statement
            text = file.code(part)
            if text.startswith("from vllm.accelerator "):
                own = statement
            elif text.startswith("from vllm.") and first is None:
                first = statement
            elif text.startswith("from .") and relative is None:
                relative = statement
        if own is not None:
            yield migrated("<module>", own)
            return
        code = f"from vllm.accelerator import {', '.join(names)}\n"
        reason = "code that other rules rewrite in this file asks for the device's torch module"
        if first is not None:
            blank = [line for line in first.leading_lines if line.comment is None]
            if len(blank) == len(first.leading_lines):
                # The new import takes over the blank lines: it comes first in the sorting.
                edits: list[Edit] = [
                    Replace(first, lambda node: node.with_changes(leading_lines=())),
                    Insert(first, code, blank_lines=len(blank)),
                ]
            else:
                edits = [Insert(first, code, where="after")]
            yield changed("<module>", first, reason, *edits)
        elif relative is not None:
            # Imports of the package itself go before those that begin with a dot.
            above = max(1, len(relative.leading_lines))
            yield changed(
                "<module>",
                relative,
                reason,
                Replace(relative, lambda node: node.with_changes(leading_lines=[cst.EmptyLine()])),
                Insert(relative, code, blank_lines=above),
            )
        elif last is not None:
            edit = Insert(last, code, where="after", blank_lines=1)
            yield changed("<module>", last, reason, edit)
        else:
            yield manual("<module>", file.kept, "there is no import to put another one beside")
