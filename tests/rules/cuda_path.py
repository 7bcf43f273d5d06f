# SPDX-License-Identifier: Apache-2.0
"""What an emitted module says where the device is CUDA, by partial evaluation of its syntax tree.

Every condition that asks for an NPU becomes False, the platform's names become CUDA's, and code
that can then not be reached goes. What is left has to be the module as it was: the same calls with
the same arguments in the same order, in every function. It is a proof over all functions and all
releases, where running each of them would need a GPU.
"""

from __future__ import annotations

import ast
from collections.abc import Sequence
from difflib import SequenceMatcher

_ADDED_MODULES = (
    "vllm.accelerator",
    "vllm.distributed.device_communicators.npu_communicator",
    "vllm.model_executor.layers.quantization.npu_modelslim",
    "vllm.platforms.npu_nnal",
    "vllm.v1.worker.npu_kernels",
)
_ADDED_VARIABLES = {
    "ASCEND_",
    "ASCEND_RT_VISIBLE_DEVICES",
    "HCCL_",
    "LCCL_",
    "PYTORCH_NPU_",
    "TASK_QUEUE_ENABLE",
}
"""Environment variables of CANN and torch_npu, or how they begin: where the device is CUDA nobody
sets one, so a set of names to look for is the same with them and without."""
_ADDED_STRINGS = {"npu", "ASCEND", "CANN", "HCCL", "ascend"}
_PLATFORM_ON_CUDA = {"dist_backend": "nccl", "device_type": "cuda"}


def on_cuda(before: bytes, after: bytes) -> tuple[str, str]:
    """A module on CUDA before the migration and after it, each in one spelling.

    Statements that are the same in both, of the module and of its classes, are left out, each run
    of them for a `pass`: whatever becomes of them on CUDA is the same, too.
    """
    old, new = ast.parse(before), ast.parse(after)
    kept, hook = _definitions(old), _hook(new)
    _leave_out_what_is_the_same(old.body, new.body, before.splitlines(), after.splitlines())
    return (
        ast.unparse(_OnCuda(None, None).visit(old)),
        ast.unparse(_OnCuda(kept, hook).visit(new)),
    )


def _leave_out_what_is_the_same(
    old: list[ast.stmt], new: list[ast.stmt], old_lines: list[bytes], new_lines: list[bytes]
) -> None:
    matcher = SequenceMatcher(
        None,
        [_text(node, old_lines) for node in old],
        [_text(node, new_lines) for node in new],
        autojunk=False,
    )
    left: tuple[list[ast.stmt], list[ast.stmt]] = [], []
    for tag, start, end, new_start, new_end in matcher.get_opcodes():
        same = tag == "equal"
        left[0].extend([ast.Pass()] if same else old[start:end])
        left[1].extend([ast.Pass()] if same else new[new_start:new_end])
    old[:], new[:] = left
    classes = {node.name: node for node in old if isinstance(node, ast.ClassDef)}
    for node in new:
        if isinstance(node, ast.ClassDef) and (was := classes.pop(node.name, None)):
            _leave_out_what_is_the_same(was.body, node.body, old_lines, new_lines)


def _text(node: ast.stmt, lines: list[bytes]) -> tuple[bytes, ...]:
    """The lines that a statement is on, from its first decorator."""
    first = min([node.lineno, *(d.lineno for d in getattr(node, "decorator_list", ()))])
    return tuple(lines[first - 1 : node.end_lineno])


def _definitions(module: ast.Module) -> set[str]:
    """Qualified names of what a module and its classes define or annotate."""
    found: set[str] = set()

    def visit(body: Sequence[ast.stmt], prefix: str) -> None:
        for node in body:
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                found.add(prefix + node.name)
                visit(node.body, f"{prefix}{node.name}.")
            elif isinstance(node, ast.AnnAssign):
                found.add(prefix + ast.unparse(node.target))
            else:
                for part in (node, *getattr(node, "handlers", ()), *getattr(node, "cases", ())):
                    for block in ("body", "orelse", "finalbody"):
                        visit(getattr(part, block, ()), prefix)

    visit(module.body, "")
    return found


def _hook(module: ast.Module) -> ast.expr | None:
    """What the added method `Worker._make_model_runner` returns."""
    for node in ast.walk(module):
        if isinstance(node, ast.FunctionDef) and node.name == "_make_model_runner":
            last = node.body[-1]
            if isinstance(last, ast.Return):
                return last.value
    return None


def _dotted(node: ast.AST) -> str | None:
    """The name `a.b.c`, and quicker than `ast.unparse`; None for any other expression."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        before = _dotted(node.value)
        return before and f"{before}.{node.attr}"
    return None


def _is_name(node: ast.AST, name: str) -> bool:
    return _dotted(node) == name


def _constant(node: ast.AST, value: object) -> bool:
    return isinstance(node, ast.Constant) and node.value is value


class _OnCuda(ast.NodeTransformer):
    def __init__(self, kept: set[str] | None, hook: ast.expr | None) -> None:
        self.kept = kept
        self.hook = hook
        self.scope: list[str] = []
        self.depth = 0
        """How many functions are around the node."""

    # Statements

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST | None:
        qualified = ".".join([*self.scope, node.name])
        if self.kept is not None and self.depth == 0 and qualified not in self.kept:
            return None
        self.scope.append(node.name)
        self.depth += 1
        self.generic_visit(node)
        self.depth -= 1
        self.scope.pop()
        self._fill_default(node)
        self._give_no_options(node)
        return node

    @staticmethod
    def _give_no_options(node: ast.FunctionDef) -> None:
        """`f(**options)` is `f()` where `options` is bound once, to nothing, and not used else."""
        for statement in [*node.body]:
            if not isinstance(statement, ast.AnnAssign) or not isinstance(
                statement.value, ast.Dict
            ):
                continue
            name = _dotted(statement.target)
            given = [
                (call, keyword)
                for call in ast.walk(node)
                if isinstance(call, ast.Call)
                for keyword in call.keywords
                if keyword.arg is None and _dotted(keyword.value) == name
            ]
            used = sum(isinstance(n, ast.Name) and n.id == name for n in ast.walk(node))
            if not statement.value.keys and used == 1 + len(given):
                node.body.remove(statement)
                for call, keyword in given:
                    call.keywords.remove(keyword)

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.AST:
        self.scope.append(node.name)
        self.generic_visit(node)
        self.scope.pop()
        return node

    def _fill_default(self, node: ast.FunctionDef) -> None:
        """`backend=None` that is filled with "nccl" first is the default "nccl"."""
        arguments = [*node.args.posonlyargs, *node.args.args]
        for argument, default in zip(
            arguments[len(arguments) - len(node.args.defaults) :], node.args.defaults, strict=True
        ):
            if argument.arg != "backend":
                continue
            argument.annotation = None
            index = node.args.defaults.index(default)
            for statement in node.body[:2]:
                if (
                    _constant(default, None)
                    and isinstance(statement, ast.If)
                    and ast.unparse(statement) == "if backend is None:\n    backend = 'nccl'"
                ):
                    node.body.remove(statement)
                    node.args.defaults[index] = ast.Constant("nccl")
                    break

    def visit_If(self, node: ast.If) -> ast.AST | list[ast.stmt] | None:
        self.generic_visit(node)
        if _constant(node.test, False):
            return node.orelse or None
        if _constant(node.test, True):
            return node.body
        return node if node.body else None

    def visit_Try(self, node: ast.Try) -> ast.AST | None:
        if len(node.body) == 1 and ast.unparse(node.body[0]) == "import torch_npu":
            return None
        self.generic_visit(node)
        return node

    def visit_ImportFrom(self, node: ast.ImportFrom) -> ast.AST | None:
        if node.module in _ADDED_MODULES or (node.level and node.module == "npu_modelslim"):
            return None
        node.names = [n for n in node.names if n.name not in ("current_platform", "GPUModelRunner")]
        return node if node.names else None

    def visit_With(self, node: ast.With) -> ast.AST | list[ast.stmt]:
        self.generic_visit(node)
        called = node.items[0].context_expr
        if isinstance(called, ast.Call) and _is_name(called.func, "replay_context"):
            # Of `accelerator.py`, which gives CUDA a context that does nothing.
            return node.body
        return node

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AST | None:
        name = ".".join([*self.scope, ast.unparse(node.target)])
        added = self.kept is not None and name not in self.kept
        if added and ("VLLM_NPU" in name or name == "Platform.dist_backend"):
            return None
        self.generic_visit(node)
        return node

    def visit_Assign(self, node: ast.Assign) -> ast.AST | None:
        name = _dotted(node.targets[0])
        if self.kept is not None and name is not None and name.startswith("_npu_"):
            return None
        self.generic_visit(node)
        if (
            self.kept is not None
            and isinstance(node.value, ast.Set)
            and ast.unparse(node.value) == f"{{*({name} or ())}}"
        ):
            return None  # a copy of a set of which nothing is asked but what it holds
        return node

    def visit_Set(self, node: ast.Set) -> ast.AST:
        node.elts = [e for e in node.elts if not self._selects_nothing(e)]
        self.generic_visit(node)
        return node

    @staticmethod
    def _selects_nothing(node: ast.expr) -> bool:
        """Is it a variable of CANN's, or `*(name for name in os.environ if it is one)`?"""
        if isinstance(node, ast.Constant):
            return node.value in _ADDED_VARIABLES
        found = node.value if isinstance(node, ast.Starred) else None
        if not isinstance(found, ast.GeneratorExp) or len(found.generators) != 1:
            return False
        (loop,) = found.generators
        test = loop.ifs[0] if len(loop.ifs) == 1 else None
        return (
            ast.unparse(loop.iter) == "os.environ"
            and isinstance(test, ast.Call)
            and ast.unparse(test.func) == f"{ast.unparse(found.elt)}.startswith"
            and isinstance(test.args[0], ast.Tuple)
            and bool(test.args[0].elts)
            and all(
                isinstance(e, ast.Constant) and e.value in _ADDED_VARIABLES
                for e in test.args[0].elts
            )
        )

    def visit_AugAssign(self, node: ast.AugAssign) -> ast.AST | None:
        if _is_name(node.target, "environment_variables") and "VLLM_NPU" in ast.unparse(node.value):
            return None
        self.generic_visit(node)
        return node

    # Expressions

    def visit_Compare(self, node: ast.Compare) -> ast.AST:
        self.generic_visit(node)
        right = node.comparators[0]
        if isinstance(right, ast.Constant) and right.value == "npu":
            return ast.Constant(isinstance(node.ops[0], ast.NotEq))
        if isinstance(node.ops[0], ast.In) and ast.unparse(right) == "('cuda',)":
            return ast.Compare(node.left, [ast.Eq()], [ast.Constant("cuda")])
        return node

    def visit_UnaryOp(self, node: ast.UnaryOp) -> ast.AST:
        self.generic_visit(node)
        inner = node.operand
        if isinstance(node.op, ast.Not):
            if isinstance(inner, ast.Constant):
                return ast.Constant(not inner.value)
            if isinstance(inner, ast.Compare) and len(inner.ops) == 1:
                turned = {ast.Eq: ast.NotEq(), ast.NotEq: ast.Eq()}.get(type(inner.ops[0]))
                if turned is not None:
                    return ast.Compare(inner.left, [turned], inner.comparators)
        return node

    def visit_BoolOp(self, node: ast.BoolOp) -> ast.AST:
        self.generic_visit(node)
        asked = "hasattr(self, 'experts_cls')"
        if ast.unparse(node) == f"{asked} and self.experts_cls is not None":
            # They differ where the attribute is None, and there the old code went on to fail.
            return ast.parse(asked, mode="eval").body
        ends = isinstance(node.op, ast.Or)
        values = [v for v in node.values if not _constant(v, not ends)]
        if any(_constant(v, ends) for v in values):
            return ast.Constant(ends)
        if len(values) <= 1:
            return values[0] if values else ast.Constant(not ends)
        return ast.BoolOp(node.op, values)

    def visit_Attribute(self, node: ast.Attribute) -> ast.AST:
        self.generic_visit(node)
        if _is_name(node.value, "current_platform") and node.attr in _PLATFORM_ON_CUDA:
            return ast.Constant(_PLATFORM_ON_CUDA[node.attr])
        if node.attr == "is_cuda" and isinstance(node.ctx, ast.Load):
            device = ast.Attribute(ast.Attribute(node.value, "device"), "type")
            return ast.Compare(device, [ast.Eq()], [ast.Constant("cuda")])
        return node

    def visit_Call(self, node: ast.Call) -> ast.AST:
        called = _dotted(node.func)
        if called == "device_module":
            return ast.parse("torch.cuda", mode="eval").body
        if called == "device_graph":
            return ast.parse("torch.cuda.CUDAGraph()", mode="eval").body
        if called in ("_is_npu", "current_platform.is_out_of_tree") or (
            called == "hasattr" and ast.unparse(node) == "hasattr(torch, 'npu')"
        ):
            return ast.Constant(False)
        if called == "self._make_model_runner" and self.hook is not None and self._hook_is_new():
            inlined: ast.expr = self.visit(self.hook)
            return inlined
        if isinstance(node.func, ast.Attribute) and node.func.attr == "is_cuda":
            return node
        self.generic_visit(node)
        return node

    def _hook_is_new(self) -> bool:
        return self.kept is not None and "Worker._make_model_runner" not in self.kept

    def visit_Tuple(self, node: ast.Tuple) -> ast.AST:
        self.generic_visit(node)
        kept = [
            e
            for e in node.elts
            if not _is_name(e, "NPUCommunicator")
            and not (isinstance(e, ast.Constant) and e.value in _ADDED_STRINGS)
        ]
        if len(kept) == 1 and len(node.elts) == 2 and _is_name(node.elts[1], "NPUCommunicator"):
            return kept[0]
        node.elts = kept
        return node

    def visit_Dict(self, node: ast.Dict) -> ast.AST:
        self.generic_visit(node)
        pairs = [
            (k, v)
            for k, v in zip(node.keys, node.values, strict=True)
            if not (isinstance(v, ast.Name) and v.id in ("npu_platform_plugin", "AscendConfig"))
        ]
        node.keys, node.values = [k for k, _ in pairs], [v for _, v in pairs]
        return node

    def visit_JoinedStr(self, node: ast.JoinedStr) -> ast.AST:
        self.generic_visit(node)
        parts: list[ast.expr] = []
        for value in node.values:
            if isinstance(value, ast.FormattedValue) and isinstance(value.value, ast.Constant):
                value = ast.Constant(str(value.value.value))
            previous = parts[-1] if parts else None
            if isinstance(value, ast.Constant) and isinstance(previous, ast.Constant):
                parts[-1] = ast.Constant(str(previous.value) + str(value.value))
            else:
                parts.append(value)
        if len(parts) == 1 and isinstance(parts[0], ast.Constant):
            return parts[0]
        return ast.JoinedStr(parts)
