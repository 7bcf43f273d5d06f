# SPDX-License-Identifier: Apache-2.0
"""torch's own operator samples on the simulated NPU against the CPU.

`unsupported_operators.json` lists what does not work, and why; the tests hold it to what they find.
Set VLLM_NPU_MIGRATE_UPDATE=1 and run the slow test to write it anew.
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest

from tests.simulator.conftest import INSIDE, Simulator

pytestmark = pytest.mark.simulator

LIST = Path(__file__).with_name("unsupported_operators.json")
_HOST = re.compile(
    r"operator '(aten::[\w.]+)' is not currently supported on the NPU backend and will fall"
)


def conform(simulator: Simulator, samples: int, *dtypes: str) -> dict[str, Any]:
    arguments = [str(INSIDE / "conformance.py"), str(samples), *dtypes]
    # In a fork of a process that has imported torch already, it does not come to an end.
    with simulator.start(arguments, anew=True) as process:
        out, err = process.communicate(timeout=3000)
    assert process.returncode == 0, err[-3000:]
    found: dict[str, Any] = json.loads(out.splitlines()[-1])
    found["host"] = sorted(set(_HOST.findall(err)))
    broken = found["cases"].items() | found["backward"].items()
    found["failed"] = {name.split()[0]: why for name, why in sorted(broken) if why}
    return found


def listed() -> dict[str, Any]:
    text: dict[str, Any] = json.loads(LIST.read_text())
    return text


def of_this_release(found: dict[str, Any]) -> bool:
    """Whether the list was made for the torch under test; operators come and go with releases."""
    return bool(found["torch"].split("+")[0] == listed()["torch"])


def test_samples(simulator: Simulator) -> None:
    found = conform(simulator, 2, "float32", "bfloat16", "int64", "bool", "complex64")
    known = listed()
    unexpected = {name: why for name, why in found["failed"].items() if name not in known["failed"]}
    assert not unexpected
    assert found["samples"] >= 5000
    assert len(found["backward"]) >= 500
    if of_this_release(found):
        assert set(found["failed"]) == set(known["failed"])
        assert set(found["refused"]) <= set(known["refused"])
        assert set(found["silent"]) == set(known["uncompared"])
        assert set(found["host"]) <= set(known["host"])


@pytest.mark.slow
def test_all_samples(simulator: Simulator) -> None:
    dtypes = ("float32", "float16", "bfloat16", "int64", "int32", "uint8", "bool", "complex64")
    found = conform(simulator, 30, *dtypes)
    if os.environ.get("VLLM_NPU_MIGRATE_UPDATE"):
        LIST.write_text(json.dumps(as_list(found), indent=1) + "\n")
    known = listed()
    assert found["samples"] >= 40000
    assert set(found["failed"]) == set(known["failed"])
    if of_this_release(found):
        fresh = as_list(found)
        for part in ("failed", "refused", "uncompared", "host"):
            assert fresh[part] == known[part], f"{LIST.name} is out of date in '{part}'"


def as_list(found: dict[str, Any]) -> dict[str, Any]:
    """What the file holds for a run of all samples."""
    return {
        "torch": found["torch"].split("+")[0],
        "about": {
            "failed": "operators that the simulator does not compute",
            "refused": "operators of which torch_npu itself refuses some samples",
            "uncompared": "operators of which the CPU gives nothing to compare (CUDA, sparse)",
            "host": "ATen operators that torch_npu hands to the CPU on a device, too, and warns of",
        },
        "failed": {
            name: re.split(r" This could be| \[ERROR\]", why)[0]
            for name, why in found["failed"].items()
        },
        "refused": dict(sorted(found["refused"].items())),
        "uncompared": sorted(found["silent"]),
        "host": found["host"],
    }
