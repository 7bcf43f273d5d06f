# SPDX-License-Identifier: Apache-2.0
"""The metadata that a graph of a whole step is given is that of the step's forward context."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from migrator.codemod.rule import Example, Status
from migrator.rules import all_rules

sys.path.append(str(Path(__file__).resolve().parents[2] / "scripts"))

import try_rule

RUNNER = """\
class GPUModelRunner:
    def execute_model(self, batch, metadata=None):
        padded = self.pad(batch)
        {bound}
        if batch.full:
            output = self.cudagraph_manager.run_fullgraph(padded)
        else:
            with set_forward_context({given}):
                output = self.model()
        return output
"""


def migrated(bound: str, given: str) -> tuple[str, list[Status]]:
    rule = next(rule for rule in all_rules() if rule.code == "NPU262")
    text = RUNNER.format(bound=bound, given=given)
    example = Example(text, None, "vllm/v1/worker/gpu/model_runner.py")
    return try_rule.run(rule, example, text)


@pytest.mark.parametrize(
    ("bound", "given", "told"),
    [
        ("pass", "metadata, self.vllm_config", "metadata"),
        ("attn_metadata = self.build(padded)", "attn_metadata, self.vllm_config", "attn_metadata"),
        ("pass", "padded.attn_metadata, self.vllm_config", "padded.attn_metadata"),
    ],
)
def test_what_the_called_model_gets(bound: str, given: str, told: str) -> None:
    """As in February 2026, when the batch had it, and since."""
    text, _ = migrated(bound, given)
    assert f"with replay_context({told}, self.vllm_config):" in text


@pytest.mark.parametrize(
    "given", ["attn_metadata, self.vllm_config", "self.build(padded)", "**self.context", ""]
)
def test_what_the_function_does_not_have_is_left_for_a_person(given: str) -> None:
    text, became = migrated("attn_metadata: dict", given)
    assert "replay_context" not in text
    assert became == [Status.MANUAL]
