# SPDX-License-Identifier: Apache-2.0
"""MIGRATION.md and migration-log.json: true to the tree, stable, and kept over several runs."""

from __future__ import annotations

import difflib
import hashlib
import json
import re
from pathlib import Path
from typing import Any

import jsonschema
import msgspec
import pytest

from migrator.files.tree import LOG_NAME, DiskTree, Label, Tree
from migrator.planning.plan import make_plan
from migrator.reports.log import make_log, printable, read_log, schema
from migrator.rules import all_rules
from tests.conftest import RunCli
from tests.trees import ODD_FILES, SELECT, copy_mini, snapshot

DOCS = Path(__file__).parents[2] / "docs"


def log_of(tree: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((tree / LOG_NAME).read_bytes())
    return found


@pytest.fixture
def emitted(tmp_path: Path, run_cli: RunCli, kept_results: None) -> tuple[Path, Path]:
    """The small tree with odd files, and what `apply` makes of it."""
    extra = {
        "vllm/manual.py": b"def f(x):\n    return x.is_cuda\n",
        "vllm/broken.py": b"x.is_cuda  # no\n(\n",
        "vllm/model_executor/layers/layernorm.py": (
            copy_mini(tmp_path / "pristine") / "vllm/model_executor/layers/layernorm.py"
        ).read_bytes()
        + b"\n\ndef late(x, y: torch.Tensor):\n    return x.is_cuda or y.is_cuda\n",
    }
    tree = copy_mini(tmp_path / "mini", {**ODD_FILES, **extra})
    (tree / "link").symlink_to("/etc/passwd")
    done = run_cli("apply", tree, "--select", SELECT)
    assert done.code == 1, done.err
    return tree, tmp_path / "mini-npu"


def test_published_schema_is_fresh() -> None:
    assert (DOCS / "migration-log.schema.json").read_bytes() == schema()


def test_schema_is_a_schema_and_says_the_version() -> None:
    document = json.loads(schema())
    jsonschema.Draft202012Validator.check_schema(document)
    assert document["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert b'"schema_version"' in schema()


def test_log_fits_its_schema(emitted: tuple[Path, Path]) -> None:
    log = log_of(emitted[1])
    jsonschema.validate(log, json.loads(schema()))
    assert log["schema_version"] == 1
    for wrong in ({**log, "schema_version": 2}, {**log, "files": None}):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(wrong, json.loads(schema()))


def test_files_and_hashes(emitted: tuple[Path, Path]) -> None:
    tree, out = emitted
    before, after = snapshot(tree), snapshot(out)
    listed = {e["path"]: e for e in log_of(out)["files"]}
    changed = {p for p in after if before.get(p) != after[p]}
    assert changed == listed.keys() | {LOG_NAME, "MIGRATION.md"}
    assert listed["vllm/accelerator.py"]["before"] is None
    assert listed["vllm/accelerator.py"]["status"] == "added"
    for path, entry in listed.items():
        assert entry["after"] == digest(after[path][1])
        if path in before:
            assert entry["before"] == digest(before[path][1])
            assert entry["status"] == "modified"


def digest(data: bytes | str) -> str:
    assert isinstance(data, bytes)
    return hashlib.sha256(data).hexdigest()


def lines_of(tree: Path, path: str) -> list[bytes]:
    return (tree / path).read_bytes().split(b"\n")


def assert_lines(tree: Path, out: Path, changes: list[dict[str, Any]]) -> None:
    """Lines in the source hold the site, and those in the emitted file the new code."""
    for entry in changes:
        path, site = entry["path"], entry["site"].split(".")
        new = lines_of(out, path)[entry["after"]["line"] - 1 : entry["after"]["end_line"]]
        text = b"\n".join(new)
        if entry["before"] is None:
            assert not (tree / path).exists()
            assert entry["after"] == {"line": 1, "end_line": len(lines_of(out, path)) - 1}
            continue
        old = lines_of(tree, path)[entry["before"]["line"] - 1 : entry["before"]["end_line"]]
        first = entry["source"].encode().split()[:2]
        assert all(word in b"\n".join(old) for word in first), entry
        if entry["rule"] == "NPU001":
            assert b"import torch_npu" in text
        elif entry["rule"] == "NPU110":
            assert b'device.type == "cuda"' in text or b'device.type != "cuda"' in text
            assert b"is_cuda" in b"\n".join(old)
        elif entry["rule"] == "NPU130":
            assert b"dist_backend" in text
        else:
            assert b"npu" in text, entry
            assert site[-1].encode() in text or b"def " + site[-1].encode() in b"\n".join(old)


def test_line_numbers(emitted: tuple[Path, Path]) -> None:
    tree, out = emitted
    log = log_of(out)
    assert len({e["rule"] for e in log["changes"]}) == 13
    assert_lines(tree, out, log["changes"])
    for entry in log["left_alone"]:
        if entry["line"] is not None:
            line = lines_of(out, entry["path"])[entry["line"] - 1]
            assert re.search(rb"is_cuda|nccl|dist_backend", line), entry


def test_every_hunk_has_an_entry(emitted: tuple[Path, Path]) -> None:
    tree, out = emitted
    log = log_of(out)
    for file in log["files"]:
        if file["status"] == "added":
            continue
        path = file["path"]
        ranges = [e["after"] for e in log["changes"] if e["path"] == path]
        matcher = difflib.SequenceMatcher(
            None, lines_of(tree, path), lines_of(out, path), autojunk=False
        )
        for tag, _, _, start, stop in matcher.get_opcodes():
            if tag == "equal":
                continue
            assert any(r["line"] <= stop and start <= r["end_line"] for r in ranges), (path, start)


def test_left_alone(emitted: tuple[Path, Path]) -> None:
    left = log_of(emitted[1])["left_alone"]
    kinds = {(e["kind"], e["path"]) for e in left}
    assert ("manual", "vllm/manual.py") in kinds
    assert ("failed", "vllm/broken.py") in kinds
    assert ("link", "link") in kinds
    assert ("skipped", "vllm/v1/attention/backends/flashinfer.py") in kinds
    assert all(e["reason"] for e in left)


def test_summary_says_what_the_log_says(emitted: tuple[Path, Path]) -> None:
    out = emitted[1]
    log = log_of(out)
    text = (out / "MIGRATION.md").read_text(encoding="utf-8")
    assert text.startswith("# NPU migration of vLLM 0.11.0\n")
    assert f"{len(log['changes'])} changes in {len(log['files'])} files." in text
    for entry in log["changes"]:
        before = f"{entry['before']['line']} → " if entry["before"] else "new, "
        assert f"`{entry['path']}:{before}{entry['after']['line']}`" in text
        assert entry["reason"] in text
    for entry in log["left_alone"]:
        assert entry["reason"] in text
    for entry in log["absent"]:
        assert f"- {entry['rule']} `{entry['site']}` (releases {entry['releases']})" in text
    for rule in log["rules"]:
        row = next(line for line in text.splitlines() if line.startswith(f"| {rule['code']} "))
        assert row.endswith(
            f"| {rule['changed']} | {rule['migrated']} | {rule['skipped']} | {rule['manual']} |"
        )
        assert row.count("|") == 8
    assert "\n\n\n" not in text
    assert not re.search(r"(?<!`)<module>", text), "raw HTML would not be shown"


def test_no_time_no_absolute_path_no_name(tmp_path: Path, run_cli: RunCli) -> None:
    for name in ("one", "another"):
        copy_mini(tmp_path / name / f"tree-{name}")
        done = run_cli("apply", tmp_path / name / f"tree-{name}", "--select", SELECT)
        assert done.code == 0, done.err
    one = snapshot(tmp_path / "one/tree-one-npu")
    assert one == snapshot(tmp_path / "another/tree-another-npu")
    for name in (LOG_NAME, "MIGRATION.md"):
        data = one[name][1]
        assert isinstance(data, bytes)
        assert str(tmp_path).encode() not in data
        assert b"tree-one" not in data


def test_second_run_keeps_the_log(emitted: tuple[Path, Path], run_cli: RunCli) -> None:
    out = emitted[1]
    before = snapshot(out)
    again = run_cli("apply", out, "--in-place", "--force", "--select", SELECT)
    assert again.code == 1  # a person still has to look at two files
    assert snapshot(out) == before


PARTS = [
    ["NPU110", "NPU101,NPU102", "NPU103,NPU12,NPU13,NPU302"],
    ["NPU302", "NPU12", "NPU10", "NPU1"],
    ["NPU103", "NPU110", "NPU130"],
]


@pytest.mark.usefixtures("kept_results")
@pytest.mark.parametrize("parts", PARTS, ids=lambda parts: " then ".join(parts))
def test_partial_runs_merge(tmp_path: Path, run_cli: RunCli, parts: list[str]) -> None:
    tree = copy_mini(tmp_path / "mini", ODD_FILES)
    pristine = copy_mini(tmp_path / "pristine", ODD_FILES)
    for part in parts:
        done = run_cli("apply", tree, "--in-place", "--force", "--select", part)
        assert done.code == 0, done.err
    whole = ",".join(parts)
    assert run_cli("apply", pristine, "--select", whole).code == 0
    out = tmp_path / "pristine-npu"
    merged, at_once = log_of(tree), log_of(out)
    own = {LOG_NAME, "MIGRATION.md"}
    code = {p: v for p, v in snapshot(tree).items() if p not in own}
    assert code == {p: v for p, v in snapshot(out).items() if p not in own}
    assert merged["files"] == at_once["files"]

    def where(entries: list[dict[str, Any]]) -> list[Any]:
        return sorted((e["path"], e["rule"], e["site"], e["after"]["line"]) for e in entries)

    assert where(merged["changes"]) == where(at_once["changes"])
    counts = {r["code"]: (r["changed"], r["migrated"], r["skipped"]) for r in merged["rules"]}
    for rule in at_once["rules"]:
        if rule["changed"] or rule["skipped"]:
            assert counts[rule["code"]] == (rule["changed"], rule["migrated"], rule["skipped"])
    assert merged["left_alone"] == at_once["left_alone"]
    assert merged["absent"] == at_once["absent"]
    jsonschema.validate(merged, json.loads(schema()))
    text = (tree / "MIGRATION.md").read_text(encoding="utf-8")
    for entry in merged["changes"]:
        assert f"## {entry['rule']} " in text


def test_an_added_file_that_grows_is_one_entry(tmp_path: Path, run_cli: RunCli) -> None:
    """An older tool added a shorter file; this one replaces it, and the log still says added."""
    tree = copy_mini(tmp_path / "mini")
    assert run_cli("apply", tree, "--select", "NPU302").code == 0
    out = tmp_path / "mini-npu"
    older = b"# SPDX-License-Identifier: Apache-2.0\n"
    (out / "vllm/accelerator.py").write_bytes(older)
    log = log_of(out)
    log["files"][0]["after"] = digest(older)
    log["changes"][0]["after"] = {"line": 1, "end_line": 1}
    (out / LOG_NAME).write_text(json.dumps(log), encoding="utf-8")
    done = run_cli("apply", out, "--in-place", "--force", "--select", "NPU302")
    assert done.code == 0, done.err
    log = log_of(out)
    lines = len(lines_of(out, "vllm/accelerator.py")) - 1
    assert lines > 1
    assert [(e["status"], e["before"]) for e in log["files"]] == [("added", None)]
    assert [(e["before"], e["after"]) for e in log["changes"]] == [
        (None, {"line": 1, "end_line": lines})
    ]


def test_an_added_file_that_was_edited_is_kept(tmp_path: Path, run_cli: RunCli) -> None:
    tree = copy_mini(tmp_path / "mini")
    run_cli("apply", tree, "--select", "NPU302")
    mine = tmp_path / "mini-npu/vllm/accelerator.py"
    mine.write_bytes(mine.read_bytes() + b"# mine\n")
    done = run_cli("apply", mine.parents[1], "--in-place", "--force", "--select", "NPU302")
    assert done.code == 0
    assert mine.read_bytes().endswith(b"# mine\n")


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b'{"schema_version": 2}', b"\xff"], ids=repr)
def test_a_log_that_is_none(tmp_path: Path, run_cli: RunCli, data: bytes) -> None:
    tree = copy_mini(tmp_path / "mini", {LOG_NAME: data})
    before = snapshot(tree)
    done = run_cli("apply", tree, "--in-place", "--force", "-q", "--select", SELECT)
    assert done.code == 2
    assert done.err.startswith(f"Error: {LOG_NAME} cannot be read (")
    assert done.err.endswith("; remove it, or migrate from a fresh source\n")
    assert done.err.count("\n") == 1
    assert snapshot(tree) == before


def test_a_summary_of_vllms_own_is_not_overwritten(tmp_path: Path, run_cli: RunCli) -> None:
    tree = copy_mini(tmp_path / "mini", {"MIGRATION.md": b"# From Python 2\n"})
    done = run_cli("apply", tree, "-q", "--select", SELECT)
    assert done.code == 2
    assert "move it away first" in done.err
    assert (tree / "MIGRATION.md").read_bytes() == b"# From Python 2\n"
    assert not (tmp_path / "mini-npu").exists()


def test_reading_gives_back_what_was_written(mini_tree: Path) -> None:
    rules = [rule for rule in all_rules() if rule.code in ("NPU110", "NPU302")]
    log = make_log(make_plan(DiskTree(mini_tree), rules))
    assert log.changes
    assert read_log(msgspec.json.encode(log)) == log


def test_printable() -> None:
    assert printable("vllm/a.py") == "vllm/a.py"
    assert printable("schön") == "schön"
    assert printable("caf\udce9") == "caf\\xe9"


def test_unknown_release_is_said_so(tmp_path: Path, run_cli: RunCli) -> None:
    tree = copy_mini(tmp_path / "mini")
    (tree / "PKG-INFO").unlink()
    done = run_cli("apply", tree, "--select", "NPU120,NPU302")
    assert done.code == 0, done.err
    assert log_of(tmp_path / "mini-npu")["release"] is None
    text = (tmp_path / "mini-npu/MIGRATION.md").read_text(encoding="utf-8")
    assert "(release unknown)" in text.splitlines()[0]
    assert Tree({}).label == Label()
