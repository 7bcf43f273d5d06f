# SPDX-License-Identifier: Apache-2.0
"""List the operators of vLLM's CUDA extensions, and say for each what becomes of it on an NPU.

python scripts/kernel_table.py                # every release; writes docs/kernels.json
python scripts/kernel_table.py 0.18.0 0.33.0  # these releases, printed and not written

Each place that names `torch.ops._C`, `_moe_C`, `_C_cache_ops` and the like has one of three
answers: a rule gives it an NPU version, it is refused when an engine starts, or an NPU never comes
to it. Exits with 1 where a place has none of them. The two tables here were made from the places
of 0.11.0; those of other releases that they do not know are listed as open.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from release_table import EVERY

from migrator.coverage import Grade, Survey, survey
from migrator.coverage.surface import Kind
from migrator.sources import fetch
from migrator.tree import DiskTree

ROOT = Path(__file__).resolve().parent.parent
DATA = ROOT / "docs" / "kernels.json"

REFUSED: tuple[tuple[str, str], ...] = (
    (
        r" get_cuda_view_from_cpu_tensor ",
        "--cpu-offload-gb, where no variable of the release makes it copy weights instead",
    ),
    (r" selective_scan_fwd ", "state-space layers: only attention has a cache on an NPU"),
    (
        r"fused_moe/fused_moe\.py fused_experts_impl | moe_sum | moe_align_block_size ",
        "encoder attention, with which alone a model calls these experts by itself (NomicMoE)",
    ),
)
"""(Regular expression over `path function operator`, what refuses it when an engine starts)."""
NEVER: tuple[tuple[str, str], ...] = (
    (r"_custom_ops\.py <module> ", "asks whether the extension is there, and does without"),
    (r" scaled_fp8_quant ", "experts with a quantised type, which no method that is ported has"),
    (
        r" FusedMoEPermuteExpertsUnpermute\.activation ",
        "a modular kernel, of which an out-of-tree platform makes none",
    ),
)
"""(Regular expression over `path function operator`, why an NPU never calls it)."""


def answer(place: str) -> tuple[str, str] | None:
    """What a table says of a place that the graph counts as reachable."""
    for kind, table in (("refused", REFUSED), ("never", NEVER)):
        for pattern, why in table:
            if re.search(pattern, place):
                return kind, why
    return None


def rows(found: Survey) -> list[dict[str, Any]]:
    """A row for each operator in each function, by path, function and operator."""
    made: dict[tuple[str, str, str], dict[str, Any]] = {}
    for claim in found.claims:
        if claim.kind is Kind.CUSTOM_OP:
            key = (claim.path, claim.function, claim.source)
            made[key] = {"answer": "version", "why": ", ".join(claim.rules)}
    for item in found.items:
        if item.kind is not Kind.CUSTOM_OP:
            continue
        key = (item.path, item.function, item.source)
        told: tuple[str, str] | None = ("never", item.reason)
        if item.grade is Grade.REACHABLE:
            told = answer(" ".join(key))
        if told is None:
            made[key] = {"answer": "", "why": " <- ".join(item.via)}
        else:
            # What one place of a function leaves open is open for the function.
            made.setdefault(key, {"answer": told[0], "why": told[1]})
    return [
        {"path": path, "function": function, "operator": operator, **row}
        for (path, function, operator), row in sorted(made.items())
    ]


def main(arguments: Sequence[str]) -> int:
    every: dict[str, list[dict[str, Any]]] = {}
    open_ = 0
    for release in arguments or EVERY:
        found = rows(survey(DiskTree(fetch(release)), jobs=os.cpu_count() or 1))
        every[release] = found
        counts = {kind: sum(row["answer"] == kind for row in found) for kind in _ANSWERS}
        print(f"{release}: " + ", ".join(f"{n} {kind or 'open'}" for kind, n in counts.items()))
        for row in found:
            if not row["answer"]:
                print(f"  {row['path']} {row['function']} {row['operator']}: {row['why']}")
        open_ += counts[""]
    if not arguments and not open_:
        DATA.write_text(json.dumps(every, indent=1) + "\n", encoding="utf-8")
        print(f"wrote {DATA.relative_to(ROOT)}")
    return 1 if open_ else 0


_ANSWERS = ("version", "refused", "never", "")

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
