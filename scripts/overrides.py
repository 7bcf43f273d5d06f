# SPDX-License-Identifier: Apache-2.0
"""Audit added files: does each method take what the method of the tree that it overrides takes?

`verify` sees calls that do not fit and names that are not there. A method that vLLM calls, and of
which the base class changed the parameters, is in neither. `scripts/commit_table.py` asks this of
every commit.

    python scripts/overrides.py TREE...   # emitted trees
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

from migrator.files.tree import LOG_NAME, VLLM, DiskTree, Tree
from migrator.reports.log import read_log

Function = ast.FunctionDef | ast.AsyncFunctionDef
DEPTH = 8
"""Modules that a name is followed through, and classes above a class."""


def problems(tree: DiskTree) -> Iterator[str]:
    """Each method of an added file that does not take what it has to."""
    log = read_log(tree.read(LOG_NAME) or b"")
    for entry in log.files:
        if entry.status == "added" and entry.path.startswith(VLLM) and entry.path.endswith(".py"):
            module = tree.parse(entry.path)
            for node in module.body if module is not None else ():
                if isinstance(node, ast.ClassDef):
                    yield from _of_class(tree, entry.path, node)


def _of_class(tree: DiskTree, path: str, node: ast.ClassDef) -> Iterator[str]:
    for function in node.body:
        if not isinstance(function, Function) or function.name.startswith("__"):
            continue
        above = next(
            (found for _, found in _inherited(tree, path, node, function.name, DEPTH)), None
        )
        if above is None or _is_property(above) or _is_property(function):
            continue
        lacking = _lacking(function, above)
        renamed = _renamed(function, above)
        if lacking and renamed and not _named_in_calls(tree, function.name, renamed):
            continue
        if lacking and _takes_all_by_name(function, above):
            lacking = "takes by name what is given in order" if _given_in_order(tree, above) else ""
        if lacking:
            yield f"{path}:{function.lineno} {node.name}.{function.name}: {lacking}"


def _inherited(
    tree: Tree, path: str, node: ast.ClassDef, name: str, depth: int
) -> Iterator[tuple[str, Function]]:
    """The methods of a name in the classes above one, the nearest first."""
    for written in node.bases if depth else ():
        base = written.value if isinstance(written, ast.Subscript) else written
        if not isinstance(base, ast.Name):
            continue
        place = _resolve(tree, path, base.id, DEPTH)
        if place is None:
            continue
        home, found = place
        for function in found.body:
            if isinstance(function, Function) and function.name == name:
                yield home, function
        yield from _inherited(tree, home, found, name, depth - 1)


def _resolve(tree: Tree, path: str, name: str, depth: int) -> tuple[str, ast.ClassDef] | None:
    """The class that a name of a module stands for, through the tree's own imports."""
    module = tree.parse(path)
    for node in ast.walk(module) if module is not None and depth else ():
        if isinstance(node, ast.ClassDef) and node.name == name:
            return path, node
        if isinstance(node, ast.ImportFrom):
            for alias in node.names:
                if (alias.asname or alias.name) == name:
                    home = _file(tree, path, node)
                    if home is not None and home != path:
                        return _resolve(tree, home, alias.name, depth - 1)
    return None


def _file(tree: Tree, path: str, node: ast.ImportFrom) -> str | None:
    """The file of the module that something is imported from."""
    parts = (node.module or "").split(".") if node.module else []
    if node.level:
        parts = [*path.split("/")[: -node.level], *parts]
    place = "/".join(parts)
    return next((p for p in (f"{place}.py", f"{place}/__init__.py") if tree.exists(p)), None)


def _is_property(function: Function) -> bool:
    words = {"property", "cached_property"}
    return any(getattr(d, "id", getattr(d, "attr", "")) in words for d in function.decorator_list)


def _lacking(ours: Function, theirs: Function) -> str:
    """What a method does not take that the one above it does; empty where it takes all."""
    own, other = ours.args, theirs.args
    names = [a.arg for a in (*own.posonlyargs, *own.args)]
    wanted = [a.arg for a in (*other.posonlyargs, *other.args)]
    keywords = {a.arg for a in own.kwonlyargs}
    if own.vararg is None:
        more = [n for n in wanted if n not in names]
        if own.kwarg is not None:
            more = [n for n in more if n not in keywords] if len(wanted) > len(names) else []
        if more:
            return f"takes no {', '.join(more)}"
        if names[: len(wanted)] != wanted:
            return f"takes {', '.join(names)} in this order, not {', '.join(wanted)}"
    if own.kwarg is None:
        more = [a.arg for a in other.kwonlyargs if a.arg not in {*names, *keywords}]
        if more:
            return f"takes no {', '.join(more)}"
    required = names[: len(names) - len(own.defaults)]
    required += [a.arg for a, d in zip(own.kwonlyargs, own.kw_defaults, strict=True) if d is None]
    known = {*wanted, *(a.arg for a in other.kwonlyargs)}
    extra = [n for n in required if n not in known]
    if extra and other.vararg is None and other.kwarg is None:
        return f"asks for {', '.join(extra)}"
    return ""


def _renamed(ours: Function, theirs: Function) -> list[str]:
    """Parameters of the method above that ours has by other names in the same places, if all.

    What ours takes beside them comes after them, and need not be given.
    """
    own = [a.arg for a in (*ours.args.posonlyargs, *ours.args.args)]
    other = [a.arg for a in (*theirs.args.posonlyargs, *theirs.args.args)]
    keywords = {a.arg for a in theirs.args.kwonlyargs} - {a.arg for a in ours.args.kwonlyargs}
    if len(own) - len(ours.args.defaults) > len(other) or len(own) < len(other) or keywords:
        return []
    moved = [n for n in own if n in other and own.index(n) != other.index(n)]
    return [] if moved else [n for n in other if n not in own]


def _takes_all_by_name(ours: Function, theirs: Function) -> bool:
    """Does a method that has names for nothing but its instance take every other one by `**`?"""
    own, other = ours.args, theirs.args
    names = [a.arg for a in (*own.posonlyargs, *own.args)]
    wanted = [a.arg for a in other.args]
    return own.kwarg is not None and names == wanted[: len(names)] and not other.posonlyargs


def _given_in_order(tree: DiskTree, function: Function) -> bool:
    """Does anything that runs on an NPU call a method with arguments in order?

    Only what fits its parameters counts: other classes have methods of this name. The modules of
    other platforms do not run there.
    """
    spec = function.args
    names = [a.arg for a in (*spec.posonlyargs, *spec.args)][1:]
    required = names[: len(names) - len(spec.defaults)]
    for entry in tree.entries():
        path = entry.path
        if entry.link is not None or not path.startswith(VLLM) or not path.endswith(".py"):
            continue
        if path.startswith(_PLATFORMS) and path.removeprefix(_PLATFORMS) not in _OF_ALL:
            continue
        data = tree.read(path) or b""
        module = tree.parse(path) if f".{function.name}(".encode() in data else None
        for node in ast.walk(module) if module is not None else ():
            if not isinstance(node, ast.Call) or not node.args:
                continue
            if not isinstance(node.func, ast.Attribute) or node.func.attr != function.name:
                continue
            given = {k.arg for k in node.keywords} | set(names[: len(node.args)])
            starred = any(isinstance(a, ast.Starred) for a in node.args)
            if starred or None in given or given >= set(required):
                return True
    return False


_PLATFORMS = f"{VLLM}platforms/"
_OF_ALL = ("__init__.py", "interface.py", "npu.py", "npu_config.py")
"""Modules of platforms that run on NPUs too."""


def _named_in_calls(tree: DiskTree, function: str, names: list[str]) -> bool:
    """Does any call in the tree pass one of these by its name?"""
    words = "|".join(map(re.escape, names))
    pattern = re.compile(rf"\b{re.escape(function)}\([^()]*\b(?:{words})\s*=[^=]".encode())
    return any(
        pattern.search(tree.read(entry.path) or b"")
        for entry in tree.entries()
        if entry.link is None and entry.path.startswith(VLLM) and entry.path.endswith(".py")
    )


def main(arguments: list[str]) -> int:
    found = [p for name in arguments for p in problems(DiskTree(Path(name)))]
    for problem in found:
        print(problem)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
