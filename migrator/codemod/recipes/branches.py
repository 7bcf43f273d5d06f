# SPDX-License-Identifier: Apache-2.0
"""A branch in a function: for a tensor on an NPU, or for the NPU platform."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass

import libcst as cst

from migrator.codemod.matchers import (
    annotation_text,
    first_statement,
    parameter_names,
    parameters,
    walk,
)
from migrator.codemod.recipes.platforms import IMPORT, TEST, local_import, tests_for_npu
from migrator.codemod.rule import (
    TORCH_NPU,
    File,
    Finding,
    Insert,
    Recipe,
    changed,
    manual,
    migrated,
)

Code = str | Callable[[cst.FunctionDef], str]
"""Source at indentation zero, or what makes it for the function as a release has it."""
Spot = Callable[[cst.FunctionDef], cst.CSTNode | None]
"""Where in a function: a statement, or None where it has none such."""
Unless = Callable[[str, cst.FunctionDef, File], Finding | None]
"""Of a site's name, its function and its file: a finding that takes the place of the branch."""


def has_npu_branch(function: cst.FunctionDef) -> bool:
    """Does the function's body have an `if` on the device type `npu`?"""
    return any(
        isinstance(statement, cst.If) and tests_for_npu(statement.test)
        for statement in function.body.body
    )


def needs_of(code: str) -> tuple[str, ...]:
    """What has to be imported for some code."""
    return (TORCH_NPU,) if re.search(r"\btorch_npu\b", code) else ()


@dataclass(frozen=True, kw_only=True)
class Branch(Recipe):
    """A branch that a function takes on an NPU, before its body unless `at` says where."""

    body: Code
    """The branch's statements."""
    at: Spot = first_statement
    """The statement that the branch goes before."""
    after: bool = False
    """Does it go behind that one?"""
    lacking: str = ""
    """Why a person has to look where there is no such statement. Without it the site is missing."""
    unless: Unless | None = None
    """What is reported instead of a function in which the branch would be wrong."""

    def check(self, file: File) -> Iterator[Finding]:
        """Report the function: with its branch, without it, or as another one than expected."""
        function = file.function(self.name)
        if function is None:
            return
        body = self.body_of(function)
        if self._is_there(function):
            yield migrated(self.site.name, function, self._needs(function, body))
            return
        other = self.unless(self.site.name, function, file) if self.unless is not None else None
        if other is not None:
            yield other
            return
        anchor = self.at(function)
        if anchor is not None:
            yield self._put(file, function, anchor, body)
        elif self.lacking:
            yield manual(self.site.name, function, self.lacking)

    def body_of(self, function: cst.FunctionDef) -> str:
        """The branch's statements as they are for this function."""
        return _code(self.body, function)

    def _is_there(self, function: cst.FunctionDef) -> bool:
        if self.at is first_statement:
            return has_npu_branch(function)
        return any(isinstance(n, cst.If) and tests_for_npu(n.test) for n in walk(function.body))

    def _needs(self, function: cst.FunctionDef, body: str) -> tuple[str, ...]:
        return needs_of(body)

    def _put(
        self, file: File, function: cst.FunctionDef, anchor: cst.CSTNode, body: str
    ) -> Finding:
        raise NotImplementedError

    def _insert(self, anchor: cst.CSTNode, code: str) -> Insert:
        return Insert(anchor, code, where="after" if self.after else "before")


@dataclass(frozen=True, kw_only=True)
class NpuBranch(Branch):
    """A branch for NPU tensors."""

    tensor: str
    """The parameter, or another expression, whose device decides."""
    takes: Collection[str] | None = None
    """Parameters without which `body` is not right. With one more a person has to look, but for
    those whose default is None: any other value is refused. None: whatever it takes."""
    optional: Collection[str] = ()
    """Parameters that `body` knows and that some releases do not have."""
    helper: Code = ""
    """A function that the branch calls, put after this one."""

    promise = "Guarded: a tensor on another device goes on to the body, which stays as it is."

    @property
    def example(self) -> str:
        """The branch."""
        return _branch(self._test, self.body) if isinstance(self.body, str) else ""

    @property
    def _test(self) -> str:
        return f'{self.tensor}.device.type == "npu"'

    def _needs(self, function: cst.FunctionDef, body: str) -> tuple[str, ...]:
        return needs_of(body + _code(self.helper, function))

    def _put(
        self, file: File, function: cst.FunctionDef, anchor: cst.CSTNode, body: str
    ) -> Finding:
        names = parameter_names(function)
        takes = self.takes if self.takes is not None else names
        lacking = [name for name in takes if name not in names]
        if lacking:
            why = f"it lacks parameters that the NPU branch uses: {lacking}"
            return manual(self.site.name, function, why)
        unknown = [name for name in names if name not in takes and name not in self.optional]
        refused = refuse_unless_none(self.name, function, unknown)
        if refused is None:
            why = f"it has parameters that the NPU branch does not know: {unknown}"
            return manual(self.site.name, function, why)
        edits = [self._insert(anchor, _branch(self._test, refused + body))]
        helper = _code(self.helper, function)
        if helper:
            edits.append(Insert(function, helper, where="after", blank_lines=2))
        needs = self._needs(function, body)
        return changed(self.site.name, function, self.reason, *edits, needs=needs)


@dataclass(frozen=True, kw_only=True)
class NpuCall(NpuBranch):
    """A branch for NPU tensors that hands all that the function gets over to another one."""

    body: Code = ""
    module: str
    """Where the other one is: a module that the tool adds."""
    function: str
    """Its name. It takes `takes` by place and `optional` by name."""
    alias: str = ""
    """What it is called in the branch, where its own name is taken."""
    returns: bool = True
    """Does it return what the function returns? Else it writes it."""

    @property
    def example(self) -> str:
        """Nothing: what is handed over depends on the release."""
        return ""

    def body_of(self, function: cst.FunctionDef) -> str:
        """The import and the call."""
        named = (name for name in parameter_names(function) if name in self.optional)
        given = [*(self.takes or ()), *(f"{name}={name}" for name in named)]
        listed = "".join(f"    {argument},\n" for argument in given)
        called = self.alias or self.function
        imported = f"from {self.module} import {self.function}\n"
        if self.alias:
            imported = f"from {self.module} import (\n    {self.function} as {self.alias},\n)\n"
        call = f"{called}(\n{listed})\n"
        return f"{imported}\n" + (f"return {call}" if self.returns else f"{call}return\n")


@dataclass(frozen=True, kw_only=True)
class PlatformBranch(Branch):
    """A branch for the NPU platform."""

    promise = "Guarded by the platform's device type."

    @property
    def example(self) -> str:
        """The branch."""
        return _branch(TEST, self.body) if isinstance(self.body, str) else ""

    def _put(
        self, file: File, function: cst.FunctionDef, anchor: cst.CSTNode, body: str
    ) -> Finding:
        code = _branch(TEST, body)
        local = local_import(function)
        if self.after:
            known = local is not None or "current_platform" in file.imports.module_level
            edit = self._insert(anchor, code if known else IMPORT + code)
        elif local is not None and (local is anchor or self.at is not first_statement):
            edit = Insert(local, code, where="after")
        else:
            # An import further down makes the name the function's own from its first line on.
            known = local is None and "current_platform" in file.imports.module_level
            edit = self._insert(anchor, code if known else IMPORT + code)
        return changed(
            self.site.name, function, self.reason, edit, needs=self._needs(function, body)
        )


def _code(code: Code, function: cst.FunctionDef) -> str:
    return code if isinstance(code, str) else code(function)


def _branch(test: str, body: str) -> str:
    if _ADDED.match(body):
        body = f"# It is made of torch_npu, which is there on an NPU only.\n{body}"
    return f"if {test}:\n{textwrap.indent(body, '    ')}"


_ADDED = re.compile(r"from vllm\.[\w.]* ?import npu_|from vllm\.[\w.]*\.npu_\w+ import ")
"""An import from a module that the tool adds: why it is not at the top has to be said."""


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


def ones_for_missing_weight(function: cst.FunctionDef) -> str:
    """Statements that make a weight where a function takes None for it; else nothing."""
    for parameter in parameters(function):
        if parameter.name.value == "weight" and "None" in annotation_text(
            parameter.annotation
        ).replace("Optional", "None"):
            return "if weight is None:\n    weight = input.new_ones(input.shape[-1])\n"
    return ""


def unless_takes(*names: str) -> Unless:
    """A person has to look where other parameters come first than these."""

    def look(site: str, function: cst.FunctionDef, _: File) -> Finding | None:
        taken = parameter_names(function)
        if tuple(taken[: len(names)]) == names:
            return None
        return manual(site, function, f"it takes {taken}")

    return look
