# SPDX-License-Identifier: Apache-2.0
"""`vllm-npu-migrate verify --simulate --cost`: what a step asks of the device."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import click

from migrator.cli.common import UserError

if TYPE_CHECKING:
    from migrator.verify.simulate import Options


@dataclass(frozen=True)
class Counting:
    """How steps are counted: beside which other tree, with which budgets, with every place."""

    against: Path | None
    budgets: tuple[str, ...]
    places: bool

    def run(self, options: Options, format_: str, tell: Callable[[str], None]) -> NoReturn:
        """Count the steps of one tree or two, print them, and exit as the budgets say."""
        from rich.console import Console

        from migrator.verify.simulate import cost

        try:
            budgets = [cost.Budget.parse(text) for text in self.budgets]
        except ValueError as error:
            raise UserError(str(error)) from error
        found = cost.costs(options, tell)
        if self.against is not None:
            found.against = cost.costs(replace(options, tree=self.against), tell)
        if format_ == "json":
            click.echo(cost.as_json(found))
        else:
            width = None if sys.stdout.isatty() or "COLUMNS" in os.environ else 120
            console = Console(highlight=False, width=width)
            cost.write(found, console, places=self.places)
        over = cost.overrun(found, budgets)
        for line in over:
            click.echo(line, err=True)
        sys.exit(1 if over or not found.passed else 0)
