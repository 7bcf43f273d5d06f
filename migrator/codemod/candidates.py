# SPDX-License-Identifier: Apache-2.0
"""Where a definition that a rule needs may have gone: moved, renamed, or of another signature.

Definitions are compared by what they are made of, not only by their names: the tokens of their
syntax trees, with a definition's own name, its docstring and the layout taken out. Where the tree
that had the definition is at hand, what that tree held as well can not have come from it.
"""

from __future__ import annotations

import ast
import difflib
import enum
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from weakref import WeakKeyDictionary

from migrator.codemod.rule import Example, Site
from migrator.files.tree import VLLM, Definition, Tree

ALIKE = 0.5
"""From this similarity on, a definition with another name counts as the same one."""
RELATED = 0.3
"""From this similarity on, a definition of the same name elsewhere counts as the same one."""
SHINGLE = 3
"""Tokens in a row that are compared as one."""

Assignment = ast.Assign | ast.AnnAssign | ast.AugAssign
Node = Definition | Assignment
"""What a name can stand for: a function, a class, or a module's variable."""


class Kind(enum.Enum):
    """What became of a definition."""

    MOVED = "moved"
    RENAMED = "renamed"
    BOTH = "moved and renamed"
    SIGNATURE = "other signature"
    SHAPE = "its shape is not what the rule knows"
    SIMILAR = "similar"


@dataclass(frozen=True, slots=True)
class Candidate:
    """A definition that may be what a site was."""

    kind: Kind
    path: str
    line: int
    name: str
    score: float
    """From 0 to 1; above 1 where the name is the same too."""
    detail: str = ""

    def describe(self) -> str:
        """`path:line name (what became of it)`."""
        return f"{self.path}:{self.line} {self.name} ({self.detail or self.kind.value})"


@dataclass(frozen=True, slots=True)
class Anchor:
    """The definition that a site stands on in a tree that has it."""

    path: str
    name: str
    node: Node


# ---- definitions of a module ----------------------------------------------------------------


def named_nodes(module: ast.Module) -> dict[str, Node]:
    """Functions, classes and their methods, and a module's variables, by qualified name.

    Those below `if`, `try` and `with` count too; of several with one name the first does.
    """
    found: dict[str, Node] = {}
    for name, node in _named(module.body, ""):
        found.setdefault(name, node)
    return found


def _named(body: Iterable[ast.stmt], prefix: str) -> Iterator[tuple[str, Node]]:
    for statement in body:
        if isinstance(statement, Definition):
            yield prefix + statement.name, statement
            if isinstance(statement, ast.ClassDef):
                yield from _named(statement.body, f"{prefix}{statement.name}.")
        elif isinstance(statement, Assignment):
            targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
            for target in targets:
                if isinstance(target, ast.Name) and not prefix:
                    yield target.id, statement
        elif isinstance(statement, (ast.If, ast.Try, ast.With)):
            yield from _named(statement.body, prefix)
            if isinstance(statement, ast.Try):
                for handler in statement.handlers:
                    yield from _named(handler.body, prefix)
            if not isinstance(statement, ast.With):
                yield from _named(statement.orelse, prefix)


_known: WeakKeyDictionary[Tree, dict[str, dict[str, Node]]] = WeakKeyDictionary()
"""What was asked of each tree before: path → its named nodes."""


def nodes_of(tree: Tree, path: str) -> dict[str, Node]:
    """`named_nodes` of the module at `path`; empty where there is none that parses."""
    known = _known.setdefault(tree, {})
    if path not in known:
        module = tree.parse(path)
        known[path] = {} if module is None else named_nodes(module)
    return known[path]


def anchor(tree: Tree, path: str, name: str) -> Anchor | None:
    """The definition of a site in the module at `path`: the longest part of its name that is there.

    `SiluAndMul.forward_oot`, which a rule adds, stands on `SiluAndMul`.
    """
    return anchor_among(nodes_of(tree, path), path, name)


def anchor_among(known: Mapping[str, Node], path: str, name: str) -> Anchor | None:
    """As `anchor`, of a module whose named nodes are known."""
    for part in _prefixes(name):
        if part in known:
            return Anchor(path, part, known[part])
    return None


def enclosing(tree: Tree, path: str, line: int) -> Anchor | None:
    """The innermost definition around a line, counted from 1."""
    around = [
        (len(name.split(".")), name, node)
        for name, node in nodes_of(tree, path).items()
        if node.lineno <= line <= (node.end_lineno or node.lineno)
    ]
    if not around:
        return None
    _, name, node = max(around, key=lambda item: item[0])
    return Anchor(path, name, node)


def example_anchor(site: Site, examples: Sequence[Example]) -> Anchor | None:
    """The definition of a site in the examples of its rule: what the rule knows of its shape."""
    for example in examples:
        if example.path in site.paths:
            found = anchor(Tree({example.path: example.before.encode()}), example.path, site.name)
            if found is not None:
                return found
    return None


def _prefixes(name: str) -> list[str]:
    parts = name.split(".")
    return [".".join(parts[:n]) for n in range(len(parts), 0, -1)]


# ---- how alike two definitions are ----------------------------------------------------------


def fingerprint(node: Node, name: str) -> Counter[tuple[str, ...]]:
    """Runs of `SHINGLE` tokens of a definition's syntax, without its own name and docstring."""
    own = name.rpartition(".")[2]
    tokens: list[str] = []
    stack: list[ast.AST] = [node]
    while stack:
        current = stack.pop()
        tokens += ("@" if word == own else word for word in _words(current))
        below = [
            child
            for child in ast.iter_child_nodes(current)
            if not isinstance(child, (ast.expr_context, ast.alias)) and not _is_docstring(child)
        ]
        stack += reversed(below)
    runs = zip(*(tokens[n:] for n in range(SHINGLE)), strict=False)
    return Counter(runs) or Counter([tuple(tokens)])


def _words(node: ast.AST) -> Iterator[str]:
    yield type(node).__name__
    match node:
        case ast.Name():
            yield node.id
        case ast.Attribute():
            yield node.attr
        case ast.arg() | ast.keyword():
            yield node.arg or "**"
        case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
            yield node.name
        case ast.Constant():
            yield repr(node.value)[:80]


def _is_docstring(node: ast.AST) -> bool:
    return (
        isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    )


def similarity(one: Counter[tuple[str, ...]], other: Counter[tuple[str, ...]]) -> float:
    """The share of runs that two fingerprints have in common, from 0 to 1."""
    return 2 * (one & other).total() / ((one.total() + other.total()) or 1)


# ---- signatures -----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class SignatureChange:
    """How a function's parameters differ between two trees."""

    name: str
    came: tuple[str, ...]
    went: tuple[str, ...]
    other: tuple[str, ...]
    """Parameters that are passed in another way, or stand in another order."""
    breaking: bool
    """Could a call or a body that was right for the old one be wrong for the new one?"""

    def describe(self) -> str:
        """`name: parameters a, b came; c went`."""
        parts = [f"{', '.join(self.came)} came"] if self.came else []
        parts += [f"{', '.join(self.went)} went"] if self.went else []
        return f"{self.name}: parameters " + "; ".join([*parts, *self.other])


def signature_changes(old: Node, new: Node, name: str) -> list[SignatureChange]:
    """How the signature of a function, or those of a class's methods, differ.

    Annotations are left out: `Optional[X]` became `X | None` everywhere at once.
    """
    if isinstance(old, ast.ClassDef) and isinstance(new, ast.ClassDef):
        after = {n: node for n, node in _named(new.body, f"{name}.") if not _nested(n, name)}
        return [
            change
            for method, node in _named(old.body, f"{name}.")
            if not _nested(method, name) and method in after
            for change in signature_changes(node, after[method], method)
        ]
    if not isinstance(old, ast.FunctionDef | ast.AsyncFunctionDef):
        return []
    if not isinstance(new, ast.FunctionDef | ast.AsyncFunctionDef):
        return []
    before, now = _parameters(old.args), _parameters(new.args)
    came = [p for p in now if p not in before]
    went = [p for p in before if p not in now]
    other = [
        f"{p} is {now[p][0]}, was {before[p][0]}"
        for p in before
        if p in now and before[p][0] != now[p][0]
    ]
    other += [
        f"{p} has {'a' if now[p][1] else 'no'} default now"
        for p in before
        if p in now and before[p][0] == now[p][0] and before[p][1] != now[p][1]
    ]
    order = [p for p in before if p in now] != [p for p in now if p in before]
    if order:
        other.append("in another order")
    if not (came or went or other):
        return []
    breaking = (
        bool(went or order)
        or any(not now[p][1] and now[p][0] not in ("*", "**") for p in came)
        or any(p in now and before[p] != now[p] and not now[p][1] for p in before)
    )
    return [SignatureChange(name, tuple(came), tuple(went), tuple(other), breaking)]


def _nested(name: str, prefix: str) -> bool:
    return "." in name.removeprefix(f"{prefix}.")


def _parameters(spec: ast.arguments) -> dict[str, tuple[str, bool]]:
    """Parameter → (how it is passed, whether it has a default), in order."""
    plain = [*spec.posonlyargs, *spec.args]
    first_default = len(plain) - len(spec.defaults)
    found: dict[str, tuple[str, bool]] = {}
    for n, parameter in enumerate(plain):
        way = "positional only" if n < len(spec.posonlyargs) else "positional"
        found[parameter.arg] = (way, n >= first_default)
    if spec.vararg is not None:
        found[spec.vararg.arg] = ("*", True)
    for parameter, default in zip(spec.kwonlyargs, spec.kw_defaults, strict=True):
        found[parameter.arg] = ("keyword only", default is not None)
    if spec.kwarg is not None:
        found[spec.kwarg.arg] = ("**", True)
    return found


# ---- the search -----------------------------------------------------------------------------


def nearest_candidates(
    tree: Tree,
    site: Site,
    limit: int = 3,
    *,
    examples: Sequence[Example] = (),
    earlier: Tree | None = None,
    known: Anchor | None = None,
) -> list[Candidate]:
    """Where a site that was not found may have gone, best first.

    Args:
        tree: the tree in which it was not found.
        site: what was looked for.
        limit: how many candidates at most.
        examples: of the site's rule; they tell what it looks like where no earlier tree does.
        earlier: a tree that had the site.
        known: the definition of the site in `earlier`.

    Returns:
        Definitions of the same name elsewhere, and those made of the same tokens under another
        name; a definition that is where it should be comes as it is, with what its signature lost
        and got. With `earlier`, what that tree had already is `SIMILAR` at best: it did not come
        from the site.
    """
    shape = known or example_anchor(site, examples)
    name = shape.name if shape is not None else site.name
    paths = dict.fromkeys([*site.paths, *([known.path] if known is not None else [])])
    here = [at for path in paths if (at := anchor(tree, path, name)) is not None]
    whole = [at for at in here if at.name == name]
    if whole:
        return [_changed_shape(at, known) for at in whole][:limit]
    seeker = _Seeker(tree, name, shape, earlier, known is not None)
    found = [*seeker.elsewhere(paths), *seeker.renamed(paths)]
    if earlier is not None and not any(c.kind is not Kind.SIMILAR for c in found):
        found += seeker.in_new_files(paths, earlier)
    best: dict[tuple[str, str], Candidate] = {}
    for candidate in sorted(found, key=lambda c: (c.kind is Kind.SIMILAR, -c.score, c.path)):
        best.setdefault((candidate.path, candidate.name), candidate)
    # A class that is still there without its method comes after what the method may have become.
    rest = [_changed_shape(at, None) for at in here]
    if shape is None:
        return [*rest, *best.values()][:limit]
    return [*best.values(), *(c for c in rest if (c.path, c.name) not in best)][:limit]


def _changed_shape(found: Anchor, known: Anchor | None) -> Candidate:
    if known is not None:
        changes = signature_changes(known.node, found.node, found.name)
        if changes:
            text = "; ".join(change.describe() for change in changes[:3])
            return Candidate(Kind.SIGNATURE, found.path, found.node.lineno, found.name, 1.0, text)
    return Candidate(Kind.SHAPE, found.path, found.node.lineno, found.name, 1.0)


class _Seeker:
    """Searches a tree for what a definition has become."""

    def __init__(
        self, tree: Tree, name: str, shape: Anchor | None, earlier: Tree | None, sure: bool
    ) -> None:
        self.tree = tree
        self.name = name
        self.leaf = name.rpartition(".")[2]
        self.shape = shape
        self.earlier = earlier
        self.sure = sure
        """Is the shape that of the definition itself, and not of an example?"""
        self.print = fingerprint(shape.node, shape.name) if shape is not None else None

    def alike(self, node: Node, name: str) -> float:
        """How alike a definition is to the lost one; 0 where its shape is unknown."""
        if self.print is None or self.shape is None:
            return 0.0
        if _category(node) is not _category(self.shape.node):
            return 0.0
        return similarity(self.print, fingerprint(node, name))

    def was_there(self, path: str, name: str) -> bool:
        """Did the earlier tree have this definition as well?"""
        return self.earlier is not None and name in nodes_of(self.earlier, path)

    def elsewhere(self, paths: Iterable[str]) -> Iterator[Candidate]:
        """Definitions of the same name in other modules."""
        first = self.name.partition(".")[0].encode()
        word = re.compile(rb"(?m)(?:\bdef|\bclass) %s\b|^%s *[:=]" % (first, first))
        skip = set(paths)
        for path in _modules(self.tree, skip):
            if path in skip:
                continue
            data = self.tree.read(path)
            if data is None or first not in data or word.search(data) is None:
                continue
            found = anchor(self.tree, path, self.name)
            if found is None:
                continue
            near = max(difflib.SequenceMatcher(None, path, p).ratio() for p in skip)
            same = self.alike(found.node, found.name) if found.name == self.name else 0.0
            old = self.was_there(path, found.name)
            if self.sure and (old or same < RELATED):
                if same >= RELATED:
                    yield Candidate(Kind.SIMILAR, path, found.node.lineno, found.name, same)
                continue
            # The path decides between definitions that are equally alike.
            score = same + 0.1 + near / 100 if self.sure else near + (found.name == self.name)
            yield Candidate(Kind.MOVED, path, found.node.lineno, found.name, score)

    def renamed(self, paths: Iterable[str]) -> Iterator[Candidate]:
        """Definitions of the same modules under another name."""
        for path in paths:
            for name, node in nodes_of(self.tree, path).items():
                if isinstance(node, Assignment) and (
                    self.shape is None or not isinstance(self.shape.node, Assignment)
                ):
                    continue
                spelled = difflib.SequenceMatcher(None, self.name, name).ratio()
                same = self.alike(node, name)
                if self.sure:
                    if self.was_there(path, name):
                        if same >= ALIKE:
                            yield Candidate(Kind.SIMILAR, path, node.lineno, name, same)
                    elif same >= ALIKE or (same >= RELATED and spelled >= ALIKE):
                        score = same + spelled / 100
                        yield Candidate(Kind.RENAMED, path, node.lineno, name, score)
                elif spelled >= ALIKE:
                    score = (spelled + same + self.parameters_in_common(node)) / 3
                    yield Candidate(Kind.RENAMED, path, node.lineno, name, score)

    def parameters_in_common(self, node: Node) -> float:
        """The share of parameters that a definition has in common with the rule's example."""
        if self.shape is None:
            return 0.0
        old, new = self.shape.node, node
        if not isinstance(old, ast.FunctionDef) or not isinstance(new, ast.FunctionDef):
            return 0.0
        one, other = set(_parameters(old.args)), set(_parameters(new.args))
        return 2 * len(one & other) / (len(one) + len(other) or 1)

    def identifiers(self) -> set[bytes]:
        """The longer names that the lost definition uses, its own left out."""
        if self.shape is None:
            return set()
        words = {word for node in ast.walk(self.shape.node) for word in [*_words(node)][1:]}
        return {w.encode() for w in words if w.isidentifier() and len(w) > 4 and w != self.leaf}

    def in_new_files(self, paths: Iterable[str], earlier: Tree) -> Iterator[Candidate]:
        """Definitions under another name in modules that the earlier tree does not have."""
        words = self.identifiers()
        for path in _modules(self.tree, paths):
            if earlier.exists(path):
                continue
            # Few files hold most of the words of a definition; only those are parsed.
            data = self.tree.read(path) or b""
            if sum(word in data for word in words) < ALIKE * len(words):
                continue
            for name, node in nodes_of(self.tree, path).items():
                same = self.alike(node, name)
                if same >= ALIKE:
                    yield Candidate(Kind.BOTH, path, node.lineno, name, same)


def _category(node: Node) -> type:
    """What kind of thing a name stands for; only like is compared with like."""
    if isinstance(node, Assignment):
        return ast.Assign
    return ast.ClassDef if isinstance(node, ast.ClassDef) else ast.FunctionDef


def _modules(tree: Tree, paths: Iterable[str]) -> Iterator[str]:
    """Modules of the package, and those outside of it where a path that is looked for is."""
    outside = any(not path.startswith(VLLM) for path in paths)
    for entry in tree.entries():
        if entry.link is None and entry.path.endswith(".py"):
            yield from [entry.path] if outside or entry.path.startswith(VLLM) else []
