# SPDX-License-Identifier: Apache-2.0
"""Kernels are bound to their replacements where vLLM has no hook that does so."""

from __future__ import annotations

from migrator.codemod.engine import migrate_file
from migrator.files.tree import Tree
from migrator.rules.npu240_rejection_kernels import RejectionKernels

PATH = "vllm/v1/sample/rejection_sampler.py"
SOURCE = b"""\
from vllm.triton_utils import triton


@triton.jit
def expand_kernel(output_ptr, input_ptr, cu_num_tokens_ptr, replace_from):
    pass


def rejection_greedy_sample_kernel():
    pass
"""


def after(**others: bytes) -> bytes | None:
    tree = Tree({PATH: SOURCE, **{path.replace(".", "/") + ".py": t for path, t in others.items()}})
    return migrate_file(PATH, SOURCE, [RejectionKernels()], tree).after


def test_with_vllms_own_hook_no_kernel_is_bound_again() -> None:
    hook = {"vllm.triton_utils.dispatcher": b"def register_kernels(overrides):\n    pass\n"}
    assert after(**hook) is None
    bound = after()
    assert bound is not None
    assert b"npu_kernel(expand_kernel)" in bound
    # It takes none of the parameters by which a replacement knows it.
    assert b"npu_kernel(rejection_greedy_sample_kernel)" not in bound
