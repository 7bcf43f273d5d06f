# SPDX-License-Identifier: Apache-2.0
"""Templates: files that the tool adds to a vLLM tree, and how they fit the tree's release.

A template is a file of the newest release, in its place under `templates/`. `render` fits it to
another tree in two ways, both decided by what the tree itself contains:

* Imports. `from vllm.a.b import Name` that the tree does not satisfy is taken from the module that
  does define `Name` there, one of the known `HOMES`.
* Variants. Whole statements (or lines of a file that is not Python) between
  `# npu-migrate: when PROBE`, an optional `# npu-migrate: otherwise` and `# npu-migrate: end` stay
  or go, by a function of `migrator.codemod.probes`. Both sides are real code. A template that is
  one variant from its first line to its last is added to the trees that it is for, and no others.

In a file that is not Python, a line `# npu-migrate: value NAME` becomes a line that a function of
`migrator.codemod.probes` reads off the tree, such as a requirement.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from migrator.codemod.probes import PROBES, VALUES
from migrator.files import locations
from migrator.files.tree import Tree
from migrator.messages.errors import MigrateError

HOMES: dict[str, tuple[str, ...]] = {
    "AttentionBackend": ("vllm.v1.attention.backend", "vllm.attention.backends.abstract"),
    "AttentionImpl": ("vllm.v1.attention.backend", "vllm.attention.backends.abstract"),
    "MLAAttentionImpl": ("vllm.v1.attention.backend", "vllm.attention.backends.abstract"),
    "MLACommonMetadataBuilder": (
        "vllm.model_executor.layers.attention.mla_attention",
        "vllm.v1.attention.backends.mla.common",
    ),
    "AttentionType": ("vllm.v1.attention.backend", "vllm.attention.backends.abstract"),
    "AttentionCGSupport": ("vllm.v1.attention.backend", "vllm.v1.attention.backends.utils"),
    "AttentionMetadataBuilder": ("vllm.v1.attention.backend", "vllm.v1.attention.backends.utils"),
    "CommonAttentionMetadata": ("vllm.v1.attention.backend", "vllm.v1.attention.backends.utils"),
    "weak_ref_tensor": ("vllm.utils.torch_utils", "vllm.utils"),
    "direct_register_custom_op": ("vllm.utils.torch_utils", "vllm.utils"),
    "file_or_path_exists": (
        "vllm.transformers_utils.repo_utils",
        "vllm.transformers_utils.config",
    ),
    "FusedMoeWeightScaleSupported": (
        "vllm.model_executor.layers.fused_moe.routed_experts",
        "vllm.model_executor.layers.fused_moe.layer",
    ),
    "UnquantizedFusedMoEMethod": (
        "vllm.model_executor.layers.fused_moe.unquantized_fused_moe_method",
        "vllm.model_executor.layers.fused_moe.layer",
    ),
    "get_hf_file_to_dict": (
        "vllm.transformers_utils.repo_utils",
        "vllm.transformers_utils.config",
    ),
    "bind_kv_cache": ("vllm.v1.worker.utils", "vllm.v1.utils"),
}
"""Modules that define a name in one release or another, the newest first."""

_DIRECTIVE = re.compile(r"^\s*#\s*npu-migrate:\s*(when|otherwise|end|value)\b[ \t]*(\S*)[ \t]*$")
_IMPORT = re.compile(r"^(?P<indent>[ \t]*)from (?P<module>vllm[\w.]*) import ", re.M)


class TemplateError(MigrateError):
    """A template cannot be fitted to a tree; the message names the file and what is missing."""


def template_root() -> Path:
    """The folder of templates.

    Raises:
        TemplateError: there is none.
    """
    root = locations.template_root()
    if root is None:
        raise TemplateError("the templates are missing from this installation: install it again")
    return root


def load(path: str) -> bytes:
    """The template that lands at `path`, with its directives.

    Raises:
        TemplateError: there is none.
    """
    try:
        return (template_root() / path).read_bytes()
    except OSError as error:
        raise TemplateError(f"the template {path} is missing from this installation") from error


def render(text: bytes, tree: Tree) -> bytes:
    """Fit a template to a tree.

    Args:
        text: the template, UTF-8.
        tree: the tree that it is added to, before any change.

    Raises:
        TemplateError: a directive is malformed, or the tree defines an imported name nowhere.
    """
    chosen = _choose(text.decode(), tree)
    if _IMPORT.search(chosen):
        chosen = _relocate(chosen, tree)
    return chosen.encode()


def _choose(text: str, tree: Tree) -> str:
    """Keep the variants that the tree's probes select, without the directives."""
    kept: list[str] = []
    state: str | None = None
    selected = True
    for number, line in enumerate(text.splitlines(keepends=True), 1):
        directive = _DIRECTIVE.match(line)
        if directive is None:
            if selected:
                kept.append(line)
            continue
        verb, name = directive.groups()
        if verb == "value":
            if name not in VALUES:
                raise TemplateError(f"template line {number}: there is no value called {name!r}")
            if selected:
                kept.append(f"{VALUES[name](tree)}\n")
        elif verb == "when" and state is None:
            if name not in PROBES:
                raise TemplateError(f"template line {number}: there is no probe called {name!r}")
            state, selected = "when", PROBES[name](tree)
        elif verb == "otherwise" and state == "when":
            state, selected = "otherwise", not selected
        elif verb == "end" and state is not None:
            state, selected = None, True
        else:
            raise TemplateError(f"template line {number}: {verb!r} is out of place")
    if state is not None:
        raise TemplateError("template: a variant is not closed by 'npu-migrate: end'")
    return _tidy("".join(kept))


def _tidy(text: str) -> str:
    """Remove the blank lines that a dropped variant leaves behind.

    More than two in a row, more than one inside of a block, and those at a block's start.
    """
    lines = text.splitlines()
    tidy: list[str] = []
    for index, line in enumerate(lines):
        if line.strip() or not tidy:
            tidy.append(line)
            continue
        after = next((entry for entry in lines[index:] if entry.strip()), "")
        allowed = 1 if after[:1] in (" ", "\t") else 2
        trailing = len(tidy) - len("\n".join(tidy).rstrip("\n").split("\n"))
        if after and trailing < allowed and not tidy[-1].rstrip().endswith((":", "(", "[", "{")):
            tidy.append(line)
    return "\n".join(tidy) + "\n"


def _relocate(text: str, tree: Tree) -> str:
    """Point `from vllm… import …` statements at the modules of this tree."""
    module = ast.parse(text)
    lines = text.splitlines(keepends=True)
    moves: list[tuple[int, int, str]] = []
    for node in ast.walk(module):
        if not isinstance(node, ast.ImportFrom) or node.level or not node.module:
            continue
        if node.module.split(".")[0] != "vllm":
            continue
        homes: dict[str, list[ast.alias]] = {}
        for alias in node.names:
            homes.setdefault(_home(node.module, alias.name, tree), []).append(alias)
        if list(homes) == [node.module]:
            continue
        indent = " " * node.col_offset
        rewritten = "".join(_import(indent, home, homes[home]) for home in sorted(homes))
        moves.append((node.lineno - 1, node.end_lineno or node.lineno, rewritten))
    for start, end, rewritten in sorted(moves, reverse=True):
        lines[start:end] = [rewritten]
    text = "".join(lines)
    return _merge_imports(text, ast.parse(text) if moves else module)


def _merge_imports(text: str, module: ast.Module) -> str:
    """Sort each run of `from vllm` imports, merge those of one module, and close up behind them."""
    lines = text.splitlines(keepends=True)
    for body in sorted(_bodies(module), key=lambda body: body[0].lineno, reverse=True):
        for nodes, follows in reversed(list(_runs(body))):
            first, last = nodes[0].lineno - 1, nodes[-1].end_lineno or nodes[-1].lineno
            if any(line.lstrip().startswith("#") for line in lines[first:last]):
                continue
            merged: dict[str, list[ast.alias]] = {}
            for node in nodes:
                merged.setdefault(node.module or "", []).extend(node.names)
            indent = " " * nodes[0].col_offset
            sorted_ = [_import(indent, home, merged[home]) for home in sorted(merged)]
            if follows is not None and not indent and not isinstance(follows, _DEFINITIONS):
                # Two blank lines go before a definition only.
                blank = last
                while blank < len(lines) and not lines[blank].strip():
                    blank += 1
                lines[last:blank] = ["\n"]
            lines[first:last] = sorted_
    return "".join(lines)


_DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Import, ast.ImportFrom)


def _bodies(module: ast.Module) -> Iterator[list[ast.stmt]]:
    """Every list of statements in a module, its own and those of blocks."""
    for node in ast.walk(module):
        for name in ("body", "orelse", "finalbody"):
            body = getattr(node, name, None)
            if isinstance(body, list) and body and isinstance(body[0], ast.stmt):
                yield body


def _runs(body: list[ast.stmt]) -> Iterator[tuple[list[ast.ImportFrom], ast.stmt | None]]:
    """Runs of `from vllm` imports, each with the statement behind it."""
    run: list[ast.ImportFrom] = []
    for node in [*body, None]:
        if (
            isinstance(node, ast.ImportFrom)
            and not node.level
            and (node.module or "").split(".")[0] == "vllm"
        ):
            run.append(node)
        elif run:
            yield run, node
            run = []


def _import(indent: str, module: str, names: list[ast.alias]) -> str:
    spelled = sorted(
        {a.name if a.asname is None else f"{a.name} as {a.asname}" for a in names},
        key=_isort_key,
    )
    line = f"{indent}from {module} import {', '.join(spelled)}\n"
    if len(line) <= 89:
        return line
    inner = "".join(f"{indent}    {name},\n" for name in spelled)
    return f"{indent}from {module} import (\n{inner}{indent})\n"


def _isort_key(name: str) -> tuple[int, str, str]:
    """Constants, then classes, then the rest: the order of ruff's import sorting."""
    kind = 0 if name.isupper() and len(name) > 1 else 1 if name[:1].isupper() else 2
    return kind, name.lower(), name


def _home(module: str, name: str, tree: Tree) -> str:
    if _defines(module, name, tree):
        return module
    for home in HOMES.get(name, ()):
        if _defines(home, name, tree):
            return home
    raise TemplateError(f"{tree.name} has no {name}: neither in {module} nor in a known home")


def _defines(module: str, name: str, tree: Tree) -> bool:
    """Can `from module import name` work in this tree?"""
    path = module.replace(".", "/")
    if tree.exists(f"{path}/{name}.py") or tree.exists(f"{path}/{name}/__init__.py"):
        return True
    if _is_template(module):
        return True
    parsed = tree.parse(f"{path}.py") or tree.parse(f"{path}/__init__.py")
    return parsed is not None and name in set(_bound(parsed.body))


def _is_template(module: str) -> bool:
    """Is this a module that the tool adds itself?"""
    return (template_root() / (module.replace(".", "/") + ".py")).is_file()


def _bound(body: list[ast.stmt]) -> Iterator[str]:
    """Names that a module binds at its top level, below `if` and `try` too."""
    for node in body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.Import | ast.ImportFrom):
            yield from ((a.asname or a.name).split(".")[0] for a in node.names)
        elif isinstance(node, ast.Assign):
            yield from (t.id for t in node.targets if isinstance(t, ast.Name))
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            yield node.target.id
        elif isinstance(node, ast.If):
            yield from _bound([*node.body, *node.orelse])
        elif isinstance(node, ast.Try):
            handlers = [s for handler in node.handlers for s in handler.body]
            yield from _bound([*node.body, *handlers, *node.orelse])
