# SPDX-License-Identifier: Apache-2.0
"""Sees that what the NPU's operators do not take is refused when an engine starts, in plain words.

The other way for such a model would be wrong tokens, or an operator's error in the middle of a
request.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from migrator.verify.simulate import environment, process
from migrator.verify.simulate.modes import DEVICE_MEMORY
from migrator.verify.simulate.refusal_cases import CASES, ENGINE, MODEL, Case
from migrator.verify.simulate.report import Report, Run
from migrator.verify.simulate.run import Options, Runner, ended, opened, report

MODE = "refusals"
FRONT_END = "front end"
"""A process that makes a configuration and runs no engine: it may not open a device."""
_TOLD = ("name", "config", "engine", "variables", "files")
"""What of a case the program is told."""


def refusals(
    options: Options,
    progress: Callable[[str], None] = lambda _: None,
    runner: Runner = process.run,
) -> Report:
    """Start an engine of each of CASES; models and modes are not used.

    Raises:
        SimulateError: the tree or the environment cannot be run at all.
    """
    with opened(options) as (tree, work):
        versions = environment.check(options.launcher.python, tree, serve=False)
        asked, unasked = possible(tree.root)
        for name, why in unasked.items():
            progress(f"refusals: {name} is left out, {why}")
        folder = work / MODE
        shutil.rmtree(folder, ignore_errors=True)
        found: dict[str, Any] = {}
        problems: list[str] = []
        tail: list[str] = []
        seconds = 0.0
        # A process has one kind of machine.
        for kind in dict.fromkeys(_machine(case) for case in asked):
            soc, nnal, triton = kind
            machine = (soc or "usual") + ("" if nnal else " without NNAL")
            machine += " with Triton" if triton else ""
            progress(f"refusals: {machine} machine")
            place = folder / machine.replace(" ", "-")
            place.mkdir(parents=True)
            job, out, log = place / "job.json", place / "out.json", place / "log"
            cases = [
                {k: v for k, v in asdict(case).items() if k in _TOLD}
                for case in asked
                if _machine(case) == kind
            ]
            job.write_text(
                json.dumps({"out": str(out), "engine": ENGINE, "model": MODEL, "cases": cases})
            )
            plain = environment.variables(tree, work, float32=False)
            settings = {**plain, "VLLM_ENABLE_V1_MULTIPROCESSING": "0"}
            program = [str(environment.PROGRAMS / "refuse.py"), str(job)]
            command = options.launcher.simulated(
                1, DEVICE_MEMORY, program, soc=soc, nnal=nnal, triton=triton
            )
            finished = runner(command, settings, place, log, options.timeout)
            seconds += finished.seconds
            if broken := list(ended(finished)):
                problems += broken
                tail += process.tail(log)
            if out.is_file():
                found = {**json.loads(out.read_text(encoding="utf-8")), **found}
        run = Run(
            model="vllm",
            mode=MODE,
            equal=None,
            problems=[*problems, *faults(found, asked)],
            seconds=round(seconds, 1),
            log=tail,
        )
        return report(tree, options, versions, [run])


def _machine(case: Case) -> tuple[str, bool, bool]:
    """What a case's machine has: its chip, NNAL, an NPU for Triton."""
    return case.soc, case.nnal, case.triton


def possible(tree: Path) -> tuple[list[Case], dict[str, str]]:
    """The cases that the release in `tree` can have; of the others, why it cannot."""
    whys = {case.name: case.absent(tree) for case in CASES}
    asked = [case for case in CASES if whys[case.name] is None]
    return asked, {name: why for name, why in whys.items() if why is not None}


def faults(found: dict[str, Any], asked: Sequence[Case]) -> Iterator[str]:
    """What is wrong with the errors: case → what stopped its engine."""
    if FRONT_END not in found:
        yield f"{FRONT_END}: not tried"
    elif (error := found[FRONT_END]["error"]) is not None:
        yield f"{FRONT_END}: {error}"
    for case in asked:
        if case.name not in found:
            yield f"{case.name}: not tried"
            continue
        error = found[case.name]["error"]
        if error is None:
            yield f"{case.name}: an engine starts"
        elif case.says not in " ".join(error.split()):
            lines = [line for line in error.splitlines() if line.strip()]
            yield f"{case.name}: stopped by another error, {lines[0][:200]}"
