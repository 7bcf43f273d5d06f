# SPDX-License-Identifier: Apache-2.0
"""Run vLLM's own tests on an emitted tree over the simulated Ascend; write docs/upstream-tests.md.

The tests come with the release's source archive. A copy of them is rewritten for an NPU
(scripts/upstream/rewrite.py), their modules are fitted as they are imported
(scripts/upstream/upstream_plugin.py), models are made up on this machine, and a fixed pseudo-random
sample of the cases of each test function runs. What does not pass has to be told by a reason of the
table in scripts/upstream/reasons.py, which says why the test does not apply, or it is a failure.
Nothing of vLLM's tests is kept. Each file's outcomes are kept below --state as soon as it has run,
by what they came from, so that an interrupted run goes on with the next file.

What they import beside the environment of docs/simulated-runs.md goes in a folder of its own:

    ENV/bin/python -m pip install --no-deps --target EXTRA tblib pytest-asyncio

    python scripts/upstream_tests.py --env DIR --extra EXTRA           # all files, or go on
    python scripts/upstream_tests.py --env DIR --extra EXTRA --only sample/test_sampler
    python scripts/upstream_tests.py --write-only                      # the page from what is there

The page is of one release. Of another one, `--release` prints what came out, and `--page` has to
name another file.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import platformdirs
from simulated_runs import (
    NO_ENV,
    State,
    digest,
    emit,
    exit_on_sigterm,
    launcher,
    simulator_digest,
    tree_digest,
)
from tool import ROOT
from upstream.reasons import REASONS, Reason
from upstream.rewrite import rewrite_copy

from migrator.files.interpreters import interpreter
from migrator.files.sources import fetch
from migrator.verify.simulate import environment, process

PAGE = ROOT / "docs" / "upstream-tests.md"
RELEASE = "0.32.0"
"""That of the page."""
PARTS = ROOT / "scripts" / "upstream"
MEMORY = "6GiB"
CASE_TIMEOUT = 900
TIMEOUT = 4 * 3600.0


@dataclass(frozen=True)
class Suite:
    """A test file, run in a process of its own.

    `most` is the most cases of one of its functions, 0 for all; `variant` tells apart two runs of
    one file, which differ in `variables`.
    """

    file: str
    most: int = 0
    variant: str = ""
    variables: dict[str, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """What is printed, and what the kept files are called but for slashes."""
        return f"{self.file}, {self.variant}" if self.variant else self.file


ATTENTION = "v1/attention/test_attention_backends.py"
SUITES = (
    Suite("kernels/moe/test_fused_topk.py", 60),
    Suite("kernels/moe/test_grouped_topk.py", 20),
    Suite("kernels/core/test_layernorm.py", 12),
    Suite(ATTENTION, 8),
    Suite(ATTENTION, 6, "without NNAL", {"VLLM_NPU_USE_NNAL": "0"}),
    Suite("v1/sample/test_rejection_sampler.py", 12),
    Suite("v1/sample/test_sampler.py"),
    Suite("v1/worker/test_gpu_input_batch.py"),
    Suite("v1/worker/test_gpu_model_runner.py"),
    Suite("lora/test_layers.py", 6),
)


class Outcome(msgspec.Struct):
    """What became of one case; `kind` is passed, not applicable or failed."""

    id: str
    kind: str
    says: str = ""
    reason: str = ""


class Result(msgspec.Struct):
    """What became of a suite: `key` names what it came from, `collected` counts all its cases."""

    suite: str
    key: str
    torch_npu: str
    collected: int
    outcomes: list[Outcome]


def copy_tests(folder: Path, release: str) -> tuple[int, int]:
    """A rewritten copy of the release's tests below `folder`: how many files and sites changed."""
    tests = folder / "tests"
    shutil.rmtree(tests, ignore_errors=True)
    shutil.copytree(fetch(release) / "tests", tests)
    return rewrite_copy(tests, sorted({suite.file for suite in SUITES}))


def make_models(python: Path, home: Path) -> None:
    """The models, once."""
    done = home / "done"
    program = PARTS / "models.py"
    if done.is_file() and done.read_bytes() == program.read_bytes():
        return
    shutil.rmtree(home, ignore_errors=True)
    home.mkdir(parents=True)
    command = [str(python), str(program), str(home)]
    subprocess.run(command, env=environment.cpu_variables(), check=True, capture_output=True)
    done.write_bytes(program.read_bytes())


def kept(state: State, suite: Suite, end: str) -> Path:
    """A file of a suite below the state."""
    name = suite.name.replace("/", ".").replace(", ", "-").replace(" ", "-")
    return state.folder / "upstream" / f"{name}.{end}"


def made_of(suite: Suite, tree: str, versions: Mapping[str, str]) -> str:
    """Names what an outcome comes from: tree, environment, rewriting, simulator, cases."""
    parts = digest(path for path in PARTS.glob("*.py") if path.name != "reasons.py")
    told = [tree, parts, simulator_digest(), sorted(versions.items()), msgspec.to_builtins(suite)]
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()


def run(suite: Suite, release: str, state: State, python: Path, extra: Path) -> Result:
    """Run the sample of a suite's cases in one process, on the tree of a release."""
    folder = state.folder / "upstream"
    out, log, job = (kept(state, suite, end) for end in ("jsonl", "log", "job.json"))
    out.unlink(missing_ok=True)
    samples = {suite.file: suite.most}
    job.write_text(json.dumps({"samples": samples, "out": str(out)}), encoding="utf-8")
    tree = environment.open_tree(state.tree(release))
    variables = environment.variables(tree, state.folder / "work" / release, float32=False)
    variables.pop("HF_HUB_OFFLINE")
    own = [str(folder), str(PARTS), str(extra)]
    variables |= {
        "PYTHONPATH": os.pathsep.join([*own, variables["PYTHONPATH"]]),
        "HF_HOME": str(folder / "models"),
        "HF_HUB_OFFLINE": "1",
        "UPSTREAM_JOB": str(job),
        **suite.variables,
    }
    options = ["-p", "no:cacheprovider", "-p", "upstream_plugin", "-q", "--tb=short"]
    options += ["-o", "asyncio_default_fixture_loop_scope=function"]
    options += ["--rootdir", str(folder), "-c", os.devnull, "--timeout", str(CASE_TIMEOUT)]
    file = str(folder / "tests" / suite.file)
    command = launcher(python).simulated(1, MEMORY, ["-m", "pytest", *options, file])
    finished = process.run(command, variables, folder, log, TIMEOUT)
    return judge(suite, out, finished, log)


def judge(suite: Suite, out: Path, finished: process.Finished, log: Path) -> Result:
    """Sort the outcomes of a suite; a case that was chosen and left none failed."""
    lines = out.read_text(encoding="utf-8").splitlines() if out.is_file() else []
    entries = [json.loads(line) for line in lines]
    collected: list[str] = []
    found: dict[str, Outcome] = {}
    chosen: list[str] = []
    for entry in entries:
        if "chosen" in entry:
            collected, chosen = entry["collected"], entry["chosen"]
            continue
        test = short(entry["id"])
        known = found.get(test)
        if known is None or known.kind == "passed":
            found[test] = sort(test, entry["outcome"], entry["says"])
    ended = f"exit code {finished.code}" if finished.code is not None else "time-out"
    if not chosen:
        said = " ".join(process.tail(log, 3))
        found.setdefault(suite.name, Outcome(suite.name, "failed", f"{ended}: {said}"))
    for test in map(short, chosen):
        found.setdefault(test, Outcome(test, "failed", f"no outcome; the process ended: {ended}"))
    outcomes = [found[test] for test in sorted(found)]
    return Result(suite.name, "", "", len(collected), outcomes)


def short(test: str) -> str:
    """The id of a case below `tests`."""
    return test.removeprefix("tests/")


def sort(test: str, outcome: str, says: str) -> Outcome:
    """What a case's outcome means."""
    if outcome == "passed":
        return Outcome(test, "passed")
    for reason in REASONS:
        if reason.fits(test, says):
            return Outcome(test, "not applicable", says, reason.name)
    return Outcome(test, "failed", says)


def unused(results: Iterable[Result]) -> list[Reason]:
    """Reasons that told nothing, of those that the release of the page has tests for."""
    used = {outcome.reason for result in results for outcome in result.outcomes}
    return [reason for reason in REASONS if not reason.newer and reason.name not in used]


# -- the page

INTRODUCTION = """\
Made by `python scripts/upstream_tests.py`: tests of vLLM {release} on the tree emitted of it, over
the simulated Ascend. They come with the release's source archive; a copy is rewritten for an NPU
(the device's name, `torch.cuda`, skip conditions that ask for CUDA, checks of CUDA's own
operators), the NPU's attention backend and runner stand in for the GPU's, models are made up on
the machine, attention is compared with a plain softmax in float32 on the host, and grouped routers
with sigmoid scores in float32. Nothing of vLLM's tests is kept in this project.

The simulator is told to let nothing pass that the device would not take. Of each test function a
fixed pseudo-random sample of its cases runs (all of them where they are cheap). What does not pass
and what is skipped either has one of the reasons below, which a pattern on the test and on its
message tells, or counts as failed.
"""


def page(results: list[Result], release: str) -> str:
    """The page in Markdown."""
    everything = [outcome for result in results for outcome in result.outcomes]
    kinds = Counter(outcome.kind for outcome in everything)
    versions = ", ".join(sorted({result.torch_npu for result in results}))
    lines = [
        "# vLLM's own tests",
        "",
        INTRODUCTION.format(release=release),
        f"{kinds['passed']} passed, {kinds['not applicable']} not applicable, "
        f"{kinds['failed']} failed (torch_npu {versions}).",
        "",
        "| file | cases | ran | passed | not applicable | failed |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
        *rows(results),
    ]
    counts = Counter(outcome.reason for outcome in everything if outcome.reason)
    if counts:
        lines += ["", "## Not applicable", "", "| | tests | why |", "| --- | ---: | --- |"]
        lines += [f"| {r.name} | {counts[r.name]} | {r.why} |" for r in REASONS if counts[r.name]]
    failed = [outcome for outcome in everything if outcome.kind == "failed"]
    if failed:
        lines += ["", "## Failures", ""]
        lines += [f"- `{outcome.id}`: {first(outcome.says)}" for outcome in failed]
    missing = [suite.name for suite in SUITES if suite.name not in {r.suite for r in results}]
    if missing:
        lines += ["", f"Not run: {', '.join(missing)}."]
    return "\n".join(lines).rstrip() + "\n"


def rows(results: Iterable[Result]) -> Iterator[str]:
    for result in results:
        kinds = Counter(outcome.kind for outcome in result.outcomes)
        cells = [result.suite, result.collected, kinds.total()]
        cells += [kinds[kind] for kind in ("passed", "not applicable", "failed")]
        yield f"| {' | '.join(map(str, cells))} |"


def first(text: str) -> str:
    """The beginning of a message, fit for a list."""
    return " ".join(text.replace("`", "'").split())[:300] or "no message"


# -- the command line


def read(state: State, suite: Suite) -> Result | None:
    """What is kept of a suite."""
    try:
        return msgspec.json.decode(kept(state, suite, "result.json").read_bytes(), type=Result)
    except (FileNotFoundError, msgspec.DecodeError):
        return None


def write_page(state: State, path: Path, release: str) -> list[Result]:
    """Write the page from what is kept; the results, sorted by the reasons of now."""
    results = [result for suite in SUITES if (result := read(state, suite)) is not None]
    for result in results:
        result.outcomes = [
            sort(o.id, "passed" if o.kind == "passed" else "", o.says) for o in result.outcomes
        ]
    path.write_text(page(results, release), encoding="utf-8")
    return results


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    cache = platformdirs.user_cache_path("vllm-npu-migrate") / "upstream-tests"
    parser.add_argument("--env", type=Path, help="environment with torch, torch_npu, pytest")
    parser.add_argument("--extra", type=Path, help="folder with what vLLM's tests import beside it")
    parser.add_argument("--state", type=Path, default=cache, help="where outcomes are kept")
    parser.add_argument("--only", help="files whose name holds this text")
    parser.add_argument("--again", action="store_true", help="run what is kept, too")
    parser.add_argument("--write-only", action="store_true", help="run nothing")
    parser.add_argument("--page", type=Path, default=PAGE, help="what to write")
    parser.add_argument("--release", default=RELEASE, help="of vLLM, by its number")
    given = parser.parse_args(arguments)
    release = given.release
    if release != RELEASE and given.page == PAGE:
        parser.error(f"{PAGE.name} is of {RELEASE}; --page FILE")
    exit_on_sigterm()
    state = State(given.state.absolute())
    if not given.write_only:
        if given.env is None or given.extra is None:
            parser.error(f"{NO_ENV}; --extra DIR, which the top of this script tells how to make")
        python = interpreter(given.env)
        static = emit(state, release)
        if static.problem:
            print(f"{release}: {static.problem}")
            return 1
        folder = state.folder / "upstream"
        folder.mkdir(exist_ok=True)
        changed, sites = copy_tests(folder, release)
        print(f"{sites} sites of {changed} files rewritten", flush=True)
        make_models(python, folder / "models")
        versions = environment.check(
            python, environment.open_tree(state.tree(release)), serve=False
        ).installed
        tree = tree_digest(state.tree(release))
        for suite in SUITES:
            if given.only and given.only not in suite.name:
                continue
            key = made_of(suite, tree, versions)
            known = read(state, suite)
            if known is not None and known.key == key and not given.again:
                print(f"{suite.name}: kept", flush=True)
                continue
            result = run(suite, release, state, python, given.extra.absolute())
            result.key, result.torch_npu = key, versions["torch_npu"]
            data = msgspec.json.format(msgspec.json.encode(result))
            kept(state, suite, "result.json").write_bytes(data)
            kinds = Counter(outcome.kind for outcome in result.outcomes)
            print(f"{suite.name}: {dict(kinds)}", flush=True)
    results = write_page(state, given.page, release)
    failed = [o for result in results for o in result.outcomes if o.kind == "failed"]
    for outcome in failed:
        print(f"failed: {outcome.id}: {first(outcome.says)}")
    complete = len(results) == len(SUITES)
    idle = unused(results) if complete else []
    for reason in idle:
        print(f"no test has the reason {reason.name!r} any more")
    return 1 if failed or idle or not complete else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
