# SPDX-License-Identifier: Apache-2.0
"""A name that is defined twice: every rule changes what runs, or leaves it for a person.

Each rule's own examples, with each of its sites put below `if` and `else`, below `try` and
`except`, and once more further down.
"""

from __future__ import annotations

import ast
import textwrap
from collections.abc import Iterator

import libcst as cst
import pytest

from migrator.codemod.engine import migrate_file
from migrator.codemod.matchers import DoubtfulError, bound, definition
from migrator.codemod.rule import Example, Rule, Status
from migrator.files.tree import Tree
from migrator.rules import all_rules

FORMS = {
    "if": ("if FLAG:\n", "else:\n"),
    "try": ("try:\n", "except ImportError:\n"),
    "later": ("", ""),
}


def named(body: list[ast.stmt], name: str) -> ast.stmt | None:
    """The statement of a body that defines or assigns a name."""
    for node in body:
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        if getattr(node, "name", None) == name or (
            isinstance(node, ast.Assign | ast.AnnAssign)
            and any(isinstance(target, ast.Name) and target.id == name for target in targets)
        ):
            return node
    return None


def found(source: str, site: str) -> Iterator[tuple[str, ast.stmt]]:
    """The statements of a source that a site's name goes through: the class, its method."""
    body, above = ast.parse(source).body, ""
    for part in site.split("."):
        node = named(body, part)
        if node is None or isinstance(getattr(node, "value", None), ast.Name):
            return  # another name of something is no definition
        above = f"{above}.{part}".lstrip(".")
        yield above, node
        body = getattr(node, "body", [])


def twice(source: str, node: ast.stmt, form: str) -> str:
    """The source with a statement in it two times."""
    lines = source.splitlines(keepends=True)
    decorators = getattr(node, "decorator_list", [])
    first = min([node.lineno, *(d.lineno for d in decorators)]) - 1
    last = node.end_lineno or node.lineno
    own = textwrap.dedent("".join(lines[first:last]))
    heads = FORMS[form]
    parts = [head + textwrap.indent(own, "    " if head else "") for head in heads]
    text = textwrap.indent("\n".join(parts), " " * node.col_offset)
    return "".join([*lines[:first], text, *lines[last:]])


def copies(source: str, name: str) -> list[str]:
    """What the statements for a qualified name are, in order, without where they stand."""
    *above, last = name.split(".")
    nodes: list[ast.AST] = [ast.parse(source)]
    for part in above:
        nodes = [n for node in nodes for n in ast.walk(node) if getattr(n, "name", "") == part]
    return [
        ast.dump(node)
        for outer in nodes
        for node in ast.walk(outer)
        if isinstance(node, ast.stmt) and named([node], last) is node
    ]


CASES = [
    pytest.param(rule, example, name, form, id=f"{rule.code}-{number}-{name}-{form}")
    for rule in all_rules()
    for number, example in enumerate(rule.examples)
    if example.after is not None
    for site in rule.sites
    if example.path in site.paths and site.name != "ext_modules"  # an `if` around an assignment
    for name, _ in found(example.before, site.name)
    for form in FORMS
]


@pytest.mark.parametrize(("rule", "example", "name", "form"), CASES)
def test_no_branch_goes_into_a_dead_definition(
    rule: Rule, example: Example, name: str, form: str
) -> None:
    node = dict(found(example.before, name))[name]
    source = twice(example.before, node, form)
    original = copies(source, name)
    assert len(original) == 2
    files = {path: text.encode() for path, text in example.others}
    helpers = [r for r in all_rules() if r.provides is not None and r is not rule]
    tree = Tree(files | {example.path: source.encode()})
    result = migrate_file(example.path, source.encode(), [rule, *helpers], tree)
    assert result.failure is None
    statuses = {r.status for r in result.records if r.rule == rule.code}
    after = copies(source if result.after is None else result.after.decode(), name)
    if len(after) > len(original):
        # What wraps a definition under its own name stands behind the one that runs.
        assert form == "later"
        assert Status.CHANGED in statuses
        assert after[: len(original)] == original
        return
    changed = [old != new for old, new in zip(original, after, strict=True)]
    if Status.MANUAL in statuses:
        assert not any(changed)
    elif form == "later":
        # The last one is what runs. What a rule puts beside a statement leaves both as they are.
        assert changed[1] or Status.CHANGED in statuses
        assert changed != [True, False]
    else:
        assert changed == [True, True]


def test_every_rule_that_looks_for_a_definition_is_tried() -> None:
    tried = {str(case.id).partition("-")[0] for case in CASES}
    assert len(tried) >= 30
    for code in ("NPU101", "NPU102", "NPU120", "NPU212", "NPU213", "NPU214", "NPU402"):
        assert code in tried


IN_FORCE = {
    "def f(): 1\ndef f(): 2": "2",
    "if a:\n    def f(): 1\ndef f(): 2": "2",
    "if a:\n    def f(): 1\nelse:\n    def f(): 2": None,
    "if a: pass\nelif b:\n    def f(): 1\nelse:\n    def f(): 2": None,
    "def f(): 1\nif a:\n    def f(): 2": None,
    "try:\n    def f(): 1\nexcept E:\n    def f(): 2": None,
    "try:\n    from x import f\nexcept ImportError:\n    def f(): 2": None,
    "with a:\n    def f(): 1\ndef f(): 2": "2",
    "with a:\n    def f(): 1\n    def f(): 2": "2",
    "for a in b:\n    def f(): 1\nelse:\n    def f(): 2": None,
    "match a:\n    case 1:\n        def f(): 1\n    case _:\n        def f(): 2": None,
    "@overload\ndef f(): 1\n@overload\ndef f(): 3\ndef f(): 2": "2",
    "@typing.overload\ndef f(): 1\ndef f(): 2": "2",
    "@property\ndef f(): 2\n@f.setter\ndef f(x): 1": "2",
    "def f(): 1\nx = register(f)\ndef f(): 2": None,
    "def f(): 1\n@f.register\ndef f(): 2": None,
    "def f(): 2\nf = compiled(f)": "2",
    "def f(): 1\nf = g": None,
    "def f(): 1\nfrom x import f": None,
    "def f(): 1\ndel f": None,
    "def f(): 1\nf, g = a": None,
    "from x import f\ndef f(): 2": "2",
    "f = None\ndef f(): 2": "2",
    "if TYPE_CHECKING:\n    def f(): 1\nelse:\n    def f(): 2": "2",
    "if TYPE_CHECKING:\n    from x import f\nelse:\n    def f(): 2": "2",
    "if a:\n    def f(): 2": "2",
}


@pytest.mark.parametrize("below", ["", "class C:\n"], ids=["module", "class"])
@pytest.mark.parametrize("source", IN_FORCE)
def test_which_definition_is_in_force(source: str, below: str) -> None:
    expected = IN_FORCE[source]
    name = "C.f" if below else "f"
    module = cst.parse_module(below + textwrap.indent(source, "    " if below else "") + "\n")
    if expected is None:
        with pytest.raises(DoubtfulError) as error:
            definition(module, name)
        assert error.value.name == name
    else:
        node = definition(module, name)
        assert node is not None
        assert cst.Module([]).code_for_node(node).strip().endswith(expected)


def test_what_is_only_assigned_is_no_definition() -> None:
    module = cst.parse_module("f = 1\nf = 2\n")
    assert definition(module, "f") is None
    assert bound(module, "f") is not None
    assert bound(module, "g") is None
    module = cst.parse_module("if a: f = 1\nelse: f = 2\n")
    assert definition(module, "f") is None
    with pytest.raises(DoubtfulError):
        bound(module, "f")


def test_trees_prefer_the_definition_in_force() -> None:
    for source, expected in IN_FORCE.items():
        node = Tree({"a.py": source.encode()}).definition("a.py", "f")
        if expected is not None and "f = g" not in source:
            assert node is not None
            assert ast.unparse(node).endswith(expected), source
