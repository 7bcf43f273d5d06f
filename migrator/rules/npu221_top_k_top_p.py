# SPDX-License-Identifier: Apache-2.0
"""NPU221: top-k and top-p sampling on NPU."""

from __future__ import annotations

from collections.abc import Iterator

from migrator.codemod.recipes import npu_branch
from migrator.codemod.rule import File, Finding, Rule, Safety, Site

_SAMPLER = "vllm/v1/sample/ops/topk_topp_sampler.py"
_SITE = "apply_top_k_top_p"

_BODY = """\
from vllm.v1.worker import npu_kernels

return npu_kernels.apply_top_k_top_p(logits, k, p)
"""


class TopKTopP(Rule):
    """Mask logits with `npu_top_k_top_p` when they are on an NPU.

    ## What it does
    Puts a branch before the body of `apply_top_k_top_p`, taken for an NPU tensor: the function of
    the same name in `vllm/v1/worker/npu_kernels.py`, which the tool adds. One operator does top-k,
    top-p or both. It takes a k of 1024 at most, so rows with a greater one are sorted, apart, and
    rows without top-k, whose k is the size of the vocabulary, are cut by p alone. Which rows those
    are the host knows: nothing waits for the device.

    ## Why
    The implementation in PyTorch sorts the vocabulary of every request and scatters it back; from
    0.17 on a Triton kernel, which an NPU does not have, takes over as soon as Triton is installed.

    ## Example
    ```python
    if logits.device.type == "npu":
        from vllm.v1.worker import npu_kernels

        return npu_kernels.apply_top_k_top_p(logits, k, p)
    ```

    ## Safety
    Guarded: a tensor on another device goes on to the body, which stays as it is.
    """

    code = "NPU221"
    safety = Safety.GUARDED
    paths = (_SAMPLER,)
    triggers = (r"def apply_top_k_top_p\b",)
    sites = (Site(_SITE, (_SAMPLER,)),)

    def check(self, file: File) -> Iterator[Finding]:
        """Report the function where it has no branch for NPU tensors."""
        yield from npu_branch(
            file,
            _SITE,
            tensor="logits",
            known=("logits", "k", "p", "has_topp_only_rows"),
            optional=("has_topp_only_rows",),
            body=_BODY,
            reason="it sorts the vocabulary, or launches a Triton kernel; "
            "torch_npu.npu_top_k_top_p takes its place",
            needs=(),
        )
