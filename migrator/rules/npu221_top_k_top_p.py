# SPDX-License-Identifier: Apache-2.0
"""NPU221: top-k and top-p sampling on NPU."""

from __future__ import annotations

from migrator.codemod.recipes.branches import NpuBranch
from migrator.codemod.rule import Rule


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
    """

    code = "NPU221"
    recipes = (
        NpuBranch(
            "apply_top_k_top_p",
            ("vllm/v1/sample/ops/topk_topp_sampler.py",),
            tensor="logits",
            takes=("logits", "k", "p"),
            optional=("has_topp_only_rows",),
            body="from vllm.v1.worker import npu_kernels\n\n"
            "return npu_kernels.apply_top_k_top_p(logits, k, p)\n",
            reason="it sorts the vocabulary, or launches a Triton kernel; "
            "torch_npu.npu_top_k_top_p takes its place",
        ),
    )
