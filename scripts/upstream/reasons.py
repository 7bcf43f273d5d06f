# SPDX-License-Identifier: Apache-2.0
"""Why a test of vLLM says nothing about an NPU: what failed or was skipped, and how it says so."""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Reason:
    """`tests` matches the whole of a test's id, `says` a part of its message.

    `newer`: only releases after the page's have such a test.
    """

    name: str
    tests: str
    says: str
    why: str
    newer: bool = False

    def fits(self, test: str, message: str) -> bool:
        """Whether a test that says this is one of the kind."""
        return bool(re.fullmatch(self.tests, test) and re.search(self.says, message))


_RUNNER = r"v1/worker/test_gpu_model_runner\.py::"
_ATTENTION = r"v1/attention/test_attention_backends\.py::"
_NORM = r"kernels/core/test_layernorm\.py::"

REASONS: tuple[Reason, ...] = (
    Reason(
        "padding mask",
        _RUNNER + "test_prepare_padding_mask_.*",
        "'NoneType' object has no attribute 'tolist'",
        "the mask is for kernels that an NPU has not, and its runner makes none",
    ),
    Reason(
        "state-space layers beside FlashInfer",
        _RUNNER + "test_(hybrid_attention_mamba|mamba_cache).*",
        "Attention backend FLASHINFER is only supported on CUDA",
        "they are refused when an engine starts",
    ),
    Reason(
        "blocks of 16 tokens",
        _RUNNER + "test_init_kv_cache_with(out)?_kv_sharing(_valid)?",
        r"assert (40960 == 327680|81920 == 655360)\b",
        "it counts the cache's blocks; of 128 tokens there are an eighth as many, as was found",
    ),
    Reason(
        "kernels of XPUs",
        _RUNNER + "test_xpu_.*",
        "vllm_xpu_kernels not importable",
        "another accelerator's own",
    ),
    Reason(
        "FlashInfer",
        _ATTENTION + "test_flashinfer_.*",
        "FlashInfer|XQA|SM90|SM12x|SM100|TRTLLM",
        "another backend's own",
    ),
    Reason(
        "drafts accepted by FLy",
        r"v1/sample/test_rejection_sampler\.py::test_fly_.*",
        r"'function' object is not subscriptable \(in rejection_sampler\.py\)",
        "another way of accepting than vLLM's default is refused when an engine starts",
        newer=True,
    ),
    Reason(
        "ROCm",
        _ATTENTION + "test_rocm_.*",
        "ROCm-specific test",
        "another accelerator's own",
    ),
    Reason(
        "quantised KV cache",
        _ATTENTION + r"test_causal_backend_correctness\[fp8.*",
        "nothing was compared: the backend says that it does not take this",
        "an FP8 cache is refused when an engine starts; the test passes such a backend over",
    ),
    Reason(
        "encoders",
        _ATTENTION + "test_sliding_window_encoder_.*",
        "NPU attention does not support .*encoder_only",
        "attention of encoders is refused when the layer is made",
    ),
    Reason(
        "norms with quantised output",
        _NORM + "test_fused_rms_norm_quant.*",
        "object has no attribute '(rms_norm|fused_add_rms_norm)_static_fp8_quant'",
        "quantisation is refused when an engine starts; the operators are CUDA's",
    ),
)
