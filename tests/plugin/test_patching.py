# SPDX-License-Identifier: Apache-2.0
"""A patch is what makes one module of another, and fits that module only."""

from __future__ import annotations

import ast
import inspect
import traceback
import types
from pathlib import Path

import pytest

from migrator.plugin.diff import StructureError, changes_between, render
from migrator.plugin.runtime.patching import (
    PatchError,
    Source,
    apply,
    compiled,
    loaded_names,
    read_patch,
)

HEAD = 'patches("vllm/m.py", sha256="0")\n'


def patch_of(before: bytes | str, after: bytes | str) -> str:
    """The patch file that makes `after` of `before`."""
    one, other = (
        Source.parse(text if isinstance(text, bytes) else text.encode()) for text in (before, after)
    )
    body = render(one, other, changes_between(one, other), lambda *_: [("NPU110", "a test")])
    return HEAD + "\n".join(body.lines) + "\n"


def patched(before: bytes | str, patch: str) -> ast.Module:
    data = before if isinstance(before, bytes) else before.encode()
    return apply(Source.parse(data), read_patch(patch.encode(), "patch"))


FUNCTION = """\
import os

def f(x):
    return x

def g():
    return f(1)
"""
CLASS = '''\
"""What it is."""
from __future__ import annotations

class A:
    """A class."""
    size = 1

    class B:
        def deep(self):
            return 1

    @property
    def p(self):
        return self._p

    @p.setter
    def p(self, value):
        self._p = value

    async def wait(self):
        return None

class A2(A):
    pass
'''

PAIRS = {
    "a function": (FUNCTION, FUNCTION.replace("return x", "return x + 1")),
    "a signature": (FUNCTION, FUNCTION.replace("f(x)", "f(x, y=None)")),
    "two functions": (FUNCTION, FUNCTION.replace("return", "return not")),
    "a decorator": (FUNCTION, FUNCTION.replace("def g", "@cache\ndef g")),
    "an import": (FUNCTION, FUNCTION.replace("import os\n", "import os\nimport sys\n")),
    "an import before all": (FUNCTION, "import sys\n" + FUNCTION),
    "a try": (FUNCTION, FUNCTION.replace("os\n", "os\ntry:\n    import z\nexcept E:\n    z = 0\n")),
    "a helper and a name": (
        FUNCTION,
        FUNCTION.replace("def g", "# Kept.\n_kept = None\n\ndef _helper():\n    return 2\n\ndef g"),
    ),
    "a helper at the end": (FUNCTION, FUNCTION + "\ndef h():\n    return '''a\n  b'''\n"),
    "a statement": ("N = 1\nM = 2\n" + FUNCTION, "N = 1\nM = 3\n" + FUNCTION),
    "a long statement": ("D = {\n    1: 2,\n}\n", "D = {\n    1: 2,\n    3: 4,\n}\n"),
    "a nested class": (CLASS, CLASS.replace("return 1", "return 2")),
    "the second of a name": (CLASS, CLASS.replace("= value", "= value + 1")),
    "the first of a name": (CLASS, CLASS.replace("self._p\n", "self._p or 0\n")),
    "async": (CLASS, CLASS.replace("return None", "return await self.p")),
    "a base": (CLASS, CLASS.replace("A2(A)", "A2(A, B)")),
    "a method": (
        CLASS,
        CLASS.replace("    async", "    def n(self):\n        return 1\n\n    async"),
    ),
    "a method after one of a pair": (
        CLASS,
        CLASS.replace(
            "self._p = value\n", "self._p = value\n\n    def n(self):\n        return 1\n"
        ),
    ),
    "an attribute": (CLASS, CLASS.replace("size = 1", "size = 1\n    kind: str = 'n'")),
    "an attribute first": ("class A:\n    x = 1\n", "class A:\n    y = 0\n    x = 1\n"),
    "strings over lines": (
        'class A:\n    def f(self):\n        return """\n  a\n        b\n"""\n',
        'class A:\n    def f(self):\n        return """\n  a\n        c\n"""\n',
    ),
    "tabs": (
        "class A:\n\tdef f(self):\n\t\treturn 1\n",
        "class A:\n\tdef f(self):\n\t\treturn 2\n",
    ),
    "a form feed": (
        "x = 1\n\x0c\ndef f():\n    return 1\n",
        "x = 1\n\x0c\ndef f():\n    return 2\n",
    ),
    "wide signs": ("def f(): return 'ü😀', 1  # é\n", "def f(): return 'ü😀', 2  # é\n"),
    "a quote in the place": ('x = "a\'b"\n', 'x = "a\'b"\ny = 1\n'),
    "in an if": (
        "if HAS:\n    def f():\n        return 1\n",
        "if HAS:\n    def f():\n        return 2\n",
    ),
}


@pytest.mark.parametrize("name", PAIRS)
def test_patch_gives_what_it_was_made_of(name: str) -> None:
    before, after = PAIRS[name]
    assert ast.dump(patched(before, patch_of(before, after))) == ast.dump(ast.parse(after))


@pytest.mark.parametrize(
    "encode",
    [
        lambda text: text.replace("\n", "\r\n").encode(),
        lambda text: b"\xef\xbb\xbf" + text.encode(),
        lambda text: b"# -*- coding: latin-1 -*-\n" + text.encode("latin-1"),
    ],
    ids=["crlf", "bom", "latin-1"],
)
def test_patch_is_of_the_text_whatever_the_bytes(encode: object) -> None:
    assert callable(encode)
    before, after = "x = 'é'\ndef f():\n    return 'é'\n", "x = 'é'\ndef f():\n    return 'è'\n"
    patch = patch_of(encode(before), encode(after))
    assert ast.dump(patched(encode(before), patch)) == ast.dump(ast.parse(after))
    assert ast.dump(patched(before, patch)) == ast.dump(ast.parse(after))


def test_patch_holds_no_more_than_what_changes() -> None:
    patch = patch_of(CLASS, CLASS.replace("return 1", "return 2"))
    assert "deep" in patch
    assert "wait" not in patch
    assert "size" not in patch
    assert "# NPU110: a test" in patch


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        (FUNCTION, FUNCTION.replace("import os\n", ""), "is taken away"),
        ("x = 1; y = 2\n", "x = 1; y = 3\n", "more than one statement in a line"),
        ("x = 1\ny = 2\nx = 1\n", "x = 1\ny = 2\nx = 1\nz = 3\n", "says the same as line 1"),
    ],
)
def test_what_no_patch_can_say_is_an_error(before: str, after: str, said: str) -> None:
    with pytest.raises(StructureError, match=said):
        patch_of(before, after)


def test_a_change_that_no_rule_claims_is_an_error() -> None:
    one, other = Source.parse(b"x = 1\n"), Source.parse(b"x = 2\n")
    with pytest.raises(StructureError, match="no rule"):
        render(one, other, changes_between(one, other), lambda *_: [])


# -- the hash


def hash_of(text: str, name: str = "f") -> str:
    source = Source.parse(text.encode())
    for node in ast.walk(source.tree):
        if isinstance(node, ast.FunctionDef) and node.name == name:
            return source.hash(node)
    raise AssertionError(name)


def test_hash_is_of_the_function_and_nothing_around() -> None:
    plain = hash_of("def f(x):\n    # why\n    return x\n")
    assert plain == hash_of(
        "import a\n\n# above\ndef f(x):   \n    # why\n    return x  # behind\n"
    )
    assert plain == hash_of("class A:\n  def f(x):\n      # why\n      return x\n")
    assert plain == hash_of("def f(x):\r\n    # why\r\n    return x\r\n")


@pytest.mark.parametrize(
    "text",
    [
        "def f(x):\n    # other\n    return x\n",
        "@wraps(g)\ndef f(x):\n    # why\n    return x\n",
        "def f(x, y=1):\n    # why\n    return x\n",
        "def f(x):\n    # why\n    return (x)\n",
        "def f(x):\n    # why\n    return x\n    pass\n",
    ],
)
def test_hash_is_of_all_of_the_function(text: str) -> None:
    assert hash_of(text) != hash_of("def f(x):\n    # why\n    return x\n")


# -- what does not fit


def test_changed_function_is_named_with_both_hashes_and_its_rule() -> None:
    patch = patch_of(FUNCTION, FUNCTION.replace("return x", "return x + 1"))
    other = FUNCTION.replace("return x", "return -x")
    with pytest.raises(PatchError) as caught:
        patched(other, patch)
    (problem,) = caught.value.problems
    assert problem.startswith("f is not the one that the patch was made from (NPU110: ")
    assert f"expected sha256 {hash_of(FUNCTION)}" in problem
    assert f"found {hash_of(other)}" in problem
    assert str(caught.value).startswith("vllm/m.py: f is not")


def test_every_misfit_is_named() -> None:
    after = CLASS.replace("return 1", "return 2").replace("= value", "= value + 1")
    after = after.replace("size = 1", "size = 1\n    kind: str = 'n'")
    patch = patch_of(CLASS, after)
    other = (
        CLASS.replace("deep", "deeper").replace("= value", "= 7").replace("size = 1", "size = 2")
    )
    with pytest.raises(PatchError) as caught:
        patched(other, patch)
    first, second, third = caught.value.problems
    assert first == "`size = 1`, behind which NPU110 adds code, is not there"
    assert second == "A.B.deep is not there (NPU110)"
    assert third.startswith("A.p is not the one")


@pytest.mark.parametrize("gone", ["class A:", "class B:"])
def test_missing_class_is_named(gone: str) -> None:
    patch = patch_of(CLASS, CLASS.replace("return 1", "return 2"))
    with pytest.raises(PatchError, match="is not there"):
        patched(CLASS.replace(gone, "class Other:"), patch)


def test_changes_elsewhere_do_not_matter() -> None:
    patch = patch_of(FUNCTION, FUNCTION.replace("return x", "return x + 1"))
    other = "X = 1\n" + FUNCTION.replace("f(1)", "f(2)") + "\ndef new():\n    pass\n"
    assert ast.dump(patched(other, patch)) == ast.dump(
        ast.parse(other.replace("return x", "return x + 1"))
    )


@pytest.mark.parametrize(
    ("patch", "said"),
    [
        ("def f(:\n", "line 1"),
        ("x = 1\n", "does not say what it patches"),
        (HEAD + "x = 1\n", "line 2: nothing says what becomes of it"),
        (HEAD + "def f():\n    pass\n", "line 2: nothing says"),
    ],
)
def test_a_file_that_is_no_patch_is_refused(patch: str, said: str) -> None:
    with pytest.raises(PatchError, match=said):
        read_patch(patch.encode(), "patch")


# -- what runs


def test_code_has_the_files_and_lines_that_it_stands_in(tmp_path: Path) -> None:
    before = (
        "def old():\n    raise ValueError\n\n\nclass A:\n    def f(self):\n        return 1\n\n"
        "    def kept(self):\n        raise ValueError\n"
    )
    after = before.replace(
        "return 1", "def inner():\n            raise ValueError\n\n        return inner()"
    )
    module, patch = tmp_path / "m.py", tmp_path / "patch.py"
    module.write_text(before)
    patch.write_text(patch_of(before, after))
    tree = apply(Source.parse(module.read_bytes()), read_patch(patch.read_bytes(), "patch"))
    names: dict[str, object] = {"__name__": "m"}
    exec(compiled(tree, str(module), str(patch)), names)

    def places(function: object) -> list[tuple[str, str | None]]:
        assert callable(function)
        with pytest.raises(ValueError) as caught:  # noqa: PT011 - any will do
            function()
        frames = traceback.extract_tb(caught.value.__traceback__)
        return [(frame.filename, frame.line) for frame in frames[1:]]

    cls = names["A"]
    assert isinstance(cls, type)
    assert places(names["old"]) == [(str(module), "raise ValueError")]
    assert places(cls().kept) == [(str(module), "raise ValueError")]
    new = cls.f  # type: ignore[attr-defined]
    assert isinstance(new, types.FunctionType)
    assert places(lambda: new(None))[1:] == [
        (str(patch), "return inner()"),
        (str(patch), "raise ValueError"),
    ]
    assert inspect.getsource(new).lstrip().startswith(("def f(self):", "@replaces"))
    assert new.__code__.co_filename == str(patch)


def test_super_closures_and_private_names_are_those_of_the_module() -> None:
    before = (
        "class Base:\n    def f(self):\n        return ['base']\n\n\n"
        "class A(Base):\n    __secret = 'secret'\n\n    def f(self):\n        return []\n"
    )
    after = before.replace(
        "return []", "return [*super().f(), self.__secret, __class__.__name__, helper()]"
    ).replace("class A", "def helper():\n    return 'helper'\n\n\nclass A")
    names: dict[str, object] = {"__name__": "m"}
    exec(compiled(patched(before, patch_of(before, after)), "m.py", "patch.py"), names)
    cls = names["A"]
    assert isinstance(cls, type)
    assert cls().f() == ["base", "secret", "A", "helper"]


def test_names_that_a_class_reads_when_it_is_made() -> None:
    text = "@d\nclass A(B):\n    x: T = v\n    def f(self, a: U = w) -> R:\n        return inner\n"
    assert set(loaded_names(ast.parse(text).body)) == {"d", "B", "T", "v", "U", "w"}
