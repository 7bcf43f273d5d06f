# SPDX-License-Identifier: Apache-2.0
"""A small emitted tree, the tree it came from, and a small torch_npu wheel, all made here."""

from __future__ import annotations

import difflib
import hashlib
import json
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from migrator.verify.report import Report
from migrator.verify.run import Options, verify
from migrator.verify.simulate import environment

FIXTURES = Path(__file__).parents[2] / "fixtures" / "verify"
WHEEL = "torch_npu-9.1.0-cp311-cp311-manylinux_2_28_aarch64.whl"


def write_log(before: Path, after: Path) -> None:
    """Leave in `after` the log that a migration of `before` to it would leave."""
    files: list[dict[str, Any]] = []
    changes: list[dict[str, Any]] = []
    for path in sorted(after.rglob("*")):
        name = path.relative_to(after).as_posix()
        if not path.is_file() or name == "migration-log.json":
            continue
        new, old_path = path.read_bytes(), before / name
        old = old_path.read_bytes() if old_path.is_file() else None
        if new == old:
            continue
        digest = hashlib.sha256(new).hexdigest()
        status = "added" if old is None else "modified"
        files.append({"path": name, "status": status, "before": None, "after": digest})
        matcher = difflib.SequenceMatcher(None, (old or b"").splitlines(), new.splitlines())
        for tag, first, _, start, end in matcher.get_opcodes():
            if tag in ("insert", "replace"):
                lines = {"line": start + 1, "end_line": end}
                changes.append(
                    {"rule": "NPU1", "path": name, "before": {"line": first + 1}, "after": lines}
                )
    log = {
        "schema_version": 1,
        "tool": {"name": "test"},
        "release": "0.0.1",
        "files": files,
        "changes": changes,
        "something_new": [1],
    }
    (after / "migration-log.json").write_text(json.dumps(log), encoding="utf-8")


def make_wheel(folder: Path, name: str = WHEEL) -> Path:
    """A wheel with the layout of torch_npu's: libraries that hold schemas, and Python files."""
    path = folder / name
    source = FIXTURES / "wheel"
    with zipfile.ZipFile(path, "w") as archive:
        for library, schemas in (
            ("libtorch_npu.so", "schemas_npu.txt"),
            ("libop_plugin_atb.so", "schemas_atb.txt"),
        ):
            texts = (source / schemas).read_text(encoding="utf-8").splitlines()
            noise = (
                b"\x7fELF\x02\0\xff\xfe() -> None\0float16\0int4\0_weak_ref\0_Z1fv\0%s(%d) -> bad\0"
            )
            blob = noise + b"\0".join(t.encode() for t in texts) + b"\0\x01rest"
            archive.writestr(f"torch_npu/lib/{library}", blob)
        for file in sorted((source / "torch_npu").rglob("*.py")):
            archive.write(file, file.relative_to(source).as_posix())
    return path


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_wheel(tmp_path_factory.mktemp("wheel"))


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A copy of the emitted tree without a log; `check` writes the log."""
    target = tmp_path / "tree"
    shutil.copytree(FIXTURES / "after", target)
    return target


@pytest.fixture
def check(tree: Path, wheel: Path, tmp_path: Path) -> Callable[..., Report]:
    """Write the log of the tree as it stands and verify it."""

    def run(**options: Any) -> Report:
        write_log(FIXTURES / "before", tree)
        return verify(Options(tree, wheel_file=wheel, cache=tmp_path / "cache", **options))

    return run


@pytest.fixture
def edit(tree: Path) -> Callable[[str, str, str], int]:
    """Replace a text that stands once in a file; the line (1-based) of the first replaced text."""

    def replace(path: str, old: str, new: str) -> int:
        text = (tree / path).read_text(encoding="utf-8")
        assert text.count(old) == 1, (path, old)
        (tree / path).write_text(text.replace(old, new), encoding="utf-8")
        return text[: text.index(old)].count("\n") + 1

    return replace


@pytest.fixture
def runnable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A tree of nothing but its log, in an environment that has all that runs need."""
    tree = tmp_path / "tree"
    (tree / "vllm").mkdir(parents=True)
    (tree / "vllm" / "__init__.py").touch()
    log = {"files": [], "release": "9.8.7"}
    (tree / "migration-log.json").write_text(json.dumps(log), encoding="utf-8")
    versions = environment.Versions(dict.fromkeys(environment.NEEDED, "1.0"), ())
    monkeypatch.setattr(environment, "check", lambda *_, **__: versions)
    return tree
