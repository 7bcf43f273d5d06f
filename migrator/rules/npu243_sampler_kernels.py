# SPDX-License-Identifier: Apache-2.0
"""NPU243: the kernels of the model runner V2's sampler."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from migrator.codemod.rule import File, Finding, Rule, Safety
from migrator.rules._runner_v2_kernels import kernel_sites, kernel_triggers, registered

_V2 = "vllm/v1/worker/gpu"
_KERNELS: Mapping[str, tuple[str, ...]] = {
    f"{_V2}/sample/gumbel.py": ("_temperature_kernel", "_gumbel_sample_kernel"),
    f"{_V2}/sample/penalties.py": ("_penalties_kernel", "_bincount_kernel"),
    f"{_V2}/sample/logit_bias.py": ("_bias_kernel",),
    f"{_V2}/sample/bad_words.py": ("_bad_words_kernel",),
    f"{_V2}/sample/min_p.py": ("_min_p_kernel",),
    f"{_V2}/sample/logprob.py": (
        "_topk_log_softmax_kernel",
        "_ranks_kernel",
        "_fill_logprob_token_ids_kernel",
    ),
    f"{_V2}/metrics/logits.py": ("_num_nans_kernel",),
    f"{_V2}/structured_outputs.py": ("_apply_grammar_bitmask_kernel",),
}


class SamplerKernels(Rule):
    """Sample in the model runner V2 without Triton on NPUs.

    ## What it does
    Adds `vllm/v1/worker/npu_sampler_kernels.py`, in which the kernels of V2's sampler are functions
    of PyTorch operators, to a tree whose platforms register kernels. The NPU's platform does, with
    Triton and without.

    ## Why
    triton-ascend does not take these kernels as they are: they want 64-bit floats, more of the
    unified buffer than there is, or more programs than a launch may have.

    ## Example
    ```python
    def min_p(logits_ptr, ..., min_p_ptr, ...):
        share = min_p_ptr.index_select(0, expanded_idx_mapping_ptr)
        least = logits_ptr.amax(dim=1, keepdim=True) + share.log().unsqueeze(1)
        logits_ptr.masked_fill_(logits_ptr < least, float("-inf"))
    ```

    ## Safety
    Guarded: only the NPU's platform registers them.
    """

    code = "NPU243"
    safety = Safety.GUARDED
    paths = tuple(_KERNELS)
    triggers = kernel_triggers(_KERNELS)
    sites = kernel_sites(_KERNELS)
    templates = ("vllm/v1/worker/npu_sampler_kernels.py",)

    def check(self, file: File) -> Iterator[Finding]:
        """Report the kernels of a file."""
        yield from registered(file, _KERNELS)
