# SPDX-License-Identifier: Apache-2.0
"""What is read off a wheel against what the same torch_npu registers when it really runs."""

from __future__ import annotations

import json
from typing import Any

import platformdirs
import pytest

from migrator.verify import schema, wheel
from migrator.verify.api import Absent, NpuApi
from migrator.verify.schema import Schema
from tests.simulator.conftest import Simulator
from tests.verify.test_schema import LITERALS, TAKEN

pytestmark = [pytest.mark.simulator, pytest.mark.releases]

SOURCE = """
import json, sys
import torch, torch_npu

job = json.loads(sys.argv[1])
schemas = [str(s) for s in torch._C._jit_get_all_schemas()]
library = torch.library.Library("probe", "DEF")
taken = {}
for index, type_ in enumerate(job["types"]):
    library.define(f"f{index}({type_} x) -> Tensor")
    library.impl(f"f{index}", lambda x: torch.zeros(1), "CompositeExplicitAutograd")
    taken[type_] = []
    for name, text in job["literals"].items():
        try:
            getattr(torch.ops.probe, f"f{index}")(eval(text))
        except Exception:
            continue
        taken[type_].append(name)
json.dump({
    "version": torch_npu.__version__,
    "schemas": [s for s in schemas if s.startswith(("npu::", "atb::"))],
    "names": {
        "torch_npu": dir(torch_npu), "torch.npu": dir(torch.npu), "torch_npu._C": dir(torch_npu._C)
    },
    "taken": taken,
}, open(sys.argv[2], "w"))
"""


@pytest.fixture(scope="module")
def running(simulator: Simulator, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the torch_npu of the simulator's environment says of itself."""
    output = tmp_path_factory.mktemp("running") / "said.json"
    job = json.dumps({"types": list(TAKEN), "literals": LITERALS})
    simulator.run(SOURCE, job, str(output))
    said: dict[str, Any] = json.loads(output.read_text(encoding="utf-8"))
    return said


@pytest.fixture(scope="module")
def api(running: dict[str, Any]) -> NpuApi:
    cache = platformdirs.user_cache_path("vllm-npu-migrate") / "wheels"
    version = running["version"].partition("+")[0]
    path = wheel.fetch(wheel.Choice(f"torch_npu=={version}", "the one that runs"), cache)
    return NpuApi.open(path, wheel.read_contents(path, cache))


def shape(found: Schema) -> list[tuple[str, str, bool, bool]]:
    """The arguments as a call sees them; SymInt is int to one."""
    return [
        (a.name, a.type_text.replace("SymInt", "int"), a.default is None, a.keyword_only)
        for a in found.arguments
    ]


def test_the_schemas_of_a_wheel_are_those_that_it_registers(
    running: dict[str, Any], api: NpuApi
) -> None:
    registered = [schema.parse(text) for text in running["schemas"]]
    assert len(registered) > 400
    for found in registered:
        same = [
            s
            for s in api.operators[found.namespace].get(found.name, [])
            if s.overload == found.overload
        ]
        assert [shape(s) for s in same] == [shape(found)], found.text


def test_no_name_of_torch_npu_is_called_absent(running: dict[str, Any], api: NpuApi) -> None:
    beyond_source = {"__cached__", "_pybind11_conduit_v1_"}
    absent = [
        f"{owner}.{name}"
        for owner, names in running["names"].items()
        for name in names
        if name not in beyond_source and isinstance(api.answer(f"{owner}.{name}"), Absent)
    ]
    assert absent == []
    assert sum(map(len, running["names"].values())) > 700


def test_the_table_of_literals_is_what_torch_takes(running: dict[str, Any]) -> None:
    assert {k: sorted(v) for k, v in running["taken"].items()} == {
        k: sorted(v) for k, v in TAKEN.items()
    }
