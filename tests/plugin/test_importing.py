# SPDX-License-Identifier: Apache-2.0
"""Patches come into force in modules that are loaded, on their way, or not there yet."""

from __future__ import annotations

import importlib
import sys
import types
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from migrator.plugin.runtime.importing import Entry, Finder, misfits
from migrator.plugin.runtime.patching import PatchError, digest
from tests.plugin.test_patching import patch_of

Load = Callable[[str], types.ModuleType]


class World:
    """A package `vllm` in a directory, and patches of it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.package = root / "vllm"
        self.package.mkdir()
        (self.package / "__init__.py").write_text("")
        self.entries: dict[str, Entry] = {}

    def module(self, name: str, before: str, after: str | None = None) -> None:
        """Write `vllm.<name>`, and a patch that makes `after` of it."""
        file = self.package / f"{name}.py"
        file.write_text(before)
        if after is not None:
            patch = self.root / f"patch_{name}.py"
            text = patch_of(before, after)
            patch.write_text(text.replace("vllm/m.py", f"vllm/{name}.py"))
            entry = Entry(f"vllm.{name}", patch, digest(before.encode()))
            self.entries[entry.module] = entry

    def load(self, name: str) -> types.ModuleType:
        return importlib.import_module(f"vllm.{name}")

    def finder(self) -> Finder:
        return Finder(self.entries)


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    before, finders = set(sys.modules), list(sys.meta_path)
    yield World(tmp_path)
    sys.meta_path[:] = finders
    for name in set(sys.modules) - before:
        if f"{name}.".startswith("vllm."):
            del sys.modules[name]


ONE = "def f(x=1):\n    return ['old', x]\n"
NEW = (
    "import os\n\ndef helper():\n    return os.sep\n\n"
    "def f(x=2):\n    return ['new', x, helper()]\n"
)


def test_module_is_patched_as_it_is_imported(world: World) -> None:
    world.module("m", "import os\n\n" + ONE, NEW)
    world.module("taker", "from vllm.m import f\n")
    finder = world.finder()
    finder.install()
    assert world.load("taker").f() == ["new", 2, "/"]
    assert not finder.pending
    assert not finder.unpatched()


def test_loaded_function_keeps_its_identity(world: World) -> None:
    world.module("m", "import os\n\n" + ONE, NEW)
    world.module("taker", "from vllm.m import f\nTABLE = {'f': f}\n")
    taker = world.load("taker")
    old = taker.f
    world.finder().install()
    assert taker.f is old
    assert taker.f() == taker.TABLE["f"]() == world.load("m").f() == ["new", 2, "/"]
    assert old.__code__.co_filename == str(world.entries["vllm.m"].file)


DECORATED = """\
import contextlib
import functools


class Base:
    def who(self):
        return ["base"]


class A(Base):
    __own = 1

    @contextlib.contextmanager
    def opened(self):
        yield "old"

    @functools.cache
    def kept(self):
        return "old"

    @property
    def p(self):
        return "old"

    @p.setter
    def p(self, value):
        self.set = value

    @classmethod
    def c(cls):
        return "old"

    @staticmethod
    def s():
        return "old"

    def who(self):
        return [*super().who(), "old"]
"""


def test_loaded_methods_below_decorators(world: World) -> None:
    after = DECORATED.replace('"old"', '"new"').replace("= value", "= -value")
    after += '\n    def more(self):\n        return [*super().who(), self.__own, "more"]\n'
    world.module("m", DECORATED, after)
    cls = world.load("m").A
    thing = cls()
    world.finder().install()
    with thing.opened() as opened:
        assert opened == "new"
    thing.p = 3
    assert (thing.p, thing.set) == ("new", -3)
    assert (thing.kept(), cls.c(), cls.s()) == ("new", "new", "new")
    assert thing.who() == ["base", "new"]
    assert thing.more() == ["base", 1, "more"]


def test_class_that_reads_a_name_bound_anew_is_made_anew_everywhere(world: World) -> None:
    before = (
        "from dataclasses import dataclass, field\nfrom typing import Literal\n"
        "Device = Literal['cpu']\n\n\n@dataclass\nclass DeviceConfig:\n    device: Device = 'cpu'\n"
        "\n\n@dataclass\nclass Config:\n"
        "    device: DeviceConfig = field(default_factory=DeviceConfig)"
        "\n\n\nclass Other:\n    def f(self) -> str:\n        return Device\n"
    )
    world.module("m", before, before.replace("['cpu']", "['cpu', 'npu']"))
    world.module("taker", "from vllm.m import Config, DeviceConfig, Other\n")
    taker = world.load("taker")
    other = taker.Other
    world.finder().install()
    module = world.load("m")
    assert taker.DeviceConfig is module.DeviceConfig
    assert module.DeviceConfig.__dataclass_fields__["device"].type is module.Device
    assert isinstance(taker.Config().device, module.DeviceConfig)
    assert module.Other is other


def test_loaded_statement_is_added_where_names_are_kept(world: World) -> None:
    before = "TABLE = {'a': 1}\n\n\nclass A:\n    x = 1\n"
    after = "TABLE = {'a': 1}\nTABLE |= {'b': 2}\n\n\nclass A:\n    x = 1\n    y: str = 'n'\n"
    world.module("m", before, after)
    module = world.load("m")
    table, cls = module.TABLE, module.A
    world.finder().install()
    assert table == {"a": 1, "b": 2}
    assert cls.y == "n"


def test_other_decorator_makes_the_function_anew_everywhere(world: World) -> None:
    before = "import functools\n\ndef f():\n    return 1\n"
    world.module("m", before, before.replace("def f", "@functools.cache\ndef f"))
    world.module("taker", "from vllm.m import f\n")
    taker = world.load("taker")
    world.finder().install()
    assert taker.f is world.load("m").f
    assert hasattr(taker.f, "cache_info")


def test_module_on_its_way_is_patched_when_it_has_come(world: World) -> None:
    before = "import vllm.asks\n\n" + ONE
    world.module("m", before, before.replace("'old'", "'new'"))
    world.module("asks", "import tests.plugin.test_importing as t\nt.ASKED.pop()()\n")
    world.module("late", "")
    finder = world.finder()
    ASKED.append(finder.install)
    module = world.load("m")
    assert list(finder.pending) == ["vllm.m"]
    world.load("late")
    assert not finder.pending
    assert module.f() == ["new", 1]
    assert not finder.unpatched()


ASKED: list[Callable[[], None]] = []
"""What the module `asks` calls while it is being imported."""


def test_module_that_came_in_without_its_patch_is_noticed(world: World) -> None:
    world.module("m", ONE, ONE.replace("old", "new"))
    finder = world.finder()
    finder.install()
    sys.meta_path.remove(finder)
    world.load("m")
    assert finder.unpatched() == ["vllm.m"]


def test_file_that_changed_since_it_was_checked_is_refused(world: World) -> None:
    world.module("m", ONE, ONE.replace("old", "new"))
    world.finder().install()
    (world.package / "m.py").write_text(ONE.replace("old", "other"))
    with pytest.raises(PatchError, match="f is not the one"):
        world.load("m")


def test_method_that_needs_what_is_gone_is_refused(world: World) -> None:
    before = "class A:\n    def f(self):\n        return 1\n"
    world.module("m", before, before.replace("return 1", "return 2"))
    vars(world.load("m"))["A"] = None
    with pytest.raises(PatchError, match="A is no class any more"):
        world.finder().install()


@pytest.mark.parametrize(
    ("installed", "said"),
    [
        ({}, []),
        ({"m": ONE + "\nX = 1\n"}, []),
        ({"m": ONE.replace("old", "other")}, ["vllm/m.py: f is not the one"]),
        ({"m": "def f(:\n"}, ["vllm.m: "]),
        ({"m": ""}, ["vllm/m.py: f is not there (NPU110)"]),
        ({"m": None}, ["vllm.m: vLLM has no m.py of it"]),
        ({"m": "", "n": None}, ["vllm/m.py: f is not there", "vllm.n: vLLM has no n.py"]),
    ],
)
def test_all_misfits_are_found(
    world: World, installed: Mapping[str, str | None], said: list[str]
) -> None:
    for name in ("m", "n"):
        world.module(name, ONE, ONE.replace("old", "new"))
    for name, text in installed.items():
        file = world.package / f"{name}.py"
        file.unlink()
        if text is not None:
            file.write_text(text)
    found = misfits(world.entries.values(), world.package)
    assert len(found) == len(said)
    assert all(line.startswith(start) for line, start in zip(found, said, strict=True))


def test_packages_are_patched_too(world: World) -> None:
    world.module("m", ONE, ONE.replace("old", "new"))
    (world.package / "m").mkdir()
    (world.package / "m.py").rename(world.package / "m" / "__init__.py")
    (world.package / "m" / "inner.py").write_text("from . import f\n")
    assert misfits(world.entries.values(), world.package) == []
    world.finder().install()
    assert world.load("m.inner").f() == ["new", 1]
