# SPDX-License-Identifier: Apache-2.0
"""Which launches CANN leaves to the AI CPU: the lists, and a simulated device's launches."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator

import pytest

from migrator.simulator import build
from tests.simulator.conftest import Simulator, checks

OnAiCpu = Callable[..., bool | None]


@pytest.fixture(scope="module")
def on_ai_cpu() -> Iterator[OnAiCpu]:
    sys.path.insert(0, str(build.RUNTIME))
    try:
        from ascend_sim.ai_core import on_ai_cpu as found

        yield found
    finally:
        sys.path.remove(str(build.RUNTIME))


@pytest.mark.parametrize(
    ("operator", "dtypes", "expected"),
    [
        ("aten::masked_fill_.Scalar", "int64,bool->int64", True),
        ("aten::masked_fill_.Scalar", "int32,bool->int32", False),
        ("aten::eq.Scalar", "int64->bool", False),
        ("aten::eq.Scalar", "float64->bool", True),
        ("aten::sum.dim_IntList", "bool->int64", False),
        ("aten::ones_like", "int64->int32", False),
        ("aten::_unique2", "int32->int32,int64,int64", True),
        ("aten::matmul", "bfloat16,bfloat16->", False),
        ("aten::erfinv", "float32->float32", None),
        ("aten::add.Tensor", "", None),
        ("aten::zeros", "->int32", False),
        ("npu::npu_swiglu", "", False),
        ("atb::_npu_paged_attention", "", False),
        ("other::operator", "int64->int64", None),
    ],
)
def test_a_launch_is_judged_by_the_dtype_that_cann_asks_for(
    on_ai_cpu: OnAiCpu, operator: str, dtypes: str, expected: bool | None
) -> None:
    assert on_ai_cpu(operator, dtypes, "8.5.0", "Ascend910B1") is expected


@pytest.mark.parametrize(
    ("cann", "soc", "expected"),
    [
        ("8.5.0", "Ascend910B1", True),
        ("9.0.0", "Ascend910B4", False),
        ("9.1.0", "Ascend910_9391", False),
        ("8.5.0", "Ascend310P3", None),
        ("9.1.0", "Ascend950PR_9599", None),
    ],
)
def test_the_lists_are_of_a_cann_and_of_some_chips(
    on_ai_cpu: OnAiCpu, cann: str, soc: str, expected: bool | None
) -> None:
    assert on_ai_cpu("aten::floor_divide", "int64,int64->int64", cann, soc) is expected


@pytest.mark.simulator
@pytest.mark.parametrize("check", checks("checks_ai_core.py"))
def test_launches(simulator: Simulator, check: str) -> None:
    simulator.outcome("checks_ai_core.py", check)
