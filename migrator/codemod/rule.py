# SPDX-License-Identifier: Apache-2.0
"""The rule API: what a rule declares and what it reports. A rule never edits; the engine does.

A rule is one module in `migrator/rules/` with one subclass of `Rule`. It is registered by being
there. Its docstring has the headings *What it does*, *Why*, *Example* and *Safety*; its examples
lie beside it, in `examples/`, and become tests by themselves.
"""

from __future__ import annotations

import ast
import enum
import inspect
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import KW_ONLY, dataclass, field, replace
from functools import cache, cached_property
from pathlib import Path
from typing import ClassVar, cast

import libcst as cst

from migrator.codemod.matchers import DoubtfulError, Imports, bound, definition, every_definition
from migrator.codemod.outline import is_special
from migrator.files.tree import Tree

TORCH_NPU = "torch_npu"
"""Need of a change whose code uses the optional `torch_npu` module."""


class Safety(enum.Enum):
    """How much a reviewer has to look at a rule's changes."""

    EQUIVALENT = "equivalent"
    """The same on every device; only the way it is written changes."""
    GUARDED = "guarded"
    """New code that only runs for an NPU tensor or on an NPU platform."""
    BEHAVIOUR = "behaviour"
    """Changes what other platforms may see; the rule's text says what and why that is right."""


@dataclass(frozen=True, slots=True)
class Absence:
    """A shape of vLLM that has another thing in the place of a site, and the reason."""

    releases: str
    """The releases of this shape, as a version specifier such as `<0.10.1`: for readers, and for a
    test that holds it against the witness. Nothing is decided by it."""
    why: str
    witness: Callable[[Tree], bool]
    """Has the tree what does the work instead? It never asks for the site's own absence alone: a
    site that was renamed has no witness."""


@dataclass(frozen=True, slots=True)
class Site:
    """A place that a rule must find in every tree, save in those that `absent` explains."""

    name: str
    """Qualified name in its module: `rms_norm`, `SiluAndMul.forward_oot`."""
    paths: tuple[str, ...]
    """Where the releases keep it; the first that exists in a tree counts."""
    absent: tuple[Absence, ...] = ()
    whole: bool = True
    """Does the rule look at all that is in it? Else a long table is parsed in part."""

    def why_absent(self, tree: Tree) -> Absence | None:
        """The shape of the tree that explains why this site is not in it; None where none does."""
        return next((absence for absence in self.absent if absence.witness(tree)), None)


@dataclass(frozen=True, slots=True)
class Example:
    """A file before and after a rule; a test checks it, and that a second run changes nothing."""

    before: str
    after: str | None = None
    """None: the rule leaves the file as it is."""
    path: str = "vllm/example.py"
    others: tuple[tuple[str, str], ...] = ()
    """Further files of the tree (path, text), for rules that probe it."""


def examples_of(text: str) -> tuple[Example, ...]:
    """Examples written as differences.

    Each begins with a line `@@ PATH @@`. The lines below are all of that file, before and after in
    one: behind `-` those that go, behind `+` those that come, behind a space the others. An empty
    line is one of the file's as well. An example without `-` and `+` is left as it is.

    Raises:
        ValueError: a line begins in another way, or the first with no path.
    """
    found: list[tuple[str, list[str], list[str]]] = []
    *lines, last = text.split("\n")
    for number, line in enumerate([*lines, last] if last else lines, 1):
        if header := _EXAMPLE.fullmatch(line):
            found.append((header[1], [], []))
        elif line[:1] not in ("", " ", "+", "-") or not found:
            raise ValueError(f"line {number}: neither `@@ PATH @@` nor behind ` `, `+` or `-`")
        else:
            _, before, after = found[-1]
            if not line.startswith("+"):
                before.append(f"{line[1:]}\n")
            if not line.startswith("-"):
                after.append(f"{line[1:]}\n")
    return tuple(
        Example("".join(before), "".join(after) if after != before else None, path)
        for path, before, after in found
    )


_EXAMPLE = re.compile(r"@@ (\S+) @@")


class _ExamplesBeside:
    """The examples of a rule that states none: those of `examples/<module>.diff` beside it."""

    def __get__(self, rule: Rule | None, owner: type[Rule]) -> Sequence[Example]:
        module = sys.modules.get(owner.__module__)
        source = Path(getattr(module, "__file__", None) or "-")
        return _read_examples(source.parent / "examples" / f"{source.stem}.diff")


@cache
def _read_examples(place: Path) -> tuple[Example, ...]:
    return examples_of(place.read_text(encoding="utf-8")) if place.is_file() else ()


@dataclass(frozen=True, slots=True)
class Replace:
    """Put another node in the place of `node`; `make` gets the node with inner edits done."""

    node: cst.CSTNode
    make: Callable[[cst.CSTNode], cst.CSTNode]


@dataclass(frozen=True, slots=True)
class Insert:
    """Put statements, given as source text at indentation zero, before or after a statement."""

    node: cst.CSTNode
    code: str
    where: str = "before"
    """`before` or `after`."""
    blank_lines: int = 0
    """Blank lines in front of the inserted code."""


Edit = Replace | Insert


class Status(enum.Enum):
    """What became of a site."""

    CHANGED = "changed"
    MIGRATED = "migrated"
    SKIPPED = "skipped"
    MANUAL = "manual"


@dataclass(frozen=True, slots=True)
class Finding:
    """One site in one file, as a rule reports it."""

    status: Status
    site: str
    """Qualified name of the declared site, or of the function or class around the node."""
    node: cst.CSTNode
    """Where it is (for line numbers)."""
    reason: str
    edits: tuple[Edit, ...] = ()
    needs: frozenset[str] = frozenset()
    """Names that an import rule has to provide in this file."""


def changed(
    site: str, node: cst.CSTNode, reason: str, *edits: Edit, needs: Iterable[str] = ()
) -> Finding:
    """A site that is to be edited."""
    return Finding(Status.CHANGED, site, node, reason, edits, frozenset(needs))


def migrated(site: str, node: cst.CSTNode, needs: Iterable[str] = ()) -> Finding:
    """A site that has its migration already."""
    return Finding(Status.MIGRATED, site, node, "already migrated", (), frozenset(needs))


def skipped(site: str, node: cst.CSTNode, reason: str) -> Finding:
    """A site that looks like one for the rule and is rightly left alone."""
    return Finding(Status.SKIPPED, site, node, reason)


def manual(site: str, node: cst.CSTNode, reason: str) -> Finding:
    """A site that the rule cannot decide; a person has to."""
    return Finding(Status.MANUAL, site, node, reason)


class WantedError(Exception):
    """A rule looks at what was left out when its file was parsed.

    Args:
        names: what it looks for; none for the whole module.
    """

    def __init__(self, names: Iterable[str] = ()) -> None:
        super().__init__("wanted")
        self.names = frozenset(names)


@dataclass
class File:
    """One parsed module of the tree, as rules see it."""

    path: str
    kept: cst.Module
    """The module without what no rule of this file looks for, or all of it."""
    kept_syntax: ast.Module
    """What Python's own parser makes of that."""
    kept_data: bytes
    """Its source."""
    tree: Tree
    syntax: ast.Module
    """What Python's own parser makes of the whole module."""
    data: bytes
    """The source of the whole module."""
    names: frozenset[str] | None = None
    """The names that `kept` has all of; None where it is the whole module."""
    left_out: bytes = b""
    """The source of what is not in `kept`."""
    needs: frozenset[str] = field(default_factory=frozenset)
    """What the findings of the other rules need here; only import rules look at it."""

    @property
    def module(self) -> cst.Module:
        """The whole module.

        Raises:
            WantedError: it was not parsed as a whole; the engine does that then, and asks again.
        """
        if self.names is not None:
            raise WantedError
        return self.kept

    def want(self, *qualified_names: str) -> None:
        """Make sure that whatever says some names is in `kept`.

        Raises:
            WantedError: it may not be; the engine parses that, too, and asks again.
        """
        if self.names is None:
            return
        lacking = {part for name in qualified_names for part in name.split(".")} - self.names
        words = "|".join(sorted(map(re.escape, lacking)))
        # What is special in a class is kept only where the class's name was wanted before.
        special = any(is_special(p) for name in qualified_names for p in name.split("."))
        if lacking and (special or re.search(rf"\b(?:{words})\b".encode(), self.left_out)):
            raise WantedError(lacking)

    def every_definition(self) -> Iterator[tuple[str, cst.FunctionDef | cst.ClassDef]]:
        """Every function and class with its qualified name, all of those that share one too."""
        return every_definition(self.kept)

    @cached_property
    def imports(self) -> Imports:
        """Names that the module's imports bind."""
        return Imports.of(self.kept)

    def function(self, qualified_name: str) -> cst.FunctionDef | None:
        """The function or method called `qualified_name` that is in force; None where none is.

        Raises:
            DoubtfulError: several are called so, and which one is in force is not certain. A rule
                lets it pass: the engine leaves the rule's sites in this file for a person.
        """
        self.want(qualified_name)
        found = definition(self.kept, qualified_name)
        return found if isinstance(found, cst.FunctionDef) else None

    def class_(self, qualified_name: str) -> cst.ClassDef | None:
        """The class called `qualified_name` that is in force; None where there is none.

        Raises:
            DoubtfulError: as for functions.
        """
        found = definition(self.module, qualified_name)
        return found if isinstance(found, cst.ClassDef) else None

    def head(self, class_name: str) -> cst.ClassDef | None:
        """A class as `class_` gives it, maybe without statements that no rule looks for.

        Raises:
            DoubtfulError: as for functions.
        """
        self.want(class_name)
        found = definition(self.kept, class_name)
        return found if isinstance(found, cst.ClassDef) else None

    def assignment(self, name: str) -> cst.SimpleStatementLine | None:
        """The statement that gives a name of the module its value; None where there is none.

        Raises:
            DoubtfulError: as for functions.
        """
        self.want(name)
        found = bound(self.kept, name)
        node = found.node if found is not None else None
        return node if isinstance(node, cst.SimpleStatementLine) else None

    def is_bound(self, qualified_name: str) -> bool:
        """Does anything give this name a value: a definition, an assignment or an import?"""
        self.want(qualified_name)
        try:
            return bound(self.kept, qualified_name) is not None
        except DoubtfulError:
            return True

    def other_module(self, name: str) -> tuple[ast.Module, bytes] | None:
        """Syntax tree and source of another module of the tree; None where it has none such."""
        place = name.replace(".", "/")
        for path in (f"{place}.py", f"{place}/__init__.py"):
            module, data = self.tree.parse(path), self.tree.read(path)
            if module is not None and data is not None:
                return module, data
        return None

    def code(self, node: cst.CSTNode) -> str:
        """Source text of a node."""
        return self.kept.code_for_node(node)


@dataclass(frozen=True)
class Recipe:
    """One site and what becomes of it: a declaration in the place of a rule's own `check`.

    Its subclasses in `migrator.codemod.recipes` are the shapes that recur.
    """

    name: str
    """Qualified name of the function or class in its module."""
    paths: tuple[str, ...]
    """Where the releases keep it; the first that exists in a tree counts."""
    _: KW_ONLY
    reason: str
    """Why the site is changed, for the log."""
    absent: tuple[Absence, ...] = ()
    called: str = ""
    """The site's name, where several functions are one site."""

    safety: ClassVar[Safety] = Safety.GUARDED
    promise: ClassVar[str]
    """The section *Safety* of a rule of this shape that says nothing else."""

    @property
    def site(self) -> Site:
        """The site, as a rule declares it."""
        return Site(self.called or self.name, self.paths, self.absent)

    @property
    def trigger(self) -> str:
        """A regular expression that a file with the site matches."""
        owner, dot, _ = self.name.partition(".")
        return rf"class {owner}\b" if dot else rf"def {owner}\b"

    @property
    def example(self) -> str:
        """The code that comes to the site; empty where it depends on the tree."""
        return ""

    def check(self, file: File) -> Iterator[Finding]:
        """Look for the site in one file."""
        raise NotImplementedError


class Rule:
    """Base of every rule.

    It states `recipes`, or a `check` of its own, which looks at one file and yields findings. That
    must find a site that was migrated before and report it so: a second run over an emitted tree
    changes nothing.
    """

    code: ClassVar[str]
    """Stable identifier such as `NPU101`."""
    safety: ClassVar[Safety]
    recipes: ClassVar[tuple[Recipe, ...]] = ()
    """Where they are stated, `safety`, `paths` and `triggers` follow from them unless these are
    stated as well. Their sites come behind those of `sites`."""
    paths: ClassVar[tuple[str, ...]] = ("vllm/**/*.py",)
    """Git wild-match patterns of the files that the rule looks at."""
    triggers: ClassVar[tuple[str, ...]] = ()
    """Regular expressions over a file's bytes; a file in which none matches is not parsed."""
    reads: ClassVar[tuple[str, ...]] = ()
    """Regular expressions over a statement's bytes: beside the triggers and the names of the sites,
    what stands in every statement of `File.kept` that the rule looks at."""
    sites: ClassVar[tuple[Site, ...]] = ()
    examples: ClassVar[Sequence[Example]] = cast("Sequence[Example]", _ExamplesBeside())
    """What the rule makes of small files; `examples/<module>.diff` beside it unless stated here."""
    templates: ClassVar[tuple[str, ...]] = ()
    """Files below `templates/` that the rule adds to the tree, fitted to it."""
    provides: ClassVar[str | None] = None
    """For an import rule: the need that it serves. It runs after the other rules of a file."""

    def __init_subclass__(cls) -> None:
        own, recipes = vars(cls), cls.recipes
        if not recipes:
            return
        sites = {site.name: site for site in cls.sites}
        for site in (recipe.site for recipe in recipes):
            same = sites.get(site.name, site)
            paths = tuple(dict.fromkeys((*same.paths, *site.paths)))
            sites[site.name] = replace(same, paths=paths)
        cls.sites = tuple(sites.values())
        if "safety" not in own:
            cls.safety = recipes[0].safety
        if "paths" not in own:
            cls.paths = tuple(dict.fromkeys(path for site in cls.sites for path in site.paths))
        if "triggers" not in own:
            cls.triggers = tuple(dict.fromkeys(recipe.trigger for recipe in recipes))

    def check(self, file: File) -> Iterator[Finding]:
        """Look for the rule's sites in one file; a rule that only adds files has none."""
        for recipe in self.recipes:
            if file.path in recipe.paths:
                yield from recipe.check(file)

    @property
    def name(self) -> str:
        """The rule's name: that of its module, with dashes."""
        return type(self).__module__.rpartition(".")[2].partition("_")[2].replace("_", "-")

    @property
    def summary(self) -> str:
        """First line of the docstring."""
        return self.doc.partition("\n")[0]

    @property
    def doc(self) -> str:
        """The docstring; the first recipe says the sections *Example* and *Safety* without one."""
        text = inspect.getdoc(type(self)) or ""
        for recipe in self.recipes[:1]:
            if recipe.example and not _section(text, "Example"):
                head, mark, safety = text.partition("## Safety\n")
                example = f"## Example\n```python\n{recipe.example.rstrip()}\n```"
                text = f"{head.rstrip()}\n\n{example}" + (f"\n\n{mark}{safety}" if mark else "")
            if not _section(text, "Safety"):
                text = f"{text.rstrip()}\n\n## Safety\n{recipe.promise}"
        return text

    def section(self, heading: str) -> str:
        """The text below `## heading` in `doc`; empty where there is no such heading."""
        return _section(self.doc, heading)

    def site(self, name: str) -> Site:
        """The declared site called `name`."""
        return next(site for site in self.sites if site.name == name)


def _section(text: str, heading: str) -> str:
    found = re.search(rf"^## {re.escape(heading)}\n(.*?)(?=^## |\Z)", text, re.M | re.S)
    return found.group(1).strip() if found else ""


def statements(code: str, module: cst.Module) -> Sequence[cst.BaseStatement]:
    """Parse source text at indentation zero into statements that take `module`'s conventions."""
    # The ends of lines inside of a string are text that LibCST would not change.
    code = code.replace("\n", module.default_newline)
    config = cst.PartialParserConfig(
        encoding=module.encoding, default_newline=module.default_newline
    )
    parsed = cst.parse_module(code, config=config)
    # A block without an indentation of its own takes the module's. Not one with a form feed: from
    # there Python counts columns anew, so it cannot be repeated.
    if "\f" in module.default_indent:
        parsed = parsed.visit(_KeepIndent(parsed.default_indent))
    first, *rest = parsed.body
    # Comments above the first statement are the parsed module's header, not the statement's.
    lines = [*parsed.header, *getattr(first, "leading_lines", ())]
    return [first.with_changes(leading_lines=lines), *rest]


class _KeepIndent(cst.CSTTransformer):
    """Writes into each block the indentation that it has by default."""

    def __init__(self, indent: str) -> None:
        super().__init__()
        self._indent = indent

    def leave_IndentedBlock(  # noqa: N802 - the name that LibCST looks for
        self, original_node: cst.IndentedBlock, updated_node: cst.IndentedBlock
    ) -> cst.IndentedBlock:
        indent = self._indent if original_node.indent is None else original_node.indent
        return updated_node.with_changes(indent=indent)
