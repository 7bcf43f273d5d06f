# SPDX-License-Identifier: Apache-2.0
"""Where releases say which environment variables Ray's actors get, and what other ones do."""

from __future__ import annotations

import re
from collections.abc import Iterator

import libcst as cst

from migrator.codemod.matchers import Place, dotted, places
from migrator.codemod.rule import Absence, File, Site
from migrator.files.tree import Tree

ENV = "vllm/ray/ray_env.py"
_UTILS = "vllm/v1/engine/utils.py"
ENGINES = (_UTILS, "vllm/v1/utils.py")
"""Where engines in actors are made; the latter in trees a few days older than 0.9.2."""
CORE = "vllm/v1/engine/core.py"
EXECUTORS = (
    "vllm/v1/executor/ray_utils.py",
    "vllm/v1/executor/ray_executor.py",
    "vllm/executor/ray_distributed_executor.py",
)
COPIED = "get_env_vars_to_copy"
PREFIX_SET = "DEFAULT_ENV_VAR_PREFIXES"
SPECIFIC = "WORKER_SPECIFIC_ENV_VARS"
ACTORS = "CoreEngineActorManager.__init__"
ACTOR = "DPEngineCoreActor.__init__"

_EXTRA = "VLLM_RAY_EXTRA_ENV_VAR_PREFIXES_TO_COPY"
_SETS_DEVICES = re.compile(r"_set_(?:cuda_)?visible_devices")


def _executor_names_them(tree: Tree) -> bool:
    """Does Ray's executor go through vLLM's variables by itself?"""
    needed = {"env_vars_to_copy", "environment_variables"}
    return any(needed <= tree.names(path) for path in EXECUTORS)


def _copies_by_name(tree: Tree) -> bool:
    """Are variables copied that vLLM or the caller names, whatever their prefixes?"""
    names = tree.names(ENV, COPIED)
    by_name = {"environment_variables", "additional_vars"} <= names
    return (by_name and _EXTRA not in names) or _executor_names_them(tree)


def _engines_ask(tree: Tree) -> bool:
    """Do engines in Ray's actors get the variables that its executor's workers get?"""
    return any({COPIED, "runtime_env"} <= tree.names(path, ACTORS) for path in ENGINES)


def _narrows_itself(tree: Tree) -> bool:
    """Does an engine in Ray's actor set the variable of its platform's devices?"""
    return any(_SETS_DEVICES.fullmatch(name) for name in tree.names(CORE))


SITES = (
    Site(
        COPIED,
        (ENV,),
        (Absence("<0.10.0", "its executor names the variables itself", _executor_names_them),),
    ),
    Site(
        PREFIX_SET,
        (ENV,),
        (Absence("<0.17.0", "variables are copied by name alone", _copies_by_name),),
    ),
    Site(SPECIFIC, EXECUTORS),
    Site(
        ACTORS,
        ENGINES,
        (Absence(">=0.10.0", "engines get what get_env_vars_to_copy names", _engines_ask),),
    ),
    Site(
        ACTOR,
        (CORE,),
        (Absence(">=0.10.0", "it narrows the devices of its own platform", _narrows_itself),),
    ),
)


def sets_called(name: str, file: File) -> Iterator[Place[cst.Set]]:
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
