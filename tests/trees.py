# SPDX-License-Identifier: Apache-2.0
"""Trees for the tests: the small one in fixtures/, files with odd bytes, and what a tree holds."""

from __future__ import annotations

import importlib.util
import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from migrator.codemod import templates
from migrator.files.tree import Tree

FIXTURES = Path(__file__).parents[1] / "fixtures"
MINI = FIXTURES / "mini_vllm"
SELECT = "NPU0,NPU1,NPU302"
"""The rules whose sites the small tree has: the edits of the first log, and one added file."""

GUARD = """\
# SPDX-License-Identifier: Apache-2.0
import torch


def on_device(x: torch.Tensor) -> bool:
    return x.is_cuda  # {remark}
"""
OOT = """\
import torch

from vllm.model_executor.custom_op import CustomOp


class SiluAndMul(CustomOp):
    def forward_cuda(self, x: torch.Tensor) -> torch.Tensor:
        return self.op(x)


class GeluAndMul(CustomOp):
    def forward_cuda(self, x: torch.Tensor) -> torch.Tensor:
        return self.op(x)


class QuickGELU(CustomOp):
    def forward_cuda(self, x: torch.Tensor) -> torch.Tensor:
        return self.op(x)
"""

ODD_FILES: Mapping[str, bytes] = {
    "vllm/latin.py": b"# -*- coding: latin-1 -*-\n" + GUARD.format(remark="é ß").encode("latin-1"),
    "vllm/windows.py": b"\xef\xbb\xbf"
    + GUARD.format(remark="ü").replace("\n", "\r\n").encode("utf-8"),
    "vllm/no_end.py": GUARD.format(remark="the end").encode().rstrip(b"\n"),
    "vllm/mixed.py": GUARD.format(remark="mixed").encode().replace(b"torch\n", b"torch\r\n"),
    "vllm/feeds.py": GUARD.format(remark="feed").encode().replace(b"\n\n\n", b"\n\x0c\n\n"),
    "vllm/tabs.py": GUARD.format(remark="tab").encode().replace(b"    ", b"\t"),
    "vllm/signs.py": GUARD.format(remark="π 😀 \u2028").encode(),
    # A file in which statements are put, not only an expression changed.
    "vllm/model_executor/layers/activation.py": b"\xef\xbb\xbf"
    + OOT.replace("\n", "\r\n").encode(),
}
"""Files whose bytes are not just UTF-8 lines; the rules change every one of them."""


class _Variables(ModuleType):
    """Stands for `vllm.envs` in a template: the one that a test has put there when it is asked."""

    def __getattr__(self, name: str) -> Any:
        return getattr(sys.modules["vllm.envs"], name)


def template_module(path: str, root: Path = FIXTURES.parent / "templates") -> ModuleType:
    """A template that needs nothing of vLLM but other templates, as a module of its own.

    `root`: where those lie, with all variants or with those that `chosen` left.
    """
    place = root / path
    others = {name: sys.modules.pop(name) for name in list(sys.modules) if _is_vllm(name)}
    sys.path.insert(0, str(root))
    sys.modules["vllm.envs"] = _Variables("vllm.envs")
    try:
        return _module(place)
    finally:
        sys.path.remove(str(root))
        for name in [name for name in sys.modules if _is_vllm(name)]:
            del sys.modules[name]
        sys.modules.update(others)


NEWEST = {
    "vllm/v1/attention/backend.py": b"class CommonAttentionMetadata:\n"
    b"    block_table_tensor: object\n    seq_lens_cpu_upper_bound: object\n\n\n"
    b"class MLAAttentionImpl:\n    def do_kv_cache_update(self): ...\n",
    "vllm/v1/kv_cache_interface.py": b"class MLAAttentionSpec: ...\n",
    "vllm/model_executor/layers/attention/mla_attention.py": b"class MLAAttention:\n"
    b"    def forward_impl(self): ...\n",
}
"""What tells the newest releases from others, of files by their paths."""


def chosen(folder: Path, files: Mapping[str, bytes]) -> Path:
    """A folder with the templates of the platform, in their variants for a tree of some files."""
    root = FIXTURES.parent / "templates"
    tree = Tree(files)
    for place in root.glob("vllm/platforms/*.py"):
        new = folder / place.relative_to(root)
        new.parent.mkdir(parents=True, exist_ok=True)
        new.write_text(templates._choose(place.read_text(encoding="utf-8"), tree), encoding="utf-8")
    return folder


def _is_vllm(name: str) -> bool:
    return name.partition(".")[0] == "vllm"


def _module(place: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(place.stem, place)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def copy_mini(target: Path, extra: Mapping[str, bytes] | None = None) -> Path:
    """A copy of the small tree, with further files or other bytes for those it has."""
    shutil.copytree(MINI, target)
    for path, data in (extra or {}).items():
        place = target / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(data)
    return target


def snapshot(root: Path) -> dict[str, tuple[int, bytes | str]]:
    """Path → (permission bits, bytes or link target) of every file below `root` but git's own."""
    found: dict[str, tuple[int, bytes | str]] = {}
    for directory, names, files in os.walk(root):
        names[:] = [n for n in names if n not in (".git", "__pycache__")]
        files = [n for n in files if n != ".git"]
        for name in [*files, *(n for n in names if (Path(directory) / n).is_symlink())]:
            place = Path(directory) / name
            path = place.relative_to(root).as_posix()
            if place.is_symlink():
                found[path] = (0o777, os.readlink(place))
            elif place.is_file():
                found[path] = (stat.S_IMODE(place.stat().st_mode), place.read_bytes())
    return found


def executables(tree: dict[str, tuple[int, bytes | str]]) -> dict[str, tuple[int, bytes | str]]:
    """A snapshot with what git knows of modes, which is whether a file can be executed."""
    return {path: (mode & 0o100, data) for path, (mode, data) in tree.items()}


def git(root: Path, *arguments: str, stdin: bytes | None = None) -> str:
    """Run git in `root`, without the user's settings; the test fails where git does."""
    done = subprocess.run(
        ["git", *arguments], cwd=root, input=stdin, env=git_environment(), capture_output=True
    )
    assert done.returncode == 0, f"git {arguments}: {done.stderr.decode()}"
    return done.stdout.decode()


def git_environment() -> dict[str, str]:
    """Variables that keep git to itself: no user or system settings, a name to commit under."""
    return {
        "PATH": os.environ["PATH"],
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_CONFIG_GLOBAL": os.devnull,
        "GIT_AUTHOR_NAME": "t",
        "GIT_AUTHOR_EMAIL": "t@example.org",
        "GIT_COMMITTER_NAME": "t",
        "GIT_COMMITTER_EMAIL": "t@example.org",
    }


def commit_all(root: Path) -> None:
    """Make `root` a git checkout whose tree is clean."""
    git(root, "init", "-q")
    git(root, "add", "-A", "-f")
    git(root, "-c", "core.autocrlf=false", "commit", "-q", "-m", "all")
