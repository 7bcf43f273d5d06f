# SPDX-License-Identifier: Apache-2.0
"""The reference NPU operators, inside the simulator."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.simulator.conftest import INSIDE, Simulator, checks

pytestmark = pytest.mark.simulator

FILES = sorted(path.name for path in (INSIDE / "operators").glob("checks_*.py"))
PAGE = Path(__file__).parents[2] / "docs" / "npu-operators.md"


@pytest.mark.parametrize(
    ("file", "check"),
    [(f"operators/{file}", check) for file in FILES for check in checks(f"operators/{file}")],
)
def test_npu_operators(simulator: Simulator, file: str, check: str) -> None:
    simulator.outcome(file, check)


def test_the_page_is_fresh(simulator: Simulator) -> None:
    page = simulator.run(
        "import runpy; runpy.run_module('ascend_sim.operators', run_name='__main__')"
    )
    assert page.stdout == PAGE.read_text(), (
        "docs/npu-operators.md is old: vllm-npu-migrate simulator run -- "
        "python -m ascend_sim.operators > docs/npu-operators.md"
    )


def test_the_meta_comparison_can_be_turned_off(simulator: Simulator) -> None:
    source = """
        import torch, torch_npu
        from ascend_sim.operators import _registry
        torch_npu.npu_swiglu(torch.ones(2, 4).npu())
        print(len(_registry._meta_seen))
    """
    assert simulator.run(source).stdout == "1\n"
    assert simulator.run(source, env={"ASCEND_SIM_CHECK_META": "0"}).stdout == "0\n"


def test_every_operator_says_what_it_checks_and_where_it_is_from() -> None:
    text = PAGE.read_text()
    entries = re.findall(r"^### `(.+)`$", text, re.MULTILINE)
    assert len(entries) == len(set(entries)) >= 55
    assert text.count("\nSource: ") == text.count("\n- Operands: ") == len(entries)
