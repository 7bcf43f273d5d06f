# SPDX-License-Identifier: Apache-2.0
"""Which variables reach Ray's actors, by the emitted code itself and without a device."""

from __future__ import annotations

import ast
import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from migrator.codemod.engine import migrate_file
from migrator.codemod.templates import load
from migrator.files.tree import Tree
from migrator.rules import all_rules
from tests.rules.test_releases import DEFAULT, OTHERS

SET = {
    "HCCL_IF_IP": "10.0.0.1",
    "HCCL_SOCKET_IFNAME": "eth0",
    "ASCEND_GLOBAL_LOG_LEVEL": "3",
    "PYTORCH_NPU_ALLOC_CONF": "expandable_segments:True",
    "TASK_QUEUE_ENABLE": "1",
    "LCCL_DETERMINISTIC": "1",
}
OWN = "ASCEND_RT_VISIBLE_DEVICES"

BY_NAME = '''\
import os


def get_env_vars_to_copy(exclude_vars=None, additional_vars=None, destination=None):
    """The names of variables that are registered or asked for."""
    exclude_vars = exclude_vars or set()
    additional_vars = additional_vars or set()
    return {v for v in {"VLLM_USE_V1"} | additional_vars if v not in exclude_vars}
'''
BY_PREFIX = '''\
import os

DEFAULT_ENV_VAR_PREFIXES: set[str] = {"VLLM_", "NCCL_"}


def get_env_vars_to_copy(exclude_vars=None, additional_vars=None, destination=None):
    """The names of variables that begin in some way or are asked for."""
    exclude = exclude_vars or set()
    found = {v for v in os.environ if v.startswith(tuple(DEFAULT_ENV_VAR_PREFIXES))}
    return (found | (additional_vars or set())) - exclude
'''


@pytest.fixture
def variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {**SET, OWN: "4,5"}.items():
        monkeypatch.setenv(name, value)


def migrated(source: str, path: str = "vllm/ray/ray_env.py") -> str:
    rules = [rule for rule in all_rules() if rule.code == "NPU227"]
    result = migrate_file(path, source.encode(), rules, Tree({path: source.encode()}))
    assert result.failure is None
    assert result.after is not None
    return result.after.decode()


def copied(source: str) -> Callable[..., set[str]]:
    names: dict[str, Any] = {}
    exec(compile(source, "ray_env.py", "exec"), names)
    function: Callable[..., set[str]] = names["get_env_vars_to_copy"]
    return function


@pytest.mark.usefixtures("variables")
@pytest.mark.parametrize("source", [BY_NAME, BY_PREFIX])
def test_settings_of_the_device_are_copied(source: str) -> None:
    assert not set(SET) & copied(source)()
    found = copied(migrated(source))
    assert set(SET) <= found()
    assert set(SET) <= found(additional_vars={"HF_TOKEN"}, destination="workers")
    # An actor's devices are those that Ray gave it, whoever asks.
    assert OWN not in found()
    assert OWN not in found(additional_vars={OWN})
    assert "HCCL_IF_IP" not in found(exclude_vars={"HCCL_IF_IP"})


@pytest.mark.usefixtures("variables")
@pytest.mark.parametrize("source", [BY_NAME, BY_PREFIX])
def test_arguments_are_left_as_they_are(source: str) -> None:
    found = copied(migrated(source))
    excluded, asked = {"HCCL_IF_IP"}, {"HF_TOKEN"}
    found(exclude_vars=excluded, additional_vars=asked)
    assert (excluded, asked) == ({"HCCL_IF_IP"}, {"HF_TOKEN"})


@pytest.mark.usefixtures("variables")
def test_platform_names_them_for_its_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    module = ast.parse(load("vllm/platforms/npu.py"))
    (prefixes,) = (n for n in module.body if "ENV_VAR_PREFIXES" in ast.unparse(n).split(" = ")[:1])
    (platform,) = (n for n in module.body if getattr(n, "name", "") == "NPUPlatform")
    assert isinstance(platform, ast.ClassDef)
    # The rest of the platform needs torch and vLLM.
    platform.bases = []
    platform.body = [
        node
        for node in platform.body
        if getattr(node, "name", "") == "additional_env_vars"
        or "device_control_env_var: str" in ast.unparse(node)
    ]
    names: dict[str, Any] = {"os": os}
    exec(compile(ast.Module([prefixes, platform], []), "npu.py", "exec"), names)
    found = names["NPUPlatform"]()
    assert set(found.additional_env_vars) >= set(SET)
    assert OWN not in found.additional_env_vars
    # What vLLM sets after it has chosen its platform counts as well.
    monkeypatch.setenv("HCCL_OP_EXPANSION_MODE", "AIV")
    assert "HCCL_OP_EXPANSION_MODE" in found.additional_env_vars


@pytest.mark.parametrize(
    ("before", "now", "local_rank", "index"),
    [
        (None, None, 1, 1),
        ("2,3", "2,3", 1, 1),
        # A worker of Ray, which Ray has let see its own NPU and vLLM those of all workers.
        ("3", "2,3", 1, 0),
        # An engine of Ray, whose own NPU vLLM sets when the engine runs already.
        (None, "1", 0, 1),
        ("4,6,7", "6", 0, 1),
        ("1", None, 1, 0),
    ],
)
def test_a_worker_takes_its_npu_among_those_that_its_process_sees(
    before: str | None,
    now: str | None,
    local_rank: int,
    index: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert device_index(monkeypatch, before, now)(local_rank) == index


def test_a_worker_that_does_not_see_its_npu(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match=r"NPU: 5 was chosen for this worker, which sees \[1\]"):
        device_index(monkeypatch, "1", "4,5")(1)


def device_index(
    monkeypatch: pytest.MonkeyPatch, before: str | None, now: str | None
) -> Callable[[int], int]:
    """The platform's method, in a process on a machine of 8 NPUs whose variable was changed."""
    module = ast.parse(load("vllm/platforms/npu.py"))
    (visible,) = (n for n in module.body if ast.unparse(n).startswith("_VISIBLE = "))
    (platform,) = (n for n in module.body if getattr(n, "name", "") == "NPUPlatform")
    assert isinstance(platform, ast.ClassDef)
    platform.bases = []
    platform.body = [
        node
        for node in platform.body
        if getattr(node, "name", "") == "device_index"
        or "device_control_env_var: str" in ast.unparse(node)
    ]
    torch = SimpleNamespace(npu=SimpleNamespace(device_count=lambda: 8))
    names: dict[str, Any] = {"os": os, "torch": torch}
    for value, part in ((before, visible), (now, platform)):
        if value is None:
            monkeypatch.delenv(OWN, raising=False)
        else:
            monkeypatch.setenv(OWN, value)
        exec(compile(ast.Module([part], []), "npu.py", "exec"), names)
    index: Callable[[int], int] = names["NPUPlatform"].device_index
    return index


@pytest.mark.releases
@pytest.mark.usefixtures("variables")
@pytest.mark.parametrize(
    "version", [*DEFAULT, *(pytest.param(v, marks=pytest.mark.slow) for v in OTHERS)]
)
def test_release(
    version: str, release: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The function of the release itself, and the names that it keeps from workers."""
    root = release(version)
    executors = [
        path
        for path in (
            "vllm/v1/executor/ray_utils.py",
            "vllm/v1/executor/ray_executor.py",
            "vllm/executor/ray_distributed_executor.py",
        )
        if "WORKER_SPECIFIC_ENV_VARS: " in (text := _text(root / path))
        or "WORKER_SPECIFIC_ENV_VARS = " in text
    ]
    assert executors
    for path in executors:
        assert OWN in migrated(_text(root / path), path)
    file = root / "vllm/ray/ray_env.py"
    if not file.is_file():
        engines = migrated(_text(root / "vllm/v1/engine/utils.py"), "vllm/v1/engine/utils.py")
        assert "**npu_options" in engines
        return
    for name in ("vllm", "vllm.envs", "vllm.logger"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    envs = sys.modules["vllm.envs"]
    vars(envs).update(
        environment_variables={},
        VLLM_CONFIG_ROOT="/nowhere",
        VLLM_RAY_EXTRA_ENV_VAR_PREFIXES_TO_COPY="",
        VLLM_RAY_EXTRA_ENV_VARS_TO_COPY="",
    )
    vars(sys.modules["vllm"])["envs"] = envs
    quiet = SimpleNamespace(info=lambda *a: None, warning=lambda *a: None)
    vars(sys.modules["vllm.logger"])["init_logger"] = lambda name: quiet
    found = copied(migrated(_text(file)))
    assert set(SET) <= found()
    assert OWN not in found(additional_vars={OWN})


def _text(path: Path) -> str:
    return path.read_text("utf-8") if path.is_file() else ""
