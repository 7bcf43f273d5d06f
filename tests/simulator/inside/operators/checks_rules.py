# SPDX-License-Identifier: Apache-2.0
"""Each rule of operators is broken by one call and refused, and by that call's neighbour not."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from unittest import mock

import torch
import torch_npu

from ascend_sim._site import site
from ascend_sim.operators import REGISTRY, _rules
from tests.simulator.inside.operators.calling import npu, refused, relaxed

NEWEST, OLD, A2 = "9.1.0", "8.3.RC2", "Ascend910B3"
BF16 = torch.bfloat16


@contextmanager
def machine(cann: str = NEWEST, soc: str = A2) -> Iterator[None]:
    """Operators see another CANN and chip than torch_npu did."""
    variables = {_rules.CANN_VARIABLE: cann, _rules.SOC_VARIABLE: soc}
    with mock.patch.dict(os.environ, variables):
        yield


def fused(
    queries: tuple[int, ...] = (1, 2),
    keys: tuple[int, ...] = (5, 6),
    *,
    size: int = 128,
    value_size: int | None = None,
    heads: int = 4,
    kv_heads: int = 2,
    dtype: torch.dtype = BF16,
    block: int = 128,
    mode: int = 3,
    layout: str = "TND",
    paged: bool = True,
    sink: bool = False,
) -> None:
    """A call of the fused operator in a packed layout."""
    ends = list(itertools.accumulate(queries))
    tokens = ends[-1]
    query = torch.zeros(tokens, heads, size, dtype=dtype, device="npu")
    wide = size if value_size is None else value_size
    blocks = [len(queries), block] if paged else [sum(keys)]
    key, value = (
        torch.zeros(*blocks, *([kv_heads * s] if paged else [kv_heads, s]), dtype=dtype)
        for s in (size, wide)
    )
    arguments: dict[str, Any] = {"num_heads": heads, "num_key_value_heads": kv_heads}
    arguments |= {"input_layout": layout, "sparse_mode": mode}
    if mode:
        mask = torch.ones(2048, 2048, dtype=torch.int8).triu(1)
        arguments["atten_mask"] = npu(mask)
    if mode == 4:
        arguments |= {"pre_tokens": 3, "next_tokens": 0}
    lengths = list(keys) if paged else list(itertools.accumulate(keys))
    if paged:
        table = torch.arange(len(queries), dtype=torch.int32).view(-1, 1)
        arguments |= {"block_table": npu(table), "block_size": block}
    if layout.startswith("NTD"):
        query, key, value = (t.transpose(0, 1).contiguous() for t in (query, key, value))
    if not sink:
        torch_npu.npu_fused_infer_attention_score(
            query,
            npu(key),
            npu(value),
            actual_seq_lengths=ends,
            actual_seq_lengths_kv=lengths,
            **arguments,
        )
        return
    arguments["num_query_heads"] = arguments.pop("num_heads")
    torch_npu.npu_fused_infer_attention_score_v2(
        query,
        npu(key),
        npu(value),
        actual_seq_qlen=ends,
        actual_seq_kvlen=lengths,
        learnable_sink=torch.zeros(heads, dtype=BF16, device="npu"),
        **arguments,
    )


def batched(sequences: int) -> None:
    """A decode step, each sequence with a key."""
    one = torch.zeros(sequences, 1, 16, dtype=BF16, device="npu")
    torch_npu.npu_fused_infer_attention_score(one, one, one, num_heads=1, input_layout="BSH")


def grouped(inner: int = 16, groups: int = 2, *, listed: bool = False, apart: bool = False) -> None:
    """A product of two rows, of the first group."""
    x = torch.zeros(2, inner, dtype=BF16, device="npu")
    weight = torch.zeros(1, inner, 1, dtype=BF16, device="npu").expand(groups, -1, -1)
    weights = [weight[0].contiguous()] * groups if apart else [weight.contiguous()]
    ends = [2] * groups
    given: Any = ends if listed else npu(torch.tensor(ends, dtype=torch.int64))
    torch_npu.npu_grouped_matmul([x], weights, group_list=given, split_item=3, group_type=0)


def top_k() -> None:
    logits = torch.zeros(2, 8, device="npu")
    torch_npu.npu_top_k_top_p(logits, None, torch.full((2,), 4, dtype=torch.int32, device="npu"))


def scatter() -> None:
    key = torch.zeros(2, 1, 16, dtype=torch.float16, device="npu")
    cache = torch.zeros(1, 1, 16, 16, dtype=torch.float16, device="npu")
    slots = torch.arange(2, dtype=torch.int32, device="npu")
    torch_npu.npu_scatter_pa_kv_cache(key, key, cache, cache.clone(), slots)


def nnal() -> None:
    half = torch.zeros(2, 1, 16, dtype=torch.float16, device="npu")
    lengths = torch.tensor([2], dtype=torch.int32)
    torch_npu._npu_flash_attention_unpad(half, half, half, lengths, 1.0, 1, 1, half.clone())


def silu(dtype: torch.dtype) -> None:
    torch_npu.npu_silu(torch.zeros(2, dtype=dtype, device="npu"))


Call = tuple[Any, Mapping[str, Any]]
BROKEN: dict[str, tuple[Call, Call]] = {
    "fia-packed-paged": ((fused, {}), (fused, {"paged": False})),
    "fia-packed-dtype": ((fused, {"dtype": torch.float16}), (fused, {})),
    "fia-packed-64": ((fused, {"size": 64}), (fused, {})),
    "fia-packed-sizes": ((fused, {"size": 80}), (fused, {"size": 64})),
    "fia-packed-192-group": (
        (fused, {"size": 192}),
        (fused, {"size": 192, "kv_heads": 4}),
    ),
    "fia-packed-heads-first-192": (
        (fused, {"size": 192, "kv_heads": 4, "layout": "NTD_TND", "paged": False}),
        (fused, {"size": 128, "kv_heads": 4, "layout": "NTD_TND", "paged": False}),
    ),
    "fia-packed-mode": ((fused, {"mode": 2}), (fused, {"mode": 3})),
    "fia-packed-band-size": (
        (fused, {"size": 192, "kv_heads": 4, "mode": 4}),
        (fused, {"kv_heads": 4, "mode": 4}),
    ),
    "fia-packed-causal-lengths": ((fused, {"keys": (5, 0)}), (fused, {"keys": (1, 2)})),
    "fia-packed-sink-size": (
        (fused, {"size": 192, "kv_heads": 4, "sink": True}),
        (fused, {"sink": True}),
    ),
    "fia-packed-block-size": ((fused, {"block": 16}), (fused, {"block": 256})),
    "fia-packed-tokens": (
        (fused, {"queries": (1048577,), "keys": (1,), "mode": 0, "heads": 1, "kv_heads": 1}),
        (fused, {"queries": (4,), "keys": (1,), "mode": 0}),
    ),
    "fia-packed-sequences": (
        (fused, {"queries": (1,) * 4097, "keys": (1,) * 4097, "mode": 0, "paged": False}),
        (fused, {"queries": (1,) * 64, "keys": (1,) * 64, "mode": 0}),
    ),
    "fia-paged-keys": (
        (fused, {"keys": (0, 0), "mode": 0}),
        (fused, {"keys": (0, 1), "mode": 0}),
    ),
    "fia-group": (
        (fused, {"heads": 65, "kv_heads": 1}),
        (fused, {"heads": 64, "kv_heads": 1}),
    ),
    "fia-heads": (
        (fused, {"heads": 258, "kv_heads": 6}),
        (fused, {"heads": 256, "kv_heads": 8}),
    ),
    "fia-batch": ((batched, {"sequences": 65537}), (batched, {"sequences": 2})),
    "gmm-inner-axis": ((grouped, {"inner": 65536}), (grouped, {"inner": 65535})),
    "gmm-groups": ((grouped, {"groups": 1025}), (grouped, {"groups": 1024})),
    "gmm-groups-listed": (
        (grouped, {"groups": 129, "listed": True}),
        (grouped, {"groups": 128, "listed": True}),
    ),
    "gmm-tensors": (
        (grouped, {"groups": 129, "apart": True}),
        (grouped, {"groups": 128, "apart": True}),
    ),
    "npu_fused_infer_attention_score-310p": (
        (fused, {"dtype": torch.float16}),
        (silu, {"dtype": torch.float16}),
    ),
    "npu_top_k_top_p-310p": ((top_k, {}), (silu, {"dtype": torch.float32})),
    "npu_scatter_pa_kv_cache-310p": ((scatter, {}), (silu, {"dtype": torch.float16})),
    "bfloat16-310p": ((silu, {"dtype": BF16}), (silu, {"dtype": torch.float16})),
    "nnal-950": ((nnal, {}), (silu, {"dtype": torch.float16})),
}
"""By rule: a call that breaks it, and one beside it that does not."""
LONG = {"fia-packed-tokens", "fia-packed-sequences", "fia-batch"}
"""Rules of a size that would take the references seconds."""


def check_each_rule() -> None:
    assert [rule.name for rule in _rules.RULES] == list(BROKEN)
    for rule in _rules.RULES:
        (bad, wrong), (good, right) = BROKEN[rule.name]
        soc = _rules.CHIPS[rule.chips[0]][0]
        cann = (
            NEWEST if rule.before == _rules.NEWER else "8.2.RC1" if rule.before == (8, 3) else OLD
        )
        with machine(cann, soc):
            with refused(
                f"rule {rule.name}",
                f"error {rule.code}",
                rule.source,
                rule.holds,
                "called at checks_rules.py:",
            ):
                bad(**wrong)
            good(**right)
        if rule.before < _rules.NEWER:
            with machine(NEWEST, soc):
                bad(**wrong)
        if rule.name not in LONG:
            with machine(cann, "Ascend910A"):
                bad(**wrong)


def check_relaxed_head_sizes() -> None:
    with machine(), relaxed("head_size"):
        fused(size=80)


def check_every_rule_is_of_an_operator() -> None:
    for rule in _rules.RULES:
        assert any(rule.of(name) for name in REGISTRY), rule.name


def check_rules_of_a_version_and_a_chip() -> None:
    name = "npu::npu_fused_infer_attention_score"

    def found(cann: str, soc: str) -> set[str]:
        return {rule.name for rule in _rules.holding(name, cann, soc)}

    assert found("8.2.RC1", A2) - found("8.3.RC1", A2) == {"fia-packed-paged"}
    gone = {"fia-packed-dtype", "fia-packed-64", "fia-packed-block-size"}
    assert found("8.3.RC1", A2) - found("8.5.0", A2) == gone
    assert found("8.5.0", A2) == found("9.1.0", "Ascend910_9391") != set()
    assert found("9.1.0", "Ascend310P3") == {
        "npu_fused_infer_attention_score-310p",
        "bfloat16-310p",
    }
    assert found("", A2) == found("9.1.0", A2)
    assert _rules.here(name) == _rules.holding(name, _rules.DEFAULT_CANN, _rules.DEFAULT_SOC)


def check_a_rule_names_the_place_of_the_program() -> None:
    assert site().startswith("checks_rules.py:")
    program = "import torch, torch_npu\n\ntorch_npu.npu_silu(torch.zeros(2).npu().long())\n"
    with refused("npu::npu_silu: argument 'input'", "called at model.py:3 (simulated Ascend)"):
        exec(compile(program, "model.py", "exec"), {})
