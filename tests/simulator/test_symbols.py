# SPDX-License-Identifier: Apache-2.0
"""The reader of ELF files, on libraries made for the purpose, and the rules of what fits."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from migrator.simulator import build, symbols

needs_gcc = pytest.mark.skipif(not shutil.which("gcc"), reason="needs gcc")


def library(
    path: Path, source: str, *links: Path, soname: str | None = None, extra: tuple[str, ...] = ()
) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    subprocess.run(
        [
            *("gcc", "-shared", "-fPIC", "-x", "c", "-", "-x", "none", "-o", str(path)),
            f"-Wl,-soname,{soname or path.name}",
            "-Wl,--no-as-needed",
            *map(str, links),
            *extra,
        ],
        input=source,
        text=True,
        check=True,
    )
    return path


@pytest.fixture
def wheel(tmp_path: Path) -> tuple[Path, Path]:
    """A torch_npu and a torch that look like the real ones, and a CANN that is then gone."""
    cann = library(tmp_path / "cann" / "libascendcl.so", "int aclrtMalloc(void) { return 0; }")
    atb = library(tmp_path / "cann" / "libatb.so", "int _ZN3atb3RunEv(void) { return 0; }")
    torch = library(
        tmp_path / "torch" / "lib" / "libtorch_cpu.so", "int _ZN2at3addEv(void) { return 0; }"
    )
    library(
        tmp_path / "torch_npu" / "lib" / "libtorch_npu.so",
        """
        #include <string.h>
        extern int aclrtMalloc(void), _ZN3atb3RunEv(void), _ZN2at3addEv(void), own(void);
        extern int PyLong_FromLong(void);
        extern int maybe(void) __attribute__((weak));
        const char *looked_up = "aclmdlRINewThing";
        const char *chip = "Ascend910B9";
        unsigned long f(char *p) {
            if (maybe) maybe();
            return aclrtMalloc() + _ZN3atb3RunEv() + _ZN2at3addEv() + own() + PyLong_FromLong()
                + strlen(p);
        }
        """,
        cann,
        atb,
        torch,
    )
    library(tmp_path / "torch_npu" / "lib" / "libother.so", "int own(void) { return 1; }")
    return tmp_path / "torch_npu", tmp_path / "torch"


@needs_gcc
def test_what_nobody_supplies_is_cann(wheel: tuple[Path, Path]) -> None:
    found = symbols.requirements(*wheel)
    assert found.libraries == ("libascendcl.so", "libatb.so")
    assert found.symbols == ("_ZN3atb3RunEv", "aclrtMalloc")
    assert found.by_name == ("aclmdlRINewThing",)
    assert found.socs == ("Ascend910B9",)
    assert found.foreign == ()


@needs_gcc
def test_a_torch_of_another_release_is_told(wheel: tuple[Path, Path], tmp_path: Path) -> None:
    torch_npu, _ = wheel
    library(tmp_path / "old" / "lib" / "libtorch_cpu.so", "int _ZN2at3subEv(void) { return 0; }")
    found = symbols.requirements(torch_npu, tmp_path / "old")
    assert found.foreign == ("_ZN2at3addEv",)


@needs_gcc
def test_the_dynamic_section_is_read(tmp_path: Path) -> None:
    path = library(
        tmp_path / "libx.so",
        '#include <stdio.h>\nextern int y(void); int x(void) { return y() + printf("x"); }',
        soname="libx.so.3",
    )
    elf = symbols.read_elf(path)
    assert elf.soname == "libx.so.3"
    assert elf.needed == ("libc.so.6",)
    assert "x" in elf.defined
    assert elf.undefined == {"y"}  # printf has a version: it is libc's


@pytest.mark.parametrize(
    "content", [b"", b"not an ELF file at all", b"\x7fELF\x02\x01" + b"\0" * 9]
)
def test_what_is_no_library_is_an_error(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "libx.so"
    path.write_bytes(content)
    with pytest.raises(symbols.ElfError, match=r"libx\.so"):
        symbols.read_elf(path)
    with pytest.raises(symbols.ElfError, match="holds no shared library"):
        symbols.requirements(tmp_path / "none", tmp_path)


@pytest.mark.parametrize(
    ("torch", "torch_npu", "expected"),
    [
        ("2.8.0", "2.8.0.post2", None),
        ("2.13.0+cpu", "2.13.0", None),
        ("2.8.0+cu128", "2.8.0", None),
        ("2.9.1", "2.9.0", r"torch_npu 2\.9\.0 needs torch 2\.9\.0, not 2\.9\.1"),
        ("2.7.1", "2.7.1.post4", r"torch 2\.7\.1 is too old"),
        ("2.14.0", "2.13.0", r"install torch==2\.13\.0"),
    ],
)
def test_releases_that_fit(torch: str, torch_npu: str, expected: str | None) -> None:
    problem = build.mismatch(torch, torch_npu)
    if expected is None:
        assert problem is None
    else:
        import re

        assert problem is not None
        assert re.search(expected, problem)
