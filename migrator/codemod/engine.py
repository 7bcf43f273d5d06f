# SPDX-License-Identifier: Apache-2.0
"""Runs rules over one file and edits it: the only place where a tree's source is rewritten.

Pure: bytes in, bytes and findings out. The result is parsed again, and a file that LibCST would not
give back byte for byte is left alone.
"""

from __future__ import annotations

import ast
import contextlib
import dataclasses
import itertools
import re
import symtable
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import libcst as cst
from libcst._nodes.internal import CodegenState

from migrator.codemod.known_shapes import UncheckedSite, declared, unchecked
from migrator.codemod.large_modules import PIECES, pieces, without_others
from migrator.codemod.matchers import DoubtfulError, forget, parents_of
from migrator.codemod.outline import MARK, Lines, Outline, is_special, outline
from migrator.codemod.rule import (
    Edit,
    File,
    Finding,
    Insert,
    Replace,
    Rule,
    Status,
    WantedError,
    manual,
    statements,
)
from migrator.codemod.statement_layout import Layout, Nodes, Piece
from migrator.codemod.tree_style import (
    Style,
    fitted,
    header_of,
    is_as_written,
    is_regular,
    is_too_long,
    written,
)
from migrator.files.tree import Tree

SNIPPET = 160
"""Longest excerpt of source, in characters, that a record carries."""
LARGE = 1_000_000
"""From so many bytes on a file is parsed in pieces; none of vLLM has half as many."""
DEPTH = 1000
"""Operators or names that may follow each other; LibCST's parser dies of about 5,000."""
_WORDS = re.compile(rb"\b(?:and|or)\b")
_RETURN = re.compile(rb"\r(?!\n)")
_DOTS = re.compile(rb"(?:\.[\s\\]*\w+[\s\\]*){%d}" % DEPTH)
_IN_DOTS = bytes(ord("x") if re.match(rb"[.\s\\\w]", bytes([n])) else 0 for n in range(256))
"""Each byte that may stand in a match of these as `x`, and any other as a zero."""
_RUN = b"x" * (2 * DEPTH)
"""The shortest match, in these bytes."""


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
    unchecked: tuple[UncheckedSite, ...] = ()
    """Sites that were changed and that no known release has in this form."""


class EditError(Exception):
    """Two edits of one file do not go together, or the result is not Python."""


class _RuleError(Exception):
    """A rule raised what it should not: a mistake of ours, which must cost one file only."""

    def __init__(self, codes: str, error: Exception) -> None:
        said = f"{type(error).__name__}: {_first_line(error)}"
        super().__init__(f"{codes} cannot cope with it, which is a bug to report ({said})")


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
    try:
        return _migrate(path, data, rules, tree)
    except UnicodeError as error:
        # Some codecs read what they do not write; others cannot write what a rule puts in.
        why = f"it cannot be written in its own encoding: {_first_line(error)}"
        return FileResult(path, None, failure=why)
    except Exception as error:
        return FileResult(path, None, failure=str(_RuleError("the engine", error)))
    finally:
        forget()


def _migrate(path: str, data: bytes, rules: Sequence[Rule], tree: Tree) -> FileResult:
    if len(data) >= LARGE:
        result = _migrate_large(path, data, rules, tree)
        if result is not None:
            module = tree.parse(path) if declared(rules, _changed(result)) else None
            return result if module is None else _with_unchecked(result, module, rules)
    parsed = _parsed(path, data, tree.parsed(path, data))
    if isinstance(parsed, str):
        return FileResult(path, None, failure=parsed)
    result = _migrate_parsed(path, data, parsed, _names(rules), rules, tree)
    return _with_unchecked(result, parsed, rules)


def _changed(result: FileResult) -> list[tuple[str, str]]:
    """Code and site of what is changed."""
    return [(r.rule, r.site) for r in result.records if r.status is Status.CHANGED]


def _with_unchecked(result: FileResult, module: ast.Module, rules: Sequence[Rule]) -> FileResult:
    found = unchecked(module, result.path, rules, _changed(result))
    return dataclasses.replace(result, unchecked=found) if found else result


def _migrate_large(path: str, data: bytes, rules: Sequence[Rule], tree: Tree) -> FileResult | None:
    """Run rules over a module that is parsed in pieces; None where the whole is to be parsed."""

    def parse(text: bytes) -> ast.Module | None:
        parsed = _parsed(path, text)
        return None if isinstance(parsed, str) else parsed

    found = pieces(data, parse)
    names = _names(rules)
    while found is not None:
        short = without_others(data, found, _wanted(rules, names), names)
        parsed = parse(short.data)
        before = short.expand(short.data)
        if parsed is None or before is None or before[0] != data:
            return None
        left_out = b"".join(short.left_out)
        try:
            result = _migrate_parsed(path, short.data, parsed, names, rules, tree, left_out)
        except WantedError as error:
            if not error.names:
                return None
            names |= error.names
            continue
        return _expanded(result, short, before)
    return None


def _migrate_parsed(
    path: str,
    data: bytes,
    parsed: ast.Module,
    names: frozenset[str],
    rules: Sequence[Rule],
    tree: Tree,
    left_out: bytes | None = None,
) -> FileResult:
    """Run rules over a module of which Python's syntax tree is known.

    Args:
        path: the file's path in the tree.
        data: its source.
        parsed: what Python's parser makes of it.
        names: what the rules ask for by name.
        rules: in the order of their codes.
        tree: for rules that probe other files.
        left_out: what `data` lacks of the module; None where it is the whole of it.

    Raises:
        WantedError: what is left out is asked for.
    """
    while True:
        short = outline(data, parsed, _wanted(rules, names), names, _heads(rules))
        try:
            if short is not None:
                result = _migrate_outline(path, data, parsed, short, names, rules, tree, left_out)
                if result is not None:
                    return result
            break
        except WantedError as error:
            if left_out is not None:
                raise
            if not error.names:
                break
            names |= error.names

    def file(kept: cst.Module) -> File:
        if left_out is None:
            return File(path, kept, parsed, data, tree, parsed, data)
        return File(path, kept, parsed, data, tree, parsed, data, names, left_out)

    return _migrate_module(path, data, parsed, rules, file)


def _names(rules: Sequence[Rule]) -> frozenset[str]:
    """The names of the sites of some rules, and of what goes with them."""
    parts = (part for rule in rules for site in rule.sites for part in site.name.split("."))
    return frozenset(parts) | {"forward_cuda", "forward_oot"}


def _heads(rules: Sequence[Rule]) -> frozenset[str]:
    """Those of the names of the sites that no rule has to see all of."""
    sites = [site for rule in rules for site in rule.sites]
    return frozenset(s.name for s in sites if not s.whole) - {s.name for s in sites if s.whole}


def _wanted(rules: Sequence[Rule], names: Iterable[str]) -> list[bytes]:
    """What stands in each statement that the rules look at."""
    texts = dict.fromkeys(text for rule in rules for text in (*rule.triggers, *rule.reads))
    words = "|".join(sorted(re.escape(name) for name in names if not is_special(name)))
    # Without `\b` before them they are found by their first letters, ten times as fast.
    return [text.encode() for text in (*texts, rf"(?:{words})\b")]


def _migrate_outline(
    path: str,
    data: bytes,
    parsed: ast.Module,
    short: Outline,
    names: frozenset[str],
    rules: Sequence[Rule],
    tree: Tree,
    more: bytes | None,
) -> FileResult | None:
    """Run rules over a file's outline; None where the whole of it has to be looked at."""
    inner = _parsed(path, short.data)
    before = short.expand(short.data)
    if isinstance(inner, str) or before is None or before[0] != data:
        return None

    def file(kept: cst.Module) -> File:
        left_out = b"".join([*short.left_out, more or b""])
        return File(path, kept, inner, short.data, tree, parsed, data, names, left_out)

    result = _migrate_module(path, short.data, inner, rules, file)
    return _expanded(result, short, before)


def _expanded(result: FileResult, short: Outline, before: tuple[bytes, Lines]) -> FileResult | None:
    """What became of a file, by what became of its outline; None where that failed.

    Args:
        result: of the outline.
        short: the outline.
        before: the file as it was, of the outline.
    """
    if result.failure is not None:
        return None  # the whole file says what is wrong with it
    expanded = short.expand(result.after) if result.after is not None else before
    if expanded is None:
        return None
    records = tuple(
        dataclasses.replace(
            record,
            before=_whole(record.before, before[1]),
            after=_whole(record.after, expanded[1]),
        )
        for record in result.records
    )
    return FileResult(result.path, None if result.after is None else expanded[0], records)


def _whole(span: Span | None, lines: Lines) -> Span | None:
    return span and Span(lines.whole(span.line), lines.whole(span.end_line))


def _migrate_module(
    path: str,
    data: bytes,
    parsed: ast.Module,
    rules: Sequence[Rule],
    file: Callable[[cst.Module], File],
) -> FileResult:
    """Run rules over a module or its outline.

    Args:
        path: the file's path in the tree.
        data: what is parsed of the file.
        parsed: what Python's parser makes of it.
        rules: in the order of their codes.
        file: makes of what LibCST parses what rules see.
    """
    try:
        module = cst.parse_module(data)
    except (SyntaxError, cst.ParserSyntaxError, ValueError, RecursionError) as error:
        return FileResult(path, None, failure=f"LibCST cannot parse it: {_first_line(error)}")
    try:
        seen = file(module)
        findings = _findings(seen, rules)
        if not findings:
            return FileResult(path, None)
        edits = [edit for _, finding in findings for edit in finding.edits]
        sites = [finding.node for _, finding in findings]
        layout = Layout.of(module, data, parsed, [*sites, *(edit.node for edit in edits)])
        pieces = list(layout.around(sites))
        old = _Source(module, pieces, {id(node) for node in sites})
        # The parts that the edits are written in may be others than those that their sites are in.
        others = list(layout.around([edit.node for edit in edits]))
        written = old if others == pieces else _Source(module, others, set())
        if {old.data, written.data} != {data}:
            # It may be the layout that is wrong; the module as a whole says so for certain.
            layout = Layout(module)
            old = _Source(module, layout.around(sites), {id(node) for node in sites})
    except RecursionError:
        return FileResult(path, None, failure="it is nested too deeply to be searched")
    except _RuleError as error:
        return FileResult(path, None, failure=str(error))
    if old.data != data:
        return FileResult(path, None, failure="LibCST does not give its bytes back unchanged")
    if not edits:
        return FileResult(path, None, _records(seen, findings, old, None, {}))
    if _RETURN.search(data):
        # A line that is put after one of these may begin with a line feed, and make it another end.
        return FileResult(path, None, failure="a carriage return alone ends a line in it")
    try:
        style = Style.of(seen.tree) if is_regular(module) else None
        after, images = _edit(module, edits, layout, style)
        new = _Source(module, after, {id(image) for nodes in images.values() for image in nodes})
        failure = _invalid(path, new.data)
        if failure is not None:
            raise EditError(f"the rewritten file does not parse: {failure}")
        if any(id(image) not in new.spans for nodes in images.values() for image in nodes):
            raise EditError("an edit lies inside a node that another edit replaces")
    except (EditError, RecursionError, cst.CSTValidationError, cst.ParserSyntaxError) as error:
        return FileResult(path, None, failure=f"{_first_line(error)} (rules {_editing(findings)})")
    except UnicodeError:
        raise
    except Exception as error:
        return FileResult(path, None, failure=str(_RuleError(_editing(findings), error)))
    return FileResult(path, new.data, _records(seen, findings, old, new, images))


def _editing(findings: Iterable[tuple[Rule, Finding]]) -> str:
    return ", ".join(sorted({rule.code for rule, finding in findings if finding.edits}))


def unparsable(path: str, data: bytes) -> str | None:
    """Why Python's own parser refuses these bytes; None where it takes them.

    It comes before LibCST, which dies of a segmentation fault on very deep nesting where Python
    raises cleanly.
    """
    parsed = _parsed(path, data)
    return parsed if isinstance(parsed, str) else None


def _invalid(path: str, data: bytes) -> str | None:
    """Why Python would refuse these bytes; it takes less than their syntax tree as objects."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            symtable.symtable(data, path, "exec")  # type: ignore[arg-type] # bytes do too
    except _REFUSALS as error:
        return _refusal(error)
    return None


def _parsed(path: str, data: bytes, known: ast.Module | None = None) -> ast.Module | str:
    """The syntax tree that Python's own parser makes of these bytes, or why it refuses them.

    Args:
        path: the file's path in the tree.
        data: the bytes.
        known: the syntax tree, where it was made before.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            parsed = known or ast.parse(data, path)
        if _kills_libcst(data, parsed):
            return f"it nests more than {DEPTH} operators or names, too deep for LibCST"
    except _REFUSALS as error:
        return _refusal(error)
    return parsed


_REFUSALS = (SyntaxError, ValueError, RecursionError, MemoryError)
"""What Python's parser raises."""


def _refusal(error: BaseException) -> str:
    if isinstance(error, SyntaxError):
        return f"not valid Python: line {error.lineno or 0}: {error.msg}"
    return f"Python cannot parse it: {_first_line(error)}"


def _kills_libcst(data: bytes, parsed: ast.AST) -> bool:
    """Does the file have what is flat to Python, and to LibCST nested to any depth?

    These are `a or b or …` and `import a.b.…`. The syntax tree is searched only where the bytes
    can hold that many.
    """
    if len(_WORDS.findall(data)) >= DEPTH:
        operators = (node for node in ast.walk(parsed) if isinstance(node, ast.BoolOp))
        if any(len(node.values) > DEPTH for node in operators):
            return True
    # The expression tries each name of a file; where no run of bytes could hold a match, that is
    # told in a hundredth of the time.
    return _RUN in data.translate(_IN_DOTS) and _DOTS.search(data) is not None


def _first_line(error: BaseException) -> str:
    return (str(error) or type(error).__name__).strip().partition("\n")[0]


def _findings(file: File, rules: Sequence[Rule]) -> list[tuple[Rule, Finding]]:
    found = [
        (rule, finding)
        for rule in rules
        if rule.provides is None
        for finding in _checked(rule, file)
    ]
    needs = frozenset(need for _, finding in found for need in finding.needs)
    if needs:
        file = dataclasses.replace(file, needs=needs)
        found += [
            (rule, finding)
            for rule in rules
            if rule.provides in needs
            for finding in _checked(rule, file)
        ]
    return found


def _checked(rule: Rule, file: File) -> list[Finding]:
    try:
        return list(rule.check(file))
    except WantedError:
        raise
    except DoubtfulError as error:
        return _left(rule, file, error)
    except RecursionError:
        raise
    except Exception as error:
        raise _RuleError(rule.code, error) from error


def _left(rule: Rule, file: File, error: DoubtfulError) -> list[Finding]:
    """Leave a rule's sites in a file for a person, where it is not certain what one of them is.

    All of them: what the rule would do to the others may go with that.
    """
    names = {name for name, _ in file.every_definition()}
    sites = {site.name for site in rule.sites if file.path in site.paths and site.name in names} | {
        error.name
    }
    below = {name for name in sites if name.startswith(f"{error.name}.")}
    if below:
        sites.discard(error.name)
    return [manual(site, error.node, f"{error.name}: {error.why}") for site in sorted(sites)]


class _Editor(cst.CSTTransformer):
    """Applies edits, keyed by the identity of the nodes that rules saw.

    Args:
        module: the module, or its outline.
        edits: what the rules report.
        style: how the tree's formatter writes statements; None where a module's is no formatter's.
    """

    def __init__(self, module: cst.Module, edits: Iterable[Edit], style: Style | None) -> None:
        super().__init__()
        self.images: dict[int, list[cst.CSTNode]] = {}
        """For each edit, by identity: the nodes that stand for it in the new tree."""
        self._style = style
        self._parents = parents_of(module)
        self._replaced: list[list[int]] = [[]]
        """For each statement around a node: the edits of its own parts."""
        self._replace: dict[int, Replace] = {}
        self._insert: dict[int, list[tuple[Insert, Sequence[cst.BaseStatement]]]] = {}
        for edit in edits:
            if isinstance(edit, Replace):
                if id(edit.node) in self._replace:
                    raise EditError("two rules replace the same node")
                self._replace[id(edit.node)] = edit
            else:
                code = edit.code
                if style is not None:
                    code = fitted(code, self._depth(edit.node), style)
                new = statements(code, module)
                new = [_with_blank_lines(new[0], edit.blank_lines), *new[1:]]
                self._insert.setdefault(id(edit.node), []).append((edit, new))
        self.pending = set(self._replace) | set(self._insert)
        self._on_path = _ancestors(module, self.pending)

    def _depth(self, node: cst.CSTNode) -> int:
        """In how many blocks a node stands."""
        depth = 0
        above = self._parents.get(id(node))
        while above is not None:
            depth += isinstance(above, cst.IndentedBlock)
            above = self._parents.get(id(above))
        return depth

    def on_visit(self, node: cst.CSTNode) -> bool:
        # Most of a module holds no edit; its subtrees are taken over as they are.
        if id(node) not in self._on_path and id(node) not in self.pending:
            return False
        if isinstance(node, cst.BaseStatement):
            self._replaced.append([])
        return id(node) in self._on_path

    def on_leave(  # type: ignore[override] # an edit may put a node of another type
        self, original_node: cst.CSTNode, updated_node: cst.CSTNode
    ) -> cst.CSTNode | cst.RemovalSentinel | cst.FlattenSentinel[cst.CSTNode]:
        key = id(original_node)
        node = updated_node
        is_pending = key in self.pending
        self.pending.discard(key)
        inside: list[int] = []
        if isinstance(original_node, cst.BaseStatement) and (is_pending or key in self._on_path):
            inside = self._replaced.pop()
        replace = self._replace.get(key) if is_pending else None
        if replace is not None:
            node = replace.make(updated_node)
            self.images[id(replace)] = [node]
            self._replaced[-1].append(id(replace))
            if isinstance(node, cst.SimpleStatementLine):
                node = self._written(original_node, node, [id(replace)])
        elif inside:
            node = self._written(original_node, updated_node, inside)
        inserts = self._insert.get(key) if is_pending else None
        if inserts is None:
            return node
        if not isinstance(node, cst.BaseStatement):
            raise EditError("statements cannot be put into a body that stands on its header's line")
        beside: dict[str, list[cst.CSTNode]] = {"before": [], "after": []}
        for insert, new in inserts:
            self.images[id(insert)] = list(new)
            beside[insert.where].extend(new)
        together = [*beside["before"], node, *beside["after"]]
        for index in range(1, len(together)):
            if _is_import(together[index - 1]) and not _is_import(together[index]):
                self._set_off(together, index)
        return cst.FlattenSentinel(together)

    def _set_off(self, statements: list[cst.CSTNode], index: int) -> None:
        """Put a blank line between an import and the statement behind it, where there is none."""
        old = statements[index]
        if not isinstance(old, cst.BaseStatement) or _has_blank_line(old):
            return
        new = _with_blank_lines(old, 1)
        statements[index] = new
        for images in self.images.values():
            images[:] = [new if image is old else image for image in images]

    def _written(
        self, original: cst.CSTNode, updated: cst.CSTNode, edits: Sequence[int]
    ) -> cst.CSTNode:
        """Write a statement over lines again, of which some parts were replaced.

        Args:
            original: as it was.
            updated: as the edits leave it.
            edits: those of its own parts, or of its header's, by identity.
        """
        if self._style is None:
            return updated
        depth = self._depth(original)
        above = self._parents.get(id(original))
        keyword = "elif" if isinstance(above, cst.If) and above.orelse is original else "if"
        if not is_as_written(original, depth, self._style, keyword):
            # A layout of somebody's own stays, as long as it fits.
            long = is_too_long(updated, depth, self._style, keyword)
            if not long or is_too_long(original, depth, self._style, keyword):
                return updated
        node = written(updated, depth, self._style, keyword)
        if node is not updated:
            # What stood for the edits is written anew as well.
            image = node if isinstance(node, cst.SimpleStatementLine) else header_of(node)
            for edit in edits:
                self.images[edit] = [image]
        return node


def _is_import(node: cst.CSTNode) -> bool:
    return isinstance(node, cst.SimpleStatementLine) and isinstance(
        node.body[0], (cst.Import, cst.ImportFrom)
    )


def _has_blank_line(statement: cst.BaseStatement) -> bool:
    if isinstance(statement, (cst.FunctionDef, cst.ClassDef)):
        return True  # a formatter asks for more of them there
    lines: Sequence[cst.EmptyLine] = getattr(statement, "leading_lines", [])
    return bool(lines) and lines[0].comment is None


def _with_blank_lines(statement: cst.BaseStatement, count: int) -> cst.BaseStatement:
    lines = getattr(statement, "leading_lines", ())
    blank = [cst.EmptyLine(indent=False) for _ in range(count)]
    return statement.with_changes(leading_lines=[*blank, *lines])


def _edit(
    module: cst.Module, edits: Sequence[Edit], layout: Layout, style: Style | None
) -> tuple[list[Piece], dict[int, list[cst.CSTNode]]]:
    """The parts of the edited module, and for each edit the nodes that stand for it there."""
    editor = _Editor(module, edits, style)
    after: list[Piece] = []
    for piece in layout.around([edit.node for edit in edits]):
        if isinstance(piece, str):
            after.append(piece)
            continue
        for node in piece.nodes:
            edited = node.visit(editor)
            assert not isinstance(edited, cst.RemovalSentinel)
            nodes = (edited,) if isinstance(edited, cst.CSTNode) else tuple(edited.nodes)
            after.append(Nodes(nodes, piece.indents))
    if editor.pending:
        raise EditError("an edit lies inside a node that another edit replaces")
    return after, editor.images


def _ancestors(root: cst.CSTNode, wanted: set[int]) -> set[int]:
    """Identities of the nodes that have one of the wanted ones below them."""
    parents = parents_of(root)
    found: set[int] = set()
    for key in wanted:
        above = parents.get(key)
        while above is not None and id(above) not in found:
            found.add(id(above))
            above = parents.get(id(above))
    return found


class _Marker(CodegenState):
    """Writes code and notes between which of its tokens the wanted nodes lie.

    LibCST's position provider notes every node of a module, which costs several times the writing.
    """

    def __init__(self, module: cst.Module, wanted: set[int]) -> None:
        super().__init__(module.default_indent, module.default_newline)
        self.wanted = wanted
        self._starts: dict[int, int] = {}
        self.inclusive: dict[int, tuple[int, int]] = {}
        """Token ranges with the white space and comments that belong to a node."""
        self.exact: dict[int, tuple[int, int]] = {}

    def before_codegen(self, node: cst.CSTNode) -> None:
        if id(node) in self.wanted:
            self._starts[id(node)] = len(self.tokens)

    def after_codegen(self, node: cst.CSTNode) -> None:
        if id(node) in self.wanted:
            self.inclusive[id(node)] = (self._starts[id(node)], len(self.tokens))

    def record_syntactic_position(  # type: ignore[override] # a context manager all the same
        self,
        node: cst.CSTNode,
        *,
        start_node: cst.CSTNode | None = None,
        end_node: cst.CSTNode | None = None,
    ) -> contextlib.AbstractContextManager[None]:
        return self._exactly(node) if id(node) in self.wanted else _NOTHING

    @contextlib.contextmanager
    def _exactly(self, node: cst.CSTNode) -> Iterator[None]:
        start = len(self.tokens)
        yield
        self.exact[id(node)] = (start, len(self.tokens))


_NOTHING = contextlib.nullcontext()


class _Source:
    """A module's bytes, and the lines of the wanted nodes in them.

    Args:
        module: for its encoding and its ways of indenting and ending lines.
        pieces: the whole module in order; the wanted nodes lie in those that are nodes.
        wanted: identities of nodes.
    """

    def __init__(self, module: cst.Module, pieces: Iterable[Piece], wanted: set[int]) -> None:
        marker = _Marker(module, wanted)
        for piece in pieces:
            if isinstance(piece, str):
                marker.add_token(piece)
                continue
            marker.indent_tokens[:] = piece.indents
            for node in piece.nodes:
                node._codegen(marker)  # Module.code does just this, with a state of its own
        self.module = module
        self.data = "".join(marker.tokens).encode(module.encoding)
        ranges = marker.inclusive | marker.exact
        ends = list(itertools.accumulate((t.count("\n") for t in marker.tokens), initial=1))
        self.spans: dict[int, Span] = {}
        for key, (start, stop) in ranges.items():
            text = "".join(marker.tokens[start:stop])
            lead = len(text) - len(text.lstrip())
            line = ends[start] + text[:lead].count("\n")
            self.spans[key] = Span(line, line + text.strip().count("\n"))


def _records(
    file: File,
    findings: Sequence[tuple[Rule, Finding]],
    old: _Source,
    new: _Source | None,
    images: Mapping[int, Sequence[cst.CSTNode]],
) -> tuple[Record, ...]:
    records = []
    for rule, finding in findings:
        spans = [
            new.spans[id(image)]
            for edit in finding.edits
            for image in images[id(edit)]
            if new is not None
        ]
        records.append(
            Record(
                rule=rule.code,
                path=file.path,
                site=finding.site,
                status=finding.status,
                reason=finding.reason,
                before=old.spans[id(finding.node)],
                after=Span(min(s.line for s in spans), max(s.end_line for s in spans))
                if spans
                else None,
                source=_snippet(file, finding.node),
            )
        )
    return tuple(records)


def _snippet(file: File, node: cst.CSTNode) -> str:
    """The first words of a node.

    Raises:
        WantedError: some of them are not parsed.
    """
    if isinstance(node, (cst.FunctionDef, cst.ClassDef)):
        kind = "def" if isinstance(node, cst.FunctionDef) else "class"
        return f"{kind} {node.name.value}"
    text = " ".join(file.code(node).split())
    if file.names is not None and any(m in text[: SNIPPET + len(m)] for m in (MARK, PIECES)):
        raise WantedError
    return text if len(text) <= SNIPPET else text[: SNIPPET - 1] + "…"
