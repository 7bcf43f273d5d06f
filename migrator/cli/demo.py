# SPDX-License-Identifier: Apache-2.0
"""`vllm-npu-migrate demo`: from a release's name to tokens of a model on a simulated NPU."""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from migrator.cli import common
from migrator.messages.escaping import terminal
from migrator.messages.wording import counted

if TYPE_CHECKING:
    from migrator.verify.simulate.report import Report

SHOWN = 8
"""Tokens of each answer that are printed."""


@click.command("demo")
@click.argument("src", default="vllm==0.32.0")
@click.option(
    "--output",
    "-o",
    type=click.Path(path_type=Path),
    help="Directory for the adapted tree [default: SRC's name with -npu].",
)
@click.option(
    "--env",
    metavar="DIR",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="Environment to run in [default: one that is made and kept: `env list`].",
)
@common.command
def command(src: str, output: Path | None, env: Path | None) -> None:
    """Adapt SRC and run a tiny Llama through it on the simulated Ascend.

    SRC is fetched where it is a release [default: vllm==0.32.0], adapted, and run in an environment
    that is made where there is none yet. Then the tokens stand beside those that transformers
    computes on the CPU. It needs g++, no NPU and no CANN.

    Exit code 0: the tokens are the same; 1: they are not; 2: an error.
    """
    import migrator
    from migrator.cli.verify import environment_for, launcher_of
    from migrator.verify import simulate

    begun = time.monotonic()

    def say(sentence: str) -> None:
        click.echo(terminal(f"{time.monotonic() - begun:5.0f} s  {sentence}"), err=True)

    say(f"1 of 3: adapting {src}")
    done = migrator.apply(src, output)
    say(f"{counted(len(done.changes), 'file')} changed or added in {done.target}")
    say("2 of 3: the environment")
    python = environment_for(done.target, env, say)
    say(f"it is {python.parent.parent}")
    say("3 of 3: a Llama of two layers with random weights, on a simulated Ascend 910B")
    with tempfile.TemporaryDirectory(prefix="vllm-npu-migrate-") as folder:
        options = simulate.Options(
            tree=done.target,
            launcher=launcher_of(python),
            models=simulate.select_models(("llama",)),
            modes=simulate.select_modes(("eager",)),
            work=Path(folder),
        )
        report = simulate.simulate(options, say)
        for line in tokens(Path(folder) / "llama-eager"):
            click.echo(line)
    _tell(report)
    say("done" if report.passed else "it did not pass")
    tree = done.target
    for what, words in (
        ("what was changed, and why", ("review", tree)),
        ("names and calls against a torch_npu wheel", ("verify", tree)),
        ("more models and modes", ("verify", tree, "--simulate", "--models", "all")),
        ("what it took", ("env", "list")),
    ):
        click.echo(f"Next: {common.command_line(*words)}   # {what}", err=True)
    sys.exit(common.DONE if report.passed else common.PENDING)


def tokens(folder: Path) -> Iterator[str]:
    """Lines with the tokens of a run beside those of transformers.

    Args:
        folder: where the run has its job and what came out.
    """
    job, out = _read(folder / "job.json"), _read(folder / "out.json")
    if not out.get("phases"):
        yield "no tokens: the run did not come to them"
        return
    wanted = _read(Path(job["model"]) / "reference.json")["fresh"]["tokens"]
    got = out["phases"]["fresh"]["tokens"]
    yield f"{'prompt':>14}  {'the simulated NPU':<{SHOWN * 5}}  transformers on the CPU"
    for prompt, ours, theirs in zip(job["fresh"], got, wanted, strict=True):
        texts = [" ".join(f"{token:4}" for token in part[:SHOWN]) for part in (ours, theirs)]
        equal = "the same" if ours == theirs else "NOT the same"
        length = counted(len(prompt), "token")
        yield f"{length:>14}  {texts[0]:<{SHOWN * 5}}  {texts[1]}  {equal}, {len(ours)} in all"


def _read(path: Path) -> Mapping[str, Any]:
    if not path.is_file():
        return {}
    found: Mapping[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


def _tell(report: Report) -> None:
    """Print the table of what was reached."""
    from rich.console import Console

    from migrator.verify import simulate

    width = None if sys.stdout.isatty() or "COLUMNS" in os.environ else 120
    simulate.write_table(report, Console(highlight=False, width=width))
