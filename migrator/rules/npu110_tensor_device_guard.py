# SPDX-License-Identifier: Apache-2.0
"""NPU110: a tensor's `is_cuda` as a question about its device type."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import libcst as cst

from migrator.codemod.matchers import Place, cuda_only, dotted, places
from migrator.codemod.receivers import Evidence, receivers
from migrator.codemod.rule import (
    Absence,
    File,
    Finding,
    Rule,
    Safety,
    Site,
    changed,
    manual,
    migrated,
    skipped,
)
from migrator.codemod.syntax import dotted as syntax_name
from migrator.files.tree import Tree
from migrator.rules._device_types import free_quote, is_printed, rewrite

_OPS = "vllm/_custom_ops.py"
_PENALTIES = "apply_repetition_penalties"


def _asks_platform(tree: Tree) -> bool:
    """Is the kernel of the penalties chosen by a question to the platform?"""
    return {"current_platform", "is_cuda", f"{_PENALTIES}_cuda"} <= tree.names(_OPS, _PENALTIES)


class TensorDeviceGuard(Rule):
    """Ask a tensor for its device type instead of `is_cuda`.

    ## What it does
    Rewrites `tensor.is_cuda` to `tensor.device.type == "cuda"` (`!=` below `not`) wherever the
    object before the dot is a tensor for certain. That is decided from everything that may reach
    it: annotations, assignments, fields, results of functions that return tensors, and calls that
    only tensors take. An object of another class, or one way on which it may be one, leaves the
    site for a person. `current_platform.is_cuda()` and other methods stay. Files that only ever run
    beside a CUDA, ROCm, XPU or TPU device are listed as skipped.

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
    # Only a parenthesis right behind it makes it a call for certain: one on the next line does not.
    triggers = (r"is_cuda\b(?!\()",)
    reads = (r"\btype\b(?!\(|: ignore)",)
    sites = (
        Site(
            _PENALTIES,
            (_OPS,),
            (
                Absence(
                    "<0.10.1", "the guard asks current_platform.is_cuda() there", _asks_platform
                ),
            ),
        ),
    )

    def check(self, file: File) -> Iterator[Finding]:
        """Report each `.is_cuda` that is not called."""
        elsewhere = cuda_only(file.path, file.imports)
        asked = [
            place
            for place in places(file.kept, cst.Attribute)
            if place.node.attr.value == _NAME and not _is_called(place)
        ]
        known = _evidence(file, asked)
        for place in places(file.kept, cst.Attribute):
            node = place.node
            parent = place.parent
            name = place.qualified_name
            if node.attr.value == "type" and _is_rewritten(node, place):
                yield migrated(name, node)
            if node.attr.value != _NAME or _is_called(place):
                continue
            if isinstance(parent, (cst.AssignTarget, cst.Del)) or (
                isinstance(parent, (cst.AnnAssign, cst.AugAssign)) and parent.target is node
            ):
                yield skipped(name, node, "it is assigned to, not asked for")
                continue
            found = known[id(node)]
            if found.tensor is False:
                yield skipped(name, node, f"not a tensor: {found.why}")
            elif elsewhere is not None:
                yield skipped(name, node, elsewhere)
            elif found.tensor is None:
                yield manual(name, node, found.why)
            elif free_quote(place) is None:
                yield manual(name, node, "f-strings around it use both quotes")
            elif is_printed(place):
                yield manual(name, node, "an f-string with `=` prints its source")
            elif (replace := rewrite(node, place)) is None:
                yield manual(name, node, "a comment stands within what would be rewritten")
            else:
                why = f"a tensor ({found.why}); under transfer_to_npu its is_cuda is true on an NPU"
                yield changed(name, node, why, replace)


_NAME = "is_cuda"


def _is_called(place: Place[cst.Attribute]) -> bool:
    parent = place.parent
    return isinstance(parent, cst.Call) and parent.func is place.node


def _evidence(file: File, asked: Sequence[Place[cst.Attribute]]) -> dict[int, Evidence]:
    """What is known of the receiver of each place, by the identity of its node."""
    if not asked:
        return {}
    found = receivers(file.syntax, file.data, _NAME, file.other_module)
    texts = [dotted(place.node) for place in asked]
    if [syntax_name(node) for node, _ in found] != texts:
        # Both trees are of one source, in one order.
        raise AssertionError(f"Python and LibCST see other places of .{_NAME}")
    pairs = zip(asked, found, strict=True)
    return {id(place.node): evidence for place, (_, evidence) in pairs}


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
