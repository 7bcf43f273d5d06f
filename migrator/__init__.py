# SPDX-License-Identifier: Apache-2.0
"""vllm-npu-migrate: emits an Ascend NPU adapted tree from a vLLM source tree.

`open`, `plan`, `apply` and `update` do what the command does, and give dataclasses back. Each name
is imported when it is first used, so that `import migrator` costs nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from migrator.api.plans import plan as plan
    from migrator.api.sources import open as open  # noqa: A004 - as tarfile.open is called
    from migrator.api.updates import UpdateResult as UpdateResult
    from migrator.api.updates import update as update
    from migrator.api.writing import ApplyResult as ApplyResult
    from migrator.api.writing import apply as apply
    from migrator.codemod.engine import Record as Record
    from migrator.codemod.rule import Status as Status
    from migrator.files.changes import FileChange as FileChange
    from migrator.files.sources import Source as Source
    from migrator.messages.errors import MigrateError as MigrateError
    from migrator.messages.errors import UnfinishedError as UnfinishedError
    from migrator.planning.plan import Plan as Plan

__version__ = "0.1.0"

_HOMES = {
    "ApplyResult": "migrator.api.writing",
    "FileChange": "migrator.files.changes",
    "MigrateError": "migrator.messages.errors",
    "Plan": "migrator.planning.plan",
    "Record": "migrator.codemod.engine",
    "Source": "migrator.files.sources",
    "Status": "migrator.codemod.rule",
    "UnfinishedError": "migrator.messages.errors",
    "UpdateResult": "migrator.api.updates",
    "apply": "migrator.api.writing",
    "open": "migrator.api.sources",
    "plan": "migrator.api.plans",
    "update": "migrator.api.updates",
}
"""Each name of the API → the module that has it."""

__all__ = [*_HOMES]  # noqa: PLE0604 - names, all of them


def __getattr__(name: str) -> Any:
    """A name of the API, imported now."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    found = globals()[name] = getattr(import_module(_HOMES[name]), name)
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
