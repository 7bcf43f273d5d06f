# SPDX-License-Identifier: Apache-2.0
"""Leave out each rule in turn and see whether `verify` or `verify --simulate` notices.

For every rule that changes something in a release: `apply --ignore RULE`, then `verify` without
running; if that finds nothing, models through the tree, the cheapest run that should fail first,
until one fails. A run counts only if the whole tree passes it, which is seen first. A rule whose
absence nothing notices has no test, and the exit code is 1.

Outcomes are kept below --state by what they came from, so that an interrupted run goes on.

    python scripts/mutations.py --env DIR                    # 0.11.0
    python scripts/mutations.py --env DIR 0.32.0 --rules NPU210,NPU217
"""

from __future__ import annotations

import argparse
import json
import shutil
import signal
import sys
from pathlib import Path

import msgspec
import platformdirs
from simulated_runs import (
    Job,
    command,
    interpreter_for,
    launcher,
    program_digest,
    tree_digest,
)

from migrator.rules import all_rules
from migrator.sources import fetch
from migrator.tree import LOG_NAME
from migrator.verify import simulate

Pair = tuple[str, str]

GENERAL: tuple[Pair, ...] = (("llama", "eager"), ("llama", "tp2"), ("llama", "graph"))
"""Runs that any rule may fail, cheap ones first."""
FIRST: dict[str, tuple[Pair, ...]] = {
    "NPU121": (("gpt2", "eager"),),
    "NPU122": (("gemma", "eager"),),
    "NPU124": (("gemma", "eager"),),
    "NPU130": (("llama", "tp2"),),
    "NPU215": (("llama", "graph"),),
    "NPU216": (("llama", "tp2"), ("llama", "graph")),
    "NPU217": (("llama", "tp2-graph"),),
    "NPU220": (("llama", "graph"),),
    "NPU222": (("llama", "nz"),),
    "NPU230": (("mixtral", "eager"), ("qwen3-moe", "eager")),
    "NPU231": (("mixtral", "eager"), ("qwen3-moe", "eager")),
    "NPU232": (("mixtral", "eager"), ("qwen3-moe", "eager")),
    "NPU303": (("llama", "tp2"),),
    "NPU307": (("llama", "full-graph"),),
    "NPU401": (("vllm", "install"),),
    "NPU306": (("mixtral", "eager"), ("qwen3-moe", "eager")),
}
"""Runs that reach what a rule changes, where the general ones do not come to it first."""
TIMEOUT = 600.0


class Outcome(msgspec.Struct):
    """What noticed that a rule was missing; `by` is empty if nothing did."""

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
        self.programs = program_digest()
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
        if self.interpreter(pair) is None:
            return False
        path = self.outcomes / f"whole-{pair[0]}-{pair[1]}.json"
        key = self._key(self.whole)
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

    def _key(self, tree: Path) -> str:
        return f"{tree_digest(tree)[:16]}-{self.programs[:16]}-{self.env}-{self.old_env}"

    def _run(self, tree: Path, pair: Pair) -> simulate.Run:
        python = self.interpreter(pair)
        assert python is not None, "passes_whole says no without one"
        installs = pair[1] == "install"
        options = simulate.Options(
            tree=tree,
            launcher=launcher(python),
            models=() if installs else simulate.select_models(pair[:1]),
            modes=() if installs else simulate.select_modes(pair[1:]),
            work=self.state / "mutations" / "work",
            timeout=TIMEOUT,
        )
        (run,) = (simulate.install if installs else simulate.simulate)(options).runs
        return run

    def judge(self, code: str) -> Outcome:
        """Leave one rule out and look who notices."""
        path = self.outcomes / f"{code}.json"
        tree = self.emit(code, "--ignore", code)
        key = self._key(tree)
        try:
            known = msgspec.json.decode(path.read_bytes(), type=Outcome)
        except (FileNotFoundError, msgspec.DecodeError):
            known = None
        if known is not None and known.key == key:
            shutil.rmtree(tree)
            return known
        by, said, runs = self._notice(code, tree)
        name = next(rule.name for rule in all_rules() if rule.code == code)
        outcome = Outcome(code, name, key, by, said, runs)
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
                errors = [line for line in run.log if "Error" in line]
                return name, errors[-1].strip() if errors else run.problems[0], runs
        return "", "", runs


def table(release: str, outcomes: list[Outcome]) -> str:
    """The outcomes in Markdown."""
    lines = [f"| rule left out of {release} | noticed by | says |", "| --- | --- | --- |"]
    for outcome in outcomes:
        said = outcome.said.replace("|", "\\|")[:140]
        by = outcome.by or f"**nothing** ({', '.join(outcome.runs)})"
        lines.append(f"| {outcome.rule} {outcome.name} | {by} | {said} |")
    return "\n".join(lines) + "\n"


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("release", nargs="?", default="0.11.0")
    parser.add_argument("--env", type=Path, required=True, help="as for simulated_runs.py")
    parser.add_argument("--old-env", type=Path, help="as for simulated_runs.py")
    parser.add_argument("--state", type=Path, help="where outcomes are kept")
    parser.add_argument("--rules", help="only these, comma separated")
    given = parser.parse_args(arguments)
    # `kill` ends the processes of a run as an interrupt does.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    default = platformdirs.user_cache_path("vllm-npu-migrate") / "simulated-runs"
    state = (given.state or default).absolute()
    mutations = Mutations(given.release, given.env, given.old_env, state)
    wanted = given.rules.split(",") if given.rules else None
    codes = [code for code in mutations.changing() if wanted is None or code in wanted]
    outcomes = []
    for code in codes:
        outcome = mutations.judge(code)
        outcomes.append(outcome)
        print(
            f"{code}: {outcome.by or 'NOTHING'}: {outcome.said[:200]}", file=sys.stderr, flush=True
        )
    print(table(given.release, outcomes), end="")
    return 0 if all(outcome.by for outcome in outcomes) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
