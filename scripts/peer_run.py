# SPDX-License-Identifier: Apache-2.0
"""Serve a tiny Llama by vllm-ascend's own Python on the simulated NPU; write docs/peer.md.

    python scripts/peer_run.py --env DIR           # the release of the page, which it writes
    python scripts/peer_run.py --env DIR 0.11.0    # this one, printed and not written

Both vLLM and vllm-ascend are fetched by name from the package index, as sources; nothing of them is
built, and of vllm-ascend's own kernels none is there. DIR has the torch and torch_npu of the
release or newer ones, transformers, and what both need of Python. Tokens are compared with those
of transformers in float32; steps are counted as `verify --simulate --cost` counts them.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from cost_table import RAW
from tool import ROOT

from migrator.files import package_index, writer
from migrator.files.interpreters import interpreter
from migrator.files.sources import fetch
from migrator.files.tree import Label
from migrator.verify import simulate
from migrator.verify.simulate import cost, environment, process
from migrator.verify.simulate.environment import EmittedTree
from migrator.verify.simulate.run import reference

PAGE = ROOT / "docs" / "peer.md"
RELEASE = "0.11.0"
PEER = "vllm-ascend"
MEMORY = "1GiB"
ENGINE = {
    "dtype": "float32",
    "enforce_eager": True,
    "max_model_len": 1024,
    "max_num_batched_tokens": 1024,
    "max_num_seqs": 8,
    "gpu_memory_utilization": 0.6,
}
BUILD_INFO = "__soc_version__ = 'ascend910b1'\n__sleep_mode_enabled__ = False\n"
"""What its build would write into the package."""
HEAD = """\
# Another port on the simulator

Made by `python scripts/peer_run.py`. The simulated NPU is no part of this port: any program of
torch_npu runs on it. Here vllm-ascend, unchanged, beside an untouched vLLM, both from the package
index. Its own compiled kernels are not built, so it takes the ways that it has without them.

<!-- not run: it installs torch and more; this page is what the script wrote -->
```sh
python -m venv ENV
ENV/bin/pip install torch==2.8.0 transformers tokenizers
ENV/bin/pip install --no-deps torch_npu==2.8.0.post2
# and what requirements/common.txt of vLLM and requirements.txt of vllm-ascend name
python scripts/peer_run.py --env ENV 0.11.0
```
"""


def installed(release: str, folder: Path) -> EmittedTree:
    """An untouched vLLM with vllm-ascend beside it, as pip would install them."""
    vllm = fetch(release)
    archive = package_index.fetch(f"{PEER}=={release}", folder, source_only=True)
    source = folder / "source"
    writer.unpack(archive, source)
    site = folder / "site"
    package = PEER.replace("-", "_")
    shutil.copytree(source / package, site / package)
    (site / package / "_build_info.py").write_text(BUILD_INFO, encoding="utf-8")
    for name in ("vllm", package):
        info = site / f"{name}-{release}.dist-info"
        info.mkdir()
        metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: {release}\n"
        (info / "METADATA").write_text(metadata, encoding="utf-8")
    shutil.copy(source / f"{package}.egg-info" / "entry_points.txt", info)
    return EmittedTree(vllm, Label(release, None), (site,))


def served(
    tree: EmittedTree, options: simulate.Options, work: Path
) -> Iterator[tuple[str, int, int]]:
    """Each batch of prompts: its name, tokens that are the reference's, tokens in all."""
    versions = environment.check(options.launcher.python, tree, serve=False)
    (model,) = options.models
    folder = reference(model, options, versions, process.run)
    wanted = json.loads((folder / "reference.json").read_text(encoding="utf-8"))
    job, out = work / "job.json", work / "out.json"
    prompts = {name: wanted[name]["prompts"] for name in ("fresh", "again")}
    told = {"model": str(folder), "engine": ENGINE, "new_tokens": wanted["new_tokens"], **prompts}
    job.write_text(json.dumps({**told, "out": str(out)}), encoding="utf-8")
    program = [str(ROOT / "scripts" / "peer" / "serve.py"), str(job)]
    variables = {**environment.variables(tree, work), "VLLM_ENABLE_V1_MULTIPROCESSING": "0"}
    command = options.launcher.simulated(1, MEMORY, program)
    process.run(command, variables, work, work / "log", options.timeout)
    if not out.is_file():
        sys.exit("\n".join(process.tail(work / "log", 20)))
    for name, answers in json.loads(out.read_text(encoding="utf-8")).items():
        pairs = zip(answers, wanted[name]["tokens"], strict=True)
        equal = [a == b for ours, theirs in pairs for a, b in zip(ours, theirs, strict=True)]
        yield name, sum(equal), len(equal)


def page(release: str, tokens: Sequence[tuple[str, int, int]], way: cost.Way) -> str:
    """The page, with what was served and counted."""
    lines = [HEAD, f"## {PEER} {release} on vLLM {release}\n"]
    lines += ["| prompts | tokens that are transformers' | of |", "| --- | ---: | ---: |"]
    lines += [f"| {name} | {equal} | {count} |" for name, equal, count in tokens]
    lines.append("\nIts steps, in bfloat16, as those of [emitted trees](cost.md) are counted:\n")
    lines.append(f"| {' | '.join(cost.HEADINGS)} |")
    lines.append(f"| --- |{' ---: |' * (len(cost.HEADINGS) - 1)}")
    lines += [f"| {' | '.join(cost.cells(step))} |" for step in way.steps]
    if way.problem:
        lines += [f"\nnot counted: {way.problem}", *way.log]
    return "\n".join(lines) + "\n"


def main() -> int:
    """Serve and count; exit with 1 where a token differs or the steps are not counted."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=RAW)
    parser.add_argument("release", nargs="?", help="printed, and the page left alone")
    parser.add_argument("--env", type=Path, required=True, help="torch, torch_npu, transformers")
    parsed = parser.parse_args()
    release = parsed.release or RELEASE
    python = interpreter(parsed.env)
    machine = (sys.executable, "-m", "migrator", "simulator", "run", "--env", str(python))
    eager = simulate.select_modes(("eager",))
    with tempfile.TemporaryDirectory() as scratch:
        work = Path(scratch)
        tree = installed(release, work)
        options = simulate.Options(
            tree.root, simulate.Launcher(machine, python), simulate.select_models(("llama",)), eager
        )
        tokens = list(served(tree, options, work))
        way = cost.count(tree, eager[0], work, options, process.run)
    text = page(release, tokens, way)
    if parsed.release:
        print(text, end="")
    else:
        PAGE.write_text(text, encoding="utf-8")
    return 1 if way.problem or any(equal != count for _, equal, count in tokens) else 0


if __name__ == "__main__":
    sys.exit(main())
