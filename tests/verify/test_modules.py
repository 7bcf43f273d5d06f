# SPDX-License-Identifier: Apache-2.0
"""What a package's source tells of its modules, classes and signatures, and what it does not."""

from __future__ import annotations

import ast
import zipfile
from pathlib import Path

import pytest

from migrator.files.tree import module_name
from migrator.verify.modules import Definition, External, Missing, Module, Unknown, Value
from migrator.verify.package import Package
from migrator.verify.package_files import DirectoryFiles, ZipFiles

SOURCES = {
    "pkg/__init__.py": """
from .one import A, helper as renamed
from .star import *
import os
from . import sub
""",
    "pkg/one.py": """
import enum
from abc import ABC
from dataclasses import dataclass, field
from elsewhere import Foreign
import functools

class A:
    attribute = 1
    def __init__(self, x, *, y=2): self.inside = x
    @property
    def value(self): return 1
    @classmethod
    def make(cls, n): return cls(n)
    @staticmethod
    def fixed(n): return n
    @functools.lru_cache
    def cached(self, n): return n
    @odd
    def changed(self, n): return n

class B(A, ABC): pass
class C(Foreign): pass
class Dynamic:
    def __getattr__(self, name): return name
class Sets:
    def __init__(self, **kwargs):
        for k, v in kwargs.items(): setattr(self, k, v)
class Color(enum.Enum):
    RED = 1

@dataclass
class Point:
    x: int
    y: int = 0
    z: list = field(default_factory=list)
    hidden: int = field(init=False, default=3)

@dataclass(kw_only=True)
class Named:
    a: int

@dataclass
class Point3(Point):
    w: int = 4

def helper(a, b=1, *c, d, **e): pass
try:
    import fast
except ImportError:
    fast = None
""",
    "pkg/star.py": "__all__ = ['shown']\nshown = 1\nnot_shown = 2\n",
    "pkg/sub.py": "inside = 1\n",
    "pkg/lazy.py": """
_TABLE = {"late": "pkg.sub"}
def __getattr__(name):
    if name in _TABLE:
        return __import__(_TABLE[name])
    raise AttributeError(f"no {name}")
def cache():
    global __getattr__
    __getattr__ = functools.cache(__getattr__)
""",
    "pkg/any.py": "import other\ndef __getattr__(name):\n    return getattr(other, name)\n",
    "pkg/writes.py": "globals().update({'x': 1})\n",
    "pkg/cycle_a.py": "from .cycle_b import thing\n",
    "pkg/cycle_b.py": "from .cycle_a import thing\n",
    "pkg/outside.py": "from numpy import *\n",
    "pkg/broken.py": "def f(:\n",
    "pkg/space/inner.py": "x = 1\n",
}


@pytest.fixture(params=["directory", "zip"])
def package(request: pytest.FixtureRequest, tmp_path: Path) -> Package:
    if request.param == "zip":
        path = tmp_path / "p.zip"
        with zipfile.ZipFile(path, "w") as archive:
            for name, text in SOURCES.items():
                archive.writestr(name, text)
        return Package(ZipFiles(zipfile.ZipFile(path)), frozenset({"pkg"}))
    for name, text in SOURCES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")
    return Package(DirectoryFiles(tmp_path), frozenset({"pkg"}))


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("pkg", Module),
        ("pkg.sub", Module),
        ("pkg.sub.inside", Value),
        ("pkg.A", Definition),
        ("pkg.renamed", Definition),
        ("pkg.shown", Value),
        ("pkg.not_shown", Missing),
        ("pkg.nothing", Missing),
        ("pkg.os", External),
        ("pkg.one.fast", External),
        ("pkg.one.A.attribute", Value),
        ("pkg.one.B.make", Definition),
        ("pkg.one.A.nothing", Missing),
        ("pkg.one.B.nothing", Missing),
        ("pkg.one.C.nothing", Unknown),
        ("pkg.one.Dynamic.nothing", Unknown),
        ("pkg.one.Sets.nothing", Unknown),
        ("pkg.one.Color.RED", Value),
        ("pkg.one.Color.GREEN", Missing),
        ("pkg.one.Color.__members__", Unknown),
        ("pkg.lazy.late", Value),
        ("pkg.lazy.nothing", Missing),
        ("pkg.any.nothing", Unknown),
        ("pkg.writes.x", Unknown),
        ("pkg.cycle_a.thing", Unknown),
        ("pkg.outside.x", Unknown),
        ("pkg.space.inner.x", Value),
        ("pkg.space.nothing", Unknown),
        ("numpy.array", External),
    ],
)
def test_paths_resolve(package: Package, path: str, kind: type) -> None:
    assert isinstance(package.resolve(path), kind), package.resolve(path)


def test_what_is_missing_is_told_with_what_is_there(package: Package) -> None:
    found = package.resolve("pkg.one.Color.GREEN")
    assert isinstance(found, Missing)
    assert (found.where, found.name, found.known) == ("pkg.one.Color", "GREEN", ("RED",))
    found = package.resolve("pkg.sub.inside2")
    assert isinstance(found, Missing)
    assert (found.where, found.known) == ("pkg.sub", ("inside",))


def test_modules_that_do_not_parse_are_none(package: Package) -> None:
    assert package.module("pkg.broken") is None
    assert package.has_module("pkg.space")
    assert not package.has_module("pkg.gone")


def test_what_a_build_makes_is_not_judged(tmp_path: Path) -> None:
    (tmp_path / "pkg").mkdir()
    (tmp_path / "pkg/__init__.py").write_text("", encoding="utf-8")
    package = Package(DirectoryFiles(tmp_path), frozenset({"pkg"}), frozenset({"pkg._C"}))
    assert isinstance(package.resolve("pkg._C.op"), Unknown)
    assert isinstance(package.resolve_from("pkg", "_C"), Unknown)
    assert package.has_module("pkg._C")
    assert isinstance(package.resolve("pkg._D"), Missing)


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("pkg.one.helper", "helper(a, b=1, *c, d, **e)"),
        ("pkg.one.A", "A(x, *, y=2)"),
        ("pkg.one.B", "B(x, *, y=2)"),
        ("pkg.one.Point", "Point(x, y=…, z=…)"),
        ("pkg.one.Point3", "Point3(x, y=…, z=…, w=…)"),
        ("pkg.one.Named", "Named(a)"),
        ("pkg.one.A.cached", "cached(self, n)"),
        ("pkg.one.Dynamic", "Dynamic()"),
    ],
)
def test_signatures(package: Package, path: str, text: str) -> None:
    found = package.resolve(path)
    assert isinstance(found, Definition)
    signatures = package.signatures(found)
    assert signatures is not None
    assert [s.text for s in signatures] == [text]


@pytest.mark.parametrize("path", ["pkg.one.A.changed", "pkg.one.A.value", "pkg.one.C"])
def test_signatures_that_the_source_does_not_settle(package: Package, path: str) -> None:
    found = package.resolve(path)
    assert isinstance(found, Definition)
    assert package.signatures(found) is None


def test_the_named_fields_of_a_keyword_only_dataclass(package: Package) -> None:
    found = package.resolve("pkg.one.Named")
    assert isinstance(found, Definition)
    signatures = package.signatures(found)
    assert signatures is not None
    assert [p.kind.value for s in signatures for p in s.parameters] == ["keyword only"]


def test_links_out_of_the_tree_are_absent(tmp_path: Path) -> None:
    (tmp_path / "tree").mkdir()
    (tmp_path / "secret.py").write_text("x = 1", encoding="utf-8")
    (tmp_path / "tree/link.py").symlink_to("../secret.py")
    files = DirectoryFiles(tmp_path / "tree")
    assert files.read("link.py") is None
    assert files.read("../secret.py") is None


def test_module_names() -> None:
    assert module_name("vllm/platforms/npu.py") == "vllm.platforms.npu"
    assert module_name("vllm/platforms/__init__.py") == "vllm.platforms"


def test_a_bound_signature_loses_its_first_parameter_in_text_too() -> None:
    from migrator.verify.signature import of_function

    for source, text in (
        ("def f(self): pass", "f()"),
        ("def f(self, a): pass", "f(a)"),
        ("def f(self: 'X', a=1): pass", "f(a=1)"),
        ("def f(self, /, a): pass", "f(a)"),
        ("def f(*args): pass", "f(*args)"),
    ):
        node = ast.parse(source).body[0]
        assert isinstance(node, ast.FunctionDef)
        assert of_function(node).without_first().text == text
