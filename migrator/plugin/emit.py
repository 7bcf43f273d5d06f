# SPDX-License-Identifier: Apache-2.0
"""Renders a plan as an out-of-tree package: pure, same plan and tree, same bytes."""

from __future__ import annotations

import ast
import bisect
import re
import tomllib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources

import jinja2
import msgspec
from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

from migrator import __version__
from migrator.codemod.engine import Record
from migrator.codemod.rule import Status
from migrator.files.changes import FileChange
from migrator.files.tree import LOG_NAME, VLLM, Label, Tree, digest, module_name
from migrator.messages.errors import MigrateError
from migrator.planning.plan import Plan
from migrator.plugin.diff import Change, StructureError, changes_between, render
from migrator.plugin.runtime.patching import PatchError, Source, apply, read_patch
from migrator.reports.log import (
    ChangeEntry,
    FileEntry,
    LeftEntry,
    Lines,
    Log,
    make_log,
    pretty_json,
)

DISTRIBUTION = "vllm-npu-plugin"
PACKAGE = "vllm_npu_plugin"
RUNTIME = ("__init__.py", "importing.py", "loaded.py", "patching.py", "refused.py")
"""Modules of `migrator.plugin.runtime`, which are copied as they are."""

PACKAGED = {
    "NPU213": "the plugin's entry point tells vLLM of the platform",
    "NPU401": "the plugin has its own packaging and requirements; vLLM is installed as it is",
}
"""Rules whose work is no patch out of tree → what does it instead."""

WORKER = (
    "vllm/_custom_ops.py",
    "vllm/attention/",
    "vllm/compilation/",
    "vllm/distributed/kv_transfer/",
    "vllm/distributed/weight_transfer/",
    "vllm/lora/",
    "vllm/model_executor/",
    "vllm/models/",
    "vllm/v1/attention/",
    "vllm/v1/kv_offload/",
    "vllm/v1/pool/",
    "vllm/v1/sample/",
    "vllm/v1/spec_decode/",
    "vllm/v1/worker/",
    "vllm/worker/",
)
"""What runs on the device, in worker processes; everything else is shared by all processes."""


class PluginError(MigrateError):
    """The plan cannot be rendered as a plugin; the message says why and what to do."""


@dataclass(frozen=True, slots=True)
class PatchFile:
    """One patch of the package."""

    module: str
    group: str
    """`platform` or `worker`."""
    name: str
    """Below the package's `patches`."""
    text: str
    before: str
    """SHA-256 of vLLM's file."""
    places: tuple[tuple[int, int, int], ...]
    """(first line, last line) in the rewritten file of vLLM and the first's line in this one."""
    changes: tuple[Change, ...]
    rules: tuple[str, ...]

    @property
    def path(self) -> str:
        """In the emitted directory."""
        return f"{PACKAGE}/patches/{self.name}"

    def functions(self) -> list[str]:
        """What is replaced and added, for people: qualified names, `…` for statements."""
        return list(_titles(self.changes, ""))


def _titles(changes: Iterable[Change], inside: str) -> Iterable[str]:
    for change in changes:
        name = getattr(change.after, "name", None)
        if change.action == "enters":
            yield from _titles(change.inner, f"{inside}{name}.")
        elif name is not None:
            yield f"{'+' if change.action == 'added' else ''}{inside}{name}"


def make_plugin(plan: Plan, tree: Tree) -> tuple[FileChange, ...]:
    """Every file of the plugin that does for an untouched vLLM what `plan` does to its source.

    Args:
        plan: of an untouched tree.
        tree: that tree.

    Returns:
        The files by path, all new.

    Raises:
        PluginError: the tree is migrated already, or a change is none that a patch can make.
    """
    there = any(r.status is Status.MIGRATED and r.site == r.path for r in plan.records)
    if plan.earlier_log is not None or there:
        raise PluginError(
            "this tree is adapted already; a plugin is made from the source of an untouched vLLM"
        )
    if not plan.files:
        raise PluginError("the chosen rules change nothing here, so there is nothing to package")
    left = {change.path: why for change in plan.files if (why := _packaged(plan, change))}
    ours = [change for change in plan.files if change.path not in left]
    added = [change for change in ours if change.before is None]
    renames = _renames(change.path for change in added)
    modules = [_module(change, renames) for change in added]
    patches = [_patch(plan, change, renames) for change in ours if change.before is not None]
    patches.sort(key=lambda patch: (patch.group, patch.module))
    files = {f"{PACKAGE}/{name}": _runtime(name) for name in RUNTIME}
    files[f"{PACKAGE}/py.typed"] = b""
    files |= {change.path: change.after for change in modules}
    files |= {patch.path: patch.text.encode() for patch in patches}
    files[f"{PACKAGE}/patches/__init__.py"] = _index(plan, patches).encode()
    for group, what in _GROUPS.items():
        files[f"{PACKAGE}/patches/{group}/__init__.py"] = _initial(what).encode()
    for directory in _directories(files):
        files.setdefault(f"{directory}/__init__.py", _initial(_ADDED).encode())
    files["pyproject.toml"] = _pyproject(plan, tree).encode()
    files["README.md"] = _readme(plan, patches, modules, left).encode()
    log = _log(plan, files, patches, renames, left)
    files[LOG_NAME] = pretty_json(log)
    return tuple(FileChange(path, None, files[path]) for path in sorted(files))


def _packaged(plan: Plan, change: FileChange) -> str | None:
    """Why a file of the plan has no place in the plugin; None if it has one."""
    rules = {r.rule for r in plan.records if r.path == change.path and r.after is not None}
    known = rules & PACKAGED.keys()
    if rules == known and known:
        return PACKAGED[min(known)]
    if known or not (change.path.startswith(VLLM) and change.path.endswith(".py")):
        codes = ", ".join(sorted(rules))
        raise PluginError(
            f"{change.path}: what {codes} do there cannot be done out of tree; leave them out "
            "with --ignore"
        )
    return None


# -- modules


def _renames(paths: Iterable[str]) -> dict[str, str]:
    """Modules that a migration adds to vLLM → what they are in the plugin."""
    names = sorted(module_name(path) for path in paths)
    return {name: PACKAGE + name.removeprefix("vllm") for name in names}


@cache
def _pattern(names: tuple[str, ...]) -> re.Pattern[str]:
    return re.compile(rf"\b(?:{'|'.join(map(re.escape, names))})\b")


def _renamed(text: str, renames: dict[str, str]) -> str:
    """Source that calls the added modules by their names in the plugin, in strings too."""
    if not renames:
        return text
    return _pattern(tuple(renames)).sub(lambda found: renames[found.group()], text)


def _module(change: FileChange, renames: dict[str, str]) -> FileChange:
    """A module that the migration adds, for its place in the plugin."""
    module = module_name(change.path)
    lines = change.after.decode().split("\n")
    for node in ast.walk(ast.parse(change.after)):
        if not isinstance(node, ast.ImportFrom):
            continue
        origin = _absolute(node, module)
        if any(f"{origin}.{alias.name}" in renames for alias in node.names):
            raise PluginError(f"{change.path}:{node.lineno}: import what it takes by its full name")
        if node.level:
            # In the plugin it would be found beside this module.
            line = lines[node.lineno - 1]
            relative = "." * node.level + (node.module or "")
            lines[node.lineno - 1] = line.replace(f"from {relative} ", f"from {origin} ", 1)
    text = _renamed("\n".join(lines), renames)
    return FileChange(PACKAGE + "/" + change.path.removeprefix(VLLM), None, text.encode())


def _absolute(node: ast.ImportFrom, module: str) -> str:
    """Name of the module that something is imported from, in a module of that name."""
    if not node.level:
        return node.module or ""
    above = module.split(".")[: -node.level]
    return ".".join([*above, *([node.module] if node.module else [])])


# -- patches


def _patch(plan: Plan, change: FileChange, renames: dict[str, str]) -> PatchFile:
    assert change.before is not None
    before = Source.parse(change.before)
    # Renames are within lines, so lines of records stay right.
    after = Source.parse(_renamed(_text(change.after), renames).encode())
    records = [r for r in plan.records if r.path == change.path and r.after is not None]

    def attribute(first: int, last: int) -> list[tuple[str, str]]:
        return [
            (r.rule, r.reason)
            for r in records
            if r.after is not None and r.after.line <= last and first <= r.after.end_line
        ]

    try:
        changes = changes_between(before, after)
        body = render(before, after, changes, attribute)
    except StructureError as error:
        raise PluginError(f"{change.path}: no patch can be made of it: {error}") from error
    module = module_name(change.path)
    sha256 = digest(change.before)
    head = (
        _environment()
        .get_template("patch.py.j2")
        .render(
            module=module,
            path=change.path,
            sha256=sha256,
            label=plan.label,
            package=PACKAGE,
            markers=["added", "patches", "replaces"],
        )
    )
    start = head.count("\n")
    patch = PatchFile(
        module=module,
        group=(group := "worker" if change.path.startswith(WORKER) else "platform"),
        name=f"{group}/{change.path.removeprefix(VLLM).replace('/', '__')}",
        text=head + "\n".join(body.lines) + "\n",
        before=sha256,
        places=tuple((first, last, start + line) for first, last, line in body.places),
        changes=tuple(changes),
        rules=tuple(sorted(body.rules)),
    )
    _check_patch(change, patch, after)
    return patch


def _text(data: bytes) -> str:
    from importlib.util import decode_source

    return decode_source(data)


def _check_patch(change: FileChange, patch: PatchFile, after: Source) -> None:
    """Apply the patch as the plugin does; raise unless that gives what the plan writes."""
    assert change.before is not None
    try:
        made = apply(Source.parse(change.before), read_patch(patch.text.encode(), patch.name))
    except (PatchError, SyntaxError) as error:
        raise PluginError(f"{change.path}: its own patch does not fit: {error}") from error
    if ast.dump(made) != ast.dump(after.tree):
        raise PluginError(f"{change.path}: the patch does not give what the rules write")


_GROUPS = {
    "platform": "Patches of modules that every process of vLLM shares: all are in force before an "
    "engine is made.",
    "worker": "Patches of modules that run on the device: in force in the processes that import "
    "them, from their import on.",
}
_ADDED = "Modules that the migration adds, at the place that they would have in vLLM."


def _initial(text: str) -> str:
    return f'# SPDX-License-Identifier: Apache-2.0\n"""{text}"""\n'


def _directories(files: Iterable[str]) -> list[str]:
    """Directories of the package that hold modules, without those of the patches."""
    found: set[str] = set()
    for path in files:
        above = path.rpartition("/")[0]
        while above.startswith(f"{PACKAGE}/") and "/patches" not in above:
            found.add(above)
            above = above.rpartition("/")[0]
    return sorted(found)


def _index(plan: Plan, patches: Sequence[PatchFile]) -> str:
    return (
        _environment()
        .get_template("index.py.j2")
        .render(patches=patches, made_from=_made_from(plan), tool=f"vllm-npu-migrate {__version__}")
    )


def _made_from(plan: Plan) -> str:
    return str(plan.label) if plan.label != Label() else "a vLLM of unknown release"


# -- the package


@cache
def _environment() -> jinja2.Environment:
    return jinja2.Environment(
        loader=jinja2.PackageLoader("migrator.plugin", "files"),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )


def _runtime(name: str) -> bytes:
    return resources.files("migrator.plugin.runtime").joinpath(name).read_bytes()


def _pyproject(plan: Plan, tree: Tree) -> str:
    try:
        table = tomllib.loads((tree.read("pyproject.toml") or b"").decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError):
        table = {}
    python = table.get("project", {}).get("requires-python", ">=3.9")
    build = {_name(line) for line in table.get("build-system", {}).get("requires", ())}
    # Without a release it is pinned to the functions alone, which it compares when it is loaded.
    needed = [f"vllm=={plan.release}"] if plan.release else ["vllm"]
    for change in plan.files:
        if change.path == "requirements/npu.txt":
            needed += [
                line
                for line in _requirements(change.after.decode())
                if _name(line) not in build and not _name(line).startswith("setuptools")
            ]
    return (
        _environment()
        .get_template("pyproject.toml.j2")
        .render(
            distribution=DISTRIBUTION,
            package=PACKAGE,
            version=plan.release or "0",
            python=python,
            dependencies=needed,
            made_from=_made_from(plan),
        )
    )


def _requirements(text: str) -> list[str]:
    lines = (line.partition("#")[0].strip() for line in text.splitlines())
    return [line.replace('"', "'") for line in lines if line and not line.startswith("-")]


def _name(line: str) -> str:
    try:
        return canonicalize_name(Requirement(line).name)
    except InvalidRequirement:
        return line


def _readme(
    plan: Plan,
    patches: Sequence[PatchFile],
    modules: Sequence[FileChange],
    left: dict[str, str],
) -> str:
    return (
        _environment()
        .get_template("README.md.j2")
        .render(
            made_from=_made_from(plan),
            distribution=DISTRIBUTION,
            package=PACKAGE,
            tool=f"vllm-npu-migrate {__version__}",
            groups=_GROUPS,
            patches=patches,
            modules=[module.path for module in modules],
            left=left,
        )
    )


# -- the log


def _log(
    plan: Plan,
    files: dict[str, bytes],
    patches: Sequence[PatchFile],
    renames: dict[str, str],
    left: dict[str, str],
) -> Log:
    """The plan's log with the places that its changes have in the plugin."""
    log = make_log(plan)
    by_path = {patch.module: patch for patch in patches}
    entries = tuple(
        FileEntry(path, "added", None, digest(data)) for path, data in sorted(files.items())
    )
    changes = []
    for record in plan.records:
        if record.after is None or record.path in left:
            continue
        name = module_name(record.path)
        if name in renames:
            path = PACKAGE + "/" + record.path.removeprefix(VLLM)
            lines = Lines(record.after.line, record.after.end_line)
        else:
            path, lines = by_path[name].path, _line_in_patch(by_path[name], record)
        changes.append(
            ChangeEntry(record.rule, path, record.site, None, lines, record.source, record.reason)
        )
    changes.sort(key=lambda e: (e.path, e.after.line, e.rule, e.site))
    packaged = [
        LeftEntry(record.rule, record.path, record.site, None, "skipped", left[record.path])
        for record in plan.records
        if record.after is not None and record.path in left
    ]
    return msgspec.structs.replace(
        log, files=entries, changes=tuple(changes), left_alone=(*log.left_alone, *packaged)
    )


def _line_in_patch(patch: PatchFile, record: Record) -> Lines:
    """Where a change is in the patch; of one in several statements, the first."""
    assert record.after is not None
    starts = [first for first, _, _ in patch.places]
    at = max(bisect.bisect_right(starts, record.after.end_line) - 1, 0)
    while at and patch.places[at - 1][1] >= record.after.line:
        at -= 1
    first, last, line = patch.places[at]
    begin, end = max(record.after.line, first), min(record.after.end_line, last)
    return Lines(line + begin - first, line + end - first)
