# SPDX-License-Identifier: Apache-2.0
"""Whatever two files hold, `git apply` takes the patch between them and yields the second."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from migrator.files.changes import FileChange
from migrator.reports.patch import unified_patch
from tests.trees import git, snapshot

LINES = st.sampled_from(
    [
        *(b"a\n", b"b\n", b"\n", b" \n", b"\t\n", b"c\r\n", b"\r\n", b"\r", b"\x0c\n", b"\0\n"),
        *(b"-- \n", b"+++ x\n", b"--- y\n", b"@@ -1 +1 @@\n", b"diff --git a/x b/x\n"),
        *(b"\\ No newline at end of file\n", b"GIT binary patch\n", b"\xff\xfe\n"),
        *(b"\xef\xbb\xbf", "\u2028é\n".encode()),
    ]
)
CONTENT = st.one_of(
    st.lists(LINES, max_size=30).map(b"".join),
    st.binary(max_size=60),
    st.tuples(
        st.lists(LINES, max_size=12).map(b"".join), st.sampled_from([b"", b"end", b"x\r"])
    ).map(b"".join),
)
NAME = st.text(
    st.characters(codec="utf-8", exclude_characters="/\0"), min_size=1, max_size=12
).filter(lambda name: name not in (".", "..") and name.lower() != ".git")


def apply(changes: list[FileChange]) -> dict[str, bytes | str]:
    """What `git apply` makes of the files before; the modes of new files are checked here."""
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        for change in changes:
            if change.before is not None:
                (root / change.path).parent.mkdir(parents=True, exist_ok=True)
                (root / change.path).write_bytes(change.before)
        patch = unified_patch(changes)
        if patch:
            git(root, "apply", "--whitespace=nowarn", "-", stdin=patch)
        found = snapshot(root)
        for change in changes:
            if change.before is None:
                assert bool(found[change.path][0] & 0o100) == bool(change.mode & 0o100)
        return {path: data for path, (_, data) in found.items()}


def assert_applies(*changes: FileChange) -> None:
    assert apply(list(changes)) == {change.path: change.after for change in changes}


@settings(max_examples=120, suppress_health_check=list(HealthCheck))
@given(before=st.none() | CONTENT, after=CONTENT)
def test_any_two_files(before: bytes | None, after: bytes) -> None:
    assert_applies(FileChange("vllm/x.py", before, after))


@settings(max_examples=60, suppress_health_check=list(HealthCheck))
@given(edits=st.lists(st.tuples(st.integers(0, 199), LINES), max_size=6))
def test_edits_far_apart(edits: list[tuple[int, bytes]]) -> None:
    """Several hunks, whose line numbers depend on each other."""
    lines = [b"line %d\n" % n for n in range(200)]
    changed = list(lines)
    for place, text in sorted(edits, reverse=True):
        changed[place : place + len(text) % 3] = [text]
    assert_applies(FileChange("vllm/x.py", b"".join(lines), b"".join(changed)))


@settings(max_examples=40, suppress_health_check=list(HealthCheck))
@given(name=NAME, directory=NAME, new=st.booleans())
def test_any_name(name: str, directory: str, new: bool) -> None:
    path = f"{directory}/{name}"
    assert_applies(FileChange(path, None if new else b"old\n", b"new\n"))


@pytest.mark.parametrize(
    "name",
    [
        *("a b", " a", "a ", "tab\tx", "a\t", "new\nline", "a\r", 'quo"te', "back\\slash", "é"),
        *("\x7f", "\x01", os.fsdecode(b"\xff\xfe.py"), "-dash", "b/x", "{x => y}", "dev/null"),
    ],
)
@pytest.mark.parametrize("new", [True, False])
def test_odd_name(name: str, new: bool) -> None:
    assert_applies(FileChange(f"vllm/{name}", None if new else b"old\n", b"new\n"))


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (None, b""),
        (None, b"x"),
        (None, b"\r"),
        (b"", b"x\n"),
        (b"x\n", b""),
        (b"x", b"x\n"),
        (b"x\n", b"x"),
        (b"x", b"y"),
        (b"x\r\n", b"x\n"),
        (b"\r\n" * 5, b"\n" * 5),
        (b"a\n" * 300, b"a\n" * 150 + b"b\n" + b"a\n" * 150),
        (b"same\n", b"same\n"),
    ],
)
def test_edges(before: bytes | None, after: bytes) -> None:
    assert_applies(FileChange("x", before, after))


def test_many_files_and_modes() -> None:
    assert_applies(
        FileChange("MIGRATION.md", None, b"# x\n"),
        FileChange("tools/run.sh", None, b"#!/bin/sh\n", 0o755),
        FileChange("vllm/a.py", b"a\n", b"b\n"),
        FileChange("vllm/b/c.py", b"a\n" * 9, b"a\n" * 8),
    )


def test_nothing() -> None:
    assert unified_patch([]) == b""


def test_a_long_file_is_quick() -> None:
    before = b"".join(b"\n" if n % 3 else b"line %d\n" % n for n in range(40_000))
    after = before.replace(b"line 300\n", b"line x\n")
    patch = unified_patch([FileChange("x", before, after)])
    assert patch.count(b"\n+") <= 3
    assert len(patch) < 400
