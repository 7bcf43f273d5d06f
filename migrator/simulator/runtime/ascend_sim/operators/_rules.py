# SPDX-License-Identifier: Apache-2.0
"""What operators refuse by the chip and the CANN under them, and between their operands.

The table of operators says what one argument may be. A rule here joins several facts of a call (its
layout with its dtype, the tokens of a sequence with its keys) or holds for some CANN or chips
alone. Each has the words of the check in CANN that it stands for, where those are public. Nothing
here imports torch.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache

from ._table import Between, OneOf

CANN_VARIABLE, SOC_VARIABLE = "ASCEND_SIM_CANN", "ASCEND_SIM_SOC"
DEFAULT_CANN, DEFAULT_SOC = "8.5.0", "Ascend910B1"
NEWER = (100, 0)
"""Than any CANN, and than what `version` finds where none is said."""
CHIPS = {
    "910B": ("Ascend910B",),
    "910C": ("Ascend910_93",),
    "310P": ("Ascend310P",),
    "950": ("Ascend910_95", "Ascend950"),
}
"""Chips, and how the names of their variants begin."""
TILING_FAILED, PARAMETER_INVALID, NOT_THERE = 561002, 161002, 561103
"""What aclnn returns where the host's tiling, its check of parameters or its search for a kernel
fails."""


@dataclass(frozen=True)
class Multiple:
    """A whole number that another divides, in a range, both ends included."""

    of: int
    low: int
    high: int

    def __str__(self) -> str:
        return f"a multiple of {self.of} from {self.low} to {self.high}"

    def takes(self, value: object) -> bool:
        """Whether it is such a number."""
        return isinstance(value, int) and self.low <= value <= self.high and not value % self.of


@dataclass(frozen=True)
class NoneAbove:
    """Numbers of which none is above its counterpart in another fact."""

    other: str

    def __str__(self) -> str:
        return f"none above its counterpart in {self.other}"

    def broken(self, values: tuple[int, ...], others: tuple[int, ...]) -> int | None:
        """Index of the first that is above its counterpart; None where none is."""
        pairs = enumerate(zip(values, others, strict=True))
        return next((i for i, (value, other) in pairs if value > other), None)


Condition = OneOf | Between | Multiple | NoneAbove
Facts = Mapping[str, object]


@dataclass(frozen=True)
class Rule:
    """One thing that operators refuse."""

    name: str
    operators: str
    """Of which it is, as `*` at its end for all whose names begin so."""
    asks: Mapping[str, Condition]
    """What each fact has to be."""
    says: str
    """What CANN's check says, or what the documentation does; with facts in braces."""
    source: str
    when: Mapping[str, Condition] = field(default_factory=dict)
    """What the facts are where the rule holds; everywhere, if nothing is said."""
    since: tuple[int, int] = (0, 0)
    before: tuple[int, int] = NEWER
    """The CANN that it holds for."""
    chips: tuple[str, ...] = ("910B", "910C")
    code: int = TILING_FAILED
    relaxed: str = ""
    """What of ASCEND_SIM_RELAX lets a call pass."""
    reports: str = ""
    """Public reports of it."""

    @property
    def holds(self) -> str:
        """Under which CANN and on which chips it holds, in words."""
        low, high = (".".join(map(str, version)) for version in (self.since, self.before))
        since = f"from {low} on" if self.since > (0, 0) else ""
        before = f"before {high}" if self.before < NEWER else ""
        return f"CANN {' '.join(filter(None, (since, before))) or 'of any version'}, " + (
            "on " + " and ".join(self.chips)
        )

    def of(self, operator: str) -> bool:
        """Whether it is one of an operator's."""
        start, all_that_begin_so, _ = self.operators.partition("*")
        return operator.startswith(start) if all_that_begin_so else operator == start

    def asked_of(self, facts: Facts) -> bool:
        """Whether these are the facts that it joins."""
        return all(name in facts for name in (*self.when, *self.asks))

    def broken(self, facts: Facts) -> tuple[str, str, object] | None:
        """A fact that it refuses: its name, what it should be, what it is; None if none."""
        if not all(_wrong(condition, name, facts) is None for name, condition in self.when.items()):
            return None
        for name, condition in self.asks.items():
            if wrong := _wrong(condition, name, facts):
                return name, str(condition), wrong[0]
        return None


def _wrong(condition: Condition, name: str, facts: Facts) -> tuple[object] | None:
    """What is not as a condition has it; None if all is."""
    value = facts[name]
    if isinstance(condition, NoneAbove):
        others = facts[condition.other]
        assert isinstance(value, tuple)
        assert isinstance(others, tuple)
        at = condition.broken(value, others)
        return None if at is None else (f"{value[at]} with {others[at]}, at index {at}",)
    return None if condition.takes(value) else (value,)


def version(text: str) -> tuple[int, int]:
    """Major and minor version of CANN; a large one where the text says none."""
    found = re.match(r"(\d+)\.(\d+)", text)
    return (int(found[1]), int(found[2])) if found else (99, 0)


def chip(soc: str) -> str:
    """Which of CHIPS a chip is; empty for others."""
    return next((name for name, starts in CHIPS.items() if soc.startswith(starts)), "")


def here(operator: str) -> tuple[Rule, ...]:
    """The rules of an operator on the simulated machine."""
    cann = os.environ.get(CANN_VARIABLE) or DEFAULT_CANN
    return holding(operator, cann, os.environ.get(SOC_VARIABLE) or DEFAULT_SOC)


@cache
def holding(operator: str, cann: str, soc: str) -> tuple[Rule, ...]:
    """The rules of an operator that hold under a CANN on a chip."""
    found, on = version(cann), chip(soc)
    return tuple(
        rule
        for rule in RULES
        if rule.of(operator) and rule.since <= found < rule.before and on in rule.chips
    )


def refusals(rules: Iterable[Rule], facts: Facts) -> Iterator[tuple[Rule, str]]:
    """The rules that a call breaks, each with what is wrong, in words."""
    for rule in rules:
        if not rule.asked_of(facts):
            continue
        if broken := rule.broken(facts):
            name, wanted, found = broken
            says = rule.says.format_map(facts)
            yield (
                rule,
                f'{name.replace("_", " ")}: expected {wanted}, got {found}: "{says}" (error '
                f"{rule.code}; rule {rule.name}, {rule.holds}; source: {rule.source})",
            )


_FUSED = "npu::npu_fused_infer_attention_score*"
_PFA = (
    "ops-transformer of 2025-11-15, prompt_flash_attention_tiling.cpp ({}), which the fused "
    "operator calls for packed layouts"
)
_DENSE = {"layout": OneOf(("TND", "NTD_TND")), "rotated": OneOf((False,))}
"""Packed layouts without rotated parts: latent attention has checks of its own."""
_BATCHED = {"layout": OneOf(("BSH", "BSND", "BNSD", "BNSD_BSND")), "rotated": OneOf((False,))}
_PRODUCTS = "the table of products in torch_npu's documentation of the operator"
_GMM = "ops-transformer of 2025-11-15, aclnn_grouped_matmul.cpp ({})"
_ONLY_310P = ("310P",)
_NEVER: dict[str, Condition] = {"chip": OneOf(("910B", "910C", "950"), "an Atlas A2 or A3")}

RULES: tuple[Rule, ...] = (
    Rule(
        "fia-packed-paged",
        _FUSED,
        {"paged": OneOf((False,), "no block_table")},
        "When layout is TND, not support Page Attention",
        "what CANN's operator answers in vllm-ascend #4373",
        _DENSE,
        before=(8, 3),
        reports="#4373",
    ),
    Rule(
        "fia-packed-dtype",
        _FUSED,
        {"dtype": OneOf(("bfloat16",), "bfloat16")},
        "When layout is {layout}, inputDataType should be bf16",
        _PFA.format("CheckInputShapeWhenLayoutIsTND")
        + ", and the document of torch_npu 7.2.0; that of 7.3.0, for CANN 8.5, lists float16",
        _DENSE,
        before=(8, 5),
        reports="#13699 has float16 accepted by a newer CANN",
    ),
    Rule(
        "fia-packed-64",
        _FUSED,
        {"value_size": OneOf((128, 192))},
        "When layout is {layout}, queryD, keyD and valueD must be same equal 192/128",
        "the document of torch_npu 7.2.0; the check of 2025-11-15 lists 64 too",
        {**_DENSE, "value_size": OneOf((64, 128, 192))},
        before=(8, 5),
        reports="#8045",
    ),
    Rule(
        "fia-packed-sizes",
        _FUSED,
        {"sizes": OneOf(((64, 64), (128, 128), (192, 128), (192, 192)), "64, 128 or 192")},
        "When layout is {layout}, queryD({query_size}), keyD({query_size}) and "
        "valueD({value_size}) must be same equal 192/128/64, or queryD and keyD equal 192 and "
        "valueD equal 128",
        _PFA.format("CheckInputShapeWhenLayoutIsTND"),
        _DENSE,
        relaxed="head_size",
        reports="#9632, #8045",
    ),
    Rule(
        "fia-packed-192-group",
        _FUSED,
        {"group": OneOf((1,), "1 query head per kv head")},
        "When layout is {layout}, When G({group}) not 1, valueD({value_size}) should not be 192",
        _PFA.format("CheckInputShapeWhenLayoutIsTND"),
        {**_DENSE, "value_size": OneOf((192,))},
    ),
    Rule(
        "fia-packed-heads-first-192",
        _FUSED,
        {"value_size": OneOf((64, 128))},
        "When layout is NTD_TND, valueD({value_size}) must be 128",
        _PFA.format("CheckInputShapeWhenLayoutIsTND"),
        {"layout": OneOf(("NTD_TND",)), "rotated": OneOf((False,))},
        relaxed="head_size",
    ),
    Rule(
        "fia-packed-mode",
        _FUSED,
        {"sparse_mode": OneOf((0, 3, 4))},
        "When Layout is TND, sparseMode only support 0,3 or 4, but sparseMode = {sparse_mode}",
        _PFA.format("RunBigKernelTilingWithParams"),
        _DENSE,
    ),
    Rule(
        "fia-packed-band-size",
        _FUSED,
        {"value_size": OneOf((64, 128))},
        "When Layout is TND, sparseMode = 4 only support valueD equal 64/128",
        _PFA.format("RunBigKernelTilingWithParams"),
        {**_DENSE, "sparse_mode": OneOf((4,))},
        relaxed="head_size",
    ),
    Rule(
        "fia-packed-causal-lengths",
        _FUSED,
        {"query_lengths": NoneAbove("key_lengths")},
        "When layout is TND and sparse = 3, need s1 <= s2",
        _PFA.format("RunBigKernelTilingWithParams") + ", and the docstring of torch_npu 2.13",
        {**_DENSE, "sparse_mode": OneOf((3,))},
    ),
    Rule(
        "fia-packed-sink-size",
        _FUSED,
        {"value_size": OneOf((64, 128))},
        "When Layout is TND, learnable_sink only support valueD equal 64/128",
        _PFA.format("CheckLearnableSinkWhenLayoutIsTND"),
        {**_DENSE, "sink": OneOf((True,))},
        relaxed="head_size",
    ),
    Rule(
        "fia-packed-block-size",
        _FUSED,
        {"block_size": Multiple(128, 128, 1024)},
        "block size({block_size}) should be a multiple of 128, and can't be greater than 1024, "
        "when PA enable",
        _PFA.format("checkPABlockSizeAndBlockTable"),
        {**_DENSE, "paged": OneOf((True,))},
        before=(8, 5),
    ),
    Rule(
        "fia-packed-tokens",
        _FUSED,
        {"tokens": Between(1, 1048576)},
        "When layout is {layout}, T cannot be greater than 1048576(1M), queryT={tokens}",
        _PFA.format("CheckInputShapeWhenLayoutIsTND"),
        _DENSE,
    ),
    Rule(
        "fia-packed-sequences",
        _FUSED,
        {"sequences": Between(1, 4096)},
        "the length of actual_seq_lengths must be <= 4096",
        "torch_npu.npu_fused_infer_attention_score, what it says of layout TND",
        {"layout": OneOf(("TND", "NTD_TND", "TND_NTD"))},
    ),
    Rule(
        "fia-paged-keys",
        _FUSED,
        {"keys": Between(1, 2**62)},
        "the number of blocks of all sequences, blockNumValid, is 0",
        _PFA.format("CheckPAWhenBaseApi"),
        {**_DENSE, "paged": OneOf((True,))},
    ),
    Rule(
        "fia-group",
        _FUSED,
        {"group": Between(1, 64)},
        "numHeads / numKvHeads = {group}, cannot be larger than 64",
        "ops-transformer of 2025-11-15, prompt_flash_attention_tiling.cpp",
        {"rotated": OneOf((False,))},
    ),
    Rule(
        "fia-heads",
        _FUSED,
        {"heads": Between(1, 256)},
        "n should <= 256, but n = {heads}",
        "ops-transformer of 2025-11-15, prompt_flash_attention_tiling.cpp",
        {"rotated": OneOf((False,)), "layout": OneOf(("BSND", "BNSD", "TND", "NTD_TND"))},
    ),
    Rule(
        "fia-batch",
        _FUSED,
        {"sequences": Between(0, 65536)},
        "batch size:{sequences} cannot be greater than 65536",
        "ops-transformer of 2025-11-15, incre_flash_attention_tiling_check.cpp",
        _BATCHED,
    ),
    Rule(
        "gmm-inner-axis",
        "npu::npu_grouped_matmul*",
        {"inner": Between(0, 65535)},
        "x dim value {inner} should less or equal to 65535",
        _GMM.format("MAX_INNER_AXIS"),
        code=PARAMETER_INVALID,
    ),
    Rule(
        "gmm-groups",
        "npu::npu_grouped_matmul",
        {"groups": Between(0, 1024)},
        "When groupList type is tensor, size of groupList({groups}) should be less or equal to "
        "1024",
        _GMM.format("MAX_GROUP_LIST_SIZE_TENSOR"),
        code=PARAMETER_INVALID,
    ),
    Rule(
        "gmm-groups-listed",
        "npu::npu_grouped_matmul.List",
        {"groups": Between(0, 128)},
        "When groupList type is list, size of groupList({groups}) should be less or equal to 128",
        _GMM.format("MAX_GROUP_LIST_SIZE_ARRAY"),
        code=PARAMETER_INVALID,
    ),
    Rule(
        "gmm-tensors",
        "npu::npu_grouped_matmul*",
        {"tensors": Between(0, 128)},
        "Length of tensorList should not exceed 128, but actually got {tensors}",
        _GMM.format("MAX_GROUP_LIST_SIZE_ARRAY"),
        code=PARAMETER_INVALID,
    ),
    *(
        Rule(
            f"{operator.partition('::')[2].rstrip('*')}-310p",
            operator,
            _NEVER,
            "the operator has no kernel on this chip",
            _PRODUCTS,
            chips=_ONLY_310P,
            code=NOT_THERE,
        )
        for operator in (
            _FUSED,
            "npu::npu_top_k_top_p",
            "npu::npu_scatter_pa_kv_cache",
        )
    ),
    Rule(
        "bfloat16-310p",
        "*",
        {"bfloat16": OneOf((False,), "no operand of bfloat16")},
        "DT_BFLOAT16 is not supported",
        "the products without bfloat16 in torch_npu's documentation",
        chips=_ONLY_310P,
        code=PARAMETER_INVALID,
    ),
    Rule(
        "nnal-950",
        "atb::*",
        {"chip": OneOf(("910B", "910C", "310P"), "an Atlas A2, A3 or 310P")},
        "NNAL has no operators for this chip",
        "NNAL's list of products",
        chips=("950",),
        code=NOT_THERE,
    ),
)
