# SPDX-License-Identifier: Apache-2.0
"""Compare replacements of Triton kernels with vLLM's own; write docs/replacements.md.

The kernels come with the releases' source archives and run in Triton's interpreter, on random
batches (scripts/replacements/compare.py). Then one operation of a replacement is broken at a time,
which a batch of some release has to show. Nothing of vLLM is kept. The interpreter that --env names
has torch and triton; it needs no device.

    python scripts/replacement_table.py --env DIR
    python scripts/replacement_table.py --env DIR 0.18.0 0.32.0   # these, printed and not written
"""

from __future__ import annotations

import argparse
import ast
import json
import os
import re
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tool import ROOT

from migrator.codemod import templates
from migrator.files.interpreters import interpreter
from migrator.files.sources import fetch
from migrator.files.tree import DiskTree
from migrator.rules.npu240_rejection_kernels import RejectionKernels
from migrator.rules.npu241_draft_kernels import DraftKernels
from migrator.rules.npu243_sampler_kernels import SamplerKernels
from migrator.rules.npu244_input_kernels import InputKernels

PAGE = ROOT / "docs" / "replacements.md"
RELEASES = ("0.11.0", "0.18.0", "0.23.0", "0.32.0", "0.33.0")
PROGRAM = ROOT / "scripts" / "replacements" / "compare.py"
BATCHES = 60
RULES = (RejectionKernels, DraftKernels, SamplerKernels, InputKernels)
_BESIDE = ("vllm/v1/worker/npu_kernels.py",)
"""What replacements import beside their rules' files."""


_TOP = """\
import triton
import triton.language as tl


class libdevice:
    isnan = staticmethod(lambda value: value != value)
"""
"""What kernels' modules begin with; the interpreter has nothing of CUDA's own functions."""


def _language(path: Path) -> dict[str, str]:
    """What of a file kernels are made of: its device functions and constants, by name."""
    text = path.read_text(encoding="utf-8")
    lines = text.splitlines()
    found = {}
    for node in ast.parse(text).body:
        if isinstance(node, ast.FunctionDef) and node.decorator_list:
            first, name = node.decorator_list[0].lineno, node.name
        elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            first, name = node.lineno, node.targets[0].id
        else:
            continue
        code = "\n".join(lines[first - 1 : node.end_lineno])
        if "triton.jit" in code or "tl.constexpr(" in code:
            found[name] = code
    return found


def _needed(name: str, path: Path, tree: Path) -> dict[str, str]:
    """A kernel and what it needs, also of modules that its own one imports from."""
    known: dict[str, str] = {}
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("vllm.v1.worker"):
            home = tree / ((node.module or "").replace(".", "/") + ".py")
            if home.exists():
                names = {alias.name for alias in node.names}
                known |= {n: code for n, code in _language(home).items() if n in names}
    known |= _language(path)
    wanted = [name]
    for one in wanted:
        wanted += [n for n in known if n not in wanted and re.search(rf"\b{n}\b", known[one])]
    return {n: code for n, code in known.items() if n in wanted}


def kernels(release: str, folder: Path) -> dict[str, str]:
    """Write each kernel of a release to a module; kernel → the module that replaces it."""
    homes = {}
    folder.mkdir()
    tree = DiskTree(fetch(release))
    for rule in RULES:
        if not templates.render(templates.load(rule.templates[-1]), tree).strip():
            continue
        home = rule.templates[-1].removesuffix(".py").replace("/", ".")
        for site in rule.sites:
            path = next((fetch(release) / p for p in site.paths if tree.exists(p)), None)
            needed = _needed(site.name, path, fetch(release)) if path is not None else {}
            if site.name in needed:
                code = "\n\n\n".join((_TOP, *needed.values()))
                (folder / f"{site.name}.py").write_text(f"{code}\n", encoding="utf-8")
                homes[site.name] = home
    return homes


def replacements(release: str, folder: Path) -> None:
    """Write the replacements as they are in an emitted tree of a release."""
    tree = DiskTree(fetch(release))
    added = [path for rule in RULES for path in rule.templates]
    for path in (*added, *_BESIDE):
        target = folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(templates.render(templates.load(path), tree))


def compare(release: str, python: Path, batches: int = BATCHES, mutants: bool = True) -> Any:
    """What came of each kernel of a release."""
    with tempfile.TemporaryDirectory() as work:
        folder = Path(work)
        job: dict[str, Any] = {
            "kernels": str(folder / "kernels"),
            "replacements": str(folder / "tree"),
            "homes": kernels(release, folder / "kernels"),
            "batches": batches,
            "mutants": mutants,
            "out": str(folder / "out.json"),
        }
        replacements(release, folder / "tree")
        (folder / "job.json").write_text(json.dumps(job), encoding="utf-8")
        command = [str(python), str(PROGRAM), str(folder / "job.json")]
        kept = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        subprocess.run(
            command,
            env={**kept, "TRITON_INTERPRET": "1", "TORCH_DEVICE_BACKEND_AUTOLOAD": "0"},
            check=True,
        )
        return json.loads((folder / "out.json").read_text(encoding="utf-8"))


def problems(found: dict[str, dict[str, Any]]) -> Iterator[str]:
    """What is wrong with what came of the releases' kernels.

    What only some releases' kernels do, only these can show.
    """
    survivors: dict[tuple[str, str], int] = {}
    compared: Counter[str] = Counter()
    for release, entries in found.items():
        for name, entry in entries.items():
            compared[name] += 1
            if entry["wrong"]:
                yield f"{release} {name}: {entry['wrong']}"
            elif not entry["mutants"]:
                yield f"{release} {name}: nothing was broken"
            for said in entry["survived"]:
                survivors[name, said] = survivors.get((name, said), 0) + 1
    for (name, said), count in survivors.items():
        if count == compared[name]:
            yield f"{name}: not noticed: {said}"


INTRODUCTION = """\
# Replacements of Triton kernels

Made by `python scripts/replacement_table.py`: vLLM's own kernels, from the releases' sources, are
run by Triton's interpreter on random batches (requests without tokens, -1, values exactly at a
limit, several blocks), and the functions that an NPU runs in their place on the same. Both have to
leave the same in every tensor. Then each operation of a replacement is broken, one at a time, and
some batch of some release has to differ: what other releases' kernels do, a release cannot show.

"""


def page(found: dict[str, dict[str, Any]]) -> str:
    """The page in Markdown."""
    lines = ["| release | kernel | batches | equal | broken | noticed |"]
    lines.append("| --- | --- | --- | --- | --- | --- |")
    for release, entries in found.items():
        for name, entry in entries.items():
            noticed = entry["mutants"] - len(entry["survived"])
            lines.append(
                f"| {release} | `{name}` | {entry['batches']} | {'no' if entry['wrong'] else 'yes'}"
                f" | {entry['mutants']} | {noticed} |"
            )
    return INTRODUCTION + "\n".join(lines) + "\n"


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("releases", nargs="*")
    parser.add_argument("--env", type=Path, required=True, help="environment with torch and triton")
    given = parser.parse_args(arguments)
    python = interpreter(given.env)
    found = {release: compare(release, python) for release in given.releases or RELEASES}
    wrong = list(problems(found))
    text = page(found)
    if given.releases:
        print(text)
    else:
        PAGE.write_text(text, encoding="utf-8")
    print("\n".join(wrong) or "nothing differs", file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
