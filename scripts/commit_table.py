# SPDX-License-Identifier: Apache-2.0
"""Port commits between releases, and heads of forks, and write docs/commits.md: a table by month.

Each is exported without anything that says its version. Then as for a release: `apply` into a new
directory, `check`, which must find nothing left to do, and `verify` against the torch_npu that
fits. An audit looks at the added files beside that: each method that overrides one of the tree's
must take what that one takes. Outcomes are kept below --state by the commit and by the code they
came from, so that an interrupted run goes on where it was: what was good stays, unless --again is
given, and the page counts those of earlier code; what was not is tried again once the code is
another. The command's exit code is 1 if any commit of the main line was not ported, not checked or
not clean.

    python scripts/commit_table.py --repo vllm.git --every 300            # every 300th since then
    python scripts/commit_table.py --repo vllm.git --every 300 --offset 150      # and those between
    python scripts/commit_table.py --repo vllm.git rocm=ROCm.git@main,ROCm-7.0   # and of a fork
    python scripts/commit_table.py --repo vllm.git --env DIR --run 134a8ee8fd 7e1f10d562=mixtral
                                                  # these commits, and a tiny model through each
    python scripts/commit_table.py --write-only                           # the page of what is kept

A run is eager, on the simulated Ascend, with every token compared with transformers'; of a fork its
head is named, `rocm main=llama`, and the fork is given as above.

Any repository that carries vLLM's history serves as --repo, a clone of a fork too; nothing is
fetched.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

import msgspec
import overrides
import platformdirs
from tool import ROOT, command

from migrator.files.tree import LOG_NAME, DiskTree
from migrator.reports.log import read_log

PAGE = ROOT / "docs" / "commits.md"
SINCE = "2025-07-01"
"""The first day of the table: 0.9.2, the oldest release known, is of that week."""
MIDNIGHT = "T00:00:00Z"
"""git takes a day alone for the time of day that it is asked at."""
SHORT = 10
"""Digits of a commit's name."""
DECIDES = ("codemod", "files/tree.py", "planning/plan.py", "rules", "verify")
"""What of the package an outcome depends on, beside the templates."""


class Outcome(msgspec.Struct):
    """What became of one commit. `key` names the code that it came from."""

    commit: str
    day: str
    fork: str
    """Name of the fork and of its branch; empty for a commit of the main line."""
    key: str
    ported: bool = False
    checked: bool = False
    clean: bool = False
    left: tuple[str, ...] = ()
    """Sites that wait for a person."""
    problems: tuple[str, ...] = ()
    runs: dict[str, str] = {}
    """Model → what is wrong with its run; empty where nothing is."""

    @property
    def good(self) -> bool:
        """Ported, checked and statically clean, and no run failed?"""
        return self.ported and self.checked and self.clean and not any(self.runs.values())


class State:
    """Outcomes on disk, one file for each commit."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def _file(self, commit: str) -> Path:
        return self.folder / f"{commit}.json"

    def read(self, commit: str) -> Outcome | None:
        """The outcome of a commit, whatever code it came from."""
        try:
            return msgspec.json.decode(self._file(commit).read_bytes(), type=Outcome)
        except (FileNotFoundError, msgspec.DecodeError):
            return None

    def write(self, outcome: Outcome) -> None:
        self._file(outcome.commit).write_bytes(msgspec.json.format(msgspec.json.encode(outcome)))

    def every(self) -> list[Outcome]:
        """All that is kept, oldest first."""
        found = [self.read(path.stem) for path in self.folder.glob("*.json")]
        return sorted((o for o in found if o is not None), key=lambda o: (o.fork, o.day, o.commit))


def code_key() -> str:
    """A hash of the code that outcomes depend on."""
    places = [ROOT / "templates", *(ROOT / "migrator" / name for name in DECIDES)]
    places += [Path(__file__), Path(overrides.__file__)]
    total = hashlib.sha256()
    for place in places:
        for path in sorted(place.rglob("*.py")) if place.is_dir() else [place]:
            if "simulate" not in path.parts:
                total.update(f"{path.relative_to(ROOT)}\0".encode() + path.read_bytes())
    return total.hexdigest()[:16]


# -- which commits


def git(repository: Path, *arguments: str) -> str:
    """What git prints in a repository."""
    done = subprocess.run(
        ["git", "-C", str(repository), *arguments], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(f"{repository}: {done.stderr.strip()}")
    return done.stdout.strip()


def main_line(repository: Path, branch: str, every: int, offset: int) -> Iterator[Outcome]:
    """Each `every`th commit of a branch, counted from the first of the table's first day."""
    listing = git(
        repository,
        *("log", "--first-parent", "--reverse", f"--since={SINCE}{MIDNIGHT}"),
        *(f"--abbrev={SHORT}", "--format=%h %cs", branch),
    )
    for line in listing.splitlines()[offset::every]:
        commit, _, day = line.partition(" ")
        yield Outcome(commit, day, "", "")


def single(repository: Path, commit: str) -> Outcome:
    """One commit of a repository by its name."""
    return msgspec.structs.replace(head("", repository, commit), fork="")


def head(name: str, repository: Path, branch: str) -> Outcome:
    """The newest commit of a fork's branch."""
    line = git(repository, "log", "-1", f"--abbrev={SHORT}", "--format=%h %cs", branch)
    commit, _, day = line.partition(" ")
    return Outcome(commit, day, f"{name} {branch}", "")


def fork(text: str) -> tuple[str, Path, list[str]]:
    """What NAME=GIT[@BRANCH,…] says.

    Raises:
        argparse.ArgumentTypeError: It says no such thing.
    """
    name, equals, place = text.partition("=")
    path, _, branches = place.partition("@")
    if not (name and equals and Path(path).is_dir()):
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=GIT or NAME=GIT@BRANCH,BRANCH")
    return name, Path(path), branches.split(",") if branches else ["HEAD"]


# -- what becomes of one


def lacking(repository: Path, commit: str) -> list[str]:
    """Files of a commit whose contents the repository lacks, as a partial copy may."""
    listing = git(repository, "ls-tree", "-r", commit).splitlines()
    blobs = {path: fields.split()[2] for fields, _, path in (e.partition("\t") for e in listing)}
    done = subprocess.run(
        ["git", "-C", str(repository), "cat-file", "--batch-check"],
        input="".join(f"{name}\n" for name in sorted(set(blobs.values()))),
        capture_output=True,
        text=True,
        check=True,
    )
    absent = {line.split()[0] for line in done.stdout.splitlines() if line.endswith(" missing")}
    return [path for path, blob in blobs.items() if blob in absent]


def export(repository: Path, commit: str, target: Path) -> None:
    """Write the files of a commit into a directory of its own, without history or metadata.

    Files whose contents the repository lacks are left out, unless they are code.
    """
    absent = lacking(repository, commit)
    if code := [path for path in absent if path.endswith(".py")]:
        raise SystemExit(f"{repository}: {commit} has no contents of {', '.join(code)}")
    target.mkdir()
    place = git(repository, "rev-parse", "--absolute-git-dir")
    index = {"GIT_INDEX_FILE": str(target.with_suffix(".index"))}
    base = ["git", "-c", "core.autocrlf=false", f"--git-dir={place}", f"--work-tree={target}"]
    for arguments, given in (
        (("read-tree", commit), ""),
        (("update-index", "--force-remove", "-z", "--stdin"), "".join(f"{p}\0" for p in absent)),
        (("checkout-index", "-a"), ""),
    ):
        subprocess.run(
            [*base, *arguments],
            cwd=target,
            env={**os.environ, **index},
            input=given,
            text=True,
            check=True,
        )


def migrate(
    outcome: Outcome, repository: Path, models: Iterable[str] = (), env: Path | None = None
) -> Outcome:
    """Export, apply, check and verify one commit, and run models through it."""
    with tempfile.TemporaryDirectory() as scratch:
        source, target = Path(scratch) / "vllm", Path(scratch) / "out"
        export(repository, outcome.commit, source)

        def said(text: str) -> tuple[str, ...]:
            lines = (line.strip().removeprefix("Error: ") for line in text.splitlines())
            return tuple(line.replace(f"{scratch}/", "") for line in lines if line)

        applied = command("apply", source, "-o", target, "-q", "-j", "1")
        if applied.returncode not in (0, 1):
            return msgspec.structs.replace(outcome, problems=said(applied.stderr))
        outcome = msgspec.structs.replace(outcome, ported=True)
        log = read_log((target / LOG_NAME).read_bytes())
        outcome.left = tuple(
            f"{e.rule} {e.path} {e.site}: {e.reason}" for e in log.left_alone if e.kind == "manual"
        )
        checked = command("check", target, "-q", "-j", "1")
        # Sites that wait for a person make the exit code 1 here as they did in `apply`.
        outcome.checked = checked.returncode == applied.returncode
        if not outcome.checked:
            outcome.problems += (f"check exits {checked.returncode}", *said(checked.stderr))
        verified = command("verify", target, "-q")
        outcome.clean = verified.returncode == 0
        if not outcome.clean:
            outcome.problems += said(verified.stdout + verified.stderr)
        unfit = tuple(overrides.problems(DiskTree(target)))
        outcome.clean &= not unfit
        outcome.problems += unfit
        for model in models:
            assert env is not None, "the arguments say so"
            run = ("--simulate", "--models", model, "--modes", "eager", "--env", env)
            done = command("verify", target, *run, "--format", "json")
            ran = [] if done.returncode == 2 else json.loads(done.stdout)["runs"]
            wrong = [problem for one in ran for problem in one["problems"]]
            if not ran or not all(one["equal"] for one in ran):
                wrong += said(done.stderr) or ("tokens were not compared",)
            outcome.runs = {**outcome.runs, model: "; ".join(wrong)}
        return outcome


# -- the page


def page(every: Iterable[Outcome], key: str) -> str:
    """The page in Markdown; `key` names today's code."""
    outcomes = list(every)
    commits = [o for o in outcomes if not o.fork]
    heads = [o for o in outcomes if o.fork]
    months: dict[str, list[Outcome]] = {}
    for outcome in commits:
        months.setdefault(outcome.day[:7], []).append(outcome)
    good = sum(o.good for o in commits)
    share = f"{100 * good / len(commits):.1f}%" if commits else "none"
    earlier = sum(o.key != key for o in outcomes)
    lines = [
        "# Commits between releases, and forks",
        "",
        "Made by `python scripts/commit_table.py`: commits of vLLM's main line, exported without",
        "anything that says their version, and heads of forks likewise. *Ported*: `apply` finds a",
        "place for every rule. *Checked*: a second run finds nothing to do. *Clean*: `verify` has",
        "no findings against the torch_npu that fits, and each method of an added file that",
        "overrides one of the tree's takes what that one takes. No model runs for that;",
        "those below ran on the simulated Ascend, tiny and eager, every token compared with",
        "transformers'.",
        "",
        f"Commits: {len(commits)}; ported, checked and clean: {good} ({share})."
        + (f" Outcomes from an earlier state of the code: {earlier}." if earlier else ""),
        "",
        "| Month | Commits | Ported | Checked | Clean | With sites for a person |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for month, found in sorted(months.items()):
        numbers = (
            len(found),
            sum(o.ported for o in found),
            sum(o.checked for o in found),
            sum(o.clean for o in found),
            sum(bool(o.left) for o in found),
        )
        lines.append(f"| {month} | " + " | ".join(map(str, numbers)) + " |")
    lines += ["", "## What failed, and why", ""]
    failed = [o for o in commits if not o.good]
    lines += [line for o in failed for line in entry(o)] or ["Nothing."]
    lines += ["", "## Run", "", *ran(outcomes)]
    lines += ["", "## Sites for a person", ""]
    lines += [f"- {o.commit} ({o.day}): {code(text)}" for o in commits for text in o.left] or [
        "None."
    ]
    lines += ["", "## Forks", ""]
    if heads:
        lines += [
            "| Fork and branch | Commit | Day | Ported | Checked | Clean | For a person |",
            "| --- | --- | --- | --- | --- | --- | ---: |",
        ]
    for o in heads:
        cells = [o.fork, o.commit, o.day, *(yes(b) for b in (o.ported, o.checked, o.clean))]
        lines.append("| " + " | ".join([*cells, str(len(o.left))]) + " |")
    notes = [line for o in heads if o.problems for line in entry(o)]
    notes += [f"- {o.fork}: left for a person: {code(text)}" for o in heads for text in o.left]
    lines += ["", *notes] if notes else []
    return "\n".join(lines) + "\n"


def ran(outcomes: Iterable[Outcome]) -> list[str]:
    """The table of runs."""
    rows = [
        f"| {o.fork or o.commit} | {o.day} | {model} eager | {code(wrong) if wrong else 'equal'} |"
        for o in outcomes
        for model, wrong in o.runs.items()
    ]
    head = ["| Commit | Day | Run | Tokens |", "| --- | --- | --- | --- |"]
    return [*head, *rows] if rows else ["None."]


def entry(outcome: Outcome) -> list[str]:
    """What went wrong with one commit, as a list item."""
    what = outcome.fork or f"{outcome.commit} ({outcome.day})"
    first, *rest = outcome.problems or ("nothing was said",)
    return [f"- {what}: {code(first)}", *(f"    - {code(text)}" for text in rest)]


def code(text: str) -> str:
    """A message as code, whatever stands in it."""
    return f"`{text.replace('`', chr(39))}`"


def yes(good: bool) -> str:
    return "yes" if good else "no"


def main(arguments: list[str]) -> int:
    outcomes = platformdirs.user_cache_path("vllm-npu-migrate") / "commits"
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("forks", nargs="*", type=fork, metavar="NAME=GIT[@BRANCH,…]")
    parser.add_argument("--repo", type=Path, metavar="GIT", help="carries vLLM's history")
    parser.add_argument("--branch", default="HEAD", help="its main line [default: HEAD]")
    parser.add_argument("--every", type=int, default=150, help="[default: 150]")
    parser.add_argument("--offset", type=int, default=0, help="leave out the first so many")
    parser.add_argument("--state", type=Path, default=outcomes, help="where outcomes are kept")
    parser.add_argument("--again", action="store_true", help="also what was good by earlier code")
    parser.add_argument("--run", nargs="+", default=[], metavar="COMMIT[=MODEL]")
    parser.add_argument("--env", type=Path, metavar="DIR", help="environment of the runs")
    parser.add_argument("--write-only", action="store_true", help="port nothing")
    parser.add_argument("--page", type=Path, default=PAGE, help="what to write")
    given = parser.parse_args(arguments)
    state, key = State(given.state.absolute()), code_key()
    jobs: list[tuple[Outcome, Path]] = []
    models: dict[str, list[str]] = {}
    for text in given.run:
        name, _, model = text.partition("=")
        models.setdefault(name, []).append(model or "llama")
    if models and given.env is None:
        parser.error("--run needs --env, an environment with torch, torch_npu and transformers")
    if given.repo is not None and given.run:
        wanted = [name for name in models if " " not in name]
        jobs += [(single(given.repo, name), given.repo) for name in wanted]
    elif given.repo is not None:
        line = main_line(given.repo, given.branch, given.every, given.offset)
        jobs += [(outcome, given.repo) for outcome in line]
    for name, repository, branches in given.forks:
        jobs += [(head(name, repository, branch), repository) for branch in branches]
    for outcome, repository in [] if given.write_only else jobs:
        known = state.read(outcome.commit)
        wanted = models.get(outcome.fork or outcome.commit, [])
        more = known is not None and not known.runs.keys() >= set(wanted)
        if known is None or more or (known.key != key and (given.again or not known.good)):
            outcome.key = key
            wanted = list(dict.fromkeys([*(known.runs if known is not None else ()), *wanted]))
            known = migrate(outcome, repository, wanted if given.env else (), given.env)
            state.write(known)
        what = "ok" if known.good else "; ".join(known.problems)
        print(f"{known.day} {known.fork or known.commit}: {what}", file=sys.stderr, flush=True)
    every = state.every()
    given.page.write_text(page(every, key), encoding="utf-8")
    return 0 if all(o.good for o in every if not o.fork) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
