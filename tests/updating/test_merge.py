# SPDX-License-Identifier: Apache-2.0
"""Merging one file: by definitions, by names, by lines; and what holds for any three versions."""

from __future__ import annotations

import random
import re
import subprocess
import tempfile
from collections import Counter
from pathlib import Path

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from migrator.updating import structure
from migrator.updating.lines import Clean, Matcher, has_markers, split_lines
from migrator.updating.merge import Merge, is_binary, merge_file, missing_lines

BASE = """\
# SPDX-License-Identifier: Apache-2.0
import os

import torch

from vllm.a import one, two
from vllm.b import three


def first(x):
    a = 1
    b = 2
    return x + a + b


class Layer:
    '''A layer.'''

    size = 4

    def forward(self, x):
        y = x * 2
        return y

    def backward(self, x):
        return x


def last(x):
    return first(x)
"""


def merge(ours: str, theirs: str, base: str | None = BASE, path: str = "vllm/m.py") -> Merge:
    return merge_file(path, None if base is None else base.encode(), ours.encode(), theirs.encode())


def edit(*pairs: tuple[str, str], text: str = BASE) -> str:
    for old, new in pairs:
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    return text


def assert_clean(done: Merge, how: str, *parts: str) -> str:
    text = done.data.decode()
    assert done.conflicts == 0, text
    assert done.how == how
    assert structure.parse(done.data) is not None
    for part in parts:
        assert part in text
    return text


# ---- structure -----------------------------------------------------------------------------


def test_one_side_only() -> None:
    changed = edit(("a = 1", "a = 10"))
    assert merge(changed, BASE) == Merge(changed.encode(), 0, "ours")
    assert merge(BASE, changed) == Merge(changed.encode(), 0, "theirs")
    assert merge(changed, changed) == Merge(changed.encode(), 0, "same")


def test_functions_added_at_the_same_place() -> None:
    ours = edit(("class Layer", "def mine(x):\n    return -x\n\n\nclass Layer"))
    theirs = edit(("class Layer", "def upstream(x):\n    return +x\n\n\nclass Layer"))
    text = assert_clean(merge(ours, theirs), "structure", "def mine(x):", "def upstream(x):")
    assert text.count("\n\n\nclass Layer") == 1


def test_methods_and_attributes_added_at_the_same_place() -> None:
    ours = edit(("    def backward", "    def mine(self):\n        return 1\n\n    def backward"))
    theirs = edit(
        ("    size = 4\n", "    size = 4\n    other = 5\n"),
        ("    def backward", "    def upstream(self):\n        return 2\n\n    def backward"),
    )
    assert_clean(merge(ours, theirs), "structure", "mine", "upstream", "other = 5")


def test_edit_of_a_function_that_moved() -> None:
    body = "def first(x):\n    a = 1\n    b = 2\n    return x + a + b\n\n\n"
    theirs = edit((body, "")) + "\n\n" + body.rstrip("\n") + "\n"
    text = assert_clean(merge(edit(("a = 1", "a = 10")), theirs), "structure", "a = 10")
    assert text.index("class Layer") < text.index("def first")
    assert text.count("def first") == 1


def test_edit_of_a_function_that_was_renamed() -> None:
    theirs = edit(("def first(x)", "def initial(x)"), ("return first(x)", "return initial(x)"))
    text = assert_clean(merge(edit(("a = 1", "a = 10")), theirs), "structure", "def initial(x):")
    assert "    a = 10\n" in text
    assert "def first" not in text


def test_renamed_by_hand_and_edited_upstream() -> None:
    ours = edit(("def first(x)", "def initial(x)"), ("return first(x)", "return initial(x)"))
    text = assert_clean(merge(ours, edit(("a = 1", "a = 10"))), "structure", "def initial(x):")
    assert "    a = 10\n" in text


def test_names_of_one_import() -> None:
    ours = edit(("import one, two", "import mine, one, two"))
    theirs = edit(("import one, two", "import one, two, upstream"))
    assert_clean(merge(ours, theirs), "structure", "from vllm.a import mine, one, two, upstream\n")
    gone = edit(("from vllm.a import one, two\n", "from vllm.a import two\n"))
    assert_clean(merge(ours, gone), "structure", "from vllm.a import mine, two\n")


def test_names_of_a_long_import() -> None:
    base = "from vllm.a import (\n    alpha,\n    gamma,\n)\n\nx = alpha\n"
    done = merge(
        edit(("    gamma,\n", "    beta,\n    gamma,\n"), text=base),
        edit(("    gamma,\n", "    bravo,\n    gamma,\n"), text=base),
        base,
    )
    names = ["alpha", "beta", "bravo", "gamma"]
    listing = "".join(f"    {name},\n" for name in names)
    assert_clean(done, "structure", f"from vllm.a import (\n{listing})\n")


def test_imports_beside_each_other() -> None:
    ours = edit(("import torch\n", "import torch\nimport mine\n"))
    theirs = edit(("import torch\n", "import torch\nimport upstream\n"))
    assert_clean(merge(ours, theirs), "structure", "import mine\n", "import upstream\n")


def test_imports_with_comments_go_by_lines() -> None:
    base = "from vllm.a import one  # noqa\n"
    done = merge("from vllm.a import one, two  # noqa\n", "from vllm.a import zero  # noqa\n", base)
    assert done.conflicts == 1


def test_body_of_type_checking() -> None:
    base = "import torch\n\nif TYPE_CHECKING:\n    import a\n\nx = 1\n"
    ours = edit(("    import a\n", "    import a\n    import mine\n"), text=base)
    theirs = edit(("    import a\n", "    import a\n    import upstream\n"), text=base)
    assert_clean(merge(ours, theirs, base), "structure", "    import mine\n", "    import upstream")


def test_deleted_upstream_and_edited_by_hand() -> None:
    theirs = edit(("    def backward(self, x):\n        return x\n", ""))
    done = merge(edit(("        return x\n", "        return x + 1\n")), theirs)
    assert done.conflicts == 1
    text = done.data.decode()
    assert "<<<<<<< ours\n" in text
    assert "        return x + 1\n=======\n>>>>>>> theirs\n" in text


def test_the_same_lines_of_one_function() -> None:
    done = merge(edit(("a = 1", "a = 10")), edit(("a = 1", "a = 100")))
    assert done.conflicts == 1
    wanted = "<<<<<<< ours\n    a = 10\n=======\n    a = 100\n>>>>>>> theirs\n    b = 2\n"
    assert wanted in done.data.decode()


def test_the_base_can_be_shown() -> None:
    done = merge_file(
        "m.py",
        BASE.encode(),
        edit(("a = 1", "a = 10")).encode(),
        edit(("a = 1", "a = 100")).encode(),
        with_base=True,
    )
    assert b"    a = 10\n||||||| base\n    a = 1\n=======\n    a = 100\n" in done.data


def test_a_definition_that_both_added_elsewhere_is_not_there_twice() -> None:
    mine = "def same(x):\n    return 1\n\n\n"
    done = merge(
        edit(("def first", mine + "def first")),
        edit(("def last", mine.replace("1", "2") + "def last")),
    )
    assert done.conflicts == 1
    assert b"<<<<<<< ours" in done.data


def test_statements_that_act_keep_their_order() -> None:
    ours = edit(("class Layer", "register(1)\n\n\nclass Layer"))
    theirs = edit(("class Layer", "register(2)\n\n\nclass Layer"))
    assert merge(ours, theirs).conflicts == 1


def test_both_moved_definitions() -> None:
    base = "".join(f"def f{n}():\n    return {n}\n\n\n" for n in range(4))
    parts = re.findall(r"def .*?\n\n\n", base, re.S)
    ours = "".join([parts[1], parts[0], parts[2], parts[3]])
    theirs = "".join([parts[0], parts[3], parts[2], parts[1]])
    done = merge(ours, theirs, base)
    assert done.conflicts or structure.parse(done.data) is not None
    for n in range(4):
        assert done.data.count(b"def f%d()" % n) >= 1


def test_overloads_and_properties_stay_together() -> None:
    base = (
        "class C:\n    @property\n    def p(self):\n        return 1\n\n    @p.setter\n"
        "    def p(self, value):\n        pass\n\n    def q(self):\n        return 2\n"
    )
    ours = edit(("return 1", "return 10"), text=base)
    theirs = edit(("        pass\n", "        self.v = value\n"), text=base)
    assert_clean(merge(ours, theirs, base), "structure", "return 10", "self.v = value")


def test_fewer_conflicts_go_before_structure() -> None:
    """By blocks, the comments are those of the statement; by lines, the edits are far apart."""
    base = "# one\n#\n#\n#\n"
    assert merge(f"# mine\n{base}", f"{base}theirs = 3\n", base) == Merge(
        f"# mine\n{base}theirs = 3\n".encode(), 0, "lines"
    )


def test_a_conflict_whose_sides_are_python_is_easier_to_decide() -> None:
    """By blocks the class would be empty for one side: what is shown is the merge by lines."""
    method = "    def i(self):\n        return 2\n\n"
    base = f"class K:\n{method}    def g(self):\n        return 1\n"
    theirs = f"{method}\ndef theirs():\n    return 6\n\n"
    done = merge(edit((method, ""), text=base), edit((method, theirs), text=base), base)
    assert done == Merge(
        f"class K:\n<<<<<<< ours\n=======\n{theirs}>>>>>>> theirs\n"
        "    def g(self):\n        return 1\n".encode(),
        1,
        "lines",
    )


def test_a_conflict_that_is_no_python_is_shown_for_want_of_a_better_one() -> None:
    """Not the whole file: what merges beside it is merged."""
    base = "class K:\n\n    def load(self, a):\n        return a\n"
    ours = "class K:\n\n    def load(self, a, b):\n        mine(a)\n"
    theirs = (
        "class K:\n    def load(\n    ) -> int:\n\n            x = 1\n"
        "    def more(\n    ):\n        pass\n"
    )
    done = merge(ours, theirs, base)
    assert done.conflicts == 1
    assert done.reason == ""
    assert done.data.endswith(b"x = 1\n>>>>>>> theirs\n    def more(\n    ):\n        pass\n")


def test_a_definition_beside_a_conflict_is_not_there_twice() -> None:
    """By lines there would be one conflict fewer, and a function above it that is in it, too."""
    base = "\nfrom a import (\n    one, two)\ndef old(x):\n    return one(x)\nNAMES = [\n]\n"
    head = "def new(x):\n    '''What both have put in its place.\n    '''  # a remark\n"
    ours = f"\nKINDS = [\n    1,\n]\n{head}    def inner(y):\n            mine(\n  y)\n"
    ours += "NAMES = [\n    1,\n]\n"
    theirs = f"{head}\n    def inner(y):\n            mine(\n        )\nNAMES = [\n    2,\n]\n"
    done = merge(ours, theirs, base)
    assert (done.conflicts, done.how) == (2, "structure")
    assert done.data.count(b"def new(x):") == 1


def test_of_more_than_one_definition_each_side_may_remove_one() -> None:
    over = "".join(f"@overload\ndef f(x: {t}): ...\n\n\n" for t in ("int", "str", "list"))
    base = f"{over}def f(x):\n    return x\n"
    one, _, three = re.findall(r"@.*?\n\n\n", over, re.S)
    ours, theirs = edit((one, ""), text=base), edit((three, ""), text=base)
    assert merge(ours, theirs, base) == Merge(edit((one, ""), text=theirs).encode(), 0, "structure")


# ---- statements ----------------------------------------------------------------------------

WRITTEN = """\
def f(self, x):
    value = self.compute(x, first=1,
                         second=2)
    # why
    other = \\
        value + 1
    if other and \\
            value:
        done(value)
    elif other:
        return 1
    else:
        return 2

    return value
"""
FORMATTED = """\
def f(self, x):
    value = self.compute(
        x, first=1, second=2
    )
    # why
    other = value + 1
    if (
        other
        and value
    ):
        done(value)
    elif other:
        return 1
    else:
        return 2
    return value
"""


def test_an_edit_in_code_that_was_formatted_anew() -> None:
    for line in (
        "    # why\n",
        "    return value\n",
        "        return 2\n",
        "        done(value)\n",
    ):
        more = line.replace(line.strip(), "mine = 1") + line
        done = merge(edit((line, more), text=WRITTEN), FORMATTED, WRITTEN)
        text = assert_clean(done, "structure")
        assert text.replace("\n\n", "\n") == edit((line, more), text=FORMATTED)


def test_an_edit_beside_a_new_statement() -> None:
    ours = edit(("    other = \\\n", "    mine = 1\n    other = \\\n"), text=WRITTEN)
    theirs = edit(("    if (\n", "    upstream = 1\n    if (\n"), text=FORMATTED)
    text = assert_clean(merge(ours, theirs, WRITTEN), "structure")
    assert "    mine = 1\n    other = value + 1\n    upstream = 1\n    if (" in text


def test_an_insertion_beside_a_statement_that_was_replaced() -> None:
    base = "def f(x):\n    if x:\n        a(1)\n    b(1)\n    c(1)\n\n    d(1)\n"
    for old, new, where in (
        ("a(1)", "a(2)", "    b(1)\n"),  # another depth
        ("c(1)", "c(2)", "\n    d(1)\n"),  # a blank line between
        ("def f(x)", "def f(x, y)", "    if x:\n"),
    ):
        blank = "\n" if where.startswith("\n") else ""
        ours = edit((where, f"{blank}    mine()\n{where.lstrip(chr(10))}"), text=base)
        theirs = edit((old, new), text=base)
        assert_clean(merge(ours, theirs, base), "structure", "    mine()\n", new)
        assert_clean(merge(theirs, ours, base), "structure", "    mine()\n", new)
    beside = edit(("    b(1)\n", "    mine()\n    b(1)\n"), text=base)
    assert merge(beside, edit(("b(1)", "b(2)"), text=base), base).conflicts == 1


def test_a_comment_is_an_edit() -> None:
    ours = edit(("    return value\n", "    return value  # mine\n"), text=WRITTEN)
    text = assert_clean(merge(ours, FORMATTED, WRITTEN), "structure")
    wanted = edit(("    return value\n", "    return value  # mine\n"), text=FORMATTED)
    assert text.replace("\n\n", "\n") == wanted


def test_the_same_statement_written_and_changed() -> None:
    ours = edit(("second=2)", "second=3)"), text=WRITTEN)
    done = merge(ours, FORMATTED, WRITTEN)
    assert "second=3)" in done.data.decode()
    changed = edit(("first=1", "first=10"), text=FORMATTED)
    assert merge(ours, changed, WRITTEN).conflicts == 1


def test_one_line_bodies_and_matches_are_one_statement() -> None:
    base = "def f(x):\n    if x: return 1\n    match x:\n        case 1: pass\n    a(x,\n      1)\n"
    ours = edit(("    a(x", "    mine()\n    a(x"), text=base)
    theirs = edit(("a(x,\n      1)", "a(x, 1)"), text=base)
    assert_clean(merge(ours, theirs, base), "structure", "    mine()\n    a(x, 1)\n")


# ---- text ----------------------------------------------------------------------------------


def test_windows_lines_on_one_side() -> None:
    ours = edit(("a = 1", "a = 10")).replace("\n", "\r\n")
    done = merge(ours, edit(("return y", "return y + 1")))
    assert done.conflicts == 0
    assert done.data.count(b"\r\n") == done.data.count(b"\n")
    assert b"a = 10\r\n" in done.data
    assert b"return y + 1\r\n" in done.data


@pytest.mark.parametrize(
    ("base", "ours", "theirs", "wanted"),
    [
        ("n", "r", "n", "r"),  # ours were changed
        ("n", "n", "r", "r"),  # theirs were
        ("r", "n", "r", "n"),
        ("r", "r", "n", "n"),
        ("n", "r", "r", "r"),
        ("r", "n", "n", "n"),
        ("", "r", "n", "n"),  # both added the file: as the release has it
        ("", "n", "r", "r"),
    ],
)
def test_line_ends_that_one_side_changed(base: str, ours: str, theirs: str, wanted: str) -> None:
    """The lines merge as if nothing were with their ends, and get the ends that were changed to."""
    ends = {"n": "\n", "r": "\r\n"}
    text = "one\ntwo\nthree\nfour\nfive\nsix\n"
    done = merge(
        edit(("one", "mine"), text=text).replace("\n", ends[ours]),
        edit(("six", "theirs"), text=text).replace("\n", ends[theirs]),
        text.replace("\n", ends[base]) if base else None,
        "notes.txt",
    )
    if base:
        merged = edit(("one", "mine"), ("six", "theirs"), text=text)
    else:
        middle = "two\nthree\nfour\nfive\n"
        merged = f"<<<<<<< ours\nmine\n{middle}six\n=======\none\n{middle}theirs\n>>>>>>> theirs\n"
    wanted_data = merged.replace("\n", ends[wanted]).encode()
    assert done == Merge(wanted_data, 0 if base else 1, "lines")


def test_a_text_without_line_ends_has_none_to_choose() -> None:
    done = merge("one\r\nmine", "one, once", "one\ntwo\n", "notes.txt")
    assert done.data == b"<<<<<<< ours\r\none\r\nmine\r\n=======\r\none, once\r\n>>>>>>> theirs\r\n"


def test_a_single_line_without_an_end() -> None:
    done = merge("0.1+mine", "0.2", "0.1", "VERSION")
    assert done.data == b"<<<<<<< ours\n0.1+mine\n=======\n0.2\n>>>>>>> theirs\n"
    assert done.conflicts == 1


def test_mixed_line_ends_are_kept_line_by_line() -> None:
    text = "one\ntwo\r\nthree\nfour\nfive\r\nsix\n"
    ours, theirs = edit(("one", "mine"), text=text), edit(("six", "theirs"), text=text)
    merged = edit(("six", "theirs"), text=ours).encode()
    assert merge(ours, theirs, text, "notes.txt") == Merge(merged, 0, "lines")
    # One side alone has mixed ones.
    plain = text.replace("\r\n", "\n")
    ours = edit(("two\n", "two\r\n"), text=plain)
    merged = edit(("six", "theirs"), text=ours).encode()
    done = merge(ours, edit(("six", "theirs"), text=plain), plain, "notes.txt")
    assert done == Merge(merged, 0, "lines")


def test_no_line_end_at_the_end() -> None:
    ours = BASE.rstrip("\n") + "  # mine"
    theirs = BASE + "\n\ndef more():\n    return 1\n"
    text = assert_clean(merge(ours, theirs), "structure", "return first(x)  # mine\n")
    assert "def more" in text


def test_a_line_without_an_end_does_not_run_into_the_next() -> None:
    base = "def g(x):\n    a = 1\n"
    done = merge(base.rstrip("\n"), base + "  # theirs", base)
    assert done.conflicts == 0
    assert done.data == b"def g(x):\n    a = 1\n  # theirs"


def test_other_encodings() -> None:
    base = b"# -*- coding: latin-1 -*-\nx = 'b'\n\n\ndef f():\n    return 1\n"
    ours = base.replace(b"'b'", b"'\xe9'")
    theirs = base.replace(b"return 1", b"return 2")
    done = merge_file("m.py", base, ours, theirs)
    assert (done.conflicts, done.data) == (0, ours.replace(b"return 1", b"return 2"))


def test_binary() -> None:
    done = merge_file("x.bin", b"\0a", b"\0b", b"\0c")
    assert (done.data, done.conflicts, done.how) == (b"\0b", 1, "binary")


@pytest.mark.parametrize("which", [0, 1, 2])
def test_one_binary_version_is_enough(which: int) -> None:
    versions = [b"a\nb\nc\n", b"x\nb\nc\n", b"a\nb\ny\n"]
    versions[which] += b"\0\n"
    done = merge_file("x.txt", *versions)
    assert (done.data, done.conflicts, done.how) == (versions[1], 1, "binary")


def test_a_binary_file_is_one_in_gits_judgement() -> None:
    """Git looks for a NUL in the first 8000 bytes."""
    assert is_binary(b"x" * 7999 + b"\0")
    assert not is_binary(b"x" * 8000 + b"\0")


def test_added_by_both() -> None:
    done = merge("one\nmine\ntwo\n", "one\nupstream\ntwo\n", None, "notes.txt")
    text = done.data.decode()
    assert text == "one\n<<<<<<< ours\nmine\n=======\nupstream\n>>>>>>> theirs\ntwo\n"
    assert has_markers(done.data)


def test_a_base_that_is_not_sure_loses_nothing() -> None:
    """What today's rules would have written has a line that was put there by hand then."""
    pristine, base = b"a\nb\nc\n", b"a\nmine\nb\nc\n"
    done = merge_file("x.txt", base, b"a\nmine\nb\nc\n", b"a\nb\nc\nd\n", pristine=pristine)
    assert b"mine\n" in done.data
    assert done.conflicts == 1
    assert merge_file("x.txt", base, base, b"a\nb\nc\nd\n").conflicts == 0


def test_a_base_that_is_not_sure_takes_what_loses_nothing() -> None:
    """Of what the release had, lines may go: the migration has replaced them."""
    done = merge_file(
        "x.txt",
        b"a\nnew b\nc\n",
        b"a\nnew b\nc\nmine\n",
        b"theirs\na\nnew b\nc\n",
        pristine=b"a\nb\nc\n",
    )
    assert done == Merge(b"theirs\na\nnew b\nc\nmine\n", 0, "lines")
    windows = merge_file(
        "x.txt",
        b"a\nnew b\nc\n",
        b"a\r\nnew b\r\nc\r\nmine\r\n",
        b"theirs\na\nnew b\nc\n",
        pristine=b"a\nb\nc\n",
    )
    assert windows == Merge(done.data.replace(b"\n", b"\r\n"), 0, "lines")


def test_a_line_that_the_release_had_may_go_with_it() -> None:
    ours = b"a\nb\nmine\nx\n"
    done = merge_file("x.txt", b"a\nb\nmine\n", ours, b"b\nmine\n", pristine=b"a\nb\n")
    assert done == Merge(b"b\nmine\nx\n", 0, "lines")


@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
@pytest.mark.parametrize(
    ("ours", "theirs", "wanted"),
    [
        (b"a mine b c", b"a b x c", b"a < mine b = b x > c"),
        (b"mine b c", b"b x c", b"< mine b = b x > c"),
        (b"a mine b", b"a b x", b"a < mine b = b x >"),
        (b"a b mine", b"a b", b"a b < mine = >"),
        (b"mine a b", b"a b", b"< mine = > a b"),
        (b"a mine a a", b"a a", b"a < mine a = > a"),
    ],
)
def test_a_conflict_of_the_whole_shows_no_more_than_needed(
    ours: bytes, theirs: bytes, wanted: bytes, end: bytes
) -> None:
    """It goes from the first line in which the sides differ to the last one."""
    marks = {b"<": b"<<<<<<< ours", b"=": b"=======", b">": b">>>>>>> theirs"}
    base, mine, other = (b"".join(w + end for w in t.split()) for t in (ours, ours, theirs))
    done = merge_file("x.txt", base, mine, other, pristine=other)
    assert done.data == b"".join(marks.get(w, w) + end for w in wanted.split())
    assert done.conflicts == 1
    assert "both versions are shown whole" in done.reason


@pytest.mark.parametrize(
    ("base", "ours", "theirs", "merged", "missing"),
    [
        ("a", "a b", "a", "a", "b"),
        ("a", "a", "a b", "a", "b"),
        ("a", "a b", "a c", "a", "b c"),
        ("a", "a b", "a c", "a b", "c"),
        ("a", "a b", "a b", "a b", ""),  # both added it: once is enough
        ("a", "a b b", "a b", "a b", "b"),
        ("a", "a b", "a b b", "a b", "b"),
        ("a", "a a", "a", "a", "a"),
        ("a", "a a a", "a a", "a a a", ""),
        ("a", "a a a", "a", "a", "a a"),
        ("a", "a b", "c a", "c b a", ""),  # in another order
        ("a a", "a a a", "a", "a a", ""),  # one more, one fewer
        ("a a", "a", "a a a", "a", "a"),
        ("a b", "a", "a b", "", ""),  # nobody added these
        ("a a a", "a a", "a a", "", ""),
        ("a", "a", "a", "", ""),
        ("a", "a b", "a", "a b b", ""),
    ],
)
def test_missing_lines(base: str, ours: str, theirs: str, merged: str, missing: str) -> None:
    def lines(text: str, indent: str = "") -> tuple[bytes, ...]:
        return tuple(f"{indent}{word}\n".encode() for word in text.split())

    hunks = [Clean(lines(merged))]
    wanted = Counter(missing.encode().split())
    nothing: Counter[bytes] = Counter()
    assert missing_lines(lines(base), lines(ours), lines(theirs), hunks, nothing) == wanted
    # White space around a line does not count, and neither do lines that were written anew.
    o, t = (*lines(ours, "  "), b"\n"), lines(theirs, "\t")
    assert missing_lines(lines(base), o, t, hunks, nothing) == wanted
    assert missing_lines(lines(base), o, t, hunks, wanted) == nothing


def test_lines_that_merge_and_do_not_parse() -> None:
    base = (
        "def f(x):\n    if x:\n        a()\n        b()\n        c()\n        d()\n    return x\n"
    )
    ours = edit(("        a()\n", ""), text=base)
    done = merge(ours, edit(("        b()\n        c()\n        d()\n", ""), text=base), base)
    assert done.conflicts or structure.parse(done.data) is not None


# ---- any text ------------------------------------------------------------------------------

WORDS = st.lists(st.sampled_from([b"a\n", b"b\n", b"c\n", b"\n", b"d\n"]), max_size=14)


@given(WORDS, WORDS)
def test_matcher_finds_common_blocks_in_order(a: list[bytes], b: list[bytes]) -> None:
    blocks = Matcher(None, a, b).get_matching_blocks()
    assert blocks[-1] == (len(a), len(b), 0)
    at_a = at_b = 0
    for i, j, n in blocks:
        assert i >= at_a
        assert j >= at_b
        assert a[i : i + n] == b[j : j + n]
        at_a, at_b = i + n, j + n


def test_matcher_is_quick_on_long_texts() -> None:
    chance = random.Random(1)
    a = [b"%d\n" % chance.randrange(40) for _ in range(6000)]
    b = [*a[:2000], b"new\n", *a[2500:]]
    blocks = Matcher(None, a, b).get_matching_blocks()
    assert sum(n for _, _, n in blocks) >= 5400


STATEMENTS = st.sampled_from(
    ["a = 1", "b = 2", "c = a", "if a:\n    b = 3", "for i in b:\n    a = i", "return a", "f(a)"]
)
IMPORTS = ["import os", "import re", "from a import b", "from a import b, c", "from d import e"]


@st.composite
def functions(draw: st.DrawFn) -> str:
    name = draw(st.sampled_from("fghijk"))
    body = draw(st.lists(STATEMENTS, min_size=1, max_size=4))
    text = "".join(f"    {line}\n" for s in body for line in s.split("\n"))
    return f"def {name}(x):\n{text}"


@st.composite
def modules(draw: st.DrawFn) -> str:
    imports = draw(st.lists(st.sampled_from(IMPORTS), max_size=3, unique=True))
    parts = draw(st.lists(functions(), max_size=3))
    methods = draw(st.lists(functions(), max_size=2))
    if methods:
        inner = "\n".join(re.sub(r"(?m)^(?=.)", "    ", m) for m in methods)
        parts.insert(draw(st.integers(0, len(parts))), f"class K:\n{inner}")
    return "\n".join(imports) + "\n\n\n" + "\n\n".join(parts)


@st.composite
def edited(draw: st.DrawFn, text: str, mark: str) -> str:
    """The text with lines added, deleted, moved; added ones carry the mark."""
    lines = text.split("\n")
    for number in range(draw(st.integers(0, 3))):
        at = draw(st.integers(0, len(lines) - 1))
        indent = re.match(r" *", lines[at])
        assert indent is not None
        match draw(st.sampled_from(["add", "add function", "delete", "change"])):
            case "add":
                lines.insert(at, f"{indent[0]}{mark}{number} = {at}")
            case "add function":
                lines[at:at] = [f"{indent[0]}def {mark}{number}():", f"{indent[0]}    return {at}"]
            case "delete":
                del lines[at : at + draw(st.integers(1, 3))]
                lines = lines or [""]
            case "change":
                lines[at] = f"{lines[at]}  # {mark}{number}"
    return "\n".join(lines)


@st.composite
def versions(draw: st.DrawFn) -> tuple[str, str, str]:
    base = draw(modules())
    return base, draw(edited(base, "ours")), draw(edited(base, "theirs"))


@settings(max_examples=200)
@given(versions())
def test_nothing_is_lost_and_everything_parses(three: tuple[str, str, str]) -> None:
    nothing_is_lost(three)


@pytest.mark.slow
@settings(max_examples=4000)
@given(versions())
def test_nothing_is_lost_often(three: tuple[str, str, str]) -> None:
    nothing_is_lost(three)


def nothing_is_lost(three: tuple[str, str, str]) -> None:
    """Show 5 for one file: no added line is lost, and what does not parse is in conflict."""
    base, ours, theirs = three
    done = merge(ours, theirs, base)
    shown = Counter(line.strip() for line in done.data.decode().split("\n"))
    for line in ours.split("\n"):
        if "ours" in line:
            assert_shown(line, shown, done)
    for line in theirs.split("\n"):
        if "theirs" in line:
            assert_shown(line, shown, done)
    parsing = [structure.parse(text.encode()) is not None for text in (ours, theirs)]
    if not done.conflicts and all(parsing):
        assert structure.parse(done.data) is not None
    assert bool(done.conflicts) == has_markers(done.data)
    again = merge_file("vllm/m.py", theirs.encode(), done.data, theirs.encode())
    assert (again.data, again.conflicts) == (done.data, 0), "a second update changes nothing"


def assert_shown(line: str, shown: Counter[str], done: Merge) -> None:
    assert shown[line.strip()], f"{line!r} is lost in\n{done.data.decode()}"


@settings(max_examples=50)
@given(versions())
def test_no_more_conflicts_than_git(three: tuple[str, str, str]) -> None:
    base, ours, theirs = three
    if any(structure.parse(text.encode()) is None for text in three):
        return
    done = merge(ours, theirs, base)
    merged, count = git_merge_file(base, ours, theirs)
    if done.conflicts > count:
        # Git's own result is refused only where it would be wrong.
        assert structure.parse(merged) is None or structure.defined_twice(split_lines(merged))


def git_merge_file(base: str, ours: str, theirs: str) -> tuple[bytes, int]:
    with tempfile.TemporaryDirectory() as scratch:
        for name, text in (("base", base), ("ours", ours), ("theirs", theirs)):
            (Path(scratch) / name).write_text(text, encoding="utf-8")
        command = ["git", "merge-file", "-p", "ours", "base", "theirs"]
        done = subprocess.run(command, cwd=scratch, capture_output=True)
        assert 0 <= done.returncode < 128
        return done.stdout, done.returncode


@pytest.mark.parametrize("data", [b"", b"x = 1", b"\n\n", b"# only\n", b"x = (\n1,\n)\r\n"])
def test_blocks_put_together_are_the_file(data: bytes) -> None:
    assert b"".join(b"".join(block.lines) for block in structure._split(split_lines(data))) == data
