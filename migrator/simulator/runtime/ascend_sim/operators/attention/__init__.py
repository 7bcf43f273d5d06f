# SPDX-License-Identifier: Apache-2.0
"""Attention: the NNAL operators (atb), npu_fused_infer_attention_score and npu_fusion_attention."""

from __future__ import annotations

from . import fused_infer, fusion, nnal

__all__ = ["fused_infer", "fusion", "nnal"]
