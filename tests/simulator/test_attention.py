# SPDX-License-Identifier: Apache-2.0
"""The attention backend of emitted releases and its KV cache, on the simulated NPU."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from migrator.codemod.templates import render, template_root
from migrator.files.tree import DiskTree
from tests.simulator.conftest import INSIDE, Simulator, checks

pytestmark = [pytest.mark.simulator, pytest.mark.releases]

FILES = ("checks_attention.py", "checks_latent_attention.py", "checks_kv_cache.py")
RELEASES = ("0.11.0", "0.33.0")
ADDED = (
    "vllm/compilation/npu_graph.py",
    "vllm/platforms/npu_config.py",
    "vllm/platforms/npu_connectors.py",
    "vllm/platforms/npu_nnal.py",
    "vllm/platforms/npu.py",
    "vllm/v1/attention/backends/ascend_attn.py",
    "vllm/v1/attention/backends/mla/ascend_mla.py",
    "vllm/v1/kv_offload/cpu/npu_worker.py",
    "vllm/v1/worker/npu_model_runner.py",
)
_CONNECTORS = "vllm/distributed/kv_transfer/kv_connector/v1"
PRISTINE = (
    "vllm/attention/backends/abstract.py",
    "vllm/platforms/interface.py",
    "vllm/v1/attention/backend.py",
    "vllm/v1/kv_offload/base.py",
)
READ = (
    f"{_CONNECTORS}/example_connector.py",
    f"{_CONNECTORS}/shared_storage_connector.py",
    "vllm/v1/worker/utils.py",
)
"""What no check imports: it lies in a folder of its own."""


@pytest.fixture(scope="module")
def outcomes(
    simulator: Simulator, release: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory
) -> dict[tuple[str, str], str | None]:
    """What came of each check in each release: null or a traceback."""
    found: dict[tuple[str, str], str | None] = {}
    for version in RELEASES:
        source = DiskTree(release(version))
        files = {path: source.read(path) for path in PRISTINE}
        files |= {f"read/{path}": source.read(path) for path in READ}
        for path in ADDED:
            files[path] = render((template_root() / path).read_bytes(), source)
        tree = tmp_path_factory.mktemp(version)
        for path, content in files.items():
            if content and content.strip():
                (tree / path).parent.mkdir(parents=True, exist_ok=True)
                (tree / path).write_bytes(content)
        for file in FILES:
            arguments = [str(INSIDE / "driver.py"), str(INSIDE / file)]
            with simulator.start(arguments, env={"EMITTED_TREE": str(tree)}) as process:
                out, err = process.communicate(timeout=1200)
            assert process.returncode == 0, f"{version} {file}\n{out}\n{err}"
            checked = json.loads(out.splitlines()[-1])
            found |= {(version, f"{file} {name}"): trace for name, trace in checked.items()}
    return found


@pytest.mark.parametrize("version", RELEASES)
@pytest.mark.parametrize("check", [f"{file} {name}" for file in FILES for name in checks(file)])
def test_attention(outcomes: dict[tuple[str, str], str | None], version: str, check: str) -> None:
    trace = outcomes[version, check]
    if trace is not None:
        pytest.fail(trace, pytrace=False)
