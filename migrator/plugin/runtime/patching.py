# SPDX-License-Identifier: Apache-2.0
"""Puts the definitions of a patch into the source of the vLLM module that they belong to.

A patch is a Python file that is parsed and never run by itself. It nests as the module does: a
class holds what changes in it, and a marker says of each definition or statement what becomes of
it. Here `Worker.sleep` takes the place of the one that has that hash, and an import and a method
are added behind what stood before them:

    patches("vllm/v1/worker/gpu_worker.py", sha256="…")

    added(rules="NPU200", after="import vllm.envs as envs", sha256="…")
    from vllm_npu_plugin.accelerator import device_module

    class Worker:
        @replaces(rules="NPU210", sha256="…")
        def sleep(self, level: int = 1) -> None: ...

        @added(rules="NPU212", after="def sleep")
        def _make_model_runner(self): ...

The module is then compiled as a whole, so decorators, closures, `super()` and globals are those of
the module. Functions of a patch have the patch as their file and everything else keeps vLLM's file
and lines, so tracebacks and `inspect` show what runs.

This runs in vLLM's processes, in Python 3.9 too, and imports nothing of vLLM.
"""

from __future__ import annotations

import ast
import hashlib
import types
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from importlib.util import decode_source
from typing import Any

FUNCTION = (ast.FunctionDef, ast.AsyncFunctionDef)
DEFINITION = (*FUNCTION, ast.ClassDef)

FAR = 1_000_000
"""Added to the line numbers of a patch while a module is compiled: its code is known by them."""


# -- the markers. They are parsed, not called; as functions, linters and readers can find them.


def patches(path: str, *, sha256: str) -> None:
    """The file of vLLM that a patch was made from: its path, and the hash of the whole file."""


def replaces(*, rules: str, sha256: str, was: str = "") -> Any:
    """What follows takes the place of the definition of its name, or of the statement `was`."""


def added(*, rules: str, after: str = "", sha256: str = "") -> Any:
    """What follows comes behind `after`; without it, first in its body.

    `after` is `def name` or `class name`, or shows the statement that `sha256` is of.
    """


class PatchError(Exception):
    """A patch does not fit its module; `problems` has a line for each thing that is not right."""

    def __init__(self, path: str, problems: Sequence[str]) -> None:
        self.path = path
        self.problems = tuple(problems)
        super().__init__("\n".join(f"{path}: {problem}" for problem in self.problems))


# -- source


def digest(data: bytes) -> str:
    """SHA-256 in hexadecimal."""
    return hashlib.sha256(data).hexdigest()


@dataclass(frozen=True)
class Source:
    """A module's text by lines, and its syntax tree."""

    lines: tuple[str, ...]
    tree: ast.Module

    @classmethod
    def parse(cls, data: bytes) -> Source:
        """Parse the bytes of a module, of any encoding; raises SyntaxError."""
        text = decode_source(data)
        # `splitlines` would also end lines where Python does not, at a form feed.
        return cls(tuple(text.split("\n")), ast.parse(text))

    def segment(self, node: ast.stmt) -> str:
        """Text of a statement with its decorators, moved to the left margin.

        Comments inside of it belong to it, those around it do not, nor do spaces at ends of lines.
        """
        margin = node.col_offset
        lines = list(self.lines[first_line(node) - 1 : node.end_lineno])
        # Columns count bytes of UTF-8.
        lines[-1] = lines[-1].encode()[: node.end_col_offset].decode()
        lines[0] = lines[0].encode()[margin:].decode()
        for number, line in enumerate(lines[1:], start=1):
            lines[number] = line[min(margin, len(line) - len(line.lstrip())) :]
        return "\n".join(line.rstrip() for line in lines)

    def hash(self, node: ast.stmt) -> str:
        """Hash by which a statement is known: SHA-256 of its segment in UTF-8."""
        return digest(self.segment(node).encode())


def first_line(node: ast.stmt) -> int:
    """Number of the first line of a statement, with its decorators."""
    decorators = node.decorator_list if isinstance(node, DEFINITION) else []
    return min([node.lineno, *(decorator.lineno for decorator in decorators)])


def label(node: ast.stmt) -> str:
    """How a definition is named as a place: `def name` or `class name`; "" for other statements."""
    if isinstance(node, ast.ClassDef):
        return f"class {node.name}"
    return f"def {node.name}" if isinstance(node, FUNCTION) else ""


# -- a patch, read


@dataclass
class Step:
    """One thing that a patch does in a module or a class."""

    action: str
    """A marker's name, or `enters` for a class in which something changes."""
    name: str
    """For messages: qualified name of the definition, or what the statement says."""
    node: ast.stmt
    """The new statement without our marker; its lines are those of the patch."""
    rules: str = ""
    sha256: str = ""
    after: str = ""
    steps: list[Step] = field(default_factory=list)
    """What is done in the class that is entered."""
    original: ast.stmt | None = None
    """What it takes the place of, once it was looked up in a module."""


@dataclass(frozen=True)
class Patch:
    """A patch file, read."""

    path: str
    """Of the module, as `vllm/v1/worker/gpu_worker.py`."""
    sha256: str
    """Of the whole file that the patch was made from."""
    steps: tuple[Step, ...]


def read_patch(data: bytes, name: str) -> Patch:
    """Read a patch file, called `name` in messages.

    Raises:
        PatchError: it is none.
    """
    try:
        body = ast.parse(decode_source(data)).body
    except SyntaxError as error:
        raise PatchError(name, [f"line {error.lineno}: {error.msg}"]) from error
    for number, statement in enumerate(body):
        call = _marker(statement)
        if call is not None and _called(call) == "patches":
            path, arguments = str(ast.literal_eval(call.args[0])), _arguments(call)
            steps = _read_steps(body[number + 1 :], "", name)
            return Patch(path, arguments["sha256"], tuple(steps))
    raise PatchError(name, ["it does not say what it patches"])


def _read_steps(body: Sequence[ast.stmt], inside: str, name: str) -> list[Step]:
    steps: list[Step] = []
    waiting: ast.Call | None = None
    for statement in body:
        call = _marker(statement)
        if call is not None:
            waiting = call
        else:
            steps.append(_read_step(statement, waiting, inside, name))
            waiting = None
    return steps


def _read_step(node: ast.stmt, call: ast.Call | None, inside: str, name: str) -> Step:
    if isinstance(node, DEFINITION):
        title = inside + node.name
        first = node.decorator_list[0] if node.decorator_list else None
        if isinstance(first, ast.Call) and _called(first) in _MARKERS:
            call = first
            del node.decorator_list[0]
        elif isinstance(node, ast.ClassDef) and call is None:
            return Step("enters", title, node, steps=_read_steps(node.body, f"{title}.", name))
    else:
        title = ""
    if call is None:
        raise PatchError(name, [f"line {node.lineno}: nothing says what becomes of it"])
    arguments = _arguments(call)
    was = arguments.get("was", "")
    title = title or (f"`{was}`" if was else f"what is added after `{arguments.get('after', '')}`")
    return Step(
        _called(call),
        title,
        node,
        rules=arguments.get("rules", ""),
        sha256=arguments.get("sha256", ""),
        after=arguments.get("after", ""),
    )


_MARKERS = ("patches", "replaces", "added")


def _marker(statement: ast.stmt) -> ast.Call | None:
    value = statement.value if isinstance(statement, ast.Expr) else None
    return value if isinstance(value, ast.Call) and _called(value) in _MARKERS else None


def _called(call: ast.Call) -> str:
    return call.func.id if isinstance(call.func, ast.Name) else ""


def _arguments(call: ast.Call) -> dict[str, str]:
    return {str(keyword.arg): str(ast.literal_eval(keyword.value)) for keyword in call.keywords}


# -- a patch, applied


def apply(source: Source, patch: Patch) -> ast.Module:
    """The syntax tree of a module with a patch in it. The source's own tree is used up.

    Raises:
        PatchError: something that the patch replaces, or stands behind, is not what it was when
            the patch was made. It names every such thing.
    """
    problems: list[str] = []
    tree = source.tree
    tree.body = _applied(source, tree.body, patch.steps, problems)
    if problems:
        raise PatchError(patch.path, problems)
    return tree


def _applied(
    source: Source, body: list[ast.stmt], steps: Sequence[Step], problems: list[str]
) -> list[ast.stmt]:
    """The statements of a body with those of a patch."""
    first: list[ast.stmt] = []
    places: list[list[ast.stmt]] = [[statement] for statement in body]
    """For each statement of the body what is there now: itself or another, then what was added."""
    for step in steps:
        number = _find(source, body, step, problems)
        if step.action != "enters":
            ast.increment_lineno(step.node, FAR)
        if number is None:
            if step.action == "added" and not step.after:
                first.append(step.node)
            continue
        step.original = body[number]
        if step.action == "enters":
            inner = body[number]
            assert isinstance(inner, ast.ClassDef)
            inner.body = _applied(source, inner.body, step.steps, problems)
        elif step.action == "added":
            places[number].append(step.node)
        else:
            places[number][0] = step.node
    return [*first, *(statement for place in places for statement in place)]


def _find(source: Source, body: Sequence[ast.stmt], step: Step, problems: list[str]) -> int | None:
    """Number of the statement that a step is about; None, and a problem, if it is not there."""
    if step.action == "added" and not step.after:
        return None
    wanted = step.after if step.action == "added" else label(step.node)
    if wanted.startswith(("def ", "class ")):
        found = [number for number, node in enumerate(body) if label(node) == wanted]
    else:
        found = list(range(len(body)))
    if step.sha256:
        hashes = {number: source.hash(body[number]) for number in found}
        exact = [number for number in found if hashes[number] == step.sha256]
        if exact:
            return exact[0]
        seen = f", found {hashes[found[0]]}" if len(found) == 1 else ""
        if not found:
            problems.append(f"{step.name} is not there ({step.rules})")
        elif step.action == "added":
            problems.append(f"`{step.after}`, behind which {step.rules} adds code, is not there")
        else:
            problems.append(
                f"{step.name} is not the one that the patch was made from "
                f"({step.rules}: expected sha256 {step.sha256}{seen})"
            )
        return None
    if not found:
        name = (
            step.name if step.action == "enters" else f"{step.after}, where {step.name} is added,"
        )
        problems.append(f"{name} is not there")
        return None
    return found[-1]


def compiled(tree: ast.Module, file: str, patch_file: str) -> types.CodeType:
    """The code of a patched module: functions of the patch have `patch_file` as their file."""
    return _at_home(compile(tree, file, "exec", dont_inherit=True), patch_file)


def _at_home(code: types.CodeType, patch_file: str) -> types.CodeType:
    constants = tuple(
        _at_home(constant, patch_file) if isinstance(constant, types.CodeType) else constant
        for constant in code.co_consts
    )
    if code.co_firstlineno <= FAR:
        return code.replace(co_consts=constants)
    return code.replace(
        co_consts=constants,
        co_filename=patch_file,
        co_firstlineno=code.co_firstlineno - FAR,
    )


def loaded_names(nodes: Sequence[ast.AST]) -> Iterator[str]:
    """Names that are read while statements run, not those that functions read when called."""
    for node in nodes:
        if isinstance(node, (*FUNCTION, ast.Lambda)):
            inner = [*getattr(node, "decorator_list", ()), node.args]
            yield from loaded_names(inner)
        else:
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load):
                yield node.id
            yield from loaded_names(list(ast.iter_child_nodes(node)))
