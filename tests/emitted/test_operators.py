# SPDX-License-Identifier: Apache-2.0
"""Emitted modules of real releases are executed with a torch_npu that records and computes.

The checks in tests/emitted run in the environment that has torch: pytest's own, or the one that
VLLM_NPU_MIGRATE_SIMULATOR_ENV names. Without torch they are skipped, unless
VLLM_NPU_MIGRATE_REQUIRE_SIMULATOR is set.
"""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from migrator.codemod.rule import Rule
from migrator.codemod.templates import template_root
from migrator.files.tree import DiskTree, Tree
from migrator.planning.plan import make_plan
from migrator.rules import all_rules

pytestmark = pytest.mark.releases

INSIDE = Path(__file__).parent
DRIVER = INSIDE.parent / "simulator" / "inside" / "driver.py"
FILES = (
    "checks_custom_ops.py",
    "checks_kernels.py",
    "checks_layers.py",
    "checks_lora.py",
    "checks_speculation.py",
)
NNAL = "vllm/platforms/npu_nnal.py"
LAYERS = "vllm/model_executor/layers"
MODULES = (
    "vllm/_custom_ops.py",
    "vllm/model_executor/custom_op.py",
    f"{LAYERS}/activation.py",
    f"{LAYERS}/layernorm.py",
    f"{LAYERS}/rotary_embedding/base.py",
    f"{LAYERS}/rotary_embedding/common.py",
    "vllm/lora/punica_wrapper/punica_base.py",
    "vllm/lora/punica_wrapper/utils.py",
)
# Templates are fitted to these, which stay stubs.
AROUND = (
    "vllm/lora/layers.py",
    "vllm/lora/layers/__init__.py",
    "vllm/platforms/__init__.py",
    "vllm/utils/__init__.py",
    "vllm/utils/torch_utils.py",
)


def checks() -> list[tuple[str, str]]:
    return [
        (file, node.name)
        for file in FILES
        for node in ast.parse((INSIDE / file).read_text(encoding="utf-8")).body
        if isinstance(node, ast.FunctionDef) and node.name.startswith("check_")
    ]


@pytest.fixture(scope="module")
def python() -> str:
    """The interpreter of an environment with torch."""
    named = os.environ.get("VLLM_NPU_MIGRATE_SIMULATOR_ENV")
    python = str(Path(named, "bin", "python")) if named else sys.executable
    probe = "import importlib.util, sys; sys.exit(importlib.util.find_spec('torch') is None)"
    if subprocess.run([python, "-c", probe]).returncode:
        if os.environ.get("VLLM_NPU_MIGRATE_REQUIRE_SIMULATOR"):
            pytest.fail(f"torch is not installed for {python}")
        pytest.skip(f"torch is not installed for {python}")
    return python


@pytest.fixture(scope="module")
def outcomes(
    python: str,
    release: Callable[[str], Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[tuple[str, str], str | None]:
    """What came of every check: null or a traceback."""
    trees = tmp_path_factory.mktemp("trees")
    for version in ("0.9.2", "0.11.0", "0.33.0"):
        source = DiskTree(release(version))
        files = {p: data for p in MODULES if (data := source.read(p)) is not None}
        around = {p: data for p in AROUND if (data := source.read(p)) is not None}
        tree = Tree(files | around)
        plan = make_plan(tree, _first_log())
        emitted = files | {
            change.path: change.after for change in plan.files if change.path not in around
        }
        assert emitted != files
        emitted[NNAL] = (template_root() / NNAL).read_bytes()
        for kind, content in (("pristine", files), ("emitted", emitted)):
            for path, data in content.items():
                place = trees / version / kind / path
                place.parent.mkdir(parents=True, exist_ok=True)
                place.write_bytes(data)
    done = subprocess.run(
        [python, str(DRIVER), "--each", *(str(INSIDE / file) for file in FILES)],
        env=os.environ
        | {
            "EMITTED_TREES": str(trees),
            "PYTHONPATH": str(INSIDE.parents[1]),
            "OMP_NUM_THREADS": "1",
            # torch would import the real torch_npu by itself, which wants CANN.
            "TORCH_DEVICE_BACKEND_AUTOLOAD": "0",
        },
        capture_output=True,
        text=True,
        timeout=1200,
    )
    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    return {
        (file, name): trace
        for file, line in zip(FILES, lines, strict=True)
        for name, trace in json.loads(line).items()
    }


def _first_log() -> list[Rule]:
    return [rule for rule in all_rules() if rule.code.startswith(("NPU0", "NPU1", "NPU308"))]


@pytest.mark.parametrize(
    ("file", "check"), checks(), ids=lambda value: value.removeprefix("check_")
)
def test_emitted(outcomes: dict[tuple[str, str], str | None], file: str, check: str) -> None:
    trace = outcomes[file, check]
    if trace is not None:
        pytest.fail(trace, pytrace=False)
