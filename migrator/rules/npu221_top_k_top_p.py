# SPDX-License-Identifier: Apache-2.0
"""NPU221: top-k and top-p sampling on NPU."""

from __future__ import annotations

from collections.abc import Iterator

from migrator.recipes import npu_branch
from migrator.rule import Example, File, Finding, Rule, Safety, Site

_SAMPLER = "vllm/v1/sample/ops/topk_topp_sampler.py"
_SITE = "apply_top_k_top_p"

_BODY = """\
if p is None and k is None:
    return logits
# The operator takes a k of 1024 at most; a row without top-k has the size of
# the vocabulary.
if k is None or int(k.max()) <= 1024:
    return torch_npu.npu_top_k_top_p(
        logits,
        None if p is None else p.to(logits.dtype),
        None if k is None else k.to(torch.int32),
    )
"""
_REST = "return apply_top_k_top_p_pytorch(logits, k, p)\n"


class TopKTopP(Rule):
    """Mask logits with `npu_top_k_top_p` when they are on an NPU.

    ## What it does
    Puts a branch before the body of `apply_top_k_top_p`, taken for an NPU tensor: one operator for
    top-k, top-p or both. A k over 1024 goes to the implementation in PyTorch.

    ## Why
    The implementation in PyTorch sorts the vocabulary of every request and scatters it back; from
    0.17 on a Triton kernel, which an NPU does not have, takes over as soon as Triton is installed.

    ## Example
    ```python
    if k is None or int(k.max()) <= 1024:
        return torch_npu.npu_top_k_top_p(
            logits,
            None if p is None else p.to(logits.dtype),
            None if k is None else k.to(torch.int32),
        )
    ```

    ## Safety
    Guarded: a tensor on another device goes on to the body, which stays as it is.
    """

    code = "NPU221"
    safety = Safety.GUARDED
    paths = (_SAMPLER,)
    triggers = (r"def apply_top_k_top_p\b",)
    sites = (Site(_SITE, (_SAMPLER,)),)
    examples = (
        Example(
            path=_SAMPLER,
            before="""\
import torch


def apply_top_k_top_p(logits: torch.Tensor, k, p) -> torch.Tensor:
    if p is None and k is None:
        return logits
    if HAS_TRITON and logits.shape[0] >= 8:
        return apply_top_k_top_p_triton(logits, k, p)
    return apply_top_k_top_p_pytorch(logits, k, p)


def apply_top_k_top_p_pytorch(logits: torch.Tensor, k, p) -> torch.Tensor:
    return logits
""",
            after="""\
import torch

try:
    import torch_npu
except ImportError:
    torch_npu = None


def apply_top_k_top_p(logits: torch.Tensor, k, p) -> torch.Tensor:
    if logits.device.type == "npu":
        if p is None and k is None:
            return logits
        # The operator takes a k of 1024 at most; a row without top-k has the size of
        # the vocabulary.
        if k is None or int(k.max()) <= 1024:
            return torch_npu.npu_top_k_top_p(
                logits,
                None if p is None else p.to(logits.dtype),
                None if k is None else k.to(torch.int32),
            )
        return apply_top_k_top_p_pytorch(logits, k, p)
    if p is None and k is None:
        return logits
    if HAS_TRITON and logits.shape[0] >= 8:
        return apply_top_k_top_p_triton(logits, k, p)
    return apply_top_k_top_p_pytorch(logits, k, p)


def apply_top_k_top_p_pytorch(logits: torch.Tensor, k, p) -> torch.Tensor:
    return logits
""",
        ),
    )

    def check(self, file: File) -> Iterator[Finding]:
        """Report the function where it has no branch for NPU tensors."""
        # Without an implementation of its own in PyTorch, the body is that.
        rest = _REST if file.function("apply_top_k_top_p_pytorch") is not None else ""
        yield from npu_branch(
            file,
            _SITE,
            tensor="logits",
            known=("logits", "k", "p", "has_topp_only_rows"),
            optional=("has_topp_only_rows",),
            body=_BODY + rest,
            reason="it sorts the vocabulary, or launches a Triton kernel; "
            "torch_npu.npu_top_k_top_p takes its place",
        )
