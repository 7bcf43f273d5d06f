# SPDX-License-Identifier: Apache-2.0
"""Caches: where they are, for whom, and that what others could have changed is not used."""

from __future__ import annotations

import io
import os
import tarfile
from pathlib import Path

import pytest

from migrator.files import locations, package_index, sources
from migrator.messages.errors import MigrateError
from tests.trees import MINI, snapshot


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of the test's own, and temporary files that are, too."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    return tmp_path


def test_a_directory_of_the_cache_is_the_users_alone(home: Path) -> None:
    old = os.umask(0)
    try:
        made = locations.private_cache("a", "b")
    finally:
        os.umask(old)
    assert made == home / "cache/vllm-npu-migrate/a/b"
    for place in (made, made.parent, made.parent.parent):
        assert place.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("place", ["vllm-npu-migrate", "vllm-npu-migrate/a"])
def test_what_others_can_write_to_is_refused(home: Path, place: str) -> None:
    made = locations.private_cache("a")
    (home / "cache" / place).chmod(0o777)
    with pytest.raises(MigrateError, match=r"others can write to it.*XDG_CACHE_HOME"):
        locations.private_cache("a")
    (home / "cache" / place).chmod(0o755)
    assert locations.private_cache("a") == made, "others may read it"


@pytest.mark.skipif(os.getuid() != 0, reason="only root gives files away")
def test_another_users_is_refused(home: Path) -> None:
    os.chown(locations.private_cache("a"), 12345, 12345)
    with pytest.raises(MigrateError, match="another user's"):
        locations.private_cache("a")


def test_without_a_home(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As with a user id that no user has, in a container."""
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(os.path, "expanduser", lambda text: text)
    temporary = home / "tmp" / f"vllm-npu-migrate-{os.getuid()}"
    assert locations.cache_directory() == temporary
    assert locations.private_cache("a") == temporary / "a"


@pytest.mark.parametrize("kind", ["file", "missing"])
def test_a_home_that_takes_no_cache(home: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    if kind == "file":
        (home / "cache").write_bytes(b"")
    else:
        monkeypatch.setenv("XDG_CACHE_HOME", "/proc/none")
    assert locations.private_cache("a").is_relative_to(home / "tmp")


# ---- sources -------------------------------------------------------------------------------


@pytest.fixture
def index(home: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """An index that has one release; what was fetched from it."""
    fetched: list[str] = []

    def fetch(requirement: str, directory: Path, *, source_only: bool = False) -> Path:
        assert source_only
        fetched.append(requirement)
        place = directory / "vllm-0.11.0.tar.gz"
        with tarfile.open(place, "w:gz") as tar:
            for path, (_, data) in snapshot(MINI).items():
                assert isinstance(data, bytes)
                info = tarfile.TarInfo(f"vllm-0.11.0/{path}")
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
        return place

    monkeypatch.setattr(package_index, "fetch", fetch)
    return fetched


def test_a_source_is_fetched_once(index: list[str]) -> None:
    root = sources.fetch("0.11.0")
    assert sources.fetch("0.11.0") == root
    assert index == ["vllm==0.11.0"]
    assert snapshot(root) == {p: (0o644, data) for p, (_, data) in snapshot(MINI).items()}


@pytest.mark.parametrize("change", ["edit", "same size and time", "add", "remove", "link", "mode"])
def test_a_source_that_somebody_changed_is_fetched_again(index: list[str], change: str) -> None:
    root = sources.fetch("0.11.0")
    before = snapshot(root)
    place = root / "vllm/_custom_ops.py"
    if change == "edit":
        place.write_bytes(place.read_bytes() + b"evil = 1\n")
    elif change == "same size and time":
        stat = place.stat()
        data = place.read_bytes()
        place.write_bytes(b"!" + data[1:])
        os.utime(place, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    elif change == "add":
        (root / "vllm/evil.py").write_bytes(b"")
    elif change == "remove":
        place.unlink()
    elif change == "link":
        place.unlink()
        place.symlink_to("/etc/passwd")
    else:
        place.chmod(0o755)
    assert sources.fetch("0.11.0") == root
    assert snapshot(root) == before
    assert len(index) == 2


def test_a_source_that_was_moved_is_taken(index: list[str]) -> None:
    """Restored from a backup, say: other stamps, the same bytes."""
    root = sources.fetch("0.11.0")
    for path in snapshot(root):
        os.utime(root / path, (1, 1))
    assert sources.fetch("0.11.0") == root
    assert len(index) == 1


@pytest.mark.parametrize("record", [None, b"", b"{}", b"[]", b'{"stamps": 1}'])
def test_a_source_without_a_record_is_fetched_again(index: list[str], record: bytes | None) -> None:
    root = sources.fetch("0.11.0")
    place = root.with_name("vllm-0.11.0.json")
    place.unlink()
    if record is not None:
        place.write_bytes(record)
    (root / "vllm/evil.py").write_bytes(b"")
    assert not (sources.fetch("0.11.0") / "vllm/evil.py").exists()
    assert len(index) == 2
