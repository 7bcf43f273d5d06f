# SPDX-License-Identifier: Apache-2.0
"""Launches of a simulated device are sorted by what CANN's AI cores take."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch_npu

from ascend_sim.ai_core import kernel, on_ai_cpu
from ascend_sim.observer import observed

INT64 = torch.arange(8, device="npu")
INT32 = INT64.to(torch.int32)
FLOAT = INT64.to(torch.float32)
BFLOAT16 = torch.ones(8, 8, device="npu", dtype=torch.bfloat16)
MASK = INT64 > 2


def judged(body: Callable[[], object]) -> list[tuple[str, bool | None]]:
    """The launches of `body`, and whether the AI CPU computes each."""
    with observed() as found, torch.inference_mode():
        body()
    launches = [event for event in found.events if event.kind == "launch"]
    return [(event.what, on_ai_cpu(event.what, event.dtypes)) for event in launches]


def check_int64_is_left_to_the_ai_cpu_by_some_kernels() -> None:
    on_cpu = [
        lambda: INT64.masked_fill(MASK, 0),
        lambda: INT64.cumsum(0),
        lambda: INT64.topk(2),
        lambda: INT64.sort(),
        lambda: INT64.scatter(0, INT64, INT64),
        lambda: torch.ones_like(INT64),
        lambda: INT64.square().square_().bincount(),
    ]
    for body in on_cpu:
        *_, (what, ai_cpu) = judged(body)
        assert ai_cpu is True, (what, ai_cpu)


def check_what_cores_take_is_not() -> None:
    on_cores = [
        lambda: INT64 + 1,
        lambda: INT64 == 3,
        lambda: INT32.masked_fill(MASK, 0),
        lambda: INT32.cumsum(0, dtype=torch.int32),
        lambda: torch.where(MASK, INT64, 0),
        lambda: INT64[INT64],
        lambda: FLOAT.topk(2),
        lambda: FLOAT.softmax(0),
        lambda: FLOAT.argmax(),
        lambda: MASK.sum(),
        lambda: INT32.scatter_add(0, INT64, INT32),
        lambda: FLOAT.mul(torch.tensor(2.0, dtype=torch.float64)),
        lambda: torch.nn.functional.linear(BFLOAT16, BFLOAT16),
        lambda: torch_npu.npu_rms_norm(BFLOAT16, BFLOAT16[0]),
        lambda: torch.div(INT32, 2, rounding_mode="floor"),
        lambda: INT64.to(torch.int32),
        lambda: ~MASK,
    ]
    for body in on_cores:
        launches = judged(body)
        assert launches
        assert all(ai_cpu is False for _, ai_cpu in launches), launches


def check_what_no_list_names_is_not_judged() -> None:
    ((what, ai_cpu),) = judged(lambda: FLOAT.erfinv())
    assert (what, ai_cpu) == ("aten::erfinv", None)


def check_operators_of_the_table_are_torch_s() -> None:
    from ascend_sim.ai_core import KERNELS

    for one in KERNELS:
        for name in one.operators:
            operator, _, overload = name.partition(".")
            packet = getattr(torch.ops.aten, operator)
            assert not overload or overload in packet.overloads(), name
            assert kernel(f"aten::{name}") is one
