# SPDX-License-Identifier: Apache-2.0
"""NPU223: the compiler of the rank of a sampled token."""

from __future__ import annotations

import ast
from collections.abc import Iterator

import libcst as cst

from migrator.codemod.matchers import dotted
from migrator.codemod.recipes.platforms import IMPORT
from migrator.codemod.rule import (
    Absence,
    File,
    Finding,
    Insert,
    Replace,
    Rule,
    Safety,
    Site,
    changed,
    manual,
    migrated,
)
from migrator.files.tree import Tree

_LOGPROBS = "vllm/v1/sample/ops/logprobs.py"
_SITE = "batched_count_greater_than"
_BACKEND = "current_platform.simple_compile_backend"


_SAMPLER = "vllm/v1/sample/sampler.py"


def _counts_itself(tree: Tree) -> bool:
    """Does the sampler count the larger logprobs in its own body?"""
    function = tree.definition(_SAMPLER, "Sampler.gather_logprobs")
    return function is not None and any(
        isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr == "sum"
        and isinstance(node.func.value, ast.Compare)
        for node in ast.walk(function)
    )


class LogprobsCompileBackend(Rule):
    """Compile the rank of a sampled token with the platform's own backend.

    ## What it does
    Gives the `torch.compile` of `batched_count_greater_than` the platform's
    `simple_compile_backend`, as vLLM itself does from 0.10.1 on.

    ## Why
    Without a backend it is Inductor, which asks Triton for a driver: an NPU has none, and the first
    request for logprobs ends the engine.

    ## Example
    ```python
    @torch.compile(dynamic=True, backend=current_platform.simple_compile_backend)
    ```

    ## Safety
    Equivalent on CUDA and ROCm, whose `simple_compile_backend` is `inductor`, torch's default.
    """

    code = "NPU223"
    safety = Safety.EQUIVALENT
    paths = (_LOGPROBS,)
    triggers = (rf"def {_SITE}\b",)
    sites = (
        Site(
            _SITE,
            (_LOGPROBS,),
            (Absence("<0.10", "the rank is counted without a compiler", _counts_itself),),
        ),
    )

    def check(self, file: File) -> Iterator[Finding]:
        """Report the decorator that names no backend."""
        function = file.function(_SITE)
        if function is None:
            return
        for decorator in function.decorators:
            call = decorator.decorator
            if not isinstance(call, cst.Call) or dotted(call.func) != "torch.compile":
                continue
            if any(a.keyword is not None and a.keyword.value == "backend" for a in call.args):
                yield migrated(_SITE, function)
                return
            anchor = next(
                (
                    s
                    for s in file.module.body
                    if isinstance(s, cst.SimpleStatementLine) and isinstance(s.body[0], cst.Import)
                ),
                None,
            )
            if anchor is None:
                yield manual(_SITE, function, "there is no import to put another one beside")
                return
            edits = [Replace(call, _with_backend)]
            bound = "current_platform" in file.imports.module_level
            insert = () if bound else (Insert(anchor, IMPORT, where="after", blank_lines=1),)
            yield changed(
                _SITE,
                function,
                "without a backend torch.compile takes Inductor, which needs a Triton driver",
                *edits,
                *insert,
            )
            return


def _with_backend(node: cst.CSTNode) -> cst.CSTNode:
    assert isinstance(node, cst.Call)
    comma = cst.Comma(whitespace_after=cst.SimpleWhitespace(" "))
    args = [a.with_changes(comma=comma) for a in node.args]
    backend = cst.Arg(
        cst.parse_expression(_BACKEND),
        keyword=cst.Name("backend"),
        equal=cst.AssignEqual(cst.SimpleWhitespace(""), cst.SimpleWhitespace("")),
    )
    return node.with_changes(args=[*args, backend])
