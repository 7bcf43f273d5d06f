# SPDX-License-Identifier: Apache-2.0
"""The command `vllm-npu-migrate`: one module a subcommand, imported when it is called."""

from __future__ import annotations

import contextlib
import importlib
import sys
from typing import Any

import click

from migrator import __version__
from migrator.cli.examples import epilog

COMMANDS = {
    "apply": ("migrator.cli.apply", "Write the NPU-adapted tree, or show what would be written."),
    "demo": ("migrator.cli.demo", "Adapt a release and run a model on a simulated NPU."),
    "diff": ("migrator.cli.diff", "Print the migration as one patch for `git apply`."),
    "review": ("migrator.cli.review", "Write a page for the person who reviews the migration."),
    "update": ("migrator.cli.update", "Bring an adapted tree to the next release."),
    "check": ("migrator.cli.check", "Say for each rule whether a tree is migrated."),
    "coverage": ("migrator.cli.coverage", "List accelerator-specific code that no rule claims."),
    "rules": ("migrator.cli.rules", "List the rules."),
    "explain": ("migrator.cli.explain", "Explain one rule: what, why, example, safety, releases."),
    "since": ("migrator.cli.since", "Say which releases define a name, and with which signature."),
    "verify": ("migrator.cli.verify", "Check an emitted tree against a torch_npu wheel."),
    "cache": ("migrator.cli.cache", "Show or remove what runs keep for the next ones."),
    "env": ("migrator.cli.env", "List or remove the environments that --simulate has made."),
    "simulator": ("migrator.cli.simulator", "Run programs on a simulated Ascend."),
}
"""Name of each subcommand → module that holds it (as `command`) and its one-line help."""


class LazyGroup(click.Group):
    """A click group that imports a subcommand only when it runs, so that `--help` stays quick."""

    def main(self, *args: Any, **kwargs: Any) -> Any:
        """Run the command line; what the system refuses of `--help` is no traceback either."""
        from migrator.cli import common

        common.open_standard_streams()
        try:
            return super().main(*args, **kwargs)
        except OSError as error:
            told = common.system_error(error)
            with contextlib.suppress(OSError):  # where stderr is what cannot be written
                told.show()
            sys.exit(told.exit_code)

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names in the order in which a user meets them."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command called `cmd_name`, imported now; None where there is none."""
        if cmd_name not in COMMANDS:
            return None
        module, text = COMMANDS[cmd_name]
        command: click.Command = importlib.import_module(module).command
        command.short_help = text  # for the completion of shells
        command.epilog = epilog(cmd_name)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """The command that the arguments begin with; where there is none, the nearest is named."""
        name = args[0]
        if not (name in COMMANDS or name.startswith("-") or ctx.resilient_parsing):
            from migrator.messages.wording import did_you_mean

            ctx.fail(f"No such command {name!r}{did_you_mean(name, COMMANDS) or '.'}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the subcommands by their one-line help without importing any."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="vllm-npu-migrate")
def main() -> None:
    """Take a vLLM source tree and emit one that is adapted to Huawei Ascend NPUs."""
