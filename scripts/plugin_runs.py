# SPDX-License-Identifier: Apache-2.0
"""Measure the plugin form: what it patches, what it refuses, how it runs; write docs/plugin.md.

For each release: `apply --layout plugin`; every patch has to fit its source, and a line more in any
one function that a patch replaces has to be refused by name, with nothing else. For DEEP, the runs
of scripts/simulated_runs.py with the plugin installed beside the untouched source, and a start of
an engine on a source with one line more. Runs are kept below --state by what they came from.

    python scripts/plugin_runs.py --env DIR --old-env DIR         # all
    python scripts/plugin_runs.py --env DIR 0.11.0 --only llama:eager,llama:mp
    python scripts/plugin_runs.py --releases                      # the table of releases anew
    python scripts/plugin_runs.py --write-only
"""

from __future__ import annotations

import ast
import hashlib
import json
import shutil
import sys
import tempfile
import textwrap
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec
import simulated_runs as in_tree
from simulated_runs import DEEP, Job, Outcome, State
from tool import ROOT, command

from migrator.reports.releases import KNOWN

sys.path.insert(0, str(ROOT))

from migrator.files.sources import fetch
from migrator.plugin import entries as read_entries
from migrator.plugin.runtime.importing import Loader, misfits
from migrator.verify import simulate
from migrator.verify.simulate.report import equality
from tests.plugin import changing

PAGE = ROOT / "docs" / "plugin.md"
BEGIN, END = "<!-- measured: begin -->", "<!-- measured: end -->"
CHANGED = Job("", "llama", "changed")
"""A start of an engine on a vLLM with one line more in a function that a patch replaces."""
CHANGED_FUNCTION = "init_worker_distributed_environment"
FIRST = (
    ("llama", "eager"),
    ("llama", "tp2"),
    ("llama", "changed"),
    ("mixtral", "eager"),
    ("llama", "graph"),
    ("llama", "mp"),
    ("qwen3-moe", "eager"),
    ("llama", "serve"),
    ("llama", "tp2-graph"),
    ("llama", "full-graph"),
)


class Fit(msgspec.Struct):
    """What the plugin of a release is, and what it refuses."""

    release: str
    key: str
    platform: int
    worker: int
    functions: int
    statements: int
    added: int
    refused: int
    """Functions of which a line more is refused, by its name and by nothing else."""
    check: float
    """Seconds of CPU to compare all patches with the source."""
    compile: float
    """Seconds of CPU to compile all patched modules."""
    problem: str = ""


def emit(state: State, release: str) -> tuple[Path, str]:
    """The plugin of a release, and a key for what of it runs: its modules without comments."""
    target = state.tree(release)
    target.parent.mkdir(parents=True, exist_ok=True)
    done = command("apply", "-q", "--force", "--layout", "plugin", fetch(release), "-o", target)
    if done.returncode != 0:
        raise SystemExit(f"{release}: apply exits {done.returncode}: {done.stderr.strip()}")
    key = hashlib.sha256()
    for path in sorted(target.rglob("*.py")):
        key.update(ast.dump(ast.parse(path.read_bytes())).encode())
    return target, key.hexdigest()


def fit(state: State, release: str) -> Fit:
    """Compare a plugin with its source and with every source that has a line more."""
    plugin, key = emit(state, release)
    file = state.folder / "outcomes" / f"{release}-fit.json"
    key += in_tree.digest([Path(__file__), Path(changing.__file__)])[:16]
    if file.is_file():
        known = msgspec.json.decode(file.read_bytes(), type=Fit)
        if known.key == key and not known.problem:
            return known
    package = fetch(release) / "vllm"
    entries = read_entries(plugin)
    began = time.process_time()
    problems = misfits(entries, package)
    checked = time.process_time()
    for entry in entries:
        Loader(entry, str(entry.installed(package))).get_code(entry.module)
    compiled = time.process_time()
    found = changing.counts([entry.read() for entry in entries])
    targets = list(changing.targets(entries, package))
    refused = 0
    with tempfile.TemporaryDirectory() as scratch:
        for target in targets:
            data = target.entry.installed(package).read_bytes()
            changed = changing.with_a_line(data, target.original)
            other = changing.copy_package(package, Path(scratch) / "vllm", target.entry, changed)
            said = misfits([target.entry], other)
            if len(said) == 1 and said[0].startswith(f"{target.path}: {target.name} is not the"):
                refused += 1
            else:
                problems.append(f"a line more in {target.path} {target.name}: {said}")
    groups = [entry.file.parent.name for entry in entries]
    result = Fit(
        release=release,
        key=key,
        platform=groups.count("platform"),
        worker=groups.count("worker"),
        **found,
        refused=refused,
        check=checked - began,
        compile=compiled - checked,
        problem=problems[0] if problems else "",
    )
    file.write_bytes(msgspec.json.encode(result))
    return result


def jobs_of(release: str) -> list[Job]:
    """The runs of the in-tree form but the wheel, and the start on a changed vLLM."""
    jobs = [job for job in in_tree.plan((release,)) if job.mode != "install"]
    return [*jobs, Job(release, CHANGED.model, CHANGED.mode)]


def urgency(job: Job) -> int:
    """Those that show most come first, should time not suffice for all."""
    what = (job.model, job.mode)
    return FIRST.index(what) if what in FIRST else len(FIRST)


def make(state: State, job: Job, python: Path) -> simulate.Report:
    """Run one job."""
    mode, source = job.mode, fetch(job.release)
    if mode == CHANGED.mode:
        mode, source = "eager", changed_source(state, job.release)
    work = state.folder / "work" / job.release
    report = in_tree.run_one(job.model, mode, state.tree(job.release), python, work, vllm=source)
    if job.mode == CHANGED.mode:
        judge_refusal(report)
    return report


def changed_source(state: State, release: str) -> Path:
    """A copy of a release with one line more in CHANGED_FUNCTION."""
    source = fetch(release)
    target = state.folder / "changed" / release
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(source / "vllm", target / "vllm")
    entries = read_entries(state.tree(release))
    (one,) = (t for t in changing.targets(entries, source / "vllm") if t.name == CHANGED_FUNCTION)
    place = one.entry.installed(target / "vllm")
    place.write_bytes(changing.with_a_line(place.read_bytes(), one.original))
    return target


def judge_refusal(report: simulate.Report) -> None:
    """Let a run pass if it ended with the refusal before any operator ran, and only then."""
    (run,) = report.runs
    said = " ".join(run.log)
    wanted = (f"{CHANGED_FUNCTION} is not the one", "expected sha256", "--layout plugin")
    missing = [part for part in wanted if part not in said]
    run.mode = CHANGED.mode
    run.problems = [f"its log does not say `{part}`" for part in missing]
    if run.operators:
        run.problems.append("it ran operators all the same")
    run.equal = None
    run.gap = None


# -- the page


COLUMNS = "release model mode torch prefill decode chunked cached replays equal s".split()


def run_rows(state: State) -> Iterator[str]:
    for release in DEEP:
        for job in jobs_of(release):
            outcome = state.read(job)
            if outcome is None:
                continue
            run = outcome.run
            good = "refused" if job.mode == CHANGED.mode else "pass"
            cells = [
                release,
                run.model,
                "one line more" if job.mode == CHANGED.mode else run.mode,
                outcome.torch.partition("+")[0],
                *in_tree.path_cells(run),
                equality(run).replace("NO", "**no**") if job.mode != CHANGED.mode else "–",
                f"{run.seconds:.0f}",
                good if run.passed else "**FAIL**",
            ]
            yield f"| {' | '.join(cells)} |"


def fit_rows(fits: Sequence[Fit]) -> Iterator[str]:
    for one in fits:
        cells = (
            one.release,
            one.platform,
            one.worker,
            one.functions,
            one.statements,
            one.added,
            f"{one.refused} of {one.functions}" + (" **FAIL**" if one.problem else ""),
            f"{1000 * one.check:.0f}",
            f"{one.compile:.2f}",
        )
        yield f"| {' | '.join(map(str, cells))} |"


def measured(state: State) -> str:
    """The part of the page that is measured."""
    outcomes = [
        outcome
        for release in DEEP
        for outcome in map(state.read, jobs_of(release))
        if outcome is not None
    ]
    failed = [outcome for outcome in outcomes if not outcome.run.passed]
    absent = [job for release in DEEP for job in jobs_of(release) if state.read(job) is None]
    fits = read_fits(state)
    keys = plugin_keys(state)
    earlier = sum(not o.key.startswith(keys.get(o.release, "")[:16]) for o in outcomes)
    lines = [
        "### Releases",
        "",
        paragraph(
            "Patches are files, one a module; functions and statements are replaced ones; refused "
            "are the functions of which a line more in vLLM makes the plugin refuse, with the "
            "function's name and nothing else. Check is the comparison of all patches with the "
            "installed vLLM, in milliseconds of CPU, and compile that of all patched modules, in "
            "seconds: a process pays for those that it imports."
        ),
        "",
        "| release | platform patches | worker patches | functions | statements | added | refused "
        "| check, ms | compile, s |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
        *fit_rows(fits),
        "",
        *(f"- {one.release}: {one.problem}" for one in fits if one.problem),
        "",
        "### Simulated runs",
        "",
        paragraph(
            "The runs of [simulated-runs.md](simulated-runs.md), which tells what the columns are, "
            f"with the plugin beside an untouched source. {len(outcomes)} runs, {len(failed)} "
            "failed. `one line more` starts an engine on a vLLM with a line more in "
            f"`{CHANGED_FUNCTION}` of the worker and wants it refused. Seconds are those of a "
            "machine with two cores and much other work to do."
            + (f" {earlier} are from an earlier state of the plugin." if earlier else "")
        ),
        "",
        f"| {' | '.join(COLUMNS)} | |",
        "| --- | --- | --- | --- | ---: | ---: | ---: | ---: | ---: | --- | ---: | --- |",
        *run_rows(state),
    ]
    for outcome in failed:
        lines += ["", f"- {outcome.release} {outcome.run.model} {outcome.run.mode}:"]
        lines += [f"  - {problem}" for problem in outcome.run.problems[:4]]
    if absent:
        lines += ["", "Not run:", ""]
        lines += [f"- {job.release} {job.model} {job.mode}" for job in absent]
    return "\n".join(lines).replace("\n\n\n", "\n\n").strip()


def plugin_keys(state: State) -> dict[str, str]:
    """Release → key of the plugin that was emitted for the newest runs."""
    file = state.folder / "plugins.json"
    keys: dict[str, str] = json.loads(file.read_text("utf-8")) if file.is_file() else {}
    return keys


def paragraph(text: str) -> str:
    return textwrap.fill(text, 110, break_long_words=False, break_on_hyphens=False)


def read_fits(state: State) -> list[Fit]:
    """The table of releases as far as it was measured."""
    files = {r: state.folder / "outcomes" / f"{r}-fit.json" for r in KNOWN}
    return [
        msgspec.json.decode(file.read_bytes(), type=Fit)
        for file in files.values()
        if file.is_file()
    ]


def write_page(state: State, page: Path) -> None:
    """Put what was measured between the marks of the page."""
    text = page.read_text(encoding="utf-8")
    head, tail = text.partition(BEGIN)[0], text.partition(END)[2]
    page.write_text(f"{head}{BEGIN}\n\n{measured(state)}\n\n{END}{tail}", encoding="utf-8")


def main(arguments: list[str]) -> int:
    parser = in_tree.options(__doc__, PAGE, "plugin-runs")
    parser.add_argument("--only", type=in_tree.pairs, help=in_tree.ONLY)
    parser.add_argument(
        "--releases", action="store_true", dest="table", help="measure what every release patches"
    )
    given = parser.parse_args(arguments)
    in_tree.exit_on_sigterm()
    state = State(given.state.absolute())
    only = given.only
    good = True
    if given.table and not given.write_only:
        for release in KNOWN:
            one = fit(state, release)
            good &= not one.problem
            print(f"{release}: {one.problem or f'{one.refused} functions refused'}", flush=True)
    if given.env is not None and not given.write_only:
        plugins = {release: emit(state, release)[1] for release in given.releases or DEEP}
        current = {**plugin_keys(state), **plugins}
        (state.folder / "plugins.json").write_text(json.dumps(current), encoding="utf-8")
        jobs = [job for release in plugins for job in jobs_of(release)]
        for job in sorted(jobs, key=urgency):
            if only and (job.model, job.mode) not in only:
                continue
            python = in_tree.interpreter_for(job, given.env, given.old_env)
            if python is None:
                print(f"{job.release} {job.model} {job.mode}: not run", flush=True)
                continue
            programs = in_tree.run_digest(job.model, job.mode)
            key = f"{plugins[job.release][:16]}-{programs[:16]}-{python}"
            known = state.read(job)
            if known is not None and known.key == key and known.run.passed:
                continue
            report = make(state, job, python)
            (run,) = report.runs
            versions = report.versions
            outcome = Outcome(job.release, key, versions["torch"], versions["transformers"], run)
            state.write(job, outcome)
            write_page(state, given.page)
            good &= run.passed
            result = "pass" if run.passed else "FAIL: " + run.problems[0]
            print(f"{job.release} {job.model} {job.mode}: {result} ({run.seconds} s)", flush=True)
    write_page(state, given.page)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
