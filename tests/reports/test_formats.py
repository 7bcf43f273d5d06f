# SPDX-License-Identifier: Apache-2.0
"""SARIF and GitHub annotations: valid, at the right lines, and fixes that give what `apply` writes.

The schema comes with `pydantic-sarif`, whose models are generated from OASIS's and refuse unknown
properties.
"""

from __future__ import annotations

import io
import itertools
import json
import re
import tokenize
import urllib.parse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from migrator.files.tree import DiskTree
from migrator.messages.wording import Tense
from migrator.planning.plan import Plan
from migrator.reports.render import render
from tests.conftest import RunCli
from tests.trees import ODD_FILES, OOT, SELECT, copy_mini

NUMBERED = re.compile(r"::(\w+) file=([^,]+),line=(\d+),endLine=(\d+),title=([^:]+)::(.*)")


def apply_fixes(log: dict[str, Any], read: Callable[[str], bytes | None]) -> dict[str, bytes]:
    """Path → bytes after all fixes of a SARIF log, as a program reads them that knows no plan."""
    replacements: dict[str, list[dict[str, Any]]] = {}
    (run,) = log["runs"]
    assert run["columnKind"] == "unicodeCodePoints"
    for result in run["results"]:
        for fix in result.get("fixes", ()):
            for change in fix["artifactChanges"]:
                uri = change["artifactLocation"]["uri"]
                replacements.setdefault(uri, []).extend(change["replacements"])
    encodings = {a["location"]["uri"]: a["encoding"] for a in run["artifacts"]}
    after = {}
    for uri, parts in replacements.items():
        path = urllib.parse.unquote(uri)
        data = read(path) or b""
        encoding = tokenize.detect_encoding(io.BytesIO(data).readline)[0]
        assert encoding.removesuffix("-sig") == encodings[uri]
        text = data.decode(encoding)
        starts = [0, *(match.end() for match in re.finditer("\r?\n", text))]
        edits = []
        for part in parts:
            region = part["deletedRegion"]
            first = starts[region["startLine"] - 1] + region["startColumn"] - 1
            last = starts[region["endLine"] - 1] + region["endColumn"] - 1
            edits.append((first, last, part.get("insertedContent", {}).get("text", "")))
        edits.sort()
        assert all(one[1] <= two[0] for one, two in itertools.pairwise(edits)), path
        for first, last, new in reversed(edits):
            text = text[:first] + new + text[last:]
        after[path] = text.encode(encoding)
    return after


def assert_fixes_are_the_plan(plan: Plan, tree: DiskTree) -> dict[str, Any]:
    text = render(plan, "sarif", Tense.WOULD)
    assert text is not None
    log: dict[str, Any] = json.loads(text)
    assert apply_fixes(log, tree.read) == {change.path: change.after for change in plan.files}
    return log


def test_fixes_give_the_emitted_bytes(tmp_path: Path, run_cli: RunCli) -> None:
    extra = {**ODD_FILES, "vllm/a b%c,é.py": b"import torch\nok = torch.ones(1).is_cuda\n"}
    tree = copy_mini(tmp_path / "mini", extra)
    done = run_cli("check", tree, "--format", "sarif", "-q", "--select", SELECT)
    fixed = apply_fixes(json.loads(done.out), DiskTree(tree).read)
    assert run_cli("apply", tree, "-q", "--select", SELECT).code == 0
    emitted = DiskTree(tmp_path / "mini-npu")
    assert set(ODD_FILES) < set(fixed)
    assert "vllm/a b%c,é.py" in fixed
    for path, data in fixed.items():
        assert data == emitted.read(path), path


@pytest.mark.releases
def test_fixes_of_a_real_release(
    release: Callable[[str], Path], release_plan: Callable[[str], Plan]
) -> None:
    plan = release_plan("0.11.0")
    log = assert_fixes_are_the_plan(plan, DiskTree(release("0.11.0")))
    results = log["runs"][0]["results"]
    owners = [result["ruleId"] for result in results if "fixes" in result]
    assert len(owners) == len([r for r in plan.records if r.after is not None])


def test_sarif_schema(tmp_path: Path, run_cli: RunCli) -> None:
    model = pytest.importorskip("pydantic_sarif.model")
    validate = model.StaticAnalysisResultsFormatSarifVersion210JsonSchema.model_validate_json
    broken = {"vllm/broken.py": b"is_cuda =\n", "vllm/manual.py": b"def f(x):\n  x.is_cuda\n"}
    tree = copy_mini(tmp_path / "mini", {**ODD_FILES, **broken})
    ops = tree / "vllm/_custom_ops.py"
    ops.write_bytes(ops.read_bytes().replace(b"def rms_norm(", b"def rms_norm_("))
    done = run_cli("check", tree, "--format", "sarif", "-q", "--select", SELECT)
    log = validate(done.out)
    assert {result.level.value for result in log.runs[0].results} == {"note", "warning", "error"}
    assert all(result.locations for result in log.runs[0].results), "code scanning wants a place"
    found = json.loads(done.out)["runs"][0]["results"]
    (missing,) = [r for r in found if "finds no rms_norm" in r["message"]["text"]]
    (location,) = missing["locations"]
    place = location["physicalLocation"]["artifactLocation"]["uri"]
    assert place == "vllm/_custom_ops.py", "where it was looked for"
    damaged = json.loads(done.out)
    damaged["runs"][0]["results"][0]["fixes"][0]["artifactChanges"] = []
    with pytest.raises(ValueError, match="artifactChanges"):
        validate(json.dumps(damaged))


def test_nothing_to_fix_once_it_is_applied(tmp_path: Path, run_cli: RunCli) -> None:
    tree = copy_mini(tmp_path / "mini")
    done = run_cli("apply", tree, "--format", "sarif", "-q", "--select", SELECT)
    results = json.loads(done.out)["runs"][0]["results"]
    assert results
    assert not any("fixes" in result for result in results)
    emitted = tmp_path / "mini-npu"
    for result in results:
        (location,) = result["locations"]
        place = location["physicalLocation"]
        lines = (emitted / place["artifactLocation"]["uri"]).read_text().splitlines()
        assert place["region"]["endLine"] <= len(lines)


def test_github_lines_are_those_of_the_tree_that_is_there(tmp_path: Path, run_cli: RunCli) -> None:
    """Before a run they are the site's; after it the new code's, and what was left has moved."""
    path = "vllm/model_executor/layers/activation.py"
    source = f"{OOT}\n\ndef f(thing):\n    return thing.is_cuda\n"
    tree = copy_mini(tmp_path / "mini", {path: source.encode()})
    select = ("--select", "NPU001,NPU110,NPU12", "--format", "github", "-q")

    def marked(arguments: tuple[str | Path, ...], root: Path) -> list[tuple[str, str, str]]:
        found = NUMBERED.findall(run_cli(*arguments, *select).text)
        lines = (root / path).read_text().splitlines()
        return [
            (level, title[:6], lines[int(line) - 1].strip())
            for level, where, line, _, title, _ in found
            if where == path
        ]

    left = ("warning", "NPU110", "return thing.is_cuda")
    before = marked(("check", tree), tree)
    cuda = "def forward_cuda(self, x: torch.Tensor) -> torch.Tensor:"
    assert ("notice", "NPU120", cuda) in before
    after = marked(("apply", tree), tmp_path / "mini-npu")
    assert ("notice", "NPU120", cuda.replace("cuda", "oot")) in after
    assert before[0] == after[0] == left, "the most important first"
    assert len(before) == len(after)


def test_github_names_added_files_once_they_are_there(tmp_path: Path, run_cli: RunCli) -> None:
    tree = copy_mini(tmp_path / "mini")
    select = ("--select", "NPU302", "--format", "github", "-q")
    assert run_cli("check", tree, *select).text == ""
    (added,) = NUMBERED.findall(run_cli("apply", tree, *select).text)
    lines = (tmp_path / "mini-npu" / "vllm/accelerator.py").read_text().count("\n")
    assert added[:4] == ("notice", "vllm/accelerator.py", "1", str(lines))
