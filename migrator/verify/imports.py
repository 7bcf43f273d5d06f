# SPDX-License-Identifier: Apache-2.0
"""Whether the tree imports with and without torch_npu (V401 from source, V402 and V403 by running).

The static part finds code that runs on import and needs torch_npu where nothing guards it. The
other part imports every changed module in an environment that the user names.
"""

from __future__ import annotations

import ast
import json
import os
import re
import signal
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from migrator.files.tree import module_name
from migrator.verify.calls import npu_path
from migrator.verify.modules import Module, is_none
from migrator.verify.package import Package
from migrator.verify.report import Finding, Note
from migrator.verify.scopes import absolute_module, is_type_checking
from migrator.verify.tree import ChangedFile, Tree

# -- from source

_NPU_ONLY = re.compile(r"(^|[/_])(npu|ascend)(?=[/_.]|$)")
_CATCHES = frozenset({"ImportError", "ModuleNotFoundError", "Exception", "BaseException"})
_GUARD = re.compile(r"npu|hasattr|find_spec|ascend", re.IGNORECASE)


def npu_only(path: str) -> bool:
    """Whether a file, by its name, is loaded on an NPU only (`npu.py`, `npu_worker.py`, …)."""
    return _NPU_ONLY.search(path) is not None


@dataclass(frozen=True, slots=True)
class _Need:
    """Code that runs on import and cannot without torch_npu."""

    node: ast.AST
    message: str


def check_source(tree: Tree) -> list[Finding]:
    """Find what makes an import of the changed files need torch_npu."""
    needing: dict[str, list[_Need]] = {}
    modules = [f.module for f in tree.changed if f.module is not None]
    for module in modules:
        needs = list(_direct_needs(module))
        if needs:
            needing[module.name] = needs
    # A module that imports a needing module needs torch_npu too, and so on.
    changed = True
    while changed:
        changed = False
        for module in modules:
            if module.name in needing:
                continue
            needs = [
                _Need(node, f"imports `{name}` on import, which needs torch_npu")
                for node, name in _tree_imports(module, tree.package)
                if name in needing and name != module.name
            ]
            if needs:
                needing[module.name] = needs
                changed = True
    findings = []
    for module in modules:
        if npu_only(module.path):
            continue
        for need in needing.get(module.name, ()):
            line, column = getattr(need.node, "lineno", 1), getattr(need.node, "col_offset", 0) + 1
            findings.append(Finding(module.path, line, column, "V401", need.message))
    return findings


def _direct_needs(module: Module) -> Iterator[_Need]:
    for node, guarded in _import_time(module.tree.body, False):
        if guarded:
            continue
        if isinstance(node, ast.Import):
            if any(a.name.partition(".")[0] == "torch_npu" for a in node.names):
                yield _Need(node, "imports torch_npu on import, without a guard")
        elif isinstance(node, ast.ImportFrom):
            source = node.module or ""
            if node.level == 0 and (
                source.partition(".")[0] == "torch_npu"
                or source.startswith("torch.npu")
                or (source == "torch" and any(a.name == "npu" for a in node.names))
            ):
                yield _Need(node, f"imports from {source} on import, without a guard")
        elif isinstance(node, ast.Attribute | ast.Name) and isinstance(node.ctx, ast.Load):
            if isinstance(module.scopes.parents.get(node), ast.Attribute):
                continue
            scope = module.scopes.scope_of.get(node)
            path = npu_path(scope, node) if scope is not None else None
            if path is None or path in ("torch", "torch.ops"):
                continue
            if isinstance(node, ast.Name) and path == "torch_npu":
                # The name alone is harmless where the import is guarded: it is None then.
                found = scope.lookup(node.id) if scope is not None else None
                if found is not None and any(is_none(b.value) for b in found[1]):
                    continue
            yield _Need(node, f"uses `{path}` on import, where torch_npu may be missing")


def _tree_imports(module: Module, package: Package) -> Iterator[tuple[ast.AST, str]]:
    """Unguarded imports of the tree's modules that run on import, with each module's name."""
    own = module.name if module.is_package else module.name.rpartition(".")[0]
    for node, guarded in _import_time(module.tree.body, False):
        if guarded:
            continue
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node, alias.name
        elif isinstance(node, ast.ImportFrom):
            source = absolute_module(own, node.level, node.module)
            yield node, source
            for alias in node.names:
                child = f"{source}.{alias.name}"
                if package.owns(child) and package.module(child) is not None:
                    yield node, child


def _import_time(statements: Sequence[ast.stmt], guarded: bool) -> Iterator[tuple[ast.AST, bool]]:
    """Every node that runs when the module is imported, and whether something guards it."""
    for statement in statements:
        if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef):
            arguments = statement.args
            for expression in [
                *statement.decorator_list,
                *arguments.defaults,
                *[d for d in arguments.kw_defaults if d is not None],
            ]:
                yield from _expression(expression, guarded)
        elif isinstance(statement, ast.ClassDef):
            for expression in [
                *statement.decorator_list,
                *statement.bases,
                *[k.value for k in statement.keywords],
            ]:
                yield from _expression(expression, guarded)
            yield from _import_time(statement.body, guarded)
        elif isinstance(statement, ast.If):
            if is_type_checking(statement.test):
                yield from _import_time(statement.orelse, guarded)
                continue
            test = ast.unparse(statement.test)
            main = "__name__" in test and "__main__" in test
            protects = guarded or main or _GUARD.search(test) is not None
            yield from _expression(statement.test, guarded or "hasattr" in test)
            yield from _import_time(statement.body, protects)
            yield from _import_time(statement.orelse, protects)
        elif isinstance(statement, ast.Try):
            caught = any(
                h.type is None or any(name in ast.unparse(h.type) for name in _CATCHES)
                for h in statement.handlers
            )
            yield from _import_time(statement.body, guarded or caught)
            for handler in statement.handlers:
                yield from _import_time(handler.body, guarded)
            yield from _import_time(statement.orelse, guarded or caught)
            yield from _import_time(statement.finalbody, guarded)
        elif isinstance(statement, ast.With | ast.AsyncWith):
            suppressed = any("suppress" in ast.unparse(i.context_expr) for i in statement.items)
            for item in statement.items:
                yield from _expression(item.context_expr, guarded)
            yield from _import_time(statement.body, guarded or suppressed)
        elif isinstance(statement, ast.For | ast.While):
            head = statement.iter if isinstance(statement, ast.For) else statement.test
            yield from _expression(head, guarded)
            yield from _import_time([*statement.body, *statement.orelse], guarded)
        else:
            yield from _expression(statement, guarded)


def _expression(root: ast.AST, guarded: bool) -> Iterator[tuple[ast.AST, bool]]:
    stack: list[tuple[ast.AST, bool]] = [(root, guarded)]
    while stack:
        node, safe = stack.pop()
        yield node, safe
        if isinstance(node, ast.Lambda):
            continue
        if isinstance(node, ast.AnnAssign):
            # Whether the annotation runs depends on a __future__ import; rules write none that do.
            stack.extend((n, safe) for n in (node.target, node.value) if n is not None)
            continue
        if isinstance(node, ast.IfExp | ast.BoolOp):
            test = ast.unparse(node.test if isinstance(node, ast.IfExp) else node.values[0])
            inner = safe or _GUARD.search(test) is not None
            head = node.test if isinstance(node, ast.IfExp) else node.values[0]
            stack.append((head, safe or "hasattr" in test))
            stack.extend((c, inner) for c in ast.iter_child_nodes(node) if c is not head)
            continue
        stack.extend((child, safe) for child in ast.iter_child_nodes(node))


# -- by running


class _Result(msgspec.Struct):
    """One line of the probe."""

    module: str
    state: str
    type: str = ""
    message: str = ""
    name: str | None = None
    frames: list[tuple[str, int]] = []


@dataclass(frozen=True, slots=True)
class Environment:
    """Where modules are imported: an interpreter, and a command that it is run under."""

    python: Path
    launcher: tuple[str, ...] = ()
    timeout: float = 600.0
    """Seconds for one process; it imports all modules."""


def check_by_running(
    tree: Tree, environment: Environment, base: Path | None
) -> tuple[list[Finding], list[Note]]:
    """Import the changed modules without and with torch_npu; compare with `base` what fails.

    What fails in `base` too, or for want of something that the environment lacks, is a note, not a
    finding: it was not checked.
    """
    findings: list[Finding] = []
    notes: list[Note] = []
    files = {module_name(f.path): f for f in tree.changed if tree.package.owns(module_name(f.path))}
    if not files:
        return findings, notes
    reachable = _can_import(environment, "torch", hide="torch_npu")
    if reachable is not None:
        message = f"imports not checked: no torch in {environment.python} ({reachable})"
        return findings, [Note("", 0, message)]
    if tree.release is None:
        notes.append(Note("", 0, "the tree is no release: imported as vLLM 0.0.0+empty"))
    needing = {
        f.module.name for f in tree.changed if f.module is not None and npu_only(f.module.path)
    }
    without = [name for name in files if name not in needing]
    runs: list[tuple[str, str, list[str]]] = [("V402", "torch_npu", without)]
    missing = _can_import(environment, "torch_npu", hide="")
    if missing is None:
        runs.append(("V403", "", list(files)))
    else:
        notes.append(Note("", 0, f"imports with torch_npu not checked: {missing}"))
    for code, hide, names in runs:
        results = _import_all(tree.root, tree.release, environment, names, hide)
        failed = [r for r in results if r.state != "imported"]
        before: dict[str, _Result] = {}
        if base is not None and failed:
            again = _import_all(base, tree.release, environment, [r.module for r in failed], hide)
            before = {r.module: r for r in again}
        for result in failed:
            _judge(tree, files[result.module], result, before, code, findings, notes)
    return findings, notes


def _judge(
    tree: Tree,
    file: ChangedFile,
    result: _Result,
    before: dict[str, _Result],
    code: str,
    findings: list[Finding],
    notes: list[Note],
) -> None:
    with_npu = "with" if code == "V403" else "without"
    said = f"{result.type}: {result.message}" if result.type else result.message
    line = _line_in(tree, file, result)
    earlier = before.get(result.module)
    own = {"vllm", "torch_npu"}
    third_party = (
        result.type == "ModuleNotFoundError"
        and result.name is not None
        and result.name.partition(".")[0] not in own
    )
    same_as_base = earlier is not None and (
        (earlier.state, earlier.type, earlier.message)
        == (result.state, result.type, result.message)
    )
    if third_party:
        notes.append(
            Note(file.path, line, f"import {with_npu} torch_npu not checkable here: {said}")
        )
    elif same_as_base:
        reason = "the tree before the migration fails alike"
        message = f"import {with_npu} torch_npu not checkable here: {said} ({reason})"
        notes.append(Note(file.path, line, message))
    elif earlier is not None or _to_blame(tree, result, code):
        findings.append(Finding(file.path, line, 1, code, f"import {with_npu} torch_npu: {said}"))
    else:
        message = f"import {with_npu} torch_npu not checkable here: {said} (compare with --base)"
        notes.append(Note(file.path, line, message))


def _to_blame(tree: Tree, result: _Result, code: str) -> bool:
    """Without the tree before: does the failure come from lines that the migration wrote?"""
    if code == "V402" and ("torch_npu" in result.message or (result.name or "") == "torch_npu"):
        return True
    by_path = {str(tree.root / f.path): f for f in tree.changed}
    inner = [(by_path[p], n) for p, n in result.frames if p in by_path]
    return bool(inner) and inner[-1][0].introduced(inner[-1][1])


def _line_in(tree: Tree, file: ChangedFile, result: _Result) -> int:
    own = str(tree.root / file.path)
    lines = [line for path, line in result.frames if path == own]
    return lines[-1] if lines else 1


def _can_import(environment: Environment, name: str, *, hide: str) -> str | None:
    """None if `name` imports there, else the reason why not."""
    results = _probe(environment, [name], hide, {})
    if not results:
        return "the interpreter does not start"
    result = results[0]
    if result.state == "imported":
        return None
    return f"{result.type}: {result.message}" if result.type else result.message


def _import_all(
    root: Path, release: str | None, environment: Environment, names: list[str], hide: str
) -> list[_Result]:
    with tempfile.TemporaryDirectory(prefix="vllm-npu-migrate-") as folder:
        _metadata(Path(folder), release or "0.0.0")
        path = os.pathsep.join(
            p for p in (str(root.resolve()), folder, os.environ.get("PYTHONPATH", "")) if p
        )
        done: list[_Result] = []
        todo = list(names)
        while todo:
            results = _probe(environment, todo, hide, {"PYTHONPATH": path})
            done.extend(results)
            # A crash ends the process: go on behind the module that caused it.
            if not results:
                done.extend(
                    _Result(n, "failed", "", "the interpreter does not start") for n in todo
                )
                break
            todo = todo[len(results) :]
        return done


def _metadata(folder: Path, release: str) -> None:
    """vLLM reads its own version from installed metadata, which a source tree has none of."""
    info = folder / f"vllm-{release}+empty.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: vllm\nVersion: {release}+empty\n", encoding="utf-8"
    )


def _probe(
    environment: Environment, names: list[str], hide: str, variables: dict[str, str]
) -> list[_Result]:
    """Import `names` in one new process; fewer results than names if it died."""
    source = Path(__file__).with_name("probe.py").read_text(encoding="utf-8")
    with tempfile.TemporaryDirectory(prefix="vllm-npu-migrate-") as folder:
        job, output = Path(folder) / "job.json", Path(folder) / "output.jsonl"
        job.write_text(
            json.dumps({"modules": names, "hide": hide, "output": str(output)}), encoding="utf-8"
        )
        # The environment must be that of the interpreter alone: no autoload, no bytecode, no hub.
        settings = {
            **os.environ,
            "TORCH_DEVICE_BACKEND_AUTOLOAD": "0",
            "PYTHONDONTWRITEBYTECODE": "1",
            "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1"),
            "HF_HUB_OFFLINE": "1",
            "VLLM_NO_USAGE_STATS": "1",
            **variables,
        }
        command = [*environment.launcher, str(environment.python), "-c", source, str(job)]
        ended = "the process ended early"
        try:
            run = subprocess.run(
                command,
                cwd=folder,
                env=settings,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=environment.timeout,
                check=False,
            )
            if run.returncode < 0:
                ended = f"the process died of {signal.Signals(-run.returncode).name}"
        except subprocess.TimeoutExpired:
            ended = f"not imported within {environment.timeout:.0f} s"
        except OSError as error:
            return [_Result(name, "failed", "", str(error)) for name in names[:1]]
        lines = output.read_bytes().splitlines() if output.is_file() else []
    results: list[_Result] = []
    for line in lines:
        result = msgspec.json.decode(line, type=_Result)
        if result.state != "begun":
            results.append(result)
    if len(results) < len(names) and lines:
        results.append(_Result(names[len(results)], "failed", "", ended))
    return results
