# SPDX-License-Identifier: Apache-2.0
"""Operators beside their references, with the simulator in the device's place."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).resolve().parents[3]
PROGRAMS = ROOT / "migrator" / "verify" / "on_device" / "programs"
sys.path.insert(0, str(PROGRAMS))

import compare_operators  # type: ignore[import-not-found]  # noqa: E402
from cases import NOT_COMPARED, cases  # type: ignore[import-not-found]  # noqa: E402
from comparing import compared  # type: ignore[import-not-found]  # noqa: E402

REFERENCES = compare_operators.references(str(ROOT / "migrator" / "simulator" / "runtime"))
CALLED = re.compile(r"(?:torch_npu|torch\.ops\.npu)\.(_?npu_\w+)")


def verdict(case: Any) -> dict[str, Any]:
    found: dict[str, Any] = compare_operators.outcome(case, REFERENCES[case.operator])
    return found


def packet(operator: str) -> str:
    return operator.partition("::")[2].partition(".")[0]


def check_every_operator_of_the_port_has_a_case_or_a_reason() -> None:
    sources = [*(ROOT / "templates").rglob("*.py"), *(ROOT / "migrator" / "rules").glob("*.py")]
    known = {packet(name) for name in REFERENCES}
    called = {
        name for path in sources for name in CALLED.findall(path.read_text(encoding="utf-8"))
    } & known
    assert len(called) > 20, called
    tried = {packet(case.operator) for case in cases()}
    reasons = {packet(name) for name in NOT_COMPARED}
    assert called == tried | reasons, (called - tried - reasons, (tried | reasons) - called)
    assert not tried & reasons


def check_every_case_is_a_call_of_its_own_and_equal() -> None:
    names = [(case.operator, case.name) for case in cases()]
    assert len(set(names)) == len(names)
    for case in cases():
        found = verdict(case)
        assert found["verdict"] == "equal", (case.operator, case.name, found)


@contextmanager
def planted(operator: str, factor: float) -> Iterator[None]:
    """A device whose operator returns its results times a factor."""
    overload = REFERENCES[operator].overload

    def scaled(value: Any) -> Any:
        if isinstance(value, torch.Tensor):
            return value * factor if value.is_floating_point() else value
        return [scaled(one) for one in value] if isinstance(value, (list, tuple)) else value

    call = type(overload).__call__

    def called(self: Any, *args: Any, **kwargs: Any) -> Any:
        found = call(self, *args, **kwargs)
        return scaled(found) if self is overload else found

    type(overload).__call__ = called
    try:
        yield
    finally:
        type(overload).__call__ = call


def check_an_operator_that_is_one_per_cent_off_is_named() -> None:
    for operator in (
        "npu::npu_swiglu",
        "npu::npu_rms_norm",
        "npu::npu_fused_infer_attention_score",
        "npu::npu_grouped_matmul",
        "npu::npu_quant_matmul",
    ):
        mine = [case for case in cases() if case.operator == operator]
        with planted(operator, 1.01):
            for case in mine:
                found = verdict(case)
                assert found["verdict"] == "differs", (operator, case.name, found)
                assert 0.008 < found["norm"] < 0.012, found
                assert found["at"].startswith("result "), found
        assert {verdict(case)["verdict"] for case in mine} == {"equal"}


def check_what_the_device_refuses_is_said_in_one_line() -> None:
    case = next(case for case in cases() if case.operator == "npu::npu_swiglu")
    call = type(REFERENCES[case.operator].overload).__call__

    def refuses(self: Any, *args: Any, **kwargs: Any) -> Any:
        raise RuntimeError("\n\n  tiling failed, 561002\nmore")

    overload = type(REFERENCES[case.operator].overload)
    overload.__call__ = refuses
    try:
        found = verdict(case)
    finally:
        overload.__call__ = call
    assert found == {"verdict": "refused", "why": "tiling failed, 561002"}


def _of(values: list[float], dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.tensor(values, dtype=dtype)


def check_verdicts() -> None:
    one = torch.linspace(1, 2, 1000)
    nan, inf = float("nan"), float("inf")
    near = one * (1 + 2.0**-13)
    checks: list[tuple[Any, Any, str]] = [
        (one, one.clone(), "equal"),
        (one, near, "close"),
        (one, one * 1.001, "differs"),
        (one.bfloat16(), one.bfloat16() * (1 + 2.0**-8), "close"),
        (_of([nan, 1.0]), _of([7.0, 1.0]), "equal"),
        (_of([1.0, 1.0]), _of([nan, 1.0]), "differs"),
        (_of([-inf, 1.0]), _of([-inf, 1.0]), "equal"),
        (_of([-inf, 1.0]), _of([0.5, 1.0]), "differs"),
        (_of([1, 2], torch.int32), _of([1, 3], torch.int32), "differs"),
        (one, one[:-1], "differs"),
        (one, one.double(), "differs"),
        ([one, one], [one], "differs"),
        ([], [], "differs"),
        (one[:0], one[:0], "equal"),
    ]
    for ours, theirs, wanted in checks:
        found = compared(ours, theirs)
        assert found["verdict"] == wanted, (ours, theirs, found)
    rounded = torch.zeros(200, dtype=torch.int8)
    other = rounded.clone()
    other[7] = 1
    assert compared(rounded, other)["verdict"] == "close"
    assert compared(rounded, other)["at"] == "result 0[7]"
    other[8:12] = 1
    assert compared(rounded, other)["verdict"] == "differs"
    wide = one.clone()
    wide[500] += 0.5
    found = compared([one, one], [one, wide])
    told = found["verdict"], found["at"], found["off"]
    assert told == ("differs", "result 1[500]", 0.001), told
