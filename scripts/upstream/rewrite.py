# SPDX-License-Identifier: Apache-2.0
"""Rewrites a copy of vLLM's tests for an NPU: the device's name, its modules, who is left out.

Only what is named here changes. Values that a test module holds (which backend, which block size)
are not rewritten: `upstream_plugin.py` sets them when the module is imported.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TypeVar

import libcst as cst
import libcst.matchers as m

Node = TypeVar("Node", bound=cst.CSTNode)

DEVICE_STRING = re.compile(r"cuda(:\d*)?")
"""The whole of a string, or the beginning of one with a number to be filled in."""
TOUCHED = re.compile(rb"cuda|nccl|opcheck|_forward_method|get_num_layers")
"""What a file holds in which anything is rewritten."""
DEVICE_NAMES = frozenset(
    """
    CUDAGraph Event OutOfMemoryError Stream current_device current_stream device device_count
    empty_cache get_device_properties graph is_available manual_seed manual_seed_all
    max_memory_allocated mem_get_info memory_allocated reset_peak_memory_stats set_device stream
    synchronize
    """.split()
)
"""What `torch.npu` has under the name that `torch.cuda` gives it, but for the next."""
RENAMED = {"CUDAGraph": "NPUGraph"}
ASKED = frozenset({"is_cuda", "is_cuda_alike"})
"""Questions to the platform by which a test module leaves other devices out."""
OPENED = frozenset(
    {
        "kernels/moe/test_fused_topk.py",
        "kernels/moe/test_grouped_topk.py",
        "lora/test_layers.py",
    }
)
"""Modules whose tests have nothing of CUDA in them but their skip conditions."""


class RewriteError(Exception):
    """The tests are not as they are expected."""


def closure(tests: Path, files: Iterable[str]) -> list[Path]:
    """The test files, the conftests above them, and the modules of `tests` that they import."""
    wanted = [tests / file for file in files]
    found: dict[Path, None] = {}
    while wanted:
        path = wanted.pop()
        if path in found:
            continue
        if not path.is_file():
            raise RewriteError(f"{path.relative_to(tests)}: not among the tests of this release")
        found[path] = None
        folders = [folder for folder in path.parents if folder == tests or tests in folder.parents]
        wanted += [c for folder in folders if (c := folder / "conftest.py").is_file()]
        wanted += imported(tests, path)
    return sorted(found)


def imported(tests: Path, path: Path) -> Iterator[Path]:
    """Files of `tests` that a module imports, wherever in it."""
    package = ("tests", *path.parent.relative_to(tests).parts)
    for node in ast.walk(ast.parse(path.read_bytes())):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else ()
            stem = ".".join((*above, *([node.module] if node.module else [])))
            names = [stem, *(f"{stem}.{alias.name}" for alias in node.names)]
        for name in names:
            if name.startswith("tests."):
                file = tests.joinpath(*name.split(".")[1:]).with_suffix(".py")
                if file.is_file():
                    yield file


class _Rewriter(m.MatcherDecoratableTransformer):
    """`opened`: whether the questions in skip conditions and lists of devices are answered yes."""

    def __init__(self, *, opened: bool) -> None:
        super().__init__()
        self.opened = opened
        self.sites = 0

    def _done(self, node: cst.BaseExpression) -> cst.BaseExpression:
        self.sites += 1
        return node

    def leave_SimpleString(  # noqa: N802 - LibCST's name
        self, original_node: cst.SimpleString, updated_node: cst.SimpleString
    ) -> cst.BaseExpression:
        value = updated_node.evaluated_value
        if isinstance(value, str) and DEVICE_STRING.fullmatch(value):
            new = updated_node.value.replace("cuda", "npu")
            return self._done(updated_node.with_changes(value=new))
        if value == "nccl":
            return self._done(updated_node.with_changes(value='"hccl"'))
        return updated_node

    def leave_FormattedString(  # noqa: N802 - LibCST's name
        self, original_node: cst.FormattedString, updated_node: cst.FormattedString
    ) -> cst.BaseExpression:
        match updated_node.parts:
            case [cst.FormattedStringText(value="cuda:") as first, *rest]:
                parts = (first.with_changes(value="npu:"), *rest)
                return self._done(updated_node.with_changes(parts=parts))
        return updated_node

    def leave_Attribute(  # noqa: N802 - LibCST's name
        self, original_node: cst.Attribute, updated_node: cst.Attribute
    ) -> cst.BaseExpression:
        name = updated_node.attr.value
        module = m.Attribute(value=m.Name("torch"), attr=m.Name("cuda"))
        if name not in DEVICE_NAMES or not m.matches(updated_node.value, module):
            return updated_node
        value = cst.Attribute(cst.Name("torch"), cst.Name("npu"))
        attr = cst.Name(RENAMED.get(name, name))
        return self._done(updated_node.with_changes(value=value, attr=attr))

    def leave_Call(  # noqa: N802 - LibCST's name
        self, original_node: cst.Call, updated_node: cst.Call
    ) -> cst.BaseExpression:
        function = updated_node.func
        if m.matches(function, m.Attribute(attr=m.Name("cuda"))) and not m.matches(
            function, m.Attribute(value=m.Name("torch"))
        ):
            function = cst.ensure_type(function, cst.Attribute)
            new = function.with_changes(attr=cst.Name("npu"))
            return self._done(updated_node.with_changes(func=new))
        skipif = m.Attribute(attr=m.Name("skipif"))
        if self.opened and m.matches(function, skipif) and updated_node.args:
            first, *rest = updated_node.args
            answered = first.with_changes(value=self._answered(first.value))
            return updated_node.with_changes(args=(answered, *rest))
        return updated_node

    def leave_Assign(  # noqa: N802 - LibCST's name
        self, original_node: cst.Assign, updated_node: cst.Assign
    ) -> cst.Assign:
        # What stands in for a model's method takes less than the method, which is the whole
        # configuration of how its layers are spread.
        target = m.AssignTarget(m.Attribute(attr=m.Name("get_num_layers")))
        if not m.matches(updated_node, m.Assign([target])):
            return updated_node
        alone = m.Lambda(
            params=m.Parameters(params=[m.Param(m.Name("self"))], star_arg=m.DoNotCare())
        )
        if not m.findall(updated_node.value, alone):
            return updated_node
        self.sites += 1
        more = cst.parse_expression("lambda self, *_: 1")
        value = m.replace(updated_node.value, alone, more)
        assert isinstance(value, cst.BaseExpression)
        return updated_node.with_changes(value=value)

    def leave_Module(  # noqa: N802 - LibCST's name
        self, original_node: cst.Module, updated_node: cst.Module
    ) -> cst.Module:
        if not self.opened:
            return updated_node
        devices = m.SimpleStatementLine([m.Assign([m.AssignTarget(m.Name("DEVICES"))])])
        body = [
            self._answered(statement) if m.matches(statement, devices) else statement
            for statement in updated_node.body
        ]
        return updated_node.with_changes(body=body)

    def _answered(self, node: Node) -> Node:
        platform = m.Name("current_platform")
        asked = m.OneOf(*(m.Name(name) for name in sorted(ASKED)))
        question = m.Call(func=m.Attribute(value=platform, attr=asked), args=[])
        self.sites += len(m.findall(node, question))
        answered = m.replace(node, question, cst.Name("True"))
        assert isinstance(answered, type(node))
        return answered

    def leave_SimpleStatementLine(  # noqa: N802 - LibCST's name
        self, original_node: cst.SimpleStatementLine, updated_node: cst.SimpleStatementLine
    ) -> cst.SimpleStatementLine | cst.RemovalSentinel:
        # Both ask about CUDA's extension: the schema of its operator, and whether a layer goes to
        # it. What the layer computes is compared beside them.
        operator = m.Expr(m.Call(func=m.Name("opcheck")))
        forward = m.Attribute(
            value=m.Attribute(attr=m.Name("_forward_method")), attr=m.Name("__name__")
        )
        dispatch = m.Assert(m.Comparison(left=forward))
        (statement, *others) = updated_node.body
        if not others and m.matches(statement, m.OneOf(operator, dispatch)):
            self.sites += 1
            return updated_node.with_changes(body=[cst.Pass()])
        return updated_node


def rewrite(source: bytes, file: str) -> tuple[bytes, int]:
    """The text of a test module for an NPU, and how many sites were changed."""
    module = cst.parse_module(source)
    rewriter = _Rewriter(opened=file in OPENED)
    return module.visit(rewriter).bytes, rewriter.sites


def rewrite_copy(tests: Path, files: Iterable[str]) -> tuple[int, int]:
    """Rewrite a copy of vLLM's tests where `files` reach it: how many files and sites changed."""
    changed = total = 0
    for path in closure(tests, files):
        source = path.read_bytes()
        if not TOUCHED.search(source):
            continue
        result, sites = rewrite(source, path.relative_to(tests).as_posix())
        if sites:
            path.write_bytes(result)
            changed, total = changed + 1, total + sites
    return changed, total
