# SPDX-License-Identifier: Apache-2.0
"""A `forward_oot` beside the `forward_cuda` of a `CustomOp`."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from dataclasses import dataclass

import libcst as cst

from migrator.codemod.matchers import parameter_names
from migrator.codemod.recipes.branches import needs_of, refuse_unless_none
from migrator.codemod.recipes.platforms import tests_for_npu
from migrator.codemod.rule import File, Finding, Insert, Recipe, Site, changed, manual, migrated


@dataclass(frozen=True, kw_only=True)
class ForwardOot(Recipe):
    """Gives the `CustomOp` class `name` a `forward_oot`, put after its `forward_cuda`."""

    takes: tuple[str, ...] = ("self", "x")
    """The parameters that `forward_cuda` must have for `body` to be right. Further ones whose
    default is None are carried along, and any other value of them is refused."""
    body: str
    """The method's statements, at indentation zero."""
    signature: str = ""
    """The method's own first line; that of `forward_cuda` when left out."""

    promise = (
        "Guarded: a tensor on another device takes the native path, as an out-of-tree platform's "
        "did."
    )

    @property
    def site(self) -> Site:
        """The method."""
        return Site(f"{self.name}.forward_oot", self.paths, self.absent)

    @property
    def trigger(self) -> str:
        """The class."""
        return rf"class {self.name}\b"

    @property
    def example(self) -> str:
        """The method."""
        header = self.signature or f"def forward_oot({', '.join(self.takes)}):"
        return f"{header}\n{textwrap.indent(self.body, '    ')}"

    def check(self, file: File) -> Iterator[Finding]:
        """Report the class where it has no `forward_oot` for NPU tensors."""
        site = f"{self.name}.forward_oot"
        needs = needs_of(self.body)
        class_ = file.head(self.name)
        cuda = file.function(f"{self.name}.forward_cuda")
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
        further = names[len(self.takes) :] if not self.signature else ()
        refused = refuse_unless_none(self.name, cuda, further)
        if names[: len(self.takes)] != self.takes or refused is None:
            yield manual(site, cuda, f"its forward_cuda takes {names}, not {self.takes}")
            return
        header = self.signature or _header(file, cuda)
        code = f"{header}\n{textwrap.indent(refused + self.body, '    ')}"
        edit = Insert(cuda, code, where="after", blank_lines=1)
        yield changed(site, cuda, self.reason, edit, needs=needs)


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
