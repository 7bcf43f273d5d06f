# SPDX-License-Identifier: Apache-2.0
"""Is the object before the dot a tensor? Receiver-aware matching, from evidence in the module.

`current_platform.is_cuda` and `tensor.is_cuda` read alike. What tells them apart is looked for in
this order: an import, a parameter's annotation, what the name is assigned from or iterates over,
the fields of the module's classes, and what else the same function does with the same expression.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import libcst as cst

from migrator.matchers import (
    Imports,
    Place,
    annotation_text,
    dotted,
    parameters,
    remembered,
    walk,
)

_TENSOR = re.compile(r"\b(?:Tensor|Parameter|FloatTensor|LongTensor|IntTensor)\b")

_ONLY_TENSORS = frozenset(
    "contiguous data_ptr device dim dtype element_size is_contiguous is_cpu is_sparse "
    "is_xpu ndim numel requires_grad shape stride storage_offset to unsqueeze "
    "untyped_storage view zero_".split()
)
"""Attributes of a tensor; an object that is asked for one of them beside `is_cuda` is a tensor."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """What is known about a receiver."""

    tensor: bool | None
    """True, False, or None where nothing tells."""
    why: str


UNKNOWN = Evidence(None, "nothing in the module tells whether it is a tensor")


def evidence(
    place: Place[cst.CSTNode], receiver: cst.BaseExpression, module: cst.Module, imports: Imports
) -> Evidence:
    """Judge the receiver of an attribute.

    Args:
        place: the attribute with its ancestors.
        receiver: the expression before its dot.
        module: the module around both.
        imports: what the module's imports bind.
    """
    return _Judge(_known(module), imports, [*place.functions, module]).judge(receiver, 0)


_Binding = tuple[cst.BaseExpression | None, cst.Annotation | None, bool]
"""Value, annotation, and whether the name iterates over the value."""


class _Scope:
    """What a function, a class or a module says of its names, found in one walk over it."""

    def __init__(self, node: cst.CSTNode, module: cst.Module) -> None:
        self.node = node
        self.module = module
        self.parameters: dict[str, str] = {}
        """Name → text of its annotation."""
        if isinstance(node, cst.FunctionDef):
            for parameter in reversed(parameters(node)):
                self.parameters[parameter.name.value] = annotation_text(parameter.annotation)

    @cached_property
    def bindings(self) -> Mapping[str, Sequence[_Binding]]:
        """Target → what it is bound to, in source order."""
        found: dict[str, list[_Binding]] = {}
        for target, value, annotation, iterates in _bindings(self.node):
            found.setdefault(target, []).append((value, annotation, iterates))
        return found

    @cached_property
    def used(self) -> Mapping[str, str]:
        """Dotted expression → the first attribute that only tensors have which it is asked for."""
        found: dict[str, str] = {}
        for attribute in self._attributes:
            name = dotted(attribute.value)
            if name is not None:
                found.setdefault(name, attribute.attr.value)
        return found

    @cached_property
    def used_items(self) -> Mapping[str, str]:
        """Text of a subscript → the same."""
        found: dict[str, str] = {}
        for attribute in self._attributes:
            if isinstance(attribute.value, cst.Subscript):
                text = self.module.code_for_node(attribute.value)
                found.setdefault(text, attribute.attr.value)
        return found

    @cached_property
    def _attributes(self) -> Sequence[cst.Attribute]:
        # What a module's functions do with names of their own says nothing of those of others.
        return [] if isinstance(self.node, cst.Module) else list(_tensor_attributes(self.node))

    @cached_property
    def checked(self) -> frozenset[str]:
        """Names of which it is asked whether they are tensors, by `isinstance`."""
        if not isinstance(self.node, cst.FunctionDef):
            return frozenset()
        return frozenset(
            dotted(node.args[0].value) or ""
            for node in walk(self.node)
            if isinstance(node, cst.Call)
            and dotted(node.func) == "isinstance"
            and len(node.args) == 2
            and _TENSOR.search(self.module.code_for_node(node.args[1].value))
        )


class _Module:
    """What is known of one module: many receivers are judged by the same scopes."""

    def __init__(self, module: cst.Module) -> None:
        self.module = module
        self.judged: dict[tuple[int, str, int], Evidence] = {}
        """Innermost scope, name and depth → evidence."""
        self._scopes: dict[int, _Scope] = {}

    def scope(self, node: cst.CSTNode) -> _Scope:
        """What a scope of the module says."""
        if id(node) not in self._scopes:
            self._scopes[id(node)] = _Scope(node, self.module)
        return self._scopes[id(node)]

    @cached_property
    def fields(self) -> Mapping[str, str]:
        """Name → annotation of the tensor fields of the module's classes, the first one's."""
        found: dict[str, str] = {}
        for statement in self.module.body:
            if isinstance(statement, cst.ClassDef):
                for target, _, annotation, _ in _bindings(statement):
                    text = annotation_text(annotation)
                    if _TENSOR.search(text):
                        found.setdefault(target.rpartition(".")[2], text)
        return found


@remembered(maxsize=1)
def _known(module: cst.Module) -> _Module:
    return _Module(module)


class _Judge:
    def __init__(self, known: _Module, imports: Imports, scopes: Sequence[cst.CSTNode]) -> None:
        self.known = known
        self.module = known.module
        self.imports = imports
        self.scopes = [known.scope(node) for node in scopes]

    def judge(self, node: cst.BaseExpression, depth: int) -> Evidence:
        """Evidence for one expression; `depth` bounds how many assignments are followed."""
        if depth > 4:
            return UNKNOWN
        if isinstance(node, cst.Name):
            return self._name(node.value, depth)
        if isinstance(node, cst.Attribute):
            return self._attribute(node)
        if isinstance(node, cst.Subscript):
            return self._subscript(node, depth)
        if isinstance(node, cst.Call):
            return self._call(node, depth)
        return UNKNOWN

    def _name(self, name: str, depth: int) -> Evidence:
        key = id(self.scopes[0].node), name, depth
        if key not in self.known.judged:
            self.known.judged[key] = self._judge_name(name, depth)
        return self.known.judged[key]

    def _judge_name(self, name: str, depth: int) -> Evidence:
        if name in ("self", "cls"):
            return Evidence(False, f"{name} is an object of this module's own class")
        for scope in self.scopes:
            text = scope.parameters.get(name, "")
            if _TENSOR.search(text):
                return Evidence(True, f"parameter {name}: {text}")
            found = self._bound(scope, name, depth)
            if found.tensor is not None:
                return found
            if name in scope.used:
                return Evidence(True, f"{name}.{scope.used[name]} is used beside it")
            if name in scope.checked:
                return Evidence(True, f"isinstance({name}, torch.Tensor) is asked beside it")
        if name in self.imports.module_level:
            return Evidence(False, f"{name} is imported: {self.imports.module_level[name]}")
        return UNKNOWN

    def _attribute(self, node: cst.Attribute) -> Evidence:
        name = dotted(node)
        if name is not None:
            first = name.partition(".")[0]
            local = any(first in scope.parameters for scope in self.scopes)
            if first in self.imports.module_level and not local:
                return Evidence(False, f"{first} is imported: {self.imports.module_level[first]}")
            for scope in self.scopes:
                if name in scope.used:
                    return Evidence(True, f"{name}.{scope.used[name]} is used beside it")
        field = self.known.fields.get(node.attr.value)
        if field is not None:
            return Evidence(True, f"field {node.attr.value}: {field}")
        if node.attr.value in ("data", "grad", "weight"):
            return Evidence(True, f"{node.attr.value} is a tensor of a parameter or layer")
        return UNKNOWN

    def _subscript(self, node: cst.Subscript, depth: int) -> Evidence:
        code = self.module.code_for_node(node)
        for scope in self.scopes:
            if code in scope.used_items:
                return Evidence(True, f"{code}.{scope.used_items[code]} is used beside it")
        inner = self.judge(node.value, depth + 1)
        if inner.tensor:
            return Evidence(True, f"an item of a collection: {inner.why}")
        return UNKNOWN

    def _call(self, node: cst.Call, depth: int) -> Evidence:
        called = self.imports.resolve(node.func) or ""
        if called.startswith("torch.") and not called.startswith(("torch.cuda", "torch.ops")):
            return Evidence(True, f"the result of {called}")
        if isinstance(node.func, cst.Attribute) and node.func.attr.value in _ONLY_TENSORS:
            return Evidence(True, f"the result of a tensor's {node.func.attr.value}")
        if called == "next" and node.args and isinstance(node.args[0].value, cst.Call):
            return self._items(node.args[0].value, depth)
        return UNKNOWN

    def _items(self, node: cst.BaseExpression, depth: int) -> Evidence:
        """Evidence for the items that iterating over an expression gives."""
        if isinstance(node, (cst.Tuple, cst.List, cst.Set)):
            for element in node.elements:
                found = self.judge(element.value, depth + 1)
                if found.tensor:
                    return Evidence(True, f"one of several tensors: {found.why}")
        if isinstance(node, cst.Call) and isinstance(node.func, cst.Attribute):
            if node.func.attr.value in ("parameters", "buffers", "named_parameters"):
                return Evidence(True, f"one of {self.module.code_for_node(node)}")
            if node.func.attr.value in ("values", "items"):
                return self.judge(node.func.value, depth + 1)
        if isinstance(node, cst.Name):
            return self.judge(node, depth + 1)
        return UNKNOWN

    def _bound(self, scope: _Scope, name: str, depth: int) -> Evidence:
        """Evidence from what the name is assigned or iterates over in a scope."""
        for value, annotation, iterates in scope.bindings.get(name, ()):
            if annotation is not None and _TENSOR.search(annotation_text(annotation)):
                return Evidence(True, f"{name}: {annotation_text(annotation)}")
            if value is None:
                continue
            found = self._items(value, depth) if iterates else self.judge(value, depth + 1)
            if found.tensor is not None:
                return found
        return UNKNOWN


def _tensor_attributes(scope: cst.CSTNode) -> Iterator[cst.Attribute]:
    """Attributes in a scope that only tensors have.

    `x.device.type` is none: the rewritten guard itself says that, and what one run has written
    must not tell the next run more than this one knew.
    """
    written: set[int] = set()
    for node in walk(scope):
        if not isinstance(node, cst.Attribute):
            continue
        if node.attr.value == "type":
            written.add(id(node.value))
        elif node.attr.value in _ONLY_TENSORS and id(node) not in written:
            yield node


def _bindings(
    scope: cst.CSTNode,
) -> Iterator[tuple[str, cst.BaseExpression | None, cst.Annotation | None, bool]]:
    """(target, value, annotation, whether it iterates) of the assignments and loops in a scope.

    A module's functions and classes are not entered: they are scopes of their own.
    """
    if isinstance(scope, cst.Module):
        nodes: Iterator[cst.CSTNode] = (
            node
            for statement in scope.body
            if isinstance(statement, cst.SimpleStatementLine)
            for node in walk(statement)
        )
    else:
        nodes = walk(scope)
    for node in nodes:
        if isinstance(node, cst.Assign):
            for target in node.targets:
                name = dotted(target.target)
                if name is not None:
                    yield name, node.value, None, False
        elif isinstance(node, cst.AnnAssign):
            name = dotted(node.target)
            if name is not None:
                yield name, node.value, node.annotation, False
        elif isinstance(node, cst.NamedExpr):
            name = dotted(node.target)
            if name is not None:
                yield name, node.value, None, False
        elif isinstance(node, (cst.For, cst.CompFor)):
            targets = (
                [element.value for element in node.target.elements]
                if isinstance(node.target, cst.Tuple)
                else [node.target]
            )
            for part in targets:
                name = dotted(part)
                if name is not None:
                    yield name, node.iter, None, True
