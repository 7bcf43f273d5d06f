# SPDX-License-Identifier: Apache-2.0
"""What belongs to one accelerator in a module's source, and what the module refers to.

One walk over the syntax tree of a module finds both: the accelerator-specific sites, each with the
condition that keeps an NPU from it, and the names by which the module reaches other code.
"""

from __future__ import annotations

import ast
import enum
import re
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from migrator.codemod.flow import Flow
from migrator.codemod.syntax import dotted
from migrator.coverage.conditions import asks_device, ends, evaluate, settled
from migrator.files.tree import module_name

MODULE = "<module>"
ANNOTATION = "an annotation: nothing is called"


class Kind(enum.Enum):
    """A kind of accelerator-specific source."""

    TORCH_CUDA = "torch.cuda"
    IS_CUDA = "tensor.is_cuda"
    DEVICE_LITERAL = 'device="cuda"'
    CUDA_CALL = ".cuda()"
    DEVICE_TYPE = 'device.type == "cuda"'
    NCCL = "nccl"
    CUSTOM_OP = "torch.ops._C"
    PLATFORM_BRANCH = "is_cuda()"
    TRITON_KERNEL = "Triton kernel"
    TRITON_LAUNCH = "Triton launch"
    CUDA_IMPORT = "CUDA-only import"


PACKAGES = frozenset(
    "aiter amdsmi apex bitsandbytes cuda cudf cupy cutlass deep_ep deep_gemm fbgemm_gpu flash_attn "
    "flash_attn_interface flash_mla flashinfer gluon_kernels mori nvidia nvtx pplx_kernels pynvml "
    "quack rmm sageattention tilelang triton_kernels xformers".split()
)
"""Packages that exist for CUDA or ROCm devices only."""
_EXTENSION = re.compile(
    r"vllm\.(?:_\w*C(?:_\w+)*|cumem_allocator|vllm_flash_attn|third_party\.(?:pynvml|deep_gemm|"
    r"flashmla|triton_kernels))(?:\.|$)"
)
"""vLLM's own compiled modules and the CUDA packages that it brings along."""
NAMESPACE = re.compile(r"torch\.ops\.(_\w*C(?:_\w+)*)(?:\.|$)")
"""Operators that vLLM compiles for CUDA: `torch.ops._C.rms_norm`, `torch.ops._moe_C.…`."""
OPERATORS = "torch.ops.vllm."
"""Where the operators are that vLLM registers from Python functions."""
_NCCL = re.compile(r"(?:^|.*:)nccl(?:,.*)?$")
_NCCL_NAME = re.compile(r"(?:^|[._])(?:py)?nccl|NCCL|Nccl")
"""No `SyncClient`, which has these letters too."""
_DEVICE_WORDS = frozenset({"device", "device_type", "device_types", "map_location"})
_DEVICE_TAKERS = frozenset({"device", "to", "Generator", "autocast", "get_device_module"})
_BY_NAME = frozenset({"getattr", "hasattr", "collective_rpc", "execute_method", "run_method"})
_IMPORTERS = frozenset({"import_module", "resolve_obj_by_qualname", "__import__"})


_OTHER_NAMES = re.compile(
    rb"\btorch(?:\.cuda)?\s+as\b|\bfrom\s+torch(?:\.cuda)?\s+import\b|=\s*torch(?:\.cuda)?\s*$"
    rb"|\bgetattr\(\s*torch\b|['\"]torch(?:\.cuda)?['\"]",
    re.MULTILINE,
)
"""Where a module may give another name to `torch`, `torch.cuda` or a part of it."""


@dataclass(frozen=True, slots=True)
class Site:
    """One accelerator-specific place in a module."""

    kind: Kind
    line: int
    end_line: int
    function: str
    """Qualified name of the function or class around it; `<module>` for none."""
    unit: str
    """The module's function or method that it is a part of; what is nested belongs to that."""
    source: str
    """Its source, normalised."""
    guard: str | None
    """What keeps an NPU from it; None where nothing does."""
    size: int = 0
    """Lines of a Triton kernel."""


@dataclass(slots=True)
class Unit:
    """A function or method, or what a module runs when it is imported."""

    refs: set[str] = field(default_factory=set)
    """Names and chains of names that an NPU's path through it refers to."""
    attrs: set[str] = field(default_factory=set)
    """Attributes of any object."""
    own: set[str] = field(default_factory=set)
    """Attributes of `self` or `cls`."""
    supers: set[str] = field(default_factory=set)
    """Attributes of `super()`."""
    imports: set[str] = field(default_factory=set)
    """Modules, or what may be modules, that it imports."""
    binds: dict[str, str] = field(default_factory=dict)
    """Local name → qualified name, by its imports."""
    strings: set[str] = field(default_factory=set)
    """Qualified names that it holds as strings."""
    guard: str | None = None
    """Why an NPU never defines it."""


@dataclass(slots=True)
class Facts:
    """What one module holds."""

    path: str
    sites: list[Site] = field(default_factory=list)
    units: dict[str, Unit] = field(default_factory=dict)
    classes: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """Qualified name of a class → its bases as they are written."""
    operators: dict[str, str] = field(default_factory=dict)
    """Name of each operator that it registers as `torch.ops.vllm.…` → the function behind it."""
    kernels: set[str] = field(default_factory=set)
    """Names of its Triton kernels."""
    failure: str | None = None

    @property
    def module(self) -> str:
        """The module's qualified name."""
        return module_name(self.path)


def read(path: str, data: bytes) -> Facts:
    """The facts of a module; one that does not parse has none but its failure."""
    facts = Facts(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tree = ast.parse(data)
        flow = None
        if _OTHER_NAMES.search(data):
            flow = Flow(tree, data)
            flow.enter(range(1, data.count(b"\n") + data.count(b"\r") + 2))
        _Reader(facts, flow).read(tree)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        facts = Facts(path, failure=str(error) or type(error).__name__)
    return facts


class _Reader:
    """Walks over one module."""

    def __init__(self, facts: Facts, flow: Flow | None) -> None:
        self.facts = facts
        self.flow = flow
        """What names stand for, where the module may have other names for `torch.cuda`."""
        self.unit = facts.units.setdefault(MODULE, Unit())
        self.unit_name = MODULE
        self.scope: list[str] = []
        """Names of the classes and functions around."""
        self.inside = False
        """Are we inside of a function?"""
        self.known: dict[str, bool] = {}
        self.quiet = False
        """Are we where names are no references: annotations, bases, `isinstance`?"""
        parts = facts.module.split(".")
        self.package = parts if facts.path.endswith("/__init__.py") else parts[:-1]

    def read(self, tree: ast.Module) -> None:
        self.block(tree.body, None)

    # -- statements ----------------------------------------------------------------------------

    def block(self, body: Sequence[ast.stmt], guard: str | None, *, trying: bool = False) -> None:
        """Statements one after the other; what an NPU never comes to is guarded."""
        for position, statement in enumerate(body):
            package = self.fails(statement) if trying and guard is None else None
            caught = f"the import of {package} fails on an NPU, and that is caught"
            self.statement(statement, guard if package is None else caught)
            if guard is None and position + 1 < len(body):
                guard = self.cut_off(statement)
                if package is not None:
                    guard = f"after the import of {package} in a `try`"

    def cut_off(self, statement: ast.stmt) -> str | None:
        """Why an NPU does not come past a statement."""
        if isinstance(statement, ast.If):
            value = evaluate(statement.test, self.known)
            if (value is True and ends(statement.body)) or (
                value is False and ends(statement.orelse)
            ):
                return f"after `if {_short(statement.test)}` in line {statement.lineno}"
        elif isinstance(statement, ast.Assert) and evaluate(statement.test, self.known) is False:
            return f"after `assert {_short(statement.test)}` in line {statement.lineno}"
        return None

    def fails(self, statement: ast.stmt) -> str | None:
        """The package that a statement imports and an NPU has not."""
        if isinstance(statement, ast.Import | ast.ImportFrom):
            return self.cuda_package(statement)
        return None

    def statement(self, node: ast.stmt, guard: str | None) -> None:
        match node:
            case ast.FunctionDef() | ast.AsyncFunctionDef():
                self.function(node, guard)
            case ast.ClassDef():
                self.class_(node, guard)
            case ast.If() | ast.While():
                self.expression(node.test, guard)
                value = evaluate(node.test, self.known)
                why = f"below `if {_short(node.test)}` in line {node.test.lineno}"
                self.block(node.body, guard or (why if value is False else None))
                if node.orelse:
                    not_why = f"else of `if {_short(node.test)}` in line {node.test.lineno}"
                    self.block(node.orelse, guard or (not_why if value is True else None))
            case ast.For() | ast.AsyncFor():
                self.expression(node.target, guard)
                self.expression(node.iter, guard)
                self.block(node.body, guard)
                self.block(node.orelse, guard)
            case ast.Try() | ast.TryStar():
                caught = _catches_import_error(node.handlers)
                self.block(node.body, guard, trying=caught)
                for handler in node.handlers:
                    if handler.type is not None:
                        self.expression(handler.type, guard)
                    self.block(handler.body, guard)
                self.block(node.orelse, guard or self.failed_try(node, caught=caught))
                self.block(node.finalbody, guard)
            case ast.With() | ast.AsyncWith():
                for item in node.items:
                    self.expression(item.context_expr, guard)
                    if item.optional_vars is not None:
                        self.expression(item.optional_vars, guard)
                self.block(node.body, guard, trying=_suppresses(node.items))
            case ast.Import() | ast.ImportFrom():
                self.import_(node, guard)
            case ast.Assign() | ast.AnnAssign() | ast.AugAssign():
                self.assignment(node, guard)
            case ast.Expr(value=ast.Constant()):
                pass
            case _:
                for child in ast.iter_child_nodes(node):
                    if isinstance(child, ast.stmt):
                        self.statement(child, guard)
                    elif isinstance(child, ast.expr):
                        self.expression(child, guard)
                    elif isinstance(child, ast.match_case):
                        for part in ast.walk(child.pattern):
                            if isinstance(part, ast.MatchValue):
                                self.expression(part.value, guard)
                        if child.guard is not None:
                            self.expression(child.guard, guard)
                        self.block(child.body, guard)

    def failed_try(self, node: ast.Try | ast.TryStar, *, caught: bool) -> str | None:
        """Why the `else` of a `try` is not run on an NPU."""
        if not caught:
            return None
        package = next((name for part in node.body if (name := self.fails(part))), None)
        return None if package is None else f"after the import of {package} in a `try`"

    def function(self, node: ast.FunctionDef | ast.AsyncFunctionDef, guard: str | None) -> None:
        for decorator in node.decorator_list:
            self.expression(decorator, guard)
        spec = node.args
        for default in (*spec.defaults, *spec.kw_defaults):
            if default is not None:
                self.expression(default, guard)
        outer = self.unit, self.unit_name, self.known, self.inside
        self.scope.append(node.name)
        if not self.inside:
            self.unit_name = ".".join(self.scope)
            earlier = self.facts.units.get(self.unit_name)
            if earlier is None or earlier.guard is not None:
                self.facts.units[self.unit_name] = Unit(guard=guard)
            self.unit = self.facts.units[self.unit_name]
        self.known = dict(self.known)
        self.inside = True
        if self.is_kernel(node):
            self.facts.kernels.add(node.name)
            size = (node.end_lineno or node.lineno) - node.lineno + 1
            self.found(Kind.TRITON_KERNEL, node, f"def {node.name}", guard, size=size)
        positional = [*spec.posonlyargs, *spec.args]
        for parameter, default in (
            *zip(reversed(positional), reversed(spec.defaults), strict=False),
            *zip(spec.kwonlyargs, spec.kw_defaults, strict=True),
        ):
            if default is not None and "device" in parameter.arg and _is_cuda_name(default):
                self.found(Kind.DEVICE_LITERAL, default, f'{parameter.arg}="cuda"', guard)
        for each in (*positional, *spec.kwonlyargs, spec.vararg, spec.kwarg):
            if each is not None and each.annotation is not None:
                self.annotation(each.annotation, guard)
        if node.returns is not None:
            self.annotation(node.returns, guard)
        self.block(node.body, guard)
        self.scope.pop()
        self.unit, self.unit_name, self.known, self.inside = outer

    def is_kernel(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
        """Is this function compiled by Triton? `jit` alone may be another compiler's."""
        for decorator in node.decorator_list:
            called = dotted(decorator.func if isinstance(decorator, ast.Call) else decorator)
            if called == "jit":
                called = self.facts.units[MODULE].binds.get("jit")
            if called in ("triton.jit", "gluon.jit", "tl.jit"):
                return True
        return False

    def class_(self, node: ast.ClassDef, guard: str | None) -> None:
        for decorator in node.decorator_list:
            self.expression(decorator, guard)
        self.scope.append(node.name)
        if not self.inside:
            bases = [dotted(_without_index(base)) for base in node.bases]
            self.facts.classes.setdefault(
                ".".join(self.scope), tuple(base for base in bases if base is not None)
            )
        quiet, self.quiet = self.quiet, True
        for base in (*node.bases, *(keyword.value for keyword in node.keywords)):
            self.expression(base, guard)
        self.quiet = quiet
        outer = self.known
        self.known = {**outer, **settled(node, outer)}
        self.block(node.body, guard)
        self.known = outer
        self.scope.pop()

    def annotation(self, node: ast.expr, guard: str | None) -> None:
        quiet, self.quiet = self.quiet, True
        self.expression(node, guard or ANNOTATION)
        self.quiet = quiet

    def assignment(
        self, node: ast.Assign | ast.AnnAssign | ast.AugAssign, guard: str | None
    ) -> None:
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        for target in targets:
            self.expression(target, guard)
        if isinstance(node, ast.AnnAssign):
            self.annotation(node.annotation, guard)
        if node.value is None:
            return
        self.expression(node.value, guard)
        names = [dotted(target) for target in targets]
        if _is_cuda_name(node.value) and any(
            name is not None and "device" in name.rpartition(".")[2].lower() for name in names
        ):
            self.found(Kind.DEVICE_LITERAL, node.value, f'{names[0]} = "cuda"', guard)
        value = evaluate(node.value, self.known) if guard is None else None
        for target in targets:
            if isinstance(target, ast.Name):
                if value is None or isinstance(node.value, ast.Constant):
                    self.known.pop(target.id, None)
                else:
                    self.known[target.id] = value

    # -- imports -------------------------------------------------------------------------------

    def absolute(self, node: ast.ImportFrom) -> str:
        """The module of a `from … import`, a relative one made absolute."""
        if not node.level:
            return node.module or ""
        package = self.package[: len(self.package) - node.level + 1]
        return ".".join([*package, *([node.module] if node.module else [])])

    def cuda_package(self, node: ast.Import | ast.ImportFrom) -> str | None:
        """The package for CUDA or ROCm that a statement imports."""
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            module = self.absolute(node)
            names = [module, *(f"{module}.{alias.name}" for alias in node.names)]
        return next((name for name in names if is_cuda_package(name)), None)

    def import_(self, node: ast.Import | ast.ImportFrom, guard: str | None) -> None:
        module = self.absolute(node) if isinstance(node, ast.ImportFrom) else ""
        names = [f"{module}.{a.name}" if module else a.name for a in node.names]
        text = _import_text(node, module)
        if self.cuda_package(node) is not None:
            self.found(Kind.CUDA_IMPORT, node, text, guard)
        elif any(re.match(r"torch\.cuda(\.|$)", name) for name in names):
            self.found(Kind.TORCH_CUDA, node, text, guard)
        elif any(_NCCL_NAME.search(name) for name in names):
            self.found(Kind.NCCL, node, text, guard)
        if guard is not None:
            return
        if isinstance(node, ast.Import):
            for alias in node.names:
                self.unit.imports.add(alias.name)
                top = alias.name.partition(".")[0]
                self.unit.binds[alias.asname or top] = alias.name if alias.asname else top
        else:
            self.unit.imports.add(module)
            for alias in node.names:
                self.unit.imports.add(f"{module}.{alias.name}")
                local = f"*{module}" if alias.name == "*" else alias.asname or alias.name
                self.unit.binds[local] = f"{module}.{alias.name}"

    # -- expressions ---------------------------------------------------------------------------

    def expression(self, root: ast.expr, guard: str | None) -> None:
        """An expression and all below it."""
        stack: list[tuple[ast.AST, str | None]] = [(root, guard)]
        while stack:
            node, why = stack.pop()
            kind = node.__class__
            if kind is ast.Name:
                self.alias(node, why)  # type: ignore[arg-type]
                if why is None and not self.quiet:
                    self.unit.refs.add(node.id)  # type: ignore[attr-defined]
            elif kind is ast.Attribute:
                self.attribute(node, why, stack)  # type: ignore[arg-type]
            elif kind is ast.Constant:
                self.constant(node, why)  # type: ignore[arg-type]
            elif kind is ast.Call:
                self.call(node, why, stack)  # type: ignore[arg-type]
            elif kind is ast.Compare:
                self.compare(node, why)  # type: ignore[arg-type]
                stack.extend((child, why) for child in ast.iter_child_nodes(node))
            elif kind is ast.BoolOp:
                self.bool_op(node, why, stack)  # type: ignore[arg-type]
            elif kind is ast.IfExp:
                self.if_exp(node, why, stack)  # type: ignore[arg-type]
            else:
                stack.extend((child, why) for child in ast.iter_child_nodes(node))

    def alias(self, node: ast.Name, why: str | None) -> None:
        """A name that stands for `torch.cuda` or a part of it."""
        if self.flow is not None and isinstance(node.ctx, ast.Load):
            name, _ = self.flow.qualified(node)
            if name is not None and re.match(r"torch\.cuda(\.|$)", name):
                self.found(Kind.TORCH_CUDA, node, name, why)

    def attribute(
        self, node: ast.Attribute, why: str | None, stack: list[tuple[ast.AST, str | None]]
    ) -> None:
        name = dotted(node)
        if node.attr == "is_cuda" and not (name or "").rpartition(".")[0].endswith("platform"):
            self.found(Kind.IS_CUDA, node, ast.unparse(node), why)
        if name is None:
            if why is None and not self.quiet:
                if _is_super(node.value):
                    self.unit.supers.add(node.attr)
                else:
                    self.unit.attrs.add(node.attr)
            stack.append((node.value, why))
            return
        if self.flow is not None:
            meant, _ = self.flow.qualified(node)
            name = meant if meant is not None and meant.startswith("torch.") else name
        if name.startswith("torch."):
            if name.startswith("torch.cuda.") or name == "torch.cuda":
                self.found(Kind.TORCH_CUDA, node, name, why)
            elif name.startswith("torch.ops._") and NAMESPACE.match(name):
                self.found(Kind.CUSTOM_OP, node, name, why)
            elif name.startswith(OPERATORS) and why is None and not self.quiet:
                self.unit.refs.add(name)
            return
        if why is None and not self.quiet:
            head, _, rest = name.partition(".")
            first, _, others = rest.partition(".")
            if head in ("self", "cls"):
                self.unit.own.add(first)
                if others:
                    self.unit.attrs.update(others.split("."))
            else:
                self.unit.refs.add(name)
                self.unit.attrs.update(rest.split("."))

    def call(
        self, node: ast.Call, why: str | None, stack: list[tuple[ast.AST, str | None]]
    ) -> None:
        func = node.func
        last = ""
        if isinstance(func, ast.Attribute):
            last = func.attr
            if last in ("is_cuda", "is_cuda_alike"):
                self.found(Kind.PLATFORM_BRANCH, node, ast.unparse(node), why)
                stack.append((func.value, why))
            elif last == "cuda" and dotted(func.value) != "torch":
                self.found(Kind.CUDA_CALL, node, f"{_short(func.value)}.cuda()", why)
                stack.append((func.value, why))
            else:
                stack.append((func, why))
        elif isinstance(func, ast.Subscript):
            self.launch(node, func, why)
            stack.append((func, why))
        else:
            last = func.id if isinstance(func, ast.Name) else ""
            stack.append((func, why))
        if last in ("isinstance", "issubclass") and len(node.args) == 2:
            stack.append((node.args[0], why))
            return
        if last == "direct_register_custom_op" and why is None and self.registers(node):
            return
        if last in _BY_NAME or last in _IMPORTERS:
            self.by_name(node, last, why)
        for argument in node.args:
            if last in _DEVICE_TAKERS and _is_cuda_name(argument):
                self.found(Kind.DEVICE_LITERAL, argument, f'{last}("cuda")', why)
            stack.append((argument, why))
        for keyword in node.keywords:
            if keyword.arg in _DEVICE_WORDS and _is_cuda_name(keyword.value):
                self.found(Kind.DEVICE_LITERAL, keyword.value, f'{keyword.arg}="cuda"', why)
            stack.append((keyword.value, why))

    def registers(self, node: ast.Call) -> bool:
        """An operator whose function is called where the operator is, and not here."""
        given = {keyword.arg: keyword.value for keyword in node.keywords}
        given |= dict(zip(("op_name", "op_func"), node.args, strict=False))
        name, function = given.get("op_name"), dotted(given.get("op_func", node.func))
        if not isinstance(name, ast.Constant) or "op_func" not in given or function is None:
            return False
        self.facts.operators[str(name.value)] = function
        return True

    def by_name(self, node: ast.Call, called: str, why: str | None) -> None:
        """What a call names by a string: an attribute, or a module to import."""
        if called == "getattr" and len(node.args) > 1:
            of, last = dotted(node.args[0]), node.args[1]
            if self.flow is not None and isinstance(node.args[0], ast.Name | ast.Attribute):
                of = self.flow.qualified(node.args[0])[0] or of
            text = last.value if isinstance(last, ast.Constant) else None
            if of == "torch" and text == "cuda":
                self.found(Kind.TORCH_CUDA, node, 'getattr(torch, "cuda")', why)
        for argument in node.args:
            if not isinstance(argument, ast.Constant) or not isinstance(argument.value, str):
                continue
            text = argument.value
            if called in _IMPORTERS and re.match(r"torch\.cuda(\.|$)", text):
                self.found(Kind.TORCH_CUDA, node, f'{called}("{text}")', why)
            if called in _IMPORTERS and is_cuda_package(text):
                self.found(Kind.CUDA_IMPORT, node, f'{called}("{text}")', why)
            elif called in _IMPORTERS and why is None:
                self.unit.imports.add(text)
                self.unit.strings.add(text)
            elif called in _BY_NAME and why is None and text.isidentifier():
                self.unit.attrs.add(text)

    def launch(self, node: ast.Call, func: ast.Subscript, why: str | None) -> None:
        """`kernel[grid](…)`; which of these are kernels is known when all modules are read."""
        name = dotted(func.value)
        if name is not None:
            self.found(Kind.TRITON_LAUNCH, node, f"{name}[{_short(func.slice)}]", why)

    def compare(self, node: ast.Compare, why: str | None) -> None:
        sides = [node.left, *node.comparators]
        for one, op, other in zip(sides[:-1], node.ops, sides[1:], strict=True):
            if not isinstance(op, ast.Eq | ast.NotEq | ast.In | ast.NotIn):
                continue
            for value, asked in ((other, one), (one, other)):
                if _names_cuda(value) and asks_device(asked):
                    self.found(Kind.DEVICE_TYPE, node, ast.unparse(node), why)
                    return

    def constant(self, node: ast.Constant, why: str | None) -> None:
        if isinstance(node.value, str):
            if "nccl" in node.value and _NCCL.match(node.value):
                self.found(Kind.NCCL, node, repr(node.value), why)
            elif node.value.startswith("vllm.") and why is None:
                self.unit.strings.add(node.value)

    def bool_op(
        self, node: ast.BoolOp, why: str | None, stack: list[tuple[ast.AST, str | None]]
    ) -> None:
        """`and` and `or` stop at the first value that decides."""
        decisive = isinstance(node.op, ast.Or)
        for value in node.values:
            stack.append((value, why))
            if why is None and evaluate(value, self.known) is decisive:
                word = "or" if decisive else "and"
                why = f"behind `{_short(value)} {word}` in line {value.lineno}"

    def if_exp(
        self, node: ast.IfExp, why: str | None, stack: list[tuple[ast.AST, str | None]]
    ) -> None:
        value = evaluate(node.test, self.known)
        text = f"`if {_short(node.test)}` in line {node.test.lineno}"
        stack.append((node.orelse, why or (f"else of {text}" if value is True else None)))
        stack.append((node.body, why or (f"before {text}" if value is False else None)))
        stack.append((node.test, why))

    def found(
        self, kind: Kind, node: ast.AST, source: str, guard: str | None, *, size: int = 0
    ) -> None:
        """Note a site."""
        line = getattr(node, "lineno", 1)
        self.facts.sites.append(
            Site(
                kind,
                line,
                getattr(node, "end_lineno", None) or line,
                ".".join(self.scope) or MODULE,
                self.unit_name,
                source,
                guard,
                size,
            )
        )


def is_cuda_package(name: str) -> bool:
    """Does a qualified name belong to a package or extension for CUDA or ROCm?"""
    return name.partition(".")[0] in PACKAGES or _EXTENSION.match(name) is not None


def _is_cuda_name(node: ast.expr) -> bool:
    """Is this the literal `cuda`, `cuda:0`, or an f-string that begins so?"""
    if isinstance(node, ast.JoinedStr):
        return bool(node.values) and _is_cuda_name(node.values[0])
    return (
        isinstance(node, ast.Constant)
        and isinstance(node.value, str)
        and re.fullmatch(r"cuda(?::\d*)?", node.value) is not None
    )


def _names_cuda(node: ast.expr) -> bool:
    if isinstance(node, ast.Tuple | ast.List | ast.Set):
        return any(_is_cuda_name(element) for element in node.elts)
    return _is_cuda_name(node)


def _is_super(node: ast.expr) -> bool:
    return (
        isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "super"
    )


def _without_index(node: ast.expr) -> ast.expr:
    return node.value if isinstance(node, ast.Subscript) else node


def _catches_import_error(handlers: Iterable[ast.ExceptHandler]) -> bool:
    caught = {"ImportError", "ModuleNotFoundError", "Exception", "BaseException"}
    for handler in handlers:
        if handler.type is None:
            return True
        types = handler.type.elts if isinstance(handler.type, ast.Tuple) else [handler.type]
        if any((dotted(name) or "") in caught for name in types):
            return True
    return False


def _suppresses(items: Iterable[ast.withitem]) -> bool:
    return any(
        isinstance(item.context_expr, ast.Call)
        and (dotted(item.context_expr.func) or "").endswith("suppress")
        for item in items
    )


def _import_text(node: ast.Import | ast.ImportFrom, module: str) -> str:
    names = ", ".join(sorted(alias.name for alias in node.names))
    return (
        f"from {module} import {names}" if isinstance(node, ast.ImportFrom) else f"import {names}"
    )


def _short(node: ast.AST) -> str:
    text = " ".join(ast.unparse(node).split())
    return text if len(text) <= 60 else f"{text[:59]}…"
