# SPDX-License-Identifier: Apache-2.0
"""Leave out each rule in turn, see whether `verify` or `verify --simulate` notices; write the page.

For every rule that changes something in a release: `apply --ignore RULE`, then `verify` without
running; if that finds nothing, models through the tree, the cheapest run that should fail first,
until one fails. A run counts only if the whole tree passes it, which is seen first. A rule whose
absence nothing notices has no test, and the exit code is 1.

Outcomes are kept below --state by what they came from, so that an interrupted run goes on.

    python scripts/mutations.py --env DIR                              # all of RELEASES
    python scripts/mutations.py --env DIR 0.32.0 --rules NPU218,NPU219  # the page is left alone
    python scripts/mutations.py --write-only                           # the page from what is there
"""

from __future__ import annotations

import json
import re
import shutil
import sys
from pathlib import Path

import msgspec
from simulated_runs import (
    NO_ENV,
    Job,
    State,
    exit_on_sigterm,
    interpreter_for,
    options,
    run_digest,
    run_key,
    run_one,
    tree_digest,
)
from tool import ROOT, command

from migrator.files.sources import fetch
from migrator.files.tree import LOG_NAME
from migrator.rules import all_rules
from migrator.verify import simulate
from migrator.verify.simulate.report import Run

Pair = tuple[str, str]

RELEASES = ("0.11.0", "0.32.0", "0.10.0")
"""Each takes the rules that the ones before it have no site for."""
PAGE = ROOT / "docs" / "mutations.md"
GENERAL: tuple[Pair, ...] = (("llama", "eager"), ("llama", "tp2"), ("llama", "graph"))
"""Runs that any rule may fail, cheap ones first."""
_MOE: tuple[Pair, ...] = (("mixtral", "eager"), ("qwen3-moe", "eager"))
FIRST: dict[str, tuple[Pair, ...]] = {
    "NPU260": (("llama", "v2"),),
    "NPU261": (("llama", "v2"),),
    "NPU262": (("llama", "v2-full-graph"),),
    "NPU263": (("llama", "connector-host"),),
    "NPU121": (("gpt2", "eager"),),
    "NPU122": (("gemma", "eager"),),
    "NPU124": (("gemma", "eager"),),
    "NPU215": (("llama", "graph"),),
    "NPU217": (("llama", "tp2-graph"),),
    "NPU220": (("llama", "graph"), *_MOE),
    "NPU222": (("llama", "nz"),),
    "NPU224": (("llama", "tp2-graph"),),
    "NPU225": (("mixtral", "serve-dp2"),),
    "NPU226": (("gemma", "eager"),),
    "NPU227": (("mixtral", "serve-ray-dp2"),),
    "NPU228": (("vllm", "refusals"),),
    "NPU229": (("llama", "graph"),),
    "NPU230": _MOE,
    "NPU231": _MOE,
    "NPU232": _MOE,
    "NPU233": (("vllm", "refusals"),),
    "NPU238": (("llama", "tp2"),),
    "NPU239": (("mixtral", "serve-ray-dp2"),),
    "NPU240": (("llama", "ngram-eager"),),
    "NPU241": (("llama", "draft-eager"),),
    "NPU243": (("llama", "v2-no-triton"),),
    "NPU244": (("llama", "v2-no-triton"),),
    "NPU245": (("llama", "bfloat16"),),
    "NPU250": (("llama-w8a8", "eager"),),
    "NPU251": (("llama-modelslim", "eager"),),
    "NPU252": (("qwen3-moe-w8a8", "eager"),),
    "NPU242": (("llama", "v2-no-triton"), ("llama", "ngram-eager")),
    "NPU264": (("llama", "v2-no-triton"),),
    "NPU306": _MOE,
    "NPU307": (("llama", "full-graph"),),
    "NPU308": (("llama", "lora1-eager"),),
    "NPU309": (("deepseek-v2", "eager"),),
    "NPU311": (("llama-w8a8", "eager"),),
    "NPU401": (("vllm", "install"),),
}
"""Runs that reach what a rule changes, where the general ones do not come to it first."""
TIMEOUT = 600.0


class Outcome(msgspec.Struct):
    """What noticed that a rule was missing; `by` is empty if nothing did.

    `key` names the tree, what the runs are made by, and the environments that it came from.
    """

    rule: str
    name: str
    key: str
    by: str
    said: str
    runs: list[str]


class Mutations:
    """The mutations of one release, made and judged one by one."""

    def __init__(self, release: str, env: Path, old_env: Path | None, state: Path) -> None:
        self.release = release
        self.env = env
        self.old_env = old_env
        self.state = state
        self.outcomes = state / "mutations" / release
        self.outcomes.mkdir(parents=True, exist_ok=True)
        self.whole = self.emit("whole")

    def emit(self, name: str, *more: str) -> Path:
        """An emitted tree."""
        tree = self.state / "mutations" / "trees" / f"{self.release}-{name}"
        tree.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(tree, ignore_errors=True)
        done = command("apply", "-q", *more, fetch(self.release), "-o", tree)
        if done.returncode not in (0, 1):
            raise SystemExit(f"{self.release} {name}: apply exits {done.returncode}: {done.stderr}")
        return tree

    def changing(self) -> list[str]:
        """Codes of the rules that change something in the release."""
        log = json.loads((self.whole / LOG_NAME).read_bytes())
        return [entry["code"] for entry in log["rules"] if entry["changed"]]

    def interpreter(self, pair: Pair) -> Path | None:
        """The interpreter of a run; None where it needs an environment that was not given."""
        return interpreter_for(Job(self.release, *pair), self.env, self.old_env)

    def passes_whole(self, pair: Pair) -> bool:
        """Whether the tree with all rules passes a run; only then does a failure say something."""
        job = Job(self.release, *pair)
        python = self.interpreter(pair)
        if python is None:
            return False
        key = run_key(self.whole, job, python)
        # What docs/simulated-runs.md is made from says it, if it is of the same tree.
        outcome = State(self.state).read(job)
        if outcome is not None and outcome.key == key:
            return outcome.run.passed
        path = self.outcomes / f"whole-{pair[0]}-{pair[1]}.json"
        try:
            known = json.loads(path.read_bytes())
        except (FileNotFoundError, json.JSONDecodeError):
            known = {}
        if known.get("key") != key:
            run = self._run(self.whole, pair)
            known = {"key": key, "passed": run.passed, "problems": run.problems}
            path.write_text(json.dumps(known), encoding="utf-8")
            if not run.passed:
                print(f"whole tree, {' '.join(pair)}: {run.problems[0]}", file=sys.stderr)
        return bool(known["passed"])

    def _key(self, tree: Path, runs: list[str]) -> str:
        return f"{tree_digest(tree)[:16]}-{made_by(runs)}-{self.env}-{self.old_env}"

    def _run(self, tree: Path, pair: Pair) -> simulate.Run:
        python = self.interpreter(pair)
        assert python is not None, "passes_whole says no without one"
        work = self.state / "mutations" / "work"
        (run,) = run_one(*pair, tree, python, work, timeout=TIMEOUT).runs
        return run

    def judge(self, code: str) -> Outcome:
        """Leave one rule out and look who notices."""
        path = self.outcomes / f"{code}.json"
        tree = self.emit(code, "--ignore", code)
        try:
            known = msgspec.json.decode(path.read_bytes(), type=Outcome)
        except (FileNotFoundError, msgspec.DecodeError):
            known = None
        if known is not None and known.key == self._key(tree, known.runs):
            shutil.rmtree(tree)
            return known
        by, said, runs = self._notice(code, tree)
        name = next(rule.name for rule in all_rules() if rule.code == code)
        outcome = Outcome(code, name, self._key(tree, runs), by, said, runs)
        path.write_bytes(msgspec.json.encode(outcome))
        shutil.rmtree(tree)
        return outcome

    def _notice(self, code: str, tree: Path) -> tuple[str, str, list[str]]:
        runs = ["verify"]
        checked = command("verify", tree, "-q")
        if checked.returncode == 1:
            return "verify", checked.stdout.strip().splitlines()[0], runs
        if checked.returncode != 0:
            raise SystemExit(f"{code}: verify exits {checked.returncode}: {checked.stderr}")
        for pair in dict.fromkeys([*FIRST.get(code, ()), *GENERAL]):
            name = " ".join(pair)
            if not self.passes_whole(pair):
                runs.append(f"{name}: not for the whole tree")
                continue
            runs.append(name)
            run = self._run(tree, pair)
            if not run.passed:
                log = self.state / "mutations" / "work" / "-".join(pair) / "log"
                return name, said(run, log), runs
        return "", "", runs


def made_by(runs: list[str]) -> str:
    """What the runs of an outcome are made and judged by; nothing for `verify` alone."""
    pairs = [run.partition(":")[0].split() for run in runs if run != "verify"]
    return "+".join(run_digest(*pair)[:16] for pair in pairs)


def said(run: Run, log: Path) -> str:
    """The most telling line of a run that failed: the last error that is not about another one."""
    if not run.log or not log.is_file():
        return run.problems[0]
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    errors = [
        line.strip()
        for line in (re.sub(r"\x1b\[[\d;]*m", "", line) for line in lines)
        if re.search(r"\b\w+Error(: .|$)", line) and not re.search("root cause|WARNING", line)
    ]
    return re.sub(r"^\(.*?\) *(ERROR .*?\] *)?", "", errors[-1]) if errors else run.problems[0]


INTRODUCTION = """\
# Mutations

Made by `python scripts/mutations.py`: each rule is left out of the emitted tree once
(`apply --ignore RULE`), and something has to notice: `verify` without running, else a run of a tiny
model on the simulated Ascend that the whole tree passes ([simulated-runs.md](simulated-runs.md)).
A rule whose absence nothing notices would have no test. Rules that change nothing in 0.11.0 are
left out of a release that they are for.

"""


def page(outcomes: dict[str, list[Outcome]]) -> str:
    """The page in Markdown, a table for each release."""
    every = [outcome for some in outcomes.values() for outcome in some]
    noticed = sum(bool(outcome.by) for outcome in every)
    static = sum(outcome.by == "verify" for outcome in every)
    earlier = sum(outcome.key.split("-")[1] != made_by(outcome.runs) for outcome in every)
    lines = [
        INTRODUCTION + f"{len(every)} rules left out, {noticed} noticed: {static} by `verify` "
        f"without running, {noticed - static} by a run."
        + (f" {earlier} are from an earlier state of the runs or the simulator." if earlier else "")
    ]
    for release, some in outcomes.items():
        if some:
            lines += ["", f"## {release}", "", table(some)]
    return "\n".join(lines) + "\n"


def table(outcomes: list[Outcome]) -> str:
    """The outcomes of a release in Markdown."""
    lines = ["| left out | noticed by | which says |", "| --- | --- | --- |"]
    for outcome in outcomes:
        text = outcome.said.replace("|", "\\|")
        if len(text) > 160:
            text = text[:160].rstrip() + " …"
        by = outcome.by or f"**nothing** ({', '.join(outcome.runs)})"
        quote = "``" if "`" in text else "`"
        code = f"{quote} {text} {quote}" if "`" in text else f"{quote}{text}{quote}"
        lines.append(f"| {outcome.rule} {outcome.name} | {by} | {text and code} |")
    return "\n".join(lines)


def kept(state: Path, release: str) -> list[Outcome]:
    """The outcomes of a release that were written, whatever they came from, by code."""
    files = sorted((state / "mutations" / release).glob("NPU*.json"))
    return [msgspec.json.decode(file.read_bytes(), type=Outcome) for file in files]


def _write(place: Path, state: Path) -> None:
    place.write_text(page({r: kept(state, r) for r in RELEASES}), encoding="utf-8")


def main(arguments: list[str]) -> int:
    parser = options(__doc__, PAGE, "simulated-runs")
    parser.add_argument("--rules", help="only these, comma separated")
    given = parser.parse_args(arguments)
    exit_on_sigterm()
    state = given.state.absolute()
    wanted = given.rules.split(",") if given.rules else None
    # What is kept of the others may be nothing, on a machine that is new.
    whole = not given.releases and wanted is None
    if not given.write_only and given.env is None:
        parser.error(NO_ENV)
    seen: set[str] = set()
    good = True
    for release in () if given.write_only else given.releases or RELEASES:
        mutations = Mutations(release, given.env, given.old_env, state)
        codes = [code for code in mutations.changing() if code not in seen]
        if not given.releases:
            seen.update(codes)
        for code in codes:
            if wanted is not None and code not in wanted:
                continue
            outcome = mutations.judge(code)
            good &= bool(outcome.by)
            found = f"{outcome.by or 'NOTHING'}: {outcome.said[:200]}"
            print(f"{release} {code}: {found}", file=sys.stderr, flush=True)
            if whole:
                _write(given.page, state)
    if whole:
        _write(given.page, state)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
