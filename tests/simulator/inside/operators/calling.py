# SPDX-License-Identifier: Apache-2.0
"""Calls of operators through the dispatcher, and how their results are judged."""

from __future__ import annotations

import contextlib
import math
import os
import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ascend_sim import operators
from ascend_sim.operators import _registry

FLOATS = (torch.float32, torch.float16, torch.bfloat16)
HALVES = (torch.float16, torch.bfloat16)
EPS32 = torch.finfo(torch.float32).eps
called: set[str] = set()


def npu(tensor: Tensor) -> Tensor:
    return tensor.to("npu")


def call(name: str, *args: Any, **kwargs: Any) -> Any:
    """Call an operator of the wheel by namespace and name, and note that it was tested."""
    called.add(name)
    return operators.REGISTRY[name].overload(*args, **kwargs)


def takes(name: str, argument: str) -> bool:
    """Whether this wheel's operator has an argument; older wheels lack some."""
    return any(a.name == argument for a in operators.REGISTRY[name].overload._schema.arguments)


def exists(name: str) -> bool:
    """Whether this wheel has an operator at all."""
    try:
        return bool(operators.REGISTRY[name].overload)
    except AttributeError:
        return False


def rand(rng: random.Random, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    generator = torch.Generator().manual_seed(rng.getrandbits(32))
    return torch.randn(shape, generator=generator).to(dtype)


def wide(tensor: Tensor) -> Any:
    """Nested lists of Python floats, which are float64."""
    return tensor.cpu().double().tolist()


def close(got: Tensor, want: Any, *, terms: int = 1, size: float = 1.0) -> None:
    """One rounding to the result's dtype, and float32 sums of `terms` numbers up to `size`."""
    wanted = torch.tensor(want, dtype=torch.float64).reshape(got.shape)
    found = got.cpu().double()
    if not got.dtype.is_floating_point:
        assert torch.equal(found, wanted), (found, wanted)
        return
    info = torch.finfo(got.dtype)
    # Products, exponentials and sums each round in float32: a unit for every term.
    slack = EPS32 * (terms + 8) * max(size, 1e-30) + info.smallest_normal * info.eps
    limit = info.eps * wanted.abs() + slack
    same = (found - wanted).abs() <= limit
    same |= (found == wanted) | (found.isnan() & wanted.isnan())
    if not same.all():
        worst = ((found - wanted).abs() / limit).nan_to_num(0).argmax()
        raise AssertionError(
            f"{got.dtype} {tuple(got.shape)}: {(~same).sum()} values differ, the worst "
            f"{found.flatten()[worst]} from {wanted.flatten()[worst]}, limit "
            f"{limit.flatten()[worst]}"
        )


@contextlib.contextmanager
def refused(*parts: str) -> Iterator[None]:
    """The body is refused by a RuntimeError that has every one of `parts` in it."""
    try:
        yield
    except RuntimeError as error:
        text = str(error)
    else:
        raise AssertionError(f"not refused: {parts}")
    missing = [part for part in parts if part not in text]
    assert not missing, f"{missing} not in: {text}"


@contextlib.contextmanager
def relaxed(what: str) -> Iterator[None]:
    before = os.environ.get("ASCEND_SIM_RELAX")
    os.environ["ASCEND_SIM_RELAX"] = what
    try:
        yield
    finally:
        if before is None:
            del os.environ["ASCEND_SIM_RELAX"]
        else:
            os.environ["ASCEND_SIM_RELAX"] = before


def sweep(count: int) -> Iterator[tuple[random.Random, torch.dtype]]:
    """Seeds for each dtype."""
    for seed in range(count):
        for dtype in FLOATS:
            yield random.Random(f"{seed} {dtype}"), dtype


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x)) if x > -700 else 0.0


def softmax(row: Sequence[float]) -> list[float]:
    top = max(row)
    parts = [math.exp(v - top) for v in row]
    return [p / math.fsum(parts) for p in parts]


def matrix_product(a: Tensor, w: Tensor, bias: list[float] | None) -> list[list[float]]:
    columns = list(zip(*wide(w), strict=True))
    return [
        [
            math.fsum(p * q for p, q in zip(row, column, strict=True)) + (bias[j] if bias else 0.0)
            for j, column in enumerate(columns)
        ]
        for row in wide(a)
    ]


def module_of(op: Any) -> str:
    """The module of an operator's reference below ascend_sim.operators, with `_` for dots."""
    name: str = op.function.__module__
    return name.removeprefix("ascend_sim.operators.").replace(".", "_")


def every_operator_was_tested(file: str) -> None:
    """Each operator of the module that `file` is called after was called, and compared."""
    wanted = Path(file).stem.removeprefix("checks_")
    names = [name for name, op in operators.REGISTRY.items() if module_of(op) == wanted]
    assert names
    for name in filter(exists, names):
        op = operators.REGISTRY[name]
        assert name in called, f"{name} was never called"
        has_meta = torch._C._dispatch_has_kernel_for_dispatch_key(name, "Meta")
        compared = any(key[0] == name for key in _registry._meta_seen)
        if has_meta and _registry.compares_meta(op):
            assert compared, f"{name} has a meta kernel that was never compared"
