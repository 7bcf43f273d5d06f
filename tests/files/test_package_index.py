# SPDX-License-Identifier: Apache-2.0
"""The package index as pip is set up for it: redirects, places that are down, its other settings.

Servers are on this machine's loopback; nothing else is asked.
"""

from __future__ import annotations

import hashlib
import http.server
import io
import os
import subprocess
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest

from migrator.files import package_index
from migrator.messages.errors import MigrateError

FILE = "vllm-0.11.0.tar.gz"
DEAD = "http://127.0.0.1:9/simple"
"""Nobody listens there."""


def source() -> bytes:
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w:gz") as tar:
        info = tarfile.TarInfo("vllm-0.11.0/vllm/__init__.py")
        tar.addfile(info, io.BytesIO(b""))
    return data.getvalue()


SOURCE = source()
DIGEST = hashlib.sha256(SOURCE).hexdigest()


class Handler(http.server.BaseHTTPRequestHandler):
    """`/MODE/simple/vllm/` is a page, `/MODE/f/FILE` the file."""

    protocol_version = "HTTP/1.1"
    asked: ClassVar[list[str]] = []

    def do_GET(self) -> None:
        self.asked.append(self.path)
        mode, _, rest = self.path[1:].partition("/")
        page = rest.startswith("simple")
        if mode == "down":
            return self._say(500, b"down")
        if mode == "page_moved" and page:
            return self._say(302, b"", Location=f"/plain/{rest}")
        if mode == "file_moved" and not page:
            return self._say(302, b"", Location=f"/plain/{rest}")
        if mode == "loop":
            return self._say(302, b"", Location=self.path)
        if mode == "to_a_file":
            return self._say(302, b"", Location=f"file:///etc/hosts?{rest}")
        if not page:
            return self._say(200, SOURCE)
        fragment = {
            "plain": f"#sha256={DIGEST}",
            "page_moved": f"#sha256={DIGEST}",
            "file_moved": f"#sha256={DIGEST}",
            "wrong": f"#sha256={'0' * 64}",
            "unknown": "#sha3_999=00",
        }.get(mode, "")
        link = f'<a href="/{mode}/f/{FILE}{fragment}">{FILE}</a>'
        return self._say(200, link.encode(), **{"Content-Type": "text/html"})

    def _say(self, code: int, body: bytes, **headers: str) -> None:
        self.send_response(code)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    running = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=running.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{running.server_port}"
    running.shutdown()
    thread.join()
    running.server_close()


@pytest.fixture(autouse=True)
def _no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith("PIP_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)


def fetch(folder: Path) -> bytes:
    return package_index.fetch("vllm==0.11.0", folder, source_only=True).read_bytes()


@pytest.mark.parametrize("mode", ["plain", "page_moved", "file_moved", "none"])
def test_fetched(server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: str) -> None:
    monkeypatch.setenv("PIP_INDEX_URL", f"{server}/{mode}/simple")
    assert fetch(tmp_path) == SOURCE


@pytest.mark.parametrize(
    ("mode", "says"),
    [
        ("wrong", "cannot fetch"),
        ("unknown", "by sha3_999, which cannot be checked"),
        ("down", "HTTP 500"),
        ("loop", "no source archive .*redirects"),
        ("to_a_file", "cannot fetch"),
    ],
)
def test_refused(
    server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: str, says: str
) -> None:
    monkeypatch.setenv("PIP_INDEX_URL", f"{server}/{mode}/simple")
    with pytest.raises(MigrateError, match=says) as caught:
        fetch(tmp_path)
    assert "\n" not in str(caught.value)


def test_one_place_of_several_is_down(
    server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_INDEX_URL", DEAD)
    monkeypatch.setenv("PIP_EXTRA_INDEX_URL", f"{server}/plain/simple")
    assert fetch(tmp_path) == SOURCE


def test_all_places_are_down(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_INDEX_URL", "http://me:secret@127.0.0.1:9/simple")
    with pytest.raises(MigrateError, match=r"no source archive of vllm==0.11.0 \(http://127") as e:
        fetch(tmp_path)
    assert "secret" not in str(e.value)


def test_no_index(server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / FILE).write_bytes(SOURCE)
    monkeypatch.setenv("PIP_INDEX_URL", f"{server}/plain/simple")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with pytest.raises(MigrateError, match="no source archive"):
        fetch(tmp_path)
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "files"))
    Handler.asked.clear()
    assert fetch(tmp_path) == SOURCE
    assert Handler.asked == [], "no index is asked"


def test_a_dead_index_beside_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / FILE).write_bytes(SOURCE)
    monkeypatch.setenv("PIP_INDEX_URL", DEAD)
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "files"))
    assert fetch(tmp_path) == SOURCE


def test_a_certificate_that_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_CERT", str(tmp_path / "none.pem"))
    with pytest.raises(MigrateError, match="which cannot be read"):
        fetch(tmp_path)
    (tmp_path / "none.pem").write_bytes(b"no certificate")
    with pytest.raises(MigrateError, match=r"pip's certificate .* is none"):
        fetch(tmp_path)


def test_a_proxy(server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Through the server as a proxy; the index's own name is nobody's."""
    monkeypatch.setenv("PIP_PROXY", server)
    monkeypatch.setenv("PIP_TRUSTED_HOST", "index.invalid")
    monkeypatch.setenv("PIP_INDEX_URL", "http://index.invalid/simple")
    Handler.asked.clear()
    with pytest.raises(MigrateError):
        fetch(tmp_path)
    assert set(Handler.asked) == {"http://index.invalid/simple/vllm/"}


@pytest.mark.parametrize("with_pip", [True, False])
def test_settings_in_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, with_pip: bool) -> None:
    """The same whether pip is asked or, as in an environment without it, its files are read."""
    home = tmp_path / "home"
    (home / ".config/pip").mkdir(parents=True)
    (home / ".config/pip/pip.conf").write_text(
        "[global]\nindex-url = http://a/simple\nextra-index-url =\n  http://b/simple\n"
        "  http://c/simple\ntimeout = 7\n[install]\nno-index = true\n",
        encoding="utf-8",
    )
    for name in ("XDG_CONFIG_HOME", "PIP_CONFIG_FILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("XDG_CONFIG_DIRS", str(tmp_path / "none"))
    monkeypatch.setenv("PIP_FIND_LINKS", "one two")
    if not with_pip:

        def none(*_: Any, **__: Any) -> subprocess.CompletedProcess[str]:
            return subprocess.CompletedProcess([], 1, "", "No module named pip")

        monkeypatch.setattr(subprocess, "run", none)
    found = package_index.pip_settings()
    assert found["index-url"] == ["http://a/simple"]
    assert found["extra-index-url"] == ["http://b/simple", "http://c/simple"]
    assert found["timeout"] == ["7"]
    assert found["no-index"] == ["true"]
    assert found["find-links"] == ["one", "two"]
