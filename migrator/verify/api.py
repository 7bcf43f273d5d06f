# SPDX-License-Identifier: Apache-2.0
"""What a dotted path such as `torch_npu.npu_rms_norm` or `torch.npu.Event` means in a wheel."""

from __future__ import annotations

import ast
import zipfile
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

from migrator.verify import schema
from migrator.verify.modules import Definition, External, Missing, Module, Value
from migrator.verify.package import Package
from migrator.verify.package_files import ZipFiles
from migrator.verify.signature import Signature, nearest
from migrator.verify.wheel import Contents

ROOTS = ("torch_npu", "torch.npu", "torch.ops.npu", "torch.ops.atb")
"""The dotted paths that a torch_npu wheel answers for."""

_PACKET_ATTRIBUTES = frozenset({"overloads", "op", "_schemas", "_qualified_op_name"})


@dataclass(frozen=True, slots=True)
class Operator:
    """An operator of torch.ops; `schemas` are its overloads, or the one overload named."""

    path: str
    schemas: tuple[schema.Schema, ...]

    @property
    def expected(self) -> str:
        """The schemas, one a line."""
        return "\n".join(s.text for s in self.schemas)


@dataclass(frozen=True, slots=True)
class Function:
    """A Python function or class of the package with the signatures that a call may bind to."""

    path: str
    signatures: tuple[Signature, ...]

    @property
    def expected(self) -> str:
        """The signatures, one a line."""
        return "\n".join(s.text for s in self.signatures)


@dataclass(frozen=True, slots=True)
class Exists:
    """The name is there, but nothing in the wheel tells what a call of it takes."""

    path: str


@dataclass(frozen=True, slots=True)
class Absent:
    """The name is not in the wheel; `near` are names in `owner` that may have been meant."""

    path: str
    owner: str
    near: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Untold:
    """The wheel's source does not tell whether the name is there."""

    path: str


Answer = Operator | Function | Exists | Absent | Untold


class NpuApi:
    """The names of one torch_npu wheel."""

    def __init__(self, contents: Contents, archive: zipfile.ZipFile) -> None:
        self.contents = contents
        self.package = Package(ZipFiles(archive), frozenset({"torch_npu"}))
        self.operators: dict[str, dict[str, list[schema.Schema]]] = {}
        for namespace, texts in contents.operators.items():
            by_name: dict[str, list[schema.Schema]] = defaultdict(list)
            for text in texts:
                parsed = schema.parse(text)
                by_name[parsed.name].append(parsed)
            self.operators[namespace] = dict(by_name)
        self.exposed = frozenset(contents.exposed)
        self.exposed_atb = frozenset(contents.exposed_atb)
        self._answers: dict[str, Answer] = {}
        root = self.package.module("torch_npu")
        if root is not None:
            # It writes the operators to its globals(); those are known from the schemas.
            root.scopes.dynamic = False

    @classmethod
    def open(cls, path: Path, contents: Contents) -> NpuApi:
        """The names of the wheel at `path`; the file stays open for reading."""
        return cls(contents, zipfile.ZipFile(path))

    def answer(self, path: str) -> Answer:
        """What `path`, one that starts with a name in `ROOTS`, means."""
        if path not in self._answers:
            self._answers[path] = self._answer(path)
        return self._answers[path]

    def _answer(self, path: str) -> Answer:
        parts = path.split(".")
        if parts[:2] == ["torch", "ops"]:
            if len(parts) <= 3:
                return Exists(path)
            return self._operator(path, parts[2], parts[3], parts[4:])
        if parts[:2] == ["torch", "npu"]:
            parts = ["torch_npu", "npu", *parts[2:]]
        if len(parts) == 1 or (parts[1:] == ["atb"] and self.exposed_atb):
            return Exists(path)
        if parts[:2] == ["torch_npu", "atb"] and len(parts) > 2 and self.exposed_atb:
            if parts[2] in self.exposed_atb:
                return self._operator(path, "atb", parts[2], parts[3:])
            return Absent(path, "torch_npu.atb", tuple(nearest(parts[2], sorted(self.exposed_atb))))
        if parts[0] == "torch_npu" and parts[1] in self.exposed:
            namespace = "atb" if parts[1] in self.operators.get("atb", {}) else "npu"
            if parts[1] in self.operators.get("npu", {}):
                namespace = "npu"
            return self._operator(path, namespace, parts[1], parts[2:])
        return self._python(path, parts)

    def _operator(self, path: str, namespace: str, name: str, rest: list[str]) -> Answer:
        known = self.operators.get(namespace, {})
        schemas = known.get(name)
        if schemas is None:
            # An x86_64 library does not hold every schema as text; the Python side names them all.
            listed = self.exposed if namespace == "npu" else self.exposed | self.exposed_atb
            if name in listed and (namespace == "npu" or name not in self.operators.get("npu", {})):
                return Exists(path)
            near = nearest(name, sorted({*known, *listed}))
            return Absent(path, f"torch.ops.{namespace}", tuple(near))
        if not rest:
            return Operator(path, tuple(schemas))
        overload = "" if rest[0] == "default" else rest[0]
        chosen = tuple(s for s in schemas if s.overload == overload)
        if chosen:
            return Operator(path, chosen) if len(rest) == 1 else Exists(path)
        if rest[0].startswith("__") or rest[0] in _PACKET_ATTRIBUTES:
            return Exists(path)
        owner = path.rsplit(".", len(rest))[0]
        return Absent(path, owner, tuple(s.overload or "default" for s in schemas))

    def _python(self, path: str, parts: list[str]) -> Answer:
        owner = ".".join(parts[:-1])
        if parts[-1] in self.contents.patched.get(owner, ()):
            return Exists(path)
        if parts[0] == "torch_npu" and parts[1] == "_C":
            return self._bound_in_c(path, parts[2:])
        if parts[0] == "torch_npu" and parts[1] in self.contents.lazy:
            target = ".".join([self.contents.lazy[parts[1]], *parts[2:]])
            return self._python(path, target.split("."))
        if len(parts) == 2 and parts[1] in self.contents.dtypes:
            return Exists(path)
        resolved = self.package.resolve(".".join(parts))
        if isinstance(resolved, Module):
            return Exists(path)
        if isinstance(resolved, Definition):
            found = self.package.signatures(resolved)
            if found is None:
                return Exists(path)
            in_class = isinstance(resolved.node, ast.FunctionDef) and self._is_method(parts)
            if in_class:
                return Exists(path)
            return Function(path, tuple(found))
        if isinstance(resolved, External | Value):
            return Exists(path)
        if isinstance(resolved, Missing):
            if resolved.where and resolved.name != parts[-1]:
                inner = path.rsplit(".", 1)[0]
                return self.answer(inner) if inner not in ROOTS else Untold(path)
            module = self.package.module(resolved.where)
            if module is not None and module.exported and resolved.name in module.exported:
                return Exists(path)  # set from C++
            if not resolved.where:
                return Untold(path)
            names = [*resolved.known, *self.contents.patched.get(resolved.where, ())]
            if resolved.where == "torch_npu":
                names.extend([*self.contents.exposed, *self.contents.lazy, *self.contents.dtypes])
            near = nearest(resolved.name, sorted(set(names)))
            return Absent(path, resolved.where, tuple(near))
        # Bound by an import from the C extension, say: there, but its source is not.
        holder = self.package.resolve(".".join(parts[:-1]))
        if isinstance(holder, Module) and parts[-1] in holder.bindings:
            return Exists(path)
        return Untold(path)

    def _bound_in_c(self, path: str, rest: list[str]) -> Answer:
        if not rest:
            return Exists(path)
        name = rest[0]
        if not name.startswith("_") or name.startswith("__"):
            return Untold(path)
        if name in self.contents.private:
            return Exists(path) if len(rest) == 1 else Untold(path)
        return Absent(path, "torch_npu._C", tuple(nearest(name, self.contents.private)))

    def _is_method(self, parts: list[str]) -> bool:
        holder = self.package.resolve(".".join(parts[:-1]))
        return isinstance(holder, Definition)
