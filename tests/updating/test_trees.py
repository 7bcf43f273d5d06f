# SPDX-License-Identifier: Apache-2.0
"""Merging whole trees: renames on either side, what is nobody's, and what holds for any edits."""

from __future__ import annotations

from collections.abc import Mapping

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from migrator.files.tree import Tree
from migrator.updating import structure
from migrator.updating.lines import has_markers
from migrator.updating.trees import Fate, Item, TreeMerge, Version, find_renames, merge_trees

Files = Mapping[str, str]

LONG = "".join(f"line_{n} = {n}\n" for n in range(12))
OTHER = "".join(f"other_{n} = 'x{n}'\n" for n in range(12))


def version(files: Files) -> Version:
    return Version(Tree({path: text.encode() for path, text in files.items()}))


def merge(base: Files, ours: Files, theirs: Files) -> tuple[TreeMerge, dict[str, str]]:
    mine = version(ours)
    merged = merge_trees(version(base), mine, version(theirs))
    result = dict(ours)
    for path in merged.removals:
        del result[path]
    for path, item in merged.puts.items():
        result[path] = item.data.decode()
    return merged, result


def fates(merged: TreeMerge) -> dict[str, Fate]:
    return {outcome.path: outcome.fate for outcome in merged.outcomes}


def test_renamed_differently_on_both_sides() -> None:
    merged, result = merge({"a.py": LONG}, {"mine.py": LONG}, {"theirs.py": LONG})
    assert result == {"mine.py": LONG}
    assert fates(merged) == {"mine.py": Fate.CONFLICT}
    assert "renamed upstream to theirs.py" in merged.outcomes[0].reason


def test_renamed_alike_on_both_sides() -> None:
    ours, theirs = LONG.replace("= 3", "= 30"), LONG.replace("= 9", "= 90")
    merged, result = merge({"a.py": LONG}, {"b.py": ours}, {"b.py": theirs})
    assert result == {"b.py": ours.replace("= 9", "= 90")}
    assert fates(merged) == {"b.py": Fate.MERGED}


def test_renamed_by_hand_and_deleted_upstream() -> None:
    merged, result = merge({"a.py": LONG}, {"b.py": LONG}, {})
    assert result == {"b.py": LONG}
    assert fates(merged) == {"b.py": Fate.CONFLICT}


def test_renamed_upstream_and_deleted_by_hand() -> None:
    merged, result = merge({"a.py": LONG}, {}, {"b.py": LONG})
    assert result == {}
    assert fates(merged) == {"a.py": Fate.DELETED_BY_HAND}
    merged, result = merge({"a.py": LONG}, {}, {"b.py": LONG + "more = 1\n"})
    assert result == {"b.py": LONG + "more = 1\n"}
    assert fates(merged) == {"b.py": Fate.CONFLICT}


def test_a_rename_onto_a_new_file() -> None:
    merged, result = merge({"a.py": LONG}, {"b.py": LONG}, {"a.py": LONG, "b.py": OTHER})
    assert fates(merged) == {"b.py": Fate.CONFLICT}
    for line in (LONG + OTHER).splitlines():
        assert line in result["b.py"]
    assert has_markers(result["b.py"].encode())


def test_deleted_by_both_is_nothing_to_say() -> None:
    assert merge({"a.py": LONG}, {}, {}) == (TreeMerge(), {})


def test_what_packaging_writes_is_never_merged() -> None:
    base = {"PKG-INFO": "1\n", "vllm/_version.py": "v = 1\n", "vllm.egg-info/SOURCES.txt": "a\n"}
    ours = {"PKG-INFO": "mine\n", "vllm/_version.py": "v = 'mine'\n"}
    theirs = {path: text.replace("1", "2") for path, text in base.items()}
    merged, result = merge(base, ours, theirs)
    assert result == theirs
    assert not merged.conflicts
    merged, result = merge({}, ours, {})
    assert result == ours


def test_renames_prefer_the_name_and_the_place() -> None:
    old = version({"x/a.py": LONG, "y/a.py": LONG, "z/b.py": OTHER, "tiny.py": "x = 1\n"})
    new = version({"new/x/a.py": LONG, "new/y/a.py": LONG, "z/c.py": OTHER, "small.py": "x = 1\n"})
    assert find_renames(old, new) == {
        "x/a.py": "new/x/a.py",
        "y/a.py": "new/y/a.py",
        "z/b.py": "z/c.py",
    }


def test_a_file_that_became_another_is_no_rename() -> None:
    assert find_renames(version({"a.py": LONG}), version({"b.py": OTHER})) == {}


def test_executables() -> None:
    def one(mode: int, data: bytes = b"x\n") -> Version:
        made = Version(Tree({}))
        made.put("tool", data, mode)
        return made

    assert merge_trees(one(0o644), one(0o755), one(0o644)).puts == {}
    assert merge_trees(one(0o644), one(0o644), one(0o755)).puts["tool"].mode == 0o755
    merged = merge_trees(one(0o644), one(0o755), one(0o644, b"y\n"))
    assert merged.puts["tool"] == Item(b"y\n", 0o755)
    # Other bits are nobody's edit: archives and checkouts have their own.
    assert merge_trees(one(0o644), one(0o600), one(0o664)).puts == {}


# ---- any edits -----------------------------------------------------------------------------

PATHS = ["a.py", "b.py", "d/c.py", "d/e.py", "notes.txt"]
PARTS = [
    "import os\n",
    "from a import one, two\n",
    "\n\ndef f(x):\n    y = x\n    return y\n",
    "\n\ndef g(x):\n    if x:\n        return 1\n    return 2\n",
    "\n\nclass K:\n    def m(self):\n        return 3\n\n    def n(self):\n        return 4\n",
    "\n\nTABLE = {\n    'a': 1,\n    'b': 2,\n}\n",
]


@st.composite
def trees(draw: st.DrawFn) -> dict[str, str]:
    chosen = draw(st.lists(st.sampled_from(PATHS), min_size=1, unique=True))
    pick = st.lists(st.sampled_from(PARTS), min_size=1, max_size=4, unique=True)
    # The first line makes files differ, as real ones do.
    return {path: f"# {path} {'-' * 80}\n" + "".join(draw(pick)) for path in sorted(chosen)}


@st.composite
def edits(draw: st.DrawFn, base: Files, mark: str) -> dict[str, str]:
    """The tree with files edited, added, deleted and renamed; added lines carry the mark."""
    files = dict(base)
    for number in range(draw(st.integers(0, 4))):
        path = draw(st.sampled_from(sorted(files))) if files else None
        what = draw(st.sampled_from(["line", "line", "def", "cut", "delete", "rename", "add"]))
        if what == "add" or path is None:
            new = draw(st.sampled_from(["new.py", "d/new.py", "a.py/in.py", "d", "a.py"]))
            if new not in files:
                files[new] = f"{mark}_{number} = 1\n"
        elif what == "delete":
            del files[path]
        elif what == "rename":
            new = draw(st.sampled_from(["moved.py", "d/moved.py", "z/a.py"]))
            if new not in files:
                files[new] = files.pop(path)
        else:
            lines = files[path].split("\n")
            at = draw(st.integers(0, len(lines) - 1))
            indent = lines[at][: len(lines[at]) - len(lines[at].lstrip())]
            if what == "line":
                lines.insert(at, f"{indent}{mark}_{number} = {at}")
            elif what == "def":
                lines[at:at] = [f"{indent}def {mark}_{number}():", f"{indent}    return {at}"]
            else:
                del lines[at]
            files[path] = "\n".join(lines)
    return files if consistent(files) else dict(base)


def consistent(files: Files) -> bool:
    """Is no file where another one has its directory?"""
    return not any(other.startswith(f"{path}/") for path in files for other in files)


@st.composite
def versions(draw: st.DrawFn) -> tuple[Files, Files, Files]:
    base = draw(trees())
    return base, draw(edits(base, "ours")), draw(edits(base, "theirs"))


def parses(text: str) -> bool:
    return structure.parse(text.encode()) is not None


@settings(max_examples=150)
@given(versions())
def test_nothing_is_lost(three: tuple[Files, Files, Files]) -> None:
    nothing_is_lost(three)


@pytest.mark.slow
@settings(max_examples=3000)
@given(versions())
def test_nothing_is_lost_often(three: tuple[Files, Files, Files]) -> None:
    nothing_is_lost(three)


def nothing_is_lost(three: tuple[Files, Files, Files]) -> None:
    """Show 5: hand-added lines are there, and what does not parse is named as a conflict."""
    base, ours, theirs = three
    merged, result = merge(base, ours, theirs)
    assert consistent(result)
    shown = {line.strip() for text in result.values() for line in text.split("\n")}
    for side, mark in ((ours, "ours_"), (theirs, "theirs_")):
        for path, text in side.items():
            for line in text.split("\n"):
                assert mark not in line or line.strip() in shown, (path, line, result)
    in_conflict = {outcome.path for outcome in merged.conflicts}
    alone = {outcome.path for outcome in merged.of(Fate.ADDED_BY_HAND)}
    before = {*ours.values(), *theirs.values()}
    for path, text in result.items():
        if path.endswith(".py") and not parses(text) and path not in in_conflict:
            assert text in before, f"{path} was made unparsable, and is not named"
        assert not has_markers(text.encode()) or path in in_conflict
    for path, text in ours.items():
        edited = base.get(path) != text
        if edited and path.endswith(".py") and not parses(text) and path in result:
            taken = result[path] in theirs.values()
            # The engineer's own file is the engineer's own affair.
            assert parses(result[path]) or path in in_conflict or taken or path in alone


def test_a_file_of_ones_own_that_does_not_parse_is_left_alone() -> None:
    base = {"a.py": f"# a.py {'-' * 80}\nimport os\n"}
    ours = {"new.py": "    return 0\nours_1 = 1\n"}
    nothing_is_lost((base, ours, base))
    merged, result = merge(base, ours, base)
    assert result == ours
    assert fates(merged)["new.py"] is Fate.ADDED_BY_HAND


def test_a_conflict_is_named_where_another_file_was_renamed_to_the_same_place() -> None:
    moved = f"# a.py {'-' * 80}\nimport os\n"
    notes = f"# notes.txt {'-' * 80}\n\n\ndef f(x):\n    y = x\n    return y\n"
    ours = "ours_2 = 0\n" + notes.replace("    y = x\n", "    ours_1 = 4\n    y = x\n")
    theirs = notes.replace("    y = x\n", "    theirs_1 = 4\n    y = x\n")
    nothing_is_lost(
        (
            {"a.py": moved, "notes.txt": notes},
            {"moved.py": ours},
            {"notes.txt": theirs, "moved.py": moved},
        )
    )


@settings(max_examples=80)
@given(versions())
def test_a_second_update_changes_nothing(three: tuple[Files, Files, Files]) -> None:
    base, ours, theirs = three
    _, result = merge(base, ours, theirs)
    merged, again = merge(theirs, result, theirs)
    assert again == result
    assert not merged.puts
    assert not merged.removals


@settings(max_examples=50)
@given(versions())
def test_without_edits_by_hand_the_next_release_is_taken(
    three: tuple[Files, Files, Files],
) -> None:
    base, _, theirs = three
    merged, result = merge(base, base, theirs)
    assert result == theirs
    assert not merged.conflicts


@settings(max_examples=50)
@given(versions())
def test_without_a_change_upstream_the_tree_stays(three: tuple[Files, Files, Files]) -> None:
    base, ours, _ = three
    merged, result = merge(base, ours, base)
    assert result == ours
    assert not merged.puts
    broken = {path for path, text in ours.items() if not parses(text) and base.get(path) != text}
    assert {outcome.path for outcome in merged.conflicts} <= broken


@pytest.mark.parametrize("text", ["", "x = 1\n"])
def test_small_files_are_not_taken_for_renamed(text: str) -> None:
    merged, result = merge(
        {"a/__init__.py": text}, {"b/__init__.py": text}, {"a/__init__.py": text}
    )
    assert result == {"b/__init__.py": text}
    assert fates(merged) == {
        "a/__init__.py": Fate.DELETED_BY_HAND,
        "b/__init__.py": Fate.ADDED_BY_HAND,
    }
