# SPDX-License-Identifier: Apache-2.0
"""What a torch_npu wheel needs from CANN and NNAL, read from the wheel's own ELF files.

Nothing here names a release: the libraries are the NEEDED entries that neither the wheel nor torch
nor the system supplies, the symbols are the undefined ones that nobody supplies. So a new wheel
works without new code, as long as it calls nothing that the simulator lacks.
"""

from __future__ import annotations

import ctypes
import mmap
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_DYNAMIC, _DYNSYM = 6, 11
_VERSYM = 0x6FFFFFFF
_DT_NEEDED, _DT_SONAME = 1, 14
_STB_WEAK = 2

# Libraries of the C and C++ toolchain: always there, never CANN's.
_SYSTEM = re.compile(
    r"(ld-linux[\w-]*|libc|libm|libdl|librt|libpthread|libutil|libresolv|libgcc_s|libstdc\+\+"
    r"|libgomp|libz|libpython[\d.]+)\.so(\.\d+)*"
)
_SYSTEM_FILES = ("libc.so.6", "libm.so.6", "libpthread.so.0", "libdl.so.2", "librt.so.1")
_STANDARD = re.compile(r"_ZNK?St|_ZSt")  # libstdc++
# torch's own namespaces: such a symbol left undefined means that torch is another release.
_TORCH = re.compile(r"_ZN[A-Z]*(2at|3c10|4c10d|5torch|6caffe2)|_Z\d+THP")
# The interpreter itself supplies these to extension modules.
_PYTHON = re.compile(r"_?Py[A-Z_]")
_BY_NAME = re.compile(
    rb"\0((?:acl(?:rt|mdl|sys|prof|op)?|Hccl|Msprof)[A-Z][A-Za-z0-9]{3,60})(?=\0)"
)
_SOC = re.compile(rb"\0(Ascend\d{3}[A-Za-z0-9_-]{0,12})(?=\0)")


class ElfError(Exception):
    """A file is not the 64-bit little-endian ELF file that it should be."""


@dataclass(frozen=True)
class Elf:
    """The dynamic section and symbols of one shared library.

    `undefined` holds strong undefined symbols without a version: a versioned one names its
    library (libc, libstdc++), which is never CANN's.
    """

    path: Path
    soname: str | None
    needed: tuple[str, ...]
    defined: frozenset[str]
    undefined: frozenset[str]


def read_elf(path: Path) -> Elf:
    """Read the dynamic symbols of `path`; raises `ElfError` where it is no 64-bit ELF library."""
    with path.open("rb") as file:
        try:
            data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except ValueError:
            raise ElfError(f"{path} is empty") from None
        with data:
            try:
                return _parse(path, data)
            except (struct.error, IndexError) as error:
                raise ElfError(f"{path} is damaged: {error}") from None


def _parse(path: Path, data: mmap.mmap) -> Elf:
    if data[:6] != b"\x7fELF\x02\x01":
        raise ElfError(f"{path} is not a 64-bit little-endian ELF file")
    (table,) = struct.unpack_from("<Q", data, 0x28)
    entry_size, entries = struct.unpack_from("<HH", data, 0x3A)
    sections = [
        # type, offset, size, link
        (header[1], header[4], header[5], header[6])
        for header in (
            struct.unpack_from("<IIQQQQIIQQ", data, table + index * entry_size)
            for index in range(entries)
        )
    ]

    def strings(link: int) -> bytes:
        _, offset, size, _ = sections[link]
        return data[offset : offset + size]

    def name(table: bytes, at: int) -> str:
        return table[at : table.index(b"\0", at)].decode("utf-8", "replace")

    soname: str | None = None
    needed: list[str] = []
    defined: set[str] = set()
    undefined: set[str] = set()
    versions: bytes = b""
    for kind, offset, size, _ in sections:
        if kind == _VERSYM:
            versions = data[offset : offset + size]
    for kind, offset, size, link in sections:
        if kind == _DYNAMIC:
            names = strings(link)
            for tag, value in struct.iter_unpack("<QQ", data[offset : offset + size]):
                if tag == _DT_NEEDED:
                    needed.append(name(names, value))
                elif tag == _DT_SONAME:
                    soname = name(names, value)
        elif kind == _DYNSYM:
            names = strings(link)
            symbols = struct.iter_unpack("<IBBHQQ", data[offset : offset + size])
            for index, (at, info, _, section, _, _) in enumerate(symbols):
                if at == 0:
                    continue
                if section:
                    defined.add(name(names, at))
                elif info >> 4 != _STB_WEAK:
                    version = (
                        struct.unpack_from("<H", versions, 2 * index)[0] & 0x7FFF if versions else 0
                    )
                    if version <= 1:
                        undefined.add(name(names, at))
    return Elf(path, soname, tuple(needed), frozenset(defined), frozenset(undefined))


@dataclass(frozen=True)
class Requirements:
    """What must stand in for CANN and NNAL so that one torch_npu loads.

    `libraries` are file names (sonames), `symbols` what the loader must find in them, `foreign`
    the symbols that torch should supply and does not (it is another release than torch_npu was
    built for), `by_name` the functions that torch_npu may look up at run time, `socs` the chip
    names that it knows.
    """

    libraries: tuple[str, ...]
    symbols: tuple[str, ...]
    foreign: tuple[str, ...]
    by_name: tuple[str, ...]
    socs: tuple[str, ...]


def libraries_of(torch_npu: Path) -> list[Path]:
    """Shared libraries of an installed or unpacked torch_npu (the directory of the package)."""
    bundled = torch_npu.parent / "torch_npu.libs"
    found = [
        *torch_npu.glob("lib/*.so*"),
        *torch_npu.glob("_C*.so"),
        *bundled.glob("*.so*"),
        # A compiler of graphs that is loaded where a program asks for it.
        *torch_npu.glob("dynamo/torchair/core/*.so"),
    ]
    return sorted(path for path in found if path.is_file())


def requirements(torch_npu: Path, torch: Path) -> Requirements:
    """Read what a torch_npu needs beyond torch; both are given as package directories.

    Raises `ElfError` where torch_npu holds no library, or one cannot be read.
    """
    own = [read_elf(path) for path in libraries_of(torch_npu)]
    if not own:
        raise ElfError(f"{torch_npu} holds no shared library: is it a torch_npu package?")
    supplied = {path.name for path in torch.glob("lib/*.so*")}
    supplied |= {name for elf in own for name in (elf.soname, elf.path.name) if name}
    needed = {name for elf in own for name in elf.needed}
    libraries = sorted(
        name for name in needed if name not in supplied and not _SYSTEM.fullmatch(name)
    )
    undefined = {name for elf in own for name in elf.undefined if not _PYTHON.match(name)}
    undefined -= {name for elf in own for name in elf.defined}
    if undefined:
        for path in _torch_libraries(torch):
            undefined -= read_elf(path).defined
    foreign = {name for name in undefined if _TORCH.match(name)}
    undefined = {
        name for name in undefined - foreign if not _STANDARD.match(name) and not _in_system(name)
    }
    by_name: set[str] = set()
    socs: set[str] = set()
    for elf in own:
        content = elf.path.read_bytes()
        by_name |= {match.decode() for match in _BY_NAME.findall(content)}
        socs |= {match.decode() for match in _SOC.findall(content)}
    return Requirements(
        tuple(libraries),
        tuple(sorted(undefined)),
        tuple(sorted(foreign)),
        tuple(sorted(by_name - undefined)),
        tuple(sorted(socs)),
    )


def _in_system(symbol: str) -> bool:
    """Whether the C library or a companion supplies `symbol`; some wheels leave versions out."""
    for name in _SYSTEM_FILES:
        try:
            if hasattr(ctypes.CDLL(name), symbol):
                return True
        except OSError:
            continue
    return False


def _torch_libraries(torch: Path) -> Iterator[Path]:
    """torch's own libraries that torch_npu links to; not the CUDA ones, which are huge."""
    for path in sorted(torch.glob("lib/*.so")):
        if "cuda" not in path.name and "nccl" not in path.name:
            yield path
