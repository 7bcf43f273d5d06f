# SPDX-License-Identifier: Apache-2.0
"""Calls each operator of the port on the device and compares it with its reference on the CPU.

    python compare_operators.py JOB.json

The references are the simulator's, called as plain functions on CPU tensors; nothing of the
simulator stands between the program and the device.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch_npu  # noqa: F401
from cases import Call, Case, cases  # type: ignore[import-not-found]
from comparing import compared, tensors  # type: ignore[import-not-found]
from torch.utils._pytree import tree_map_only

SEED = 20240611


def references(runtime: str) -> Mapping[str, Any]:
    """The reference operators by name. Nothing of them is bound to the device."""
    if runtime not in sys.path:
        sys.path.append(runtime)
    import importlib

    from ascend_sim import operators

    for family in operators.FAMILIES:
        importlib.import_module(f"ascend_sim.operators.{family}")
    found: Mapping[str, Any] = operators.REGISTRY
    return found


def moved(value: Any, device: str) -> Any:
    """A copy of a value whose tensors lie on a device."""
    return tree_map_only(torch.Tensor, lambda tensor: tensor.to(device, copy=True), value)


def named(overload: Any, call: Call) -> dict[str, Any]:
    """The operands of a call by their names."""
    names = [argument.name for argument in overload._schema.arguments]
    return {**dict(zip(names, call.args, strict=False)), **call.kwargs}


def outcome(case: Case, operator: Any) -> dict[str, Any]:
    """What became of one case."""
    overload = operator.overload
    call = case.make(torch.Generator().manual_seed(SEED))
    given = named(overload, call)
    known = {argument.name for argument in overload._schema.arguments}
    given = {name: value for name, value in given.items() if name in known}
    into = operator.written
    if case.expected is not None:
        ours: Any = case.expected(call)
    else:
        host = {name: moved(value, "cpu") for name, value in given.items()}
        taken = {name: value for name, value in host.items() if operator.judges(name)}
        result = operator(**taken)
        ours = [result, *(host[name] for name in into)]
    there = {
        name: moved(value, "cpu" if name in operator.host else "npu")
        for name, value in given.items()
    }
    try:
        result = overload(**there)
        torch.npu.synchronize()
        theirs = [result, *(there[name] for name in into)]
        back = [tensor.cpu() for tensor in tensors(theirs)]
    except RuntimeError as error:
        line = next((line for line in str(error).splitlines() if line.strip()), "RuntimeError")
        return {"verdict": "refused", "why": line.strip()[:300]}
    verdict: dict[str, Any] = compared(ours, back)
    return verdict


def main(job: Mapping[str, Any]) -> None:
    """Compare all cases and write what became of each, after each: a device may end the program."""
    operators = references(job["runtime"])
    found: list[dict[str, Any]] = []
    for case in cases():
        operator = operators[case.operator]
        entry: dict[str, Any] = {"operator": case.operator, "case": case.name}
        try:
            operator.overload  # noqa: B018 - the wheel may not have it
        except AttributeError:
            entry |= {"verdict": "absent", "why": "this torch_npu has no such operator"}
        else:
            entry |= outcome(case, operator)
        found.append(entry)
        Path(job["out"]).write_text(json.dumps(found), encoding="utf-8")


if __name__ == "__main__":
    main(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")))
