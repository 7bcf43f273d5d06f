# SPDX-License-Identifier: Apache-2.0
"""Operand checks of the reference operators.

Every check raises :class:`OperandError`, which says which argument, what the device
takes and what it got; the registry puts the operator's name in front.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import torch

from ascend_sim._site import site

from . import _rules
from . import _table as table

FLOAT_DTYPES = (torch.float16, torch.bfloat16, torch.float32)
HALF_DTYPES = (torch.float16, torch.bfloat16)
INDEX_DTYPES = (torch.int32, torch.int64)

RELAX_VARIABLE = "ASCEND_SIM_RELAX"
RELAXATIONS = {
    "float32": "operators that the device has for float16 and bfloat16 only take float32 too",
    "head_size": "attention takes head sizes that the device's kernels do not offer",
}
"""What ``ASCEND_SIM_RELAX`` may name, comma separated, and what it lets through.

Both exist so that a tiny float32 model can be compared token by token with a float32
reference. Neither makes the port right: a call that needs one fails on the device.
"""


class OperandError(RuntimeError):
    """An operand that the device's operator does not take."""

    def __init__(self, argument: str, expected: str, got: object) -> None:
        super().__init__(f"argument {argument!r}: expected {expected}, got {got}")
        self.argument = argument
        self.expected = expected
        self.got = got


class RuleError(OperandError):
    """A call that breaks a rule of the operator on this chip under this CANN."""

    def __init__(self, rule: _rules.Rule, text: str) -> None:
        RuntimeError.__init__(self, text)
        self.rule = rule


def rules(operator: str, facts: _rules.Facts) -> None:
    """Raise :class:`RuleError` where the facts of a call break a rule that holds here."""
    for rule, text in _rules.refusals(_rules.here(operator), facts):
        if not rule.relaxed:
            raise RuleError(rule, text)
        if not relaxed(rule.relaxed):
            raise RuleError(
                rule,
                f"{text} ({RELAX_VARIABLE}={rule.relaxed} lets the simulator take it; the device "
                "does not)",
            )


def told(operator: str, error: OperandError) -> RuntimeError:
    """The error that the program gets."""
    called = site()
    where = f", called at {called}" if called else ""
    return RuntimeError(f"{operator}: {error}{where} (simulated Ascend)")


def relaxed(what: str) -> bool:
    """Whether ``ASCEND_SIM_RELAX`` names ``what`` (a key of :data:`RELAXATIONS`)."""
    return what in os.environ.get(RELAX_VARIABLE, "").replace(" ", "").split(",")


def require(ok: bool, argument: str, expected: str, got: object) -> None:
    """Raise :class:`OperandError` unless ``ok``."""
    if not ok:
        raise OperandError(argument, expected, got)


def _names(dtypes: Collection[torch.dtype]) -> str:
    return " or ".join(str(dtype).removeprefix("torch.") for dtype in dtypes)


def dtype(argument: str, tensor: torch.Tensor, *allowed: torch.dtype) -> None:
    """Require one of the dtypes ``allowed``."""
    require(
        tensor.dtype in allowed,
        argument,
        f"dtype {_names(allowed)}",
        str(tensor.dtype).removeprefix("torch."),
    )


def half(argument: str, tensor: torch.Tensor, *more: torch.dtype) -> None:
    """Require float16 or bfloat16 (or ``more``); float32 only with ASCEND_SIM_RELAX=float32."""
    if tensor.dtype == torch.float32 and torch.float32 not in more:
        require(
            relaxed("float32"),
            argument,
            f"dtype {_names((*HALF_DTYPES, *more))}",
            f"float32 ({RELAX_VARIABLE}=float32 lets the simulator take it; the device does not)",
        )
        return
    dtype(argument, tensor, *HALF_DTYPES, *more)


def same_dtype(argument: str, tensor: torch.Tensor, other: str, reference: torch.Tensor) -> None:
    """Require the dtype of the tensor ``other``."""
    require(
        tensor.dtype == reference.dtype,
        argument,
        f"the dtype of {other}, {str(reference.dtype).removeprefix('torch.')}",
        str(tensor.dtype).removeprefix("torch."),
    )


def rank(argument: str, tensor: torch.Tensor, *allowed: int) -> None:
    """Require a number of dimensions among ``allowed``."""
    wanted = " or ".join(str(n) for n in allowed)
    require(
        tensor.dim() in allowed,
        argument,
        f"{wanted} dimensions",
        f"{tensor.dim()} (shape {tuple(tensor.shape)})",
    )


def shape(argument: str, tensor: torch.Tensor, *sizes: int | None) -> None:
    """Require the shape ``sizes``; None stands for any size."""
    ok = tensor.dim() == len(sizes) and all(
        want is None or want == have for want, have in zip(sizes, tensor.shape, strict=True)
    )
    wanted = ", ".join("*" if n is None else str(n) for n in sizes)
    require(ok, argument, f"shape ({wanted})", tuple(tensor.shape))


def contiguous(argument: str, tensor: torch.Tensor) -> None:
    """Require a contiguous tensor."""
    require(
        tensor.is_contiguous(),
        argument,
        "a contiguous tensor",
        f"strides {tensor.stride()} for shape {tuple(tensor.shape)}",
    )


def index_range(argument: str, tensor: torch.Tensor, low: int, high: int) -> None:
    """Require every element in [low, high)."""
    if tensor.numel() == 0:
        return
    least, most = int(tensor.min()), int(tensor.max())
    require(
        low <= least and most < high,
        argument,
        f"values in [{low}, {high})",
        f"[{least}, {most}]",
    )


def lengths(argument: str, values: Sequence[int], *, cumulative: bool = False) -> list[int]:
    """Require non-negative lengths (``cumulative``: not decreasing); returns them as a list."""
    found = [int(n) for n in values]
    require(all(n >= 0 for n in found), argument, "non-negative lengths", found)
    if cumulative:
        require(
            all(a <= b for a, b in itertools.pairwise(found)),
            argument,
            "cumulative lengths, each at least the one before",
            found,
        )
    return found


def tensors(value: Any) -> Iterable[torch.Tensor]:
    """The tensors of an argument: itself, or those of a list."""
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from tensors(item)


def arguments(takes: table.Takes, call: Mapping[str, Any]) -> None:
    """Require of the arguments of a call, by name, what the table says; None passes."""
    for name, constraint in takes.arguments.items():
        value = call.get(name)
        if value is None:
            continue
        if isinstance(constraint, table.Tensor):
            for tensor in tensors(value):
                _tensor(name, tensor, constraint, call)
        else:
            shown = repr(value) if isinstance(value, str) else value
            require(constraint.takes(value), name, str(constraint), shown)


def _tensor(
    name: str, tensor: torch.Tensor, constraint: table.Tensor, call: Mapping[str, Any]
) -> None:
    allowed = [getattr(torch, known) for known in constraint.dtypes]
    if constraint.relaxed:
        half(name, tensor, *(known for known in allowed if known not in HALF_DTYPES))
    elif allowed:
        dtype(name, tensor, *allowed)
    if constraint.ranks:
        rank(name, tensor, *constraint.ranks)
    for other in itertools.islice(tensors(call.get(constraint.like)), 1):
        same_dtype(name, tensor, constraint.like, other)
    if constraint.contiguous:
        contiguous(name, tensor)
