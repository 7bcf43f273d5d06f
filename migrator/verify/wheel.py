# SPDX-License-Identifier: Apache-2.0
"""The torch_npu wheel: which release fits a tree, fetching it by name, and reading it.

A wheel is opened as a zip file. Nothing in it is imported, installed or run.
"""

from __future__ import annotations

import ast
import contextlib
import hashlib
import lzma
import os
import re
import struct
import tempfile
import tomllib
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import msgspec
from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import InvalidWheelFilename, parse_wheel_filename
from packaging.version import InvalidVersion, Version

from migrator.files import package_index
from migrator.messages.errors import MigrateError
from migrator.verify import schema
from migrator.verify.signature import nearest

T = TypeVar("T")

CACHE_FORMAT = 3
"""Raised when what is extracted changes, so that older caches are left alone."""

ATB_LIBRARY = "torch_npu/lib/libop_plugin_atb.so"
LIBRARY = "torch_npu/lib/libtorch_npu.so"


LARGEST_LIBRARY, LARGEST_MODULE = 1 << 30, 16 << 20
"""Bytes that a library and a module of a wheel may have: several times what any release's have."""
_DAMAGED = (
    zipfile.BadZipFile,
    KeyError,  # a file that every wheel has is not in it
    zlib.error,
    lzma.LZMAError,
    EOFError,
    OSError,
    struct.error,
    RuntimeError,  # encrypted; compressed in a way of its own; nested beyond Python's stack
    MemoryError,
    UnicodeDecodeError,
)
"""What reading a wheel raises where it is damaged or made to do harm."""


class WheelError(MigrateError):
    """The wheel cannot be had or read; the message says what to do."""


class Contents(msgspec.Struct):
    """What is extracted from a wheel, and cached by the wheel's hash.

    `operators` maps a namespace of torch.ops to schema texts. `exposed` and `exposed_atb` are the
    operator names that torch_npu and torch_npu.atb re-export. `patched` maps a module to names
    that other modules set on it; `lazy` maps names of torch_npu to where they are loaded from.
    `private` are the libraries' strings that may name something in torch_npu._C.
    """

    format: int
    version: str
    file: str
    sha256: str
    operators: dict[str, list[str]]
    exposed: list[str]
    exposed_atb: list[str]
    patched: dict[str, list[str]]
    lazy: dict[str, str]
    dtypes: list[str]
    private: list[str]


@dataclass(frozen=True, slots=True)
class Choice:
    """Which torch_npu is asked for, and the sentence that explains it."""

    requirement: str
    reason: str


# -- which release


_MAY_PIN = re.compile(r"(^|/)(build|common|cpu|build/cuda)\.txt$")
"""Requirement files beside those for a device that may name a torch release."""


def torch_pin(
    read: Callable[[str], bytes | None], listing: Iterable[str]
) -> tuple[str, str] | None:
    """The torch release that a vLLM tree is made for, and the file that says so.

    Args:
        read: content of a file of the tree.
        listing: names of the tree's requirement files below `requirements/`.
    """
    first = ["requirements/npu.txt", "requirements/cuda.txt", "requirements-cuda.txt"]
    others = [p for p in sorted(listing) if _MAY_PIN.search(p)]
    for path in dict.fromkeys([*first, *others]):
        content = read(path)
        if content is None:
            continue
        for line in content.decode("utf-8", "replace").splitlines():
            version = _torch_version(line.partition("#")[0].strip())
            if version:
                return version, path
    content = read("pyproject.toml")
    if content is not None:
        try:
            build = tomllib.loads(content.decode("utf-8", "replace")).get("build-system", {})
        except tomllib.TOMLDecodeError:
            return None
        for line in build.get("requires", []):
            version = _torch_version(line)
            if version:
                return version, "pyproject.toml"
    return None


def _torch_version(line: str) -> str | None:
    try:
        requirement = Requirement(line)
    except InvalidRequirement:
        return None
    if requirement.name.lower() != "torch":
        return None
    for specifier in requirement.specifier:
        if specifier.operator in ("==", "~=", ">=", "==="):
            try:
                return Version(specifier.version.removesuffix(".*")).base_version
            except InvalidVersion:
                return None
    return None


def choose(
    read: Callable[[str], bytes | None], listing: Iterable[str], asked: str | None
) -> Choice:
    """The torch_npu requirement for a tree: what is asked for, or what fits its torch pin.

    A torch_npu X.Y.Z.postN is built for torch X.Y.Z, and its newest post release is taken. Where
    there is no build for the exact torch, the newest of the same X.Y is.

    Raises:
        WheelError: nothing is asked for and the tree pins no torch.
    """
    if asked is not None:
        try:
            Version(asked)
        except InvalidVersion as error:
            raise WheelError(
                f"--torch-npu {asked}: {error}; it takes a release such as 2.8.0"
            ) from error
        return Choice(f"torch_npu=={asked}", "asked for")
    pin = torch_pin(read, listing)
    if pin is None:
        raise WheelError("the tree pins no torch release; name a torch_npu with --torch-npu")
    version, path = pin
    return Choice(f"torch_npu=={version}.*", f"the newest for torch {version} ({path})")


def fetch(choice: Choice, cache: Path) -> Path:
    """Bring the wheel into `cache`, by name from the package index that pip is set up for.

    The aarch64 build is preferred wherever this runs: Ascend hosts are mostly aarch64, the schemas
    are the same, and there they stand as text (see `schema.extract`).

    Raises:
        WheelError: no such release, or the index cannot be reached.
    """
    requirement = Requirement(choice.requirement)
    cached = _best(
        [(p.name, p) for p in cache.glob("torch_npu-*.whl")] if cache.is_dir() else [], requirement
    )
    exact = not any(s.version.endswith(".*") for s in requirement.specifier)
    if cached is not None and exact:
        return cached
    every = package_index.make_finder("torch_npu", wheels_for_any_platform=True)
    with contextlib.closing(every) as finder:
        try:
            packages = list(finder.find_all_packages("torch_npu"))
        except Exception as error:  # unearth and its HTTP client raise many kinds
            if cached is not None:
                return cached
            raise WheelError(
                f"cannot look up torch_npu on the package index ({error}); "
                "give a wheel file with --torch-npu-wheel"
            ) from error
        links = [(package.link.filename, package.link) for package in packages]
        link = _best(links, requirement) or _best(links, _same_minor(requirement))
        if link is None:
            versions = sorted({str(p.version) for p in packages if p.version})
            wanted = str(requirement.specifier).lstrip("=").removesuffix(".*")
            near = ", ".join(nearest(wanted, versions, 5)) or ", ".join(versions[-5:])
            raise WheelError(
                f"the package index has no torch_npu {wanted}"
                + (f"; there are {near}" if near else "")
                + "; choose one with --torch-npu"
            )
        target = cache / link.filename
        if target.is_file():
            return target
        cache.mkdir(parents=True, exist_ok=True)
        try:
            with tempfile.TemporaryDirectory(dir=cache) as folder:
                finder.download(link, Path(folder)).replace(target)
        except Exception as error:
            raise WheelError(
                f"cannot download {link.filename} ({error}); "
                "give a wheel file with --torch-npu-wheel"
            ) from error
        return target


def _best(links: list[tuple[str, T]], requirement: Requirement) -> T | None:
    """The newest wheel that satisfies `requirement`, aarch64 before x86_64 before others."""
    candidates: list[tuple[tuple[Version, int, str], T]] = []
    for filename, link in links:
        try:
            _, version, _, tags = parse_wheel_filename(filename)
        except InvalidWheelFilename:
            continue
        if not requirement.specifier.contains(version, prereleases=False):
            continue
        platforms = {tag.platform for tag in tags}
        rank = 0
        if any(p.endswith("x86_64") for p in platforms):
            rank = 1
        if any(p.endswith("aarch64") for p in platforms):
            rank = 2
        interpreter = max(tag.interpreter.rjust(8) for tag in tags)
        candidates.append(((version, rank, interpreter), link))
    return max(candidates, key=lambda c: c[0])[1] if candidates else None


def _same_minor(requirement: Requirement) -> Requirement:
    pinned = next(iter(requirement.specifier)).version
    if not pinned.endswith(".*"):
        return requirement
    release = Version(pinned.removesuffix(".*")).release
    return Requirement(f"torch_npu=={release[0]}.{release[1]}.*")


# -- reading it


def read_contents(path: Path, cache: Path | None) -> Contents:
    """Extract what a wheel offers, from the cache where the same wheel was read before.

    Raises:
        WheelError: the file is no torch_npu wheel.
    """
    try:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise WheelError(
            f"{path}: {error.strerror}; name another wheel with --torch-npu-wheel"
        ) from error
    stored = cache / f"schemas-{CACHE_FORMAT}-{digest}.json" if cache is not None else None
    if stored is not None and stored.is_file():
        try:
            contents = msgspec.json.decode(stored.read_bytes(), type=Contents)
        except msgspec.DecodeError:
            pass
        else:
            if contents.format == CACHE_FORMAT:
                return contents
    try:
        with zipfile.ZipFile(path) as archive:
            contents = _extract(archive, path.name, digest)
    except _DAMAGED as error:
        raise _damaged(path, error) from error
    if stored is not None:
        stored.parent.mkdir(parents=True, exist_ok=True)
        temporary = stored.with_name(f".{os.getpid()}-{stored.name}")
        temporary.write_bytes(msgspec.json.encode(contents))
        temporary.replace(stored)
    return contents


def _damaged(path: Path | str | None, error: BaseException) -> WheelError:
    reason = str(error) or type(error).__name__
    return WheelError(f"{path}: not a torch_npu wheel ({reason}); remove it, or name another one")


def read_member(archive: zipfile.ZipFile, name: str) -> bytes:
    """A file of a wheel that was opened before.

    Raises:
        WheelError: it is damaged, or larger than any such file is.
    """
    try:
        return _read(archive, name)
    except _DAMAGED as error:
        raise _damaged(archive.filename, error) from error


def _extract(archive: zipfile.ZipFile, file: str, digest: str) -> Contents:
    names = archive.namelist()
    library = _read(archive, LIBRARY)
    bound = [library, *(_read(archive, n) for n in names if re.fullmatch(r"torch_npu/_C\..*so", n))]
    operators: dict[str, set[str]] = {"npu": set(), "atb": set()}
    for namespace, content in (
        ("npu", library),
        ("atb", _read(archive, ATB_LIBRARY) if ATB_LIBRARY in names else b""),
    ):
        for text in schema.extract(content):
            operators.setdefault(schema.parse(text).namespace or namespace, set()).add(text)
    exposed: set[str] = set()
    exposed_atb: set[str] = set()
    patched: dict[str, set[str]] = {"torch_npu": set(), "torch_npu.npu": set()}
    lazy: dict[str, str] = {}
    for name in names:
        if not name.startswith("torch_npu/") or not name.endswith(".py"):
            continue
        if name.startswith(_NOT_LOADED):
            continue
        content = _read(archive, name)
        for owner, attribute, value in _PATCH.findall(content):
            module = "torch_npu" if owner == b"torch_npu" else "torch_npu.npu"
            if value.startswith(b"torch.ops.npu."):
                exposed.add(attribute.decode())
            else:
                patched[module].add(attribute.decode())
        if b".define(" in content:
            for namespace, text in _python_operators(content):
                operators.setdefault(namespace, set()).add(text)
        if name.startswith("torch_npu/op_plugin/atb/"):
            for list_name, items in _string_lists(content):
                (exposed if list_name == "API_LIST" else exposed_atb).update(items)
        if name.startswith("torch_npu/_init/"):
            lazy.update(_lazy_tables(content))
            patched["torch_npu"].update(n.decode() for n in _GLOBALS.findall(content))
    exposed.update(schema.parse(text).name for text in operators["npu"])
    version = file.split("-")[1] if file.count("-") >= 4 else "unknown"
    return Contents(
        CACHE_FORMAT,
        version,
        file,
        digest,
        {namespace: sorted(texts) for namespace, texts in operators.items()},
        sorted(exposed),
        sorted(exposed_atb),
        {module: sorted(found) for module, found in patched.items()},
        lazy,
        sorted({m.decode() for m in _DTYPE.findall(library)}),
        sorted({m.decode() for blob in bound for m in _PRIVATE.findall(blob)}),
    )


def _read(archive: zipfile.ZipFile, name: str) -> bytes:
    """A file of the wheel, unless it says that it is larger than any such file is.

    What has more than it says is damaged to `zipfile`.
    """
    size = archive.getinfo(name).file_size
    limit = LARGEST_MODULE if name.endswith(".py") else LARGEST_LIBRARY
    if size > limit:
        raise zipfile.BadZipFile(f"{name} has {size >> 20} MiB, more than {limit >> 20}")
    return archive.read(name)


_NOT_LOADED = (
    "torch_npu/onnx/",  # replaces operators during an ONNX export only
    "torch_npu/testing/",
    "torch_npu/contrib/transfer_to_npu",
    "torch_npu/_op_plugin_docs",
    "torch_npu/include/",
)
_PATCH = re.compile(
    rb"^[ \t]*(torch_npu(?:\.npu)?|torch\.npu)\.(\w+)[ \t]*=(?!=)[ \t]*([\w.]*)", re.MULTILINE
)
_GLOBALS = re.compile(rb"globals_dict\[[\"'](\w+)[\"']\]\s*=")
# The names of torch_npu's DType enumeration are set from C++.
_DTYPE = re.compile(
    rb"(?<=\0)((?:u?int|float|bfloat|hifloat|complex)\d+(?:_(?!t\0)\w+)?|bool|string)(?=\0)"
)

# pybind11 takes the names that it binds as C strings. All 182 private ones of 2.13.0 are here.
_PRIVATE = re.compile(rb"(?<=\0)(_(?![_Z])\w{2,70})(?=\0)")


def _parsed(content: bytes) -> ast.Module:
    """A module's syntax tree, empty where Python cannot parse it or it nests too deeply."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return ast.parse(content)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return ast.Module([], [])


def _python_operators(content: bytes) -> list[tuple[str, str]]:
    """Schemas that Python code defines on a torch.library.Library."""
    tree = _parsed(content)
    libraries: dict[str, str] = {}
    found: list[tuple[str, str]] = []
    for node in ast.walk(tree):
        if (
            isinstance(node, ast.Assign)
            and isinstance(node.value, ast.Call)
            and ast.unparse(node.value.func).endswith("Library")
            and node.value.args
            and isinstance(node.value.args[0], ast.Constant)
        ):
            for target in node.targets:
                if isinstance(target, ast.Name):
                    libraries[target.id] = str(node.value.args[0].value)
    for node in ast.walk(tree):
        if (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Attribute)
            and node.func.attr == "define"
            and isinstance(node.func.value, ast.Name)
            and node.func.value.id in libraries
            and node.args
            and isinstance(node.args[0], ast.Constant)
            and isinstance(node.args[0].value, str)
        ):
            text = " ".join(node.args[0].value.split())
            try:
                schema.parse(text)
            except schema.SchemaError:
                continue
            found.append((libraries[node.func.value.id], text))
    return found


def _string_lists(content: bytes) -> list[tuple[str, list[str]]]:
    tree = _parsed(content)
    return [
        (target.id, [str(e.value) for e in node.value.elts if isinstance(e, ast.Constant)])
        for node in tree.body
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.List)
        for target in node.targets
        if isinstance(target, ast.Name)
        and target.id.endswith("API_LIST")
        and all(isinstance(e, ast.Constant) and isinstance(e.value, str) for e in node.value.elts)
    ]


def _lazy_tables(content: bytes) -> dict[str, str]:
    """Module-level tables of `name: (module, attribute)`."""
    tree = _parsed(content)
    found: dict[str, str] = {}
    for node in tree.body:
        if not isinstance(node, ast.Assign) or not isinstance(node.value, ast.Dict):
            continue
        for key, value in zip(node.value.keys, node.value.values, strict=True):
            if (
                isinstance(key, ast.Constant)
                and isinstance(key.value, str)
                and isinstance(value, ast.Tuple)
                and len(value.elts) == 2
                and all(isinstance(e, ast.Constant) for e in value.elts)
            ):
                module, attribute = (str(getattr(e, "value", "")) for e in value.elts)
                if module.startswith("torch_npu"):
                    found[key.value] = f"{module}.{attribute}"
    return found
