# SPDX-License-Identifier: Apache-2.0
"""Is the object before the dot a tensor? Receiver-aware matching, from evidence in the module.

`current_platform.is_cuda`, `placement.is_cuda` and `tensor.is_cuda` read alike. Everything that may
be bound to the receiver where it is read is looked at: annotations, results of calls, fields of the
module's classes, questions by `isinstance`. A tensor is what every one of them says to be one.
Evidence against counts as much: another class, or one way on which it may be something else.
"""

from __future__ import annotations

import ast
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

from migrator.codemod.bindings import ITEM, Bindings, Scope
from migrator.codemod.expression_types import STEPS, Modules, Types
from migrator.codemod.flow import Flow
from migrator.codemod.kinds import UNKNOWN, Type, parts_of
from migrator.codemod.syntax import in_order, lines_of
from migrator.codemod.tensor_api import ONLY_TENSORS, TAKE_TENSORS


@dataclass(frozen=True, slots=True)
class Evidence:
    """What is known about a receiver."""

    tensor: bool | None
    """True, False, or None where a person has to look."""
    why: str


def receivers(
    module: ast.Module, data: bytes, attribute: str, modules: Modules
) -> list[tuple[ast.Attribute, Evidence]]:
    """Each place of a module that asks an object for an attribute without calling it.

    Args:
        module: Python's syntax tree of it.
        data: its source.
        attribute: the attribute; the places come in the order of the source.
        modules: other modules, for the results of functions that are imported.

    Returns:
        The places, each with what is known of the object.
    """
    lines = lines_of(rf"\b{attribute}\b".encode(), data)
    asked = lines_of(rf"\b{attribute}\b(?!\()".encode(), data)
    places: list[ast.Attribute] = []
    called: set[int] = set()
    for statement in module.body:
        if _holds(statement, asked):
            for node in in_order(statement):
                if isinstance(node, ast.Call):
                    called.add(id(node.func))
                elif isinstance(node, ast.Attribute) and node.attr == attribute:
                    places.append(node)
    places = [node for node in places if id(node) not in called]
    if not places:
        return []
    flow = Flow(module, data)
    flow.enter(asked)
    judge = _Judge(flow, attribute, lines, modules)
    return [(node, judge.evidence(node)) for node in places]


def _holds(node: ast.stmt, lines: Sequence[int]) -> bool:
    """Do some of the lines lie in a statement?"""
    first = min([node.lineno, *(d.lineno for d in getattr(node, "decorator_list", ()))])
    at = bisect_left(lines, first)
    return at < len(lines) and lines[at] <= (node.end_lineno or node.lineno)


class _Judge(Types):
    """Judges the receivers of an attribute.

    Args:
        flow: the module's names.
        attribute: the attribute that receivers are asked for.
        lines: where it is named.
        modules: other modules.
    """

    def __init__(self, flow: Flow, attribute: str, lines: Sequence[int], modules: Modules) -> None:
        super().__init__(flow, attribute, modules)
        self._lines = lines
        self._used: dict[int, dict[tuple[str, Bindings], str]] = {}
        """Outermost function → what is used in it as a tensor."""

    def evidence(self, place: ast.Attribute) -> Evidence:
        """Judge the receiver of an attribute."""
        self.steps = 0
        found = self.type_of(place.value)
        kinds = {part.kind: part for part in parts_of(found) if part.kind != "plain"}
        if not kinds:
            return Evidence(None, UNKNOWN.why)
        if self.steps > STEPS:
            return Evidence(None, "too much would have to be looked at to tell whether it is one")
        if kinds.keys() == {"tensor"}:
            return Evidence(True, kinds["tensor"].why)
        if kinds.keys() <= {"own", "class", "imported"}:
            parts = [part for part in parts_of(found) if part.kind in ("imported", "class")]
            own = [part for part in parts_of(found) if part.kind == "own"]
            if all(self._answers(part.node) for part in own):
                return Evidence(False, [*own, *parts][0].why)
        if kinds.keys() <= {"tensor", "unknown"}:
            why = self._asked_as_tensor(place.value)
            if why is not None:
                return Evidence(True, why)
        against = [kinds[kind] for kind in kinds if kind not in ("tensor", "unknown")]
        if against and against[0].kind in ("layer", "items", "tuple", "map"):
            what = "a torch module" if against[0].kind == "layer" else "a collection"
            against = [Type(against[0].kind, f"it is {what}, not one tensor")]
        doubt = [kinds["unknown"]] if "unknown" in kinds else []
        if "tensor" in kinds and (against or doubt):
            other = [*against, *doubt][0].why
            other = other if against else "another value reaches it of which nothing tells"
            return Evidence(None, f"it may be a tensor ({kinds['tensor'].why}), but {other}")
        return Evidence(None, [*against, *doubt][0].why or UNKNOWN.why)

    def _answers(self, class_: ast.ClassDef | None) -> bool:
        """Does one of the module's classes for certain not inherit from a tensor?"""
        return (
            class_ is None
            or not any(part.kind in ("tensor", "unknown") for part in self.bases(class_))
            or self.binds(class_, self.attribute)
        )

    @cached_property
    def _rivals(self) -> bool:
        """Has the module a class of its own that answers to the attribute?"""
        return any(
            self.binds(node, self.attribute)
            for statement in self.flow.module.body
            if _holds(statement, self._lines)
            for node in ast.walk(statement)
            if isinstance(node, ast.ClassDef)
        )

    def _used_in(self, scope: Scope) -> dict[tuple[str, Bindings], str]:
        """Expression and its bindings → what says that it is a tensor: it is used as one."""
        while scope.outer is not None and not isinstance(scope.outer.node, ast.Module):
            if isinstance(scope.outer.node, ast.ClassDef):
                break
            scope = scope.outer
        found = self._used.get(id(scope))
        if found is not None:
            return found
        found = self._used[id(scope)] = {}
        # What a module's functions do with names of their own says nothing of those of others.
        inside = () if isinstance(scope.node, ast.Module) else ast.walk(scope.node)
        for call in inside:
            if not isinstance(call, ast.Call):
                continue
            func = call.func
            if isinstance(func, ast.Attribute) and func.attr in ONLY_TENSORS:
                self._use(func.value, f"{ast.unparse(func.value)}.{func.attr}() is called", found)
            name, certain = self.flow.qualified(func)
            taker = name in TAKE_TENSORS and certain
            if isinstance(func, ast.Attribute) and func.attr == "copy_":
                taker = self.type_of(func.value).kind == "tensor"
            if taker and call.args:
                self._use(call.args[0], f"{ast.unparse(func)} takes tensors only", found)
        return found

    def _use(
        self, node: ast.expr, why: str, found: dict[tuple[str, Bindings], str], depth: int = 0
    ) -> None:
        for key in self._keys(node):
            found.setdefault(key, why)
        if isinstance(node, ast.Name) and depth < 3:
            for binding in self.flow.bindings(node):
                # `for t in (q, k): t.stride()` says it of both.
                if binding.steps == (ITEM,) and isinstance(binding.node, ast.Tuple | ast.List):
                    for element in binding.node.elts:
                        self._use(element, why, found, depth + 1)

    def _keys(self, node: ast.expr) -> Iterator[tuple[str, Bindings]]:
        """What identifies the object that an expression stands for, where that can be said."""
        base: ast.AST = node
        while isinstance(base, ast.Attribute | ast.Subscript):
            if isinstance(base, ast.Subscript) and not isinstance(base.slice, ast.Constant):
                return
            base = base.value
        if isinstance(base, ast.Name):
            bindings = self.flow.bindings(base)
            if bindings:
                yield ast.unparse(node), bindings

    def _asked_as_tensor(self, node: ast.expr) -> str | None:
        if self._rivals:
            return None
        base: ast.AST = node
        while isinstance(base, ast.Attribute | ast.Subscript):
            base = base.value
        used = self._used_in(self.flow.scope_of(base))
        for text, bindings in self._keys(node):
            # What is said of all the values that reach a later use is said of each of them.
            for (other, reaching), why in used.items():
                if other == text and bindings <= reaching:
                    return why
        return None
