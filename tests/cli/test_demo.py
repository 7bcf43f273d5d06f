# SPDX-License-Identifier: Apache-2.0
"""`demo`: what it does in which order, what it prints, and its exit code."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import migrator
from migrator.verify import simulate
from tests.conftest import RunCli
from tests.trees import SELECT


@pytest.mark.parametrize(("theirs", "code"), [([5, 6, 7], 0), ([5, 6, 8], 1)])
def test_demo(
    mini_tree: Path,
    tmp_path: Path,
    run_cli: RunCli,
    monkeypatch: pytest.MonkeyPatch,
    theirs: list[int],
    code: int,
) -> None:
    seen: list[simulate.Options] = []

    def run(options: simulate.Options, progress: Callable[[str], None]) -> simulate.Report:
        seen.append(options)
        assert options.work is not None
        folder = options.work / "llama-eager"
        folder.mkdir()
        wanted = {"fresh": {"tokens": [theirs, [1]]}}
        (tmp_path / "reference.json").write_text(json.dumps(wanted))
        job = {"model": str(tmp_path), "fresh": [[1, 2, 3], [4]]}
        (folder / "job.json").write_text(json.dumps(job))
        out = {"phases": {"fresh": {"tokens": [[5, 6, 7], [1]]}}}
        (folder / "out.json").write_text(json.dumps(out))
        progress("llama eager")
        problems = [] if not code else ["fresh: they part"]
        ran = simulate.Run("llama", "eager", not code, problems, 1.0)
        return simulate.Report(1, str(options.tree), None, sys.executable, {}, [], [ran])

    monkeypatch.setattr(simulate, "simulate", run)
    real = migrator.apply
    monkeypatch.setattr(
        migrator,
        "apply",
        lambda src, output: real(
            src,
            output,
            plan=lambda tree: migrator.plan(tree, select=SELECT.split(","), cache=False),
        ),
    )
    done = run_cli("demo", mini_tree, "-o", tmp_path / "out")
    assert done.code == code, done.err
    (options,) = seen
    assert options.tree == tmp_path / "out"
    assert options.launcher.python == Path(sys.executable)
    lines = done.text.splitlines()
    assert lines[1].startswith("      3 tokens     5    6    7  ")
    assert lines[1].endswith("the same, 3 in all")
    assert ("NOT" in lines[1]) is bool(code)
    assert lines[2].startswith("       1 token     1")
    assert "on the simulated Ascend" in done.text
    steps = [line[9:] for line in done.err.splitlines()]
    assert [step for step in steps if step[:4] in ("1 of", "2 of", "3 of")] == [
        f"1 of 3: adapting {mini_tree}",
        "2 of 3: the environment",
        "3 of 3: a Llama of two layers with random weights, on a simulated Ascend 910B",
    ]
    assert f"Next: vllm-npu-migrate review {tmp_path / 'out'}" in done.err


def test_what_stops_it_is_said(run_cli: RunCli) -> None:
    done = run_cli("demo", "nowhere")
    assert done.code == 2
    assert "nowhere is neither a directory nor a release" in done.err
