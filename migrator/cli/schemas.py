# SPDX-License-Identifier: Apache-2.0
"""What the subcommands print as JSON, and the schemas of it that the project publishes."""

from __future__ import annotations

import msgspec

from migrator.codemod.rule import Safety
from migrator.liveness.history import Definition


class ListedRule(msgspec.Struct, frozen=True):
    """A rule, as `rules --format json` lists it."""

    code: str
    name: str
    safety: Safety
    summary: str


class Since(msgspec.Struct, frozen=True):
    """What `since NAME --format json` prints."""

    name: str
    forms: list[Definition]
    """What the name stands for, by module, oldest first."""
    not_in: list[str]
    """Releases that do not define it."""


class PluginFit(msgspec.Struct, frozen=True):
    """What `verify PLUGIN --with-vllm DIR --format json` prints."""

    patches: int
    misfits: list[str]
    """Patches that do not fit, and why."""


def schemas() -> dict[str, bytes]:
    """Name of a file in docs/ → the JSON Schema that it holds."""
    from migrator.cli import settings
    from migrator.coverage import render as coverage
    from migrator.liveness import render as liveness
    from migrator.reports.log import schema
    from migrator.updating import report as updating
    from migrator.verify import report as verify
    from migrator.verify.on_device import report as on_device
    from migrator.verify.simulate import cost
    from migrator.verify.simulate import report as simulate

    kinds = {
        "verify": verify.Report,
        "simulate": simulate.Report,
        "cost": cost.Costs,
        "on-device": on_device.DeviceReport,
        "update": updating.Document,
        "check-against": liveness.Document,
        "coverage": coverage.Document,
        "rules": list[ListedRule],
        "since": Since,
        "plugin-fit": PluginFit,
    }
    return {
        "migration-log.schema.json": schema(),
        "settings.schema.json": settings.schema(),
        **{f"{name}.schema.json": schema(kind) for name, kind in kinds.items()},
    }
