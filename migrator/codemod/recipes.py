# SPDX-License-Identifier: Apache-2.0
"""Recipes that several rules share: a branch for NPU tensors, a `forward_oot` method."""

from __future__ import annotations

import textwrap
from collections.abc import Collection, Iterator

import libcst as cst

from migrator.codemod.matchers import (
    annotation_text,
    first_statement,
    parameter_names,
    parameters,
    walk,
)
from migrator.codemod.rule import (
    TORCH_NPU,
    File,
    Finding,
    Insert,
    changed,
    manual,
    migrated,
)


def tests_for_npu(expression: cst.CSTNode) -> bool:
    """Does the expression compare something with the string `npu`?"""
    return any(
        isinstance(node, cst.ComparisonTarget)
        and isinstance(node.comparator, cst.SimpleString)
        and node.comparator.evaluated_value == "npu"
        for node in walk(expression)
    )


def has_npu_branch(function: cst.FunctionDef) -> bool:
    """Does the function's body have an `if` on the device type `npu`?"""
    return any(
        isinstance(statement, cst.If) and tests_for_npu(statement.test)
        for statement in function.body.body
    )


def mentions(node: cst.CSTNode, name: str) -> bool:
    """Does the code of `node` use the name?"""
    return any(isinstance(n, cst.Name) and n.value == name for n in walk(node))


def npu_branch(
    file: File,
    name: str,
    *,
    tensor: str,
    known: Collection[str],
    optional: Collection[str] = (),
    body: str,
    reason: str,
    needs: Collection[str] = (TORCH_NPU,),
    helper: str = "",
) -> Iterator[Finding]:
    """Put a branch for NPU tensors before the body of the function `name` of a module.

    Args:
        file: the module.
        name: the function's qualified name, which is the site's name as well.
        tensor: the parameter whose device decides.
        known: parameters for which `body` is right; with one less a person has to look, and with
            one more, but for those whose default is None: any other value is refused.
        optional: those of them that some releases do not have.
        body: statements of the branch, at indentation zero; they end with a `return`.
        reason: why, for the log.
        needs: what the branch needs imported.
        helper: a function that the branch calls, put after this one; it is at indentation zero.
    """
    function = file.function(name)
    if function is None:
        return
    if has_npu_branch(function):
        yield migrated(name, function, needs)
        return
    names = parameter_names(function)
    lacking = [n for n in known if n not in names and n not in optional]
    if lacking:
        yield manual(name, function, f"it lacks parameters that the NPU branch uses: {lacking}")
        return
    unknown = [n for n in names if n not in known]
    refused = refuse_unless_none(name, function, unknown)
    if refused is None:
        yield manual(
            name, function, f"it has parameters that the NPU branch does not know: {unknown}"
        )
        return
    branch = f'if {tensor}.device.type == "npu":\n{textwrap.indent(refused + body, "    ")}'
    edits = [Insert(first_statement(function), branch)]
    if helper:
        edits.append(Insert(function, helper, where="after", blank_lines=2))
    yield changed(name, function, reason, *edits, needs=needs)


def refuse_unless_none(what: str, function: cst.FunctionDef, names: Collection[str]) -> str | None:
    """Statements that refuse any value but None of parameters that a branch does not know.

    A fork adds such parameters for kernels of its own, and passes them where it has those.

    Args:
        what: who takes them, for the message.
        function: the function that has them.
        names: theirs.

    Returns:
        Source at indentation zero, empty without names; None if a default is anything but None.
    """
    defaults = {p.name.value: p.default for p in parameters(function)}
    for name in names:
        default = defaults.get(name)
        if not isinstance(default, cst.Name) or default.value != "None":
            return None
    return "".join(
        f"if {name} is not None:\n"
        f'    raise NotImplementedError("{what} takes no {name} on an NPU")\n'
        for name in names
    )


def ones_for_missing_weight(file: File, name: str) -> str:
    """Statements that make a weight where the function `name` takes None for it; else nothing."""
    function = file.function(name)
    for parameter in parameters(function) if function is not None else ():
        if parameter.name.value == "weight" and "None" in annotation_text(
            parameter.annotation
        ).replace("Optional", "None"):
            return "if weight is None:\n    weight = input.new_ones(input.shape[-1])\n"
    return ""


def forward_oot(
    file: File,
    class_name: str,
    *,
    takes: tuple[str, ...],
    body: str,
    reason: str,
    needs: Collection[str] = (TORCH_NPU,),
    signature: str | None = None,
) -> Iterator[Finding]:
    """Give a `CustomOp` class a `forward_oot`, put after its `forward_cuda`.

    Args:
        file: the module.
        class_name: the class; the site's name is `<class>.forward_oot`.
        takes: the parameters that `forward_cuda` must have for `body` to be right. Further ones
            whose default is None are carried along, and any other value of them is refused.
        body: the method's statements, at indentation zero.
        reason: why, for the log.
        needs: what the method needs imported.
        signature: the method's own first line; that of `forward_cuda` when left out.
    """
    site = f"{class_name}.forward_oot"
    class_ = file.head(class_name)
    cuda = file.function(f"{class_name}.forward_cuda")
    if class_ is None or cuda is None:
        return
    own = file.function(site)
    if own is not None:
        if tests_for_npu(own.body):
            yield migrated(site, own, needs)
        else:
            yield manual(site, own, "vLLM gives this class a forward_oot of its own")
        return
    if file.is_bound(site):
        yield manual(site, class_, "vLLM gives this class a forward_oot of its own")
        return
    names = tuple(parameter_names(cuda))
    refused = (
        "" if signature is not None else refuse_unless_none(class_name, cuda, names[len(takes) :])
    )
    if names[: len(takes)] != takes or refused is None:
        yield manual(site, cuda, f"its forward_cuda takes {names}, not {takes}")
        return
    header = signature if signature is not None else _header(file, cuda)
    code = f"{header}\n{textwrap.indent(refused + body, '    ')}"
    yield changed(site, cuda, reason, Insert(cuda, code, where="after", blank_lines=1), needs=needs)


def _header(file: File, function: cst.FunctionDef) -> str:
    """The first lines of a `forward_oot` with the parameters and result of `function`."""
    bare = function.with_changes(
        name=cst.Name("forward_oot"),
        decorators=(),
        leading_lines=(),
        lines_after_decorators=(),
        body=cst.IndentedBlock([cst.SimpleStatementLine([cst.Pass()])]),
    )
    return file.code(bare).rstrip().removesuffix("pass").rstrip()
