# SPDX-License-Identifier: Apache-2.0
"""Builds the simulated Ascend for the torch and torch_npu of one Python environment.

A build is a directory: `lib/` holds the stand-ins for CANN's libraries and the CPU kernels,
`nnal/lib/` the one for NNAL's, which a machine may lack, and `build.json` says what they were made
for. Builds are cached by the versions of torch and torch_npu, the interpreter's ABI and a hash of
the sources; each is made in a directory of its own and renamed into place, so that two processes
may build at once.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from packaging.version import Version

from migrator.files import locations
from migrator.files.interpreters import interpreter
from migrator.messages.errors import MigrateError
from migrator.simulator import symbols

HERE = Path(__file__).resolve().parent
RUNTIME = HERE / "runtime"
"""Directory that a simulated program has on its PYTHONPATH."""
OLDEST_TORCH = (2, 8)
"""First torch release whose torch_npu the simulator runs."""

_SOURCES = HERE / "csrc"
_KERNELS = "libascend_sim_aten.so"
_CONFIG = "libascend_sim_torch.so"
_ALLOCATOR = "libascend_sim_allocator.so"
"""Fills memory that is let go; only where torch_npu's allocator tells of that."""
_NNAL = "libatb.so"
# CANN's operator library, which torch_npu opens by name: some releases while they are imported.
# It is empty here, so torch_npu names the operator that a program wanted of it.
_OPENED = ("libopapi.so",)

_PROBE = """
import importlib.util, json, os, sys, sysconfig
from importlib import metadata
def version(*names):
    for name in names:
        try:
            return metadata.version(name)
        except metadata.PackageNotFoundError:
            pass
def package(name):
    spec = importlib.util.find_spec(name)
    return spec and spec.submodule_search_locations and list(spec.submodule_search_locations)[0]
print(json.dumps({
    "python": sys.executable,
    "abi": sysconfig.get_config_var("SOABI") or "",
    "torch": version("torch"), "torch_dir": package("torch"),
    "torch_npu": version("torch_npu", "torch-npu"), "torch_npu_dir": package("torch_npu"),
}))
"""
_ASK_TORCH = """
import json, torch
from torch.utils import cpp_extension
abi = int(torch.compiled_with_cxx11_abi())
print(json.dumps({"include": cpp_extension.include_paths(), "abi": abi}))
"""


class SimulatorError(MigrateError):
    """The simulator cannot be built or run; the message is one line with a way out."""


@dataclass(frozen=True)
class Environment:
    """A Python environment with torch and torch_npu, as its interpreter describes it."""

    python: Path
    abi: str
    torch: str
    torch_dir: Path
    torch_npu: str
    torch_npu_dir: Path


@dataclass(frozen=True)
class Build:
    """A finished build: `directory` is what ASCEND_SIM names in the environment of a program."""

    directory: Path
    environment: Environment

    @property
    def libraries(self) -> Path:
        """The directory of CANN's libraries, for LD_LIBRARY_PATH."""
        return self.directory / "lib"

    @property
    def nnal(self) -> Path:
        """The directory of NNAL's library, for LD_LIBRARY_PATH where NNAL is installed."""
        return self.directory / "nnal" / "lib"

    def facts(self) -> dict[str, Any]:
        """What `build.json` records: libraries, symbols with and without an implementation."""
        facts: dict[str, Any] = json.loads((self.directory / "build.json").read_text())
        return facts


def probe(env: Path | None) -> dict[str, Any]:
    """Ask an environment's interpreter for its versions and places; missing packages are None."""
    python = interpreter(env)
    # Away from the current directory: a folder named torch in it is not the installed one.
    result = subprocess.run(
        [python, "-I", "-c", _PROBE], capture_output=True, text=True, check=False
    )
    if result.returncode != 0:
        reason = (result.stderr.strip().splitlines() or ["no message"])[-1]
        raise SimulatorError(f"{python} does not run: {reason}")
    facts: dict[str, Any] = json.loads(result.stdout)
    facts["python"] = str(python)
    return facts


def environment(env: Path | None) -> Environment:
    """Describe an environment; raises `SimulatorError` where it cannot be simulated."""
    facts = probe(env)
    where = env or "this environment"
    for name in ("torch", "torch_npu"):
        if not facts[name] or not facts[f"{name}_dir"]:
            raise SimulatorError(
                f"{name} is not installed in {where}: install torch and the torch_npu of the same "
                "release, or name another environment by --env"
            )
    problem = mismatch(facts["torch"], facts["torch_npu"])
    if problem:
        raise SimulatorError(problem)
    return Environment(
        python=Path(facts["python"]),
        abi=facts["abi"],
        torch=facts["torch"],
        torch_dir=Path(facts["torch_dir"]),
        torch_npu=facts["torch_npu"],
        torch_npu_dir=Path(facts["torch_npu_dir"]),
    )


def mismatch(torch: str, torch_npu: str) -> str | None:
    """Why this torch and torch_npu do not go together, None where they do."""
    release, wanted = Version(torch).release, Version(torch_npu).release
    if release < OLDEST_TORCH:
        return f"torch {torch} is too old: the simulator needs torch 2.8.0 or newer"
    if release != wanted:
        base = ".".join(str(part) for part in wanted)
        return f"torch_npu {torch_npu} needs torch {base}, not {torch}: install torch=={base}"
    return None


def cache_directory() -> Path:
    """Where builds are kept; ASCEND_SIM_CACHE moves it."""
    moved = os.environ.get("ASCEND_SIM_CACHE")
    if moved:
        return Path(moved)
    return locations.private_cache("simulator")


def source_files() -> list[Path]:
    """The C and C++ sources that a build compiles."""
    return sorted(path for path in _SOURCES.iterdir() if path.suffix in {".c", ".cpp", ".h"})


def build_directory(environment: Environment) -> Path:
    """The directory of the cached build for an environment, there or not."""
    digest = hashlib.sha256()
    for path in (*source_files(), Path(__file__), HERE / "symbols.py"):
        digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    stat = (environment.torch_npu_dir / "lib" / "libtorch_npu.so").stat()
    # Two installations of one version may differ (a rebuilt wheel): the size tells most of them.
    digest.update(f"{environment.torch_dir}\0{stat.st_size}".encode())
    name = (
        f"torch-{environment.torch}_npu-{environment.torch_npu}_{environment.abi}_"
        f"{digest.hexdigest()[:16]}"
    )
    return cache_directory() / name.replace("/", "_")


def cached(environment: Environment) -> Build | None:
    """The finished build for an environment, None where there is none."""
    directory = build_directory(environment)
    if not (directory / "build.json").is_file():
        return None
    for place in (directory.parent, directory):
        if not locations.is_private(place):
            raise SimulatorError(
                f"{place} is another user's, or others can write to it, so what is compiled in it "
                "is not run; `chmod go-w` it, or name another directory by ASCEND_SIM_CACHE"
            )
    return Build(directory, environment)


def build(environment: Environment, report: Callable[[str], None] | None = None) -> Build:
    """The build for an environment, made now where the cache lacks it.

    `report` is told of each step. Raises `SimulatorError` where the compilers are missing, the
    packages do not fit or a source does not compile.
    """
    found = cached(environment)
    if found:
        return found
    tell = report or (lambda _: None)
    for tool in ("gcc", "g++"):
        if not shutil.which(tool):
            raise SimulatorError(
                f"{tool} is missing: the simulator is compiled for each torch_npu; install a C and "
                "C++ compiler (g++ 11 or newer)"
            )
    target = build_directory(environment)
    target.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix=".building-", dir=target.parent))
    try:
        staging.chmod(0o755)
        _compile(environment, staging, tell)
        try:
            staging.rename(target)
        except OSError:
            # Another process finished first: its build is as good.
            if not (target / "build.json").is_file():
                raise
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return Build(target, environment)


def _compile(environment: Environment, directory: Path, tell: Callable[[str], None]) -> None:
    tell(f"reading torch_npu {environment.torch_npu}")
    try:
        needs = symbols.requirements(environment.torch_npu_dir, environment.torch_dir)
    except symbols.ElfError as error:
        raise SimulatorError(f"{error}; install torch and torch_npu again") from error
    if needs.foreign:
        raise SimulatorError(
            f"torch {environment.torch} lacks {len(needs.foreign)} symbols that torch_npu "
            f"{environment.torch_npu} needs, {needs.foreign[0]} first: it is another build than "
            "torch_npu was made for"
        )
    lib = directory / "lib"
    work = directory / "work"
    nnal = directory / "nnal" / "lib"
    for folder in (lib, nnal, work):
        folder.mkdir(parents=True)
    for part in ("runtime", "compiler", "opp"):
        # What torch_npu looks for in ASCEND_HOME_PATH; there is nothing to find in them.
        (directory / "home" / part).mkdir(parents=True)

    # The runtime and HCCL say which symbols they implement; the rest becomes functions that
    # name themselves and fail, so that nothing made up is ever computed with.
    tell("compiling the ACL runtime")
    runtime = _objects("acl", work)
    collectives = _objects("hccl", work)
    implemented: set[str] = set()
    fallbacks: dict[str, list[str]] = {"libascendcl.so": [], "libhccl.so": []}
    objects = {"libascendcl.so": runtime, "libhccl.so": collectives}
    _link(work / "libascendcl.so", runtime)
    implemented |= symbols.read_elf(work / "libascendcl.so").defined
    if collectives:
        _link(work / "libhccl.so", collectives, [work / "libascendcl.so"])
        implemented |= symbols.read_elf(work / "libhccl.so").defined
    for symbol in needs.symbols:
        if symbol not in implemented:
            library = "libhccl.so" if symbol.startswith("Hccl") else "libascendcl.so"
            fallbacks[library].append(symbol)
    for library in ("libascendcl.so", "libhccl.so"):
        stub = work / f"{library}.fallback.c"
        stub.write_text(_fallback_source(fallbacks[library]))
        compiled = work / f"{library}.fallback.o"
        _run(["gcc", "-O1", "-fPIC", f"-I{_SOURCES}", "-c", stub, "-o", compiled])
        others = [] if library == "libascendcl.so" else [lib / "libascendcl.so"]
        _link(lib / library, [*objects[library], compiled], others)
    for library in (*needs.libraries, *_OPENED):
        if library not in fallbacks:
            # Its symbols are in libascendcl.so; the loader only wants the file.
            _link((nnal if library == _NNAL else lib) / library, [], [lib / "libascendcl.so"])
    # torch_npu 2.13 and later open it by name and look up HcclGroupStart and HcclGroupEnd there;
    # dlsym finds them through the dependency.
    _link(lib / "libhcomm.so", [], [lib / "libhccl.so"])

    tell("compiling the CPU kernels against torch")
    asked = subprocess.run(
        [environment.python, "-I", "-c", _ASK_TORCH],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "TORCH_DEVICE_BACKEND_AUTOLOAD": "0"},
    )
    if asked.returncode != 0:
        reason = (asked.stderr.strip().splitlines() or ["no message"])[-1]
        raise SimulatorError(f"torch {environment.torch} does not import: {reason}")
    torch = json.loads(asked.stdout)
    shared = [
        *("g++", "-std=c++20", "-g0", "-fPIC", "-shared", "-fvisibility=hidden", "-w"),
        f"-D_GLIBCXX_USE_CXX11_ABI={torch['abi']}",
        f"-I{_SOURCES}",
        f"-L{environment.torch_dir / 'lib'}",
        f"-L{environment.torch_npu_dir / 'lib'}",
        f"-L{lib}",
    ]
    headers = [f"-isystem{path}" for path in torch["include"]]
    ends = ["-Wl,--unresolved-symbols=ignore-in-shared-libs", "-ltorch", "-ltorch_cpu", "-lc10"]
    ends += ["-ltorch_npu", "-lascendcl"]
    kernels: list[str | Path] = [_SOURCES / "aten_kernels.cpp", "-o", lib / _KERNELS]
    config: list[str | Path] = [_SOURCES / "torch_config.cpp", "-o", lib / _CONFIG]
    commands: list[list[str | Path]] = [
        [*shared, "-O2", *headers, *kernels, *ends],
        [*shared, "-O2", *config, "-lc10"],
    ]
    if _tells_of_its_memory(environment):
        # Its headers take long to read, and there is next to nothing to optimise.
        own = f"-isystem{environment.torch_npu_dir / 'include'}"
        watch: list[str | Path] = [_SOURCES / "torch_allocator.cpp", "-o", lib / _ALLOCATOR]
        commands.append([*shared, "-O0", own, *headers, *watch, *ends])
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(_run, commands))
    shutil.rmtree(work)
    known = implemented | set(needs.symbols)
    facts = {
        **{key: str(value) for key, value in asdict(environment).items()},
        "libraries": sorted(needs.libraries),
        "implemented": sorted(implemented.intersection((*needs.symbols, *needs.by_name))),
        "failing": sorted(symbol for names in fallbacks.values() for symbol in names),
        "absent_by_name": sorted(set(needs.by_name) - known),
        "socs": list(needs.socs),
    }
    (directory / "build.json").write_text(json.dumps(facts, indent=1) + "\n")


def _tells_of_its_memory(environment: Environment) -> bool:
    """Whether torch_npu's allocator can be asked to tell of what it is given back."""
    header = "include/torch_npu/csrc/core/npu/NPUCachingAllocator.h"
    try:
        return "attachAllocatorTraceTracker" in (environment.torch_npu_dir / header).read_text()
    except OSError:
        return False


def _fallback_source(names: Sequence[str]) -> str:
    lines = ["// Generated: symbols that torch_npu links to and the simulator does not implement."]
    lines.append('#include "ascend_sim.h"')
    for name in names:
        if name.startswith(("_ZTV", "_ZTI", "_ZTS")):
            lines.append(f"ASCEND_SIM_API char {name}[256];")
        else:
            lines.append(
                f'ASCEND_SIM_API long {name}(void) {{ return ascend_sim_unimplemented("{name}"); }}'
            )
    return "\n".join(lines) + "\n"


def _objects(family: str, work: Path) -> list[Path]:
    """Compile the sources of a family, those whose names begin with it."""

    def compiled(source: Path) -> Path:
        output = work / f"{source.name}.o"
        _run(
            ["g++", "-std=c++17", "-O2", "-fPIC", "-fvisibility=hidden", "-c", source, "-o", output]
        )
        return output

    sources = [path for path in source_files() if path.match(f"{family}*.cpp")]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return list(pool.map(compiled, sources))


def _link(output: Path, objects: Sequence[Path], libraries: Sequence[Path] = ()) -> None:
    _run(
        [
            "g++",
            "-shared",
            "-o",
            output,
            f"-Wl,-soname,{output.name}",
            "-Wl,-rpath,$ORIGIN",
            "-Wl,--no-as-needed",
            *objects,
            *libraries,
            "-lrt",
            "-lpthread",
        ]
    )


def _run(command: Sequence[str | Path]) -> None:
    result = subprocess.run(
        [str(part) for part in command], capture_output=True, text=True, check=False
    )
    if result.returncode != 0:
        lines = result.stderr.splitlines()
        first = next((line for line in lines if "error" in line), lines[-1] if lines else "failed")
        raise SimulatorError(f"{command[0]} failed: {first.strip()}")
