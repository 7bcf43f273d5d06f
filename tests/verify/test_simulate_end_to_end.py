# SPDX-License-Identifier: Apache-2.0
"""An emitted release runs a model on the simulated Ascend, and one without a rule is found out.

The environment is the one that VLLM_NPU_MIGRATE_SIMULATOR_ENV names, or the running one; it needs
transformers and vLLM's requirements beside torch and torch_npu (docs/simulated-runs.md). Where it
has not, the tests are skipped, unless VLLM_NPU_MIGRATE_REQUIRE_SIMULATOR is set.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from migrator.files.interpreters import interpreter
from migrator.files.tree import Label
from migrator.messages.errors import MigrateError
from migrator.verify.simulate import environment
from tests.conftest import RunCli

pytestmark = [pytest.mark.simulator, pytest.mark.releases, pytest.mark.slow]

RELEASE = "0.11.0"


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of an environment that can run vLLM."""
    named = os.environ.get("VLLM_NPU_MIGRATE_SIMULATOR_ENV")
    try:
        found = interpreter(Path(named) if named else None)
        tree = environment.EmittedTree(tmp_path_factory.mktemp("none"), Label())
        environment.check(found, tree, serve=False)
    except MigrateError as error:
        if os.environ.get("VLLM_NPU_MIGRATE_REQUIRE_SIMULATOR"):
            pytest.fail(str(error))
        pytest.skip(str(error))
    return found


def test_an_emitted_release_gives_the_tokens_of_the_reference(
    run_cli: RunCli, release: Callable[[str], Path], python: Path, tmp_path: Path
) -> None:
    tree = tmp_path / "emitted"
    assert run_cli("apply", release(RELEASE), "-o", tree, "-q").code == 0
    outcome = run_cli(
        *("verify", tree, "--simulate", "--python", python, "--format", "json", "-q"),
        *("--models", "llama", "--modes", "eager,mp", "--work", tmp_path / "work"),
    )
    report = json.loads(outcome.out)
    assert [run["problems"] for run in report["runs"]] == [[], []]
    assert outcome.code == 0
    for run in report["runs"]:
        assert run["equal"] is True
        assert all(run["paths"][kind] > 0 for kind in ("prefill", "decode", "chunked", "cached"))
        assert run["gap"] > 30 * run["noise"]


def test_a_layer_that_is_not_migrated_is_found_out(
    run_cli: RunCli, release: Callable[[str], Path], python: Path, tmp_path: Path
) -> None:
    tree = tmp_path / "emitted"
    assert run_cli("apply", release(RELEASE), "-o", tree, "-q", "--ignore", "NPU120").code == 0
    outcome = run_cli(
        *("verify", tree, "--simulate", "--python", python, "--format", "json", "-q"),
        *("--models", "llama", "--modes", "eager"),
    )
    assert outcome.code == 1
    (run,) = json.loads(outcome.out)["runs"]
    assert run["equal"] is True  # its native form is right, but it is not the NPU's operator
    assert run["problems"] == ["no NPU operator for swiglu was called (npu_swiglu)"]
