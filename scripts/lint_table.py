# SPDX-License-Identifier: Apache-2.0
"""Hold emitted trees against the linters that vLLM pins, and write a section of docs/releases.md.

For each release: `ruff check` and the formatters that `.pre-commit-config.yaml` of the tree names,
in the versions that it pins and under the tree's own configuration, over the files that the
migration changed or added, and over the same files of the untouched release. A changed file may
have no complaint that the untouched one has not; an added file may have none at all. With --mypy
also the tree's hook of mypy, in an environment of what the hook names. What switches a linter off
is counted as well. The command's exit code is 1 where something is worse.

    python scripts/lint_table.py                 # the 29 releases, and mypy of 0.33.0
    python scripts/lint_table.py 0.33.0          # only these, printed and not written
    python scripts/lint_table.py --mypy 0.33.0   # and mypy
    python scripts/lint_table.py --tree DIR …    # emitted trees that exist already
    python scripts/lint_table.py -v 0.33.0       # print every complaint
    python scripts/lint_table.py --write-only    # the section of what is kept

The linters are installed from the package index into the cache, each version once. Outcomes are
kept below --state by the emitted files that they came from, so that an interrupted run goes on.
`release_table.py` runs the linters as well.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import shlex
import subprocess
import sys
import tempfile
import venv
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import msgspec
import yaml  # type: ignore[import-untyped]
from tool import ROOT, command

from migrator.files.locations import private_cache
from migrator.files.sources import fetch
from migrator.files.tree import LOG_NAME
from migrator.reports.log import read_log
from migrator.reports.releases import KNOWN

PINS = ".pre-commit-config.yaml"
PAGE = ROOT / "docs" / "releases.md"
HEADING = "## Linters"
"""What the section begins with, which is the page's last."""
TYPED = ("0.33.0",)
"""Releases that mypy looks at where none are named."""
HOOKS = {"ruff": "check", "ruff-check": "check", "ruff-format": "format"}
"""Hooks of ruff, by what they have it do; `yapf` and `isort` are tools of their own."""


@dataclass(frozen=True)
class Hook:
    """A linter as a tree's pre-commit runs it."""

    tool: str
    version: str
    task: str
    """`check`, or `format`."""
    files: str = ""
    """Regular expression of the paths that it looks at."""
    exclude: str = "^$"

    def takes(self, path: str) -> bool:
        return bool(re.search(self.files, path)) and not re.search(self.exclude, path)


Complaint = tuple[str, str]
"""The path of a file, and what is wrong there."""


class Linted(msgspec.Struct):
    """What the linters of a release say."""

    tools: tuple[str, ...]
    """Such as `ruff 0.14.0`."""
    key: str = ""
    """A hash of the emitted files that they saw, and of this script."""
    changed: int = 0
    """How many of them the release has too."""
    added: int = 0
    old: list[tuple[Complaint, int]] = []
    """Complaints about the untouched files, and how often."""
    new: list[tuple[Complaint, int]] = []
    """The same of the emitted files."""
    said: list[str] = []
    """The linters' own words about emitted files."""
    off: dict[str, int] = {}
    """Comments that switch a linter off: how many more there are than were."""

    @property
    def before(self) -> Counter[Complaint]:
        """Complaints about the untouched files."""
        return Counter(dict(self.old))

    @property
    def after(self) -> Counter[Complaint]:
        """Complaints about the emitted files."""
        return Counter(dict(self.new))

    @property
    def files(self) -> int:
        """Files that were looked at."""
        return self.changed + self.added

    @property
    def worse(self) -> dict[Complaint, int]:
        """Complaints that are new."""
        return dict(self.after - self.before)


OFF = {
    "noqa": re.compile(r"#\s*(?:ruff|flake8)?:?\s*noqa\b"),
    "yapf": re.compile(r"#\s*yapf:\s*disable"),
    "isort": re.compile(r"#\s*isort:\s*(?:skip|off)"),
    "fmt": re.compile(r"#\s*fmt:\s*(?:skip|off)"),
    "type: ignore": re.compile(r"#\s*type:\s*ignore"),
}
"""Comments that switch a linter off."""


def hooks(tree: Path) -> list[Hook]:
    """The linters of Python code that a tree pins."""
    config = yaml.safe_load((tree / PINS).read_text(encoding="utf-8"))
    found = []
    for repo in config["repos"]:
        for hook in repo["hooks"]:
            name = hook["id"]
            if name not in HOOKS and name not in ("yapf", "isort"):
                continue
            version = str(repo["rev"]).removeprefix("v")
            tool = "ruff" if name in HOOKS else name
            task = HOOKS.get(name, "format")
            found.append(
                Hook(tool, version, task, hook.get("files", ""), hook.get("exclude", "^$"))
            )
    return found


@cache
def installed(tool: str, version: str) -> Path:
    """The folder that holds one version of a linter, which is installed there first if need be."""
    place = private_cache("linters") / f"{tool}-{version}"
    if not place.is_dir():
        with tempfile.TemporaryDirectory(dir=place.parent) as scratch:
            made = Path(scratch) / "made"
            asked = [sys.executable, "-m", "pip", "install", "-qq", "--target", str(made)]
            subprocess.run([*asked, f"{tool}=={version}"], check=True)
            made.rename(place)
    return place


def complaints(
    hook: Hook, tree: Path, paths: Sequence[str]
) -> tuple[Counter[tuple[str, str]], list[str]]:
    """What a linter finds in some files of a tree: counted by path and kind, and in its words."""
    counted: Counter[tuple[str, str]] = Counter()
    if not paths:
        return counted, []
    place = installed(hook.tool, hook.version)
    if hook.tool == "ruff":
        program: list[str] = [str(place / "bin" / "ruff")]
        program += (
            ["check", "--output-format=json"] if hook.task == "check" else ["format", "--diff"]
        )
        program += ["--no-cache", "--force-exclude"]
    else:
        program = [sys.executable, "-m", hook.tool, "--diff"]
    done = subprocess.run(
        [*program, *paths],
        cwd=tree,
        env={**os.environ, "PYTHONPATH": str(place)},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode not in (0, 1):
        raise RuntimeError(f"{hook.tool} exits {done.returncode}: {done.stderr[-600:]}")
    if hook.task == "check":
        said = []
        for found in json.loads(done.stdout):
            path = os.path.relpath(found["filename"], tree)
            counted[path, found["code"] or "syntax"] += 1
            line = f"{path}:{found['location']['row']}"
            said.append(f"{line}: {found['code']} {found['message']}")
        return counted, said
    path = ""
    for line in done.stdout.splitlines():
        header = re.match(r"--- (.+?)(?::before)?(?:\t.*)?$", line)
        if header:
            path = os.path.relpath(tree / header.group(1), tree)
        elif line.startswith("@@"):
            counted[path, f"{hook.tool} {hook.task}"] += 1
    return counted, done.stdout.splitlines()


class Emitted:
    """The Python files of an emitted tree, beside the untouched tree that they came from."""

    def __init__(self, source: Path, target: Path) -> None:
        self.source = source.resolve()
        self.target = target.resolve()
        log = read_log((target / LOG_NAME).read_bytes())
        files = [entry for entry in log.files if entry.path.endswith(".py")]
        self.changed = sorted(entry.path for entry in files if entry.status == "modified")
        self.added = sorted(entry.path for entry in files if entry.status == "added")

    @property
    def both(self) -> list[str]:
        """Paths of all files, sorted."""
        return sorted([*self.changed, *self.added])

    @property
    def key(self) -> str:
        """A hash of the emitted files and of this script."""
        total = hashlib.sha256(Path(__file__).read_bytes())
        for path in self.both:
            total.update(f"{path}\0".encode() + (self.target / path).read_bytes())
        return total.hexdigest()[:16]

    def switched_off(self) -> dict[str, int]:
        """Comments that switch a linter off: how many more of each kind there are."""
        counted = {}
        for name, pattern in OFF.items():
            old = sum(_count(pattern, self.source / path) for path in self.changed)
            new = sum(_count(pattern, self.target / path) for path in self.both)
            if new != old:
                counted[name] = new - old
        return counted

    def lint(self) -> Linted:
        """Run the tree's linters over what was emitted, and over what was there before."""
        found = hooks(self.target)
        tools = tuple(dict.fromkeys(f"{hook.tool} {hook.version}" for hook in found))
        before: Counter[Complaint] = Counter()
        after: Counter[Complaint] = Counter()
        said = []
        for hook in found:
            taken = [path for path in self.changed if hook.takes(path)]
            before += complaints(hook, self.source, taken)[0]
            taken = [path for path in self.both if hook.takes(path)]
            counted, words = complaints(hook, self.target, taken)
            after += counted
            said += words
        return self._linted(tools, before, after, said)

    def type_check(self) -> Linted:
        """Run the tree's hook of mypy over what was emitted, and over what was there before."""
        mypy = TypeHook.of(self.target)
        before, _ = mypy.complaints(self.source, self.changed)
        after, said = mypy.complaints(self.target, self.both)
        return self._linted((mypy.name,), before, after, said)

    def _linted(
        self,
        tools: tuple[str, ...],
        before: Counter[Complaint],
        after: Counter[Complaint],
        said: list[str],
    ) -> Linted:
        off = self.switched_off()
        old, new = sorted(before.items()), sorted(after.items())
        return Linted(tools, self.key, len(self.changed), len(self.added), old, new, said, off)


def _count(pattern: re.Pattern[str], path: Path) -> int:
    return len(pattern.findall(path.read_text(encoding="utf-8")))


@dataclass(frozen=True)
class TypeHook:
    """mypy as a tree's pre-commit runs it: a script of the tree, in an environment of its own."""

    entry: tuple[str, ...]
    needs: tuple[str, ...]

    @classmethod
    def of(cls, tree: Path) -> TypeHook:
        """The hook that runs by itself; others are for other versions of Python."""
        config = yaml.safe_load((tree / PINS).read_text(encoding="utf-8"))
        for repo in config["repos"]:
            for hook in repo["hooks"]:
                if hook["id"].startswith("mypy") and "manual" not in hook.get("stages", ()):
                    needs = tuple(hook.get("additional_dependencies", ()))
                    return cls(tuple(shlex.split(hook["entry"])), needs)
        raise RuntimeError(f"{PINS} names no mypy")

    @property
    def name(self) -> str:
        """mypy and its version, such as `mypy 1.20.2`."""
        return next(need for need in self.needs if need.startswith("mypy")).replace("==", " ")

    def environment(self) -> Path:
        """The folder of an environment with what the hook needs, made if need be."""
        key = hashlib.sha256("\n".join(self.needs).encode()).hexdigest()[:12]
        place = private_cache("linters") / f"mypy-{key}"
        ready = place / "ready"
        if not ready.is_file():
            venv.create(place, clear=True, with_pip=True, symlinks=True)
            asked = [str(place / "bin" / "python"), "-m", "pip", "install", "-qq", *self.needs]
            subprocess.run(asked, check=True)
            ready.touch()
        return place

    def complaints(self, tree: Path, paths: Sequence[str]) -> tuple[Counter[Complaint], list[str]]:
        """What it finds in some files of a tree: counted by path and kind, and in its words."""
        place = self.environment()
        with tempfile.TemporaryDirectory() as scratch:
            own = {"PATH": f"{place / 'bin'}:{os.environ['PATH']}", "MYPY_CACHE_DIR": scratch}
            rest = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
            done = subprocess.run(
                [*self.entry, *paths],
                cwd=tree,
                env={**rest, **own},
                capture_output=True,
                text=True,
                check=False,
            )
        found = re.findall(r"^(.+?):\d+: error: .*?(?:\[([\w-]+)\])?$", done.stdout, re.M)
        end = re.search(r"^Found \d+ errors? |^Success: ", done.stdout, re.M)
        if end is None or bool(done.returncode) != bool(found):
            raise RuntimeError(
                f"mypy exits {done.returncode}: {(done.stdout + done.stderr)[-600:]}"
            )
        counted = Counter((path, f"mypy {kind or 'error'}") for path, kind in found)
        return counted, [line for line in done.stdout.splitlines() if ": error: " in line]


def lint_emitted(source: Path, target: Path) -> Linted:
    """Lint the Python files that an emitted tree's log names."""
    return Emitted(source, target).lint()


def summary(linted: Linted) -> list[str]:
    """What is worse, a line for each file."""
    worse: dict[str, list[str]] = {}
    for (path, kind), count in sorted(linted.worse.items()):
        worse.setdefault(path, []).append(f"{kind} ({count})")
    return [f"{path}: {', '.join(kinds)}" for path, kinds in worse.items()]


def section(linted: dict[str, Linted], typed: dict[str, Linted]) -> str:
    """The section of the page, from its heading to the page's end."""
    lacking = [release for release in KNOWN if release not in linted]
    lines = [
        HEADING,
        "",
        "Made by `python scripts/lint_table.py`: what the linters that a release pins, in these "
        "versions and under its",
        "own configuration, find in the Python files that were changed or added, and in the same "
        "files before the",
        "migration. *New* are complaints about a file that the untouched one has not got; the "
        "script fails where there is one.",
        "*Switched off* counts the comments that keep a linter from a line or a block, those that "
        "came in less those that went.",
        "",
        "The releases up to 0.11.0 are laid out by yapf and isort. What is put into them goes "
        "through both, in the tree's own",
        "style, so that their files need no comment that keeps a formatter away, but for imports "
        "that the two want in two",
        "ways: these have the comments that vLLM puts around its own.",
        "",
        "| Release | Linters | Changed | Added | Complaints before | After | New | Switched off |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: | --- |",
        *(_row(release, outcome) for release, outcome in linted.items()),
        *(f"| {release} | not measured | – | – | – | – | – | – |" for release in lacking),
        "",
        "mypy as the release's own hook runs it:",
        "",
        "| Release | mypy | Changed | Added | Errors before | After | New |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: |",
        *(
            _row(release, outcome).rpartition(" |")[0].rpartition(" |")[0] + " |"
            for release, outcome in typed.items()
        ),
    ]
    return "\n".join(lines) + "\n"


def _row(release: str, linted: Linted) -> str:
    off = ", ".join(f"{name} {count:+d}" for name, count in sorted(linted.off.items())) or "–"
    cells = [
        *(release, ", ".join(linted.tools), linted.changed, linted.added),
        *(linted.before.total(), linted.after.total(), sum(linted.worse.values()), off),
    ]
    return "| " + " | ".join(map(str, cells)) + " |"


def with_section(page: str, text: str) -> str:
    """The page with another section, which is its last."""
    return page.partition(f"{HEADING}\n")[0].rstrip("\n") + f"\n\n{text}"


def kept_section(page: Path) -> str:
    """The section as the page has it; empty where it has none."""
    if not page.is_file():
        return ""
    _, heading, rest = page.read_text(encoding="utf-8").partition(f"{HEADING}\n")
    return f"\n{heading}{rest}" if heading else ""


def kept(state: Path, release: str, *, types: bool) -> Linted | None:
    """The outcome of an earlier run, of whatever files."""
    file = state / f"{'mypy-' if types else ''}{release}.json"
    try:
        return msgspec.json.decode(file.read_bytes(), type=Linted)
    except (FileNotFoundError, msgspec.DecodeError):
        return None


def write_kept(state: Path) -> int:
    """Write the section of what earlier runs have found."""
    linted = {release: kept(state, release, types=False) for release in KNOWN}
    typed = {release: kept(state, release, types=True) for release in TYPED}
    every = (*linted.items(), *typed.items())
    write(
        {name: found for name, found in linted.items() if found is not None},
        {name: found for name, found in typed.items() if found is not None},
    )
    return 1 if any(found is not None and found.worse for _, found in every) else 0


def write(linted: dict[str, Linted], typed: dict[str, Linted]) -> None:
    """Put the section into the page."""
    text = with_section(PAGE.read_text(encoding="utf-8"), section(linted, typed))
    PAGE.write_text(text, encoding="utf-8")


def measured(emitted: Emitted, release: str, state: Path, *, types: bool) -> Linted:
    """What the linters say, or mypy; from an earlier run where this has seen the same files."""
    file = state / f"{'mypy-' if types else ''}{release}.json"
    known = kept(state, release, types=types)
    if known is not None and known.key == emitted.key:
        return known
    found = emitted.type_check() if types else emitted.lint()
    state.mkdir(parents=True, exist_ok=True)
    file.write_bytes(msgspec.json.format(msgspec.json.encode(found)))
    return found


def main(arguments: list[str]) -> int:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help="releases, or emitted trees with --tree")
    parser.add_argument("--tree", action="store_true", help="NAMES are directories")
    parser.add_argument("--mypy", action="store_true", help="run the hook of mypy as well")
    parser.add_argument("-v", "--verbose", action="store_true", help="print every complaint")
    place = private_cache("lint")
    parser.add_argument("--write-only", action="store_true", help="write what is kept")
    parser.add_argument("--state", type=Path, default=place, help="where outcomes are kept")
    given = parser.parse_args(arguments)
    if given.write_only:
        return write_kept(given.state)
    failed = False
    linted: dict[str, Linted] = {}
    typed: dict[str, Linted] = {}
    for name in given.names or KNOWN:
        release = Path(name).name if given.tree else name
        with tempfile.TemporaryDirectory() as scratch:
            target = Path(name) if given.tree else Path(scratch) / name
            source = fetch(release)
            if not given.tree:
                done = command("apply", source, "-o", target, "-q")
                if done.returncode != 0:
                    raise RuntimeError(done.stderr[-600:])
            emitted = Emitted(source, target)
            linted[release] = measured(emitted, release, given.state, types=False)
            if given.mypy or (not given.names and release in TYPED):
                typed[release] = measured(emitted, release, given.state, types=True)
        for outcome in (linted[release], typed.get(release)):
            if outcome is None:
                continue
            failed |= bool(outcome.worse)
            counts = f"{outcome.files} files, {outcome.before.total()} complaints before"
            counts += f", {outcome.after.total()} after"
            print(f"{release}: {', '.join(outcome.tools)}: {counts}", flush=True)
            for line in [*summary(outcome), *(outcome.said if given.verbose else [])]:
                print(f"  {line}", flush=True)
    if not given.names:
        write(linted, typed)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
