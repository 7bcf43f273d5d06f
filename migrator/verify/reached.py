# SPDX-License-Identifier: Apache-2.0
"""Whether vLLM comes to the modules that the migration adds (V108).

A module that is added and never imported is as good as left out, and no import of it fails. So
each has to be named, in an import or in a string with a dotted path, by a module of vLLM that the
migration touched, or by an added one that is named in this way itself.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator

from migrator.files.tree import module_name
from migrator.verify.report import Finding
from migrator.verify.tree import LOG, ChangedFile, Tree


def check(tree: Tree) -> Iterator[Finding]:
    """Report the added modules that nothing leads to; without a log nobody knows which they are."""
    if tree.read(LOG) is None:
        return
    added: dict[str, ChangedFile] = {}
    coming: list[ChangedFile] = []
    for file in tree.changed:
        name = module_name(file.path)
        if not file.added:
            coming.append(file)
        elif tree.package.owns(name):
            added[name] = file
    while coming and added:
        named = set(_named(coming.pop()))
        coming += [added.pop(name) for name in named & {*added}]
    for name, file in added.items():
        message = f"nothing that the migration changed in the package leads to `{name}`"
        yield Finding(file.path, 1, 1, "V108", message)


def _named(file: ChangedFile) -> Iterator[str]:
    """Modules that a file may import, by statements and by strings with a dotted path."""
    if file.module is None:
        return
    for use in file.module.scopes.imports:
        yield use.module
        if use.name is not None:
            yield f"{use.module}.{use.name}"
    strings = _strings(file.module.tree)
    for text in strings:
        parts = text.split(".")
        yield from (".".join(parts[:end]) for end in range(2, len(parts) + 1))


def _strings(tree: ast.Module) -> Iterator[str]:
    """Strings of a module; of an f-string what is left when names are bound to strings."""
    constants = {
        node.targets[0].id: node.value.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Assign)
        and isinstance(node.targets[0], ast.Name)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value
        elif isinstance(node, ast.JoinedStr):
            yield "".join(_piece(value, constants) for value in node.values)


def _piece(node: ast.expr, constants: dict[str, str]) -> str:
    if isinstance(node, ast.Constant):
        return str(node.value)
    if isinstance(node, ast.FormattedValue) and isinstance(node.value, ast.Name):
        return constants.get(node.value.id, "")
    return ""
