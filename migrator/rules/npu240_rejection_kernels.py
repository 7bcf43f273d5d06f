# SPDX-License-Identifier: Apache-2.0
"""NPU240: the kernels that accept and reject drafts."""

from __future__ import annotations

from collections.abc import Iterator

from migrator.codemod.rule import File, Finding, Rule, Safety, Site
from migrator.rules._kernel_replacements import replace_kernels

_SAMPLER = "vllm/v1/sample/rejection_sampler.py"
_MODULE = "vllm.v1.sample.npu_rejection_kernels"
_DRAFTS = ("cu_num_draft_tokens_ptr", "draft_token_ids_ptr")
_KERNELS: dict[str, tuple[str, ...]] = {
    "rejection_greedy_sample_kernel": (*_DRAFTS, "target_argmax_ptr", "is_greedy_ptr"),
    "rejection_random_sample_kernel": (*_DRAFTS, "target_probs_ptr", "uniform_probs_ptr"),
    "expand_kernel": ("output_ptr", "input_ptr", "cu_num_tokens_ptr", "replace_from"),
    "sample_recovered_tokens_kernel": (*_DRAFTS, "draft_probs_ptr", "target_probs_ptr"),
}


class RejectionKernels(Rule):
    """Accept and reject drafts without Triton on NPUs.

    ## What it does
    Adds `vllm/v1/sample/npu_rejection_kernels.py`, in which the four kernels of the rejection
    sampler are functions of PyTorch operators, and `vllm/triton_utils/npu_overrides.py`, by which
    they are launched as the kernels are. Where vLLM has no hook for replacing kernels, binds the
    kernels' names in `rejection_sampler.py` to these on an NPU.

    ## Why
    Speculative decoding of every kind goes through these kernels. From 0.31 on a platform can
    register replacements, which the NPU's does.

    ## Example
    ```python
    if current_platform.device_type == "npu":
        from vllm.v1.sample.npu_rejection_kernels import npu_kernel

        expand_kernel = npu_kernel(expand_kernel)
    ```

    ## Safety
    Guarded by the platform's device type.
    """

    code = "NPU240"
    safety = Safety.GUARDED
    paths = (_SAMPLER,)
    triggers = (r"def rejection_greedy_sample_kernel\b",)
    sites = tuple(Site(name, (_SAMPLER,)) for name in _KERNELS)
    templates = (
        "vllm/triton_utils/npu_overrides.py",
        "vllm/v1/sample/npu_rejection_kernels.py",
    )

    def check(self, file: File) -> Iterator[Finding]:
        """Report the four kernels."""
        yield from replace_kernels(file, _KERNELS, _MODULE)
