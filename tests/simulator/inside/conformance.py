# SPDX-License-Identifier: Apache-2.0
"""Runs torch's own operator samples (the OpInfo database) on the npu and on the CPU.

Run inside a simulated process as `conformance.py SAMPLES DTYPE...`; the last line of stdout is a
JSON object: `cases` maps "operator dtype" to null or what went wrong, `refused` names the operators
of which torch_npu itself refuses a sample, with its reason, `backward` maps the operators
whose gradients were compared likewise, `samples` counts the comparisons made, and `host` lists the
ATen operators that torch_npu hands back to the CPU, with the warning that it gives on a device.

Operators that draw random numbers are compared by shape and dtype, and must give the same twice
for the same seed; those that leave memory uninitialised by shape and dtype alone.
"""

from __future__ import annotations

import itertools
import json
import random
import re
import sys
import types
import unittest
import warnings
from collections.abc import Iterator
from typing import Any

import torch

# torch's test utilities want expecttest for assertions that are not used here.
sys.modules.setdefault("expecttest", types.ModuleType("expecttest")).TestCase = (  # type: ignore[attr-defined]
    unittest.TestCase
)
from torch.testing._internal import common_methods_invocations  # noqa: E402

op_db = common_methods_invocations.op_db

TOLERANCE = {torch.float16: 4e-3, torch.bfloat16: 2e-2}
# The value of the result is whatever the memory held.
UNINITIALISED = re.compile(r"(new_)?empty(_like|_strided|_permuted)?$")
# The sample's second argument is a host tensor on a device, too.
HOST_ARGUMENTS = {"tensor_split"}
# They draw, but their results hardly show the seed.
INSENSITIVE = re.compile(r"(svd|pca)_lowrank|nn\.functional\.fractional_max_pool[23]d")
# torch_npu's own code for what the device does not do.
REFUSED = re.compile(r"(.*?)\s*\[ERROR\] .*ERR01007 OPS feature not supported")
# The generators as seed 0 leaves them.
SEEDED = torch.Generator().manual_seed(0).get_state(), random.Random(0).getstate()
NARROW = {torch.float64: torch.float32, torch.complex128: torch.complex64}


def unseed() -> None:
    """Let the random operators of the database draw from our seed instead of always the same."""

    def plain(op: Any, *args: Any, **kwargs: Any) -> Any:
        return op(*args, **kwargs)

    for name, module in list(sys.modules.items()):
        if name.startswith("torch.testing._internal") and hasattr(module, "wrapper_set_seed"):
            vars(module)["wrapper_set_seed"] = plain


def tensors(value: Any) -> Iterator[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, dict):
        yield from tensors(list(value.values()))
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from tensors(item)


def change(value: Any, how: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return how(value)
    if isinstance(value, torch.device) or value == "cpu":
        return how(value)
    if isinstance(value, dict):
        return {key: change(item, how) for key, item in value.items()}
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(change(item, how) for item in value))
    if isinstance(value, (list, tuple)):
        return type(value)(change(item, how) for item in value)
    return value


def on(device: str, value: Any) -> Any:
    def move(x: Any) -> Any:
        if not isinstance(x, torch.Tensor):
            return torch.device(device)
        moved = x.detach().to(device) if x.device.type != device else x.detach().clone()
        return moved.requires_grad_(x.requires_grad) if x.requires_grad else moved

    return change(value, move)


class Call:
    """One sample: the same call on either device."""

    def __init__(self, op: Any, sample: Any, dtype: torch.dtype) -> None:
        self.op, self.sample, self.dtype = op, sample, dtype

    def run(self, device: str, seed: int) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        """Inputs and outputs."""
        torch.manual_seed(seed)
        random.seed(seed)
        args = self.sample.args
        if self.op.name not in HOST_ARGUMENTS:
            args = on(device, args)
        inputs = on(device, self.sample.input)
        kwargs = on(device, self.sample.kwargs)
        out = self.op(inputs, *args, **kwargs)
        return list(tensors([inputs, args, kwargs])), list(tensors(out))

    def compare(self, got: list[torch.Tensor], want: list[torch.Tensor], values: bool) -> None:
        assert len(got) == len(want), f"{len(got)} results, not {len(want)}"
        tolerance = TOLERANCE.get(self.dtype, 1e-4)
        for a, b in zip(got, want, strict=True):
            assert a.shape == b.shape, f"shape {tuple(a.shape)}, not {tuple(b.shape)}"
            # This chip has no float64: torch_npu makes it float32, and says so.
            dtype = NARROW.get(b.dtype, b.dtype) if a.dtype != b.dtype else b.dtype
            assert a.dtype == dtype, f"{a.dtype}, not {b.dtype}"
            if values and a.numel():
                torch.testing.assert_close(
                    a.detach().cpu(),
                    b.detach().to(dtype),
                    rtol=tolerance,
                    atol=tolerance,
                    equal_nan=True,
                )


def draws(call: Call, first: list[torch.Tensor]) -> bool:
    """Whether seeds make a difference on the CPU, of which the last run, with seed 0, gave `first`.

    They make none where the generators are left as they were seeded. Raises for results that the
    CPU itself cannot compare.
    """
    if torch.equal(torch.get_rng_state(), SEEDED[0]) and random.getstate() == SEEDED[1]:
        return not equal(first, first)
    return not all(equal(call.run("cpu", seed)[1], first) for seed in range(1, 13))


def equal(first: list[torch.Tensor], second: list[torch.Tensor]) -> bool:
    return len(first) == len(second) and all(
        a.shape == b.shape and torch.allclose(a, b, rtol=1e-3, atol=1e-3, equal_nan=True)
        if a.is_floating_point() or a.is_complex()
        else torch.equal(a, b)
        for a, b in zip(first, second, strict=True)
    )


def forward(call: Call) -> bool:
    """Compare one sample; False where the CPU itself refuses it."""
    try:
        _, want = call.run("cpu", 0)
        insensitive = bool(INSENSITIVE.match(call.op.name))
        random_result = insensitive or draws(call, want)
    except Exception:
        return False
    uninitialised = bool(UNINITIALISED.match(call.op.name))
    _, got = call.run("npu", 0)
    call.compare(got, want, values=not random_result and not uninitialised)
    if random_result and not uninitialised:
        assert equal(call.run("npu", 0)[1], got), "the same seed gives another result"
        others = (call.run("npu", seed)[1] for seed in range(1, 8))
        assert insensitive or not all(equal(other, got) for other in others), "seeds do nothing"
    return True


def backward(call: Call) -> bool:
    """Compare the gradients of one sample; False where there are none."""

    def gradients(device: str) -> list[torch.Tensor]:
        inputs, outputs = call.run(device, 0)
        total = sum(
            (out.abs() if out.is_complex() else out).sum() for out in outputs if out.requires_grad
        )
        if not isinstance(total, torch.Tensor):
            return []
        wanted = [x for x in inputs if x.requires_grad]
        found = torch.autograd.grad(total, wanted, allow_unused=True)
        return [x for x in found if x is not None]

    try:
        if INSENSITIVE.match(call.op.name) or draws(call, call.run("cpu", 0)[1]):
            return False
        want = gradients("cpu")
    except Exception:
        return False
    call.compare(gradients("npu"), want, values=True)
    return bool(want)


def main() -> None:
    count = int(sys.argv[1])
    dtypes = [getattr(torch, name) for name in sys.argv[2:]]
    cases: dict[str, str | None] = {}
    gradients: dict[str, str | None] = {}
    samples = 0
    silent: list[str] = []
    refused: dict[str, str] = {}
    unseed()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for op in op_db:
            name = op.name + (f".{op.variant_test_name}" if op.variant_test_name else "")
            before = samples
            for dtype in dtypes:
                if dtype not in op.dtypes:
                    continue
                for grad in (False, True):
                    if grad and not (op.supports_autograd and dtype == torch.float32):
                        continue
                    key, into = (name, gradients) if grad else (f"{name} {dtype}", cases)
                    try:
                        made = list(
                            itertools.islice(
                                op.sample_inputs("cpu", dtype, requires_grad=grad), count
                            )
                        )
                    except Exception:
                        continue
                    for sample in made:
                        call = Call(op, sample, dtype)
                        try:
                            compared = backward(call) if grad else forward(call)
                        except Exception as error:
                            text = " ".join(str(error).split())
                            if found := REFUSED.match(text):
                                refused[name] = found[1]
                                continue
                            into[key] = f"{type(error).__name__}: {text[:300]}"
                            break
                        if compared:
                            samples += 1
                            into.setdefault(key, None)
            if samples == before and not any(key.split()[0] == name for key in cases):
                silent.append(name)
    print(
        json.dumps(
            {
                "torch": torch.__version__,
                "cases": cases,
                "backward": gradients,
                "samples": samples,
                "refused": refused,
                "silent": silent,
            }
        )
    )


if __name__ == "__main__":
    main()
