# SPDX-License-Identifier: Apache-2.0
"""A migration as commits, one a rule, so that a reviewer reads it rule by rule.

The state after a rule is what the rules up to it, and the import rules that they need, make of the
source; so the last state is the plan's, byte for byte, and every one of them parses.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from migrator.codemod.engine import Record, migrate_file
from migrator.codemod.rule import Rule, Status
from migrator.files.changes import FileChange
from migrator.files.tree import LOG_NAME, SUMMARY_NAME, Label, Tree
from migrator.messages.escaping import terminal
from migrator.planning.plan import Plan
from migrator.updating.git import Node, Repository
from migrator.updating.trees import Item

BRANCH = "feat/ascend-npu-adapt-v{}"
"""Name of the branch for a release."""
WIDTH = 72


@dataclass
class Step:
    """What one rule does: the files in their state after it."""

    rule: Rule
    files: dict[str, FileChange] = field(default_factory=dict)
    records: list[Record] = field(default_factory=list)
    """What it changed, and the imports that other rules added for it."""


def steps_of(tree: Tree, plan: Plan) -> list[Step]:
    """The plan cut into steps, one for each rule that changes something, in the rules' order."""
    rules = {rule.code: rule for rule in plan.rules}
    helpers = [rule for rule in plan.rules if rule.provides is not None]
    changed: dict[str, list[Record]] = {}
    seen: dict[str, set[str]] = {}
    for record in plan.records:
        seen.setdefault(record.path, set()).add(record.rule)
        if record.status is Status.CHANGED:
            changed.setdefault(record.path, []).append(record)
    steps: dict[str, Step] = {}

    def step(code: str) -> Step:
        return steps.setdefault(code, Step(rules[code]))

    for change in plan.files:
        records = changed.get(change.path, [])
        codes = sorted({r.rule for r in records if rules[r.rule].provides is None})
        codes = codes or sorted({r.rule for r in records})
        imports = [r for r in records if r.rule not in codes]
        last = change.before
        for code in codes:
            after: bytes | None = change.after
            if code != codes[-1]:
                assert change.before is not None
                chosen = [rules[c] for c in sorted(seen[change.path]) if c <= code]
                together = sorted({*chosen, *helpers}, key=lambda rule: rule.code)
                after = migrate_file(change.path, change.before, together, tree).after
            step(code).records += [r for r in records if r.rule == code]
            if after is None or after == last:
                continue  # it cannot stand without the next rule, and comes with that
            if last == change.before:
                step(code).records += imports
            step(code).files[change.path] = FileChange(change.path, last, after, change.mode)
            last = after
    return [steps[code] for code in sorted(steps)]


def message(step: Step) -> str:
    """A commit's message: the rule, what it does and why, its safety and its sites."""
    rule = step.rule
    parts = [f"{rule.code}: {rule.name}", *_wrapped(rule.summary)]
    for title, text in (("Why", rule.section("Why")), ("Safety", rule.section("Safety"))):
        if text:
            parts += [f"{title}:", *_wrapped(text)]
    places = {(r.path, r.before.line if r.before else 0, r.site, r.rule) for r in step.records}
    lines = ["Sites, with lines of the release:"]
    for path, line, site, code in sorted(places):
        place = terminal(path) + (f":{line}" if line else "")
        name = "" if site == path else f" {terminal(site)}"
        lines.append(f"- {place}{name}" + ("" if code == rule.code else f" ({code})"))
    return "\n\n".join([*parts, "\n".join(lines)]) + "\n"


def _wrapped(text: str) -> Iterator[str]:
    """Paragraphs, filled to the width of commit messages; code stays as it is."""
    in_code = False
    for part in text.split("\n\n"):
        fences = part.count("```")
        if in_code or fences:
            yield part
        else:
            yield textwrap.fill(
                " ".join(part.split()), WIDTH, break_long_words=False, break_on_hyphens=False
            )
        in_code ^= bool(fences % 2)


def commit_steps(
    repository: Repository, parent: str, tree: Tree, plan: Plan, logs: Iterable[FileChange]
) -> str:
    """Commit a migration on top of `parent`, which has `tree` as it is; no branch is moved.

    Args:
        repository: where to.
        parent: the commit to start from.
        tree: the source.
        plan: its migration.
        logs: MIGRATION.md and migration-log.json, which the last commit adds.

    Returns:
        The last commit.
    """
    there = repository.nodes(parent)
    commit = parent
    for step in steps_of(tree, plan):
        if step.files:
            nodes = _nodes(repository, step.files.values(), there)
            written = repository.write_tree(commit, nodes)
            commit = repository.commit_tree(written, [commit], message(step))
    written = repository.write_tree(commit, _nodes(repository, logs, there))
    text = f"Add {SUMMARY_NAME} and {LOG_NAME}\n\nThey say what was migrated, where and why.\n"
    return repository.commit_tree(written, [commit], text)


def _nodes(
    repository: Repository, changes: Iterable[FileChange], there: dict[str, Node]
) -> dict[str, Node | None]:
    nodes: dict[str, Node | None] = {}
    for change in changes:
        node = repository.store(change.path, Item(change.after, change.mode))
        old = there.get(change.path)
        nodes[change.path] = Node(old.mode if old is not None else node.mode, node.blob)
    return nodes


def import_message(label: Label, origin: str) -> str:
    """The message of the commit that brings in a release which the repository does not have."""
    return f"Import {label}\n\nFrom {origin}, as it is.\n"


def hand_message(label: Label, subjects: Sequence[str], paths: Sequence[str]) -> str:
    """The message of the commit that carries over what people did by hand."""
    text = f"Carry over what was changed by hand to {label}\n"
    if subjects:
        text += "\nFrom these commits:\n" + "".join(f"- {subject}\n" for subject in subjects)
    return text + "\nFiles:\n" + "".join(f"- {terminal(path)}\n" for path in sorted(paths))


def branch_name(repository: Repository, release: str | None, commit: str) -> str:
    """The branch for a release; the commit stands in where the tree says no release."""
    if release is not None:
        return BRANCH.format(release)
    return BRANCH.removesuffix("v{}") + repository.short(commit)
