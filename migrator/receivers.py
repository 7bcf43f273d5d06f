# SPDX-License-Identifier: Apache-2.0
"""Is the object before the dot a tensor? Receiver-aware matching, from evidence in the module.

`current_platform.is_cuda` and `tensor.is_cuda` read alike. What tells them apart is looked for in
this order: an import, a parameter's annotation, what the name is assigned from or iterates over,
the fields of the module's classes, and what else the same function does with the same expression.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import libcst as cst

from migrator.matchers import (
    Imports,
    Place,
    annotation_text,
    dotted,
    parameters,
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
    place: Place, receiver: cst.BaseExpression, module: cst.Module, imports: Imports
) -> Evidence:
    """Judge the receiver of an attribute.

    Args:
        place: the attribute with its ancestors.
        receiver: the expression before its dot.
        module: the module around both.
        imports: what the module's imports bind.
    """
    return _Judge(module, imports, [*place.functions, module]).judge(receiver, 0)


class _Judge:
    def __init__(self, module: cst.Module, imports: Imports, scopes: Sequence[cst.CSTNode]) -> None:
        self.module = module
        self.imports = imports
        self.scopes = scopes

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
        if name in ("self", "cls"):
            return Evidence(False, f"{name} is an object of this module's own class")
        for scope in self.scopes:
            if isinstance(scope, cst.FunctionDef):
                for parameter in parameters(scope):
                    if parameter.name.value == name:
                        text = annotation_text(parameter.annotation)
                        if _TENSOR.search(text):
                            return Evidence(True, f"parameter {name}: {text}")
            found = self._bound(scope, name, depth)
            if found.tensor is not None:
                return found
            used = self._used(scope, name)
            if used is not None:
                return Evidence(True, f"{name}.{used} is used beside it")
            if isinstance(scope, cst.FunctionDef) and self._checked(scope, name):
                return Evidence(True, f"isinstance({name}, torch.Tensor) is asked beside it")
        if name in self.imports.module_level:
            return Evidence(False, f"{name} is imported: {self.imports.module_level[name]}")
        return UNKNOWN

    def _attribute(self, node: cst.Attribute) -> Evidence:
        name = dotted(node)
        if name is not None:
            first = name.partition(".")[0]
            local = any(
                first == p.name.value
                for s in self.scopes
                if isinstance(s, cst.FunctionDef)
                for p in parameters(s)
            )
            if first in self.imports.module_level and not local:
                return Evidence(False, f"{first} is imported: {self.imports.module_level[first]}")
            for scope in self.scopes:
                used = self._used(scope, name)
                if used is not None:
                    return Evidence(True, f"{name}.{used} is used beside it")
        field = self._field(node.attr.value)
        if field is not None:
            return Evidence(True, f"field {node.attr.value}: {field}")
        if node.attr.value in ("data", "grad", "weight"):
            return Evidence(True, f"{node.attr.value} is a tensor of a parameter or layer")
        return UNKNOWN

    def _subscript(self, node: cst.Subscript, depth: int) -> Evidence:
        code = self.module.code_for_node(node)
        for scope in self.scopes:
            if isinstance(scope, cst.Module):
                continue
            for attribute in _tensor_attributes(scope):
                if (
                    isinstance(attribute.value, cst.Subscript)
                    and self.module.code_for_node(attribute.value) == code
                ):
                    return Evidence(True, f"{code}.{attribute.attr.value} is used beside it")
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

    def _bound(self, scope: cst.CSTNode, name: str, depth: int) -> Evidence:
        """Evidence from what the name is assigned or iterates over in a scope."""
        for target, value, annotation, iterates in _bindings(scope):
            if target != name:
                continue
            if annotation is not None and _TENSOR.search(annotation_text(annotation)):
                return Evidence(True, f"{name}: {annotation_text(annotation)}")
            if value is None:
                continue
            found = self._items(value, depth) if iterates else self.judge(value, depth + 1)
            if found.tensor is not None:
                return found
        return UNKNOWN

    def _used(self, scope: cst.CSTNode, name: str) -> str | None:
        """A tensor's attribute that the scope asks the expression `name` for."""
        if isinstance(scope, cst.Module):
            return None
        for attribute in _tensor_attributes(scope):
            if dotted(attribute.value) == name:
                return attribute.attr.value
        return None

    def _checked(self, scope: cst.FunctionDef, name: str) -> bool:
        return any(
            isinstance(node, cst.Call)
            and dotted(node.func) == "isinstance"
            and len(node.args) == 2
            and dotted(node.args[0].value) == name
            and _TENSOR.search(self.module.code_for_node(node.args[1].value)) is not None
            for node in walk(scope)
        )

    def _field(self, name: str) -> str | None:
        """Annotation of a tensor field of that name in one of the module's classes."""
        for statement in self.module.body:
            if not isinstance(statement, cst.ClassDef):
                continue
            for target, _, annotation, _ in _bindings(statement):
                text = annotation_text(annotation)
                if target.rpartition(".")[2] == name and _TENSOR.search(text):
                    return text
        return None


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


_Binding = tuple[str, cst.BaseExpression | None, cst.Annotation | None, bool]


def _bindings(scope: cst.CSTNode) -> Iterator[_Binding]:
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
