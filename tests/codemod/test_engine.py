# SPDX-License-Identifier: Apache-2.0
"""The engine on one file: what it refuses, what it keeps, and edits that do not go together."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import libcst as cst
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from migrator.codemod.engine import FileResult, Span, migrate_file
from migrator.codemod.matchers import walk
from migrator.codemod.rule import (
    Edit,
    File,
    Finding,
    Insert,
    Replace,
    Rule,
    Safety,
    Status,
    changed,
    manual,
)
from migrator.codemod.statement_layout import Layout, Piece
from migrator.files.tree import Tree
from migrator.rules import all_rules

GUARD = b"import torch\n\n\ndef f(x: torch.Tensor):\n    return x.is_cuda\n"
MIGRATED = GUARD.replace(b"x.is_cuda", b'x.device.type == "cuda"')
FIRST_LOG = [rule for rule in all_rules() if rule.code.startswith(("NPU0", "NPU1"))]


def migrate(data: bytes, rules: list[Rule] | None = None, path: str = "vllm/x.py") -> FileResult:
    return migrate_file(path, data, rules or FIRST_LOG, Tree({path: data}))


# ---- files that cannot be handled ----------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (GUARD + b"def broken(:\n", "not valid Python: line 6: "),
        (GUARD + b"x = " + b"(" * 3000 + b"1" + b")" * 3000, "too many nested parentheses"),
        (GUARD + b"x = " + b" + ".join([b"a"] * 20_000), "maximum recursion depth"),
        (GUARD + b"x = " + b"'a' " * 20_000, "LibCST cannot parse it"),
        (GUARD + b"\0", "null bytes"),
        (GUARD + b"# \xff\n", "codec can't decode"),
        (b"# coding: nonsense\n" + GUARD, "not valid Python: line 0: unknown encoding"),
        (b"\xef\xbb\xbf# coding: latin-1\n" + GUARD, "encoding problem"),
        (GUARD.decode().encode("utf-16"), "null bytes"),
        (GUARD + b"x = 1\r", "LibCST does not give its bytes back"),
        (GUARD.replace(b"\n", b"\r"), "LibCST does not give its bytes back"),
        (GUARD + b'"""a\rb"""\n', "a carriage return alone ends a line in it"),
    ],
)
def test_failure(data: bytes, reason: str) -> None:
    result = migrate(data)
    assert result.after is None
    assert result.records == ()
    assert result.failure is not None
    assert reason in result.failure
    assert "\n" not in result.failure


DEEP = {
    "attributes": b"(a" + b".b" * 500 + b")",
    "calls": b"a" + b".b()" * 500,
    "operators": b"not " * 900 + b"a",
    "strings": b"(" + b"'a' " * 1500 + b")",
    "branches": b"0\n    if a: pass\n" + b"    elif a: pass\n" * 500,
}
"""Expressions, and a chain of branches, that LibCST parses and cannot write."""


@pytest.mark.parametrize("deep", DEEP.values(), ids=DEEP)
def test_a_site_beside_what_is_nested_too_deeply(deep: bytes) -> None:
    guard = GUARD.replace(b"return x.is_cuda", b"return x.is_cuda, " + deep)
    if b"elif" in deep:
        guard = guard.replace(b"return x.is_cuda, 0\n    if a", b"if x.is_cuda")
    result = migrate(guard)
    assert result == FileResult("vllm/x.py", None, failure=result.failure)
    assert result.failure == "it is nested too deeply to be searched"


@pytest.mark.parametrize("deep", DEEP.values(), ids=DEEP)
def test_what_is_nested_too_deeply_elsewhere_is_kept(deep: bytes) -> None:
    """Only the statements around edits are written by LibCST; the rest is taken as it is."""
    rest = b"def g(a):\n    return " + deep + b"\n"
    assert migrate(GUARD + rest).after == MIGRATED + rest


@pytest.mark.parametrize(
    "expression", ["a or ", "a and b or ", "a or\\\n"], ids=["or", "and-or", "lines"]
)
@pytest.mark.parametrize("count", [1_100, 20_000])
def test_operators_that_kill_libcst(expression: str, count: int) -> None:
    """Python takes them as one flat node; LibCST's parser would end this process."""
    source = f"x = {expression * count}a\n"
    ast.parse(source)
    result = migrate(GUARD + source.encode())
    assert result.failure is not None
    assert "too deep for LibCST" in result.failure


def test_import_that_kills_libcst() -> None:
    result = migrate(GUARD + b"import a" + b".b" * 20_000 + b"\n")
    assert result.failure is not None
    assert "too deep for LibCST" in result.failure


@pytest.mark.parametrize(
    ("longest", "too_long"),
    [
        (b"x = " + b"a or " * 999 + b"a\n", b"x = " + b"a or " * 1000 + b"a\n"),
        (b"x = " + b"a or " * 999 + b"(a or b)\n", b"x = " + b"a or " * 1000 + b"(a or b)\n"),
        (b"import " + b"a." * 999 + b"a\n", b"import " + b"a." * 1000 + b"a\n"),
    ],
    ids=["operators", "two", "import"],
)
def test_the_longest_chain_that_libcst_gets(longest: bytes, too_long: bytes) -> None:
    nests = "it nests more than 1000 operators or names, too deep for LibCST"
    assert migrate(GUARD + longest).failure != nests
    refused = migrate(GUARD + too_long)
    assert refused.after is None
    assert refused.failure == nests


def test_many_operators_apart_are_no_failure() -> None:
    many = b"x = a or b and c\n" * 1500 + b"y = a.b.c\n" * 1500
    result = migrate(GUARD + many)
    assert result.failure is None
    assert result.after == MIGRATED + many


@pytest.mark.parametrize(
    "text",
    [
        b"x = " + b"(" * 199 + b"1" + b")" * 199,
        b"x = " + b"[" * 190 + b"]" * 190,
        b"x = " + b" + ".join([b"a"] * 60),
        b"".join(b" " * n + b"if 1:\n" for n in range(99)) + b" " * 99 + b"pass",
        b"x = a < " + b"b < " * 20_000 + b"c",
        b"@a\n" * 5_000 + b"def g(): pass",
        b"# a comment and no more",
        b"    ",
        b"\t# tabs",
        b"y = 1 + \\\n  2",
        b"match a:\n  case {'x': [1, *_], **k} if k: pass",
        b"try:\n  pass\nexcept* ValueError:\n  pass",
        b"async def g():\n  async with a as b, c: await b",
    ],
    ids=lambda text: repr(text[:12]),
)
@pytest.mark.parametrize("end", [b"", b"\n"], ids=["no-end", "end"])
def test_odd_but_fine(text: bytes, end: bytes) -> None:
    result = migrate(GUARD + text + end)
    assert result.failure is None
    assert result.after == MIGRATED + text + end


@pytest.mark.parametrize(
    "encoding", ["utf-8", "utf-8-sig", "latin-1", "cp1252", "euc-jp", "koi8-r", "utf-7"]
)
def test_encodings(encoding: str) -> None:
    remark = {"euc-jp": "あ", "koi8-r": "Ж", "latin-1": "é", "cp1252": "€"}.get(encoding, "あé")
    before = f"# coding: {encoding}\n{GUARD.decode()}# {remark}\n"
    after = before.replace("x.is_cuda", 'x.device.type == "cuda"')
    result = migrate(before.encode(encoding))
    assert result.failure is None
    assert result.after == after.encode(encoding)


@pytest.mark.parametrize(
    ("encoding", "sign", "other"),
    [("cp932", b"\x81\xe6", b"\x87\x9a"), ("big5", b"\xa2\x41", b"\xa1\xfe")],
)
def test_bytes_that_libcst_would_change_are_kept(encoding: str, sign: bytes, other: bytes) -> None:
    """These have two codes for some signs; a file with the other code would not come back."""
    assert sign.decode(encoding) == other.decode(encoding)
    coding = f"# coding: {encoding}\n".encode()
    assert migrate(coding + GUARD + b"# " + sign + b"\n").after == (
        coding + MIGRATED + b"# " + sign + b"\n"
    )
    for data in (coding + GUARD + b"# " + other + b"\n", coding + GUARD[:-1] + b"  # " + other):
        result = migrate(data)
        assert result.after is None
        assert result.failure == "LibCST does not give its bytes back unchanged"


def test_a_file_without_sites_is_not_written() -> None:
    for data in (b"", b"\n", b"x = 1\n", b"\xef\xbb\xbf", b"# only a comment"):
        assert migrate(data) == FileResult("vllm/x.py", None)


# ---- edits ---------------------------------------------------------------------------------


class Custom(Rule):
    """A rule of these tests."""

    code = "NPU900"
    safety = Safety.EQUIVALENT

    def __init__(self, code: str, edits: Callable[[File], list[tuple[cst.CSTNode, Edit]]]) -> None:
        self.code = code  # type: ignore[misc] # one class serves several codes here
        self._edits = edits

    def check(self, file: File) -> Iterator[Finding]:
        for node, edit in self._edits(file):
            yield changed("<module>", node, "a reason", edit)


def names(file: File, *wanted: str) -> list[cst.CSTNode]:
    return [n for n in walk(file.module) if isinstance(n, cst.Name) and n.value in wanted]


def rename(code: str, old: str, new: str) -> Custom:
    return Custom(
        code, lambda file: [(n, Replace(n, lambda _: cst.Name(new))) for n in names(file, old)]
    )


def test_two_rules_for_one_node() -> None:
    result = migrate(b"a = b\n", [rename("NPU901", "b", "c"), rename("NPU902", "b", "d")])
    assert result.after is None
    assert result.failure == "two rules replace the same node (rules NPU901, NPU902)"


def insert_all(code: str, text: str) -> Custom:
    return Custom(code, lambda file: [(s, Insert(s, text)) for s in file.module.body])


def replace_calls(code: str, make: Callable[[cst.CSTNode], cst.CSTNode]) -> Custom:
    return Custom(
        code,
        lambda file: [(n, Replace(n, make)) for n in walk(file.module) if isinstance(n, cst.Call)],
    )


def test_an_edit_inside_of_a_replaced_node_that_is_kept() -> None:
    def negate(node: cst.CSTNode) -> cst.CSTNode:
        assert isinstance(node, cst.Call)
        return cst.UnaryOperation(cst.Not(), node)

    result = migrate(b"a = f(b)\n", [replace_calls("NPU901", negate), rename("NPU902", "b", "c")])
    assert result.failure is None
    assert result.after == b"a = not f(c)\n"


def test_an_edit_inside_of_a_replaced_node_that_is_dropped() -> None:
    drop = replace_calls("NPU901", lambda _: cst.Name("nothing"))
    result = migrate(b"a = f(b)\n", [drop, rename("NPU902", "b", "c")])
    assert result.after is None
    assert result.failure is not None
    assert "inside a node that another edit replaces (rules NPU901, NPU902)" in result.failure


def test_a_result_that_is_no_python() -> None:
    result = migrate(b"a = b\n", [rename("NPU901", "a", "None")])
    assert result.after is None
    assert result.failure is not None
    assert result.failure.startswith("the rewritten file does not parse: not valid Python: line 1")
    assert result.failure.endswith("(rules NPU901)")


@pytest.mark.parametrize(
    "rule",
    [rename("NPU901", "a", "not a name"), insert_all("NPU901", "def broken(:\n")],
    ids=["node", "statements"],
)
def test_an_edit_that_cannot_be_made(rule: Custom) -> None:
    result = migrate(b"a = b\n", [rule])
    assert result.after is None
    assert result.failure is not None
    assert result.failure.endswith("(rules NPU901)")


def insert(code: str, name: str, text: str, where: str, blank_lines: int = 0) -> Custom:
    def edits(file: File) -> list[tuple[cst.CSTNode, Edit]]:
        return [
            (s, Insert(s, text, where, blank_lines))
            for s in walk(file.module)
            if isinstance(s, (cst.SimpleStatementLine, cst.BaseCompoundStatement))
            and file.code(s).strip().startswith(name)
        ]

    return Custom(code, edits)


def test_inserts_of_two_rules_come_in_the_order_of_their_codes() -> None:
    first = insert("NPU901", "b = 2", "one()\n", "before")
    second = insert("NPU902", "b = 2", "two()\n", "before")
    third = insert("NPU903", "b = 2", "three()\n", "after", blank_lines=1)
    result = migrate(b"a = 1\nb = 2\nc = 3\n", [first, second, third])
    assert result.after == b"a = 1\none()\ntwo()\nb = 2\n\nthree()\nc = 3\n"
    assert [(r.rule, r.before, r.after) for r in result.records] == [
        ("NPU901", Span(2, 2), Span(2, 2)),
        ("NPU902", Span(2, 2), Span(3, 3)),
        ("NPU903", Span(2, 2), Span(6, 6)),
    ]


def test_inserted_statements_take_the_line_ends_and_indentation_of_their_file() -> None:
    source = b"def f():\r\n\tif a:\r\n\t\tb = 2\r\n"
    code = "if c:\n    # why\n    d('''one\n  two''')\n"
    rule = insert("NPU901", "b = 2", code, "before")
    result = migrate(source, [rule])
    inserted = b"\t\tif c:\r\n\t\t\t# why\r\n\t\t\td('''one\r\n  two''')\r\n"
    assert result.after == source.replace(b"\t\tb = 2", inserted + b"\t\tb = 2")


def test_inserted_statements_do_not_repeat_form_feeds() -> None:
    """A file may indent with form feeds; from each Python counts columns anew."""
    source = b"def f():\n\f\f  pass\ndef g():\n b = 2\n"
    result = migrate(
        source, [insert("NPU901", "b = 2", "if c:\n    if d:\n        e()\n", "before")]
    )
    inserted = b" if c:\n     if d:\n         e()\n"
    assert result.after == source.replace(b" b = 2", inserted + b" b = 2")


def test_a_statement_beside_one_on_its_headers_line() -> None:
    rule = Custom(
        "NPU901",
        lambda file: [
            (n, Insert(n, "c()\n"))
            for n in walk(file.module)
            if isinstance(n, cst.Expr) and file.code(n).strip() == "b()"
        ],
    )
    result = migrate(b"def f(): b()\n", [rule])
    assert result.after is None
    assert result.failure is not None
    assert "header's line (rules NPU901)" in result.failure


def test_first_log_on_functions_of_one_line() -> None:
    """A body on its header's line gets no branch, and the file says so instead of breaking."""
    source = b"import torch\ndef rms_norm(out, input, weight, epsilon): return k(out, input)\n"
    result = migrate(source, path="vllm/_custom_ops.py")
    assert result.after is None
    assert result.failure is not None
    assert "header's line" in result.failure


# ---- rules that are wrong ------------------------------------------------------------------


def raising(error: Exception) -> Callable[..., Any]:
    def fail(*_: object) -> Any:
        raise error

    return fail


class Named(Rule):
    """Names nodes and changes nothing."""

    code = "NPU900"
    safety = Safety.EQUIVALENT

    def __init__(self, wanted: type[cst.CSTNode]) -> None:
        self._wanted = wanted

    def check(self, file: File) -> Iterator[Finding]:
        for node in (file.module, *walk(file.module)):
            if isinstance(node, self._wanted):
                yield manual("<module>", node, "a reason")


@pytest.mark.parametrize(
    ("rule", "failure"),
    [
        (
            Custom("NPU901", raising(ValueError("odd\nand more"))),
            "NPU901 cannot cope with it, which is a bug to report (ValueError: odd)",
        ),
        (
            Custom("NPU901", raising(KeyError())),
            "NPU901 cannot cope with it, which is a bug to report (KeyError: KeyError)",
        ),
        (Custom("NPU901", raising(RecursionError())), "it is nested too deeply to be searched"),
        (
            replace_calls("NPU901", raising(ValueError("odd"))),
            "NPU901 cannot cope with it, which is a bug to report (ValueError: odd)",
        ),
        (replace_calls("NPU901", raising(RecursionError())), "RecursionError (rules NPU901)"),
    ],
    ids=["check", "no-text", "check-deep", "edit", "edit-deep"],
)
def test_a_rule_that_raises_costs_one_file(rule: Custom, failure: str) -> None:
    result = migrate(b"a = f(b)\n", [rule])
    assert result == FileResult("vllm/x.py", None, failure=result.failure)
    assert result.failure is not None
    assert result.failure.startswith(failure)


def test_a_site_that_is_not_in_the_file() -> None:
    class Elsewhere(Named):
        def check(self, file: File) -> Iterator[Finding]:
            yield manual("<module>", cst.Name("elsewhere"), "a reason")

    result = migrate(b"a = b\n", [Elsewhere(cst.Name)])
    assert result.failure is not None
    assert result.failure.startswith(
        "the engine cannot cope with it, which is a bug to report (Key"
    )


def test_a_text_that_the_files_encoding_has_not() -> None:
    data = b"# coding: latin-1\na = b\n"
    result = migrate(data, [insert_all("NPU901", "c = '\u03c0'\n")])
    assert result.after is None
    assert result.failure is not None
    assert result.failure.startswith("it cannot be written in its own encoding: 'latin-1' codec")


def test_a_layout_that_is_wrong_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """Which lines a statement takes is a guess; the module as a whole is what its text is from."""
    around = Layout.around
    source = b"a = 1\nb = 2\nc = 3\n"
    wanted = source.replace(b"b = 2", b"d()\nb = 2")
    rule = insert("NPU901", "b = 2", "d()\n", "before")
    for drop in (0, -1):

        def wrong(self: Layout, nodes: Iterable[cst.CSTNode], at: int = drop) -> list[Piece]:
            pieces = around(self, nodes)
            return pieces if len(pieces) == 1 else [p for p in pieces if p is not pieces[at]]

        with monkeypatch.context() as patch:
            patch.setattr(Layout, "around", wrong)
            assert migrate(source, [rule]).after == wanted


# ---- records -------------------------------------------------------------------------------


def test_lines_and_excerpts_of_sites() -> None:
    source = b"\n\n# a remark\n@c\ndef f(\n    a,\n    b,\n):\n    # why\n    return g(\n  a, b)\n"

    def of(kind: type[cst.CSTNode]) -> list[tuple[Span | None, str]]:
        result = migrate(source, [Named(kind)])
        assert all((r.after, r.status) == (None, Status.MANUAL) for r in result.records)
        return [(r.before, r.source) for r in result.records]

    assert of(cst.FunctionDef) == [(Span(5, 11), "def f")]
    assert of(cst.SimpleStatementLine) == [(Span(10, 11), "# why return g( a, b)")]
    assert of(cst.Call) == [(Span(10, 11), "g( a, b)")]
    assert of(cst.Parameters) == [(Span(6, 7), "a, b,")]
    assert of(cst.Module)[0][0] == Span(3, 11)


@pytest.mark.parametrize("length", [159, 160, 161, 400])
def test_an_excerpt_is_shortened_to_160_characters(length: int) -> None:
    text = f"f({'x' * (length - 3)})"
    (record,) = migrate(text.encode(), [Named(cst.Call)]).records
    assert record.source == (text if length <= 160 else text[:159] + "…")


def test_blank_lines_before_what_is_inserted_are_empty() -> None:
    rule = insert("NPU901", "# why", "b()\nc()\n", "before", blank_lines=2)
    result = migrate(b"def f():\n    # why\n    a = 1\n", [rule])
    assert result.after == b"def f():\n\n\n    b()\n    c()\n    # why\n    a = 1\n"
    assert [(r.before, r.after) for r in result.records] == [(Span(3, 3), Span(4, 5))]


# ---- properties ----------------------------------------------------------------------------

NAMES = st.sampled_from(["x", "y", "logits", "current_platform", "self", "flag"])
EXPRESSIONS = st.recursive(
    st.one_of(
        NAMES,
        NAMES.map(lambda n: f"{n}.is_cuda"),
        NAMES.map(lambda n: f"{n}.is_cuda()"),
        NAMES.map(lambda n: f"{n}.device.type"),
        NAMES.map(lambda n: f"{n}[0].is_cuda"),
        st.sampled_from(['"nccl"', '"cpu:gloo,cuda:nccl"', "1", "None", "torch.ones(1).is_cuda"]),
    ),
    lambda inner: st.one_of(
        st.tuples(inner, st.sampled_from([" and ", " or ", " == ", " + ", " if x else "]), inner)
        .map("".join)
        .map(lambda text: f"({text} else 0)" if " if " in text and "else" not in text else text),
        inner.map(lambda text: f"not {text}"),
        inner.map(lambda text: f"({text})"),
        inner.map(lambda text: f"f(backend={text})"),
        inner.map(lambda text: f"init_process_group(backend={text}, x={text})"),
        inner.map(lambda text: f"[{text}, *y]"),
        inner.map(lambda text: f"lambda: {text}"),
    ),
    max_leaves=6,
)
STATEMENTS = st.recursive(
    st.one_of(
        EXPRESSIONS.map(lambda e: f"return {e}\n"),
        EXPRESSIONS.map(lambda e: f"z = {e}\n"),
        EXPRESSIONS.map(lambda e: f"assert {e}, {e}\n"),
        st.sampled_from(["pass\n", "# a remark\npass\n", '"""text"""\n', "import torch\n"]),
    ),
    lambda inner: st.one_of(
        st.tuples(EXPRESSIONS, inner).map(lambda p: f"if {p[0]}:\n{indent(p[1])}"),
        inner.map(lambda s: f"try:\n{indent(s)}except ImportError:\n    pass\n"),
        st.tuples(
            st.sampled_from(["f", "rms_norm", "rotary_embedding", "init_distributed_environment"]),
            st.sampled_from(
                [
                    "x: torch.Tensor, y",
                    "out, input, weight, epsilon",
                    'backend: str = "nccl"',
                    "positions, query, key, head_size, cos_sin_cache, is_neox",
                ]
            ),
            inner,
        ).map(lambda p: f"def {p[0]}({p[1]}):\n{indent(p[2])}"),
        st.tuples(st.sampled_from(["A", "SiluAndMul", "RMSNorm"]), inner).map(
            lambda p: f"class {p[0]}:\n{indent(p[1])}"
        ),
    ),
    max_leaves=5,
)


def indent(text: str) -> str:
    return "".join(f"    {line}" for line in text.splitlines(keepends=True))


def parses(text: str) -> bool:
    try:
        ast.parse(text)
    except SyntaxError:
        return False
    return True


MODULES = (
    st.lists(STATEMENTS, min_size=1, max_size=4)
    .map(lambda parts: "import torch\n" + "".join(parts))
    .filter(parses)
)


@settings(max_examples=150, suppress_health_check=list(HealthCheck))
@given(
    source=MODULES,
    path=st.sampled_from(
        ["vllm/x.py", "vllm/_custom_ops.py", "vllm/distributed/parallel_state.py"]
    ),
    newline=st.sampled_from(["\n", "\r\n"]),
    bom=st.booleans(),
)
def test_any_module(source: str, path: str, newline: str, bom: bool) -> None:
    before = source.replace("\n", newline).encode("utf-8-sig" if bom else "utf-8")
    result = migrate(before, path=path)
    assert result.failure is None, source
    statuses = [r.status for r in result.records]
    if result.after is None:
        assert Status.CHANGED not in statuses
        return
    assert Status.CHANGED in statuses
    ast.parse(result.after)
    assert result.after.startswith(b"\xef\xbb\xbf") == bom
    if newline == "\r\n":
        assert result.after.count(b"\n") == result.after.count(b"\r\n")
    again = migrate(result.after, path=path)
    assert again.failure is None
    assert again.after is None or again.after == result.after
    assert Status.CHANGED not in [r.status for r in again.records]
    # What no rule names stays, line by line: only whole new lines and the changed sites differ.
    touched = {
        line
        for r in result.records
        if r.status is Status.CHANGED and r.before is not None
        for line in range(r.before.line, r.before.end_line + 1)
    }
    kept = result.after.splitlines()
    for number, line in enumerate(before.splitlines(), start=1):
        if number not in touched:
            assert line in kept, f"line {number} was changed and no record says so"


@settings(max_examples=60, suppress_health_check=list(HealthCheck))
@given(data=st.binary(max_size=200))
def test_any_bytes(data: bytes) -> None:
    """Whatever stands in a file, it ends in a failure or comes back unchanged but for its site."""
    whole = GUARD + data
    result = migrate(whole)
    if result.failure is None:
        assert result.after is not None
        assert result.after.startswith(MIGRATED[:-1])
    else:
        assert result.after is None


def test_the_engine_needs_no_torch() -> None:
    program = "import migrator.codemod.engine, migrator.rules, sys; migrator.rules.all_rules()\n"
    program += "assert 'torch' not in sys.modules and 'rich' not in sys.modules"
    subprocess.run([sys.executable, "-c", program], check=True)
