# SPDX-License-Identifier: Apache-2.0
"""Source archives that are hostile or broken: refused in one line, or harmless; nothing escapes."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from migrator.files import archive as archives
from migrator.files import writer
from migrator.messages.errors import MigrateError

TOP = "vllm-1"
Fill = Callable[[tarfile.TarFile, Path], object]


def put(tar: tarfile.TarFile, name: str, data: bytes = b"x = 1\n", mode: int = 0o644) -> str:
    info = tarfile.TarInfo(name)
    info.size, info.mode = len(data), mode
    tar.addfile(info, io.BytesIO(data))
    return name


def point(tar: tarfile.TarFile, name: str, target: str, kind: bytes = tarfile.SYMTYPE) -> str:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    tar.addfile(info)
    return name


def special(tar: tarfile.TarFile, name: str, kind: bytes) -> str:
    info = tarfile.TarInfo(name)
    info.type = kind
    tar.addfile(info)
    return name


def together(*names: str) -> tuple[str, ...]:
    """Several members of one archive, as one expression."""
    return names


def pack(place: Path, fill: Fill, outside: Path) -> Path:
    with tarfile.open(place, "w:gz", format=tarfile.PAX_FORMAT) as tar:
        put(tar, f"{TOP}/vllm/__init__.py")
        fill(tar, outside)
    return place


def _long_links(tar: tarfile.TarFile, outside: Path) -> None:
    """A chain of links longer than a path may be, which is not resolved any more at its end."""
    real = short = TOP
    for level in range(16):
        link = chr(ord("A") + level)
        real_next = f"{real}/{'n' * 200}"
        special(tar, real_next, tarfile.DIRTYPE)
        point(tar, f"{real}/{link}", "n" * 200)
        real, short = real_next, f"{short}/{link}"
    end = f"{short}/{'z' * 250}"
    point(tar, end, "../" * 16)
    point(tar, f"{TOP}/door", f"{end[len(TOP) + 1 :]}{'/..' * 20}{outside}")
    put(tar, f"{TOP}/door/evil")


REFUSED: dict[str, Fill] = {
    "parent": lambda tar, _: put(tar, f"{TOP}/../../evil"),
    "absolute": lambda tar, out: put(tar, f"{out}/evil"),
    "link out": lambda tar, out: point(tar, f"{TOP}/out", str(out)),
    "relative link out": lambda tar, out: point(tar, f"{TOP}/out", f"../../..{out}"),
    "link to the top's parent": lambda tar, _: point(tar, f"{TOP}/up", ".."),
    "link through a link": lambda tar, _: together(
        point(tar, f"{TOP}/here", "."),
        point(tar, f"{TOP}/up", "here/../.."),
    ),
    "link through a link inside": lambda tar, _: together(
        point(tar, f"{TOP}/deep", "vllm"),
        point(tar, f"{TOP}/file", "deep/__init__.py"),
    ),
    "file below a link": lambda tar, _: together(
        point(tar, f"{TOP}/here", "."),
        put(tar, f"{TOP}/here/evil"),
    ),
    "file in a link's place": lambda tar, out: together(
        point(tar, f"{TOP}/here", "vllm/__init__.py"),
        put(tar, f"{TOP}/here"),
    ),
    "file below a file": lambda tar, _: put(tar, f"{TOP}/vllm/__init__.py/x"),
    "directory twice": lambda tar, _: put(tar, f"{TOP}/vllm"),
    "long links": _long_links,
    "hard link out": lambda tar, _: point(tar, f"{TOP}/p", "/etc/passwd", tarfile.LNKTYPE),
    "hard link up": lambda tar, _: point(tar, f"{TOP}/p", "../etc/passwd", tarfile.LNKTYPE),
    "hard link to nothing": lambda tar, _: point(tar, f"{TOP}/p", f"{TOP}/q", tarfile.LNKTYPE),
    "hard link to a link": lambda tar, _: together(
        point(tar, f"{TOP}/q", "vllm"),
        point(tar, f"{TOP}/p", f"{TOP}/q", tarfile.LNKTYPE),
    ),
    "device": lambda tar, _: special(tar, f"{TOP}/d", tarfile.CHRTYPE),
    "pipe": lambda tar, _: special(tar, f"{TOP}/p", tarfile.FIFOTYPE),
    "two folders": lambda tar, _: put(tar, "other/x"),
    "file beside the folder": lambda tar, _: put(tar, "x"),
    "link at the top": lambda tar, _: point(tar, "other", TOP),
    "long name": lambda tar, _: put(tar, f"{TOP}/{'a' * 300}"),
    "long path": lambda tar, _: put(tar, f"{TOP}/{'aaaaaaaaa/' * 150}x"),
    "deep": lambda tar, _: put(tar, f"{TOP}/{'d/' * 500}x"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(tmp_path: Path, name: str) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "keep").write_bytes(b"keep")
    made = pack(tmp_path / "a.tar.gz", REFUSED[name], outside)
    with pytest.raises(MigrateError) as caught:
        writer.unpack(made, tmp_path / "cache" / TOP)
    assert "\n" not in str(caught.value)
    assert str(caught.value).isprintable()
    assert [p.name for p in outside.iterdir()] == ["keep"]
    assert list((tmp_path / "cache").iterdir()) == []
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.tar.gz", "cache", "outside"]


def test_what_archives_do_have(tmp_path: Path) -> None:
    def fill(tar: tarfile.TarFile, _: Path) -> None:
        special(tar, f"{TOP}/empty/", tarfile.DIRTYPE)
        put(tar, f"./{TOP}/run.sh", b"#!/bin/sh\n", 0o6777)
        put(tar, f"{TOP}/closed", b"c", 0)
        put(tar, f"{TOP}/vllm/twice.py", b"1")
        put(tar, f"{TOP}/vllm/twice.py", b"2")
        point(tar, f"{TOP}/docs/README.md", "../vllm/./__init__.py")
        point(tar, f"{TOP}/same", f"{TOP}/run.sh", tarfile.LNKTYPE)
        point(tar, f"{TOP}/dangling", "vllm/nowhere.py")

    root = tmp_path / "cache" / TOP
    writer.unpack(pack(tmp_path / "a.tar.gz", fill, tmp_path), root)
    assert (root / "empty").is_dir()
    assert (root / "run.sh").stat().st_mode & 0o7777 == 0o755, "no set-uid bit"
    assert (root / "closed").read_bytes() == b"c"
    assert (root / "vllm/twice.py").read_bytes() == b"2"
    assert (root / "docs/README.md").read_bytes() == b"x = 1\n"
    assert (root / "same").read_bytes() == b"#!/bin/sh\n"
    assert not (root / "same").is_symlink()
    assert (root / "dangling").is_symlink()


# ---- broken --------------------------------------------------------------------------------


def plain_tar() -> bytes:
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as tar:
        for number in range(20):
            put(tar, f"{TOP}/vllm/{number}.py", bytes(range(256)) * 20)
    return data.getvalue()


def flipped(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 0xFF]) + data[at + 1 :]


def nul_in_a_path() -> bytes:
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w", format=tarfile.PAX_FORMAT) as tar:
        info = tarfile.TarInfo(f"{TOP}/x")
        info.pax_headers = {"path": f"{TOP}/a\0b"}
        tar.addfile(info, io.BytesIO(b""))
    return gzip.compress(data.getvalue())


def sparse(size: int) -> bytes:
    """A file that says that it has many bytes, and has none."""
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w", format=tarfile.PAX_FORMAT) as tar:
        info = tarfile.TarInfo(f"{TOP}/vllm/big.py")
        info.pax_headers = {
            "GNU.sparse.major": "1",
            "GNU.sparse.minor": "0",
            "GNU.sparse.name": f"{TOP}/vllm/big.py",
            "GNU.sparse.realsize": str(size),
        }
        info.size = 512
        tar.addfile(info, io.BytesIO(b"0\n".ljust(512, b"\0")))
    return gzip.compress(data.getvalue())


DAMAGED: dict[str, Callable[[], bytes]] = {
    "empty": lambda: b"",
    "a page": lambda: b"<html>not found</html>",
    "truncated": lambda: gzip.compress(plain_tar())[:-40],
    "half": lambda: gzip.compress(plain_tar())[: len(gzip.compress(plain_tar())) // 2],
    "gzip's checksum": lambda: gzip.compress(plain_tar())[:-8] + bytes(8),
    "gzip's middle": lambda: flipped(gzip.compress(plain_tar()), 200),
    "xz's middle": lambda: flipped(lzma.compress(plain_tar()), 400),
    "bzip2's middle": lambda: flipped(bz2.compress(plain_tar()), 400),
    "no tar inside": lambda: gzip.compress(b"hello" * 1000),
    "a header": lambda: gzip.compress(plain_tar().replace(b"0000644", b"9zz\xff644")),
    "a path with a NUL": nul_in_a_path,
    "a sparse file": lambda: sparse(1 << 42),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_damaged(tmp_path: Path, name: str) -> None:
    made = tmp_path / "a.tar.gz"
    made.write_bytes(DAMAGED[name]())
    with pytest.raises(MigrateError, match="is damaged or no source archive") as caught:
        writer.unpack(made, tmp_path / "cache" / TOP)
    assert "\n" not in str(caught.value)
    assert list((tmp_path / "cache").iterdir()) == []


@pytest.mark.parametrize("compress", [gzip.compress, bz2.compress, lzma.compress, bytes])
def test_every_compression(tmp_path: Path, compress: Callable[[bytes], bytes]) -> None:
    made = tmp_path / "a.tar.gz"
    made.write_bytes(compress(plain_tar()))
    writer.unpack(made, tmp_path / "cache" / TOP)
    assert len(list((tmp_path / "cache" / TOP / "vllm").iterdir())) == 20


@pytest.mark.parametrize(
    ("limit", "value", "says"),
    [
        ("TOTAL", 50_000, "unpacks to more than"),
        ("LARGEST", 5000, "more than any source file"),
        ("MEMBERS", 10, "more than 10 members"),
    ],
)
def test_limits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: str, value: int, says: str
) -> None:
    made = tmp_path / "a.tar.gz"
    made.write_bytes(gzip.compress(plain_tar()))
    writer.unpack(made, tmp_path / "cache" / "fits")
    monkeypatch.setattr(archives, limit, value)
    with pytest.raises(MigrateError, match=says):
        writer.unpack(made, tmp_path / "cache" / TOP)
    assert [p.name for p in (tmp_path / "cache").iterdir()] == ["fits"]
