# SPDX-License-Identifier: Apache-2.0
"""Log probabilities of prompts are computed with the LoRA adapter of each request."""

from __future__ import annotations

import ast
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from migrator.codemod.templates import load, render
from migrator.files.tree import DiskTree

RUNNER = "vllm/v1/worker/npu_model_runner.py"
METHOD = "_get_prompt_logprobs_dict"
BATCH = 144


class Runner:
    """Stands for vLLM's: is done with a prompt once its last token is in a step."""

    num_prompt_logprobs: dict[str, int]

    def __init__(self, *, in_batch: bool = False, adapters: bool = True) -> None:
        self.lora_config = object() if adapters else None
        self.input_batch = SimpleNamespace()
        self.requests = {
            # Its first 100 tokens were in an earlier step; 30 of it, and one is sampled.
            "last chunk": SimpleNamespace(
                prompt_token_ids=[1] * 130, num_computed_tokens=100, lora_request=adapter(7)
            ),
            "chunk": SimpleNamespace(
                prompt_token_ids=[1] * 500, num_computed_tokens=0, lora_request=adapter(5)
            ),
            "no adapter": SimpleNamespace(
                prompt_token_ids=[1] * 9, num_computed_tokens=0, lora_request=None
            ),
            "embeddings": SimpleNamespace(
                prompt_token_ids=None, num_computed_tokens=0, lora_request=adapter(3)
            ),
        }
        self.seen: list[tuple[str, Any]] = []
        self.active: Any = None
        self.holder: Any = self.input_batch if in_batch else self
        self.holder.num_prompt_logprobs = {**dict.fromkeys(self.requests, 1), "waits": 1}

    def _set_active_loras(self, rows: Any, tokens: Any, requests: Any) -> None:
        assert rows == tokens
        self.active = (rows, {request.lora_int_id for request in requests})

    def _get_prompt_logprobs_dict(self, hidden_states: Any, scheduled: Any) -> dict[str, Any]:
        asked = self.holder.num_prompt_logprobs
        for name in list(asked):
            self.seen.append((name, self.active))
            if name != "chunk":
                del asked[name]
        return {name: f"of {name}" for name, _ in self.seen[-1:] if name != "chunk"}


def adapter(number: int) -> Any:
    class Request:
        lora_int_id = number

    return Request()


@pytest.mark.releases
@pytest.mark.parametrize(("version", "in_batch"), [("0.11.0", True), ("0.33.0", False)])
@pytest.mark.parametrize("whole", [True, False])
def test_each_prompt_has_its_own_adapter(
    version: str, in_batch: bool, whole: bool, release: Callable[[str], Path]
) -> None:
    runner = made(release(version))(in_batch=in_batch)
    steps = {"last chunk": 30, "chunk": 105, "no adapter": 9, "embeddings": 4, "another": 1}
    # Releases before 0.10.2 hand over all that the scheduler said.
    scheduled = SimpleNamespace(num_scheduled_tokens=steps) if whole else steps
    found = runner._get_prompt_logprobs_dict(SimpleNamespace(shape=(BATCH, 64)), scheduled)
    assert found == {name: f"of {name}" for name in ("last chunk", "no adapter", "embeddings")}
    assert runner.seen[:3] == [
        # The last token of a prompt is followed by none of it.
        ("last chunk", ((7,) * 29, {7})),
        ("chunk", ((5,) * 105, {5})),
        ("no adapter", ((0,) * 8, set())),
    ]
    assert [name for name, _ in runner.seen] == ["last chunk", "chunk", "no adapter", "embeddings"]
    assert runner.holder.num_prompt_logprobs == {"chunk": 1, "waits": 1}


@pytest.mark.releases
def test_without_adapters_all_is_vllm_s(release: Callable[[str], Path]) -> None:
    runner = made(release("0.33.0"))(adapters=False)
    runner._get_prompt_logprobs_dict(SimpleNamespace(shape=(BATCH, 64)), {})
    assert [name for name, _ in runner.seen] == [*runner.requests, "waits"]
    assert runner.active is None


def made(root: Path) -> Any:
    """The method of the template for a release, on a runner that stands for vLLM's."""
    module = ast.parse(render(load(RUNNER), DiskTree(root)))
    (found,) = (node for node in module.body if getattr(node, "name", "") == "NPUModelRunner")
    assert isinstance(found, ast.ClassDef)
    found.bases = [ast.Name("Runner", ast.Load())]
    found.body = [node for node in found.body if getattr(node, "name", "") == METHOD]
    future = [n for n in module.body if isinstance(n, ast.ImportFrom) and n.module == "__future__"]
    names: dict[str, Any] = {"Runner": Runner}
    whole = ast.Module([*future, found], [])
    exec(compile(ast.fix_missing_locations(whole), RUNNER, "exec"), names)
    return names["NPUModelRunner"]
