# SPDX-License-Identifier: Apache-2.0
"""Whether the changed files compile, silently, on every Python of the release (V301 to V303)."""

from __future__ import annotations

import ast
import re
import tomllib
import warnings
from collections.abc import Iterator

import msgspec
from packaging.specifiers import InvalidSpecifier, SpecifierSet

from migrator.verify.report import Finding
from migrator.verify.tree import ChangedFile, Tree


def check(tree: Tree) -> list[Finding]:
    """Compile every changed file in memory; warnings count on lines that the migration wrote."""
    oldest = oldest_python(tree)
    findings: list[Finding] = []
    for file in tree.changed:
        findings.extend(_check(file, oldest))
    return findings


def _check(file: ChangedFile, oldest: tuple[int, int] | None) -> list[Finding]:
    findings: list[Finding] = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            compile(file.source, file.path, "exec", dont_inherit=True)
        except SyntaxError as error:
            line, column = error.lineno or 1, error.offset or 1
            return [Finding(file.path, line, column, "V301", f"does not compile: {error.msg}")]
        except (ValueError, RecursionError, MemoryError) as error:
            return [Finding(file.path, 1, 1, "V301", f"does not compile: {error}")]
    for warning in caught:
        if file.introduced(warning.lineno):
            text = f"{warning.category.__name__}: {warning.message}"
            findings.append(Finding(file.path, warning.lineno, 1, "V302", text))
    if oldest is not None and file.module is not None:
        seen: dict[str, list[Finding]] = {}
        for node, needed, what in _newer_syntax(file.module.tree):
            line, end = getattr(node, "lineno", 1), getattr(node, "end_lineno", None)
            if needed > oldest and file.introduced(line, end):
                shown = [".".join(map(str, v)) for v in (needed, oldest)]
                message = f"{what} needs Python {shown[0]}; the release runs on {shown[1]} too"
                column = getattr(node, "col_offset", 0) + 1
                seen.setdefault(what, []).append(Finding(file.path, line, column, "V303", message))
        for same in seen.values():  # one a file: where there is one there are many
            first, *others = sorted(same)
            more = f", and in {len(others)} more places" if others else ""
            findings.append(msgspec.structs.replace(first, message=first.message + more))
    return findings


def _newer_syntax(tree: ast.Module) -> Iterator[tuple[ast.AST, tuple[int, int], str]]:
    """Syntax with the Python that brought it: what an older one refuses to compile or import."""
    lazy = any(
        isinstance(s, ast.ImportFrom)
        and s.module == "__future__"
        and s.names[0].name == "annotations"
        for s in tree.body
    )
    for node in ast.walk(tree):
        if isinstance(node, ast.Match):
            yield node, (3, 10), "`match`"
        elif isinstance(node, ast.TryStar):
            yield node, (3, 11), "`except*`"
        elif getattr(node, "type_params", None) or type(node).__name__ == "TypeAlias":
            yield node, (3, 12), "a type parameter"
        elif not lazy:
            for annotation in _evaluated_annotations(node):
                if any(
                    isinstance(n, ast.BinOp) and isinstance(n.op, ast.BitOr)
                    for n in ast.walk(annotation)
                ):
                    yield annotation, (3, 10), "`X | Y` as a type"


def _evaluated_annotations(node: ast.AST) -> list[ast.expr]:
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        spec = node.args
        every = [*spec.posonlyargs, *spec.args, *spec.kwonlyargs, spec.vararg, spec.kwarg]
        found = [a.annotation for a in every if a is not None and a.annotation is not None]
        return [*found, node.returns] if node.returns is not None else found
    if isinstance(node, ast.Module | ast.ClassDef):
        return [s.annotation for s in node.body if isinstance(s, ast.AnnAssign)]
    return []


def oldest_python(tree: Tree) -> tuple[int, int] | None:
    """The oldest Python that the tree's pyproject.toml (or setup.py) lets it be installed on."""
    text: str | None = None
    content = tree.read("pyproject.toml")
    if content is not None:
        try:
            project = tomllib.loads(content.decode("utf-8", "replace")).get("project", {})
        except tomllib.TOMLDecodeError:
            project = {}
        text = project.get("requires-python")
    if text is None:
        setup = tree.read("setup.py") or b""
        match = re.search(rb"python_requires\s*=\s*[\"']([^\"']+)[\"']", setup)
        text = match.group(1).decode() if match else None
    if text is None:
        return None
    try:
        specifiers = SpecifierSet(text)
    except InvalidSpecifier:
        return None
    for minor in range(7, 40):
        if specifiers.contains(f"3.{minor}.99", prereleases=True):
            return (3, minor)
    return None
