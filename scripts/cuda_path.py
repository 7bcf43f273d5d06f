# SPDX-License-Identifier: Apache-2.0
"""Compare a release and its emitted tree on a CUDA GPU, bit by bit, and write docs/cuda-path.md.

Three trees load the same compiled libraries: P, the Python files of vLLM's CUDA wheel; E, the same
with each file that `apply` changed or added; P2, P once more, for what P2 does not keep is noise of
the machine and no fault of E. Of each case and tree, in a process of its own (`gpu/engine.py`):
every token, log-probability and rank, every device event, the number of CUDA API calls and of
Python calls.

    python scripts/cuda_path.py trees 0.24.0 WHEEL TREES            # needs the tool, no GPU
    python cuda_path.py run TREES OUT [CASE…]                       # needs a GPU, vLLM's packages
    python cuda_path.py compare OUT > 0.24.0.json                   # no more than Python
    python scripts/cuda_path.py page 0.24.0.json…                   # writes the page

WHEEL is the CUDA wheel, unpacked. `run` and `compare` need this file and `gpu/` and nothing of the
project, so that they can be carried to another machine. What has to be fixed for a fair comparison
is in FIXED and in `gpu/engine.py`. The command's exit code is 1 where E differs from P and P2 does
not, or a case fails.
"""

from __future__ import annotations

import argparse
import collections
import filecmp
import gzip
import json
import os
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
PAGE = HERE.parent / "docs" / "cuda-path.md"
TREES = ("P", "E", "P2")
FIXED = {
    # vLLM's V2 runner walks a set of request ids: the order of freed slots, and with it the
    # variant of a fill kernel, follows the hash seed.
    "PYTHONHASHSEED": "0",
    "VLLM_USE_FLASHINFER_SAMPLER": "0",
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
    "OMP_NUM_THREADS": "2",
    "TORCHINDUCTOR_COMPILE_THREADS": "1",
}
"""What the environment of every process has."""
FLASH = {"attention_backend": "FLASH_ATTN"}
NGRAM = {
    "method": "ngram",
    "num_speculative_tokens": 3,
    "prompt_lookup_max": 3,
    "prompt_lookup_min": 1,
}
V1 = {"VLLM_USE_V2_MODEL_RUNNER": "0"}
CASES: dict[str, dict[str, Any]] = {
    "llama": {"model": "llama", "arguments": FLASH, "environment": V1},
    "llama, eager": {
        "model": "llama",
        "arguments": {**FLASH, "enforce_eager": True},
        "environment": V1,
    },
    "llama, Triton attention": {
        "model": "llama",
        "arguments": {"attention_backend": "TRITON_ATTN"},
        "environment": V1,
    },
    "llama, full graphs alone": {
        "model": "llama",
        "arguments": {
            **FLASH,
            "compilation_config": {"mode": 0, "cudagraph_mode": "FULL", "custom_ops": ["all"]},
        },
        "environment": V1,
    },
    "llama, fp8": {
        "model": "llama",
        "arguments": {**FLASH, "quantization": "fp8"},
        "environment": V1,
    },
    "llama, ngram": {
        "model": "llama",
        "arguments": {**FLASH, "speculative_config": NGRAM},
        "environment": V1,
    },
    "llama, draft model": {
        "model": "llama",
        "arguments": {**FLASH, "speculative_config": {"method": "draft_model"}},
        "environment": V1,
        "drafts": 3,
    },
    "llama, JSON schema": {"model": "llama", "arguments": FLASH, "environment": V1, "json": True},
    "llama, sleep and wake": {
        "model": "llama",
        "arguments": {**FLASH, "enable_sleep_mode": True},
        "environment": V1,
        "sleep": True,
    },
    "qwen3": {"model": "qwen3", "arguments": FLASH, "environment": V1},
    "qwen3, all custom ops": {
        "model": "qwen3",
        "arguments": {**FLASH, "compilation_config": {"custom_ops": ["all"]}},
        "environment": V1,
    },
    "mixtral": {"model": "mixtral", "arguments": FLASH, "environment": V1},
    "mixtral, fp8, eager": {
        "model": "mixtral",
        "arguments": {**FLASH, "quantization": "fp8", "enforce_eager": True},
        "environment": V1,
    },
    "llama, runner by default": {"model": "llama", "arguments": FLASH},
    "llama, eager, runner by default": {
        "model": "llama",
        "arguments": {**FLASH, "enforce_eager": True},
    },
    "qwen3, runner by default": {"model": "qwen3", "arguments": FLASH},
    "mixtral, runner by default": {"model": "mixtral", "arguments": FLASH},
    "llama, JSON schema, runner by default": {"model": "llama", "arguments": FLASH, "json": True},
}
"""Name → model, arguments of `LLM`, what the environment has beside FIXED, and what is asked."""


# ---- the trees ------------------------------------------------------------------------------


def make_trees(release: str, wheel: Path, out: Path) -> int:
    """P and E of a release below `out`; compiled libraries are links into the wheel."""
    from tool import command

    from migrator.files.sources import fetch

    out.mkdir(parents=True, exist_ok=True)
    source, emitted = fetch(release), out / "emitted"
    applied = command("apply", source, "-o", emitted, "--force", "-q")
    if applied.returncode:
        raise SystemExit(f"apply exits {applied.returncode}: {applied.stderr.strip()}")
    counts: collections.Counter[str] = collections.Counter()
    for label in ("P", "E"):
        shutil.rmtree(out / label, ignore_errors=True)
        shutil.copytree(
            wheel / "vllm",
            out / label / "vllm",
            ignore=lambda _, names: [n for n in names if ".so" in n or n == "__pycache__"],
        )
        for metadata in wheel.glob("*.dist-info"):
            # By its version vLLM knows which platform it was built for.
            shutil.copytree(metadata, out / label / metadata.name, dirs_exist_ok=True)
        for library in wheel.rglob("*.so"):
            place = out / label / library.relative_to(wheel)
            place.parent.mkdir(parents=True, exist_ok=True)
            place.symlink_to(library.resolve())
    for path in sorted(emitted.rglob("vllm/**/*.py")):
        name = path.relative_to(emitted)
        old, installed = source / name, wheel / name
        if old.exists() and filecmp.cmp(path, old, shallow=False):
            continue
        if old.exists() and not (installed.exists() and filecmp.cmp(old, installed, False)):
            raise SystemExit(f"{name}: the wheel has another one than the source archive")
        counts["changed" if old.exists() else "added"] += 1
        (out / "E" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, out / "E" / name)
    shutil.rmtree(emitted)
    (out / "trees.json").write_text(json.dumps({"release": release, **counts}))
    print(f"{release}: {counts['changed']} files changed, {counts['added']} added")
    return 0


def stem(name: str, label: str) -> str:
    """What the files of a case in a tree are called, but for their endings."""
    return f"{name.replace(', ', '_').replace(' ', '-')}.{label}"


# ---- the runs -------------------------------------------------------------------------------


def run(trees: Path, out: Path, names: list[str], workers: int, limit: float) -> int:
    """Run cases in all trees, several at a time; the outcomes go below `out`."""
    out.mkdir(parents=True, exist_ok=True)
    models = out / "models"
    if not models.exists():
        subprocess.run([sys.executable, HERE / "gpu" / "models.py", models], check=True)
    shutil.copy(trees / "trees.json", out)
    jobs = [(name, label) for name in names for label in TREES]

    def one(job: tuple[str, str]) -> bool:
        name, label = job
        files = stem(name, label)
        case = json.loads(json.dumps(CASES[name]))
        arguments = case["arguments"]
        arguments["model"] = str(models / case["model"])
        if drafts := case.get("drafts"):
            arguments["speculative_config"].update(
                model=arguments["model"], num_speculative_tokens=drafts
            )
        (out / f"{files}.case").write_text(json.dumps(case))
        packages = [str(trees / label[0]), *filter(None, [os.environ.get("PYTHONPATH")])]
        caches = out / "caches" / files
        environment = {
            **os.environ,
            **FIXED,
            **case.get("environment", {}),
            "PYTHONPATH": os.pathsep.join(packages),
            "VLLM_CACHE_ROOT": str(caches / "vllm"),
            "TRITON_CACHE_DIR": str(caches / "triton"),
            "TORCHINDUCTOR_CACHE_DIR": str(caches / "torchinductor"),
        }
        target = out / f"{files}.json.gz"
        with (out / f"{files}.log").open("wb") as log:
            try:
                code = subprocess.run(
                    [sys.executable, HERE / "gpu" / "engine.py", f"{out}/{files}.case", target],
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    env=environment,
                    cwd=tempfile.gettempdir(),
                    timeout=limit,
                    check=False,
                ).returncode
            except subprocess.TimeoutExpired:
                code = 124
        if not target.exists():
            found = {"failed": f"the process ended with {code}"}
            target.write_bytes(gzip.compress(json.dumps(found).encode(), mtime=0))
        print(f"{name}, {label}: {'ok' if code == 0 else code}", file=sys.stderr, flush=True)
        return code == 0

    with ThreadPoolExecutor(workers) as pool:
        return 0 if all(list(pool.map(one, jobs))) else 1


# ---- the comparison -------------------------------------------------------------------------


def outcome(out: Path, name: str, label: str) -> dict[str, Any] | None:
    """What a case gave in a tree; None where it was not run."""
    path = out / f"{stem(name, label)}.json.gz"
    return json.loads(gzip.decompress(path.read_bytes())) if path.exists() else None


def compare(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    """How many sets, tokens and events of two trees are the same."""
    if failed := [found["failed"] for found in (one, other) if "failed" in found]:
        return {"failed": failed[0]}
    flat = [
        collections.Counter(json.dumps(e) for stream in found["events"] for e in stream)
        for found in (one, other)
    ]
    api = {
        name
        for name in one["api"].keys() | other["api"].keys()
        if one["api"].get(name, 0) != other["api"].get(name, 0)
    }
    more = collections.Counter(other["calls"])
    more.subtract(one["calls"])
    return {
        "sets": len(one["runs"]),
        "equal": sum(one["runs"][name] == other["runs"].get(name) for name in one["runs"]),
        "tokens": sum(len(r["tokens"]) for run in one["runs"].values() for r in run),
        "logprobs": sum(
            len(step or ()) for run in one["runs"].values() for r in run for step in r["logprobs"]
        ),
        "events": sum(flat[0].values()),
        "sequence": one["events"] == other["events"],
        "only": [sum((flat[0] - flat[1]).values()), sum((flat[1] - flat[0]).values())],
        "api": [sum(one["api"].values()), sum(other["api"].values())],
        "api differs in": sorted(api),
        "calls": sum(one["calls"].values()),
        "more calls": {n: c for n, c in sorted(more.items(), key=lambda x: -abs(x[1])) if c},
    }


def summary(out: Path) -> dict[str, Any]:
    """Every case of `out`: E against P, and P2 against P."""
    found: dict[str, Any] = {**json.loads((out / "trees.json").read_text()), "cases": {}}
    for name in CASES:
        pristine = outcome(out, name, "P")
        if pristine is None:
            continue
        if "failed" not in pristine:
            found["gpu"], found["torch"] = pristine["gpu"], pristine["torch"]
        found["cases"][name] = {"v2": pristine.get("v2", False)}
        for label in TREES[1:]:
            other = outcome(out, name, label)
            if other is not None:
                found["cases"][name][label] = compare(pristine, other)
    return found


def differs(compared: dict[str, Any]) -> tuple[bool, bool]:
    """Does a bit of the results differ, and does an event or the order of events?"""
    if "failed" in compared:
        return True, True
    return compared["equal"] < compared["sets"], not compared["sequence"]


def at_fault(case: dict[str, Any]) -> bool:
    """Does E differ in something that P2 keeps, or fail?"""
    pairs = zip(differs(case["E"]), differs(case["P2"]), strict=True)
    return "failed" in case["E"] or any(of_e and not noise for of_e, noise in pairs)


# ---- the page -------------------------------------------------------------------------------


def row(name: str, case: dict[str, Any]) -> str:
    """A line of the table."""
    e, p2 = case["E"], case["P2"]
    if "failed" in e:
        return f"| {name} | – | failed: {e['failed']} | – | – | – | – | – |"
    api = "equal" if not e["api differs in"] else ", ".join(f"`{n}`" for n in e["api differs in"])
    noise = (
        "equal" if not any(differs(p2)) else "differs as well" if "failed" not in p2 else "failed"
    )
    runner = "V2" if case["v2"] else "V1"
    order = "equal" if e["sequence"] else f"differs: {e['only'][0]} and {e['only'][1]} in one"
    return (
        f"| {name} | {runner} | {e['equal']} of {e['sets']} | {e['tokens']:,} | "
        f"{e['logprobs']:,} | {e['events']:,}, {order} | {api} | {noise} |"
    )


def page(found: list[dict[str, Any]]) -> str:
    """The page in Markdown."""
    lines = [
        "# The CUDA path on a GPU",
        "",
        "Made by `python scripts/cuda_path.py page`. An emitted tree must behave as vLLM does "
        "where there is a CUDA GPU and no",
        "torch_npu. Compared were the Python files of vLLM's CUDA wheel (P) with the same and "
        "what `apply` changed and added",
        "(E), both on the wheel's compiled libraries; P was run once more (P2), for what that "
        "does not keep is noise. *Sets*: sets",
        "of sampling parameters of which every token, log-probability and rank is equal, bit by "
        "bit. *Events*: kernels with their",
        "launch configuration and copies with their bytes, in the order of their stream. *CUDA API "
        "calls*: those of which the",
        "number differs; `cudaEventQuery` polls.",
        "",
        "Fixed for all: the hash seed, Inductor's choice of a launch configuration, the size of "
        "the KV cache. Models are tiny and",
        "random, in bfloat16; 8 prompts of 1 to 500 tokens, 48 new ones. Not compared: several "
        "GPUs, several processes,",
        "FlashAttention 2, FlashInfer, LoRA, KV offloading, `vllm serve`, other GPUs.",
    ]
    for one in found:
        cases = one["cases"]
        wrong = [name for name, case in cases.items() if at_fault(case)]
        lines += [
            "",
            f"## {one['release']}",
            "",
            f"{one.get('gpu')}, torch {one.get('torch')}; {one['changed']} files changed, "
            f"{one['added']} added. {len(cases) - len(wrong)} of {len(cases)} cases are equal, or "
            "differ as P and P2 do.",
            "",
            "| Case | Runner | Sets equal | Tokens | Log-probabilities | Events | "
            "CUDA API calls | P2 |",
            "| --- | --- | ---: | ---: | ---: | --- | --- | --- |",
            *(row(name, case) for name, case in cases.items()),
        ]
        extra = [
            (name, sum(c for c in case["E"]["more calls"].values() if c > 0), case["E"]["calls"])
            for name, case in cases.items()
            if "failed" not in case["E"]
        ]
        if extra:
            name, more, calls = max(extra, key=lambda item: item[1] / item[2])
            lines += [
                "",
                f"Python calls that E makes and P does not: at most {more:,} beside {calls:,} "
                f"({name}), {100 * more / calls:.2f}%.",
            ]
    return "\n".join(lines) + "\n"


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    commands = parser.add_subparsers(dest="command", required=True)
    one = commands.add_parser("trees", help="make P and E of a release")
    one.add_argument("release")
    one.add_argument("wheel", type=Path)
    one.add_argument("trees", type=Path)
    one = commands.add_parser("run", help="run cases in P, E and P2")
    one.add_argument("trees", type=Path)
    one.add_argument("out", type=Path)
    one.add_argument("cases", nargs="*", metavar="CASE", help="[default: all]")
    one.add_argument("--workers", type=int, default=4, help="engines at once [default: 4]")
    one.add_argument("--limit", type=float, default=280, help="seconds a case [default: 280]")
    one = commands.add_parser("compare", help="print what was equal, as JSON")
    one.add_argument("out", type=Path)
    one = commands.add_parser("page", help="write the page")
    one.add_argument("summaries", type=Path, nargs="+")
    given = parser.parse_args(arguments)
    if given.command == "trees":
        return make_trees(given.release, given.wheel.absolute(), given.trees.absolute())
    if given.command == "run":
        unknown = [name for name in given.cases if name not in CASES]
        if unknown:
            parser.error(f"no case {unknown[0]!r}; there are: {'; '.join(CASES)}")
        cases = given.cases or list(CASES)
        return run(given.trees.absolute(), given.out.absolute(), cases, given.workers, given.limit)
    if given.command == "compare":
        found = summary(given.out)
        print(json.dumps(found, indent=1))
        return int(any(at_fault(case) for case in found["cases"].values()))
    PAGE.write_text(page([json.loads(path.read_bytes()) for path in given.summaries]), "utf-8")
    print(f"wrote {PAGE}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
