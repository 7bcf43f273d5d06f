# SPDX-License-Identifier: Apache-2.0
"""`update` of a tree on disk: what is carried over, what is in conflict, and what is refused."""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from migrator.files import sources
from migrator.files.tree import LOG_NAME, SUMMARY_NAME, DiskTree, digest
from migrator.reports.log import read_log, schema
from migrator.updating.lines import has_markers
from tests.conftest import Outcome, RunCli
from tests.trees import SELECT, snapshot
from tests.updating.releases import HAND, edit, edit_by_hand, new_release, old_release, write

OPTIONS = ("--select", SELECT)


@pytest.fixture
def three(tmp_path: Path, run_cli: RunCli, kept_results: None) -> tuple[Path, Path, Path]:
    """The old release, the new one, and the old one adapted."""
    old, new = old_release(tmp_path / "old"), new_release(tmp_path / "new")
    done = run_cli("apply", old, "-o", tmp_path / "tree", *OPTIONS)
    assert done.code == 0, done.err
    return old, new, tmp_path / "tree"


def update(run_cli: RunCli, three: tuple[Path, Path, Path], *more: str | Path) -> Outcome:
    old, new, tree = three
    return run_cli("update", tree, new, "--base", old, *OPTIONS, *more)


def fates(done: Outcome) -> dict[str, str]:
    return {entry["path"]: entry["fate"] for entry in json.loads(done.out)["files"]}


def text_of(tree: Path) -> str:
    return "".join(p.read_text(errors="replace") for p in sorted(tree.rglob("*")) if p.is_file())


def test_without_edits_it_is_a_fresh_migration(
    three: tuple[Path, Path, Path], tmp_path: Path, run_cli: RunCli
) -> None:
    done = update(run_cli, three, "-o", tmp_path / "out")
    assert done.code == 0, done.err
    assert run_cli("apply", three[1], "-o", tmp_path / "fresh", *OPTIONS).code == 0
    fresh, updated = snapshot(tmp_path / "fresh"), snapshot(tmp_path / "out")
    logs = {LOG_NAME: read_log(log_bytes(fresh)), "updated": read_log(log_bytes(updated))}
    assert logs["updated"].by_hand == ()
    assert logs["updated"].updated is not None
    assert logs["updated"].files == logs[LOG_NAME].files
    assert logs["updated"].changes == logs[LOG_NAME].changes
    for tree in (fresh, updated):
        del tree[LOG_NAME]
    assert updated == fresh


def log_bytes(tree: dict[str, Any]) -> bytes:
    data = tree[LOG_NAME][1]
    assert isinstance(data, bytes)
    return data


def test_every_edit_is_carried_over(
    three: tuple[Path, Path, Path], tmp_path: Path, run_cli: RunCli
) -> None:
    tree, out = three[2], tmp_path / "out"
    edit_by_hand(tree)
    before = snapshot(tree)
    done = update(run_cli, three, "-o", out, "--format", "json")
    assert done.code == 0, done.err
    assert snapshot(tree) == before
    text = text_of(out)
    assert all(text.count(line) == 1 for line in HAND)
    found = fates(done)
    assert found["vllm/_custom_ops.py"] == "merged"
    assert found["vllm/accelerator.py"] == "kept"
    assert found["vllm/utils.py"] == "merged"
    assert found["vllm/mine.py"] == "added by hand"
    assert found["vllm/v1/my_guards.py"] == "renamed by hand"
    assert found["vllm/there/moving.py"] == "merged"
    assert found["vllm/dropped.py"] == "deleted upstream"
    assert found["vllm/fresh.py"] == "added upstream"
    assert found["vllm/quiet.py"] == "updated"
    for gone in ("vllm/v1/guards.py", "vllm/moving.py", "vllm/dropped.py", "vllm/also_dropped.py"):
        assert not (out / gone).exists()
    assert "return (a + b - 1) // b" in (out / "vllm/utils.py").read_text(encoding="utf-8")
    assert "contiguous, always" in (out / "vllm/_custom_ops.py").read_text(encoding="utf-8")
    assert run_cli("check", out, "-q", "--select", "NPU102").code == 0


def test_the_log_tells_what_is_by_hand(
    three: tuple[Path, Path, Path], tmp_path: Path, run_cli: RunCli
) -> None:
    edit_by_hand(three[2])
    assert update(run_cli, three, "-o", tmp_path / "out").code == 0
    data = (tmp_path / "out" / LOG_NAME).read_bytes()
    jsonschema.validate(json.loads(data), json.loads(schema()))
    log = read_log(data)
    kinds = {entry.path: (entry.kind, entry.was) for entry in log.by_hand}
    assert kinds["vllm/_custom_ops.py"] == ("merged", None)
    assert kinds["vllm/v1/my_guards.py"] == ("renamed", "vllm/v1/guards.py")
    assert log.release == "0.11.1"
    assert log.updated is not None
    assert log.updated.release == "0.11.0"
    summary = (tmp_path / "out" / SUMMARY_NAME).read_text(encoding="utf-8")
    assert "## By hand" in summary
    assert "- `vllm/v1/my_guards.py` (was `vllm/v1/guards.py`): renamed" in summary
    for entry in log.changes:
        lines = (tmp_path / "out" / entry.path).read_text(encoding="utf-8").split("\n")
        new = "\n".join(lines[entry.after.line - 1 : entry.after.end_line])
        assert re.search(r"npu|device\.type|dist_backend|accelerator", new), entry
    emitted = {entry.path: entry.after for entry in log.files}
    edited = tmp_path / "out/vllm/accelerator.py"
    assert emitted["vllm/accelerator.py"] != digest(edited.read_bytes()), (
        "the tool's, not the hand's"
    )


@pytest.mark.parametrize("edited", [False, True])
def test_twice_changes_nothing(
    three: tuple[Path, Path, Path], tmp_path: Path, run_cli: RunCli, edited: bool
) -> None:
    _, new, tree = three
    if edited:
        edit_by_hand(tree)
    assert update(run_cli, three, "--in-place", "--force").code == 0
    before = snapshot(tree)
    again = run_cli("update", tree, new, "--in-place", "--force", *OPTIONS)
    assert again.code == 0, again.err
    assert "Nothing to do" in again.err
    assert snapshot(tree) == before


def test_edits_survive_a_chain_of_releases(
    three: tuple[Path, Path, Path], tmp_path: Path, run_cli: RunCli
) -> None:
    _, new, tree = three
    edit_by_hand(tree)
    assert update(run_cli, three, "--in-place", "--force").code == 0
    third = new_release(tmp_path / "third")
    pkg_info = b"Metadata-Version: 2.4\nName: vllm\nVersion: 0.11.2\n"
    write(third, {"PKG-INFO": pkg_info, "vllm/fresh.py": b"FRESH = 2\n"})
    edit(third / "vllm/utils.py", ('return os.path.expanduser("~")', 'return "/"'))
    done = run_cli("update", tree, third, "--base", new, "--in-place", "--force", *OPTIONS)
    assert done.code == 0, done.err
    assert all(text_of(tree).count(line) == 1 for line in HAND)
    assert 'return "/"' in (tree / "vllm/utils.py").read_text(encoding="utf-8")


def test_conflicts(three: tuple[Path, Path, Path], tmp_path: Path, run_cli: RunCli) -> None:
    _, new, tree = three
    edit(tree / "vllm/utils.py", ("return -(a // -b)", "return mine(a, b)"))
    edit(tree / "vllm/dropped.py", ("return 1", "return mine()"))
    write(tree, {"data.bin": b"\0mine", "vllm/quiet.py": None, "vllm/fresh.py": b"MINE = 1\n"})
    done = update(run_cli, three, "-o", tmp_path / "out", "--format", "json")
    assert done.code == 1
    found = {e["path"]: e for e in json.loads(done.out)["files"] if e["fate"] == "conflict"}
    assert set(found) == {
        "vllm/utils.py",
        "vllm/dropped.py",
        "data.bin",
        "vllm/quiet.py",
        "vllm/fresh.py",
    }
    out = tmp_path / "out"
    for path, entry in found.items():
        assert entry["marked"] == has_markers((out / path).read_bytes())
    assert (out / "data.bin").read_bytes() == b"\0mine"
    assert "return mine()" in (out / "vllm/dropped.py").read_text(encoding="utf-8")
    assert "return 2" in (out / "vllm/quiet.py").read_text(encoding="utf-8")
    assert "5 files are in conflict" in done.err
    again = run_cli("update", out, new, "--in-place", "--force", *OPTIONS)
    assert again.code == 2
    assert again.err.count("\n") == 1
    assert "has conflicts in vllm/fresh.py, vllm/utils.py; resolve them first" in again.err
    for path in ("vllm/utils.py", "vllm/fresh.py"):
        (out / path).write_text("RESOLVED = 1\n", encoding="utf-8")
    before = snapshot(out)
    last = run_cli("update", out, new, "--in-place", "--force", *OPTIONS)
    assert (last.code, snapshot(out)) == (0, before), last.err


def test_diff3(three: tuple[Path, Path, Path], tmp_path: Path, run_cli: RunCli) -> None:
    edit(three[2] / "vllm/utils.py", ("return -(a // -b)", "return mine(a, b)"))
    assert update(run_cli, three, "-o", tmp_path / "out", "--diff3").code == 1
    text = (tmp_path / "out/vllm/utils.py").read_text(encoding="utf-8")
    assert "||||||| base\n    return -(a // -b)\n=======\n" in text


def test_links_modes_and_directories(
    three: tuple[Path, Path, Path], tmp_path: Path, run_cli: RunCli
) -> None:
    _, new, tree = three
    (tree / "mine").symlink_to("vllm")
    (tree / "tools/run.sh").chmod(0o644)
    (new / "theirs").symlink_to("docs")
    (new / "docs/notes.md").chmod(0o755)
    write(tree, {"place": b"a file of mine\n", "spot/inside": b"mine\n"})
    write(new, {"place/inside": b"upstream\n", "spot": b"a file upstream\n"})
    done = update(run_cli, three, "-o", tmp_path / "out")
    assert done.code == 1
    out = snapshot(tmp_path / "out")
    assert out["mine"] == (0o777, "vllm")
    assert out["theirs"] == (0o777, "docs")
    assert out["tools/run.sh"][0] & 0o100 == 0
    assert out["docs/notes.md"][0] & 0o100
    assert out["place.ours"][1] == b"a file of mine\n"
    assert out["place/inside"][1] == b"upstream\n"
    assert out["spot.theirs"][1] == b"a file upstream\n"
    assert out["spot/inside"][1] == b"mine\n"


def test_summary_that_was_edited(
    three: tuple[Path, Path, Path], tmp_path: Path, run_cli: RunCli
) -> None:
    assert update(run_cli, three, "-o", tmp_path / "unedited").code == 0
    log = read_log((tmp_path / "unedited" / LOG_NAME).read_bytes())
    assert log.summary == digest((tmp_path / "unedited" / SUMMARY_NAME).read_bytes())
    place = three[2] / SUMMARY_NAME
    place.write_text(place.read_text(encoding="utf-8") + "\nMy own words.\n", encoding="utf-8")
    update(run_cli, three, "-o", tmp_path / "out")
    summary = (tmp_path / "out" / SUMMARY_NAME).read_text(encoding="utf-8")
    assert "My own words." in summary
    assert "0.11.1" in summary


def test_a_release_by_name(
    three: tuple[Path, Path, Path], tmp_path: Path, run_cli: RunCli, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without --base, the recorded release is fetched; it has to be the one of the tree."""
    old, new, tree = three
    asked: list[str] = []
    names = {"0.11.0": old, "0.11.1": new}

    def fetch(version: str) -> Path:
        asked.append(version)
        return names[version]

    monkeypatch.setattr(sources, "fetch", fetch)
    edit_by_hand(tree)
    done = run_cli("update", tree, "vllm==0.11.1", "-o", tmp_path / "out", *OPTIONS)
    assert done.code == 0, done.err
    assert asked[:2] == ["0.11.1", "0.11.0"]
    assert all(text_of(tmp_path / "out").count(line) == 1 for line in HAND)
    names["0.11.0"] = tmp_path / "elsewhere"
    shutil.copytree(old, tmp_path / "elsewhere")
    for place in (tmp_path / "elsewhere").rglob("*.py"):
        place.write_bytes(b"# another release\n")
    done = run_cli("update", tree, "vllm==0.11.1", "-o", tmp_path / "out2", *OPTIONS)
    assert done.code == 2
    assert "but its files are others; name what" in done.err
    assert "--base" in done.err
    assert done.err.count("\n") == 1


def test_new_rules_come_with_the_same_release(
    tmp_path: Path, run_cli: RunCli, three: tuple[Path, Path, Path]
) -> None:
    """An update to the release that the tree has already brings what today's rules do."""
    old = three[0]
    tree = tmp_path / "part"
    assert run_cli("apply", old, "-o", tree, "--select", "NPU102").code == 0
    edit(tree / "vllm/utils.py", ("    return ((x", f"    {HAND[2]}\n    return ((x"))
    done = run_cli("update", tree, old, "--base", old, "--in-place", "--force", *OPTIONS)
    assert done.code == 0, done.err
    assert run_cli("check", tree, "-q", *OPTIONS).code == 0
    assert HAND[2] in (tree / "vllm/utils.py").read_text(encoding="utf-8")


def test_edits_before_a_second_apply_are_by_hand(
    tmp_path: Path, run_cli: RunCli, three: tuple[Path, Path, Path]
) -> None:
    """A run over an edited file records a hash of what is not the tool's alone."""
    old, new, _ = three
    tree = tmp_path / "part"
    assert run_cli("apply", old, "-o", tree, "--select", "NPU102").code == 0
    marked = "    # Rows have to be contiguous.\n    MINE = 1\n"
    edit(tree / "vllm/_custom_ops.py", ("    # Rows have to be contiguous.\n", marked))
    assert run_cli("apply", tree, "--in-place", "--force", *OPTIONS).code == 0
    log = read_log((tree / LOG_NAME).read_bytes())
    assert [entry.path for entry in log.files if entry.edited] == ["vllm/_custom_ops.py"]
    done = run_cli("update", tree, new, "--base", old, "-o", tmp_path / "out", *OPTIONS)
    assert "MINE = 1" in (tmp_path / "out/vllm/_custom_ops.py").read_text(encoding="utf-8"), done


def test_what_the_rules_wrote_then_is_not_what_they_write_now(
    three: tuple[Path, Path, Path], tmp_path: Path, run_cli: RunCli
) -> None:
    """An older rule's output is replaced where nobody touched it; elsewhere nothing is lost."""
    _, _, tree = three
    for path, by_hand in (("vllm/v1/guards.py", ""), ("vllm/accelerator.py", "MINE = 1\n")):
        place = tree / path
        older = place.read_text(encoding="utf-8") + "\n\nOLD_RULE = 1\n"
        log = json.loads((tree / LOG_NAME).read_bytes())
        for entry in log["files"]:
            if entry["path"] == path:
                entry["after"] = digest(older.encode())
        (tree / LOG_NAME).write_text(json.dumps(log), encoding="utf-8")
        place.write_text(older + by_hand, encoding="utf-8")
    done = update(run_cli, three, "-o", tmp_path / "out", "--format", "json")
    assert json.loads(done.out)["unsure"] == ["vllm/accelerator.py"]
    assert "is not known for sure" in done.err
    assert "OLD_RULE" not in (tmp_path / "out/vllm/v1/guards.py").read_text(encoding="utf-8")
    assert "MINE = 1" in (tmp_path / "out/vllm/accelerator.py").read_text(encoding="utf-8")


def test_refusals(three: tuple[Path, Path, Path], tmp_path: Path, run_cli: RunCli) -> None:
    old, new, tree = three
    (tmp_path / "full").mkdir()
    (tmp_path / "full/x").write_bytes(b"")
    for arguments, part in (
        ((old, new), "has no migration-log.json; only a tree made by apply is updated"),
        ((tree, "nonsense"), "is neither a directory nor a release"),
        ((tree, new, "--base", tmp_path / "full"), "is not a vLLM source tree"),
        ((tree, new, "--base", old, "-o", tree), "the output is the tree itself"),
        ((tree, new, "--base", old, "-o", tree / "x"), "lie within each other"),
        ((tree, new, "--base", old, "-o", tmp_path / "full"), "is there; choose another -o"),
        ((tree, new, "--base", old, "-o", tmp_path / "full", "--force"), "was not made by this"),
        ((tree, new, "--in-place", "-o", "x"), "exclude each other"),
        ((tree, new, "--in-place", "--base", old), "is no git checkout"),
        ((tree, new, "--commit", "--base", old), "no git checkout has the files of"),
    ):
        before = snapshot(tmp_path)
        done = run_cli("update", *arguments, "-q", *OPTIONS)
        assert done.code == 2, (arguments, done)
        assert part in done.err
        assert done.err.count("\n") == 1, done.err
        assert snapshot(tmp_path) == before


def test_a_dry_run_writes_nothing(
    three: tuple[Path, Path, Path], tmp_path: Path, run_cli: RunCli
) -> None:
    edit_by_hand(three[2])
    before = snapshot(tmp_path)
    done = update(run_cli, three, "--in-place", "--dry-run")
    assert done.code == 0, done.err
    assert "Nothing was written." in done.err
    assert snapshot(tmp_path) == before


def test_a_file_that_cannot_be_read_is_not_taken_for_deleted(
    three: tuple[Path, Path, Path], run_cli: RunCli, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = DiskTree.read

    def read(self: DiskTree, path: str) -> bytes | None:
        return None if path == "docs/notes.md" and self.root == three[2] else plain(self, path)

    monkeypatch.setattr(DiskTree, "read", read)
    before = snapshot(three[2])
    done = update(run_cli, three, "--in-place", "--force", "-q")
    assert done.code == 2
    assert "docs/notes.md in tree cannot be read" in done.err
    assert snapshot(three[2]) == before


def test_names_that_are_no_text(
    three: tuple[Path, Path, Path], tmp_path: Path, run_cli: RunCli
) -> None:
    name = os.fsdecode(b"docs/\xff.md")
    for tree, data in ((three[1], b"upstream\n"), (three[2], b"upstream\n")):
        write(tree, {name: data})
    os.symlink(os.fsdecode(b"\xfe"), three[1] / "odd")
    done = update(run_cli, three, "-o", tmp_path / "out", "--format", "json")
    assert done.code == 0, done.err
    assert (tmp_path / "out" / name).read_bytes() == b"upstream\n"
    assert os.readlink(tmp_path / "out/odd") == os.fsdecode(b"\xfe")
