# SPDX-License-Identifier: Apache-2.0
"""The Python environment and the tree that run on the simulated Ascend: checks and variables."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import tempfile
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
from packaging.requirements import InvalidRequirement, Requirement

from migrator.files.tree import Label, labelled
from migrator.messages.errors import MigrateError
from migrator.verify.tree import LOG, Log

PROGRAMS = Path(__file__).resolve().parent / "programs"
NEEDED = ("torch", "torch_npu", "transformers", "tokenizers", "safetensors", "numpy")
"""Distributions without which nothing runs."""
SERVING = ("openai", "fastapi", "uvicorn")
"""What `--serve` needs beside them."""
RAY = ("ray",)
"""What runs over Ray need; vLLM asks for it nowhere but for CUDA."""

_PROBE = """
import json, sys
from importlib import metadata
found = {}
for name in json.loads(sys.argv[1]):
    try:
        found[name] = metadata.version(name)
    except metadata.PackageNotFoundError:
        found[name] = None
print(json.dumps({"python": sys.executable, "found": found}))
"""

CHECKS = {"ASCEND_SIM_RACES": "error"}
"""What a run asks of the simulator beside what it does by itself: a race ends the run."""
CHOSEN = (*CHECKS, "ASCEND_SIM_GARBAGE", "ASCEND_SIM_ORDER")
"""Checks of the simulator that the caller's environment may set otherwise."""
FLOAT32 = {"ASCEND_SIM_RELAX": "float32", "VLLM_NPU_ALLOW_FLOAT32": "1"}
"""Variables of a comparison in float32, which the device's attention and rotary do not take."""


class SimulateError(MigrateError):
    """The runs cannot begin; the message says what to do."""


@dataclass(frozen=True)
class EmittedTree:
    """A tree that `apply` wrote, or an untouched one beside which a plugin of it is installed."""

    root: Path
    label: Label
    beside: tuple[Path, ...] = ()
    """Folders of installed packages that go with the tree."""
    bytecode: Path | None = None
    """Where runs keep bytecode; None: in the folder of each, for itself."""

    @property
    def version(self) -> str:
        """The version that the runs install it as. Nothing asks for one of its own."""
        return f"{self.label.release or '0.0.0'}+npu"


@dataclass(frozen=True)
class Launcher:
    """How a program is started on the simulated machine.

    `command` comes before `--devices N --memory SIZE -- PROGRAM`; `python` is the interpreter.
    """

    command: tuple[str, ...]
    python: Path

    def simulated(
        self,
        devices: int,
        memory: str,
        program: Sequence[str],
        *,
        nnal: bool = True,
        triton: bool = False,
        soc: str = "",
    ) -> list[str]:
        """The command line of a Python program on a machine with such devices."""
        machine = ["--devices", str(devices), "--memory", memory]
        if soc:
            machine += ["--soc", soc]
        if not nnal:
            machine.append("--without-nnal")
        if triton:
            machine.append("--with-triton")
        return [*self.command, *machine, "--", str(self.python), *program]


def open_tree(root: Path) -> EmittedTree:
    """The emitted tree at `root`; raises `SimulateError` for anything else."""
    if not (root / "vllm" / "__init__.py").is_file():
        raise SimulateError(f"{root}: no vllm package in it; name the root of an emitted tree")
    try:
        log = msgspec.json.decode((root / LOG).read_bytes(), type=Log)
    except FileNotFoundError:
        raise SimulateError(
            f"{root}: no {LOG}; emit the tree with `vllm-npu-migrate apply`"
        ) from None
    except msgspec.DecodeError as error:
        raise SimulateError(f"{root / LOG} cannot be read: {error}") from error
    return EmittedTree(root.resolve(), Label(log.release, log.claim))


def open_plugin(plugin: Path, vllm: Path, python: Path, folder: Path) -> EmittedTree:
    """The untouched tree at `vllm` with the plugin at `plugin`, installed below `folder`.

    Raises:
        SimulateError: one of them is none, or pip cannot install the plugin.
    """
    if not (vllm / "vllm" / "__init__.py").is_file():
        raise SimulateError(f"{vllm}: no vllm package in it; name the source of an untouched vLLM")
    try:
        project = tomllib.loads((plugin / "pyproject.toml").read_text("utf-8"))["project"]
        plugins = project["entry-points"]["vllm.platform_plugins"]
        # A plugin of what is no release has the version 0.
        version = str(project["version"])
        label = labelled(None if version == "0" else version)
    except (OSError, KeyError, tomllib.TOMLDecodeError) as error:
        raise SimulateError(
            f"{plugin}: no plugin for vLLM; emit one with `vllm-npu-migrate apply --layout plugin`"
        ) from error
    site = folder / "installed"
    shutil.rmtree(site, ignore_errors=True)
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        # The build writes beside the sources.
        copy = Path(scratch) / "plugin"
        shutil.copytree(plugin, copy, ignore=shutil.ignore_patterns(".git", "build"))
        # What it requires is there, as far as the runs need it.
        offline = ("--no-index", "--no-deps", "--no-build-isolation")
        command = [str(python), "-m", "pip", "install", "-q", *offline]
        done = subprocess.run(
            [*command, "--target", str(site), str(copy)],
            env=cpu_variables(),
            capture_output=True,
            text=True,
            check=False,
        )
    if done.returncode != 0:
        said = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        raise SimulateError(f"pip cannot install {', '.join(plugins)} of {plugin}: {said[-1]}")
    return EmittedTree(vllm.resolve(), label, (site.resolve(),))


def requirements(tree: EmittedTree) -> list[str]:
    """Names of the distributions that the tree asks for on every platform."""
    return [requirement.name for requirement in asked_for(tree)]


def asked_for(tree: EmittedTree) -> list[Requirement]:
    """What the tree asks for on every platform, as far as it holds for this interpreter."""
    found = []
    for line in _lines(tree.root / "requirements" / "common.txt"):
        try:
            requirement = Requirement(line)
        except InvalidRequirement:
            continue
        if requirement.marker is None or requirement.marker.evaluate():
            found.append(requirement)
    return found


def _lines(path: Path) -> list[str]:
    if not path.is_file():
        return []
    lines = (
        re.sub(r"(^|\s)#.*", "", line).strip() for line in path.read_text("utf-8").splitlines()
    )
    return [line for line in lines if line and not line.startswith("-")]


@dataclass(frozen=True)
class Versions:
    """What is installed: name → version; `missing` are requirements of the tree that are not."""

    installed: Mapping[str, str]
    missing: tuple[str, ...]


def check(python: Path, tree: EmittedTree, *, serve: bool, ray: bool = False) -> Versions:
    """What the environment has. Raises `SimulateError`, one line, if what is needed is not there.

    Requirements of the tree that are missing are no error: most are needed by features that the
    runs do not touch, and one environment serves many releases.
    """
    needed = [*NEEDED, *(SERVING if serve else ()), *(RAY if ray else ())]
    wanted = list(dict.fromkeys([*needed, *requirements(tree)]))
    settings = {**os.environ, "TORCH_DEVICE_BACKEND_AUTOLOAD": "0"}
    settings.pop("PYTHONPATH", None)
    try:
        run = subprocess.run(
            [str(python), "-c", _PROBE, json.dumps(wanted)],
            env=settings,
            capture_output=True,
            text=True,
            timeout=120,
            check=True,
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise SimulateError(f"{python} does not run: {error}") from error
    found: dict[str, str | None] = json.loads(run.stdout)["found"]
    absent = [name for name in needed if found[name] is None]
    missing = tuple(name for name in wanted if found[name] is None and name not in absent)
    if absent:
        raise SimulateError(
            f"{python}: {', '.join(absent)} not installed; docs/simulated-runs.md says how the "
            f"environment is made, and --env DIR names another one"
        )
    return Versions({name: v for name, v in found.items() if v is not None}, missing)


def over_ray(program: Sequence[str]) -> list[str]:
    """A Python program and its arguments, run beside a Ray cluster of its own."""
    return [str(PROGRAMS / "ray_cluster.py"), *program]


def metadata_folder(tree: EmittedTree, folder: Path) -> Path:
    """Installed metadata for the tree, which is not installed but on PYTHONPATH."""
    info = folder / f"vllm-{tree.version}.dist-info"
    info.mkdir(parents=True, exist_ok=True)
    (info / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: vllm\nVersion: {tree.version}\n", encoding="utf-8"
    )
    return folder


def variables(
    tree: EmittedTree, folder: Path, base: Mapping[str, str] | None = None, *, float32: bool = True
) -> dict[str, str]:
    """Environment of a program that imports the tree; all that it writes goes below `folder`.

    Settings of the caller that would steer vLLM or the device are dropped. Without `float32`
    nothing that the device does not take is let pass.
    """
    foreign = ("VLLM_", "ASCEND_", "HCCL_", "TORCH_NPU", "CUDA_", "TRANSFORMERS_", "HF_", "RAY_")
    names = dict(os.environ if base is None else base)
    # With it each process would compile all of torch, transformers and vLLM again.
    names.pop("PYTHONDONTWRITEBYTECODE", None)
    kept = {name: value for name, value in names.items() if not name.startswith(foreign)}
    chosen = {name: names[name] for name in CHOSEN if name in names}
    metadata = metadata_folder(tree, folder / "metadata")
    paths = [*tree.beside, metadata, tree.root, PROGRAMS / "recorder"]
    return {
        **kept,
        "PYTHONPATH": os.pathsep.join(str(path) for path in paths),
        # The tree stays as it is, and its bytecode is made once.
        "PYTHONPYCACHEPREFIX": str(tree.bytecode or folder / "bytecode"),
        "PYTHONUNBUFFERED": "1",
        "OMP_NUM_THREADS": "1",
        "TORCH_DEVICE_BACKEND_AUTOLOAD": "0",
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_OFFLINE": "1",
        # Titles of processes must not overwrite the environment by which we find them.
        "SPT_NOENV": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
        "VLLM_CACHE_ROOT": str(folder / "vllm-cache"),
        "VLLM_CONFIG_ROOT": str(folder / "vllm-config"),
        "VLLM_LOGGING_LEVEL": "WARNING",
        **(FLOAT32 if float32 else {}),
        **CHECKS,
        **chosen,
    }


def cpu_variables(
    base: Mapping[str, str] | None = None, *, bytecode: Path | None = None
) -> dict[str, str]:
    """Environment of a program that computes a reference: no device, no hub, no tree.

    `bytecode` is where it is kept; None leaves that to the caller's environment.
    """
    kept = dict(os.environ if base is None else base)
    kept.pop("PYTHONPATH", None)
    if bytecode is not None:
        kept.pop("PYTHONDONTWRITEBYTECODE", None)
        kept["PYTHONPYCACHEPREFIX"] = str(bytecode)
    return {
        **kept,
        "OMP_NUM_THREADS": "1",
        "TORCH_DEVICE_BACKEND_AUTOLOAD": "0",
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }


def client_variables(base: Mapping[str, str] | None = None) -> dict[str, str]:
    """Environment of a program that asks a server on this machine: no proxies, no device."""
    names = dict(os.environ if base is None else base)
    kept = {
        name: value
        for name, value in names.items()
        if not name.startswith("OPENAI_") and not name.lower().endswith("_proxy")
    }
    kept.pop("PYTHONPATH", None)
    return {**kept, "TORCH_DEVICE_BACKEND_AUTOLOAD": "0"}
