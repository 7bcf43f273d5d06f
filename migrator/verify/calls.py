# SPDX-License-Identifier: Apache-2.0
"""The calls and names of torch_npu in a tree, bound to what a wheel offers (V201, V202)."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from migrator.verify import operators, schema
from migrator.verify.api import ROOTS, Absent, Exists, Function, NpuApi, Operator, Untold
from migrator.verify.modules import Module, is_none
from migrator.verify.report import Finding, Note
from migrator.verify.scopes import Scope, dotted
from migrator.verify.signature import Bound, Problem, bind

TRIGGERS = (b"torch_npu", b"torch.npu", b"ops.npu", b"ops.atb", b"import npu")
"""A file that has none of these cannot reach torch_npu by a path that source shows."""


def npu_path(scope: Scope, node: ast.expr, depth: int = 0) -> str | None:
    """The dotted path in torch_npu or torch.npu/ops that an expression means, None if none.

    Follows imports and names that are only ever assigned such a path (or None, the stand-in for a
    failed import).
    """
    chain = dotted(node)
    if chain is None or depth > 5:
        return None
    base, attributes = chain
    found = scope.lookup(base.id)
    if found is None:
        return None
    owner, bindings = found
    targets: set[str | None] = set()
    for binding in bindings:
        if is_none(binding.value) or binding.kind == "declare":
            continue
        if binding.target is not None:
            targets.add(binding.target)
        elif binding.kind == "assign" and binding.value is not None:
            targets.add(npu_path(owner, binding.value, depth + 1))
        else:
            targets.add(None)
    if len(targets) != 1:
        return None
    (target,) = targets
    if target is None or target.partition(".")[0] not in ("torch", "torch_npu"):
        return None
    path = ".".join([target, *attributes])
    if depth or path in ("torch", "torch.ops"):
        return path
    inside = any(path == root or path.startswith(root + ".") for root in ROOTS)
    return path if inside else None


class CallChecker:
    """Checks one module after another against one wheel."""

    def __init__(self, api: NpuApi) -> None:
        self.api = api
        self.findings: list[Finding] = []
        self.notes: list[Note] = []
        self.calls = 0

    def check(self, module: Module) -> None:
        """Check every call and name of torch_npu in `module`."""
        probed = set(_probed_names(module.tree))
        for node in ast.walk(module.tree):
            if isinstance(node, ast.Attribute | ast.Name):
                self._reference(module, node, probed)
            elif isinstance(node, ast.ImportFrom):
                self._import(module, node, probed)
            elif isinstance(node, ast.Call):
                self._literal_getattr(module, node)

    def _reference(self, module: Module, node: ast.Attribute | ast.Name, probed: set[str]) -> None:
        scopes = module.scopes
        parent = scopes.parents.get(node)
        if isinstance(parent, ast.Attribute) or not isinstance(node.ctx, ast.Load):
            return
        scope = scopes.scope_of.get(node)
        if scope is None:
            return
        path = npu_path(scope, node)
        if path is None or path in ("torch", "torch.ops"):
            return
        if isinstance(node, ast.Name) and "." not in path:
            return
        answer = self.api.answer(path)
        call = parent if isinstance(parent, ast.Call) and parent.func is node else None
        if isinstance(answer, Absent):
            guarded = node in scopes.guarded_attributes or path.rpartition(".")[2] in probed
            if guarded:
                self._note(module, node, f"`{path}` is not in this torch_npu; its use is guarded")
            else:
                self._absent(module, node, answer)
        elif call is not None:
            self._call(module, call, path, answer)
        elif isinstance(answer, Untold):
            self._note(module, node, f"`{path}`: the wheel's Python code does not tell")

    def _call(
        self,
        module: Module,
        call: ast.Call,
        path: str,
        answer: Operator | Function | Exists | Untold,
    ) -> None:
        self.calls += 1
        if isinstance(answer, Operator):
            nearest, bound = schema.bind_overloads(answer.schemas, call)
            self._problems(module, call, path, bound, nearest.text)
            self._values(module, path, nearest, bound)
        elif isinstance(answer, Function):
            attempts = [bind(signature, call) for signature in answer.signatures]
            bound = min(attempts, key=lambda b: len(b.problems))
            self._problems(module, call, path, bound, answer.expected)
        elif isinstance(answer, Exists):
            self._note(module, call, f"`{path}` exists; the wheel gives no signature of it")
        else:
            self._note(module, call, f"`{path}`: the wheel's Python code does not tell")

    def _problems(
        self, module: Module, call: ast.Call, path: str, bound: Bound, expected: str
    ) -> None:
        for problem in bound.problems:
            place = problem.node if _inside(problem, call) else call
            self._finding(module, place, "V202", f"`{path}`: {problem.message}", expected)

    def _values(self, module: Module, path: str, called: schema.Schema, bound: Bound) -> None:
        """Literals that the table of operators says no device takes."""
        namespace = called.namespace or ("atb" if path.startswith("torch.ops.atb") else "npu")
        name = f"{namespace}::{called.name}" + (f".{called.overload}" if called.overload else "")
        for parameter, node in bound.arguments:
            try:
                value = ast.literal_eval(node)
            except ValueError:
                continue  # only a run can tell
            wanted = operators.problem(name, parameter.name, value)
            if wanted is not None:
                self._finding(
                    module,
                    node,
                    "V202",
                    f"`{path}`: argument `{parameter.name}` is {value!r} but the device takes "
                    f"{wanted}",
                    f"{called.text}\n{operators.source(name)}",
                )

    def _import(self, module: Module, node: ast.ImportFrom, probed: set[str]) -> None:
        if node.level or node.module is None:
            return
        for alias in node.names:
            path = f"{node.module}.{alias.name}"
            if alias.name == "*" or not any(path.startswith(root + ".") for root in ROOTS):
                continue
            answer = self.api.answer(path)
            if isinstance(answer, Absent) and alias.name not in probed:
                self._absent(module, node, answer)

    def _literal_getattr(self, module: Module, node: ast.Call) -> None:
        if (
            isinstance(node.func, ast.Name)
            and node.func.id == "getattr"
            and len(node.args) == 2
            and isinstance(node.args[1], ast.Constant)
            and isinstance(node.args[1].value, str)
        ):
            scope = module.scopes.scope_of.get(node)
            path = npu_path(scope, node.args[0]) if scope is not None else None
            if path is not None and path not in ("torch", "torch.ops"):
                answer = self.api.answer(f"{path}.{node.args[1].value}")
                if isinstance(answer, Absent):
                    self._absent(module, node, answer)

    def _absent(self, module: Module, node: ast.AST, answer: Absent) -> None:
        near = [self.api.answer(f"{answer.owner}.{n}") for n in answer.near]
        texts = [a.expected for a in near if isinstance(a, Operator | Function)]
        hint = ""
        if answer.near:
            hint = "; nearest: " + ", ".join(f"`{n}`" for n in answer.near)
        what = "operator" if answer.path.startswith("torch.ops.") else "name"
        self._finding(
            module,
            node,
            "V201",
            f"`{answer.path}`: torch_npu {self.api.contents.version} has no such {what}{hint}",
            "\n".join(texts) or None,
        )

    def _finding(
        self, module: Module, node: ast.AST, code: str, message: str, expected: str | None
    ) -> None:
        line = getattr(node, "lineno", 1)
        column = getattr(node, "col_offset", 0) + 1
        self.findings.append(Finding(module.path, line, column, code, message, expected))

    def _note(self, module: Module, node: ast.AST, message: str) -> None:
        self.notes.append(Note(module.path, getattr(node, "lineno", 1), message))


def _inside(problem: Problem, call: ast.Call) -> bool:
    return hasattr(problem.node, "lineno") and problem.node is not call


def _probed_names(tree: ast.Module) -> Iterator[str]:
    """Names that the module asks for with `hasattr` or `getattr` with a default."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            wanted = {"hasattr": 2, "getattr": 3}.get(node.func.id)
            if wanted is not None and len(node.args) == wanted:
                name = node.args[1]
                if isinstance(name, ast.Constant) and isinstance(name.value, str):
                    yield name.value
