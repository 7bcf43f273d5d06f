# SPDX-License-Identifier: Apache-2.0
"""NPU244: the kernels by which the model runner V2 makes its input."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from migrator.codemod.rule import File, Finding, Rule, Safety
from migrator.rules._runner_v2_kernels import kernel_sites, kernel_triggers, registered

_V2 = "vllm/v1/worker/gpu"
_KERNELS: Mapping[str, tuple[str, ...]] = {
    f"{_V2}/buffer_utils.py": ("_apply_write_kernel",),
    f"{_V2}/input_batch.py": (
        "_prepare_prefill_inputs_kernel",
        "_prepare_pos_seq_lens_kernel",
        "_combine_sampled_and_draft_tokens_kernel",
        "_get_num_sampled_and_rejected_kernel",
        "_post_update_kernel",
        "_post_update_num_computed_tokens_kernel",
        "_expand_idx_mapping_kernel",
    ),
    f"{_V2}/block_table.py": ("_gather_block_tables_kernel", "_compute_slot_mappings_kernel"),
    f"{_V2}/mm/rope.py": ("_prepare_rope_positions_kernel",),
    f"{_V2}/sample/prompt_logprob.py": ("_prompt_logprobs_token_ids_kernel",),
}


class InputKernels(Rule):
    """Make the model runner V2's input on an NPU that has no Triton.

    ## What it does
    Adds `vllm/v1/worker/npu_input_kernels.py`, in which the kernels that V2's input goes through
    are functions of PyTorch operators, to a tree whose platforms register kernels. The NPU's
    platform does where Triton has no NPU; elsewhere vLLM's own kernels run.

    ## Why
    triton-ascend takes these kernels as they are, and is not in every installation.

    ## Example
    ```python
    def post_update_num_computed_tokens(
        idx_mapping_ptr, num_computed_tokens_ptr, query_start_loc_ptr
    ):
        step = query_start_loc_ptr.diff()
        num_computed_tokens_ptr.index_add_(0, idx_mapping_ptr.long(), step)
    ```

    ## Safety
    Guarded: only the NPU's platform registers them.
    """

    code = "NPU244"
    safety = Safety.GUARDED
    paths = tuple(_KERNELS)
    triggers = kernel_triggers(_KERNELS)
    sites = kernel_sites(_KERNELS)
    templates = ("vllm/v1/worker/npu_input_kernels.py",)

    def check(self, file: File) -> Iterator[Finding]:
        """Report the kernels of a file."""
        yield from registered(file, _KERNELS)
