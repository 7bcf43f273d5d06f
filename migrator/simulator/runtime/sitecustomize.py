# SPDX-License-Identifier: Apache-2.0
"""Runs at the start of every Python process of a simulated program.

It waits for `import torch_npu` and puts the simulated device behind it, in child processes too,
since they inherit the environment. Without ASCEND_SIM it does nothing. A sitecustomize of the
environment's own, which this one hides, runs as well.
"""

from __future__ import annotations

import os
import sys


def _run_hidden() -> None:
    """Run the sitecustomize that stands behind this one on sys.path, as Python would have."""
    from importlib.machinery import PathFinder
    from importlib.util import module_from_spec

    here = os.path.dirname(os.path.abspath(__file__))
    rest = [entry for entry in sys.path if os.path.abspath(entry or os.curdir) != here]
    spec = PathFinder.find_spec("sitecustomize", rest)
    if spec is None or spec.loader is None:
        return
    module = module_from_spec(spec)
    spec.loader.exec_module(module)


if os.environ.get("ASCEND_SIM"):
    from ascend_sim._hook import install

    install()

try:
    _run_hidden()
except Exception as error:  # the environment's own fault: reported as Python reports it
    print(f"Error in sitecustomize: {type(error).__name__}: {error}", file=sys.stderr)
