# SPDX-License-Identifier: Apache-2.0
"""Patches modules that were imported before the plugin was asked.

vLLM asks for a platform from within its own imports: `vllm.envs`, `vllm.utils` and some more are
there by then, and others hold what they took from them by `from … import`. So a function stays the
object that it is and gets the new code. Only what cannot be kept (a function below other
decorators, a class that reads a name which is bound anew) is made anew, and is then put wherever
vLLM has bound the old one.
"""

from __future__ import annotations

import ast
import sys
import types
from collections.abc import Iterator, Sequence
from typing import Any, Union

from .patching import DEFINITION, FUNCTION, PatchError, Step, compiled, first_line, loaded_names

PACKAGE = "vllm"
Function = Union[ast.FunctionDef, ast.AsyncFunctionDef]  # noqa: UP007 - Python 3.9 runs this


def patch_loaded(
    module: types.ModuleType, path: str, tree: ast.Module, steps: Sequence[Step], patch_file: str
) -> None:
    """Bring a module that was imported without its patch to the state that the patch gives it.

    Args:
        module: the module, imported to its end.
        path: what messages call it.
        tree: its syntax tree with the patch in it, by `patching.apply`.
        steps: those of the patch, which `patching.apply` has looked up.
        patch_file: what new functions have as their file.

    Raises:
        PatchError: a change cannot be made any more.
    """
    _Loaded(module, path, patch_file).run(tree, steps)


class _Loaded:
    """A module that is being patched."""

    def __init__(self, module: types.ModuleType, path: str, patch_file: str) -> None:
        self.names = vars(module)
        self.path = path
        self.file = module.__file__ or path
        self.patch_file = patch_file

    def run(self, tree: ast.Module, steps: Sequence[Step]) -> None:
        # Names that are bound anew. Functions look names up when they run, classes when they are
        # made: those that read such a name, as the type of a field, are made anew as well.
        stale: set[str] = set()
        for step in steps:
            node = step.node
            if step.action == "enters":
                self._enter(step, self.names.get(node.name))  # type: ignore[attr-defined]
            elif step.action == "added":
                self._execute(node, self.names)
            elif not isinstance(node, DEFINITION):
                self._execute(node, self.names)
                stale |= _bound(node)
            elif not self._exchange(step, self.names.get(node.name), None):
                self._make_anew(node)
                stale.add(node.name)
        patched = [step.node for step in steps if step.action != "enters"]
        for statement in tree.body:
            if (
                isinstance(statement, ast.ClassDef)
                and statement not in patched
                and not stale.isdisjoint(loaded_names([statement]))
            ):
                self._make_anew(statement)
                stale.add(statement.name)

    def _execute(self, statement: ast.stmt, into: dict[str, Any]) -> None:
        """Run a statement with the module's names; what it binds goes `into`."""
        code = compiled(ast.Module([statement], []), self.file, self.patch_file)
        exec(code, self.names, into)

    def _make_anew(self, node: ast.stmt) -> None:
        """Run a definition, and put what it makes wherever vLLM has bound the old object."""
        assert isinstance(node, DEFINITION)
        old = self.names.get(node.name)
        self._execute(node, self.names)
        new = self.names[node.name]
        for name, module in list(sys.modules.items()):
            if old is None or not f"{name}.".startswith(f"{PACKAGE}."):
                continue
            for key, value in list(vars(module).items()):
                if value is old:
                    setattr(module, key, new)

    def _enter(self, step: Step, cls: Any) -> None:
        """Change what is in a class."""
        if not isinstance(cls, type):
            raise PatchError(self.path, [f"{step.name} is no class any more where it is loaded"])
        for inner in step.steps:
            name = str(getattr(inner.node, "name", ""))
            if inner.action == "enters":
                self._enter(inner, vars(cls).get(name))
            elif inner.action == "added" or not self._exchange(inner, vars(cls).get(name), cls):
                for key, value in self._in_class(cls, inner.node).items():
                    for function in _functions(value):
                        _mean(function, cls)
                    setattr(cls, key, value)

    def _in_class(self, cls: type, node: ast.stmt) -> dict[str, Any]:
        """What a statement binds in a class of the same name, which makes private names right."""
        around = ast.parse(f"class {cls.__name__}: ...").body[0]
        assert isinstance(around, ast.ClassDef)
        around.body = [node]
        ast.copy_location(around, node)
        made: dict[str, Any] = {}
        self._execute(around, made)
        names = _bound(node)
        return {key: value for key, value in vars(made[cls.__name__]).items() if key in names}

    def _exchange(self, step: Step, old: Any, cls: type | None) -> bool:
        """Give a function the new code; False where another object has to take its place."""
        node, original = step.node, step.original
        if not isinstance(node, FUNCTION) or not isinstance(original, FUNCTION):
            return False
        if _decorators(node) != _decorators(original):
            return False
        bare = _without_decorators(node)
        names: dict[str, Any] = {}
        if cls is None:
            self._execute(bare, names)
        else:
            names = self._in_class(cls, bare)
        new = next(_functions(names[node.name]))
        for function in _functions(old):
            code = function.__code__
            if code.co_name != node.name or code.co_firstlineno != first_line(original):
                continue
            if code.co_freevars == new.__code__.co_freevars:
                for name in ("code", "defaults", "kwdefaults", "doc", "annotations"):
                    setattr(function, f"__{name}__", getattr(new, f"__{name}__"))
                return True
        return False


def _decorators(node: Function) -> list[str]:
    return [ast.dump(decorator) for decorator in node.decorator_list]


def _without_decorators(node: Function) -> Function:
    bare = type(node)(**{name: getattr(node, name) for name in node._fields if hasattr(node, name)})
    bare.decorator_list = []
    return ast.copy_location(bare, node)


def _bound(node: ast.stmt) -> set[str]:
    """Names that a statement binds where it stands."""
    if isinstance(node, DEFINITION):
        return {node.name}
    return {
        n.id for n in ast.walk(node) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)
    }


def _functions(thing: Any) -> Iterator[types.FunctionType]:
    """The functions in what decorators have made of a definition, the outermost first."""
    todo, seen = [thing], set()
    while todo:
        one = todo.pop(0)
        if one is None or id(one) in seen:
            continue
        seen.add(id(one))
        if isinstance(one, types.FunctionType):
            yield one
        if isinstance(one, property):
            todo += [one.fget, one.fset, one.fdel]
        else:
            todo += [getattr(one, "__func__", None), getattr(one, "__wrapped__", None)]


def _mean(function: types.FunctionType, cls: type) -> None:
    """Let `super()` and `__class__` in a function mean `cls`."""
    for number, cell in enumerate(function.__closure__ or ()):
        if function.__code__.co_freevars[number] == "__class__":
            cell.cell_contents = cls
