# SPDX-License-Identifier: Apache-2.0
"""The plan: a tree in, everything that a migration would do to it out. Nothing is written here.

`apply`, `diff`, `check` and every report render the same plan, so they cannot disagree.
"""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from migrator.codemod import templates
from migrator.codemod.engine import FileResult, Record, Span, migrate_file, unparsable
from migrator.codemod.known_shapes import UncheckedSite
from migrator.codemod.rule import Absence, Rule, Status
from migrator.codemod.tree_style import Style
from migrator.files.changes import FileChange
from migrator.files.tree import (
    LOG_NAME,
    SUMMARY_NAME,
    VLLM,
    Label,
    Question,
    Tree,
    WatchedTree,
    digest,
)
from migrator.messages.errors import MigrateError
from migrator.planning import workers
from migrator.planning.garbage_collection import without_collector
from migrator.planning.layouts import Layouts, lay_out
from migrator.rules import all_rules

PARALLEL_BYTES = 400_000
"""From this much source on, starting further processes is quicker than parsing in this one."""

Progress = Callable[[int, int], None]
"""Called with (files done, files in all)."""


@dataclass(frozen=True, slots=True)
class Failure:
    """A file that could not be handled; it stays as it is."""

    path: str
    reason: str


@dataclass(frozen=True, slots=True)
class AbsentSite:
    """A declared site that this release is known not to have."""

    rule: str
    site: str
    releases: str
    why: str


@dataclass(frozen=True, slots=True)
class MissingSite:
    """A declared site that should be there and was not found: an error."""

    rule: str
    site: str
    paths: tuple[str, ...]
    candidates: tuple[str, ...]
    """Nearest places, best first, as `path:line name (what became of it)`."""

    def describe(self) -> str:
        """One line for people: the rule, where it looked, and what comes nearest."""
        near = f"; nearest: {', '.join(self.candidates)}" if self.candidates else ""
        return f"{self.rule} finds no {self.site} in {' or '.join(self.paths)}{near}"


@dataclass(frozen=True, slots=True)
class Plan:
    """What a migration does to one tree."""

    tree_name: str
    label: Label
    """What the tree is called; nothing in the plan comes from it."""
    rules: tuple[Rule, ...]
    files: tuple[FileChange, ...]
    records: tuple[Record, ...]
    absent: tuple[AbsentSite, ...]
    missing: tuple[MissingSite, ...]
    failures: tuple[Failure, ...]
    links_out: tuple[str, ...]
    """Symbolic links that lead out of the tree; they are copied as links and never followed."""
    unchecked: tuple[UncheckedSite, ...] = ()
    """Sites that it changes and that no known release has in this form."""
    earlier_log: bytes | None = None
    """The log that an earlier run left in the tree."""
    earlier_summary: bytes | None = None
    """MIGRATION.md of the tree, if it has one."""

    @property
    def release(self) -> str | None:
        """The vLLM release that the tree is; None where it says none."""
        return self.label.release

    def records_of(self, code: str, *statuses: Status) -> list[Record]:
        """The findings of one rule, optionally only those with one of `statuses`."""
        return [
            r for r in self.records if r.rule == code and (not statuses or r.status in statuses)
        ]

    def tally(self, code: str) -> dict[Status, int]:
        """How many sites of one rule became what."""
        counts = Counter(r.status for r in self.records if r.rule == code)
        return {status: counts[status] for status in Status}

    @property
    def pending(self) -> bool:
        """Would `apply` change anything?"""
        return bool(self.files)

    @property
    def left_for_a_person(self) -> bool:
        """Are there sites or files that somebody has to look at?"""
        return bool(self.failures) or any(r.status is Status.MANUAL for r in self.records)


class Results(Layouts, Protocol):
    """What became of files in earlier runs, by their content, the rules, and what these asked."""

    def get(
        self, path: str, data: bytes, codes: Sequence[str], tree: Tree
    ) -> tuple[FileResult, Mapping[Question, str]] | None:
        """The result that `migrate_file` would come to, and what it asks; None where unknown."""

    def put(
        self,
        path: str,
        data: bytes,
        codes: Sequence[str],
        result: FileResult,
        asked: Mapping[Question, str],
    ) -> None:
        """Keep a result, with all that was asked of the tree beside the file itself."""


@without_collector()
def make_plan(
    tree: Tree,
    rules: Sequence[Rule] | None = None,
    *,
    jobs: int = 1,
    progress: Progress | None = None,
    results: Results | None = None,
) -> Plan:
    """Plan the migration of `tree` by `rules`.

    Args:
        tree: only read.
        rules: all rules when left out.
        jobs: processes to use at most.
        progress: told how many of the files that are parsed are done.
        results: looked at before a file is parsed, and told what became of it.

    Returns:
        The plan; the same for the same tree and rules, whatever `jobs` and `results` are.
    """
    chosen = tuple(rules if rules is not None else all_rules())
    named_outright = {path for rule in chosen for path in rule.paths}
    python: list[str] = []
    modes: dict[str, int] = {}
    links_out: list[str] = []
    for entry in tree.entries():
        if entry.link is not None:
            if _leads_out(entry.path, entry.link):
                links_out.append(entry.path)
        elif (
            entry.path.endswith(".py")
            and (entry.path.startswith(VLLM) or entry.path in named_outright)
            and not entry.foreign
        ):
            python.append(entry.path)
            modes[entry.path] = entry.mode
    for name in (LOG_NAME, SUMMARY_NAME):
        if tree.occupied(name):
            raise MigrateError(f"{name} of {tree.name} is no file; move it away first")
    earlier_log = tree.read(LOG_NAME)
    written = _written_before(earlier_log)
    sources, failures = _candidates(tree, python, chosen)
    # What these parse of the tree is there for the rules then, also in other processes.
    paths = [path for rule in chosen for path in rule.templates]
    rendered = {path: templates.render(templates.load(path), tree) for path in paths}
    # A template that is one variant is not for every tree.
    rendered = {path: text for path, text in rendered.items() if text.strip()}
    laid_out = lay_out(rendered, Style.of(tree), jobs, results)
    added = [
        _added(tree, rule, path, laid_out[path], written)
        for rule in chosen
        for path in rule.templates
        if path in laid_out
    ]
    job = _Job(tree, sources, {rule.code: rule for rule in chosen})
    done = _run(job, jobs, progress, results)
    failures += [Failure(r.path, r.failure) for r in done if r.failure is not None]
    files = [
        FileChange(r.path, sources[r.path][0], r.after, modes[r.path])
        for r in done
        if r.after is not None and r.after != sources[r.path][0]
    ]
    files += [change for change, _ in added if change is not None]
    records = sorted(
        [*(r for result in done for r in result.records), *(record for _, record in added)],
        key=lambda r: (r.path, r.before.line if r.before else 0, r.rule, r.site, r.status.value),
    )
    absent, missing = _unseen_sites(tree, chosen, records, {f.path for f in failures})
    return Plan(
        tree_name=tree.name,
        label=tree.label,
        rules=chosen,
        files=tuple(sorted(files, key=lambda f: f.path)),
        records=tuple(records),
        absent=tuple(absent),
        missing=tuple(missing),
        failures=tuple(sorted(failures, key=lambda f: f.path)),
        links_out=tuple(links_out),
        unchecked=tuple(
            sorted(
                (one for result in done for one in result.unchecked),
                key=lambda one: (one.rule, one.site, one.path),
            )
        ),
        earlier_log=earlier_log,
        earlier_summary=tree.read(SUMMARY_NAME),
    )


def _leads_out(path: str, target: str) -> bool:
    if os.path.isabs(target):
        return True
    place = os.path.normpath(os.path.join(os.path.dirname(path), target))
    return place == ".." or place.startswith("../")


Sources = dict[str, tuple[bytes, tuple[str, ...]]]
"""path → (bytes, codes of the rules that may find something there)."""


def _candidates(
    tree: Tree, python: Iterable[str], rules: Sequence[Rule]
) -> tuple[Sources, list[Failure]]:
    """Search the bytes of every file for the rules' triggers, so that few have to be parsed."""
    # A site that is migrated already may have lost the rule's trigger, so its file is looked at
    # whatever it holds; so is every file that a rule names outright.
    named: dict[str, set[str]] = {}
    searched = []
    for rule in rules:
        outright = {path for path in rule.paths if not _is_pattern(path)}
        for path in outright.union(*(site.paths for site in rule.sites)):
            named.setdefault(path, set()).add(rule.code)
        if rule.triggers and len(outright) < len(rule.paths):
            # One by one: what begins with plain text is found ten times faster than alternatives.
            triggers = [re.compile(trigger.encode()) for trigger in rule.triggers]
            searched.append((rule.code, triggers, _matcher(rule.paths)))
    helpers = {r.code for r in rules if r.provides is not None}
    sources: Sources = {}
    failures: list[Failure] = []
    for path in python:
        data = tree.read(path)
        if data is None:
            failures.append(Failure(path, "it cannot be read"))
            continue
        codes = named.get(path, set()).union(
            code
            for code, triggers, matches in searched
            if any(trigger.search(data) for trigger in triggers) and matches(path)
        )
        if codes:
            sources[path] = (data, tuple(sorted(codes | helpers)))
    return sources, failures


def _matcher(patterns: Sequence[str]) -> Callable[[str], bool]:
    """Does one of git's patterns match the path of a Python file?"""
    if patterns == Rule.paths:
        return lambda path: path.startswith(VLLM)  # to load what knows patterns takes longer
    import pathspec

    return pathspec.GitIgnoreSpec.from_lines(patterns).match_file


def _is_pattern(path: str) -> bool:
    return not set(path).isdisjoint("*?[!")


@dataclass(frozen=True, slots=True)
class _Job:
    """What a worker process needs; it is there by the fork, nothing is sent."""

    tree: Tree
    sources: Sources
    rules: Mapping[str, Rule]

    def run(self, path: str) -> _Outcome:
        data, codes = self.sources[path]
        watched = WatchedTree(self.tree)
        result = migrate_file(path, data, [self.rules[c] for c in codes], watched)
        return result, watched.asked


_Outcome = tuple[FileResult, Mapping[Question, str]]
"""What became of a file, and what its rules asked of the tree."""

_job: _Job | None = None


def _start_worker(job: _Job) -> None:
    global _job  # noqa: PLW0603 - set once in each process, before its first file
    _job = job
    workers.settle()


def _work(path: str) -> _Outcome:
    assert _job is not None
    return _job.run(path)


def _run(
    job: _Job, jobs: int, progress: Progress | None, known: Results | None
) -> list[FileResult]:
    done: dict[str, FileResult] = {}
    for result, asked in _outcomes(job, jobs, known):
        done[result.path] = result
        if isinstance(job.tree, WatchedTree):
            job.tree.asked.update(asked)
        if progress is not None:
            progress(len(done), len(job.sources))
    return [done[path] for path in sorted(done)]


def _outcomes(job: _Job, jobs: int, known: Results | None) -> Iterator[_Outcome]:
    """What becomes of each file: from earlier runs as far as these tell, else by its rules."""
    todo = []
    # Longest first, so that no process is left with a long file at the end.
    for path in sorted(job.sources, key=lambda path: (-len(job.sources[path][0]), path)):
        found = known.get(path, *job.sources[path], job.tree) if known is not None else None
        if found is None:
            todo.append(path)
        else:
            yield found
    for result, asked in _results(job, todo, jobs):
        if known is not None:
            known.put(result.path, *job.sources[result.path], result, asked)
        yield result, asked


def _results(job: _Job, todo: Sequence[str], jobs: int) -> Iterator[_Outcome]:
    """Work through the files, in other processes where that pays."""
    if jobs <= 1 or sum(len(job.sources[path][0]) for path in todo) < PARALLEL_BYTES:
        yield from map(job.run, todo)
        return
    pool = partial(
        ProcessPoolExecutor,
        mp_context=workers.FORK,
        initializer=_start_worker,
        initargs=(job,),
    )
    left = dict.fromkeys(todo)
    executor = pool(max_workers=min(jobs, len(todo)))
    try:
        with workers.forking():
            outcomes = executor.map(_work, todo)
        for outcome in outcomes:
            del left[outcome[0].path]
            yield outcome
    except BrokenProcessPool:
        # A parser died with its process. Find the file: each that is left gets its own, once the
        # thread is gone that looked after the others.
        executor.shutdown(cancel_futures=True)
        for path in left:
            try:
                with pool(max_workers=1) as worker:
                    with workers.forking():
                        pending = worker.submit(_work, path)
                    yield pending.result()
            except BrokenProcessPool:
                yield FileResult(path, None, failure="its parser died"), {}
    finally:
        executor.shutdown(cancel_futures=True)


def _added(
    tree: Tree, rule: Rule, path: str, after: bytes, written_before: Mapping[str, str]
) -> tuple[FileChange | None, Record]:
    """The file that a rule adds, and what becomes of one that is there already."""
    if path.endswith(".py"):
        broken = unparsable(path, after)
        if broken is not None:
            raise templates.TemplateError(f"{path}: the template, fitted to this tree: {broken}")
    span = Span(1, after.count(b"\n"))
    before = tree.read(path)

    def record(status: Status, reason: str, old: Span | None, new: Span | None) -> Record:
        return Record(rule.code, path, path, status, reason, old, new, rule.summary)

    if tree.occupied(path):
        return None, record(Status.MANUAL, "what stands here is no file", None, None)
    if before is None:
        return FileChange(path, None, after), record(Status.CHANGED, rule.summary, None, span)
    there = Span(1, before.count(b"\n"))
    if before == after:
        return None, record(Status.MIGRATED, "already migrated", there, None)
    written = written_before.get(path)
    if written is None:
        return None, record(Status.MANUAL, "vLLM has a file of its own here", there, None)
    if written != digest(before):
        return None, record(Status.SKIPPED, "it was changed by hand; kept", there, None)
    return FileChange(path, before, after), record(Status.CHANGED, rule.summary, there, span)


def _written_before(log_data: bytes | None) -> dict[str, str]:
    """Path → hash of the files that an earlier run added to the tree, by its log."""
    try:
        log = json.loads(log_data or b"{}")
        return {f["path"]: f["after"] for f in log["files"] if f["status"] == "added"}
    except (ValueError, KeyError, TypeError, RecursionError):
        return {}


def _unseen_sites(
    tree: Tree, rules: Sequence[Rule], records: Sequence[Record], failed: set[str]
) -> tuple[list[AbsentSite], list[MissingSite]]:
    seen = {(r.rule, r.site) for r in records}
    absent: list[AbsentSite] = []
    missing: list[MissingSite] = []
    for rule in rules:
        for site in rule.sites:
            if (rule.code, site.name) in seen or failed.intersection(site.paths):
                continue
            known: Absence | None = site.why_absent(tree)
            if known is not None:
                absent.append(AbsentSite(rule.code, site.name, known.releases, known.why))
            else:
                from migrator.codemod.candidates import nearest_candidates  # few trees lack a site

                near = nearest_candidates(tree, site, examples=rule.examples)
                names = tuple(candidate.describe() for candidate in near)
                missing.append(MissingSite(rule.code, site.name, site.paths, names))
    return absent, missing
