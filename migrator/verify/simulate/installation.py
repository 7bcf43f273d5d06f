# SPDX-License-Identifier: Apache-2.0
"""Builds a wheel of a tree as `VLLM_TARGET_DEVICE=npu pip install .` does, without CUDA."""

from __future__ import annotations

import json
import shutil
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

from migrator.verify.simulate import environment, process
from migrator.verify.simulate.environment import EmittedTree
from migrator.verify.simulate.report import Report, Run
from migrator.verify.simulate.run import Options, Runner, ending, report, work_folder
from migrator.verify.tree import LOG

VERSION = "0.0.1"
"""What setuptools_scm is told, since an emitted tree has no history."""
MODE = "install"
CUDA_ONLY = ("nvidia", "cuda", "cupy", "flashinfer")
"""Words in the names of distributions that are of no use without CUDA."""


def install(
    options: Options,
    progress: Callable[[str], None] = lambda _: None,
    runner: Runner = process.run,
) -> Report:
    """Build the wheel in the environment, without isolation; models and modes are not used.

    Raises:
        SimulateError: the tree or the environment cannot be used at all.
    """
    tree = environment.open_tree(options.tree)
    versions = environment.check(options.launcher.python, tree, serve=False)
    progress("wheel")
    with work_folder(options.work) as work:
        run = _build(tree, work / MODE, options, runner)
    return report(tree, options, versions, [run])


def _build(tree: EmittedTree, folder: Path, options: Options, runner: Runner) -> Run:
    shutil.rmtree(folder, ignore_errors=True)
    # The build writes beside the sources.
    copy, out, log = folder / "tree", folder / "out", folder / "log"
    shutil.copytree(tree.root, copy, ignore=shutil.ignore_patterns(".git", "tests", "build"))
    out.mkdir()
    settings = {
        **environment.client_variables(),
        "PATH": f"{options.launcher.python.parent}:/usr/local/bin:/usr/bin:/bin",
        "VLLM_TARGET_DEVICE": "npu",
        "SETUPTOOLS_SCM_PRETEND_VERSION": VERSION,
    }
    for name in ("CUDA_HOME", "VLLM_USE_PRECOMPILED", "CANN_HOME"):
        settings.pop(name, None)
    source = "import setuptools.build_meta as b, sys; b.build_wheel(sys.argv[1])"
    command = [str(options.launcher.python), "-c", source, str(out)]
    finished = runner(command, settings, copy, log, options.timeout)
    problems = []
    if finished.code != 0:
        problems.append(f"the wheel is not built: {ending(finished)}")
    else:
        problems += [f"left a process behind: {line[:200]}" for line in finished.left]
        problems += faults(tree, out)
    shutil.rmtree(copy, ignore_errors=True)
    return Run(
        model="vllm",
        mode=MODE,
        equal=None,
        problems=problems,
        seconds=round(finished.seconds, 1),
        log=process.tail(log) if finished.code != 0 else [],
    )


def faults(tree: EmittedTree, out: Path) -> Iterator[str]:
    """What is wrong with the wheel in a folder."""
    wheels = sorted(out.glob("*.whl"))
    if len(wheels) != 1:
        yield f"{len(wheels)} wheels were built"
        return
    with zipfile.ZipFile(wheels[0]) as wheel:
        names = set(wheel.namelist())
        info = next(name for name in names if name.endswith(".dist-info/METADATA"))
        metadata = wheel.read(info).decode()
    fields = metadata.partition("\n\n")[0].splitlines()
    version = next(field.partition(": ")[2] for field in fields if field.startswith("Version"))
    if "npu" not in version:
        yield f"the wheel's version, {version}, does not name the NPU"
    required = [field.partition(": ")[2] for field in fields if field.startswith("Requires-Dist")]
    if not any(name.replace("-", "_").startswith("torch_npu") for name in required):
        yield "the wheel does not require torch_npu"
    for name in required:
        if "extra ==" not in name and any(word in name.lower() for word in CUDA_ONLY):
            yield f"the wheel requires {name}, which is for CUDA"
    for name in sorted(names):
        if name.endswith(".so"):
            yield f"the wheel holds a compiled module: {name}"
    for path in written(tree):
        if path.startswith("vllm/") and path not in names:
            yield f"the wheel lacks {path}"


def written(tree: EmittedTree) -> list[str]:
    """The files that the migration added or changed."""
    log = json.loads((tree.root / LOG).read_bytes())
    return [entry["path"] for entry in log["files"]]
