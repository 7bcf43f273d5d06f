# SPDX-License-Identifier: Apache-2.0
"""Whether a model's own collectives are seen where it is captured in graphs.

Dynamo can put functional collectives in the place of vLLM's: the tokens are the same, and whoever
watches `torch.distributed` sees none. The first collectives of a worker, which open its
communicators before it measures its memory, are no model's.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from migrator.verify.simulate.modes import Mode


def unseen(mode: Mode, folder: Path, until: float) -> Iterator[str]:
    """The collectives that a mode with graphs should have and that nobody saw.

    Args:
        mode: of the run.
        folder: the recorder's files.
        until: the time of the last answer.
    """
    if not mode.graphs or not mode.collectives:
        return
    seen = {name for path in sorted(folder.glob("*.jsonl")) for name in _of_models(path, until)}
    for names in mode.collectives:
        if not seen.intersection(names):
            yield f"no {' or '.join(names)} of the model over HCCL, in or out of graphs"


def _of_models(path: Path, until: float) -> Iterator[str]:
    """Collectives of device tensors over HCCL that a process did after measuring its memory."""
    measured = False
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            entry = json.loads(line)
        except json.JSONDecodeError:
            continue  # cut off by the process's end
        kind, _, name = entry["op"].partition(" ")
        if kind == "collective":
            over_hccl = (entry["device"], entry["backend"]) == ("npu", "hccl")
            if measured and over_hccl and entry["at"] <= until:
                yield name
        measured |= entry["op"] == "free memory"
