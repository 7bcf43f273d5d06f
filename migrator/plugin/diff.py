# SPDX-License-Identifier: Apache-2.0
"""What a rewritten module changes, by structure, and the patch file that says so.

The smallest thing that is replaced is a function, a whole class if its header changes, or another
statement of a module or a class.
"""

from __future__ import annotations

import ast
import difflib
import textwrap
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from migrator.plugin.runtime.patching import Source, first_line, label

WIDTH = 88
"""Columns for comments and markers; vLLM's own."""
_OPENS = "  # in which change:"


class StructureError(Exception):
    """A change cannot be said by structure; the message says which."""


@dataclass
class Change:
    """One thing that a patch does."""

    action: str
    """`replaces` or `added`, or `enters` for a class that holds changes."""
    before: ast.stmt | None
    after: ast.stmt
    anchor: ast.stmt | None = None
    """Of what is added: the statement of the source that it comes behind; None if it is first."""
    inner: list[Change] = field(default_factory=list)


def changes_between(before: Source, after: Source) -> list[Change]:
    """What makes `after` of `before`, in the order of `after`.

    Raises:
        StructureError: a statement is taken away, which no rule does below `vllm/`.
    """
    return _diff(before, after, before.tree.body, after.tree.body)


def _diff(
    before: Source, after: Source, old: Sequence[ast.stmt], new: Sequence[ast.stmt]
) -> list[Change]:
    matcher = difflib.SequenceMatcher(None, _keys(before, old), _keys(after, new), autojunk=False)
    changes: list[Change] = []
    for tag, i1, i2, j1, j2 in matcher.get_opcodes():
        if tag == "equal":
            for one, other in zip(old[i1:i2], new[j1:j2], strict=True):
                changes += _changed(before, after, one, other)
            continue
        paired = min(i2 - i1, j2 - j1)
        if any(label(node) for node in (*old[i1 : i1 + paired], *new[j1 : j1 + paired])):
            paired = 0  # a definition becomes no other one
        for one, other in zip(old[i1 : i1 + paired], new[j1 : j1 + paired], strict=True):
            changes.append(Change("replaces", one, other))
        for one in old[i1 + paired : i2]:
            raise StructureError(f"line {one.lineno}: `{_shown(before, one)}` is taken away")
        anchor = old[i2 - 1] if i2 else None
        changes += [Change("added", None, other, anchor) for other in new[j1 + paired : j2]]
    return changes


def _keys(source: Source, body: Sequence[ast.stmt]) -> list[tuple[str, int]]:
    """What a statement is known by: a definition by its name, another one by its text."""
    seen: dict[str, int] = {}
    keys = []
    for node in body:
        name = label(node) or source.segment(node)
        seen[name] = seen.get(name, 0) + 1
        keys.append((name, seen[name]))
    return keys


def _changed(before: Source, after: Source, old: ast.stmt, new: ast.stmt) -> Iterator[Change]:
    if before.segment(old) == after.segment(new):
        return
    if (
        isinstance(old, ast.ClassDef)
        and isinstance(new, ast.ClassDef)
        and _header(old) == _header(new)
    ):
        inner = _diff(before, after, old.body, new.body)
        if inner:
            yield Change("enters", old, new, inner=inner)
        return
    yield Change("replaces", old, new)


def _header(node: ast.ClassDef) -> list[str]:
    return [ast.dump(part) for part in (*node.decorator_list, *node.bases, *node.keywords)]


Attribute = Callable[[int, int], Sequence[tuple[str, str]]]
"""(first line, last line) of the rewritten module → (rule, reason) of what was done there."""


@dataclass
class Rendered:
    """The body of a patch file."""

    lines: list[str] = field(default_factory=list)
    places: list[tuple[int, int, int]] = field(default_factory=list)
    """(first line, last line) of the rewritten module and the first's number in `lines`, from 1."""
    rules: set[str] = field(default_factory=set)


def render(
    before: Source, after: Source, changes: Sequence[Change], attribute: Attribute
) -> Rendered:
    """The markers and statements of a patch file.

    Raises:
        StructureError: a statement shares its lines with others, or cannot be told from another.
    """
    out = Rendered()
    _render(before, after, before.tree.body, changes, attribute, out, depth=0)
    return out


def _render(
    before: Source,
    after: Source,
    body: Sequence[ast.stmt],
    changes: Sequence[Change],
    attribute: Attribute,
    out: Rendered,
    depth: int,
) -> None:
    for change in changes:
        node = change.after
        if out.lines and not out.lines[-1].endswith(_OPENS):
            out.lines += [""] * (1 if depth else 2)
        if change.action == "enters":
            assert isinstance(change.before, ast.ClassDef)
            _unique(body, change.before)
            margin = before.lines[change.before.lineno - 1][: change.before.col_offset]
            out.lines.append(f"{margin}class {change.before.name}:{_OPENS}")
            inner = change.before.body
            _render(before, after, inner, change.inner, attribute, out, depth + 1)
            continue
        margin = after.lines[first_line(node) - 1][: node.col_offset]
        if margin.strip():
            raise StructureError(f"line {node.lineno}: more than one statement in a line")
        first, last = first_line(node), node.end_lineno or node.lineno
        reasons = attribute(first, last)
        rules = ", ".join(dict.fromkeys(rule for rule, _ in reasons))
        if not rules:
            raise StructureError(f"no rule says that it changed line {first}")
        out.rules |= {rule for rule, _ in reasons}
        for rule, reason in dict.fromkeys(reasons):
            out.lines += _comment(margin, f"{rule}: {reason}")
        marker = _marker(before, body, change, rules, WIDTH - len(margin))
        out.lines += [f"{margin}{line}" for line in marker]
        if change.action == "added":
            out.lines += _remarks(after, first)
        out.places.append((first, last, len(out.lines) + 1))
        out.lines += after.lines[first - 1 : last]


def _marker(
    before: Source, body: Sequence[ast.stmt], change: Change, rules: str, width: int
) -> list[str]:
    arguments = {"rules": rules}
    if change.action == "added":
        if change.anchor is not None:
            place = label(change.anchor)
            alike = [node for node in body if label(node) == place]
            arguments["after"] = place or _shown(before, change.anchor)
            if not place or len(alike) > 1:
                arguments["sha256"] = _only_hash(before, body, change.anchor)
    else:
        assert change.before is not None
        arguments["sha256"] = _only_hash(before, body, change.before)
        if not label(change.before):
            arguments["was"] = _shown(before, change.before)
    call = ("@" if label(change.after) else "") + change.action
    given = [f"{name}={_quoted(value)}" for name, value in arguments.items()]
    line = f"{call}({', '.join(given)})"
    if len(line) <= width:
        return [line]
    return [f"{call}(", *(f"    {argument}," for argument in given), ")"]


def _only_hash(before: Source, body: Sequence[ast.stmt], wanted: ast.stmt) -> str:
    """The hash of a statement, by which it has to be the first that is found."""
    sha256 = before.hash(wanted)
    place = label(wanted)
    first = next(
        node for node in body if (not place or label(node) == place) and before.hash(node) == sha256
    )
    if first is not wanted:
        raise StructureError(f"line {wanted.lineno} says the same as line {first.lineno}")
    return sha256


def _unique(body: Sequence[ast.stmt], wanted: ast.stmt) -> None:
    alike = [node for node in body if label(node) == label(wanted)]
    if alike[-1] is not wanted:
        raise StructureError(f"there is more than one {label(wanted)}")


def _shown(source: Source, node: ast.stmt) -> str:
    lines = source.segment(node).split("\n")
    return textwrap.shorten(lines[0], 60, placeholder=" …") + (" …" if len(lines) > 1 else "")


def _quoted(text: str) -> str:
    shown = repr(text)
    return shown if '"' in text else f'"{shown[1:-1]}"'


def _comment(margin: str, text: str) -> list[str]:
    return [f"{margin}# {line}" for line in textwrap.wrap(text, max(40, WIDTH - len(margin) - 2))]


def _remarks(source: Source, first: int) -> list[str]:
    """The comment lines right above a statement."""
    number = first - 1
    while number and source.lines[number - 1].lstrip().startswith("#"):
        number -= 1
    return list(source.lines[number : first - 1])
