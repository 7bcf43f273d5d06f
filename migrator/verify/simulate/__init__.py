# SPDX-License-Identifier: Apache-2.0
"""Runs tiny models through an emitted tree on the simulated Ascend and compares their tokens.

`simulate` goes through `LLM.generate`, `serve` through `vllm serve` and the OpenAI client,
`install` builds a wheel, `refusals` starts what an NPU cannot serve, `features` tries what no model
has, `cost` counts what a step asks for. The programs that run in the environment under test are in
`programs`; nothing here imports torch.
"""

from __future__ import annotations

from migrator.verify.simulate.cost import COST_MODES
from migrator.verify.simulate.environment import Launcher, SimulateError
from migrator.verify.simulate.installation import install
from migrator.verify.simulate.models import DEFAULT_MODELS, MODELS
from migrator.verify.simulate.models import select as select_models
from migrator.verify.simulate.modes import DEFAULT_MODES, MODES
from migrator.verify.simulate.modes import select as select_modes
from migrator.verify.simulate.refusing import refusals
from migrator.verify.simulate.report import Report, Run, as_json, merge, write_table
from migrator.verify.simulate.run import Options, simulate
from migrator.verify.simulate.server import serve
from migrator.verify.simulate.trying import features

__all__ = [
    "COST_MODES",
    "DEFAULT_MODELS",
    "DEFAULT_MODES",
    "MODELS",
    "MODES",
    "Launcher",
    "Options",
    "Report",
    "Run",
    "SimulateError",
    "as_json",
    "features",
    "install",
    "merge",
    "refusals",
    "select_models",
    "select_modes",
    "serve",
    "simulate",
    "write_table",
]
