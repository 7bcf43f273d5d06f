# SPDX-License-Identifier: Apache-2.0
"""Hold emitted trees against the linters that vLLM pins: is any file worse than it was untouched?

For each release: `ruff check` and the formatters that `.pre-commit-config.yaml` of the tree names,
in the versions that it pins and under the tree's own configuration, over the files that the
migration changed or added, and over the same files of the untouched release. A changed file may
have no complaint that the untouched one has not; an added file may have none at all. The command's
exit code is 1 where one has.

    python scripts/lint_table.py                 # the 29 releases of the table, fetched by name
    python scripts/lint_table.py 0.33.0          # only these
    python scripts/lint_table.py --tree DIR …    # emitted trees that exist already
    python scripts/lint_table.py -v 0.33.0       # print every complaint

The linters are installed from the package index into the cache, each version once.
`release_table.py` does the same for its page.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import yaml  # type: ignore[import-untyped]
from tool import command

from migrator.files.locations import private_cache
from migrator.files.sources import fetch
from migrator.files.tree import LOG_NAME
from migrator.reports.log import read_log
from migrator.reports.releases import KNOWN

PINS = ".pre-commit-config.yaml"
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


@dataclass
class Linted:
    """What the linters of a release say."""

    tools: tuple[str, ...]
    """Such as `ruff 0.14.0`."""
    files: int = 0
    before: Counter[tuple[str, str]] = field(default_factory=Counter)
    """Complaints about the untouched files: path and what it is, and how often."""
    after: Counter[tuple[str, str]] = field(default_factory=Counter)
    """The same of the emitted files."""
    said: list[str] = field(default_factory=list)
    """The linters' own words about emitted files."""

    @property
    def worse(self) -> dict[tuple[str, str], int]:
        """Complaints that are new."""
        return dict(self.after - self.before)


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


def lint(source: Path, target: Path, changed: Iterable[str], added: Iterable[str]) -> Linted:
    """Run a tree's linters over what was emitted, and over what was there before.

    Args:
        source: the untouched tree.
        target: the emitted one.
        changed: paths of files that both have.
        added: paths of files that only the emitted one has.
    """
    changed, both = sorted(changed), sorted({*changed, *added})
    found = hooks(target)
    result = Linted(tuple(dict.fromkeys(f"{h.tool} {h.version}" for h in found)), len(both))
    for hook in found:
        untouched, _ = complaints(hook, source, [path for path in changed if hook.takes(path)])
        emitted, said = complaints(hook, target, [path for path in both if hook.takes(path)])
        result.before += untouched
        result.after += emitted
        result.said += said
    return result


def lint_emitted(source: Path, target: Path) -> Linted:
    """Lint the Python files that an emitted tree's log names."""
    files = [f for f in read_log((target / LOG_NAME).read_bytes()).files if f.path.endswith(".py")]
    changed = [entry.path for entry in files if entry.status == "modified"]
    added = [entry.path for entry in files if entry.status == "added"]
    return lint(source.resolve(), target.resolve(), changed, added)


def summary(linted: Linted) -> list[str]:
    """What is worse, a line for each file."""
    worse: dict[str, list[str]] = {}
    for (path, kind), count in sorted(linted.worse.items()):
        worse.setdefault(path, []).append(f"{kind} ({count})")
    return [f"{path}: {', '.join(kinds)}" for path, kinds in worse.items()]


def main(arguments: list[str]) -> int:
    verbose = "-v" in arguments
    names = [argument for argument in arguments if not argument.startswith("-")]
    failed = False
    for name in names or KNOWN:
        with tempfile.TemporaryDirectory() as scratch:
            if "--tree" in arguments:
                target = Path(name)
                release = target.name
            else:
                target, release = Path(scratch) / name, name
            source = fetch(release)
            if "--tree" not in arguments:
                done = command("apply", source, "-o", target, "-q")
                if done.returncode != 0:
                    raise RuntimeError(done.stderr[-600:])
            linted = lint_emitted(source, target)
        failed |= bool(linted.worse)
        counts = f"{linted.files} files, {linted.before.total()} complaints before"
        counts += f", {linted.after.total()} after"
        print(f"{release}: {', '.join(linted.tools)}: {counts}", flush=True)
        for line in [*summary(linted), *(linted.said if verbose else [])]:
            print(f"  {line}", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
