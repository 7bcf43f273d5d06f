# SPDX-License-Identifier: Apache-2.0
"""Whether the changed files compile, silently, on every Python of the release (V301 to V303)."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
import warnings

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
    if oldest is not None and oldest < sys.version_info[:2]:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                ast.parse(file.source, file.path, feature_version=oldest)
        except SyntaxError as error:
            if file.introduced(error.lineno or 1):
                version = ".".join(map(str, oldest))
                message = f"{error.msg}: the release runs on Python {version} too"
                findings.append(
                    Finding(file.path, error.lineno or 1, error.offset or 1, "V303", message)
                )
    return findings


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
