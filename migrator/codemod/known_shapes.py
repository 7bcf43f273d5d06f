# SPDX-License-Identifier: Apache-2.0
"""Which sites of a tree are written as in no known release, so that nobody has checked them there.

Of every declared site, `known_shapes.json` has a hash of each form that its definition has in the
known releases; `scripts/known_shapes.py` writes it. A form is what Python's parser makes of the
definition, without comments, layout and documentation.
"""

from __future__ import annotations

import ast
import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from migrator.codemod.candidates import Anchor, anchor, anchor_among, named_nodes
from migrator.codemod.rule import Rule, Site
from migrator.files.tree import Tree

FILE = Path(__file__).with_name("known_shapes.json")
DIGITS = 8
"""Digits of a hash that are kept: of a few hundred forms no two are taken for each other."""
_UNSAID = frozenset({"type_comment", "type_params", "kind", "ctx", "type_ignores"})
"""Fields that say nothing here, or that only some versions of Python have."""


@dataclass(frozen=True, slots=True)
class UncheckedSite:
    """A site that a rule changed, and that is written as in no known release."""

    rule: str
    site: str
    path: str
    line: int
    """Where its definition begins."""


def shape(node: ast.AST) -> str:
    """A short hash of a definition, the same for every version of Python and every layout."""
    parts: list[str] = []
    _describe(node, parts)
    text = "\0".join(parts)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:DIGITS]


def _describe(node: ast.AST, parts: list[str]) -> None:
    parts.append(type(node).__name__)
    for name in node._fields:
        if name in _UNSAID:
            continue
        value = getattr(node, name, None)
        if value is None or value == []:
            continue
        parts.append(name)
        for item in value if isinstance(value, list) else [value]:
            if not isinstance(item, ast.AST):
                parts.append(repr(item))
            elif not _is_documentation(item):
                _describe(item, parts)
        parts.append(")")


def _is_documentation(node: ast.AST) -> bool:
    return (
        isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    )


def key(rule: Rule, site: Site) -> str:
    """What a site is called in the file of known shapes."""
    return f"{rule.code} {site.name}"


def definition(tree: Tree, site: Site) -> Anchor | None:
    """The definition that a site stands on in a tree; None where it has none."""
    path = next((path for path in site.paths if tree.exists(path)), None)
    return anchor(tree, path, site.name) if path is not None else None


@cache
def known_shapes() -> Mapping[str, frozenset[str]]:
    """Site → the shapes that it has in the known releases."""
    found = json.loads(FILE.read_text(encoding="utf-8"))
    return {name: frozenset(shapes) for name, shapes in found.items()}


def unchecked(
    module: ast.Module, path: str, rules: Iterable[Rule], changed: Iterable[tuple[str, str]]
) -> tuple[UncheckedSite, ...]:
    """The sites that nobody has checked as this module has them, by rule and site.

    Args:
        module: what Python's parser makes of it.
        path: where it is in its tree.
        rules: the rules that ran.
        changed: code and site of what they change in it.
    """
    wanted = declared(rules, changed)
    nodes = named_nodes(module) if wanted else {}
    found = []
    for rule, site in wanted:
        if path not in site.paths:
            # Another definition of that name, in another of the files that the rule looks at.
            continue
        place = anchor_among(nodes, path, site.name)
        # Of a rule that is not in the file yet nothing is known, and nothing said.
        shapes = known_shapes().get(key(rule, site))
        if place is not None and shapes is not None and shape(place.node) not in shapes:
            found.append(UncheckedSite(rule.code, site.name, path, place.node.lineno))
    return tuple(found)


def declared(rules: Iterable[Rule], changed: Iterable[tuple[str, str]]) -> list[tuple[Rule, Site]]:
    """Those of the sites changed, by code and name, that the rules declare."""
    names = set(changed)
    return [
        (rule, site) for rule in rules for site in rule.sites if (rule.code, site.name) in names
    ]
