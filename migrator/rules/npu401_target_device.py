# SPDX-License-Identifier: Apache-2.0
"""NPU401: `VLLM_TARGET_DEVICE=npu pip install .`."""

from __future__ import annotations

from collections.abc import Iterator

import libcst as cst

from migrator.codemod.matchers import dotted, places, walk
from migrator.codemod.rule import (
    File,
    Finding,
    Insert,
    Replace,
    Rule,
    Safety,
    Site,
    changed,
    migrated,
)

_SETUP = ("setup.py",)


class TargetDevice(Rule):
    """Let `VLLM_TARGET_DEVICE=npu` install vLLM without CUDA.

    ## What it does
    Gives `setup.py` a predicate `_is_npu`, a branch for it in `get_vllm_version` (the version ends
    in `+npu`) and in `get_requirements` (`requirements/npu.txt`, which comes with the rule), and
    leaves out the extension modules, all of which are kernels of other devices. Adds
    `docker/Dockerfile.npu` as well.

    ## Why
    Without it an installation for NPUs has to pretend to be for no device at all, does not pin a
    fitting torch and torch_npu, and is not told apart from such a one later.

    ## Example
    ```python
    elif _is_npu():
        requirements = _read_requirements("npu.txt")
    ```

    ## Safety
    Guarded: the branches are taken for `VLLM_TARGET_DEVICE=npu` only.
    """

    code = "NPU401"
    safety = Safety.GUARDED
    paths = _SETUP
    triggers = (r"_is_xpu",)
    reads = (r"_no_device", r"ext_modules")
    templates = ("docker/Dockerfile.npu", "requirements/npu.txt")
    sites = (
        Site("_is_npu", _SETUP),
        Site("get_vllm_version", _SETUP),
        Site("get_requirements", _SETUP),
        Site("ext_modules", _SETUP),
    )

    def check(self, file: File) -> Iterator[Finding]:
        """Report the predicate, the two chains of devices, and the list of extension modules."""
        predicate = file.function("_is_npu")
        xpu = file.function("_is_xpu")
        if predicate is not None:
            yield migrated("_is_npu", predicate)
        elif xpu is not None:
            code = 'def _is_npu() -> bool:\n    return VLLM_TARGET_DEVICE == "npu"\n'
            reason = "setup.py does not know the target device npu"
            edit = Insert(xpu, code, where="after", blank_lines=2)
            yield changed("_is_npu", xpu, reason, edit)
        for name in ("get_vllm_version", "get_requirements"):
            function = file.function(name)
            if function is not None:
                yield from _chain(name, function)
        yield from _extensions(file)


def _chain(name: str, function: cst.FunctionDef) -> Iterator[Finding]:
    """The branch for XPU in a chain of devices: the one for NPU goes before it, with its body."""
    for place in places(function, cst.If):
        node = place.node
        if _calls(node.test, "_is_npu"):
            yield migrated(name, node)
            return
        if _calls(node.test, "_is_xpu"):
            yield changed(
                name, node, "the target device npu has no branch here", Replace(node, _before_xpu)
            )
            return


def _before_xpu(node: cst.CSTNode) -> cst.CSTNode:
    assert isinstance(node, cst.If)
    body = node.body.deep_clone().visit(_Rename())
    assert isinstance(body, cst.BaseSuite)
    return node.with_changes(
        test=cst.parse_expression("_is_npu()"),
        body=body,
        orelse=node.with_changes(leading_lines=()),
    )


class _Rename(cst.CSTTransformer):
    """`xpu` in strings to `npu`."""

    def leave_SimpleString(  # noqa: N802 - LibCST calls it by this name
        self, original_node: cst.SimpleString, updated_node: cst.SimpleString
    ) -> cst.SimpleString:
        return updated_node.with_changes(value=updated_node.value.replace("xpu", "npu"))

    def leave_FormattedStringText(  # noqa: N802
        self, original_node: cst.FormattedStringText, updated_node: cst.FormattedStringText
    ) -> cst.FormattedStringText:
        return updated_node.with_changes(value=updated_node.value.replace("xpu", "npu"))


def _calls(node: cst.CSTNode, name: str) -> bool:
    return any(isinstance(n, cst.Call) and dotted(n.func) == name for n in walk(node))


def _extensions(file: File) -> Iterator[Finding]:
    """`if _no_device(): ext_modules = []` at module level."""
    for statement in file.kept.body:
        if not isinstance(statement, cst.If) or not _calls(statement.test, "_no_device"):
            continue
        assigned = any(
            isinstance(n, cst.AssignTarget) and dotted(n.target) == "ext_modules"
            for n in walk(statement.body)
        )
        if not assigned:
            continue
        if _calls(statement.test, "_is_npu"):
            yield migrated("ext_modules", statement)
        else:
            test = statement.test
            yield changed(
                "ext_modules",
                statement,
                "every extension module is a kernel of another device",
                Replace(test, lambda _: cst.parse_expression("_no_device() or _is_npu()")),
            )
