# SPDX-License-Identifier: Apache-2.0
"""NPU227: the environment variables that Ray's actors get."""

from __future__ import annotations

import re
from collections.abc import Iterator

import libcst as cst

from migrator.codemod.matchers import Place, dotted, first_statement, places
from migrator.codemod.recipes import mentions
from migrator.codemod.rule import (
    Absence,
    File,
    Finding,
    Insert,
    Replace,
    Rule,
    Safety,
    Site,
    changed,
    migrated,
)
from migrator.files.tree import Tree

_ENV = "vllm/ray/ray_env.py"
_UTILS = "vllm/v1/engine/utils.py"
_ENGINES = (_UTILS, "vllm/v1/utils.py")
"""Where engines in actors are made; the latter in trees a few days older than 0.9.2."""
_CORE = "vllm/v1/engine/core.py"
_EXECUTORS = (
    "vllm/v1/executor/ray_utils.py",
    "vllm/v1/executor/ray_executor.py",
    "vllm/executor/ray_distributed_executor.py",
)
_COPIED = "get_env_vars_to_copy"
_PREFIXES = "DEFAULT_ENV_VAR_PREFIXES"
_SPECIFIC = "WORKER_SPECIFIC_ENV_VARS"
_ACTORS = "CoreEngineActorManager.__init__"
_ACTOR = "DPEngineCoreActor.__init__"
_VISIBLE = '"ASCEND_RT_VISIBLE_DEVICES"'
_HIDDEN = re.compile(r"del os\.environ\[([\"'])CUDA_VISIBLE_DEVICES\1\]")

_EXTRA = "VLLM_RAY_EXTRA_ENV_VAR_PREFIXES_TO_COPY"
_SETS_DEVICES = re.compile(r"_set_(?:cuda_)?visible_devices")

PREFIXES = ("ASCEND_", "HCCL_", "LCCL_", "PYTORCH_NPU_", "TASK_QUEUE_ENABLE")
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
            ({", ".join(f'"{prefix}"' for prefix in PREFIXES)})
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


def _executor_names_them(tree: Tree) -> bool:
    """Does Ray's executor go through vLLM's variables by itself?"""
    needed = {"env_vars_to_copy", "environment_variables"}
    return any(needed <= tree.names(path) for path in _EXECUTORS)


def _copies_by_name(tree: Tree) -> bool:
    """Are variables copied that vLLM or the caller names, whatever their prefixes?"""
    names = tree.names(_ENV, _COPIED)
    by_name = {"environment_variables", "additional_vars"} <= names
    return (by_name and _EXTRA not in names) or _executor_names_them(tree)


def _engines_ask(tree: Tree) -> bool:
    """Do engines in Ray's actors get the variables that its executor's workers get?"""
    return any({_COPIED, "runtime_env"} <= tree.names(path, _ACTORS) for path in _ENGINES)


def _narrows_itself(tree: Tree) -> bool:
    """Does an engine in Ray's actor set the variable of its platform's devices?"""
    return any(_SETS_DEVICES.fullmatch(name) for name in tree.names(_CORE))


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
    paths = (_ENV, *_EXECUTORS, *_ENGINES, _CORE)
    triggers = (
        rf"def {_COPIED}\b",
        rf"\b{_SPECIFIC}\b[^=\n]*=",
        r"class CoreEngineActorManager\b",
        _HIDDEN.pattern,
    )
    sites = (
        Site(
            _COPIED,
            (_ENV,),
            (Absence("<0.10.0", "its executor names the variables itself", _executor_names_them),),
        ),
        Site(
            _PREFIXES,
            (_ENV,),
            (Absence("<0.17.0", "variables are copied by name alone", _copies_by_name),),
        ),
        Site(_SPECIFIC, _EXECUTORS),
        Site(
            _ACTORS,
            _ENGINES,
            (Absence(">=0.10.0", "engines get what get_env_vars_to_copy names", _engines_ask),),
        ),
        Site(
            _ACTOR,
            (_CORE,),
            (Absence(">=0.10.0", "it narrows the devices of its own platform", _narrows_itself),),
        ),
    )

    def check(self, file: File) -> Iterator[Finding]:
        """Report the sites of the file at hand."""
        if file.path == _ENV:
            yield from _environment(file)
        elif file.path in _ENGINES:
            yield from _actors(file)
        elif file.path == _CORE:
            yield from _actor(file)
        else:
            for place in _sets(file, _SPECIFIC):
                node = place.node
                if _VISIBLE in file.code(node):
                    yield migrated(_SPECIFIC, node)
                    continue
                reason = "which NPUs a worker sees is its own"
                yield changed(_SPECIFIC, node, reason, Replace(node, _with(_VISIBLE)))


def _environment(file: File) -> Iterator[Finding]:
    function = file.function(_COPIED)
    if function is None:
        return
    by_prefix = list(_sets(file, _PREFIXES))
    for place in by_prefix:
        node = place.node
        if '"HCCL_"' in file.code(node):
            yield migrated(_PREFIXES, node)
            continue
        names = [f'"{prefix}"' for prefix in PREFIXES]
        reason = "the settings of CANN and HCCL do not reach the workers"
        yield changed(_PREFIXES, node, reason, Replace(node, _with(*names)))
    if _VISIBLE in file.code(function):
        yield migrated(_COPIED, function)
        return
    yield changed(
        _COPIED,
        function,
        "the settings of CANN and HCCL reach the workers, their devices are their own",
        Insert(first_statement(function), EXCLUDE + ("" if by_prefix else ADD)),
    )


def _actors(file: File) -> Iterator[Finding]:
    function = file.function(_ACTORS)
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
            yield migrated(_ACTORS, node)
            continue
        if "runtime_env" in given:
            continue
        yield changed(
            _ACTORS,
            node,
            "engines in Ray's actors get none of the driver's variables",
            Insert(first_statement(function), RUNTIME_ENV),
            Replace(node, _with_npu_options),
        )


def _actor(file: File) -> Iterator[Finding]:
    function = file.function(_ACTOR)
    if function is None:
        return
    for place in places(function.body, cst.SimpleStatementLine):
        if not _HIDDEN.search(file.code(place.node)):
            continue
        if _SET in file.code(function):
            yield migrated(_ACTOR, place.node)
            continue
        reason = "Ray sets CUDA_VISIBLE_DEVICES for GPUs alone"
        yield changed(_ACTOR, place.node, reason, Insert(place.node, HIDDEN))


def _sets(file: File, name: str) -> Iterator[Place[cst.Set]]:
    """The set literals that `name` is bound to, in the module or in a class."""
    for place in places(file.kept, cst.Set):
        above = place.parent
        target: cst.CSTNode | None = None
        if isinstance(above, cst.AnnAssign):
            target = above.target
        elif isinstance(above, cst.Assign):
            target = above.targets[0].target
        if target is not None and dotted(target) == name:
            yield place


class _with:  # noqa: N801 - a function that can be compared and pickled
    """Adds elements to a set, laid out as its others are."""

    def __init__(self, *elements: str) -> None:
        self._elements = elements

    def __call__(self, node: cst.CSTNode) -> cst.CSTNode:
        assert isinstance(node, cst.Set)
        *rest, last = node.elements
        ends = isinstance(last.comma, cst.Comma)
        # A line for each, if the set has lines of its own.
        between = cst.Comma(whitespace_after=node.lbrace.whitespace_after)
        new = [cst.Element(cst.SimpleString(text), comma=between) for text in self._elements]
        new[-1] = new[-1].with_changes(comma=last.comma if ends else cst.MaybeSentinel.DEFAULT)
        return node.with_changes(elements=[*rest, last.with_changes(comma=between), *new])


def _with_npu_options(node: cst.CSTNode) -> cst.CSTNode:
    assert isinstance(node, cst.Call)
    call = cst.ensure_type(cst.parse_expression("f(**npu_options)"), cst.Call)
    *rest, last = node.args
    between = cst.Comma(whitespace_after=cst.SimpleWhitespace(" "))
    added = call.args[0].with_changes(comma=last.comma)
    return node.with_changes(args=[*rest, last.with_changes(comma=between), added])
