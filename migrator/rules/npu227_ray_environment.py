# SPDX-License-Identifier: Apache-2.0
"""NPU227: the environment variables that Ray's actors get."""

from __future__ import annotations

import re
from collections.abc import Iterator

import libcst as cst

from migrator.codemod.matchers import first_statement, mentions, places
from migrator.codemod.recipes.rewrites import with_elements
from migrator.codemod.rule import File, Finding, Insert, Replace, Rule, Safety, changed, migrated
from migrator.rules._ray import (
    ACTOR,
    ACTORS,
    COPIED,
    CORE,
    ENGINES,
    ENV,
    EXECUTORS,
    PREFIX_SET,
    SITES,
    SPECIFIC,
    sets_called,
)

_VISIBLE = '"ASCEND_RT_VISIBLE_DEVICES"'
_HIDDEN = re.compile(r"del os\.environ\[([\"'])CUDA_VISIBLE_DEVICES\1\]")

COPIED_PREFIXES = ("ASCEND_", "HCCL_", "LCCL_", "PYTORCH_NPU_", "TASK_QUEUE_ENABLE")
"""How the variables begin that CANN, its collectives and torch_npu read in every process."""

EXCLUDE = f"""\
# Which NPUs an actor sees is decided on its own node.
exclude_vars = {{*(exclude_vars or ()), {_VISIBLE}}}
"""
ADD = f"""\
additional_vars = {{
    *(additional_vars or ()),
    *(
        name
        for name in os.environ
        if name.startswith(
            ({", ".join(f'"{prefix}"' for prefix in COPIED_PREFIXES)})
        )
    ),
}}
"""
RUNTIME_ENV = """\
from vllm.platforms import current_platform
npu_options: dict[str, dict] = {}
if current_platform.device_type == "npu":
    import os

    # Ray's actors get nothing of this process's environment by themselves.
    names = current_platform.additional_env_vars
    npu_options["runtime_env"] = {"env_vars": {name: os.environ[name] for name in names}}
"""


_SET = 'os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")'
HIDDEN = f"""\
from vllm.platforms import current_platform
if current_platform.device_type == "npu":
    # Ray sets it for GPUs alone.
    {_SET}
"""


class RayEnvironment(Rule):
    """Hand the variables of CANN, HCCL and torch_npu over to Ray's actors.

    ## What it does
    `get_env_vars_to_copy` also names the variables of the driver that begin with `ASCEND_`,
    `HCCL_`, `LCCL_`, `PYTORCH_NPU_` or `TASK_QUEUE_ENABLE`: by `DEFAULT_ENV_VAR_PREFIXES` where the
    release has that. `ASCEND_RT_VISIBLE_DEVICES` is never among them, and joins
    `WORKER_SPECIFIC_ENV_VARS`. Where data-parallel engines in Ray's actors get no variables at all
    (0.9.2), they get these, and do without a `CUDA_VISIBLE_DEVICES` that Ray sets for GPUs alone.

    ## Why
    Ray starts its workers with the environment of `ray start`, on every node. What is set for
    `vllm serve` reaches them only if vLLM copies it, as it does with `NCCL_`. Without
    `HCCL_SOCKET_IFNAME` collectives of several nodes may take an interface that reaches nobody.

    ## Example
    ```python
    DEFAULT_ENV_VAR_PREFIXES: set[str] = {
        "VLLM_",
        "NCCL_",
        "HCCL_",
    }
    ```

    ## Safety
    Equivalent where none of these variables is set, as with CUDA.
    """

    code = "NPU227"
    safety = Safety.EQUIVALENT
    paths = (ENV, *EXECUTORS, *ENGINES, CORE)
    triggers = (
        rf"def {COPIED}\b",
        rf"\b{SPECIFIC}\b[^=\n]*=",
        r"class CoreEngineActorManager\b",
        _HIDDEN.pattern,
    )
    sites = SITES

    def check(self, file: File) -> Iterator[Finding]:
        """Report the sites of the file at hand."""
        if file.path == ENV:
            yield from _environment(file)
        elif file.path in ENGINES:
            yield from _actors(file)
        elif file.path == CORE:
            yield from _actor(file)
        else:
            reason = "which NPUs a worker sees is its own"
            yield from _longer(file, SPECIFIC, reason, _VISIBLE, _VISIBLE)


def _longer(file: File, name: str, reason: str, known: str, *elements: str) -> Iterator[Finding]:
    """Report the sets called `name`, which get elements unless they have `known`."""
    for place in sets_called(name, file):
        node = place.node
        if known in file.code(node):
            yield migrated(name, node)
        else:
            edit = Replace(node, lambda old: with_elements(old, *elements))
            yield changed(name, node, reason, edit)


def _environment(file: File) -> Iterator[Finding]:
    function = file.function(COPIED)
    if function is None:
        return
    reason = "the settings of CANN and HCCL do not reach the workers"
    prefixes = [f'"{prefix}"' for prefix in COPIED_PREFIXES]
    by_prefix = list(_longer(file, PREFIX_SET, reason, '"HCCL_"', *prefixes))
    yield from by_prefix
    if _VISIBLE in file.code(function):
        yield migrated(COPIED, function)
        return
    yield changed(
        COPIED,
        function,
        "the settings of CANN and HCCL reach the workers, their devices are their own",
        Insert(first_statement(function), EXCLUDE + ("" if by_prefix else ADD)),
    )


def _actors(file: File) -> Iterator[Finding]:
    function = file.function(ACTORS)
    if function is None:
        return
    for place in places(function.body, cst.Call):
        node = place.node
        if not (isinstance(node.func, cst.Attribute) and node.func.attr.value == "options"):
            continue
        given = {arg.keyword.value for arg in node.args if arg.keyword is not None}
        if "scheduling_strategy" not in given:
            continue
        if mentions(function, "additional_env_vars"):
            yield migrated(ACTORS, node)
            continue
        if "runtime_env" in given:
            continue
        yield changed(
            ACTORS,
            node,
            "engines in Ray's actors get none of the driver's variables",
            Insert(first_statement(function), RUNTIME_ENV),
            Replace(node, _with_npu_options),
        )


def _actor(file: File) -> Iterator[Finding]:
    function = file.function(ACTOR)
    if function is None:
        return
    for place in places(function.body, cst.SimpleStatementLine):
        if not _HIDDEN.search(file.code(place.node)):
            continue
        if _SET in file.code(function):
            yield migrated(ACTOR, place.node)
            continue
        reason = "Ray sets CUDA_VISIBLE_DEVICES for GPUs alone"
        yield changed(ACTOR, place.node, reason, Insert(place.node, HIDDEN))


def _with_npu_options(node: cst.CSTNode) -> cst.CSTNode:
    assert isinstance(node, cst.Call)
    call = cst.ensure_type(cst.parse_expression("f(**npu_options)"), cst.Call)
    *rest, last = node.args
    between = cst.Comma(whitespace_after=cst.SimpleWhitespace(" "))
    added = call.args[0].with_changes(comma=last.comma)
    return node.with_changes(args=[*rest, last.with_changes(comma=between), added])
