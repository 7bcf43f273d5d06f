# SPDX-License-Identifier: Apache-2.0
"""List the operators of vLLM's CUDA extensions, and say for each what becomes of it on an NPU.

python scripts/kernel_table.py                # those of docs/options; writes docs/kernels.md
python scripts/kernel_table.py 0.18.0 0.33.0  # these releases, printed and not written
python scripts/kernel_table.py --every        # all that vLLM has here, printed and not written

Each place that names `torch.ops._C`, `_moe_C`, `_C_cache_ops` and the like has one of three
answers: a rule gives it an NPU version, it is refused when an engine starts, or an NPU never comes
to it. Exits with 1 where a place has none of them. What was found of a release is kept below
--state, by the rules and templates that it came from, so that an interrupted run goes on.

Which run shows a version, and which case a refusal, scripts/option_answers.toml says for the
releases that have a page in docs/options.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec
import platformdirs
from simulated_runs import digest

from migrator.coverage import Grade, Survey, survey
from migrator.coverage.surface import Kind
from migrator.files.sources import fetch
from migrator.files.tree import DiskTree
from migrator.reports.releases import KNOWN

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "kernels.md"
WRITTEN = ("0.11.0", "0.23.0", "0.33.0")
"""Releases that have a page in docs/options."""

REFUSED: tuple[tuple[str, str], ...] = (
    (
        r" get_cuda_view_from_cpu_tensor ",
        "`--cpu-offload-gb`, where no variable of the release makes it copy weights instead",
    ),
    (
        r" selective_scan_fwd | fused_gdn_decode_post_conv_mtp |_flashkda_C",
        "state-space and linear-attention layers: only attention has a cache on an NPU",
    ),
    (
        r" ngram_compute_n_gram_ids ",
        "a model with a state of its own for each request (LongCat-Flash with n-grams)",
    ),
    (
        r" (moe_align_block_size|moe_sum) .*k2_horizon",
        "attention of which experts mix the values (K2 Horizon), which alone calls them",
    ),
)
"""(Regular expression over `path function operator` and its callers, what is refused with it)."""
NEVER: tuple[tuple[str, str], ...] = (
    (
        r" (<module>|GELU\.__init__|supports_fused_mtp_decode) torch\.ops\._",
        "asks whether the extension is there, and does without",
    ),
    (
        r" scaled_(fp8|fp4|int8)_quant ",
        "experts with a quantised type, which no method that is ported has",
    ),
    (
        r" FusedMoEPermuteExpertsUnpermute\.activation | moe_sum .*TopKWeightAndReduce",
        "a modular kernel, of which an out-of-tree platform makes none",
    ),
    (
        r"causal_conv1d_update_cpu_vec|selective_state_update_cpu",
        "layers of a state on a CPU, which its platform alone takes",
    ),
    (
        r" _silu_and_mul_fp8_static ",
        "an activation with quantised output, which no method that is ported asks for",
    ),
    (
        r"[Cc]pu_?[Ff]used_?[Mm][Oo][Ee]|fused_experts_cpu|cpu_prepack_moe_weight|"
        r"onednn|DNNL|convert_weight_packed",
        "experts of the CPU, whose backend the oracle takes on the CPU's platform alone",
    ),
    (
        r" (dsv3|fp32)_router_gemm ",
        "a router's kernel for one generation of CUDA devices, which the layer asks for",
    ),
)
"""(Regular expression over the same, why an NPU never calls it)."""


def answer(place: str) -> tuple[str, str] | None:
    """What a table says of a place that the graph counts as reachable."""
    for kind, table in (("refused", REFUSED), ("never", NEVER)):
        for pattern, why in table:
            if re.search(pattern, place):
                return kind, why
    return None


class Place(msgspec.Struct, frozen=True, order=True):
    """A place that names an operator, and what the survey says of it.

    `rules` are those that claim it; `reached` is whether an NPU may come to it, `why` how, by the
    callers, or why not.
    """

    path: str
    function: str
    operator: str
    rules: tuple[str, ...]
    reached: bool
    why: str


class Kept(msgspec.Struct):
    """The places of a release, and what they came from."""

    key: str
    places: list[Place]


def places(found: Survey) -> list[Place]:
    """The places of a survey, those that rules claim too."""
    return sorted(
        [
            Place(c.path, c.function, c.source, c.rules, True, ", ".join(c.rules))
            for c in found.claims
            if c.kind is Kind.CUSTOM_OP
        ]
        + [
            Place(i.path, i.function, i.source, (), True, " <- ".join(i.via))
            if i.grade is Grade.REACHABLE
            else Place(i.path, i.function, i.source, (), False, i.reason)
            for i in found.items
            if i.kind is Kind.CUSTOM_OP
        ]
    )


def survey_release(release: str, state: Path) -> list[Place]:
    """The places of a release, from the state where they are there and came from the same."""
    source = fetch(release)
    code = [file for folder in ("migrator", "templates") for file in (ROOT / folder).rglob("*.py")]
    key = f"{digest(code)} {source.name}"
    file = state / f"{release}.json"
    try:
        kept = msgspec.json.decode(file.read_bytes(), type=Kept)
    except (FileNotFoundError, msgspec.DecodeError):
        kept = Kept("", [])
    if kept.key != key:
        kept = Kept(key, places(survey(DiskTree(source), jobs=os.cpu_count() or 1)))
        state.mkdir(parents=True, exist_ok=True)
        file.write_bytes(msgspec.json.encode(kept))
    return kept.places


class Row(NamedTuple):
    """What becomes of an operator in a function: version, refused, never, or nothing if open."""

    path: str
    function: str
    operator: str
    answer: str
    why: str
    reached: bool


def rows(found: Iterable[Place]) -> list[Row]:
    """A row for each operator in each function, by path, function and operator."""
    made: dict[tuple[str, str, str], Row] = {}
    for place in found:
        key = (place.path, place.function, place.operator)
        known = made.get(key)
        if place.rules:
            row = Row(*key, "version", place.why, True)
        elif not place.reached:
            row = Row(*key, "never", place.why, False)
        else:
            row = Row(*key, *(answer(f"{' '.join(key)} {place.why}") or ("", place.why)), True)
        # What one place of a function leaves open is open for the function.
        if known is None or not row.answer or (known.answer and row.reached and not known.reached):
            made[key] = row
    return [row for _, row in sorted(made.items())]


INTRODUCTION = """\
# Operators of vLLM's extensions

Made by `python scripts/kernel_table.py`. For each release, every place of its Python code that
names an operator of `torch.ops._C`, `_moe_C` and other extensions that are not built for NPUs. The
graph of [coverage](coverage.md) says what an NPU may come to; there, each place has a *version* (a
rule gives the function a branch for NPUs), or is *refused* at start-up with the feature that it is
part of, or an NPU *never* calls it although the graph, which takes every switch as unknown, leads
there. What is *open* would end the script with an error. The last column counts the places that
the graph does not lead to: other platforms' code, quantisation, other attention backends.
"""


def page(every: Mapping[str, list[Row]]) -> str:
    """The page in Markdown: the releases, then what becomes of each operator that is reached."""
    lines = [
        INTRODUCTION,
        "| release | version | refused | never called | open | not led to |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    answers: defaultdict[tuple[str, str, str], list[str]] = defaultdict(list)
    for release, found in every.items():
        reached = [row for row in found if row.reached]
        counts = [sum(row.answer == kind for row in reached) for kind in _ANSWERS]
        cells = [release, *counts, len(found) - len(reached)]
        lines.append(f"| {' | '.join(map(str, cells))} |")
        for row in reached:
            key = (row.operator.removeprefix("torch.ops."), row.answer, row.why)
            if release not in answers[key]:
                answers[key].append(release)
    lines += ["", "| operator | answer | why | releases |", "| --- | --- | --- | --- |"]
    for (operator, kind, why), releases in sorted(answers.items()):
        lines.append(f"| `{operator}` | {kind} | {why} | {', '.join(releases)} |")
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("releases", nargs="*", metavar="RELEASE")
    cache = platformdirs.user_cache_path("vllm-npu-migrate") / "kernel-table"
    parser.add_argument("--state", type=Path, default=cache, help="where what was found is kept")
    parser.add_argument("--every", action="store_true", help="all releases")
    given = parser.parse_args(arguments)
    every: dict[str, list[Row]] = {}
    open_ = 0
    for release in given.releases or (KNOWN if given.every else WRITTEN):
        found = every[release] = rows(survey_release(release, given.state))
        counts = {kind: sum(row.answer == kind for row in found) for kind in _ANSWERS}
        said = ", ".join(f"{n} {kind or 'open'}" for kind, n in counts.items())
        print(f"{release}: {said}", flush=True)
        for row in found:
            if not row.answer:
                print(f"  {row.path} {row.function} {row.operator}: {row.why}")
        open_ += counts[""]
    if not (given.releases or given.every or open_):
        PAGE.write_text(page(every), encoding="utf-8")
        print(f"wrote {PAGE.relative_to(ROOT)}")
    return 1 if open_ else 0


_ANSWERS = ("version", "refused", "never", "")

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
