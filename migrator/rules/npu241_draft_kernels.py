# SPDX-License-Identifier: Apache-2.0
"""NPU241: the kernels that prepare the input of a draft model."""

from __future__ import annotations

from collections.abc import Iterator

from migrator.codemod.rule import Absence, File, Finding, Rule, Safety, Site
from migrator.files.tree import Tree
from migrator.rules._kernel_replacements import replace_kernels

_UTILS = "vllm/v1/spec_decode/utils.py"
_PROPOSER = "vllm/v1/spec_decode/eagle.py"
_EARLIER = "prepare_eagle_input_kernel"
_MODULE = "vllm.v1.spec_decode.npu_draft_kernels"
_KERNELS: dict[str, tuple[str, ...]] = {
    "eagle_step_slot_mapping_metadata_kernel": ("positions_ptr", "block_table_ptr", "seq_lens_ptr"),
    "eagle_prepare_inputs_padded_kernel": (
        "cu_num_draft_tokens_ptr",
        "valid_sampled_tokens_count_ptr",
        "token_indices_to_sample_ptr",
    ),
    "eagle_prepare_next_token_padded_kernel": (
        "sampled_token_ids_ptr",
        "discard_request_mask_ptr",
        "next_token_ids_ptr",
    ),
    "copy_and_expand_eagle_inputs_kernel": (
        "target_token_ids_ptr",
        "next_token_ids_ptr",
        "out_new_token_indices_ptr",
    ),
}


def _steps_itself(tree: Tree) -> bool:
    """Does the proposer compute a step's slots by operators of PyTorch?"""
    return "clamped_positions" in tree.names(_PROPOSER)


def _prepares_itself(tree: Tree) -> bool:
    """Does the proposer make its inputs by operators of PyTorch, or by a kernel of before?"""
    names = tree.names(_PROPOSER)
    kernels = {name for name in names if name.endswith("_kernel")}
    return bool(names & {"token_offests", _EARLIER}) and kernels <= {_EARLIER}


def _rotates_itself(tree: Tree) -> bool:
    """Are drafts made by heads alone, whose input is as long as the target's?"""
    return "last_token_indices" in tree.names(_PROPOSER)


_ABSENT = {
    "eagle_step_slot_mapping_metadata_kernel": Absence(
        "<0.18", "the proposer computes a step's slots by itself", _steps_itself
    ),
    "copy_and_expand_eagle_inputs_kernel": Absence(
        "<0.16", "drafts come from heads, whose input is as long as the target's", _rotates_itself
    ),
}
_PREPARES = Absence("<0.12", "the proposer makes its inputs by itself", _prepares_itself)


class DraftKernels(Rule):
    """Prepare the input of a draft model without Triton on NPUs.

    ## What it does
    Adds `vllm/v1/spec_decode/npu_draft_kernels.py`, in which the kernels of `spec_decode/utils.py`
    are functions of PyTorch operators. Where vLLM has no hook for replacing kernels, binds the
    kernels' names there to these on an NPU.

    ## Why
    Draft models, EAGLE heads and layers that predict several tokens go through these kernels. From
    0.31 on a platform can register replacements, which the NPU's does.

    ## Example
    ```python
    if current_platform.device_type == "npu":
        from vllm.v1.spec_decode.npu_draft_kernels import npu_kernel

        eagle_prepare_inputs_padded_kernel = npu_kernel(eagle_prepare_inputs_padded_kernel)
    ```

    ## Safety
    Guarded by the platform's device type.
    """

    code = "NPU241"
    safety = Safety.GUARDED
    paths = (_UTILS,)
    triggers = (r"_padded_kernel\b",)
    sites = tuple(Site(name, (_UTILS,), (_ABSENT.get(name, _PREPARES),)) for name in _KERNELS)
    templates = ("vllm/v1/spec_decode/npu_draft_kernels.py",)

    def check(self, file: File) -> Iterator[Finding]:
        """Report the kernels that the release has."""
        yield from replace_kernels(file, _KERNELS, _MODULE)
