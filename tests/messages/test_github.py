# SPDX-License-Identifier: Apache-2.0
"""What GitHub's runner and code scanning are told: where in the repository, and in which order."""

from __future__ import annotations

import json
import re
import urllib.parse
from pathlib import Path

import pytest

from migrator.messages.github import (
    SHOWN,
    SUMMARY_BYTES,
    Annotation,
    append_summary,
    commands,
    not_shown,
    summary,
    within_repository,
)
from tests.conftest import RunCli
from tests.trees import SELECT, copy_mini

GUARDS = "import torch\n\n\n" + "".join(
    f"def f{n}(x: torch.Tensor):\n    return x.is_cuda\n\n\n" for n in range(15)
)
DOUBTS = "".join(f"def g{n}(x):\n    return x.is_cuda\n\n\n" for n in range(12))
LEVEL = re.compile(r"::(\w+) file=([^,:]+)[,:]")


def repository(tmp_path: Path, below: str, **extra: bytes) -> Path:
    """A tree in a folder of a repository."""
    tree = tmp_path / "repository" / below
    tree.parent.mkdir(parents=True, exist_ok=True)
    copy_mini(tree, {f"vllm/{name}.py": data for name, data in extra.items()})
    (tmp_path / "repository" / ".git").mkdir(exist_ok=True)
    return tree


@pytest.mark.parametrize("below", ["third_party/vllm", "a b%c"])
def test_paths_are_those_of_the_repository(tmp_path: Path, run_cli: RunCli, below: str) -> None:
    tree = repository(tmp_path, below, manual=DOUBTS.encode(), broken=b"is_cuda =\n")
    rules = ("--select", SELECT)
    for command in (
        ["check", *rules],
        ["apply", "--dry-run", *rules],
        ["coverage", "--show", "all", *rules],
    ):
        options = (*command, tree, "--format")
        text = run_cli(*options, "github", "-q").text
        files = [urllib.parse.unquote(m[2]) for m in map(LEVEL.match, text.splitlines()) if m]
        assert files
        assert all((tmp_path / "repository" / file).is_file() for file in files), command
        log = json.loads(run_cli(*options, "sarif", "-q").out)
        places = re.findall(r'"uri": "([^"]+)"', json.dumps(log["runs"][0]))
        assert places
        for place in map(urllib.parse.unquote, places):
            assert place.startswith(f"{below}/"), command
        for result in log["runs"][0]["results"]:
            (location,) = result["locations"]
            assert location["physicalLocation"]["region"]["startLine"] >= 1


def test_what_is_written_elsewhere_lies_where_it_was_written(
    tmp_path: Path, run_cli: RunCli
) -> None:
    """The lines of `apply` are those of the emitted tree, so its places are, too."""
    tree = copy_mini(tmp_path / "source")
    (tmp_path / "repository/ports").mkdir(parents=True)
    (tmp_path / "repository/.git").mkdir()
    out = tmp_path / "repository/ports/vllm"
    done = run_cli("apply", tree, "-o", out, "--format", "github", "-q", "--select", SELECT)
    found = [m[2] for m in map(LEVEL.match, done.text.splitlines()) if m]
    assert found
    assert all(path.startswith("ports/vllm/vllm/") for path in found)


def test_where_a_tree_lies(tmp_path: Path) -> None:
    tree = tmp_path / "repository/sub/vllm"
    tree.mkdir(parents=True)
    assert within_repository(tree, {}) == ""
    top = str(tmp_path / "repository")
    assert within_repository(tree, {"GITHUB_WORKSPACE": top}) == "sub/vllm/", "without git"
    assert within_repository(tree, {"GITHUB_WORKSPACE": str(tmp_path / "other")}) == ""
    (tmp_path / "repository/.git").write_text("gitdir: elsewhere\n")  # as a work tree has it
    assert within_repository(tree, {"GITHUB_WORKSPACE": str(tmp_path)}) == "sub/vllm/"
    link = tmp_path / "link"
    link.symlink_to(tree)
    assert within_repository(link, {}) == "sub/vllm/"
    assert within_repository(tmp_path / "repository", {}) == ""


def test_the_most_important_comes_first(
    tmp_path: Path, run_cli: RunCli, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree = repository(tmp_path, "vllm", a=GUARDS.encode(), manual=DOUBTS.encode(), z=b"is_cuda =\n")
    file = tmp_path / "summary.md"
    file.write_text("# Said before\n")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(file))
    done = run_cli("check", tree, "--format", "github", "-q", "--select", "NPU1")
    levels = [m[1] for m in map(LEVEL.match, done.text.splitlines()) if m]
    assert levels == sorted(levels, key=["error", "warning", "notice"].index)
    assert (levels.count("error"), levels.count("warning")) == (1, 12)
    assert levels.count("notice") > SHOWN
    safety = re.findall(r"::notice [^:]*\((\w+)\)::", done.text)
    assert safety == sorted(safety, key=["behaviour", "guarded", "equivalent"].index)
    text = file.read_text()
    assert text.startswith("# Said before\n### vllm-npu-migrate: ")
    items = [line for line in text.splitlines() if line.startswith("- **")]
    assert len(items) == 2 + levels.count("notice") - SHOWN
    assert items[0].startswith("- **warning** `vllm/vllm/manual.py:")
    assert items[-1].startswith("- **notice** `vllm/vllm/")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path))
    again = run_cli("check", tree, "--format", "github", "-q", "--select", "NPU1")
    assert (again.code, again.text) == (done.code, done.text)
    assert "The summary of the step cannot be written: Is a directory" in again.err


def test_nothing_more_to_say_writes_no_summary(tmp_path: Path) -> None:
    file = tmp_path / "summary.md"
    found = [Annotation(level, "x") for level in ("notice", "error") for _ in range(SHOWN)]
    append_summary(found, environment={"GITHUB_STEP_SUMMARY": str(file)})
    assert not file.exists()
    append_summary([*found, found[0]], environment={})
    append_summary([*found, found[0]], environment={"GITHUB_STEP_SUMMARY": str(file)})
    assert "1 more than GitHub shows" in file.read_text()


def test_a_name_is_no_markup_in_the_summary() -> None:
    name = "vllm/`](x)<img src=x>\x1b]0;title\x07\u202e|\n# head.py"
    text = summary([Annotation("notice", "<script>[a](b)\n# c `d`", name, 3, title="t")], "in/")
    (item,) = text.splitlines()[2:]
    assert item.startswith("- **notice** `` in/vllm/`](x)<img src=x>^[]0;title^G<U+202E>|^J# head")
    assert item.endswith(":3 `` t: \\<script>\\[a\\](b); # c `d`")
    (command, rest) = commands([Annotation("notice", "a", name)], "in/").split("file=")
    assert command == "::notice "
    assert rest.count("\n") == 1


def test_a_summary_has_an_end(tmp_path: Path) -> None:
    found = [Annotation("warning", "x" * 500, f"f{n}.py", n) for n in range(4000)]
    assert len(not_shown(found)) == 4000 - SHOWN
    file = tmp_path / "summary.md"
    for _ in range(2):
        append_summary(found, environment={"GITHUB_STEP_SUMMARY": str(file)})
    text = file.read_text()
    assert len(text) <= SUMMARY_BYTES
    listed = text.count("- **warning**")
    assert f"…and {4000 - SHOWN - listed} more: see the log of the step." in text
