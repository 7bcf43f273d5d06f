# SPDX-License-Identifier: Apache-2.0
"""The table of operators, read without torch."""

from __future__ import annotations

import pytest

from migrator.verify import operators


@pytest.mark.parametrize(
    ("operator", "argument", "value", "wanted"),
    [
        ("npu::npu_geglu", "approximate", 1, None),
        ("npu::npu_geglu", "approximate", 2, "0 or 1"),
        ("npu::npu_geglu", "approximate", True, "0 or 1"),
        ("npu::npu_rotary_mul", "rotary_mode", "quarter", "'half' or 'interleave'"),
        ("npu::npu_scatter_pa_kv_cache", "cache_mode", None, None),
        ("npu::npu_fusion_attention", "sparse_mode", 9, "0, 1, 2, 3 or 4"),
        ("npu::npu_moe_compute_expert_tokens", "num_expert", 2048, None),
        ("npu::npu_moe_compute_expert_tokens", "num_expert", 2049, "1 to 2048"),
    ],
)
def test_values_that_a_device_takes(
    operator: str, argument: str, value: object, wanted: str | None
) -> None:
    assert operators.problem(operator, argument, value) == wanted


@pytest.mark.parametrize(
    ("operator", "argument", "value"),
    [
        ("npu::npu_moe_init_routing_v2", "quant_mode", 1),  # the reference alone refuses it
        ("npu::npu_rms_norm", "epsilon", -1.0),  # nothing is known of it
        ("npu::npu_rms_norm", "input", "a string"),  # a tensor is no literal
        ("npu::no_such_operator", "x", 1),
    ],
)
def test_what_no_source_rules_out_passes(operator: str, argument: str, value: object) -> None:
    assert operators.problem(operator, argument, value) is None


def test_every_entry_names_its_source() -> None:
    assert operators.source("npu::npu_gelu") == "torch_npu.npu_gelu"
