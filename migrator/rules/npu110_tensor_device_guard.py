# SPDX-License-Identifier: Apache-2.0
"""NPU110: a tensor's `is_cuda` as a question about its device type."""

from __future__ import annotations

from collections.abc import Iterator

import libcst as cst

from migrator.matchers import Place, cuda_only, places
from migrator.receivers import evidence
from migrator.rule import (
    Absence,
    Example,
    File,
    Finding,
    Replace,
    Rule,
    Safety,
    Site,
    changed,
    manual,
    migrated,
    skipped,
)


class TensorDeviceGuard(Rule):
    """Ask a tensor for its device type instead of `is_cuda`.

    ## What it does
    Rewrites `tensor.is_cuda` to `tensor.device.type == "cuda"` (`!=` below `not`) wherever the
    object before the dot is a tensor. That is decided from evidence in the module: annotations,
    assignments, and what else is asked of the same object. `current_platform.is_cuda()`, other
    methods, and attributes of other objects stay. Files that only ever run beside a CUDA, ROCm,
    XPU or TPU device are listed as skipped.

    ## Why
    `is_cuda` is aliased to `is_npu` once a program imports torch_npu's `transfer_to_npu`, as many
    Ascend scripts do; then an NPU tensor walks into the CUDA kernels behind the guard. A rewrite
    that does not look at the receiver breaks 59 of 65 sites of vLLM 0.11.0.

    ## Example
    ```python
    if logits.device.type == "cuda" and logits.is_contiguous():
    ```

    ## Safety
    Equivalent on every device: `is_cuda` is true for the device type `cuda` (ROCm's included) only.
    """

    code = "NPU110"
    safety = Safety.EQUIVALENT
    # The literal comes first: a search that starts with a look-behind is ten times slower.
    triggers = (r"\.is_cuda\b(?<!current_platform\.is_cuda)(?!\s*\()",)
    sites = (
        Site(
            "apply_repetition_penalties",
            ("vllm/_custom_ops.py",),
            (Absence("<0.10.1", "the guard asks current_platform.is_cuda() there"),),
        ),
    )
    examples = (
        Example(
            before="""\
import torch

from vllm.platforms import current_platform


def f(logits: torch.Tensor, docs, flag):
    if logits.is_cuda and current_platform.is_cuda():
        return not docs[0].is_cuda and docs[0].dim() == 1
    probe = current_platform.is_cuda
    return logits.is_cuda == flag, probe()
""",
            after="""\
import torch

from vllm.platforms import current_platform


def f(logits: torch.Tensor, docs, flag):
    if logits.device.type == "cuda" and current_platform.is_cuda():
        return docs[0].device.type != "cuda" and docs[0].dim() == 1
    probe = current_platform.is_cuda
    return (logits.device.type == "cuda") == flag, probe()
""",
        ),
        Example(
            path="vllm/v1/attention/backends/flashinfer.py",
            before="""\
import torch


def f(x: torch.Tensor):
    return x.is_cuda
""",
        ),
    )

    def check(self, file: File) -> Iterator[Finding]:
        """Report each `.is_cuda` that is not called."""
        elsewhere = cuda_only(file.path, file.imports)
        for place in places(file.module, cst.Attribute):
            node = place.node
            parent = place.parent
            if node.attr.value == "type" and _is_rewritten(node, place):
                yield migrated(place.qualified_name, node)
            if node.attr.value != "is_cuda" or (
                isinstance(parent, cst.Call) and parent.func is node
            ):
                continue
            if isinstance(parent, cst.AssignTarget) or (
                isinstance(parent, cst.AnnAssign) and parent.target is node
            ):
                yield skipped(place.qualified_name, node, "it is assigned to, not asked for")
                continue
            known = evidence(place, node.value, file.module, file.imports)
            if known.tensor is False:
                yield skipped(place.qualified_name, node, f"not a tensor: {known.why}")
            elif elsewhere is not None:
                yield skipped(place.qualified_name, node, elsewhere)
            elif known.tensor is None:
                yield manual(place.qualified_name, node, known.why)
            elif _quote(place) is None:
                yield manual(place.qualified_name, node, "f-strings around it use both quotes")
            else:
                yield changed(
                    place.qualified_name,
                    node,
                    f"a tensor ({known.why}); under transfer_to_npu its is_cuda is true on an NPU",
                    _rewrite(node, place),
                )


def _is_rewritten(node: cst.Attribute, place: Place[cst.CSTNode]) -> bool:
    """Is this the `x.device.type` of a comparison with `cuda`?"""
    parent = place.parent
    return (
        isinstance(node.value, cst.Attribute)
        and node.value.attr.value == "device"
        and isinstance(parent, cst.Comparison)
        and len(parent.comparisons) == 1
        and isinstance(parent.comparisons[0].comparator, cst.SimpleString)
        and parent.comparisons[0].comparator.evaluated_value == "cuda"
    )


def _rewrite(node: cst.Attribute, place: Place[cst.CSTNode]) -> Replace:
    """Replace the attribute, together with a `not` right before it."""
    parent = place.parent
    above = place.ancestors[-2] if len(place.ancestors) > 1 else None
    quote = _quote(place) or '"'
    if isinstance(parent, cst.UnaryOperation) and isinstance(parent.operator, cst.Not):
        negated = parent

        def negate(new: cst.CSTNode) -> cst.CSTNode:
            assert isinstance(new, cst.UnaryOperation)
            assert isinstance(new.expression, cst.Attribute)
            return _comparison(new.expression, cst.NotEqual(), new, _binds_tighter(above), quote)

        return Replace(negated, negate)

    def compare(new: cst.CSTNode) -> cst.CSTNode:
        assert isinstance(new, cst.Attribute)
        return _comparison(new, cst.Equal(), new, _binds_tighter(parent), quote)

    return Replace(node, compare)


def _quote(place: Place[cst.CSTNode]) -> str | None:
    """A quote that no f-string around the node uses; before Python 3.12 it would end that one."""
    used = "".join(node.quote for node in place.ancestors if isinstance(node, cst.FormattedString))
    return next((quote for quote in ('"', "'") if quote not in used), None)


def _binds_tighter(parent: cst.CSTNode | None) -> bool:
    """Would a bare comparison be torn apart by the node around it?"""
    if isinstance(parent, cst.UnaryOperation):
        return not isinstance(parent.operator, cst.Not)
    return isinstance(
        parent,
        (
            cst.Attribute,
            cst.Await,
            cst.BinaryOperation,
            cst.Call,
            cst.Comparison,
            cst.ComparisonTarget,
            cst.StarredDictElement,
            cst.StarredElement,
            cst.Subscript,
        ),
    )


def _comparison(
    attribute: cst.Attribute,
    operator: cst.BaseCompOp,
    outer: cst.UnaryOperation | cst.Attribute,
    parenthesise: bool,
    quote: str,
) -> cst.Comparison:
    lpar = [*outer.lpar] if outer is not attribute else [*attribute.lpar]
    rpar = [*outer.rpar] if outer is not attribute else [*attribute.rpar]
    if parenthesise and not lpar:
        lpar, rpar = [cst.LeftParen()], [cst.RightParen()]
    device = cst.Attribute(attribute.value, cst.Name("device"))
    return cst.Comparison(
        cst.Attribute(device, cst.Name("type")),
        [cst.ComparisonTarget(operator, cst.SimpleString(f"{quote}cuda{quote}"))],
        lpar=lpar,
        rpar=rpar,
    )
