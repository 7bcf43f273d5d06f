# SPDX-License-Identifier: Apache-2.0
"""How reference operators are bound to the wheel, compared with it and counted."""

from __future__ import annotations

from pathlib import Path

import torch
import torch_npu

from ascend_sim import operators
from ascend_sim.operators import _registry
from tests.simulator.inside.operators.calling import (
    exists,
    module_of,
    npu,
    refused,
)


def check_schema_that_is_not_known() -> None:
    odd = _registry.Operator(
        name="npu::npu_mish",
        schemas={"0": "npu_mish(Tensor input, int flavour) -> Tensor"},
        function=lambda input: input,  # noqa: A006
        host=frozenset(),
        refused={},
        checks="",
        source="",
        meta="",
        meta_defects={},
        writes=frozenset(),
        on_device=False,
        parameters=("input",),
    )
    _registry.bind(odd)
    try:
        text = operators.problems()["npu::npu_mish"]
        assert "npu_mish(Tensor input) -> Tensor" in text
        assert "npu_mish(Tensor input, int flavour) -> Tensor" in text
        with refused("npu::npu_mish", "torch_npu: npu::npu_mish(Tensor input)", "int flavour"):
            torch_npu.npu_mish(npu(torch.ones(2)))
        torch_npu.npu_silu(npu(torch.ones(2)))
    finally:
        del _registry._problems["npu::npu_mish"]


def check_meta_kernel_that_disagrees() -> None:
    op = operators.REGISTRY["npu::npu_swiglu"]
    operand = {"input": torch.ones(2, 8), "dim": -1}
    _registry._compare_with_meta(op, op.overload, operand, torch.ones(2, 4))
    for wrong in (torch.ones(2, 8), torch.ones(2, 4).half()):
        with refused("npu::npu_swiglu", "the wheel's meta kernel infers", "(2, 4)"):
            _registry._compare_with_meta(op, op.overload, operand, wrong)


def check_devices_are_told_apart() -> None:
    if torch.npu.device_count() < 2:
        return
    a = torch.ones(2, 4, device="npu:0")
    with refused("npu_rms_norm", "'gamma'", "a tensor on npu:0", "npu:1"):
        torch_npu.npu_rms_norm(a, torch.ones(4, device="npu:1"))
    there = torch.ones(2, 4, device="npu:1")
    y, _ = torch_npu.npu_rms_norm(there, torch.ones(4, device="npu:1"))
    assert y.device == there.device


def check_every_module_has_its_checks() -> None:
    assert not operators.problems()
    tested = {path.stem.removeprefix("checks_") for path in Path(__file__).parent.glob("checks_*")}
    assert {module_of(op) for op in operators.REGISTRY.values()} <= tested
    absent = {name for name in operators.REGISTRY if not exists(name)}
    assert len(absent) < 5, absent
