# SPDX-License-Identifier: Apache-2.0
"""NPU130: the platform's process-group backend instead of NCCL's name."""

from __future__ import annotations

import re
from collections.abc import Iterator

import libcst as cst

from migrator.codemod.matchers import (
    Place,
    annotated,
    annotation_text,
    cuda_only,
    dotted,
    first_statement,
    parameters,
    places,
    walk,
)
from migrator.codemod.recipes.platforms import (
    IMPORT,
    binds_platform,
    platform_device,
    with_platform_import,
)
from migrator.codemod.rule import (
    Edit,
    File,
    Finding,
    Insert,
    Replace,
    Rule,
    Safety,
    Site,
    changed,
    migrated,
    skipped,
)
from migrator.rules._process_groups import bound_devices, is_fallback, is_group_argument, is_nccl

_MAP = re.compile(r"(?:\w+:\w+,)*cuda:nccl(?:,\w+:\w+)*")
_INTERFACE = "vllm/platforms/interface.py"


class HcclBackend(Rule):
    """Let the platform name the backend of process groups, so that an NPU gets HCCL.

    ## What it does
    A `"nccl"` that is the backend of a process group becomes `current_platform.dist_backend`: the
    default of a parameter `backend` (which becomes None and is filled in first), a `backend=`
    argument of a call that makes a group, `backend or "nccl"`, and a map such as
    `"cpu:gloo,cuda:nccl"`, whose device becomes the platform's too, and so does the device
    `f"cuda:{index}"` that such a group is bound to. Release 0.9.2, whose platforms do not name a
    backend yet, gets the attribute with the default `"nccl"`. Strings that name the NCCL library
    or one of vLLM's own engines stay.

    ## Why
    A group that is made with `"nccl"` on an NPU fails, or falls back to gloo without a word but a
    warning. The NPU platform's `dist_backend` is `"hccl"`.

    ## Example
    ```python
    def init_distributed_environment(world_size=-1, backend: str | None = None):
        if backend is None:
            backend = current_platform.dist_backend
    ```

    ## Safety
    Behaviour: CUDA and ROCm get `"nccl"` as before, since that is their platforms' `dist_backend`.
    A platform that relied on the default now gets its own backend instead of NCCL's.
    """

    code = "NPU130"
    safety = Safety.BEHAVIOUR
    reads = (r"dist_backend", r"device_control_env_var", r"cuda:")
    triggers = (r"nccl[\"',]", r"dist_backend\s*:")
    sites = (
        Site("init_distributed_environment", ("vllm/distributed/parallel_state.py",)),
        Site("init_worker_distributed_environment", ("vllm/v1/worker/gpu_worker.py",)),
        Site("Platform.dist_backend", (_INTERFACE,)),
    )

    def check(self, file: File) -> Iterator[Finding]:
        """Report the strings that name NCCL, and the migrated defaults."""
        if file.path == _INTERFACE:
            yield from _platform_attribute(file)
        elsewhere = cuda_only(file.path, file.imports)
        for name, definition in file.every_definition():
            if isinstance(definition, cst.FunctionDef) and elsewhere is None:
                yield from _default(file, name, definition)
        imported: set[int] = set()
        for place in places(file.kept, cst.SimpleString):
            yield from _string(file, place, elsewhere, imported)


def _platform_attribute(file: File) -> Iterator[Finding]:
    class_ = file.head("Platform")
    if class_ is None:
        return
    declared = annotated(class_)
    anchor = declared.get("device_control_env_var")
    own = declared.get("dist_backend")
    if own is not None:
        if "nccl" in file.code(own):
            yield migrated("Platform.dist_backend", own)
        else:
            yield skipped("Platform.dist_backend", own, "platforms name their backend themselves")
    elif anchor is not None:
        code = (
            "# Backend of this platform's process groups in torch.distributed.\n"
            'dist_backend: str = "nccl"\n'
        )
        yield changed(
            "Platform.dist_backend",
            anchor,
            "platforms do not name their process-group backend in this release",
            Insert(anchor, code, where="after", blank_lines=1),
        )


def _default(file: File, name: str, function: cst.FunctionDef) -> Iterator[Finding]:
    """A function whose parameter `backend` has the default `"nccl"`, or had it once."""
    parameter = next((p for p in parameters(function) if p.name.value == "backend"), None)
    if parameter is None or parameter.default is None:
        return
    if dotted(parameter.default) == "None":
        if any(
            isinstance(node, cst.Attribute) and node.attr.value == "dist_backend"
            for node in walk(function.body)
        ):
            yield migrated(name, function)
        return
    if not is_nccl(parameter.default):
        return
    # A file may import it and use it no longer, or for a type only that is forward declared.
    old = file.data.count(b"Optional[") > file.data.count(b"| None")
    optional = "Optional[str]" if old else "str | None"

    def no_default(node: cst.CSTNode) -> cst.CSTNode:
        assert isinstance(node, cst.Param)
        annotation = node.annotation
        if annotation is not None and annotation_text(annotation) == "str":
            annotation = annotation.with_changes(annotation=cst.parse_expression(optional))
        return node.with_changes(default=cst.Name("None"), annotation=annotation)

    body = "    backend = current_platform.dist_backend\n"
    if not binds_platform(file, [function]):
        body = f"    {IMPORT}\n{body}"
    yield changed(
        name,
        function,
        "its groups get NCCL unless told otherwise; the platform knows its backend",
        Replace(parameter, no_default),
        Insert(first_statement(function), f"if backend is None:\n{body}"),
    )


def _string(
    file: File, place: Place[cst.SimpleString], elsewhere: str | None, imported: set[int]
) -> Iterator[Finding]:
    node = place.node
    if "nccl" not in node.value:
        return
    value = node.evaluated_value
    if not isinstance(value, str) or (value != "nccl" and not _MAP.fullmatch(value)):
        return
    parent = place.parent
    site = place.qualified_name
    if isinstance(parent, cst.Param) and parent.name.value == "backend":
        return  # `_default` reports it
    if elsewhere is not None:
        yield skipped(site, node, elsewhere)
        return
    devices: list[cst.FormattedString] = []
    if _MAP.fullmatch(value):
        new = value.replace(
            "cuda:nccl", "{current_platform.device_type}:{current_platform.dist_backend}"
        )
        code = f'f"{new}"'
        devices = bound_devices(place)
    elif is_group_argument(place) or is_fallback(place):
        code = "current_platform.dist_backend"
    else:
        yield skipped(site, node, "it names NCCL itself, not the backend of a process group")
        return
    backend = cst.parse_expression(code)
    edits: list[Edit] = [Replace(node, lambda _: backend)]
    scope = place.function
    if not binds_platform(file, place.functions) and id(scope) not in imported:
        imported.add(id(scope))
        edits = with_platform_import(place, backend)
    edits += [Replace(text, platform_device) for text in devices]
    yield changed(
        site, node, "a process group of this platform needs this platform's backend", *edits
    )
