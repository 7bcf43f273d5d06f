# SPDX-License-Identifier: Apache-2.0
"""Since when vLLM has a function, a class or a variable, where, and with which signature."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from migrator.codemod.candidates import nodes_of
from migrator.files.tree import Tree

LONGEST = 160
"""Characters of a signature that are shown."""


@dataclass(frozen=True, slots=True)
class Definition:
    """What a name stands for in a module of some releases."""

    path: str
    signature: str
    releases: tuple[str, ...]
    """Those that have it so, oldest first."""
    line: int
    """Where it is in the newest of them."""


def history(name: str, trees: Mapping[str, Tree], path: str | None = None) -> list[Definition]:
    """Look for a definition in several releases.

    Args:
        name: its qualified name in its module: `SiluAndMul.forward_cuda`.
        trees: release → its tree, oldest first.
        path: the module; wherever there is one when left out.

    Returns:
        The forms that it has, by module, oldest first; none where no release has it.
    """
    found: dict[tuple[str, str], list[tuple[str, int]]] = {}
    for release, tree in trees.items():
        for place in [path] if path is not None else modules_with(name, tree):
            node = nodes_of(tree, place).get(name)
            if node is not None:
                found.setdefault((place, signature(node)), []).append((release, node.lineno))
    order = list(trees)
    forms = [
        Definition(place, text, tuple(release for release, _ in seen), seen[-1][1])
        for (place, text), seen in found.items()
    ]
    return sorted(forms, key=lambda form: (form.path, order.index(form.releases[0])))


def modules_with(name: str, tree: Tree) -> Iterator[str]:
    """The modules of vLLM, and `setup.py`, whose text may define a qualified name."""
    *classes, last = (re.escape(part).encode() for part in name.split("."))
    wanted = [rb"^[ \t]*class[ \t]+%s\b" % part for part in classes]
    wanted.append(
        rb"^(?:[ \t]*(?:async[ \t]+)?(?:def|class)[ \t]+%s\b|%s[ \t]*[:=])" % (last, last)
    )
    patterns = [re.compile(pattern, re.M) for pattern in wanted]
    for path in (entry.path for entry in tree.entries()):
        if path == "setup.py" or (path.startswith("vllm/") and path.endswith(".py")):
            data = tree.read(path) or b""
            # To look for the bare word first is ten times as fast.
            if last in data and all(pattern.search(data) for pattern in patterns):
                yield path


def signature(node: ast.AST) -> str:
    """How a definition begins: decorators, parameters and result; of a variable, its statement."""
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        result = f" -> {ast.unparse(node.returns)}" if node.returns is not None else ""
        kind = "async def" if isinstance(node, ast.AsyncFunctionDef) else "def"
        text = f"{kind} {node.name}({ast.unparse(node.args)}){result}"
    elif isinstance(node, ast.ClassDef):
        bases = ", ".join(ast.unparse(base) for base in (*node.bases, *node.keywords))
        text = f"class {node.name}" + (f"({bases})" if bases else "")
    else:
        return _short(ast.unparse(node))
    decorators = [f"@{ast.unparse(decorator)}" for decorator in node.decorator_list]
    return _short(" ".join([*decorators, text]))


def _short(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 1]}…"


def spans(releases: Iterable[str], among: Iterable[str]) -> str:
    """Releases in words: `0.10.1.1 to 0.33.0`, where none of the others lies between."""
    wanted, runs = set(releases), list[list[str]]()
    previous = False
    for release in among:
        if release in wanted:
            if not previous:
                runs.append([])
            runs[-1].append(release)
        previous = release in wanted
    return ", ".join(f"{run[0]} to {run[-1]}" if len(run) > 1 else run[0] for run in runs)
