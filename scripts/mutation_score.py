# SPDX-License-Identifier: Apache-2.0
"""Change the code that must not be wrong, one operator at a time, and see whether a test notices.

The mutants are cosmic-ray's (`pip install cosmic-ray`). Each module has its own quick tests; what
survives them meets the slower ones. All of it happens in a clone of the last commit, and a mutant's
tests run in a fork of a process that has imported pytest and the libraries already, which is most
of what a run costs.

Not counted are changes inside of annotations of functions, which nothing evaluates, and what is no
Python. Of the ten others that a binary operator can become, one is drawn: most of a path's `/` are
the same TypeError. Where a module has more mutants than --sample, that many are drawn by --seed.

    python scripts/mutation_score.py --sample 150 --seed 1 --json docs/trust/mutations.json
    python scripts/mutation_score.py writer --only 17     # one mutant again, with its tests' output
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import importlib
import io
import json
import os
import random
import resource
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Module:
    """A module and the tests that are meant to notice a change of it, in stages."""

    path: str
    stages: tuple[tuple[str, ...], ...]


_ENGINE, _FUZZ = "tests/codemod/test_engine.py", "tests/codemod/test_fuzz.py"
_WRITER, _HOSTILE = "tests/files/test_writer.py", "tests/planning/test_hostile_trees.py"
_UPDATE = "tests/updating/test_"
_SLOW_WRITING = " or ".join(
    ("command", "disk", "space", "journal", "half", "somebody", "limit", "waited_for", "killed")
)
"""Tests of the writer that run commands, in a process of their own or not."""
MODULES = {
    "engine": Module(
        "migrator/codemod/engine.py",
        (
            (
                *(_ENGINE, "-k"),
                "not any_ and not needs_no_torch and not kill and not nested and not odd_but",
            ),
            ("tests/rules/test_examples.py", "tests/reports/test_log.py"),
            (_ENGINE, "-k", "kill or nested or odd_but"),
            (
                _FUZZ,
                _ENGINE,
                "-k",
                "mutated_files or any_",
            ),
        ),
    ),
    "writer": Module(
        "migrator/files/writer.py",
        (
            (
                *(_WRITER, f"{_UPDATE}writing.py", "-k"),
                f"not test_interrupt and not two_ and not ({_SLOW_WRITING})",
            ),
            (_WRITER, f"{_UPDATE}writing.py", "-k", _SLOW_WRITING),
            (_WRITER, "-k", "two_"),
            (_WRITER, "-k", "test_interrupt and not planning and call"),
            (
                _WRITER,
                _HOSTILE,
                "-k",
                "names or line or journ",
            ),
        ),
    ),
    "merge": Module(
        "migrator/updating/merge.py",
        ((f"{_UPDATE}merge.py",), (f"{_UPDATE}trees.py", f"{_UPDATE}update.py")),
    ),
}
LIBRARIES = (
    *("pytest", "_pytest.assertion.rewrite", "hypothesis", "hypothesis.extra", "libcst", "click"),
    *("click.testing", "rich.console", "rich.progress", "msgspec", "jinja2", "pathspec", "merge3"),
    *("packaging.version", "packaging.specifiers", "libcst._nodes.internal", "tarfile", "ctypes"),
    *("concurrent.futures.process", "multiprocessing", "difflib", "platformdirs", "unearth"),
)


@dataclass(frozen=True)
class Mutant:
    """One change of one module."""

    number: int
    line: int
    definition: str
    before: str
    after: str
    source: str


def annotation_spans(source: str) -> list[tuple[tuple[int, int], tuple[int, int]]]:
    """Where the annotations of functions, and of names in them, stand."""
    found: list[ast.expr | None] = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            found.append(node.returns)
            found += [inner.annotation for inner in ast.walk(node) if isinstance(inner, ast.arg)]
            found += [n.annotation for n in ast.walk(node) if isinstance(n, ast.AnnAssign)]
    return [
        ((n.lineno, n.col_offset), (n.end_lineno or 0, n.end_col_offset or 0))
        for n in found
        if n is not None
    ]


def places(path: Path, seed: int) -> tuple[list[Any], int]:
    """What cosmic-ray would change in a module, and how much more there is in annotations."""
    from cosmic_ray.commands.init import _all_work_items

    spans = annotation_spans(path.read_text(encoding="utf-8"))
    found: list[Any] = []
    binary: dict[tuple[int, int], list[Any]] = {}
    left_out = 0
    for item in _all_work_items([path], {}):
        (mutation,) = item.mutations
        if any(first <= mutation.start_pos < last for first, last in spans):
            left_out += 1
        elif "ReplaceBinaryOperator" in mutation.operator_name:
            binary.setdefault(mutation.start_pos, []).append(mutation)
        else:
            found.append(mutation)
    rng = random.Random(seed)
    return found + [rng.choice(binary[start]) for start in sorted(binary)], left_out


def mutant_of(path: Path, number: int, mutation: Any) -> Mutant | None:
    """The module with one change; None where that makes no other Python of it."""
    from cosmic_ray.mutating import mutate_code
    from cosmic_ray.plugins import get_operator

    source = path.read_text(encoding="utf-8")
    operator = get_operator(mutation.operator_name)(**mutation.operator_args)
    try:
        changed = mutate_code(source, operator, mutation.occurrence)
    except AttributeError:
        return None  # of `except (A, b.C)` cosmic-ray's own operator makes nothing
    if changed is None or changed == source or not _parses(changed):
        return None
    lines, new = source.splitlines(), changed.splitlines()
    at = next((n for n, (a, b) in enumerate(zip(lines, new, strict=False)) if a != b), 0)
    return Mutant(
        number,
        at + 1,
        mutation.definition_name or "",
        lines[at].strip(),
        new[at].strip() if at < len(new) else "",
        changed,
    )


def _parses(source: str) -> bool:
    try:
        ast.parse(source)
    except SyntaxError:
        return False
    return True


@contextlib.contextmanager
def clone() -> Iterator[Path]:
    """A clone of the last commit, on a disk in memory where there is one: tests write a lot."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(
        prefix="vllm-npu-migrate-mutants-", dir=memory if memory.is_dir() else None
    ) as place:
        subprocess.run(["git", "clone", "-q", str(ROOT), f"{place}/clone"], check=True)
        Path(place, "tmp").mkdir()
        yield Path(place, "clone")


def passes(here: Path, arguments: Sequence[str], seconds: float, *, show: bool = False) -> bool:
    """Do these tests pass in the clone? No, too, if they take more than `seconds` of CPU each."""
    pid = os.fork()
    if pid == 0:
        code = 3
        try:
            code = _pytest(here, arguments, seconds, show=show)
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    until = time.monotonic() + seconds * 40
    while True:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return status == 0
        if time.monotonic() > until:
            os.killpg(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            return False
        time.sleep(0.02)


def _pytest(here: Path, arguments: Sequence[str], seconds: float, *, show: bool) -> int:
    import pytest

    os.setpgid(0, 0)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
    os.chdir(here)
    sys.dont_write_bytecode = True
    os.environ |= {
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONPATH": str(here),
        "TMPDIR": str(here.parent / "tmp"),
    }
    tempfile.tempdir = None
    resource.setrlimit(resource.RLIMIT_CPU, (int(seconds) + 1, int(seconds) + 1))
    sys.path[:] = [str(here), *(p for p in sys.path if p not in ("", str(ROOT), str(here)))]
    if not show:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 1)
        os.dup2(nowhere, 2)
    known = "ignore::pytest.PytestAssertRewriteWarning"  # hypothesis is imported already
    # Plugins that happen to be installed take longer to load than most of the tests to run.
    os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    plain = ["-x", "-q", "-o", "addopts=", "-m", "not slow", "-p", "no:cacheprovider"]
    return int(pytest.main([*plain, "-W", known, *arguments]))


class Judge:
    """Runs a module's tests on its mutants.

    Args:
        here: a clone.
        module: the module.
        show: let the tests print.
    """

    def __init__(self, here: Path, module: Module, *, show: bool = False) -> None:
        self.here = here
        self.stages = module.stages
        self.path = here / module.path
        self.original = self.path.read_text(encoding="utf-8")
        self.show = show
        self.limits: dict[int, float] = {}
        """Seconds of CPU for a stage: several times what it takes where nothing is changed."""

    def notices(self, source: str) -> bool:
        """Does a test fail with this source in the module's place?"""
        for number, stage in enumerate(self.stages):
            if number not in self.limits:
                self.limits[number] = self._limit(stage)
            self.path.write_text(source, encoding="utf-8")
            try:
                if not passes(self.here, stage, self.limits[number], show=self.show):
                    return True
            finally:
                self.path.write_text(self.original, encoding="utf-8")
        return False

    def _limit(self, stage: tuple[str, ...]) -> float:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        if not passes(self.here, stage, 600):
            raise SystemExit(f"the tests {' '.join(stage)} fail without any change")
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return 10 + 4 * (after.ru_utime - before.ru_utime)


def score(
    name: str, here: Path, sample: int, seed: int, minutes: float
) -> Iterator[dict[str, Any]]:
    """Judge the mutants of a module in a drawn order, as many as the time allows.

    Yields:
        The outcome so far: of a sample, which the first ones in that order are, too.
    """
    begun = time.monotonic()
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    commit = subprocess.run(
        ["git", "-C", str(here), "rev-parse", "--short", "HEAD"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()
    module = MODULES[name]
    every, left_out = places(here / module.path, seed)
    numbers = random.Random(seed).sample(range(len(every)), min(len(every), sample))
    judge = Judge(here, module)
    survivors = []
    done = 0
    for number in numbers:
        if time.monotonic() > begun + minutes * 60:
            break
        mutant = mutant_of(here / module.path, number, every[number])
        if mutant is None:
            continue
        done += 1
        if not judge.notices(mutant.source):
            survivors.append(
                {
                    "number": mutant.number,
                    "line": mutant.line,
                    "definition": mutant.definition,
                    "before": mutant.before,
                    "after": mutant.after,
                }
            )
            print(f"SURVIVES {name} {json.dumps(survivors[-1])}", flush=True)
        now = resource.getrusage(resource.RUSAGE_CHILDREN)
        yield {
            "path": module.path,
            "mutants": len(every),
            "in_annotations": left_out,
            "tried": done,
            "killed": done - len(survivors),
            "survivors": survivors,
            "seed": seed,
            "commit": commit,
            "wall_seconds": round(time.monotonic() - begun),
            "cpu_seconds": round(now.ru_utime + now.ru_stime - before.ru_utime - before.ru_stime),
        }


def _save(path: Path, name: str, result: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    whole = json.loads(path.read_bytes()) if path.exists() else {}
    path.write_text(json.dumps(whole | {name: result}, indent=1) + "\n", encoding="utf-8")


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("modules", nargs="*", help=f"of {', '.join(MODULES)} [default: all]")
    parser.add_argument("--sample", type=int, default=150, help="mutants of a module at most")
    parser.add_argument("--minutes", type=float, default=1e9, help="wall time of a module at most")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", type=int, help="the mutant of this number alone")
    parser.add_argument("--json", type=Path, help="write the outcome there, module by module")
    given = parser.parse_args(arguments)
    for library in LIBRARIES:
        with contextlib.suppress(ImportError), contextlib.redirect_stderr(io.StringIO()):
            importlib.import_module(library)
    names = given.modules or list(MODULES)
    missing = [name for name in names if name not in MODULES]
    if missing:
        parser.error(f"there is no module {missing[0]}")
    with clone() as here:
        if given.only is not None:
            module = MODULES[names[0]]
            changes, _ = places(here / module.path, given.seed)
            mutant = mutant_of(here / module.path, given.only, changes[given.only])
            assert mutant is not None, "only mutants that were tried have a number"
            print(f"{mutant.line}: {mutant.before}\n  → {mutant.after}", flush=True)
            noticed = Judge(here, module, show=True).notices(mutant.source)
            print("killed" if noticed else "survives")
            return 0 if noticed else 1
        worst = 1.0
        for name in names:
            share = 0.0
            for result in score(name, here, given.sample, given.seed, given.minutes):
                share = result["killed"] / result["tried"]
                if given.json is not None:
                    _save(given.json, name, result)
            worst = min(worst, share)
            print(f"{name}: {result['killed']} of {result['tried']} killed, {share:.1%}")
    return 0 if worst >= 0.9 else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
