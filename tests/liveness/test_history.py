# SPDX-License-Identifier: Apache-2.0
"""Since when a definition is there: `vllm-npu-migrate since`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import pytest

from migrator.files import sources
from migrator.files.tree import Tree
from migrator.liveness.history import Definition, history, spans
from tests.conftest import RunCli

OPS, NORM = "vllm/_custom_ops.py", "vllm/norm.py"
RELEASES: Mapping[str, Mapping[str, str]] = {
    "0.9.2": {OPS: "def norm(out, x):\n    pass\n"},
    "0.10.0": {OPS: "import torch\n\n\ndef norm(out, x):\n    return 1\n"},
    "0.11.0": {
        OPS: "def norm(out, x, *, scale: float = 1.0) -> None: ...\n",
        NORM: "class Norm(Base):\n    @staticmethod\n    def norm(x): ...\n",
        "tests/test_norm.py": "def norm(): ...\n",
    },
    "0.12.0": {
        NORM: "Kind = Literal['a']\nclass Norm:\n    @property\n    async def norm(x): ...\n"
    },
}
TREES = {
    version: Tree({path: text.encode() for path, text in files.items()})
    for version, files in RELEASES.items()
}


def test_forms_of_a_function() -> None:
    assert history("norm", TREES) == [
        Definition(OPS, "def norm(out, x)", ("0.9.2", "0.10.0"), 4),
        Definition(OPS, "def norm(out, x, *, scale: float=1.0) -> None", ("0.11.0",), 1),
    ]


def test_forms_of_a_method_a_class_and_a_variable() -> None:
    assert [(form.signature, form.releases) for form in history("Norm.norm", TREES)] == [
        ("@staticmethod def norm(x)", ("0.11.0",)),
        ("@property async def norm(x)", ("0.12.0",)),
    ]
    assert [form.signature for form in history("Norm", TREES)] == ["class Norm(Base)", "class Norm"]
    assert [form.signature for form in history("Kind", TREES)] == ["Kind = Literal['a']"]


def test_only_one_module_is_looked_at() -> None:
    assert history("norm", TREES, NORM) == []
    assert [form.releases for form in history("Norm", TREES, NORM)] == [("0.11.0",), ("0.12.0",)]


def test_a_long_signature_is_cut() -> None:
    tree = Tree({OPS: f"def norm({', '.join(f'argument_{n}' for n in range(40))}): ...".encode()})
    (form,) = history("norm", {"0.9.2": tree})
    assert form.signature.startswith("def norm(argument_0, ")
    assert form.signature.endswith("…")
    assert len(form.signature) == 160


@pytest.mark.parametrize(
    ("releases", "said"),
    [
        (["0.9.2", "0.10.0"], "0.9.2 to 0.10.0"),
        (["0.9.2", "0.11.0", "0.12.0"], "0.9.2, 0.11.0 to 0.12.0"),
        (["0.10.0"], "0.10.0"),
        ([], ""),
    ],
)
def test_spans(releases: list[str], said: str) -> None:
    assert spans(releases, RELEASES) == said


@pytest.fixture
def cache(tmp_path: Path) -> dict[str, str]:
    """An environment in which these releases were fetched, and one that somebody changed."""
    place = tmp_path / "cache" / "vllm-npu-migrate" / "sources"
    for version, files in {**RELEASES, "0.13.0": RELEASES["0.9.2"]}.items():
        root = place / f"vllm-{version}"
        for path, text in files.items():
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            (root / path).write_text(text)
        sources._write_record(root, place / f"{root.name}.json")
    (place / "vllm-0.13.0" / OPS).write_text("def norm(changed): ...\n")
    (place / "vllm-no-version").mkdir()
    return {"XDG_CACHE_HOME": str(tmp_path / "cache")}


def test_command(run_cli: RunCli, cache: dict[str, str]) -> None:
    done = run_cli("since", "norm", env=cache)
    assert done.code == 0
    assert done.out.decode() == (
        f"{OPS}\n"
        "  0.9.2 to 0.10.0  def norm(out, x) (line 4)\n"
        "  0.11.0           def norm(out, x, *, scale: float=1.0) -> None (line 1)\n"
        "not in 0.12.0\n"
    )
    assert "not looked at, since not fetched: 0.10.1.1 to 0.10.2, 0.11.1 to" in done.err
    listed = json.loads(run_cli("since", "norm", "--format", "json", env=cache).out)
    assert listed["not_in"] == ["0.12.0"]
    assert [form["releases"] for form in listed["forms"]] == [["0.9.2", "0.10.0"], ["0.11.0"]]


def test_what_no_release_has(run_cli: RunCli, cache: dict[str, str], tmp_path: Path) -> None:
    for words in (("nowhere",), ("norm", "--path", NORM)):
        done = run_cli("since", *words, env=cache)
        assert (done.code, done.out) == (2, b"")
        assert "no release of 0.9.2 to 0.12.0 defines" in done.err
    done = run_cli("since", "norm", env={"XDG_CACHE_HOME": str(tmp_path / "empty")})
    assert (done.code, done.out) == (2, b"")
    assert "--fetch fetches those known" in done.err


def test_fetch(run_cli: RunCli, cache: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    monkeypatch.setattr(sources, "fetch", asked.append)
    assert run_cli("since", "norm", "--fetch", env=cache).code == 0
    assert asked[0] == "0.9.2"
    assert len(asked) > 20
