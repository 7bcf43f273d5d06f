# SPDX-License-Identifier: Apache-2.0
"""Scripted drift: a tree in which one definition that a rule needs is no longer what it was.

Each drift is made in a tree's text by the places that `ast` gives, so that all other bytes stay.
"""

from __future__ import annotations

import ast
import copy
import enum
import posixpath
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from migrator.codemod.candidates import Anchor, Kind, anchor, enclosing, nodes_of
from migrator.codemod.rule import Rule, Site
from migrator.files.tree import Definition, Tree
from migrator.liveness import FOUND, Change, Column, Finding, Level, compare
from migrator.planning.plan import Plan, make_plan

NEW_NAME = "reworked"
"""What a renamed definition is called: nothing like any old name."""
NEW_CLASS = "Reworked"
CAME = "drifted_state"
"""The parameter that a changed signature has got."""


class Drift(enum.Enum):
    """What is done to a tree."""

    RENAME = "function renamed"
    SIGNATURE = "signature changed"
    MOVE = "file moved"
    RENAME_CLASS = "class renamed"
    DELETE = "class deleted"
    """The class of a method, or the function or variable where there is no class."""


@dataclass(frozen=True)
class Case:
    """One drift of one declared site, and what has to be said of it."""

    rule: Rule
    site: Site
    drift: Drift
    files: Mapping[str, bytes | None]
    """What differs from the tree; None for a file that is gone."""
    path: str
    """Where the right candidate is; where the definition was, for one that is gone."""
    name: str
    kind: Kind | None
    """None: there is none, the definition is gone."""


class Release:
    """A release in memory: what rules read of it, and the plan of each rule."""

    def __init__(self, tree: Tree) -> None:
        kept = {
            entry.path: data
            for entry in tree.entries()
            if entry.link is None
            and (entry.path.endswith(".py") or "/" not in entry.path)
            and (data := tree.read(entry.path)) is not None
        }
        self.files = kept
        self.tree = Tree(kept, tree.name)
        self.tree.label = tree.label
        self._plans: dict[str, Plan] = {}

    def column(self, rule: Rule) -> Column:
        """The release with the plan of one rule."""
        if rule.code not in self._plans:
            self._plans[rule.code] = make_plan(self.tree, [rule])
        return Column("before", self.tree, self._plans[rule.code])

    def drifted(self, case: Case) -> Column:
        """The release after a drift, with the plan of the case's rule."""
        changed = {p: d for p, d in {**self.files, **case.files}.items() if d is not None}
        tree = Tree(changed, "drifted")
        tree.label = self.tree.label
        return Column("after", tree, make_plan(tree, [case.rule]))

    def said(self, case: Case) -> list[Finding]:
        """What the comparison says of the case's site, the worst first."""
        found = compare(self.column(case.rule), self.drifted(case))
        return [finding for finding in found if finding.site == case.site.name]


def problem(case: Case, said: list[Finding]) -> str | None:
    """What is wrong with what was said of a drift; None where it is right."""
    if not said:
        return "nothing is said"
    if case.drift is Drift.SIGNATURE:
        finding = next((f for f in said if f.change is Change.SIGNATURE), said[0])
        told = f"{finding.message} {' '.join(c.describe() for c in finding.candidates)}"
        if f"{CAME} came" not in told and f"{CAME}, " not in told:
            return f"the new parameter is not named: {finding.describe()}"
    else:
        finding = said[0]
    first = finding.candidates[0] if finding.candidates else None
    if case.kind is None:
        if finding.level is not Level.ERROR or " is gone" not in finding.message:
            return f"it is not said to be gone: {finding.describe()}"
        if first is not None and first.kind not in (Kind.SIMILAR, Kind.SHAPE):
            return f"a candidate for what is gone: {first.describe()}"
        return None
    if first is None:
        return f"no candidate: {finding.describe()}"
    if (first.path, first.name, first.kind) != (case.path, case.name, case.kind):
        return f"the first candidate is {first.describe()}, not {case.path} {case.name}"
    if finding.level is Level.NOTE:
        return f"only a note: {finding.describe()}"
    return None


# ---- the drifts of a site -------------------------------------------------------------------


@dataclass(frozen=True)
class Target:
    """What a rule's declared site stands on in a tree."""

    rule: Rule
    site: Site
    tree: Tree
    base: Anchor
    """The definition that the site is named for."""
    inner: Anchor
    """The function that the rule edits, in a class or alone; `base` where it edits none."""

    @property
    def path(self) -> str:
        return self.base.path

    @property
    def in_class(self) -> bool:
        """Is the site a variable of a class, which holds whatever the class is called?"""
        named = f"{self.site.name}.".startswith(f"{self.base.name}.")
        return isinstance(self.base.node, ast.ClassDef) and not named

    @cached_property
    def text(self) -> bytes:
        data = self.tree.read(self.path)
        assert data is not None
        return data


def targets(rule: Rule, column: Column) -> Iterator[Target]:
    """The declared sites of a rule that a tree has."""
    for site in rule.sites:
        records = [r for r in column.plan.records_of(rule.code, *FOUND) if r.site == site.name]
        if site.why_absent(column.tree) is not None:
            continue
        if not records or records[0].before is None:
            continue
        path, line = records[0].path, records[0].before.line
        around = enclosing(column.tree, path, line)
        base = anchor(column.tree, path, site.name) or around
        if base is None:
            continue
        inside = around is not None and around.name.startswith(f"{base.name}.")
        yield Target(rule, site, column.tree, base, around if inside and around else base)


def cases(target: Target) -> Iterator[Case]:
    """Every drift that a site can have."""
    for make in (_renamed, _signature, _moved, _class_renamed, _deleted):
        case = make(target)
        if case is not None:
            yield case


def _case(
    target: Target,
    drift: Drift,
    files: Mapping[str, bytes | None],
    name: str,
    kind: Kind | None,
    path: str | None = None,
) -> Case:
    return Case(target.rule, target.site, drift, files, path or target.path, name, kind)


def _renamed(target: Target) -> Case | None:
    old = target.inner
    if (
        isinstance(old.node, ast.ClassDef)
        or target.site.name == old.name.partition(".")[0] != old.name
    ):
        # A site that is a whole class holds whatever its methods are called.
        return None
    prefix, _, leaf = old.name.rpartition(".")
    new = f"{prefix}.{NEW_NAME}" if prefix else NEW_NAME
    text = rename(target.text, leaf, NEW_NAME, method=bool(prefix))
    return _case(target, Drift.RENAME, {target.path: text}, new, Kind.RENAMED)


def _class_renamed(target: Target) -> Case | None:
    class_, dot, rest = target.base.name.partition(".")
    if target.in_class or not isinstance(
        nodes_of(target.tree, target.path).get(class_), ast.ClassDef
    ):
        return None
    text = rename(target.text, class_, NEW_CLASS, method=False)
    new = f"{NEW_CLASS}{dot}{rest}"
    return _case(target, Drift.RENAME_CLASS, {target.path: text}, new, Kind.RENAMED)


def _signature(target: Target) -> Case | None:
    node = target.inner.node
    if isinstance(node, ast.ClassDef) and not target.in_class:
        node = next((s for s in node.body if isinstance(s, ast.FunctionDef)), node)
    if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        return None
    text = with_parameter(target.text, node)
    return _case(target, Drift.SIGNATURE, {target.path: text}, target.base.name, Kind.SIGNATURE)


def _moved(target: Target) -> Case:
    directory, base = posixpath.split(target.path)
    top = directory.partition("/")[0]
    new = f"{top}/relocated/{base}" if top else f"relocated/{base}"
    if base == "__init__.py":
        new = f"{top}/relocated/{posixpath.basename(directory)}.py"
    files = {target.path: None, new: target.text}
    return _case(target, Drift.MOVE, files, target.base.name, Kind.MOVED, new)


def _deleted(target: Target) -> Case:
    nodes = nodes_of(target.tree, target.path)
    class_ = target.base.name.partition(".")[0]
    node = nodes[class_] if isinstance(nodes.get(class_), ast.ClassDef) else target.base.node
    if isinstance(node, Definition):
        text = without(target.text, [node])
    else:
        text = without(target.text, list(_assignments(target.text, target.base.name)))
    return _case(target, Drift.DELETE, {target.path: text}, target.base.name, None)


def _assignments(data: bytes, name: str) -> Iterator[ast.stmt]:
    """Every statement that gives a module's variable a value."""
    for node in ast.walk(ast.parse(data)):
        if isinstance(node, ast.Assign | ast.AnnAssign | ast.AugAssign):
            given = node.targets if isinstance(node, ast.Assign) else [node.target]
            if any(isinstance(part, ast.Name) and part.id == name for part in given):
                yield node


# ---- edits ----------------------------------------------------------------------------------


def rename(data: bytes, old: str, new: str, *, method: bool) -> bytes:
    """Rename a definition and its uses in its own module."""
    lines = data.splitlines(keepends=True)
    marks: set[tuple[int, int]] = set()
    module = ast.parse(data)
    for node in ast.walk(module):
        if isinstance(node, Definition) and node.name == old:
            line = lines[node.lineno - 1]
            marks.add((node.lineno, line.index(old.encode(), node.col_offset + 4)))
        elif method and isinstance(node, ast.Attribute) and node.attr == old:
            if isinstance(node.value, ast.Name) and node.value.id in ("self", "cls"):
                assert node.end_lineno is not None
                assert node.end_col_offset is not None
                marks.add((node.end_lineno, node.end_col_offset - len(old)))
        elif not method and isinstance(node, ast.Name) and node.id == old:
            marks.add((node.lineno, node.col_offset))
    for line_number, column in sorted(marks, reverse=True):
        line = lines[line_number - 1]
        assert line[column:].startswith(old.encode()), (line, column)
        lines[line_number - 1] = line[:column] + new.encode() + line[column + len(old) :]
    return b"".join(lines)


def with_parameter(data: bytes, node: ast.FunctionDef | ast.AsyncFunctionDef) -> bytes:
    """Give a function a parameter without a default, first after `self`; its last one goes."""
    spec = copy.deepcopy(node.args)
    plain = [*spec.posonlyargs, *spec.args]
    keep = 1 if plain and plain[0].arg in ("self", "cls") else 0
    spec.args.insert(keep - len(spec.posonlyargs), ast.arg(CAME))
    if len(spec.args) > keep + 2:
        spec.args.pop()
        if spec.defaults:
            spec.defaults.pop()
    lines = data.splitlines(keepends=True)
    first = node.body[0]
    start, stop = node.lineno - 1, first.lineno - 1
    if start == stop:
        stop = start + 1
        header = lines[start][: first.col_offset].rstrip() + b"\n"
        tail = [b" " * (node.col_offset + 4) + lines[start][first.col_offset :]]
    else:
        header, tail = b"", []
    returns = f" -> {ast.unparse(node.returns)}" if node.returns is not None else ""
    word = "async def" if isinstance(node, ast.AsyncFunctionDef) else "def"
    header = b" " * node.col_offset
    header += f"{word} {node.name}({ast.unparse(spec)}){returns}:\n".encode()
    return b"".join([*lines[:start], header, *tail, *lines[stop:]])


def without(data: bytes, nodes: Sequence[ast.stmt]) -> bytes:
    """Delete statements, their decorators included."""
    lines = data.splitlines(keepends=True)
    for node in sorted(nodes, key=lambda n: n.lineno, reverse=True):
        decorators = getattr(node, "decorator_list", [])
        start = min([node.lineno, *(d.lineno for d in decorators)]) - 1
        assert node.end_lineno is not None
        lines[start : node.end_lineno] = [b" " * node.col_offset + b"pass\n"]
    return b"".join(lines)
