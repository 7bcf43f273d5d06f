# SPDX-License-Identifier: Apache-2.0
"""Trees that are laid out by yapf and isort get code that both leave alone."""

from __future__ import annotations

import ast
from pathlib import Path

import isort
import libcst as cst
import pytest
from yapf.yapflib import yapf_api

from migrator.codemod import narrow_prose, tree_style
from migrator.codemod.engine import migrate_file
from migrator.codemod.rule import File, Finding, Insert, Replace, Rule, Safety, changed
from migrator.files.tree import Tree

HOOKS = b"repos:\n- repo: a\n  hooks:\n  - id: yapf\n    args: [--in-place]\n"
ISORT = b"- repo: b\n  hooks:\n  - id: isort\n"
PROJECT = (
    b"[tool.ruff]\nline-length = 80\n[tool.isort]\nuse_parentheses = true\nskip_glob = ['x']\n"
)
TEMPLATES = Path(__file__).resolve().parents[2] / "templates" / "vllm"


def tree(**files: bytes) -> Tree:
    named = {"pyproject.toml": PROJECT, ".pre-commit-config.yaml": HOOKS + ISORT}
    return Tree(named | files)


def assert_left_alone(code: str) -> None:
    """Neither yapf nor isort changes a module, and no line has more than its columns."""
    assert yapf_api.FormatCode(code, style_config="pep8")[0] == code
    config = isort.Config(use_parentheses=True, known_first_party=("vllm",), src_paths=("/x",))
    assert isort.code(code, config=config) == code
    assert [line for line in code.splitlines() if len(line) > 80 and "noqa" not in line] == []


class Edits(Rule):
    """Puts statements before `site` and makes `name` longer."""

    code = "NPU999"
    safety = Safety.EQUIVALENT
    triggers = ("site",)
    put = ""
    new = ""

    def check(self, file: File) -> list[Finding]:  # type: ignore[override]
        """Find both."""
        found: list[Finding] = []
        edits = self

        class Sites(cst.CSTVisitor):
            def visit_SimpleStatementLine(self, node: cst.SimpleStatementLine) -> None:
                if edits.put and file.module.code_for_node(node).strip() == "site":
                    found.append(changed("m", node, "why", Insert(node, edits.put, "before")))

            def visit_Name(self, node: cst.Name) -> None:
                if edits.new and node.value == "name":
                    new = cst.parse_expression(edits.new)
                    found.append(changed("m", node, "why", Replace(node, lambda _: new)))

        file.module.visit(Sites())
        return found


def edited(before: str, *, put: str = "", new: str = "") -> str:
    rule = Edits()
    rule.put, rule.new = put, new
    result = migrate_file("vllm/x.py", before.encode(), [rule], tree())
    assert result.failure is None
    assert result.after is not None
    return result.after.decode()


PUT_IN = [
    "normed, _, summed = torch_npu.npu_add_rms_norm(rows, added, weight_of_it, epsilon)",
    "from vllm.model_executor.layers.fused_moe.npu_fused_moe import (\n    zero_experts_some,\n)",
    "if (\n    x.device.type != 'npu'\n    or self.variance_size_override is not None\n"
    "    or not self.has_weight\n):\n    return self.forward_native(x, residual)",
    "# A comment that is laid out for eighty-eight columns, of which here are not so many left.\n"
    "x = 1",
    "if self.something_with_a_long_name and other_condition_of_it and x.y.zz:\n    pass",
    "def contiguous(value):\n    return value.contiguous() if isinstance(value, Tensor) else value",
]


@pytest.mark.parametrize("put", PUT_IN)
@pytest.mark.parametrize("depth", [0, 1, 3])
def test_statements_that_are_put_in(put: str, depth: int) -> None:
    heads = [f"{'    ' * level}if level_{level}:\n" for level in range(depth)]
    before = "".join(heads) + "    " * depth + "site\n"
    after = edited(before, put=put)
    if put.startswith("def"):
        # How many blank lines are around it, the edit says; the rest is yapf's.
        wanted = yapf_api.FormatCode(after, style_config="pep8")[0]
        assert after.split() == wanted.split()
        assert [n for n in after.splitlines() if n] == [n for n in wanted.splitlines() if n]
        return
    assert_left_alone(after)


EDITED = [
    ("site = first_function(second_function, name)", "with_a.rather_long(name_of_it, and_more)"),
    ("if site and other_condition_of_it:\n    pass", None),
    ("site\nif a_condition and \\\n        name and \\\n        another:\n    pass", "x" * 70),
    ("site\nif short:\n    pass\nelif name or another_condition:\n    pass", "f(" + "y" * 60 + ")"),
    ("site\nx = name  # type: ignore", "function_of(the_first_argument, the_second_one)"),
    (
        "site\ndef f(a, b=name):\n    pass",
        "a_name_of.a_default_that_is(quite_long, " + "z" * 20 + ")",
    ),
]


@pytest.mark.parametrize(("before", "new"), EDITED)
def test_statements_that_are_edited(before: str, new: str | None) -> None:
    before = yapf_api.FormatCode(before, style_config="pep8")[0]
    if new is None:
        before, new = before.replace("other", "name and other"), "a" * 40 + " == " + "b" * 20
    after = edited(before, new=new)
    assert new.partition("(")[0].split()[0] in after
    assert_left_alone(after)


def test_a_line_that_goes_on_by_a_backslash_stays_while_it_fits() -> None:
    before = "site\nif first and \\\n        name:\n    pass\n"
    assert edited(before, new="second") == before.replace("name", "second")


def test_modules_that_are_added() -> None:
    style = tree_style.Style.of(tree())
    for name in ("platforms/npu_nnal.py", "v1/sample/npu_rejection_kernels.py"):
        text = (TEMPLATES / name).read_text()
        after = style.module(text)
        assert_left_alone(after)
        assert style.module(after) == after
        assert tokens(after) == tokens(text)


def tokens(text: str) -> list[str]:
    """A module without its layout: its imports sorted, and prose by its words."""
    module = ast.parse(text)
    for node in ast.walk(module):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            node.value = " ".join(node.value.split())
    imports = (ast.Import, ast.ImportFrom)
    return sorted(ast.dump(n) for n in module.body if isinstance(n, imports)) + [
        ast.dump(n) for n in module.body if not isinstance(n, imports)
    ]


def test_imports_that_the_two_want_in_two_ways_are_marked_as_vllm_marks_them() -> None:
    names = ", ".join(f"a_rather_long_name_{letter}" for letter in "abcdefg")
    code = f"from vllm.some.module.that_is_deep import ({names})\nimport os\n"
    after = tree_style.Style.of(tree()).module(code)
    assert_left_alone(after)
    assert after.count("# yapf: disable") == after.count("# yapf: enable") <= 1


def test_a_tree_without_yapf_is_ruffs() -> None:
    style = tree_style.Style.of(Tree({"pyproject.toml": PROJECT}))
    assert style == tree_style.Style(80)
    assert style.module("x = (\n    1,\n)\n") == "x = (\n    1,\n)\n"


def test_a_tree_without_isort_keeps_the_order_of_imports() -> None:
    style = tree_style.Style.of(tree(**{".pre-commit-config.yaml": HOOKS}))
    assert style.module("import b\nimport a\n") == "import b\nimport a\n"


def test_what_yapf_cannot_read_stays() -> None:
    style = tree_style.Style.of(tree())
    assert style.module("type X = f'{x!r:{y}}'\nx  =  1\n").endswith("1\n")


NARROWED = [
    ('"""A summary of forty columns and a few."""\n',
     '"""A summary of forty columns and a\nfew.\n"""\n'),
    ("# One comment that is too long for it.\n# And goes on.\n",
     "# One comment that is too long for\n# it. And goes on.\n"),
    ("# One comment that is too long for it.\n\n# Another.\n",
     "# One comment that is too long for\n# it.\n\n# Another.\n"),
    ('def f():\n    """Short.\n\n    Args:\n        name: what is too long for one line.\n'
     '        other: short.\n    """\n',
     'def f():\n    """Short.\n\n    Args:\n        name: what is too long for\n'
     '            one line.\n        other: short.\n    """\n'),
    ('"""Short.\n\n* an item that is too long for a line\n* another\n"""\n',
     '"""Short.\n\n* an item that is too long for a\n  line\n* another\n"""\n'),
    ('x = (\n    f"a {message} that is too long {for_it}"\n)\n',
     'x = (\n    f"a {message} that is too long "\n    f"{for_it}"\n)\n'),
    ('x = (\n    f"{a} message that is too long for it.",\n)\n',
     'x = (\n    f"{a} message that is too long "\n    "for it.",\n)\n'),
    ('def f():\n    yield f"{a} message that is too long"\n',
     'def f():\n    yield (\n        f"{a} message that is too "\n        "long"\n    )\n'),
    ('x = "a string that has other code beside"\n', 'x = "a string that has other code beside"\n'),
    ("# " + "x" * 40 + "\n", "# " + "x" * 40 + "\n"),
]  # fmt: skip


@pytest.mark.parametrize(("before", "after"), NARROWED)
def test_prose_in_fewer_columns(before: str, after: str) -> None:
    assert narrow_prose.narrowed(before, 36) == after
    assert narrow_prose.narrowed(after, 36) == after
    assert tokens(before) == tokens(after)
