# SPDX-License-Identifier: Apache-2.0
"""All static checks of an emitted tree, one after another."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from migrator.files.locations import private_cache
from migrator.files.tree import module_name
from migrator.verify import compiles, imports, reached, wheel
from migrator.verify.api import NpuApi
from migrator.verify.calls import TRIGGERS, CallChecker
from migrator.verify.names import NameChecker
from migrator.verify.report import Finding, Note, Report
from migrator.verify.tree import Tree, open_tree

SCHEMA_VERSION = 1


@dataclass(frozen=True, slots=True)
class Options:
    """What to verify and against what. `wheel_file` is read in place of a wheel by name."""

    tree: Path
    torch_npu: str | None = None
    wheel_file: Path | None = None
    base: Path | None = None
    everything: bool = False
    environment: imports.Environment | None = None
    cache: Path | None = None


def verify(options: Options, progress: Callable[[str], None] = lambda _: None) -> Report:
    """Run every check that needs no device.

    Args:
        options: see `Options`.
        progress: is told, in a few words, what begins.

    Raises:
        TreeError: the tree cannot be verified at all.
        WheelError: the torch_npu wheel cannot be had.
    """
    tree = open_tree(options.tree, base=options.base, everything=options.everything)
    findings = [
        Finding(path, 1, 1, "V001", "the migration log names it, but it is not in the tree")
        for path in tree.absent
    ]
    notes = [Note(f.path, 1, f.reason) for f in tree.changed if f.reason is not None]
    progress("reading the torch_npu wheel")
    api, description = open_api(tree, options)
    progress("checking names")
    names = NameChecker(tree, api)
    for file in tree.changed:
        names.check(file)
    progress("binding calls")
    calls = check_calls(tree, api)
    progress("compiling")
    findings += [
        *names.findings,
        *reached.check(tree),
        *calls.findings,
        *compiles.check(tree),
        *imports.check_source(tree),
    ]
    notes += calls.notes
    if options.environment is not None:
        progress("importing")
        found, noted = imports.check_by_running(tree, options.environment, options.base)
        findings += found
        notes += noted
    return Report(
        schema_version=SCHEMA_VERSION,
        release=tree.release,
        torch_npu=description,
        files=len(tree.changed),
        calls=calls.calls,
        findings=sorted(set(findings)),
        notes=sorted(set(notes)),
    )


def open_api(tree: Tree, options: Options) -> tuple[NpuApi, dict[str, str]]:
    """The names of the wheel that is asked for, and a description of it and of the choice."""
    cache = options.cache or private_cache("wheels")
    if options.wheel_file is not None:
        path, reason = options.wheel_file, "the file that was given"
    else:
        choice = wheel.choose(tree.read, requirement_files(tree), options.torch_npu)
        path, reason = wheel.fetch(choice, cache), choice.reason
    contents = wheel.read_contents(path, cache)
    description = {"version": contents.version, "file": contents.file, "reason": reason}
    return NpuApi.open(path, contents), description


def requirement_files(tree: Tree) -> list[str]:
    """The tree's requirement files, relative to its root."""
    folder = tree.root / "requirements"
    if not folder.is_dir():
        return []
    return sorted(p.relative_to(tree.root).as_posix() for p in folder.rglob("*.txt"))


def check_calls(tree: Tree, api: NpuApi) -> CallChecker:
    """Bind the calls of torch_npu in every file of the package and every changed file."""
    checker = CallChecker(api)
    changed = {f.path: f for f in tree.changed}
    for path in sorted({*changed, *tree.python_files()}):
        source = changed[path].source if path in changed else tree.read(path)
        if source is None or not any(trigger in source for trigger in TRIGGERS):
            continue
        module = changed[path].module if path in changed else tree.package.module(module_name(path))
        if module is not None:
            checker.check(module)
    return checker
