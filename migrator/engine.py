# SPDX-License-Identifier: Apache-2.0
"""Runs rules over one file and edits it: the only place where a tree's source is rewritten.

Pure: bytes in, bytes and findings out. The result is parsed again, and a file that LibCST would not
give back byte for byte is left alone.
"""

from __future__ import annotations

import ast
import dataclasses
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import libcst as cst
from libcst.metadata import MetadataWrapper, PositionProvider

from migrator.rule import Edit, File, Finding, Insert, Replace, Rule, Status, statements
from migrator.tree import Tree

SNIPPET = 160
"""Longest excerpt of source, in characters, that a record carries."""


@dataclass(frozen=True, slots=True)
class Span:
    """Lines of a file, counted from 1, first and last included."""

    line: int
    end_line: int


@dataclass(frozen=True, slots=True)
class Record:
    """One finding, fit for logs: no syntax tree in it."""

    rule: str
    path: str
    site: str
    status: Status
    reason: str
    before: Span | None
    """Lines in the source; None where the file is new."""
    after: Span | None
    """Lines in the emitted file; None where nothing was changed."""
    source: str
    """First line of the site's source, shortened."""


@dataclass(frozen=True, slots=True)
class FileResult:
    """What became of one file."""

    path: str
    after: bytes | None
    """The new bytes; None where the file stays as it is."""
    records: tuple[Record, ...] = ()
    failure: str | None = None
    """Why the file could not be handled; it stays as it is then."""


class EditError(Exception):
    """Two edits of one file do not go together, or the result is not Python."""


def migrate_file(path: str, data: bytes, rules: Sequence[Rule], tree: Tree) -> FileResult:
    """Run `rules` over one file.

    Args:
        path: the file's path in the tree.
        data: its bytes, in whatever encoding and with whatever line ends it has.
        rules: in the order of their codes.
        tree: for rules that probe other files.

    Returns:
        The new bytes and the findings; a failure instead where the file cannot be parsed, or an
        edit would make it invalid.
    """
    failure = unparsable(path, data)
    if failure is not None:
        return FileResult(path, None, failure=failure)
    try:
        module = cst.parse_module(data)
    except (cst.ParserSyntaxError, ValueError, UnicodeError, RecursionError) as error:
        return FileResult(path, None, failure=f"LibCST cannot parse it: {_first_line(error)}")
    if module.bytes != data:
        return FileResult(path, None, failure="LibCST does not give its bytes back unchanged")
    try:
        findings = _findings(File(path, module, tree), rules)
    except RecursionError:
        return FileResult(path, None, failure="it is nested too deeply to be searched")
    if not any(finding.edits for _, finding in findings):
        return FileResult(path, None, _records(path, module, findings, None, {}))
    try:
        after, images = _edit(module, [e for _, finding in findings for e in finding.edits])
        data_after = after.bytes
        failure = unparsable(path, data_after)
        if failure is not None:
            raise EditError(f"the rewritten file does not parse: {failure}")
    except (EditError, RecursionError) as error:
        codes = ", ".join(sorted({rule.code for rule, finding in findings if finding.edits}))
        return FileResult(path, None, failure=f"{_first_line(error)} (rules {codes})")
    return FileResult(path, data_after, _records(path, module, findings, after, images))


def unparsable(path: str, data: bytes) -> str | None:
    """Why Python's own parser refuses these bytes; None where it takes them.

    It comes before LibCST, which dies of a segmentation fault on very deep nesting where Python
    raises cleanly.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            compile(data, path, "exec", ast.PyCF_ONLY_AST, dont_inherit=True)
    except SyntaxError as error:
        return f"not valid Python: line {error.lineno or 0}: {error.msg}"
    except (ValueError, RecursionError, MemoryError) as error:
        return f"Python cannot parse it: {_first_line(error)}"
    return None


def _first_line(error: BaseException) -> str:
    return (str(error) or type(error).__name__).strip().partition("\n")[0]


def _findings(file: File, rules: Sequence[Rule]) -> list[tuple[Rule, Finding]]:
    found = [
        (rule, finding) for rule in rules if rule.provides is None for finding in rule.check(file)
    ]
    needs = frozenset(need for _, finding in found for need in finding.needs)
    if needs:
        file = dataclasses.replace(file, needs=needs)
        found += [
            (rule, finding)
            for rule in rules
            if rule.provides in needs
            for finding in rule.check(file)
        ]
    return found


class _Editor(cst.CSTTransformer):
    """Applies edits, keyed by the identity of the nodes that rules saw."""

    def __init__(self, module: cst.Module, edits: Iterable[Edit]) -> None:
        super().__init__()
        self.images: dict[int, list[cst.CSTNode]] = {}
        """For each edit, by identity: the nodes that stand for it in the new tree."""
        self._replace: dict[int, Replace] = {}
        self._insert: dict[int, list[tuple[Insert, Sequence[cst.BaseStatement]]]] = {}
        for edit in edits:
            if isinstance(edit, Replace):
                if id(edit.node) in self._replace:
                    raise EditError("two rules replace the same node")
                self._replace[id(edit.node)] = edit
            else:
                new = statements(edit.code, module)
                new = [_with_blank_lines(new[0], edit.blank_lines), *new[1:]]
                self._insert.setdefault(id(edit.node), []).append((edit, new))
        self.pending = set(self._replace) | set(self._insert)

    def on_leave(  # type: ignore[override] # an edit may put a node of another type
        self, original_node: cst.CSTNode, updated_node: cst.CSTNode
    ) -> cst.CSTNode | cst.RemovalSentinel | cst.FlattenSentinel[cst.CSTNode]:
        key = id(original_node)
        if key not in self.pending:
            return updated_node
        self.pending.discard(key)
        node = updated_node
        replace = self._replace.get(key)
        if replace is not None:
            node = replace.make(updated_node)
            self.images[id(replace)] = [node]
        inserts = self._insert.get(key)
        if inserts is None:
            return node
        if not isinstance(node, cst.BaseStatement):
            raise EditError("statements cannot be put into a body that stands on its header's line")
        before: list[cst.CSTNode] = []
        after: list[cst.CSTNode] = []
        for insert, new in inserts:
            self.images[id(insert)] = list(new)
            (before if insert.where == "before" else after).extend(new)
        return cst.FlattenSentinel([*before, node, *after])


def _with_blank_lines(statement: cst.BaseStatement, count: int) -> cst.BaseStatement:
    lines = getattr(statement, "leading_lines", ())
    blank = [cst.EmptyLine(indent=False) for _ in range(count)]
    return statement.with_changes(leading_lines=[*blank, *lines])


def _edit(
    module: cst.Module, edits: Sequence[Edit]
) -> tuple[cst.Module, dict[int, list[cst.CSTNode]]]:
    editor = _Editor(module, edits)
    after = module.visit(editor)
    if editor.pending:
        raise EditError("an edit lies inside a node that another edit replaces")
    return after, editor.images


def _records(
    path: str,
    module: cst.Module,
    findings: Sequence[tuple[Rule, Finding]],
    after: cst.Module | None,
    images: dict[int, list[cst.CSTNode]],
) -> tuple[Record, ...]:
    if not findings:
        return ()
    old = MetadataWrapper(module, unsafe_skip_copy=True).resolve(PositionProvider)
    new = MetadataWrapper(after, unsafe_skip_copy=True).resolve(PositionProvider) if after else {}
    records = []
    for rule, finding in findings:
        where = old[finding.node]
        spans = [new[image] for edit in finding.edits for image in images[id(edit)]]
        records.append(
            Record(
                rule=rule.code,
                path=path,
                site=finding.site,
                status=finding.status,
                reason=finding.reason,
                before=Span(where.start.line, where.end.line),
                after=Span(min(s.start.line for s in spans), max(s.end.line for s in spans))
                if spans
                else None,
                source=_snippet(module, finding.node),
            )
        )
    return tuple(records)


def _snippet(module: cst.Module, node: cst.CSTNode) -> str:
    if isinstance(node, (cst.FunctionDef, cst.ClassDef)):
        kind = "def" if isinstance(node, cst.FunctionDef) else "class"
        return f"{kind} {node.name.value}"
    text = " ".join(module.code_for_node(node).split())
    return text if len(text) <= SNIPPET else text[: SNIPPET - 1] + "…"
