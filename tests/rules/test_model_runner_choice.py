# SPDX-License-Identifier: Apache-2.0
"""Which model runner the environment and the tree choose."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from migrator.codemod.rule import Example
from migrator.rules import all_rules

sys.path.append(str(Path(__file__).resolve().parents[2] / "scripts"))

import try_rule

CONFIG = """\
from vllm.platforms import current_platform


class VllmConfig:
    @property
    def use_v2_model_runner(self) -> bool:
        return HAS_TRITON
"""
V1, V2 = "vllm/v1/worker/gpu_model_runner.py", "vllm/v1/worker/gpu/model_runner.py"


def migrated(*runners: str) -> str:
    rule = next(rule for rule in all_rules() if rule.code == "NPU218")
    others = tuple((path, "class GPUModelRunner: ...\n") for path in runners)
    example = Example(CONFIG, None, "vllm/config/vllm.py", others)
    text, _ = try_rule.run(rule, example, CONFIG)
    return str(text)


def chosen(text: str, asked: bool | None, device: str) -> bool:
    """What the property answers where Triton seems to be there."""
    platform = SimpleNamespace(device_type=device)
    names: dict[str, Any] = {
        "current_platform": platform,
        "HAS_TRITON": True,
        "envs": SimpleNamespace(VLLM_USE_V2_MODEL_RUNNER=asked),
    }
    exec(text.replace("from vllm.platforms import current_platform", ""), names)
    return bool(names["VllmConfig"]().use_v2_model_runner)


@pytest.mark.parametrize(("asked", "v2"), [(None, False), (False, False), (True, True)])
def test_the_variable_decides_where_both_are(asked: bool | None, v2: bool) -> None:
    assert chosen(migrated(V1, V2), asked, "npu") is v2


def test_a_tree_without_v1_takes_v2() -> None:
    assert chosen(migrated(V2), None, "npu") is True


def test_other_devices_are_asked_as_before() -> None:
    assert chosen(migrated(V1, V2), None, "cuda") is True
